//! What the demo says: alerts in plain words as fast as a person can read, and how it stands. A terminal gets one line
//! that is redrawn, anything else plain lines.

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use humantime::format_duration;
use indicatif::{ProgressBar, ProgressStyle};

use super::engine::Engine;
use super::{Counters, DemoArgs};
use crate::cli::alerts::AlertText;
use crate::clock::monotonic_now;
use crate::log::embedded::ViewFeeds;
use crate::log::{AlertFeed, AlertFeeds};

/// Alerts that a person can follow.
const ALERTS_PER_SECOND: u32 = 5;
const PLAIN_EVERY: Duration = Duration::from_secs(5);

pub struct Narration {
    bar: ProgressBar,
    is_terminal: bool,
    counters: Arc<Counters>,
    feeds: ViewFeeds,
    feed: Option<Box<dyn AlertFeed>>,
    began: Instant,
    second: Instant,
    shown: u32,
    held_back: u64,
    next_status: Instant,
}

impl Narration {
    pub fn begin(dir: &Path, listen: SocketAddr, args: &DemoArgs, counters: Arc<Counters>) -> Self {
        let is_terminal = std::io::stderr().is_terminal() && std::io::stdout().is_terminal();
        let bar = if is_terminal { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
            bar.set_style(style);
        }
        let now = monotonic_now();
        let narration = Self {
            bar,
            is_terminal,
            counters,
            feeds: ViewFeeds(dir.join("state").join("log")),
            feed: None,
            began: now,
            second: now,
            shown: 0,
            held_back: 0,
            next_status: now,
        };
        let end = match args.for_how_long {
            Some(duration) => format!("for {}", format_duration(duration)),
            None => "until Ctrl-C".to_owned(),
        };
        let crashes = match args.crash_every {
            Some(every) => format!("; the engine is killed every {}", format_duration(every)),
            None => String::new(),
        };
        narration.say("no broker and no database server: an embedded log and SQLite, exactly once");
        narration.say(&format!(
            "{} transactions a second of {} users, {end}{crashes}; more than 10 of a user within a minute raise an alert",
            args.rate, args.users
        ));
        narration.say(&format!("dashboard: http://{listen}/"));
        narration.say(&format!("files, and the engine's own messages (engine.log): {}", dir.display()));
        narration
    }

    /// One line.
    pub fn say(&self, text: &str) {
        self.line(&format!("demo: {text}"));
    }

    fn line(&self, text: &str) {
        if self.is_terminal {
            self.bar.println(text);
        } else {
            // Nobody may be reading any more: the demo goes on to its end.
            let _ = writeln!(std::io::stdout(), "{text}");
        }
    }

    pub fn engine_is_ready(&mut self, after: Duration) {
        let after = Duration::from_millis(u64::try_from(after.as_millis()).unwrap_or(0));
        self.say(&format!("the engine is ready after {}", format_duration(after)));
        self.began = monotonic_now();
    }

    pub fn turn(&mut self, engine: &Engine) {
        self.alerts(Duration::ZERO);
        if self.second.elapsed() >= Duration::from_secs(1) {
            self.second = monotonic_now();
            self.shown = 0;
            if self.held_back > 0 {
                let more = std::mem::take(&mut self.held_back);
                self.line(&format!("         … and {more} more alerts"));
            }
        }
        if monotonic_now() >= self.next_status {
            self.next_status = monotonic_now() + if self.is_terminal { Duration::from_secs(1) } else { PLAIN_EVERY };
            self.status(engine);
        }
    }

    /// What came since the last turn; no longer held back.
    pub fn last_alerts(&mut self) {
        self.alerts(Duration::from_millis(200));
    }

    fn alerts(&mut self, wait: Duration) {
        if self.feed.is_none() {
            self.feed = self.feeds.open(Some(0)).ok();
        }
        let Some(feed) = &mut self.feed else { return };
        // The engine may be away at this moment; the next turn looks again.
        let Ok(alerts) = feed.next(wait) else { return };
        for alert in alerts {
            self.counters.alerts.fetch_add(1, Ordering::Relaxed);
            if self.shown >= ALERTS_PER_SECOND {
                self.held_back += 1;
                continue;
            }
            self.shown += 1;
            if let Some(text) = AlertText::read(&alert.value) {
                self.line(&text.line(self.is_terminal));
            }
        }
    }

    fn status(&self, engine: &Engine) {
        let sent = self.counters.sent.load(Ordering::Relaxed);
        let alerts = self.counters.alerts.load(Ordering::Relaxed);
        let elapsed = Duration::from_secs(self.began.elapsed().as_secs());
        let of_engine = match engine.status() {
            Some(status) => {
                let partitions = status["partitions"].as_array().map(Vec::as_slice).unwrap_or_default();
                let lag: u64 = partitions.iter().filter_map(|partition| partition["lag_records"].as_u64()).sum();
                let latency = status["recent"]["alert_latency_p50_ms"].as_u64();
                let latency = latency.map_or_else(String::new, |ms| format!(", alert latency {ms} ms (median)"));
                let headline = status["guarantee"]["headline"].as_str().unwrap_or_default();
                format!("{lag} behind{latency}. {headline}")
            }
            None => "the engine is away".to_owned(),
        };
        let text = format!("{}: {sent} transactions, {alerts} alerts, {of_engine}", format_duration(elapsed));
        if self.is_terminal {
            self.bar.set_message(text);
            self.bar.tick();
        } else {
            self.say(&text);
        }
    }

    pub fn end(&self) {
        self.bar.finish_and_clear();
    }
}
