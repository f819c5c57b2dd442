#include "cli/validate.h"

#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "model/config_set.h"

namespace meshnode::cli {
namespace {

// One octet more than a file may have, so that the model names its own limit.
constexpr std::uint64_t kReadLimit = (std::uint64_t{1} << 20) + 1;

std::string as_json(const std::vector<model::Rejection>& findings, std::size_t accepted) {
  nlohmann::json list = nlohmann::json::array();
  for (const model::Rejection& each : findings) {
    list.push_back({{"file", each.origin.file},
                    {"line", each.origin.line},
                    {"column", each.origin.column},
                    {"reason", each.message}});
  }
  return json_text({{"accepted", accepted}, {"findings", std::move(list)}});
}

std::string as_text(const std::vector<model::Rejection>& findings, std::size_t accepted,
                    std::size_t files) {
  if (findings.empty()) {
    return std::to_string(accepted) + (accepted == 1 ? " resource" : " resources") + " in " +
           std::to_string(files) + (files == 1 ? " file" : " files") + ", all good\n";
  }
  std::string lines;
  for (const model::Rejection& each : findings) lines += each.text() + "\n";
  return lines;
}

}  // namespace

Outcome validate_files(const std::vector<std::string>& files, const Storage& storage,
                       Output output) {
  model::ConfigSet together;
  std::vector<model::Rejection> findings;
  std::set<std::string> told;
  const auto tell = [&findings, &told](const model::Rejection& mistake) {
    if (told.insert(mistake.text()).second) findings.push_back(mistake);
  };
  for (const auto& file : files) {
    const auto text = storage.read(file, kReadLimit);
    if (!text) {
      if (text.error().code != ErrorCode::kLimit) {
        return complaint("validate", text.error(), "name a readable file");
      }
      tell({{file, 1, 1}, "", "", "", text.error().message});
      continue;
    }
    for (const auto& mistake : model::validate(file, *text)) tell(mistake);
    together.update(file, *text);
  }
  for (const auto& mistake : together.rejected()) tell(mistake);

  const std::size_t accepted = together.accepted().size();
  return {findings.empty() ? kDone : kNo,
          output == Output::kJson ? as_json(findings, accepted)
                                  : as_text(findings, accepted, files.size()),
          ""};
}

}  // namespace meshnode::cli
