//! Records into the embedded log: directly, with keys and headers as generated, or, when a service holds the log, through
//! it, as lines; what is no line is left out then.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::{Sent, Sink};
use crate::cli::intake::Intake;
use crate::clock::wall_clock_ms;
use crate::config::Settings;
use crate::domain::ids::PartitionId;
use crate::generate::GeneratedRecord;
use crate::http::Accepts;
use crate::log::embedded::OwnedRecord;
use crate::log::partition_of;

const BATCH: usize = 1_000;
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) struct EmbeddedSink {
    intake: Intake,
    records: Vec<(PartitionId, OwnedRecord)>,
    lines: Vec<u8>,
    waiting: usize,
    written: u64,
}

impl EmbeddedSink {
    /// # Errors
    /// The log cannot be opened, and no service can be reached that holds it.
    pub(super) fn open(settings: &Settings) -> anyhow::Result<Self> {
        let intake = Intake::open(settings)?;
        Ok(Self { intake, records: Vec::new(), lines: Vec::new(), waiting: 0, written: 0 })
    }

    fn flush(&mut self, stop: &AtomicBool) -> anyhow::Result<()> {
        if self.waiting == 0 {
            return Ok(());
        }
        match &self.intake {
            Intake::Direct { store, .. } => {
                self.written += u64::try_from(store.append_to(&self.records)?.len())?;
                self.records.clear();
            }
            Intake::Service { .. } => {
                let results = self.intake.take(&self.lines, Accepts::Everything, PATIENCE, stop)?;
                self.written += u64::try_from(results.iter().filter(|result| result.result != "rejected").count())?;
                self.lines.clear();
            }
        }
        self.waiting = 0;
        Ok(())
    }
}

impl Sink for EmbeddedSink {
    fn send(&mut self, record: &GeneratedRecord, stop: &AtomicBool) -> anyhow::Result<Sent> {
        let size = record.key.as_ref().map_or(0, Vec::len) + record.value.as_ref().map_or(0, Vec::len);
        match &self.intake {
            Intake::Direct { store, .. } => {
                let headers = record.headers.iter();
                let owned = OwnedRecord {
                    timestamp_ms: wall_clock_ms(),
                    key: record.key.clone(),
                    value: record.value.clone(),
                    headers: headers.map(|header| (header.name.as_bytes().to_vec(), header.value.clone())).collect(),
                };
                let decides = record.key.as_ref().or(record.meant_key.as_ref()).or(record.value.as_ref());
                let partition = partition_of(decides.map_or(&[][..], Vec::as_slice), store.partitions());
                self.records.push((PartitionId(partition), owned));
            }
            Intake::Service { .. } => {
                let Some(value) = record.value.as_deref().filter(|value| super::ndjson::is_a_line(value)) else {
                    return Ok(Sent::LeftOut);
                };
                self.lines.extend_from_slice(value);
                self.lines.push(b'\n');
            }
        }
        self.waiting += 1;
        if self.waiting >= BATCH {
            self.flush(stop)?;
        }
        Ok(Sent::Taken(size))
    }

    fn idle(&mut self) -> anyhow::Result<()> {
        self.flush(&AtomicBool::new(false))
    }

    fn finish(&mut self, stop: &AtomicBool) -> anyhow::Result<u64> {
        self.flush(stop)?;
        Ok(self.written)
    }
}
