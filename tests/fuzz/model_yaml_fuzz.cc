/// Text of configuration files: parsed, decoded, joined, saved and restored. A line "#then" ends
/// one version of a file: the second is another file's, the third the first file's next version.
#include <string>
#include <string_view>

#include "fuzz/input.h"
#include "model/catalog.h"
#include "model/config_set.h"

using meshnode::IpAddress;
using meshnode::fuzz::require;
using meshnode::model::ConfigSet;

namespace {

constexpr std::string_view kThen = "\n#then\n";

void check_rejections(ConfigSet& set) {
  for (const auto& rejection : set.rejected()) {
    require(!rejection.message.empty() && rejection.origin.line != 0);
    require(rejection.text().starts_with(rejection.origin.file));
  }
}

void check_catalog(ConfigSet& set) {
  const auto catalog = make_catalog(set.accepted(), {"fuzz", {IpAddress::v4({10, 77, 0, 1})}});
  for (const auto& route : catalog.routes) {
    for (const auto& endpoint : route.endpoints) {
      require(endpoint.member < catalog.members.size());
    }
  }
}

/// What is in force survives a restart beside broken files.
void check_restart(ConfigSet& set) {
  ConfigSet restarted;
  require(restarted.restore(set.save()).has_value());
  for (const char* path : {"/a.yaml", "/b.yaml"}) restarted.update_failed(path, "gone");
  require(restarted.accepted().size() == set.accepted().size());
  for (std::size_t i = 0; i < set.accepted().size(); ++i) {
    require(set.accepted()[i]->same_content(*restarted.accepted()[i]));
    require(set.accepted()[i]->origin.text() == restarted.accepted()[i]->origin.text());
  }
  ConfigSet adopted;
  require(adopted.restore(set.save()).has_value());
  static_cast<void>(adopted.adopt_saved());
  require(adopted.accepted().size() == set.accepted().size());
  require(adopted.save() == set.save());
}

/// The same text as what a predecessor saved.
void check_saved(std::string_view text) {
  ConfigSet set;
  if (!set.restore(text)) return;
  static_cast<void>(set.adopt_saved());
  ConfigSet again;
  require(again.restore(set.save()).has_value());
  static_cast<void>(again.adopt_saved());
  require(again.accepted().size() == set.accepted().size());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::string_view text = meshnode::as_text({data, size});
  check_saved(text);
  ConfigSet set;
  for (const char* path : {"/a.yaml", "/b.yaml", "/a.yaml"}) {
    const std::string_view part = text.substr(0, text.find(kThen));
    set.update(path, part);
    for (const auto& mistake : meshnode::model::validate(path, part)) {
      require(!mistake.message.empty() && mistake.origin.file == path);
    }
    if (part.size() == text.size()) break;
    text.remove_prefix(part.size() + kThen.size());
  }
  check_rejections(set);
  check_catalog(set);
  check_restart(set);
  set.remove("/a.yaml");
  set.remove("/b.yaml");
  require(set.accepted().empty());
  return 0;
}
