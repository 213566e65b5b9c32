//! Checks what is reached over the network besides Kafka: the statistics database and the HTTP server.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use sqlx::mysql::MySqlConnectOptions;

use super::check::within;
use super::problem::{Findings, quoted};
use super::raw::{RawHttp, RawStats};
use super::secret::{MASK, Secret, masked_url};
use super::settings::{HttpSettings, StatsSettings};

const URL_ACCEPTED: &str = "mysql://user@host:port/database";

pub(super) fn stats(raw: &mut RawStats, findings: &mut Findings) -> StatsSettings {
    let url = Secret::new(raw.url.clone());
    let url_has_password = raw.enabled && check_url(&raw.url, findings);
    let password = secret("stats.password", &mut raw.password, &mut raw.password_file, findings);
    if url_has_password && password.is_some() {
        let reason = "a password is given in the URL and as a key of its own";
        findings.refuse_because("stats.url", quoted(&masked_url(&raw.url)), reason, "one of the two");
    }
    let allowed = Duration::from_millis(10)..=Duration::from_secs(3_600);
    let flush_interval = within("stats.flush_interval", &raw.flush_interval, allowed, "from 10ms to 1h", findings);
    if !(1..=10_000).contains(&raw.batch_rows) {
        findings.refuse("stats.batch_rows", raw.batch_rows, "a whole number from 1 to 10000");
    }
    if raw.orders && !raw.enabled {
        findings.warn("stats.orders = true has no effect while stats.enabled = false");
    }
    raw.url = masked_url(&raw.url);
    StatsSettings {
        enabled: raw.enabled,
        url,
        password,
        flush_interval,
        batch_rows: usize::try_from(raw.batch_rows).unwrap_or(usize::MAX),
        migrate: raw.migrate,
        orders: raw.enabled && raw.orders,
    }
}

/// Whether the URL holds a password, once it is known to be one.
fn check_url(url: &str, findings: &mut Findings) -> bool {
    let shown = quoted(&masked_url(url));
    if !url.starts_with("mysql://") {
        findings.refuse("stats.url", shown, URL_ACCEPTED);
        return false;
    }
    match MySqlConnectOptions::from_str(url) {
        Ok(options) if options.get_database().is_none() => {
            findings.refuse_because("stats.url", shown, "it names no database", URL_ACCEPTED);
        }
        Ok(_) => {}
        // The host and port of a URL that cannot be read may be parts of a password with separators in it.
        Err(error) => {
            let shown = if url.contains('@') { shown } else { MASK.to_owned() };
            findings.refuse_because("stats.url", shown, &error.to_string(), URL_ACCEPTED);
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
