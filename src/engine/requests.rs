//! What an operator asks of the running engine: a checkpoint now.
//!
//! A request waits in a bounded queue until the I/O thread comes round, and is answered at once: the answer says that a
//! round has begun, not that it is stored.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::clock;
use crate::engine::hosts::Hosts;
use crate::engine::io::{IoThread, Owned};
use crate::http::{Answering, Checkpoints, NotBegun};
use crate::log::{Doorbell, Log};
use crate::state::{CheckpointInfo, SnapshotStore};

/// More than one operator is rare, and the second one is told that a checkpoint is under way.
const REQUESTS_MAX: usize = 4;
/// A transaction call may keep the I/O thread for seconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// The answer to one request goes here.
pub type CheckpointRequest = oneshot::Sender<Result<(), NotBegun>>;

/// Takes requests from any thread.
pub struct CheckpointDesk {
    state_dir: PathBuf,
    requests: Sender<CheckpointRequest>,
    doorbell: Arc<Doorbell>,
}

impl CheckpointDesk {
    /// A desk for the store in that folder, and the end of its queue for the I/O thread.
    #[must_use]
    pub fn new(state_dir: PathBuf, doorbell: Arc<Doorbell>) -> (Self, Receiver<CheckpointRequest>) {
        let (requests, line) = bounded(REQUESTS_MAX);
        (Self { state_dir, requests, doorbell }, line)
    }
}

impl Checkpoints for CheckpointDesk {
    fn list(&self) -> Result<Vec<CheckpointInfo>, String> {
        SnapshotStore::checkpoints(&self.state_dir).map_err(|error| error.to_string())
    }

    fn begin(&self) -> Answering<'_, Result<(), NotBegun>> {
        let (request, answer) = oneshot::channel();
        let is_taken = self.requests.try_send(request).is_ok();
        self.doorbell.ring();
        Box::pin(async move {
            if !is_taken {
                return Err(NotBegun::NoAnswer);
            }
            timeout(PATIENCE, answer).await.ok().and_then(Result::ok).unwrap_or(Err(NotBegun::NoAnswer))
        })
    }
}

impl<L: Log, H: Hosts<L::Batch>> IoThread<L, H> {
    pub(super) fn operator_requests(&mut self) -> bool {
        let mut busy = false;
        while let Ok(answer) = self.wiring.checkpoint_requests.try_recv() {
            busy = true;
            // Whoever asked may have gone away since; then nobody is told.
            let _ = answer.send(self.checkpoint_now());
        }
        busy
    }

    fn checkpoint_now(&mut self) -> Result<(), NotBegun> {
        let running = self.owned.iter().filter_map(|(&partition, owned)| match owned {
            Owned::Running(running) => Some((partition, running.actor.clone())),
            _ => None,
        });
        let actors: Vec<_> = running.collect();
        if !self.wiring.snapshots.is_idle() {
            return Err(NotBegun::UnderWay);
        }
        if actors.is_empty() {
            return Err(NotBegun::NothingRuns);
        }
        self.wiring.snapshots.begin(&actors, clock::monotonic_ms());
        Ok(())
    }
}
