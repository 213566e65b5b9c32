//! The thread that stores snapshots, so that neither the engine nor its I/O ever waits for a disk.
//!
//! Promises: changes that were handed over are answered by exactly one of `Stored`, `Failed` (which gives them back) or
//! `Fatal`, in the order in which they were handed over; [`SnapshotSink::store`] never blocks and never keeps what
//! it did not take. Each store is followed by a retained checkpoint, which delays the next store but not the answer.
//!
//! Must never: retry. After `Fatal` the thread has ended and the process is expected to.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::clock::{monotonic_now, wall_clock_ms};
use crate::domain::ids::{Offset, PartitionId};
use crate::state::checkpoints::{self, CheckpointInfo};
use crate::state::{SnapshotDelta, SnapshotStore, StateError};

/// Stores that may wait while one is under way. The engine asks for the next one after the answer, so one is enough.
const WAITING_MAX: usize = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotterSettings {
    /// Checkpoints that are kept; 0: none are taken.
    pub retain: usize,
}

/// What became of one hand-over; `generation` is the caller's own number for it.
#[derive(Debug)]
pub enum SnapshotEvent {
    /// On disk.
    Stored { generation: u64, partitions: Vec<(PartitionId, Offset)>, duration: Duration, bytes: u64 },
    /// Nothing was written; merge the deltas into the next ones.
    Failed { generation: u64, error: StateError, deltas: Vec<SnapshotDelta> },
    /// The state of the disk is not known: leave the process. No further event comes.
    Fatal { generation: u64, error: StateError },
    /// After `Stored`: this state is also kept as a checkpoint.
    Retained { generation: u64, checkpoint: CheckpointInfo, duration: Duration },
    /// After `Stored`: it is stored, but no checkpoint could be kept of it, or an old one not deleted.
    NotRetained { generation: u64, error: StateError },
}

/// The changes come back.
#[derive(Debug)]
pub enum NotTaken {
    /// A store is under way and another one waits.
    Busy(Vec<SnapshotDelta>),
    /// The thread has ended; its `Fatal` event says why.
    Stopped(Vec<SnapshotDelta>),
}

/// The namespace of [`Snapshotter::spawn`].
pub struct Snapshotter;

/// Ends the thread when dropped, after what was handed over is done.
pub struct SnapshotterHandle {
    requests: Option<Sender<Request>>,
    thread: Option<JoinHandle<()>>,
}

struct Request {
    deltas: Vec<SnapshotDelta>,
    generation: u64,
}

impl Snapshotter {
    /// Starts thread `tallyguard-snapshot`. `events` is called on it and must not block for long.
    ///
    /// # Errors
    /// [`StateError::Io`] when the checkpoints cannot be listed or the thread cannot be started.
    pub fn spawn(
        store: Arc<SnapshotStore>,
        settings: SnapshotterSettings,
        events: impl Fn(SnapshotEvent) + Send + 'static,
    ) -> Result<SnapshotterHandle, StateError> {
        let next_checkpoint = checkpoints::newest_sequence(store.state_dir())? + 1;
        let start_failed = StateError::io("start the snapshot thread of", store.state_dir());
        let (requests, waiting) = bounded(WAITING_MAX);
        let mut worker = Worker { store, settings, events, next_checkpoint };
        let run = move || worker.run(&waiting);
        let thread = thread::Builder::new().name("tallyguard-snapshot".to_owned()).spawn(run).map_err(start_failed)?;
        Ok(SnapshotterHandle { requests: Some(requests), thread: Some(thread) })
    }
}

/// Takes changes to be stored; answers with events.
pub trait SnapshotSink {
    /// Hands changes over without blocking.
    ///
    /// # Errors
    /// [`NotTaken`] gives the changes back.
    fn store(&self, deltas: Vec<SnapshotDelta>, generation: u64) -> Result<(), NotTaken>;
}

impl SnapshotSink for SnapshotterHandle {
    fn store(&self, deltas: Vec<SnapshotDelta>, generation: u64) -> Result<(), NotTaken> {
        let Some(requests) = &self.requests else { return Err(NotTaken::Stopped(deltas)) };
        requests.try_send(Request { deltas, generation }).map_err(|error| match error {
            TrySendError::Full(request) => NotTaken::Busy(request.deltas),
            TrySendError::Disconnected(request) => NotTaken::Stopped(request.deltas),
        })
    }
}

impl SnapshotterHandle {
    /// Waits until everything that was handed over is answered, and ends the thread.
    ///
    /// # Errors
    /// When the thread panicked, which means in the event callback or by a defect.
    pub fn finish(mut self) -> io::Result<()> {
        self.end()
    }

    fn end(&mut self) -> io::Result<()> {
        self.requests = None;
        match self.thread.take().map(JoinHandle::join) {
            None | Some(Ok(())) => Ok(()),
            Some(Err(_)) => Err(io::Error::other("the snapshot thread panicked")),
        }
    }
}

impl Drop for SnapshotterHandle {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::error!(%error, "snapshots ended early");
        }
    }
}

struct Worker<F> {
    store: Arc<SnapshotStore>,
    settings: SnapshotterSettings,
    events: F,
    next_checkpoint: u64,
}

impl<F: Fn(SnapshotEvent)> Worker<F> {
    fn run(&mut self, waiting: &Receiver<Request>) {
        for Request { deltas, generation } in waiting {
            if let Err(error) = self.serve(deltas, generation) {
                (self.events)(SnapshotEvent::Fatal { generation, error });
                return;
            }
        }
    }

    /// The error is fatal.
    fn serve(&mut self, deltas: Vec<SnapshotDelta>, generation: u64) -> Result<(), StateError> {
        let started = monotonic_now();
        let bytes = match self.store.store(&deltas, wall_clock_ms()) {
            Ok(bytes) => bytes,
            Err(error) if error.is_fatal() => return Err(error),
            Err(error) => {
                (self.events)(SnapshotEvent::Failed { generation, error, deltas });
                return Ok(());
            }
        };
        let partitions = deltas.iter().map(|delta| (delta.partition, delta.through)).collect();
        (self.events)(SnapshotEvent::Stored { generation, partitions, duration: started.elapsed(), bytes });
        drop(deltas);
        self.retain(generation)
    }

    fn retain(&mut self, generation: u64) -> Result<(), StateError> {
        if self.settings.retain == 0 {
            return Ok(());
        }
        let started = monotonic_now();
        let sequence = self.next_checkpoint;
        // A number is used once, also when taking the checkpoint failed half-way.
        self.next_checkpoint += 1;
        let event = match self.store.retain_checkpoint(sequence, self.settings.retain, wall_clock_ms()) {
            Ok(checkpoint) => SnapshotEvent::Retained { generation, checkpoint, duration: started.elapsed() },
            Err(error) if error.is_fatal() => return Err(error),
            Err(error) => SnapshotEvent::NotRetained { generation, error },
        };
        (self.events)(event);
        Ok(())
    }
}
