#!/usr/bin/env bash
# query-load.sh   what the relay asks of ScyllaDB, per cursor, per stream and per event, at each of RATES="0 200 2000" events
#                 a second; as a table for docs/query-load.md
#
#   SECONDS_EACH=20   how long each rate is watched
#   CLEANUP=Delete    with the deletes of rows, and their rows in the log
#
# The sandbox (16 streams) and one broker. The relay is a debug build: counts do not depend on it.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/stack.sh"
RATES=${RATES:-0 200 2000}
SECONDS_EACH=${SECONDS_EACH:-20}
# One per vnode of the sandbox's one node.
STREAMS=16
# Caches, pools and the ramp at the start fill; and a load lasts longer than it is watched.
SETTLE_SECONDS=8
OVERLAP_SECONDS=4

main() {
  check_ports
  build >&2
  open_stack query-load
  start_kafka
  start_sandbox
  relay_config
  [[ ! ${CLEANUP:-} ]] || sed -i "s/^source:\$/source:\n  cleanup: $CLEANUP/" "$RUN/relay.yaml"
  setup
  start_relay
  local rate
  for rate in $RATES; do watch_at "$rate"; done
  if [[ ${CLEANUP:-} ]]; then
    http_get "$RELAY_URL/metrics" | grep -E '^(outbox_relay_outbox_rows_deleted_total|outbox_relay_ignored_changes_total)'
  fi
}

watch_at() {
  local load=
  if (($1 > 0)); then
    "$BIN/orders" load --direct --rate "$1" --duration $((SETTLE_SECONDS + SECONDS_EACH + OVERLAP_SECONDS)) \
      --journal "$RUN/$1.jsonl" --payload-bytes 300 >"$RUN/load-$1.log" 2>&1 &
    load=$!
    PIDS[load]=$load
  fi
  sleep "$SETTLE_SECONDS"
  "$BIN/orders" bench queries --metrics "$RELAY_URL/metrics" --streams "$STREAMS" --seconds "$SECONDS_EACH"
  [[ ! $load ]] || wait "$load" || die "the load failed: $(tail -n 3 "$RUN/load-$1.log")"
}

main "$@"
