package tallyguard.peers.flink;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import org.apache.flink.api.common.serialization.DeserializationSchema;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.connector.base.DeliveryGuarantee;
import org.apache.flink.connector.kafka.sink.KafkaRecordSerializationSchema;
import org.apache.flink.connector.kafka.sink.KafkaSink;
import org.apache.flink.connector.kafka.sink.TransactionNamingStrategy;
import org.apache.flink.connector.kafka.source.KafkaSource;
import org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer;
import org.apache.flink.connector.kafka.source.reader.deserializer.KafkaRecordDeserializationSchema;
import org.apache.flink.util.Collector;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.producer.ProducerRecord;
import tallyguard.peers.Alert;
import tallyguard.peers.Arguments;
import tallyguard.peers.EventTimeReader;

/** Both ends of the job: transactions in, alerts out in one Kafka transaction per checkpoint. */
final class Topics {
    private Topics() {}

    static KafkaSource<Transaction> transactions(Arguments arguments) {
        return KafkaSource.<Transaction>builder()
                .setBootstrapServers(arguments.bootstrap())
                .setTopics(arguments.source())
                .setGroupId(arguments.group())
                // Only without a checkpoint. Never the group's committed offsets: they are for observers, and without
                // the state that belongs to them the counts would be wrong.
                .setStartingOffsets(OffsetsInitializer.earliest())
                .setDeserializer(new TransactionReader())
                // The set of partitions does not change here.
                .setProperty("partition.discovery.interval.ms", "-1")
                // A poll hands over everything that a fetch brought, instead of 500 records: fewer turns between the
                // fetcher's thread and the task's.
                .setProperty("max.poll.records", "10000")
                // librdkafka, which Tallyguard uses, does not verify record checksums by default either.
                .setProperty("check.crcs", "false")
                .setProperty("isolation.level", "read_committed")
                .build();
    }

    static KafkaSink<Alert> alerts(Arguments arguments) {
        return KafkaSink.<Alert>builder()
                .setBootstrapServers(arguments.bootstrap())
                .setDeliveryGuarantee(DeliveryGuarantee.EXACTLY_ONCE)
                .setTransactionalIdPrefix(arguments.group())
                // The default. POOLING, which uses a few ids again and again, saves one request per checkpoint, but its
                // recovery leaves the killed process' newest transaction open until an id comes round again, and hides
                // what follows it from read_committed consumers for so long (FLINK-40626).
                .setTransactionNamingStrategy(TransactionNamingStrategy.INCREMENTING)
                // The longest that a broker allows by default: a transaction that expires before the restart is lost.
                .setProperty("transaction.timeout.ms", "900000")
                .setRecordSerializer(new AlertWriter(arguments.alerts()))
                .build();
    }

    /** The user is the record's key; of the value, only the event time is read. */
    private static final class TransactionReader implements KafkaRecordDeserializationSchema<Transaction> {
        private transient EventTimeReader eventTimes;
        private transient Transaction transaction;

        @Override
        public void open(DeserializationSchema.InitializationContext context) throws IOException {
            eventTimes = new EventTimeReader();
            transaction = new Transaction();
        }

        @Override
        public void deserialize(ConsumerRecord<byte[], byte[]> record, Collector<Transaction> out) throws IOException {
            // One object for all records: what comes next writes it into a network buffer before it returns.
            transaction.userId = new String(record.key(), StandardCharsets.UTF_8);
            transaction.eventTime = eventTimes.read(record.value());
            transaction.partition = record.partition();
            transaction.offset = record.offset();
            out.collect(transaction);
        }

        @Override
        public TypeInformation<Transaction> getProducedType() {
            return new TransactionTypeInfo();
        }
    }

    private record AlertWriter(String topic) implements KafkaRecordSerializationSchema<Alert> {
        @Override
        public ProducerRecord<byte[], byte[]> serialize(Alert alert, KafkaSinkContext context, Long timestamp) {
            return new ProducerRecord<>(topic, alert.userId.getBytes(StandardCharsets.UTF_8), alert.toJson());
        }
    }
}
