//! Transactions over HTTP.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tallyguard::clock;
use tallyguard::http::{BODY_BYTES_MAX, Ports, REQUESTS_MAX};

use crate::doubles::{MemoryLog, RECORD_BYTES_MAX};
use crate::{TOKEN, assert_problem, get, post, send, serve, serve_all, served, working};

const PATH: &str = "/api/v1/transactions";

fn serve_log() -> (SocketAddr, Arc<MemoryLog>) {
    let (ports, log) = (Ports::default(), Arc::new(MemoryLog::default()));
    ports.set_ingest(log.clone());
    (serve_all(served(&working(), &ports)), log)
}

fn transaction(user: &str, number: u32) -> Value {
    json!({
        "transaction_id": format!("t-{number}"), "order_id": "o", "user_id": user, "merchant_id": "m",
        "amount_minor": 1, "currency": "EUR", "event_time": clock::wall_clock_ms(),
    })
}

fn results(body: &str) -> Vec<Value> {
    body.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn each_line_has_one_result_in_order_and_only_valid_ones_are_in_the_log() {
    let (address, log) = serve_log();
    let (first, second) = (transaction("u-1", 1), transaction("u-2", 2));
    let mut missing = transaction("u-1", 3);
    missing.as_object_mut().unwrap().remove("currency");
    let mut future = transaction("u-1", 4);
    future["event_time"] = json!(clock::wall_clock_ms() + 3_600_000);
    let body = format!("{first}\n{missing}\r\n\n  \n{second}\r\nno JSON\n{future}\n\u{feff}{first}");
    let answer = post(address, PATH, body.as_bytes());
    assert_eq!((answer.status, answer.headers["content-type"].as_str()), (200, "application/x-ndjson"));
    let results = results(&answer.body);
    let brief: Vec<_> = results
        .iter()
        .map(|one| (one["line"].as_u64().unwrap(), one["result"].as_str().unwrap(), one["code"].as_str()))
        .collect();
    let expected = [
        (1, "accepted", None),
        (2, "rejected", Some("missing_field")),
        (5, "accepted", None),
        (6, "rejected", Some("invalid_json")),
        (7, "rejected", Some("event_time_in_future")),
        (8, "rejected", Some("invalid_json")),
    ];
    assert_eq!(brief, expected);
    assert_eq!(results[1]["message"], json!("currency is missing"));
    assert!(results[1].get("partition").is_none() && results[0].get("message").is_none());
    assert_eq!(log.len(), 2);
    for (result, (user, text)) in [&results[0], &results[2]].into_iter().zip([("u-1", &first), ("u-2", &second)]) {
        let position = |field: &str| usize::try_from(result[field].as_u64().unwrap()).unwrap();
        let (key, value) = &log.partitions.lock()[position("partition")][position("offset")];
        assert_eq!(key.as_deref(), Some(user.as_bytes()), "the key is the user id");
        assert_eq!(value, text.to_string().as_bytes(), "as it was sent, without the end of the line");
    }
}

#[test]
fn what_is_not_valid_becomes_a_dead_letter_when_it_was_asked_for() {
    let (address, log) = serve_log();
    let body = [transaction("u-1", 1).to_string().into_bytes(), b"\xff no text".to_vec(), b"{}".to_vec()].join(&b'\n');
    let answer = post(address, &format!("{PATH}?invalid=dead-letter"), &body);
    let results = results(&answer.body);
    assert_eq!(results[1]["result"], json!("dead-letter"));
    assert_eq!(results[1]["code"], json!("invalid_utf8"));
    assert_eq!((&results[2]["code"], &results[2]["line"]), (&json!("missing_field"), &json!(3)));
    assert!(results.iter().all(|one| one["offset"].is_u64() && one["partition"].is_u64()), "{results:?}");
    let partitions = log.partitions.lock();
    let stored: Vec<_> = partitions.iter().flatten().collect();
    assert_eq!(stored.len(), 3);
    assert!(stored.iter().any(|(key, value)| key.is_none() && value == b"\xff no text"), "as it is, without a key");
}

#[test]
fn an_array_is_taken_element_by_element_and_a_broken_one_not_at_all() {
    let (address, log) = serve_log();
    let text = transaction("u-1", 1).to_string().replace("\"amount_minor\":1", "\"amount_minor\" :  1.0");
    let body = format!("\n [ {}\n, {text}, 17 ]\n", transaction("u-1", 2));
    let results = results(&post(address, PATH, body.as_bytes()).body);
    let brief: Vec<_> = results.iter().map(|one| (one["line"].clone(), one["code"].clone())).collect();
    assert_eq!(brief, [(json!(1), json!(null)), (json!(2), json!("invalid_field")), (json!(3), json!("invalid_json"))]);
    assert_eq!(log.len(), 1);
    for broken in ["[", "[{},", "[{}] x", "[{}}"] {
        assert_problem(&post(address, PATH, broken.as_bytes()), 400, "invalid_json", "no JSON array, line 1");
    }
    assert_eq!(post(address, PATH, b"[]").body, "");
    assert_eq!(post(address, PATH, b"").status, 200, "nothing is nothing");
    assert_eq!(log.len(), 1);
}

#[test]
fn a_record_that_is_too_large_for_the_log_does_not_take_the_others_with_it() {
    let (address, log) = serve_log();
    let mut large = transaction("u-1", 2);
    large["note"] = json!("x".repeat(RECORD_BYTES_MAX));
    let body = format!("{}\n{large}\n{}", transaction("u-1", 1), transaction("u-1", 3));
    let answer = post(address, PATH, body.as_bytes());
    let results = results(&answer.body);
    assert_eq!(results[1]["code"], json!("record_too_large"));
    assert_eq!(results[1]["message"], json!("the log takes records of up to 2000 bytes"));
    assert_eq!((&results[0]["result"], &results[2]["result"]), (&json!("accepted"), &json!("accepted")));
    assert_eq!((&results[0]["offset"], &results[2]["offset"]), (&json!(0), &json!(1)));
    assert_eq!(log.len(), 2);
}

#[test]
fn nothing_is_taken_without_the_token_in_another_mode_or_before_the_log_is_open() {
    let (address, log) = serve_log();
    let body = transaction("u-1", 1).to_string();
    let body = body.as_bytes();
    assert_problem(&send("POST", address, PATH, &[], body), 401, "unauthorized", "Authorization: Bearer");
    let wrong = [("Authorization", "Bearer wrong")];
    assert_problem(&send("POST", address, PATH, &wrong, body), 401, "unauthorized", "Authorization: Bearer");
    assert_problem(&post(address, &format!("{PATH}?invalid=yes"), body), 400, "bad_parameter", "invalid must be");
    assert_problem(&post(address, &format!("{PATH}?dry=1"), body), 400, "bad_parameter", "\"dry\"");
    let bearer = format!("Bearer {TOKEN}");
    let packed = [("Authorization", bearer.as_str()), ("Content-Encoding", "gzip")];
    assert_problem(&send("POST", address, PATH, &packed, body), 415, "unsupported", "without Content-Encoding");
    assert_eq!(log.len(), 0);

    let mut on_kafka = served(&working(), &Ports::default());
    on_kafka.options.takes_transactions = false;
    assert_problem(&post(serve_all(on_kafka), PATH, body), 404, "not_embedded", "source.kind = \"embedded\"");
    let mut without_token = served(&working(), &Ports::default());
    without_token.options.admin_token = None;
    let answer = post(serve_all(without_token), PATH, body);
    assert_problem(&answer, 401, "unauthorized", "no token is configured");
    assert_problem(&post(serve(&working()), PATH, body), 503, "not_open", "not open yet");
}

#[test]
fn a_body_that_is_too_large_is_refused_whether_its_length_is_announced_or_not() {
    let (address, log) = serve_log();
    let line = transaction("u-1", 1).to_string() + "\n";
    let just_fits = line.repeat(BODY_BYTES_MAX / line.len());
    let answer = post(address, PATH, just_fits.as_bytes());
    assert_eq!((answer.status, answer.body.lines().count()), (200, just_fits.lines().count()));
    let taken = log.len();
    let head = format!("POST {PATH} HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {TOKEN}\r\n");
    let mut announced = TcpStream::connect(address).unwrap();
    write!(announced, "{head}Content-Length: {}\r\n\r\n", BODY_BYTES_MAX + 1).unwrap();
    assert!(answer_of(&mut announced).starts_with("HTTP/1.1 413"), "before anything of it is read");
    let mut chunked = TcpStream::connect(address).unwrap();
    write!(chunked, "{head}Transfer-Encoding: chunked\r\n\r\n").unwrap();
    let chunk = format!("{:x}\r\n{}\r\n", 1_000_000, "x".repeat(1_000_000));
    for _ in 0..18 {
        // The server may have hung up already.
        let _ = chunked.write_all(chunk.as_bytes());
    }
    assert!(answer_of(&mut chunked).starts_with("HTTP/1.1 413"));
    assert_eq!(log.len(), taken);
    assert_eq!(get(address, "/healthz").status, 200);
}

fn answer_of(socket: &mut TcpStream) -> String {
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut first = [0; 12];
    socket.read_exact(&mut first).unwrap();
    String::from_utf8_lossy(&first).into_owned()
}

#[test]
fn a_log_that_cannot_be_written_is_not_acknowledged() {
    let (address, log) = serve_log();
    log.is_broken.store(true, Ordering::SeqCst);
    let answer = post(address, PATH, transaction("u-1", 1).to_string().as_bytes());
    assert_problem(&answer, 503, "not_written", "the disk is full");
}

#[test]
fn requests_are_appended_side_by_side_and_one_too_many_is_asked_to_come_again() {
    let (address, log) = serve_log();
    let held = log.gate.lock();
    let clients: Vec<_> = (0..REQUESTS_MAX)
        .map(|number| {
            let body = transaction("u-1", u32::try_from(number).unwrap()).to_string();
            thread::spawn(move || post(address, PATH, body.as_bytes()).status)
        })
        .collect();
    let started = Instant::now();
    while log.under_way.load(Ordering::SeqCst) < REQUESTS_MAX {
        assert!(started.elapsed() < Duration::from_secs(30), "requests wait for each other");
        thread::sleep(Duration::from_millis(5));
    }
    let answer = post(address, PATH, transaction("u-2", 1).to_string().as_bytes());
    assert_problem(&answer, 503, "busy", "16 requests are under way");
    assert_eq!(get(address, "/healthz").status, 200, "the others are answered meanwhile");
    drop(held);
    assert!(clients.into_iter().all(|client| client.join().unwrap() == 200));
    assert_eq!(post(address, PATH, transaction("u-2", 1).to_string().as_bytes()).status, 200);
    assert_eq!(log.len(), REQUESTS_MAX + 1);
}
