#include "agent/superseded.h"

#include <catch2/catch.hpp>
#include <memory>

using namespace meshnode;
using namespace meshnode::agent;

TEST_CASE("a superseded snapshot is freed by its keeper and by nobody else") {
  Superseded superseded;
  auto of_a_loop = std::make_shared<const snapshot::Snapshot>();
  const std::weak_ptr<const snapshot::Snapshot> watched = of_a_loop;
  superseded.keep(of_a_loop);
  superseded.keep(nullptr);
  superseded.release();
  of_a_loop.reset();
  CHECK_FALSE(watched.expired());
  superseded.release();
  CHECK(watched.expired());
}
