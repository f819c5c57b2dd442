/// Any bytes as a certificate: the identity found is one that parses from its own text, and a
/// refusal has a reason.

#include <cstdlib>

#include "tls/certificate.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  meshnode::Result<meshnode::SpiffeId> id = meshnode::tls::certificate_identity({data, size});
  if (!id) {
    if (id.error().message.empty()) std::abort();
    return 0;
  }
  meshnode::Result<meshnode::SpiffeId> again = meshnode::SpiffeId::parse(id->uri());
  if (!again || *again != *id) std::abort();
  return 0;
}
