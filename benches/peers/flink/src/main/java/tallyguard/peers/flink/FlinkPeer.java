package tallyguard.peers.flink;

import java.nio.file.Files;
import java.time.Duration;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import org.apache.flink.api.common.JobStatus;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.core.execution.JobClient;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.datastream.KeyedStream;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import tallyguard.peers.Alert;
import tallyguard.peers.Arguments;
import tallyguard.peers.OpenWindows;
import tallyguard.peers.Peer;

/**
 * The rule as a DataStream job in a cluster of one process: source, keyBy, rule and sink. Its alerts become visible
 * when the checkpoint that covers them has completed.
 *
 * <p>keyBy sends every record through a network buffer, in the same process: Kafka's partitions are not Flink's key
 * groups, so that reading the topic as if it were already keyed would be wrong.
 */
public final class FlinkPeer implements Peer {
    private static final long JOB_END_SECONDS_MAX = 10;

    @Override
    public Set<String> engines() {
        return Set.of(
                "flink-at-breach-heap", "flink-at-breach-rocksdb", "flink-textbook-heap", "flink-textbook-rocksdb");
    }

    @Override
    public Job start(Arguments arguments) throws Exception {
        Files.createDirectories(arguments.stateDir().resolve("tmp"));
        boolean rocksDb = arguments.engine().endsWith("-rocksdb");
        boolean atBreach = arguments.engine().startsWith("flink-at-breach");
        StreamExecutionEnvironment environment =
                StreamExecutionEnvironment.createLocalEnvironment(arguments.threads(), Settings.of(arguments, rocksDb));

        // One watermark per partition: the connector applies the strategy to each of them and passes the lowest on.
        WatermarkStrategy<Transaction> watermarks = WatermarkStrategy
                .<Transaction>forBoundedOutOfOrderness(Duration.ofMillis(OpenWindows.OUT_OF_ORDERNESS_MS))
                .withTimestampAssigner((transaction, timestamp) -> transaction.eventTime);
        KeyedStream<Transaction, String> transactions = environment
                .fromSource(Topics.transactions(arguments), watermarks, "transactions")
                .uid("transactions")
                .keyBy(transaction -> transaction.userId, Types.STRING);
        DataStream<Alert> alerts = atBreach
                ? transactions.process(new AlertAtBreach(), TypeInformation.of(Alert.class)).uid("at-breach")
                : AlertAtClose.of(transactions);
        alerts.sinkTo(Topics.alerts(arguments)).uid("alerts");
        return new RunningJob(environment.executeAsync(arguments.group()));
    }

    private record RunningJob(JobClient client, CompletableFuture<?> ended) implements Job {
        RunningJob(JobClient client) {
            this(client, client.getJobExecutionResult());
        }

        @Override
        public void awaitRunning() throws Exception {
            while (client.getJobStatus().get() != JobStatus.RUNNING) {
                if (ended.isDone()) {
                    ended.get();
                }
                Thread.sleep(10);
            }
        }

        /** What is behind the newest checkpoint is repeated by the next start; nothing of it has been committed. */
        @Override
        public void close() throws Exception {
            if (!ended.isDone()) {
                client.cancel().get(JOB_END_SECONDS_MAX, TimeUnit.SECONDS);
                ended.handle((result, error) -> null).get(JOB_END_SECONDS_MAX, TimeUnit.SECONDS);
            }
        }
    }
}
