#pragma once
/// A proxied connection: what telemetry calls it, the dial to its far side and the pipe in between.
/// Base of both directions, and the set a direction keeps its connections in. Thread: one loop.

#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "proxy/admission.h"
#include "proxy/context.h"
#include "proxy/pipe.h"

namespace meshnode::proxy {

class ConnectionSet;

/// A connection that keeps less in memory is not worth cutting for it.
inline constexpr std::size_t kWorthCutting = std::size_t{64} * 1024;

class Connection : public Retirable, private PipeEvents, private StreamEvents {
 public:
  /// Ends it at both ends, open or not yet; the object dies with the current callback.
  void cut(telemetry::Flag flag, const std::string& why);

 protected:
  Connection(ProxyContext& context, ConnectionSet& all, std::unique_ptr<Stream> stream,
             telemetry::Reporter reporter);

  /// The far side is there: bytes flow, and the connection counts as open.
  void begin(std::unique_ptr<Stream> far);
  /// It never opens: logs and counts it. What to tell the caller is the derived class's; the
  /// object dies with the current callback.
  void record_refusal(telemetry::Flag flag, const std::string& reason);
  /// Whether the callee's policies let it be; it has been refused if they do not.
  bool admitted(Admission admission);
  /// Refuses the caller whose way is not open yet.
  virtual void turn_away(telemetry::Flag flag, const std::string& why) = 0;
  /// Nobody waits for the far side any more: no way there is to be tried from here on.
  virtual void give_up() { dial_.reset(); }

  ProxyContext& context_;
  std::unique_ptr<Stream> stream_;  ///< the caller's, until begin()
  telemetry::Labels labels_;
  telemetry::Addresses addresses_;
  std::unique_ptr<Dial> dial_;

 private:
  friend class ConnectionSet;

  /// Ends it if the policies of `next` do not let it be any more.
  void follow(const snapshot::Snapshot& next);
  bool decide();
  std::size_t buffered() const;
  void on_piped(bool from_caller, std::size_t bytes) override;
  void on_pipe_done(const std::string& error, bool silent) override;
  // Until begin() the caller is not read from; it can only go.
  void on_data(MutableBytes) override {}
  void on_end() override {}
  void on_drained() override {}
  void on_error(const Error& error) override;

  ConnectionSet& all_;
  std::unique_ptr<telemetry::ConnectionRecord> record_;
  std::unique_ptr<Pipe> pipe_;
  std::optional<Admission> admission_;
  std::unique_ptr<telemetry::Observed::Open> observed_;  // once it is admitted
};

class ConnectionSet {
 public:
  explicit ConnectionSet(Executor& executor) : executor_(executor) {}
  /// The connections that keep kWorthCutting octets or more in memory, with how many.
  std::vector<std::pair<std::size_t, Connection*>> holders() const;
  std::size_t size() const { return all_.size(); }
  /// Cuts those that the policies of `next` do not allow.
  void follow(const snapshot::Snapshot& next);
  template <class T>
  T& add(std::unique_ptr<T> connection) {
    T& added = *connection;
    all_.emplace(&added, std::move(connection));
    return added;
  }

 private:
  friend class Connection;
  void remove(Connection& connection);

  Executor& executor_;
  std::unordered_map<Connection*, std::unique_ptr<Connection>> all_;
};

}  // namespace meshnode::proxy
