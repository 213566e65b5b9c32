package tallyguard.peers;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonGenerator;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.UncheckedIOException;

/**
 * One alert, and its JSON form. {@code trigger} is left out when {@link #partition} is negative: a window that speaks
 * when it closes has no record that caused it.
 *
 * <p>Public fields and a constructor without arguments make it what Flink calls a POJO, which it serializes by itself.
 */
public final class Alert {
    private static final JsonFactory JSON = new JsonFactory();

    public String userId;
    /** Epoch milliseconds. */
    public long windowStart;
    public long count;
    public int partition;
    public long offset;

    public Alert() {}

    /** At the breach: caused by the record at that position. */
    public static Alert atBreach(String userId, long windowStart, int partition, long offset) {
        Alert alert = atClose(userId, windowStart, OpenWindows.BREACH);
        alert.partition = partition;
        alert.offset = offset;
        return alert;
    }

    /** At the end of the window, with all that it counted. */
    public static Alert atClose(String userId, long windowStart, long count) {
        Alert alert = new Alert();
        alert.userId = userId;
        alert.windowStart = windowStart;
        alert.count = count;
        alert.partition = -1;
        return alert;
    }

    public byte[] toJson() {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream(128);
        try (JsonGenerator json = JSON.createGenerator(bytes)) {
            json.writeStartObject();
            json.writeStringField("user_id", userId);
            json.writeNumberField("window_start", windowStart);
            json.writeNumberField("count", count);
            if (partition >= 0) {
                json.writeObjectFieldStart("trigger");
                json.writeNumberField("partition", partition);
                json.writeNumberField("offset", offset);
                json.writeEndObject();
            }
            json.writeEndObject();
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
        return bytes.toByteArray();
    }
}
