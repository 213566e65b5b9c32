//! A writer under test, with everything it says; and rows by the handful.

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use tallyguard::domain::ids::{Offset, PartitionId};
use tallyguard::domain::statistics::{OrderRow, StatisticsFlush, StatisticsRow};
use tallyguard::domain::time::{EventTime, Watermark, WindowStart};
use tallyguard::stats::{Identity, StatisticsWriter, StatsEvent, StatsHandle, StatsOptions, Target};

use crate::support::{Schema, unique_name};

/// 2026-11-20T10:00:00Z.
pub const MINUTE: i64 = 1_795_168_800_000;
const PATIENCE: Duration = Duration::from_secs(60);

pub fn identity() -> Identity {
    Identity {
        cluster_id: "cluster-1".to_owned(),
        topic: "transactions".to_owned(),
        topic_id: "topic-1".to_owned(),
        group: "tallyguard".to_owned(),
    }
}

pub fn target(url: &str) -> Target {
    url.parse().unwrap_or_else(|reason: Option<String>| panic!("{reason:?}"))
}

pub fn options_for(schema: &Schema) -> StatsOptions {
    options_to(target(&schema.url_with_password))
}

pub fn options_to(connect: Target) -> StatsOptions {
    StatsOptions {
        connect,
        batch_rows: 1_000,
        migrate: true,
        orders: true,
        identity: identity(),
        statement_timeout: Duration::from_secs(30),
    }
}

/// The same schema through another account.
pub fn options_as(schema: &Schema, user: &str, password: &str) -> StatsOptions {
    let options = options_for(schema);
    let Target::MySql(connect) = options.connect else { panic!("a URL of MySQL") };
    let connect = connect.username(user).password(password);
    StatsOptions { connect: Target::MySql(Box::new(connect)), ..options }
}

pub struct TestWriter {
    pub handle: StatsHandle,
    events: Mutex<Receiver<StatsEvent>>,
}

impl TestWriter {
    pub fn spawn(options: StatsOptions) -> Self {
        let (sender, events) = channel();
        let handle = StatisticsWriter::spawn(options, move |event| drop(sender.send(event))).expect("a thread");
        Self { handle, events: Mutex::new(events) }
    }

    /// All events up to and including the first that is wanted.
    #[track_caller]
    pub fn until(&self, wanted: impl Fn(&StatsEvent) -> bool) -> Vec<StatsEvent> {
        let mut seen = Vec::new();
        loop {
            match self.events.lock().expect("one test, one thread").recv_timeout(PATIENCE) {
                Ok(event) => seen.push(event),
                Err(error) => panic!("{error}: the event did not come; seen {seen:?}"),
            }
            if seen.last().is_some_and(&wanted) {
                return seen;
            }
        }
    }

    #[track_caller]
    pub fn until_connected(&self) -> Vec<StatsEvent> {
        self.until(|event| *event == StatsEvent::Connected)
    }

    #[track_caller]
    pub fn until_unavailable(&self) -> String {
        match self.until(|event| matches!(event, StatsEvent::Unavailable { .. })).pop() {
            Some(StatsEvent::Unavailable { error }) => error,
            other => panic!("{other:?}"),
        }
    }

    /// Submits, waits for the acknowledgement, and returns what was said until then.
    #[track_caller]
    pub fn write(&self, flush: StatisticsFlush) -> Vec<StatsEvent> {
        let acknowledgement = StatsEvent::Acknowledged { partition: flush.partition, through: flush.through };
        self.handle.submit(flush).expect("one flush at a time");
        self.until(|event| *event == acknowledgement)
    }

    pub fn is_silent_for(&self, time: Duration) -> bool {
        let event = self.events.lock().expect("one test, one thread").recv_timeout(time);
        matches!(event, Err(RecvTimeoutError::Timeout))
    }
}

pub fn schema_name() -> String {
    unique_name("statistics").replace('-', "_")
}

pub fn flush(partition: i32, through: i64, rows: Vec<StatisticsRow>) -> StatisticsFlush {
    StatisticsFlush {
        partition: PartitionId(partition),
        through: Offset(through),
        watermark: Watermark(MINUTE - 60_000),
        rows,
        orders: Vec::new(),
    }
}

/// A row whose measures follow from its offset.
pub fn row(merchant_id: &str, source_offset: i64) -> StatisticsRow {
    let count = u64::try_from(source_offset).expect("not negative") + 1;
    StatisticsRow {
        minute: WindowStart(MINUTE),
        merchant_id: merchant_id.into(),
        currency: *b"EUR",
        transaction_count: count,
        order_count: count,
        amount_minor: i128::from(count) * 100,
        max_amount_minor: 100 + source_offset,
        source_offset: Offset(source_offset),
    }
}

pub fn order(order_id: &str, source_offset: i64, amount_minor: i64) -> OrderRow {
    OrderRow {
        order_id: order_id.into(),
        user_id: "u-1".into(),
        merchant_id: "m-1".into(),
        amount_minor,
        currency: *b"EUR",
        status: None,
        event_time: EventTime(MINUTE + 1_234),
        source_offset: Offset(source_offset),
    }
}
