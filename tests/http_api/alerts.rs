//! The list and the stream of alerts.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tallyguard::http::{LISTENERS_MAX, Ports};

use crate::doubles::{Alerts, MemoryAlerts};
use crate::{assert_problem, get, send, serve, serve_all, served, working};

const PATIENCE: Duration = Duration::from_secs(30);

fn serve_alerts(topic: &Arc<MemoryAlerts>) -> SocketAddr {
    let ports = Ports::default();
    ports.set_alerts(Arc::new(Alerts(topic.clone())));
    serve_all(served(&working(), &ports))
}

fn listed(address: SocketAddr, query: &str) -> Vec<(i64, i64)> {
    let answer = get(address, &format!("/api/v1/alerts{query}"));
    assert_eq!(answer.status, 200, "{}", answer.body);
    let position = |one: &Value| (one["partition"].as_i64().unwrap(), one["offset"].as_i64().unwrap());
    answer.json()["alerts"].as_array().unwrap().iter().map(position).collect()
}

#[test]
fn the_list_holds_the_newest_alerts_of_all_partitions_newest_first() {
    let topic = Arc::new(MemoryAlerts::default());
    let positions: Vec<_> = (0..1_500).map(|number| topic.commit(number % 3, &format!("u-{number}"))).collect();
    let address = serve_alerts(&topic);
    let newest: Vec<_> = positions.iter().rev().map(|&(partition, offset)| (i64::from(partition), offset)).collect();
    assert_eq!(listed(address, "?limit=1000"), newest[..1_000]);
    assert_eq!(listed(address, ""), newest[..100], "a hundred when nothing is said");
    assert_eq!(listed(address, "?limit=1"), newest[..1]);
    assert_eq!(topic.opened.load(Ordering::SeqCst), 1, "one reading for all requests");
    let answer = get(address, "/api/v1/alerts?limit=1").json();
    let first = json!({
        "partition": 2, "offset": 2_998, "detected_at": "2025-11-21T04:40:01.499Z",
        "alert": {"user_id": "u-1499", "rule_id": "velocity-1m"},
    });
    assert_eq!(answer, json!({"alerts": [first], "trouble": null}));
    for (query, named) in [("?limit=1001", "limit must be"), ("?limit=x", "limit must be"), ("?last=1", "\"last\"")] {
        assert_problem(&get(address, &format!("/api/v1/alerts{query}")), 400, "bad_parameter", named);
    }
}

#[test]
fn records_of_somebody_else_in_the_alert_topic_do_no_harm() {
    let topic = Arc::new(MemoryAlerts::default());
    let before = topic.commit(0, "u-1");
    topic.commit_value(0, "no JSON");
    topic.commit_value(0, *b"\xff\xfe");
    let pretty = topic.commit_value(0, "\n{\"user_id\":\n\n  \"u-2\"}\r\n");
    let address = serve_alerts(&topic);
    assert_eq!(listed(address, ""), [(0, pretty.1), (0, before.1)]);
    let mut stream = Stream::open(address, Some("0-0"));
    assert_eq!(stream.next(), Some(event("0-6", "u-2")), "line breaks within do not end the event");
}

#[test]
fn alerts_that_cannot_be_read_say_why_and_come_once_they_can() {
    assert_problem(&get(serve(&working()), "/api/v1/alerts"), 503, "not_open", "not open yet");
    assert_problem(&get(serve(&working()), "/api/v1/alerts/stream"), 503, "not_open", "not open yet");
    let topic = Arc::new(MemoryAlerts::default());
    topic.commit(0, "u-1");
    *topic.failure.lock() = Some("no broker answers".to_owned());
    let address = serve_alerts(&topic);
    assert_problem(&get(address, "/api/v1/alerts"), 503, "alerts_unavailable", "no broker answers");
    assert_problem(&get(address, "/api/v1/alerts/stream"), 503, "alerts_unavailable", "no broker answers");
    *topic.failure.lock() = None;
    wait(|| get(address, "/api/v1/alerts").status == 200);
    assert_eq!(listed(address, ""), [(0, 0)]);
    *topic.failure.lock() = Some("the broker is gone".to_owned());
    wait(|| get(address, "/api/v1/alerts").json()["trouble"] == json!("the broker is gone"));
    assert_eq!(listed(address, ""), [(0, 0)], "what is known is shown still");
    *topic.failure.lock() = None;
    topic.commit(0, "u-2");
    wait(|| get(address, "/api/v1/alerts").json()["trouble"] == json!(null));
    assert_eq!(listed(address, ""), [(0, 2), (0, 0)]);
}

#[test]
fn the_stream_brings_what_is_committed_from_now_on() {
    let topic = Arc::new(MemoryAlerts::default());
    topic.commit(0, "u-before");
    let mut stream = Stream::open(serve_alerts(&topic), None);
    topic.commit(1, "u-1");
    topic.commit(0, "u-2");
    assert_eq!(stream.next(), Some(event("1-2", "u-1")));
    assert_eq!(stream.next(), Some(event("0-4", "u-2")));
    assert!(stream.head.contains("content-type: text/event-stream"), "{}", stream.head);
    assert!(stream.head.contains("cache-control: no-store"), "{}", stream.head);
}

#[test]
fn a_client_that_comes_again_gets_what_it_missed_and_one_that_was_away_too_long_is_told() {
    let topic = Arc::new(MemoryAlerts::default());
    let address = serve_alerts(&topic);
    for number in 0..5 {
        topic.commit(number % 2, &format!("u-{number}"));
    }
    let mut stream = Stream::open(address, Some("1-2"));
    for (id, user) in [("0-4", "u-2"), ("1-6", "u-3"), ("0-8", "u-4")] {
        assert_eq!(stream.next(), Some(event(id, user)));
    }
    for number in 5..1_100 {
        topic.commit(0, &format!("u-{number}"));
    }
    wait(|| listed(address, "?limit=1")[0].1 == 2 * 1_099);
    let mut stream = Stream::open(address, Some("1-2"));
    assert_eq!(stream.next(), Some(("lagged".to_owned(), String::new(), json!({"missed": null}))));
    assert_eq!(stream.next(), Some(event("0-200", "u-100")), "the oldest that is kept");
    for id in ["x", "1", "1-", "-", "1-2-3", "1.5-2"] {
        let answer = send("GET", address, "/api/v1/alerts/stream", &[("Last-Event-ID", id)], b"");
        assert_problem(&answer, 400, "bad_parameter", "Last-Event-ID must be partition-offset");
    }
}

#[test]
fn a_client_that_does_not_read_holds_nobody_up_and_is_told_how_many_it_missed() {
    let topic = Arc::new(MemoryAlerts::default());
    let address = serve_alerts(&topic);
    let mut slow = Stream::open(address, None);
    // Large enough that the buffers of the sockets do not hold them all.
    let padding = "x".repeat(4_000);
    for number in 0..20_000 {
        topic.commit(0, &format!("u-{number}-{padding}"));
        if number % 100 == 0 {
            thread::sleep(Duration::from_millis(2));
        }
    }
    topic.commit(0, "u-last");
    wait(|| listed(address, "?limit=1")[0].1 == 2 * 20_000);
    let mut missed = 0;
    let mut seen = 0;
    loop {
        let (kind, _, content) = slow.next().expect("the stream goes on");
        match kind.as_str() {
            "lagged" => missed += content["missed"].as_u64().expect("a number"),
            _ if content == json!("u-last") => break,
            _ => seen += 1,
        }
    }
    assert!(missed > 0, "20,000 alerts do not fit anywhere");
    assert_eq!(seen + missed, 20_000, "what is not seen is counted");
}

#[test]
fn as_many_clients_as_may_listen_and_no_more_until_one_goes() {
    let topic = Arc::new(MemoryAlerts::default());
    let address = serve_alerts(&topic);
    let mut streams: Vec<_> = (0..LISTENERS_MAX).map(|_| Stream::open(address, None)).collect();
    let answer = get(address, "/api/v1/alerts/stream");
    assert_problem(&answer, 503, "too_many_clients", "64 clients listen already");
    assert_eq!(get(address, "/api/v1/alerts").status, 200, "the list does not need a place");
    topic.commit(0, "u-1");
    for stream in &mut streams {
        assert_eq!(stream.next(), Some(event("0-0", "u-1")));
    }
    streams.pop();
    // The server learns that a client is gone when it writes to it.
    wait(|| {
        topic.commit(0, "u-2");
        let mut socket = request(address, None);
        let mut first = [0; 12];
        socket.read_exact(&mut first).unwrap();
        &first == b"HTTP/1.1 200"
    });
}

fn event(id: &str, user: &str) -> (String, String, Value) {
    ("alert".to_owned(), id.to_owned(), json!(user))
}

fn wait(mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < PATIENCE, "waited in vain");
        thread::sleep(Duration::from_millis(20));
    }
}

fn request(address: SocketAddr, after: Option<&str>) -> TcpStream {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let resume = after.map_or_else(String::new, |id| format!("Last-Event-ID: {id}\r\n"));
    write!(socket, "GET /api/v1/alerts/stream HTTP/1.1\r\nHost: here\r\n{resume}\r\n").unwrap();
    socket
}

/// A client of the stream.
struct Stream {
    lines: BufReader<TcpStream>,
    head: String,
}

impl Stream {
    /// Returns once the server has begun to answer: what is committed from then on will come.
    fn open(address: SocketAddr, after: Option<&str>) -> Self {
        let mut stream = Self { lines: BufReader::new(request(address, after)), head: String::new() };
        loop {
            let line = stream.line();
            if line.starts_with(": connected") {
                assert!(stream.head.starts_with("HTTP/1.1 200"), "{}", stream.head);
                return stream;
            }
            stream.head += &(line + "\n");
        }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.lines.read_line(&mut line).unwrap() > 0, "the stream has ended: {}", self.head);
        line.trim_end().to_owned()
    }

    /// Kind, id and user (or content) of the next event.
    fn next(&mut self) -> Option<(String, String, Value)> {
        let (mut kind, mut id) = (String::new(), String::new());
        loop {
            let line = self.line();
            if let Some(found) = line.strip_prefix("event: ") {
                found.clone_into(&mut kind);
            } else if let Some(found) = line.strip_prefix("id: ") {
                found.clone_into(&mut id);
            } else if let Some(data) = line.strip_prefix("data: ") {
                let data: Value = serde_json::from_str(data).unwrap();
                let user = data["alert"]["user_id"].clone();
                return Some((kind, id, if user.is_null() { data } else { user }));
            }
        }
    }
}
