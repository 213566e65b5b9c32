//! What the benchmarks of the core work on: one rule of ten a minute, partitions of which nothing is open yet, an alert.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tallyguard::domain::duration::Millis;
use tallyguard::domain::ids::{Offset, PartitionId};
use tallyguard::domain::partition::{Output, PartitionState};
use tallyguard::domain::record::SourceRecord;
use tallyguard::domain::rule::{Parameters, Rule, RuleHistory, Severity};
use tallyguard::domain::time::Watermark;
use tallyguard::domain::window::Position;
use tallyguard::engine::outputs::{OutputEncoder, TopicLimits};
use tallyguard::log::RecordBatch;

use crate::traffic::{BATCH, Shape, Traffic};

pub const TOPIC: &str = "transactions";
pub const PARTITION: PartitionId = PartitionId(0);
const START: Position = Position { offset: Offset(0), watermark: Watermark::NONE };

/// As the configuration's example has it.
pub fn parameters(statistics: bool) -> Arc<Parameters> {
    let rule = Rule {
        id: "velocity-1m".to_owned(),
        version: 1,
        window: Millis::MINUTE,
        window_text: "1m".to_owned(),
        max_transactions: 10,
        severity: Severity::High,
    };
    Arc::new(Parameters {
        rules: vec![RuleHistory::starting(rule, Offset(0))],
        out_of_orderness: Millis::MINUTE,
        max_future_skew: Millis::MINUTE,
        statistics,
        orders: false,
    })
}

pub fn empty(parameters: &Arc<Parameters>) -> PartitionState {
    PartitionState::new(Arc::from(TOPIC), PARTITION, Arc::clone(parameters), START, Watermark::NONE)
}

/// Applies so many records; returns the time within `apply`.
pub fn run(state: &mut PartitionState, traffic: &mut Traffic, records: u64) -> Duration {
    let mut outputs: Vec<(Offset, Output)> = Vec::new();
    let mut spent = Duration::ZERO;
    let mut left = records;
    while left > 0 {
        let batch = usize::try_from(left).map_or(BATCH, |left| left.min(BATCH));
        traffic.make(batch);
        let began = Instant::now();
        for record in traffic.records() {
            state.apply(&record, &mut outputs);
        }
        spent += began.elapsed();
        outputs.clear();
        left -= u64::try_from(batch).expect("a batch");
    }
    spent
}

/// The alert of a user who sent eleven records, and what completes it.
pub struct AlertCase {
    encoder: OutputEncoder,
    output: Output,
    batch: OneRecord,
}

impl AlertCase {
    pub fn new() -> Self {
        let parameters = parameters(false);
        let mut outputs = Vec::new();
        let mut traffic = Traffic::new(1, Shape::Each);
        traffic.make(11);
        let mut state = empty(&parameters);
        for record in traffic.records() {
            state.apply(&record, &mut outputs);
        }
        let (_, output) = outputs.pop().expect("the eleventh breaks the rule");
        let limits = TopicLimits { late: 1_000_000, dead_letter: 1_000_000 };
        let last = traffic.records().last().expect("eleven records");
        let owned = |bytes: Option<&[u8]>| bytes.expect("the generator gives both").to_vec();
        let batch = OneRecord { key: owned(last.key), value: owned(last.value) };
        Self { encoder: OutputEncoder::new(Arc::from(TOPIC), PARTITION, limits, &parameters), output, batch }
    }

    pub fn encode(&self) {
        let (output, offset) = (self.output.clone(), Offset(10));
        std::hint::black_box(self.encoder.encode(offset, output, &self.batch, 0));
    }
}

struct OneRecord {
    key: Vec<u8>,
    value: Vec<u8>,
}

impl RecordBatch for OneRecord {
    fn len(&self) -> usize {
        1
    }

    fn record(&self, _index: usize) -> SourceRecord<'_> {
        SourceRecord { offset: Offset(10), timestamp_ms: None, key: Some(&self.key), value: Some(&self.value) }
    }

    fn headers(&self, _index: usize) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        Vec::new()
    }
}
