#include <sys/stat.h>
#include <array>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "cli/certificates.h"
#include "cli/commands.h"
#include "cli/validate.h"
#include "io/file_storage.h"
#include "io/loop.h"
#include "tls/credential.h"

using namespace meshnode;
using namespace meshnode::cli;
namespace fs = std::filesystem;

namespace {

struct Directory {
  Directory() {
    std::string name = "/tmp/meshnode-cli-XXXXXX";
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path = name;
  }
  ~Directory() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
  std::string path;
};

unsigned mode_of(const std::string& path) {
  struct stat info {};
  REQUIRE(::stat(path.c_str(), &info) == 0);
  return info.st_mode & 07777U;
}

std::string content(const std::string& path) {
  std::ifstream in(path);
  return {std::istreambuf_iterator<char>(in), {}};
}

void put(const std::string& path, const std::string& text) { std::ofstream(path) << text; }

WallTime now() { return io::Loop().wall_now(); }

Invocation root_in(const std::string& directory) {
  Invocation asked;
  asked.ca_dir = directory;
  asked.trust_domain = "example.internal";
  asked.lifetime = std::chrono::hours(87'600);
  return asked;
}

Invocation leaf_for(const std::string& ca_dir, const std::string& out) {
  Invocation asked;
  asked.ca_dir = ca_dir;
  asked.ns = "bookinfo";
  asked.service_account = "reviews";
  asked.out = out;
  asked.lifetime = std::chrono::hours(24);
  return asked;
}

/// Answers every program with the same result.
class FakeKernel : public Kernel {
 public:
  Result<CommandResult> answer = CommandResult{};

  Result<CommandResult> run(const std::vector<std::string>&, const std::string&) override {
    return answer;
  }
  Result<std::string> read(const std::string& path) const override {
    return fail(ErrorCode::kNotFound, path + ": not there");
  }
  Status write(const std::string&, const std::string&) override { return {}; }
  Result<std::uint64_t> cgroup_inode(const std::string& path) const override {
    return fail(ErrorCode::kNotFound, path + ": not there");
  }
};

}  // namespace

TEST_CASE("a root and a leaf of it make a credential, in files of the right modes") {
  const Directory tree;
  io::FileStorage storage;
  const std::string ca = tree.path + "/ca";
  const std::string certs = tree.path + "/certs";
  const auto root = ca_init(root_in(ca), storage, now());
  INFO(root.err);
  REQUIRE(root.exit_code == 0);
  CHECK(mode_of(ca) == 0700U);
  CHECK(mode_of(ca + "/ca.key") == 0600U);
  CHECK(mode_of(ca + "/ca.crt") == 0644U);

  const auto leaf = ca_issue(leaf_for(ca, certs), storage, now());
  INFO(leaf.err);
  REQUIRE(leaf.exit_code == 0);
  const std::string home = certs + "/bookinfo/reviews";
  CHECK(mode_of(certs) == 0700U);
  CHECK(mode_of(home) == 0700U);
  CHECK(mode_of(home + "/tls.key") == 0600U);
  const auto credential = tls::Credential::from_pem(
      content(home + "/tls.crt"), content(home + "/tls.key"), content(certs + "/ca.crt"), now());
  REQUIRE(credential);
  CHECK((*credential)->identity().uri() == "spiffe://example.internal/ns/bookinfo/sa/reviews");
  CHECK((*credential)->not_after() - now() > std::chrono::hours(23));
  CHECK(leaf.out.find(home + "/tls.key") != std::string::npos);
  CHECK(leaf.out.find("PRIVATE") == std::string::npos);
}

TEST_CASE("a root is never overwritten") {
  const Directory tree;
  io::FileStorage storage;
  REQUIRE(ca_init(root_in(tree.path), storage, now()).exit_code == 0);
  const std::string before = content(tree.path + "/ca.key");
  const auto again = ca_init(root_in(tree.path), storage, now());
  CHECK(again.exit_code == 1);
  CHECK(again.err.find("never overwritten") != std::string::npos);
  CHECK(content(tree.path + "/ca.key") == before);

  fs::remove(tree.path + "/ca.crt");
  CHECK(ca_init(root_in(tree.path), storage, now()).exit_code == 1);
  CHECK(content(tree.path + "/ca.key") == before);
}

TEST_CASE("issuing again renews in place and keeps the trusted roots") {
  const Directory tree;
  io::FileStorage storage;
  REQUIRE(ca_init(root_in(tree.path), storage, now()).exit_code == 0);
  const std::string certs = tree.path + "/certs";
  REQUIRE(ca_issue(leaf_for(tree.path, certs), storage, now()).exit_code == 0);
  const std::string first = content(certs + "/bookinfo/reviews/tls.crt");
  const std::string bundle = "# ours and another\n" + content(certs + "/ca.crt");
  put(certs + "/ca.crt", bundle);
  REQUIRE(ca_issue(leaf_for(tree.path, certs), storage, now()).exit_code == 0);
  CHECK(content(certs + "/bookinfo/reviews/tls.crt") != first);
  CHECK(content(certs + "/ca.crt") == bundle);
}

TEST_CASE("a leaf of another root is not put beside roots that do not vouch for it") {
  const Directory tree;
  io::FileStorage storage;
  REQUIRE(ca_init(root_in(tree.path + "/one"), storage, now()).exit_code == 0);
  REQUIRE(ca_init(root_in(tree.path + "/two"), storage, now()).exit_code == 0);
  const std::string certs = tree.path + "/certs";
  REQUIRE(ca_issue(leaf_for(tree.path + "/one", certs), storage, now()).exit_code == 0);
  const std::string before = content(certs + "/bookinfo/reviews/tls.crt");
  const auto other = ca_issue(leaf_for(tree.path + "/two", certs), storage, now());
  CHECK(other.exit_code == 1);
  CHECK(other.err.find("holds another root") != std::string::npos);
  CHECK(content(certs + "/bookinfo/reviews/tls.crt") == before);
}

TEST_CASE("bad names and missing roots are refused with the next step") {
  const Directory tree;
  io::FileStorage storage;
  auto bad_domain = root_in(tree.path + "/x");
  bad_domain.trust_domain = "Not A Domain";
  const auto refused = ca_init(bad_domain, storage, now());
  CHECK(refused.exit_code == 1);
  CHECK(refused.err.find("--trust-domain") != std::string::npos);
  CHECK_FALSE(fs::exists(tree.path + "/x"));

  CHECK(ca_issue(leaf_for(tree.path + "/none", tree.path), storage, now())
            .err.find("meshnode ca init") != std::string::npos);
  REQUIRE(ca_init(root_in(tree.path), storage, now()).exit_code == 0);
  for (const char* name : {"../../etc", "Upper", "a.b", "", "a/b"}) {
    auto asked = leaf_for(tree.path, tree.path + "/certs");
    asked.ns = name;
    CHECK(ca_issue(asked, storage, now()).exit_code == 1);
    asked.ns = "bookinfo";
    asked.service_account = name;
    CHECK(ca_issue(asked, storage, now()).exit_code == 1);
  }
  CHECK_FALSE(fs::exists(tree.path + "/certs"));
}

TEST_CASE("validate prints file, line, column and reason for each mistake") {
  const Directory tree;
  const io::FileStorage storage;
  const std::string good = tree.path + "/good.yaml";
  put(good,
      "apiVersion: meshnode.io/v1\nkind: Workload\nmetadata: {name: a, namespace: b}\n"
      "spec:\n  match: {user: www}\n  ports: [{name: http, port: 9080}]\n");
  const auto clean = validate_files({good}, storage, Output::kText);
  INFO(clean.out << clean.err);
  CHECK(clean.exit_code == 0);
  CHECK(clean.out == "1 resource in 1 file, all good\n");

  const std::string bad = tree.path + "/bad.yaml";
  put(bad, "apiVersion: meshnode.io/v1\nkind: Workload\nmetadata: {name: a}\nspec:\n  colour: 1\n");
  const auto mistakes = validate_files({bad}, storage, Output::kText);
  CHECK(mistakes.exit_code == 1);
  CHECK(mistakes.out.find(bad + ":5:") == 0);
  CHECK(mistakes.err.empty());
}

TEST_CASE("validate -o json has the same findings with their places") {
  const Directory tree;
  const io::FileStorage storage;
  const std::string file = tree.path + "/bad\xff.yaml";
  put(file,
      "apiVersion: meshnode.io/v1\nkind: Node\nmetadata: {name: n}\n---\n"
      "apiVersion: meshnode.io/v1\nkind: Workload\nmetadata: {name: a}\nspec:\n  colour: 1\n");
  const auto outcome = validate_files({file}, storage, Output::kJson);
  CHECK(outcome.exit_code == 1);
  const auto json = nlohmann::json::parse(outcome.out);
  CHECK(json["accepted"] == 1);
  REQUIRE(json["findings"].size() >= 1);
  const auto& first = json["findings"][0];
  CHECK(first["file"] == tree.path + "/bad\xef\xbf\xbd.yaml");
  CHECK(first["line"] == 9);
  CHECK(first["column"] > 0);
  const auto text = validate_files({file}, storage, Output::kText).out;
  CHECK(text.find(first["reason"].get<std::string>()) != std::string::npos);
}

TEST_CASE("validate finds the same resource in two files") {
  const Directory tree;
  const io::FileStorage storage;
  for (const char* name : {"/a.yaml", "/b.yaml"}) {
    put(tree.path + name,
        std::string("apiVersion: meshnode.io/v1\nkind: Node\nmetadata: {name: ") + name[1] + "}\n");
  }
  const auto clash = validate_files({tree.path + "/a.yaml", tree.path + "/b.yaml"}, storage,
                                    Output::kText);
  CHECK(clash.exit_code == 1);
  CHECK(clash.out.find(tree.path + "/b.yaml:") == 0);
}

TEST_CASE("validate says when it cannot read, and when a file is too large") {
  const Directory tree;
  const io::FileStorage storage;
  const auto missing = validate_files({tree.path + "/none.yaml"}, storage, Output::kText);
  CHECK(missing.exit_code != 0);
  CHECK(missing.err.find("meshnode: validate: ") == 0);
  put(tree.path + "/big.yaml", std::string(3 << 20, '#'));
  const auto large = validate_files({tree.path + "/big.yaml"}, storage, Output::kText);
  CHECK(large.exit_code == 1);
  CHECK(large.out.find(tree.path + "/big.yaml:") == 0);
}

TEST_CASE("capture commands report what the kernel says") {
  FakeKernel kernel;
  kernel.answer = fail(ErrorCode::kUnavailable, "iptables: not found");
  const auto nowhere = [](const CapturePlaces::Visit&) {};
  const auto shown = capture_show({kernel, nowhere, "1"}, Output::kText);
  const auto removed = capture_remove({kernel, nowhere, "1"});
  for (const auto& outcome : {shown, removed}) {
    CHECK(outcome.exit_code == 2);
    CHECK(outcome.err.find("meshnode: capture ") == 0);
    CHECK(outcome.err.find("; ") != std::string::npos);
  }
}
