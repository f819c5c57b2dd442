#include "io/loop.h"

#include <meshnode/transport.h>
#include <cstdlib>
#include <utility>

#include "io/handle.h"
#include "io/stream.h"

namespace meshnode::io {
namespace {

// Large enough that a bulk transfer costs few system calls, small enough to stay in a core's L2.
// With an HTTP/2 frame header (9 octets) in front, a full read fills sixteen TLS records exactly.
constexpr std::size_t kScratch = std::size_t{16} * 16'384 - 9;

constexpr Duration kCheckPaused = std::chrono::seconds(2);

std::uint64_t to_millis(Duration after) {
  // Rounded up: a timer never fires early.
  const auto ms = std::chrono::ceil<std::chrono::milliseconds>(after).count();
  return ms < 0 ? 0 : static_cast<std::uint64_t>(ms);
}

class UvTimer final : public Timer {
 public:
  UvTimer(uv_loop_t* loop, std::function<void()> on_fire)
      : on_fire_(std::move(on_fire)),
        handle_(make_handle<uv_timer_t>([&](uv_timer_t* h) { uv_timer_init(loop, h); }, this)) {}

  void start(Duration after) override {
    uv_timer_start(
        handle_.get(),
        [](uv_timer_t* raw) {
          if (auto* self = static_cast<UvTimer*>(raw->data)) {
            const auto callback = self->on_fire_;  // the timer may die within
            callback();
          }
        },
        to_millis(after), 0);
  }
  void stop() override { uv_timer_stop(handle_.get()); }
  bool running() const override {
    return uv_is_active(reinterpret_cast<const uv_handle_t*>(handle_.get())) != 0;
  }

 private:
  std::function<void()> on_fire_;
  HandlePtr<uv_timer_t> handle_;
};

}  // namespace

Instant monotonic_now() { return {std::chrono::milliseconds(uv_hrtime() / 1'000'000)}; }

unsigned available_cpus() { return uv_available_parallelism(); }

struct Loop::Handles {
  uv_loop_t loop;
  HandlePtr<uv_async_t> wake;
  HandlePtr<uv_prepare_t> before_poll;
  HandlePtr<uv_check_t> after_poll;
};

Loop::Loop() : handles_(std::make_unique<Handles>()) {
  if (uv_loop_init(&handles_->loop) != 0) {
    std::abort();  // out of descriptors or memory at start: nothing can run
  }
  uv_loop_t* loop = &handles_->loop;
  handles_->wake = make_handle<uv_async_t>(
      [&](uv_async_t* h) {
        uv_async_init(loop, h,
                      [](uv_async_t* raw) { static_cast<Loop*>(raw->data)->run_posted(); });
      },
      this);
  // Deferred work is done on both sides of the poll, so that none waits for the next event.
  handles_->before_poll =
      make_handle<uv_prepare_t>([&](uv_prepare_t* h) { uv_prepare_init(loop, h); }, this);
  uv_prepare_start(handles_->before_poll.get(),
                   [](uv_prepare_t* raw) { static_cast<Loop*>(raw->data)->reap(); });
  handles_->after_poll =
      make_handle<uv_check_t>([&](uv_check_t* h) { uv_check_init(loop, h); }, this);
  uv_check_start(handles_->after_poll.get(),
                 [](uv_check_t* raw) { static_cast<Loop*>(raw->data)->reap(); });
}

Loop::~Loop() {
  reap();
  paused_timer_.reset();
  handles_->wake.reset();
  handles_->before_poll.reset();
  handles_->after_poll.reset();
  // Twice: close callbacks may close further handles. Never a blocking run: a leak would hang.
  uv_run(&handles_->loop, UV_RUN_NOWAIT);
  uv_run(&handles_->loop, UV_RUN_NOWAIT);
  if (uv_loop_close(&handles_->loop) != 0) {
    std::abort();  // a handle outlived its loop: a bug that must fail tests
  }
}

void Loop::run() { uv_run(&handles_->loop, UV_RUN_DEFAULT); }

void Loop::stop() { uv_stop(&handles_->loop); }

Instant Loop::now() const { return {std::chrono::milliseconds(uv_now(&handles_->loop))}; }

WallTime Loop::wall_now() const { return std::chrono::system_clock::now(); }

std::unique_ptr<Timer> Loop::timer(std::function<void()> on_fire) {
  return std::make_unique<UvTimer>(&handles_->loop, std::move(on_fire));
}

void Loop::post(std::function<void()> task) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    posted_.push_back(std::move(task));
  }
  uv_async_send(handles_->wake.get());
}

void Loop::retire(std::unique_ptr<Retirable> object) { retired_.push_back(std::move(object)); }

void Loop::defer(std::function<void()> task) { deferred_.push_back(std::move(task)); }

void Loop::reads_no_more(UvStream& stream) {
  paused_.insert(&stream);
  if (!paused_timer_) {
    paused_timer_ = timer([this] { check_paused(); });
  }
  if (!paused_timer_->running()) {
    paused_timer_->start(kCheckPaused);
  }
}

void Loop::reads_again(UvStream& stream) { paused_.erase(&stream); }

void Loop::check_paused() {
  const std::vector<UvStream*> all(paused_.begin(), paused_.end());
  for (UvStream* stream : all) {
    if (paused_.contains(stream)) {  // none destroyed by another's error
      stream->check_alive();
    }
  }
  if (!paused_.empty()) {
    paused_timer_->start(kCheckPaused);
  }
}

uv_loop_s* Loop::raw() const { return &handles_->loop; }

MutableBytes Loop::read_scratch() {
  if (!scratch_) {
    // for_overwrite: an idle loop must not touch, and so not pay for, these pages.
    scratch_ = std::make_unique_for_overwrite<std::uint8_t[]>(kReadHeadroom + kScratch);
  }
  return {scratch_.get() + kReadHeadroom, kScratch};
}

void Loop::run_posted() {
  std::vector<std::function<void()>> tasks;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    tasks.swap(posted_);
  }
  for (auto& task : tasks) {
    task();
  }
}

void Loop::reap() {
  // A task may defer or retire more, a destructor too.
  while (!deferred_.empty() || !retired_.empty()) {
    const std::vector<std::function<void()>> tasks = std::exchange(deferred_, {});
    for (const auto& task : tasks) {
      task();
    }
    std::vector<std::unique_ptr<Retirable>> dying;
    dying.swap(retired_);
  }
}

}  // namespace meshnode::io
