#pragma once
/// What the worker and the socket service have to be told of network namespaces: listeners, once a
/// worker, and where sockets may be made. What could not be told, for want of descriptors or
/// because the worker reads slowly, is told again with each try_again(), and a problem meanwhile.
/// One thread.

#include <meshnode/result.h>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "io/net_namespace.h"
#include "supervisor/message.h"
#include "supervisor/spaces.h"

namespace meshnode::supervisor {

/// To whom. Sockets stay the caller's.
struct OfferTakers {
  std::function<Status(const SpaceListeners& message, const std::vector<int>& sockets)> listeners;
  std::function<void(SpaceGone message)> gone;
  std::function<Status(std::uint16_t slot, std::shared_ptr<const io::NetNamespace> place)> grant;
  std::function<void(std::uint16_t slot)> revoke;
};

class SpaceOffers {
 public:
  explicit SpaceOffers(OfferTakers takers) : takers_(std::move(takers)) {}

  void taken_up(const TakenUp& space);
  void captured(std::uint16_t slot, std::shared_ptr<const io::NetNamespace> place);
  void gone(std::uint16_t slot);
  /// One that knows of none.
  void new_worker();
  /// To be called once a second.
  void try_again();
  void add_to(CaptureReport& report) const;

 private:
  struct Offer {
    TakenUp space;
    std::shared_ptr<const io::NetNamespace> place;  // once captured
    bool told = false;
    bool granted = false;
    std::string error;  // of the last try
  };
  void make(Offer& offer);

  OfferTakers takers_;
  std::map<std::uint16_t, Offer> offers_;  // by slot
};

}  // namespace meshnode::supervisor
