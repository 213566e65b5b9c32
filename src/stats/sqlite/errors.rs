//! Sorts the errors of SQLite into what the writer can do about them, each in one place.
//!
//! Only codes that speak of a row's values count as a refused row. Everything unknown is an outage: that loses nothing,
//! while a row set aside is missing until a reconciliation.

use sqlx::sqlite::SqliteError;

use crate::stats::store::StoreError;

/// The lowest 8 bits of an extended code.
const PRIMARY: u32 = 0xff;

const ERROR: u32 = 1;
/// Another process, or another connection of ours, holds the lock: BUSY, LOCKED.
const CONTENTION: [u32; 2] = [5, 6];
/// TOOBIG, CONSTRAINT (NOT NULL, CHECK, the types of a strict table, the RAISE of an operator's trigger), MISMATCH.
const REFUSED: [u32; 3] = [18, 19, 20];

/// The extended result code.
fn code(error: &sqlx::Error) -> Option<u32> {
    error.as_database_error()?.code()?.parse().ok()
}

pub fn lacks_table(error: &sqlx::Error) -> bool {
    let sqlite_error = error.as_database_error().and_then(|error| error.try_downcast_ref::<SqliteError>());
    // There is no code of its own for this.
    code(error) == Some(ERROR) && sqlite_error.is_some_and(|error| error.to_string().contains("no such table"))
}

pub fn classify(error: sqlx::Error) -> StoreError {
    let Some(code) = code(&error) else {
        return match error {
            // A value that cannot even be sent; see `Value::Number`.
            sqlx::Error::Encode(error) => StoreError::RowRefused(error.to_string()),
            _ => StoreError::Unavailable(error.to_string()),
        };
    };
    if CONTENTION.contains(&(code & PRIMARY)) {
        StoreError::Contention(format!("SQLite error {code}"))
    } else if REFUSED.contains(&(code & PRIMARY)) {
        // The message may quote an operator's trigger, so it is left out.
        StoreError::RowRefused(format!("SQLite error {code}"))
    } else {
        StoreError::Unavailable(error.to_string())
    }
}
