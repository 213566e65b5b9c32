//! One reading of the alert topic for all clients: the newest alerts in a ring, and everything new to whoever listens.
//!
//! Promises: alerts are those that are committed, in the order in which they were read, each once; however many clients
//! there are and however slow they read, the topic is read once and memory is bounded. The thread starts with the first
//! request that needs it. Needs [`Ports::alerts`]. It must never hold up the engine: it has a client of its own.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, watch};

use crate::http::ports::Ports;
use crate::log::{AlertFeed, AlertFeeds, CommittedAlert};

/// Alerts that are kept for those who come later.
pub const KEPT_MAX: usize = 1_000;
/// Alerts that a listener may be behind before it is told that it missed some.
const BEHIND_MAX: usize = 1_000;
/// Clients that may listen at the same time.
pub const LISTENERS_MAX: usize = 64;
const WAIT: Duration = Duration::from_secs(1);
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// How far the reading is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    /// What was there is being read.
    Beginning,
    /// What was there is read; new alerts come as they are committed.
    Live,
    /// It does not work at the moment, and is tried again.
    Failing(String),
}

/// See the module head. A clone is another handle to the same hub.
#[derive(Clone)]
pub struct AlertHub {
    shared: Arc<Shared>,
}

struct Shared {
    ports: Ports,
    started: AtomicBool,
    ring: Mutex<Ring>,
    reading: watch::Sender<Reading>,
    listeners: Arc<Semaphore>,
}

struct Ring {
    /// Oldest first.
    kept: VecDeque<Arc<CommittedAlert>>,
    news: broadcast::Sender<Arc<CommittedAlert>>,
}

/// A listener's place: what it has to catch up with, what comes then, and its permit, given back when it is dropped.
pub struct Listener {
    pub backlog: Vec<Arc<CommittedAlert>>,
    /// Alerts between what the listener had last and the backlog are not known any more.
    pub is_gap: bool,
    pub news: broadcast::Receiver<Arc<CommittedAlert>>,
    pub permit: OwnedSemaphorePermit,
}

impl AlertHub {
    #[must_use]
    pub fn new(ports: Ports) -> Self {
        let ring = Ring { kept: VecDeque::new(), news: broadcast::channel(BEHIND_MAX).0 };
        let shared = Shared {
            ports,
            started: AtomicBool::new(false),
            ring: Mutex::new(ring),
            reading: watch::channel(Reading::Beginning).0,
            listeners: Arc::new(Semaphore::new(LISTENERS_MAX)),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Starts the reading unless it runs; false when the log is not open yet.
    pub fn start(&self) -> bool {
        let Some(feeds) = self.shared.ports.alerts() else { return false };
        if self.shared.started.swap(true, Ordering::SeqCst) {
            return true;
        }
        let (shared, feeds) = (Arc::downgrade(&self.shared), Arc::clone(feeds));
        let is_alive = move || shared.upgrade();
        let thread = std::thread::Builder::new().name("tallyguard-alerts".to_owned());
        if let Err(error) = thread.spawn(move || read(feeds.as_ref(), is_alive)) {
            tracing::warn!("no thread to read alerts for the pages: {error}");
            self.shared.started.store(false, Ordering::SeqCst);
            return false;
        }
        true
    }

    /// How far the reading is, to be looked at and waited for.
    #[must_use]
    pub fn reading(&self) -> watch::Receiver<Reading> {
        self.shared.reading.subscribe()
    }

    /// The newest alerts, newest first.
    #[must_use]
    pub fn newest(&self, limit: usize) -> Vec<Arc<CommittedAlert>> {
        self.shared.ring.lock().kept.iter().rev().take(limit).cloned().collect()
    }

    /// A place from which to listen: behind the alert at `after` (partition, offset), or, when nothing was had before,
    /// from now on. `None` when there are as many listeners as there may be.
    #[must_use]
    pub fn listen(&self, after: Option<(i32, i64)>) -> Option<Listener> {
        let permit = Arc::clone(&self.shared.listeners).try_acquire_owned().ok()?;
        let ring = self.shared.ring.lock();
        // Under the lock: nothing is published between the look and the subscription.
        let news = ring.news.subscribe();
        let (backlog, is_gap) = match after {
            None => (Vec::new(), false),
            Some(after) => {
                let known = ring.kept.iter().position(|alert| (alert.partition, alert.offset) == after);
                let from = known.map_or(0, |at| at + 1);
                (ring.kept.iter().skip(from).cloned().collect(), known.is_none())
            }
        };
        Some(Listener { backlog, is_gap, news, permit })
    }
}

impl Shared {
    fn publish(&self, alerts: Vec<CommittedAlert>) {
        let mut ring = self.ring.lock();
        for alert in alerts.into_iter().map(Arc::new) {
            if ring.kept.len() == KEPT_MAX {
                ring.kept.pop_front();
            }
            ring.kept.push_back(Arc::clone(&alert));
            // Without listeners there is nobody to tell.
            let _ = ring.news.send(alert);
        }
    }

    fn say(&self, reading: Reading) {
        self.reading.send_if_modified(|now| {
            let is_new = *now != reading;
            *now = reading;
            is_new
        });
    }
}

/// Reads until the hub is gone.
fn read(feeds: &dyn AlertFeeds, is_alive: impl Fn() -> Option<Arc<Shared>>) {
    let mut feed: Option<Box<dyn AlertFeed>> = None;
    while let Some(shared) = is_alive() {
        let outcome = match &mut feed {
            None => begin(feeds, &shared).map(|opened| feed = Some(opened)),
            Some(feed) => {
                let news = feed.next(WAIT);
                news.map(|alerts| shared.publish(alerts))
            }
        };
        match outcome {
            Ok(()) => shared.say(Reading::Live),
            Err(why) => {
                if *shared.reading.borrow() != Reading::Failing(why.clone()) {
                    tracing::warn!("alerts for the pages cannot be read: {why}; trying again");
                }
                shared.say(Reading::Failing(why));
                drop(shared);
                std::thread::sleep(RETRY_PAUSE);
            }
        }
    }
}

/// Reads what is there. Partitions come one after the other, so it is put in order of time before anybody sees it.
fn begin(feeds: &dyn AlertFeeds, shared: &Shared) -> Result<Box<dyn AlertFeed>, String> {
    let mut feed = feeds.open(Some(KEPT_MAX))?;
    let mut found = Vec::new();
    loop {
        let more = feed.next(Duration::ZERO)?;
        if more.is_empty() {
            break;
        }
        found.extend(more);
    }
    found.sort_by_key(|alert| (alert.timestamp_ms, alert.partition, alert.offset));
    let surplus = found.len().saturating_sub(KEPT_MAX);
    shared.publish(found.split_off(surplus));
    Ok(feed)
}
