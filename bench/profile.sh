#!/bin/sh
# Where the CPU time of one arm's proxies goes while a case runs, a report for each host.
set -eu
usage() {
  cat <<'END'
usage: bench/profile.sh CASE [--arm NAME] [--seconds S] [--graph | --syscalls]
  CASE        as for bench/run.sh --case, e.g. bulk-up-1, rate, saturation, connect
  --arm       meshnode (default), haproxy or stunnel
  --graph     callers too: the binary should be built with -fno-omit-frame-pointer
  --syscalls  system calls by count and time, and per request or GB, instead of samples
MESHNODE_BIN names the binary; default build/release/meshnode. Needs root, perf and strace.
END
}
case "${1:-}" in '' | -*) usage; exit 2 ;; esac
here=$(cd "$(dirname "$0")" && pwd)
case_name=$1
shift
arm=meshnode
mode=samples
seconds=5
while [ $# -gt 0 ]; do
  case "$1" in
    --arm) arm=$2; shift ;;
    --seconds) seconds=$2; shift ;;
    --graph) mode=graph ;;
    --syscalls) mode=syscalls ;;
    *) usage; exit 2 ;;
  esac
  shift
done
for tool in perf strace; do
  command -v $tool >/dev/null || { echo "bench/profile.sh: $tool is not installed" >&2; exit 2; }
done
exec "$here/run.sh" --profile "$mode" --arms "$arm" --case "$case_name" --seconds "$seconds"
