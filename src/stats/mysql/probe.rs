//! Asks the database, once and with patience limited, how far a partition's statistics reach.
//!
//! For the recovery of a partition without a committed offset: statistics that know the partition show that the group's
//! offsets were lost. It reads only, and changes neither schema nor identity.

use std::time::Duration;

use sqlx::mysql::{MySqlConnectOptions, MySqlConnection};
use sqlx::{Connection, Row};
use tokio::time::timeout;

use crate::domain::ids::{Offset, PartitionId};
use crate::stats::mysql::{connect, identity};
use crate::stats::{Identity, StatsOptions};

/// A recovery goes on without the answer of a database that is down.
const PATIENCE: Duration = Duration::from_secs(5);

/// See the module head.
pub struct ProgressProbe {
    options: MySqlConnectOptions,
    identity: Identity,
}

impl ProgressProbe {
    #[must_use]
    pub fn new(options: &StatsOptions) -> Self {
        Self { options: connect::tuned(options.connect.clone()), identity: options.identity.clone() }
    }

    /// `order_stats_progress.source_offset`. `None` when the table does not know the partition, when the schema is new
    /// or somebody else's, and when the database cannot be asked. Waits; not to be called on an async runtime.
    #[must_use]
    pub fn source_offset(&self, partition: PartitionId) -> Option<Offset> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
        let answer = runtime.block_on(async { timeout(PATIENCE, self.ask(partition)).await.ok()?.transpose() });
        answer?.ok()
    }

    async fn ask(&self, partition: PartitionId) -> Result<Option<Offset>, sqlx::Error> {
        let mut connection = MySqlConnection::connect_with(&self.options).await?;
        if identity::read(&mut connection).await?.as_ref() != Some(&self.identity) {
            return Ok(None);
        }
        let row = sqlx::query("SELECT source_offset FROM order_stats_progress WHERE source_partition = ?")
            .bind(partition.0)
            .fetch_optional(&mut connection)
            .await?;
        row.map(|row| row.try_get(0).map(Offset)).transpose()
    }
}
