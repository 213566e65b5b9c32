//! The log under a scenario, on either transport. A behaviour that both promise is written once, as a function of the
//! transport, and runs on each.

use std::collections::BTreeMap;

use crate::support::embedded_log::EmbeddedWatch;
use crate::support::topics::{
    CommittedWatch, committed_offsets, create_topic, delete_topic, end_offsets, produce, read_all,
};
use crate::support::{EmbeddedLog, Load, ReadRecord, TestConfig, TestRecord};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Kafka,
    Embedded,
}

/// Makes two tests of each function, `kafka::name` and `embedded::name`.
macro_rules! on_both {
    ($($test:ident),* $(,)?) => {
        mod kafka {
            $(#[test] fn $test() { super::$test(crate::log::Transport::Kafka); })*
        }
        mod embedded {
            $(#[test] fn $test() { super::$test(crate::log::Transport::Embedded); })*
        }
    };
}
pub(crate) use on_both;

/// A source topic, the output topics and a group's offsets.
pub enum TestLog {
    /// On the broker of that address.
    Kafka(String),
    Embedded(EmbeddedLog),
}

impl TestLog {
    pub fn create(&self, config: &TestConfig, partitions: i32) {
        match self {
            Self::Kafka(bootstrap) => config.create_topics(bootstrap, partitions),
            Self::Embedded(log) => log.create(partitions),
        }
    }

    pub fn produce(&self, config: &TestConfig, records: impl IntoIterator<Item = TestRecord>) {
        match self {
            Self::Kafka(bootstrap) => produce(bootstrap, &config.source_topic, records),
            Self::Embedded(log) => log.produce(records),
        }
    }

    pub fn load(
        &self,
        config: &TestConfig,
        per_second: u32,
        records: impl Iterator<Item = TestRecord> + Send + 'static,
    ) -> Load {
        match self {
            Self::Kafka(bootstrap) => Load::start(bootstrap, &config.source_topic, per_second, records),
            Self::Embedded(log) => Load::into(log.poster(), per_second, records),
        }
    }

    /// The group's offset and metadata for each partition.
    pub fn committed(&self, config: &TestConfig) -> BTreeMap<i32, (i64, String)> {
        match self {
            Self::Kafka(bootstrap) => {
                let offsets = committed_offsets(bootstrap, &config.group, &config.source_topic);
                offsets.into_iter().map(|(partition, offset, metadata)| (partition, (offset, metadata))).collect()
            }
            Self::Embedded(log) => log.committed(&config.group),
        }
    }

    /// Deletes everything, the group's offsets too, and begins anew under the same name.
    pub fn recreate(&self, config: &TestConfig, partitions: i32) {
        match self {
            Self::Kafka(bootstrap) => {
                delete_topic(bootstrap, &config.source_topic);
                create_topic(bootstrap, &config.source_topic, partitions, &[]);
            }
            Self::Embedded(log) => {
                std::fs::remove_dir_all(log.dir()).expect("the log");
                log.create(partitions);
            }
        }
    }

    pub fn ends(&self, config: &TestConfig) -> BTreeMap<i32, i64> {
        match self {
            Self::Kafka(bootstrap) => end_offsets(bootstrap, &config.source_topic).into_iter().collect(),
            Self::Embedded(log) => log.ends(),
        }
    }

    pub fn read_all(&self, config: &TestConfig, topic: &str) -> Vec<ReadRecord> {
        match self {
            Self::Kafka(bootstrap) => read_all(bootstrap, topic),
            Self::Embedded(log) => log.read_all(config, topic),
        }
    }

    pub fn watch(&self, config: &TestConfig) -> Watch {
        match self {
            Self::Kafka(bootstrap) => Watch::Kafka(CommittedWatch::new(bootstrap, &config.group, &config.source_topic)),
            Self::Embedded(log) => Watch::Embedded(log.watch(&config.group)),
        }
    }
}

/// Asks again and again how far the group has come.
pub enum Watch {
    Kafka(CommittedWatch),
    Embedded(EmbeddedWatch),
}

impl Watch {
    /// The committed offsets; empty when nobody answers.
    pub fn offsets(&self) -> BTreeMap<i32, i64> {
        match self {
            Self::Kafka(watch) => watch.offsets(),
            Self::Embedded(watch) => watch.offsets(),
        }
    }

    /// How far all partitions have come together.
    pub fn total(&self) -> i64 {
        self.offsets().values().sum()
    }
}
