//! A real MariaDB server for a test or a test binary. `scripts/database.sh` is its recipe.

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use sqlx::mysql::{MySqlConnectOptions, MySqlConnection};
use sqlx::{Connection, Row};

use super::block_on;
use super::process::{GuardedChild, GuardedDir, free_port, script, tail};
use super::wait::wait_until_or_show;

/// The service's account; `scripts/database.sh` creates it with these.
pub const USER: &str = "tallyguard";
pub const PASSWORD: &str = "tallyguard";

/// One server with data of its own; dropping it kills it and removes its data.
pub struct Database {
    // The order matters: the process ends before its directory is removed.
    process: Mutex<Option<GuardedChild>>,
    dir: GuardedDir,
    port: u16,
    options: &'static [&'static str],
}

/// An empty schema for one test.
#[derive(Debug, Clone)]
pub struct Schema {
    pub name: String,
    /// Without the password, as in the configuration's `stats.url`.
    pub url: String,
    /// With the password, for a client of the test's own.
    pub url_with_password: String,
}

impl Database {
    /// Starts a server with no data and waits until it serves.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with options of the server, which come last and so win.
    pub fn start_with(options: &'static [&'static str]) -> Self {
        install_mariadb_when_missing();
        let dir = GuardedDir::new("tallyguard-mariadb-");
        let database = Self { process: Mutex::new(None), dir, port: free_port(), options };
        database.start_again();
        database
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn process_id(&self) -> u32 {
        self.process().as_ref().expect("the database runs").id()
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().to_path_buf()
    }

    /// Creates a schema that the account `tallyguard` may do everything in.
    pub fn create_schema(&self, name: &str) -> Schema {
        let port = self.port;
        self.query(&format!("CREATE DATABASE `{name}`"));
        Schema {
            name: name.to_owned(),
            url: format!("mysql://{USER}@127.0.0.1:{port}/{name}"),
            url_with_password: format!("mysql://{USER}:{PASSWORD}@127.0.0.1:{port}/{name}"),
        }
    }

    /// Ends the server in order.
    pub fn stop(&self) {
        let mut process = self.process().take().expect("the database runs");
        process.signal(libc::SIGTERM);
        assert!(process.wait(Duration::from_secs(60)).is_some(), "the database did not stop\n{}", self.log());
    }

    /// SIGKILL; what it had committed stays.
    pub fn kill9(&self) {
        self.process().take().expect("the database runs").kill9();
    }

    /// Freezes the server: connections stay open, and nothing answers, until `sigcont`.
    pub fn sigstop(&self) {
        self.process().as_mut().expect("the database runs").signal(libc::SIGSTOP);
    }

    pub fn sigcont(&self) {
        self.process().as_mut().expect("the database runs").signal(libc::SIGCONT);
    }

    /// Starts it on the same data and the same port.
    pub fn start_again(&self) {
        let mut command = Command::new(script("database.sh"));
        command.arg(self.dir.path()).arg(self.port.to_string()).args(self.options);
        *self.process() = Some(GuardedChild::spawn(&mut command, &self.log_path()));
        let service_account =
            MySqlConnectOptions::new().host("127.0.0.1").port(self.port).username(USER).password(PASSWORD);
        wait_until_or_show(
            Duration::from_secs(90),
            "the database answers",
            || self.log(),
            || {
                let running = self.process().as_mut().is_some_and(GuardedChild::is_running);
                assert!(running, "the database ended while it started\n{}", self.log());
                block_on(MySqlConnection::connect_with(&service_account)).is_ok()
            },
        );
    }

    /// Runs statements as the server's administrator, outside of any schema: tables are named `schema.table`. Returns
    /// the rows as text; `NULL` is `None`.
    pub fn query(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        self.run(None, sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// The same within a schema.
    pub fn query_in(&self, schema: &str, sql: &str) -> Vec<Vec<Option<String>>> {
        self.try_query_in(schema, sql).unwrap_or_else(|error| panic!("in {schema}: {sql}: {error}"))
    }

    /// The same for statements that may fail, e.g. on a table that does not exist yet.
    pub fn try_query_in(&self, schema: &str, sql: &str) -> Result<Vec<Vec<Option<String>>>, sqlx::Error> {
        self.run(Some(schema), sql)
    }

    pub fn log(&self) -> String {
        tail(&self.log_path(), 60)
    }

    fn run(&self, schema: Option<&str>, sql: &str) -> Result<Vec<Vec<Option<String>>>, sqlx::Error> {
        let mut options = MySqlConnectOptions::new().socket(self.dir.path().join("mariadb.sock")).username("root");
        if let Some(schema) = schema {
            options = options.database(schema);
        }
        block_on(async {
            let mut connection = MySqlConnection::connect_with(&options).await?;
            let rows = sqlx::raw_sql(sql).fetch_all(&mut connection).await?;
            connection.close().await?;
            // Unprepared statements are answered in the text protocol: every value arrives as its text.
            rows.iter()
                .map(|row| {
                    (0..row.len())
                        .map(|column| {
                            let bytes: Option<Vec<u8>> = row.try_get_unchecked(column)?;
                            Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
                        })
                        .collect()
                })
                .collect()
        })
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("mariadb.log")
    }

    fn process(&self) -> MutexGuard<'_, Option<GuardedChild>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The server that all tests of one test binary share, each with a schema of its own. Tests that stop the server start
/// their own.
pub fn shared_database() -> &'static Database {
    static DATABASE: OnceLock<Database> = OnceLock::new();
    DATABASE.get_or_init(Database::start)
}

/// `make test` has installed it already; this is for a plain `cargo test`.
fn install_mariadb_when_missing() {
    static INSTALLED: OnceLock<()> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        let output = Command::new(script("install.sh")).arg("mariadb").output().expect("scripts/install.sh runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    });
}
