//! Checks what is reached over the network besides Kafka: the statistics database and the HTTP server.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use super::check::within;
use super::problem::{Findings, quoted};
use super::raw::{RawHttp, RawStats};
use super::secret::{MASK, Secret, masked_url};
use super::settings::{HttpSettings, SourceKind, StatsSettings};
use crate::stats::{TARGET_ACCEPTED, Target};

/// Where the statistics of a Kafka topic go by default.
const MYSQL_DEFAULT: &str = "mysql://tallyguard@127.0.0.1:3306/tallyguard";
/// The file in `instance.state_dir` that holds the statistics of an embedded log by default.
const SQLITE_DEFAULT: &str = "statistics.sqlite";
const MYSQL_ACCEPTED: &str = "mysql://user@host:port/database";

pub(super) fn stats(
    raw: &mut RawStats,
    source: SourceKind,
    state_dir: &Path,
    findings: &mut Findings,
) -> StatsSettings {
    let url = raw.url.take().unwrap_or_else(|| match source {
        SourceKind::Kafka => MYSQL_DEFAULT.to_owned(),
        SourceKind::Embedded => format!("sqlite:{}", state_dir.join(SQLITE_DEFAULT).display()),
    });
    let url_has_password = raw.enabled && check_url(&url, source, findings);
    let password = secret("stats.password", &mut raw.password, &mut raw.password_file, findings);
    if url_has_password && password.is_some() {
        let reason = "a password is given in the URL and as a key of its own";
        findings.refuse_because("stats.url", quoted(&masked_url(&url)), reason, "one of the two");
    }
    if raw.enabled && Target::is_sqlite_url(&url) && password.is_some() {
        findings.refuse_because("stats.password", MASK, "a file of SQLite has no password", "none, or a mysql:// URL");
    }
    let allowed = Duration::from_millis(10)..=Duration::from_secs(3_600);
    let flush_interval = within("stats.flush_interval", &raw.flush_interval, allowed, "from 10ms to 1h", findings);
    if !(1..=10_000).contains(&raw.batch_rows) {
        findings.refuse("stats.batch_rows", raw.batch_rows, "a whole number from 1 to 10000");
    }
    if raw.orders && !raw.enabled {
        findings.warn("stats.orders = true has no effect while stats.enabled = false");
    }
    raw.url = Some(masked_url(&url));
    StatsSettings {
        enabled: raw.enabled,
        url: Secret::new(url),
        password,
        flush_interval,
        batch_rows: usize::try_from(raw.batch_rows).unwrap_or(usize::MAX),
        migrate: raw.migrate,
        orders: raw.enabled && raw.orders,
    }
}

/// Whether the URL holds a password, once it is known to be one.
fn check_url(url: &str, source: SourceKind, findings: &mut Findings) -> bool {
    let shown = quoted(&masked_url(url));
    let accepted = match source {
        SourceKind::Kafka => MYSQL_ACCEPTED,
        SourceKind::Embedded => TARGET_ACCEPTED,
    };
    match url.parse() {
        Ok(Target::Sqlite(_)) if source == SourceKind::Kafka => {
            let reason = "the instances of a group could not share a file; SQLite goes with source.kind = \"embedded\"";
            findings.refuse_because("stats.url", shown, reason, accepted);
        }
        Ok(_) => {}
        Err(None) => {
            findings.refuse("stats.url", shown, accepted);
            return false;
        }
        // The host and port of a URL that cannot be read may be parts of a password with separators in it.
        Err(Some(reason)) => {
            let readable = url.contains('@') || Target::is_sqlite_url(url) || reason == "it names no database";
            let shown = if readable { shown } else { MASK.to_owned() };
            findings.refuse_because("stats.url", shown, &reason, accepted);
        }
    }
    masked_url(url) != url
}

pub(super) fn http(raw: &mut RawHttp, findings: &mut Findings) -> HttpSettings {
    let listen = SocketAddr::from_str(&raw.listen).unwrap_or_else(|_| {
        let accepted = "an address and port, such as 127.0.0.1:8088 or [::]:8088";
        findings.refuse("http.listen", quoted(&raw.listen), accepted);
        SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
    });
    let key = if raw.admin_token_file.is_empty() { "http.admin_token" } else { "http.admin_token_file" };
    let admin_token = secret("http.admin_token", &mut raw.admin_token, &mut raw.admin_token_file, findings);
    if admin_token.as_ref().is_some_and(|token| !token.expose().bytes().all(|byte| byte.is_ascii_graphic())) {
        findings.refuse(key, MASK, "a token of visible ASCII characters without blanks");
    }
    HttpSettings { listen, admin_token }
}

/// A secret given as a key or in a file, not both; an empty one counts as not given.
fn secret(key: &str, inline: &mut Option<Secret>, file: &mut String, findings: &mut Findings) -> Option<Secret> {
    *inline = inline.take().filter(|secret| !secret.is_empty());
    let file_key = format!("{key}_file");
    if file.is_empty() {
        return inline.clone();
    }
    if inline.is_some() {
        let accepted = format!("either {key} or {file_key}, not both");
        findings.refuse_because(&file_key, quoted(file), "the secret is given twice", accepted);
        return None;
    }
    match Secret::from_file(Path::new(file)) {
        Ok(secret) => Some(secret),
        Err(accepted) => {
            findings.refuse(&file_key, quoted(file), accepted);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(url: Option<&str>, source: SourceKind) -> (StatsSettings, RawStats, Findings) {
        let mut raw = RawStats { url: url.map(str::to_owned), ..RawStats::default() };
        let mut findings = Findings::default();
        let settings = stats(&mut raw, source, Path::new("/var/lib/state"), &mut findings);
        (settings, raw, findings)
    }

    #[test]
    fn an_embedded_log_keeps_its_statistics_in_its_state_directory_unless_told_otherwise() {
        for (url, shown) in [
            (None, "sqlite:/var/lib/state/statistics.sqlite"),
            (Some("sqlite:elsewhere.sqlite"), "sqlite:elsewhere.sqlite"),
            (Some("mysql://u:hunter2@h/d"), "mysql://u:***@h/d"),
        ] {
            let (settings, raw, findings) = checked(url, SourceKind::Embedded);
            assert!(findings.problems.is_empty(), "{url:?}");
            assert_eq!(raw.url.as_deref(), Some(shown));
            let target = settings.connect_options().unwrap();
            assert_eq!(matches!(target, Target::Sqlite(_)), shown.starts_with("sqlite:"), "{url:?}");
        }
        let (_, raw, findings) = checked(None, SourceKind::Kafka);
        assert!(findings.problems.is_empty());
        assert_eq!(raw.url.as_deref(), Some(MYSQL_DEFAULT));
    }

    #[test]
    fn a_url_of_sqlite_that_loses_statistics_is_refused() {
        for (url, source, reason) in [
            ("sqlite:statistics.sqlite", SourceKind::Kafka, "could not share a file"),
            ("sqlite::memory:", SourceKind::Embedded, "would be lost"),
            ("sqlite:", SourceKind::Embedded, "names no file"),
        ] {
            let (_, _, findings) = checked(Some(url), source);
            let [problem] = findings.problems.as_slice() else { panic!("{url}") };
            let problem = problem.to_string();
            assert!(problem.contains("stats.url") && problem.contains(url) && problem.contains(reason), "{problem}");
        }
    }
}
