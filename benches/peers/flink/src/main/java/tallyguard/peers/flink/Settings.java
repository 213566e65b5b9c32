package tallyguard.peers.flink;

import java.io.IOException;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Optional;
import org.apache.flink.configuration.CheckpointingOptions;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.configuration.CoreOptions;
import org.apache.flink.configuration.ExecutionOptions;
import org.apache.flink.configuration.ExternalizedCheckpointRetention;
import org.apache.flink.configuration.MemorySize;
import org.apache.flink.configuration.PipelineOptions;
import org.apache.flink.configuration.RestartStrategyOptions;
import org.apache.flink.configuration.StateBackendOptions;
import org.apache.flink.configuration.StateRecoveryOptions;
import org.apache.flink.configuration.TaskManagerOptions;
import org.apache.flink.core.execution.CheckpointingMode;
import org.apache.flink.core.execution.RecoveryClaimMode;
import org.apache.flink.state.rocksdb.EmbeddedRocksDBStateBackend;
import org.apache.flink.state.rocksdb.RocksDBConfigurableOptions;
import org.apache.flink.state.rocksdb.RocksDBOptions;
import tallyguard.peers.Arguments;

/** Flink's configuration, with a reason for everything that is not its default. */
final class Settings {
    private Settings() {}

    static Configuration of(Arguments arguments, boolean rocksDb) throws IOException {
        Configuration settings = new Configuration();
        execution(settings);
        checkpoints(settings, arguments);
        settings.set(StateBackendOptions.STATE_BACKEND, rocksDb ? "rocksdb" : "hashmap");
        if (rocksDb) {
            rocksDb(settings, arguments);
        }
        return settings;
    }

    private static void execution(Configuration settings) {
        // Chained operators hand records on as they are, without a copy; nothing here keeps a record.
        settings.set(PipelineOptions.OBJECT_REUSE, true);
        // Fails rather than falls back to Kryo.
        settings.set(PipelineOptions.GENERIC_TYPES, false);
        // How long a record may wait in a network buffer that is not full. The default of 100 ms would be most of an
        // alert's way to the sink; under load buffers are full long before, so that this costs no throughput.
        settings.set(ExecutionOptions.BUFFER_TIMEOUT, Duration.ofMillis(5));
        // An error ends the process: a benchmark must not hide a restart.
        settings.set(RestartStrategyOptions.RESTART_STRATEGY, "disable");
    }

    private static void checkpoints(Configuration settings, Arguments arguments) throws IOException {
        Path folder = arguments.stateDir().resolve("checkpoints");
        settings.set(CheckpointingOptions.CHECKPOINTING_CONSISTENCY_MODE, CheckpointingMode.EXACTLY_ONCE);
        settings.set(CheckpointingOptions.CHECKPOINTING_INTERVAL, Duration.ofMillis(arguments.checkpointMs()));
        settings.set(CheckpointingOptions.CHECKPOINT_STORAGE, "filesystem");
        settings.set(CheckpointingOptions.CHECKPOINTS_DIRECTORY, folder.toUri().toString());
        // Only matters for RocksDB: a checkpoint writes the files that are new, not the whole state.
        settings.set(CheckpointingOptions.INCREMENTAL_CHECKPOINTS, true);
        settings.set(CheckpointingOptions.EXTERNALIZED_CHECKPOINT_RETENTION,
                ExternalizedCheckpointRetention.RETAIN_ON_CANCELLATION);
        settings.set(CoreOptions.TMP_DIRS, arguments.stateDir().resolve("tmp").toString());

        Optional<Path> newest = Checkpoints.newest(folder);
        if (newest.isPresent()) {
            settings.set(StateRecoveryOptions.SAVEPOINT_PATH, newest.get().toUri().toString());
            // The new job owns the old one's files: its first checkpoint need not be a full one, and nothing is left
            // over.
            settings.set(StateRecoveryOptions.RESTORE_MODE, RecoveryClaimMode.CLAIM);
        }
    }

    private static void rocksDb(Configuration settings, Arguments arguments) {
        // Memtables and block cache of all slots together: enough that the benchmark's state is read from memory.
        settings.set(TaskManagerOptions.MANAGED_MEMORY_SIZE, MemorySize.ofMebiBytes(256));
        settings.set(RocksDBOptions.LOCAL_DIRECTORIES, arguments.stateDir().resolve("rocksdb").toString());
        // Timers live on the heap, a few bytes per user: RocksDB would add a write and a scan for each.
        settings.set(RocksDBOptions.TIMER_SERVICE_FACTORY, EmbeddedRocksDBStateBackend.PriorityQueueStateType.HEAP);
        // A user without state is found out without reading a block of every file.
        settings.set(RocksDBConfigurableOptions.USE_BLOOM_FILTER, true);
    }
}
