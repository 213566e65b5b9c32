package tallyguard.peers;

import java.util.Arrays;

/**
 * The rule's arithmetic: a user's counters in the tumbling windows that are still open, without any engine.
 *
 * <p>One {@code long} per window, {@code index << 8 | count}, in no order. A user has rarely more than two or three, so
 * that one small array is cheaper to look up, to write and to clear than a map entry per window. A count stops at
 * {@link #BREACH}: nothing behind the breach changes the state any more, which saves its writes.
 */
public final class OpenWindows {
    public static final long WINDOW_MS = 60_000;
    public static final long OUT_OF_ORDERNESS_MS = 60_000;
    /** More than ten transactions: the eleventh raises the alert. */
    public static final int BREACH = 11;

    private static final int COUNT_BITS = 8;
    private static final long COUNT_MASK = (1 << COUNT_BITS) - 1;

    private OpenWindows() {}

    /** The index of the window of an instant. For a watermark, the index of the first window that is still open. */
    public static long indexAt(long epochMs) {
        return Math.floorDiv(epochMs, WINDOW_MS);
    }

    public static long startOf(long index) {
        return index * WINDOW_MS;
    }

    public static long index(long window) {
        return window >> COUNT_BITS;
    }

    public static int count(long window) {
        return (int) (window & COUNT_MASK);
    }

    /** Where the window lies in the array, or -1. */
    public static int find(long[] windows, long index) {
        for (int i = 0; i < windows.length; i++) {
            if (index(windows[i]) == index) {
                return i;
            }
        }
        return -1;
    }

    /** A first transaction in a window: an array with it, without those that are closed by now. */
    public static long[] opened(long[] windows, long index, long firstOpenIndex) {
        long[] kept = withoutClosed(windows, firstOpenIndex);
        long[] result = Arrays.copyOf(kept, kept.length + 1);
        result[kept.length] = index << COUNT_BITS | 1;
        return result;
    }

    /** The same array if none is closed. */
    public static long[] withoutClosed(long[] windows, long firstOpenIndex) {
        int open = 0;
        for (long window : windows) {
            open += index(window) >= firstOpenIndex ? 1 : 0;
        }
        if (open == windows.length) {
            return windows;
        }
        long[] result = new long[open];
        int next = 0;
        for (long window : windows) {
            if (index(window) >= firstOpenIndex) {
                result[next++] = window;
            }
        }
        return result;
    }

    /** The index of the newest window; the array must not be empty. */
    public static long newestIndex(long[] windows) {
        long newest = Long.MIN_VALUE;
        for (long window : windows) {
            newest = Math.max(newest, index(window));
        }
        return newest;
    }
}
