package tallyguard.peers;

import java.util.Set;
import java.util.concurrent.CompletableFuture;

/** An engine, or several variants of one; found on the class path by {@link java.util.ServiceLoader}. */
public interface Peer {
    /** The names on the command line that this peer answers to. */
    Set<String> engines();

    /** Starts the variant that the arguments name, from its newest state, or from the topic's start without one. */
    Job start(Arguments arguments) throws Exception;

    /** A running engine. Closing it stops it in order; what is not committed then is repeated by the next start. */
    interface Job extends AutoCloseable {
        /** Returns once the engine takes records; an {@link java.util.concurrent.ExecutionException} if it failed. */
        void awaitRunning() throws Exception;

        /** Completes when the engine ends without having been closed, with its error if it has one. */
        CompletableFuture<?> ended();
    }
}
