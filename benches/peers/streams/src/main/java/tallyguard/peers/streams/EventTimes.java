package tallyguard.peers.streams;

import java.io.IOException;
import java.io.UncheckedIOException;
import org.apache.kafka.common.serialization.Deserializer;
import tallyguard.peers.EventTimeReader;

/**
 * Of a value, the event time is all that is kept. Streams asks for a record's timestamp before it is processed: read
 * here, it is parsed once.
 */
final class EventTimes implements Deserializer<Long> {
    /** One per thread: the tasks of all stream threads share the topology's deserializer. */
    private final ThreadLocal<EventTimeReader> readers = ThreadLocal.withInitial(() -> {
        try {
            return new EventTimeReader();
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
    });

    @Override
    public Long deserialize(String topic, byte[] value) {
        try {
            return readers.get().read(value);
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
    }
}
