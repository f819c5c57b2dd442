#include "io/stream.h"

#include <linux/netfilter_ipv4.h>
#include <linux/netfilter_ipv6/ip6_tables.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <array>
#include <utility>

namespace meshnode::io {
namespace {

int descriptor_of(const uv_tcp_t& handle) {
  uv_os_fd_t fd = -1;
  uv_fileno(reinterpret_cast<const uv_handle_t*>(&handle), &fd);
  return fd;
}

uv_stream_t* as_stream(uv_tcp_t* handle) { return reinterpret_cast<uv_stream_t*>(handle); }

}  // namespace

Error uv_error(const char* what, int status) {
  ErrorCode code = ErrorCode::kUnavailable;
  if (status == UV_ECONNRESET || status == UV_EPIPE) {
    code = ErrorCode::kReset;
  } else if (status == UV_ETIMEDOUT) {
    code = ErrorCode::kTimeout;
  } else if (status == UV_EPERM || status == UV_EACCES) {
    code = ErrorCode::kPermission;
  } else if (status == UV_EMFILE || status == UV_ENFILE) {
    code = ErrorCode::kLimit;
  }
  return {code, std::string(what) + ": " + uv_strerror(status)};
}

void abort_on_close(int fd, bool on) {
  // With linger zero close() sends RST, also after a shutdown (uv_tcp_close_reset() would refuse).
  const linger hard{.l_onoff = on ? 1 : 0, .l_linger = 0};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
}

/// Owns the bytes of one libuv write; outlives the stream if need be.
struct UvStream::Write {
  uv_write_t request;
  std::vector<std::uint8_t> bytes;
};

UvStream::UvStream(Loop& loop, HandlePtr<uv_tcp_t> handle, DescriptorBudget::Share share)
    : loop_(loop), handle_(std::move(handle)), share_(std::move(share)) {
  handle_->data = this;
}

UvStream::~UvStream() {
  loop_.reads_again(*this);
  if (handle_ && shut_ && !failed_ && queued() == 0) {
    // An orderly end: the kernel still has bytes to deliver.
    abort_on_close(descriptor_of(*handle_), false);
  }
}

void UvStream::start_reading() {
  if (!handle_) {
    return;
  }
  reading_ = true;
  loop_.reads_again(*this);
  uv_read_start(
      as_stream(handle_.get()),
      [](uv_handle_t* raw, std::size_t, uv_buf_t* buffer) {
        if (auto* self = static_cast<UvStream*>(raw->data)) {
          const MutableBytes scratch = self->loop_.read_scratch();
          *buffer = uv_buf_init(reinterpret_cast<char*>(scratch.data()),
                                static_cast<unsigned>(scratch.size()));
        }
      },
      [](uv_stream_t* raw, ssize_t size, const uv_buf_t*) {
        if (auto* self = static_cast<UvStream*>(raw->data)) {
          self->on_read(size);
        }
      });
}

void UvStream::stop_reading() {
  if (handle_) {
    reading_ = false;
    uv_read_stop(as_stream(handle_.get()));
    loop_.reads_no_more(*this);
  }
}

void UvStream::check_alive() {
  // Bytes that came before a reset may still be read, as they could be without us. Not once a write
  // has failed: what waits for its end may be just what would go on reading.
  if (!handle_ || failed_ || (broken_ == 0 && has_unread())) {
    return;
  }
  if (const int status = lost(); status != 0) {
    fail_with(status);
  }
}

bool UvStream::has_unread() const {
  int unread = 0;
  return ioctl(descriptor_of(*handle_), FIONREAD, &unread) != 0 || unread > 0;
}

int UvStream::lost() const {
  int pending = 0;
  socklen_t length = sizeof pending;
  getsockopt(descriptor_of(*handle_), SOL_SOCKET, SO_ERROR, &pending, &length);
  return pending != 0 ? uv_translate_sys_error(pending) : broken_;
}

void UvStream::on_read(ssize_t size) {
  if (size == 0 || failed_ || events_ == nullptr) {
    return;
  }
  if (size > 0) {
    events_->on_data(loop_.read_scratch().first(static_cast<std::size_t>(size)));
  } else if (size == UV_EOF) {
    // After a short read with a hang-up libuv reports the end without asking the kernel again: a
    // reset right behind data would pass for a FIN. Its error is the socket's, or a write's by now.
    if (const int status = lost(); status != 0) {
      fail_with(status);
      return;
    }
    stop_reading();
    events_->on_end();
  } else {
    fail_with(static_cast<int>(size));
  }
}

void UvStream::fail_with(int status) {
  if (failed_) {
    return;
  }
  failed_ = true;
  stop_reading();
  if (events_ != nullptr) {
    events_->on_error(uv_error("connection", status));
  }
}

void UvStream::write(std::span<const Bytes> pieces) {
  constexpr std::size_t kMaxPieces = 64;
  if (failed_ || shut_ || broken_ != 0) {
    return;
  }
  std::size_t sent = 0;
  int error = 0;
  if (in_flight_ == 0) {
    std::array<uv_buf_t, kMaxPieces> buffers;
    unsigned count = 0;
    for (const Bytes piece : pieces.first(std::min(pieces.size(), kMaxPieces))) {
      // libuv's type is not const; it does not write through it.
      buffers[count++] =
          uv_buf_init(reinterpret_cast<char*>(const_cast<std::uint8_t*>(piece.data())),
                      static_cast<unsigned>(piece.size()));
    }
    const int taken = uv_try_write(as_stream(handle_.get()), buffers.data(), count);
    sent = taken > 0 ? static_cast<std::size_t>(taken) : 0;
    error = taken < 0 && taken != UV_EAGAIN ? taken : 0;
  }
  for (const Bytes piece : pieces) {
    if (sent >= piece.size()) {
      sent -= piece.size();
      continue;
    }
    waiting_.insert(waiting_.end(), piece.begin() + static_cast<std::ptrdiff_t>(sent), piece.end());
    sent = 0;
  }
  if (in_flight_ == 0 && !waiting_.empty()) {
    submit();
  }
  // The queued write reports it, but only later: by now the kernel has forgotten the error, and an
  // end that is read in this very turn would pass for an orderly one.
  broken_ = error;
}

void UvStream::submit() {
  auto write = std::make_unique<Write>();
  write->bytes.swap(waiting_);
  write->request.data = write.get();
  in_flight_ = write->bytes.size();
  const uv_buf_t buffer = uv_buf_init(reinterpret_cast<char*>(write->bytes.data()),
                                      static_cast<unsigned>(write->bytes.size()));
  const int status = uv_write(
      &write->request, as_stream(handle_.get()), &buffer, 1, [](uv_write_t* request, int result) {
        const std::unique_ptr<Write> done(static_cast<Write*>(request->data));
        if (auto* self = static_cast<UvStream*>(request->handle->data)) {
          self->on_written(done->bytes.size(), result);
        }
      });
  if (status == 0) {
    static_cast<void>(write.release());
  } else {
    in_flight_ = 0;  // only on a handle that is closing: nobody is left to tell
  }
}

void UvStream::on_written(std::size_t size, int status) {
  if (status == UV_ECANCELED) {
    return;
  }
  if (status != 0) {
    // What the peer said before it closed may still be there to be read, and say why. Reading
    // comes to its end behind that: to the kernel the connection is over both ways. Who does not
    // read has until the next look at such streams.
    broken_ = broken_ != 0 ? broken_ : status;
    if (!reading_ && has_unread()) {
      loop_.reads_no_more(*this);
    } else if (!reading_) {
      fail_with(status);
    }
    return;
  }
  in_flight_ -= size;
  if (!waiting_.empty()) {
    submit();
  } else if (shut_) {
    ::shutdown(descriptor_of(*handle_), SHUT_WR);
  }
  if (queued() <= kResumeBelow && events_ != nullptr && !failed_) {
    events_->on_drained();
  }
}

void UvStream::shutdown() {
  if (shut_ || failed_) {
    return;
  }
  shut_ = true;
  if (queued() == 0) {
    ::shutdown(descriptor_of(*handle_), SHUT_WR);
  }
}

void UvStream::reset() {
  if (!handle_) {
    return;
  }
  failed_ = true;
  waiting_.clear();
  events_ = nullptr;
  loop_.reads_again(*this);
  handle_.reset();
}

SocketAddress UvStream::local_address() const {
  sockaddr_storage raw{};
  socklen_t size = sizeof raw;
  getsockname(descriptor_of(*handle_), reinterpret_cast<sockaddr*>(&raw), &size);
  return SocketAddress::from_sockaddr(reinterpret_cast<const sockaddr&>(raw));
}

SocketAddress UvStream::peer_address() const {
  sockaddr_storage raw{};
  socklen_t size = sizeof raw;
  getpeername(descriptor_of(*handle_), reinterpret_cast<sockaddr*>(&raw), &size);
  return SocketAddress::from_sockaddr(reinterpret_cast<const sockaddr&>(raw));
}

std::optional<SocketAddress> UvStream::original_destination() const {
  sockaddr_storage raw{};
  socklen_t size = sizeof raw;
  const bool v4 = local_address().ip.is_v4();
  const int found =
      v4 ? getsockopt(descriptor_of(*handle_), SOL_IP, SO_ORIGINAL_DST, &raw, &size)
         : getsockopt(descriptor_of(*handle_), SOL_IPV6, IP6T_SO_ORIGINAL_DST, &raw, &size);
  if (found != 0) {
    return std::nullopt;
  }
  return SocketAddress::from_sockaddr(reinterpret_cast<const sockaddr&>(raw));
}

}  // namespace meshnode::io
