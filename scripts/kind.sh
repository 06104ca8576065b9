#!/usr/bin/env bash
# A cluster in Docker, by kind.
#
#   kind.sh up                 everything: images with Docker, cluster, operator, ScyllaDB's sandbox, Kafka, orders, a sample
#   kind.sh check              say what is missing to run it
#   kind.sh create             only the cluster; prints the path of its kubeconfig
#   kind.sh load ARCHIVE...    take images in, as `docker save` or scripts/image.py write them
#   kind.sh delete             the cluster
#
# KIND_NODE_IMAGE   another node image than kind's own; KIND_NETWORK=none for one that brings a network itself, as that of
#                   scripts/kind-node.sh does: kind-config.yaml is then used without the default network
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/jvm.sh"
# shellcheck source-path=SCRIPTDIR
source "$ROOT/scripts/kubernetes/paths.sh"

DIR=$CACHE/run/kind
NAME=$(sed -n 's/^name: //p' "$ROOT/kind-config.yaml")

main() {
  local command=${1:-}
  shift || true
  case $command in
    check) check ;;
    up) up ;;
    create) create ;;
    load) load "$@" ;;
    delete) kind delete cluster --name "$NAME" >&2 ;;
    *) sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2 && exit 2 ;;
  esac
}

check() {
  command -v docker >/dev/null || die "Docker is missing; where it cannot be had: CLUSTER=host"
  docker info >/dev/null 2>&1 || die "Docker does not run, or this user may not use it (docker info says more)"
}

# One that is installed, or that of the cache.
kind() {
  local program
  program=$(type -P kind) || { "$ROOT/scripts/kubernetes.sh" install kind && program=$(home_of kind)/kind; }
  "$program" "$@"
}

create() {
  check
  mkdir -p "$DIR"
  config >"$DIR/config.yaml"
  local -a options=(--config "$DIR/config.yaml" --kubeconfig "$DIR/kubeconfig" --wait 120s)
  [[ ! ${KIND_NODE_IMAGE:-} ]] || options+=(--image "$KIND_NODE_IMAGE")
  kind create cluster "${options[@]}" >&2
  echo "$DIR/kubeconfig"
}

# kind-config.yaml; without the network that kind's own node image brings, and for control groups of version 1, if asked for.
config() {
  cat "$ROOT/kind-config.yaml"
  [[ ${KIND_NETWORK:-} == none ]] || return 0
  cat <<'YAML'
networking:
  disableDefaultCNI: true
kubeadmConfigPatches:
  - |
    kind: KubeletConfiguration
    failCgroupV1: false
YAML
}

load() {
  local archive
  for archive in "$@"; do kind load image-archive --name "$NAME" "$archive" >&2; done
}

up() {
  check
  "$ROOT/scripts/need.sh" go java maven python images openssl
  "$ROOT/scripts/kubernetes.sh" install control-plane helm
  "$ROOT/scripts/images.sh"
  local version image
  version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$ROOT/Cargo.toml")
  "$ROOT/scripts/e2e/images.sh" "$DIR" --only kafka tools
  KUBECONFIG=$(create)
  export KUBECONFIG
  for image in outbox-relay outbox-relay-operator orders outbox-sandbox; do
    kind load docker-image --name "$NAME" "$image:$version"
  done
  load "$DIR/kafka.tar" "$DIR/tools.tar"
  RELAY_IMAGE=outbox-relay:$version OPERATOR_IMAGE=outbox-relay-operator:$version ORDERS_IMAGE=orders:$version \
    SANDBOX_IMAGE=outbox-sandbox:$version "$ROOT/scripts/e2e/cases.sh" install
  cat <<TEXT

export KUBECONFIG=$KUBECONFIG
kubectl -n shop scale obr/orders --replicas=3      # and the like; Ctrl-C ends watching, 'scripts/kind.sh delete' the cluster
TEXT
  "$(home_of control-plane)/kubectl" -n shop get outboxrelays --watch
}

main "$@"
