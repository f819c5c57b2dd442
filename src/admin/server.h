#pragma once
/// The HTTP server of the metrics and readiness ports and of the admin socket: one request a
/// connection, then it is closed. Thread: everything on the loop of its Network.

#include <meshnode/clock.h>
#include <meshnode/executor.h>
#include <meshnode/transport.h>
#include <list>
#include <memory>
#include <vector>

#include "admin/http.h"

namespace meshnode::admin {

class HttpServer final : public AcceptEvents {
 public:
  /// Connections at once over all listeners. Beyond it the oldest that has no whole request yet, or
  /// its whole answer, gives way, so that who just holds connections keeps nobody out; while all
  /// are being answered, accepting pauses, and clients wait in the listeners' queues.
  static constexpr std::size_t kMaxConnections = 64;
  /// A request must be whole this long after accepting; an answer must move on at least this
  /// often, and the client must have closed this long after it was sent.
  static constexpr Duration kIdle = std::chrono::seconds(10);
  /// Bodies on their way to slow clients, octets in total; beyond it a second answer is a 503.
  static constexpr std::size_t kMaxAnswers = 64 * 1024 * 1024;
  /// No connection lives longer.
  static constexpr Duration kLifetime = std::chrono::seconds(60);

  /// The seams outlive this.
  HttpServer(Network& network, Clock& clock, Executor& executor, Handler handler);
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;
  /// Connections end as they are; never call it from the handler.
  ~HttpServer() override;

  /// Serves a listening descriptor too, which is borrowed and outlives this.
  Status listen(int descriptor);
  std::size_t connections() const { return connections_.size(); }

  void on_accept(std::unique_ptr<Stream> stream) override;

 private:
  class Connection;
  /// Null when all are being answered.
  Connection* oldest_idle() const;
  void pause_or_resume();
  void remove(Connection* connection);

  Network& network_;
  Clock& clock_;
  Executor& executor_;
  Handler handler_;
  std::vector<std::unique_ptr<Listener>> listeners_;
  std::list<std::unique_ptr<Connection>> connections_;
  std::size_t answers_ = 0;
};

}  // namespace meshnode::admin
