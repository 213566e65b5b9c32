package tallyguard.peers;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import java.io.IOException;
import java.io.InputStream;

/**
 * Reads {@code event_time} out of a transaction's JSON, epoch milliseconds or RFC 3339, with Jackson's streaming
 * parser.
 *
 * <p>Cheaper than what Tallyguard does, on purpose: no tree, no object, no text of any other field, no check of their
 * contents. The user is the record's Kafka key, so that {@code user_id} is skipped as well. One parser reads all
 * values, as if they were one endless document: making one per record costs as much as reading the record.
 *
 * <p>A value that cannot be read ends the engine: the benchmark writes none, and a peer that skipped records silently
 * would look fast. The reader cannot be used after that. Not for several threads at a time.
 */
public final class EventTimeReader {
    private static final String EVENT_TIME = "event_time";

    private final InstantText instantText = new InstantText();
    private final Values values = new Values();
    private final JsonParser parser;

    public EventTimeReader() throws IOException {
        parser = new JsonFactory().createParser(values);
    }

    /** Epoch milliseconds. */
    public long read(byte[] value) throws IOException {
        values.next(value);
        if (parser.nextToken() != JsonToken.START_OBJECT || values.isUnread()) {
            throw new IOException("a value is not one object");
        }
        long eventTime = Long.MIN_VALUE;
        for (String field = parser.nextFieldName(); field != null; field = parser.nextFieldName()) {
            parser.nextToken();
            if (field.equals(EVENT_TIME)) {
                eventTime = instant();
            } else {
                parser.skipChildren();
            }
        }
        if (eventTime == Long.MIN_VALUE) {
            throw new IOException("no event_time");
        }
        return eventTime;
    }

    private long instant() throws IOException {
        if (parser.currentToken() == JsonToken.VALUE_NUMBER_INT) {
            return parser.getLongValue();
        }
        // The characters in the parser's own buffer: no String.
        return instantText.parse(parser.getTextCharacters(), parser.getTextOffset(), parser.getTextLength());
    }

    /** Gives the parser one value at a time, and the end of the input to a value that stops short. */
    private static final class Values extends InputStream {
        private byte[] value = new byte[0];
        private int position;

        void next(byte[] value) {
            this.value = value;
            position = 0;
        }

        /** Whether the parser still has something of the value before: then that one was more than an object. */
        boolean isUnread() {
            return position == 0;
        }

        @Override
        public int read(byte[] target, int start, int length) {
            if (position == value.length) {
                return -1;
            }
            int size = Math.min(length, value.length - position);
            System.arraycopy(value, position, target, start, size);
            position += size;
            return size;
        }

        @Override
        public int read() {
            return position == value.length ? -1 : value[position++] & 0xff;
        }
    }
}
