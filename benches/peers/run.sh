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

# The parallel collector takes the least processor time per record here, and about as much memory as the serial one. G1
# took 40 % more time in Flink's peer and up to two thirds more memory, and its short pauses buy nothing: the parallel
# collector's are far below the intervals of checkpoints and commits, which alerts wait for. A heap that starts at its full
# 1 GiB: one that may grow from 256 to 768 MiB took a fifth more time for a tenth less memory. Pages that were never used
# are not resident.
java_opts=(-Xms1g -Xmx1g -XX:+UseParallelGC)
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
