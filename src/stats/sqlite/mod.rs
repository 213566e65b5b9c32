//! SQLite, for the embedded mode: one file, one writer, and any number of readers in other processes.
//!
//! Promises that what was acknowledged survives a power cut: a write-ahead log, synced at each commit. Otherwise the
//! progress row, and with it the log's metadata, would speak for rows that are gone.
//! In `DO UPDATE SET` every expression sees the old row, so the order of assignments does not matter, and a guard that
//! does not hold leaves the row alone as a whole.

mod errors;
mod place;

use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, NaiveDateTime};
use sqlx::error::BoxDynError;
use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteRow, SqliteSynchronous,
};
use sqlx::{Arguments, ConnectOptions, Connection, Row};

use crate::stats::database::{Access, Dialect, Migration, SqlConnection, SqlDatabase, SqlRow, Value};
use crate::stats::store::StoreError;
use crate::stats::tables::Shape;
use place::Place;

pub const DIALECT: Dialect = Dialect {
    now: "strftime('%Y-%m-%d %H:%M:%f', 'now')",
    // Takes the lock at once: a transaction that starts as a reader may find that it cannot become a writer.
    begin: "BEGIN IMMEDIATE",
    on_conflict,
    parameters_max: 32_766,
    migrations: &[
        Migration { version: 1, sql: include_str!("../../../schemas/sqlite/0001_order_statistics.sql") },
        Migration { version: 2, sql: include_str!("../../../schemas/sqlite/0002_orders.sql") },
        Migration { version: 3, sql: include_str!("../../../schemas/sqlite/0003_reconciliation.sql") },
    ],
    version_table: "CREATE TABLE IF NOT EXISTS tallyguard_schema_version (
  version    INTEGER NOT NULL PRIMARY KEY,
  applied_at TEXT    NOT NULL -- UTC
) STRICT",
};

/// How long a statement waits for the lock of another writer. Short, because the answer to a lock is a retry.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// A new file takes an exclusive lock for a moment, which does not wait: openings that meet are tried again.
const OPENINGS: u32 = 20;
const OPENING_PAUSE: Duration = Duration::from_millis(50);

const TIME: &str = "%Y-%m-%d %H:%M:%S%.3f";

/// A file.
pub struct SqliteDatabase {
    path: PathBuf,
}

impl SqliteDatabase {
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_path_buf() }
    }

    fn options(&self, access: Access) -> SqliteConnectOptions {
        let options = SqliteConnectOptions::new()
            .filename(&self.path)
            .busy_timeout(BUSY_TIMEOUT)
            .statement_cache_capacity(8)
            .disable_statement_logging();
        match access {
            Access::Read => options.read_only(true),
            Access::Write | Access::Create => options
                .create_if_missing(access == Access::Create)
                .journal_mode(SqliteJournalMode::Wal)
                .synchronous(SqliteSynchronous::Full),
        }
    }

    async fn open_once(&self, access: Access) -> Result<SqliteConnection, sqlx::Error> {
        let mut connection = SqliteConnection::connect_with(&self.options(access)).await?;
        // The first reading opens the file in earnest, and its write-ahead log.
        sqlx::raw_sql("SELECT COUNT(*) FROM sqlite_schema").execute(&mut connection).await?;
        Ok(connection)
    }
}

impl SqlDatabase for SqliteDatabase {
    type Connection = Sqlite;

    async fn open(&self, access: Access) -> Result<Sqlite, StoreError> {
        let mut openings = 1;
        loop {
            let error = match self.open_once(access).await {
                Ok(connection) => {
                    let place = Place::of(&self.path);
                    return Ok(Sqlite { connection: Some(connection), path: self.path.clone(), place });
                }
                Err(error) => errors::classify(error),
            };
            let again = matches!(error, StoreError::Contention(_)) && openings < OPENINGS;
            if !again {
                return Err(StoreError::Unavailable(format!("{}: {error}", self.path.display())));
            }
            openings += 1;
            tokio::time::sleep(OPENING_PAUSE).await;
        }
    }
}

/// One connection to the file.
pub struct Sqlite {
    /// `None` once the file was found to be gone.
    connection: Option<SqliteConnection>,
    path: PathBuf,
    place: Place,
}

impl Sqlite {
    fn open(&mut self) -> Result<&mut SqliteConnection, sqlx::Error> {
        self.connection.as_mut().ok_or(sqlx::Error::WorkerCrashed)
    }
}

impl SqlConnection for Sqlite {
    type Row = SqliteRow;

    const DIALECT: Dialect = DIALECT;

    async fn execute(&mut self, sql: &str, values: &[Value<'_>], recurs: bool) -> Result<(), sqlx::Error> {
        let arguments = arguments(values).map_err(sqlx::Error::Encode)?;
        let query = sqlx::query_with::<_, SqliteArguments<'_>>(sql, arguments).persistent(recurs);
        query.execute(self.open()?).await.map(|_| ())
    }

    async fn fetch(&mut self, sql: &str, values: &[Value<'_>]) -> Result<Vec<SqliteRow>, sqlx::Error> {
        let arguments = arguments(values).map_err(sqlx::Error::Encode)?;
        sqlx::query_with::<_, SqliteArguments<'_>>(sql, arguments).fetch_all(self.open()?).await
    }

    async fn run(&mut self, sql: &str) -> Result<(), sqlx::Error> {
        sqlx::raw_sql(sql).execute(self.open()?).await.map(|_| ())
    }

    /// Changes to the schema are part of a transaction like any other.
    async fn lock_schema(&mut self) -> Result<(), StoreError> {
        self.run(DIALECT.begin).await.map_err(|error| StoreError::Unavailable(error.to_string()))
    }

    async fn unlock_schema(&mut self, migrated: bool) -> Result<(), StoreError> {
        self.run(if migrated { "COMMIT" } else { "ROLLBACK" }).await.map_err(errors::classify)
    }

    async fn check_in_place(&mut self) -> Result<(), StoreError> {
        if Place::of(&self.path) == self.place {
            return Ok(());
        }
        if let Some(mut connection) = self.connection.take() {
            // Whoever moved the file away has all of it then.
            let _ = sqlx::raw_sql("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut connection).await;
            let _ = connection.close().await;
            self.place.leave(&self.path);
        }
        Err(StoreError::Disconnected(format!("{} was moved, deleted or replaced", self.path.display())))
    }

    async fn close(self) {
        if let Some(connection) = self.connection {
            // An unclean end is settled by the next opening.
            let _ = connection.close().await;
        }
    }

    fn classify(error: sqlx::Error) -> StoreError {
        errors::classify(error)
    }

    fn lacks_table(error: &sqlx::Error) -> bool {
        errors::lacks_table(error)
    }
}

impl SqlRow for SqliteRow {
    fn integer(&self, column: usize) -> Result<i64, sqlx::Error> {
        self.try_get(column)
    }

    /// Unchecked: SQLite writes an integer down as its digits.
    fn text(&self, column: usize) -> Result<String, sqlx::Error> {
        self.try_get_unchecked(column)
    }

    fn time(&self, column: usize) -> Result<i64, sqlx::Error> {
        let text: String = self.try_get(column)?;
        let at = NaiveDateTime::parse_from_str(&text, TIME).map_err(|error| sqlx::Error::Decode(error.into()))?;
        Ok(at.and_utc().timestamp_millis())
    }
}

fn arguments<'a>(values: &[Value<'a>]) -> Result<SqliteArguments<'a>, BoxDynError> {
    let mut arguments = SqliteArguments::default();
    for value in values {
        match *value {
            Value::Null => arguments.add(None::<i64>)?,
            Value::Integer(integer) => arguments.add(integer)?,
            Value::Number(number) => {
                arguments.add(i64::try_from(number).map_err(|_| "a number does not fit into 64 bits")?)?;
            }
            Value::Text(text) => arguments.add(text)?,
            Value::Time(epoch_ms) => {
                let at = DateTime::from_timestamp_millis(epoch_ms);
                arguments.add(at.map(|at| at.naive_utc().format(TIME).to_string()))?;
            }
        }
    }
    Ok(arguments)
}

fn on_conflict(shape: &Shape) -> String {
    let key = shape.key.join(", ");
    if shape.updated.is_empty() {
        return format!(" ON CONFLICT ({key}) DO NOTHING");
    }
    let guard = (shape.guard)(|column| format!("excluded.{column}"));
    let assign = |column: &&str| format!("{column} = excluded.{column}");
    let assignments: Vec<String> = shape.updated.iter().map(assign).collect();
    format!(" ON CONFLICT ({key}) DO UPDATE SET {} WHERE {guard}", assignments.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_reaches_the_disk_before_it_is_acknowledged() {
        let dir = tempfile::tempdir().unwrap();
        let database = SqliteDatabase::new(&dir.path().join("statistics.sqlite"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let mut connection = database.open(Access::Create).await.unwrap();
            let synchronous = connection.fetch("PRAGMA synchronous", &[]).await.unwrap();
            assert_eq!(synchronous[0].integer(0).unwrap(), 2, "FULL");
            let journal = connection.fetch("PRAGMA journal_mode", &[]).await.unwrap();
            assert_eq!(journal[0].text(0).unwrap(), "wal");
            assert_ne!(connection.place, Place::of(&dir.path().join("other")), "the file and its log were seen");
            assert_eq!(connection.place, Place::of(&database.path));
            connection.close().await;
        });
    }
}
