package tallyguard.peers.flink;

import java.io.IOException;
import org.apache.flink.api.common.typeutils.SimpleTypeSerializerSnapshot;
import org.apache.flink.api.common.typeutils.TypeSerializerSnapshot;
import org.apache.flink.api.common.typeutils.base.TypeSerializerSingleton;
import org.apache.flink.core.memory.DataInputView;
import org.apache.flink.core.memory.DataOutputView;
import org.apache.flink.types.StringValue;

/**
 * Transactions on their way from the source to the task that owns the user: about 30 bytes, without the class tags and
 * null flags of Flink's own POJO serializer.
 */
public final class TransactionSerializer extends TypeSerializerSingleton<Transaction> {
    public static final TransactionSerializer INSTANCE = new TransactionSerializer();

    @Override
    public void serialize(Transaction record, DataOutputView target) throws IOException {
        StringValue.writeString(record.userId, target);
        target.writeLong(record.eventTime);
        target.writeInt(record.partition);
        target.writeLong(record.offset);
    }

    @Override
    public Transaction deserialize(DataInputView source) throws IOException {
        return deserialize(new Transaction(), source);
    }

    @Override
    public Transaction deserialize(Transaction reuse, DataInputView source) throws IOException {
        reuse.userId = StringValue.readString(source);
        reuse.eventTime = source.readLong();
        reuse.partition = source.readInt();
        reuse.offset = source.readLong();
        return reuse;
    }

    @Override
    public void copy(DataInputView source, DataOutputView target) throws IOException {
        StringValue.copyString(source, target);
        target.write(source, Long.BYTES + Integer.BYTES + Long.BYTES);
    }

    @Override
    public Transaction copy(Transaction from) {
        return copy(from, new Transaction());
    }

    @Override
    public Transaction copy(Transaction from, Transaction reuse) {
        reuse.userId = from.userId;
        reuse.eventTime = from.eventTime;
        reuse.partition = from.partition;
        reuse.offset = from.offset;
        return reuse;
    }

    @Override
    public Transaction createInstance() {
        return new Transaction();
    }

    @Override
    public boolean isImmutableType() {
        return false;
    }

    @Override
    public int getLength() {
        return -1;
    }

    @Override
    public TypeSerializerSnapshot<Transaction> snapshotConfiguration() {
        return new Snapshot();
    }

    /** Flink asks for it whenever it registers a serializer; there is one version of this one. */
    public static final class Snapshot extends SimpleTypeSerializerSnapshot<Transaction> {
        public Snapshot() {
            super(() -> INSTANCE);
        }
    }
}
