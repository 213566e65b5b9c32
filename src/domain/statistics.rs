//! Order statistics: per minute, merchant and currency.

use crate::domain::ids::{Offset, PartitionId};
use crate::domain::time::{EventTime, Watermark, WindowStart};

/// One row of `order_stats_by_partition`: absolute values as of `source_offset`. Merging two rows of the same key means
/// keeping the one with the larger `source_offset`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatisticsRow {
    pub minute: WindowStart,
    pub merchant_id: Box<str>,
    pub currency: [u8; 3],
    pub transaction_count: u64,
    pub order_count: u64,
    /// Minor units of `currency`.
    pub amount_minor: i128,
    pub max_amount_minor: i64,
    /// Offset of the last record that changed the row.
    pub source_offset: Offset,
}

/// One row of the optional table `orders`: the last valid record of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderRow {
    pub order_id: Box<str>,
    pub user_id: Box<str>,
    pub merchant_id: Box<str>,
    pub amount_minor: i64,
    pub currency: [u8; 3],
    pub status: Option<Box<str>>,
    pub event_time: EventTime,
    pub source_offset: Offset,
}

/// Everything that changed in one partition since the last acknowledged flush, as of `through`.
///
/// It may be written only once a log commit at or behind `through` is known. Acknowledging it acknowledges every
/// statistics effect of the records before `through`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatisticsFlush {
    pub partition: PartitionId,
    /// The next record to be taken in: `order_stats_progress.source_offset`.
    pub through: Offset,
    /// Watermark just before `through`.
    pub watermark: Watermark,
    pub rows: Vec<StatisticsRow>,
    pub orders: Vec<OrderRow>,
}
