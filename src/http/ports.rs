//! What the pages need of the engine beyond the status board. Each part is set once, when the engine has it; before that,
//! and in modes that never have it, the pages that need it say so.

use std::sync::{Arc, OnceLock};

use crate::log::{AlertFeeds, Ingest};

/// Shared between the HTTP server, which asks, and the start of the engine, which fills it in.
#[derive(Clone, Default)]
pub struct Ports {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    ingest: OnceLock<Arc<dyn Ingest>>,
    alerts: OnceLock<Arc<dyn AlertFeeds>>,
}

impl Ports {
    /// The log takes transactions over HTTP: embedded mode only.
    pub fn set_ingest(&self, ingest: Arc<dyn Ingest>) {
        let _ = self.inner.ingest.set(ingest);
    }

    #[must_use]
    pub fn ingest(&self) -> Option<&Arc<dyn Ingest>> {
        self.inner.ingest.get()
    }

    /// Committed alerts can be read.
    pub fn set_alerts(&self, alerts: Arc<dyn AlertFeeds>) {
        let _ = self.inner.alerts.set(alerts);
    }

    #[must_use]
    pub fn alerts(&self) -> Option<&Arc<dyn AlertFeeds>> {
        self.inner.alerts.get()
    }
}
