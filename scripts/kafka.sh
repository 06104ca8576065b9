#!/usr/bin/env bash
# Apache Kafka on 127.0.0.1, from Maven, without Docker.
#
#   kafka.sh install                   fetch the broker into the cache (start does it too)
#   kafka.sh start [n] [dir] [option]  start n brokers (1 or 3) with their data in dir and print the bootstrap address;
#                                      in a dir that was started before: start again what does not run, same ports and data
#       --port P      the first broker's port (then P+1, ...); free ports otherwise
#       --heap SIZE   heap of each broker (512m)
#       --secure      also listen with TLS, SASL, both, and TLS with client certificates (MTLS), with authorisation;
#                     dir/secure says where. Users relay (may do everything) and stranger (may do nothing), passwords
#                     relay-secret and stranger-secret, certificates dir/tls/relay.crt and .key, and foreign.crt of an
#                     authority that the broker does not know; SASL_SSL also takes OAUTHBEARER, with JSON
#                     Web Tokens for the audience kafka that dir/tls/tokens.key signed (key id tokens); one broker only
#       --proxied P,P,P   also listen for clients that come through a proxy, which listens on these ports, one per broker;
#                      dir/node-N/proxied holds the port that it leads to
#       --bench       settings for measurements: G1, C2, 1g, default session time-outs
#       --owner PID   end the brokers when the process PID is gone
#   kafka.sh wait [dir]                until every broker answers
#   kafka.sh bootstrap [dir]           print the bootstrap address
#   kafka.sh password USER PASSWORD [dir]   another SCRAM-SHA-512 password for a user of a secure broker
#   kafka.sh stop|kill|pause|resume [dir] [node]   all brokers, or the one with this number;
#                                      stop is SIGTERM, kill SIGKILL, pause SIGSTOP, resume SIGCONT
#
# MESSAGE_MAX_BYTES is the largest record batch that its topics take (1048588, as in Kafka).
# dir defaults to $OUTBOX_CACHE/run/kafka. Topics are not created automatically, as in production.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/jvm.sh"

HOME_DIR=$CACHE/kafka-$KAFKA_VERSION
# Starts take 1 to 3 s on a quiet machine; a busy build machine needs far longer.
START_SECONDS=90

main() {
  local command=${1:-}
  shift || true
  case $command in
    install) require_java && install ;;
    start) start "$@" ;;
    wait) wait_ready "${1:-$CACHE/run/kafka}" ;;
    password) password "$@" ;;
    bootstrap) cat "${1:-$CACHE/run/kafka}/bootstrap" ;;
    stop) signal_nodes TERM "$@" && await_end "$@" ;;
    kill) signal_nodes CONT "$@" && signal_nodes KILL "$@" && await_end "$@" ;;
    pause) signal_nodes STOP "$@" ;;
    resume) signal_nodes CONT "$@" ;;
    *) sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2 && exit 2 ;;
  esac
}

start() {
  local nodes=1 dir=$CACHE/run/kafka port='' heap='' bench='' owner='' secure='' proxied=''
  if [[ ${1:-} =~ ^[0-9]+$ ]]; then nodes=$1 && shift; fi
  if [[ ${1:-} && $1 != --* ]]; then dir=$1 && shift; fi
  while (($#)); do
    case $1 in
      --bench) bench=1 && shift && continue ;;
      --secure) secure=1 && shift && continue ;;
      --port | --heap | --owner | --proxied) [[ ${2:-} ]] || die "$1 needs a value" ;;
      *) die "unknown option $1; run without arguments for help" ;;
    esac
    printf -v "${1#--}" %s "$2"
    shift 2
  done
  [[ $nodes == 1 || $nodes == 3 ]] || die "the number of brokers is 1 or 3, not $nodes"
  require_java
  install
  mkdir -p "$dir"
  dir=$(cd "$dir" && pwd)
  [[ ! $secure || $nodes == 1 ]] || die "--secure is for one broker"
  if [[ -f $dir/bootstrap ]]; then
    run_brokers "$dir" "$bench" "$owner"
    wait_ready "$dir"
  else
    start_new "$nodes" "$dir" "$port" "$heap" "$bench" "$secure" "$owner" "$proxied"
  fi
  cat "$dir/bootstrap"
}

# A port that was free a moment ago may be taken by a test that runs beside this one: then others are tried.
start_new() {
  local dir=$2 port=$3 bench=$5 owner=$7 attempt
  for attempt in 1 2 3; do
    configure "${@:1:6}"
    [[ ! ${8:-} ]] || configure_proxies "$dir" "$8"
    run_brokers "$dir" "$bench" "$owner"
    if (wait_ready "$dir"); then return; fi
    [[ ! $port && $attempt != 3 ]] && grep -qs "Address already in use" "$dir"/node-*/log || exit 1
    signal_nodes KILL "$dir" && await_end "$dir"
    rm -rf "$dir"/node-* "$dir/bootstrap"
  done
}

# password USER PASSWORD [dir]: for SCRAM-SHA-512. Those who are connected stay so.
password() {
  java -cp "$HOME_DIR/*" -XX:+UseSerialGC -XX:TieredStopAtLevel=1 "-Dlog4j2.configurationFile=$HOME_DIR.log4j2.properties" \
    kafka.admin.ConfigCommand --bootstrap-server "$(cat "${3:-$CACHE/run/kafka}/bootstrap")" --alter --entity-type users \
    --entity-name "$1" --add-config "SCRAM-SHA-512=[password=$2]"
}

run_brokers() {
  local dir=$1 bench=$2 owner=$3 node
  for node in "$dir"/node-*; do
    running_pid "$node" >/dev/null || run_broker "$node" "$bench"
  done
  if [[ $owner ]]; then kill_with_owner "$owner" "$dir"/node-* </dev/null >/dev/null 2>&1 & fi
}

install() {
  fetch_jars kafka "$HOME_DIR"
  [[ -f $HOME_DIR.log4j2.properties ]] || write_log_config
  [[ -f $HOME_DIR.jsa ]] || with_cache_lock archive_classes
}

write_log_config() {
  cat >"$HOME_DIR.log4j2.properties.$$" <<'EOF'
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d %p %c{1}: %m%n
logger.server.name = kafka.server.KafkaRaftServer
logger.server.level = info
EOF
  mv "$HOME_DIR.log4j2.properties.$$" "$HOME_DIR.log4j2.properties"
}

# The class archive of one broker run halves every later start. It must be made and used with the same class path.
archive_classes() {
  [[ ! -f $HOME_DIR.jsa ]] || return 0
  echo "preparing the class archive of Kafka (once)" >&2
  local dir
  dir=$(mktemp -d)
  configure 1 "$dir" '' '' '' ''
  launch "$dir/node-1" java -cp "$HOME_DIR/*" -XX:+UseSerialGC "-XX:ArchiveClassesAtExit=$dir/kafka.jsa" \
    "-Dlog4j2.configurationFile=$HOME_DIR.log4j2.properties" kafka.Kafka "$dir/node-1/server.properties"
  wait_ready "$dir"
  send TERM "$dir/node-1"
  gone "$dir/node-1" 60 || die "the broker that prepares the class archive did not stop; see $dir/node-1/log"
  [[ -f $dir/kafka.jsa ]] || die "Java wrote no class archive; see $dir/node-1/log"
  mv "$dir/kafka.jsa" "$HOME_DIR.jsa"
  rm -rf "$dir"
}

# configure NODES DIR PORT HEAP BENCH SECURE: one directory per node with its properties, the bootstrap address beside them.
configure() {
  local nodes=$1 dir=$2 first_port=$3 heap=${4:-512m} bench=$5 secure=$6 node voters='' bootstrap=''
  local -a ports controllers
  for ((node = 1; node <= nodes; node++)); do
    ports[node]=${first_port:+$((first_port + node - 1))}
    ports[node]=${ports[node]:-$(free_port)}
    ! listening 127.0.0.1 "${ports[node]}" || die "port ${ports[node]} is in use; choose another one with --port"
    controllers[node]=$(free_port)
    voters+=${voters:+,}$node@127.0.0.1:${controllers[node]}
    bootstrap+=${bootstrap:+,}127.0.0.1:${ports[node]}
  done
  for ((node = 1; node <= nodes; node++)); do
    mkdir -p "$dir/node-$node/data"
    node_properties "$node" "$nodes" "$dir/node-$node" "${ports[node]}" "${controllers[node]}" "$voters" "$bench" \
      >"$dir/node-$node/server.properties"
    # Static voters and this file take the place of a format step. The ids are UUIDs in base64,
    # the directory ids differ before the last character: its low bits are padding.
    printf '%s\n' version=1 "node.id=$node" cluster.id=nAqenSKoRd2_DQWa5o9zew "directory.id=nQlLy6VfRLuB4fVhbwp${node}6A" \
      >"$dir/node-$node/data/meta.properties"
    echo "${ports[node]}" >"$dir/node-$node/port"
    [[ ! $bench ]] || heap=1g
    echo "$heap" >"$dir/node-$node/heap"
  done
  [[ ! $secure ]] || configure_security "$dir"
  echo "$bootstrap" >"$dir/bootstrap"
}

# configure_proxies DIR PORTS: another listener per broker, which names the proxy's port to its clients.
configure_proxies() {
  local dir=$1 node properties port
  local -a ports
  IFS=, read -ra ports <<<"$2"
  for node in "${!ports[@]}"; do
    properties=$dir/node-$((node + 1))/server.properties
    [[ -f $properties ]] || die "--proxied has more ports than there are brokers"
    port=$(free_port)
    sed -i -e "s|^\\(listeners=.*\\)|\\1,PROXIED://127.0.0.1:$port|" \
      -e "s|^\\(advertised.listeners=.*\\)|\\1,PROXIED://127.0.0.1:${ports[node]}|" \
      -e '/^listener.security.protocol.map=/s/$/,PROXIED:PLAINTEXT/' "$properties"
    echo "$port" >"$dir/node-$((node + 1))/proxied"
  done
}

# configure_security DIR: more listeners, users and an authoriser for the one broker in DIR. Brokers and controllers talk
# over the plain listeners as ANONYMOUS.
configure_security() {
  local dir=$1 properties=$1/node-1/server.properties tls sasl both mutual
  tls=$(free_port) sasl=$(free_port) both=$(free_port) mutual=$(free_port)
  certificates "$dir/tls"
  local extra=SSL://127.0.0.1:$tls,SASL_PLAINTEXT://127.0.0.1:$sasl,SASL_SSL://127.0.0.1:$both,MTLS://127.0.0.1:$mutual
  local login=org.apache.kafka.common.security
  sed -i -e "s|^\\(listeners=.*\\)|\\1,$extra|" -e "s|^\\(advertised.listeners=.*\\)|\\1,$extra|" \
    -e '/^listener.security.protocol.map=/s/$/,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL,MTLS:SSL/' "$properties"
  cat >>"$properties" <<EOF
ssl.keystore.type=PEM
ssl.keystore.location=$dir/tls/broker.pem
ssl.truststore.type=PEM
ssl.truststore.location=$dir/tls/ca.pem
ssl.principal.mapping.rules=RULE:^CN=([a-z]+)$/\$1/
listener.name.mtls.ssl.client.auth=required
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
listener.name.sasl_ssl.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER
listener.name.sasl_ssl.oauthbearer.sasl.jaas.config=$login.oauthbearer.OAuthBearerLoginModule required;
listener.name.sasl_ssl.oauthbearer.sasl.server.callback.handler.class=$login.oauthbearer.OAuthBearerValidatorCallbackHandler
sasl.oauthbearer.jwks.endpoint.url=file://$dir/tls/jwks.json
sasl.oauthbearer.expected.audience=kafka
sasl.oauthbearer.clock.skew.seconds=0
# Whose token has expired has to log in again.
listener.name.sasl_ssl.connections.max.reauth.ms=3600000
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
allow.everyone.if.no.acl.found=false
super.users=User:ANONYMOUS;User:relay
EOF
  local listener
  for listener in sasl_plaintext sasl_ssl; do
    cat >>"$properties" <<EOF
listener.name.$listener.plain.sasl.jaas.config=$login.plain.PlainLoginModule required user_relay="relay-secret" user_stranger="stranger-secret";
listener.name.$listener.scram-sha-256.sasl.jaas.config=$login.scram.ScramLoginModule required;
listener.name.$listener.scram-sha-512.sasl.jaas.config=$login.scram.ScramLoginModule required;
EOF
  done
  # SCRAM users are part of a formatted log; formatting wants to write meta.properties itself.
  rm "$dir/node-1/data/meta.properties"
  local -a users=()
  local user mechanism
  for user in relay stranger; do
    for mechanism in SCRAM-SHA-256 SCRAM-SHA-512; do
      users+=(--add-scram "$mechanism=[name=$user,password=$user-secret]")
    done
  done
  java -cp "$HOME_DIR/*" -XX:+UseSerialGC -XX:TieredStopAtLevel=1 "-Dlog4j2.configurationFile=$HOME_DIR.log4j2.properties" \
    kafka.tools.StorageTool format -t nAqenSKoRd2_DQWa5o9zew -c "$properties" "${users[@]}" >"$dir/format.log" 2>&1 ||
    die "formatting failed; see $dir/format.log"
  printf '%s\n' "SSL=127.0.0.1:$tls" "SASL_PLAINTEXT=127.0.0.1:$sasl" "SASL_SSL=127.0.0.1:$both" "MTLS=127.0.0.1:$mutual" "CA=$dir/tls/ca.pem" >"$dir/secure"
}

# certificates DIR: an authority and a certificate of 127.0.0.1, of client relay, and of another authority's client, for
# one year.
certificates() {
  command -v openssl >/dev/null || die "no openssl found; on Debian or Ubuntu: apt-get install -y openssl"
  mkdir -p "$1"
  (
    cd "$1"
    printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\n' >san
    authority ca outbox-relay-test
    authority other another-authority
    certificate broker broker ca
    certificate relay relay ca
    certificate foreign relay other
    openssl genrsa -out tokens.key 2048
    json_web_keys tokens.key >jwks.json
    openssl pkcs8 -topk8 -nocrypt -in broker.key -out broker.pem
    cat broker.crt >>broker.pem
  ) >"$1/log" 2>&1 || die "the certificates could not be made; see $1/log"
}

# json_web_keys KEY: the public half of the RSA key that tokens are signed with, by RFC 7517. The exponent is 65537.
json_web_keys() {
  local modulus
  modulus=$(openssl rsa -in "$1" -noout -modulus | cut -d= -f2 | sed 's/../\\x&/g')
  # shellcheck disable=SC2059
  modulus=$(printf "$modulus" | base64 -w0 | tr '+/' '-_' | tr -d =)
  printf '{"keys": [{"kty": "RSA", "kid": "tokens", "alg": "RS256", "use": "sig", "n": "%s", "e": "AQAB"}]}\n' "$modulus"
}

# authority NAME COMMON_NAME: NAME.pem and NAME.key.
authority() {
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 365 -subj "/CN=$2" -keyout "$1.key" -out "$1.pem"
}

# certificate NAME COMMON_NAME AUTHORITY: NAME.crt and NAME.key.
certificate() {
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=$2" -keyout "$1.key" -out "$1.csr"
  openssl x509 -req -in "$1.csr" -CA "$3.pem" -CAkey "$3.key" -CAcreateserial -days 365 -extfile san -out "$1.crt"
}

node_properties() {
  local node=$1 nodes=$2 dir=$3 port=$4 controller=$5 voters=$6 bench=$7
  cat <<EOF
process.roles=broker,controller
node.id=$node
controller.quorum.voters=$voters
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller
advertised.listeners=PLAINTEXT://127.0.0.1:$port
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs=$dir/data
log.retention.hours=-1
num.partitions=8
auto.create.topics.enable=false
default.replication.factor=$nodes
min.insync.replicas=$((nodes == 3 ? 2 : 1))
offsets.topic.replication.factor=$nodes
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=$nodes
transaction.state.log.min.isr=$((nodes == 3 ? 2 : 1))
transaction.state.log.num.partitions=4
group.initial.rebalance.delay.ms=0
# The default of 128 MB would be a quarter of the heap.
log.cleaner.dedupe.buffer.size=16777216
message.max.bytes=${MESSAGE_MAX_BYTES:-1048588}
EOF
  # A killed broker may come back only when its old session has ended.
  [[ $bench ]] || printf '%s\n' broker.session.timeout.ms=2500 broker.heartbeat.interval.ms=250
}

run_broker() {
  local node=$1 bench=$2 heap
  heap=$(cat "$node/heap")
  local -a tuning=(-XX:+UseSerialGC -XX:TieredStopAtLevel=1)
  [[ $bench ]] && tuning=(-XX:+UseG1GC)
  : >"$node/log"
  launch "$node" java -cp "$HOME_DIR/*" "-Xmx$heap" -Xms64m "${tuning[@]}" "-XX:SharedArchiveFile=$HOME_DIR.jsa" \
    "-Dlog4j2.configurationFile=$HOME_DIR.log4j2.properties" \
    "-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls=file://${node%/*}/tls/jwks.json" \
    "-Dorg.apache.kafka.sasl.oauthbearer.allowed.files=${node%/*}/tls/jwks.json" kafka.Kafka "$node/server.properties"
}

wait_ready() {
  local dir node deadline=$((SECONDS + START_SECONDS))
  dir=$(realpath -m "$1")
  [[ -d $dir/node-1 ]] || die "no broker was started in $dir"
  for node in "$dir"/node-*; do
    until grep -qs "Kafka Server started" "$node/log" && listening 127.0.0.1 "$(cat "$node/port")"; do
      running_pid "$node" >/dev/null || die "the broker in $node ended: $(grep -m 1 ERROR "$node/log" || tail -n 3 "$node/log")"
      ((SECONDS < deadline)) || die "the broker in $node did not answer within $START_SECONDS s; see $node/log"
      sleep 0.05
    done
  done
}

# signal_nodes SIGNAL [dir] [node]
signal_nodes() {
  local signal=$1 dir=${2:-$CACHE/run/kafka} node
  for node in "$dir"/node-${3:-*}; do
    [[ -d $node ]] || die "no broker was started in $node"
    send "$signal" "$(cd "$node" && pwd)"
  done
}

# await_end [dir] [node]: a broker stops within 4 s on a quiet machine.
await_end() {
  local dir=${1:-$CACHE/run/kafka} node
  for node in "$dir"/node-${2:-*}; do
    gone "$(cd "$node" && pwd)" 60 || die "the broker in $node still runs after 60 s"
  done
}

main "$@"
