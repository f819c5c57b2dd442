#pragma once
/// Labels and what selects by them. Thread: values.

#include <algorithm>
#include <map>
#include <string>

namespace meshnode::model {

using Labels = std::map<std::string, std::string>;

/// Whether `labels` has all of `selector` (matchLabels). An empty selector selects everything.
inline bool selects(const Labels& selector, const Labels& labels) {
  return std::includes(labels.begin(), labels.end(), selector.begin(), selector.end());
}

}  // namespace meshnode::model
