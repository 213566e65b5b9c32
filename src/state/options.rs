//! RocksDB settings of the snapshot store, with their reasons.
//!
//! The store is small, written in bursts of one batch every few seconds, read in whole partitions at assignment, and
//! shares the machine with the engine: little memory, two background threads.

use rocksdb::{BlockBasedOptions, Cache, DBCompressionType, DBRecoveryMode, InfoLogger, LogLevel, Options};

/// Memory of the store, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreOptions {
    pub block_cache_bytes: usize,
    /// Of each of at most two write buffers. One batch stays in one buffer, however large it is.
    pub write_buffer_bytes: usize,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { block_cache_bytes: 16 << 20, write_buffer_bytes: 16 << 20 }
    }
}

impl StoreOptions {
    /// For a store that is written.
    pub(super) fn to_rocksdb(self) -> Options {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_paranoid_checks(true);
        // A crash may cut the last write; everything before it counts, nothing behind a damaged place does.
        options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
        options.set_write_buffer_size(self.write_buffer_bytes);
        options.set_max_write_buffer_number(2);
        options.set_max_background_jobs(2);
        options.set_max_open_files(256);
        options.set_compression_type(DBCompressionType::Lz4);
        // Writes to tables reach the disk steadily rather than in one burst at the end.
        options.set_bytes_per_sync(1 << 20);
        // A small store then has only level 0 and the last level: each compaction reaches the bottom, where the range
        // tombstones of closed windows and all that they cover are dropped for good.
        options.set_level_compaction_dynamic_level_bytes(true);
        options.set_level_zero_file_num_compaction_trigger(4);
        options.set_target_file_size_base(16 << 20);
        // Each retained checkpoint copies RocksDB's manifest.
        options.set_max_manifest_file_size(1 << 20);
        options.set_stats_dump_period_sec(0);
        options.set_stats_persist_period_sec(0);
        options.set_block_based_table_factory(&tables(&Cache::new_lru_cache(self.block_cache_bytes)));
        log_through_tracing(&mut options);
        options
    }
}

/// For a store or checkpoint that is only looked at; nothing is written into its folder.
pub(super) fn read_only() -> Options {
    let mut options = Options::default();
    options.set_paranoid_checks(true);
    options.set_max_open_files(256);
    options.set_block_based_table_factory(&tables(&Cache::new_lru_cache(4 << 20)));
    log_through_tracing(&mut options);
    options
}

fn tables(cache: &Cache) -> BlockBasedOptions {
    let mut tables = BlockBasedOptions::default();
    tables.set_block_cache(cache);
    // Partitions are read as a whole.
    tables.set_block_size(16 << 10);
    tables.set_format_version(5);
    // Index blocks count against the cache: memory stays within the budget.
    tables.set_cache_index_and_filter_blocks(true);
    tables
}

/// RocksDB's own messages, without log files in its folder. The caller of a failed operation logs the error itself.
pub fn log_through_tracing(options: &mut Options) {
    options.set_log_level(LogLevel::Warn);
    options.set_info_logger(InfoLogger::new_callback_logger(LogLevel::Warn, |_, message| {
        tracing::debug!(target: "tallyguard::rocksdb", "{}", message.trim_end());
    }));
}
