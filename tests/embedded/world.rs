//! A log in a directory of its own, and what is put into it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tallyguard::domain::duration::Millis;
use tallyguard::domain::ids::{Offset, PartitionId};
use tallyguard::domain::partition::Progress;
use tallyguard::domain::rule::Parameters;
use tallyguard::domain::time::Watermark;
use tallyguard::domain::window::Position as Place;
use tallyguard::log::embedded::{EmbeddedError, EmbeddedStore, OwnedRecord};
use tallyguard::protocol::cycle::OffsetCommit;
use tallyguard::protocol::metadata::{LogIdentity, Metadata};
use tallyguard::protocol::output::{Destination, OutputId, OutputRecord, Slot};

use crate::support::process::GuardedDir;

pub const GROUP: &str = "g";

pub struct World {
    dir: GuardedDir,
}

impl World {
    pub fn new() -> Self {
        Self { dir: GuardedDir::new("tallyguard-embedded-") }
    }

    pub fn dir(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    pub fn open(&self, partitions: i32) -> EmbeddedStore {
        EmbeddedStore::open(&self.dir(), partitions).expect("the log opens")
    }

    pub fn try_open(&self, partitions: i32) -> Result<EmbeddedStore, EmbeddedError> {
        EmbeddedStore::open(&self.dir(), partitions)
    }
}

/// A record that says who it is.
pub fn record(text: impl std::fmt::Display, timestamp_ms: i64) -> OwnedRecord {
    let text = text.to_string();
    OwnedRecord {
        timestamp_ms,
        key: Some(format!("key of {text}").into_bytes()),
        value: Some(text.into_bytes()),
        headers: vec![(b"h\xff".to_vec(), None), (b"h".to_vec(), Some(b"1".to_vec()))],
    }
}

/// Appends records that say who they are to one partition; returns their first offset.
pub fn append(store: &EmbeddedStore, partition: i32, texts: &[String], timestamp_ms: i64) -> i64 {
    let records: Vec<_> = texts.iter().map(|text| (PartitionId(partition), record(text, timestamp_ms))).collect();
    store.append_to(&records).expect("appended")[0].offset.0
}

/// What the records of a partition say, from its start on.
pub fn texts(store: &EmbeddedStore, partition: i32) -> Vec<String> {
    let (start, end) = store.bounds(PartitionId(partition));
    let mut texts = Vec::new();
    let mut expected = start.0;
    let records = store.records(PartitionId(partition), start, end).expect("readable");
    for stored in records {
        assert_eq!(stored.offset.0, expected, "offsets are dense");
        expected += 1;
        let value = stored.record.value.clone().expect("a value");
        let text = String::from_utf8(value).expect("text");
        assert_eq!(stored.record, record(&text, stored.record.timestamp_ms), "key and headers come back as they were");
        texts.push(text);
    }
    assert_eq!(expected, end.0, "everything up to the end is there");
    texts
}

pub fn output(destination: Destination, text: impl std::fmt::Display) -> Arc<OutputRecord> {
    let slot = match destination {
        Destination::Alerts => Slot::Alert(Arc::from("rule")),
        Destination::Late => Slot::Late,
        Destination::DeadLetter => Slot::DeadLetter,
    };
    Arc::new(OutputRecord {
        id: OutputId { partition: PartitionId(0), offset: Offset(0), slot },
        destination,
        key: None,
        value: Some(text.to_string().into_bytes()),
        headers: Vec::new(),
        source_timestamp_ms: None,
    })
}

/// What the outputs of a topic say, from its start on.
pub fn output_texts(store: &EmbeddedStore, destination: Destination) -> Vec<String> {
    let records = store.outputs(destination, store.output_start(destination), i64::MAX).expect("readable");
    assert_eq!(
        records.last().map_or(store.output_start(destination), |last| last.offset.0 + 1),
        store.output_end(destination)
    );
    records.into_iter().map(|stored| String::from_utf8(stored.record.value.expect("a value")).expect("text")).collect()
}

/// A commit of one partition whose metadata names the two horizons.
pub fn commit(partition: i32, offset: i64, horizon: i64, statistics_horizon: i64) -> OffsetCommit {
    let place = |offset| Place { offset: Offset(offset), watermark: Watermark::NONE };
    let progress = Progress {
        next: place(offset),
        final_through: Watermark::NONE,
        horizon: place(horizon),
        statistics_horizon: place(statistics_horizon),
        statistics_gap: None,
    };
    let parameters = Parameters {
        rules: Vec::new(),
        out_of_orderness: Millis::MINUTE,
        max_future_skew: Millis::MINUTE,
        statistics: true,
        orders: false,
    };
    let identity = LogIdentity { cluster_id: "c".to_owned(), topic_id: "t".to_owned(), group: GROUP.to_owned() };
    let metadata = Metadata::new(&progress, &parameters, identity, 2, 0).to_text();
    OffsetCommit { partition: PartitionId(partition), offset: Offset(offset), metadata }
}

pub fn committed(store: &EmbeddedStore, partition: i32) -> Option<i64> {
    store.committed(GROUP, PartitionId(partition)).expect("readable").map(|(offset, _)| offset.0)
}

/// Copies a folder with all that is in it.
pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder").flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("a copy");
        }
    }
}

/// Random numbers that are the same in every run.
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}
