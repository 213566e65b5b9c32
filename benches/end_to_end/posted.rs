//! The embedded log: from the answer to a request that breaks a rule to the alert in a listener's hands.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use crate::common::{Arguments, Report, count, cpu_seconds, percentile};
use crate::live::wall_ms;
use crate::support::embedded_log::TOKEN;
use crate::support::process::GuardedDir;
use crate::support::{Service, TestConfig};

const MODES: [&str; 3] = ["exactly-once", "at-least-once", "at-most-once"];
/// One more than the rule allows, in one request.
const BREACH: usize = 11;
/// A request that breaks the rule goes out this often.
const PROBE_EVERY: Duration = Duration::from_millis(15);
const LOAD_EVERY: Duration = Duration::from_millis(10);

/// Milliseconds of one stretch.
#[derive(Default)]
struct Stretch {
    /// Answer → alert in the stream of `GET /api/v1/alerts/stream`; 0 when the alert was there first.
    after_the_answer: Vec<f64>,
    /// Request sent → answer.
    answering: Vec<f64>,
    cpu_cores: Vec<f64>,
}

/// Rates of other traffic over the default settings, and the delivery modes at one of them.
pub fn measure(arguments: &Arguments, report: &mut Report) {
    let usual = arguments.scaled(vec![0, 2_000, 20_000], vec![500]);
    let rates: Vec<u64> = arguments.rate.map_or(usual, |rate| vec![rate]);
    let reference = rates.get(1).copied().unwrap_or(rates[0]);
    let mut cases: Vec<(u64, &str)> = rates.iter().map(|rate| (*rate, MODES[0])).collect();
    cases.extend(MODES[1..].iter().map(|mode| (reference, *mode)));
    let mut stretches: Vec<Stretch> = cases.iter().map(|_| Stretch::default()).collect();
    for _ in 0..arguments.rounds(3) {
        for ((rate, mode), stretch) in cases.iter().zip(&mut stretches) {
            one_stretch(*rate, mode, arguments, stretch);
        }
    }
    let rows: Vec<_> = cases.iter().zip(&stretches).map(|((rate, mode), stretch)| row(*rate, mode, stretch)).collect();
    report.table(
        "Embedded log, ms: answer to the request that breaks a rule to the alert in the stream of alerts",
        &[
            "other records/s",
            "delivery.mode",
            "alerts",
            "p50",
            "p90",
            "p99",
            "max",
            "request to answer, p50",
            "p99",
            "cores used",
        ],
        &rows,
    );
}

fn row(rate: u64, mode: &str, stretch: &Stretch) -> Vec<String> {
    let ms = |of: &[f64], percent| format!("{:.1}", percentile(of, percent));
    let mut row = vec![rate.to_string(), mode.to_owned(), stretch.after_the_answer.len().to_string()];
    row.extend([50.0, 90.0, 99.0, 100.0].map(|percent| ms(&stretch.after_the_answer, percent)));
    row.extend([50.0, 99.0].map(|percent| ms(&stretch.answering, percent)));
    row.push(format!("{:.2}", stretch.cpu_cores.iter().sum::<f64>() / count(stretch.cpu_cores.len())));
    row
}

fn one_stretch(rate: u64, mode: &str, arguments: &Arguments, stretch: &mut Stretch) {
    let dir = GuardedDir::new("tallyguard-posted-");
    let config = TestConfig::new("127.0.0.1:1", dir.path())
        .set("source.kind", "embedded")
        .set("embedded.dir", dir.path().join("log").display().to_string())
        .set("delivery.mode", mode)
        .set("http.admin_token", TOKEN);
    let mut service = Service::start(&config.to_toml(), dir.path(), &[]);
    service.wait_ready(Duration::from_secs(60));
    let process = service.process_id().to_string();
    let listener = Listener::open(config.http_port);
    let stop = Arc::new(AtomicBool::new(false));
    let load = (rate > 0).then(|| {
        let (client, stop) = (Client::new(config.http_port), Arc::clone(&stop));
        std::thread::spawn(move || load(&client, rate, &stop))
    });
    sleep(arguments.scaled(Duration::from_secs(2), Duration::from_millis(200)));
    let (began, cpu) = (Instant::now(), cpu_seconds(&process));
    let duration = arguments.scaled(Duration::from_secs(10), Duration::from_secs(1));
    let client = Client::new(config.http_port);
    let mut answered = Vec::new();
    for number in 0.. {
        if began.elapsed() > duration {
            break;
        }
        let user = format!("probe-{number}");
        let now = wall_ms();
        let body: String =
            (0..BREACH).map(|it| transaction(&user, &format!("{user}-{it}"), now)).collect::<Vec<_>>().concat();
        client.post(&body);
        let done = wall_ms();
        stretch.answering.push(done - now);
        answered.push((user, done));
        sleep(PROBE_EVERY.saturating_sub(Duration::from_secs_f64((done - now) / 1e3)));
    }
    stretch.cpu_cores.push((cpu_seconds(&process) - cpu) / began.elapsed().as_secs_f64());
    sleep(Duration::from_secs(1));
    stop.store(true, Ordering::SeqCst);
    if let Some(load) = load {
        load.join().expect("the load was sent");
    }
    let seen = listener.seen();
    for (user, done) in answered {
        let seen = seen.get(&user).unwrap_or_else(|| panic!("no alert for {user}\n{}", service.log()));
        stretch.after_the_answer.push((seen - done).max(0.0));
    }
    service.sigterm();
    assert_eq!(service.wait_exit(Duration::from_secs(60)), Some(0), "{}", service.log());
    drop(listener);
}

/// Traffic of users who break nothing, a request every 10 ms.
fn load(client: &Client, rate: u64, stop: &AtomicBool) {
    let began = Instant::now();
    let mut sent = 0_u64;
    while !stop.load(Ordering::SeqCst) {
        let due = u64::try_from(began.elapsed().as_millis()).expect("milliseconds") * rate / 1_000;
        let now = wall_ms();
        let line = |number| transaction(&format!("u-{}", number / 5), &format!("load-{number}"), now);
        let body: String = (sent..due).map(line).collect::<Vec<_>>().concat();
        if due > sent {
            client.post(&body);
        }
        sent = due;
        sleep(LOAD_EVERY);
    }
}

fn transaction(user: &str, id: &str, now_ms: f64) -> String {
    format!(
        "{{\"transaction_id\":\"t-{id}\",\"order_id\":\"o-{id}\",\"user_id\":\"{user}\",\"merchant_id\":\"m-1\",\
         \"amount_minor\":100,\"currency\":\"EUR\",\"event_time\":{:.0}}}\n",
        now_ms.floor(),
    )
}

/// A connection that stays open.
struct Client {
    agent: ureq::Agent,
    url: String,
}

impl Client {
    fn new(port: u16) -> Self {
        Self { agent: ureq::agent(), url: format!("http://127.0.0.1:{port}/api/v1/transactions") }
    }

    fn post(&self, body: &str) {
        let mut answer = self
            .agent
            .post(&self.url)
            .header("Authorization", format!("Bearer {TOKEN}"))
            .header("Content-Type", "application/x-ndjson")
            .send(body)
            .expect("an answer");
        let results = answer.body_mut().read_to_string().expect("results");
        assert!(!results.contains("rejected"), "{results}");
    }
}

/// Somebody who listens to the stream of alerts, until the service ends.
struct Listener {
    seen: Arc<Mutex<HashMap<String, f64>>>,
    _thread: JoinHandle<()>,
}

impl Listener {
    fn open(port: u16) -> Self {
        let mut socket = TcpStream::connect(("127.0.0.1", port)).expect("the service listens");
        write!(socket, "GET /api/v1/alerts/stream HTTP/1.1\r\nHost: here\r\n\r\n").expect("a request");
        let seen = Arc::new(Mutex::new(HashMap::new()));
        let found = Arc::clone(&seen);
        let listen = move || {
            for line in BufReader::new(socket).lines().map_while(Result::ok) {
                assert!(!line.starts_with("event: lagged"), "the listener was too slow");
                let Some(data) = line.strip_prefix("data: ") else { continue };
                let seen_ms = wall_ms();
                let alert: serde_json::Value = serde_json::from_str(data).expect("JSON");
                let user = alert["alert"]["user_id"].as_str().expect("a user").to_owned();
                found.lock().unwrap_or_else(PoisonError::into_inner).insert(user, seen_ms);
            }
        };
        Self { seen, _thread: std::thread::spawn(listen) }
    }

    fn seen(&self) -> HashMap<String, f64> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
