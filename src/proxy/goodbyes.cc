#include "proxy/goodbyes.h"

namespace meshnode::proxy {

void Goodbyes::note(const SocketAddress& agent, Instant now) {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::erase_if(said_, [now](const auto& each) { return now - each.second > kComesBackWithin; });
  said_[agent] = now;
}

void Goodbyes::forget(const SocketAddress& agent) {
  const std::lock_guard<std::mutex> lock(mutex_);
  said_.erase(agent);
}

bool Goodbyes::may_come_back(const SocketAddress& agent, Instant now) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto said = said_.find(agent);
  return said != said_.end() && now - said->second <= kComesBackWithin;
}

}  // namespace meshnode::proxy
