//! Asks the database, once and with patience limited, how far a partition's statistics reach.
//!
//! For the recovery of a partition without a committed offset: statistics that know the partition show that the group's
//! offsets were lost. It reads only, and changes neither schema nor identity.

use std::time::Duration;

use tokio::time::timeout;

use crate::domain::ids::{Offset, PartitionId};
use crate::stats::database::{Access, SqlConnection, SqlDatabase, SqlRow, Value};
use crate::stats::mysql::MySqlDatabase;
use crate::stats::schema::read_identity;
use crate::stats::sqlite::SqliteDatabase;
use crate::stats::store::StoreError;
use crate::stats::{Identity, StatsOptions, Target};

/// A recovery goes on without the answer of a database that is down.
const PATIENCE: Duration = Duration::from_secs(5);

/// See the module head.
pub struct ProgressProbe {
    target: Target,
    identity: Identity,
}

impl ProgressProbe {
    #[must_use]
    pub fn new(options: &StatsOptions) -> Self {
        Self { target: options.connect.clone(), identity: options.identity.clone() }
    }

    /// `order_stats_progress.source_offset`. `None` when the table does not know the partition, when the schema is new
    /// or somebody else's, and when the database cannot be asked. Waits; not to be called on an async runtime.
    #[must_use]
    pub fn source_offset(&self, partition: PartitionId) -> Option<Offset> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
        let asked = async {
            match &self.target {
                Target::MySql(options) => self.ask(MySqlDatabase::new((**options).clone()), partition).await,
                Target::Sqlite(path) => self.ask(SqliteDatabase::new(path), partition).await,
            }
        };
        runtime.block_on(async { timeout(PATIENCE, asked).await }).ok()?.ok()?
    }

    async fn ask<D: SqlDatabase>(&self, database: D, partition: PartitionId) -> Result<Option<Offset>, StoreError> {
        let mut connection = database.open(Access::Read).await?;
        let answer = self.ask_on(&mut connection, partition).await;
        connection.close().await;
        answer.map_err(D::Connection::classify)
    }

    async fn ask_on(
        &self,
        connection: &mut impl SqlConnection,
        partition: PartitionId,
    ) -> Result<Option<Offset>, sqlx::Error> {
        if read_identity(connection).await?.as_ref() != Some(&self.identity) {
            return Ok(None);
        }
        let sql = "SELECT source_offset FROM order_stats_progress WHERE source_partition = ?";
        let rows = connection.fetch(sql, &[Value::Integer(i64::from(partition.0))]).await?;
        rows.first().map(|row| row.integer(0).map(Offset)).transpose()
    }
}
