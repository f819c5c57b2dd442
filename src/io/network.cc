#include "io/network.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <optional>
#include <string>
#include <utility>

#include "io/handle.h"
#include "io/stream.h"

namespace meshnode::io {
namespace {

constexpr int kBacklog = 4096;
constexpr int kPortAttempts = 256;
// Then the kernel may choose: among what is left it finds whatever there is.
constexpr int kOwnPortAttempts = 8;
constexpr int kSpaceAttempts = 16;
constexpr Duration kRetryAccept = std::chrono::milliseconds(100);

void set_option(int fd, int level, int name, int value) {
  setsockopt(fd, level, name, &value, sizeof value);
}

/// Captured programs must see their own latency and notice dead peers as they would directly.
void tune(int fd) {
  // Before there is a connection: a dial that is withdrawn may just have been answered.
  abort_on_close(fd, true);
  set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, 180);
  set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, 180);
  set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, 9);
}

/// Of /proc/sys/net/ipv4; empty when it cannot be read.
std::string setting(const char* name) {
  std::ifstream file(std::string("/proc/sys/net/ipv4/") + name);
  std::string text;
  std::getline(file, text);
  return text;
}

HandlePtr<uv_tcp_t> new_handle(uv_loop_t* loop, void* owner) {
  return make_handle<uv_tcp_t>([&](uv_tcp_t* h) { uv_tcp_init(loop, h); }, owner);
}

class UvListener final : public Listener {
 public:
  UvListener(Loop& loop, const NetworkOptions& options, int descriptor, AcceptEvents* events)
      : loop_(loop),
        options_(options),
        descriptor_(descriptor),
        events_(events),
        retry_(loop.timer([this] { try_again(); })) {}

  Status open() {
    // libuv closes what it is given; the supervisor's descriptor stays as it is.
    const int own = fcntl(descriptor_, F_DUPFD_CLOEXEC, 0);
    if (own < 0) {
      return fail(uv_error("listener", uv_translate_sys_error(errno)));
    }
    handle_ = new_handle(loop_.raw(), this);
    int status = uv_tcp_open(handle_.get(), own);
    if (status != 0) {
      close(own);
    } else {
      status = uv_listen(reinterpret_cast<uv_stream_t*>(handle_.get()), kBacklog,
                         [](uv_stream_t* raw, int result) {
                           if (auto* self = static_cast<UvListener*>(raw->data)) {
                             result == 0 ? self->accept() : self->fail_accept(result);
                           }
                         });
    }
    if (status != 0) {
      handle_.reset();
      return fail(uv_error("listener", status));
    }
    return {};
  }

  /// Connections wait in the queue meanwhile.
  void wait_for_descriptors() {
    retry_->start(kRetryAccept);
    if (options_.on_full) {
      options_.on_full();
    }
  }

  void pause() override {
    retry_->stop();
    handle_.reset();
  }
  void resume() override {
    if (!handle_) {
      try_again();
    }
  }

 private:
  void try_again() {
    // uv_listen() would revive what its owner has shut down meanwhile.
    if (!is_listening()) {
      return;
    }
    if (full() || !open()) {
      retry_->start(kRetryAccept);
    }
  }

  bool full() const { return options_.budget != nullptr && options_.budget->full(); }

  bool is_listening() const {
    int listening = 0;
    socklen_t size = sizeof listening;
    return getsockopt(descriptor_, SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) == 0 &&
           listening != 0;
  }

  /// libuv would try again at once, for ever.
  void fail_accept(int status) {
    handle_.reset();
    // Shut down by whoever owns it: there is nothing to come back to.
    if (status != UV_EINVAL) {
      retry_->start(kRetryAccept);
    }
  }

  void accept() {
    auto client = new_handle(loop_.raw(), nullptr);
    if (uv_accept(reinterpret_cast<uv_stream_t*>(handle_.get()),
                  reinterpret_cast<uv_stream_t*>(client.get())) != 0) {
      return;
    }
    uv_os_fd_t fd = -1;
    uv_fileno(reinterpret_cast<uv_handle_t*>(client.get()), &fd);
    tune(fd);
    events_->on_accept(std::make_unique<UvStream>(loop_, std::move(client),
                                                  DescriptorBudget::Share(options_.budget)));
    if (full()) {
      // Connections wait in the queue, where another loop or a later moment finds them.
      handle_.reset();
      wait_for_descriptors();
    }
  }

  Loop& loop_;
  const NetworkOptions& options_;
  int descriptor_;
  AcceptEvents* events_;
  std::unique_ptr<Timer> retry_;
  HandlePtr<uv_tcp_t> handle_;
};

class UvDial final : public Dial {
 public:
  UvDial(Loop& loop, SpacePorts& ports, OwnPorts& own_ports, const NetworkOptions& network,
         const DialOptions& options, DialEvents* events)
      : loop_(loop),
        ports_(ports),
        own_ports_(own_ports),
        network_(network),
        options_(options),
        events_(events),
        share_(network.budget) {
    timer_ = loop_.timer([this] { finish(UV_ETIMEDOUT); });
  }

  void start() {
    if (options_.space != 0) {
      return start_in_space();
    }
    const int attempts = options_.transparent ? kPortAttempts : 1 + kOwnPortAttempts;
    int status = UV_EADDRNOTAVAIL;
    for (int i = 0; i < attempts; ++i) {
      status = attempt();
      if (!is_taken(status)) {
        break;
      }
    }
    if (status == 0) {
      timer_->start(options_.timeout);
    } else {
      fail_soon(status);
    }
  }

 private:
  /// Never call back from within dial().
  void fail_soon(int status) {
    early_status_ = status;
    timer_->start(Duration::zero());
    handle_.reset();
  }
  void fail_soon(const Error& why) {
    early_error_ = {why.code, "connect to " + options_.to.text() + ": " + why.message};
    fail_soon(UV_ECANCELED);
  }

  void start_in_space() {
    timer_->start(options_.timeout);
    if (network_.spaces == nullptr) {
      return fail_soon(Error{ErrorCode::kUnavailable,
                             "nobody opens sockets in other network namespaces for this process"});
    }
    go_on_in_space();
  }

  void go_on_in_space() {
    SpaceSockets& spaces = *network_.spaces;
    if (options_.transparent && !ports_.contains(options_.space)) {
      wait_ = spaces.take(options_.space, SpaceSocket::kDiag, [this](const Result<int>& diag) {
        if (!diag) {
          return fail_soon(diag.error());
        }
        ports_[options_.space] =
            std::make_unique<SourcePorts>(network_.share, network_.shares, *diag);
        go_on_in_space();
      });
      return;
    }
    const auto kind = options_.to.ip.is_v4() ? SpaceSocket::kTcp4 : SpaceSocket::kTcp6;
    if (const int reserved = spaces.take_reserved(options_.space, kind); reserved >= 0) {
      return connect_in_space(reserved);
    }
    wait_ = spaces.take(options_.space, kind, [this](const Result<int>& fd) {
      if (!fd) {
        return fail_soon(fd.error());
      }
      connect_in_space(*fd);
    });
  }

  void connect_in_space(int fd) {
    int status = UV_EADDRNOTAVAIL;
    for (int i = options_.transparent ? kPortAttempts : 1; i > 0 && is_taken(status); --i) {
      status = prepare(fd);  // a socket whose bind() failed may be bound again
    }
    if (status == 0) {
      status = connect(fd);
    } else {
      close(fd);
    }
    if (is_taken(status) && options_.transparent && ++space_attempts_ < kSpaceAttempts) {
      return go_on_in_space();  // a bound socket may not: it takes another
    }
    if (status != 0) {
      fail_soon(status);
    }
  }

  static bool is_taken(int status) {
    return status == UV_EADDRINUSE || status == UV_EADDRNOTAVAIL;
  }

  int attempt() {
    const int fd = socket(options_.to.ip.is_v4() ? AF_INET : AF_INET6,
                          SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
      return uv_translate_sys_error(errno);
    }
    const int status = prepare(fd);
    if (status != 0) {
      close(fd);
      return status;
    }
    return connect(fd);
  }

  /// Takes the socket; 0 or a libuv status.
  int connect(int fd) {
    sockaddr_storage to{};
    options_.to.to_sockaddr(to);
    handle_ = new_handle(loop_.raw(), this);
    int status = uv_tcp_open(handle_.get(), fd);
    if (status != 0) {
      close(fd);
      handle_.reset();
      return status;
    }
    request_ = std::make_unique<uv_connect_t>();
    status = uv_tcp_connect(request_.get(), handle_.get(), reinterpret_cast<const sockaddr*>(&to),
                            [](uv_connect_t* request, int result) {
                              const std::unique_ptr<uv_connect_t> done(request);
                              if (auto* self = static_cast<UvDial*>(request->handle->data)) {
                                static_cast<void>(self->request_.release());
                                self->finish(result);
                              }
                            });
    if (status == 0) {
      return 0;
    }
    request_.reset();
    handle_.reset();
    return status;
  }

  /// Marks and binds; 0 or a libuv status.
  int prepare(int fd) {
    tune(fd);
    const std::uint32_t mark = network_.mark;
    if (mark != 0 && setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof mark) != 0) {
      return uv_translate_sys_error(errno);
    }
    // A port of a connection in TIME_WAIT to another destination is free for us.
    set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    return options_.transparent ? bind_transparent(fd) : bind_own(fd);
  }

  int bind_transparent(int fd) {
    const bool v4 = options_.source->is_v4();
    const int on = 1;
    if (setsockopt(fd, v4 ? SOL_IP : SOL_IPV6, v4 ? IP_TRANSPARENT : IPV6_TRANSPARENT, &on,
                   sizeof on) != 0) {
      return uv_translate_sys_error(errno);
    }
    SourcePorts& ports = *ports_.at(options_.space);
    const SocketAddress from{*options_.source, ports.next()};
    return ports.in_use(from, options_.to) ? UV_EADDRINUSE : bind_to(fd, from);
  }

  int bind_own(int fd) {
    const bool v4 = options_.to.ip.is_v4();
    const bool chosen = options_.space == 0 && own_attempts_++ < kOwnPortAttempts;
    std::uint16_t port = chosen ? own_ports_.next() : std::uint16_t{0};
    if (port == options_.to.port) {
      port = own_ports_.next();  // to this very host it would connect to itself
    }
    if (port == 0) {
      set_option(fd, SOL_IP, IP_BIND_ADDRESS_NO_PORT, 1);
    }
    if (port == 0 && !options_.source && !options_.stays) {
      return 0;
    }
    const IpAddress any = v4 ? IpAddress::v4({}) : IpAddress::v6({});
    // Only what is local can be bound. (Bound to lo, a socket does not reach other addresses.)
    return bind_to(fd, {options_.stays ? options_.to.ip : options_.source.value_or(any), port});
  }

  static int bind_to(int fd, const SocketAddress& from) {
    sockaddr_storage raw{};
    const unsigned size = from.to_sockaddr(raw);
    return bind(fd, reinterpret_cast<const sockaddr*>(&raw), size) == 0
               ? 0
               : uv_translate_sys_error(errno);
  }

  void finish(int status) {
    timer_->stop();
    wait_.reset();
    if (early_status_ != 0) {
      status = early_status_;
    }
    if (status == 0) {
      events_->on_connected(
          std::make_unique<UvStream>(loop_, std::move(handle_), std::move(share_)));
      return;
    }
    handle_.reset();
    if (early_error_) {
      return events_->on_dial_failed(*early_error_);
    }
    if (status == UV_EADDRINUSE) {
      events_->on_dial_failed({ErrorCode::kLimit, "connect to " + options_.to.text() +
                                                      ": no source port is free for it"});
      return;
    }
    events_->on_dial_failed(uv_error(("connect to " + options_.to.text()).c_str(), status));
  }

  Loop& loop_;
  SpacePorts& ports_;
  OwnPorts& own_ports_;
  const NetworkOptions& network_;
  DialOptions options_;
  DialEvents* events_;
  std::unique_ptr<Timer> timer_;
  DescriptorBudget::Share share_;
  HandlePtr<uv_tcp_t> handle_;
  std::unique_ptr<uv_connect_t> request_;  // libuv's until its callback has run
  int early_status_ = 0;
  std::optional<Error> early_error_;
  std::unique_ptr<SpaceSockets::Wait> wait_;
  int space_attempts_ = 0;
  int own_attempts_ = 0;

 public:
  ~UvDial() override {
    // The pending request belongs to libuv's callback, which comes, cancelled, after the close.
    static_cast<void>(request_.release());
  }
};

}  // namespace

UvNetwork::UvNetwork(Loop& loop, const NetworkOptions& options)
    : loop_(loop),
      options_(options),
      own_ports_(setting("ip_local_port_range"), setting("ip_local_reserved_ports"), options.share,
                 options.shares, options.first_port) {
  ports_[0] = std::make_unique<SourcePorts>(options.share, options.shares);
}

UvNetwork::~UvNetwork() = default;

std::unique_ptr<Dial> UvNetwork::dial(const DialOptions& options, DialEvents* events) {
  auto dial = std::make_unique<UvDial>(loop_, ports_, own_ports_, options_, options, events);
  dial->start();
  return dial;
}

void UvNetwork::forget_space(std::uint16_t slot) {
  if (slot == 0) {
    return;
  }
  ports_.erase(slot);
  if (options_.spaces != nullptr) {
    options_.spaces->forget(slot);
  }
}

Result<std::unique_ptr<Listener>> UvNetwork::listen(int descriptor, AcceptEvents* events) {
  auto listener = std::make_unique<UvListener>(loop_, options_, descriptor, events);
  if (auto opened = listener->open(); !opened) {
    if (opened.error().code != ErrorCode::kLimit) {
      return fail(opened.error());
    }
    listener->wait_for_descriptors();
  }
  return std::unique_ptr<Listener>(std::move(listener));
}

}  // namespace meshnode::io
