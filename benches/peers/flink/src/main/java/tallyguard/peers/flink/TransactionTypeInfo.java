package tallyguard.peers.flink;

import org.apache.flink.api.common.serialization.SerializerConfig;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.common.typeutils.TypeSerializer;

/** Tells Flink to use {@link TransactionSerializer}. */
final class TransactionTypeInfo extends TypeInformation<Transaction> {
    @Override
    public TypeSerializer<Transaction> createSerializer(SerializerConfig config) {
        return TransactionSerializer.INSTANCE;
    }

    @Override
    public Class<Transaction> getTypeClass() {
        return Transaction.class;
    }

    @Override
    public boolean isBasicType() {
        return false;
    }

    @Override
    public boolean isTupleType() {
        return false;
    }

    @Override
    public int getArity() {
        return 1;
    }

    @Override
    public int getTotalFields() {
        return 1;
    }

    @Override
    public boolean isKeyType() {
        return false;
    }

    @Override
    public String toString() {
        return "Transaction";
    }

    @Override
    public boolean equals(Object other) {
        return other instanceof TransactionTypeInfo;
    }

    @Override
    public int hashCode() {
        return TransactionTypeInfo.class.hashCode();
    }

    @Override
    public boolean canEqual(Object other) {
        return other instanceof TransactionTypeInfo;
    }
}
