//! Where the statistics are kept: which database, and how it is reached.

use std::path::PathBuf;
use std::str::FromStr;

use sqlx::mysql::MySqlConnectOptions;

/// What [`Target::from_str`] takes.
pub const TARGET_ACCEPTED: &str = "mysql://user@host:port/database, or sqlite:path/of/a/file";

const MYSQL: &str = "mysql://";
const SQLITE: &str = "sqlite:";

/// A database. Not `Debug`: the options would print the password.
#[derive(Clone)]
pub enum Target {
    /// MySQL or MariaDB, with the password and the TLS options.
    MySql(Box<MySqlConnectOptions>),
    /// A file of this machine.
    Sqlite(PathBuf),
}

impl Target {
    /// Whether the URL names a file; nothing in it is a secret then.
    #[must_use]
    pub fn is_sqlite_url(url: &str) -> bool {
        url.starts_with(SQLITE)
    }

    /// The same with a password, which a file has no use for.
    #[must_use]
    pub fn with_password(self, password: &str) -> Self {
        match self {
            Self::MySql(options) => Self::MySql(Box::new(options.password(password))),
            Self::Sqlite(path) => Self::Sqlite(path),
        }
    }
}

impl FromStr for Target {
    /// The reason in words, without the URL. `None` when it is no URL of a database that we know.
    type Err = Option<String>;

    fn from_str(url: &str) -> Result<Self, Self::Err> {
        if let Some(rest) = url.strip_prefix(SQLITE) {
            return file(rest).map(Self::Sqlite).map_err(|reason| Some(reason.to_owned()));
        }
        if !url.starts_with(MYSQL) {
            return Err(None);
        }
        match MySqlConnectOptions::from_str(url) {
            Ok(options) if options.get_database().is_none() => Err(Some("it names no database".to_owned())),
            Ok(options) => Ok(Self::MySql(Box::new(options))),
            Err(error) => Err(Some(error.to_string())),
        }
    }
}

/// What follows `sqlite:`, with or without two slashes, is the path as it is: nothing in it is decoded.
fn file(rest: &str) -> Result<PathBuf, &'static str> {
    let path = rest.strip_prefix("//").unwrap_or(rest);
    if path.is_empty() || path.ends_with('/') {
        return Err("it names no file");
    }
    if path.contains(":memory:") {
        return Err("statistics in memory would be lost with the process, while the log counts them as written");
    }
    if path.contains(['?', '\0']) {
        return Err("options are not taken");
    }
    Ok(PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_named_with_or_without_slashes() {
        for (url, path) in [
            ("sqlite:state/statistics.sqlite", "state/statistics.sqlite"),
            ("sqlite://state/a b%20c.sqlite", "state/a b%20c.sqlite"),
            ("sqlite:/var/lib/s.sqlite", "/var/lib/s.sqlite"),
            ("sqlite:///var/lib/s.sqlite", "/var/lib/s.sqlite"),
        ] {
            let Ok(Target::Sqlite(found)) = url.parse() else { panic!("{url}") };
            assert_eq!(found, PathBuf::from(path));
        }
        for url in ["sqlite:", "sqlite://", "sqlite:state/", "sqlite::memory:", "sqlite:s?mode=ro", "sqlite:\0"] {
            assert!(url.parse::<Target>().is_err_and(|reason| reason.is_some()), "{url}");
        }
        assert!("postgres://u@h/d".parse::<Target>().is_err_and(|reason| reason.is_none()));
    }
}
