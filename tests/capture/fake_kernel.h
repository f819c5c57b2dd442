#pragma once
/// A Kernel whose packet filter is a value: understands what restore_text() writes, table by table,
/// and the ip commands of capture/routes.h. Each fault is told it by the test. One thread.

#include <meshnode/kernel.h>
#include <algorithm>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "capture/save.h"

namespace meshnode::capture::test {

class FakeKernel : public Kernel {
 public:
  FakeKernel() {
    for (const char* family : {"iptables", "ip6tables"}) {
      filters_[family] = Saved{{{"raw", {{"PREROUTING", {}}, {"OUTPUT", {}}}},
                                {"mangle", {{"PREROUTING", {}}, {"OUTPUT", {}}}},
                                {"nat", {{"OUTPUT", {}}, {"POSTROUTING", {}}}},
                                {"filter", {{"INPUT", {}}, {"OUTPUT", {}}}}},
                               false};
    }
  }

  bool ipv6 = true;
  bool others = false;  ///< foreign()
  std::string own_cgroup = "/";
  std::map<std::string, std::uint64_t> cgroups;
  std::set<std::string> denied;  ///< programs that end with an error
  std::set<std::string> absent;  ///< programs that are not installed
  /// Asked before each table of each restore is committed; true refuses it.
  std::function<bool(const std::string& program, const std::string& table)> refuse;
  std::function<void()> after_restore;
  std::vector<std::string> ran;        ///< programs, in order
  std::vector<std::string> committed;  ///< "iptables nat", ...
  std::string waits;                   ///< for the lock, the last restore
  std::set<std::string> routing;       ///< what ip added

  Saved& filter(const std::string& family) { return filters_.at(family); }
  std::vector<Rule>& chain(const std::string& family, const std::string& table,
                           const std::string& name) {
    return find_chain(find_table(filters_.at(family), table), name)->rules;
  }
  std::size_t count(const std::string& program) const {
    return static_cast<std::size_t>(std::count(ran.begin(), ran.end(), program));
  }

  Result<CommandResult> run(const std::vector<std::string>& argv,
                            const std::string& input) override {
    ran.push_back(argv[0]);
    if (absent.contains(argv[0])) {
      return fail(ErrorCode::kUnavailable, argv[0] + ": not found");
    }
    if (denied.contains(argv[0])) return CommandResult{4, "", "you must be root"};
    if (argv[0] == "ip") return run_ip(argv, input);
    if (argv[0].find("-nft") != std::string::npos || argv[0].find("-legacy") != std::string::npos) {
      return CommandResult{};
    }
    const std::string family = argv[0].substr(0, argv[0].find('-'));
    if (argv[0].ends_with("-save")) return CommandResult{0, print(filters_.at(family)), ""};
    waits = argv.back();
    CommandResult result = restore(argv[0], filters_.at(family), input);
    if (after_restore) after_restore();
    return result;
  }
  bool foreign() const override { return others; }
  void prolong() override { ran.emplace_back("(prolonged)"); }
  Result<std::string> read(const std::string& path) const override {
    if (path == "/proc/self/cgroup") return "0::" + own_cgroup + "\n";
    if (path == "/proc/net/if_inet6" && ipv6) return std::string("00000001 01 80 10 80 lo\n");
    return fail(ErrorCode::kNotFound, path);
  }
  Status write(const std::string& path, const std::string&) override {
    return fail(ErrorCode::kPermission, path);
  }
  Result<std::uint64_t> cgroup_inode(const std::string& path) const override {
    const auto found = cgroups.find(path);
    if (found == cgroups.end()) return fail(ErrorCode::kNotFound, path);
    return found->second;
  }

  static std::string print(const Saved& saved) {
    std::string text;
    for (const Table& table : saved.tables) {
      text += "*" + table.name + "\n";
      for (const Chain& chain : table.chains) {
        text += ":" + chain.name + (is_ours(chain.name) ? " -" : " ACCEPT") + " [0:0]\n";
      }
      for (const Chain& chain : table.chains) {
        for (const Rule& rule : chain.rules) {
          text +=
              "[" + std::to_string(rule.packets) + ":0] -A " + chain.name + " " + rule.text + "\n";
        }
      }
      text += "COMMIT\n";
    }
    return text;
  }

 private:
  static Table& find_table(Saved& saved, const std::string& name) {
    for (Table& table : saved.tables) {
      if (table.name == name) return table;
    }
    return saved.tables.emplace_back(Table{name, {}});
  }
  static Chain* find_chain(Table& table, const std::string& name) {
    for (Chain& chain : table.chains) {
      if (chain.name == name) return &chain;
    }
    return nullptr;
  }

  static bool apply_line(Table& table, const std::string& line) {
    if (line[0] == ':') {
      const std::string name = line.substr(1, line.find(' ') - 1);
      if (Chain* chain = find_chain(table, name)) {
        chain->rules.clear();
      } else {
        table.chains.push_back({name, {}});
      }
      return true;
    }
    const std::string verb = line.substr(0, 2);
    const std::size_t space = std::min(line.find(' ', 3), line.size());
    const std::string name = line.substr(3, space - 3);
    std::string text = space < line.size() ? line.substr(space + 1) : "";
    Chain* chain = find_chain(table, name);
    if (chain == nullptr) return false;
    auto& rules = chain->rules;
    if (verb == "-A") rules.push_back({text, 0});
    if (verb == "-I") rules.insert(rules.begin(), {text.substr(2), 0});
    if (verb == "-D") {
      const auto found = std::find_if(rules.begin(), rules.end(),
                                      [&](const Rule& rule) { return rule.text == text; });
      if (found == rules.end()) return false;
      rules.erase(found);
    }
    if (verb == "-X") {
      if (!rules.empty()) return false;
      std::erase_if(table.chains, [&](const Chain& other) { return other.name == name; });
    }
    return true;
  }

  CommandResult restore(const std::string& program, Saved& saved, const std::string& input) {
    Saved work = saved;
    std::string table;
    std::size_t number = 0;
    for (std::size_t from = 0; from < input.size();) {
      const std::size_t end = input.find('\n', from);
      const std::string line = input.substr(from, end - from);
      from = end + 1;
      ++number;
      const CommandResult refused{2, "", program + ": line " + std::to_string(number) + " failed"};
      if (line[0] == '*') {
        table = line.substr(1);
        work = saved;
      } else if (line == "COMMIT") {
        if (refuse && refuse(program, table)) return refused;
        committed.push_back(program.substr(0, program.find('-')) + " " + table);
        saved = work;
      } else if (!apply_line(find_table(work, table), line)) {
        return refused;
      }
    }
    return {};
  }

  CommandResult run_ip(const std::vector<std::string>& argv, const std::string& input) {
    const std::string family = argv[1];
    if (!input.empty()) {
      std::string shown;
      for (const std::string& line : routing) {
        if (line.starts_with(family)) shown += line.substr(3) + "\n";
      }
      return {0, shown, ""};
    }
    const bool is_rule = argv[2] == "rule";
    const bool is_prefix = !is_rule && argv[5].find(':') != std::string::npos;
    std::string line = "default dev lo scope host";
    if (is_rule) line = "50:\tfrom all fwmark 0x111/0xfff lookup 15006";
    if (is_prefix) line = "fd6d:6573:686e::/64 dev lo metric 1024";
    if (argv[3] == "del" || argv[3] == "flush") {
      routing.erase(family + " " + line);
    } else {
      routing.insert(family + " " + line);
    }
    return {};
  }

  std::map<std::string, Saved> filters_;
};

}  // namespace meshnode::capture::test
