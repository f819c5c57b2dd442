/// The benchmark's load tool: origin and generators in one program.
///   load serve PORT
///   load relay PORT ADDRESS:PORT
///   load bulk|saturate|rate|connect|hold|probe ADDRESS:PORT [--option value]...

#include <sys/prctl.h>
#include <sys/resource.h>

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <sstream>
#include <string>

#include "client.h"
#include "relay.h"
#include "server.h"
#include "sockets.h"

namespace {

using meshnode::bench::Options;

[[noreturn]] void usage() {
  std::fputs(
      "usage: load serve PORT\n"
      "       load relay PORT ADDRESS:PORT\n"
      "       load bulk|saturate|rate|connect|hold|probe ADDRESS:PORT [--warmup S] [--seconds S]\n"
      "            [--connections N] [--rate N] [--direction up|down] [--request BYTES]\n"
      "            [--response BYTES] [--watch PID,PID...]\n",
      stderr);
  std::exit(2);
}

std::vector<int> pids_in(const std::string& text) {
  std::vector<int> pids;
  std::istringstream list(text);
  for (std::string one; std::getline(list, one, ',');) pids.push_back(std::atoi(one.c_str()));
  return pids;
}

std::uint32_t to_size(const std::string& text) {
  return static_cast<std::uint32_t>(std::strtoul(text.c_str(), nullptr, 10));
}

Options parse(int argc, char** argv) {
  Options options;
  options.to = meshnode::bench::parse_address(argv[2]);
  const std::map<std::string, std::function<void(const std::string&)>> known{
      {"--warmup", [&](const std::string& v) { options.warmup = std::atof(v.c_str()); }},
      {"--seconds", [&](const std::string& v) { options.seconds = std::atof(v.c_str()); }},
      {"--connections", [&](const std::string& v) { options.connections = std::atoi(v.c_str()); }},
      {"--rate", [&](const std::string& v) { options.rate = std::atof(v.c_str()); }},
      {"--direction", [&](const std::string& v) { options.download = v == "down"; }},
      {"--request", [&](const std::string& v) { options.request = to_size(v); }},
      {"--response", [&](const std::string& v) { options.response = to_size(v); }},
      {"--watch", [&](const std::string& v) { options.watched = pids_in(v); }}};
  for (int i = 3; i < argc; i += 2) {
    const auto found = known.find(argv[i]);
    if (found == known.end() || i + 1 >= argc) usage();
    found->second(argv[i + 1]);
  }
  if (options.connections < 1 || options.rate <= 0 || options.request < 1) usage();
  return options;
}

void raise_descriptor_limit() {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) usage();
  raise_descriptor_limit();
  prctl(PR_SET_TIMERSLACK, 1UL);
  const std::string command = argv[1];
  if (command == "serve") {
    meshnode::bench::serve(static_cast<std::uint16_t>(std::atoi(argv[2])));
    return 0;
  }
  if (command == "relay") {
    if (argc != 4) usage();
    meshnode::bench::relay(static_cast<std::uint16_t>(std::atoi(argv[2])),
                           meshnode::bench::parse_address(argv[3]));
    return 0;
  }
  const std::map<std::string, void (*)(const Options&)> commands{
      {"bulk", meshnode::bench::bulk},          {"saturate", meshnode::bench::saturate},
      {"rate", meshnode::bench::constant_rate}, {"connect", meshnode::bench::connect_each},
      {"hold", meshnode::bench::hold},          {"probe", meshnode::bench::probe}};
  const auto found = commands.find(command);
  if (found == commands.end()) usage();
  found->second(parse(argc, argv));
  return 0;
}
