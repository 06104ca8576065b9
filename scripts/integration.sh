#!/usr/bin/env bash
# integration.sh: each part of the flow once, PASS or FAIL; exit code 0 only if all passed.
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/stack.sh"

FAILED=0

# check WHAT COMMAND...
check() {
  local what=$1
  shift
  if "$@" >>"$RUN/checks.log" 2>&1; then say "PASS  $what"; else say "FAIL  $what"; FAILED=1; fi
}

main() {
  check_ports
  build || exit 1
  open_stack integration
  start_sandbox && start_kafka || die "ScyllaDB or Kafka did not start; logs in $RUN"
  relay_config
  check "schema and state tables are made" setup
  start_orders
  check "the relay finds table, topic and permissions fit" "$BIN/outbox-relay" check -f "$RUN/relay.yaml"
  start_relay
  check "orders answers" http_get "$ORDERS_URL/readyz"
  check "the relay lives" http_get "$RELAY_URL/livez"
  check "the relay is ready" http_get "$RELAY_URL/readyz"
  check "all components are healthy" http_get "$RELAY_URL/health"
  check "100 orders are committed" load --events 100 --rate 100
  check "their events are in the topic, each once and in order" verify
  check "the metrics count them" metric_is cdc_events_processed_total 100
  check "none failed" metric_is cdc_events_failed_total 0
  check "the breaker is closed" metric_is circuit_breaker_state 0
  check "the dead letters are empty" metric_is dlq_messages_total 0
  check "a status is told" "$BIN/outbox-relay" status --url "$RELAY_URL"
  check "a stopped relay leaves nothing in flight" stop relay
  start_relay
  check "a restarted one repeats nothing" verify
  ((FAILED == 0)) || say "logs in $RUN"
  exit "$FAILED"
}

metric_is() { [[ $(metric "$1") == "$2" ]]; }

main "$@"
