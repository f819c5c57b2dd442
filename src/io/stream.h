#pragma once
/// A connected TCP (or Unix) stream on libuv. Only for io/.

#include <meshnode/transport.h>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "io/descriptor_budget.h"
#include "io/handle.h"
#include "io/loop.h"

namespace meshnode::io {

class UvStream final : public Stream {
 public:
  UvStream(Loop& loop, HandlePtr<uv_tcp_t> handle, DescriptorBudget::Share share);
  ~UvStream() override;

  void set_events(StreamEvents* events) override { events_ = events; }
  void start_reading() override;
  void stop_reading() override;
  void write(std::span<const Bytes> pieces) override;
  std::size_t queued() const override { return in_flight_ + waiting_.size(); }
  void shutdown() override;
  void reset() override;
  SocketAddress local_address() const override;
  SocketAddress peer_address() const override;
  std::optional<SocketAddress> original_destination() const override;

 private:
  struct Write;
  void on_read(ssize_t size);
  friend class Loop;
  /// A stream that does not read is in no poll set: the loop asks now and then whether its
  /// connection was reset meanwhile.
  void check_alive();
  bool has_unread() const;
  void submit();
  void on_written(std::size_t size, int status);
  void fail_with(int status);
  /// Why the connection is lost, as a libuv status; 0 when it is not.
  int lost() const;

  Loop& loop_;
  HandlePtr<uv_tcp_t> handle_;
  StreamEvents* events_ = nullptr;
  std::vector<std::uint8_t> waiting_;  // behind the write in flight
  std::size_t in_flight_ = 0;
  DescriptorBudget::Share share_;
  int broken_ = 0;  // what writing failed with, while there may be something to read
  bool reading_ = false;
  bool shut_ = false;
  bool failed_ = false;
};

/// Whether close(), or the end of this process, ends the connection as a reset: cut in the middle
/// it must not look whole. Set on every socket that becomes a stream, until its orderly end.
void abort_on_close(int fd, bool on);

/// The Error for a negative libuv status.
Error uv_error(const char* what, int status);

}  // namespace meshnode::io
