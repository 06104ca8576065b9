#!/usr/bin/env bash
# failures.sh [NUMBER...]: what goes wrong in production, on purpose, with the verifier's table after each.
#
#   1 short broker outage   2 long broker outage, both policies   3 ScyllaDB refuses the batch
#   4 broker lost after 50 of 100 orders   5 kill -9 of the relay   6 events that the broker cannot accept
#
# Always on the sandbox and a broker of its own, because both are made to fail.
set -euo pipefail
unset SCYLLA KAFKA
COMMAND="make demo-failures"
source "$(dirname "${BASH_SOURCE[0]}")/stack.sh"

# Retries and breaker are quick, so that a scenario takes seconds; the policies are the defaults.
QUICK='retry: {maxAttempts: 3}
circuitBreaker: {failureThreshold: 5, openSeconds: 2, successThreshold: 2}'

main() {
  check_ports
  build
  local number status failed=()
  for number in ${*:-1 2 3 4 5 6}; do
    declare -F "scenario_$number" >/dev/null || die "there is no scenario $number; 1 to 6 exist"
    # Not as part of a condition: within one, bash goes on after a step that failed.
    set +e
    ( set -e; "scenario_$number" )
    status=$?
    set -e
    ((status == 0)) || failed+=("$number")
  done
  ((${#failed[@]} == 0)) || die "failed: ${failed[*]}; logs in $CACHE/run/failures-*"
  say "all scenarios passed"
}

# stack NAME [YAML]: a fresh flow.
stack() {
  open_stack "failures-$1"
  start_sandbox
  start_kafka
  relay_config "${2:-}"
  setup
  start_orders
  start_relay
}

headline() { printf '\n== %s\n' "$*"; }

# wait_for SECONDS WHAT COMMAND...
wait_for() {
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@"; do
    ((SECONDS < deadline)) || { say "FAIL: $what"; return 1; }
    sleep 0.1
  done
  say "ok: $what"
}

# expect WHAT COMMAND...
expect() { wait_for 0 "$@"; }

scenario_1() {
  headline "1. A broker that stalls for 5 s: librdkafka retries, nothing is lost"
  stack 1
  start_load --rate 200 --duration 15
  sleep 4
  kafka pause
  say "broker paused"
  sleep 5
  kafka resume
  say "broker resumed"
  verify --follow --at-least 2700
  expect "the breaker stayed closed" metric_is circuit_breaker_transitions_total 0
}

scenario_2() {
  headline "2a. A broker that is gone until the breaker opens: nothing is lost, nothing is dead-lettered"
  stack 2a "$QUICK"
  outage
  verify --follow --at-least 900
  close_stack

  headline "2b. The same with when: Exhausted: what was given up is in the dead letters, all else in the topic"
  DEAD_LETTER_WHEN=Exhausted
  stack 2b "$QUICK"
  outage
  # At most two probes a cycle of 2 s, of the half minute that the outage takes with its restart. What the broker wrote and
  # did not answer any more is given up or sent anew all the same: of 50 events/s those of some 10 ms.
  verify --follow --at-least 900 --dead-letters 1..50 --duplicate-bound 5
}

outage() {
  start_load --rate 50 --duration 20
  sleep 3
  kafka kill
  say "broker killed"
  wait_for 60 "the breaker opens" metric_is circuit_breaker_state 1
  sleep 3
  restart_kafka
  wait_for 60 "the breaker closes" metric_is circuit_breaker_state 0
}

restart_kafka() {
  "$ROOT/scripts/kafka.sh" start "$RUN/kafka" --owner $$ >/dev/null
  say "broker back"
}

scenario_3() {
  headline "3. ScyllaDB refuses the batch: the caller is told, and there is neither row nor event"
  stack 3
  local answer faults=http://127.0.0.1:$ADMIN_PORT/faults
  load --events 20 --rate 100 >"$RUN/load.log" 2>&1
  wait_for 20 "20 events are delivered" metric_is cdc_events_processed_total 20
  http POST "$faults" '{"kind": "error", "error": "Unavailable", "statement": "INSERT INTO orders_ks.outbox_messages"}' >"$RUN/fault.json"
  answer=$(http POST "$ORDERS_URL/orders" "$(order_json)")
  expect "a refused order is answered with 503, NotWritten" grep -qz '^503.*NotWritten' <<<"$answer"
  say "    ${answer#*$'\n'}"
  if load --events 20 --rate 100 >>"$RUN/load.log" 2>&1; then
    say "FAIL: writes went through"
    return 1
  fi
  say "ok: no write of 20 more goes through"
  http DELETE "$faults" >/dev/null
  load --events 20 --rate 100 >>"$RUN/load.log" 2>&1
  say "ok: later ones do"
  wait_for 20 "40 events are delivered" metric_is cdc_events_processed_total 40
  # An event of a refused batch would be foreign to the journal.
  verify --at-least 40
}

order_json() { printf '{"customer": "Ada", "items": [{"sku": "pen", "quantity": 2, "priceCents": 150}]}'; }

scenario_4() {
  headline "4. 100 orders, the broker lost after 50: 50 at once, 50 after recovery, breaker 0-1-2-0"
  stack 4 "$QUICK"
  local first_orders=(--events 50 --rate 100 --orders 64 --events-per-order 1)
  load "${first_orders[@]}" >"$RUN/load.log" 2>&1
  wait_for 20 "50 are delivered at once" metric_is cdc_events_processed_total 50
  start watch watch_breaker
  wait_for 5 "the breaker is closed" grep -q 0 "$RUN/watch.log"
  kafka kill
  say "broker killed"
  load "${first_orders[@]}" >>"$RUN/load.log" 2>&1
  wait_for 60 "the breaker opens" grep -q 1 "$RUN/watch.log"
  wait_for 60 "it tries again" grep -q 2 "$RUN/watch.log"
  expect "nothing was delivered meanwhile" metric_is cdc_events_processed_total 50
  restart_kafka
  wait_for 60 "the other 50 are delivered" metric_is cdc_events_processed_total 100
  wait_for 20 "the breaker closes" metric_is circuit_breaker_state 0
  sleep 0.2
  stop watch
  say "    circuit_breaker_state in /metrics: $(paste -sd ' ' "$RUN/watch.log")"
  expect "it went from 0 over 1 and 2 to 0" grep -Eqx '0 1 (2 1 )*2 0' <(paste -sd ' ' "$RUN/watch.log")
  verify --at-least 100
}

# Each value of the breaker's gauge once, as it changes.
watch_breaker() {
  local state last=''
  while :; do
    if state=$(metric circuit_breaker_state) && [[ $state != "$last" ]]; then
      echo "$state"
      last=$state
    fi
    sleep 0.02
  done
}

scenario_5() {
  headline "5. kill -9 of the relay under load: nothing lost; repeats at most one checkpoint interval and what was in flight"
  stack 5
  start_load --rate 200 --duration 20
  sleep 8
  stop relay KILL
  say "relay killed"
  start_relay
  say "relay back"
  # 200 events/s, of a checkpoint interval of 1 s, its write, and a second in flight.
  verify --follow --at-least 3600 --duplicate-bound 600
}

scenario_6() {
  headline "6. 50 of 100 events larger than the topic takes: 50 delivered, 50 dead-lettered, order kept"
  # Above 1 MiB ScyllaDB would refuse the batch, and there would be no event; so the topic takes less. With compression
  # only the broker knows what is too large: each of the 50 is refused by it.
  MESSAGE_MAX_BYTES=65536 stack 6
  # Five orders of 20 events take turns, so every order has every other event too large.
  load --events 100 --rate 50 --writers 1 --orders 5 --events-per-order 20 --large-every 2 --large-bytes 200000 \
    >"$RUN/load.log" 2>&1
  verify --follow --at-least 100 --dead-letters 50
}

main "$@"
