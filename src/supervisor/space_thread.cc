#include "supervisor/space_thread.h"

#include <unistd.h>
#include <csignal>
#include <system_error>
#include <utility>

#include "base/log.h"
#include "io/loop.h"

namespace meshnode::supervisor {

SpaceThread::SpaceThread(io::Loop& loop, Kernel& kernel, std::string marker, SpaceEvents events,
                         std::function<void()> on_news, Duration look_within)
    : loop_(loop),
      kernel_(kernel),
      marker_(std::move(marker)),
      events_(std::move(events)),
      on_news_(std::move(on_news)),
      look_within_(look_within) {}

SpaceThread::~SpaceThread() {
  enough_ = true;
  order([](Orders& orders) { orders.stop = true; });
  if (thread_.joinable()) thread_.join();
}

void SpaceThread::start() {
  if (thread_.joinable()) return;
  try {
    thread_ = std::thread([this] { run(); });
  } catch (const std::system_error& error) {
    // With the next look.
    log::error("capture", "no thread for network namespaces could be started; trying again",
               {{"error", error.what()}});
  }
}

void SpaceThread::order(const std::function<void(Orders&)>& change) {
  {
    const std::lock_guard lock(mutex_);
    change(orders_);
  }
  ordered_.notify_one();
}

void SpaceThread::want(const capture::Spec& spec) {
  wanted_.clear();
  for (const capture::Enrolled& workload : spec.workloads) {
    if (std::holds_alternative<capture::ByNamespace>(workload.owner)) {
      wanted_.push_back(workload.name);
    }
  }
  const bool idle = !thread_.joinable() && wanted_.empty() && wishes_ == 0;
  if (idle && ::access(marker_.c_str(), F_OK) != 0) return;
  ++wishes_;
  order([&](Orders& orders) {
    orders.wish = spec;
    orders.wishes = wishes_;
  });
  note_settling();
}

void SpaceThread::look() {
  if (wishes_ == 0) return;
  start();
  if (!looking_since_) looking_since_ = loop_.now();
  order([](Orders& orders) { orders.look = true; });
}

bool SpaceThread::stuck() const {
  return looking_since_ && loop_.now() - *looking_since_ > look_within_;
}

bool SpaceThread::settled() const {
  return !trying_since_ || loop_.now() - *trying_since_ > look_within_ || stuck();
}

void SpaceThread::note_settling() {
  if (news_.settled && news_.wishes == wishes_) {
    trying_since_.reset();
  } else if (!trying_since_) {
    trying_since_ = loop_.now();
  }
}

void SpaceThread::add_to(CaptureReport& report) const {
  const CaptureReport& part = news_.part;
  report.repaired += part.repaired;
  if (!part.last_repair.empty()) report.last_repair = part.last_repair;
  report.waiting.insert(report.waiting.end(), part.waiting.begin(), part.waiting.end());
  report.failed.insert(part.failed.begin(), part.failed.end());
  report.spaces.insert(part.spaces.begin(), part.spaces.end());
  report.undeclared.insert(part.undeclared.begin(), part.undeclared.end());
  for (const auto& [reason, packets] : part.bypass) report.bypass[reason] += packets;
  for (const auto& [who, packets] : part.bypass_by_workload) {
    report.bypass_by_workload[who] += packets;
  }
  if (!stuck()) return;
  for (const std::string& workload : wanted_) {
    report.failed[workload] =
        "network namespaces have not been looked at for more than " +
        std::to_string(look_within_ / std::chrono::seconds(1)) +
        " s; is the path of one on a file system that does not answer?";
  }
}

void SpaceThread::release(std::function<void(Status)> done) {
  if (!thread_.joinable()) return loop_.post([done = std::move(done)] { done({}); });
  order([&](Orders& orders) { orders.release = std::move(done); });
}

Status SpaceThread::remove(Duration at_most) {
  if (!thread_.joinable()) return {};
  enough_ = true;
  std::promise<Status> promise;
  auto done = promise.get_future();
  order([&](Orders& orders) { orders.remove = std::move(promise); });
  if (done.wait_for(at_most) != std::future_status::ready) {
    held_ = true;
    return fail(ErrorCode::kTimeout,
                "in network namespaces they stay: nothing came of it within " +
                    std::to_string(at_most / std::chrono::seconds(1)) +
                    " s; is the path of one on a file system that does not answer?");
  }
  auto removed = done.get();
  thread_.join();
  return removed;
}

SpaceThread::Orders SpaceThread::take(bool busy) {
  std::unique_lock lock(mutex_);
  ordered_.wait(lock, [&] {
    return busy || orders_.look || orders_.release || orders_.remove || orders_.stop;
  });
  return std::exchange(orders_, {});
}

void SpaceThread::run() {
  sigset_t every;
  ::sigfillset(&every);
  ::pthread_sigmask(SIG_BLOCK, &every, nullptr);
  Spaces spaces(kernel_, marker_, posted());
  std::uint64_t wishes = 0;
  bool busy = false;
  bool released = false;
  for (;;) {
    Orders orders = take(busy);
    if (orders.wish) {
      spaces.want(*orders.wish);
      wishes = orders.wishes;
    }
    if (orders.release) {
      released = true;
      auto done = spaces.release(io::monotonic_now() + kReleaseWithin, enough_);
      loop_.post([tell = std::move(orders.release), done = std::move(done)] { tell(done); });
    }
    if (orders.remove) {
      orders.remove->set_value(spaces.remove(io::monotonic_now() + kRemoveWithin));
      return;
    }
    if (orders.stop) return;
    if (released) {
      busy = false;
      continue;
    }
    if (orders.look) {
      spaces.look(io::monotonic_now());
      loop_.post([this] { looking_since_.reset(); });
    }
    busy = spaces.step(io::monotonic_now());
    tell(spaces, wishes);
  }
}

SpaceEvents SpaceThread::posted() {
  return {[this](const TakenUp& space) {
            loop_.post([this, space] { events_.on_taken_up(space); });
          },
          [this](std::uint16_t slot) { loop_.post([this, slot] { events_.on_gone(slot); }); },
          [this](std::uint16_t slot, std::shared_ptr<const io::NetNamespace> place) {
            loop_.post(
                [this, slot, place = std::move(place)] { events_.on_captured(slot, place); });
          }};
}

void SpaceThread::tell(const Spaces& spaces, std::uint64_t wishes) {
  News now{{}, spaces.settled(), wishes};
  spaces.add_to(now.part);
  if (now == told_) return;
  told_ = now;
  loop_.post([this, now = std::move(now)] {
    news_ = now;
    note_settling();
    on_news_();
  });
}

}  // namespace meshnode::supervisor
