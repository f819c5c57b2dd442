#include "supervisor/channel.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <array>
#include <cerrno>
#include <cstring>

#include "io/loop.h"
#include "supervisor/message.h"
#include "supervisor/send_descriptors.h"

namespace meshnode::supervisor {
namespace {

constexpr std::size_t kControlSpace = CMSG_SPACE(sizeof(int) * kMaxListeners);

std::string reason(const char* what) { return std::string(what) + ": " + std::strerror(errno); }

/// Takes over every descriptor that came with a message, wanted or not: an unread one would leak.
void take_descriptors(msghdr& message, std::deque<Descriptor>& into) {
  for (cmsghdr* h = CMSG_FIRSTHDR(&message); h != nullptr; h = CMSG_NXTHDR(&message, h)) {
    if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(h) + i * sizeof(int), sizeof(int));
      into.emplace_back(fd);
    }
  }
}

}  // namespace

Result<std::pair<Descriptor, Descriptor>> make_channel() {
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends.data()) != 0) {
    return fail(ErrorCode::kUnavailable, reason("no channel for the worker"));
  }
  return std::make_pair(Descriptor(ends[0]), Descriptor(ends[1]));
}

Channel::Channel(io::Loop& loop, Descriptor socket, Descriptors descriptors, Callbacks callbacks)
    : loop_(loop),
      socket_(std::move(socket)),
      accepts_(descriptors),
      callbacks_(std::move(callbacks)) {
  readable_ = std::make_unique<io::FdWatch>(loop_, socket_.get(), [this] { read(); });
}

Channel::~Channel() = default;

Status Channel::send(std::string_view body, std::span<const int> descriptors) {
  if (closed_) return fail(ErrorCode::kUnavailable, "the channel is closed");
  if (descriptors.size() > kMaxListeners) {
    return fail(ErrorCode::kLimit, "too many descriptors for one message");
  }
  auto framed = make_frame(body, descriptors.size());
  if (!framed) return fail(framed.error());
  if (queued_ + framed->size() > kMaxQueued) {
    broken_ = {ErrorCode::kLimit, "the other process reads nothing and its queue is full"};
    ::shutdown(socket_.get(), SHUT_RDWR);
    return fail(broken_);
  }
  if (queued_descriptors_ + descriptors.size() > kMaxQueuedDescriptors) {
    return fail(ErrorCode::kLimit, "the other process reads slowly, and " +
                                       std::to_string(queued_descriptors_) +
                                       " descriptors wait for it already");
  }
  std::vector<Descriptor> copies;
  for (const int fd : descriptors) {
    copies.emplace_back(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
    if (!copies.back()) {
      return fail(ErrorCode::kUnavailable, reason("no descriptor is left for a message"));
    }
  }
  queued_ += framed->size();
  queued_descriptors_ += copies.size();
  queue_.push_back({std::move(*framed), 0, std::move(copies)});
  if (!writable_) flush();
  return {};
}

void Channel::flush() {
  while (!queue_.empty()) {
    Outgoing& first = queue_.front();
    const auto rest = std::string_view(first.bytes).substr(first.sent);
    const ssize_t sent = send_descriptors(socket_.get(), rest, first.descriptors);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
      wait_until_writable();
      return;
    }
    if (sent < 0) {
      // The reading side reports it: the callers of send() must not be re-entered.
      broken_ = {ErrorCode::kUnavailable, reason("cannot write to the other process")};
      ::shutdown(socket_.get(), SHUT_RDWR);
      queue_.clear();
      queued_ = 0;
      queued_descriptors_ = 0;
      break;
    }
    // They have gone with the first octet.
    queued_descriptors_ -= first.descriptors.size();
    first.descriptors.clear();
    first.sent += static_cast<std::size_t>(sent);
    if (first.sent == first.bytes.size()) {
      queued_ -= first.bytes.size();
      queue_.pop_front();
    }
  }
  writable_.reset();
  writable_epoll_ = Descriptor();
}

void Channel::wait_until_writable() {
  if (writable_) return;
  // The loop reports readability only; an epoll set that waits for EPOLLOUT becomes readable when
  // the socket becomes writable.
  writable_epoll_ = Descriptor(::epoll_create1(EPOLL_CLOEXEC));
  epoll_event wanted{};
  wanted.events = EPOLLOUT;
  if (!writable_epoll_ ||
      ::epoll_ctl(writable_epoll_.get(), EPOLL_CTL_ADD, socket_.get(), &wanted) != 0) {
    broken_ = {ErrorCode::kUnavailable, reason("cannot wait for the other process")};
    ::shutdown(socket_.get(), SHUT_RDWR);
    return;
  }
  writable_ = std::make_unique<io::FdWatch>(loop_, writable_epoll_.get(), [this] { flush(); });
}

void Channel::read() {
  const MutableBytes scratch = loop_.read_scratch();
  iovec part{scratch.data(), scratch.size()};
  alignas(cmsghdr) std::array<char, kControlSpace> control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (accepts_ == Descriptors::kAccept) {
    message.msg_control = control.data();
    message.msg_controllen = control.size();
  }
  const ssize_t got = ::recvmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) return;
  if (got < 0) return close({ErrorCode::kUnavailable, reason("the channel broke")});
  take_descriptors(message, received_);
  if (got == 0) {
    return close(broken_.message.empty()
                     ? Error{ErrorCode::kUnavailable, "the other process closed the channel"}
                     : broken_);
  }
  if (accepts_ == Descriptors::kAccept &&
      (received_.size() > kMaxListeners || (message.msg_flags & MSG_CTRUNC) != 0)) {
    return close({ErrorCode::kLimit, "too many descriptors on the channel"});
  }
  decoder_.feed({scratch.data(), static_cast<std::size_t>(got)});
  deliver();
}

void Channel::deliver() {
  while (!closed_) {
    auto body = decoder_.next();
    if (!body) return close(body.error());
    if (!*body) break;
    std::vector<Descriptor> descriptors;
    if (accepts_ == Descriptors::kAccept) {
      if (received_.size() < decoder_.descriptors()) {
        return close({ErrorCode::kInvalid, "descriptors are missing from a message"});
      }
      for (std::size_t i = decoder_.descriptors(); i > 0; --i) {
        descriptors.push_back(std::move(received_.front()));
        received_.pop_front();
      }
    }
    callbacks_.on_message(std::move(**body), std::move(descriptors));
  }
  if (!closed_ && !decoder_.in_frame() && !received_.empty()) {
    close({ErrorCode::kInvalid, "descriptors came without a message"});
  }
}

void Channel::close(Error why) {
  if (closed_) return;
  closed_ = true;
  queue_.clear();
  queued_ = 0;
  queued_descriptors_ = 0;
  received_.clear();
  readable_.reset();
  writable_.reset();
  callbacks_.on_closed(std::move(why));
}

}  // namespace meshnode::supervisor
