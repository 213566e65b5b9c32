//! Sorts the errors of MySQL and MariaDB into what the writer can do about them, each in one place.
//!
//! Only codes that speak of a row's values count as a refused row. Everything unknown is an outage: that loses nothing,
//! while a row set aside is missing until a reconciliation.

use sqlx::mysql::MySqlDatabaseError;

use crate::stats::store::StoreError;

/// Deadlock, lock wait time-out, and MariaDB's "record has changed since last read".
const CONTENTION: [u16; 3] = [1213, 1205, 1020];

/// What a value can do wrong without an SQLSTATE of class 22: NULL where none is allowed, truncated, not of the
/// character set, a CHECK (MySQL, MariaDB), and the SIGNAL of an operator's trigger.
const REFUSED: [u16; 6] = [1048, 1265, 1366, 3819, 4025, 1644];

/// The server says good-bye: shutdown, killed (MySQL, MariaDB), interrupted, and errors on its side of the connection.
const DISCONNECTED: [u16; 9] = [1053, 1317, 1927, 3169, 1152, 1158, 1159, 1160, 1161];

/// "Table does not exist".
pub const NO_SUCH_TABLE: u16 = 1146;

pub fn number(error: &sqlx::Error) -> Option<u16> {
    error.as_database_error()?.try_downcast_ref::<MySqlDatabaseError>().map(MySqlDatabaseError::number)
}

#[expect(clippy::needless_pass_by_value, reason = "it stands in map_err")]
pub fn classify(error: sqlx::Error) -> StoreError {
    let database_error = error.as_database_error().and_then(|error| error.try_downcast_ref::<MySqlDatabaseError>());
    let Some(database_error) = database_error else {
        return match error {
            sqlx::Error::Io(_) | sqlx::Error::Protocol(_) => StoreError::Disconnected(error.to_string()),
            // A value that cannot even be sent. The error names types, not values.
            sqlx::Error::Encode(_) => StoreError::RowRefused(error.to_string()),
            _ => StoreError::Unavailable(error.to_string()),
        };
    };
    let (number, state) = (database_error.number(), database_error.code().unwrap_or_default());
    if CONTENTION.contains(&number) {
        StoreError::Contention(format!("error {number}"))
    } else if state.starts_with("22") || REFUSED.contains(&number) {
        // The message may quote the value, so it is left out.
        StoreError::RowRefused(format!("MySQL error {number} (SQLSTATE {state})"))
    } else if DISCONNECTED.contains(&number) {
        StoreError::Disconnected(error.to_string())
    } else {
        StoreError::Unavailable(error.to_string())
    }
}
