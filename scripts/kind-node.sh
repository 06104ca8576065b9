#!/usr/bin/env bash
# kind-node.sh [IMAGE]: makes a node image of kind (outbox-relay/kind-node:VERSION unless named) without a registry: Debian
# by debootstrap, kind's own files for it, Kubernetes from the Go module proxy. For machines with Docker that reach no
# registry; elsewhere kind's own image is the one to use. Linux, root, Docker; the image is some 1.4 GB. Then:
#
#   make e2e CLUSTER=kind KIND_NODE_IMAGE=... KIND_NETWORK=none
#
# It has a plain bridge for pods instead of kind's network: one node, and network policies are not enforced.
set -Eeuo pipefail
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/jvm.sh"
# shellcheck source-path=SCRIPTDIR
source "$ROOT/scripts/kubernetes/paths.sh"

IMAGE=${1:-outbox-relay/kind-node:v$KUBERNETES_VERSION}
WORK=$CACHE/run/kind-node
NODE=$WORK/node
PACKAGES=systemd,systemd-sysv,dbus,conntrack,iptables,nftables,iproute2,ethtool,kmod,libseccomp2,ca-certificates,curl,jq
PACKAGES+=,procps,socat,containerd,runc,containernetworking-plugins,e2fsprogs,mount,util-linux,bash,pigz

main() {
  [[ $(id -u) == 0 ]] || die "root is needed: debootstrap makes a file system with owners and devices"
  command -v debootstrap >/dev/null || die "no debootstrap found; on Debian or Ubuntu: apt-get install -y debootstrap"
  docker info >/dev/null 2>&1 || die "Docker does not run"
  "$ROOT/scripts/kubernetes.sh" install control-plane node kubeadm coredns kind
  rm -rf "$WORK"
  mkdir -p "$WORK/images"
  trap 'rm -rf "$WORK"' EXIT
  debian
  files_of_kind
  kubernetes
  services
  images
  preload
  tar -C "$NODE" --exclude='./var/cache/apt/*' --exclude='./var/lib/apt/lists/*' --exclude='./proc/*' --exclude='./sys/*' -c . |
    docker import --change 'ENTRYPOINT ["/usr/local/bin/entrypoint", "/sbin/init"]' --change 'ENV container=docker' - "$IMAGE" >/dev/null
  echo "$IMAGE"
}

# From where apt has its packages.
debian() {
  local mirror
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -v security | head -n 1)
  debootstrap --variant=minbase --include="$PACKAGES" "$(. /etc/os-release && echo "$VERSION_CODENAME")" "$NODE" "$mirror" \
    >"$CACHE/run/kind-node.log" 2>&1 || die "debootstrap failed; see $CACHE/run/kind-node.log"
}

files_of_kind() {
  local module files
  export GOMODCACHE=$WORK/mod GOFLAGS=-modcacherw
  module=$(cd "$WORK" && go mod download -json "sigs.k8s.io/kind@v$KIND_VERSION" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
  files=$module/images/base/files
  cp -rT --no-preserve=mode "$files/etc" "$NODE/etc"
  mkdir -p "$NODE/kind/bin" "$NODE/kind/manifests"
  cp --no-preserve=mode "$files"/kind/bin/* "$NODE/kind/bin/"
  cp --no-preserve=mode "$files"/usr/local/bin/* "$NODE/usr/local/bin/"
  chmod 755 "$NODE"/kind/bin/* "$NODE"/usr/local/bin/*
}

kubernetes() {
  cp "$(home_of kubeadm)/kubeadm" "$(home_of node)/kubelet" "$(home_of control-plane)/kubectl" "$NODE/usr/bin/"
  mkdir -p "$NODE/opt/cni/bin" "$NODE/etc/cni/net.d" "$NODE/etc/kubernetes/manifests"
  cp "$NODE"/usr/lib/cni/* "$NODE/opt/cni/bin/"
  # kind looks for these where its own image has them.
  ln -s /usr/bin/containerd "$NODE/usr/local/bin/containerd"
  ln -s /usr/bin/ctr "$NODE/usr/local/bin/ctr"
  echo "v$KUBERNETES_VERSION" >"$NODE/kind/version"
  cat >"$NODE/etc/cni/net.d/10-pods.conflist" <<'JSON'
{
  "cniVersion": "1.0.0",
  "name": "pods",
  "plugins": [
    {
      "type": "bridge", "bridge": "pods0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
      "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.244.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}
    },
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
JSON
  ctr oci spec | chroot "$NODE" jq '.hooks.createContainer = [{"path": "/kind/bin/mount-product-files.sh"}] | del(.process.rlimits)' \
    >"$NODE/etc/containerd/cri-base.json"
}

# Nothing starts but what a node is made of.
services() {
  rm -f "$NODE"/lib/systemd/system/multi-user.target.wants/* "$NODE"/etc/systemd/system/*.wants/* \
    "$NODE"/lib/systemd/system/local-fs.target.wants/* "$NODE"/lib/systemd/system/basic.target.wants/* \
    "$NODE"/lib/systemd/system/sysinit.target.wants/systemd-tmpfiles-setup.service \
    "$NODE"/lib/systemd/system/sockets.target.wants/*udev* "$NODE"/lib/systemd/system/sockets.target.wants/*initctl*
  echo ReadKMsg=no >>"$NODE/etc/systemd/journald.conf"
  : >"$NODE/etc/machine-id"
  chroot "$NODE" systemctl enable kubelet containerd undo-mount-hacks >>"$CACHE/run/kind-node.log" 2>&1
  chroot "$NODE" systemctl mask systemd-binfmt.service >>"$CACHE/run/kind-node.log" 2>&1
  # A container may be forbidden to raise limits; a node for tests needs none raised.
  sed -i '/^Limit/d; /^OOMScoreAdjust/d; /^TasksMax/d' "$NODE/etc/systemd/system/containerd.service"
  sed -i 's/restrict_oom_score_adj = false/restrict_oom_score_adj = true/' "$NODE/etc/containerd/config.toml"
}

# Under the names that kubeadm asks for.
images() {
  local name program
  while read -r name; do
    program=$(basename "${name%:*}")
    case $program in
      pause) image "$name" --program "$(type -P busybox)=/bin/busybox" --entrypoint /bin/busybox,sleep,2147483647 ;;
      etcd) image "$name" --program "$(home_of control-plane)/etcd" --entrypoint /usr/local/bin/etcd ;;
      coredns) image "$name" --program "$(home_of coredns)/coredns" --entrypoint /usr/local/bin/coredns ;;
      kube-proxy) proxy_image "$name" ;;
      *) image "$name" --program "$(home_of control-plane)/$program" --entrypoint "/usr/local/bin/$program" ;;
    esac
  done < <({
    "$(home_of kubeadm)/kubeadm" config images list --kubernetes-version "v$KUBERNETES_VERSION" 2>/dev/null
    sed -n 's/.*sandbox_image = "\(.*\)"/\1/p' "$NODE/etc/containerd/config.toml"
  } | sort -u)
}

image() { python3 "$ROOT/scripts/image.py" "$WORK/images/$(basename "${1//[:\/]/_}").tar" "$@"; }

# It calls iptables, whose extensions are loaded while it runs.
proxy_image() {
  local tool=/usr/sbin/xtables-nft-multi folder part name
  folder=$(dirname "$(find /usr/lib -name 'libxt_comment.so' | head -n 1)")
  local -a options=(--program "$(home_of node)/kube-proxy" --program "$tool=$tool" --folder /run)
  for part in "$folder"/*.so; do options+=(--program "$part=$part"); done
  for name in iptables iptables-save iptables-restore ip6tables ip6tables-save ip6tables-restore; do
    options+=(--link "xtables-nft-multi=/usr/sbin/$name")
  done
  # kubeadm's manifest names the program itself.
  image "$1" "${options[@]}" --entrypoint /usr/local/bin/kube-proxy
}

preload() {
  local archive
  mkdir -p "$WORK/containerd" "$NODE/var/lib/containerd"
  printf 'version = 2\nroot = "%s"\nstate = "%s"\n[grpc]\n  address = "%s"\n' "$NODE/var/lib/containerd" "$WORK/containerd/state" \
    "/run/outbox-relay-preload.sock" >"$WORK/containerd/config.toml"
  launch "$WORK/containerd" "$(type -P containerd)" --config "$WORK/containerd/config.toml"
  local -a client=(ctr --address /run/outbox-relay-preload.sock --namespace k8s.io)
  until "${client[@]}" version >/dev/null 2>&1; do
    running_pid "$WORK/containerd" >/dev/null || die "containerd ended: $(tail -n 3 "$WORK/containerd/log")"
    sleep 0.1
  done
  for archive in "$WORK"/images/*.tar; do "${client[@]}" images import "$archive" >/dev/null; done
  send TERM "$WORK/containerd"
  gone "$WORK/containerd" 20 || die "containerd does not end"
  rm -f /run/outbox-relay-preload.sock*
}

main "$@"
