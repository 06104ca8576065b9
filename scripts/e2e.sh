#!/usr/bin/env bash
# e2e.sh [CASE...]     the end-to-end test: makes images of what was built, starts a cluster, runs scripts/e2e/cases.sh on it,
#                      and takes everything back
# e2e.sh monitoring    the same with scripts/e2e/monitoring.sh, which needs Prometheus and the prometheus-operator
#
#   CLUSTER=kind   kind, where Docker runs (default)
#   CLUSTER=host   a node on this very machine: root, no Docker (scripts/host-cluster.sh says what it changes)
#   CLUSTER=none   the cluster of KUBECONFIG, with images that are on its nodes already
#   BUILT=yes      the programs are built already
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/jvm.sh"
CLUSTER=${CLUSTER:-kind}
IMAGES=$CACHE/run/e2e-images
export LOGS=$CACHE/run/e2e-logs

main() {
  local test=cases
  if [[ ${1:-} == monitoring ]]; then test=monitoring && shift; fi
  case $CLUSTER in
    host)
      [[ $(id -u) != 0 ]] || "$ROOT/scripts/need.sh" go node images python openssl
      "$ROOT/scripts/host-cluster.sh" check
      ;;
    kind) "$ROOT/scripts/kind.sh" check ;;
    none) ;;
    *) die "CLUSTER=$CLUSTER: host, kind or none is expected" ;;
  esac
  local -a parts=(control-plane helm)
  [[ $CLUSTER != host ]] || parts+=(node coredns)
  [[ $test != monitoring ]] || parts+=(prometheus prometheus-operator)
  "$ROOT/scripts/kubernetes.sh" install "${parts[@]}"
  rm -rf "$LOGS"
  mkdir -p "$LOGS"
  if [[ $CLUSTER != none ]]; then
    "$ROOT/scripts/need.sh" rust build java maven python images
    if [[ ! ${BUILT:-} ]]; then (cd "$ROOT" && cargo build --quiet --workspace --all-features --bins); fi
    "$ROOT/scripts/e2e/images.sh" "$IMAGES"
    [[ $test != monitoring ]] || "$ROOT/scripts/e2e/images.sh" "$IMAGES" --only monitoring
    "start_$CLUSTER"
  fi
  "$ROOT/scripts/e2e/$test.sh" "$@"
}

# Images are as large as everything else in the cache together, and made in seconds.
forget_images() { rm -rf "$IMAGES"; }

start_host() {
  trap 'keep_logs_and_end; forget_images' EXIT
  trap 'exit 130' INT TERM
  KUBECONFIG=$("$ROOT/scripts/host-cluster.sh" up)
  export KUBECONFIG
  "$ROOT/scripts/host-cluster.sh" load "$IMAGES"/*.tar
}

keep_logs_and_end() {
  local part
  for part in kubelet containerd proxy; do cp "$CACHE/run/host-cluster/$part/log" "$LOGS/$part.log" 2>/dev/null || true; done
  "$ROOT/scripts/host-cluster.sh" down
}

start_kind() {
  trap '"$ROOT/scripts/kind.sh" delete; forget_images' EXIT
  trap 'exit 130' INT TERM
  KUBECONFIG=$("$ROOT/scripts/kind.sh" create)
  export KUBECONFIG
  "$ROOT/scripts/kind.sh" load "$IMAGES"/*.tar
}

main "$@"
