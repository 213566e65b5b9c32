//! MySQL 8.0.17+ and MariaDB 10.6+ as the statistics' store.
//!
//! One connection, one writer. Every write is one statement, or one short SQL transaction when progress goes with it.

mod connect;
mod errors;
mod identity;
mod migrations;
mod probe;
mod statements;

use std::collections::BTreeMap;

use sqlx::mysql::{MySqlArguments, MySqlConnectOptions, MySqlConnection};
use sqlx::{Connection, Row};

use crate::domain::ids::{Offset, PartitionId};
use crate::stats::store::{ProgressRow, Rows, StatisticsSession, StatisticsStore, StoreError, Table};
use crate::stats::{Identity, StatsOptions};
use errors::classify;
pub use probe::ProgressProbe;
use statements::{Upsert, columns};

/// The protocol counts a statement's parameters in 16 bits.
const PARAMETERS_MAX: usize = 65_535;

pub struct MySqlStore {
    options: MySqlConnectOptions,
    identity: Identity,
    migrate: bool,
    batch_rows: usize,
}

impl MySqlStore {
    pub fn new(options: StatsOptions) -> Self {
        let StatsOptions { connect, identity, migrate, batch_rows, .. } = options;
        Self { options: connect::tuned(connect), identity, migrate, batch_rows }
    }
}

impl StatisticsStore for MySqlStore {
    type Session = MySqlSession;

    async fn connect(&self) -> Result<MySqlSession, StoreError> {
        let connection = connect::open(&self.options, &self.identity, self.migrate).await?;
        Ok(MySqlSession { connection, batch_rows: self.batch_rows })
    }

    fn rows_max(&self, table: Table) -> usize {
        self.batch_rows.clamp(1, PARAMETERS_MAX / columns(table))
    }
}

pub struct MySqlSession {
    connection: MySqlConnection,
    batch_rows: usize,
}

impl StatisticsSession for MySqlSession {
    async fn progress(&mut self) -> Result<BTreeMap<PartitionId, Offset>, StoreError> {
        let rows = sqlx::query("SELECT source_partition, source_offset FROM order_stats_progress")
            .fetch_all(&mut self.connection)
            .await
            .map_err(classify)?;
        rows.iter()
            .map(|row| Ok((PartitionId(row.try_get(0)?), Offset(row.try_get(1)?))))
            .collect::<Result<_, sqlx::Error>>()
            .map_err(classify)
    }

    async fn write(&mut self, rows: Option<Rows<'_>>, progress: &[ProgressRow]) -> Result<(), StoreError> {
        let rows = rows.map(statements::upsert_rows).transpose().map_err(refused_value)?;
        let progress = if progress.is_empty() {
            None
        } else {
            Some(statements::upsert_progress(progress).map_err(refused_value)?)
        };
        self.transact(rows, progress).await.map_err(classify)
    }

    async fn close(self) {
        // The server notices the end of the connection either way.
        let _ = self.connection.close().await;
    }
}

impl MySqlSession {
    async fn transact(&mut self, rows: Option<Upsert>, progress: Option<Upsert>) -> Result<(), sqlx::Error> {
        let batch_rows = self.batch_rows;
        match (rows, progress) {
            // A statement by itself is a transaction.
            (Some(only), None) | (None, Some(only)) => execute(&mut self.connection, only, batch_rows).await,
            (Some(rows), Some(progress)) => {
                let mut transaction = self.connection.begin().await?;
                let result = match execute(&mut transaction, rows, batch_rows).await {
                    Ok(()) => execute(&mut transaction, progress, batch_rows).await,
                    Err(error) => Err(error),
                };
                match result {
                    Ok(()) => transaction.commit().await,
                    // A roll-back that fails means a dead connection, which the next statement will notice.
                    Err(error) => transaction.rollback().await.and(Err(error)),
                }
            }
            (None, None) => Ok(()),
        }
    }
}

/// Only full statements recur, so only those are worth keeping prepared.
async fn execute(connection: &mut MySqlConnection, upsert: Upsert, batch_rows: usize) -> Result<(), sqlx::Error> {
    let Upsert { sql, arguments, rows } = upsert;
    let recurs = rows == batch_rows || rows == 1;
    let query = sqlx::query_with::<_, MySqlArguments>(&sql, arguments).persistent(recurs);
    query.execute(connection).await.map(|_| ())
}

/// A value that cannot even be sent.
fn refused_value(error: sqlx::error::BoxDynError) -> StoreError {
    // The error of an encoder names types, not values.
    StoreError::RowRefused(error.to_string())
}
