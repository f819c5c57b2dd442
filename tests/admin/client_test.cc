#include "admin/client.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <thread>

namespace meshnode::admin {
namespace {

using namespace std::chrono_literals;

struct Directory {
  std::string path;
  Directory() {
    std::string shape = (std::filesystem::temp_directory_path() / "admin-XXXXXX").string();
    REQUIRE(mkdtemp(shape.data()) != nullptr);
    path = shape;
  }
  ~Directory() { std::filesystem::remove_all(path); }
  std::string socket() const { return path + "/admin.sock"; }
};

int listen_at(const std::string& path) {
  int descriptor = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  REQUIRE(bind(descriptor, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
  REQUIRE(listen(descriptor, 4) == 0);
  return descriptor;
}

// One accepted connection, served on a thread.
class Server {
 public:
  Server(const std::string& path, std::function<void(int)> serve)
      : listener_(listen_at(path)), thread_([this, serve = std::move(serve)] {
          int connection = accept(listener_, nullptr, nullptr);
          if (connection < 0) return;
          serve(connection);
          close(connection);
        }) {}
  ~Server() {
    shutdown(listener_, SHUT_RDWR);
    thread_.join();
    close(listener_);
  }

 private:
  int listener_;
  std::thread thread_;
};

std::string read_request(int connection) {
  std::string text;
  char buffer[4096];
  while (text.find("\r\n\r\n") == std::string::npos) {
    ssize_t count = read(connection, buffer, sizeof buffer);
    if (count <= 0) break;
    text.append(buffer, static_cast<std::size_t>(count));
  }
  return text;
}

void send_text(int connection, std::string_view text) {
  while (!text.empty()) {
    ssize_t count = send(connection, text.data(), text.size(), MSG_NOSIGNAL);
    if (count <= 0) return;
    text.remove_prefix(static_cast<std::size_t>(count));
  }
}

TEST_CASE("the client asks and gets status and body") {
  Directory directory;
  std::string seen;
  {
    Server server(directory.socket(), [&](int connection) {
      seen = read_request(connection);
      send_text(connection, "HTTP/1.1 503 x\r\nContent-Length: 9\r\n\r\nnot ");
      send_text(connection, "ready");
    });
    auto answer = get(directory.socket(), "/healthz/ready");
    REQUIRE(answer.has_value());
    CHECK(answer->status == 503);
    CHECK(answer->body == "not ready");
  }
  CHECK(seen.starts_with("GET /healthz/ready HTTP/1.1\r\nHost: "));
}

TEST_CASE("the client posts a body") {
  Directory directory;
  std::string seen;
  {
    Server server(directory.socket(), [&](int connection) {
      seen = read_request(connection);
      send_text(connection, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    });
    auto answer = post(directory.socket(), "/log", "proxy:debug");
    REQUIRE(answer.has_value());
    CHECK(answer->body.empty());
  }
  CHECK(seen.find("Content-Length: 11\r\n") != std::string::npos);
  CHECK(seen.ends_with("\r\n\r\nproxy:debug"));
}

TEST_CASE("no agent and no permission are told apart, each with a next step") {
  Directory directory;
  auto nobody = get(directory.socket(), "/status");
  REQUIRE_FALSE(nobody.has_value());
  CHECK(nobody.error().code == ErrorCode::kUnavailable);
  CHECK(nobody.error().message.find("start it with") != std::string::npos);

  int listener = listen_at(directory.socket());
  close(listener);  // the file stays, as after a crash
  auto crashed = get(directory.socket(), "/status");
  REQUIRE_FALSE(crashed.has_value());
  CHECK(crashed.error().code == ErrorCode::kUnavailable);

  if (geteuid() == 0) {
    // Root ignores modes: ask as somebody else.
    chmod(directory.path.c_str(), 0700);
    pid_t child = fork();
    if (child == 0) {
      if (setuid(65534) != 0) _exit(9);
      auto refused = get(directory.socket(), "/status");
      _exit(!refused && refused.error().code == ErrorCode::kPermission ? 0 : 1);
    }
    int status = 0;
    REQUIRE(waitpid(child, &status, 0) == child);
    CHECK(status == 0);
  }
}

TEST_CASE("an answer that never ends, is too large, or is no HTTP is an error") {
  Directory directory;
  ClientOptions options;
  options.timeout = 200ms;
  options.max_answer = 1000;
  SECTION("silence") {
    Server server(directory.socket(), [](int connection) {
      char byte = 0;
      while (read(connection, &byte, 1) > 0) {
      }
    });
    auto refused = get(directory.socket(), "/status", options);
    REQUIRE_FALSE(refused.has_value());
    CHECK(refused.error().code == ErrorCode::kTimeout);
  }
  SECTION("too large") {
    Server server(directory.socket(), [](int connection) {
      read_request(connection);
      send_text(connection, "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n");
      send_text(connection, std::string(1'000'000, 'x'));
    });
    auto refused = get(directory.socket(), "/status", options);
    REQUIRE_FALSE(refused.has_value());
    CHECK(refused.error().code == ErrorCode::kLimit);
  }
  SECTION("not HTTP, or cut short") {
    for (const char* text :
         {"", "SSH-2.0-x\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx",
          "HTTP/1.1 200 OK\r\n",
          "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"}) {
      CAPTURE(text);
      Directory own;
      Server server(own.socket(), [&](int connection) {
        read_request(connection);
        send_text(connection, text);
      });
      auto refused = get(own.socket(), "/status", options);
      REQUIRE_FALSE(refused.has_value());
      CHECK(refused.error().code == ErrorCode::kInvalid);
    }
  }
}

TEST_CASE("paths that cannot be a socket's and targets that are no path are refused") {
  auto refused = get("/" + std::string(200, 'x'), "/status");
  REQUIRE_FALSE(refused.has_value());
  CHECK(refused.error().code == ErrorCode::kInvalid);
  for (const char* target : {"", "status", "/a b", "/a\r\nX: y", "/\xc3\xa4"}) {
    CHECK(get("/nowhere", target).error().code == ErrorCode::kInvalid);
  }
}

}  // namespace
}  // namespace meshnode::admin
