#include "supervisor/rules.h"

#include <catch2/catch.hpp>

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
