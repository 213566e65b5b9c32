#!/usr/bin/env bash
# Becomes a real Kafka broker for tests and the demo: one node by itself, or one of a cluster.
#
#   scripts/broker.sh DIR PORT CONTROLLER_PORT [INNER_PORT OUTER_PORT]
#
# With the last two it listens on INNER_PORT too, and tells whoever comes that way to use OUTER_PORT: a proxy's.
# TALLYGUARD_BROKER_CLUSTER="CLUSTER_ID NODE CONTROLLER_PORT_1 CONTROLLER_PORT_2 …" makes it node NODE, counted from 1, of
# a cluster with so many nodes; topics are on three of them, and two must have a record before it is acknowledged.
#
# DIR holds its configuration and its data: the first call formats it, later calls go on with what is there, so a
# broker can be killed and started again on the same log. It listens on 127.0.0.1 only. The process that was started
# becomes the JVM (exec): its process id is the broker's. Needs `scripts/install.sh kafka` to have run.
# Never for production: small internal topics, nothing is synced to disk, and one node has no replicas.
#
# TALLYGUARD_BROKER_JAVA_OPTS replaces the JVM's options, e.g. for a benchmark.
set -euo pipefail

dir="$1" port="$2" controller_port="$3" inner_port="${4:-}" outer_port="${5:-}"
libs="${XDG_CACHE_HOME:-$HOME/.cache}/tallyguard/kafka-4.1.1/libs"
[ -d "$libs" ] || {
  echo "broker: no Kafka in $libs; run scripts/install.sh kafka" >&2
  exit 1
}

# One compiler tier and the serial collector: the quickest start and the least work beside the program under test.
read -r -a java_opts <<<"${TALLYGUARD_BROKER_JAVA_OPTS:--Xms128m -Xmx512m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xshare:auto}"
logging=(-Dorg.slf4j.simpleLogger.defaultLogLevel=warn -Dorg.slf4j.simpleLogger.showDateTime=true)

read -r -a cluster <<<"${TALLYGUARD_BROKER_CLUSTER:-}"
node=1 voters="1@127.0.0.1:$controller_port" replicas=1 in_sync=1
if [ "${#cluster[@]}" -gt 0 ]; then
  node="${cluster[1]}" voters="" replicas=3 in_sync=2
  for at in "${!cluster[@]}"; do
    [ "$at" -lt 2 ] || voters+="${voters:+,}$((at - 1))@127.0.0.1:${cluster[$at]}"
  done
fi

listeners="CLIENT://127.0.0.1:$port" advertised="CLIENT://127.0.0.1:$port"
if [ -n "$inner_port" ]; then
  listeners+=",PROXIED://127.0.0.1:$inner_port"
  advertised+=",PROXIED://127.0.0.1:$outer_port"
fi

# A short broker session: after a hard kill the controller refuses the new process until the old one's session is over.
# Records may carry any timestamp, so none is too far ahead and none is so old that retention takes it; a topic's own
# settings override both.
config="$dir/server.properties"
mkdir -p "$dir"
cat >"$config" <<PROPERTIES
process.roles=broker,controller
node.id=$node
controller.quorum.voters=$voters
listeners=$listeners,CONTROLLER://127.0.0.1:$controller_port
advertised.listeners=$advertised
listener.security.protocol.map=CLIENT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=CLIENT
log.dirs=$dir/data
auto.create.topics.enable=false
num.network.threads=2
num.io.threads=4
num.recovery.threads.per.data.dir=2
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
offsets.topic.num.partitions=4
offsets.topic.replication.factor=$replicas
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=$replicas
transaction.state.log.min.isr=$in_sync
default.replication.factor=$replicas
min.insync.replicas=$in_sync
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
log.cleaner.dedupe.buffer.size=8388608
log.retention.ms=-1
log.message.timestamp.after.max.ms=9223372036854775807
PROPERTIES

if [ ! -e "$dir/data/meta.properties" ]; then
  cluster_id="${cluster[0]:-$(head -c 16 /dev/urandom | base64 | tr '+/' 'AB' | tr -d '=')}"
  java "${java_opts[@]}" "${logging[@]}" -cp "$libs/*" kafka.tools.StorageTool format -t "$cluster_id" -c "$config"
fi
exec java "${java_opts[@]}" "${logging[@]}" -cp "$libs/*" kafka.Kafka "$config"
