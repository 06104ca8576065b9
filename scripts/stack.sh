# Sourced by the scripts that run the whole flow on one machine: sandbox, Kafka, order service, relay. Linux, bash 4.4
# or later. Everything it starts ends with the script.
#
#   SCYLLA=host:port   use this ScyllaDB instead of the sandbox
#   KAFKA=host:port    use this broker instead of one from Maven (no Java needed then), on a new topic each time
#   SCHEMA=plain       the layout that scatters an order's events, so that nothing promises their order
#   SCYLLA_PORT, ADMIN_PORT, KAFKA_PORT, ORDERS_PORT, RELAY_PORT   ports to listen on, when one is taken

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=${OUTBOX_CACHE:-$HOME/.cache/outbox-relay}
BIN=${CARGO_TARGET_DIR:-$ROOT/target}/debug
source "$ROOT/versions.env"
SCYLLA_PORT=${SCYLLA_PORT:-9042}
ADMIN_PORT=${ADMIN_PORT:-10000}
KAFKA_PORT=${KAFKA_PORT:-9092}
ORDERS_PORT=${ORDERS_PORT:-8080}
RELAY_PORT=${RELAY_PORT:-9090}
# Not empty: the part is the user's. It is not started here, and it may hold what earlier runs left.
OWN_SCYLLA=${SCYLLA:+no}
OWN_KAFKA=${KAFKA:+no}
TOPIC=${TOPIC:-order-events${OWN_KAFKA:+-$(date +%s)}}
SCHEMA=${SCHEMA:-ordered}
SCYLLA=${SCYLLA:-127.0.0.1:$SCYLLA_PORT}
KAFKA=${KAFKA:-127.0.0.1:$KAFKA_PORT}
ORDERS_URL=http://127.0.0.1:$ORDERS_PORT
RELAY_URL=http://127.0.0.1:$RELAY_PORT
export SCYLLA KAFKA SCHEMA

# What a person typed, for messages.
COMMAND=${COMMAND:-make $(basename "$0" .sh)}
# A start takes a second on a quiet machine.
START_SECONDS=60

declare -A PIDS

say() { printf '%s\n' "$*"; }

die() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}

listening() { (exec 3<>"/dev/tcp/$1/$2") 2>/dev/null; }

# A process that was just killed holds its port for some milliseconds more.
comes_free() {
  local try
  for try in {1..10}; do
    listening 127.0.0.1 "$1" || return 0
    sleep 0.1
  done
  return 1
}

# Ports are checked before anything is built.
check_ports() {
  local name port
  for name in SCYLLA_PORT ADMIN_PORT KAFKA_PORT ORDERS_PORT RELAY_PORT; do
    [[ $name != SCYLLA_PORT && $name != ADMIN_PORT || ! $OWN_SCYLLA ]] || continue
    [[ $name != KAFKA_PORT || ! $OWN_KAFKA ]] || continue
    port=${!name}
    comes_free "$port" || die "port $port is in use; choose another one, as in: $COMMAND $name=$((port + 1000))"
  done
}

build() {
  local tools=(rust build)
  [[ $OWN_KAFKA ]] || tools+=(java)
  [[ $OWN_KAFKA || -d $CACHE/kafka-$KAFKA_VERSION ]] || tools+=(maven)
  "$ROOT/scripts/need.sh" "${tools[@]}"
  # `make test` has built the programs already, for its own tests.
  if [[ ! ${BUILT:-} ]]; then
    say "building (the first time takes some minutes)"
    (cd "$ROOT" && cargo build --quiet -p outbox-relay -p outbox-sandbox -p orders --bins)
  fi
  [[ $OWN_KAFKA ]] || "$ROOT/scripts/kafka.sh" install
}

# A fresh directory for logs and data; everything that runs ends with the script.
open_stack() {
  RUN=$CACHE/run/$1
  [[ ! -d $RUN/kafka ]] || "$ROOT/scripts/kafka.sh" kill "$RUN/kafka" 2>/dev/null || true
  rm -rf "$RUN"
  mkdir -p "$RUN"
  trap close_stack EXIT
  trap 'exit 130' INT TERM
}

close_stack() {
  local name
  for name in "${!PIDS[@]}"; do stop "$name" KILL; done
  [[ $OWN_KAFKA || ! -d $RUN/kafka ]] || "$ROOT/scripts/kafka.sh" kill "$RUN/kafka" 2>/dev/null || true
}

# start NAME COMMAND...: in the background, its output in a file.
start() {
  local name=$1
  shift
  "$@" >>"$RUN/$name.log" 2>&1 &
  PIDS[$name]=$!
  disown
}

running() { [[ ${PIDS[$1]:-} ]] && kill -0 "${PIDS[$1]}" 2>/dev/null; }

# stop NAME [SIGNAL]: and wait until it is gone.
stop() {
  running "$1" || { unset "PIDS[$1]"; return 0; }
  kill -CONT "${PIDS[$1]}" 2>/dev/null || true
  kill "-${2:-TERM}" "${PIDS[$1]}" 2>/dev/null || true
  # Bash tells of a killed job unless it is waited for.
  wait "${PIDS[$1]}" 2>/dev/null || true
  while running "$1"; do sleep 0.02; done
  unset "PIDS[$1]"
}

# await NAME WHAT COMMAND...: until the command succeeds; gives up when the process ends or after START_SECONDS.
await() {
  local name=$1 what=$2 deadline=$((SECONDS + START_SECONDS))
  shift 2
  until "$@" >/dev/null 2>&1; do
    running "$name" || die "$name ended before $what: $(tail -n 3 "$RUN/$name.log")"
    ((SECONDS < deadline)) || die "$name: not $what within $START_SECONDS s; see $RUN/$name.log"
    sleep 0.05
  done
}

# http METHOD URL [BODY]: prints the status code on one line, then the body. curl need not be there.
http() {
  local method=$1 rest=${2#http://} body=${3:-} host path status line
  host=${rest%%/*} path=/${rest#*/}
  exec 3<>"/dev/tcp/${host%:*}/${host#*:}" || return 1
  printf '%s %s HTTP/1.0\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %s\r\n\r\n%s' \
    "$method" "$path" "$host" "${#body}" "$body" >&3
  read -r _ status _ <&3
  while read -r line <&3 && [[ $line != $'\r' ]]; do :; done
  printf '%s\n' "$status"
  cat <&3
  exec 3>&-
}

# http_get URL: prints the body; fails unless the answer is 200.
http_get() {
  local answer
  answer=$(http GET "$1") || return 1
  [[ ${answer%%$'\n'*} == 200 ]] || return 1
  printf '%s\n' "${answer#*$'\n'}"
}

start_sandbox() {
  [[ $OWN_SCYLLA ]] && return
  start sandbox "$BIN/outbox-sandbox" --listen "127.0.0.1:$SCYLLA_PORT" --admin "127.0.0.1:$ADMIN_PORT"
  await sandbox "listening" listening 127.0.0.1 "$SCYLLA_PORT"
}

start_kafka() {
  [[ $OWN_KAFKA ]] && return
  "$ROOT/scripts/kafka.sh" start 1 "$RUN/kafka" --port "$KAFKA_PORT" --owner $$ >/dev/null
}

kafka() {
  local command=$1
  shift
  "$ROOT/scripts/kafka.sh" "$command" "$RUN/kafka" "$@"
}

start_orders() {
  start orders "$BIN/orders" serve --listen "127.0.0.1:$ORDERS_PORT"
  await orders "ready" http_get "$ORDERS_URL/readyz"
}

# relay_config [YAML]: the relay's file, and further top-level parts of it, as in 'retry: {maxAttempts: 3}'. On a cluster
# that earlier runs have used, each run has an identity of its own and begins with what is written from now on.
relay_config() {
  cat >"$RUN/relay.yaml" <<YAML
identity: demo.orders${OWN_SCYLLA:+-$(date +%s)}
source:
  contactPoints: ["$SCYLLA"]
  keyspace: orders_ks
  table: outbox_messages
  startFrom: $([[ $OWN_SCYLLA ]] && echo Now || echo Oldest)
sink:
  bootstrapServers: ["${KAFKA//,/\", \"}"]
  topic: $TOPIC
  guarantee: ${GUARANTEE:-AtLeastOnce}
deadLetter:
  when: ${DEAD_LETTER_WHEN:-Rejected}
  table: orders_ks.dead_letter_queue
${1:-}
YAML
}

setup() {
  "$BIN/orders" setup >>"$RUN/setup.log" 2>&1 || die "orders setup failed: $(tail -n 3 "$RUN/setup.log")"
  "$BIN/outbox-relay" setup -f "$RUN/relay.yaml" --create-topic --partitions 8 --replication-factor 1 \
    >>"$RUN/setup.log" 2>&1 || die "outbox-relay setup failed: $(tail -n 3 "$RUN/setup.log")"
}

start_relay() {
  start relay "$BIN/outbox-relay" run -f "$RUN/relay.yaml" --listen "127.0.0.1:$RELAY_PORT"
  await relay "ready" http_get "$RELAY_URL/readyz"
}

# metric NAME: sum of a metric over its labels; 0 if it has no series yet. Fails if the relay does not answer.
metric() {
  local text
  text=$(http_get "$RELAY_URL/metrics") || return 1
  awk -v name="$1" '
    $1 == name || index($1, name "{") == 1 { sum += $NF } END { printf "%.0f\n", sum }' <<<"$text"
}

metric_is() {
  local value
  value=$(metric "$1") && [[ $value == "$2" ]]
}

metric_at_least() {
  local value
  value=$(metric "$1") && ((value >= $2))
}

# In the background; to be waited for.
start_load() {
  "$BIN/orders" load --journal "$RUN/journal.jsonl" --url "$ORDERS_URL" "$@" >"$RUN/load.log" 2>&1 &
  PIDS[load]=$!
}

load() { "$BIN/orders" load --journal "$RUN/journal.jsonl" --url "$ORDERS_URL" "$@"; }

verify() {
  [[ $SCHEMA != plain ]] || set -- --unordered "$@"
  "$BIN/orders" verify --topic "$TOPIC" --journal "$RUN/journal.jsonl" \
    --dead-letter-table orders_ks.dead_letter_queue "$@"
}
