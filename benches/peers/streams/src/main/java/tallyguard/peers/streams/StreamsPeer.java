package tallyguard.peers.streams;

import java.time.Duration;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.serialization.BytesDeserializer;
import org.apache.kafka.common.serialization.BytesSerializer;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.KafkaStreams.State;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.state.KeyValueBytesStoreSupplier;
import org.apache.kafka.streams.state.Stores;
import tallyguard.peers.Arguments;
import tallyguard.peers.Peer;

/**
 * The rule as one processor per partition: the topic is keyed by user already, so that nothing is repartitioned.
 * Counters are in memory or in RocksDB, and in both cases in a changelog topic, which a killed process rebuilds them
 * from.
 */
public final class StreamsPeer implements Peer {
    private static final Duration CLOSE_MAX = Duration.ofSeconds(10);

    @Override
    public Set<String> engines() {
        return Set.of("streams-memory", "streams-rocksdb");
    }

    @Override
    public Job start(Arguments arguments) {
        boolean rocksDb = arguments.engine().equals("streams-rocksdb");
        Properties settings = Settings.of(arguments);
        if (rocksDb) {
            settings.put(StreamsConfig.ROCKSDB_CONFIG_SETTER_CLASS_CONFIG, RocksDbSettings.class);
        }
        KafkaStreams streams = new KafkaStreams(topology(arguments, rocksDb), settings);
        RunningStreams running = new RunningStreams(streams, new CompletableFuture<>(), new CompletableFuture<>());
        streams.setStateListener(running::changed);
        streams.setUncaughtExceptionHandler(running::failed);
        streams.start();
        return running;
    }

    private static Topology topology(Arguments arguments, boolean rocksDb) {
        KeyValueBytesStoreSupplier store = rocksDb
                ? Stores.persistentKeyValueStore(AlertAtBreach.STORE)
                : Stores.inMemoryKeyValueStore(AlertAtBreach.STORE);
        return new Topology()
                .addSource(Topology.AutoOffsetReset.EARLIEST, "transactions", (record, before) -> (Long) record.value(),
                        new BytesDeserializer(), new EventTimes(), arguments.source())
                .addProcessor("at-breach", AlertAtBreach::new, "transactions")
                .addStateStore(Stores.keyValueStoreBuilder(store, Serdes.Bytes(), WindowsSerde.create())
                        // Users come back after the next commit, rarely before it, so that the cache would merge few
                        // writes. With the store in memory, filling and emptying it was almost half of the stream
                        // threads' time; with RocksDB it made no clear difference.
                        .withCachingDisabled()
                        .withLoggingEnabled(Map.of()), "at-breach")
                .addSink("alerts", arguments.alerts(), new BytesSerializer(), new ByteArraySerializer(), "at-breach");
    }

    private record RunningStreams(
            KafkaStreams streams, CompletableFuture<Void> isRunning, CompletableFuture<Void> ended) implements Job {
        void changed(State state, State before) {
            if (state == State.RUNNING) {
                isRunning.complete(null);
            } else if (state == State.NOT_RUNNING || state == State.ERROR) {
                ended.complete(null);
                isRunning.completeExceptionally(new IllegalStateException("Streams did not get to run"));
            }
        }

        StreamThreadExceptionResponse failed(Throwable error) {
            ended.completeExceptionally(error);
            isRunning.completeExceptionally(error);
            return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        }

        @Override
        public void awaitRunning() throws Exception {
            isRunning.get();
        }

        @Override
        public void close() {
            streams.close(CLOSE_MAX);
        }
    }
}
