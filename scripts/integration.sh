#!/usr/bin/env bash
# integration.sh: each part of the flow once, PASS or FAIL; exit code 0 only if all passed. With SCHEMA=plain on the
# layout that scatters an order's events: then order is not promised, and each place that has to say so does.
set -uo pipefail
COMMAND="make integration-test"
source "$(dirname "${BASH_SOURCE[0]}")/stack.sh"

FAILED=0
IN_ORDER=" and in order"
[[ $SCHEMA != plain ]] || IN_ORDER=""

# check WHAT COMMAND...
check() {
  local what=$1
  shift
  # Within parentheses, so that a step that gives up does not end the others.
  if ("$@") >>"$RUN/checks.log" 2>&1; then say "PASS  $what"; else say "FAIL  $what"; FAILED=1; fi
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
  check "their events are in the topic, each once${IN_ORDER}" verify --at-least 100
  check "the metrics count them" metric_is cdc_events_processed_total 100
  check "none failed" metric_is cdc_events_failed_total 0
  check "the breaker is closed" metric_is circuit_breaker_state 0
  check "the dead letters are empty" metric_is dlq_messages_total 0
  check "a status is told" "$BIN/outbox-relay" status --url "$RELAY_URL"
  order_is_told
  check "a stopped relay leaves nothing in flight" stop relay
  start_relay
  check "a restarted one repeats nothing" verify --at-least 100
  ((FAILED == 0)) || say "logs in $RUN"
  exit "$FAILED"
}

# Whether order is promised is said by `check`, by a metric and by a condition of /status.
order_is_told() {
  if [[ $SCHEMA == plain ]]; then
    check "check warns that order is not promised" finds "order is not promised" "$BIN/outbox-relay" check -f "$RUN/relay.yaml"
    check "a metric says so" metric_is outbox_relay_order_preserved 0
    check "the status says so" finds '"order":{"preserved":false' http_get "$RELAY_URL/status"
  else
    check "a metric says that order is promised" metric_is outbox_relay_order_preserved 1
    check "the status says so" finds '"order":{"preserved":true' http_get "$RELAY_URL/status"
  fi
}

# finds TEXT COMMAND...
finds() {
  local text=$1 output
  shift
  output=$("$@") || return 1
  grep -qF -- "$text" <<<"$output" || { printf '%s\n' "$output"; return 1; }
}

main "$@"
