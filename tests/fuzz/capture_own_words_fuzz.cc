// Rules that somebody made up in a network namespace of his own: what passes as ours is read here
// again as iptables-restore and getopt_long read it, and names no program, no module and no option
// that rules of ours do not have. The first octet says what the input is: a spec, whose rules all
// pass, with a few words put somewhere among them, or the text itself.

#include <meshnode/bytes.h>

#include <algorithm>

#include "capture/own_words.h"
#include "capture/rules.h"
#include "fuzz/capture_specs.h"

using namespace meshnode;
using namespace meshnode::capture;
using fuzz::Input;
using fuzz::require;

namespace {

/// As iptables-restore splits a line: blanks separate, quotes group and vanish.
std::vector<std::string> words_of(std::string_view line) {
  std::vector<std::string> words;
  std::string word;
  bool quoted = false;
  for (std::size_t i = 0; i < line.size(); ++i) {
    if (quoted && line[i] == '\\' && i + 1 < line.size()) {
      word += line[++i];
    } else if (line[i] == '"') {
      quoted = !quoted;
    } else if (!quoted && (line[i] == ' ' || line[i] == '\t')) {
      if (!word.empty()) words.push_back(std::exchange(word, {}));
    } else {
      word += line[i];
    }
  }
  if (!word.empty()) words.push_back(word);
  return words;
}

bool is_flag(std::string_view option) {
  return option == "--nowildcard" || option == "--transparent";
}

constexpr std::string_view kHarmless[] = {"-A",
                                          "-D",
                                          "-I",
                                          "-X",
                                          "-p",
                                          "-s",
                                          "-d",
                                          "-i",
                                          "-o",
                                          "--comment",
                                          "--ctdir",
                                          "--ctreplsrcport",
                                          "--ctstate",
                                          "--dport",
                                          "--dports",
                                          "--dst-type",
                                          "--mark",
                                          "--on-ip",
                                          "--on-port",
                                          "--path",
                                          "--reject-with",
                                          "--set-xmark",
                                          "--src-type",
                                          "--tcp-flags",
                                          "--to-destination",
                                          "--to-ports",
                                          "--tproxy-mark",
                                          "--uid-owner"};

bool is_name(std::string_view word) {
  return !word.empty() && word.find_first_of("./\\ ") == word.npos;
}

/// As getopt_long does: what is not the value of the option before it, and has a dash, is one.
void require_harmless(std::string_view line) {
  const std::vector<std::string> words = words_of(line);
  if (words.empty() || words[0].front() != '-') return;
  for (std::size_t i = 0; i < words.size(); ++i) {
    const std::string& word = words[i];
    if (word.size() < 2 || word[0] != '-' || is_flag(word)) continue;
    const std::string value = i + 1 < words.size() ? words[++i] : "";
    if (word == "-m" || word == "-j" || word == "-g") {
      require(is_name(value));
    } else {
      require(std::find(std::begin(kHarmless), std::end(kHarmless), word) != std::end(kHarmless));
    }
  }
}

void require_harmless_if_own(std::string_view text) {
  if (!in_own_words(text)) return;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    require_harmless(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
}

std::string rules_of(Input& in) {
  const Spec spec = fuzz::make_spec(in, true);
  HostFacts facts;
  facts.ipv6 = in.flag();
  facts.own_cgroup = in.one_of<std::string>({"", "system.slice/meshnode.service", R"(a\x2d "b")"});
  for (const Enrolled& workload : spec.workloads) {
    if (!std::holds_alternative<ByNamespace>(workload.owner)) continue;
    const Family family = in.flag() ? Family::kV4 : Family::kV6;
    return restore_text({}, rules(of_namespace(spec, workload), facts, family));
  }
  return "*filter\nCOMMIT\n";
}

void try_rules(Input& in) {
  std::string text = rules_of(in);
  require(in_own_words(text));
  for (std::size_t i = in.up_to(3); i > 0; --i) {
    const auto words =
        in.one_of<std::string>({"-m quota", "--modprobe=/x", "\"--modprobe=/x\"", "-M /x",
                                "\"-M\" /x", "-t nat", "\"-t\" nat", "-j LOG", "-m ../x", "\"a b\"",
                                "-", "\n-A MESHNODE_X -j DROP\n", in.text()});
    // Where a word ends, mostly.
    std::size_t at = text.find_first_of(" \n", in.up_to(text.size() - 1));
    if (at == text.npos || in.up_to(7) == 0) at = in.up_to(text.size() - 1);
    text.insert(at, " " + words);
  }
  require_harmless_if_own(text);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input in(data, size);
  if (in.octet() == 1) {
    try_rules(in);
  } else {
    require_harmless_if_own(as_text({data, size}));
  }
  return 0;
}
