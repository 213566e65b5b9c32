//! Reads the order statistics for pages and programs, from either database.
//!
//! Promises an answer or a reason within a few seconds, and never more than a few connections, whoever asks how often.
//! It reads only. Nothing is opened before the first question; each question has a connection of its own, which costs a
//! millisecond or two and leaves nothing behind that could be stale.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::stats::database::{Access, SqlConnection, SqlDatabase, SqlRow, Value};
use crate::stats::mysql::MySqlDatabase;
use crate::stats::schema::read_identity;
use crate::stats::sqlite::SqliteDatabase;
use crate::stats::store::StoreError;
use crate::stats::{Identity, StatsOptions, Target};

/// Longest wait, for a free connection and for the answer together.
const PATIENCE: Duration = Duration::from_secs(5);
const CONNECTIONS_MAX: usize = 4;
/// The last millisecond that a date of both databases can say.
const TIME_MAX: i64 = 253_402_300_799_999;

const ORDER_STATS: &str = "SELECT window_start, merchant_id, currency, transaction_count, order_count, amount_minor, \
    max_amount_minor FROM order_stats WHERE window_start >= ? AND window_start < ? \
    ORDER BY window_start, merchant_id, currency LIMIT ?";

/// One row of the view `order_stats`: the sum over partitions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct OrderStatsRow {
    /// Start of the minute, epoch milliseconds.
    pub window_start_ms: i64,
    pub merchant_id: String,
    pub currency: String,
    pub transaction_count: u64,
    /// Distinct orders within each partition, added up.
    pub order_count: u64,
    /// Sum in minor units of the currency, as decimal digits: it may be longer than 64 bits.
    pub amount_minor: String,
    pub max_amount_minor: i64,
}

/// See the module head. Clones share the bound on connections.
#[derive(Clone)]
pub struct StatisticsQuery {
    target: Target,
    identity: Identity,
    connections: Arc<Semaphore>,
}

impl StatisticsQuery {
    #[must_use]
    pub fn new(options: &StatsOptions) -> Self {
        Self {
            target: options.connect.clone(),
            identity: options.identity.clone(),
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        }
    }

    /// The rows with `from_ms` ≤ window start < `to_ms`, ordered by window start, merchant and currency (byte for byte),
    /// at most `limit` of them. To be awaited on the thread that asks: the future is not `Send`.
    ///
    /// # Errors
    /// Why there is no answer, in words.
    pub async fn order_stats(&self, from_ms: i64, to_ms: i64, limit: usize) -> Result<Vec<OrderStatsRow>, String> {
        let answer = async {
            // Never closed, so never refused.
            let _permit = self.connections.acquire().await.map_err(|error| error.to_string())?;
            let range = Range { from_ms, to_ms, limit };
            let rows = match &self.target {
                Target::MySql(options) => self.read(MySqlDatabase::new((**options).clone()), range).await,
                Target::Sqlite(path) => self.read(SqliteDatabase::new(path), range).await,
            };
            rows.map_err(|error| error.to_string())
        };
        let no_answer = || format!("the database did not answer within {} s", PATIENCE.as_secs());
        timeout(PATIENCE, answer).await.unwrap_or_else(|_| Err(no_answer()))
    }

    async fn read<D: SqlDatabase>(&self, database: D, range: Range) -> Result<Vec<OrderStatsRow>, StoreError> {
        let mut connection = database.open(Access::Read).await?;
        let answer = self.read_on(&mut connection, range).await;
        connection.close().await;
        answer
    }

    async fn read_on<C: SqlConnection>(
        &self,
        connection: &mut C,
        range: Range,
    ) -> Result<Vec<OrderStatsRow>, StoreError> {
        match read_identity(connection).await.map_err(C::classify)? {
            Some(found) if found == self.identity => {}
            Some(found) => return Err(StoreError::IdentityMismatch(found)),
            None => return Ok(Vec::new()),
        }
        let values = [
            Value::Time(range.from_ms.clamp(0, TIME_MAX)),
            Value::Time(range.to_ms.clamp(0, TIME_MAX)),
            Value::Integer(i64::try_from(range.limit).unwrap_or(i64::MAX)),
        ];
        let rows = connection.fetch(ORDER_STATS, &values).await.map_err(C::classify)?;
        rows.iter().map(order_stats_row).collect::<Result<_, _>>().map_err(C::classify)
    }
}

#[derive(Clone, Copy)]
struct Range {
    from_ms: i64,
    to_ms: i64,
    limit: usize,
}

fn order_stats_row(row: &impl SqlRow) -> Result<OrderStatsRow, sqlx::Error> {
    let count = |column| u64::try_from(row.integer(column)?).map_err(|error| sqlx::Error::Decode(error.into()));
    Ok(OrderStatsRow {
        window_start_ms: row.time(0)?,
        merchant_id: row.text(1)?,
        currency: row.text(2)?,
        transaction_count: count(3)?,
        order_count: count(4)?,
        amount_minor: row.text(5)?,
        max_amount_minor: row.integer(6)?,
    })
}
