#pragma once
/// One YAML document to one typed resource: strict, every mistake named by place. Thread: pure.

#include <optional>
#include <string>
#include <vector>
#include "model/resources.h"
#include "model/yaml.h"

namespace meshnode::model {

struct Decoded {
  /// Set whenever kind and name could be read, also when the rest was refused.
  std::optional<ResourceKey> key;
  /// Set if and only if there are no errors.
  std::optional<Resource> resource;
  std::vector<TextError> errors;  ///< at most Diagnostics::kMaxDiagnostics
};

/// `file` is recorded as the resource's origin.
Decoded decode(const Value& document, const std::string& file);

}  // namespace meshnode::model
