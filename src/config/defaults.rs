//! What holds where a configuration says nothing.

use std::collections::BTreeMap;

use super::duration::ConfiguredDuration;
use super::raw::{
    Mode, RawAlerts, RawCheckpoint, RawDelivery, RawEmbedded, RawHttp, RawInstance, RawKafka, RawRule, RawSource,
    RawStats, RawTime, SourceKind, StartAt,
};
use crate::domain::rule::Severity;

impl Default for RawInstance {
    fn default() -> Self {
        Self { id: None, state_dir: "state".to_owned(), threads: 0 }
    }
}

impl Default for RawSource {
    fn default() -> Self {
        Self {
            kind: SourceKind::Kafka,
            topic: "transactions".to_owned(),
            group: "tallyguard".to_owned(),
            start: StartAt::Earliest,
        }
    }
}

impl Default for RawKafka {
    fn default() -> Self {
        Self {
            brokers: "127.0.0.1:9092".to_owned(),
            startup_timeout: ConfiguredDuration::of("30s", 30_000),
            properties: BTreeMap::new(),
        }
    }
}

impl Default for RawEmbedded {
    fn default() -> Self {
        Self {
            dir: None,
            partitions: 4,
            retention_age: ConfiguredDuration::of("7d", 7 * 24 * 3_600_000),
            retention_bytes: 0,
        }
    }
}

/// The one rule of a configuration without rules.
pub(super) fn rules() -> Vec<RawRule> {
    vec![RawRule {
        id: Some("velocity-1m".to_owned()),
        version: 1,
        window: Some(ConfiguredDuration::of("1m", 60_000)),
        max_transactions: Some(10),
        severity: Severity::High,
    }]
}

impl Default for RawTime {
    fn default() -> Self {
        Self {
            out_of_orderness: ConfiguredDuration::of("1m", 60_000),
            max_future_skew: ConfiguredDuration::of("1m", 60_000),
        }
    }
}

impl Default for RawAlerts {
    fn default() -> Self {
        Self { topic: "alerts".to_owned(), late_topic: None, dead_letter_topic: None }
    }
}

impl Default for RawDelivery {
    fn default() -> Self {
        Self {
            mode: Mode::ExactlyOnce,
            max_commit_interval: ConfiguredDuration::of("100ms", 100),
            transaction_timeout: ConfiguredDuration::of("15s", 15_000),
        }
    }
}

impl Default for RawCheckpoint {
    fn default() -> Self {
        Self {
            interval: ConfiguredDuration::of("10s", 10_000),
            min_pause: ConfiguredDuration::of("1s", 1_000),
            timeout: ConfiguredDuration::of("60s", 60_000),
            tolerable_failures: 3,
            retain: 3,
        }
    }
}

impl Default for RawStats {
    fn default() -> Self {
        Self {
            enabled: true,
            url: None,
            password: None,
            password_file: String::new(),
            flush_interval: ConfiguredDuration::of("500ms", 500),
            batch_rows: 1_000,
            migrate: true,
            orders: false,
        }
    }
}

impl Default for RawHttp {
    fn default() -> Self {
        Self { listen: "127.0.0.1:8088".to_owned(), admin_token: None, admin_token_file: String::new() }
    }
}
