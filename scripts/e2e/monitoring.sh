#!/usr/bin/env bash
# monitoring.sh: on a cluster that is there the prometheus-operator and a real Prometheus find relays and operators through
# their ServiceMonitors, with orders flowing, dead letters and an outage; scripts/e2e/monitoring.py judges what Prometheus
# has. Takes KUBECONFIG and images, nothing else (scripts/e2e/stage.sh names them); also PROMETHEUS_IMAGE,
# PROMETHEUS_OPERATOR_IMAGE and RELOADER_IMAGE.
set -Eeuo pipefail
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/stage.sh"
PROMETHEUS_IMAGE=${PROMETHEUS_IMAGE:-prometheus:$VERSION}
PROMETHEUS_OPERATOR_IMAGE=${PROMETHEUS_OPERATOR_IMAGE:-prometheus-operator:$VERSION}
RELOADER_IMAGE=${RELOADER_IMAGE:-prometheus-config-reloader:$VERSION}
SHARES=2
# Prometheus learns of new targets when kubelet looks after mounted Secrets, once in a minute and a half, and the alert
# fires after its `for` of a minute; the rest is for a busy machine.
JUDGED_WITHIN=240

main() {
  start_prometheus
  install --set serviceMonitor.enabled=true,serviceMonitor.intervalSeconds=2,prometheusRule.enabled=true,dashboard.enabled=true
  # Large events are refused: their dead letters are counted, and an alert fires.
  MESSAGE_MAX_BYTES=65536 set_stage
  relay | shop apply -f - >/dev/null
  settled
  # Before anything happens: a counter that Prometheus first sees at its final value has no rate.
  PATIENCE=$JUDGED_WITHIN eventually "relays and operators are scraped" judged
  load 20 --large-every 20 --large-bytes 200000
  verified 0 --dead-letters 30..50
  # So that retries and changes of the breaker are counted.
  load 30
  sleep 3
  broker_gone
  broker_back
  verified 0 --dead-letters 30..50
  PATIENCE=$JUDGED_WITHIN eventually "Prometheus has all of it" judged --files "$ROOT/charts/outbox-relay/files" --fires OutboxRelayDeadLetters
  cat "$LOGS/monitoring.txt"
  echo "monitoring passed"
}

start_prometheus() {
  kubectl apply --server-side -f "$(home_of prometheus-operator)/definitions" >/dev/null
  # The definitions take a moment before their kinds can be used.
  eventually "Prometheus is asked for" ask_for_prometheus
  kubectl -n monitoring rollout status deployment/prometheus-operator --timeout="${PATIENCE}s" >/dev/null
  eventually "Prometheus runs" prometheus_runs
}

ask_for_prometheus() {
  sed -e "s|PROMETHEUS_OPERATOR_IMAGE|$PROMETHEUS_OPERATOR_IMAGE|; s|RELOADER_IMAGE|$RELOADER_IMAGE|" \
    -e "s|PROMETHEUS_IMAGE|$PROMETHEUS_IMAGE|; s|VERSION_OF_PROMETHEUS|$PROMETHEUS_VERSION|" \
    "$ROOT/scripts/e2e/monitoring.yaml" | kubectl apply -f - >"$LOGS/prometheus.txt" 2>&1
}

prometheus_runs() {
  kubectl -n monitoring wait --for=condition=Available prometheus/test --timeout=1s >/dev/null 2>&1
}

# Uncompressed, so that large events stay large.
relay() {
  cat <<YAML
apiVersion: outboxrelay.dev/v1alpha1
kind: OutboxRelay
metadata:
  name: orders
spec:
  source: {contactPoints: ["scylla:9042"], keyspace: orders_ks, table: outbox_messages}
  sink: {bootstrapServers: ["kafka:9092"], topic: order-events, properties: {compression.type: none}}
  shares: $SHARES
  circuitBreaker: {openSeconds: 5}
  monitoring: {serviceMonitor: Enabled, intervalSeconds: 2}
YAML
}

judged() {
  UNANSWERED=$(python3 "$ROOT/scripts/e2e/monitoring.py" "orders-relay=$SHARES" outbox-relay-operator=2 "$@" 2>&1 >"$LOGS/monitoring.txt")
}

main "$@"
