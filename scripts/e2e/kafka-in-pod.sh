# Runs the broker inside its pod, again and again, unless /data/down exists: that is an outage.
cd /data
if [ ! -f meta.properties ]; then
  printf '%s\n' version=1 node.id=1 cluster.id=nAqenSKoRd2_DQWa5o9zew directory.id=nQlLy6VfRLuB4fVhbwp16A >meta.properties
fi
cat >/tmp/server.properties <<END
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@localhost:9093
listeners=PLAINTEXT://:9092,CONTROLLER://localhost:9093
advertised.listeners=PLAINTEXT://$ADVERTISED
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
controller.listener.names=CONTROLLER
log.dirs=/data
num.partitions=8
auto.create.topics.enable=false
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
group.initial.rebalance.delay.ms=0
log.cleaner.dedupe.buffer.size=16777216
message.max.bytes=$MESSAGE_MAX_BYTES
broker.session.timeout.ms=2500
broker.heartbeat.interval.ms=250
END
cat >/tmp/log4j2.properties <<END
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d %p %c{1}: %m%n
logger.server.name = kafka.server.KafkaRaftServer
logger.server.level = info
END
trap 'kill $broker; wait $broker; exit 0' TERM
while :; do
  if [ -e /data/down ]; then
    sleep 1
    continue
  fi
  /java/bin/java -cp '/kafka/*' -Xmx384m -Xms64m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 \
    -Dlog4j2.configurationFile=/tmp/log4j2.properties kafka.Kafka /tmp/server.properties &
  broker=$!
  echo $broker >/data/pid
  wait $broker
  sleep 1
done
