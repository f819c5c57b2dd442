#include "supervisor/channel.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <array>
#include <catch2/catch.hpp>

#include "io/loop.h"
#include "supervisor/worker_link.h"

using namespace meshnode;
using namespace meshnode::supervisor;

namespace {

struct End {
  std::vector<std::string> bodies;
  std::vector<Descriptor> descriptors;
  std::string closed;

  Channel::Callbacks callbacks(io::Loop& loop, std::size_t stop_after) {
    return {[this, &loop, stop_after](std::string body, std::vector<Descriptor> came) {
              bodies.push_back(std::move(body));
              for (auto& one : came) descriptors.push_back(std::move(one));
              if (bodies.size() == stop_after) loop.stop();
            },
            [this, &loop](const Error& why) {
              closed = why.message;
              loop.stop();
            }};
  }
};

ino_t inode(int fd) {
  struct stat info {};
  REQUIRE(::fstat(fd, &info) == 0);
  return info.st_ino;
}

int open_descriptors() {
  int count = 0;
  for (int fd = 0; fd < 256; ++fd) count += ::fcntl(fd, F_GETFD) >= 0 ? 1 : 0;
  return count;
}

}  // namespace

TEST_CASE("messages arrive whole, in order and with their descriptors") {
  io::Loop loop;
  auto ends = make_channel();
  REQUIRE(ends);
  End left;
  End right;
  Channel sender(loop, std::move(ends->first), Channel::Descriptors::kRefuse,
                 left.callbacks(loop, 0));
  Channel receiver(loop, std::move(ends->second), Channel::Descriptors::kAccept,
                   right.callbacks(loop, 3));
  std::array<int, 2> pipe{};
  REQUIRE(::pipe(pipe.data()) == 0);
  const Descriptor in(pipe[0]);
  const Descriptor out(pipe[1]);
  REQUIRE(sender.send("first", pipe));
  REQUIRE(sender.send("second"));
  REQUIRE(sender.send("third"));
  loop.run();
  CHECK(right.bodies == std::vector<std::string>{"first", "second", "third"});
  REQUIRE(right.descriptors.size() == 2);
  CHECK(inode(right.descriptors[0].get()) == inode(pipe[0]));
  CHECK((::fcntl(right.descriptors[1].get(), F_GETFD) & FD_CLOEXEC) != 0);
}

TEST_CASE("a message far larger than the socket's buffer waits for its reader") {
  io::Loop loop;
  auto ends = make_channel();
  REQUIRE(ends);
  End left;
  End right;
  Channel sender(loop, std::move(ends->first), Channel::Descriptors::kRefuse,
                 left.callbacks(loop, 0));
  const std::string big(kMaxFrame, 'x');
  REQUIRE(sender.send(big));
  REQUIRE(sender.send("after"));
  Channel receiver(loop, std::move(ends->second), Channel::Descriptors::kAccept,
                   right.callbacks(loop, 2));
  loop.run();
  REQUIRE(right.bodies.size() == 2);
  CHECK(right.bodies[0] == big);
  CHECK(right.bodies[1] == "after");
}

TEST_CASE("a message beyond the frame limit is refused and the channel lives on") {
  io::Loop loop;
  auto ends = make_channel();
  REQUIRE(ends);
  End left;
  End right;
  Channel sender(loop, std::move(ends->first), Channel::Descriptors::kRefuse,
                 left.callbacks(loop, 0));
  Channel receiver(loop, std::move(ends->second), Channel::Descriptors::kAccept,
                   right.callbacks(loop, 1));
  CHECK(sender.send(std::string(kMaxFrame + 1, 'x')).error().code == ErrorCode::kLimit);
  CHECK(sender.send("").error().code == ErrorCode::kLimit);
  REQUIRE(sender.send("fits"));
  loop.run();
  CHECK(right.bodies == std::vector<std::string>{"fits"});
}

TEST_CASE("a reader that never reads breaks the channel at its queue's limit") {
  io::Loop loop;
  auto ends = make_channel();
  REQUIRE(ends);
  End left;
  Channel sender(loop, std::move(ends->first), Channel::Descriptors::kRefuse,
                 left.callbacks(loop, 0));
  const std::string big(kMaxFrame, 'x');
  REQUIRE(sender.send(big));
  REQUIRE(sender.send(big));
  CHECK(sender.send(big).error().code == ErrorCode::kLimit);
  loop.run();
  CHECK(left.closed.find("reads nothing") != std::string::npos);
  CHECK(sender.send("late").error().code == ErrorCode::kUnavailable);
}

TEST_CASE("a closed end and a frame that announces too much end the channel once") {
  const auto closed_by = [](std::string_view bytes) {
    io::Loop loop;
    auto ends = make_channel();
    REQUIRE(ends);
    End right;
    Channel receiver(loop, std::move(ends->second), Channel::Descriptors::kAccept,
                     right.callbacks(loop, 0));
    REQUIRE(::send(ends->first.get(), bytes.data(), bytes.size(), 0) ==
            static_cast<ssize_t>(bytes.size()));
    if (bytes.size() != 4) ends->first = Descriptor();
    loop.run();
    return right.closed;
  };
  CHECK(closed_by("abc").find("closed the channel") != std::string::npos);
  CHECK(closed_by(std::string("\x00\x40\x00\x01", 4)).find("announces 4194305") !=
        std::string::npos);
  CHECK(closed_by(std::string("\x00\x00\x00\x00", 4)).find("announces 0") != std::string::npos);
}

TEST_CASE("descriptors that nobody asked for never enter the process") {
  io::Loop loop;
  auto ends = make_channel();
  REQUIRE(ends);
  End left;
  End right;
  Channel sender(loop, std::move(ends->first), Channel::Descriptors::kRefuse,
                 left.callbacks(loop, 0));
  Channel receiver(loop, std::move(ends->second), Channel::Descriptors::kRefuse,
                   right.callbacks(loop, 1));
  const std::array<int, 3> many = {0, 1, 2};
  const int before = open_descriptors();
  REQUIRE(sender.send("take these", many));
  loop.run();
  CHECK(right.bodies.size() == 1);
  CHECK(right.descriptors.empty());
  CHECK(open_descriptors() == before);
}

TEST_CASE("more descriptors than the limit are refused by the sender") {
  io::Loop loop;
  auto ends = make_channel();
  REQUIRE(ends);
  End left;
  Channel sender(loop, std::move(ends->first), Channel::Descriptors::kRefuse,
                 left.callbacks(loop, 0));
  CHECK(sender.send("x", std::vector<int>(kMaxListeners + 1, 0)).error().code == ErrorCode::kLimit);
  CHECK(sender.send("x", std::vector<int>(kMaxListeners, 0)));
}

namespace {

struct Seen {
  std::map<std::string, int> listeners;
  WorkerHistory history;
  Steering steering;
  int reloads = 0;
  int drains = 0;
  std::vector<CaptureReport> reports;
  std::string gone;

  WorkerCallbacks callbacks(io::Loop& loop) {
    return {[this](std::map<std::string, int> by_name, WorkerHistory h, Steering s) {
              listeners = std::move(by_name);
              history = std::move(h);
              steering = std::move(s);
            },
            [this] { ++reloads; },
            [this, &loop] {
              ++drains;
              loop.stop();
            },
            [this](CaptureReport report) { reports.push_back(std::move(report)); },
            [this, &loop](const Error& why) {
              gone = why.message;
              loop.stop();
            }};
  }
};

}  // namespace

TEST_CASE("a worker gets its listeners first and then what the supervisor says") {
  io::Loop loop;
  auto ends = make_channel();
  REQUIRE(ends);
  End left;
  Channel supervisor(loop, std::move(ends->first), Channel::Descriptors::kRefuse,
                     left.callbacks(loop, 0));
  Seen seen;
  WorkerLink link(loop, ends->second.release(), seen.callbacks(loop));
  const WorkerHistory history{7, "killed by signal 9 (Killed)", {}, {}};
  const Steering steering{{{"shop/web", 7}}, 8};
  REQUIRE(supervisor.send(encode(ToWorker(Listeners{{"outbound4", "admin"}, history, steering})),
                          std::array<int, 2>{0, 1}));
  CaptureReport report;
  report.ok = true;
  report.bypass["inbound"] = 3;
  REQUIRE(supervisor.send(encode(ToWorker(report))));
  REQUIRE(supervisor.send(encode(ToWorker(Reload{}))));
  REQUIRE(supervisor.send(encode(ToWorker(Drain{}))));
  loop.run();
  REQUIRE(seen.listeners.size() == 2);
  CHECK(inode(seen.listeners.at("admin")) == inode(1));
  CHECK(seen.history == history);
  CHECK(seen.steering == steering);
  CHECK(seen.reloads == 1);
  CHECK(seen.drains == 1);
  CHECK(seen.reports == std::vector<CaptureReport>{report});
  for (const auto& entry : seen.listeners) ::close(entry.second);

  link.send_ready();
  link.send_drained();
  left.bodies.clear();
  loop.post([&loop] { loop.post([&loop] { loop.stop(); }); });
  while (left.bodies.size() < 2) {
    loop.post([&loop] { loop.stop(); });
    loop.run();
  }
  CHECK(decode_to_supervisor(left.bodies[0]) == ToSupervisor(Ready{}));
  CHECK(decode_to_supervisor(left.bodies[1]) == ToSupervisor(Drained{}));
}

TEST_CASE("descriptors belong to the message they came with, however the stream is cut") {
  io::Loop loop;
  auto ends = make_channel();
  REQUIRE(ends);
  End left;
  Channel supervisor(loop, std::move(ends->first), Channel::Descriptors::kRefuse,
                     left.callbacks(loop, 0));
  Seen seen;
  std::map<std::uint16_t, std::map<std::string, int>> spaces;
  auto callbacks = seen.callbacks(loop);
  callbacks.on_space = [&](std::uint16_t slot, std::map<std::string, int> by_name) {
    spaces[slot] = std::move(by_name);
  };
  std::vector<std::uint16_t> gone;
  callbacks.on_space_gone = [&](std::uint16_t slot) { gone.push_back(slot); };
  REQUIRE(supervisor.send(encode(ToWorker(Listeners{{"admin"}, {}, {}})), std::array<int, 1>{0}));
  // All of it lies in the socket before anything is read; one closes before it has gone.
  REQUIRE(supervisor.send(encode(ToWorker(CaptureReport{}))));
  std::array<int, 2> pipe{};
  REQUIRE(::pipe(pipe.data()) == 0);
  const ino_t in = inode(pipe[0]);
  REQUIRE(supervisor.send(encode(ToWorker(SpaceListeners{4, {"outbound4", "inbound4"}})), pipe));
  REQUIRE(supervisor.send(encode(ToWorker(SpaceListeners{5, {"outbound4"}})),
                          std::array<int, 1>{pipe[1]}));
  for (const int fd : pipe) ::close(fd);
  REQUIRE(supervisor.send(encode(ToWorker(SpaceGone{4}))));
  REQUIRE(supervisor.send(encode(ToWorker(Drain{}))));
  WorkerLink link(loop, ends->second.release(), std::move(callbacks));
  loop.run();
  CHECK(seen.gone.empty());
  CHECK(seen.reports.size() == 1);
  REQUIRE(spaces.size() == 2);
  CHECK(spaces[4].size() == 2);
  CHECK(inode(spaces[4]["outbound4"]) == in);
  CHECK(spaces[5].size() == 1);
  CHECK(gone == std::vector<std::uint16_t>{4});
  for (const auto& [slot, by_name] : spaces) {
    for (const auto& [name, fd] : by_name) ::close(fd);
  }
  for (const auto& [name, fd] : seen.listeners) ::close(fd);
}

TEST_CASE("a worker that knows nothing of network namespaces keeps none of their sockets") {
  io::Loop loop;
  auto ends = make_channel();
  REQUIRE(ends);
  End left;
  Channel supervisor(loop, std::move(ends->first), Channel::Descriptors::kRefuse,
                     left.callbacks(loop, 0));
  Seen seen;
  WorkerLink link(loop, ends->second.release(), seen.callbacks(loop));
  const int before = open_descriptors();
  REQUIRE(supervisor.send(encode(ToWorker(Listeners{}))));
  REQUIRE(supervisor.send(encode(ToWorker(SpaceListeners{4, {"outbound4"}})),
                          std::array<int, 1>{0}));
  REQUIRE(supervisor.send(encode(ToWorker(SpaceGone{4}))));
  REQUIRE(supervisor.send(encode(ToWorker(Drain{}))));
  loop.run();
  CHECK(seen.gone.empty());
  CHECK(open_descriptors() == before);
}

TEST_CASE("a worker gives up on a supervisor that breaks the order") {
  const auto gone_after = [](const ToWorker& message, std::size_t descriptors) {
    io::Loop loop;
    auto ends = make_channel();
    REQUIRE(ends);
    End left;
    Channel supervisor(loop, std::move(ends->first), Channel::Descriptors::kRefuse,
                       left.callbacks(loop, 0));
    Seen seen;
    WorkerLink link(loop, ends->second.release(), seen.callbacks(loop));
    const int before = open_descriptors();
    REQUIRE(supervisor.send(encode(message), std::vector<int>(descriptors, 0)));
    loop.run();
    CHECK(open_descriptors() == before);
    return seen.gone;
  };
  CHECK(gone_after(Reload{}, 0).find("out of order") != std::string::npos);
  CHECK(gone_after(Listeners{{"a", "b"}, {}, {}}, 1).find("1 sockets for 2 names") !=
        std::string::npos);
  CHECK(gone_after(SpaceListeners{1, {"a"}}, 1).find("out of order") != std::string::npos);
  CHECK(gone_after(SpaceListeners{1, {"a"}}, 0).find("0 sockets for 1 names") != std::string::npos);
  CHECK(gone_after(SpaceGone{1}, 0).find("out of order") != std::string::npos);
  CHECK(gone_after(Listeners{{"a"}, {}, {}}, 2).find("2 sockets for 1 names") != std::string::npos);
}

TEST_CASE("a worker hears that its supervisor is gone") {
  io::Loop loop;
  auto ends = make_channel();
  REQUIRE(ends);
  Seen seen;
  WorkerLink link(loop, ends->second.release(), seen.callbacks(loop));
  ends->first = Descriptor();
  loop.run();
  CHECK(seen.gone.find("closed the channel") != std::string::npos);
}

TEST_CASE("descriptors that wait for a slow reader are bounded, and the channel lives on") {
  io::Loop loop;
  auto ends = make_channel();
  REQUIRE(ends);
  End left;
  End right;
  Channel sender(loop, std::move(ends->first), Channel::Descriptors::kRefuse,
                 left.callbacks(loop, 0));
  const std::string body(50'000, 'x');
  const std::array<int, 6> six = {0, 0, 0, 1, 1, 1};
  std::size_t sent = 0;
  Status last;
  for (; sent < 1000 && last; ++sent) last = sender.send(body, six);
  --sent;
  REQUIRE_FALSE(last);
  CHECK(last.error().code == ErrorCode::kLimit);
  CHECK(last.error().message.find("60 descriptors wait") != std::string::npos);
  CHECK(sender.send("words go on"));
  CHECK(open_descriptors() < 256);

  Channel receiver(loop, std::move(ends->second), Channel::Descriptors::kAccept,
                   right.callbacks(loop, sent + 1));
  loop.run();
  CHECK(right.bodies.size() == sent + 1);
  CHECK(right.descriptors.size() == 6 * sent);
  CHECK(sender.send(body, six));
  CHECK(left.closed.empty());
}
