//! One behaviour, two databases: a test is a function of an empty database, and runs on each.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{Connection, Row};
use tallyguard::stats::{StatsOptions, Target};
use tempfile::TempDir;

use crate::fixture::{options_for, options_to, schema_name};
use crate::support::{Schema, block_on, shared_database};

/// Makes two tests of each function, `mariadb::name` and `sqlite::name`.
macro_rules! on_both {
    ($($test:ident),* $(,)?) => {
        mod mariadb {
            $(#[test] fn $test() { super::$test(&crate::both::OnBoth::mariadb()); })*
        }
        mod sqlite {
            $(#[test] fn $test() { super::$test(&crate::both::OnBoth::sqlite()); })*
        }
    };
}
pub(crate) use on_both;

/// An empty database, and a client of the test's own.
pub struct OnBoth {
    inner: RefCell<Inner>,
}

enum Inner {
    MariaDb(Schema),
    Sqlite(SqliteFile),
}

impl OnBoth {
    pub fn mariadb() -> Self {
        Self { inner: RefCell::new(Inner::MariaDb(new_schema())) }
    }

    pub fn sqlite() -> Self {
        Self { inner: RefCell::new(Inner::Sqlite(SqliteFile::new())) }
    }

    /// Another empty database in place of this one.
    pub fn renew(&self) {
        let renewed = match &*self.inner.borrow() {
            Inner::MariaDb(_) => Inner::MariaDb(new_schema()),
            Inner::Sqlite(_) => Inner::Sqlite(SqliteFile::new()),
        };
        *self.inner.borrow_mut() = renewed;
    }

    pub fn options(&self) -> StatsOptions {
        match &*self.inner.borrow() {
            Inner::MariaDb(schema) => options_for(schema),
            Inner::Sqlite(file) => file.options(),
        }
    }

    /// The rows as text.
    pub fn texts(&self, sql: &str) -> Vec<Vec<String>> {
        match &*self.inner.borrow() {
            Inner::MariaDb(schema) => {
                let rows = shared_database().query_in(&schema.name, sql);
                let text = |text: Option<String>| text.unwrap_or("NULL".to_owned());
                rows.into_iter().map(|row| row.into_iter().map(text).collect()).collect()
            }
            Inner::Sqlite(file) => file.texts(sql),
        }
    }

    pub fn run(&self, sql: &str) {
        self.texts(sql);
    }

    /// Tables and views.
    pub fn tables(&self) -> Vec<String> {
        let sql = self.spelled("SHOW TABLES", "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view')");
        self.texts(&sql).concat()
    }

    pub fn migrations(&self) -> [&'static str; 3] {
        match &*self.inner.borrow() {
            Inner::MariaDb(_) => [
                include_str!("../../schemas/mysql/0001_order_statistics.sql"),
                include_str!("../../schemas/mysql/0002_orders.sql"),
                include_str!("../../schemas/mysql/0003_reconciliation.sql"),
            ],
            Inner::Sqlite(_) => [
                include_str!("../../schemas/sqlite/0001_order_statistics.sql"),
                include_str!("../../schemas/sqlite/0002_orders.sql"),
                include_str!("../../schemas/sqlite/0003_reconciliation.sql"),
            ],
        }
    }

    pub fn now(&self) -> String {
        self.spelled("UTC_TIMESTAMP(3)", "strftime('%Y-%m-%d %H:%M:%f', 'now')")
    }

    /// The largest `amount_minor` that one row takes.
    pub fn largest_sum(&self) -> i128 {
        match &*self.inner.borrow() {
            Inner::MariaDb(_) => 12_345_678_901_234_567_890_123_456_789_012_345_678,
            Inner::Sqlite(_) => i128::from(i64::MAX),
        }
    }

    pub fn spelled(&self, mariadb: &str, sqlite: &str) -> String {
        match &*self.inner.borrow() {
            Inner::MariaDb(_) => mariadb.to_owned(),
            Inner::Sqlite(_) => sqlite.to_owned(),
        }
    }
}

fn new_schema() -> Schema {
    shared_database().create_schema(&schema_name())
}

/// The path of a file that is not there yet, in a directory of its own.
pub struct SqliteFile {
    dir: TempDir,
}

impl SqliteFile {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a directory") }
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("statistics.sqlite")
    }

    pub fn options(&self) -> StatsOptions {
        options_to(Target::Sqlite(self.path()))
    }

    /// Runs statements as another process would; creates the file if need be.
    pub fn texts(&self, sql: &str) -> Vec<Vec<String>> {
        block_on(async {
            let mut connection = open(&self.path()).await;
            let rows = sqlx::raw_sql(sql).fetch_all(&mut connection).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
            connection.close().await.expect("closed");
            let text = |row: &sqlx::sqlite::SqliteRow, column| {
                let text: Option<String> = row.try_get_unchecked(column).expect("text");
                text.unwrap_or("NULL".to_owned())
            };
            rows.iter().map(|row| (0..row.len()).map(|column| text(row, column)).collect()).collect()
        })
    }
}

pub async fn open(path: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
    SqliteConnection::connect_with(&options).await.expect("the file opens")
}
