#pragma once
/// A capture spec out of a fuzzer's decisions: valid throughout, or with something amiss anywhere.
/// Thread: values.

#include <string>

#include "capture/spec.h"
#include "fuzz/input.h"

namespace meshnode::fuzz {

inline std::string repeated(std::size_t size, char c = 'x') { return std::string(size, c); }

inline capture::Owner make_owner(Input& in, std::size_t index, bool valid) {
  const auto number = static_cast<std::uint32_t>(index + 1);
  const std::string mine = "w" + std::to_string(index);
  switch (in.up_to(4)) {
    case 0:
      return capture::ByUser{valid ? number : in.one_of({0U, 1U, 0xffffffffU})};
    case 1: {
      const std::string path = "batch.slice/" + mine;
      return capture::ByCgroup{
          valid ? path
                : in.one_of<std::string>({"", "/a", "a//b", "a/../b", "a\nb", "a/", repeated(511),
                                          repeated(512), in.text()})};
    }
    case 2: {
      const auto low = static_cast<std::uint8_t>(number);
      const auto high = static_cast<std::uint8_t>(number >> 8);
      const auto text = valid ? std::string()
                              : in.one_of<std::string>({"127.0.0.1", "::", "ff02::1", "fe80::1",
                                                        "10.0.0.1", "2001:db8::1"});
      return capture::ByAddress{valid ? IpAddress::v4({10, 1, high, low})
                                      : IpAddress::parse(text).value()};
    }
    case 3:
      return capture::ByNamespace{
          valid ? "/run/netns/" + mine
                : in.one_of<std::string>({"", "run/netns/a", "/", "/run/../a", in.text()}),
          0};
    default:
      return capture::ByNamespace{{}, valid ? number : in.one_of({0U, 4'194'304U, 4'194'305U})};
  }
}

inline capture::Enrolled make_workload(Input& in, std::size_t index, bool valid) {
  capture::Enrolled workload;
  workload.name = "n" + std::to_string(index % 3) + "/w" + std::to_string(index);
  workload.slot = static_cast<std::uint16_t>(index + 1);
  if (!valid) {
    workload.name = in.one_of<std::string>(
        {workload.name, "n0/w0", "", "a", "A/b", "a/\xff", "a/b\n-j", in.text()});
    workload.slot = in.one_of<std::uint16_t>({workload.slot, 0, 1, capture::kMaxSlot, 65'001});
  }
  workload.owner = make_owner(in, index, valid || in.flag());
  const std::size_t ports =
      valid ? in.up_to(3)
            : in.one_of<std::size_t>({0, 1, capture::kMaxPorts, capture::kMaxPorts + 1});
  for (std::size_t i = 0; i < ports; ++i) {
    const auto port = static_cast<std::uint16_t>(8000 + i);
    workload.ports.push_back(valid ? port : in.one_of<std::uint16_t>({port, 0, 8000, 15008}));
  }
  return workload;
}

/// Valid with `valid`; otherwise some parts still are.
inline capture::Spec make_spec(Input& in, bool valid) {
  capture::Spec spec;
  spec.capture_loopback = in.flag();
  spec.preserve_source = in.flag();
  const std::size_t many = capture::kMaxExcludes + (valid ? 0 : 1);
  const std::size_t ports = in.one_of<std::size_t>({0, 2, many});
  for (std::size_t i = 0; i < ports; ++i) {
    const auto port = static_cast<std::uint16_t>(1 + i);
    spec.exclude_ports.push_back(valid ? port : in.one_of<std::uint16_t>({port, 0, 22}));
  }
  const std::size_t prefixes = in.one_of<std::size_t>({0, 3, many});
  for (std::size_t i = 0; i < prefixes; ++i) {
    const std::string text = "10.0." + std::to_string(i) + ".0/24";
    spec.exclude_cidrs.push_back(
        IpPrefix::parse(valid ? text : in.one_of<std::string>({text, "fd00::/8", "0.0.0.0/6"}))
            .value());
  }
  const std::size_t workloads =
      in.one_of<std::size_t>({1, 3, 8, 0, capture::kMaxWorkloads + (valid ? 0 : 1)});
  for (std::size_t i = 0; i < workloads; ++i) {
    spec.workloads.push_back(make_workload(in, i, valid || i > 8 || in.flag()));
  }
  return spec;
}

}  // namespace meshnode::fuzz
