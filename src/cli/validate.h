#pragma once
/// `meshnode validate`.

#include <meshnode/storage.h>
#include <string>
#include <vector>

#include "cli/arguments.h"
#include "cli/outcome.h"

namespace meshnode::cli {

/// One line "file:line:column: reason" for each mistake in the files and between them (the same
/// resource twice, two Nodes), or as JSON {accepted, findings[]{file, line, column, reason}};
/// exit 1 if there is one.
Outcome validate_files(const std::vector<std::string>& files, const Storage& storage,
                       Output output);

}  // namespace meshnode::cli
