#!/bin/bash
# Installs what Debian 12 lacks to build, test, show and measure meshnode. Safe to run again: with
# everything in place it changes nothing, needs no root and takes well under a second.
#
#   scripts/setup.sh [build|demo|test|bench]...      without a group: all of them
set -euo pipefail

build=(ca-certificates g++ cmake ninja-build ccache pkg-config
  android-libboringssl-dev libuv1-dev libnghttp2-dev libyaml-dev libmnl-dev prometheus-cpp-dev
  nlohmann-json3-dev libexpected-dev libspdlog-dev libfmt-dev libcli11-dev libboost1.81-dev
  catch2 librapidcheck-dev iptables iproute2 procps util-linux)
demo=("${build[@]}" nginx-light redis-server redis-tools curl tcpdump jq conntrack python3)
bench=("${build[@]}" haproxy stunnel4 nginx-light wrk nghttp2-client iperf3 curl openssl jq
  tcpdump conntrack python3 python3-h2 python3-cryptography)
test=("${demo[@]}" "${bench[@]}" nftables ufw clang-14 clang-tidy-14 clang-format-14 llvm-14
  libclang-rt-14-dev git python3-pytest python3-pytest-xdist
  netcat-openbsd libcap2-bin faketime)
# Packages that would start a daemon of their own: wanted as programs only.
services=(redis-server nginx haproxy stunnel4 ufw)

die() {
  echo "setup: $*" >&2
  exit 1
}

wanted=()
for group in "${@:-test}"; do
  case "$group" in
    build) wanted+=("${build[@]}") ;;
    demo) wanted+=("${demo[@]}") ;;
    test) wanted+=("${test[@]}") ;;
    bench) wanted+=("${bench[@]}") ;;
    -h | --help)
      sed -n '2,5s/^# \{0,1\}//p' "$0"
      exit 0
      ;;
    *) die "no package group '$group'; known: build demo test bench" ;;
  esac
done

command -v dpkg-query >/dev/null || die "this is not a Debian: install the packages named in $0"

missing_of() {
  comm -23 <(printf '%s\n' "$@" | sort -u) \
    <(dpkg-query -W -f '${db:Status-Status} ${Package}\n' | sed -n 's/^installed //p' | sort -u)
}

mapfile -t missing < <(missing_of "${wanted[@]}")
if [ ${#missing[@]} -eq 0 ]; then
  echo "setup: everything is in place"
  exit 0
fi
echo "setup: to install: ${missing[*]}"
[ "$(id -u)" = 0 ] || die "installing needs root: run this as root"

if [[ " ${missing[*]} " == *" libboost1.81-dev "* ]] &&
  dpkg-query -W -f '${db:Status-Status}' libboost1.74-dev 2>/dev/null | grep -q '^installed'; then
  die "libboost1.74-dev is installed and cannot lie beside libboost1.81-dev, which meshnode
  needs; nothing was changed. Remove it (apt-get remove libboost1.74-dev) and run this again"
fi

export DEBIAN_FRONTEND=noninteractive LC_ALL=C
apt=(apt-get -y -q -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0)

candidates_known() {
  [ "$(apt-cache policy "${missing[@]}" | grep -c '^  Candidate: [^(]')" -eq ${#missing[@]} ]
}
updated=
candidates_known || {
  "${apt[@]}" update
  updated=1
}
candidates_known || die "the package lists lack some of: ${missing[*]};
  are Debian 12's 'main' sources configured?"

# Servers are installed as programs: the guard keeps their maintainer scripts from starting them.
guard=/usr/sbin/policy-rc.d
mark='# placed by meshnode scripts/setup.sh'
saved=
[ ! -e "$guard.meshnode-saved" ] || saved=$guard.meshnode-saved # of a run that was killed
restore_guard() {
  if [ -f "$guard" ] && grep -qxF "$mark" "$guard"; then rm -f "$guard"; fi
  if [ -n "$saved" ]; then mv "$saved" "$guard"; fi
}
if [ -e "$guard" ] && ! grep -qxF "$mark" "$guard"; then
  saved=$guard.meshnode-saved
  mv "$guard" "$saved"
fi
trap restore_guard EXIT
trap 'exit 130' INT TERM
printf '#!/bin/sh\n%s\nexit 101\n' "$mark" >"$guard"
chmod 755 "$guard"

install() { "${apt[@]}" install --no-install-recommends --no-remove "${missing[@]}" </dev/null; }
if ! install; then
  # Lists older than the archive name files that are gone; fresh ones cure that.
  [ -z "$updated" ] || die "apt-get could not install: ${missing[*]}; its messages are above"
  "${apt[@]}" update
  install || die "apt-get could not install: ${missing[*]}; its messages are above"
fi

for service in "${services[@]}"; do
  if [[ " ${missing[*]} " == *" $service"* ]] && command -v systemctl >/dev/null; then
    systemctl disable -q "$service.service" 2>/dev/null || true
  fi
done

mapfile -t missing < <(missing_of "${wanted[@]}")
[ ${#missing[@]} -eq 0 ] || die "still missing: ${missing[*]}"
echo "setup: done"
