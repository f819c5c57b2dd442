#include "proxy/connection.h"

#include <utility>

namespace meshnode::proxy {

Connection::Connection(ProxyContext& context, ConnectionSet& all, std::unique_ptr<Stream> stream,
                       telemetry::Reporter reporter)
    : context_(context), stream_(std::move(stream)), all_(all) {
  labels_.reporter = reporter;
  stream_->set_events(static_cast<StreamEvents*>(this));
  stream_->stop_reading();
}

void Connection::begin(std::unique_ptr<Stream> far) {
  record_ = context_.telemetry.open(labels_, addresses_, context_.clock.now());
  pipe_ =
      std::make_unique<Pipe>(context_.clock, std::move(stream_), std::move(far),
                             static_cast<PipeEvents*>(this), context_.limits.half_closed_timeout);
  pipe_->start();
}

void Connection::record_refusal(telemetry::Flag flag, const std::string& reason) {
  stream_->set_events(nullptr);
  context_.telemetry.refused(labels_, addresses_, flag, reason);
  all_.remove(*this);
}

void Connection::on_piped(bool from_caller, std::size_t bytes) {
  if (from_caller) {
    record_->add_sent(bytes);
  } else {
    record_->add_received(bytes);
  }
}

void Connection::on_pipe_done(const std::string& error, bool silent) {
  if (silent) {
    context_.metrics.hit(telemetry::Limit::kHalfClosed).add();
  }
  record_->close(telemetry::Flag::kNone, error);
  all_.remove(*this);
}

void Connection::on_error(const Error& error) {
  give_up();
  record_refusal(error.code == ErrorCode::kLimit ? telemetry::Flag::kOverload
                                                 : telemetry::Flag::kConnect,
                 "it ended before its way was open: " + error.message);
}

std::size_t Connection::buffered() const {
  return pipe_ ? pipe_->buffered() : stream_->queued() + stream_->unread();
}

bool Connection::admitted(Admission admission) {
  admission_.emplace(std::move(admission));
  if (!decide()) {
    return false;
  }
  observed_ = context_.observed.admitted(admission_->call());
  return true;
}

bool Connection::decide() {
  const policy::Decision decision = admission_->decide();
  if (!decision.allowed()) {
    context_.observed.denied(admission_->call());
    cut(telemetry::Flag::kDeny, admission_->explain(decision));
  }
  return decision.allowed();
}

void Connection::follow(const snapshot::Snapshot& next) {
  if (admission_ && admission_->follow(next)) {
    decide();
  }
}

void Connection::cut(telemetry::Flag flag, const std::string& why) {
  if (!pipe_) {
    give_up();
    turn_away(flag, why);
    return;
  }
  pipe_->abort();
  record_->close(flag, why);
  all_.remove(*this);
}

std::vector<std::pair<std::size_t, Connection*>> ConnectionSet::holders() const {
  std::vector<std::pair<std::size_t, Connection*>> found;
  for (const auto& [connection, owned] : all_) {
    if (const std::size_t holds = connection->buffered(); holds >= kWorthCutting) {
      found.emplace_back(holds, connection);
    }
  }
  return found;
}

void ConnectionSet::follow(const snapshot::Snapshot& next) {
  std::vector<Connection*> present;  // one that is cut leaves all_
  present.reserve(all_.size());
  for (const auto& [connection, owned] : all_) {
    present.push_back(connection);
  }
  for (Connection* connection : present) {
    connection->follow(next);
  }
}

void ConnectionSet::remove(Connection& connection) {
  const auto found = all_.find(&connection);
  if (found == all_.end()) {
    return;
  }
  executor_.retire(std::move(found->second));
  all_.erase(found);
}

}  // namespace meshnode::proxy
