//! Committed alerts from the alert topic, on a client of its own.
//!
//! No member of any group, and no commit: partitions are assigned by hand, at a position that is found from the end. A
//! broker that goes away is waited for by librdkafka itself, at the same position; a position that the topic no longer
//! has begins anew at its start.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::Offset as ListOffset;
use rdkafka::types::RDKafkaErrorCode;

use crate::clock;
use crate::log::kafka::membership::Membership;
use crate::log::kafka::reader::partition_count;
use crate::log::kafka::settings::KafkaSettings;
use crate::log::{AlertFeed, AlertFeeds, CommittedAlert};

const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the first reading may take beyond a pause without any record.
const QUIET: Duration = Duration::from_secs(10);
/// Alerts that one call gives at most.
const AT_ONCE: usize = 1_000;
/// How often it is looked whether the topic has more partitions.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// A commit of one alert takes two offsets, its own and that of the transaction's marker.
const OFFSETS_PER_ALERT: i64 = 2;
/// What was aborted takes offsets too: when too few alerts were found, so many times further back is looked.
const FURTHER: i64 = 8;

type Client = BaseConsumer<Membership>;

/// See the module head.
pub struct KafkaFeeds(pub KafkaSettings);

struct KafkaFeed {
    client: Client,
    topic: String,
    /// Read, and not handed out yet.
    ready: VecDeque<CommittedAlert>,
    /// Where each partition goes on.
    next: BTreeMap<i32, i64>,
    looked_at: Instant,
    /// Partitions whose position is gone: to be assigned anew.
    lost: bool,
}

impl AlertFeeds for KafkaFeeds {
    fn open(&self, last: Option<usize>) -> Result<Box<dyn AlertFeed>, String> {
        let client: Client =
            self.0.feed().create_with_context(Membership::default()).map_err(|error| error.to_string())?;
        let mut feed = KafkaFeed {
            client,
            topic: self.0.alerts_topic.clone(),
            ready: VecDeque::new(),
            next: BTreeMap::new(),
            looked_at: clock::monotonic_now(),
            lost: false,
        };
        let bounds = feed.bounds()?;
        match last {
            None => {
                feed.next = bounds.iter().map(|(&partition, &(low, _))| (partition, low)).collect();
                feed.assign()?;
            }
            Some(last) => feed.begin_with_newest(&bounds, last)?,
        }
        Ok(Box::new(feed))
    }
}

impl AlertFeed for KafkaFeed {
    fn next(&mut self, timeout: Duration) -> Result<Vec<CommittedAlert>, String> {
        if self.lost {
            self.begin_lost_again()?;
        }
        if self.looked_at.elapsed() >= LOOK_EVERY {
            self.looked_at = clock::monotonic_now();
            self.take_up_new_partitions();
        }
        let deadline = clock::monotonic_now() + timeout;
        while self.ready.len() < AT_ONCE {
            // Once there is something, only what has arrived already is taken.
            let wait = if self.ready.is_empty() { remaining(deadline) } else { Duration::ZERO };
            match self.poll(wait) {
                Polled::Alert(alert) => self.ready.push_back(alert),
                Polled::End(_) => {}
                Polled::Nothing if remaining(deadline).is_zero() || !self.ready.is_empty() => break,
                Polled::Nothing => {}
                Polled::Lost(why) => {
                    self.lost = true;
                    return Err(why);
                }
            }
        }
        let count = self.ready.len().min(AT_ONCE);
        Ok(self.ready.drain(..count).collect())
    }
}

enum Polled {
    Alert(CommittedAlert),
    /// Nothing more in this partition for now.
    End(i32),
    Nothing,
    Lost(String),
}

impl KafkaFeed {
    /// First offset and stable end of each partition.
    fn bounds(&self) -> Result<BTreeMap<i32, (i64, i64)>, String> {
        let bounds = (0..partition_count(&self.client, &self.topic)?).map(|partition| {
            let bounds = self.client.fetch_watermarks(&self.topic, partition, CALL_TIMEOUT);
            let bounds = bounds.map_err(|error| format!("bounds of {}-{partition}: {error}", self.topic))?;
            Ok((partition, bounds))
        });
        bounds.collect()
    }

    /// Reads the newest alerts of each partition, so that the first call finds them. Offsets say only roughly how many
    /// alerts lie before the end, so it is read from further back until there are enough.
    fn begin_with_newest(&mut self, bounds: &BTreeMap<i32, (i64, i64)>, last: usize) -> Result<(), String> {
        let mut span = i64::try_from(last).unwrap_or(i64::MAX / OFFSETS_PER_ALERT).saturating_mul(OFFSETS_PER_ALERT);
        let mut wanted: BTreeSet<i32> = bounds.keys().copied().collect();
        let mut found: BTreeMap<i32, VecDeque<CommittedAlert>> = BTreeMap::new();
        while !wanted.is_empty() {
            self.next = bounds
                .iter()
                .filter(|(partition, _)| wanted.contains(partition))
                .map(|(&partition, &(low, end))| (partition, end.saturating_sub(span).max(low)))
                .collect();
            let starts = self.next.clone();
            let again = self.read_to_end(bounds)?;
            for (&partition, &start) in &starts {
                let mut alerts = again.get(&partition).cloned().unwrap_or_default();
                let begins_at_start = bounds.get(&partition).is_none_or(|&(low, _)| start <= low);
                if begins_at_start || alerts.len() >= last {
                    alerts.drain(..alerts.len().saturating_sub(last));
                    wanted.remove(&partition);
                    found.insert(partition, alerts);
                }
            }
            span = span.saturating_mul(FURTHER).max(1);
        }
        // From here on, each partition goes on behind what was found.
        self.next = bounds.iter().map(|(&partition, &(_, end))| (partition, end)).collect();
        for (partition, alerts) in found {
            if let Some(newest) = alerts.back() {
                let next = self.next.entry(partition).or_default();
                *next = (*next).max(newest.offset + 1);
            }
            self.ready.extend(alerts);
        }
        self.assign()
    }

    /// What lies between the positions and the ends as of `bounds`, by partition.
    fn read_to_end(
        &mut self,
        bounds: &BTreeMap<i32, (i64, i64)>,
    ) -> Result<BTreeMap<i32, VecDeque<CommittedAlert>>, String> {
        let mut open: BTreeSet<i32> = self
            .next
            .iter()
            .filter(|&(partition, &start)| bounds.get(partition).is_some_and(|&(_, end)| start < end))
            .map(|(&partition, _)| partition)
            .collect();
        let mut found: BTreeMap<i32, VecDeque<CommittedAlert>> = BTreeMap::new();
        if open.is_empty() {
            return Ok(found);
        }
        self.assign()?;
        let mut quiet_since = clock::monotonic_now();
        while !open.is_empty() {
            match self.poll(Duration::from_millis(100)) {
                Polled::Alert(alert) => {
                    quiet_since = clock::monotonic_now();
                    found.entry(alert.partition).or_default().push_back(alert);
                }
                Polled::End(partition) => {
                    open.remove(&partition);
                }
                Polled::Lost(why) => return Err(why),
                Polled::Nothing if quiet_since.elapsed() > QUIET => {
                    return Err(format!("topic {} could not be read to its end in time", self.topic));
                }
                Polled::Nothing => {}
            }
        }
        Ok(found)
    }

    fn assign(&self) -> Result<(), String> {
        let mut list = TopicPartitionList::new();
        for (&partition, &offset) in &self.next {
            list.add_partition_offset(&self.topic, partition, ListOffset::Offset(offset))
                .map_err(|error| error.to_string())?;
        }
        self.client.assign(&list).map_err(|error| error.to_string())
    }

    fn poll(&mut self, wait: Duration) -> Polled {
        let polled = match self.client.poll(wait) {
            None => Polled::Nothing,
            Some(Ok(message)) => Polled::Alert(committed(&message)),
            Some(Err(KafkaError::PartitionEOF(partition))) => Polled::End(partition),
            Some(Err(error)) if is_lost_position(&error) => {
                Polled::Lost(format!("the position in topic {} is gone: {error}", self.topic))
            }
            // librdkafka connects again by itself.
            Some(Err(error)) => {
                tracing::debug!("reading alerts: {error}");
                Polled::Nothing
            }
        };
        self.client.context().take_events();
        if let Polled::Alert(alert) = &polled {
            self.next.insert(alert.partition, alert.offset + 1);
        }
        polled
    }

    /// Positions outside of the topic go to its start: it was truncated, or deleted and made anew.
    fn begin_lost_again(&mut self) -> Result<(), String> {
        let bounds = self.bounds()?;
        self.next = bounds
            .into_iter()
            .map(|(partition, (low, end))| {
                let kept = self.next.get(&partition).copied().filter(|next| (low..=end).contains(next));
                (partition, kept.unwrap_or(low))
            })
            .collect();
        self.assign()?;
        self.lost = false;
        Ok(())
    }

    /// A partition that was added is read from its start. A broker that does not answer is asked the next time.
    fn take_up_new_partitions(&mut self) {
        let Ok(count) = partition_count(&self.client, &self.topic) else { return };
        let before = self.next.len();
        for partition in 0..count {
            self.next.entry(partition).or_insert(0);
        }
        if self.next.len() > before && self.assign().is_err() {
            self.lost = true;
        }
    }
}

fn committed(message: &BorrowedMessage<'_>) -> CommittedAlert {
    CommittedAlert {
        partition: message.partition(),
        offset: message.offset(),
        timestamp_ms: message.timestamp().to_millis().unwrap_or(0),
        value: message.payload().unwrap_or_default().to_vec(),
    }
}

/// With `auto.offset.reset=error` such a partition is not read on until it is assigned again.
fn is_lost_position(error: &KafkaError) -> bool {
    matches!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange))
}

fn remaining(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(clock::monotonic_now())
}
