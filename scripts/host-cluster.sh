#!/usr/bin/env bash
# A Kubernetes cluster of one node on this very machine: the control plane of kubernetes.sh, containerd, kubelet,
# kube-proxy and CoreDNS. For end-to-end tests where there is no Docker. Linux, root. It says what it changes and takes
# it back at the end; a cluster of that kind runs once on a machine.
#
#   host-cluster.sh check              say which requirement this machine does not meet, if any
#   host-cluster.sh up                 start it and print the path of the administrator's kubeconfig
#   host-cluster.sh load ARCHIVE...    take images in, as `docker save` or scripts/image.py write them
#   host-cluster.sh down               end everything and take back what was changed
set -Eeuo pipefail
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/jvm.sh"
# shellcheck source-path=SCRIPTDIR
source "$ROOT/scripts/kubernetes/paths.sh"

DIR=$CACHE/run/host-cluster
# Sockets, whose paths have to be short.
STATE=/run/outbox-relay-node
NODE=outbox-relay-node
BRIDGE=outboxrelay0
# The node's own address is the bridge's: reachable from pods, from nowhere else.
ADDRESS=10.244.0.1
PODS=10.244.0.0/24
SERVICES=10.96.0.0/16
DNS=10.96.0.10
# Kernel settings that kubelet, kube-proxy and the bridge plugin change.
SETTINGS=(vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys
  kernel/keys/root_maxbytes net/ipv4/ip_forward net/ipv4/conf/all/route_localnet net/bridge/bridge-nf-call-iptables)
# Folders that containerd, the network plugins and kubelet make, wherever their own data lies.
FOLDERS=(/run/containerd /var/lib/cni /var/log/containers)
PROGRAMS=(containerd runc ctr iptables iptables-save iptables-restore ip busybox python3 openssl curl)
START_SECONDS=120

main() {
  local command=${1:-}
  shift || true
  case $command in
    check) check && echo "this machine meets all requirements" ;;
    up) up ;;
    load) load "$@" ;;
    down) down ;;
    *) sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2 && exit 2 ;;
  esac
}

# All that is missing, not only the first.
check() {
  local -a missing=()
  local program probe=$DIR.probe where
  [[ $(uname -s) == Linux ]] || missing+=("Linux")
  [[ $(id -u) == 0 ]] || missing+=("root: kubelet and containerd make mounts, network namespaces and cgroups")
  for program in "${PROGRAMS[@]}"; do
    command -v "$program" >/dev/null || missing+=("the program $program; on Debian or Ubuntu: scripts/need.sh node images")
  done
  plugins >/dev/null || missing+=("network plugins in /usr/lib/cni or /opt/cni/bin; on Debian or Ubuntu: scripts/need.sh node")
  if [[ $(id -u) == 0 ]]; then
    mkdir -p "$probe"
    mount -t tmpfs none "$probe" 2>/dev/null && umount "$probe" || missing+=("mounting file systems (CAP_SYS_ADMIN)")
    rmdir "$probe"
    unshare --net --mount --pid --fork true 2>/dev/null || missing+=("namespaces of network, mounts and processes")
    if ip link add obr-probe type bridge 2>/dev/null; then ip link del obr-probe; else missing+=("network bridges (CAP_NET_ADMIN, kernel module bridge)"); fi
    if ip link add obr-probe type veth peer name obr-probe2 2>/dev/null; then ip link del obr-probe; else missing+=("pairs of network interfaces (kernel module veth)"); fi
    iptables -t nat -S >/dev/null 2>&1 || missing+=("iptables with table nat")
    for where in $(cgroups); do
      mkdir "$where/obr-probe" 2>/dev/null && rmdir "$where/obr-probe" || missing+=("writable cgroups: $where")
    done
    [[ ! $(pod_processes) ]] || missing+=("a machine without pods: a kubelet runs on this one already")
    [[ $(cgroups) ]] || missing+=("cgroups: nothing is mounted below /sys/fs/cgroup")
  fi
  (($(sed -n 's/MemAvailable: *\([0-9]*\) kB/\1/p' /proc/meminfo) > 3000000)) || missing+=("3 GB of free memory")
  mkdir -p "$(dirname "$DIR")"
  (($(df --output=avail -k "$(dirname "$DIR")" | tail -1) > 5000000)) || missing+=("5 GB of free space below $CACHE")
  local range
  for range in 10.244.0. 10.96.; do
    ! ip -4 route 2>/dev/null | grep -v "dev $BRIDGE" | grep -q "^$range" || missing+=("the addresses $range*: this machine routes them elsewhere")
  done
  ((${#missing[@]} == 0)) || die "this machine cannot run a node; missing:$(printf '\n  %s' "${missing[@]}")"
}

plugins() {
  local dir
  for dir in /usr/lib/cni /opt/cni/bin; do
    [[ ! -x $dir/bridge || ! -x $dir/host-local || ! -x $dir/portmap ]] || { echo "$dir" && return; }
  done
  return 1
}

# The folders in which a node makes cgroups: version 2 has one, version 1 one for each controller.
cgroups() {
  if [[ -f /sys/fs/cgroup/cgroup.controllers ]]; then
    echo /sys/fs/cgroup
  else
    awk '$3 ~ /^cgroup2?$/ { print $2 }' /proc/mounts | sort -u
  fi
}

up() {
  check >&2
  "$ROOT/scripts/kubernetes.sh" install control-plane node coredns helm >&2
  [[ ! -e $DIR ]] || die "$DIR is there already: a cluster runs, or ended badly; take it back with: host-cluster.sh down"
  mkdir -p "$DIR"/{containerd,kubelet,proxy,cni} "$STATE"
  trap 'echo "host-cluster.sh: could not be started; taking back what was changed" >&2; down' ERR
  trap 'down; exit 130' INT TERM
  remember
  say_changes
  bridge
  "$ROOT/scripts/kubernetes.sh" start "$DIR/control-plane" --node "$NODE=$ADDRESS" >/dev/null
  start_containerd
  images
  start_kubelet
  start_proxy
  start_dns
  trap - ERR INT TERM
  echo "$DIR/control-plane/admin.kubeconfig"
}

remember() {
  local setting
  for setting in "${SETTINGS[@]}"; do
    [[ ! -r /proc/sys/$setting ]] || printf '%s %s\n' "$setting" "$(cat "/proc/sys/$setting")"
  done >"$DIR/settings"
  local folder
  for folder in "${FOLDERS[@]}"; do [[ -e $folder ]] || echo "$folder"; done >"$DIR/new-folders"
}

say_changes() {
  cat >&2 <<TEXT
starting a cluster on this machine; until 'host-cluster.sh down' there will be
  processes   etcd, kube-apiserver, kube-controller-manager, kube-scheduler, containerd, kubelet, kube-proxy, pods
  network     interface $BRIDGE ($ADDRESS), addresses $PODS and $SERVICES, iptables chains KUBE-* and CNI-*
  files       $DIR, $STATE, ${FOLDERS[*]}
  cgroups     kubepods
  settings    ${SETTINGS[*]//\//.}
TEXT
}

bridge() {
  ip link add "$BRIDGE" type bridge
  ip address add "$ADDRESS/24" dev "$BRIDGE"
  ip link set "$BRIDGE" up
  cat >"$DIR/cni/10-pods.conflist" <<JSON
{
  "cniVersion": "1.0.0",
  "name": "pods",
  "plugins": [
    {
      "type": "bridge", "bridge": "$BRIDGE", "isGateway": true, "ipMasq": true, "hairpinMode": true,
      "ipam": {
        "type": "host-local", "dataDir": "$DIR/addresses", "ranges": [[{"subnet": "$PODS"}]], "routes": [{"dst": "0.0.0.0/0"}]
      }
    },
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
JSON
}

# Overlays do not lie on every file system; copies do.
snapshotter() {
  local try=$DIR/overlay
  mkdir -p "$try"/{lower,upper,work,merged}
  if mount -t overlay overlay -o "lowerdir=$try/lower,upperdir=$try/upper,workdir=$try/work" "$try/merged" 2>/dev/null; then
    umount "$try/merged"
    echo overlayfs
  else
    echo native
  fi
  rm -rf "$try"
}

start_containerd() {
  cat >"$DIR/containerd/config.toml" <<TOML
version = 2
root = "$DIR/containerd/root"
state = "$STATE/containerd"
oom_score = 0
[grpc]
  address = "$STATE/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/library/pause:e2e"
  restrict_oom_score_adj = true
  disable_apparmor = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "$(snapshotter)"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "$(plugins)"
    conf_dir = "$DIR/cni"
TOML
  launch "$DIR/containerd" "$(type -P containerd)" --config "$DIR/containerd/config.toml"
  until_true containerd "answering" ctr --address "$STATE/containerd.sock" version
}

# What holds a pod's network only waits.
images() {
  local dns
  dns=$(home_of coredns)/coredns
  python3 "$ROOT/scripts/image.py" "$DIR/pause.tar" pause:e2e --program "$(type -P busybox)=/bin/busybox" \
    --entrypoint /bin/busybox,sleep,2147483647
  python3 "$ROOT/scripts/image.py" "$DIR/coredns.tar" coredns:e2e --program "$dns" --entrypoint /usr/local/bin/coredns
  load "$DIR/pause.tar" "$DIR/coredns.tar"
}

load() {
  local archive
  for archive in "$@"; do
    ctr --address "$STATE/containerd.sock" --namespace k8s.io images import "$archive" >>"$DIR/containerd/imports" 2>&1 ||
      die "$archive could not be taken in: $(tail -n 1 "$DIR/containerd/imports")"
  done
}

start_kubelet() {
  local pki=$DIR/control-plane/pki
  cat >"$DIR/kubelet/config.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $ADDRESS
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $pki/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $pki/kubelet-server.crt
tlsPrivateKeyFile: $pki/kubelet-server.key
containerRuntimeEndpoint: unix://$STATE/containerd.sock
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
clusterDNS: [$DNS]
clusterDomain: cluster.local
podLogsDir: $DIR/kubelet/logs
volumePluginDir: $DIR/kubelet/plugins
# A full disk is the machine's concern; images are not fetched again, so none is thrown away.
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%}
imageGCHighThresholdPercent: 100
healthzBindAddress: 127.0.0.1
YAML
  launch "$DIR/kubelet" "$(home_of node)/kubelet" "--config=$DIR/kubelet/config.yaml" \
    "--kubeconfig=$DIR/control-plane/kubelet.kubeconfig" "--root-dir=$DIR/kubelet/root" "--hostname-override=$NODE" "--node-ip=$ADDRESS"
  until_true kubelet "ready" kubectl wait --for=condition=Ready "node/$NODE" --timeout=1s
}

start_proxy() {
  # So the limits of connection tracking and route_localnet stay as they are.
  cat >"$DIR/proxy/config.yaml" <<YAML
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
iptables: {localhostNodePorts: false}
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
clusterCIDR: $PODS
hostnameOverride: $NODE
bindAddress: $ADDRESS
clientConnection: {kubeconfig: $DIR/control-plane/proxy.kubeconfig}
YAML
  launch "$DIR/proxy" "$(home_of node)/kube-proxy" "--config=$DIR/proxy/config.yaml"
}

start_dns() {
  sed "s/CLUSTER_DNS/$DNS/" "$ROOT/scripts/kubernetes/coredns/coredns.yaml" | kubectl apply -f - >/dev/null
  until_true kubelet "running the name service" kubectl -n kube-system rollout status deployment/coredns --timeout=1s
}

# until_true PART WHAT COMMAND...
until_true() {
  local part=$1 what=$2 deadline=$((SECONDS + START_SECONDS))
  shift 2
  until "$@" >/dev/null 2>&1; do
    running_pid "$DIR/$part" >/dev/null || die "$part ended before it was $what: $(tail -n 3 "$DIR/$part/log")"
    ((SECONDS < deadline)) || die "$part: not $what within $START_SECONDS s; see $DIR/$part/log"
    sleep 0.1
  done
}

kubectl() { KUBECONFIG=$DIR/control-plane/admin.kubeconfig "$(home_of control-plane)/kubectl" "$@"; }

# Goes on when a step fails: the next ones are independent of it.
down() {
  [[ -e $DIR ]] || return 0
  trap - ERR
  set +e
  local part
  echo "ending the cluster on this machine" >&2
  for part in proxy kubelet; do send TERM "$DIR/$part"; done
  for part in proxy kubelet; do gone "$DIR/$part" 10 || send KILL "$DIR/$part"; done
  end_pods
  send TERM "$DIR/containerd"
  gone "$DIR/containerd" 10 || send KILL "$DIR/containerd"
  [[ ! -d $DIR/control-plane ]] || "$ROOT/scripts/kubernetes.sh" kill "$DIR/control-plane"
  unmount
  ip link del "$BRIDGE" 2>/dev/null
  remove_rules
  remove_cgroups
  restore_settings
  xargs --no-run-if-empty rm -rf <"$DIR/new-folders"
  rm -rf "$STATE"
  rm -rf "$DIR" || echo "host-cluster.sh: $DIR could not be removed; is something still mounted there?" >&2
  set -e
  echo "the cluster on this machine has ended, what it changed is taken back" >&2
}

# A container that does not end in time is ended by its process.
end_pods() {
  local -a client=(timeout 5 ctr --address "$STATE/containerd.sock" --namespace k8s.io)
  local id tick
  for id in $("${client[@]}" tasks list -q 2>/dev/null); do "${client[@]}" tasks kill --signal SIGKILL "$id" 2>/dev/null; done
  for ((tick = 0; tick < 50; tick++)); do
    "${client[@]}" tasks list 2>/dev/null | grep -q RUNNING || break
    sleep 0.1
  done
  for id in $("${client[@]}" tasks list -q 2>/dev/null); do "${client[@]}" tasks delete --force "$id"; done >/dev/null 2>&1
  for id in $("${client[@]}" containers list -q 2>/dev/null); do "${client[@]}" containers delete "$id"; done >/dev/null 2>&1
  pod_processes | xargs --no-run-if-empty kill -KILL 2>/dev/null
  shims | xargs --no-run-if-empty kill -KILL 2>/dev/null
}

pod_processes() {
  local where
  for where in $(cgroups); do
    [[ ! -d $where/kubepods ]] || find "$where/kubepods" -name cgroup.procs -exec cat {} + 2>/dev/null
  done | sort -u
}

shims() {
  local process
  for process in /proc/[0-9]*; do
    # Some end while they are looked at.
    { tr '\0' ' ' <"$process/cmdline"; } 2>/dev/null | grep -q "^[^ ]*containerd-shim[^ ]* .*$STATE/containerd.sock" && echo "${process#/proc/}"
  done
}

unmount() {
  local mount
  awk -v a="$DIR/" -v b="$STATE/" 'index($2, a) == 1 || index($2, b) == 1 { print $2 }' /proc/mounts | sort -r |
    while read -r mount; do umount -l "$mount"; done
}

# Rules of Kubernetes and of the network plugins by their names, so that what others changed meanwhile stays.
remove_rules() {
  local family
  for family in iptables ip6tables; do
    command -v "$family-save" >/dev/null || continue
    "$family-save" 2>/dev/null | grep -Ev '(^:| )(KUBE|CNI)-|name: "pods"' | "$family-restore" 2>/dev/null
  done
}

remove_cgroups() {
  local where
  for where in $(cgroups); do
    [[ ! -d $where/kubepods ]] || find "$where/kubepods" -depth -type d -exec rmdir {} \; 2>/dev/null
  done
}

restore_settings() {
  local setting value
  while read -r setting value; do
    [[ $(cat "/proc/sys/$setting") == "$value" ]] || echo "$value" >"/proc/sys/$setting"
  done <"$DIR/settings"
}

main "$@"
