package tallyguard.peers;

import java.util.ServiceLoader;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import sun.misc.Signal;

/**
 * Runs one engine on the fraud rule until SIGTERM: {@code Main ENGINE --bootstrap H:P ...}, see {@link Arguments}.
 *
 * <p>Prints the one line {@code ready} once the engine takes records. Ends with 0 after SIGTERM or SIGINT and with 1
 * when the engine gave up. It may be killed at any moment and started again with the same state directory and group:
 * the alerts that a read_committed consumer sees are the same as without.
 */
public final class Main {
    public static void main(String[] args) throws Exception {
        Arguments arguments = Arguments.parse(args);
        // A handler of its own rather than a shutdown hook: the engines' hooks would take their parts down at the same
        // time, and the exit code would be 143.
        CompletableFuture<Void> stop = new CompletableFuture<>();
        Signal.handle(new Signal("TERM"), signal -> stop.complete(null));
        Signal.handle(new Signal("INT"), signal -> stop.complete(null));

        try (Peer.Job job = peer(arguments.engine()).start(arguments)) {
            job.ended().whenComplete((done, error) -> stop.completeExceptionally(
                    error == null ? new IllegalStateException("the engine ended by itself") : error));
            announce(job, stop);
            stop.get();
        } catch (ExecutionException error) {
            error.getCause().printStackTrace();
            System.exit(1);
        }
        // Threads of an engine's that are not daemons must not keep the process alive.
        System.exit(0);
    }

    /** On a thread of its own: a signal must also end a process that does not get to run, e.g. without a broker. */
    private static void announce(Peer.Job job, CompletableFuture<Void> stop) {
        Thread thread = new Thread(() -> {
            try {
                job.awaitRunning();
                System.out.println("ready");
            } catch (Exception error) {
                stop.completeExceptionally(error);
            }
        }, "announce");
        thread.setDaemon(true);
        thread.start();
    }

    private static Peer peer(String engine) {
        for (Peer peer : ServiceLoader.load(Peer.class)) {
            if (peer.engines().contains(engine)) {
                return peer;
            }
        }
        throw new IllegalArgumentException("no engine " + engine + " on this class path");
    }
}
