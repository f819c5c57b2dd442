#pragma once
/// The spec decoders behind model/decode.h, one per kind. Each reports its mistakes to `out`; its
/// result is used only if none were reported. Thread: pure.

#include <vector>
#include "model/fields.h"
#include "model/resources.h"

namespace meshnode::model {

NodeSpec decode_node(const Value& spec, Diagnostics& out);
WorkloadSpec decode_workload(const Value& spec, Diagnostics& out);
ServiceSpec decode_service(const Value& spec, Diagnostics& out);
ServiceEntrySpec decode_service_entry(const Value& spec, Diagnostics& out);
WorkloadEntrySpec decode_workload_entry(const Value& spec, const Labels& metadata_labels,
                                        Diagnostics& out);

/// spec.proxy of a Node.
void decode_proxy(NodeSpec& node, Fields& spec, Diagnostics& out);
/// Ports that belong to the host's SSH or to meshnode itself (design §1, §3).
bool is_reserved_port(std::uint16_t port);
/// region[/zone[/subzone]] or empty.
std::string decode_locality(Fields& fields, std::string_view key);
/// A DNS label, "default" when absent.
std::string decode_service_account(Fields& fields);

}  // namespace meshnode::model
