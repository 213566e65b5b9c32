//! The port `store` over any dialect: opening, transactions, and what an error leaves behind.
//!
//! One connection, one writer. Every write is one statement, or one short SQL transaction when progress goes with it.

use std::collections::BTreeMap;

use crate::domain::ids::{Offset, PartitionId};
use crate::stats::database::{Access, SqlConnection, SqlDatabase, SqlRow};
use crate::stats::schema;
use crate::stats::store::{ProgressRow, Rows, StatisticsSession, StatisticsStore, StoreError, Table};
use crate::stats::tables::{self, Upsert, columns};
use crate::stats::{Identity, StatsOptions};

pub struct SqlStore<D> {
    database: D,
    identity: Identity,
    migrate: bool,
    batch_rows: usize,
}

impl<D: SqlDatabase> SqlStore<D> {
    pub fn new(database: D, options: &StatsOptions) -> Self {
        let StatsOptions { identity, migrate, batch_rows, .. } = options;
        Self { database, identity: identity.clone(), migrate: *migrate, batch_rows: *batch_rows }
    }
}

impl<D: SqlDatabase> StatisticsStore for SqlStore<D> {
    type Session = Session<D::Connection>;

    async fn connect(&self) -> Result<Self::Session, StoreError> {
        let access = if self.migrate { Access::Create } else { Access::Write };
        let mut connection = self.database.open(access).await?;
        schema::prepare(&mut connection, &self.identity, self.migrate).await?;
        Ok(Session { connection, batch_rows: self.batch_rows })
    }

    fn rows_max(&self, table: Table) -> usize {
        self.batch_rows.clamp(1, D::Connection::DIALECT.parameters_max / columns(table))
    }
}

pub struct Session<C> {
    connection: C,
    batch_rows: usize,
}

impl<C: SqlConnection> StatisticsSession for Session<C> {
    async fn progress(&mut self) -> Result<BTreeMap<PartitionId, Offset>, StoreError> {
        let sql = "SELECT source_partition, source_offset FROM order_stats_progress";
        let rows = self.connection.fetch(sql, &[]).await.map_err(C::classify)?;
        let entry = |row: &C::Row| {
            let partition = i32::try_from(row.integer(0)?).map_err(|error| sqlx::Error::Decode(error.into()))?;
            Ok((PartitionId(partition), Offset(row.integer(1)?)))
        };
        rows.iter().map(entry).collect::<Result<_, sqlx::Error>>().map_err(C::classify)
    }

    async fn write(&mut self, rows: Option<Rows<'_>>, progress: &[ProgressRow]) -> Result<(), StoreError> {
        let refused = |error| C::classify(sqlx::Error::Encode(error));
        let rows = rows.map(|rows| tables::upsert_rows(&C::DIALECT, rows)).transpose().map_err(refused)?;
        let progress = if progress.is_empty() {
            None
        } else {
            Some(tables::upsert_progress(&C::DIALECT, progress).map_err(refused)?)
        };
        match (rows, progress) {
            // A statement by itself is a transaction.
            (Some(only), None) | (None, Some(only)) => self.execute(only).await.map_err(C::classify)?,
            (Some(rows), Some(progress)) => self.transact(rows, progress).await?,
            (None, None) => return Ok(()),
        }
        self.connection.check_in_place().await
    }

    async fn close(self) {
        self.connection.close().await;
    }
}

impl<C: SqlConnection> Session<C> {
    async fn transact(&mut self, rows: Upsert<'_>, progress: Upsert<'_>) -> Result<(), StoreError> {
        self.connection.run(C::DIALECT.begin).await.map_err(C::classify)?;
        let written = match self.execute(rows).await {
            Ok(()) => self.execute(progress).await,
            Err(error) => Err(error),
        };
        let written = match written {
            Ok(()) => self.connection.run("COMMIT").await,
            Err(error) => Err(error),
        };
        let Err(error) = written else { return Ok(()) };
        let error = C::classify(error);
        let rolled_back = self.connection.run("ROLLBACK").await.map_err(C::classify);
        match error {
            // The connection is used again, so it has to be clean.
            StoreError::RowRefused(_) | StoreError::Contention(_) => rolled_back.and(Err(error)),
            _ => Err(error),
        }
    }

    /// Only full statements recur, so only those are worth keeping prepared.
    async fn execute(&mut self, upsert: Upsert<'_>) -> Result<(), sqlx::Error> {
        let Upsert { sql, values, rows } = upsert;
        let recurs = rows == self.batch_rows || rows == 1;
        self.connection.execute(&sql, &values, recurs).await
    }
}
