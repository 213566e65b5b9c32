package tallyguard.peers.streams;

import java.util.Map;
import org.apache.kafka.streams.state.RocksDBConfigSetter;
import org.rocksdb.BlockBasedTableConfig;
import org.rocksdb.BloomFilter;
import org.rocksdb.Cache;
import org.rocksdb.LRUCache;
import org.rocksdb.Options;

/**
 * One block cache for the stores of all partitions instead of one each: as much as Flink's peer has, however many
 * partitions there are. The rest of what Streams sets (no write-ahead log, memtables of 16 MiB) suits already.
 */
public final class RocksDbSettings implements RocksDBConfigSetter {
    private static final long CACHE_BYTES = 128L << 20;
    private static final int BLOOM_BITS_PER_KEY = 10;

    static {
        org.rocksdb.RocksDB.loadLibrary();
    }

    private static final Cache CACHE = new LRUCache(CACHE_BYTES);
    private static final BloomFilter BLOOM = new BloomFilter(BLOOM_BITS_PER_KEY);

    @Override
    public void setConfig(String storeName, Options options, Map<String, Object> configs) {
        BlockBasedTableConfig table = (BlockBasedTableConfig) options.tableFormatConfig();
        table.setBlockCache(CACHE);
        table.setFilterPolicy(BLOOM);
        options.setTableFormatConfig(table);
    }

    /** Cache and filter live as long as the process. */
    @Override
    public void close(String storeName, Options options) {}
}
