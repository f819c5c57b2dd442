#pragma once
/// The worker process: composition root, the only place that knows every room. It serves the
/// listeners its supervisor hands it, watches the configuration, and answers for its state.

#include <string>

namespace meshnode::agent {

struct WorkerOptions {
  std::string config_dir;
  std::string state_dir;
  std::string run_dir;
  int channel_fd = 3;  ///< supervisor/worker_link.h
};

/// Runs to the end of the process's work; the exit code.
int run_worker(const WorkerOptions& options);

}  // namespace meshnode::agent
