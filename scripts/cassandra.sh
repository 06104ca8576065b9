#!/usr/bin/env bash
# Apache Cassandra on 127.0.0.1, from Maven, without Docker: the oracle for plain CQL. It has no ScyllaDB CDC.
#
#   cassandra.sh install              fetch it into the cache (start does it too)
#   cassandra.sh start [dir] [option] start one node with its data in dir and print its address; in a dir that was
#                                     started before: start it again, same ports and data
#       --port P      the native port; a free one otherwise
#       --heap SIZE   heap of the node (1g)
#       --roles yes   ask for roles and what they may; the first is cassandra, with the same password
#       --owner PID   end the node when the process PID is gone
#   cassandra.sh wait [dir]           until it answers
#   cassandra.sh address [dir]        print its address
#   cassandra.sh stop|kill [dir]      SIGTERM or SIGKILL
#
# dir defaults to $OUTBOX_CACHE/run/cassandra.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/jvm.sh"

HOME_DIR=$CACHE/cassandra-$CASSANDRA_VERSION
# A start takes about 10 s on a quiet machine; a busy build machine needs far longer.
START_SECONDS=180
# What Cassandra reaches into on a JVM with modules (the list of its own start script).
EXPORTS=(java.base/jdk.internal.misc java.base/jdk.internal.ref java.base/sun.nio.ch java.rmi/sun.rmi.registry
  java.rmi/sun.rmi.server java.rmi/sun.rmi.transport.tcp java.management.rmi/com.sun.jmx.remote.internal.rmi java.sql/java.sql
  java.base/java.lang.ref jdk.unsupported/sun.misc)
OPENS=(java.base/java.lang java.base/java.lang.module java.base/java.lang.reflect java.base/java.io java.base/java.nio
  java.base/java.util java.base/java.util.concurrent java.base/java.util.concurrent.atomic java.base/java.net
  java.base/sun.nio.ch java.base/jdk.internal.loader java.base/jdk.internal.ref java.base/jdk.internal.reflect
  java.base/jdk.internal.math java.base/jdk.internal.module java.base/jdk.internal.util.jar
  jdk.management/com.sun.management.internal)

main() {
  local command=${1:-}
  shift || true
  case $command in
    install) require_java && fetch_jars cassandra "$HOME_DIR" ;;
    start) start "$@" ;;
    wait) wait_ready "${1:-$CACHE/run/cassandra}" ;;
    address) cat "${1:-$CACHE/run/cassandra}/address" ;;
    stop) end TERM "${1:-$CACHE/run/cassandra}" ;;
    kill) end KILL "${1:-$CACHE/run/cassandra}" ;;
    *) sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2 && exit 2 ;;
  esac
}

start() {
  local dir=$CACHE/run/cassandra port='' heap=1g owner='' roles=''
  if [[ ${1:-} && $1 != --* ]]; then dir=$1 && shift; fi
  while (($#)); do
    case $1 in
      --port | --heap | --owner | --roles) [[ ${2:-} ]] || die "$1 needs a value" ;;
      *) die "unknown option $1; run without arguments for help" ;;
    esac
    printf -v "${1#--}" %s "$2"
    shift 2
  done
  require_java
  fetch_jars cassandra "$HOME_DIR"
  mkdir -p "$dir"
  dir=$(cd "$dir" && pwd)
  [[ -f $dir/address ]] || configure "$dir" "$port" "$roles"
  running_pid "$dir" >/dev/null || run_node "$dir" "$heap"
  if [[ $owner ]]; then kill_with_owner "$owner" "$dir" </dev/null >/dev/null 2>&1 & fi
  wait_ready "$dir"
  cat "$dir/address"
}

configure() {
  local dir=$1 port=${2:-$(free_port)} storage_port
  storage_port=$(free_port)
  ! listening 127.0.0.1 "$port" || die "port $port is in use; choose another one with --port"
  cat >"$dir/cassandra.yaml" <<EOF
cluster_name: outbox-relay
num_tokens: 16
partitioner: org.apache.cassandra.dht.Murmur3Partitioner
endpoint_snitch: SimpleSnitch
listen_address: 127.0.0.1
rpc_address: 127.0.0.1
native_transport_port: $port
storage_port: $storage_port
seed_provider:
  - class_name: org.apache.cassandra.locator.SimpleSeedProvider
    parameters:
      - seeds: "127.0.0.1:$storage_port"
data_file_directories: ["$dir/data"]
commitlog_directory: $dir/commitlog
saved_caches_directory: $dir/saved_caches
hints_directory: $dir/hints
cdc_raw_directory: $dir/cdc_raw
commitlog_sync: periodic
commitlog_sync_period: 10000ms
materialized_views_enabled: true
user_defined_functions_enabled: false
EOF
  if [[ ${3:-} == yes ]]; then
    # Nothing is kept in between: what is granted holds at once.
    cat >>"$dir/cassandra.yaml" <<'EOF'
authenticator: PasswordAuthenticator
authorizer: CassandraAuthorizer
permissions_validity: 0ms
roles_validity: 0ms
credentials_validity: 0ms
EOF
  fi
  cat >"$dir/logback.xml" <<'EOF'
<configuration>
  <appender name="OUT" class="ch.qos.logback.core.ConsoleAppender">
    <encoder><pattern>%date %level %logger{0}: %message%n</pattern></encoder>
  </appender>
  <root level="WARN"><appender-ref ref="OUT"/></root>
</configuration>
EOF
  echo "127.0.0.1:$port" >"$dir/address"
}

run_node() {
  local dir=$1 heap=$2 name
  local -a modules=()
  for name in "${EXPORTS[@]}"; do modules+=(--add-exports "$name=ALL-UNNAMED"); done
  for name in "${OPENS[@]}"; do modules+=(--add-opens "$name=ALL-UNNAMED"); done
  : >"$dir/log"
  launch "$dir" java -cp "$HOME_DIR/*" "-Xmx$heap" -Xms256m -XX:+UseSerialGC "${modules[@]}" \
    -Djdk.attach.allowAttachSelf=true "-Djna.tmpdir=$dir/jna" "-Dcassandra.config=file://$dir/cassandra.yaml" "-Dcassandra.storagedir=$dir" \
    "-Dlogback.configurationFile=file://$dir/logback.xml" -Dcassandra-foreground=yes -Dcassandra.ring_delay_ms=0 \
    -Dcassandra.skip_wait_for_gossip_to_settle=0 -Dcassandra.superuser_setup_delay_ms=0 \
    org.apache.cassandra.service.CassandraDaemon
}

wait_ready() {
  local dir address deadline=$((SECONDS + START_SECONDS))
  dir=$(realpath -m "$1")
  [[ -f $dir/address ]] || die "no node was started in $dir"
  address=$(cat "$dir/address")
  until listening "${address%:*}" "${address#*:}"; do
    running_pid "$dir" >/dev/null || die "the node in $dir ended: $(grep -m 1 ERROR "$dir/log" || tail -n 3 "$dir/log")"
    ((SECONDS < deadline)) || die "the node in $dir did not answer within $START_SECONDS s; see $dir/log"
    sleep 0.1
  done
}

end() {
  local dir
  dir=$(realpath -m "$2")
  send "$1" "$dir"
  gone "$dir" 60 || die "the node in $dir still runs after 60 s"
}

main "$@"
