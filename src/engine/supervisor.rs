//! One place decides that the process leaves: the first reason given is the one that counts.
//!
//! Every part holds a handle. A part that cannot go on says so here and stops; the process then ends as a whole, with
//! the exit code of that reason, never half alive. A restart is always safe: the log knows what took effect.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::cli::exit::Exit;

/// Why the process leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leave {
    pub exit: Exit,
    pub reason: String,
}

/// See the module head.
#[derive(Clone)]
pub struct Supervisor {
    first: Arc<Mutex<Option<Leave>>>,
    changed: Arc<watch::Sender<bool>>,
}

impl Supervisor {
    #[must_use]
    pub fn new() -> Self {
        Self { first: Arc::new(Mutex::new(None)), changed: Arc::new(watch::channel(false).0) }
    }

    /// Asks the process to leave with this code. Only the first call has an effect.
    pub fn leave(&self, exit: Exit, reason: impl Into<String>) {
        let mut first = self.first.lock();
        if first.is_none() {
            *first = Some(Leave { exit, reason: reason.into() });
            self.changed.send_replace(true);
        }
    }

    /// A part broke in a way that nobody foresaw.
    pub fn fail(&self, reason: impl Into<String>) {
        self.leave(Exit::Failed, reason);
    }

    #[must_use]
    pub fn is_leaving(&self) -> bool {
        *self.changed.borrow()
    }

    #[must_use]
    pub fn reason(&self) -> Option<Leave> {
        self.first.lock().clone()
    }

    /// Waits until somebody asked to leave.
    pub async fn wait(&self) -> Leave {
        let mut changes = self.changed.subscribe();
        loop {
            if let Some(leave) = self.reason() {
                return leave;
            }
            // The sender lives in `self`: it cannot be gone.
            let _ = changes.changed().await;
        }
    }
}

impl Default for Supervisor {
    fn default() -> Self {
        Self::new()
    }
}
