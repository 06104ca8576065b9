#!/usr/bin/env bash
# cases.sh [CASE...]: the end-to-end test on a cluster that is there: real relays, operator, Kafka and order service as
# pods, the sandbox in ScyllaDB's place, orders flowing, the verifier after each case. Takes KUBECONFIG and images, nothing
# else (scripts/e2e/stage.sh names them); the images have to be on the nodes already, or where these can fetch them.
#
# Cases build on each other: without arguments all of them, in order.
set -Eeuo pipefail
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/stage.sh"
CASES=(install replay audit scale pod_deleted operator_killed relay_killed secret policy outage upgrade uninstall manifests sidecar)

main() {
  local name started
  for name in "${@:-${CASES[@]}}"; do
    declare -F "case_$name" >/dev/null || die "there is no case $name; there are ${CASES[*]}"
    started=$SECONDS
    printf '\n== %s\n' "$name"
    "case_$name"
    printf '== %s: %d s\n' "$name" $((SECONDS - started))
  done
  echo "all cases passed"
}

# -- cases ------------------------------------------------------------------------------------------------------------

case_install() {
  install
  helm --namespace "$SYSTEM" test outbox-relay --timeout "${PATIENCE}s" >"$LOGS/helm-test.txt" 2>&1
  say "helm test passed"
  set_stage
  shop apply -f "$ROOT/deploy/samples/minimal.yaml" >/dev/null
  settled
  load 10
  verified 0
}

# Letters that the topic refused, replayed because the resource asks for it, once, without a restart of any relay; then by
# the sample's CronJob.
case_replay() {
  local before file=$LOGS/replay-cronjob.yaml
  before=$(relay_processes)
  leave_letters
  shop patch obr/orders --type json -p '[{"op": "add", "path": "/spec/deadLetter/replayRequest", "value": {"id": "e2e-1", "class": "Message"}}]' >/dev/null
  eventually "the replay has succeeded" replay_is e2e-1 Succeeded
  [[ $(field '{.status.replay.replayed} {.status.replay.letters}') == "$LETTERS $LETTERS" ]] || fail "of $LETTERS letters: $(field '{.status.replay}')"
  say "$(field '{.status.replay}')"
  eventually "there is a Kubernetes event of it" has_event ReplaySucceeded
  letters_are_gone
  leave_letters
  sed -e "s|outbox-relay:$VERSION|$RELAY_IMAGE|; s|default.orders|shop.orders|; s|scylla.scylla.svc|scylla|; s|kafka.kafka.svc|kafka|; s|- 1h|- 0s|" \
    "$ROOT/deploy/samples/replay-cronjob.yaml" >"$file"
  shop apply -f "$file" >/dev/null
  completes orders-replay
  letters_are_gone
  [[ $(relay_processes) == "$before" ]] || fail "relays were disturbed: $before became $(relay_processes)"
}

# The sample's audit, of all that was written so far.
case_audit() {
  sed -e "s|outbox-relay:$VERSION|$RELAY_IMAGE|; s|namespace: default|namespace: shop|; s|--from=-80m, --to=-15m|--from=-1h, --to=-5s|" \
    "$ROOT/deploy/samples/audit.yaml" | shop apply -f - >/dev/null
  sleep 5
  completes orders-audit
  shop logs job/orders-audit-now >"$LOGS/audit.txt"
  eventually "DeliveryAudited is True" condition_is DeliveryAudited True
  say "$(field '{.status.conditions[?(@.type=="DeliveryAudited")].message}')"
}

# What a CronJob would do, now.
completes() {
  shop create job "$1-now" --from="cronjob/$1" >/dev/null
  eventually "the Job of $1 has ended" has_ended "$1-now"
  # It must not begin by itself in a later case; its Job stays for its log.
  shop delete cronjob "$1" --cascade=orphan >/dev/null
  [[ $(shop get job "$1-now" -o 'jsonpath={.status.succeeded}') == 1 ]] || { shop logs "job/$1-now" && fail "the Job of $1 failed"; }
}

has_ended() { [[ $(shop get job "$1" -o 'jsonpath={.status.succeeded}{.status.failed}') ]]; }

case_scale() {
  load 50
  shop scale obr/orders --replicas=3 >/dev/null
  eventually "3 shares are ready" shares_are 3
  settled
  sleep 5
  shop scale obr/orders --replicas=2 >/dev/null
  eventually "2 shares are ready" shares_are 2
  settled
  verified 0
}

case_pod_deleted() {
  local before
  before=$(relay_processes)
  load 25
  sleep 3
  shop delete "$(pod_of 1)" --wait=false >/dev/null
  eventually "another pod took its place" differs_whole "$before"
  settled
  verified 0
}

# Relays do not notice; another operator takes over and does what is asked of it.
case_operator_killed() {
  local leader relays
  leader=$(kubectl -n "$SYSTEM" get lease outbox-relay-operator -o jsonpath='{.spec.holderIdentity}')
  relays=$(relay_processes)
  load 30
  kubectl -n "$SYSTEM" delete pod "$leader" --grace-period=0 --force >/dev/null 2>&1
  eventually "another operator leads than $leader" leader_is_not "$leader"
  kubectl -n "$SYSTEM" rollout status deployment/outbox-relay-operator --timeout="${PATIENCE}s" >/dev/null
  [[ $(relay_processes) == "$relays" ]] || fail "relays were disturbed: $relays became $(relay_processes)"
  say "the relays' pods are the same"
  shop annotate obr/orders "outboxrelay.dev/restartedAt=$(date +%s)" --overwrite >/dev/null
  eventually "the new leader restarts the relays" all_replaced "$relays" one_at_a_time
  settled
  verified 0
}

case_relay_killed() {
  local pod restarts
  pod=$(pod_of 1)
  restarts=$(restarts_of "$pod")
  load 30
  sleep 5
  kill_9 "${pod#pod/}"
  eventually "the container was restarted" restarted "$pod" "$restarts"
  settled
  # Half of 50 events/s, for a checkpoint interval of 1 s and a second in flight, on a machine that may pause for seconds.
  verified 300
}

# Relays get other credentials one after another, each ready before the next.
case_secret() {
  local before
  before=$(relay_processes)
  shop create secret generic orders-scylla --from-literal=username=first --from-literal=password=one >/dev/null
  load 55
  shop patch obr/orders --type=merge -p '{"spec": {"source": {"credentialsSecretRef": {"name": "orders-scylla"}}}}' >/dev/null
  eventually "all relays have the Secret" all_replaced "$before"
  settled
  before=$(relay_processes)
  shop create secret generic orders-scylla --from-literal=username=second --from-literal=password=two \
    --dry-run=client -o yaml | shop apply -f - >/dev/null 2>&1
  eventually "all relays have the rotated one" all_replaced "$before" one_at_a_time
  settled
  verified 0
}

case_policy() {
  local before
  before=$(relay_processes)
  load 30
  shop patch obr/orders --type=merge -p '{"spec": {"circuitBreaker": {"openSeconds": 5, "failureThreshold": 3}}}' >/dev/null
  eventually "all relays have the policy" all_replaced "$before" one_at_a_time
  settled
  verified 0
}

case_outage() {
  load 45
  sleep 3
  broker_gone
  [[ $(field '{.status.breaker}') == Open || $(field '{.status.breaker}') == HalfOpen ]] || fail "the breaker is $(field '{.status.breaker}')"
  condition_is Ready False || fail "Ready is $(condition Ready)"
  eventually "there is a Kubernetes event of it" has_event CircuitOpened
  broker_back
  settled
  verified 0
}

case_upgrade() {
  local before
  before=$(relay_processes)
  load 50
  VALUES+=(--set "image.tag=$NEXT_TAG,relayImage.tag=$NEXT_TAG")
  helm upgrade outbox-relay "$ROOT/charts/outbox-relay" --namespace "$SYSTEM" "${VALUES[@]}" --wait --timeout "${PATIENCE}s" \
    >"$LOGS/helm-upgrade.txt" 2>&1
  say "upgraded"
  eventually "all relays have the new image" all_replaced "$before" one_at_a_time
  [[ $(shop get pods -l "$RELAYS" -o jsonpath='{.items[*].spec.containers[0].image} ') != *":${RELAY_IMAGE##*:} "* ]] || fail "an old image runs"
  settled
  verified 0
}

# What was declared stays and works on; an operator that comes back finds its way.
case_uninstall() {
  local before
  before=$(relay_processes)
  load 40
  helm uninstall outbox-relay --namespace "$SYSTEM" --wait --timeout "${PATIENCE}s" >"$LOGS/helm-uninstall.txt" 2>&1
  [[ ! $(kubectl -n "$SYSTEM" get deployments -o name) ]] || fail "the operator is still there"
  kubectl get crd outboxrelays.outboxrelay.dev >/dev/null
  shop get obr orders >/dev/null
  sleep 5
  [[ $(relay_processes) == "$before" ]] || fail "relays were disturbed: $before became $(relay_processes)"
  say "the operator is gone, the relays are the same"
  install
  eventually "the operator that came back keeps the status" status_is_fresh
  [[ $(relay_processes) == "$before" ]] || fail "relays were disturbed: $before became $(relay_processes)"
  settled
  verified 0
}

# The plain manifests take the chart's place, and go again; the relays end only with their resource.
case_manifests() {
  [[ $RELAY_IMAGE == "outbox-relay:$VERSION" && $OPERATOR_IMAGE == "outbox-relay-operator:$VERSION" ]] ||
    { say "left out: the manifests name other images" && return; }
  local before
  before=$(relay_processes)
  helm uninstall outbox-relay --namespace "$SYSTEM" --wait --timeout "${PATIENCE}s" >>"$LOGS/helm-uninstall.txt" 2>&1
  load 40
  kubectl apply --server-side -f "$ROOT/crds/outboxrelays.yaml" >/dev/null
  kubectl apply -f "$ROOT/deploy/operator/operator.yaml" -f "$ROOT/deploy/operator/rbac.yaml" >"$LOGS/manifests.txt" 2>&1
  kubectl -n "$SYSTEM" rollout status deployment/outbox-relay-operator --timeout="${PATIENCE}s" >/dev/null
  shop annotate obr/orders "outboxrelay.dev/restartedAt=$(date +%s)" --overwrite >/dev/null
  eventually "all relays are restarted, with the image that the manifests name" all_replaced "$before" one_at_a_time
  settled
  verified 0
  shop delete obr orders --timeout="${PATIENCE}s" >/dev/null
  eventually "the relays end with their resource" nothing_of_relays
  kubectl delete -f "$ROOT/deploy/operator/operator.yaml" -f "$ROOT/deploy/operator/rbac.yaml" --timeout="${PATIENCE}s" >/dev/null
  kubectl get crd outboxrelays.outboxrelay.dev >/dev/null
}

# The relay in the application's own pods: one of them is killed, and an outage of the broker does not touch the
# application's readiness.
case_sidecar() {
  install
  shop delete deployment orders --ignore-not-found >/dev/null
  shop apply -f "$ROOT/deploy/samples/sidecar.yaml" >/dev/null
  eventually "the operator has made the configuration" exists configmap orders-relay
  sed -e "s|outbox-relay:$VERSION|$RELAY_IMAGE|; s|orders:$VERSION|$ORDERS_IMAGE|" "$ROOT/deploy/samples/sidecar-application.yaml" |
    shop apply -f - >/dev/null
  shop rollout status deployment/orders --timeout="${PATIENCE}s" >/dev/null
  settled
  local before
  before=$(relay_processes)
  # Straight into ScyllaDB: a pod that is killed takes requests with it, and nobody knows what became of those.
  load 60 --direct
  sleep 3
  shop delete "$(pod_of 2)" --grace-period=0 --force >/dev/null 2>&1
  eventually "another pod took its place" differs_whole "$before"
  settled
  broker_gone
  [[ $(field '{.status.breaker}') != Closed ]] || fail "the breaker is closed"
  application_is_ready || fail "the application is not ready while the broker is away"
  say "the application is ready"
  broker_back
  settled
  verified 300
  shop delete obr orders --timeout="${PATIENCE}s" >/dev/null
}

application_is_ready() { [[ $(shop get deployment orders -o 'jsonpath={.status.readyReplicas}') == 3 ]]; }

main "$@"
