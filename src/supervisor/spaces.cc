#include "supervisor/spaces.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <set>
#include <system_error>
#include <thread>
#include <utility>

#include "base/log.h"
#include "capture/undeclared.h"
#include "io/listening.h"
#include "io/loop.h"
#include "io/rule_events.h"

namespace meshnode::supervisor {
namespace {

constexpr const char* kScope = "capture";
// A namespace whose rules could not be applied is tried again, in turn with the others.
constexpr Duration kRetryEvery = std::chrono::seconds(1);
// Most of the time is spent in programs, and with a hostile namespace in waiting for them.
constexpr std::size_t kThreadsAtTheEnd = 8;

Result<io::NetNamespace> named_by(const capture::ByNamespace& name) {
  return name.pid != 0 ? io::NetNamespace::of_process(name.pid) : io::NetNamespace::at(name.path);
}

const capture::ByNamespace& name_of(const capture::Enrolled& workload) {
  return std::get<capture::ByNamespace>(workload.owner);
}

Error within(const std::string& where, const Error& error) {
  return {error.code, where + ": " + error.message};
}

}  // namespace

std::string agent_mark() {
  struct stat own {};
  return ::stat("/proc/self/ns/net", &own) == 0 ? std::to_string(own.st_ino) : std::string();
}

/// A namespace in hand.
struct Spaces::Open {
  Open(Kernel& kernel, std::shared_ptr<const io::NetNamespace> of,
       const capture::Enrolled& workload, const std::string& agent)
      : place(of),
        entered(std::move(of)),
        inside(kernel, *entered),
        rules(inside, capture::text_of(workload.owner), agent),
        slot(workload.slot),
        where(capture::text_of(workload.owner)) {}

  std::shared_ptr<const io::NetNamespace> place;    // by the name it has now
  std::shared_ptr<const io::NetNamespace> entered;  // the same, by its first
  io::NamespaceKernel inside;
  Rules rules;
  std::uint16_t slot;
  std::string where;
  std::shared_ptr<const std::vector<OpenListener>> listeners;
  std::unique_ptr<io::RuleChanges> changes;
  io::NamespaceAddresses addresses;
  std::string address_error;  // those are as they were before
  std::string undeclared;  // listeners
  std::string listeners_problem;
  Instant next_listeners{};
  bool due = true;
  bool heard = false;   // due because of what the kernel told, and of nothing else
  bool pending = true;  // not tried since it was taken up, or wanted otherwise
  bool tried = false;
  bool captured = false;  // rules have been in force
  Instant last{};         // of refresh()
  Duration look_took{};
  Instant next_look{};  // not before
  int strikes = 0;    // turns in a row that failed or were slow
  bool is_struck() const { return strikes > 0; }
  Duration took{};    // the last turn
  Duration pause{};   // after the last of the strikes
  Instant next{};     // not before
};

Spaces::Spaces(Kernel& kernel, std::string marker, SpaceEvents events)
    : kernel_(kernel),
      marker_(std::move(marker)),
      events_(std::move(events)),
      agent_(agent_mark()) {}
Spaces::~Spaces() = default;

void Spaces::want(const capture::Spec& spec) { wanted_ = spec; }

void Spaces::plan(const capture::Spec& wanted) {
    std::map<std::string, Space> next;
    std::size_t count = 0;
    for (const capture::Enrolled& workload : wanted.workloads) {
      if (!std::holds_alternative<capture::ByNamespace>(workload.owner)) continue;
      Space space;
      space.workload = workload;
      space.spec = capture::of_namespace(wanted, workload);
      if (++count > kMaxSpaces) {
        space.surplus = true;
        space.waiting = false;
        space.error = "more than " + std::to_string(kMaxSpaces) +
                      " network namespaces on one host; enroll the workload on another";
      } else if (const auto was = spaces_.find(workload.name); was != spaces_.end()) {
        const bool same = was->second.workload.owner == workload.owner;
        space.ended = same && was->second.ended;
        if (same && was->second.workload.slot == workload.slot) {
          space.open = std::move(was->second.open);
        }
      }
      if (space.open) {
        space.waiting = false;
        space.open->rules.want(space.spec);
        const bool anew = space.open->rules.due();
        if (anew) forget_listeners(*space.open);
        space.open->due = space.open->due || anew;
        // One that keeps failing is no reason to wait.
        space.open->pending = space.open->pending || (anew && space.open->strikes == 0);
      }
      next.emplace(workload.name, std::move(space));
    }
    for (auto& [name, space] : spaces_) {
      if (space.open) leave(std::move(space.open));
    }
    spaces_ = std::move(next);
}

void Spaces::look(Instant now) {
  if (const auto wanted = std::exchange(wanted_, std::nullopt)) {
    plan(*wanted);
    if (!std::exchange(known_, true)) {
      begin_sweep();
      sweep_held_until_ = now + kSweepHeldWithin;
    }
  }
  // First what goes: two names may have changed places.
  for (auto& [name, space] : spaces_) {
    if (space.open && !space.open->place->is_named()) lose(space);
  }
  for (auto& [name, space] : spaces_) {
    if (space.open) {
      look_inside(space, now);
    } else {
      take_up(space);
    }
  }
  for (auto& open : std::exchange(leaving_, {})) let_go(std::move(open));
  choose_next(now);
  sweep_again(now);
}

void Spaces::lose(Space& space) {
  space.ended = space.open->place->process_ended();
  log::info(kScope, "a workload's network namespace is gone",
            {{"workload", space.workload.name}, {"where", space.open->where}});
  leave(std::move(space.open));
}

void Spaces::leave(std::unique_ptr<Open> open) {
  // Before anybody gets the slot, or the listeners under another.
  events_.on_gone(open->slot);
  leaving_.push_back(std::move(open));
}

void Spaces::take_up(Space& space) {
  if (space.surplus) return;
  const std::string before = std::exchange(space.error, {});
  space.waiting = false;
  space.place.reset();
  space.unknown = false;
  if (space.ended) {
    space.error = "process " + std::to_string(name_of(space.workload).pid) +
                  " has ended; name one that runs now, or the namespace by a path";
  } else if (auto place = named_by(name_of(space.workload)); !place) {
    space.waiting = place.error().code == ErrorCode::kNotFound;
    space.unknown = !space.waiting && place.error().code != ErrorCode::kInvalid;
    if (!space.waiting) space.error = place.error().message;
  } else if (auto taken = take_up(
                 space, std::make_shared<const io::NetNamespace>(std::move(*place)));
             !taken) {
    space.error = taken.error().message;
    space.open.reset();
  }
  if (!space.error.empty() && space.error != before) {
    log::error(kScope, "a workload's network namespace is not captured",
               {{"workload", space.workload.name}, {"error", space.error}});
  }
}

Status Spaces::take_up(Space& space, std::shared_ptr<const io::NetNamespace> place) {
  const std::string where = capture::text_of(space.workload.owner);
  space.place = place->id();
  if (place->is_own()) {
    return fail(ErrorCode::kInvalid,
                where + " is the agent's own, where everything else of this host is; enroll the "
                        "workload by user or by cgroup");
  }
  for (const auto& [name, other] : spaces_) {
    if (other.open && other.open->place->id() == place->id()) {
      return fail(ErrorCode::kInvalid,
                  fmt::format("{} is that of {} as well, so its callers have no one name; give "
                              "each workload its own",
                              where, name));
    }
  }
  space.open = adopt(*place);
  if (space.open) {
    // Another name for what is captured already: connections in the listeners' queues stay.
    space.open->place = std::move(place);
    space.open->slot = space.workload.slot;
    space.open->where = where;
  } else {
    space.open = std::make_unique<Open>(kernel_, std::move(place), space.workload, agent_);
    if (auto opened = open_inside(*space.open); !opened) return opened;
  }
  space.open->rules.want(space.spec);
  forget_listeners(*space.open);
  space.open->due = true;
  space.open->pending = space.open->strikes == 0;
  look_inside(space, {});
  log::info(kScope, "a workload's network namespace is taken up",
            {{"workload", space.workload.name}, {"where", where}});
  events_.on_taken_up({space.workload.name, space.workload.slot, space.open->listeners});
  // Rules of this run are in force all the while; connections need not wait for the new ones.
  if (space.open->captured) events_.on_captured(space.open->slot, space.open->place);
  return {};
}

std::unique_ptr<Spaces::Open> Spaces::adopt(const io::NetNamespace& place) {
  const auto found = std::find_if(leaving_.begin(), leaving_.end(), [&](const auto& open) {
    return open->place->id() == place.id();
  });
  if (found == leaving_.end()) return nullptr;
  auto open = std::move(*found);
  leaving_.erase(found);
  return open;
}

Status Spaces::open_inside(Open& open) const {
  const io::InNamespace inside(*open.place);
  if (!inside.entered()) return fail(within(open.where, inside.entered().error()));
  auto listeners = open_listeners(capture::listeners());
  if (!listeners) return fail(within(open.where, listeners.error()));
  open.listeners = std::make_shared<const std::vector<OpenListener>>(std::move(*listeners));
  open.changes = std::make_unique<io::RuleChanges>();
  return {};
}

void Spaces::look_inside(Space& space, Instant now) {
  Open& open = *space.open;
  if (now < open.next || now < open.next_look) return;
  const Instant began = io::monotonic_now();
  auto addresses = io::addresses_in(*open.place);
  open.address_error = addresses ? "" : addresses.error().message;
  if (addresses) open.addresses = std::move(*addresses);
  look_for_listeners(space, now);
  open.look_took = io::monotonic_now() - began;
  open.next_look = now + open.look_took + kRest * open.look_took;
  // What cannot be brought about is tried in its turn, not at every look.
  if (open.rules.settled() && open.rules.due()) open.due = true;
  if (open.changes->any() && !open.due) open.due = open.heard = true;
}

void Spaces::forget_listeners(Open& open) {
  open.undeclared.clear();
  open.next_listeners = {};
}

void Spaces::look_for_listeners(Space& space, Instant now) {
  Open& open = *space.open;
  if (now < open.next_listeners) return;
  forget_listeners(open);
  open.next_listeners = now + kSpaceListenersEvery;
  const io::InNamespace inside(*open.place);
  auto sockets = io::listening_sockets(kMaxSpaceListening);
  if (!inside.entered()) sockets = fail(inside.entered().error());
  const std::string problem = sockets ? "" : sockets.error().message;
  if (std::exchange(open.listeners_problem, problem) != problem && !problem.empty()) {
    log::warn(kScope, "undeclared listeners in a network namespace are not looked for",
              {{"where", open.where}, {"error", problem}});
  }
  if (!sockets) return;
  const capture::KnownPorts known(space.spec);
  std::set<SocketAddress> found;
  std::map<bool, std::size_t> looked_at;  // by whether it is IPv4
  for (const io::ListeningSocket& socket : *sockets) {
    ++looked_at[socket.address.ip.is_v4()];
    if (!known.leave_out(socket.address)) found.insert(socket.address);
  }
  open.undeclared = capture::in_words(found);
  if (!found.empty() && std::max(looked_at[true], looked_at[false]) == kMaxSpaceListening) {
    open.undeclared += " of the first " + std::to_string(kMaxSpaceListening) + " listeners inside";
  }
}

void Spaces::count(const CaptureReport& inside, CaptureReport& into) {
  into.repaired += inside.repaired;
  for (const auto& [reason, packets] : inside.bypass) into.bypass[reason] += packets;
  for (const auto& [who, packets] : inside.bypass_by_workload) {
    into.bypass_by_workload[who] += packets;
  }
}

void Spaces::let_go(std::unique_ptr<Open> open) {
  count(open->rules.report(), past_);
  // The worker has descriptors of them as well: only this ends them for all, and frees the ports.
  for (const OpenListener& listener : *open->listeners) {
    ::shutdown(listener.socket.get(), SHUT_RDWR);
  }
  open->listeners.reset();
  if (open->tried) removing_.push_back(std::move(open));
}

Duration Spaces::pause_of(const Open& open) const {
  Duration pause = kRetryEvery;
  if (open.rules.settled()) {
    const bool told = kernel_tells_.value_or(false) && open.changes->hears();
    pause = told ? kVerifySpaceEvery : Duration::zero();
  }
  return std::max(pause, kRest * open.took);
}

void Spaces::choose_next(Instant now) {
  // One that was well the last time, and one that was not: neither keeps the other waiting.
  std::array<Open*, 2> next{};
  std::array<bool, 2> enough{};
  for (auto& [name, space] : spaces_) {
    if (!space.open || now < space.open->next) continue;
    Open& open = *space.open;
    enough[open.is_struck()] |= open.due && !open.heard;
    if (open.due || now - open.last < pause_of(open)) continue;
    Open*& longest = next[open.is_struck()];
    if (longest == nullptr || open.last < longest->last) longest = &open;
  }
  for (std::size_t kind = 0; kind < next.size(); ++kind) {
    if (next[kind] != nullptr && !enough[kind]) next[kind]->due = true;
  }
}

Spaces::Space* Spaces::next_due(Instant now) {
  // Those that wait longest first, the well and the struck in turns: neither the slow nor those
  // whose rules change all the time keep another waiting.
  const auto before = [this](const Open& one, const Open& other) {
    return std::pair(one.is_struck() != struck_is_next_, one.last) <
           std::pair(other.is_struck() != struck_is_next_, other.last);
  };
  Space* next = nullptr;
  for (auto& [name, space] : spaces_) {
    if (!space.open || !space.open->due || now < space.open->next) continue;
    if (next == nullptr || before(*space.open, *next->open)) next = &space;
  }
  return next;
}

bool Spaces::step(Instant now) {
  if (!removing_.empty()) {
    const auto open = std::move(removing_.back());
    removing_.pop_back();
    open->inside.begin_turn(kTurn);
    if (auto removed = open->rules.remove(); !removed) {
      log::warn(kScope, "rules in a network namespace that is let go could not be removed",
                {{"where", open->where}, {"error", removed.error().message}});
    }
  } else if (Space* due = next_due(now);
             due != nullptr && (sweep_.empty() || !sweep_is_next_)) {
    struck_is_next_ = !due->open->is_struck();
    sweep_is_next_ = true;
    refresh(*due, now);
  } else if (!sweep_.empty()) {
    sweep_is_next_ = false;
    sweep_one();
  }
  return !removing_.empty() || !sweep_.empty() || next_due(now) != nullptr;
}

void Spaces::refresh(Space& space, Instant now) {
  Open& open = *space.open;
  open.due = false;
  open.heard = false;
  open.pending = false;
  open.last = now;
  if (!open.addresses.loopback_up) return charge(open, true, open.look_took, now);
  if (!std::exchange(open.tried, true)) mark();
  if (!kernel_tells_) {
    if (const auto tells = capture::kernel_tells(kernel_)) kernel_tells_ = *tells;
  }
  const Instant began = io::monotonic_now();
  open.inside.begin_turn(kTurn);
  open.rules.refresh();
  charge(open, open.rules.settled(), io::monotonic_now() - began + open.look_took, now);
  if (open.rules.settled() && !std::exchange(open.captured, true)) {
    events_.on_captured(open.slot, open.place);
  }
}

void Spaces::charge(Open& open, bool well, Duration took, Instant now) {
  open.took = took;
  open.next_look = now + took + kRest * took;
  if (well && took < kSlowTurn) {
    open.strikes = 0;
    return;
  }
  constexpr int kMostDoublings = 6;  // beyond kLongestPause
  const Duration doubled = kRetryEvery * (1 << std::min(open.strikes, kMostDoublings));
  open.pause = std::max(std::min(doubled, kLongestPause), kRest * took);
  open.strikes += 1;
  open.next = now + took + open.pause;
}

bool Spaces::settled() const {
  return !wanted_ && std::none_of(spaces_.begin(), spaces_.end(), [](const auto& each) {
    return each.second.open && each.second.open->pending;
  });
}

void Spaces::add_to(CaptureReport& report) const {
  count(past_, report);
  for (const auto& [name, space] : spaces_) {
    if (space.waiting) report.waiting.push_back(name);
    if (!space.error.empty()) report.failed[name] = space.error;
    if (!space.open) continue;
    const Open& open = *space.open;
    const CaptureReport& inside = open.rules.report();
    if (!open.address_error.empty()) {
      report.failed[name] = open.where + ": its addresses could not be listed: " +
                            open.address_error + "; tried again at the next look";
    } else if (!open.addresses.loopback_up) {
      report.failed[name] = open.where + ": its loopback interface is down, so nothing can be led "
                                         "to meshnode; run `ip link set lo up` inside";
    } else if (!inside.error.empty()) {
      report.failed[name] = open.where + ": " + inside.error + "; tried again after " +
                            std::to_string(open.pause / std::chrono::seconds(1)) + " s";
    } else if (open.strikes > 1) {
      report.failed[name] =
          open.where + ": looking after its rules, which are in force, takes " +
          std::to_string(open.took / std::chrono::milliseconds(1)) +
          " ms, so it is done only every " +
          std::to_string(open.pause / std::chrono::seconds(1)) +
          " s; are there very many rules, routes or addresses inside?";
    } else if (!open.rules.settled()) {
      report.waiting.push_back(name);
    }
    if (!open.undeclared.empty()) report.undeclared[name] = open.undeclared;
    auto& addresses = report.spaces[name];
    for (const IpAddress& address : open.addresses.addresses) {
      if (addresses.size() < kMaxSpaceAddresses) addresses.push_back(address.text());
    }
    if (!inside.last_repair.empty()) report.last_repair = open.where + ": " + inside.last_repair;
    count(inside, report);
  }
}

Status Spaces::release(Instant until, const std::atomic<bool>& enough) {
  std::vector<Open*> all;
  for (auto& [name, space] : spaces_) {
    if (space.open) all.push_back(space.open.get());
  }
  return everywhere(std::move(all), until, enough, [](Rules& rules) { return rules.release(); });
}

Status Spaces::remove(Instant until) {
  std::vector<Open*> all;
  for (auto& [name, space] : spaces_) {
    if (space.open && space.open->tried) all.push_back(space.open.get());
  }
  for (const auto& open : removing_) all.push_back(open.get());
  const std::atomic<bool> never = false;
  auto done = everywhere(std::move(all), until, never, [](Rules& rules) { return rules.remove(); });
  // What was never looked through may still hold rules.
  if (done && known_ && sweep_.empty() && held_.empty()) ::unlink(marker_.c_str());
  return done;
}

Status Spaces::everywhere(std::vector<Open*> all, Instant until, const std::atomic<bool>& enough,
                          const std::function<Status(Rules&)>& act) {
  // A slow one takes nothing from the others when it is the last to begin.
  std::stable_sort(all.begin(), all.end(),
                   [](const Open* a, const Open* b) { return a->strikes < b->strikes; });
  std::atomic<std::size_t> next = 0;
  std::atomic<std::size_t> undone = 0;
  const auto work = [&] {
    for (std::size_t i = next++; i < all.size(); i = next++) {
      Open& open = *all[i];
      Status done = fail(ErrorCode::kTimeout, "no time was left for it");
      if (!enough && io::monotonic_now() < until) {
        open.inside.begin_turn(kTurn);
        done = act(open.rules);
      }
      if (done) continue;
      undone += 1;
      log::error(kScope, "rules in a network namespace stay as they are",
                 {{"where", open.where}, {"error", done.error().message}});
    }
  };
  std::vector<std::thread> helpers;
  try {
    while (helpers.size() + 1 < std::min(all.size(), kThreadsAtTheEnd)) helpers.emplace_back(work);
  } catch (const std::system_error&) {
    // Those there are do it.
  }
  work();
  for (std::thread& helper : helpers) helper.join();
  if (undone == 0) return {};
  return fail(ErrorCode::kUnavailable,
              "of " + std::to_string(all.size()) + " network namespaces " +
                  std::to_string(undone) + " keep rules; the log names them");
}

void Spaces::mark() const {
  const Descriptor file(
      ::open(marker_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (file) return;
  log::warn(kScope, "after a crash, rules in network namespaces may have to be removed by hand",
            {{"file", marker_}, {"error", std::strerror(errno)}});
}

void Spaces::begin_sweep() {
  if (::access(marker_.c_str(), F_OK) == 0) held_ = io::find_namespaces();
}

void Spaces::sweep_again(Instant now) {
  const bool unknown = std::any_of(spaces_.begin(), spaces_.end(),
                                   [](const auto& entry) { return entry.second.unknown; });
  if (unknown && now < sweep_held_until_) return;
  sweep_.insert(sweep_.end(), held_.begin(), held_.end());
  held_.clear();
}

/// Rules of an earlier run are a closed door: not to be opened for what is yet to be taken up, or
/// tried for the first time.
bool Spaces::is_to_be_taken_up(io::NamespaceId place) const {
  return std::any_of(spaces_.begin(), spaces_.end(), [&](const auto& entry) {
    const Space& space = entry.second;
    return space.open ? space.open->place->id() == place && !space.open->tried
                      : space.place == place;
  });
}

void Spaces::sweep_one() {
  std::string name = std::move(sweep_.back());
  sweep_.pop_back();
  const auto place = io::NetNamespace::at(name);
  if (!place) return;
  for (const auto& [workload, space] : spaces_) {
    if (space.open && space.open->tried && space.open->place->id() == place->id()) return;
  }
  if (is_to_be_taken_up(place->id())) {
    held_.push_back(std::move(name));
    return;
  }
  io::NamespaceKernel inside(kernel_, *place);
  inside.begin_turn(kTurn);
  const auto ours = capture::is_of_agent(inside, agent_);
  if (!ours || !*ours) return;
  if (auto removed = capture::remove(inside)) {
    log::info(kScope, "rules of an earlier run removed",
              {{"where", name}, {"removed", removed->size()}});
  } else {
    log::warn(kScope, "rules of an earlier run could not be removed",
              {{"where", name}, {"error", removed.error().message}});
  }
}

}  // namespace meshnode::supervisor
