#!/usr/bin/env bash
# metrics.sh: a short table of what the relay counts. RELAY_PORT names its port.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/stack.sh"

http_get "$RELAY_URL/readyz" >/dev/null 2>&1 || listening 127.0.0.1 "$RELAY_PORT" ||
  die "no relay on port $RELAY_PORT; start one with make dev, or name its port: make metrics RELAY_PORT=9091"
states=(closed open half-open)
printf '%-24s%s\n' \
  "events processed" "$(metric cdc_events_processed_total)" \
  "events failed" "$(metric cdc_events_failed_total)" \
  "retries" "$(metric retry_attempts_total)" \
  "dead letters" "$(metric dlq_messages_total)" \
  "breaker" "${states[$(metric circuit_breaker_state)]}"
