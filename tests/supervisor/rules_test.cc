#include "supervisor/rules.h"

#include <catch2/catch.hpp>

#include "capture/fake_kernel.h"

using namespace meshnode;
using namespace meshnode::supervisor;

namespace {

/// A host where every program fails in the same way.
class BrokenKernel : public Kernel {
 public:
  int runs = 0;
  std::string reason = "iptables-save: not found on this host";

  Result<CommandResult> run(const std::vector<std::string>&, const std::string&) override {
    ++runs;
    return fail(ErrorCode::kUnavailable, reason);
  }
  Result<std::string> read(const std::string& path) const override {
    return fail(ErrorCode::kNotFound, path + ": not there");
  }
  Status write(const std::string& path, const std::string&) override {
    return fail(ErrorCode::kPermission, path + ": not allowed");
  }
  Result<std::uint64_t> cgroup_inode(const std::string& path) const override {
    return fail(ErrorCode::kNotFound, path + ": not there");
  }
};

capture::Spec one_user() {
  capture::Spec spec;
  spec.workloads.push_back({"bookinfo/web", 1, capture::ByUser{1000}, {9080}});
  return spec;
}

}  // namespace

TEST_CASE("without a worker's wish the kernel is left as it is") {
  BrokenKernel kernel;
  Rules rules(kernel);
  CHECK_FALSE(rules.refresh());
  CHECK_FALSE(rules.settled());
  CHECK(rules.release());
  CHECK(kernel.runs == 0);
}

TEST_CASE("rules that cannot be brought about are reported once, with the reason, and retried") {
  BrokenKernel kernel;
  Rules rules(kernel);
  rules.want(one_user());
  CHECK(rules.refresh());
  CHECK_FALSE(rules.report().ok);
  CHECK(rules.report().error.find("not found on this host") != std::string::npos);
  CHECK_FALSE(rules.settled());
  const int runs = kernel.runs;
  CHECK_FALSE(rules.refresh());
  CHECK(kernel.runs > runs);
  kernel.reason = "iptables-save: out of memory";
  CHECK(rules.refresh());
  CHECK(rules.report().error.find("out of memory") != std::string::npos);
}

TEST_CASE("the slots asked for last are those to read connections by") {
  BrokenKernel kernel;
  Rules rules(kernel);
  CHECK(rules.steering() == Steering{});
  rules.steer(one_user(), 2);
  CHECK(rules.steering() == Steering{{{"bookinfo/web", 1}}, 2});
  rules.steer({}, 2);
  CHECK(rules.steering() == Steering{{}, 2});
}

TEST_CASE("rules of an earlier run say whom they steer, and a slot of two names is nobody's") {
  capture::test::FakeKernel kernel;
  {
    capture::Spec spec = one_user();
    spec.workloads.push_back({"shop/cart", 5, capture::ByUser{1001}, {}});
    capture::Applier earlier(kernel);
    REQUIRE(earlier.apply(spec));
  }
  Rules rules(kernel);
  REQUIRE(rules.recall());
  CHECK(rules.steering() == Steering{{{"bookinfo/web", 1}, {"shop/cart", 5}}, 6});

  auto& callers = kernel.chain("ip6tables", "nat", "MESHNODE_CALLERS");
  const std::size_t at = callers[0].text.find("shop/cart") != std::string::npos ? 0 : 1;
  callers[at].text.replace(callers[at].text.find("shop/cart"), 9, "shop/else");
  REQUIRE(rules.recall());
  CHECK(rules.steering() == Steering{{{"bookinfo/web", 1}}, 6});
}

TEST_CASE("a host that refuses to show its rules is not one without") {
  capture::test::FakeKernel kernel;
  kernel.denied = {"iptables-save"};
  Rules rules(kernel);
  CHECK_FALSE(rules.recall());
}
