# shellcheck shell=bash
# Sourced after jvm.sh: where the parts of Kubernetes lie in the cache.

home_of() {
  case $1 in
    control-plane) echo "$CACHE/kubernetes-$KUBERNETES_VERSION" ;;
    node) echo "$CACHE/kubernetes-node-$KUBERNETES_VERSION" ;;
    coredns) echo "$CACHE/coredns-$COREDNS_VERSION" ;;
    helm) echo "$CACHE/helm-$HELM_VERSION" ;;
    kind) echo "$CACHE/kind-$KIND_VERSION" ;;
    prometheus) echo "$CACHE/prometheus-$PROMETHEUS_VERSION" ;;
    prometheus-operator) echo "$CACHE/prometheus-operator-$PROMETHEUS_OPERATOR_VERSION" ;;
    *) die "unknown part $1; there are control-plane, node, coredns, helm, kind, prometheus, prometheus-operator" ;;
  esac
}
