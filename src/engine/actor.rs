//! The partition actor: hosts the user actors of one partition and applies its records, batch by batch.
//!
//! It answers every batch with exactly one [`Applied`], so that the I/O thread can count credits. Outputs of records
//! before the committed offset are dropped here: they are in the log already.

use std::sync::Arc;

use actix::{Actor, ActorContext, Context, Handler, Message, MessageResult};
use crossbeam_channel::Sender;

use crate::domain::ids::{Offset, PartitionId};
use crate::domain::lookup::OpenCount;
use crate::domain::partition::{Outcome, Output, PartitionState};
use crate::domain::snapshot::StateDelta;
use crate::domain::statistics::StatisticsFlush;
use crate::engine::outputs::OutputEncoder;
use crate::engine::supervisor::Supervisor;
use crate::log::{Doorbell, RecordBatch};
use crate::mutants::{self, Mutant};
use crate::observe::status::RecordCounts;
use crate::protocol::output::Effects;

/// Statistics rows of one partition that may wait for the database in memory: about 200 MB.
const STATISTICS_ROWS_MAX: usize = 1_000_000;

/// Which assignment of a partition a message belongs to: answers of a former one are ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Epoch(pub u64);

/// What the actor says after a batch.
pub struct Applied {
    pub effects: Option<Effects>,
    pub counts: RecordCounts,
    pub records: usize,
    pub next: Offset,
    pub watermark_ms: i64,
    pub open_users: usize,
    pub pending_statistics: usize,
    /// The statistics were let go of; the partition must be recovered once the database takes writes again.
    pub has_shed_statistics: bool,
    /// First key mismatch of the batch, for the log.
    pub mismatch_at: Option<Offset>,
}

/// What a partition actor tells the I/O thread.
pub enum Report {
    Applied(Applied),
    Flush {
        flush: Option<StatisticsFlush>,
        /// Rows that changed since; none right after.
        pending_statistics: usize,
    },
    Snapshot {
        delta: StateDelta,
        through: Offset,
        /// Everything there is, not what changed.
        whole: bool,
    },
    /// The effects of acknowledged statistics on the commit metadata.
    Acknowledged(Effects),
    /// The actor's last word: what it was, for when the partition comes back.
    Parked(Box<PartitionState>),
}

/// A report and where it comes from.
pub struct FromActor {
    pub partition: PartitionId,
    pub epoch: Epoch,
    pub report: Report,
}

/// Records to apply; `end` is the position behind the last record of the log when the batch reaches it.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Apply<B: RecordBatch> {
    pub batch: B,
    pub end: Option<Offset>,
}

#[derive(Message)]
#[rtype(result = "()")]
pub struct TakeFlush;

#[derive(Message)]
#[rtype(result = "()")]
pub struct FlushAcknowledged(pub Offset);

#[derive(Message)]
#[rtype(result = "()")]
pub struct TakeSnapshot {
    pub whole: bool,
}

/// What is counted of this user now? Changes nothing.
#[derive(Message)]
#[rtype(result = "Vec<OpenCount>")]
pub struct LookUp(pub Arc<str>);

/// The partition is somebody else's for now: hand the state over, and end.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Park;

/// The partition is somebody else's now.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Halt;

/// See the module head.
pub struct PartitionActor {
    state: PartitionState,
    encoder: OutputEncoder,
    /// Outputs of records before this are in the log already.
    live_from: Offset,
    epoch: Epoch,
    reports: Sender<FromActor>,
    doorbell: Arc<Doorbell>,
    supervisor: Supervisor,
    scratch: Vec<(Offset, Output)>,
}

/// Where an actor's reports go.
#[derive(Clone)]
pub struct ReportLine {
    pub reports: Sender<FromActor>,
    pub doorbell: Arc<Doorbell>,
    pub supervisor: Supervisor,
}

impl PartitionActor {
    #[must_use]
    pub fn new(
        state: PartitionState,
        encoder: OutputEncoder,
        live_from: Offset,
        epoch: Epoch,
        line: ReportLine,
    ) -> Self {
        let ReportLine { reports, doorbell, supervisor } = line;
        Self { state, encoder, live_from, epoch, reports, doorbell, supervisor, scratch: Vec::new() }
    }

    #[must_use]
    pub fn partition(&self) -> PartitionId {
        self.state.partition()
    }

    /// Applies a batch, and reports it.
    pub fn take_batch<B: RecordBatch>(&mut self, batch: &B, end: Option<Offset>) {
        let applied = self.apply(batch, end);
        self.report(Report::Applied(applied));
    }

    /// Reports the statistics that changed.
    pub fn take_flush(&mut self) {
        let flush = self.state.take_flush();
        self.report(Report::Flush { flush, pending_statistics: self.state.pending_statistics() });
    }

    /// The database has everything before `through`.
    pub fn flush_acknowledged(&mut self, through: Offset) {
        self.state.acknowledge_flush(through);
        if self.state.next() >= self.live_from {
            let effects = Effects { progress: self.state.progress(), outputs: Vec::new() };
            self.report(Report::Acknowledged(effects));
        }
    }

    /// Reports what changed since the last snapshot, or everything.
    pub fn take_snapshot(&mut self, whole: bool) {
        let delta = self.state.take_snapshot(whole);
        self.report(Report::Snapshot { delta, through: self.state.next(), whole });
    }

    /// Reports the state itself; nothing may be asked of the actor afterwards.
    pub fn park(&mut self) {
        let state = self.state.take_out();
        self.report(Report::Parked(Box::new(state)));
    }

    fn report(&self, report: Report) {
        let message = FromActor { partition: self.state.partition(), epoch: self.epoch, report };
        // The channel holds more than the credits allow to be under way; a full or closed one is a defect.
        if self.reports.try_send(message).is_err() && !self.supervisor.is_leaving() {
            self.supervisor.fail("a partition actor could not report to the I/O thread");
        }
        self.doorbell.ring();
    }

    fn apply<B: RecordBatch>(&mut self, batch: &B, end: Option<Offset>) -> Applied {
        let mut counts = RecordCounts::default();
        let mut outputs = Vec::new();
        let mut mismatch_at = None;
        for index in 0..batch.len() {
            let record = batch.record(index);
            if record.offset < self.state.next() {
                continue;
            }
            let applied = self.state.apply(&record, &mut self.scratch);
            if record.offset < self.live_from && !mutants::is(Mutant::ReplayNotSuppressed) {
                counts.replayed += 1;
                self.scratch.clear();
                continue;
            }
            match applied.outcome {
                Outcome::Counted => counts.counted += 1,
                Outcome::Duplicate => counts.duplicate += 1,
                Outcome::Late => counts.late += 1,
                Outcome::DeadLetter => counts.dead_letter += 1,
            }
            if applied.key_mismatch {
                counts.key_mismatch += 1;
                mismatch_at.get_or_insert(record.offset);
            }
            for (offset, output) in self.scratch.drain(..) {
                outputs.push(Arc::new(self.encoder.encode(offset, output, batch, index)));
            }
        }
        if let Some(end) = end {
            self.state.skip_to(end);
        }
        if self.state.pending_statistics() > STATISTICS_ROWS_MAX && !self.state.has_shed_statistics() {
            tracing::warn!(
                "partition {}: more than {STATISTICS_ROWS_MAX} statistics rows wait for the database; they are let go of \
                 and built again from the log when it is back",
                self.state.partition()
            );
            self.state.shed_statistics();
        }
        let is_live = self.state.next() >= self.live_from || mutants::is(Mutant::ReplayNotSuppressed);
        Applied {
            effects: is_live.then(|| Effects { progress: self.state.progress(), outputs }),
            counts,
            records: batch.len(),
            next: self.state.next(),
            watermark_ms: self.state.watermark().0,
            open_users: self.state.open_users(),
            pending_statistics: self.state.pending_statistics(),
            has_shed_statistics: self.state.has_shed_statistics(),
            mismatch_at,
        }
    }
}

impl Actor for PartitionActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // Bounded: the I/O thread never has more than its credits under way.
        ctx.set_mailbox_capacity(256);
    }
}

impl<B: RecordBatch> Handler<Apply<B>> for PartitionActor {
    type Result = ();

    fn handle(&mut self, message: Apply<B>, _ctx: &mut Self::Context) {
        self.take_batch(&message.batch, message.end);
    }
}

impl Handler<TakeFlush> for PartitionActor {
    type Result = ();

    fn handle(&mut self, _message: TakeFlush, _ctx: &mut Self::Context) {
        self.take_flush();
    }
}

impl Handler<FlushAcknowledged> for PartitionActor {
    type Result = ();

    fn handle(&mut self, FlushAcknowledged(through): FlushAcknowledged, _ctx: &mut Self::Context) {
        self.flush_acknowledged(through);
    }
}

impl Handler<TakeSnapshot> for PartitionActor {
    type Result = ();

    fn handle(&mut self, message: TakeSnapshot, _ctx: &mut Self::Context) {
        self.take_snapshot(message.whole);
    }
}

impl Handler<LookUp> for PartitionActor {
    type Result = MessageResult<LookUp>;

    fn handle(&mut self, LookUp(user_id): LookUp, _ctx: &mut Self::Context) -> Self::Result {
        MessageResult(self.state.open_counts(&user_id))
    }
}

impl Handler<Park> for PartitionActor {
    type Result = ();

    fn handle(&mut self, _message: Park, ctx: &mut Self::Context) {
        self.park();
        ctx.stop();
    }
}

impl Handler<Halt> for PartitionActor {
    type Result = ();

    fn handle(&mut self, _message: Halt, ctx: &mut Self::Context) {
        ctx.stop();
    }
}
