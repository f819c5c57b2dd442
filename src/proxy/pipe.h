#pragma once
/// Carries bytes, ends and resets between two streams until both directions are done, with
/// back-pressure: what one side does not take stops the reading of the other. TCP ends and h2
/// ends behave alike (both are Streams). Thread: one loop.

#include <meshnode/clock.h>
#include <meshnode/transport.h>
#include <cstdint>
#include <memory>
#include <string>

namespace meshnode::proxy {

/// Reading of one side pauses while more than this waits for the other. One more read may come on
/// top: at most 512 KiB a direction.
inline constexpr std::size_t kPauseAbove = std::size_t{256} * 1024;

class PipeEvents {
 public:
  virtual ~PipeEvents() = default;
  virtual void on_piped(bool from_caller, std::size_t bytes) = 0;
  /// Both directions ended, or one side failed and the other was reset. Comes once; retire the
  /// pipe's owner. `silent`: one direction had ended, and the other said nothing for too long.
  virtual void on_pipe_done(const std::string& error, bool silent) = 0;
};

class Pipe {
 public:
  /// With one direction ended it is reset after `silence` without a byte in the other.
  Pipe(Clock& clock, std::unique_ptr<Stream> caller, std::unique_ptr<Stream> callee,
       PipeEvents* events, Duration silence);
  /// Starts both directions.
  void start();
  /// Resets both sides; no further events.
  void abort();
  /// Octets that this connection keeps in memory, both ways.
  std::size_t buffered() const;

 private:
  class Side final : public StreamEvents {
   public:
    Side(Pipe& pipe, std::unique_ptr<Stream> stream, bool is_caller)
        : pipe_(pipe), stream_(std::move(stream)), is_caller_(is_caller) {}
    void on_data(MutableBytes data) override;
    void on_end() override;
    void on_error(const Error& error) override;
    void on_drained() override;

    Pipe& pipe_;
    std::unique_ptr<Stream> stream_;
    Side* other_ = nullptr;
    bool is_caller_;
    bool ended_ = false;
  };

  void check_done();
  void watch_silence();
  void finish(const std::string& error, bool silent = false);

  Clock& clock_;
  PipeEvents* events_;
  Side caller_;
  Side callee_;
  const Duration longest_silence_;
  Instant last_heard_{};
  std::unique_ptr<Timer> silence_;  // from the first end on
  bool done_ = false;
};

}  // namespace meshnode::proxy
