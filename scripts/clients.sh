#!/usr/bin/env bash
# clients.sh CLIENT HOST PORT [USER PASSWORD]: runs the tests of a client that we did not write against a node.
# clients.sh FORM: what software that we did not write makes of outbox rows or messages, a line of JSON each, on stdin.
#
# CLIENT is scylla-driver, cassandra-driver, cqlsh or gocql, or an example of a service with an outbox: outbox-python,
# outbox-go or outbox-java; FORM is debezium or cloudevents. Each is fetched into the cache once.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/jvm.sh
source scripts/go.sh
TESTS=sandbox/tests/clients
FORMS=relay/tests/formats
OUTBOX=examples/outbox

main() {
  case ${1:-}/$# in
    debezium/1)
      require_java
      fetch_jars debezium "$CACHE/debezium-$DEBEZIUM_VERSION"
      exec java -cp "$CACHE/debezium-$DEBEZIUM_VERSION/*" $FORMS/Router.java
      ;;
    cloudevents/1) in_venv "cloudevents==$CLOUDEVENTS_VERSION" python3 $FORMS/cloud_events.py && exit ;;
  esac
  (($# == 3 || $# == 5)) || { sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }
  export SCYLLA=$2:$3 NODE_HOST=$2 NODE_PORT=$3 NODE_USER=${4:-} NODE_PASSWORD=${5:-} PYTHONDONTWRITEBYTECODE=1
  case $1 in
    scylla-driver) in_venv "scylla-driver==$SCYLLA_DRIVER_VERSION" pytest -q -p no:cacheprovider $TESTS/test_driver.py ;;
    cassandra-driver) in_venv "cassandra-driver==$CASSANDRA_DRIVER_VERSION" pytest -q -p no:cacheprovider $TESTS/test_driver.py ;;
    cqlsh) in_venv "cqlsh==$CQLSH_VERSION" pytest -q -p no:cacheprovider $TESTS/test_cqlsh.py ;;
    gocql) in_go $TESTS/gocql go test -count=1 ./... ;;
    outbox-python) in_venv "scylla-driver==$SCYLLA_DRIVER_VERSION" python3 $OUTBOX/python/outbox.py $OUTBOX/schema.cql ;;
    outbox-go) in_go $OUTBOX/go go run . ../schema.cql ;;
    outbox-java)
      require_java
      fetch_jars java-driver "$CACHE/java-driver-$JAVA_DRIVER_VERSION"
      java -cp "$CACHE/java-driver-$JAVA_DRIVER_VERSION/*" $OUTBOX/java/Outbox.java $OUTBOX/schema.cql
      ;;
    *) echo "clients.sh: unknown client $1" >&2; exit 2 ;;
  esac
}

# in_go FOLDER COMMAND...
in_go() {
  local folder=$1
  shift
  require_go
  grep -q "gocql/gocql v$GOCQL_VERSION\$" "$folder/go.mod" ||
    die "versions.env and $folder/go.mod name different versions of gocql"
  export GOPATH=$CACHE/go-path GOMODCACHE=$CACHE/go-path/pkg/mod GOCACHE=$CACHE/go-build
  export GOFLAGS='-modcacherw -mod=readonly'
  cd "$folder"
  "$@"
}

# in_venv PACKAGE COMMAND...: a marker says that it is whole.
in_venv() {
  local package=$1 venv=$CACHE/venv-$1
  shift
  if [[ ! -f $venv/complete ]]; then
    mkdir -p "$CACHE"
    exec 9>"$CACHE/.venv-lock"
    flock 9
    if [[ ! -f $venv/complete ]]; then
      rm -rf "$venv"
      python3 -m venv "$venv"
      "$venv/bin/pip" -q --disable-pip-version-check --cache-dir "$CACHE/pip" install "$package" "pytest==$PYTEST_VERSION" >&2
      touch "$venv/complete"
    fi
    exec 9>&-
  fi
  PATH=$venv/bin:$PATH "$@"
}

main "$@"
