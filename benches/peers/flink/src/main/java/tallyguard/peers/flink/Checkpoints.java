package tallyguard.peers.flink;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Comparator;
import java.util.Optional;
import java.util.stream.Stream;

/** Finds the state that a killed process left: what a cluster's high-availability service would remember. */
final class Checkpoints {
    private static final String DIRECTORY_PREFIX = "chk-";

    private Checkpoints() {}

    /**
     * The newest completed checkpoint below the folder, which has {@code JOB/chk-NUMBER/_metadata}. Flink renames
     * {@code _metadata} into place when everything it names is there, and before the alerts of that checkpoint are
     * committed. A job that starts from a checkpoint goes on counting from its number, so that the highest number is
     * the newest over all jobs.
     */
    static Optional<Path> newest(Path folder) throws IOException {
        if (!Files.isDirectory(folder)) {
            return Optional.empty();
        }
        try (Stream<Path> paths = Files.find(folder, 2, (path, attributes) -> isCompleted(path))) {
            return paths.max(Comparator.comparingLong(Checkpoints::number));
        }
    }

    private static boolean isCompleted(Path path) {
        return path.getFileName().toString().startsWith(DIRECTORY_PREFIX) && Files.exists(path.resolve("_metadata"));
    }

    private static long number(Path checkpoint) {
        return Long.parseLong(checkpoint.getFileName().toString().substring(DIRECTORY_PREFIX.length()));
    }
}
