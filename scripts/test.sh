#!/bin/bash
# Everything a change must pass, stage by stage, ending at the first stage that fails.
#
#   scripts/test.sh            the profile for every change: at most 25 minutes on two cores
#   scripts/test.sh --full     the whole amounts: all bytes and connections of the network tests,
#                              an hour's soak, a minute a fuzzer, clang-tidy over everything, a
#                              full benchmark
#   scripts/test.sh [--full] STAGE...    only these stages (and the builds they need)
#
# Needs root: the network tests and the demo make namespaces and packet filter rules in them. The
# host's own network is never touched. Logs are in build/logs/, one file a stage.
# MESHNODE_BASE names the commit that "changed" is measured from (default: where this branch left
# origin/main, else the previous commit). MESHNODE_SCALE overrides the amounts of the network tests.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
root=$PWD
exec </dev/null

die() {
  echo "test: $*" >&2
  exit 2
}

full=
only=()
for argument in "$@"; do
  case "$argument" in
    --full) full=1 ;;
    -h | --help)
      sed -n '2,15s/^# \{0,1\}//p' scripts/test.sh
      exit 0
      ;;
    -*) die "unknown option '$argument'; see --help" ;;
    *) only+=("$argument") ;;
  esac
done
[ "$(id -u)" = 0 ] || die "needs root, for network namespaces and packages: run this as root"

jobs=${MESHNODE_JOBS:-$(nproc)}
logs=$root/build/logs
mkdir -p "$logs"
scratch=$(mktemp -d "$root/build/tmp.XXXXXX")
export LC_ALL=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 HOME=${HOME:-$scratch}
export CCACHE_BASEDIR=$root CCACHE_NOHASHDIR=1
[ "$HOME" != "$scratch" ] || export CCACHE_DIR=${CCACHE_DIR:-$root/build/ccache}
python=/usr/bin/python3

# --- stages: each a function, run with set -e; count and skip speak for it -----------------------

count() { echo "$1 $2 ${3:-0}" >>"$scratch/count"; } # passed failed skipped
skip() { echo "$*" >>"$scratch/skip"; }

configure() { # tree, then cmake's options
  local tree=build/$1
  shift
  local launcher=()
  ! command -v ccache >/dev/null || launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
  cmake -S . -B "$tree" -G Ninja "${launcher[@]}" "$@"
}

# Counts test cases, not programs: what Catch2 printed, as ctest kept it.
run_ctest() { # tree, then ctest's options
  local tree=$1 status=0
  shift
  ctest --test-dir "$tree" --output-on-failure --no-tests=error -j "$jobs" "$@" || status=$?
  "$python" - "$tree/Testing/Temporary/LastTest.log" >>"$scratch/count" <<'PY'
import re, sys
text = open(sys.argv[1], errors="replace").read()
passed = sum(map(int, re.findall(r"All tests passed \(.* in (\d+) test cases?\)", text)))
failed = 0
for line in re.findall(r"^test cases: .*$", text, re.M):
    passed += sum(map(int, re.findall(r"(\d+) passed", line)))
    failed += sum(map(int, re.findall(r"(\d+) failed", line)))
print(passed, failed, 0)
PY
  return $status
}

run_pytest() { # paths and options
  local status=0
  "$python" -m pytest -p no:cacheprovider -ra --durations=5 "$@" | tee "$scratch/pytest" ||
    status=${PIPESTATUS[0]}
  "$python" - "$scratch/pytest" >>"$scratch/count" <<'PY'
import re, sys
last = [l for l in open(sys.argv[1], errors="replace") if re.search(r"\d+ \w+.* in [\d.]+s", l)]
words = {w: int(n) for n, w in re.findall(r"(\d+) (\w+)", last[-1] if last else "")}
print(words.get("passed", 0), words.get("failed", 0) + words.get("error", 0) +
      words.get("errors", 0), words.get("skipped", 0))
PY
  return "$status"
}

stage_setup() { scripts/setup.sh test; }

stage_release() {
  configure release -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_COMPILER=g++
  cmake --build build/release -j "$jobs"
}

stage_unit() { run_ctest build/release; }

stage_style() { run_pytest -q tests/style; }

stage_docs() { run_pytest -q tests/docs; }

stage_clang() {
  configure asan -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_COMPILER=clang++-14 \
    -DMESHNODE_SANITIZE=address,undefined -DMESHNODE_FUZZ=ON
  cmake --build build/asan -j "$jobs"
}

stage_asan() {
  ASAN_OPTIONS=detect_leaks=1:strict_string_checks=1 UBSAN_OPTIONS=print_stacktrace=1 \
    ASAN_SYMBOLIZER_PATH=/usr/bin/llvm-symbolizer-14 run_ctest build/asan
  # Hostile peers against the whole agent. Looking for leaks needs a process that can be traced,
  # which the worker is not: those are the unit tests'.
  local attacks=tests/adversarial/test_http2.py
  [ -z "$full" ] || attacks=tests/adversarial
  ASAN_OPTIONS=detect_leaks=0:strict_string_checks=1 UBSAN_OPTIONS=print_stacktrace=1 \
    ASAN_SYMBOLIZER_PATH=/usr/bin/llvm-symbolizer-14 \
    MESHNODE_SCALE=$([ -n "$full" ] && echo 0.1 || echo 0.02) \
    MESHNODE_BIN=$root/build/asan/meshnode run_pytest -q --numprocesses=2 "$attacks"
}

# What has threads, or hands work between them.
threaded='io|telemetry|proxy|supervisor|agent'

stage_tsan() {
  configure tsan -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_COMPILER=clang++-14 \
    -DMESHNODE_SANITIZE=thread
  local targets=() room
  for room in ${threaded//|/ }; do
    ! compgen -G "tests/$room/*_test.cc" >/dev/null || targets+=("${room}_test")
  done
  cmake --build build/tsan -j "$jobs" --target "${targets[@]}"
  # The shadow memory's place is fixed, and a kernel with much address randomisation takes it.
  TSAN_OPTIONS=second_deadlock_stack=1 \
    TSAN_SYMBOLIZER_PATH=/usr/bin/llvm-symbolizer-14 \
    setarch -R bash -c "$(declare -f run_ctest); scratch=$scratch jobs=$jobs python=$python
      run_ctest build/tsan -R '^($threaded)\$'"
}

base_commit() {
  local base=${MESHNODE_BASE:-}
  [ -n "$base" ] || base=$(git merge-base HEAD origin/main 2>/dev/null || true)
  if [ -z "$base" ] || [ "$base" = "$(git rev-parse HEAD)" ]; then
    base=$(git rev-parse -q --verify HEAD~1 || git hash-object -t tree /dev/null)
  fi
  echo "$base"
}

# The .cc files of src/ that changed, and those beside a header that changed.
changed_sources() {
  local file
  {
    git diff --name-only --diff-filter=d "$(base_commit)" -- src include
    git ls-files --others --exclude-standard -- src
  } | sed -n 's/\.\(cc\|h\)$//p' | sort -u | while read -r file; do
    [ ! -f "$file.cc" ] || echo "$file.cc"
  done
}

stage_tidy() {
  export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0=*
  local files
  if [ -n "$full" ] || ! git rev-parse -q --verify HEAD >/dev/null 2>&1; then
    mapfile -t files < <(find src -name '*.cc' | sort)
  else
    mapfile -t files < <(changed_sources)
  fi
  echo "clang-tidy: ${#files[@]} files"
  [ ${#files[@]} -gt 0 ] || {
    skip "no source file changed since $(base_commit | cut -c1-12)"
    return
  }
  printf '%s\0' "${files[@]}" |
    xargs -0 -n 1 -P "$jobs" clang-tidy-14 --quiet -p build/asan
  count ${#files[@]} 0
}

stage_fuzz() {
  local seconds=${MESHNODE_FUZZ_SECONDS:-$([ -n "$full" ] && echo 60 || echo 3)}
  local program name seed corpus status=0 passed=0 failed=0
  for program in build/asan/*_fuzz; do
    name=$(basename "$program" _fuzz)
    seed=$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')
    corpus=$root/build/asan/corpus/$name
    mkdir -p "$corpus" build/asan/findings
    echo "--- $name, $seconds s, seed $seed"
    if (cd "$scratch" && "$root/$program" -seed="$seed" -max_total_time="$seconds" -timeout=10 \
      -rss_limit_mb=2048 -print_final_stats=1 -verbosity=0 \
      -artifact_prefix="$root/build/asan/findings/$name-" "$corpus" \
      $(ls -d "$root/tests/fuzz/corpus/$name" 2>/dev/null)); then
      passed=$((passed + 1))
    else
      echo "again: $program <the artifact above>" && failed=$((failed + 1)) && status=1
    fi
  done
  count "$passed" "$failed"
  return $status
}

# How much of each decoder the committed corpora reach; fails below 90 % of lines.
stage_coverage() {
  export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0=*
  if [ -z "$full" ] && git rev-parse -q --verify HEAD >/dev/null 2>&1 &&
    [ -z "$(git diff --name-only "$(base_commit)" -- tests/fuzz \
      $(grep -v '^#' tests/fuzz/decoders.txt))" ]; then
    skip "no decoder and no fuzzer changed since $(base_commit | cut -c1-12)"
    return
  fi
  configure cov -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_COMPILER=clang++-14 -DMESHNODE_FUZZ=ON \
    -DMESHNODE_TESTS=OFF -DCMAKE_CXX_FLAGS="-fprofile-instr-generate -fcoverage-mapping"
  cmake --build build/cov -j "$jobs" --target fuzzers
  "$python" tests/fuzz/coverage.py build/cov
}

stage_netns() {
  # Most of these tests mostly wait: two at a time, but for the whole amounts, which are load.
  MESHNODE_SCALE=${MESHNODE_SCALE:-$([ -n "$full" ] && echo 1 || echo 0.02)} \
    MESHNODE_BIN=$root/build/release/meshnode \
    run_pytest -q $([ -n "$full" ] || echo --numprocesses=2 --dist=loadfile) tests/netns
}

stage_adversarial() {
  MESHNODE_SCALE=${MESHNODE_SCALE:-$([ -n "$full" ] && echo 1 || echo 0.02)} \
    MESHNODE_BIN=$root/build/release/meshnode run_pytest -q tests/adversarial
}

stage_soak() {
  MESHNODE_SCALE=${MESHNODE_SCALE:-$([ -n "$full" ] && echo 1 || echo 0.02)} \
    MESHNODE_BIN=$root/build/release/meshnode run_pytest -q -s tests/soak
}

stage_bench() {
  smoke=$([ -n "$full" ] || echo --smoke)
  bench/run.sh $smoke
  bench/scaling.sh $smoke
}

stage_demo() { MESHNODE_DEMO_FAST=1 scripts/demo.sh; }

# --- running them ---------------------------------------------------------------------------------

#      name     limit in seconds; --full has eight times as much
plan="setup    600
      release  1800
      unit     300
      style    60
      docs     120
      demo     180
      netns    600
      adversarial 300
      soak     600
      bench    300
      clang    1800
      asan     300
      fuzz     300
      coverage 1800
      tidy     900
      tsan     1800"

passed=0 failed=0 skipped=0 table="" current="" guard="" began=$(date +%s)

stop() {
  trap - EXIT INT TERM HUP
  local group
  for group in $current $guard; do kill -TERM -- "-$group" 2>/dev/null || true; done
  rm -rf "$scratch"
}
trap stop EXIT
trap 'echo "test: interrupted" >&2; exit 130' INT TERM HUP
set -m # each stage in a process group of its own, so that all of it can be ended

# Runs one stage; its seconds and counts go to the table, its outcome to `result`. Never call it in
# a condition: that would switch off set -e within the stage.
run_stage() { # name limit
  local name=$1 limit=$2 log=$logs/$1.log start status=0 verdict=passed note="" shown
  [ -z "$full" ] || limit=$((limit * 8))
  rm -f "$scratch/count" "$scratch/skip"
  : >"$log" # there before tail looks for it
  echo "=== $name"
  start=$(date +%s%N)
  (
    set -euo pipefail
    trap - EXIT
    "stage_$name"
  ) >"$log" 2>&1 </dev/null &
  current=$!
  tail -n +1 -s 0.3 --pid=$current -f "$log" &
  shown=$!
  (sleep "$limit" && echo "test: $name took more than $limit s" >>"$log" &&
    kill -TERM -- "-$current") &
  guard=$!
  wait "$current" || status=$?
  kill -TERM -- "-$guard" 2>/dev/null || true
  kill -TERM -- "-$current" 2>/dev/null || true # what a stage leaves behind
  wait "$shown" "$guard" 2>/dev/null || true
  current="" guard=""

  local p=0 f=0 s=0 a b c
  if [ -s "$scratch/count" ]; then
    while read -r a b c; do p=$((p + a)) f=$((f + b)) s=$((s + c)); done <"$scratch/count"
  fi
  if [ -s "$scratch/skip" ]; then
    verdict=SKIPPED note=$(tr '\n' ' ' <"$scratch/skip") s=$((s + 1))
    echo "!!! $name skipped: $note"
  elif [ $status -eq 0 ] && [ $((p + f + s)) -eq 0 ]; then
    p=1
  fi
  if [ $status -ne 0 ]; then
    verdict=FAILED note="exit $status, see build/logs/$name.log"
    [ $f -gt 0 ] || f=1
  fi
  passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
  table+=$(printf '%-11s %-8s %7.1f s %6d passed %4d failed %4d skipped  %s' "$name" "$verdict" \
    "$((($(date +%s%N) - start) / 100000000))e-1" "$p" "$f" "$s" "$note")$'\n'
  [ $status -eq 0 ] || result=1
}

wanted() { # name: also what a named stage is built on
  [ ${#only[@]} -gt 0 ] || return 0
  local name
  for name in "${only[@]}"; do
    case "$1:$name" in
      "$name:$name" | setup:* | clang:asan | clang:fuzz | clang:tidy) return 0 ;;
      release:unit | release:docs | release:demo | release:netns) return 0 ;;
      release:bench | release:adversarial | release:soak) return 0 ;;
    esac
  done
  return 1
}

main() { # a function, so that an edit of this file does not meet a run of it
  for name in "${only[@]}"; do
    grep -qw "$name" <<<"$(awk '{print $1}' <<<"$plan")" ||
      die "no stage '$name'; known: $(awk '{printf "%s ", $1}' <<<"$plan")"
  done

  while read -r name limit; do
    wanted "$name" || continue
    run_stage "$name" "$limit"
    [ $result -eq 0 ] || break
  done <<<"$plan"

  echo
  echo "=== summary, $(($(date +%s) - began)) s"
  printf '%s' "$table"
  [ $result -eq 0 ] || echo "The stages after $name did not run."
  [ $skipped -eq 0 ] && echo "$passed passed, $failed failed" ||
    echo "$passed passed, $failed failed, $skipped skipped"
}

result=0
main
exit $result
