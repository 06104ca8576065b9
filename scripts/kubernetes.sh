#!/usr/bin/env bash
# The control plane of Kubernetes on 127.0.0.1: etcd, kube-apiserver, kube-controller-manager and kube-scheduler, built
# from the Go module proxy, without Docker and without root. There is no kubelet: pods are made and scheduled, and run
# nowhere; scripts/host-cluster.sh adds one.
#
#   kubernetes.sh install [part...]    build programs into the cache, once: control-plane (start does it too; some 5
#                                      minutes), helm, node, kubeadm, coredns, kind, prometheus, prometheus-operator
#   kubernetes.sh start [dir] [option]   start a new cluster with its data in dir and print the path of the
#                                      administrator's kubeconfig
#       --owner PID                    end it when the process PID is gone
#       --node NAME=ADDRESS            for a kubelet of that name on this machine: the API server listens on ADDRESS
#   kubernetes.sh stop|kill [dir] [part]      end all parts, or one of etcd, apiserver, controller-manager, scheduler:
#                                      stop is SIGTERM, kill SIGKILL
#   kubernetes.sh restart [dir]        start again what does not run, same ports and data
#   kubernetes.sh kubectl [dir] ...    kubectl with the administrator's rights
#   kubernetes.sh helm ...             Helm, for any cluster
#   kubernetes.sh promtool ...         promtool of Prometheus, which takes some 5 minutes to build, once
#
# dir defaults to $OUTBOX_CACHE/run/kubernetes.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/jvm.sh"
# shellcheck source-path=SCRIPTDIR
source "$ROOT/scripts/kubernetes/paths.sh"

BIN=$(home_of control-plane)
PARTS=(etcd apiserver controller-manager scheduler)
# Starts take 4 s on a quiet machine; a busy build machine needs far longer.
START_SECONDS=120

main() {
  local command=${1:-}
  shift || true
  case $command in
    install) install "$@" ;;
    start) start "$@" ;;
    stop) end TERM "$@" ;;
    kill) end KILL "$@" ;;
    restart) run_parts "$(directory "${1:-}")" ;;
    kubectl) KUBECONFIG=$(directory "$1")/admin.kubeconfig "$BIN/kubectl" "${@:2}" ;;
    helm) install helm && "$(home_of helm)/helm" "$@" ;;
    promtool) install prometheus && "$(home_of prometheus)/promtool" "$@" ;;
    *) sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2 && exit 2 ;;
  esac
}

directory() { realpath -m "${1:-$CACHE/run/kubernetes}"; }

# install PART...: without one, the control plane.
install() {
  (($#)) || set -- control-plane
  local part missing=''
  for part in "$@"; do [[ -d $(home_of "$part") ]] || missing=yes; done
  [[ ! $missing ]] || with_cache_lock "$ROOT/scripts/kubernetes/build.sh" "$@"
}

start() {
  local dir='' owner='' node=''
  if [[ ${1:-} && $1 != --* ]]; then dir=$1 && shift; fi
  dir=$(directory "$dir")
  while (($#)); do
    [[ ${2:-} ]] || die "$1 needs a value"
    case $1 in
      --owner) owner=$2 ;;
      --node) [[ $2 == *=* ]] && node=$2 || die "--node $2: NAME=ADDRESS is expected" ;;
      *) die "unknown option $1" ;;
    esac
    shift 2
  done
  install
  [[ ! -e $dir/admin.kubeconfig ]] || die "$dir holds a cluster; end it with 'kubernetes.sh stop $dir' and remove the directory"
  mkdir -p "$dir"
  local port
  for port in etcd peers apiserver controller-manager scheduler; do
    mkdir -p "$dir/$port"
    free_port >"$dir/$port/port"
  done
  echo "${node#*=}" >"$dir/address"
  [[ $node ]] || echo 127.0.0.1 >"$dir/address"
  credentials "$dir" "${node%%=*}"
  run_parts "$dir"
  local -a folders=()
  for port in "${PARTS[@]}"; do folders=("$dir/$port" "${folders[@]}"); done
  if [[ $owner ]]; then kill_with_owner "$owner" "${folders[@]}" </dev/null >/dev/null 2>&1 & fi
  echo "$dir/admin.kubeconfig"
}

# credentials DIR NODE: an authority of its own, certificates of the parts, of the node if there is one, and of the
# administrator, and a kubeconfig each.
credentials() {
  command -v openssl >/dev/null || die "no openssl found; on Debian or Ubuntu: apt-get install -y openssl"
  local dir=$1 node=$2 address
  address=$(cat "$dir/address")
  mkdir -p "$dir/pki"
  (
    cd "$dir/pki"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=outbox-relay-test \
      -keyout ca.key -out ca.crt
    openssl genrsa -out accounts.key 2048
    openssl rsa -in accounts.key -pubout -out accounts.pub
    certificate apiserver /CN=kube-apiserver serverAuth "DNS:localhost,DNS:kubernetes.default.svc,IP:127.0.0.1,IP:10.96.0.1,IP:$address"
    certificate admin /O=system:masters/CN=admin clientAuth
    certificate scheduler /CN=system:kube-scheduler clientAuth
    # The aggregator proves with this one that it speaks for the API server.
    certificate aggregator /CN=aggregator clientAuth
    if [[ $node ]]; then
      certificate kubelet "/O=system:nodes/CN=system:node:$node" clientAuth
      certificate kubelet-server "/O=system:nodes/CN=system:node:$node" serverAuth "DNS:$node,IP:$address"
      certificate proxy /CN=system:kube-proxy clientAuth
    fi
  ) >"$dir/pki/log" 2>&1 || die "the certificates could not be made; see $dir/pki/log"
  # Of the operators alone, and what they do rather than what they send.
  cat >"$dir/apiserver/audit-policy.yaml" <<YAML
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: Metadata
    userGroups: [system:serviceaccounts]
  - level: None
YAML
  kubeconfig "$dir" admin
  kubeconfig "$dir" scheduler
  [[ ! $node ]] || { kubeconfig "$dir" kubelet && kubeconfig "$dir" proxy; }
}

# certificate NAME SUBJECT USAGE [ALTERNATIVE NAMES]
certificate() {
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "$2" -keyout "$1.key" -out "$1.csr"
  printf 'keyUsage=digitalSignature\nextendedKeyUsage=%s\n%s\n' "$3" "${4:+subjectAltName=$4}" >"$1.extensions"
  openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -extfile "$1.extensions" -out "$1.crt"
}

kubeconfig() {
  local dir=$1 name=$2 pki=$1/pki
  cat >"$dir/$name.kubeconfig" <<YAML
apiVersion: v1
kind: Config
clusters:
  - name: test
    cluster:
      server: https://$(cat "$dir/address"):$(cat "$dir/apiserver/port")
      certificate-authority-data: $(base64 -w0 "$pki/ca.crt")
users:
  - name: $name
    user:
      client-certificate-data: $(base64 -w0 "$pki/$name.crt")
      client-key-data: $(base64 -w0 "$pki/$name.key")
contexts:
  - name: test
    context: {cluster: test, user: $name}
current-context: test
YAML
}

run_parts() {
  local dir=$1 part deadline=$((SECONDS + START_SECONDS))
  [[ -e $dir/admin.kubeconfig ]] || die "no cluster was started in $dir"
  for part in "${PARTS[@]}"; do
    running_pid "$dir/$part" >/dev/null || run_part "$dir" "$part"
    # Without its predecessor a part only writes errors.
    until ready "$dir" "$part"; do
      running_pid "$dir/$part" >/dev/null || die "$part ended: $(tail -n 3 "$dir/$part/log")"
      ((SECONDS < deadline)) || die "$part did not answer within $START_SECONDS s; see $dir/$part/log"
      sleep 0.1
    done
  done
}

run_part() {
  local dir=$1 part=$2 pki=$1/pki
  local own=$dir/$part address
  address=$(cat "$dir/address")
  local -a more=()
  case $part in
    etcd)
      local url peers
      url=http://127.0.0.1:$(cat "$own/port") peers=http://127.0.0.1:$(cat "$dir/peers/port")
      launch "$own" "$BIN/etcd" "--data-dir=$own/data" "--listen-client-urls=$url" "--advertise-client-urls=$url" \
        "--listen-peer-urls=$peers" "--initial-advertise-peer-urls=$peers" "--initial-cluster=default=$peers" \
        --unsafe-no-fsync --log-level=warn
      ;;
    apiserver)
      # The address of a loopback interface is no endpoint, so then none is kept.
      if [[ $address == 127.0.0.1 ]]; then
        more=(--endpoint-reconciler-type=none)
      else
        more=(--allow-privileged=true "--kubelet-client-certificate=$pki/admin.crt" "--kubelet-client-key=$pki/admin.key"
          "--kubelet-certificate-authority=$pki/ca.crt" --kubelet-preferred-address-types=InternalIP)
      fi
      launch "$own" "$BIN/kube-apiserver" "--etcd-servers=http://127.0.0.1:$(cat "$dir/etcd/port")" \
        "--bind-address=$address" "--advertise-address=$address" "${more[@]}" \
        "--secure-port=$(cat "$own/port")" "--cert-dir=$own/" \
        "--tls-cert-file=$pki/apiserver.crt" "--tls-private-key-file=$pki/apiserver.key" "--client-ca-file=$pki/ca.crt" \
        --service-account-issuer=https://kubernetes.default.svc "--service-account-key-file=$pki/accounts.pub" \
        "--service-account-signing-key-file=$pki/accounts.key" --service-cluster-ip-range=10.96.0.0/16 \
        "--requestheader-client-ca-file=$pki/ca.crt" --requestheader-allowed-names=aggregator \
        --requestheader-username-headers=X-Remote-User --requestheader-group-headers=X-Remote-Group \
        --requestheader-extra-headers-prefix=X-Remote-Extra- \
        "--proxy-client-cert-file=$pki/aggregator.crt" "--proxy-client-key-file=$pki/aggregator.key" \
        "--audit-policy-file=$own/audit-policy.yaml" "--audit-log-path=$own/audit.log" \
        --authorization-mode=Node,RBAC --enable-admission-plugins=OwnerReferencesPermissionEnforcement
      ;;
    controller-manager)
      # Without a kubelet nobody renews nodes, so they count as alive for a day; and whoever plays pods gives them addresses
      # of the loopback network, which are refused as endpoints, again and again. Autoscalers are asked often, and nothing
      # waits for the controllers' own limits.
      [[ $address != 127.0.0.1 ]] || more=(--node-monitor-grace-period=24h
        '--controllers=*,-endpoints-controller,-endpointslice-controller,-endpointslice-mirroring-controller')
      launch "$own" "$BIN/kube-controller-manager" "--kubeconfig=$dir/admin.kubeconfig" \
        "--authentication-kubeconfig=$dir/admin.kubeconfig" "--authorization-kubeconfig=$dir/admin.kubeconfig" \
        --bind-address=127.0.0.1 "--secure-port=$(cat "$own/port")" "--cert-dir=$own/" --leader-elect=false \
        "--service-account-private-key-file=$pki/accounts.key" "--root-ca-file=$pki/ca.crt" \
        --horizontal-pod-autoscaler-sync-period=2s --kube-api-qps=500 --kube-api-burst=1000 "${more[@]}"
      ;;
    scheduler)
      launch "$own" "$BIN/kube-scheduler" "--kubeconfig=$dir/scheduler.kubeconfig" \
        "--authentication-kubeconfig=$dir/admin.kubeconfig" "--authorization-kubeconfig=$dir/admin.kubeconfig" \
        --bind-address=127.0.0.1 "--secure-port=$(cat "$own/port")" "--cert-dir=$own/" --leader-elect=false \
        --kube-api-qps=500 --kube-api-burst=1000
      ;;
  esac
}

ready() {
  local dir=$1 part=$2
  local pki=$dir/pki port
  port=$(cat "$dir/$part/port")
  case $part in
    etcd) curl -fs "http://127.0.0.1:$port/health" ;;
    apiserver) curl -fs --cacert "$pki/ca.crt" --cert "$pki/admin.crt" --key "$pki/admin.key" "https://$(cat "$dir/address"):$port/readyz" ;;
    # The first namespace has its default account: controllers work.
    controller-manager) KUBECONFIG=$dir/admin.kubeconfig "$BIN/kubectl" -n default get serviceaccount default ;;
    scheduler) curl -fsk "https://127.0.0.1:$port/readyz" || curl -fsk "https://127.0.0.1:$port/healthz" ;;
  esac >/dev/null 2>&1
}

# end SIGNAL [dir] [part]: the API server before etcd: without etcd its end would hang.
end() {
  local signal=$1 dir part
  dir=$(directory "${2:-}")
  for part in scheduler controller-manager apiserver etcd; do
    [[ ${3:-$part} == "$part" ]] || continue
    send "$signal" "$dir/$part"
    gone "$dir/$part" 20 || { send KILL "$dir/$part" && gone "$dir/$part" 20; } || die "$part in $dir still runs"
  done
}

main "$@"
