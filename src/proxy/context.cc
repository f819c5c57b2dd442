#include "proxy/context.h"

namespace meshnode::proxy {
namespace {

// As much as one socket read brings, decrypted, and room for the last whole record.
constexpr std::size_t kPlaintext = std::size_t{288} * 1024;

}  // namespace

LoopBuffers::LoopBuffers() = default;

MutableBytes LoopBuffers::plaintext() {
  if (!plaintext_) {
    // for_overwrite: an idle loop must not pay for these pages.
    plaintext_ = std::make_unique_for_overwrite<std::uint8_t[]>(kReadHeadroom + kPlaintext);
  }
  return {plaintext_.get() + kReadHeadroom, kPlaintext};
}

telemetry::Flag dial_failed(ProxyContext& context, const SocketAddress& to, const Error& error) {
  if (error.code == ErrorCode::kTimeout) {
    context.metrics.hit(telemetry::Limit::kConnectTimeout).add();
  }
  if (error.code != ErrorCode::kLimit) {
    return telemetry::Flag::kConnect;
  }
  context.metrics.hit(telemetry::Limit::kSockets).add();
  context.reports.own_limit_reached(to.ip, error.message);
  return telemetry::Flag::kOverload;
}

telemetry::End end_of(const snapshot::Party& party) {
  telemetry::End end;
  end.workload = party.workload;
  end.ns = party.ns;
  end.app = party.app;
  end.version = party.version;
  end.canonical_service = party.canonical_service;
  end.canonical_revision = party.canonical_revision;
  end.cluster = party.cluster;
  end.region = party.region;
  end.zone = party.zone;
  return end;
}

}  // namespace meshnode::proxy
