#!/usr/bin/env bash
# failures.sh [NUMBER...]: what goes wrong in production, on purpose, with the verifier's table after each.
#
#   1 short broker outage   2 long broker outage, both policies   3 ScyllaDB refuses the batch
#   4 broker lost after 50 of 100 orders   5 kill -9 of the relay   6 events that the broker cannot accept
#
# Always on the sandbox and a broker of its own, because both are made to fail.
set -euo pipefail
unset SCYLLA KAFKA
source "$(dirname "${BASH_SOURCE[0]}")/stack.sh"

# Retries and breaker are quick, so that a scenario takes seconds; the policies are the defaults.
QUICK='retry: {maxAttempts: 3}
circuitBreaker: {failureThreshold: 5, openSeconds: 2, successThreshold: 2}'

main() {
  check_ports
  build
  local number failed=()
  for number in "${@:-1 2 3 4 5 6}"; do
    for number in $number; do
      ( "scenario_$number" ) || failed+=("$number")
    done
  done
  ((${#failed[@]} == 0)) || die "failed: ${failed[*]}"
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

metric_is() { [[ $(metric "$1") == "$2" ]]; }
metric_at_least() { (($(metric "$1") >= $2)); }

scenario_1() {
  headline "1. A broker that stalls for 5 s: librdkafka retries, nothing is lost"
  stack 1
  load --rate 200 --duration 15 >"$RUN/load.log" 2>&1 &
  sleep 4
  kafka pause
  say "broker paused"
  sleep 5
  kafka resume
  say "broker resumed"
  wait $!
  verify --follow
}

scenario_2() {
  headline "2a. A broker that is gone until the breaker opens: nothing is lost, nothing is dead-lettered"
  stack 2a "$QUICK"
  outage
  verify --follow
  close_stack

  headline "2b. The same with when: Exhausted: what was given up is in the dead letters"
  stack 2b "$QUICK"
  sed -i 's/^  target: Table/  target: Table\n  when: Exhausted/' "$RUN/relay.yaml"
  stop relay
  start_relay
  outage
  verify --follow --dead-letters 1..100000
}

outage() {
  load --rate 50 --duration 20 >"$RUN/load.log" 2>&1 &
  local load=$!
  sleep 3
  kafka kill
  say "broker killed"
  wait_for 60 "the breaker opens" metric_is circuit_breaker_state 1
  sleep 3
  "$ROOT/scripts/kafka.sh" start "$RUN/kafka" --owner $$ >/dev/null
  say "broker back"
  wait_for 60 "the breaker closes" metric_is circuit_breaker_state 0
  wait "$load"
}

scenario_3() {
  headline "3. ScyllaDB refuses the batch: the caller is told, and there is neither row nor event"
  stack 3
  local created order answer
  created=$(http POST "$ORDERS_URL/orders" "$(order_json)")
  [[ ${created%%$'\n'*} == 201 ]] || { say "FAIL: a first order: $created"; return 1; }
  say "ok: a first order is accepted"
  wait_for 10 "its event is delivered" metric_at_least cdc_events_processed_total 1
  http POST "http://127.0.0.1:$ADMIN_PORT/faults" '{"kind": "error", "error": "Overloaded", "statement": "INSERT INTO orders_ks.outbox_messages"}' >"$RUN/fault.json"
  answer=$(http POST "$ORDERS_URL/orders" "$(order_json)")
  [[ ${answer%%$'\n'*} == 503 ]] || { say "FAIL: expected 503, not $answer"; return 1; }
  say "ok: the second order is refused with 503"
  sleep 2
  metric_is cdc_events_processed_total 1 || { say "FAIL: an event of a refused batch was published"; return 1; }
  say "ok: no event of it was published"
}

order_json() { printf '{"customer": "Ada", "items": [{"sku": "pen", "quantity": 2, "priceCents": 150}]}'; }

scenario_4() {
  headline "4. 100 orders, the broker lost after 50: 50 at once, 50 after recovery, breaker 0-1-2-0"
  stack 4 "$QUICK"
  load --events 50 --rate 100 >"$RUN/load.log" 2>&1
  wait_for 20 "50 are delivered at once" metric_is cdc_events_processed_total 50
  metric_is circuit_breaker_state 0
  kafka kill
  load --events 50 --rate 100 >>"$RUN/load.log" 2>&1
  wait_for 60 "the breaker opens" metric_is circuit_breaker_state 1
  metric_is cdc_events_processed_total 50
  "$ROOT/scripts/kafka.sh" start "$RUN/kafka" --owner $$ >/dev/null
  wait_for 60 "the other 50 are delivered" metric_is cdc_events_processed_total 100
  wait_for 20 "the breaker closes" metric_is circuit_breaker_state 0
  local transition
  for transition in 'from_state="closed",to_state="open"' 'from_state="open",to_state="half_open"' 'from_state="half_open",to_state="closed"'; do
    http_get "$RELAY_URL/metrics" | grep -q "^circuit_breaker_transitions_total{$transition} [1-9]" ||
      { say "FAIL: no transition $transition in /metrics"; return 1; }
    say "ok: transition $transition"
  done
  verify
}

scenario_5() {
  headline "5. kill -9 of the relay under load: nothing lost; repeats at most one checkpoint interval and what was in flight"
  stack 5
  load --rate 200 --duration 20 >"$RUN/load.log" 2>&1 &
  local load=$!
  sleep 8
  stop relay KILL
  say "relay killed"
  start_relay
  say "relay back"
  wait "$load"
  # 200 events/s, of a checkpoint interval of 1 s, its write, and a second in flight.
  verify --follow --duplicate-bound 600
}

scenario_6() {
  headline "6. 50 of 100 events larger than the topic takes: 50 delivered, 50 dead-lettered, order kept"
  stack 6
  load --events 100 --rate 50 --large-every 2 --large-bytes 1500000 >"$RUN/load.log" 2>&1
  verify --follow --dead-letters 50
}

main "$@"
