#!/usr/bin/env bash
# bench.sh        speed and memory of the relay on this machine, beside what the same machine does without one:
#                 first drains of a full log, then a steady load. Table on stdout, JSON in $OUTBOX_CACHE/run/bench/bench.json
#
#   ROUNDS=5 EVENTS=1000000     drains, and events of each
#   RATE=2000 STEADY_SECONDS=240 the steady load, longer than the horizon so that its ids are all there; 0 seconds: none
#   STEADY_ROUNDS=5             parts of these seconds that are measured each for itself
#   WARM=500000                 messages that the broker gets before anything is measured, at least
#   PROFILE=release             the build; dev for trying the benchmark itself
#   RELAY=no                    only the baselines
#
# The sandbox and one broker of its own; nothing else should run. Latencies: every process reads the same clock.
set -euo pipefail
COMMAND="make bench ROUNDS=${ROUNDS:=5} EVENTS=${EVENTS:=1000000} RATE=${RATE:=2000} STEADY_SECONDS=${STEADY_SECONDS:=240}"
COMMAND+=" STEADY_ROUNDS=${STEADY_ROUNDS:=5}"
COMMAND+=" WARM=${WARM:=500000} PROFILE=${PROFILE:=release}"
[[ -z ${SCYLLA:-}${KAFKA:-} ]] || { echo "bench.sh: SCYLLA and KAFKA cannot be chosen: their CPU time is part of it" >&2; exit 1; }
source "$(dirname "${BASH_SOURCE[0]}")/stack.sh"

RELAY=${RELAY:-yes}
PARTITIONS=8
# Writers of the load that fills the log; the rows of an order are one partition.
FILL=(--writers 256 --orders 20000 --payload-bytes 300)
# The relay's first seconds under load are not yet steady: caches and pools fill. The load lasts longer than it is watched.
SETTLE_SECONDS=5
OVERLAP_SECONDS=3
case $PROFILE in
  release) BIN=${CARGO_TARGET_DIR:-$ROOT/target}/release ;;
  dev) BIN=${CARGO_TARGET_DIR:-$ROOT/target}/debug ;;
  *) die "PROFILE is release or dev, not $PROFILE" ;;
esac

main() {
  check_ports
  build_for_bench
  open_stack bench
  LINES_FILE=$RUN/lines.jsonl
  : >"$LINES_FILE"
  progress "starting Kafka; logs in $RUN"
  "$ROOT/scripts/kafka.sh" start 1 "$RUN/kafka" --port "$KAFKA_PORT" --owner $$ --bench >/dev/null
  BROKER_PID=$(cat "$RUN/kafka/node-1/pid")
  drains
  if [[ $RELAY == yes && $STEADY_SECONDS != 0 ]]; then
    GUARANTEE=ExactlyOnce steady -exactly --exactly-once
    steady
  fi
  report
}

# What happens goes to stderr: stdout is for the table.
progress() { say "$(date +%T) $*" >&2; }

build_for_bench() {
  "$ROOT/scripts/need.sh" rust build java maven
  progress "building ($PROFILE)"
  (cd "$ROOT" && cargo build --quiet --profile "$PROFILE" -p outbox-relay -p outbox-sandbox -p orders --bins)
  "$ROOT/scripts/kafka.sh" install
}

# A sandbox without data, and the tables.
fresh_sandbox() {
  stop sandbox KILL
  start_sandbox
  "$BIN/orders" setup >>"$RUN/setup.log" 2>&1 || die "orders setup failed: $(tail -n 3 "$RUN/setup.log")"
  WATCH=(--watch "sandbox=${PIDS[sandbox]}" --watch "broker=$BROKER_PID")
}

# measure COMMAND...: its line is kept.
measure() { "$BIN/orders" bench "$@" >>"$LINES_FILE" 2>>"$RUN/bench.log" || die "bench $1 failed: $(tail -n 3 "$RUN/bench.log")"; }

drains() {
  local round
  fresh_sandbox
  progress "writing $EVENTS events"
  "$BIN/orders" load --direct --rate 0 --events "$EVENTS" --journal "$RUN/journal.jsonl" "${FILL[@]}" 2>&1 |
    tee "$RUN/fill.log" >&2
  warm
  for ((round = 1; round <= ROUNDS; round++)); do
    local started=$SECONDS common=(--round "$round" --events "$EVENTS" "${WATCH[@]}")
    progress "round $round of $ROUNDS: A, B, C"
    measure produce --topic "bench-produce-$round" "${common[@]}"
    measure read "${common[@]}"
    measure pipe --topic "bench-pipe-$round" "${common[@]}"
    [[ $RELAY != yes ]] || drain_by_relay "$round"
    [[ $RELAY != yes ]] || GUARANTEE=ExactlyOnce drain_by_relay "$round" -exactly --exactly-once
    progress "round $round took $((SECONDS - started)) s"
  done
}

warm() {
  local number
  progress "warming the broker"
  for ((number = 0; number * EVENTS < WARM; number++)); do
    "$BIN/orders" bench pipe --topic "bench-warm-$number" --events "$EVENTS" "${WATCH[@]}" >/dev/null 2>>"$RUN/bench.log" ||
      die "warming failed: $(tail -n 3 "$RUN/bench.log")"
  done
}

# relay_for IDENTITY: a relay that knows nothing, on a topic that holds nothing.
relay_for() {
  TOPIC=$1
  relay_config
  sed -i "s/^identity: .*/identity: $1/" "$RUN/relay.yaml"
  "$BIN/outbox-relay" setup -f "$RUN/relay.yaml" --create-topic --partitions "$PARTITIONS" --replication-factor 1 \
    >>"$RUN/setup.log" 2>&1 || die "outbox-relay setup failed: $(tail -n 3 "$RUN/setup.log")"
}

# drain_by_relay ROUND [SUFFIX OPTION...]
drain_by_relay() {
  local round=$1 name=$1${2:-}
  shift; shift || true
  relay_for "bench-drain-$name"
  progress "round $round of $ROUNDS: the relay ${GUARANTEE:-AtLeastOnce}"
  measure drain --round "$round" --events "$EVENTS" "${WATCH[@]}" --topic "$TOPIC" --metrics "$RELAY_URL/metrics" \
    "$@" -- "$BIN/outbox-relay" run -f "$RUN/relay.yaml" --listen "127.0.0.1:$RELAY_PORT"
  "$BIN/orders" verify --topic "$TOPIC" --journal "$RUN/journal.jsonl" --at-least "$EVENTS" \
    --dead-letter-table orders_ks.dead_letter_queue >"$RUN/verified-$name.txt" 2>>"$RUN/bench.log" ||
    die "the verifier found fault with the drain of round $round; see $RUN/verified-$name.txt"
  "$BIN/orders" bench delete-topic --topic "$TOPIC" 2>>"$RUN/bench.log"
}

# steady [SUFFIX OPTION...]
steady() {
  local name=steady${1:-}
  shift || true
  fresh_sandbox
  relay_for "bench-$name"
  start_relay
  progress "steady load: $RATE/s for $STEADY_SECONDS s after $SETTLE_SECONDS s"
  local journal=$RUN/$name.jsonl load verifier round
  "$BIN/orders" verify --follow --json --topic "$TOPIC" --journal "$journal" --at-least $((RATE * STEADY_SECONDS)) \
    --dead-letter-table orders_ks.dead_letter_queue >"$RUN/$name-verified.json" 2>>"$RUN/bench.log" &
  verifier=$!
  PIDS[verifier]=$verifier
  "$BIN/orders" load --direct --rate "$RATE" --duration $((SETTLE_SECONDS + STEADY_SECONDS + OVERLAP_SECONDS)) --journal "$journal" \
    --payload-bytes 300 >"$RUN/$name-load.log" 2>&1 &
  load=$!
  PIDS[load]=$load
  sleep "$SETTLE_SECONDS"
  for ((round = 1; round <= STEADY_ROUNDS; round++)); do
    measure steady --seconds $((STEADY_SECONDS / STEADY_ROUNDS)) --pid "${PIDS[relay]}" --metrics "$RELAY_URL/metrics" \
      "${WATCH[@]}" --watch "load=$load" --watch "verifier=$verifier" "$@"
  done
  wait "$load" || die "the load failed: $(tail -n 3 "$RUN/$name-load.log")"
  wait "$verifier" || die "the verifier found fault with the steady load; see $RUN/$name-verified.json"
  stop relay
}

report() {
  local arguments=(--lines "$LINES_FILE" --json "$RUN/bench.json" --profile "$PROFILE" --rate "$RATE" --command "$COMMAND")
  [[ ! -f $RUN/steady.jsonl ]] || arguments+=(--verified "$RUN/steady-verified.json" --journal "$RUN/steady.jsonl")
  "$BIN/orders" bench report "${arguments[@]}"
  progress "as JSON: $RUN/bench.json"
}

main "$@"
