#pragma once
/// The generators: each measures for `seconds` after `warmup`, prints one JSON line, and fails
/// the program when a connection that should have lived did not.

#include <netinet/in.h>

#include <cstdint>
#include <vector>

namespace meshnode::bench {

struct Options {
  sockaddr_in to{};
  double warmup = 1;    ///< seconds
  double seconds = 4;   ///< seconds
  int connections = 1;  ///< streams, or requests in flight
  double rate = 1000;   ///< requests a second, all connections together
  bool download = false;
  std::uint32_t request = 1024;   ///< bytes
  std::uint32_t response = 1024;  ///< bytes
  std::vector<int> watched;       ///< processes whose CPU time is reported
};

/// Bytes in one direction as fast as they go.
void bulk(const Options& options);

/// Requests over kept connections, each sent when its connection's last answer is in.
void saturate(const Options& options);

/// Requests over kept connections at `rate`, evenly spaced with jitter. Latency counts from the
/// moment a request was meant to be sent, so a stall is charged to every request it delayed.
void constant_rate(const Options& options);

/// A new connection for every request; the server closes it.
void connect_each(const Options& options);

/// Opens `connections`, exchanges one request on each, prints {"held":N}, then keeps them silent
/// until standard input ends, and checks that each still answers.
void hold(const Options& options);

/// One request on a new connection, tried again until it succeeds or `seconds` have passed.
void probe(const Options& options);

}  // namespace meshnode::bench
