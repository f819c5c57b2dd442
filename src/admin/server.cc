#include "admin/server.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "base/log.h"

namespace meshnode::admin {
namespace {

constexpr std::size_t kSlice = 64 * 1024;
/// What a client may still send after the answer before it is cut off.
constexpr std::size_t kMaxIgnored = 2 * kMaxBody;
constexpr std::string_view kContinueLine = "HTTP/1.1 100 Continue\r\n\r\n";

// Handlers use libraries that throw; one bad answer must not end the process.
Response answer(const Handler& handler, const Request& request) {
  std::string reason;
  try {
    return handler(request);
  } catch (const std::exception& failure) {
    reason = failure.what();
  }
  log::error("admin", "request failed", {{"path", request.path}, {"error", reason}});
  Response response;
  response.status = 500;
  response.body = "internal error; see the log\n";
  return response;
}

Response too_busy() {
  Response response;
  response.status = 503;
  response.body = "too many answers are on their way to slow clients; try again\n";
  return response;
}

}  // namespace

class HttpServer::Connection final : public StreamEvents, public Retirable {
 public:
  Connection(HttpServer& server, std::unique_ptr<Stream> stream)
      : server_(&server),
        stream_(std::move(stream)),
        idle_(server.clock_.timer([this] { abandon(); })),
        lifetime_(server.clock_.timer([this] { abandon(); })) {
    stream_->set_events(this);
    idle_->start(kIdle);
    lifetime_->start(kLifetime);
    stream_->start_reading();
  }

  bool answering() const { return answering_ && !shut_; }
  /// Its descriptor is free at once: many may come within a turn of the loop.
  void give_way() {
    if (!answering_) stream_->reset();
    abandon();
  }
  void abandon() {
    idle_->stop();
    lifetime_->stop();
    stream_->stop_reading();
    if (server_ != nullptr) {
      release_answer();
      std::exchange(server_, nullptr)->remove(this);
    }
  }

  void on_data(MutableBytes data) override {
    if (server_ == nullptr) return;
    if (answering_) {
      // Closing with unread bytes would reset the connection and lose the answer.
      ignored_ += data.size();
      if (ignored_ > kMaxIgnored) abandon();
      return;
    }
    switch (parser_.feed(data)) {
      case RequestParser::Progress::kMore:
        return;
      case RequestParser::Progress::kContinue:
        write(kContinueLine);
        return;
      case RequestParser::Progress::kDone:
        return send(answer(server_->handler_, parser_.request()));
      case RequestParser::Progress::kRefused:
        return send(parser_.refusal());
    }
  }
  void on_end() override {
    if (!answering_) return abandon();
    ended_ = true;
    finish_if_over();
  }
  void on_error(const Error&) override { abandon(); }
  void on_drained() override {
    if (!answering_ || server_ == nullptr) return;
    idle_->start(kIdle);
    send_slices();
  }

 private:
  void write(std::string_view text) {
    Bytes bytes = as_bytes(text);
    stream_->write(std::span(&bytes, 1));
  }

  void send(Response response) {
    answering_ = true;
    server_->pause_or_resume();
    std::size_t others = server_->answers_;
    if (others > 0 && others + response.body.size() > kMaxAnswers) response = too_busy();
    server_->answers_ += response.body.size();
    idle_->start(kIdle);
    write(head_of(response));
    answer_ = std::move(response.body);
    send_slices();
  }

  // One slice in the queue at a time: a client that stops reading stops us, not our memory.
  void send_slices() {
    while (sent_ < answer_.size() && stream_->queued() == 0) {
      std::string_view slice = std::string_view(answer_).substr(sent_, kSlice);
      sent_ += slice.size();
      write(slice);
    }
    if (sent_ < answer_.size() || stream_->queued() > 0) return;
    release_answer();
    if (!std::exchange(shut_, true)) {
      stream_->shutdown();
      server_->pause_or_resume();
    }
    finish_if_over();
  }

  void release_answer() {
    server_->answers_ -= answer_.size();
    sent_ = 0;
    std::string().swap(answer_);
  }

  void finish_if_over() {
    if (ended_ && shut_) abandon();
  }

  HttpServer* server_;  ///< null once retired
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<Timer> idle_;
  std::unique_ptr<Timer> lifetime_;
  RequestParser parser_;
  std::string answer_;
  std::size_t sent_ = 0;
  std::size_t ignored_ = 0;
  bool answering_ = false;
  bool shut_ = false;
  bool ended_ = false;
};

HttpServer::HttpServer(Network& network, Clock& clock, Executor& executor, Handler handler)
    : network_(network), clock_(clock), executor_(executor), handler_(std::move(handler)) {}

HttpServer::~HttpServer() = default;

Status HttpServer::listen(int descriptor) {
  auto listener = network_.listen(descriptor, this);
  if (!listener) return fail(listener.error());
  listeners_.push_back(std::move(*listener));
  pause_or_resume();
  return {};
}

void HttpServer::on_accept(std::unique_ptr<Stream> stream) {
  if (connections_.size() >= kMaxConnections) {
    if (Connection* oldest = oldest_idle()) oldest->give_way();
  }
  connections_.push_back(std::make_unique<Connection>(*this, std::move(stream)));
}

HttpServer::Connection* HttpServer::oldest_idle() const {
  const auto found = std::find_if(connections_.begin(), connections_.end(),
                                  [](const auto& each) { return !each->answering(); });
  return found == connections_.end() ? nullptr : found->get();
}

void HttpServer::pause_or_resume() {
  const bool full = connections_.size() >= kMaxConnections && oldest_idle() == nullptr;
  for (auto& listener : listeners_) full ? listener->pause() : listener->resume();
}

void HttpServer::remove(Connection* connection) {
  auto found = std::find_if(connections_.begin(), connections_.end(),
                            [&](const auto& owned) { return owned.get() == connection; });
  if (found == connections_.end()) return;
  executor_.retire(std::move(*found));
  connections_.erase(found);
  pause_or_resume();
}

}  // namespace meshnode::admin
