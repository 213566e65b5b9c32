//! tmp
use std::sync::Arc;
use std::time::Duration;
use crate::clock;
use crate::config::Settings;
use crate::domain::ids::{Offset, PartitionId};
use crate::domain::partition::Progress;
use crate::engine::actor::Applied;
use crate::observe::status::StatusBoard;
use crate::protocol::output::OutputRecord;
use crate::protocol::recovery::Refusal;
use crate::stats::StatsEvent;
pub fn about(_s: &Settings) {}
pub struct Monitor { board: StatusBoard, n: u64, last: u64 }
impl Monitor {
    pub fn new(board: StatusBoard, _s: &Settings) -> Self { Self { board, n: 0, last: 0 } }
    pub fn heartbeat(&mut self) { self.board.heartbeat(clock::wall_clock_ms()); }
    pub fn joined(&mut self) {}
    pub fn recovering(&mut self, _p: PartitionId, _w: Option<&str>) {}
    pub fn running(&mut self, _p: PartitionId, _n: Offset, _l: Offset) {}
    pub fn live(&mut self, p: PartitionId, d: Duration) { tracing::info!("partition {p} is live after {d:?}"); }
    pub fn refused(&mut self, _p: PartitionId, _r: &Refusal) {}
    pub fn revoking(&mut self, _p: PartitionId) {}
    pub fn forget(&mut self, _p: PartitionId) {}
    pub fn stopping(&mut self) {}
    pub fn applied(&mut self, _p: PartitionId, a: &Applied) { self.n += a.records as u64; }
    pub fn committed(&mut self, c: &[(PartitionId, Offset, Vec<Arc<OutputRecord>>)], ms: u64) { let n: usize = c.iter().map(|(_, _, o)| o.len()).sum(); tracing::debug!("committed {n} outputs in {ms} ms"); }
    pub fn aborted(&mut self, why: &str) { tracing::warn!("transaction given up: {why}"); }
    pub fn writer_replaced(&mut self) { tracing::info!("writer ready"); }
    pub fn commit_trouble(&mut self, why: &str) { tracing::warn!("commit: {why}"); }
    pub fn kafka_trouble(&mut self, why: &str) { tracing::warn!("kafka: {why}"); }
    pub fn statistics(&mut self, _e: &StatsEvent) {}
    pub fn backpressure(&mut self, _s: &'static str) {}
    pub fn snapshot_failed(&mut self, why: &str, n: u32) { tracing::warn!("snapshot failed ({n}): {why}"); }
    pub fn snapshot_stored(&mut self, d: Duration, b: u64) { tracing::info!("snapshot stored in {d:?}, {b} bytes"); }
    pub fn position(&mut self, _p: PartitionId, _n: Offset, _e: Option<Offset>, _g: Option<Progress>) {}
    pub fn tick(&mut self, _d: bool, _f: u32) { if self.n > 0 { let now = clock::monotonic_ms(); let s = now - self.last; if s >= 1000 { tracing::info!("{} records/s", self.n * 1000 / s); self.n = 0; self.last = now; } } }
}
