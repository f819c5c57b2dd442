/// Credentials and what sessions share in the process are used by every loop at once.

#include <atomic>
#include <catch2/catch.hpp>
#include <thread>

#include "tls/pair.h"

namespace meshnode::tls::test {
namespace {

TEST_CASE("several threads shake hands with the same credentials") {
  auto product = credential_for(kProduct);
  auto reviews = credential_for(kReviews);
  std::atomic<int> done = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 10; ++round) {
        Pair pair(product, reviews);
        pair.shake();
        if (pair.done() && pair.client.session->peer().identity == kReviews) ++done;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(done == 40);
}

}  // namespace
}  // namespace meshnode::tls::test
