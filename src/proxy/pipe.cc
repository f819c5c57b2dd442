#include "proxy/pipe.h"

#include <utility>

#include "base/duration.h"

namespace meshnode::proxy {

Pipe::Pipe(Clock& clock, std::unique_ptr<Stream> caller, std::unique_ptr<Stream> callee,
           PipeEvents* events, Duration silence)
    : clock_(clock),
      events_(events),
      caller_(*this, std::move(caller), true),
      callee_(*this, std::move(callee), false),
      longest_silence_(silence) {
  caller_.other_ = &callee_;
  callee_.other_ = &caller_;
}

void Pipe::start() {
  caller_.stream_->set_events(&caller_);
  callee_.stream_->set_events(&callee_);
  caller_.stream_->start_reading();
  if (!done_) {  // what was already lost says so at once
    callee_.stream_->start_reading();
  }
}

std::size_t Pipe::buffered() const {
  return caller_.stream_->queued() + caller_.stream_->unread() + callee_.stream_->queued() +
         callee_.stream_->unread();
}

void Pipe::abort() {
  if (done_) {
    return;
  }
  done_ = true;
  caller_.stream_->reset();
  callee_.stream_->reset();
}

void Pipe::Side::on_data(MutableBytes data) {
  if (pipe_.done_) {
    return;
  }
  pipe_.last_heard_ = pipe_.clock_.now();
  pipe_.events_->on_piped(is_caller_, data.size());
  other_->stream_->forward(data);
  if (other_->stream_->queued() > kPauseAbove) {
    stream_->stop_reading();
  }
}

void Pipe::Side::on_end() {
  if (pipe_.done_) {
    return;
  }
  ended_ = true;
  other_->stream_->shutdown();
  pipe_.last_heard_ = pipe_.clock_.now();
  pipe_.check_done();
  pipe_.watch_silence();
}

void Pipe::Side::on_error(const Error& error) {
  if (pipe_.done_) {
    return;
  }
  other_->stream_->reset();
  pipe_.finish(error.message);
}

void Pipe::Side::on_drained() {
  if (pipe_.done_) {
    return;
  }
  pipe_.last_heard_ = pipe_.clock_.now();
  if (!other_->ended_) {
    other_->stream_->start_reading();
  }
  pipe_.check_done();
}

void Pipe::check_done() {
  if (!done_ && caller_.ended_ && callee_.ended_ && caller_.stream_->queued() == 0 &&
      callee_.stream_->queued() == 0) {
    finish({});
  }
}

void Pipe::watch_silence() {
  if (done_) {
    return;
  }
  if (!silence_) {
    silence_ = clock_.timer([this] {
      // Who reads slowly is not silent; on the dead, TCP or the tunnel's ping gives up.
      if (caller_.stream_->queued() + callee_.stream_->queued() > 0) {
        last_heard_ = clock_.now();
      }
      if (clock_.now() < last_heard_ + longest_silence_) {
        watch_silence();
        return;
      }
      caller_.stream_->reset();
      callee_.stream_->reset();
      finish("half-closed and silent for " + duration_text(longest_silence_), true);
    });
  }
  silence_->start(last_heard_ + longest_silence_ - clock_.now());
}

void Pipe::finish(const std::string& error, bool silent) {
  done_ = true;
  events_->on_pipe_done(error, silent);
}

}  // namespace meshnode::proxy
