package tallyguard.peers.flink;

import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeutils.base.array.LongPrimitiveArraySerializer;
import org.apache.flink.streaming.api.TimerService;
import org.apache.flink.streaming.api.functions.KeyedProcessFunction;
import org.apache.flink.util.Collector;
import tallyguard.peers.Alert;
import tallyguard.peers.OpenWindows;

/**
 * Alerts with a user's eleventh transaction in a window, once.
 *
 * <p>A user's state is one value with all his open windows: one read and one write per record, also in RocksDB. There
 * is one timer per user who has state, not one per window and none per record: it clears what is closed and waits for
 * the newest window that is left.
 *
 * <p>There is no check for duplicates: a transaction that is sent twice counts twice.
 */
final class AlertAtBreach extends KeyedProcessFunction<String, Transaction, Alert> {
    private transient ValueState<long[]> openWindows;

    @Override
    public void open(OpenContext context) {
        openWindows = getRuntimeContext()
                .getState(new ValueStateDescriptor<>("open-windows", LongPrimitiveArraySerializer.INSTANCE));
    }

    @Override
    public void processElement(Transaction transaction, Context context, Collector<Alert> out) throws Exception {
        TimerService timers = context.timerService();
        long firstOpen = firstOpenIndex(timers.currentWatermark());
        long index = OpenWindows.indexAt(transaction.eventTime);
        if (index < firstOpen) {
            return; // Late: its window is closed.
        }
        long[] windows = openWindows.value();
        int at = windows == null ? -1 : OpenWindows.find(windows, index);
        if (at < 0) {
            open(windows, index, firstOpen, timers);
        } else if (OpenWindows.count(windows[at]) < OpenWindows.BREACH) {
            // In place: the heap backend gives out a copy while a checkpoint still needs the old value.
            windows[at]++;
            openWindows.update(windows);
            if (OpenWindows.count(windows[at]) == OpenWindows.BREACH) {
                out.collect(Alert.atBreach(transaction.userId, OpenWindows.startOf(index), transaction.partition,
                        transaction.offset));
            }
        }
    }

    private void open(long[] windows, long index, long firstOpen, TimerService timers) throws Exception {
        if (windows == null) {
            windows = new long[0];
            timers.registerEventTimeTimer(lastInstantOf(index));
        }
        openWindows.update(OpenWindows.opened(windows, index, firstOpen));
    }

    @Override
    public void onTimer(long timestamp, OnTimerContext context, Collector<Alert> out) throws Exception {
        long[] windows = OpenWindows.withoutClosed(openWindows.value(), firstOpenIndex(timestamp));
        if (windows.length == 0) {
            openWindows.clear();
            return;
        }
        openWindows.update(windows);
        context.timerService().registerEventTimeTimer(lastInstantOf(OpenWindows.newestIndex(windows)));
    }

    /** A watermark of Flink's says that everything up to and with this instant has come. */
    private static long firstOpenIndex(long watermark) {
        return watermark == Long.MIN_VALUE ? Long.MIN_VALUE : OpenWindows.indexAt(watermark + 1);
    }

    private static long lastInstantOf(long index) {
        return OpenWindows.startOf(index + 1) - 1;
    }
}
