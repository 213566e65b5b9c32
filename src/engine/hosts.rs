//! Where partition actors live, as the I/O thread sees it: it starts them, sends to them, and never waits for them.
//!
//! The service has them on actix arbiters; the simulation has them on its own thread, under virtual time.

use actix::{Actor, Addr, ArbiterHandle};

use crate::domain::ids::{Offset, PartitionId};
use crate::engine::actor::{Apply, FlushAcknowledged, Halt, Park, PartitionActor, TakeFlush, TakeSnapshot};
use crate::engine::directory::ActorDirectory;
use crate::log::RecordBatch;

/// The mailbox is full, or the actor has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotTaken;

/// An actor's address. The answers come as reports.
pub trait Host: Clone {
    /// # Errors
    /// [`NotTaken`]: ask again later.
    fn take_flush(&self) -> Result<(), NotTaken>;

    /// # Errors
    /// [`NotTaken`].
    fn flush_acknowledged(&self, through: Offset) -> Result<(), NotTaken>;

    /// # Errors
    /// [`NotTaken`]: ask again later.
    fn take_snapshot(&self, whole: bool) -> Result<(), NotTaken>;

    /// Has it hand its state over, and end.
    ///
    /// # Errors
    /// [`NotTaken`].
    fn park(&self) -> Result<(), NotTaken>;

    /// Ends it; what it has not answered is never answered.
    fn halt(&self);
}

/// An actor's address, for records.
pub trait Feed<B>: Host {
    /// # Errors
    /// [`NotTaken`].
    fn apply(&self, batch: B, end: Option<Offset>) -> Result<(), NotTaken>;
}

/// See the module head.
pub trait Hosts<B> {
    type Host: Feed<B>;

    fn start(&mut self, actor: PartitionActor) -> Self::Host;

    /// The partition is not this instance's any more.
    fn forget(&mut self, partition: PartitionId);
}

/// The service's: an actor on one of the arbiters, entered in the directory.
pub struct Arbiters {
    pub handles: Vec<ArbiterHandle>,
    pub directory: ActorDirectory,
}

impl<B: RecordBatch> Hosts<B> for Arbiters {
    type Host = Addr<PartitionActor>;

    fn start(&mut self, actor: PartitionActor) -> Self::Host {
        let partition = actor.partition();
        let index = usize::try_from(partition.0).unwrap_or_default();
        let arbiter = &self.handles[index % self.handles.len()];
        let address = PartitionActor::start_in_arbiter(arbiter, move |_| actor);
        self.directory.enter(partition, address.clone());
        address
    }

    fn forget(&mut self, partition: PartitionId) {
        self.directory.remove(partition);
    }
}

impl Host for Addr<PartitionActor> {
    fn take_flush(&self) -> Result<(), NotTaken> {
        self.try_send(TakeFlush).map_err(|_| NotTaken)
    }

    fn flush_acknowledged(&self, through: Offset) -> Result<(), NotTaken> {
        self.try_send(FlushAcknowledged(through)).map_err(|_| NotTaken)
    }

    fn take_snapshot(&self, whole: bool) -> Result<(), NotTaken> {
        self.try_send(TakeSnapshot { whole }).map_err(|_| NotTaken)
    }

    fn park(&self) -> Result<(), NotTaken> {
        self.try_send(Park).map_err(|_| NotTaken)
    }

    fn halt(&self) {
        // A full or closed mailbox belongs to an actor that ends anyway when its address is dropped.
        let _ = self.try_send(Halt);
    }
}

impl<B: RecordBatch> Feed<B> for Addr<PartitionActor> {
    fn apply(&self, batch: B, end: Option<Offset>) -> Result<(), NotTaken> {
        self.try_send(Apply { batch, end }).map_err(|_| NotTaken)
    }
}
