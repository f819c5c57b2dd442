#!/bin/bash
# Three hosts, one mesh, in a minute: a shop, a web server and a database that know nothing of
# meshnode talk over a wire that is watched. Nothing of it remains.
#
#   scripts/demo.sh                    MESHNODE_DEMO_FAST=1: without the pauses for reading
#
# Each host is a network namespace with an address, an agent and programs of its own; a fourth
# namespace is the wire between them. The network of this machine is not touched. Needs root.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
exec </dev/null

die() {
  echo "demo: $*" >&2
  exit 1
}
[ "$(id -u)" = 0 ] || die "needs root, for network namespaces: run this as root"

# --- telling the story ----------------------------------------------------------------------------

bold="" dim="" green="" red="" plain=""
if [ -t 1 ]; then
  bold=$'\e[1m' dim=$'\e[2m' green=$'\e[32m' red=$'\e[31m' plain=$'\e[0m'
fi
steps=0
pause() { [ -n "${MESHNODE_DEMO_FAST:-}" ] || sleep "${1:-2}"; }
step() {
  pause 1
  steps=$((steps + 1))
  printf '\n%s%d. %s%s\n' "$bold" "$steps" "$*" "$plain"
}
say() { printf '   %s\n' "$@"; }
good() { printf '   %sok%s  %s\n' "$green" "$plain" "$*"; }
indent() { sed 's/^/     /' | cut -c "1-${COLUMNS:-160}"; }
bad() {
  printf '   %snot as it should be%s  %s\n' "$red" "$plain" "$*"
  for host in shop web store; do
    if [ -s "$work/$host/agent.log" ]; then
      echo "--- the last lines of the agent on $host" && tail -n 15 "$work/$host/agent.log"
    fi
  done
  exit 1
}
expect() { # what, then a command that must succeed
  local what=$1
  shift
  if "$@" >/dev/null 2>&1; then good "$what"; else bad "$what"; fi
}

# --- what there is, and how it goes away ----------------------------------------------------------

scripts/setup.sh demo
meshnode=${MESHNODE_BIN:-$PWD/build/release/meshnode}
if [ -z "${MESHNODE_BIN:-}" ]; then
  mkdir -p build
  echo "demo: building meshnode (build/release, log in build/demo-build.log)"
  launcher=()
  ! command -v ccache >/dev/null || launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
  { cmake -S . -B build/release -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_COMPILER=g++ \
    "${launcher[@]}" && cmake --build build/release --target meshnode; } \
    >build/demo-build.log 2>&1 || {
    tail -n 30 build/demo-build.log
    die "the build failed"
  }
fi
[ -x "$meshnode" ] || die "no program at $meshnode"

work=$(mktemp -d /tmp/meshnode-demo.XXXXXX)
chmod 755 "$work"
tag=mnd$$
hosts=(shop web store)
declare -A address=([shop]=10.77.0.1 [web]=10.77.0.2 [store]=10.77.0.3)
declare -A user=([shop]=61001 [web]=61002 [store]=61003 [stranger]=61004)
declare -A agent=()
namespaces=()

leave() {
  local status=$? namespace pids
  trap - EXIT
  set +e
  exec 2>/dev/null # the shell's own lines about what was killed
  for namespace in "${namespaces[@]}"; do
    pids=$(ip netns pids "$namespace" 2>/dev/null)
    [ -z "$pids" ] || kill -KILL $pids 2>/dev/null
  done
  wait 2>/dev/null
  for namespace in "${namespaces[@]}"; do ip netns del "$namespace" 2>/dev/null; done
  rm -rf "$work"
  exit $status
}
trap leave EXIT
trap 'exit 130' INT TERM HUP

# The words before a command that run it elsewhere: as a list, so that a command sent to the
# background is the program itself and $! its pid.
at_words() { words=(nsenter --net="/run/netns/$tag-$1" --); } # host
as_words() {                                                  # user host
  at_words "$2"
  words+=(setpriv --reuid="${user[$1]}" --regid="${user[$1]}" --clear-groups --no-new-privs --)
}
at() { # host, then a command run there by root
  local words
  at_words "$1"
  "${words[@]}" "${@:2}"
}
as() { # user, host, then a command run there by that user
  local words
  as_words "$1" "$2"
  "${words[@]}" "${@:3}"
}
typed() { # user@host, the command as it would be typed: shows it
  printf '   %s%s $%s %s\n' "$dim" "$1" "$plain" "$2"
}
until_true() { # seconds, then a command
  local tries=$(($1 * 10))
  shift
  while ! "$@" >/dev/null 2>&1; do
    tries=$((tries - 1))
    [ $tries -gt 0 ] || return 1
    sleep 0.1
  done
}

make_hosts() {
  namespaces+=("$tag-wire")
  ip netns add "$tag-wire"
  at wire ip link add br0 type bridge
  at wire ip link set br0 up
  local host
  for host in "${hosts[@]}"; do
    namespaces+=("$tag-$host")
    ip netns add "$tag-$host"
    at wire ip link add "$host" type veth peer name eth0 netns "$tag-$host"
    at wire ip link set "$host" master br0 up
    at "$host" ip link set lo up
    at "$host" ip address add "${address[$host]}/24" dev eth0
    at "$host" ip link set eth0 up
    mkdir -p "$work/$host"/{etc,state,run}
    mkdir -m 700 "$work/$host/app"
    chown "${user[$host]}" "$work/$host/app"
  done
}

start_programs() {
  cat >"$work/web/app/nginx.conf" <<NGINX
daemon off;
master_process off;
pid $work/web/app/nginx.pid;
error_log $work/web/app/error.log;
events {}
http {
  log_format caller '\$remote_addr asked for \$request_uri, answered \$status';
  access_log $work/web/app/access.log caller;
  client_body_temp_path $work/web/app/body;
  proxy_temp_path $work/web/app/proxy;
  fastcgi_temp_path $work/web/app/fastcgi;
  uwsgi_temp_path $work/web/app/uwsgi;
  scgi_temp_path $work/web/app/scgi;
  server {
    listen ${address[web]}:8080;
    location / { return 200 "price list, confidential: $secret\n"; }
  }
  server {
    listen ${address[web]}:2222;
    location / { return 200 "the administrator's own door, $secret\n"; }
  }
}
NGINX
  chmod 644 "$work/web/app/nginx.conf"
  local words
  as_words web web
  "${words[@]}" nginx -e "$work/web/app/error.log" -c "$work/web/app/nginx.conf" \
    >"$work/web/program.log" 2>&1 &
  as_words store store
  "${words[@]}" redis-server --bind "${address[store]}" --port 6379 --dir "$work/store/app" \
    --protected-mode no --save "" --appendonly no >"$work/store/program.log" 2>&1 &
  as_words stranger shop
  mkdir "$work/shop/door" && echo "the shop's host, at your service" >"$work/shop/door/index.html"
  "${words[@]}" /usr/bin/python3 -m http.server 2222 --bind "${address[shop]}" --directory \
    "$work/shop/door" >"$work/shop/door.log" 2>&1 &
  until_true 10 curl_door || die "the shop's door did not open: $(cat "$work/shop/door.log")"
  until_true 10 curl_web || die "nginx did not start: $(cat "$work/web/program.log")"
  until_true 10 redis PING || die "redis did not start: $(cat "$work/store/program.log")"
}

curl=(curl -sS --noproxy '*' -m 5)
curl_web() { as shop shop "${curl[@]}" "http://${address[web]}:8080/prices?$secret"; }
curl_admin() { as shop shop "${curl[@]}" "http://${address[web]}:2222/"; }
curl_door() { as stranger web "${curl[@]}" "http://${address[shop]}:2222/"; }
curl_stranger() { as stranger shop "${curl[@]}" "http://${address[web]}:8080/"; }
redis() { as shop shop timeout 5 redis-cli -h "${address[store]}" "$@" 2>&1; }
is_refused() { ! curl_web; }

watch_wire() { # name of the recording: everything that leaves or reaches the shop's host
  local words
  tcpdump_file=$work/$1.pcap
  at_words wire
  "${words[@]}" tcpdump -Z root -i shop -s 0 -U --immediate-mode -w "$tcpdump_file" tcp \
    2>"$work/tcpdump.log" &
  tcpdump_pid=$!
  until_true 10 grep -q 'listening on' "$work/tcpdump.log" ||
    die "tcpdump did not start: $(cat "$work/tcpdump.log")"
}
stop_watching() {
  sleep 0.5 # what was sent last is still on its way into the recording
  kill -TERM "$tcpdump_pid"
  wait "$tcpdump_pid" 2>/dev/null || true
}
readable() { (grep -a -o "$1" "$tcpdump_file" || true) | wc -l; }
packets() { tcpdump -nn -r "$tcpdump_file" "$1" 2>/dev/null | wc -l; }

configure() {
  "$meshnode" ca init "$work/ca" --trust-domain demo.internal >/dev/null
  local host
  cat >"$work/mesh.yaml" <<YAML
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: web-1, namespace: demo, labels: {app: web, networking.istio.io/tunnel: http}}
spec: {address: ${address[web]}, serviceAccount: web, ports: {http: 8080}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: store-1, namespace: demo, labels: {app: store, networking.istio.io/tunnel: http}}
spec: {address: ${address[store]}, serviceAccount: store, ports: {redis: 6379}}
YAML
  for host in "${hosts[@]}"; do
    "$meshnode" ca issue "$work/ca" --namespace demo --service-account "$host" \
      --out "$work/$host/etc/certs" >/dev/null
    cp "$work/mesh.yaml" "$work/$host/etc/"
    cat >"$work/$host/etc/host.yaml" <<YAML
apiVersion: meshnode.io/v1
kind: Node
metadata: {name: $host-host}
spec:
  address: ${address[$host]}
  trustDomain: demo.internal
  identity: {source: files, directory: $work/$host/etc/certs}
---
apiVersion: meshnode.io/v1
kind: Workload
metadata: {name: $host-1, namespace: demo, labels: {app: $host}}
spec:
  match: {user: "${user[$host]}"}
  serviceAccount: $host
  ports: ${ports[$host]}
YAML
    "$meshnode" validate "$work/$host/etc/host.yaml" "$work/$host/etc/mesh.yaml" >/dev/null ||
      die "the demo's own configuration is not valid"
  done
}

directories() { printf -- '--run-dir %s/%s/run' "$work" "$1"; }
start_agent() {
  local words
  at_words "$1"
  "${words[@]}" "$meshnode" agent --config-dir "$work/$1/etc" --state-dir "$work/$1/state" \
    --run-dir "$work/$1/run" >"$work/$1/agent.log" 2>&1 &
  agent[$1]=$!
}
is_ready() { at "$1" curl -fsS --noproxy '*' -m 2 http://127.0.0.1:15021/healthz/ready; }
status() { at "$1" "$meshnode" status --run-dir "$work/$1/run"; }
no_rules_left() { ! at "$1" iptables-save 2>/dev/null | grep -qi meshnode; }

# --- the story ------------------------------------------------------------------------------------

secret=mark$(od -An -N8 -tx1 /dev/urandom | tr -d ' \n')
declare -A ports=([shop]='[]' [web]='[{name: http, port: 8080, protocol: HTTP}]'
  [store]='[{name: redis, port: 6379}]')

make_hosts
start_programs

step "Three hosts, and programs that speak plainly"
say "shop   ${address[shop]}   curl and redis-cli, run by user ${user[shop]}" \
  "web    ${address[web]}   nginx on 8080, run by user ${user[web]}" \
  "store  ${address[store]}   redis on 6379, run by user ${user[store]}" \
  "Every price list and cart carries the mark $secret."
watch_wire before
typed "${user[shop]}@shop" "curl http://${address[web]}:8080/prices"
curl_web | indent
typed "${user[shop]}@shop" "redis-cli -h ${address[store]} set cart:42 ..."
redis SET cart:42 "$secret" | indent
stop_watching
say "What somebody on the wire reads:"
tr -c '[:print:]' '\n' <"$tcpdump_file" | grep -a "$secret" | indent
before=$(readable "$secret")
[ "$before" -gt 0 ] || bad "the wire was not recorded"
say "${bold}The mark is readable $before times.$plain"

step "meshnode on each host: two resources of its own, and one file that is the same on all"
configure
indent <"$work/web/etc/host.yaml"
say "and on every host:"
indent <"$work/mesh.yaml"
for host in "${hosts[@]}"; do start_agent "$host"; done
for host in "${hosts[@]}"; do
  until_true 20 is_ready "$host" || bad "the agent on $host is not ready after 20 s"
done
good "three agents are ready; the programs were not restarted and not reconfigured"
pause

step "meshnode status on each host"
for host in "${hosts[@]}"; do
  typed "root@$host" "meshnode status"
  status "$host" 2>&1 | indent || bad "status says that $host is degraded"
done
pause

step "The same commands again"
watch_wire after
typed "${user[shop]}@shop" "curl http://${address[web]}:8080/prices"
answer=$(curl_web) || bad "curl failed: $answer"
indent <<<"$answer"
[[ "$answer" == *"$secret"* ]] || bad "that is not nginx's answer"
typed "${user[shop]}@shop" "redis-cli -h ${address[store]} get cart:42"
answer=$(redis GET cart:42) || bad "redis-cli failed: $answer"
indent <<<"$answer"
[[ "$answer" == "$secret" ]] || bad "that is not what was stored"
client=$(redis CLIENT LIST | grep -o ' addr=[0-9.]*' | sort -u | head -n 1)
stop_watching
say "What somebody on the wire reads now:"
for port in 8080 6379 15008; do say "packets of port $port: $(packets "port $port")"; done
after=$(readable "$secret")
say "${bold}The mark is readable $after times.$plain" \
  "In clear are only the names in the TLS greeting, whose certificate the caller expects:"
(grep -a -o '[a-z]*\.demo\.sa\.demo\.internal' "$tcpdump_file" || true) | sort -u | indent
[ "$after" -eq 0 ] || bad "plaintext on the wire"
[ "$(packets 'port 8080 or port 6379')" -eq 0 ] || bad "packets beside the tunnel"
[ "$(packets 'port 15008')" -gt 0 ] || bad "no tunnel on the wire"
good "0 plaintext bytes of the mark"
pause

step "The servers still see who calls: the shop's own address, not a proxy's"
say "nginx's log:" && tail -n 1 "$work/web/app/access.log" | indent
say "redis' client list:" && indent <<<"$client"
tail -n 1 "$work/web/app/access.log" | grep -q "^${address[shop]} " || bad "another address"
[ "$client" = " addr=${address[shop]}" ] || bad "another address"
say "And meshnode knows the identity, from certificates, not from addresses:"
until_true 5 grep -q 'connection complete' "$work/web/agent.log" || bad "no access log"
grep 'connection complete' "$work/web/agent.log" | tail -n 1 |
  grep -o -E '(src|dst)\.identity="[^"]*"' | indent
pause

step "What is not enrolled is not touched"
watch_wire untouched
typed "${user[shop]}@shop" "curl http://${address[web]}:2222/    (a port nobody declared, like SSH)"
answer=$(curl_admin) || bad "curl failed: $answer"
indent <<<"$answer"
typed "${user[stranger]}@shop" "curl http://${address[web]}:8080/    (a user who is no workload)"
answer=$(curl_stranger) || bad "curl failed: $answer"
indent <<<"$answer"
stop_watching
[ "$(packets 'port 2222')" -gt 0 ] || bad "port 2222 did not go its own way"
[ "$(packets 'port 8080')" -gt 0 ] || bad "the stranger did not go its own way"
good "both went their own way, past every tunnel"
pause

step "kill -9 of supervisor and worker on shop: the door is closed, the host is not stranded"
victims="${agent[shop]} $(pgrep -P "${agent[shop]}" | tr '\n' ' ')"
typed "root@shop" "kill -9 $victims"
kill -KILL $victims
wait "${agent[shop]}" 2>/dev/null || true
typed "${user[shop]}@shop" "curl http://${address[web]}:8080/prices"
(curl_web 2>&1 || true) | indent
expect "the enrolled program is refused rather than sent out in the clear" is_refused
expect "whoever is not enrolled goes out as before" curl_stranger
expect "the host itself is still reached, like by SSH (port 2222 of shop)" curl_door
pause

step "One command gives the direct path back, without an agent"
typed "root@shop" "meshnode capture remove"
at shop "$meshnode" capture remove --state-dir "$work/shop/state" --run-dir "$work/shop/run" 2>&1 |
  indent
expect "no rule of ours is left on shop" no_rules_left shop
typed "${user[shop]}@shop" "curl http://${address[web]}:8080/prices"
answer=$(curl_web) || bad "curl failed: $answer"
indent <<<"$answer"
good "direct, as it was before meshnode"

step "systemctl stop does the same in good order (here: SIGTERM on web and store)"
kill -TERM "${agent[web]}" "${agent[store]}"
for host in web store; do
  until_true 20 no_rules_left "$host" || bad "rules are left on $host"
  good "no rule of ours is left on $host"
done
expect "nginx answers as before" curl_web
expect "redis answers as before" redis PING

printf '\n%s%d steps, everything as it should be.%s Namespaces, programs and files are gone.\n' \
  "$bold" "$steps" "$plain"
