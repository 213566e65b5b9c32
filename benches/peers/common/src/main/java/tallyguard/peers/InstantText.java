package tallyguard.peers;

import java.time.LocalDateTime;
import java.time.OffsetDateTime;
import java.time.ZoneOffset;

/**
 * RFC 3339 to epoch milliseconds; {@code 2026-01-01T00:00:00.000Z}, the form that the benchmark's input has, without
 * java.time. The milliseconds of the minute that was seen last are kept, since neighbouring records mostly share it.
 */
final class InstantText {
    private static final int MINUTE_LENGTH = "2026-01-01T00:00".length();
    private static final int UTC_MILLIS_LENGTH = "2026-01-01T00:00:00.000Z".length();

    private final char[] minute = new char[MINUTE_LENGTH];
    private long minuteMs;

    long parse(char[] text, int start, int length) {
        if (length != UTC_MILLIS_LENGTH
                || text[start + 16] != ':'
                || text[start + 19] != '.'
                || text[start + 23] != 'Z') {
            return OffsetDateTime.parse(new String(text, start, length)).toInstant().toEpochMilli();
        }
        if (!isSameMinute(text, start)) {
            LocalDateTime parsed = LocalDateTime.parse(new String(text, start, MINUTE_LENGTH));
            minuteMs = parsed.toInstant(ZoneOffset.UTC).toEpochMilli();
            System.arraycopy(text, start, minute, 0, MINUTE_LENGTH);
        }
        int seconds = digit(text[start + 17]) * 10 + digit(text[start + 18]);
        int millis = digit(text[start + 20]) * 100 + digit(text[start + 21]) * 10 + digit(text[start + 22]);
        return minuteMs + seconds * 1000L + millis;
    }

    private boolean isSameMinute(char[] text, int start) {
        // From the end: what differs at all differs there.
        for (int i = MINUTE_LENGTH - 1; i >= 0; i--) {
            if (text[start + i] != minute[i]) {
                return false;
            }
        }
        return true;
    }

    private static int digit(char character) {
        int digit = character - '0';
        if (digit < 0 || digit > 9) {
            throw new IllegalArgumentException("not a digit: " + character);
        }
        return digit;
    }
}
