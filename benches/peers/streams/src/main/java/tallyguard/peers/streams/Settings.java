package tallyguard.peers.streams;

import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.streams.StreamsConfig;
import tallyguard.peers.Arguments;

/** The configuration of Kafka Streams, with a reason for everything that is not its default. */
final class Settings {
    private Settings() {}

    static Properties of(Arguments arguments) {
        Properties settings = new Properties();
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, arguments.group());
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, arguments.bootstrap());
        settings.put(StreamsConfig.STATE_DIR_CONFIG, arguments.stateDir().toString());
        settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, arguments.threads());
        settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        settings.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, arguments.commitMs());
        // A thread goes on with what it has instead of pausing a partition every thousand records.
        settings.put(StreamsConfig.BUFFERED_RECORDS_PER_PARTITION_CONFIG, 10_000);
        consumer(settings, arguments);
        producer(settings);
        return settings;
    }

    private static void consumer(Properties settings, Arguments arguments) {
        // Fewer turns around the stream thread's loop, each of which has a price per partition and not per record.
        settings.put(StreamsConfig.mainConsumerPrefix(ConsumerConfig.MAX_POLL_RECORDS_CONFIG), 5_000);
        // A static member: a process that was killed takes its partitions back at once under the same name, instead of
        // waiting until the session of the dead one is over.
        String member = arguments.group() + "-1";
        settings.put(StreamsConfig.mainConsumerPrefix(ConsumerConfig.GROUP_INSTANCE_ID_CONFIG), member);
        // librdkafka, which Tallyguard uses, does not verify record checksums by default either.
        settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.CHECK_CRCS_CONFIG), false);
        // State is rebuilt from the changelog before the first record: in as few round trips as possible.
        settings.put(StreamsConfig.restoreConsumerPrefix(ConsumerConfig.MAX_POLL_RECORDS_CONFIG), 10_000);
    }

    private static void producer(Properties settings) {
        // The changelog has about one record per transaction; larger batches are fewer requests. Streams lets a batch
        // wait for 100 ms, but sends it at the commit at the latest, before which no consumer sees it anyway.
        settings.put(StreamsConfig.producerPrefix(ProducerConfig.BATCH_SIZE_CONFIG), 256 << 10);
    }
}
