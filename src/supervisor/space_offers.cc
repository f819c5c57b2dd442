#include "supervisor/space_offers.h"

#include <utility>

#include "base/log.h"

namespace meshnode::supervisor {

void SpaceOffers::taken_up(const TakenUp& space) {
  Offer& offer = offers_[space.slot] = {space, nullptr, false, false, {}};
  make(offer);
}

void SpaceOffers::captured(std::uint16_t slot, std::shared_ptr<const io::NetNamespace> place) {
  const auto found = offers_.find(slot);
  if (found == offers_.end()) return;
  found->second.place = std::move(place);
  found->second.granted = false;
  make(found->second);
}

void SpaceOffers::gone(std::uint16_t slot) {
  const auto found = offers_.find(slot);
  if (found == offers_.end()) return;
  const bool told = found->second.told;
  offers_.erase(found);
  takers_.revoke(slot);
  if (told) takers_.gone(SpaceGone{slot});
}

void SpaceOffers::new_worker() {
  for (auto& [slot, offer] : offers_) offer.told = false;
  try_again();
}

void SpaceOffers::try_again() {
  for (auto& [slot, offer] : offers_) make(offer);
}

void SpaceOffers::make(Offer& offer) {
  const std::string before = std::exchange(offer.error, {});
  if (!offer.told) {
    SpaceListeners message{offer.space.slot, {}};
    std::vector<int> sockets;
    for (const OpenListener& listener : *offer.space.listeners) {
      message.names.push_back(listener.name);
      sockets.push_back(listener.socket.get());
    }
    const auto told = takers_.listeners(message, sockets);
    offer.told = told.has_value();
    if (!told) offer.error = "the worker got no listeners: " + told.error().message;
  }
  if (offer.place && !offer.granted) {
    const auto granted = takers_.grant(offer.space.slot, offer.place);
    offer.granted = granted.has_value();
    if (!granted) offer.error = "no connection can be made there: " + granted.error().message;
  }
  if (!offer.error.empty() && offer.error != before) {
    log::error("capture", "a workload's network namespace is of no use yet; trying again",
               {{"workload", offer.space.workload}, {"error", offer.error}});
  }
}

void SpaceOffers::add_to(CaptureReport& report) const {
  for (const auto& [slot, offer] : offers_) {
    if (!offer.error.empty()) report.failed.emplace(offer.space.workload, offer.error);
  }
}

}  // namespace meshnode::supervisor
