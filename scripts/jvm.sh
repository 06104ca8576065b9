# shellcheck shell=bash source-path=SCRIPTDIR
# Sourced by the scripts that run services: cache, jars, ports, processes. Linux, bash 4.4 or later.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=${OUTBOX_CACHE:-$HOME/.cache/outbox-relay}
source "$ROOT/versions.env"

die() {
  echo "$(basename "$0"): $*" >&2
  exit 1
}

require_java() {
  command -v java >/dev/null || die "no Java found; on Debian or Ubuntu: apt-get install -y openjdk-$JAVA_MIN_VERSION-jre-headless"
  local version
  version=$(java -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p')
  ((${version:-0} >= JAVA_MIN_VERSION)) || die "Java ${version:-of unknown version} found, $JAVA_MIN_VERSION or later is needed"
}

# Runs "$@" while holding the lock of the cache, so that parallel tests fetch once. The lock is not inherited by what it starts.
with_cache_lock() {
  mkdir -p "$CACHE"
  (
    flock 9
    "$@" 9>&-
  ) 9>"$CACHE/.lock"
}

# fetch_jars PROFILE TARGET: the jars of a profile of foreign.pom.xml, all or nothing. No network once TARGET exists.
fetch_jars() {
  [[ -d $2 ]] || with_cache_lock fetch_jars_locked "$1" "$2"
}

fetch_jars_locked() {
  local profile=$1 target=$2
  [[ ! -d $target ]] || return 0
  command -v mvn >/dev/null || die "$profile is not in $CACHE yet and Maven is missing to fetch it; on Debian or Ubuntu: apt-get install -y maven"
  echo "fetching $profile into $target" >&2
  local partial=$target.partial.$$
  rm -rf "$target".partial.*
  mkdir -p "$partial"
  mvn -B -q -f "$ROOT/scripts/foreign.pom.xml" -P "$profile" "-Dmaven.repo.local=$CACHE/m2" \
    "-Dkafka.version=$KAFKA_VERSION" "-Dcassandra.version=$CASSANDRA_VERSION" "-Dlog4j.version=$LOG4J_VERSION" \
    "-Ddebezium.version=$DEBEZIUM_VERSION" "-Djava-driver.version=$JAVA_DRIVER_VERSION" \
    "-Ddependency.plugin.version=$MAVEN_DEPENDENCY_PLUGIN_VERSION" \
    dependency:copy-dependencies "-DoutputDirectory=$partial" -DincludeScope=runtime >&2 ||
    die "Maven could not fetch $profile (its message stands above); nothing was left behind in $target"
  mv "$partial" "$target"
}

listening() { (exec 3<>"/dev/tcp/$1/$2") 2>/dev/null; }

# A free port of 127.0.0.1 below the ephemeral range, so that no outgoing connection takes it before the service does.
free_port() {
  local port
  for _ in {1..50}; do
    port=$((15000 + RANDOM % 17000))
    listening 127.0.0.1 "$port" || { echo "$port" && return; }
  done
  die "no free port found between 15000 and 32000"
}

# launch DIR COMMAND...: starts a service that outlives this script; its id goes to DIR/pid, its output to DIR/log.
# Returns once the service's own program runs or has ended: until then the process still bears this script's command line,
# by which running_pid would take it for gone. Loading a large program from a cold disk takes a second.
launch() {
  local dir=$1 tick
  shift
  setsid "$@" >>"$dir/log" 2>&1 </dev/null 9>&- &
  echo $! >"$dir/pid"
  for ((tick = 0; tick < 1000; tick++)); do
    running_pid "$dir" >/dev/null && return
    kill -0 $! 2>/dev/null || return 0
    sleep 0.01
  done
}

# The id of the service in DIR, if it runs. Its command line names DIR, so a recycled id is not mistaken for it.
running_pid() {
  local pid
  pid=$(cat "$1/pid" 2>/dev/null) || return 1
  grep -qsF "$1/" "/proc/$pid/cmdline" && echo "$pid"
}

# send SIGNAL DIR: signals the service in DIR if it runs.
send() {
  local pid
  pid=$(running_pid "$2") || return 0
  kill "-$1" "$pid"
}

# gone DIR SECONDS: waits until the service in DIR has ended.
gone() {
  local tick
  for ((tick = 0; tick < $2 * 10; tick++)); do
    running_pid "$1" >/dev/null || return 0
    sleep 0.1
  done
  return 1
}

# kill_with_owner OWNER DIR...: ends the services in DIRs once the process OWNER is gone, so that a killed test leaves nothing.
# DIR/owner tells whose they are: the next run may have started others there before this one looks again.
kill_with_owner() {
  local owner=$1 dir
  shift
  for dir in "$@"; do echo "$owner" >"$dir/owner"; done
  while kill -0 "$owner" 2>/dev/null; do
    sleep 1
    running_pid "$1" >/dev/null || return 0
  done
  for dir in "$@"; do
    [[ $(cat "$dir/owner" 2>/dev/null) == "$owner" ]] || continue
    send KILL "$dir"
    # What a test made among temporary files is hundreds of MiB; what lies in the cache is made anew by the next run.
    if [[ $dir == "${TMPDIR:-/tmp}"/* && $dir != "$CACHE"/* ]]; then
      gone "$dir" 10 || true
      rm -rf "$dir"
    fi
  done
}
