#!/usr/bin/env bash
# demo.sh         30 s of orders through the whole flow, the verifier's table at the end; exit code 0 only if it is clean
# demo.sh dev     the same parts, kept running until Ctrl-C
#
# SECONDS_OF_LOAD and RATE (orders a second) change the load; scripts/stack.sh names the other settings.
set -euo pipefail
[[ ${1:-} != dev ]] || COMMAND="make dev"
source "$(dirname "${BASH_SOURCE[0]}")/stack.sh"

main() {
  check_ports
  build
  open_stack "${1:-demo}"
  say "starting ScyllaDB${OWN_SCYLLA:+ (yours)}, Kafka${OWN_KAFKA:+ (yours)}, orders and relay; logs in $RUN"
  start_sandbox
  start_kafka
  relay_config
  setup
  start_orders
  start_relay
  if [[ ${1:-} == dev ]]; then keep_running; else show; fi
}

# Load and verifier side by side.
show() {
  local rate=${RATE:-200} seconds=${SECONDS_OF_LOAD:-30}
  start_load --rate "$rate" --duration "$seconds"
  # A machine that holds a tenth less has been measured too; one that holds hardly anything has not.
  verify --follow --view --metrics "$RELAY_URL/metrics" --at-least $((rate * seconds * 9 / 10)) &
  PIDS[verifier]=$!
  while running load && running verifier; do sleep 0.2; done
  running load || wait "${PIDS[load]}" || die "the load failed: $(tail -n 3 "$RUN/load.log")"
  wait "${PIDS[verifier]}" || die "the verifier found fault; logs in $RUN"
}

keep_running() {
  cat <<TEXT
orders    $ORDERS_URL        curl -X POST $ORDERS_URL/orders -H 'content-type: application/json' \\
                                    -d '{"customer": "Ada", "items": [{"sku": "pen", "quantity": 2, "priceCents": 150}]}'
relay     $RELAY_URL/        a live page; /status, /metrics, /readyz, /health for programs
ScyllaDB  $SCYLLA${OWN_SCYLLA:-                 sandbox; faults: http://127.0.0.1:$ADMIN_PORT/}
Kafka     $KAFKA                 $BIN/orders consume --kafka $KAFKA --topic $TOPIC
Ctrl-C ends everything.
TEXT
  while running relay && running orders; do sleep 1; done
  die "a part ended; logs in $RUN"
}

main "$@"
