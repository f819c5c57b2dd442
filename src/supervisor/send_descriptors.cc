#include "supervisor/send_descriptors.h"

#include <sys/socket.h>
#include <sys/uio.h>
#include <array>
#include <cerrno>
#include <cstring>

#include "supervisor/message.h"

namespace meshnode::supervisor {

ssize_t send_descriptors(int socket, std::string_view bytes,
                         std::span<const Descriptor> descriptors) {
  if (descriptors.size() > kMaxListeners) {
    errno = EINVAL;
    return -1;
  }
  iovec part{const_cast<char*>(bytes.data()), bytes.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * kMaxListeners)> control{};
  if (!descriptors.empty()) {
    const std::size_t size = descriptors.size() * sizeof(int);
    message.msg_control = control.data();
    message.msg_controllen = CMSG_SPACE(size);
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(size);
    for (std::size_t i = 0; i < descriptors.size(); ++i) {
      const int fd = descriptors[i].get();
      std::memcpy(CMSG_DATA(header) + i * sizeof(int), &fd, sizeof(int));
    }
  }
  return ::sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

}  // namespace meshnode::supervisor
