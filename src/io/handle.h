#pragma once
/// Ownership of libuv handles: storage dies in the close callback, never before. Only for io/.

#include <uv.h>
#include <memory>

namespace meshnode::io {

struct CloseHandle {
  /// `data` is the one liveness token: a callback that finds it null has no owner left.
  template <class T>
  void operator()(T* handle) const noexcept {
    handle->data = nullptr;
    uv_close(reinterpret_cast<uv_handle_t*>(handle),
             [](uv_handle_t* raw) { delete reinterpret_cast<T*>(raw); });
  }
};

template <class T>
using HandlePtr = std::unique_ptr<T, CloseHandle>;

/// For handles whose uv_*_init() cannot fail.
template <class T, class Init>
HandlePtr<T> make_handle(Init init, void* owner) {
  auto* handle = new T;
  init(handle);
  handle->data = owner;
  return HandlePtr<T>(handle);
}

}  // namespace meshnode::io
