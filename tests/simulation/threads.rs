//! The threads of a process beside its I/O thread: partition actors, and those that store, write and recover.
//!
//! What an actor reports passes by here, and must add up.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use crossbeam_channel::{Receiver, Sender};
use tallyguard::domain::ids::{Offset, PartitionId};
use tallyguard::domain::partition::PartitionState;
use tallyguard::engine::actor::{FromActor, PartitionActor, Report};
use tallyguard::engine::hosts::{Feed, Host, Hosts, NotTaken};
use tallyguard::engine::recovery::{Answer, RecoveryWorker, Wanted};
use tallyguard::protocol::recovery::StartSource;

use crate::client::{SimBatch, SimReader};
use crate::database::Writing;
use crate::disk::Storing;
use crate::process::World;

/// Messages that an actor's mailbox holds.
const MAILBOX_MAX: usize = 64;

enum Message {
    Apply(SimBatch, Option<Offset>),
    TakeFlush,
    FlushAcknowledged(Offset),
    TakeSnapshot(bool),
    Park,
}

pub struct Mailbox {
    actor: RefCell<PartitionActor>,
    messages: RefCell<VecDeque<Message>>,
    halted: Cell<bool>,
}

/// See the module head.
pub struct Threads {
    pub world: World,
    pub mailboxes: RefCell<Vec<Rc<Mailbox>>>,
    pub storing: Storing,
    pub writing: RefCell<Option<Writing>>,
    pub recovery: RefCell<(RecoveryWorker<SimReader>, Vec<Wanted>)>,
    /// From the actors, and on to the I/O thread.
    pub reports: (Receiver<FromActor>, Sender<FromActor>),
    /// From whoever recovers, and on to the I/O thread.
    pub answers: (Receiver<Answer>, Sender<Answer>),
}

impl Threads {
    /// One of them does one thing.
    pub fn work(&self) {
        let actors = self.mailboxes.borrow().len();
        match self.world.chance.index(actors + 3) {
            0 => self.storing.work(),
            1 => {
                if let Some(writing) = self.writing.borrow_mut().as_mut() {
                    writing.work();
                }
            }
            2 => {
                let (worker, wanted) = &mut *self.recovery.borrow_mut();
                worker.attempt(wanted);
            }
            at => {
                let mailbox = Rc::clone(&self.mailboxes.borrow()[at - 3]);
                mailbox.work();
            }
        }
        self.pass_reports_on();
        self.pass_answers_on();
        self.mailboxes.borrow_mut().retain(|mailbox| !mailbox.halted.get());
    }

    /// Every record that was taken in is counted, a duplicate, late, a dead letter, or one that had been all that before.
    fn pass_reports_on(&self) {
        while let Ok(message) = self.reports.0.try_recv() {
            if let Report::Applied(applied) = &message.report {
                let counts = applied.counts;
                let sum = counts.counted + counts.duplicate + counts.late + counts.dead_letter + counts.replayed;
                assert_eq!(sum, applied.records as u64, "{}: {counts:?}", message.partition);
            }
            let _ = self.reports.1.send(message);
        }
    }

    fn pass_answers_on(&self) {
        while let Ok(answer) = self.answers.0.try_recv() {
            match &answer {
                Answer::Recovered { prepared, .. } => self.world.chance.reached(match prepared.start.source {
                    StartSource::First => "first start",
                    StartSource::Horizon => "recovered from a replay",
                    StartSource::Snapshot => "recovered from a snapshot",
                    StartSource::Parked => "parked state reused",
                }),
                Answer::Refused { refusal, .. } => self.world.chance.reached(refusal.code()),
                Answer::Waiting { .. } => {}
            }
            let _ = self.answers.1.send(answer);
        }
    }

    /// The states as they stand, at the very end: their actors give them out of hand.
    pub fn states(&self) -> Vec<PartitionState> {
        self.pass_reports_on();
        for mailbox in self.mailboxes.borrow().iter() {
            mailbox.actor.borrow_mut().park();
        }
        let reports = self.reports.0.try_iter();
        reports
            .filter_map(|message| match message.report {
                Report::Parked(state) => Some(*state),
                _ => None,
            })
            .collect()
    }
}

impl Mailbox {
    fn work(&self) {
        let message = self.messages.borrow_mut().pop_front();
        let mut actor = self.actor.borrow_mut();
        match message {
            None => {}
            Some(Message::Apply(batch, end)) => actor.take_batch(&batch, end),
            Some(Message::TakeFlush) => actor.take_flush(),
            Some(Message::FlushAcknowledged(through)) => actor.flush_acknowledged(through),
            Some(Message::TakeSnapshot(whole)) => actor.take_snapshot(whole),
            Some(Message::Park) => {
                actor.park();
                self.halted.set(true);
            }
        }
    }
}

#[derive(Clone)]
pub struct SimHost(Rc<Mailbox>);

impl SimHost {
    fn send(&self, message: Message) -> Result<(), NotTaken> {
        let mut messages = self.0.messages.borrow_mut();
        if messages.len() >= MAILBOX_MAX || self.0.halted.get() {
            return Err(NotTaken);
        }
        messages.push_back(message);
        Ok(())
    }
}

impl Host for SimHost {
    fn take_flush(&self) -> Result<(), NotTaken> {
        self.send(Message::TakeFlush)
    }

    fn flush_acknowledged(&self, through: Offset) -> Result<(), NotTaken> {
        self.send(Message::FlushAcknowledged(through))
    }

    fn take_snapshot(&self, whole: bool) -> Result<(), NotTaken> {
        self.send(Message::TakeSnapshot(whole))
    }

    fn park(&self) -> Result<(), NotTaken> {
        self.send(Message::Park)
    }

    fn halt(&self) {
        self.0.halted.set(true);
    }
}

impl Feed<SimBatch> for SimHost {
    fn apply(&self, batch: SimBatch, end: Option<Offset>) -> Result<(), NotTaken> {
        self.send(Message::Apply(batch, end))
    }
}

pub struct SimHosts(pub Rc<Threads>);

impl Hosts<SimBatch> for SimHosts {
    type Host = SimHost;

    fn start(&mut self, actor: PartitionActor) -> SimHost {
        let mailbox =
            Rc::new(Mailbox { actor: RefCell::new(actor), messages: RefCell::default(), halted: Cell::new(false) });
        self.0.mailboxes.borrow_mut().push(Rc::clone(&mailbox));
        SimHost(mailbox)
    }

    fn forget(&mut self, _partition: PartitionId) {}
}
