#include "proxy/hbone_session.h"

#include <fmt/format.h>
#include <nghttp2/nghttp2.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <utility>

#include "base/escape.h"

namespace meshnode::proxy {
namespace {

constexpr std::size_t kFrameHeader = 9;
// Frames smaller than this are gathered, so that a burst of them costs one TLS record.
constexpr std::size_t kSmallFrame = 4096;
// Small writes of different streams that leave together. More saves system calls, but makes the
// tunnel's connections travel as one convoy, with one host at rest while the other works.
constexpr int kGatherWrites = 2;
// A request whose header list is longer is not read to its end.
constexpr std::size_t kHopelessHeaderList = std::size_t{4} * kMaxHeaderList;
// Frames without content that one DATA frame of ours may be answered with, and octets of payload
// that are good for another: window updates of a frugal reader, pings that measure a line.
constexpr std::uint64_t kIdlePerFrame = 4;
constexpr std::uint64_t kIdlePerOctets = 128;
// Of such frames, paid for and saved up: a long download must not pay for a flood later.
constexpr std::uint64_t kMaxIdleCredit = 100'000;
// Of a GOAWAY's debug data, kept for the log.
constexpr std::size_t kMostWords = 200;

std::string_view words_of(const nghttp2_goaway& goaway) {
  return as_text({goaway.opaque_data, goaway.opaque_data_len});
}

std::string header_list_too_long() {
  return fmt::format("a header list of more than {} KiB", kMaxHeaderList >> 10U);
}

/// Why a far agent gives such an answer to CONNECT (ztunnel's conventions).
const char* meaning(int status) {
  switch (status) {
    case 400:
      return "it has no such workload, or that declares no such port; compare the Workload there "
             "with the WorkloadEntry here";
    case 401:
      return "a policy there denies it";
    case 503:
      return "nothing listens at that port, or the host is overloaded; its log has the reason";
    default:
      return "is it an HBONE agent?";
  }
}

nghttp2_nv header(std::string_view name, std::string_view value,
                  std::uint8_t flags = NGHTTP2_NV_FLAG_NONE) {
  // nghttp2's type is not const; it copies both.
  return {reinterpret_cast<std::uint8_t*>(const_cast<char*>(name.data())),
          reinterpret_cast<std::uint8_t*>(const_cast<char*>(value.data())), name.size(),
          value.size(), flags};
}

}  // namespace

/// nghttp2's C callbacks; `user` is the HboneSession.
struct HboneSession::Callbacks {
  static HboneSession& self(void* user) { return *static_cast<HboneSession*>(user); }

  static int begin_headers(nghttp2_session*, const nghttp2_frame* frame, void* user) {
    HboneSession& session = self(user);
    if (session.role_ != Role::kServer || frame->headers.cat != NGHTTP2_HCAT_REQUEST) {
      return 0;
    }
    const std::int32_t id = frame->hd.stream_id;
    ++session.incoming_;
    session.last_error_.clear();
    auto stream = std::unique_ptr<HboneStream>(new HboneStream(&session));
    stream->id_ = id;
    session.streams_[id] = stream.get();
    session.arriving_[id] = std::move(stream);
    return 0;
  }

  static int on_header(nghttp2_session*, const nghttp2_frame* frame, const std::uint8_t* name_data,
                       std::size_t name_size, const std::uint8_t* value_data,
                       std::size_t value_size, std::uint8_t, void* user) {
    HboneStream* stream = self(user).find(frame->hd.stream_id);
    if (stream == nullptr) {
      return 0;
    }
    stream->header_bytes_ += name_size + value_size + 32;
    if (stream->header_bytes_ > kMaxHeaderList) {
      return self(user).too_long(*stream);
    }
    const std::string_view name = as_text({name_data, name_size});
    const std::string_view value = as_text({value_data, value_size});
    if (name == ":method") {
      stream->method_ = value;
    } else if (name == ":authority") {
      stream->request_.authority = value;
    } else if (name == ":status") {
      std::from_chars(value.data(), value.data() + value.size(), stream->status_);
    } else if (name == "forwarded") {
      stream->request_.forwarded = value;
    } else if (name == "baggage") {
      stream->request_.baggage = value;
    } else if (name == "traceparent") {
      stream->request_.traceparent = value;
    }
    return 0;
  }

  static int frame_received(nghttp2_session*, const nghttp2_frame* frame, void* user) {
    HboneSession& session = self(user);
    switch (frame->hd.type) {
      case NGHTTP2_HEADERS:
        if (HboneStream* stream = session.find(frame->hd.stream_id)) {
          if (frame->headers.cat == NGHTTP2_HCAT_REQUEST) {
            session.request_complete(*stream);
          } else if (session.role_ == Role::kClient) {
            // Also after a 1xx, when nghttp2 no longer calls it the response; never trailers: by
            // then nobody waits for an answer.
            session.response_complete(*stream);
          }
        }
        break;
      case NGHTTP2_RST_STREAM:
        session.events_->on_reset_counted();
        break;
      case NGHTTP2_PING:
        if ((frame->hd.flags & NGHTTP2_FLAG_ACK) != 0) {
          session.events_->on_ping_answered();
        }
        break;
      case NGHTTP2_GOAWAY:
        session.draining_ = true;
        session.goodbye_ = frame->goaway.error_code == NGHTTP2_NO_ERROR;
        session.told_to_calm_ = frame->goaway.error_code == NGHTTP2_ENHANCE_YOUR_CALM;
        session.note_complaint(frame->goaway.error_code, words_of(frame->goaway));
        session.events_->on_streams_changed();
        break;
      case NGHTTP2_SETTINGS:
        session.settled_ = true;
        session.events_->on_streams_changed();
        break;
      default:
        break;
    }
    if ((frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0 &&
        (frame->hd.type == NGHTTP2_DATA || frame->hd.type == NGHTTP2_HEADERS)) {
      if (HboneStream* stream = session.find(frame->hd.stream_id)) {
        stream->receive_end();
      }
    }
    return 0;
  }

  static int data_chunk(nghttp2_session* raw, std::uint8_t, std::int32_t id,
                        const std::uint8_t* data, std::size_t size, void* user) {
    if (HboneStream* stream = self(user).find(id)) {
      // The bytes lie in the buffer given to receive(), which is ours to change.
      stream->receive({const_cast<std::uint8_t*>(data), size});
    } else {
      nghttp2_session_consume_stream(raw, id, size);
    }
    return 0;
  }

  static int frame_sent(nghttp2_session*, const nghttp2_frame* frame, void* user) {
    HboneSession& session = self(user);
    std::uint32_t code = NGHTTP2_NO_ERROR;
    if (frame->hd.type == NGHTTP2_RST_STREAM) {
      code = frame->rst_stream.error_code;
      session.events_->on_reset_counted();
      if (HboneStream* stream = session.find(frame->hd.stream_id)) {
        stream->offended_ = true;  // else its owner has let it go, and no peer's doing it is
      }
    }
    if (frame->hd.type == NGHTTP2_GOAWAY && frame->goaway.error_code != NGHTTP2_NO_ERROR) {
      code = frame->goaway.error_code;
      session.note_offence(code, words_of(frame->goaway));
    }
    if (code == NGHTTP2_FRAME_SIZE_ERROR) {
      session.events_->on_limit_hit(telemetry::Limit::kFrame);
    } else if (code == NGHTTP2_FLOW_CONTROL_ERROR) {
      session.events_->on_limit_hit(telemetry::Limit::kWindow);
    }
    return 0;
  }

  static int stream_closed(nghttp2_session*, std::int32_t id, std::uint32_t code, void* user) {
    HboneSession& session = self(user);
    session.incoming_ -= session.role_ == Role::kServer ? 1 : 0;
    session.closed(id, code);
    return 0;
  }

  static ssize_t read_length(nghttp2_session*, std::uint8_t, std::int32_t id, std::int32_t,
                             std::int32_t, std::uint32_t, void* user) {
    const HboneStream* stream = self(user).find(id);
    const std::size_t ready = stream == nullptr ? 0 : stream->sendable().size();
    return static_cast<ssize_t>(std::clamp<std::size_t>(ready, 1, kMaxPayload));
  }

  static ssize_t read_data(nghttp2_session*, std::int32_t id, std::uint8_t*, std::size_t size,
                           std::uint32_t* flags, nghttp2_data_source*, void* user) {
    // Looked up, never remembered: nghttp2 may ask on after the stream's owner has let it go.
    const HboneStream* stream = self(user).find(id);
    if (stream == nullptr) {
      return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    }
    const std::size_t ready = stream->sendable().size();
    if (ready == 0 && !stream->shut_) {
      return NGHTTP2_ERR_DEFERRED;
    }
    *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
    if (ready <= size && stream->shut_) {
      *flags |= NGHTTP2_DATA_FLAG_EOF;
    }
    return static_cast<ssize_t>(std::min(ready, size));
  }

  static int send_data(nghttp2_session*, nghttp2_frame* frame, const std::uint8_t* frame_header,
                       std::size_t size, nghttp2_data_source*, void* user) {
    HboneSession& session = self(user);
    HboneStream* stream = session.find(frame->hd.stream_id);
    if (stream == nullptr) {
      return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    }
    if (!session.events_->writable()) {
      return NGHTTP2_ERR_WOULDBLOCK;  // one call may otherwise put out whole windows
    }
    session.credit(size == 0 ? 0 : kIdlePerFrame + size / kIdlePerOctets);
    session.put_data(*stream, frame_header, size);
    if (!stream->view_.empty()) {
      stream->view_ = stream->view_.subspan(size);
    } else {
      stream->waiting_at_ += size;
      if (stream->waiting_at_ >= stream->waiting_.size()) {
        stream->waiting_ = {};
        stream->waiting_at_ = 0;
      }
    }
    if ((frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0) {
      stream->end_sent_ = true;
    }
    if (stream->was_queued_ && stream->queued() <= kResumeBelow) {
      stream->was_queued_ = stream->queued() > 0;
      if (session.drained_.empty() || session.drained_.back() != stream->id_) {
        session.drained_.push_back(stream->id_);
      }
    }
    return 0;
  }

  static int invalid_frame(nghttp2_session*, const nghttp2_frame* frame, int code, void* user) {
    HboneSession& session = self(user);
    if (session.role_ != Role::kServer || frame->hd.type != NGHTTP2_HEADERS || session.calmed_) {
      return 0;
    }
    const std::int32_t id = frame->hd.stream_id;
    const bool surplus = session.incoming_ >= kMaxStreamsIn && id % 2 == 1 &&
                         frame->headers.cat == NGHTTP2_HCAT_REQUEST && session.find(id) == nullptr;
    if (surplus) {
      if (code != NGHTTP2_ERR_REFUSED_STREAM) {  // it has acknowledged the limit
        session.calm();  // before nghttp2 ends the session with a word that helps nobody
      }
      session.events_->on_excess(telemetry::Limit::kStreams,
                                 fmt::format("more than {} streams at once", kMaxStreamsIn));
    } else if (code != NGHTTP2_ERR_PROTO && code != NGHTTP2_ERR_STREAM_CLOSED) {
      // Those two end the session, which is told with its GOAWAY.
      session.events_->on_malformed(
          fmt::format("malformed request: {} {}", nghttp2_strerror(code), session.last_error_));
    }
    return 0;
  }

  static int on_error_text(nghttp2_session*, int, const char* text, std::size_t size, void* user) {
    self(user).last_error_.assign(text, size);
    return 0;
  }
};

HboneSession::HboneSession(Role role, HboneEvents* events)
    : role_(role), events_(events), scan_(role == Role::kServer) {
  nghttp2_session_callbacks* callbacks = nullptr;
  nghttp2_session_callbacks_new(&callbacks);
  nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, &Callbacks::begin_headers);
  nghttp2_session_callbacks_set_on_header_callback(callbacks, &Callbacks::on_header);
  nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, &Callbacks::frame_received);
  nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, &Callbacks::data_chunk);
  nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, &Callbacks::stream_closed);
  nghttp2_session_callbacks_set_data_source_read_length_callback(callbacks,
                                                                 &Callbacks::read_length);
  nghttp2_session_callbacks_set_send_data_callback(callbacks, &Callbacks::send_data);
  nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(callbacks,
                                                               &Callbacks::invalid_frame);
  nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, &Callbacks::frame_sent);
  nghttp2_session_callbacks_set_error_callback2(callbacks, &Callbacks::on_error_text);
  nghttp2_option* option = nullptr;
  nghttp2_option_new(&option);
  nghttp2_option_set_no_auto_window_update(option, 1);
  nghttp2_option_set_max_outbound_ack(option, 1000);
  nghttp2_option_set_max_settings(option, 32);
  nghttp2_option_set_max_continuations(option, kMaxContinuations);
  // Kept for RFC 7540's priorities, which nobody uses: up to 200 dead streams a tunnel.
  nghttp2_option_set_no_closed_streams(option, 1);
  // Its limiter counts only what servers receive, and answers INTERNAL_ERROR: the tunnel counts.
  nghttp2_option_set_stream_reset_rate_limit(option, UINT64_MAX, UINT64_MAX);
  if (role == Role::kServer) {
    nghttp2_session_server_new2(&session_, callbacks, this, option);
  } else {
    nghttp2_session_client_new2(&session_, callbacks, this, option);
  }
  nghttp2_option_del(option);
  nghttp2_session_callbacks_del(callbacks);

  const std::array<nghttp2_settings_entry, 5> settings{{
      {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, kStreamWindow},
      {NGHTTP2_SETTINGS_MAX_FRAME_SIZE, kMaxFrame},
      {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, kMaxHeaderList},
      {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, role == Role::kServer ? kMaxStreamsIn : 0},
      {NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
  }};
  // A server may not mention push (RFC 9113 §6.5.2 lets it only send 0; some peers object).
  nghttp2_submit_settings(session_, NGHTTP2_FLAG_NONE, settings.data(),
                          role == Role::kServer ? settings.size() - 1 : settings.size());
  nghttp2_session_set_local_window_size(session_, NGHTTP2_FLAG_NONE, 0, kConnectionWindow);
}

HboneSession::~HboneSession() {
  abandon({ErrorCode::kUnavailable, "the tunnel was closed"});
  nghttp2_session_del(session_);
}

Status HboneSession::receive(MutableBytes data) {
  count(data);
  receiving_ = true;
  const ssize_t taken = nghttp2_session_mem_recv(session_, data.data(), data.size());
  receiving_ = false;
  if (taken < 0) {
    return broken(static_cast<int>(taken));
  }
  release(0);  // what came for streams that are gone
  if (wants_write() || over()) {
    events_->on_output_waiting();
  }
  return {};
}

void HboneSession::count(Bytes data) {
  FrameScan::Kind kind = scan_.next(data);
  for (; kind != FrameScan::Kind::kNone && !calmed_; kind = scan_.next(data)) {
    if (kind == FrameScan::Kind::kCarrying) {
      credit(1);
    } else if (kind == FrameScan::Kind::kFollowing) {
      count_following();
    } else if (kind == FrameScan::Kind::kBackwards && offence_.empty()) {
      // nghttp2 would ignore it.
      offence_ = "the peer broke HTTP/2, PROTOCOL_ERROR: HEADERS: it had passed this stream over";
      nghttp2_session_terminate_session(session_, NGHTTP2_PROTOCOL_ERROR);
    } else if (kind == FrameScan::Kind::kIdle && idle_credit_ > 0) {
      --idle_credit_;
    } else if (kind == FrameScan::Kind::kIdle) {
      events_->on_idle_frame();
    }
  }
}

void HboneSession::count_following() {
  if (find(static_cast<std::int32_t>(scan_.stream())) != nullptr) {
    credit(1);
    return;
  }
  // nghttp2 decodes it, for the sake of the HPACK table, and tells nobody: no field is counted.
  events_->on_idle_frame();
  if (scan_.length() > kMaxHeaderList && !calmed_) {
    calm();
    events_->on_excess(telemetry::Limit::kHeaderList, header_list_too_long());
  }
}

void HboneSession::credit(std::uint64_t frames) {
  idle_credit_ = std::min(idle_credit_ + frames, kMaxIdleCredit);
}

void HboneSession::note_offence(std::uint32_t code, std::string_view words) {
  if (calmed_ || !offence_.empty()) {
    return;  // known, and better
  }
  overdone_ = code == NGHTTP2_ENHANCE_YOUR_CALM;
  const std::string_view text = words.empty() ? std::string_view(last_error_) : words;
  offence_ = fmt::format("the peer broke HTTP/2, {}{}{}", nghttp2_http2_strerror(code),
                         text.empty() ? "" : ": ", text);
}

void HboneSession::note_complaint(std::uint32_t code, std::string_view words) {
  if (code == NGHTTP2_NO_ERROR) {
    return;
  }
  complaint_ =
      fmt::format("the far agent ended the tunnel, {}{}{}", nghttp2_http2_strerror(code),
                  words.empty() ? "" : " " + quoted(words.substr(0, kMostWords)),
                  code == NGHTTP2_ENHANCE_YOUR_CALM ? ": a limit of its was exceeded" : "");
}

Status HboneSession::broken(int code) {
  const bool limit = code == NGHTTP2_ERR_FLOODED || code == NGHTTP2_ERR_TOO_MANY_CONTINUATIONS;
  if (!calmed_) {
    offence_ = code == NGHTTP2_ERR_BAD_CLIENT_MAGIC
                   ? "the peer does not begin with the HTTP/2 preface"
                   : fmt::format("the peer broke HTTP/2: {}", nghttp2_strerror(code));
    overdone_ = limit;
  }
  if (limit && !calmed_) {
    events_->on_limit_hit(telemetry::Limit::kFlood);
    calm();
  }
  pump();  // the GOAWAY
  return fail(ErrorCode::kInvalid, offence_);
}

void HboneSession::release(std::size_t size) {
  held_ -= size;
  const auto unreturned =
      static_cast<std::size_t>(nghttp2_session_get_effective_recv_data_length(session_));
  // What can still come is never worth waiting for more than half of it.
  const std::size_t room = kConnectionWindow - std::min<std::size_t>(held_, kConnectionWindow);
  const std::size_t enough = std::clamp<std::size_t>(room / 2, 1, kConnectionCredit);
  if (unreturned >= held_ + enough) {
    nghttp2_submit_window_update(session_, NGHTTP2_FLAG_NONE, 0,
                                 static_cast<std::int32_t>(unreturned - held_));
  }
}

bool HboneSession::wants_write() const { return nghttp2_session_want_write(session_) != 0; }

bool HboneSession::over() const {
  return nghttp2_session_want_read(session_) == 0 && !wants_write();
}

bool HboneSession::has_live_streams() const {
  return std::any_of(streams_.begin(), streams_.end(),
                     [](const auto& entry) { return !entry.second->closed_; });
}

void HboneSession::gather() {
  if (++gathered_ < kGatherWrites || receiving_ || pumping_) {
    events_->on_output_waiting();
    return;
  }
  pump();
}

void HboneSession::pump() {
  if (receiving_ || pumping_) {
    pump_again_ = true;
    return;
  }
  pumping_ = true;
  gathered_ = 0;
  do {
    pump_again_ = false;
    while (events_->writable()) {
      const std::uint8_t* data = nullptr;
      const ssize_t size = nghttp2_session_mem_send(session_, &data);
      if (size <= 0) {
        break;
      }
      stage({data, static_cast<std::size_t>(size)});
    }
    flush_stage();
  } while (pump_again_);
  pumping_ = false;
  events_->on_output_done();
  notify_drained();
}

void HboneSession::put_data(const HboneStream& stream, const std::uint8_t* frame_header,
                            std::size_t size) {
  if (size == 0) {
    stage({frame_header, kFrameHeader});
    return;
  }
  // The header goes into the bytes before the payload: headroom, or payload already sent.
  const Bytes payload = stream.sendable().first(size);
  auto* start = const_cast<std::uint8_t*>(payload.data()) - kFrameHeader;
  std::memcpy(start, frame_header, kFrameHeader);
  const MutableBytes whole(start, kFrameHeader + size);
  if (whole.size() <= kSmallFrame) {
    stage(whole);
  } else {
    flush_stage();
    events_->on_output(whole);
  }
}

void HboneSession::stage(Bytes frame) {
  if (stage_.size() + frame.size() > 2 * kSmallFrame) {
    flush_stage();
  }
  stage_.insert(stage_.end(), frame.begin(), frame.end());
}

void HboneSession::flush_stage() {
  if (!stage_.empty()) {
    events_->on_output(stage_);
    stage_.clear();
  }
}

void HboneSession::notify_drained() {
  while (!drained_.empty()) {
    const std::vector<std::int32_t> ids = std::exchange(drained_, {});
    for (const std::int32_t id : ids) {
      if (HboneStream* stream = find(id); stream != nullptr && stream->events_ != nullptr) {
        stream->events_->on_drained();
      }
    }
  }
}

HboneStream* HboneSession::find(std::int32_t id) const {
  const auto found = streams_.find(id);
  return found == streams_.end() ? nullptr : found->second;
}

int HboneSession::too_long(const HboneStream& stream) {
  if (!arriving_.contains(stream.id_)) {
    return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;  // trailers or a response: the stream ends
  }
  if (stream.header_bytes_ <= kHopelessHeaderList) {
    return 0;  // answered when it is complete
  }
  // References of one octet to a large field would cost far more here than to send.
  if (!calmed_) {
    calm();
    events_->on_excess(telemetry::Limit::kHeaderList, header_list_too_long());
  }
  return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
}

void HboneSession::detach(HboneStream& stream) {
  // The connection's window is everybody's: what nobody will read any more must not keep a part.
  release(std::exchange(stream.owed_, 0));
  streams_.erase(stream.id_);
  stream.session_ = nullptr;
}

void HboneSession::request_complete(HboneStream& stream) {
  const auto found = arriving_.find(stream.id_);
  if (found == arriving_.end()) {
    return;  // trailers
  }
  std::unique_ptr<HboneStream> owned = std::move(found->second);
  arriving_.erase(found);
  if (stream.header_bytes_ > kMaxHeaderList) {
    events_->on_excess(telemetry::Limit::kHeaderList, header_list_too_long());
    stream.respond(503);
    return;
  }
  if (stream.method_ != "CONNECT") {
    events_->on_malformed("the method is not CONNECT");
    stream.respond(400);
    return;
  }
  if (draining_) {
    nghttp2_submit_rst_stream(session_, NGHTTP2_FLAG_NONE, stream.id_, NGHTTP2_REFUSED_STREAM);
    detach(stream);
    events_->on_streams_changed();
    return;
  }
  ConnectRequest request = std::exchange(stream.request_, {});
  events_->on_streams_changed();
  events_->on_connect(std::move(owned), std::move(request));
}

void HboneSession::response_complete(HboneStream& stream) {
  ConnectEvents* events = stream.connect_events_;
  if (events == nullptr || (stream.status_ >= 100 && stream.status_ < 200)) {
    return;
  }
  stream.connect_events_ = nullptr;
  if (stream.status_ == 200) {
    events->on_connect_accepted();
    return;
  }
  events->on_connect_refused(
      stream.status_, false,
      {ErrorCode::kUnavailable,
       fmt::format("the far agent answered {}: {}", stream.status_, meaning(stream.status_))});
}

void HboneSession::closed(std::int32_t id, std::uint32_t code) {
  HboneStream* stream = find(id);
  if (stream == nullptr) {
    return;
  }
  stream->closed_ = true;
  // Closed by both ends' END_STREAM: the last bytes, or on_drained(), may still be on their way.
  if (code != NGHTTP2_NO_ERROR || !stream->end_received_ || !stream->end_sent_) {
    detach(*stream);
    const auto arriving = arriving_.extract(id);  // dies at the end of this block
    stream->end_with(
        {told_to_calm_ ? ErrorCode::kLimit : ErrorCode::kReset,
         fmt::format("{}: {}",
                     stream->offended_ ? "the stream was reset for what the far agent sent on it"
                                       : "the far agent reset the stream",
                     nghttp2_http2_strerror(code))},
        code == NGHTTP2_REFUSED_STREAM);
  }
  events_->on_streams_changed();
}

std::unique_ptr<HboneStream> HboneSession::connect(const ConnectRequest& request,
                                                   ConnectEvents* events) {
  auto stream = std::unique_ptr<HboneStream>(new HboneStream(this));
  stream->connect_events_ = events;
  std::vector<nghttp2_nv> headers{header(":method", "CONNECT"),
                                  header(":authority", request.authority)};
  const auto add = [&headers](std::string_view name, const std::string& value, std::uint8_t flags) {
    if (!value.empty()) {
      headers.push_back(header(name, value, flags));
    }
  };
  // Those that differ with every connection would only push the others out of the HPACK tables.
  add("forwarded", request.forwarded, NGHTTP2_NV_FLAG_NO_INDEX);
  add("baggage", request.baggage, NGHTTP2_NV_FLAG_NONE);
  add("traceparent", request.traceparent, NGHTTP2_NV_FLAG_NO_INDEX);
  const nghttp2_data_provider provider{{.ptr = nullptr}, &Callbacks::read_data};
  const std::int32_t id =
      nghttp2_submit_request(session_, nullptr, headers.data(), headers.size(), &provider, nullptr);
  if (id < 0) {
    return nullptr;  // stream ids used up: can_connect() is false from here on
  }
  stream->id_ = id;
  streams_[id] = stream.get();
  events_->on_output_waiting();
  return stream;
}

void HboneSession::submit_response(HboneStream& stream, int status) {
  const std::string text = std::to_string(status);
  const nghttp2_nv field = header(":status", text);
  const nghttp2_data_provider provider{{.ptr = nullptr}, &Callbacks::read_data};
  nghttp2_submit_response(session_, stream.id_, &field, 1, status == 200 ? &provider : nullptr);
  if (status != 200) {
    // No RST_STREAM(NO_ERROR) behind it: nghttp2 would send that instead of the answer. What the
    // peer still sends is dropped, and its streams are bounded.
    detach(stream);
    events_->on_streams_changed();
  }
  events_->on_output_waiting();
}

bool HboneSession::can_connect() const {
  // One request may go out with the handshake; a burst waits to hear how many the peer takes.
  if (!settled_ && !streams_.empty()) {
    return false;
  }
  const std::uint32_t theirs =
      nghttp2_session_get_remote_settings(session_, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS);
  return !draining_ && streams_.size() < std::min(kMaxStreamsOut, theirs) &&
         nghttp2_session_check_request_allowed(session_) != 0;
}

bool HboneSession::takes_none() const {
  return nghttp2_session_get_remote_settings(session_, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS) ==
         0;
}

void HboneSession::ping() {
  nghttp2_submit_ping(session_, NGHTTP2_FLAG_NONE, nullptr);
  events_->on_output_waiting();
}

void HboneSession::announce_end() {
  if (role_ == Role::kServer) {
    nghttp2_submit_shutdown_notice(session_);
  } else {
    draining_ = true;
    nghttp2_submit_goaway(session_, NGHTTP2_FLAG_NONE, 0, NGHTTP2_NO_ERROR, nullptr, 0);
  }
  events_->on_output_waiting();
}

void HboneSession::refuse_new() {
  draining_ = true;
  nghttp2_submit_goaway(session_, NGHTTP2_FLAG_NONE,
                        nghttp2_session_get_last_proc_stream_id(session_), NGHTTP2_NO_ERROR,
                        nullptr, 0);
  events_->on_output_waiting();
}

void HboneSession::calm() {
  calmed_ = true;
  draining_ = true;
  nghttp2_session_terminate_session(session_, NGHTTP2_ENHANCE_YOUR_CALM);
  events_->on_output_waiting();
}

void HboneSession::abandon(const Error& error) {
  draining_ = true;
  const auto streams = std::exchange(streams_, {});
  for (const auto& [id, stream] : streams) {
    stream->session_ = nullptr;
  }
  const auto arriving = std::exchange(arriving_, {});
  for (const auto& [id, stream] : streams) {
    // What has ended both ways may still be delivering, and needs no tunnel for that.
    if (!stream->end_received_ || !stream->end_sent_) {
      stream->end_with(error, false);
    }
  }
}

}  // namespace meshnode::proxy
