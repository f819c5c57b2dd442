#include "agent/listener_set.h"

#include <unistd.h>

#include <memory>
#include <vector>

namespace meshnode::agent {
namespace {

class OpenDescriptors {
 public:
  explicit OpenDescriptors(const std::map<std::string, int>& by_name) {
    for (const auto& [name, descriptor] : by_name) {
      all_.push_back(descriptor);
    }
  }
  ~OpenDescriptors() {
    for (const int descriptor : all_) {
      ::close(descriptor);
    }
  }
  OpenDescriptors(const OpenDescriptors&) = delete;
  OpenDescriptors& operator=(const OpenDescriptors&) = delete;

 private:
  std::vector<int> all_;
};

}  // namespace

proxy::ListenerSet listener_set(const std::map<std::string, int>& by_name) {
  proxy::ListenerSet set;
  const auto collect = [&by_name](std::vector<int>& into, const std::string& name) {
    for (const char* family : {"4", "6"}) {
      if (const auto found = by_name.find(name + family); found != by_name.end()) {
        into.push_back(found->second);
      }
    }
  };
  collect(set.outbound, "outbound");
  collect(set.plaintext, "inbound");
  collect(set.tunnels, "tunnel");
  return set;
}

proxy::ListenerSet owning_listener_set(const std::map<std::string, int>& by_name) {
  proxy::ListenerSet set = listener_set(by_name);
  set.open = std::make_shared<OpenDescriptors>(by_name);
  return set;
}

}  // namespace meshnode::agent
