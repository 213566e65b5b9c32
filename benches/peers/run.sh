#!/usr/bin/env bash
# Becomes a peer: the fraud rule in Apache Flink or Kafka Streams, until SIGTERM.
#
#   benches/peers/run.sh OUTPUT ENGINE --bootstrap H:P --source TOPIC --alerts TOPIC --group GROUP --state-dir DIR
#                        [--threads 2] [--checkpoint-ms 1000] [--commit-ms 100]
#
# OUTPUT is the folder that `mvn -q -B -f benches/peers/pom.xml -Dpeers.output=OUTPUT package` has filled. ENGINE is
# flink-at-breach-heap, flink-at-breach-rocksdb, flink-textbook-heap, flink-textbook-rocksdb, streams-memory or
# streams-rocksdb. The process that was started becomes the JVM (exec): its process id is the peer's. It prints `ready`.
# TALLYGUARD_PEER_JAVA_OPTS is added to the JVM's options, e.g. for another heap.
set -euo pipefail

output="$1" engine="$2"
module="${engine%%-*}"

# The parallel collector: G1 took about the same processor time per record and up to twice the resident memory; the
# serial one took a little more time in Streams. 1 GiB leaves room for many more users than the peers were tuned with;
# with 768 MiB the resident peak was a tenth lower at the same speed. Pauses reach a quarter of a second in Flink's peer
# on a machine that is busy otherwise, and more with G1.
java_opts=(-Xms256m -Xmx1g -XX:+UseParallelGC)
# Flink reaches into these packages (Kryo and closures); the list is the part of its own conf/config.yaml that a job
# without SQL needs.
flink_opts=(
  --add-opens=java.base/java.lang=ALL-UNNAMED
  --add-opens=java.base/java.lang.reflect=ALL-UNNAMED
  --add-opens=java.base/java.io=ALL-UNNAMED
  --add-opens=java.base/java.net=ALL-UNNAMED
  --add-opens=java.base/java.nio=ALL-UNNAMED
  --add-opens=java.base/java.text=ALL-UNNAMED
  --add-opens=java.base/java.time=ALL-UNNAMED
  --add-opens=java.base/java.util=ALL-UNNAMED
  --add-opens=java.base/java.util.concurrent=ALL-UNNAMED
  --add-opens=java.base/java.util.concurrent.atomic=ALL-UNNAMED
  --add-opens=java.base/java.util.concurrent.locks=ALL-UNNAMED
)
[ "$module" = flink ] && java_opts+=("${flink_opts[@]}")
read -r -a more_opts <<<"${TALLYGUARD_PEER_JAVA_OPTS:-}"

exec java "${java_opts[@]}" "${more_opts[@]}" -cp "$output/$module/peer-$module.jar:$output/$module/libs/*" \
  tallyguard.peers.Main "${@:2}"
