//! Transactions over HTTP: how many a second one server takes, through its real socket, and how long a request takes.
//!
//! `cargo bench --bench http_ingest [-- --quick] [--only memory|disk] [--rounds N] [--out DIR]`. `memory`: the log is a
//! stand-in that only counts, so the figure is that of the interface. `disk`: the embedded log, each append synced;
//! nothing reads it. The clients share the process and the machine with the server.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "a benchmark measures with the real clock")]

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Instant;

use common::{Arguments, Report, count, median, percentile, timed, whole};
use tallyguard::config::Secret;
use tallyguard::domain::duration::Millis;
use tallyguard::domain::ids::{Offset, PartitionId};
use tallyguard::generate::{GeneratedRecord, Shares, Workload, WorkloadOptions};
use tallyguard::http::{self, Options, Ports, Served};
use tallyguard::log::embedded::EmbeddedStore;
use tallyguard::log::{Ingest, IngestError, NewRecord, Position};
use tallyguard::observe::metrics;
use tallyguard::observe::status::{About, StatusBoard};

const BATCH: u64 = 1_000;
const TOKEN: &str = "token";
const CLIENTS: [usize; 4] = [1, 2, 4, 8];

fn main() {
    let arguments = Arguments::parse();
    let mut report = Report::new("http_ingest", &arguments);
    let requests = bodies(arguments.scaled(64, 2));
    let bytes = requests.iter().map(Vec::len).sum::<usize>() / requests.len();
    report.say(&format!("Requests of {BATCH} transactions, {} kB each.", bytes / 1_000));
    if arguments.wants("memory") {
        measure("the log only counts", Arc::new(Counting::default()), &requests, &arguments, &mut report);
    }
    if arguments.wants("disk") {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        let log = Arc::new(EmbeddedStore::open(dir.path(), 4).expect("an embedded log"));
        measure("the embedded log, synced", log, &requests, &arguments, &mut report);
    }
    report.write(&arguments);
}

/// Takes everything at once.
#[derive(Default)]
struct Counting(AtomicI64);

impl Ingest for Counting {
    fn append(&self, records: &[NewRecord<'_>]) -> Result<Vec<Position>, IngestError> {
        let first = self.0.fetch_add(i64::try_from(records.len()).expect("a count"), Ordering::Relaxed);
        let offsets = (first..).zip(records);
        Ok(offsets.map(|(offset, _)| Position { partition: PartitionId(0), offset: Offset(offset) }).collect())
    }
}

/// Whole requests, ready to be sent.
fn bodies(number: u64) -> Vec<Vec<u8>> {
    let options = WorkloadOptions { events: number * BATCH, shares: Shares::NONE, ..WorkloadOptions::default() };
    let mut workload = Workload::new(options).expect("valid options");
    let mut record = GeneratedRecord::default();
    let body = |_| {
        let mut body = Vec::new();
        for _ in 0..BATCH {
            assert!(workload.fill(&mut record), "as many events as asked for");
            body.extend_from_slice(record.value.as_deref().expect("a value"));
            body.push(b'\n');
        }
        let mut request = format!(
            "POST /api/v1/transactions HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.append(&mut body);
        request
    };
    (0..number).map(body).collect()
}

fn measure(title: &str, log: Arc<dyn Ingest>, requests: &[Vec<u8>], arguments: &Arguments, report: &mut Report) {
    let address = serve(log);
    let each = arguments.scaled(300, 4);
    let mut found: Vec<(Vec<f64>, Vec<f64>)> = vec![(Vec::new(), Vec::new()); CLIENTS.len()];
    for _ in 0..arguments.rounds(3) {
        for (clients, (rates, latencies)) in CLIENTS.iter().zip(&mut found) {
            let (seconds, mut times) = timed(|| send_all(address, requests, *clients, each));
            rates.push(count(BATCH) * count(clients * each) / seconds);
            latencies.append(&mut times);
        }
    }
    let rows: Vec<_> = CLIENTS
        .iter()
        .zip(&found)
        .map(|(clients, (rates, latencies))| {
            let ms = |percent| format!("{:.1}", percentile(latencies, percent) * 1e3);
            vec![clients.to_string(), whole(median(rates)), ms(50.0), ms(99.0)]
        })
        .collect();
    report.table(title, &["clients at a time", "transactions/s", "request p50, ms", "p99, ms"], &rows);
}

/// Each client sends its requests one after the other on one connection; the times of all.
fn send_all(address: SocketAddr, requests: &[Vec<u8>], clients: usize, each: usize) -> Vec<f64> {
    thread::scope(|scope| {
        let clients: Vec<_> = (0..clients)
            .map(|client| {
                scope.spawn(move || {
                    let mut socket = TcpStream::connect(address).expect("the server listens");
                    socket.set_nodelay(true).expect("a socket");
                    let mut answer = Vec::new();
                    let send = |number: usize| {
                        let began = Instant::now();
                        socket.write_all(&requests[(client * 7 + number) % requests.len()]).expect("sent");
                        receive(&mut socket, &mut answer);
                        began.elapsed().as_secs_f64()
                    };
                    (0..each).map(send).collect::<Vec<_>>()
                })
            })
            .collect();
        clients.into_iter().flat_map(|client| client.join().expect("a client")).collect()
    })
}

/// One answer, which must have accepted every line.
fn receive(socket: &mut TcpStream, answer: &mut Vec<u8>) {
    answer.clear();
    let mut chunk = [0; 65_536];
    loop {
        let read = socket.read(&mut chunk).expect("an answer");
        assert!(read > 0, "the server hung up");
        answer.extend_from_slice(&chunk[..read]);
        let Some(head) = answer.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let text = String::from_utf8_lossy(&answer[..head]).to_lowercase();
        assert!(text.starts_with("http/1.1 200"), "{text}");
        let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
        if answer.len() == head + 4 + length.parse::<usize>().expect("a number") {
            break;
        }
    }
    let lines = answer.iter().filter(|byte| **byte == b'\n').count();
    assert!(lines >= usize::try_from(BATCH).expect("a count"), "one result per line");
    assert!(!answer.windows(8).any(|window| window == b"rejected"), "everything is valid");
}

fn serve(log: Arc<dyn Ingest>) -> SocketAddr {
    let (answer, address) = channel();
    thread::spawn(move || {
        actix_web::rt::System::new().block_on(async move {
            let ports = Ports::default();
            ports.set_ingest(log);
            let options = Options {
                admin_token: Some(Secret::new(TOKEN)),
                takes_transactions: true,
                max_future_skew: Millis(60_000),
                checkpoints_retained: 3,
            };
            let served = Served { board: board(), metrics: metrics::install(), ports, options };
            let (server, address) = http::serve(SocketAddr::from(([127, 0, 0, 1], 0)), served).expect("a free port");
            answer.send(address).expect("the benchmark waits");
            server.await.expect("the server");
        });
    });
    address.recv().expect("the address")
}

fn board() -> StatusBoard {
    StatusBoard::new(About {
        instance_id: "bench".to_owned(),
        group: "tallyguard".to_owned(),
        topic: "transactions".to_owned(),
        mode: "exactly-once".to_owned(),
        started_at_ms: 0,
        statistics_enabled: false,
        tolerable_checkpoint_failures: 3,
        rules: Vec::new(),
    })
}
