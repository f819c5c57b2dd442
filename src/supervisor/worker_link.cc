#include "supervisor/worker_link.h"

#include <set>
#include <utility>

#include "io/loop.h"
#include "supervisor/channel.h"

namespace meshnode::supervisor {

class WorkerLink::Impl {
 public:
  Impl(io::Loop& loop, int channel_fd, WorkerCallbacks callbacks)
      : callbacks_(std::move(callbacks)),
        channel_(loop, Descriptor(channel_fd), Channel::Descriptors::kAccept,
                 {[this](const std::string& body, std::vector<Descriptor> descriptors) {
                    receive(body, std::move(descriptors));
                  },
                  [this](Error why) { gone(std::move(why)); }}) {}

  Status send(const ToSupervisor& message) { return channel_.send(encode(message)); }

 private:
  void receive(const std::string& body, std::vector<Descriptor> descriptors) {
    if (gone_) return;
    auto message = decode_to_worker(body);
    if (!message) return gone(message.error());
    if (auto* listeners = std::get_if<Listeners>(&*message)) {
      return take(*listeners, std::move(descriptors));
    }
    if (auto* space = std::get_if<SpaceListeners>(&*message)) {
      return take(*space, std::move(descriptors));
    }
    if (!descriptors.empty() || !have_listeners_) {
      return gone({ErrorCode::kInvalid, "the supervisor sent its messages out of order"});
    }
    if (std::holds_alternative<Reload>(*message)) {
      callbacks_.on_reload();
    } else if (std::holds_alternative<Drain>(*message)) {
      callbacks_.on_drain();
    } else if (const auto* space = std::get_if<SpaceGone>(&*message)) {
      leave(space->slot);
    } else {
      callbacks_.on_capture_report(std::get<CaptureReport>(std::move(*message)));
    }
  }

  void take(Listeners& listeners, std::vector<Descriptor> descriptors) {
    if (have_listeners_ || listeners.names.size() != descriptors.size()) {
      return gone(mismatch(listeners.names.size(), descriptors.size()));
    }
    have_listeners_ = true;
    callbacks_.on_listeners(by_name(listeners.names, descriptors), std::move(listeners.history),
                            std::move(listeners.steering));
  }

  void take(const SpaceListeners& space, std::vector<Descriptor> descriptors) {
    if (space.names.size() != descriptors.size()) {
      return gone(mismatch(space.names.size(), descriptors.size()));
    }
    if (!have_listeners_ || spaces_.size() == kMaxSpaces || !spaces_.insert(space.slot).second) {
      return gone({ErrorCode::kInvalid, "the supervisor sent its messages out of order"});
    }
    if (callbacks_.on_space) {
      callbacks_.on_space(space.slot, by_name(space.names, descriptors));
    }
  }

  void leave(std::uint16_t slot) {
    if (spaces_.erase(slot) == 0) {
      return gone({ErrorCode::kInvalid, "the supervisor sent its messages out of order"});
    }
    if (callbacks_.on_space_gone) callbacks_.on_space_gone(slot);
  }

  static Error mismatch(std::size_t names, std::size_t sockets) {
    return {ErrorCode::kInvalid, "the supervisor sent " + std::to_string(sockets) +
                                     " sockets for " + std::to_string(names) + " names"};
  }

  /// A name that comes twice is its first socket's; the other is closed.
  static std::map<std::string, int> by_name(const std::vector<std::string>& names,
                                            std::vector<Descriptor>& descriptors) {
    std::map<std::string, int> named;
    for (std::size_t i = 0; i < descriptors.size(); ++i) {
      const auto [at, fresh] = named.emplace(names[i], descriptors[i].get());
      if (fresh) descriptors[i].release();
    }
    return named;
  }

  void gone(Error why) {
    if (std::exchange(gone_, true)) return;
    callbacks_.on_supervisor_gone(std::move(why));
  }

  WorkerCallbacks callbacks_;
  bool have_listeners_ = false;
  std::set<std::uint16_t> spaces_;
  bool gone_ = false;
  Channel channel_;
};

WorkerLink::WorkerLink(io::Loop& loop, int channel_fd, WorkerCallbacks callbacks)
    : impl_(std::make_unique<Impl>(loop, channel_fd, std::move(callbacks))) {}
WorkerLink::~WorkerLink() = default;

void WorkerLink::send_ready() { static_cast<void>(impl_->send(Ready{})); }
void WorkerLink::send_settings(const Settings& settings) {
  static_cast<void>(impl_->send(settings));
}
void WorkerLink::send_drained() { static_cast<void>(impl_->send(Drained{})); }

Status WorkerLink::send_capture(const capture::Spec& spec, std::uint16_t next_slot) {
  if (auto ok = capture::check(spec); !ok) return ok;
  return impl_->send(CaptureRequest{spec, next_slot});
}

}  // namespace meshnode::supervisor
