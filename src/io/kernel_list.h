#pragma once
/// A list that the kernel gives over netlink(7), in whatever network namespace the calling thread
/// is. Whoever is root in there may send to our socket as well, as much as he likes: what is not
/// the kernel's does not count, and does not prolong the time either. Thread: one.

#include <linux/netlink.h>
#include <meshnode/result.h>
#include <meshnode/time.h>
#include <array>
#include <cstddef>

namespace meshnode::io {

class KernelList {
 public:
  /// Of a netlink family; everything asked for is to be read within `within` from now. The kernel
  /// lists as it is read: the end of this ends a list that was not read to its own.
  KernelList(int protocol, Duration within);
  ~KernelList();
  KernelList(const KernelList&) = delete;
  KernelList& operator=(const KernelList&) = delete;

  Status ask(const nlmsghdr& request);
  /// The next message of the list, until the next call; null at its end. Errors are the kernel's.
  Result<const nlmsghdr*> next();
  /// The list asked for last changed in its midst, whereby entries may be missing.
  bool interrupted() const { return interrupted_; }

 private:
  Status receive();

  int fd_;
  Instant last_;
  bool interrupted_ = false;
  alignas(nlmsghdr) std::array<char, std::size_t{64} * 1024> answer_{};
  const nlmsghdr* at_ = nullptr;
  int left_ = 0;
};

}  // namespace meshnode::io
