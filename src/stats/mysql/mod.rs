//! MySQL 8.0.17+ and MariaDB 10.6+: session settings, spelling, the lock of the migrations.
//!
//! `ON DUPLICATE KEY UPDATE` assigns from left to right, and later expressions see the new values: the columns that a
//! guard reads are assigned last. `VALUES(column)` is the only form that both servers know.

mod errors;

use chrono::{DateTime, NaiveDateTime};
use sqlx::error::BoxDynError;
use sqlx::mysql::{MySqlArguments, MySqlConnectOptions, MySqlConnection, MySqlRow};
use sqlx::{Arguments, ConnectOptions, Connection, Row};

use crate::stats::database::{Access, Dialect, Migration, SqlConnection, SqlDatabase, SqlRow, Value};
use crate::stats::store::StoreError;
use crate::stats::tables::Shape;

pub const DIALECT: Dialect = Dialect {
    now: "UTC_TIMESTAMP(3)",
    begin: "START TRANSACTION",
    on_conflict: on_duplicate_key,
    // The protocol counts them in 16 bits.
    parameters_max: 65_535,
    migrations: &[
        Migration { version: 1, sql: include_str!("../../../schemas/mysql/0001_order_statistics.sql") },
        Migration { version: 2, sql: include_str!("../../../schemas/mysql/0002_orders.sql") },
        Migration { version: 3, sql: include_str!("../../../schemas/mysql/0003_reconciliation.sql") },
    ],
    version_table: "CREATE TABLE IF NOT EXISTS tallyguard_schema_version (
  version    INT UNSIGNED NOT NULL,
  applied_at DATETIME(3)  NOT NULL COMMENT 'UTC',
  PRIMARY KEY (version)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4",
};

/// Strict, so that a value that does not fit is an error and never a different value; UTC; and a short wait for locks,
/// because the answer to a lock is a retry.
const SESSION: &str = "SET SESSION sql_mode = 'ONLY_FULL_GROUP_BY,STRICT_ALL_TABLES,NO_ZERO_IN_DATE,NO_ZERO_DATE,\
                       ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION', \
                       time_zone = '+00:00', innodb_lock_wait_timeout = 5, autocommit = 1";

/// Lock names are global to a server and limited to 64 characters, schema names are not.
const LOCK: &str = "SELECT CAST(GET_LOCK(CONCAT('tallyguard.', SHA1(DATABASE())), 10) AS SIGNED)";
const UNLOCK: &str = "SELECT CAST(RELEASE_LOCK(CONCAT('tallyguard.', SHA1(DATABASE()))) AS SIGNED)";

/// A server and a schema on it.
pub struct MySqlDatabase {
    options: MySqlConnectOptions,
}

impl MySqlDatabase {
    pub fn new(options: MySqlConnectOptions) -> Self {
        // Few statements recur, and they are long; logging them would fill pages.
        let options = options.charset("utf8mb4").statement_cache_capacity(8).disable_statement_logging();
        Self { options }
    }
}

impl SqlDatabase for MySqlDatabase {
    type Connection = MySql;

    async fn open(&self, access: Access) -> Result<MySql, StoreError> {
        let mut connection = MySqlConnection::connect_with(&self.options).await.map_err(errors::classify)?;
        sqlx::raw_sql(SESSION).execute(&mut connection).await.map_err(errors::classify)?;
        if access == Access::Read {
            let read_only = "SET SESSION TRANSACTION READ ONLY";
            sqlx::raw_sql(read_only).execute(&mut connection).await.map_err(errors::classify)?;
        }
        Ok(MySql { connection })
    }
}

/// One session.
pub struct MySql {
    connection: MySqlConnection,
}

impl SqlConnection for MySql {
    type Row = MySqlRow;

    const DIALECT: Dialect = DIALECT;

    async fn execute(&mut self, sql: &str, values: &[Value<'_>], recurs: bool) -> Result<(), sqlx::Error> {
        let arguments = arguments(values).map_err(sqlx::Error::Encode)?;
        let query = sqlx::query_with::<_, MySqlArguments>(sql, arguments).persistent(recurs);
        query.execute(&mut self.connection).await.map(|_| ())
    }

    async fn fetch(&mut self, sql: &str, values: &[Value<'_>]) -> Result<Vec<MySqlRow>, sqlx::Error> {
        let arguments = arguments(values).map_err(sqlx::Error::Encode)?;
        sqlx::query_with::<_, MySqlArguments>(sql, arguments).fetch_all(&mut self.connection).await
    }

    async fn run(&mut self, sql: &str) -> Result<(), sqlx::Error> {
        sqlx::raw_sql(sql).execute(&mut self.connection).await.map(|_| ())
    }

    async fn lock_schema(&mut self) -> Result<(), StoreError> {
        let rows = self.fetch(LOCK, &[]).await.map_err(errors::classify)?;
        // NULL is an error of the server, 0 a time-out.
        if rows.first().and_then(|row| row.try_get::<Option<i64>, _>(0).ok().flatten()) == Some(1) {
            return Ok(());
        }
        Err(StoreError::Unavailable("another instance is still applying the migrations".to_owned()))
    }

    async fn unlock_schema(&mut self, _migrated: bool) -> Result<(), StoreError> {
        self.fetch(UNLOCK, &[]).await.map(|_| ()).map_err(errors::classify)
    }

    /// The server looks after its data.
    async fn check_in_place(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn close(self) {
        // The server notices the end of the connection either way.
        let _ = self.connection.close().await;
    }

    fn classify(error: sqlx::Error) -> StoreError {
        errors::classify(error)
    }

    fn lacks_table(error: &sqlx::Error) -> bool {
        errors::number(error) == Some(errors::NO_SUCH_TABLE)
    }
}

impl SqlRow for MySqlRow {
    fn integer(&self, column: usize) -> Result<i64, sqlx::Error> {
        self.try_get(column)
    }

    /// Unchecked: sqlx takes a text for bytes when its collation is a binary one, and a DECIMAL arrives as its digits.
    fn text(&self, column: usize) -> Result<String, sqlx::Error> {
        self.try_get_unchecked(column)
    }

    fn time(&self, column: usize) -> Result<i64, sqlx::Error> {
        self.try_get::<NaiveDateTime, _>(column).map(|at| at.and_utc().timestamp_millis())
    }
}

fn arguments(values: &[Value<'_>]) -> Result<MySqlArguments, BoxDynError> {
    let mut arguments = MySqlArguments::default();
    for value in values {
        match *value {
            Value::Null => arguments.add(None::<i64>)?,
            Value::Integer(integer) => arguments.add(integer)?,
            // As text, which the server reads exactly: a sum may be longer than any integer of the protocol.
            Value::Number(number) => match i64::try_from(number) {
                Ok(integer) => arguments.add(integer)?,
                Err(_) => arguments.add(number.to_string())?,
            },
            Value::Text(text) => arguments.add(text)?,
            Value::Time(epoch_ms) => {
                arguments.add(DateTime::from_timestamp_millis(epoch_ms).map(|at| at.naive_utc()))?;
            }
        }
    }
    Ok(arguments)
}

fn on_duplicate_key(shape: &Shape) -> String {
    let guard = (shape.guard)(|column| format!("VALUES({column})"));
    let assign = |column: &&str| format!("{column} = IF({guard}, VALUES({column}), {column})");
    let mut assignments: Vec<String> = shape.updated.iter().map(assign).collect();
    if assignments.is_empty() {
        // The first row stays. `INSERT IGNORE` would say the same, but hide real errors and cut long texts.
        assignments.extend(shape.key.iter().map(|column| format!("{column} = {column}")));
    }
    format!(" ON DUPLICATE KEY UPDATE {}", assignments.join(", "))
}
