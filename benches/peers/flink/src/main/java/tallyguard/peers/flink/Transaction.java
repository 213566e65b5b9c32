package tallyguard.peers.flink;

/** What the rule needs of a record. */
public final class Transaction {
    String userId;
    /** Epoch milliseconds. */
    long eventTime;
    /** Where the record lies in the source topic: an alert names the record that caused it. */
    int partition;
    long offset;
}
