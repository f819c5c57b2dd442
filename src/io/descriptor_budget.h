#pragma once
/// How many sockets the connections of this process may hold, so that files, channels and the admin
/// socket always find a descriptor (contract: 80 % of descriptors, then accepting pauses). Shared
/// by all loops. Thread-safe.

#include <atomic>
#include <cstddef>
#include <utility>

namespace meshnode::io {

class DescriptorBudget {
 public:
  explicit DescriptorBudget(std::size_t limit) : limit_(limit) {}
  /// 80 % of this process's limit of open files.
  static std::size_t default_limit();
  bool full() const { return open_.load(std::memory_order_relaxed) >= limit_; }
  std::size_t open() const { return open_.load(std::memory_order_relaxed); }
  /// The most that were open at once since the last call.
  std::size_t take_peak() { return peak_.exchange(open(), std::memory_order_relaxed); }

  /// One socket's share, for as long as it lives. A default one counts nothing.
  class Share {
   public:
    Share() = default;
    explicit Share(DescriptorBudget* budget) : budget_(budget) {
      if (budget_ != nullptr) {
        budget_->opened();
      }
    }
    ~Share() {
      if (budget_ != nullptr) {
        budget_->open_.fetch_sub(1, std::memory_order_relaxed);
      }
    }
    Share(Share&& other) noexcept : budget_(std::exchange(other.budget_, nullptr)) {}
    Share& operator=(Share&& other) noexcept {
      std::swap(budget_, other.budget_);
      return *this;
    }

   private:
    DescriptorBudget* budget_ = nullptr;
  };

 private:
  void opened() {
    const std::size_t now = open_.fetch_add(1, std::memory_order_relaxed) + 1;
    std::size_t peak = peak_.load(std::memory_order_relaxed);
    while (peak < now && !peak_.compare_exchange_weak(peak, now, std::memory_order_relaxed)) {
    }
  }

  const std::size_t limit_;
  std::atomic<std::size_t> open_{0};
  std::atomic<std::size_t> peak_{0};
};

}  // namespace meshnode::io
