package tallyguard.peers.streams;

import java.nio.charset.StandardCharsets;
import java.time.Duration;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.processor.PunctuationType;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.processor.api.RecordMetadata;
import org.apache.kafka.streams.state.KeyValueIterator;
import org.apache.kafka.streams.state.KeyValueStore;
import tallyguard.peers.Alert;
import tallyguard.peers.OpenWindows;

/**
 * Alerts with a user's eleventh transaction in a window, once. Key: the user; value: the event time.
 *
 * <p>A user's state is one value with all his open windows: one read and one write per record. A window store would
 * keep an entry per user and window, and in RocksDB open a database per minute of event time, several a second while it
 * catches up. There is one instance per partition, whose stream time less the bounded out-of-orderness is the
 * partition's watermark; Streams keeps stream time with the committed offsets.
 *
 * <p>There is no check for duplicates: a transaction that is sent twice counts twice.
 */
final class AlertAtBreach implements Processor<Bytes, Long, Bytes, byte[]> {
    static final String STORE = "open-windows";

    private ProcessorContext<Bytes, byte[]> context;
    private KeyValueStore<Bytes, long[]> openWindows;

    @Override
    public void init(ProcessorContext<Bytes, byte[]> context) {
        this.context = context;
        openWindows = context.getStateStore(STORE);
        context.schedule(Duration.ofMillis(OpenWindows.WINDOW_MS), PunctuationType.STREAM_TIME, this::removeClosed);
    }

    @Override
    public void process(Record<Bytes, Long> transaction) {
        long firstOpen = firstOpenIndex(context.currentStreamTimeMs());
        long index = OpenWindows.indexAt(transaction.value());
        if (index < firstOpen) {
            return; // Late: its window is closed.
        }
        long[] windows = openWindows.get(transaction.key());
        int at = windows == null ? -1 : OpenWindows.find(windows, index);
        if (at < 0) {
            long[] before = windows == null ? new long[0] : windows;
            openWindows.put(transaction.key(), OpenWindows.opened(before, index, firstOpen));
        } else if (OpenWindows.count(windows[at]) < OpenWindows.BREACH) {
            windows[at]++;
            openWindows.put(transaction.key(), windows);
            if (OpenWindows.count(windows[at]) == OpenWindows.BREACH) {
                alert(transaction, index);
            }
        }
    }

    private void alert(Record<Bytes, Long> transaction, long index) {
        RecordMetadata position = context.recordMetadata().orElseThrow();
        String userId = new String(transaction.key().get(), StandardCharsets.UTF_8);
        Alert alert = Alert.atBreach(userId, OpenWindows.startOf(index), position.partition(), position.offset());
        context.forward(transaction.withValue(alert.toJson()));
    }

    /** Users who have sent nothing for a while; the others' closed windows go when they open the next one. */
    private void removeClosed(long streamTime) {
        long firstOpen = firstOpenIndex(streamTime);
        try (KeyValueIterator<Bytes, long[]> users = openWindows.all()) {
            while (users.hasNext()) {
                KeyValue<Bytes, long[]> user = users.next();
                if (OpenWindows.newestIndex(user.value) < firstOpen) {
                    openWindows.delete(user.key);
                }
            }
        }
    }

    private static long firstOpenIndex(long streamTime) {
        return OpenWindows.indexAt(streamTime - OpenWindows.OUT_OF_ORDERNESS_MS);
    }
}
