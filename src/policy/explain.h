#pragma once
/// A decision in words, with who decided and where that is written. Thread: pure.

#include <string>
#include "policy/policies.h"

namespace meshnode::policy {

/// "denied by AuthorizationPolicy shop/no-lab rules[0] (/etc/meshnode/shop.yaml:12)". `mode` is the
/// port's.
std::string explain(const Decision& decision, const EffectiveMode& mode);
/// "PeerAuthentication shop/strict (/etc/meshnode/mtls.yaml:3)", or that there is none.
std::string describe(const ModeSource& source);
/// "STRICT".
std::string_view mode_name(model::PeerMode mode);

}  // namespace meshnode::policy
