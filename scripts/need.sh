#!/usr/bin/env bash
# need.sh TOOL...: makes sure that tools are there before anything is built. Root installs what is missing from the
# distribution's packages; others get the one line that does, and exit code 1.
#
# Tools: rust, build (C and C++ compilers, make, perl: librdkafka and OpenSSL are built from source), java, maven,
# python, go (where the distribution's is too old, a newer one comes into the cache), openssl (the command, for
# certificates of tests), images (what scripts/image.py and its callers take), node (what a Kubernetes node is made
# of: containerd, runc, network plugins, iptables), npm (with Node.js).
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/jvm.sh"
# shellcheck source-path=SCRIPTDIR
source "$ROOT/scripts/go.sh"

packages=()

main() {
  (($#)) || { sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }
  local tool go=''
  for tool in "$@"; do
    case $tool in
      rust) have cargo || { echo "Rust is missing: install rustup, then run this again" >&2; exit 1; } ;;
      build) { have cc && have c++ && have make && have perl; } || packages+=(build-essential perl) ;;
      java) new_java || packages+=("openjdk-$JAVA_MIN_VERSION-jre-headless") ;;
      maven) have mvn || packages+=(maven) ;;
      python) python3 -c 'import ensurepip, venv' 2>/dev/null || packages+=(python3 python3-venv) ;;
      node)
        have containerd && have ctr && have runc || packages+=(containerd runc)
        [[ -x /usr/lib/cni/bridge || -x /opt/cni/bin/bridge ]] || packages+=(containernetworking-plugins)
        have iptables || packages+=(iptables)
        have ip || packages+=(iproute2)
        ;;
      images)
        have busybox || packages+=(busybox-static)
        have objcopy || packages+=(binutils)
        ;;
      go)
        go=yes
        have go || [[ -x $GO_HOME/bin/go ]] || packages+=(golang-go ca-certificates)
        ;;
      npm) { have node && have npm; } || packages+=(nodejs npm) ;;
      openssl) have openssl || packages+=(openssl) ;;
      *) echo "need.sh: unknown tool $tool" >&2; exit 2 ;;
    esac
  done
  install_packages
  if [[ $go ]]; then require_go; fi
}

install_packages() {
  ((${#packages[@]})) || return 0
  local command="apt-get install -y --no-install-recommends ${packages[*]}"
  if [[ $(id -u) == 0 ]] && have apt-get; then
    echo "installing ${packages[*]}"
    apt-get update -q >/dev/null
    DEBIAN_FRONTEND=noninteractive $command >/dev/null
  else
    echo "missing: ${packages[*]}; install with: sudo $command" >&2
    exit 1
  fi
}

new_java() {
  local version
  version=$(java -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p') || return 1
  ((${version:-0} >= JAVA_MIN_VERSION))
}

have() { command -v "$1" >/dev/null; }

main "$@"
