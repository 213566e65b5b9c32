//! What a dialect provides: a connection that runs statements, and the few texts that differ.
//!
//! Everything else is written once, over these traits: the tables and their guards (`tables`), transactions
//! (`session`), identity and migrations (`schema`), and the reading (`probe`, `query`).

use crate::stats::store::StoreError;
use crate::stats::tables::Shape;

/// A value on its way into a statement.
#[derive(Debug, Clone, Copy)]
pub enum Value<'a> {
    Null,
    Integer(i64),
    /// A count or a sum, which may be too large for the database; it is refused then, never wrapped.
    Number(i128),
    Text(&'a str),
    /// Epoch milliseconds, written as a date in UTC; beyond what a date can say it is NULL, which the tables refuse.
    Time(i64),
}

/// What a connection is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
    /// To write, and to create the database itself where the dialect can.
    Create,
}

/// A database that can be reached.
pub trait SqlDatabase {
    type Connection: SqlConnection;

    async fn open(&self, access: Access) -> Result<Self::Connection, StoreError>;
}

/// One file of `schemas/`.
pub struct Migration {
    pub version: u32,
    pub sql: &'static str,
}

/// The texts that differ, and limits.
pub struct Dialect {
    /// The time of writing, UTC with milliseconds.
    pub now: &'static str,
    /// Starts a transaction that will write.
    pub begin: &'static str,
    /// What follows the values of an insert: the guarded update of the rows that are there.
    pub on_conflict: fn(&Shape) -> String,
    /// Parameters that one statement may have.
    pub parameters_max: usize,
    /// Ascending; a migration that was released never changes. Each statement may run again.
    pub migrations: &'static [Migration],
    /// Creates `tallyguard_schema_version` unless it is there.
    pub version_table: &'static str,
}

/// An open connection. Dropped after an error that leaves it in doubt.
pub trait SqlConnection {
    type Row: SqlRow;

    const DIALECT: Dialect;

    /// Runs one statement. `recurs`: it is worth keeping prepared.
    async fn execute(&mut self, sql: &str, values: &[Value<'_>], recurs: bool) -> Result<(), sqlx::Error>;

    async fn fetch(&mut self, sql: &str, values: &[Value<'_>]) -> Result<Vec<Self::Row>, sqlx::Error>;

    /// Runs a statement without parameters, also one that cannot be prepared.
    async fn run(&mut self, sql: &str) -> Result<(), sqlx::Error>;

    /// Keeps others from migrating at the same time, until [`Self::unlock_schema`] or the end of the connection.
    async fn lock_schema(&mut self) -> Result<(), StoreError>;

    async fn unlock_schema(&mut self, migrated: bool) -> Result<(), StoreError>;

    /// Whether what was just written is where the next reader will look for it.
    async fn check_in_place(&mut self) -> Result<(), StoreError>;

    /// Best effort.
    async fn close(self);

    /// Sorts an error into what the writer can do about it.
    fn classify(error: sqlx::Error) -> StoreError;

    /// Whether the error says that a table is not there.
    fn lacks_table(error: &sqlx::Error) -> bool;
}

/// One row of an answer.
pub trait SqlRow {
    fn integer(&self, column: usize) -> Result<i64, sqlx::Error>;

    /// A text, or an integer of any length as its digits.
    fn text(&self, column: usize) -> Result<String, sqlx::Error>;

    /// Epoch milliseconds.
    fn time(&self, column: usize) -> Result<i64, sqlx::Error>;
}
