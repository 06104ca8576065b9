#!/usr/bin/env bash
# images.sh DIR [PROGRAMS]
# images.sh DIR --only kafka|tools|monitoring...
#
# The images of the end-to-end test as archives in DIR, made of files of this machine, without
# Docker and without a registry: the four programs (from PROGRAMS, target/debug unless given), Kafka with its Java, and
# tools. `make images` builds what is shipped, with Docker.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/../jvm.sh"
# shellcheck source-path=SCRIPTDIR
source "$ROOT/scripts/kubernetes/paths.sh"

VERSION=$(sed -n 's/^appVersion: //p' "$ROOT/charts/outbox-relay/Chart.yaml")

main() {
  (($#)) || { sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }
  local out=$1 programs=${2:-${CARGO_TARGET_DIR:-$ROOT/target}/debug} name
  mkdir -p "$out"
  if [[ ${2:-} == --only ]]; then
    for name in "${@:3}"; do "$name" "$out"; done
    return
  fi
  for name in outbox-relay outbox-relay-operator outbox-sandbox orders; do
    [[ -x $programs/$name ]] || die "$programs/$name is missing; build it with: cargo build --workspace --bins"
    program "$out" "$programs/$name"
  done
  kafka "$out"
  tools "$out"
}

# image OUT NAME OPTION...: under the version that the chart names by itself, and once more, so that an upgrade has
# something to change to.
image() {
  local out=$1 name=$2
  shift 2
  python3 "$ROOT/scripts/image.py" "$out/$name.tar" "$name:$VERSION,$name:$VERSION-next" "$@"
}

# Without debug information, which is nine tenths of a development build.
program() {
  local out=$1 name small
  name=$(basename "$2")
  small=$out/.programs/$name
  mkdir -p "$out/.programs"
  if [[ ! $small -nt $2 ]]; then objcopy --strip-debug "$2" "$small"; fi
  image "$out" "$name" --program "$small" --entrypoint "/usr/local/bin/$name" --user 65532:65532
}

# The broker, its Java, and a shell that starts and stops it inside the pod: so an outage keeps the data.
kafka() {
  local out=$1 java libraries=$CACHE/kafka-$KAFKA_VERSION part
  [[ ! $out/kafka.tar -nt $libraries || ! $out/kafka.tar -nt $ROOT/scripts/e2e/kafka-in-pod.sh ]] || return 0
  require_java
  "$ROOT/scripts/kafka.sh" install
  java=$(java -XshowSettings:properties -version 2>&1 | sed -n 's/.*java.home = //p')
  local -a options=(--program "$java/bin/java=/java/bin/java" --program "$java/lib/server/libjvm.so=/java/lib/server/libjvm.so" --program "$(busybox)=/bin/busybox" --link busybox=/bin/sh)
  # Of a development kit, what running takes.
  for part in "$java"/lib/*; do
    case $(basename "$part") in
      src.zip | ct.sym | psfont* | libawt* | libjawt* | libatk* | libsplash* | libfont* | libjsound* | libmlib* | liblcms*) ;;
      *) options+=(--file "$part=/java/lib/$(basename "$part")") ;;
    esac
  done
  options+=(--file "$java/conf=/java/conf" --file "$java/release=/java/release")
  image "$out" kafka "${options[@]}" --file "$libraries=/kafka" --file "$ROOT/scripts/e2e/kafka-in-pod.sh=/kafka.sh" \
    --entrypoint /bin/busybox,sh,/kafka.sh --user 65532:65532
}

# What tests use inside the cluster, and what holds a pod's network.
tools() {
  image "$1" tools --program "$(busybox)=/bin/busybox" --link busybox=/bin/sh --entrypoint /bin/busybox
}

# The prometheus-operator looks for its reloader in /bin.
monitoring() {
  local out=$1 operator
  operator=$(home_of prometheus-operator)
  image "$out" prometheus --program "$(home_of prometheus)/prometheus" --entrypoint /usr/local/bin/prometheus --user 65532:65532
  image "$out" prometheus-operator --program "$operator/operator" --entrypoint /usr/local/bin/operator --user 65532:65532
  image "$out" prometheus-config-reloader --program "$operator/prometheus-config-reloader=/bin/prometheus-config-reloader" \
    --entrypoint /bin/prometheus-config-reloader --user 65532:65532
}

busybox() {
  type -P busybox || die "no busybox found; on Debian or Ubuntu: apt-get install -y busybox-static"
}

main "$@"
