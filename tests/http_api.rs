//! Health, readiness, metrics and status as an operator's tools see them: over a socket.
//!
//! Guards against what makes such an interface worthless: a service that looks ready while it is stuck, a metric that
//! an alarm is built on and that is not there, the lag of a partition that left long ago, and text that breaks the page.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "tests watch a real server and need the real clock")]

#[path = "support/prometheus_text.rs"]
mod prometheus_text;

// Stand-ins for the parts of the engine that the pages ask.
#[path = "http_api/doubles.rs"]
mod doubles;

// Partitions, statistics, checkpoints, users: answers and refusals.
#[path = "http_api/state.rs"]
mod state;

// The list and the stream of alerts: order, gaps, slow clients, too many clients.
#[path = "http_api/alerts.rs"]
mod alerts;

// Transactions over HTTP: results line by line, and every refusal.
#[path = "http_api/transactions.rs"]
mod transactions;

// The generated description against real answers.
#[path = "http_api/openapi.rs"]
mod openapi;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;
use std::{env, fs, io, thread};

use prometheus_text::MetricsText;
use serde_json::{Value, json};
use tallyguard::clock;
use tallyguard::config::Secret;
use tallyguard::domain::duration::Millis;
use tallyguard::domain::ids::{Offset, PartitionId};
use tallyguard::domain::partition::{Outcome, Progress};
use tallyguard::domain::rule::Severity;
use tallyguard::domain::time::Watermark;
use tallyguard::domain::window::Position;
use tallyguard::http::{self, Options, Ports, Served};
use tallyguard::observe::metrics::{self, BackpressureStage, TransactionResult};
use tallyguard::observe::report::{PartitionRefusal, RuleReport, StatusReport};
use tallyguard::observe::status::{About, CommitSummary, Now, RecordCounts, Standing, StatusBoard};

const STARTED_MS: i64 = 1_763_700_000_000;
const NOW: Now = Now { wall_ms: STARTED_MS + 60_000, monotonic_ms: 1_000_000 };

/// The names that contract §9 promises, one by one and without the code's constants; `process_*` stands for its family.
const PROMISED: &[&str] = &[
    "tallyguard_records_total",
    "tallyguard_alerts_total",
    "tallyguard_transactions_total",
    "tallyguard_commit_duration_seconds",
    "tallyguard_alert_latency_seconds",
    "tallyguard_checkpoint_duration_seconds",
    "tallyguard_checkpoint_interval_seconds",
    "tallyguard_checkpoint_failures_total",
    "tallyguard_checkpoint_last_success_timestamp_seconds",
    "tallyguard_consumer_lag_records",
    "tallyguard_watermark_lag_seconds",
    "tallyguard_backpressure_seconds_total",
    "tallyguard_stats_pending_rows",
    "tallyguard_stats_flush_duration_seconds",
    "tallyguard_stats_errors_total",
    "tallyguard_recovery_duration_seconds",
    "tallyguard_replayed_records_total",
    "tallyguard_open_users",
    "tallyguard_key_mismatch_total",
    "tallyguard_partitions_owned",
    "tallyguard_partitions_refused",
    "tallyguard_ready",
    "tallyguard_producer_replacements_total",
    "tallyguard_replay_distance_records",
    "tallyguard_stats_rows_set_aside_total",
    "process_cpu_seconds_total",
    "process_open_fds",
    "process_max_fds",
    "process_virtual_memory_bytes",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "process_threads",
];

fn board(instance_id: &str) -> StatusBoard {
    StatusBoard::new(About {
        instance_id: instance_id.to_owned(),
        group: "tallyguard".to_owned(),
        topic: "transactions".to_owned(),
        mode: "exactly-once".to_owned(),
        started_at_ms: STARTED_MS,
        statistics_enabled: true,
        tolerable_checkpoint_failures: 3,
        rules: vec![RuleReport {
            id: "velocity-1m".to_owned(),
            version: 1,
            window: "1m".to_owned(),
            max_transactions: 10,
            severity: Severity::High,
        }],
    })
}

/// An instance in which everything that can be told was told: partition 0 live, 1 refused, 2 waiting.
fn eventful() -> StatusBoard {
    let board = board("risk-1");
    board.connected("cluster-1");
    board.joined();
    board.recovering(PartitionId(2), Some("offsets are pending"));
    board.recovering(PartitionId(0), None);
    let standing = Standing {
        next: Offset(1_200),
        watermark: Watermark(STARTED_MS + 30_500),
        open_users: 17,
        statistics_pending_rows: 5,
    };
    let counts =
        RecordCounts { counted: 1_000, duplicate: 20, late: 3, dead_letter: 2, replayed: 175, key_mismatch: 1 };
    board.applied(PartitionId(0), standing, counts, NOW);
    let position = |offset| Position { offset: Offset(offset), watermark: Watermark::NONE };
    let progress = Progress {
        next: position(1_150),
        final_through: Watermark(STARTED_MS),
        horizon: position(900),
        statistics_horizon: position(850),
        statistics_gap: None,
    };
    board.positions(PartitionId(0), Some(Offset(1_230)), Some(progress));
    board.live(PartitionId(0));
    board.refused(
        PartitionId(1),
        PartitionRefusal {
            code: "log_truncated".to_owned(),
            reason: "the topic no longer holds records from offset 5 on; it begins at 9".to_owned(),
            remedy: "restore the topic".to_owned(),
        },
    );
    let summary = CommitSummary { duration: Duration::from_millis(7), alerts: 4, late: 3, dead_letters: 2 };
    board.committed(summary, &[(PartitionId(0), Offset(1_190))], NOW);
    board.aborted("the coordinator moved", Now { monotonic_ms: NOW.monotonic_ms - 12_000, ..NOW });
    board.producer_replaced();
    board.kafka_trouble("a broker is down", NOW);
    board.statistics_acknowledged(PartitionId(0), Offset(850), NOW);
    board.statistics_under_way(8);
    board.statistics_unavailable("access denied", NOW);
    board.statistics_set_aside(2, "1406", NOW);
    board.checkpoint_stored(Duration::from_millis(30), 4_096, Now { wall_ms: NOW.wall_ms - 10_000, ..NOW });
    board.checkpoint_stored(Duration::from_millis(25), 8_192, NOW);
    board.checkpoint_failed(2, "no space", NOW);
    board.heartbeat(NOW.monotonic_ms - 40);
    board
}

/// An instance that does its work, as seen through the real clock.
fn working() -> StatusBoard {
    let board = board("risk-1");
    board.connected("cluster-1");
    board.joined();
    board.statistics_connected();
    board.recovering(PartitionId(0), None);
    board.live(PartitionId(0));
    board.heartbeat(clock::monotonic_ms());
    board
}

const TOKEN: &str = "a-token.of_this-test";

fn served(board: &StatusBoard, ports: &Ports) -> Served {
    let options = Options {
        admin_token: Some(Secret::new(TOKEN)),
        takes_transactions: true,
        max_future_skew: Millis(60_000),
        checkpoints_retained: 3,
    };
    Served { board: board.clone(), metrics: metrics::install(), ports: ports.clone(), options }
}

/// Serves the board on a free port until the test process ends.
fn serve(board: &StatusBoard) -> SocketAddr {
    serve_all(served(board, &Ports::default()))
}

fn serve_all(served: Served) -> SocketAddr {
    let (answer, address) = mpsc::channel();
    thread::spawn(move || {
        actix_web::rt::System::new().block_on(async move {
            let free = SocketAddr::from(([127, 0, 0, 1], 0));
            let (server, address) = http::serve(free, served).unwrap();
            answer.send(address).unwrap();
            server.await.unwrap();
        });
    });
    address.recv_timeout(Duration::from_secs(30)).unwrap()
}

struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

fn ask(method: &str, address: SocketAddr, path: &str) -> Answer {
    send(method, address, path, &[], b"")
}

fn send(method: &str, address: SocketAddr, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let mut request = ureq::http::Request::builder().method(method).uri(format!("http://{address}{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .allow_non_standard_methods(true)
        .timeout_global(Some(Duration::from_secs(30)))
        .build()
        .into();
    let mut response = if body.is_empty() {
        agent.run(request.body(()).unwrap()).unwrap()
    } else {
        agent.run(request.body(body).unwrap()).unwrap()
    };
    let headers = response.headers().iter();
    let headers = headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
    let body = response.body_mut().with_config().limit(100_000_000).read_to_string().unwrap();
    Answer { status: response.status().as_u16(), headers, body }
}

/// A POST by whoever has the token.
fn post(address: SocketAddr, path: &str, body: &[u8]) -> Answer {
    send("POST", address, path, &[("Authorization", &format!("Bearer {TOKEN}"))], body)
}

#[track_caller]
fn assert_problem(answer: &Answer, status: u16, error: &str, message: &str) {
    let problem = answer.json();
    assert_eq!((answer.status, &problem["error"]), (status, &json!(error)), "{problem}");
    assert!(problem["message"].as_str().unwrap().contains(message), "{problem}");
    let is_retried = answer.headers.contains_key("retry-after");
    assert_eq!(is_retried, status == 503, "only what may work later says when: {problem}");
}

fn get(address: SocketAddr, path: &str) -> Answer {
    ask("GET", address, path)
}

#[test]
fn readiness_answers_503_with_reasons_until_the_work_is_done_while_health_stays_200() {
    let board = board("risk-1");
    let address = serve(&board);
    let answer = get(address, "/readyz");
    assert_eq!(answer.status, 503);
    assert_eq!(answer.json()["ready"], json!(false));
    assert_eq!(answer.json()["reasons"], json!(["the service is starting: its log has not been reached yet"]));
    let health = get(address, "/healthz");
    assert_eq!((health.status, health.json()), (200, json!({"alive": true})));

    board.connected("cluster-1");
    board.joined();
    board.heartbeat(clock::monotonic_ms());
    let answer = get(address, "/readyz");
    assert_eq!((answer.status, answer.json()), (200, json!({"ready": true, "reasons": []})));
}

#[test]
fn an_io_thread_that_no_longer_comes_round_turns_readiness_off_and_the_gauge_with_it() {
    let board = working();
    let address = serve(&board);
    assert_eq!(get(address, "/readyz").status, 200);
    assert_eq!(scrape(address).value("tallyguard_ready", ""), Some(1.0));
    // The last heartbeat was six seconds ago; nothing else has to happen.
    while clock::monotonic_ms() < 6_000 {
        thread::sleep(Duration::from_millis(100));
    }
    board.heartbeat(clock::monotonic_ms() - 6_000);
    let answer = get(address, "/readyz");
    assert_eq!(answer.status, 503);
    assert_eq!(answer.json()["reasons"], json!(["the I/O thread has not come round for 6 s"]));
    assert_eq!(get(address, "/healthz").status, 200);
    assert_eq!(scrape(address).value("tallyguard_ready", ""), Some(0.0));
}

#[test]
fn every_answer_carries_headers_that_keep_a_browser_from_guessing_framing_and_keeping() {
    let address = serve(&working());
    for path in
        ["/", "/dashboard.js", "/dashboard.css", "/healthz", "/readyz", "/metrics", "/api/v1/status", "/nowhere"]
    {
        let headers = get(address, path).headers;
        assert_eq!(headers["x-content-type-options"], "nosniff", "{path}");
        let policy = &headers["content-security-policy"];
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!(headers["cache-control"], "no-store", "{path}");
    }
    assert_eq!(get(address, "/").headers["content-type"], "text/html; charset=utf-8");
    assert_eq!(get(address, "/dashboard.js").headers["content-type"], "text/javascript; charset=utf-8");
    assert_eq!(get(address, "/dashboard.css").headers["content-type"], "text/css; charset=utf-8");
    assert_eq!(get(address, "/metrics").headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    assert_eq!(get(address, "/api/v1/status").headers["content-type"], "application/json");
}

#[test]
fn unknown_paths_are_404_and_methods_that_a_path_does_not_have_are_405() {
    let address = serve(&working());
    for path in ["/nowhere", "/api/v1/status/more", "/metrics/", "/api/v1/users", "/api/v1/users/a/b", "/api/v1/users/"]
    {
        let answer = get(address, path);
        assert_eq!((answer.status, &answer.json()["error"]), (404, &json!("not_found")), "{path}");
    }
    let read_only = [
        "/",
        "/dashboard.js",
        "/healthz",
        "/readyz",
        "/metrics",
        "/api/v1/status",
        "/api/v1/partitions",
        "/api/v1/users/u",
        "/api/v1/alerts",
        "/api/v1/alerts/stream",
        "/api/v1/stats",
        "/api/v1/openapi.json",
    ];
    let allowed = read_only.map(|path| (path, "GET, HEAD")).into_iter();
    for (path, allowed) in allowed.chain([("/api/v1/checkpoints", "GET, HEAD, POST"), ("/api/v1/transactions", "POST")])
    {
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH"].into_iter().filter(|it| !allowed.contains(it)) {
            let answer = ask(method, address, path);
            assert_eq!(answer.headers["allow"], allowed, "{method} {path}");
            assert_problem(&answer, 405, "method_not_allowed", method);
        }
    }
    for path in ["/healthz", "/api/v1/alerts/stream"] {
        let head = ask("HEAD", address, path);
        assert_eq!((head.status, head.body.as_str()), (200, ""), "{path}");
    }
}

#[test]
fn a_port_that_is_taken_is_an_error_in_words() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let Err(error) = http::serve(taken.local_addr().unwrap(), served(&board("risk-1"), &Ports::default())) else {
        panic!("the server listens on a port of somebody else");
    };
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    assert_eq!(error.to_string(), "another process listens on this address already");
}

#[test]
fn the_page_says_the_state_in_words_and_escapes_what_it_did_not_write_itself() {
    let board = eventful();
    board.kafka_trouble("<script>alert('x')</script> & more", NOW);
    let page = get(serve(&board), "/").body;
    assert!(page.contains("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; more"), "{page}");
    assert_eq!(page.matches("<script").count(), 1, "its own, from a path of its own: {page}");
    assert!(!page.contains("style=") && !page.contains("<style") && !page.contains("onclick"), "{page}");
    assert!(page.contains("Exactly once: stopped. Partition 1 is held"), "{page}");
    assert!(page.contains("not ready"), "{page}");
    assert!(page.contains("partition 1 is refused: the topic no longer holds records from offset 5 on"), "{page}");
    for link in ["/api/v1/status", "/api/v1/alerts", "/api/v1/openapi.json", "/metrics", "/readyz", "/healthz"] {
        assert!(page.contains(&format!("href=\"{link}\"")), "{link} is not linked: {page}");
    }
}

#[test]
fn the_status_report_keeps_its_form() {
    let report = eventful().snapshot_at(NOW);
    let mut found = serde_json::to_value(&report).unwrap();
    assert_eq!(found["instance"]["version"], json!(env!("CARGO_PKG_VERSION")));
    found["instance"]["version"] = json!("any");
    assert_golden("tests/fixtures/status.v1.json", &found);
    let schema = schemars::schema_for!(StatusReport);
    assert_golden("schemas/status.v1.json", schema.as_value());
}

#[test]
fn the_status_over_http_is_the_report() {
    let status = get(serve(&eventful()), "/api/v1/status").json();
    assert_eq!(status["partitions"][0]["replay_distance_records"], json!(1_190 - 850));
    assert_eq!(status["partitions"][0]["lag_records"], json!(1_230 - 1_200));
    assert_eq!(status["partitions"][1]["phase"], json!("refused"));
    assert_eq!(status["partitions"][1]["remedy"], json!("restore the topic"));
    assert_eq!(status["statistics"]["pending_rows"], json!(5 + 8));
}

/// Compares with a file of the project. `TALLYGUARD_WRITE_GOLDEN=1` writes it instead, for a change that is meant.
fn assert_golden(path: &str, found: &Value) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path);
    let text = serde_json::to_string_pretty(found).unwrap() + "\n";
    if env::var_os("TALLYGUARD_WRITE_GOLDEN").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &text).unwrap();
    }
    let golden = fs::read_to_string(&path).unwrap_or_default();
    assert!(golden == text, "{} is not what it was; found:\n{text}", path.display());
}

#[test]
fn every_promised_metric_is_on_the_page_from_the_start_described_and_readable() {
    let page = scrape(serve(&board("risk-1")));
    let missing: Vec<_> = PROMISED.iter().filter(|name| !page.kinds.contains_key(**name)).collect();
    assert!(missing.is_empty(), "not on the page: {missing:?}");
    let own: BTreeSet<_> =
        page.kinds.keys().filter(|name| name.starts_with("tallyguard_")).map(String::as_str).collect();
    let promised: BTreeSet<_> = PROMISED.iter().copied().filter(|name| name.starts_with("tallyguard_")).collect();
    assert_eq!(own, promised, "a metric is not in the list of the contract");
    // Per-partition series come with a partition; everything else has a value at once.
    let later =
        ["tallyguard_consumer_lag_records", "tallyguard_watermark_lag_seconds", "tallyguard_replay_distance_records"];
    for name in promised.iter().filter(|name| !later.contains(name)) {
        let name = if page.kinds[*name] == "histogram" { format!("{name}_count") } else { (*name).to_owned() };
        assert!(page.samples.iter().any(|(sample, _)| sample.0 == name), "{name} has no value");
    }
    for (name, label) in [
        ("tallyguard_records_total", "outcome=\"counted\""),
        ("tallyguard_records_total", "outcome=\"duplicate\""),
        ("tallyguard_records_total", "outcome=\"late\""),
        ("tallyguard_records_total", "outcome=\"dead_letter\""),
        ("tallyguard_transactions_total", "result=\"committed\""),
        ("tallyguard_transactions_total", "result=\"aborted\""),
        ("tallyguard_alerts_total", "rule=\"velocity-1m\""),
        ("tallyguard_backpressure_seconds_total", "stage=\"actors\""),
        ("tallyguard_backpressure_seconds_total", "stage=\"outputs\""),
    ] {
        assert!(page.value(name, label).is_some(), "{name}{{{label}}} has no value");
    }
}

#[test]
fn what_the_engine_counts_is_what_a_scraper_reads() {
    let address = serve(&working());
    let before = scrape(address);
    metrics::records(Outcome::Counted, 1_000);
    metrics::records(Outcome::DeadLetter, 2);
    metrics::alerts("velocity-1m", 3);
    metrics::transaction(TransactionResult::Aborted);
    metrics::commit_duration(Duration::from_millis(6));
    metrics::alert_latency(Duration::from_millis(45));
    metrics::backpressure(BackpressureStage::Outputs, Duration::from_millis(250));
    metrics::recovered(Duration::from_secs(2));
    metrics::checkpoint_stored(Duration::from_millis(80));
    metrics::stats_flushed(Duration::from_millis(9));
    metrics::checkpoint_failed();
    metrics::stats_error(metrics::StatsErrorKind::Unavailable);
    metrics::stats_rows_set_aside(2);
    metrics::producer_replaced();
    metrics::replayed_records(70);
    metrics::key_mismatches(5);
    let after = scrape(address);
    for (name, label, rise) in [
        ("tallyguard_records_total", "outcome=\"counted\"", 1_000.0),
        ("tallyguard_records_total", "outcome=\"late\"", 0.0),
        ("tallyguard_records_total", "outcome=\"dead_letter\"", 2.0),
        ("tallyguard_alerts_total", "rule=\"velocity-1m\"", 3.0),
        ("tallyguard_transactions_total", "result=\"aborted\"", 1.0),
        ("tallyguard_commit_duration_seconds_bucket", "le=\"0.005\"", 0.0),
        ("tallyguard_commit_duration_seconds_bucket", "le=\"0.0075\"", 1.0),
        ("tallyguard_commit_duration_seconds_bucket", "le=\"+Inf\"", 1.0),
        ("tallyguard_commit_duration_seconds_sum", "", 0.006),
        ("tallyguard_alert_latency_seconds_count", "", 1.0),
        ("tallyguard_backpressure_seconds_total", "stage=\"outputs\"", 0.25),
        ("tallyguard_recovery_duration_seconds_sum", "", 2.0),
        ("tallyguard_checkpoint_duration_seconds_count", "", 1.0),
        ("tallyguard_stats_flush_duration_seconds_count", "", 1.0),
        ("tallyguard_checkpoint_failures_total", "", 1.0),
        ("tallyguard_stats_errors_total", "kind=\"unavailable\"", 1.0),
        ("tallyguard_stats_rows_set_aside_total", "", 2.0),
        ("tallyguard_producer_replacements_total", "", 1.0),
        ("tallyguard_replayed_records_total", "", 70.0),
        ("tallyguard_key_mismatch_total", "", 5.0),
    ] {
        let found = after.value(name, label).unwrap() - before.value(name, label).unwrap();
        assert!((found - rise).abs() < 1e-9, "{name}{{{label}}} rose by {found}, not by {rise}");
    }
}

#[test]
fn the_gauges_of_a_partition_come_and_go_with_it() {
    let board = eventful();
    let address = serve(&board);
    let page = scrape(address);
    assert_eq!(page.value("tallyguard_consumer_lag_records", "partition=\"0\""), Some(30.0));
    assert_eq!(page.value("tallyguard_replay_distance_records", "partition=\"0\""), Some(340.0));
    assert!(page.value("tallyguard_watermark_lag_seconds", "partition=\"0\"").unwrap() > 0.0);
    assert_eq!(page.value("tallyguard_open_users", ""), Some(17.0));
    assert_eq!(page.value("tallyguard_stats_pending_rows", ""), Some(13.0));
    assert_eq!(page.value("tallyguard_partitions_owned", ""), Some(3.0));
    assert_eq!(page.value("tallyguard_partitions_refused", ""), Some(1.0));
    assert_eq!(page.value("tallyguard_checkpoint_interval_seconds", ""), Some(10.0));
    let success = page.value("tallyguard_checkpoint_last_success_timestamp_seconds", "");
    assert_eq!(success, Some(1_763_700_060.0));
    // Nothing is known of the end of partition 2, which still waits: no value rather than a made-up one.
    assert_eq!(page.value("tallyguard_consumer_lag_records", "partition=\"2\""), None);

    board.forget(PartitionId(0));
    let page = scrape(address);
    assert!(!page.text.contains("partition=\"0\""), "{}", page.text);
    assert_eq!(page.value("tallyguard_partitions_owned", ""), Some(2.0));
}

fn scrape(address: SocketAddr) -> MetricsText {
    MetricsText::read(get(address, "/metrics").body)
}
