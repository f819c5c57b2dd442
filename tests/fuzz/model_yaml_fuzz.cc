/// Text of a configuration file: parsed, decoded, joined, saved and restored.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "model/catalog.h"
#include "model/config_set.h"

using meshnode::IpAddress;
using meshnode::model::ConfigSet;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  ConfigSet set;
  set.update("/a.yaml", text);
  for (const auto& rejection : set.rejected()) {
    if (rejection.message.empty() || rejection.origin.line == 0) std::abort();
  }
  const auto catalog = make_catalog(set.accepted(), {"fuzz", {IpAddress::v4({10, 77, 0, 1})}});
  for (const auto& route : catalog.routes) {
    for (const auto& endpoint : route.endpoints) {
      if (endpoint.member >= catalog.members.size()) std::abort();
    }
  }

  ConfigSet restarted;
  if (!restarted.restore(set.save())) std::abort();
  restarted.update_failed("/a.yaml", "gone");
  if (restarted.accepted().size() != set.accepted().size()) std::abort();
  for (std::size_t i = 0; i < set.accepted().size(); ++i) {
    if (!set.accepted()[i]->same_content(*restarted.accepted()[i])) std::abort();
  }
  return 0;
}
