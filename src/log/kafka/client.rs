//! The Kafka log: one consumer and one transactional writer, owned together by the I/O thread.

use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::topic_partition_list::Offset as ListOffset;
use rdkafka::types::RDKafkaErrorCode;

use crate::clock;
use crate::domain::ids::{Offset, PartitionId};
use crate::log::kafka::classify;
use crate::log::kafka::membership::{Membership, event_of};
use crate::log::kafka::native::{
    GroupMembers, MessageBatch, OffsetCommits, PartitionQueue, cached_end, group_generation, member_id,
};
use crate::log::kafka::reader::KafkaReader;
use crate::log::kafka::settings::{KafkaSettings, WriterLimits};
use crate::log::kafka::writer::{Writer, offset_list};
use crate::log::{Doorbell, Log, LogEvent, Read, RecoveryReader};
use crate::protocol::cycle::{OffsetCommit, Outcome, Step};

/// How long the coordinator may take to say who is a member; a fenced member also learns of it with its heartbeats,
/// which go out every second.
const MEMBERSHIP_PROBE: Duration = Duration::from_secs(3);
/// One question to the coordinator; the I/O thread stands still as long.
const MEMBERSHIP_ANSWER: Duration = Duration::from_secs(1);
/// Pause after a question that was not answered.
const MEMBERSHIP_PAUSE: Duration = Duration::from_millis(200);

/// Between two looks for the answer to a commit of offsets the group is served.
const COMMIT_LOOK: Duration = Duration::from_millis(5);

/// See the module head.
pub struct KafkaLog {
    topic: String,
    topic_name: CString,
    members: GroupMembers,
    commits: OffsetCommits,
    instance_id: String,
    /// Shared with the queues and batches that point into it.
    consumer: Arc<BaseConsumer<Membership>>,
    settings: KafkaSettings,
    writer: Writer,
    reader: KafkaReader,
    doorbell: Arc<Doorbell>,
    /// Kept for ever: the fetch queue of a partition stays cut off from the common queue.
    queues: HashMap<PartitionId, PartitionQueue>,
    /// Partitions that the fetcher reads, and the next record expected of each.
    reading: HashMap<PartitionId, Offset>,
    /// Partitions that the fetcher has given up, to be told once their last records are handed on.
    failed: HashMap<PartitionId, String>,
    /// Partitions that a rebalance may have set to a wrong position: they are assigned anew before they are read on.
    displaced: HashSet<PartitionId>,
    /// A revocation that the engine has not answered yet.
    is_handing_over: bool,
    noted: Vec<LogEvent>,
    /// The member id of the last assignment; the client forgets its own when it gives its session up.
    joined_as: Option<String>,
    /// The session ran out. Giving up the lost partitions lets the client join again, which would throw out a successor
    /// with our instance id: it waits until the group has been asked.
    lost: Option<Lost>,
    /// The client is joining: the group may hold it under a member id that it does not know itself yet.
    is_joining: bool,
    ask_group_from: Instant,
}

/// An assignment that was lost and is not given up yet.
#[derive(Default)]
struct Lost {
    /// What the engine has let go of; `None` before it did.
    released: Option<Vec<PartitionId>>,
}

impl KafkaLog {
    /// Creates the clients and joins the group in the background; nothing is fenced or read yet.
    ///
    /// # Errors
    /// When librdkafka refuses the configuration.
    pub fn join(settings: &KafkaSettings, limits: WriterLimits) -> anyhow::Result<Self> {
        let doorbell = Arc::new(Doorbell::default());
        let consumer = member(settings)?;
        Ok(Self {
            topic: settings.topic.clone(),
            topic_name: CString::new(settings.topic.as_str())?,
            members: GroupMembers::new(settings.asking(), &settings.group)?,
            commits: OffsetCommits::new(&consumer),
            instance_id: settings.instance_id.clone(),
            consumer,
            writer: Writer::new(settings.clone(), limits)?,
            reader: KafkaReader::new(settings.clone()),
            doorbell,
            queues: HashMap::new(),
            reading: HashMap::new(),
            failed: HashMap::new(),
            displaced: HashSet::new(),
            is_handing_over: false,
            noted: Vec::new(),
            joined_as: None,
            lost: None,
            is_joining: true,
            ask_group_from: clock::monotonic_now(),
            settings: settings.clone(),
        })
    }

    /// Rung by whoever has something for the I/O thread.
    #[must_use]
    pub fn doorbell(&self) -> Arc<Doorbell> {
        Arc::clone(&self.doorbell)
    }

    fn list(&self, partitions: &[PartitionId]) -> TopicPartitionList {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for partition in partitions {
            list.add_partition(&self.topic, partition.0);
        }
        list
    }

    /// Takes up what the client has to say; an assignment is acknowledged at once, with no partition in it.
    fn serve(&mut self, timeout: Duration) {
        let mut wait = timeout;
        while let Some(result) = self.consumer.poll(wait) {
            wait = Duration::ZERO;
            match result {
                Ok(_) => self.noted.push(LogEvent::Fatal("a record came by the common queue".to_owned())),
                Err(error) => self.noted.push(event_of(&error, "")),
            }
        }
        for event in self.consumer.context().take_events() {
            if let LogEvent::Assigned(_) = event
                && let Err(error) = self.consumer.incremental_assign(&TopicPartitionList::new())
            {
                self.noted.push(LogEvent::Trouble(format!("acknowledging the assignment: {error}")));
            }
            if let LogEvent::Assigned(_) = event {
                self.joined_as = member_id(&self.consumer).or(self.joined_as.take());
                self.is_joining = false;
            }
            if let LogEvent::Lost(_) = event {
                self.lost.get_or_insert_default();
            }
            if let LogEvent::Assigned(_) | LogEvent::Revoked(_) | LogEvent::Lost(_) = event {
                // It has paused every partition, and resumes it from the client's position.
                let misplaced = self.queues.iter().filter(|(_, queue)| queue.is_misplaced());
                self.displaced.extend(misplaced.map(|(&partition, _)| partition));
            }
            self.is_handing_over |= matches!(event, LogEvent::Revoked(_));
            self.noted.push(event);
        }
    }

    /// Whether a rebalance waits for the engine's answer: assigning or giving up anything would be taken for it.
    fn rebalance_waits(&mut self) -> bool {
        self.serve(Duration::ZERO);
        self.is_handing_over || self.noted.iter().any(|event| matches!(event, LogEvent::Revoked(_) | LogEvent::Lost(_)))
    }

    fn is_fenced(&self) -> bool {
        let fatal = self.consumer.client().fatal_error();
        matches!(fatal, Some((RDKafkaErrorCode::FencedInstanceId, _))) || self.noted.contains(&LogEvent::Replaced)
    }

    /// Whether somebody else is a member with our instance id now; `None` while the coordinator does not say.
    ///
    /// A client whose broker was away for longer than the session forgets its member id, and sends heartbeats without
    /// one until the lost partitions are given up. The broker answers these as if a newer process had come.
    fn was_replaced(&mut self) -> Option<bool> {
        let now = clock::monotonic_now();
        self.is_joining &= member_id(&self.consumer).is_none();
        if now < self.ask_group_from || (self.is_joining && !self.is_fenced()) {
            return None;
        }
        match self.members.ask(MEMBERSHIP_ANSWER) {
            Ok(members) => {
                let own = member_id(&self.consumer);
                let is_own = |id: &str| Some(id) == self.joined_as.as_deref() || Some(id) == own.as_deref();
                let ours = Some(self.instance_id.as_str());
                Some(members.iter().any(|member| member.instance_id.as_deref() == ours && !is_own(&member.member_id)))
            }
            Err(why) => {
                tracing::debug!("the coordinator does not say who is a member: {why}");
                self.ask_group_from = clock::monotonic_now() + MEMBERSHIP_PAUSE;
                None
            }
        }
    }

    /// After a lost session: leaves when somebody else has taken our place, else gives up what was lost, and joins again.
    fn answer_loss(&mut self) {
        let is_released = self.lost.as_ref().is_some_and(|lost| lost.released.is_some());
        if !is_released {
            return;
        }
        match self.was_replaced() {
            Some(true) => self.noted.push(LogEvent::Replaced),
            Some(false) => {
                let released = self.lost.take().and_then(|lost| lost.released).unwrap_or_default();
                self.is_joining = true;
                self.unassign(&released);
            }
            None => {}
        }
    }

    fn unassign(&mut self, partitions: &[PartitionId]) {
        if let Err(error) = self.consumer.incremental_unassign(&self.list(partitions)) {
            self.noted.push(LogEvent::Trouble(format!("giving partitions up: {error}")));
        }
    }

    /// Joins the group with a new consumer, because a fenced one is of no more use. What was read by the old one and is
    /// still on its way keeps it alive until then.
    fn rejoin(&mut self) -> anyhow::Result<()> {
        let consumer = member(&self.settings)?;
        self.consumer.context().close();
        self.queues.clear();
        self.reading.clear();
        self.noted.clear();
        self.failed.clear();
        self.displaced.clear();
        self.is_handing_over = false;
        self.lost = None;
        self.is_joining = true;
        self.commits = OffsetCommits::new(&consumer);
        self.consumer = consumer;
        Ok(())
    }

    /// Commits offsets outside a transaction. The group takes them only from a member of its present generation, so the
    /// generation is checked just before: without one the client would send them as nobody, and the broker would take them.
    fn commit_offsets(&mut self, commits: &[OffsetCommit]) -> Outcome {
        if !self.last_commit_is_answered() {
            return Outcome::Retriable("the last commit of offsets is still not answered".to_owned());
        }
        if group_generation(&self.consumer) < 0 {
            return Outcome::Retriable("not a member of the group at the moment".to_owned());
        }
        let offsets = match offset_list(&self.topic, commits) {
            Ok(offsets) => offsets,
            Err(why) => return Outcome::Doubtful(why),
        };
        if let Err(code) = self.commits.send(&offsets) {
            return classify::commit_error(code);
        }
        match self.commit_answer() {
            Some(Ok(())) => Outcome::Done,
            Some(Err(code)) => classify::commit_error(code),
            None => Outcome::Doubtful("the group did not answer the commit of offsets".to_owned()),
        }
    }

    fn commit_answer(&mut self) -> Option<Result<(), RDKafkaErrorCode>> {
        let deadline = clock::monotonic_now() + self.settings.transaction_timeout;
        loop {
            let answer = self.commits.answer(COMMIT_LOOK);
            if answer.is_some() || clock::monotonic_now() >= deadline {
                return answer;
            }
            self.serve(Duration::ZERO);
        }
    }

    /// The client may still send a commit that was not answered in time: nothing must overtake it, and what the group says
    /// before it is not the last word.
    fn last_commit_is_answered(&mut self) -> bool {
        !self.commits.is_unanswered() || self.commit_answer().is_some()
    }

    /// Asks the coordinator who is a member now. A member with our instance id but another member id has replaced us;
    /// finding ourselves, or nobody, means that the fencing came from the coordinator's own patience.
    fn probe_membership(&mut self) -> Outcome {
        let deadline = clock::monotonic_now() + MEMBERSHIP_PROBE;
        loop {
            self.serve(Duration::from_millis(20));
            match self.was_replaced() {
                Some(replaced) => return Outcome::Membership { replaced },
                None if clock::monotonic_now() >= deadline => {
                    return Outcome::Doubtful("the coordinator does not say who is a member".to_owned());
                }
                None => {}
            }
        }
    }
}

impl Log for KafkaLog {
    type Batch = MessageBatch;

    fn poll(&mut self) -> Vec<LogEvent> {
        self.serve(Duration::ZERO);
        if self.is_fenced() {
            self.noted.retain(|event| *event != LogEvent::Replaced);
            match self.was_replaced() {
                Some(true) => self.noted.push(LogEvent::Replaced),
                Some(false) => match self.rejoin() {
                    Ok(()) => self.noted.push(LogEvent::Rejoined),
                    Err(error) => self.noted.push(LogEvent::Fatal(format!("joining the group again: {error:#}"))),
                },
                None => {}
            }
        } else if let Some((code, reason)) = self.consumer.client().fatal_error() {
            self.noted.push(LogEvent::Fatal(format!("{code}: {reason}")));
        } else {
            self.answer_loss();
        }
        std::mem::take(&mut self.noted)
    }

    fn start(&mut self, partition: PartitionId, from: Offset) -> Result<(), String> {
        if self.rebalance_waits() {
            return Err("the group is rebalancing".to_owned());
        }
        self.failed.remove(&partition);
        self.displaced.remove(&partition);
        if self.reading.remove(&partition).is_some() {
            // Assigned twice it is refused. It could not be given up when a rebalance waited, or is to be read elsewhere.
            self.unassign(&[partition]);
        }
        if !self.queues.contains_key(&partition) {
            let queue = PartitionQueue::open(&self.consumer, &self.topic, partition.0, &self.doorbell)
                .ok_or_else(|| format!("partition {partition} has no queue"))?;
            self.queues.insert(partition, queue);
        }
        if let Some(queue) = self.queues.get_mut(&partition) {
            queue.assigned();
        }
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition_offset(&self.topic, partition.0, ListOffset::Offset(from.0))
            .map_err(|error| error.to_string())?;
        self.consumer.incremental_assign(&list).map_err(|error| format!("assigning {partition}: {error}"))?;
        self.reading.insert(partition, from);
        Ok(())
    }

    fn stop(&mut self, partitions: &[PartitionId], release: bool) {
        if release {
            self.is_handing_over = false;
        } else if self.rebalance_waits() {
            // What is given up now would answer it; it is given up with what the rebalance takes.
            return;
        }
        let known: Vec<_> =
            partitions.iter().copied().filter(|partition| self.reading.remove(partition).is_some()).collect();
        if known.is_empty() && !release {
            return;
        }
        match &mut self.lost {
            Some(lost) if release => lost.released.get_or_insert_default().extend(known),
            _ => self.unassign(&known),
        }
    }

    fn read(&mut self, partition: PartitionId, max: usize) -> Read<MessageBatch> {
        if let Some(error) = self.failed.remove(&partition) {
            return Read::Failed(error);
        }
        if self.displaced.contains(&partition)
            && let Some(&expected) = self.reading.get(&partition)
        {
            return match self.start(partition, expected) {
                Ok(()) => Read::Nothing,
                // A rebalance waits; it is tried again afterwards.
                Err(_) if self.reading.contains_key(&partition) => Read::Nothing,
                Err(why) => Read::Failed(why),
            };
        }
        let end = self.end_offset(partition);
        let (Some(queue), Some(expected)) = (self.queues.get_mut(&partition), self.reading.get_mut(&partition)) else {
            return Read::Nothing;
        };
        let is_behind = end.is_some_and(|end| end.0 - expected.0 > i64::try_from(max).unwrap_or(i64::MAX));
        let mut taken = queue.take(max, is_behind);
        taken.batch.drop_before(*expected);
        if let Some(last) = last_offset(&taken.batch) {
            *expected = last.next();
        }
        // It comes behind the last records that may be taken; they are handed on first.
        if let Some(error) = taken.error {
            if last_offset(&taken.batch).is_none() {
                return Read::Failed(error);
            }
            self.failed.insert(partition, error);
        }
        let end = taken.end.filter(|end| *end >= *expected);
        if let Some(end) = end {
            *expected = end;
        }
        if last_offset(&taken.batch).is_none() && end.is_none() {
            return Read::Nothing;
        }
        Read::Records { batch: taken.batch, end }
    }

    fn execute(&mut self, step: &Step) -> Outcome {
        match step {
            Step::ReplaceWriter => self.writer.replace(),
            Step::Begin => self.writer.begin(),
            Step::Produce(outputs) => self.writer.produce(outputs),
            Step::SendOffsets(commits) => self.writer.send_offsets(commits, &self.consumer),
            Step::Commit => self.writer.commit(),
            Step::Abort => self.writer.abort(),
            Step::CommitOffsets(commits) => self.commit_offsets(commits),
            Step::ProbeMembership => self.probe_membership(),
            Step::ReadBack(_) if !self.last_commit_is_answered() => {
                Outcome::Doubtful("the last commit of offsets is still not answered".to_owned())
            }
            Step::ReadBack(requests) => match self.reader.read_back(requests) {
                Ok(found) => Outcome::ReadBack(found),
                Err(error) => Outcome::Doubtful(format!("reading back: {error}")),
            },
        }
    }

    fn end_offset(&self, partition: PartitionId) -> Option<Offset> {
        cached_end(&self.consumer, &self.topic_name, partition.0)
    }

    fn wait(&self, timeout: Duration) {
        self.doorbell.wait(timeout);
    }
}

/// A consumer that joins the group in the background.
fn member(settings: &KafkaSettings) -> anyhow::Result<Arc<BaseConsumer<Membership>>> {
    let consumer: BaseConsumer<Membership> = settings.consumer().create_with_context(Membership::default())?;
    consumer.subscribe(&[&settings.topic])?;
    Ok(Arc::new(consumer))
}

fn last_offset(batch: &MessageBatch) -> Option<Offset> {
    use crate::log::RecordBatch;
    let last = batch.len().checked_sub(1)?;
    Some(batch.record(last).offset)
}

impl Drop for KafkaLog {
    fn drop(&mut self) {
        // From here on revocations are answered on the spot. A static member keeps its partitions for the session
        // time-out.
        self.consumer.context().close();
    }
}
