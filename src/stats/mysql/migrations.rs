//! Brings the schema up to date, also when several instances start at once.
//!
//! A small table of its own rather than `sqlx::migrate`: that one locks with `GET_LOCK(name, -1)`, which MariaDB answers
//! with NULL and no lock, and it calls a migration that a crash cut in two "dirty" for ever. Here every statement may run
//! again, so a migration that did not finish simply runs once more.

use sqlx::Row;
use sqlx::mysql::MySqlConnection;

use crate::stats::mysql::errors::{NO_SUCH_TABLE, classify, number};
use crate::stats::store::StoreError;

struct Migration {
    version: u32,
    sql: &'static str,
}

/// Ascending; a migration that was released never changes.
const MIGRATIONS: [Migration; 3] = [
    Migration { version: 1, sql: include_str!("../../../schemas/mysql/0001_order_statistics.sql") },
    Migration { version: 2, sql: include_str!("../../../schemas/mysql/0002_orders.sql") },
    Migration { version: 3, sql: include_str!("../../../schemas/mysql/0003_reconciliation.sql") },
];

/// Lock names are global to a server and limited to 64 characters, schema names are not.
const LOCK: &str = "SELECT CAST(GET_LOCK(CONCAT('tallyguard.', SHA1(DATABASE())), 10) AS SIGNED)";
const UNLOCK: &str = "SELECT CAST(RELEASE_LOCK(CONCAT('tallyguard.', SHA1(DATABASE()))) AS SIGNED)";

const VERSION_TABLE: &str = "CREATE TABLE IF NOT EXISTS tallyguard_schema_version (
  version    INT UNSIGNED NOT NULL,
  applied_at DATETIME(3)  NOT NULL COMMENT 'UTC',
  PRIMARY KEY (version)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4";

/// Applies what is missing. A schema that is up to date needs no right to change it.
///
/// # Errors
/// Every failure is an outage; it is tried again with the next connection.
pub async fn apply(connection: &mut MySqlConnection) -> Result<(), StoreError> {
    if applied(connection).await.map_err(outage)? >= newest() {
        return Ok(());
    }
    let locked: Option<i64> =
        sqlx::query(LOCK).fetch_one(&mut *connection).await.and_then(|row| row.try_get(0)).map_err(outage)?;
    if locked != Some(1) {
        return Err(StoreError::Unavailable("another instance is still applying the migrations".to_owned()));
    }
    let result = apply_missing(connection).await.map_err(outage);
    // A lock that could not be released goes with the connection.
    let released = sqlx::query(UNLOCK).fetch_one(&mut *connection).await.map(|_| ()).map_err(outage);
    result.and(released)
}

async fn apply_missing(connection: &mut MySqlConnection) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(VERSION_TABLE).execute(&mut *connection).await?;
    let applied = applied(connection).await?;
    for migration in MIGRATIONS.iter().filter(|migration| migration.version > applied) {
        for statement in statements(migration.sql) {
            sqlx::raw_sql(statement).execute(&mut *connection).await?;
        }
        sqlx::query("INSERT INTO tallyguard_schema_version (version, applied_at) VALUES (?, UTC_TIMESTAMP(3))")
            .bind(migration.version)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// The newest migration that was applied; 0 for none.
async fn applied(connection: &mut MySqlConnection) -> Result<u32, sqlx::Error> {
    let newest = sqlx::query("SELECT CAST(COALESCE(MAX(version), 0) AS UNSIGNED) FROM tallyguard_schema_version")
        .fetch_one(connection)
        .await;
    match newest {
        Ok(row) => row.try_get::<u64, _>(0).map(|version| u32::try_from(version).unwrap_or(u32::MAX)),
        Err(error) if number(&error) == Some(NO_SUCH_TABLE) => Ok(0),
        Err(error) => Err(error),
    }
}

fn newest() -> u32 {
    MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0)
}

/// A statement ends with a semicolon at the end of a line.
fn statements(sql: &'static str) -> impl Iterator<Item = &'static str> {
    sql.split(";\n").map(str::trim).filter(|statement| !statement.is_empty())
}

/// There are no rows here to be refused, and no transaction to retry.
fn outage(error: sqlx::Error) -> StoreError {
    match classify(error) {
        StoreError::RowRefused(error) | StoreError::Contention(error) => {
            StoreError::Unavailable(format!("the schema could not be brought up to date: {error}"))
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_statement_may_run_again() {
        let repeatable = ["CREATE TABLE IF NOT EXISTS ", "CREATE OR REPLACE VIEW "];
        for statement in MIGRATIONS.iter().flat_map(|migration| statements(migration.sql)) {
            let code = statement.lines().find(|line| !(line.starts_with("--") || line.is_empty()));
            let code = code.unwrap_or_default();
            assert!(repeatable.iter().any(|start| code.starts_with(start)), "{code}");
        }
    }
}
