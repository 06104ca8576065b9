#!/usr/bin/env bash
# build.sh PART...: builds parts of Kubernetes from the Go module proxy into the cache, those that are not there yet. All
# that is asked for at once shares what Go has compiled: on 2 cores everything takes some 8 minutes, one after the other
# half as long again. Called by kubernetes.sh install, which holds the lock of the cache.
#
# Parts: control-plane (etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kubectl), node (kubelet, kube-proxy),
# kubeadm, coredns, helm, kind, prometheus (and promtool), prometheus-operator (with its reloader and its resources' definitions)
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/../jvm.sh"
# shellcheck source-path=SCRIPTDIR
source "$ROOT/scripts/go.sh"
# shellcheck source-path=SCRIPTDIR
source "$ROOT/scripts/kubernetes/paths.sh"

main() {
  if [[ ${1:-} == --compile ]]; then
    "compile_${2//-/_}" "$3"
    return
  fi
  local part
  local -a missing=()
  for part in "$@"; do [[ -d $(home_of "$part") ]] || missing+=("$part"); done
  ((${#missing[@]})) || return 0
  require_go
  # The caches of Go are some 5 GB and of no use afterwards.
  WORK=$CACHE/kubernetes-go.$$
  trap 'rm -rf "$WORK"' EXIT
  mkdir -p "$WORK"
  export GOMODCACHE=$WORK/mod GOCACHE=$WORK/build GOBIN= CGO_ENABLED=0 GOFLAGS='-buildvcs=false -modcacherw -trimpath'
  for part in "${missing[@]}"; do build "$part"; done
}

# build PART: all or nothing. In a process of its own, whose first failure ends it: as part of a condition, bash would go on.
build() {
  local home partial=$WORK/out started=$SECONDS
  home=$(home_of "$1")
  echo "building $(basename "$home") into $CACHE (once)" >&2
  rm -rf "$partial"
  mkdir -p "$partial"
  "${BASH_SOURCE[0]}" --compile "$1" "$partial" 2>&1 | sed -u '/^go: downloading/d' >&2 ||
    die "$1 could not be built (the message of Go stands above); nothing was left behind in $home"
  mv "$partial" "$home"
  echo "$(basename "$home"): $((SECONDS - started)) s" >&2
}

compile_control_plane() {
  compile_kubernetes "$1" kube-apiserver kube-controller-manager kube-scheduler kubectl
  go build -mod=readonly -ldflags "-s -w" -o "$1/etcd" go.etcd.io/etcd/server/v3
}

compile_node() { compile_kubernetes "$1" kubelet kube-proxy; }

compile_kubeadm() { compile_kubernetes "$1" kubeadm; }

# Without the version it would call itself v0.0.0, and charts that ask for one would refuse it.
compile_kubernetes() {
  local out=$1 version=k8s.io/component-base/version program
  shift
  local -a names=(
    -X "$version.gitVersion=v$KUBERNETES_VERSION" -X "$version.gitTreeState=clean"
    -X "$version.gitMajor=1" -X "$version.gitMinor=$(cut -d. -f2 <<<"$KUBERNETES_VERSION")"
    -X "k8s.io/client-go/pkg/version.gitVersion=v$KUBERNETES_VERSION"
  )
  local -a packages=()
  for program in "$@"; do packages+=("k8s.io/kubernetes/cmd/$program"); done
  cd "$ROOT/scripts/kubernetes"
  go build -mod=readonly -ldflags "-s -w ${names[*]}" -o "$out/" "${packages[@]}"
}

compile_coredns() {
  cd "$ROOT/scripts/kubernetes/coredns"
  grep -q "coredns/coredns v$COREDNS_VERSION\$" go.mod || die "versions.env and scripts/kubernetes/coredns/go.mod name different versions of CoreDNS"
  go build -mod=readonly -ldflags "-s -w" -o "$1/coredns" .
}

compile_helm() {
  local helm=helm.sh/helm/v3
  # Without a cluster, as in `helm template`, it takes this version of Kubernetes for granted.
  local -a names=(
    -X "$helm/internal/version.version=v$HELM_VERSION" -X "$helm/pkg/chartutil.k8sVersionMajor=1"
    -X "$helm/pkg/chartutil.k8sVersionMinor=$(cut -d. -f2 <<<"$KUBERNETES_VERSION")"
  )
  GOBIN=$1 go install -ldflags "-s -w ${names[*]}" "helm.sh/helm/v3/cmd/helm@v$HELM_VERSION"
}

# With the discovery of targets in Kubernetes and no other: the rest is ten times as much code.
compile_prometheus() {
  local module=github.com/prometheus/prometheus
  cd "$ROOT/scripts/kubernetes/prometheus"
  go build -mod=readonly -tags remove_all_sd,enable_kubernetes_sd \
    -ldflags "-s -w -X github.com/prometheus/common/version.Version=$PROMETHEUS_VERSION" \
    -o "$1/" "$module/cmd/prometheus" "$module/cmd/promtool"
}

compile_prometheus_operator() {
  local module=github.com/prometheus-operator/prometheus-operator
  cd "$ROOT/scripts/kubernetes/prometheus-operator"
  grep -q "prometheus-operator v$PROMETHEUS_OPERATOR_VERSION\$" go.mod || die "versions.env and scripts/kubernetes/prometheus-operator/go.mod name different versions"
  go build -mod=readonly -ldflags "-s -w -X github.com/prometheus/common/version.Version=$PROMETHEUS_OPERATOR_VERSION" \
    -o "$1/" "$module/cmd/operator" "$module/cmd/prometheus-config-reloader"
  mkdir "$1/definitions"
  cp "$(go list -m -f '{{.Dir}}' $module)"/example/prometheus-operator-crd/*.yaml "$1/definitions/"
}

compile_kind() { GOBIN=$1 go install -ldflags "-s -w" "sigs.k8s.io/kind@v$KIND_VERSION"; }

main "$@"
