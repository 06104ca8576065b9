# shellcheck shell=bash source-path=SCRIPTDIR
# Sourced by the end-to-end tests: the cluster, what stands in it, load, verifier, patience.
#
#   KUBECONFIG   which cluster
#   RELAY_IMAGE, OPERATOR_IMAGE, ORDERS_IMAGE, SANDBOX_IMAGE, KAFKA_IMAGE, TOOLS_IMAGE   each NAME:TAG (scripts/e2e/images.sh)
#   NEXT_TAG   tag of other relay and operator images, for the upgrade
#   PATIENCE   seconds that anything may take, 90 unless given
#   LOGS       folder for what helps to understand a failure
source "$(dirname "${BASH_SOURCE[0]}")/../jvm.sh"
source "$ROOT/scripts/kubernetes/paths.sh"

: "${KUBECONFIG:?says which cluster}"
VERSION=$(sed -n 's/^appVersion: //p' "$ROOT/charts/outbox-relay/Chart.yaml")
RELAY_IMAGE=${RELAY_IMAGE:-outbox-relay:$VERSION}
OPERATOR_IMAGE=${OPERATOR_IMAGE:-outbox-relay-operator:$VERSION}
ORDERS_IMAGE=${ORDERS_IMAGE:-orders:$VERSION}
SANDBOX_IMAGE=${SANDBOX_IMAGE:-outbox-sandbox:$VERSION}
KAFKA_IMAGE=${KAFKA_IMAGE:-kafka:$VERSION}
TOOLS_IMAGE=${TOOLS_IMAGE:-tools:$VERSION}
NEXT_TAG=${NEXT_TAG:-$VERSION-next}
LOGS=${LOGS:-$CACHE/run/e2e-logs}
SYSTEM=outbox-relay-system
RATE=50
# What takes longer on a machine of two cores has failed, unless others keep it busy.
PATIENCE=${PATIENCE:-90}
# Repeats that earlier cases were allowed and made: the verifier always looks at everything.
REPEATED=${REPEATED:-0}
# The same of messages marked as replayed.
REPLAYED=${REPLAYED:-0}
LOAD=

PATH=$(home_of control-plane):$(home_of helm):$PATH

mkdir -p "$LOGS"
trap 'failed' ERR
trap 'stop_load' EXIT

# -- the stage --------------------------------------------------------------------------------------------------------

# install [HELM OPTION...]: the operator, by its chart.
install() {
  kubectl get namespace "$SYSTEM" >/dev/null 2>&1 || kubectl create namespace "$SYSTEM" >/dev/null
  kubectl label --overwrite namespace "$SYSTEM" pod-security.kubernetes.io/enforce=restricted >/dev/null
  helm upgrade --install outbox-relay "$ROOT/charts/outbox-relay" --namespace "$SYSTEM" "${VALUES[@]}" "$@" --wait \
    --timeout "${PATIENCE}s" >"$LOGS/helm-install.txt" 2>&1
  say "installed"
}

# ScyllaDB, Kafka and the order service.
set_stage() {
  sed -e "s|RELAY_IMAGE|$RELAY_IMAGE|; s|ORDERS_IMAGE|$ORDERS_IMAGE|; s|SANDBOX_IMAGE|$SANDBOX_IMAGE|" \
    -e "s|KAFKA_IMAGE|$KAFKA_IMAGE|; s|TOOLS_IMAGE|$TOOLS_IMAGE|; s|MESSAGE_MAX_BYTES_OF_TOPICS|${MESSAGE_MAX_BYTES:-1048588}|" "$ROOT/scripts/e2e/shop.yaml" | kubectl apply -f - >/dev/null
  shop rollout status deployment/scylla deployment/kafka deployment/orders deployment/driver --timeout="${PATIENCE}s" >/dev/null
  shop wait --for=condition=Complete job/setup --timeout="${PATIENCE}s" >/dev/null
  kubectl -n e2e wait --for=condition=Ready pod/killer --timeout="${PATIENCE}s" >/dev/null
  say "ScyllaDB, Kafka and orders run"
}

# -- load and verifier ------------------------------------------------------------------------------------------------

RELAYS=outboxrelay.dev/relay=orders
VALUES=(--set "image.repository=${OPERATOR_IMAGE%:*},image.tag=${OPERATOR_IMAGE##*:}"
  --set "relayImage.repository=${RELAY_IMAGE%:*},relayImage.tag=${RELAY_IMAGE##*:}" --set operator.secretRefreshSeconds=5)

shop() { kubectl --namespace shop "$@"; }

say() { printf '  %s\n' "$*"; }

# load SECONDS [OPTION...]: in the background.
load() {
  shop exec deploy/driver -c driver -- /usr/local/bin/orders load --url http://orders:8080 --journal /data/journal.jsonl --rate "$RATE" --duration "$1" \
    --writers 8 --orders 64 "${@:2}" >"$LOGS/load.txt" 2>&1 &
  LOAD=$!
}

stop_load() { [[ ! $LOAD ]] || kill "$LOAD" 2>/dev/null || true; }

# verified REPEATS [OPTION...]: waits for the end of the load; then everything that was ever committed is in the topic, in order, with
# at most so many repeats more than before.
verified() {
  wait "$LOAD" || fail "the load failed: $(tail -n 3 "$LOGS/load.txt")"
  LOAD=
  local report=$LOGS/report.txt
  shop exec deploy/driver -c driver -- /usr/local/bin/orders verify --topic order-events --journal /data/journal.jsonl \
    --dead-letter-table outbox_relay.dead_letters --duplicate-bound $((REPEATED + $1)) --replayed-bound "$REPLAYED" "${@:2}" >"$report" 2>&1 ||
    { cat "$report" && fail "the verifier found fault"; }
  REPEATED=$(awk '$1 == "duplicated" { print $2 }' "$report")
  awk '$1 ~ /^(committed|delivered|dead-lettered|lost|duplicated|reordered|late|foreign)$/ { printf "%s%s %s", n++ ? ", " : "  ", $1, $2 }
    END { print "" }' "$report"
}

# The size of a message that the topic takes; larger ones become dead letters.
topic_takes() {
  shop exec deploy/kafka -- /java/bin/java -Xmx128m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp '/kafka/*' kafka.admin.ConfigCommand \
    --bootstrap-server kafka:9092 --alter --entity-type topics --entity-name order-events --add-config "max.message.bytes=$1" \
    >"$LOGS/topic.txt" 2>&1
  say "the topic takes messages of $1 bytes"
}

# Leaves dead letters whose cause is mended; LETTERS is how many.
leave_letters() {
  topic_takes 16384
  load 10 --large-every 25 --large-bytes 100000
  verified 0 --dead-letters 10..30
  LETTERS=$(awk '$1 == "dead-lettered" { print $2 }' "$LOGS/report.txt")
  topic_takes 1048588
}

# All of them were sent.
letters_are_gone() {
  REPLAYED=$((REPLAYED + LETTERS))
  eventually "no dead letter is left" condition_is DeadLettersEmpty True
  load 2
  verified 0
}

# -- what the cluster says --------------------------------------------------------------------------------------------

field() { shop get obr orders -o "jsonpath=$1"; }
condition() { field "{.status.conditions[?(@.type==\"$1\")].status}"; }
exists() { shop get "$@" >/dev/null 2>&1; }
condition_is() { [[ $(condition "$1") == "$2" ]]; }
replay_is() { [[ $(field '{.status.replay.id} {.status.replay.phase}') == "$1 $2" ]]; }
shares_are() { [[ $(field '{.status.shares} {.status.readyShares}' 2>/dev/null) == "$1 $1" ]]; }

# Nothing is under way and all is well, for the newest specification.
settled() { eventually "Ready" is_settled; }
is_settled() {
  [[ $(field '{.metadata.generation}') == $(field '{.status.observedGeneration}') ]] &&
    condition_is Ready True && condition_is Reconciling False && condition_is Stalled False
}

pod_of() { shop get pods -l "$RELAYS" -o name --sort-by=.metadata.name | sed -n "$1p"; }
restarts_of() { shop get "$1" -o 'jsonpath={.status.containerStatuses[0].restartCount}'; }
restarted() { (($(restarts_of "$1") > $2)); }

# Each running relay: its pod's id and how often it was restarted.
relay_processes() {
  shop get pods -l "$RELAYS" --sort-by=.metadata.name \
    -o 'jsonpath={range .items[*]}{.metadata.uid}/{.status.containerStatuses[0].restartCount} {end}'
}

# As many as before, one of them another.
differs_whole() {
  local now
  now=$(relay_processes)
  [[ $now != "$1" && $(wc -w <<<"$now") == $(wc -w <<<"$1") ]] && shares_are "$(wc -w <<<"$1")"
}

# all_replaced BEFORE [CHECK]: no relay of BEFORE runs, and all shares are ready.
all_replaced() {
  local process ready
  ready=$(field "{.status.readyShares}")
  [[ ! ${2:-} ]] || "$2"
  for process in $(relay_processes); do [[ " $1 " != *" $process "* ]] || return 1; done
  [[ $ready == $(field "{.spec.shares}") ]] && is_settled
}

# Of two or more shares at most one is away.
one_at_a_time() {
  local wanted running
  wanted=$(field "{.spec.shares}")
  running=$(shop get pods -l "$RELAYS" -o 'jsonpath={range .items[*]}{.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}' | grep -c True || true)
  ((running >= wanted - 1)) || fail "$running of $wanted relays are ready: more than one is away at once"
}

leader_is_not() {
  local now
  now=$(kubectl -n "$SYSTEM" get lease outbox-relay-operator -o jsonpath='{.spec.holderIdentity}')
  [[ $now && $now != "$1" ]]
}

has_event() { shop get events.events.k8s.io --field-selector "reason=$1" -o name | grep -q .; }

# Totals are counted since the relays' start, so under load they grow.
status_is_fresh() {
  local before
  before=$(field "{.status.totals}")
  sleep 12
  [[ $(field "{.status.totals}") != "$before" ]]
}

nothing_of_relays() { [[ ! $(shop get pods,deployments,services,configmaps -l "$RELAYS" -o name) ]]; }

# The process of a pod, which bears the pod's name as that of its machine, without a chance to say goodbye.
kill_9() {
  kubectl -n e2e exec killer -- sh -c '
    for process in /proc/[0-9]*; do
      if [ "$(cat $process/root/etc/hostname 2>/dev/null)" = "$1" ] && grep -q outbox-relay $process/cmdline; then
        kill -9 ${process#/proc/} && echo killed
      fi
    done' sh "$1" | grep -q killed || fail "no process of $1 was found"
  say "killed the process of $1"
}

# An outage that keeps the broker's data.
broker_gone() {
  shop exec deploy/kafka -- sh -c 'touch /data/down && kill -9 $(cat /data/pid)'
  say "the broker is gone"
  eventually "the resource says: circuit open" condition_is CircuitClosed False
}

broker_back() {
  shop exec deploy/kafka -- sh -c 'rm /data/down'
  say "the broker is back"
  eventually "the resource says: circuit closed" condition_is CircuitClosed True
}

# -- patience ---------------------------------------------------------------------------------------------------------

# eventually WHAT COMMAND...
eventually() {
  local what=$1 started=$SECONDS
  shift
  until "$@"; do
    ((SECONDS - started < PATIENCE)) || fail "not within $PATIENCE s: $what${UNANSWERED:+: $UNANSWERED}"
    sleep 0.3
  done
  say "$what ($((SECONDS - started)) s)"
}

fail() {
  echo "FAIL: $*" >&2
  exit_with_state
}

failed() {
  echo "FAIL: a command failed: $BASH_COMMAND" >&2
  exit_with_state
}

exit_with_state() {
  trap - ERR
  {
    kubectl get pods --all-namespaces -o wide
    shop get obr orders -o yaml
    shop get events --sort-by=.lastTimestamp
    shop logs -l "$RELAYS" --tail=200 --prefix
    kubectl -n "$SYSTEM" logs -l app.kubernetes.io/name=outbox-relay-operator --tail=200 --prefix
  } >"$LOGS/state.txt" 2>&1 || true
  echo "what the cluster says: $LOGS/state.txt" >&2
  kill -TERM $$
  exit 1
}
