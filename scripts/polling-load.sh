#!/usr/bin/env bash
# polling-load.sh   CDC and polling side by side, at each of RATES="100 1000 10000" events a second: how late, how many reads and
#                   deletes, and whose CPU; as a table for docs/comparison.md
#
#   SECONDS_EACH=20            how long each rate is watched
#   INTERVAL=5000              source.pollIntervalMilliseconds
#   WAYS="cdc cleanup polling cassandra"   the log; the log with source.cleanup: Delete; polling the sandbox; polling a real
#                              Apache Cassandra
#
# One broker, one relay with all slots, a database and a topic of its own for every line. Each run is verified: nothing lost,
# reordered or repeated.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/stack.sh"
RATES=${RATES:-100 1000 10000}
SECONDS_EACH=${SECONDS_EACH:-20}
INTERVAL=${INTERVAL:-5000}
WAYS=${WAYS:-cdc cleanup polling cassandra}
# Caches, pools and the ramp at the start fill, and polling looks at every slot once; and a load lasts longer than it is watched.
SETTLE_SECONDS=$((8 + INTERVAL / 1000))
OVERLAP_SECONDS=3
# No rate is held up by the limit on deletes.
LOAD='load: {deletesPerSecond: 30000, queriesPerSecond: 5000}'

# The rate is what was delivered. CPU is that of the whole process, also what it takes at rest.
ROW='
import json, sys
way, deleted, file = sys.argv[1], int(sys.argv[2]), sys.argv[3]
seen = json.load(open(file))
events, cpu = seen["events"], seen["cpu_seconds"]
each = lambda count: "%.2f" % (count / events)
late = lambda ms: "%.1f ms" % ms if ms < 1000 else "%.1f s" % (ms / 1000)
micros = lambda name: "%.0f µs" % (cpu[name] / events * 1e6)
cells = [way, "%.0f" % (events / seen["seconds"]), late(seen["end_to_end_p50"]), late(seen["end_to_end_p99"]),
         each(seen["queries"]), each(seen["log_rows"]), each(deleted), micros("relay"), micros("database")]
print("| " + " | ".join(cells) + " |", flush=True)
'

main() {
  "$ROOT/scripts/need.sh" python
  check_ports
  build >&2
  open_stack polling-load
  trap 'stop_cassandra; close_stack' EXIT
  start_kafka
  echo '| | events/s | p50 | p99 | reads/event | rows read/event | deletes/event | relay CPU/event | database CPU/event |'
  echo '|---|---|---|---|---|---|---|---|---|'
  local way rate
  for way in $WAYS; do
    for rate in $RATES; do line "$way" "$rate"; done
  done
}

line() {
  local way=$1 rate=$2 database load deleted journal=$RUN/$1-$2.jsonl
  TOPIC=$way-$rate
  stop sandbox KILL
  stop_cassandra
  if [[ $way == cassandra ]]; then
    "$ROOT/scripts/cassandra.sh" start "$RUN/cassandra-$rate" --port "$SCYLLA_PORT" --owner $$ >/dev/null
    CASSANDRA=$RUN/cassandra-$rate
    database=$(cat "$CASSANDRA/pid")
  else
    start_sandbox
    database=${PIDS[sandbox]}
  fi
  SCHEMA=ordered
  [[ $way == cdc || $way == cleanup ]] || SCHEMA=polled
  relay_config
  local source=$LOAD
  [[ $way == cdc ]] || source+='\n  cleanup: Delete'
  [[ $SCHEMA == ordered ]] || source+="\n  mode: Polling\n  pollIntervalMilliseconds: $INTERVAL"
  sed -i "s/^source:\$/source:\n  $source/; s/^identity: .*/identity: $TOPIC/" "$RUN/relay.yaml"
  setup
  start_relay
  "$BIN/orders" load --direct --rate "$rate" --duration $((SETTLE_SECONDS + SECONDS_EACH + OVERLAP_SECONDS)) \
    --writers 128 --orders 20000 --payload-bytes 300 --journal "$journal" >"$RUN/load-$TOPIC.log" 2>&1 &
  load=$!
  PIDS[load]=$load
  sleep "$SETTLE_SECONDS"
  deleted=$(metric outbox_relay_outbox_rows_deleted_total)
  "$BIN/orders" bench steady --seconds "$SECONDS_EACH" --pid "${PIDS[relay]}" --metrics "$RELAY_URL/metrics" \
    --watch "relay=${PIDS[relay]}" --watch "database=$database" >"$RUN/steady.json" 2>>"$RUN/bench.log" ||
    die "nothing was measured: $(tail -n 3 "$RUN/bench.log")"
  deleted=$(($(metric outbox_relay_outbox_rows_deleted_total) - deleted))
  wait "$load" || die "the load failed: $(tail -n 3 "$RUN/load-$TOPIC.log")"
  "$BIN/orders" verify --topic "$TOPIC" --journal "$journal" --dead-letter-table orders_ks.dead_letter_queue \
    >"$RUN/verified-$TOPIC.txt" 2>>"$RUN/bench.log" || die "the verifier found fault; see $RUN/verified-$TOPIC.txt"
  stop relay
  python3 -c "$ROW" "$way" "$deleted" "$RUN/steady.json"
}

stop_cassandra() {
  [[ ! ${CASSANDRA:-} ]] || "$ROOT/scripts/cassandra.sh" stop "$CASSANDRA" || true
  CASSANDRA=
}

main "$@"
