#include "io/space_sockets.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <deque>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "io/loop.h"
#include "io/watch.h"

namespace meshnode::io {
namespace {

constexpr Duration kReserveIdle = std::chrono::seconds(10);

using Key = std::pair<std::uint16_t, SpaceSocket>;

Error refused(const Key& key, std::uint32_t code) {
  const char* why = code == ENOENT ? "its rules are not in force"
                                   : std::strerror(static_cast<int>(code));
  return {ErrorCode::kUnavailable,
          fmt::format("no socket in the network namespace of slot {}: {}", key.first, why)};
}

}  // namespace

struct SpaceSockets::Wait::State {
  std::function<void(Result<int>)> taken;  // empty once called, or called off
};

SpaceSockets::Wait::Wait(std::shared_ptr<State> state) : state_(std::move(state)) {}
SpaceSockets::Wait::~Wait() { state_->taken = nullptr; }

class SpaceSockets::Impl {
 public:
  Impl(Loop& loop, std::string path, DescriptorBudget* budget)
      : loop_(loop),
        path_(std::move(path)),
        budget_(budget),
        idle_(loop.timer([this] { drop_idle(); })),
        failed_(loop.timer([this] { fail_all(why_); })) {}
  ~Impl() {
    watch_.reset();
    if (fd_ >= 0) ::close(fd_);
    for (auto& [key, reserve] : reserves_) close_all(reserve);
  }

  int take_reserved(const Key& key) {
    const auto found = reserves_.find(key);
    if (found == reserves_.end() || found->second.sockets.empty()) return -1;
    Reserve& reserve = found->second;
    const int fd = reserve.sockets.back().fd;
    reserve.sockets.pop_back();
    --kept_;
    reserve.last = loop_.now();
    if (reserve.sockets.size() * 2 <= reserve.wanted) request();
    return fd;
  }

  void wait(const Key& key, std::shared_ptr<Wait::State> waiter) {
    Reserve& reserve = reserves_[key];
    reserve.last = loop_.now();
    if (!idle_->running()) idle_->start(kReserveIdle);
    std::size_t waiters = 0;
    for (const auto& [other, each] : reserves_) waiters += each.waiters.size();
    if (waiters >= kMaxSpaceWaiters) {
      const Error why{ErrorCode::kLimit,
                      fmt::format("{} connections wait for sockets in network namespaces already",
                                  kMaxSpaceWaiters)};
      loop_.post([waiter = std::move(waiter), why] { answer(*waiter, fail(why)); });
      return;
    }
    reserve.waiters.push_back(std::move(waiter));
    if (key.second != SpaceSocket::kDiag) {
      reserve.wanted = std::min<std::size_t>(std::max(reserve.wanted * 2, kFirstReserve),
                                             kMaxSpaceSockets);
    }
    request();
  }

  void forget(std::uint16_t slot) {
    // What is on its way may be of the namespace that was.
    outdated_ = outdated_ || (asked_ && asked_->first == slot);
    for (auto at = reserves_.begin(); at != reserves_.end();) {
      if (at->first.first != slot) {
        ++at;
        continue;
      }
      auto waiters = std::move(at->second.waiters);
      close_all(at->second);
      const Key key = at->first;
      at = reserves_.erase(at);
      for (const auto& waiter : waiters) answer(*waiter, fail(refused(key, ENOENT)));
    }
  }

 private:
  struct Kept {
    int fd = -1;
    DescriptorBudget::Share share;
  };
  struct Reserve {
    std::vector<Kept> sockets;
    std::deque<std::shared_ptr<Wait::State>> waiters;
    std::size_t wanted = 0;
    Instant last{};
  };

  static void answer(Wait::State& waiter, Result<int> result) {
    auto taken = std::exchange(waiter.taken, nullptr);
    if (taken) {
      taken(std::move(result));
    } else if (result) {
      ::close(*result);
    }
  }

  void close_all(Reserve& reserve) {
    for (const Kept& kept : reserve.sockets) ::close(kept.fd);
    kept_ -= reserve.sockets.size();
    reserve.sockets.clear();
  }

  void drop_idle() {
    const Instant now = loop_.now();
    for (auto at = reserves_.begin(); at != reserves_.end();) {
      std::erase_if(at->second.waiters, [](const auto& each) { return !each->taken; });
      if (now - at->second.last < kReserveIdle || !at->second.waiters.empty()) {
        ++at;
        continue;
      }
      close_all(at->second);
      at = reserves_.erase(at);
    }
    if (!reserves_.empty()) idle_->start(kReserveIdle);
  }

  bool may_keep() const {
    return kept_ < kMaxReserved && (budget_ == nullptr || !budget_->full());
  }

  /// How many to ask for.
  std::size_t lacks(const Reserve& reserve) const {
    const auto waiting = static_cast<std::size_t>(
        std::count_if(reserve.waiters.begin(), reserve.waiters.end(),
                      [](const auto& each) { return bool(each->taken); }));
    const bool low = reserve.sockets.size() * 2 <= reserve.wanted && may_keep();
    const std::size_t room = low ? reserve.wanted - reserve.sockets.size() : 0;
    return std::min<std::size_t>(waiting + room, kMaxSpaceSockets);
  }

  /// One at a time: the supervisor cuts off who leaves answers unread.
  void request() {
    if (asked_ || failed_->running()) return;
    const Key* most = nullptr;
    std::size_t count = 0;
    bool urgent = false;
    for (const auto& [key, reserve] : reserves_) {
      const std::size_t lack = lacks(reserve);
      const bool waits = !reserve.waiters.empty();
      if (lack == 0 || (urgent && !waits)) continue;
      if (most == nullptr || (waits && !urgent) || lack > count) {
        most = &key;
        count = lack;
        urgent = waits;
      }
    }
    if (most == nullptr) return;
    if (auto connected = connect(); !connected) return lose(connected.error());
    const SpaceRequest text{most->first, static_cast<std::uint8_t>(most->second),
                            static_cast<std::uint8_t>(count)};
    asked_ = *most;
    outdated_ = false;
    if (::send(fd_, &text, sizeof text, MSG_NOSIGNAL | MSG_DONTWAIT) !=
        static_cast<ssize_t>(sizeof text)) {
      lose({ErrorCode::kUnavailable, fmt::format("{}: {}", path_, std::strerror(errno))});
    }
  }

  Status connect() {
    if (fd_ >= 0) return {};
    sockaddr_un at{};
    at.sun_family = AF_UNIX;
    if (path_.size() >= sizeof(at.sun_path)) {
      return fail(ErrorCode::kInvalid, path_ + ": too long for a socket's name");
    }
    std::memcpy(at.sun_path, path_.c_str(), path_.size());
    fd_ = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd_ < 0 || ::connect(fd_, reinterpret_cast<const sockaddr*>(&at), sizeof at) != 0) {
      return fail(ErrorCode::kUnavailable,
                  fmt::format("{}: {}; only the supervisor can make sockets in another network "
                              "namespace",
                              path_, std::strerror(errno)));
    }
    watch_ = std::make_unique<FdWatch>(loop_, fd_, [this] { read(); });
    return {};
  }

  void lose(Error why) {
    watch_.reset();
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
    asked_.reset();
    fail_later(std::move(why));
  }

  /// Never from within a caller's own call.
  void fail_later(Error why) {
    why_ = std::move(why);
    failed_->start(Duration::zero());
  }

  void fail_all(const Error& why) {
    std::vector<std::shared_ptr<Wait::State>> all;
    for (auto& [key, reserve] : reserves_) {
      all.insert(all.end(), reserve.waiters.begin(), reserve.waiters.end());
      reserve.waiters.clear();
    }
    for (const auto& waiter : all) answer(*waiter, fail(why));
  }

  void read() {
    SpaceAnswer text;
    iovec part{&text, sizeof text};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * kMaxSpaceSockets)> control{};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    const ssize_t got = ::recvmsg(fd_, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    std::vector<int> sockets;
    for (cmsghdr* h = CMSG_FIRSTHDR(&message); got >= 0 && h != nullptr;
         h = CMSG_NXTHDR(&message, h)) {
      if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS) continue;
      sockets.resize((h->cmsg_len - CMSG_LEN(0)) / sizeof(int));
      std::memcpy(sockets.data(), CMSG_DATA(h), sockets.size() * sizeof(int));
    }
    if (got != sizeof text || !asked_) {
      for (const int fd : sockets) ::close(fd);
      return lose({ErrorCode::kUnavailable,
                   path_ + ": the supervisor ended the connection; its log says why"});
    }
    const Key key = *std::exchange(asked_, std::nullopt);
    if (outdated_) {
      for (const int fd : sockets) ::close(fd);
      return request();
    }
    // Out of descriptors: those that did not fit were closed by the kernel.
    if (text.error == 0 && sockets.empty()) text.error = EMFILE;
    deliver(key, text.error, std::move(sockets));
    request();
  }

  void deliver(const Key& key, std::uint32_t error, std::vector<int> sockets) {
    std::deque<std::shared_ptr<Wait::State>> served;
    if (const auto found = reserves_.find(key); found != reserves_.end()) {
      Reserve& reserve = found->second;
      std::erase_if(reserve.waiters, [](const auto& each) { return !each->taken; });
      if (error != 0) {
        served = std::exchange(reserve.waiters, {});
        reserve.wanted = 0;
      }
      while (!sockets.empty() && !reserve.waiters.empty() && served.size() < sockets.size()) {
        served.push_back(std::move(reserve.waiters.front()));
        reserve.waiters.pop_front();
      }
      while (sockets.size() > served.size() && may_keep()) {
        reserve.sockets.push_back({sockets.back(), DescriptorBudget::Share(budget_)});
        sockets.pop_back();
        ++kept_;
      }
    }
    // Their callbacks may ask again, or forget the slot.
    for (const auto& waiter : served) {
      if (sockets.empty()) {
        answer(*waiter, fail(refused(key, error)));
      } else {
        const int fd = sockets.back();
        sockets.pop_back();
        answer(*waiter, fd);
      }
    }
    for (const int fd : sockets) ::close(fd);
  }

  Loop& loop_;
  std::string path_;
  DescriptorBudget* budget_;
  int fd_ = -1;
  std::unique_ptr<FdWatch> watch_;
  std::optional<Key> asked_;  // whose answer is to come
  bool outdated_ = false;     // that answer is not to be used
  std::map<Key, Reserve> reserves_;
  std::size_t kept_ = 0;
  Error why_;
  std::unique_ptr<Timer> idle_;
  std::unique_ptr<Timer> failed_;
};

SpaceSockets::SpaceSockets(Loop& loop, std::string path, DescriptorBudget* budget)
    : impl_(std::make_unique<Impl>(loop, std::move(path), budget)) {}
SpaceSockets::~SpaceSockets() = default;

int SpaceSockets::take_reserved(std::uint16_t slot, SpaceSocket kind) {
  return impl_->take_reserved({slot, kind});
}

std::unique_ptr<SpaceSockets::Wait> SpaceSockets::take(std::uint16_t slot, SpaceSocket kind,
                                                       std::function<void(Result<int>)> taken) {
  auto state = std::make_shared<Wait::State>();
  state->taken = std::move(taken);
  impl_->wait({slot, kind}, state);
  return std::unique_ptr<Wait>(new Wait(std::move(state)));
}

void SpaceSockets::forget(std::uint16_t slot) { impl_->forget(slot); }

}  // namespace meshnode::io
