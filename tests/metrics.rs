//! Every metric of the contract moves when what it counts happens, on a running service; the few that need a broken disk or
//! broker are moved by the call that the engine makes then.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "tests watch real processes and need the real clock")]

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::process::GuardedDir;
use support::service::http_get;
use support::{MetricsText, Service, free_port, wait_until_or_show};
use tallyguard::domain::ids::PartitionId;
use tallyguard::log::embedded::{EmbeddedStore, OwnedRecord};
use tallyguard::observe::metrics::{self, BackpressureStage, TransactionResult};

const PATIENCE: Duration = Duration::from_secs(60);
const BULK: usize = 100_000;

fn transaction(user: &str, id: usize, second: i64) -> Value {
    json!({
        "transaction_id": format!("{user}-{id}"), "order_id": format!("o-{id}"), "user_id": user, "merchant_id": "m-1",
        "amount_minor": 100, "currency": "EUR", "event_time": 1_767_225_600_000_i64 + second * 1_000,
    })
}

fn record(value: &Value, key: Option<&str>) -> (PartitionId, OwnedRecord) {
    let record = OwnedRecord {
        timestamp_ms: 1_767_225_600_000 + 3_600_000,
        key: key.map(|key| key.as_bytes().to_vec()),
        value: Some(value.to_string().into_bytes()),
        headers: Vec::new(),
    };
    (PartitionId(0), record)
}

/// One of everything, behind so much that the actors are kept busy.
fn records() -> Vec<(PartitionId, OwnedRecord)> {
    let user = |number: usize| format!("u-{}", number % 5_000);
    let mut records: Vec<_> =
        (0..BULK).map(|number| record(&transaction(&user(number), number, 0), Some(&user(number)))).collect();
    records.extend((0..11).map(|number| record(&transaction("u-burst", number, 400), Some("u-burst"))));
    records.push(record(&transaction("u-burst", 10, 400), Some("u-burst")));
    records.push(record(&transaction("u-late", 1, 0), Some("u-late")));
    records.push(record(&json!({"no": "transaction"}), Some("u-dead")));
    records.push(record(&transaction("u-keyless", 1, 400), None));
    records
}

/// Over all labels.
fn total(page: &MetricsText, name: &str) -> f64 {
    page.samples.iter().filter(|((found, _), _)| found == name).map(|(_, value)| value).sum()
}

struct Watched {
    service: Service,
    port: u16,
}

impl Watched {
    fn page(&self) -> MetricsText {
        let (status, text) = http_get(self.port, "/metrics");
        assert_eq!(status, 200, "{text}");
        MetricsText::read(text)
    }

    /// Waits until all of these hold at once.
    fn until(&self, what: &str, holds: impl Fn(&MetricsText) -> bool) {
        let show = || format!("{}\n{}", self.page().text, self.service.log());
        wait_until_or_show(PATIENCE, what, show, || holds(&self.page()));
    }
}

#[test]
fn the_metrics_of_a_running_service_move_with_what_they_count() {
    let dir = GuardedDir::new("tallyguard-metrics-");
    let path = |name: &str| dir.path().join(name);
    let store = EmbeddedStore::open(&path("log"), 1).expect("a log");
    for chunk in records().chunks(5_000) {
        store.append_to(chunk).expect("appended");
    }
    drop(store);
    let port = free_port();
    let toml = format!(
        "[instance]\nid = 'a'\nstate_dir = '{}'\n[source]\nkind = 'embedded'\n[embedded]\ndir = '{}'\npartitions = 1\n\
         [time]\nout_of_orderness = '5s'\n[checkpoint]\ninterval = '300ms'\nmin_pause = '50ms'\n\
         [stats]\nurl = 'sqlite:{}'\nflush_interval = '50ms'\n[http]\nlisten = '127.0.0.1:{port}'\n",
        path("state").display(),
        path("log").display(),
        path("away/statistics.sqlite").display(),
    );
    let mut watched = Watched { service: Service::start(&toml, dir.path(), &[]), port };
    // How it moves is tested with the status board: here the service is too fast to be seen behind.
    let lag = |page: &MetricsText| page.value("tallyguard_consumer_lag_records", "partition=\"0\"");
    watched.service.wait_ready(PATIENCE);
    watched.until("the records are taken in", |page| {
        let outcome = |word: &str| page.value("tallyguard_records_total", &format!("outcome=\"{word}\""));
        outcome("counted") == Some(100_012.0)
            && outcome("duplicate") == Some(1.0)
            && outcome("late") == Some(1.0)
            && outcome("dead_letter") == Some(1.0)
    });
    watched.until("the alert is committed", |page| {
        let above_none = |name: &str, labels: &str| page.value(name, labels).is_some_and(|value| value > 0.0);
        above_none("tallyguard_alerts_total", "rule=\"velocity-1m\"")
            && above_none("tallyguard_transactions_total", "result=\"committed\"")
            && above_none("tallyguard_commit_duration_seconds_count", "")
            && above_none("tallyguard_alert_latency_seconds_count", "")
            && above_none("tallyguard_recovery_duration_seconds_count", "")
            && above_none("tallyguard_checkpoint_duration_seconds_count", "")
            && above_none("tallyguard_checkpoint_last_success_timestamp_seconds", "")
            // Between two checkpoints: the first has no other before it.
            && page.value("tallyguard_checkpoint_interval_seconds", "").is_some()
            && above_none("tallyguard_watermark_lag_seconds", "partition=\"0\"")
            && above_none("tallyguard_open_users", "")
            && above_none("tallyguard_backpressure_seconds_total", "stage=\"actors\"")
            // Whole seconds.
            && page.value("process_cpu_seconds_total", "").is_some()
            && above_none("process_resident_memory_bytes", "")
            && page.value("tallyguard_key_mismatch_total", "") == Some(1.0)
    });
    watched.until("rows wait for the database that is away", |page| {
        page.value("tallyguard_stats_pending_rows", "").is_some_and(|rows| rows > 0.0)
            && total(page, "tallyguard_stats_errors_total") > 0.0
    });
    std::fs::create_dir(path("away")).expect("the folder of the database");
    watched.until("the database has the rows", |page| {
        page.value("tallyguard_stats_pending_rows", "") == Some(0.0)
            && page.value("tallyguard_stats_flush_duration_seconds_count", "").is_some_and(|flushes| flushes > 0.0)
    });
    watched.until("it has caught up", |page| lag(page) == Some(0.0));

    // Killed and without its snapshots it reads again what the open windows need.
    watched.service.kill9();
    std::fs::remove_dir_all(path("state")).expect("the state");
    let store = EmbeddedStore::open(&path("log"), 1).expect("the log");
    for chunk in records().chunks(5_000) {
        store.append_to(chunk).expect("appended");
    }
    drop(store);
    watched.service = Service::start(&toml, dir.path(), &[]);
    watched.service.wait_ready(PATIENCE);
    watched.until("records were replayed", |page| {
        page.value("tallyguard_replayed_records_total", "").is_some_and(|replayed| replayed > 0.0)
    });
}

/// What only a broken disk or a broker in trouble moves.
#[test]
fn the_metrics_of_troubles_move_with_the_calls_that_the_engine_makes_then() {
    let page = metrics::install();
    let value = |name: &str, labels: &str| {
        let text = page.render(&tallyguard::observe::report::StatusReport::of(tallyguard::observe::report::About {
            instance_id: "a".to_owned(),
            group: "g".to_owned(),
            topic: "t".to_owned(),
            mode: "exactly-once".to_owned(),
            started_at_ms: 0,
            statistics_enabled: true,
            tolerable_checkpoint_failures: 3,
            rules: Vec::new(),
        }));
        MetricsText::read(text).value(name, labels).unwrap_or(0.0)
    };
    let aborted = || value("tallyguard_transactions_total", "result=\"aborted\"");
    let failures = || value("tallyguard_checkpoint_failures_total", "");
    let waited = || value("tallyguard_backpressure_seconds_total", "stage=\"outputs\"");
    let given_up = || value("tallyguard_outputs_given_up_total", "");
    assert_eq!((aborted(), failures(), waited(), given_up()), (0.0, 0.0, 0.0, 0.0));
    metrics::transaction(TransactionResult::Aborted);
    metrics::checkpoint_failed();
    metrics::backpressure(BackpressureStage::Outputs, Duration::from_millis(250));
    metrics::outputs_given_up(3);
    assert_eq!((aborted(), failures(), waited(), given_up()), (1.0, 1.0, 0.25, 3.0));
}
