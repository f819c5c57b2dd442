#include <nghttp2/nghttp2.h>

#include <algorithm>
#include <utility>

#include "proxy/hbone_session.h"

namespace meshnode::proxy {
namespace {

// Less than this is copied and sent together with what other streams have ready; more is framed
// and encrypted where it lies.
constexpr std::size_t kGatherBelow = 4096;
constexpr std::size_t kInboxChunk = std::size_t{64} * 1024;

}  // namespace

HboneStream::~HboneStream() {
  if (session_ == nullptr) {
    return;
  }
  HboneSession& session = *session_;
  session.detach(*this);
  if (!closed_) {
    nghttp2_submit_rst_stream(session.session_, NGHTTP2_FLAG_NONE, id_, NGHTTP2_CANCEL);
  }
  session.events_->on_streams_changed();
  session.events_->on_output_waiting();
}

Bytes HboneStream::sendable() const {
  if (!view_.empty()) {
    return view_;
  }
  return Bytes(waiting_).subspan(waiting_at_);
}

std::size_t HboneStream::queued() const {
  if (session_ == nullptr) {
    return 0;
  }
  return view_.size() + waiting_.size() - waiting_at_ + (shut_ && !end_sent_ ? 1 : 0);
}

void HboneStream::kick() {
  nghttp2_session_resume_data(session_->session_, id_);
  session_->events_->on_output_waiting();
}

void HboneStream::write(std::span<const Bytes> pieces) {
  if (session_ == nullptr || shut_) {
    return;
  }
  // Under steady back-pressure the buffer never runs empty: what has left must not pile up in it.
  if (waiting_at_ > kReadHeadroom && 2 * waiting_at_ >= waiting_.size() + kReadHeadroom) {
    const auto start = waiting_.begin() + static_cast<std::ptrdiff_t>(kReadHeadroom);
    waiting_.erase(start, waiting_.begin() + static_cast<std::ptrdiff_t>(waiting_at_));
    waiting_at_ = kReadHeadroom;
  }
  for (const Bytes piece : pieces) {
    if (waiting_.empty()) {
      waiting_.resize(kReadHeadroom);
      waiting_at_ = kReadHeadroom;
    }
    waiting_.insert(waiting_.end(), piece.begin(), piece.end());
  }
  was_queued_ = true;
  nghttp2_session_resume_data(session_->session_, id_);
  session_->gather();
}

void HboneStream::forward(MutableBytes data) {
  if (session_ == nullptr || shut_) {
    return;
  }
  if (data.size() > kGatherBelow && waiting_.empty() && !session_->pumping_ &&
      !session_->receiving_) {
    view_ = data;
    nghttp2_session_resume_data(session_->session_, id_);
    session_->pump();
    data = std::exchange(view_, {});
    if (data.empty() || session_ == nullptr) {
      return;
    }
  }
  const Bytes piece = data;
  write({&piece, 1});
}

void HboneStream::shutdown() {
  if (session_ == nullptr || shut_) {
    return;
  }
  shut_ = true;
  was_queued_ = true;
  kick();
}

void HboneStream::reset() {
  events_ = nullptr;
  if (session_ == nullptr) {
    return;
  }
  HboneSession& session = *session_;
  session.detach(*this);
  if (!closed_) {
    nghttp2_submit_rst_stream(session.session_, NGHTTP2_FLAG_NONE, id_, NGHTTP2_CONNECT_ERROR);
  }
  session.events_->on_streams_changed();
  session.events_->on_output_waiting();
}

void HboneStream::respond(int status) {
  if (session_ != nullptr) {
    session_->submit_response(*this, status);
  }
}

void HboneStream::start_reading() {
  reading_ = true;
  if (lost_ && events_ != nullptr) {
    const Error error = *std::exchange(lost_, std::nullopt);
    std::exchange(events_, nullptr)->on_error(error);
    return;
  }
  deliver();
}

void HboneStream::keep(Bytes data) {
  inbox_bytes_ += data.size();
  while (!data.empty()) {
    if (inbox_.empty() || inbox_.back().size() == inbox_.back().capacity()) {
      inbox_.emplace_back().reserve(kInboxChunk);
      inbox_.back().resize(kReadHeadroom);
    }
    std::vector<std::uint8_t>& last = inbox_.back();
    const std::size_t size = std::min(data.size(), last.capacity() - last.size());
    last.insert(last.end(), data.begin(), data.begin() + static_cast<std::ptrdiff_t>(size));
    data = data.subspan(size);
  }
}

void HboneStream::return_credit() {
  if (reading_ && session_ != nullptr && owed_ > inbox_bytes_) {
    nghttp2_session_consume_stream(session_->session_, id_, owed_ - inbox_bytes_);
    session_->release(owed_ - inbox_bytes_);
    owed_ = inbox_bytes_;
  }
}

void HboneStream::receive(MutableBytes data) {
  // Before, so that a stream that is reset within gives it back.
  owed_ += data.size();
  session_->hold(data.size());
  if (!reading_ || delivering_ || !inbox_.empty() || events_ == nullptr) {
    keep(data);
    return;
  }
  events_->on_data(data);
  return_credit();
}

void HboneStream::receive_end() {
  end_received_ = true;
  deliver();
}

void HboneStream::deliver() {
  if (delivering_ || !reading_ || events_ == nullptr) {
    return;
  }
  return_credit();  // who reads on has taken what came before
  delivering_ = true;
  while (!inbox_.empty() && reading_ && events_ != nullptr) {
    std::vector<std::uint8_t> chunk = std::move(inbox_.front());
    inbox_.pop_front();
    const MutableBytes data = MutableBytes(chunk).subspan(kReadHeadroom);
    inbox_bytes_ -= data.size();
    events_->on_data(data);
  }
  delivering_ = false;
  return_credit();
  if (session_ != nullptr) {
    session_->events_->on_output_waiting();
  }
  if (reading_ && end_received_ && !end_delivered_ && inbox_.empty() && events_ != nullptr) {
    end_delivered_ = true;
    events_->on_end();
  }
}

void HboneStream::end_with(const Error& error, bool unprocessed) {
  if (ConnectEvents* events = std::exchange(connect_events_, nullptr)) {
    events->on_connect_refused(0, unprocessed, error);
    return;
  }
  if (StreamEvents* events = std::exchange(events_, nullptr)) {
    events->on_error(error);
    return;
  }
  lost_ = error;  // for whoever will listen
}

}  // namespace meshnode::proxy
