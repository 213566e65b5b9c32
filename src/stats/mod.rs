//! tmp
use crate::domain::ids::{Offset, PartitionId};
use crate::domain::statistics::StatisticsFlush;
pub enum StatsEvent { Acknowledged { partition: PartitionId, through: Offset }, IdentityMismatch { found: String } }
pub struct StatsHandle;
impl StatsHandle { pub fn submit(&self, f: StatisticsFlush) -> Result<(), StatisticsFlush> { Err(f) } pub fn forget(&self, _p: PartitionId) {} }
pub struct ProgressProbe;
impl ProgressProbe { pub fn new(_s: &crate::config::StatsSettings) -> Self { Self } pub fn source_offset(&self, _p: PartitionId) -> Option<Offset> { None } }
pub struct Identity { pub cluster_id: String, pub topic: String, pub topic_id: String, pub group: String }
pub struct StatsOptions;
impl StatsOptions { pub fn of(_s: &crate::config::StatsSettings, _i: Identity) -> Result<Self, String> { Ok(Self) } }
pub struct StatisticsWriter;
impl StatisticsWriter { pub fn spawn(_o: StatsOptions, _e: impl Fn(StatsEvent) + Send + 'static) -> std::io::Result<StatsHandle> { Ok(StatsHandle) } }
