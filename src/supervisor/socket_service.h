#pragma once
/// Hands the worker sockets that live inside the network namespaces of workloads (io/
/// space_protocol.h). It has a thread of its own, started with the first namespace, so that no run
/// of the packet filter's tools delays a dial. Reads what the worker says, checked as if it were
/// hostile: whoever floods, does not read its answers or sends anything else is cut off. Never
/// waits for the worker.

#include <meshnode/result.h>
#include <sys/types.h>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "io/net_namespace.h"
#include "supervisor/descriptor.h"

namespace meshnode::supervisor {

/// Connections at once: one of each proxy loop, of which there are at most 64, and as many that a
/// worker which is being replaced has not closed yet.
inline constexpr std::size_t kMaxSocketClients = 128;
/// Requests a second of one connection, and in a burst.
inline constexpr unsigned kMaxSocketRequests = 4096;

class SocketService {
 public:
  /// Listens at `path`, mode 0600, replacing what an earlier agent left; the file goes with this.
  static Result<std::unique_ptr<SocketService>> open(const std::string& path);
  ~SocketService();
  SocketService(const SocketService&) = delete;
  SocketService& operator=(const SocketService&) = delete;

  // All of these are for the supervisor's thread.

  /// Who may ask from now on; connections of any other process end.
  void serve(pid_t worker);
  /// To be called once the rules inside are in force: before, they would lead our own dials back to
  /// us, as those of an earlier run do.
  /// An error, when there is no thread for it, may be gone the next time.
  Status grant(std::uint16_t slot, std::shared_ptr<const io::NetNamespace> place);
  void revoke(std::uint16_t slot);

 private:
  class Server;
  SocketService(std::string path, Descriptor listener, Descriptor wake, Descriptor home);
  void wake() const;

  std::string path_;
  Descriptor listener_;
  Descriptor wake_;  // an eventfd
  Descriptor home_;  // the agent's network namespace
  std::mutex mutex_;
  std::map<std::uint16_t, std::shared_ptr<const io::NetNamespace>> granted_;  // guarded by mutex_
  pid_t worker_ = -1;                                                         // guarded by mutex_
  bool stopping_ = false;                                                     // guarded by mutex_
  std::thread thread_;
};

}  // namespace meshnode::supervisor
