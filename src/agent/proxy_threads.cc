#include "agent/proxy_threads.h"

#include <atomic>
#include <csignal>
#include <thread>
#include <utility>

#include "base/log.h"
#include "base/random.h"
#include "capture/spec.h"
#include "io/loop.h"
#include "io/network.h"
#include "io/space_sockets.h"

namespace meshnode::agent {
namespace {

void accept(proxy::ProxyLoop& proxy, std::uint16_t space, const proxy::ListenerSet& listeners) {
  if (auto opened = proxy.open(space, listeners); !opened) {
    log::error("proxy", "cannot accept connections",
               {{"space", space}, {"error", opened.error().message}});
  }
}

}  // namespace

class ProxyThreads::Thread {
 public:
  Thread(unsigned share, unsigned shares, const ProxyServices& services,
         const proxy::ListenerSet& listeners, std::shared_ptr<const snapshot::Snapshot> snapshot)
      : thread_([=, this, first = std::move(snapshot)] {
          run(share, shares, services, listeners, first);
        }) {
    started_.wait(false);
  }
  ~Thread() {
    loop_->post([loop = loop_] { loop->stop(); });
    thread_.join();
  }

  void post(std::function<void(proxy::ProxyLoop&)> task) {
    loop_->post([proxy = proxy_, task = std::move(task)] { task(*proxy); });
  }

  void close(std::uint16_t space) {
    loop_->post([proxy = proxy_, network = network_, space] {
      proxy->close(space);
      network->forget_space(space);
    });
  }

 private:
  void run(unsigned share, unsigned shares, const ProxyServices& services,
           const proxy::ListenerSet& listeners,
           const std::shared_ptr<const snapshot::Snapshot>& snapshot) {
    io::Loop loop;
    {
      io::SpaceSockets spaces(loop, services.sockets_path, &services.budget);
      SystemRandom random;
      io::UvNetwork network(loop, {capture::kOwnMark, share, shares, random.next(),
                                   &services.budget,
                                   [&services] {
                                     services.metrics.hit(telemetry::Limit::kDescriptors).add();
                                     services.reports.descriptors_used_up();
                                   },
                                   &spaces});
      const auto slot_of = [](const IpAddress& ip) -> std::optional<std::uint16_t> {
        const auto slot = capture::slot_of(ip);
        return slot ? std::optional<std::uint16_t>(*slot) : std::nullopt;
      };
      proxy::ProxyLoop proxy({loop,
                              loop,
                              network,
                              random,
                              services.telemetry,
                              services.reports,
                              services.metrics,
                              services.load,
                              services.goodbyes,
                              services.observed,
                              slot_of,
                              snapshot,
                              {}});
      accept(proxy, 0, listeners);
      const supervisor::Pulse pulse(loop, services.heartbeats, share);
      loop_ = &loop;
      proxy_ = &proxy;
      network_ = &network;
      started_ = true;
      started_.notify_all();
      loop.run();
    }
  }

  io::Loop* loop_ = nullptr;           // on the thread's stack, alive until stop()
  proxy::ProxyLoop* proxy_ = nullptr;  // likewise
  io::UvNetwork* network_ = nullptr;   // likewise
  std::atomic<bool> started_{false};
  std::thread thread_;
};

ProxyThreads::ProxyThreads(unsigned count, const ProxyServices& services,
                           const proxy::ListenerSet& listeners,
                           const std::shared_ptr<const snapshot::Snapshot>& snapshot) {
  for (unsigned i = 0; i < count; ++i) {
    threads_.push_back(std::make_unique<Thread>(i, count, services, listeners, snapshot));
  }
}

ProxyThreads::~ProxyThreads() = default;

void ProxyThreads::open(std::uint16_t space, const proxy::ListenerSet& listeners) {
  for (const auto& thread : threads_) {
    thread->post([space, listeners](proxy::ProxyLoop& proxy) { accept(proxy, space, listeners); });
  }
}

void ProxyThreads::close(std::uint16_t space) {
  for (const auto& thread : threads_) {
    thread->close(space);
  }
}

void ProxyThreads::swap(const std::shared_ptr<const snapshot::Snapshot>& snapshot) {
  for (const auto& thread : threads_) {
    thread->post([snapshot](proxy::ProxyLoop& proxy) { proxy.swap(snapshot); });
  }
}

void ProxyThreads::drain() {
  for (const auto& thread : threads_) {
    thread->post([](proxy::ProxyLoop& proxy) { proxy.drain(); });
  }
}

Holdings Survey::so_far() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return holdings_;
}

bool Survey::add(std::size_t loop, std::vector<std::size_t> holdings) {
  const std::lock_guard<std::mutex> lock(mutex_);
  holdings_[loop] = std::move(holdings);
  return --left_ == 0;
}

std::shared_ptr<const Survey> ProxyThreads::ask_holdings(const std::function<void()>& done) {
  auto survey = std::make_shared<Survey>(threads_.size());
  for (std::size_t i = 0; i < threads_.size(); ++i) {
    threads_[i]->post([survey, done, i](proxy::ProxyLoop& proxy) {
      if (survey->add(i, proxy.holdings())) {
        done();
      }
    });
  }
  return survey;
}

void ProxyThreads::relieve(const std::vector<std::size_t>& octets) {
  for (std::size_t i = 0; i < threads_.size(); ++i) {
    threads_[i]->post([own = octets[i]](proxy::ProxyLoop& proxy) { proxy.relieve(own); });
  }
}

void ProxyThreads::ask_idle(const std::function<void(bool)>& answer) {
  struct Count {
    std::atomic<std::size_t> left;
    std::atomic<bool> idle{true};
  };
  auto count = std::make_shared<Count>();
  count->left = threads_.size();
  for (const auto& thread : threads_) {
    thread->post([count, answer](const proxy::ProxyLoop& proxy) {
      if (!proxy.idle()) {
        count->idle = false;
      }
      if (--count->left == 0) {
        answer(count->idle);
      }
    });
  }
}

}  // namespace meshnode::agent
