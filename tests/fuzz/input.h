#pragma once
/// The fuzzer's octets as decisions: what a program does next, with what. An input that has run out
/// decides for the first of everything, so that every program ends. Thread: values.

#include <meshnode/bytes.h>
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

namespace meshnode::fuzz {

/// The property that a fuzz program exists to check.
inline void require(bool held) {
  if (!held) std::abort();
}

class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size) : rest_(data, size) {}

  bool empty() const { return rest_.empty(); }
  std::uint8_t octet() {
    if (rest_.empty()) return 0;
    const std::uint8_t first = rest_[0];
    rest_ = rest_.subspan(1);
    return first;
  }
  bool flag() { return (octet() & 1) != 0; }
  std::uint16_t pair() { return static_cast<std::uint16_t>(octet() << 8 | octet()); }
  std::uint32_t word() { return std::uint32_t{pair()} << 16 | pair(); }
  /// 0 to `last`, both included.
  std::size_t up_to(std::size_t last) { return (last < 256 ? octet() : word()) % (last + 1); }
  template <class T>
  T one_of(std::initializer_list<T> choices) {
    return *(choices.begin() + up_to(choices.size() - 1));
  }
  Bytes take(std::size_t size) {
    const Bytes taken = rest_.first(std::min(size, rest_.size()));
    rest_ = rest_.subspan(taken.size());
    return taken;
  }
  /// An octet of length, and that much.
  std::string text() { return std::string(as_text(take(octet()))); }
  Bytes rest() { return take(rest_.size()); }

 private:
  Bytes rest_;
};

}  // namespace meshnode::fuzz
