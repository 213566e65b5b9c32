package tallyguard.peers;

import java.nio.file.Path;
import java.util.HashMap;
import java.util.Map;

/**
 * The command line: {@code ENGINE --bootstrap H:P --source TOPIC --alerts TOPIC --group GROUP --state-dir DIR
 * [--threads 2] [--checkpoint-ms 1000] [--commit-ms 100]}.
 *
 * @param group consumer group, Streams application and prefix of the transactional ids
 * @param stateDir everything that the engine keeps on disk; belongs to one process at a time
 * @param threads parallelism of Flink's operators, or number of stream threads
 * @param checkpointMs Flink: interval of checkpoints, and with it of the transactions that alerts are written in
 * @param commitMs Streams: interval of the transactions
 */
public record Arguments(
        String engine,
        String bootstrap,
        String source,
        String alerts,
        String group,
        Path stateDir,
        int threads,
        long checkpointMs,
        long commitMs) {

    public static Arguments parse(String[] args) {
        if (args.length % 2 == 0) {
            throw new IllegalArgumentException("expected: ENGINE --option value ...");
        }
        Map<String, String> options = new HashMap<>();
        for (int i = 1; i < args.length; i += 2) {
            options.put(args[i], args[i + 1]);
        }
        Arguments arguments = new Arguments(
                args[0],
                take(options, "--bootstrap", null),
                take(options, "--source", null),
                take(options, "--alerts", null),
                take(options, "--group", null),
                Path.of(take(options, "--state-dir", null)).toAbsolutePath(),
                Integer.parseInt(take(options, "--threads", "2")),
                Long.parseLong(take(options, "--checkpoint-ms", "1000")),
                Long.parseLong(take(options, "--commit-ms", "100")));
        if (!options.isEmpty()) {
            throw new IllegalArgumentException("unknown options: " + options.keySet());
        }
        return arguments;
    }

    private static String take(Map<String, String> options, String name, String absent) {
        String value = options.remove(name);
        if (value == null && absent == null) {
            throw new IllegalArgumentException(name + " is missing");
        }
        return value == null ? absent : value;
    }
}
