package tallyguard.peers.streams;

import java.lang.invoke.MethodHandles;
import java.lang.invoke.VarHandle;
import java.nio.ByteOrder;
import org.apache.kafka.common.serialization.Deserializer;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.serialization.Serializer;

/** A user's open windows as eight bytes each, see {@link tallyguard.peers.OpenWindows}. */
final class WindowsSerde {
    // A plain move per number. The bulk copy of a LongBuffer leaves the JVM's code for native code and was a tenth of
    // the stream threads' time.
    private static final VarHandle LONGS =
            MethodHandles.byteArrayViewVarHandle(long[].class, ByteOrder.LITTLE_ENDIAN);

    private WindowsSerde() {}

    static Serde<long[]> create() {
        return Serdes.serdeFrom(serializer(), deserializer());
    }

    private static Serializer<long[]> serializer() {
        return (topic, windows) -> {
            if (windows == null) {
                return null;
            }
            byte[] bytes = new byte[windows.length * Long.BYTES];
            for (int i = 0; i < windows.length; i++) {
                LONGS.set(bytes, i * Long.BYTES, windows[i]);
            }
            return bytes;
        };
    }

    private static Deserializer<long[]> deserializer() {
        return (topic, bytes) -> {
            if (bytes == null) {
                return null;
            }
            long[] windows = new long[bytes.length / Long.BYTES];
            for (int i = 0; i < windows.length; i++) {
                windows[i] = (long) LONGS.get(bytes, i * Long.BYTES);
            }
            return windows;
        };
    }
}
