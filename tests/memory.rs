//! How much memory an open user takes: what a million of them in one partition cost on the heap.
#![allow(unsafe_code, reason = "a global allocator that counts cannot be written without")]
#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tallyguard::domain::duration::Millis;
use tallyguard::domain::ids::{Offset, PartitionId};
use tallyguard::domain::partition::PartitionState;
use tallyguard::domain::record::SourceRecord;
use tallyguard::domain::rule::{Parameters, Rule, RuleHistory, Severity};
use tallyguard::domain::time::Watermark;
use tallyguard::domain::window::Position;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: every call is passed on to the system's allocator unchanged; the counters touch no memory of the caller.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(held, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const USERS: usize = 1_000_000;
const BYTES_MAX: usize = 400;

#[test]
fn an_open_user_takes_at_most_400_bytes() {
    let rule = Rule {
        id: "velocity-1h".to_owned(),
        version: 1,
        window: Millis(3_600_000),
        window_text: "1h".to_owned(),
        max_transactions: 10,
        severity: Severity::High,
    };
    let parameters = Parameters {
        rules: vec![RuleHistory::starting(rule, Offset(0))],
        out_of_orderness: Millis(60_000),
        max_future_skew: Millis(60_000),
        statistics: false,
        orders: false,
    };
    let before = HELD.load(Ordering::Relaxed);
    let from = Position { offset: Offset(0), watermark: Watermark::NONE };
    let (topic, partition) = (Arc::from("transactions"), PartitionId(0));
    let mut state = PartitionState::new(topic, partition, Arc::new(parameters), from, Watermark::NONE);
    let (mut value, mut outputs) = (String::new(), Vec::new());
    for user in 0..USERS {
        value.clear();
        write!(
            value,
            r#"{{"transaction_id":"t-{user}","order_id":"o-{user}","user_id":"u-{user}","merchant_id":"m-1","amount_minor":1299,"currency":"EUR","event_time":1795168800000}}"#
        )
        .expect("a string takes everything");
        let offset = Offset(i64::try_from(user).expect("small"));
        let record = SourceRecord { offset, timestamp_ms: None, key: None, value: Some(value.as_bytes()) };
        state.apply(&record, &mut outputs);
    }
    assert_eq!((state.open_users(), outputs.len()), (USERS, 0));
    let held = (HELD.load(Ordering::Relaxed) - before) / USERS;
    let peak = (PEAK.load(Ordering::Relaxed) - before) / USERS;
    eprintln!("{held} bytes per open user ({peak} at the peak, while a table grows)");
    assert!((40..=BYTES_MAX).contains(&held), "{held} bytes per open user");
}
