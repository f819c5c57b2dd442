// Anything in place of what ip(8) prints and how it ends: what is reported is what was asked for,
// and nothing is run but ip, within bounds.

#include "capture/routes.h"
#include "fuzz/input.h"

using namespace meshnode;
using namespace meshnode::capture;
using fuzz::Input;
using fuzz::require;

namespace {

constexpr std::size_t kMaxRuns = 100;

/// Answers as the input says, often with a line that ip would print.
class Liar final : public Kernel {
 public:
  explicit Liar(Input& in) : in_(in) {}

  Result<CommandResult> run(const std::vector<std::string>& argv, const std::string&) override {
    require(!argv.empty() && argv[0] == "ip" && ++runs_ < kMaxRuns);
    const std::uint8_t choice = in_.octet();
    if ((choice & 0x70U) == 0x10) return fail(ErrorCode::kUnavailable, "ip: not found");
    if ((choice & 0x70U) == 0x20) return fail(ErrorCode::kTimeout, "ip: no end");
    CommandResult result;
    if ((choice & 0x70U) == 0x30) result = {2, "", in_.text() + "\n"};
    if ((choice & 1) != 0) result.output += "50:\tfrom all fwmark 0x111/0xfff lookup 15006\n";
    if ((choice & 2) != 0) result.output += "local default dev lo scope host\n";
    if ((choice & 4) != 0) result.output += "local fd6d:6573:686e::/64 dev lo metric 1024\n";
    if ((choice & 8) != 0) result.output += in_.text();
    return result;
  }
  Result<std::string> read(const std::string& path) const override {
    return fail(ErrorCode::kNotFound, path);
  }
  Status write(const std::string& path, const std::string&) override {
    return fail(ErrorCode::kPermission, path);
  }
  Result<std::uint64_t> cgroup_inode(const std::string& path) const override {
    return fail(ErrorCode::kNotFound, path);
  }

 private:
  Input& in_;
  std::size_t runs_ = 0;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input in(data, size);
  const std::uint8_t what = in.octet();
  const Family family = (what & 1) != 0 ? Family::kV4 : Family::kV6;
  Liar kernel(in);
  Result<std::vector<std::string>> told = (what & 6) == 0 ? list_routes(kernel, family)
                                          : (what & 6) == 2
                                              ? remove_routes(kernel, family)
                                              : ensure_routes(kernel, family, (what & 8) != 0);
  if (!told) {
    require(!told.error().message.empty());
    return 0;
  }
  for (const std::string& line : *told) require(line.starts_with("ip -"));
  return 0;
}
