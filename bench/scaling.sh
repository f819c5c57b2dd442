#!/bin/sh
# Throughput by loops and by connections, meshnode beside HAProxy: writes scaling.md.
set -eu
usage() {
  cat <<'END'
usage: bench/scaling.sh [--smoke] [--rounds N] [--seconds S] [--loops "1 2"]
                        [--connections "1 4 ..."] [--streams "1 4 ..."] [--out FILE]
  --loops        loops of an agent and threads of HAProxy, a table row each; default "1 2"
  --connections  kept connections of the 1 KB case at saturation
  --streams      streams of the bulk upload
  --out          default bench/scaling.md; with --smoke build/bench-smoke/scaling.md
Nothing is bound to a CPU: a second loop may use what the first leaves. MESHNODE_BIN as for run.sh.
END
}
here=$(cd "$(dirname "$0")" && pwd)
rounds=5 seconds=2 loops="1 2" connections="1 4 16 64 256 1024" streams="1 4 16 64"
out=$here/scaling.md
while [ $# -gt 0 ]; do
  case "$1" in
    --smoke)
      rounds=1 seconds=0.3 connections="2" streams="2"
      out=$(dirname "$here")/build/bench-smoke/scaling.md
      ;;
    --rounds) rounds=$2; shift ;;
    --seconds) seconds=$2; shift ;;
    --loops) loops=$2; shift ;;
    --connections) connections=$2; shift ;;
    --streams) streams=$2; shift ;;
    --out) out=$2; shift ;;
    *) usage; exit 2 ;;
  esac
  shift
done
work=$(mktemp -d /tmp/meshnode-scaling.XXXXXX)
trap 'rm -rf "$work"' EXIT
run() {
  "$here/run.sh" --pin none --arms haproxy,meshnode --rounds "$rounds" --seconds "$seconds" \
    "$@" >"$work/log" || { cat "$work/log" >&2; exit 1; }
  grep -E 'requests/s|Gbit/s' "$work/log" | tail -n 1
}
for n in $loops; do
  for c in $connections; do
    run --case saturation --threads "$n" --connections "$c" --out "$work/$n-saturation-$c"
  done
  for c in $streams; do
    run --case bulk-up-1 --threads "$n" --connections "$c" --out "$work/$n-bulk-$c"
  done
done
mkdir -p "$(dirname "$out")"
PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$here /usr/bin/python3 -m side_by_side.scaling "$work" "$out"
