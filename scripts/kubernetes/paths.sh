# shellcheck shell=bash
# Sourced after jvm.sh: where the parts of Kubernetes lie in the cache.

home_of() {
  case $1 in
    control-plane) echo "$CACHE/kubernetes-$KUBERNETES_VERSION" ;;
    node) echo "$CACHE/kubernetes-node-$KUBERNETES_VERSION" ;;
    kubeadm) echo "$CACHE/kubeadm-$KUBERNETES_VERSION" ;;
    # Of the same version with other plugins it is another program.
    coredns) echo "$CACHE/coredns-$COREDNS_VERSION-$(cksum <"$ROOT/scripts/kubernetes/coredns/main.go" | cut -d ' ' -f 1)" ;;
    helm) echo "$CACHE/helm-$HELM_VERSION" ;;
    kind) echo "$CACHE/kind-$KIND_VERSION" ;;
    prometheus) echo "$CACHE/prometheus-$PROMETHEUS_VERSION" ;;
    prometheus-operator) echo "$CACHE/prometheus-operator-$PROMETHEUS_OPERATOR_VERSION" ;;
    *) die "unknown part $1; there are control-plane, node, kubeadm, coredns, helm, kind, prometheus, prometheus-operator" ;;
  esac
}
