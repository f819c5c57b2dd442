#!/bin/sh
# Side by side: direct, a pair of bare relays (dialled, and captured), a HAProxy pair, a stunnel
# pair and meshnode, on this machine, in turns.
# Everything runs in private mount, PID and network namespaces, so it all ends with this script.
set -eu
usage() {
  cat <<'END'
usage: bench/run.sh [--smoke] [--rounds N] [--case NAME]... [--arms A,B,...] [--seconds S]
                    [--pin hosts|none] [--congestion plain|machine|NAME] [--haproxy-bufsize BYTES]
                    [--threads N] [--connections N] [--out DIRECTORY]
  --smoke    one tiny round of every case; fails when an arm fails, never because of a figure
  --case     a case or a prefix of its name: idle bulk-up-1 bulk-up-4 bulk-down-1 bulk-down-4
             rate saturation connect
  --congestion  TCP congestion control; plain: the machine's own unless it is bbr, then reno
  --threads  loops of a meshnode agent and threads of HAProxy; default 1
  --connections  instead of the cases' own number
  --out      where results.md and results.json go; default bench/, with --smoke build/bench-smoke/
MESHNODE_BIN names the binary; default build/release/meshnode. Needs root.
END
}
case " $* " in *" --help "* | *" -h "*) usage; exit 0 ;; esac
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
fail() { echo "bench/run.sh: $1" >&2; exit 2; }

[ "$(id -u)" = 0 ] || fail "needs root: it makes network namespaces; run it with sudo"
for tool in haproxy stunnel4 openssl ip nsenter setpriv taskset unshare ss; do
  command -v $tool >/dev/null || fail "$tool is not installed; run scripts/setup.sh"
done

MESHNODE_BIN=$(readlink -m "${MESHNODE_BIN:-$root/build/release/meshnode}")
export MESHNODE_BIN
export PYTHONDONTWRITEBYTECODE=1
load=$(dirname "$MESHNODE_BIN")/bench/meshnode_bench_load
work=$(mktemp -d /tmp/meshnode-bench.XXXXXX)
child=
finish() {
  # The first process of a PID namespace takes everything in it along.
  if [ -n "$child" ]; then
    kill -KILL "$child" 2>/dev/null || true
    wait "$child" 2>/dev/null || true
  fi
  rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

chmod 755 "$work"
if [ ! -x "$load" ] || [ -n "$(find "$here/load" -newer "$load" -name '*.*' | head -n 1)" ]; then
  load=$work/built
  "${CXX:-c++}" -std=c++20 -O2 -o "$load" "$here"/load/*.cc
fi
install -m 755 "$load" "$work/load"

cd "$here"
unshare --mount --pid --fork --kill-child --mount-proc \
  sh -c 'mount -t tmpfs none /run && mkdir /run/netns && exec "$@"' sh \
  /usr/bin/python3 -m side_by_side --work "$work" "$@" </dev/null &
child=$!
status=0
wait "$child" || status=$?
child=
exit "$status"
