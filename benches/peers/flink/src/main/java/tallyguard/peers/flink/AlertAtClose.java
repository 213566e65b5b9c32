package tallyguard.peers.flink;

import java.time.Duration;
import org.apache.flink.api.common.functions.AggregateFunction;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.datastream.KeyedStream;
import org.apache.flink.streaming.api.functions.windowing.ProcessWindowFunction;
import org.apache.flink.streaming.api.windowing.assigners.TumblingEventTimeWindows;
import org.apache.flink.streaming.api.windowing.windows.TimeWindow;
import org.apache.flink.util.Collector;
import tallyguard.peers.Alert;
import tallyguard.peers.OpenWindows;

/**
 * The rule as a textbook has it: Flink's own tumbling windows, counted record by record, and filtered when they close.
 * A window keeps one number, not its records.
 */
final class AlertAtClose {
    private AlertAtClose() {}

    static DataStream<Alert> of(KeyedStream<Transaction, String> transactions) {
        return transactions
                .window(TumblingEventTimeWindows.of(Duration.ofMillis(OpenWindows.WINDOW_MS)))
                .aggregate(new Count(), new Breaches());
    }

    private static final class Count implements AggregateFunction<Transaction, Long, Long> {
        @Override
        public Long createAccumulator() {
            return 0L;
        }

        @Override
        public Long add(Transaction transaction, Long count) {
            return count + 1;
        }

        @Override
        public Long getResult(Long count) {
            return count;
        }

        @Override
        public Long merge(Long one, Long other) {
            return one + other;
        }
    }

    private static final class Breaches extends ProcessWindowFunction<Long, Alert, String, TimeWindow> {
        @Override
        public void process(String userId, Context context, Iterable<Long> counts, Collector<Alert> out) {
            long count = counts.iterator().next();
            if (count >= OpenWindows.BREACH) {
                out.collect(Alert.atClose(userId, context.window().getStart(), count));
            }
        }
    }
}
