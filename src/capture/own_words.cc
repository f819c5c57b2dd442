#include "capture/own_words.h"

#include <algorithm>
#include <array>
#include <optional>
#include <vector>

#include "capture/save.h"

namespace meshnode::capture {
namespace {

using Words = std::vector<std::string_view>;

constexpr std::array<std::string_view, 29> kOptions = {
    "-p",          "-s",        "-d",         "-i",           "-o",           "-m",
    "-j",          "-g",        "--comment",  "--ctdir",      "--ctreplsrcport", "--ctstate",
    "--dport",     "--dports",  "--dst-type", "--mark",       "--nowildcard", "--on-ip",
    "--on-port",   "--path",    "--reject-with", "--set-xmark", "--src-type", "--tcp-flags",
    "--to-destination", "--to-ports", "--tproxy-mark", "--transparent", "--uid-owner"};
constexpr std::array<std::string_view, 10> kMatches = {
    "tcp",     "multiport", "comment", "mark",   "connmark",
    "cgroup",  "conntrack", "owner",   "socket", "addrtype"};
constexpr std::array<std::string_view, 9> kTargets = {
    "TPROXY", "DNAT", "REDIRECT", "REJECT", "RETURN", "ACCEPT", "DROP", "MARK", "CONNMARK"};
constexpr std::string_view kPlain =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_./:,=!-[]*";

bool has(const auto& list, std::string_view word) {
  return std::find(list.begin(), list.end(), word) != list.end();
}

/// The closing quote of a word that begins with one; nothing when it is not there.
std::optional<std::size_t> end_of_quoted(std::string_view line) {
  for (std::size_t i = 1; i < line.size(); ++i) {
    if (line[i] < 0x20 || line[i] > 0x7e) return {};
    if (line[i] == '\\') {
      ++i;
    } else if (line[i] == '"') {
      return i;
    }
  }
  return {};
}

/// Quoted words are left as one word with their quotes; anything else is as plain as can be.
std::optional<Words> split(std::string_view line) {
  Words words;
  while (!line.empty()) {
    std::size_t size = line.find(' ');
    if (line.front() == '"') {
      const auto end = end_of_quoted(line);
      if (!end) return {};
      size = *end + 1;
    } else {
      size = std::min(size, line.size());
      if (size == 0 || line.substr(0, size).find_first_not_of(kPlain) != line.npos) return {};
    }
    words.push_back(line.substr(0, size));
    line.remove_prefix(size);
    if (line.empty()) return words;
    if (line.front() != ' ') return {};
    line.remove_prefix(1);
  }
  return {};
}

/// To the packet filter's tools an option in quotes is one as well.
bool hides_option(std::string_view quoted) {
  quoted.remove_prefix(quoted.starts_with("\"\\") ? 2 : 1);
  return quoted.starts_with('-');
}

/// A target that is no chain is looked for as a file of that name.
bool is_own_chain(std::string_view word) { return is_ours(word) && word.find('/') == word.npos; }

bool is_own_rule(const Words& words) {
  for (std::size_t i = 0; i < words.size(); ++i) {
    const std::string_view word = words[i];
    if (word.front() == '"' && hides_option(word)) return false;
    if (word.front() != '-') continue;
    if (!has(kOptions, word)) return false;
    const std::string_view value = i + 1 < words.size() ? words[i + 1] : std::string_view();
    if (word == "-m" && !has(kMatches, value)) return false;
    if ((word == "-j" || word == "-g") && !has(kTargets, value) && !is_own_chain(value))
      return false;
  }
  return true;
}

bool is_own_line(std::string_view line) {
  const auto words = split(line);
  if (!words) return false;
  const std::string_view first = words->front();
  if (first == "COMMIT") return words->size() == 1;
  if (first.front() == '*') return words->size() == 1;
  if (first.front() == ':') return words->size() == 3 && is_ours(first.substr(1));
  if (words->size() < 2 || words->at(1).front() == '-') return false;
  if (first == "-X") return words->size() == 2 && is_ours(words->at(1));
  if (first != "-A" && first != "-D" && first != "-I") return false;
  const auto begin = words->begin() + 2;
  const bool numbered = first == "-I" && begin != words->end() && *begin == "1";
  return is_own_rule(Words(numbered ? begin + 1 : begin, words->end()));
}

}  // namespace

bool in_own_words(std::string_view restore_text) {
  while (!restore_text.empty()) {
    const std::size_t end = std::min(restore_text.find('\n'), restore_text.size());
    if (!is_own_line(restore_text.substr(0, end))) return false;
    restore_text.remove_prefix(std::min(end + 1, restore_text.size()));
  }
  return true;
}

}  // namespace meshnode::capture
