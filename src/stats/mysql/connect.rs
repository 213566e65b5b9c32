//! Opens a connection that may write: session settings, schema, identity, in this order of doubt.

use sqlx::mysql::{MySqlConnectOptions, MySqlConnection};
use sqlx::{ConnectOptions, Connection};

use crate::stats::Identity;
use crate::stats::mysql::errors::{NO_SUCH_TABLE, classify, number};
use crate::stats::mysql::{identity, migrations};
use crate::stats::store::StoreError;

/// Strict, so that a value that does not fit is an error and never a different value; UTC; and a short wait for locks,
/// because the answer to a lock is a retry.
const SESSION: &str = "SET SESSION sql_mode = 'ONLY_FULL_GROUP_BY,STRICT_ALL_TABLES,NO_ZERO_IN_DATE,NO_ZERO_DATE,\
                       ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION', \
                       time_zone = '+00:00', innodb_lock_wait_timeout = 5, autocommit = 1";

/// Few statements recur, and they are long; logging them would fill pages.
pub fn tuned(options: MySqlConnectOptions) -> MySqlConnectOptions {
    options.charset("utf8mb4").statement_cache_capacity(8).disable_statement_logging()
}

pub async fn open(
    options: &MySqlConnectOptions,
    identity: &Identity,
    migrate: bool,
) -> Result<MySqlConnection, StoreError> {
    let mut connection = MySqlConnection::connect_with(options).await.map_err(classify)?;
    sqlx::raw_sql(SESSION).execute(&mut connection).await.map_err(classify)?;
    // Before the migrations: not even those may touch a schema that belongs to another log.
    match identity::read(&mut connection).await {
        Ok(Some(found)) if found != *identity => return Err(StoreError::IdentityMismatch(found)),
        Ok(_) => {}
        Err(error) if migrate && number(&error) == Some(NO_SUCH_TABLE) => {}
        Err(error) => return Err(classify(error)),
    }
    if migrate {
        migrations::apply(&mut connection).await?;
    }
    let found = identity::claim(&mut connection, identity).await.map_err(classify)?;
    if found != *identity {
        return Err(StoreError::IdentityMismatch(found));
    }
    Ok(connection)
}
