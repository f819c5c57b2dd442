#include "cli/validate.h"

#include <set>

#include "model/config_set.h"

namespace meshnode::cli {
namespace {

// One octet more than a file may have, so that the model names its own limit.
constexpr std::uint64_t kReadLimit = (std::uint64_t{1} << 20) + 1;

}  // namespace

Outcome validate_files(const std::vector<std::string>& files, const Storage& storage) {
  model::ConfigSet together;
  std::vector<std::string> lines;
  std::set<std::string> told;
  const auto tell = [&lines, &told](const std::string& line) {
    if (told.insert(line).second) lines.push_back(line);
  };
  for (const auto& file : files) {
    const auto text = storage.read(file, kReadLimit);
    if (!text) {
      if (text.error().code != ErrorCode::kLimit) {
        return complaint("validate", text.error(), "name a readable file");
      }
      tell(file + ":1:1: " + text.error().message);
      continue;
    }
    for (const auto& mistake : model::validate(file, *text)) tell(mistake.text());
    together.update(file, *text);
  }
  for (const auto& mistake : together.rejected()) tell(mistake.text());

  Outcome outcome;
  outcome.exit_code = lines.empty() ? kDone : kNo;
  for (const auto& line : lines) outcome.out += line + "\n";
  if (lines.empty()) {
    const auto resources = together.accepted().size();
    outcome.out = std::to_string(resources) + (resources == 1 ? " resource" : " resources") +
                  " in " + std::to_string(files.size()) + (files.size() == 1 ? " file" : " files") +
                  ", all good\n";
  }
  return outcome;
}

}  // namespace meshnode::cli
