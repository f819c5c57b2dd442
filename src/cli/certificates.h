#pragma once
/// `meshnode ca init` and `meshnode ca issue`.

#include <meshnode/storage.h>
#include <meshnode/time.h>

#include "cli/arguments.h"
#include "cli/outcome.h"

namespace meshnode::cli {

/// DIR/ca.crt and DIR/ca.key (0600 in a 0700 directory); refuses to overwrite either.
Outcome ca_init(const Invocation& asked, Storage& storage, WallTime now);

/// CERTS/ca.crt, CERTS/NS/SA/tls.crt and tls.key (0600, directories 0700). Key and certificate are
/// replaced right after one another, the certificate last: a reader that sees one new and one old
/// sees a pair that does not match and keeps what it has until it looks again.
Outcome ca_issue(const Invocation& asked, Storage& storage, WallTime now);

}  // namespace meshnode::cli
