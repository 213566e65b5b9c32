//! The way into an embedded log for commands: through the service that holds it, or directly when none runs.
//!
//! A batch whose answer was lost is sent again. That is safe: a transaction id counts once within its window.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Deserialize;

use crate::clock::{monotonic_now, wall_clock_ms};
use crate::config::Settings;
use crate::domain::duration::Millis;
use crate::http::{Accepts, Body, append_lines};
use crate::log::Ingest;
use crate::log::embedded::{EmbeddedError, EmbeddedStore};

const REQUEST_PATIENCE: Duration = Duration::from_secs(30);
const BACK_OFF: Duration = Duration::from_millis(100);

/// What became of one line of a batch.
#[derive(Debug, Clone, Deserialize)]
pub struct LineResult {
    /// Within its batch, from 1 on.
    pub line: usize,
    pub result: String,
    pub code: Option<String>,
    pub message: Option<String>,
    /// Where it stands in the log, when it is there.
    pub partition: Option<i32>,
    pub offset: Option<i64>,
}

impl LineResult {
    /// It is in the log as a valid transaction.
    #[must_use]
    pub fn is_accepted(&self) -> bool {
        self.result == "accepted"
    }
}

/// See the module head.
pub enum Intake {
    Direct {
        store: Arc<EmbeddedStore>,
        max_future_skew: Millis,
    },
    Service {
        agent: ureq::Agent,
        url: String,
        token: String,
        /// The log behind it, to be opened when whoever held it is gone and no service came.
        log: Option<EmbeddedPlace>,
    },
}

/// An embedded log that may be opened.
pub struct EmbeddedPlace {
    dir: PathBuf,
    partitions: i32,
    max_future_skew: Millis,
}

impl EmbeddedPlace {
    fn open(&self) -> Result<Intake, EmbeddedError> {
        let store = EmbeddedStore::open(&self.dir, self.partitions)?;
        Ok(Intake::Direct { store: Arc::new(store), max_future_skew: self.max_future_skew })
    }
}

impl Intake {
    /// Opens the log, or finds the service that holds it.
    ///
    /// # Errors
    /// The log cannot be opened; or a service holds it, and this configuration has no token for it.
    pub fn open(settings: &Settings) -> anyhow::Result<Self> {
        let log = EmbeddedPlace {
            dir: settings.embedded.dir.clone(),
            partitions: settings.embedded.partitions,
            max_future_skew: settings.time.max_future_skew,
        };
        match log.open() {
            Ok(direct) => Ok(direct),
            Err(EmbeddedError::InUse { dir, holder }) => {
                let Some(token) = &settings.http.admin_token else {
                    bail!(
                        "the embedded log {} is in use by {holder}, and the way through the service needs \
                         http.admin_token_file",
                        dir.display()
                    );
                };
                let mut service = Self::through(&format!("http://{}", settings.http.listen), token.expose());
                if let Self::Service { log: place, .. } = &mut service {
                    *place = Some(log);
                }
                Ok(service)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Through the service at this address.
    #[must_use]
    pub fn through(service: &str, token: &str) -> Self {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            // The service is on this machine or named in the configuration; a proxy of the environment knows neither, and
            // would see the token.
            .proxy(None)
            .timeout_global(Some(REQUEST_PATIENCE))
            .build()
            .into();
        let url = format!("{service}/api/v1/transactions");
        Self::Service { agent, url, token: format!("Bearer {token}"), log: None }
    }

    /// Takes a batch of lines in; waits for a service that is busy or away until `patience` has passed or `stop` is set.
    ///
    /// # Errors
    /// The log cannot be written, or the service refuses or stayed away: it is unknown then what was taken in.
    pub fn take(
        &mut self,
        lines: &[u8],
        accepts: Accepts,
        patience: Duration,
        stop: &AtomicBool,
    ) -> anyhow::Result<Vec<LineResult>> {
        let (agent, url, token, log) = match self {
            Self::Direct { store, max_future_skew } => {
                let body = Body::read(lines, true).map_err(|problem| anyhow::anyhow!("{problem}"))?;
                let ingest: &dyn Ingest = store.as_ref();
                let results = append_lines(&body, accepts, *max_future_skew, wall_clock_ms(), ingest);
                return parse(&results.map_err(|problem| anyhow::anyhow!("{problem}"))?);
            }
            Self::Service { agent, url, token, log } => (agent, url, token, log),
        };
        let url = if accepts == Accepts::Everything { format!("{url}?invalid=dead-letter") } else { url.clone() };
        let deadline = monotonic_now() + patience;
        loop {
            let sent = agent
                .post(&url)
                .header("authorization", token.as_str())
                .content_type("application/x-ndjson")
                .send(lines)
                .and_then(|mut response| Ok((response.status().as_u16(), response.body_mut().read_to_vec()?)));
            if sent.is_ok() {
                // It is a service: when it goes it comes back, and needs its log then.
                *log = None;
            }
            let is_away =
                matches!(sent, Err(ureq::Error::Io(_) | ureq::Error::ConnectionFailed | ureq::Error::HostNotFound));
            if is_away && let Some(direct) = log.as_ref().and_then(|log| log.open().ok()) {
                // Whoever held the log, another command perhaps, has let go of it. What was sent may be in it already.
                tracing::info!("nobody holds the log any more: it is written directly");
                *self = direct;
                return self.take(lines, accepts, patience, stop);
            }
            let why = match sent {
                Ok((200, results)) => return parse(&results),
                Ok((503 | 408, problem)) => String::from_utf8_lossy(&problem).into_owned(),
                Ok((status, problem)) => bail!("{url} answered {status}: {}", String::from_utf8_lossy(&problem)),
                Err(error) => error.to_string(),
            };
            if monotonic_now() >= deadline || stop.load(Ordering::Relaxed) {
                bail!("{url}: {why}");
            }
            std::thread::sleep(BACK_OFF);
        }
    }
}

fn parse(results: &[u8]) -> anyhow::Result<Vec<LineResult>> {
    let lines = results.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).context("an answer that is not one of this interface")).collect()
}
