//! Whose a schema is, and how it comes into being and stays up to date, also when several instances start at once.
//!
//! A small table of its own rather than `sqlx::migrate`: that one locks with `GET_LOCK(name, -1)`, which MariaDB answers
//! with NULL and no lock, and it calls a migration that a crash cut in two "dirty" for ever. Here every statement may run
//! again, so a migration that did not finish simply runs once more.

use crate::stats::Identity;
use crate::stats::database::{Migration, SqlConnection, SqlRow, Value};
use crate::stats::store::StoreError;
use crate::stats::tables;

/// Makes a connection one that may write: the schema is there, and it is ours.
///
/// # Errors
/// [`StoreError::IdentityMismatch`], before anything was changed; else those of the database.
pub async fn prepare<C: SqlConnection>(
    connection: &mut C,
    identity: &Identity,
    migrate: bool,
) -> Result<(), StoreError> {
    // Before the migrations: not even those may touch a schema that belongs to another log.
    match read_identity(connection).await {
        Ok(Some(found)) if found != *identity => return Err(StoreError::IdentityMismatch(found)),
        Ok(_) => {}
        Err(error) if migrate && C::lacks_table(&error) => {}
        Err(error) => return Err(C::classify(error)),
    }
    if migrate {
        apply_migrations(connection).await?;
    }
    let found = claim(connection, identity).await.map_err(C::classify)?;
    if found != *identity {
        return Err(StoreError::IdentityMismatch(found));
    }
    Ok(())
}

/// # Errors
/// Those of the database; a schema without the table included.
pub async fn read_identity(connection: &mut impl SqlConnection) -> Result<Option<Identity>, sqlx::Error> {
    let sql = "SELECT cluster_id, topic, topic_id, consumer_group FROM order_stats_identity";
    let rows = connection.fetch(sql, &[]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    Ok(Some(Identity { cluster_id: row.text(0)?, topic: row.text(1)?, topic_id: row.text(2)?, group: row.text(3)? }))
}

/// Claims a schema that belongs to no one yet, and says whose it is now. Of two that claim at once one wins.
async fn claim<C: SqlConnection>(connection: &mut C, identity: &Identity) -> Result<Identity, sqlx::Error> {
    if read_identity(connection).await?.is_none() {
        let claim = tables::claim(&C::DIALECT, identity).map_err(sqlx::Error::Encode)?;
        connection.execute(&claim.sql, &claim.values, false).await?;
    }
    read_identity(connection).await?.ok_or(sqlx::Error::RowNotFound)
}

/// Applies what is missing. A schema that is up to date needs no right to change it. Every failure is an outage; it is
/// tried again with the next connection.
async fn apply_migrations<C: SqlConnection>(connection: &mut C) -> Result<(), StoreError> {
    if applied(connection).await.map_err(outage::<C>)? >= newest(C::DIALECT.migrations) {
        return Ok(());
    }
    connection.lock_schema().await?;
    let result = apply_missing(connection).await.map_err(outage::<C>);
    // A lock that could not be released goes with the connection.
    let released = connection.unlock_schema(result.is_ok()).await;
    result.and(released)
}

async fn apply_missing<C: SqlConnection>(connection: &mut C) -> Result<(), sqlx::Error> {
    connection.run(C::DIALECT.version_table).await?;
    let applied = applied(connection).await?;
    let insert = format!("INSERT INTO tallyguard_schema_version (version, applied_at) VALUES (?, {})", C::DIALECT.now);
    for migration in C::DIALECT.migrations.iter().filter(|migration| i64::from(migration.version) > applied) {
        for statement in statements(migration.sql) {
            connection.run(statement).await?;
        }
        connection.execute(&insert, &[Value::Integer(i64::from(migration.version))], false).await?;
    }
    Ok(())
}

/// The newest migration that was applied; 0 for none.
async fn applied<C: SqlConnection>(connection: &mut C) -> Result<i64, sqlx::Error> {
    let sql = "SELECT CAST(COALESCE(MAX(version), 0) AS SIGNED) FROM tallyguard_schema_version";
    match connection.fetch(sql, &[]).await {
        Ok(rows) => rows.first().map_or(Ok(0), |row| row.integer(0)),
        Err(error) if C::lacks_table(&error) => Ok(0),
        Err(error) => Err(error),
    }
}

fn newest(migrations: &[Migration]) -> i64 {
    migrations.iter().map(|migration| i64::from(migration.version)).max().unwrap_or(0)
}

/// A statement ends with a semicolon at the end of a line.
fn statements(sql: &'static str) -> impl Iterator<Item = &'static str> {
    sql.split(";\n").map(str::trim).filter(|statement| !statement.is_empty())
}

/// There are no rows here to be refused, and no transaction to retry.
fn outage<C: SqlConnection>(error: sqlx::Error) -> StoreError {
    match C::classify(error) {
        StoreError::RowRefused(error) | StoreError::Contention(error) => {
            StoreError::Unavailable(format!("the schema could not be brought up to date: {error}"))
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{mysql, sqlite};

    #[test]
    fn every_statement_may_run_again() {
        let repeatable = ["CREATE TABLE IF NOT EXISTS ", "CREATE INDEX IF NOT EXISTS ", "CREATE OR REPLACE VIEW "];
        let view = "CREATE VIEW IF NOT EXISTS ";
        for migration in mysql::DIALECT.migrations.iter().chain(sqlite::DIALECT.migrations) {
            for statement in statements(migration.sql) {
                let code = statement.lines().find(|line| !(line.starts_with("--") || line.is_empty()));
                let code = code.unwrap_or_default();
                assert!(repeatable.iter().chain([&view]).any(|start| code.starts_with(start)), "{code}");
            }
        }
    }

    #[test]
    fn both_dialects_have_the_same_migrations() {
        let versions = |migrations: &[Migration]| migrations.iter().map(|m| m.version).collect::<Vec<_>>();
        assert_eq!(versions(mysql::DIALECT.migrations), versions(sqlite::DIALECT.migrations));
    }
}
