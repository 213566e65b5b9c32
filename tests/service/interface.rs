//! What the real service answers over HTTP beside its status: users, alerts and their stream, checkpoints, statistics.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::log::{Transport, on_both};
use crate::scenario::{PATIENCE, Scenario, burst};
use crate::support::embedded_log::TOKEN;
use crate::support::{Service, wait_until_or_show};

on_both!(
    users_are_found_in_whatever_partition_they_are,
    the_list_and_the_stream_of_alerts_hold_what_is_committed_and_go_on_after_a_restart,
    a_checkpoint_is_stored_when_it_is_asked_for_with_the_token,
    statistics_are_those_of_the_database,
);

fn get(service: &Service, path: &str) -> (u16, Value) {
    let (status, body) = service.http_get(path);
    (status, serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}")))
}

fn post(scenario: &Scenario, path: &str, token: Option<&str>) -> (u16, Value) {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let mut request = agent.post(format!("http://127.0.0.1:{}{path}", scenario.config.http_port));
    if let Some(token) = token {
        request = request.header("Authorization", format!("Bearer {token}"));
    }
    let mut answer = request.send_empty().expect("an answer");
    (answer.status().as_u16(), answer.body_mut().read_json().expect("JSON"))
}

fn users_are_found_in_whatever_partition_they_are(transport: Transport) {
    let scenario = Scenario::over(transport).create_topics();
    // Two partitions, as after a change of the partitioner; a user id that has to be escaped.
    let user = "ü/1 %";
    scenario.produce(burst(user, 7, 10).into_iter().map(|record| record.in_partition(1)));
    scenario.produce(burst(user, 2, 11).into_iter().map(|record| record.in_partition(3)));
    let service = scenario.start_ready();
    scenario.wait_caught_up();
    let (status, answer) = get(&service, "/api/v1/users/%C3%BC%2F1%20%25");
    assert_eq!((status, &answer["user_id"]), (200, &json!(user)), "{answer}");
    let windows = answer["windows"].as_array().expect("windows");
    let found: BTreeSet<_> = windows
        .iter()
        .map(|one| {
            let text = |field: &str| one[field].as_str().unwrap_or_default().to_owned();
            (one["partition"].as_i64(), text("rule_id"), one["count"].as_i64(), one["alerted"].as_bool())
        })
        .collect();
    let expected = [
        (Some(1), "velocity-10s", Some(7), Some(true)),
        (Some(1), "velocity-1m", Some(7), Some(false)),
        (Some(1), "velocity-5m", Some(7), Some(false)),
        (Some(3), "velocity-10s", Some(2), Some(false)),
        (Some(3), "velocity-1m", Some(2), Some(false)),
        (Some(3), "velocity-5m", Some(2), Some(false)),
    ];
    let expected = expected.map(|(partition, rule, count, alerted)| (partition, rule.to_owned(), count, alerted));
    assert_eq!(found, BTreeSet::from(expected), "{answer}");
    let (status, answer) = get(&service, "/api/v1/users/nobody");
    assert_eq!((status, &answer["error"]), (404, &json!("no_open_window")), "{answer}");
}

fn the_list_and_the_stream_of_alerts_hold_what_is_committed_and_go_on_after_a_restart(transport: Transport) {
    let scenario = Scenario::over(transport).create_topics();
    let mut service = scenario.start_ready();
    // Each alert is committed alone or with few others, so markers lie between them.
    for user in 0..30 {
        scenario.produce(burst(&format!("u-{user}"), 6, 10));
    }
    scenario.wait_caught_up();
    let committed = || scenario.alerts().into_iter().map(|alert| (alert.partition, alert.offset)).collect::<Vec<_>>();
    wait_until_or_show(PATIENCE, "all alerts are to be seen", || scenario.logs(), || committed().len() == 30);
    let (status, answer) = get(&service, "/api/v1/alerts?limit=1000");
    assert_eq!((status, &answer["trouble"]), (200, &Value::Null), "{answer}");
    let position = |one: &Value| (one["partition"].as_i64(), one["offset"].as_i64());
    let listed: Vec<_> = answer["alerts"].as_array().expect("alerts").iter().map(position).collect();
    let expected: Vec<_> =
        committed().into_iter().rev().map(|(partition, offset)| (Some(i64::from(partition)), Some(offset))).collect();
    assert_eq!(listed, expected, "newest first, each once");
    assert_eq!(get(&service, "/api/v1/alerts?limit=3").1["alerts"].as_array().map(Vec::len), Some(3));

    let mut stream = Stream::open(&scenario, None);
    scenario.produce(burst("u-live", 6, 12));
    let (id, alert) = stream.next_alert();
    assert_eq!(alert["alert"]["user_id"], json!("u-live"));

    // What is committed while the client is away, and while no service runs, is not missed.
    service.kill9();
    scenario.produce(burst("u-away", 6, 13));
    let service = scenario.start_ready();
    let mut stream = Stream::open(&scenario, Some(&id));
    assert_eq!(stream.next_alert().1["alert"]["user_id"], json!("u-away"));
    assert_eq!(get(&service, "/api/v1/alerts?limit=1").1["alerts"][0]["alert"]["user_id"], json!("u-away"));
}

fn a_checkpoint_is_stored_when_it_is_asked_for_with_the_token(transport: Transport) {
    let scenario =
        Scenario::over(transport).set("checkpoint.interval", "10m").set("http.admin_token", TOKEN).create_topics();
    let service = scenario.start_ready();
    scenario.produce(burst("u-1", 6, 10));
    scenario.wait_caught_up();
    assert_eq!(get(&service, "/api/v1/checkpoints").1, json!({"checkpoints": [], "retain": 3}));
    let (status, answer) = post(&scenario, "/api/v1/checkpoints", None);
    assert_eq!((status, &answer["error"]), (401, &json!("unauthorized")));
    assert_eq!(post(&scenario, "/api/v1/checkpoints", Some("another")).0, 401);
    let (status, answer) = post(&scenario, "/api/v1/checkpoints", Some(TOKEN));
    assert_eq!(status, 202, "{answer}");
    let retained = || get(&service, "/api/v1/checkpoints").1["checkpoints"].as_array().map_or(0, Vec::len);
    wait_until_or_show(PATIENCE, "the checkpoint is stored", || service.log(), || retained() == 1);
    let (_, answer) = get(&service, "/api/v1/checkpoints");
    let partitions = answer["checkpoints"][0]["partitions"].as_array().expect("partitions");
    let stored: Vec<_> = partitions.iter().map(|one| (one["partition"].as_i64(), one["offset"].as_i64())).collect();
    let committed: Vec<_> = scenario
        .committed()
        .into_iter()
        .map(|(partition, offset)| (Some(i64::from(partition)), Some(offset)))
        .collect();
    assert_eq!(stored, committed);
    assert!(!service.log().contains(TOKEN), "the token is not logged");
}

#[test]
fn transactions_are_not_taken_over_http_while_they_come_from_kafka() {
    let scenario = Scenario::new().set("http.admin_token", TOKEN).create_topics();
    let _service = scenario.start_ready();
    let (status, answer) = post(&scenario, "/api/v1/transactions", Some(TOKEN));
    assert_eq!((status, &answer["error"]), (404, &json!("not_embedded")), "{answer}");
}

fn statistics_are_those_of_the_database(transport: Transport) {
    let scenario = Scenario::over(transport).with_statistics().create_topics();
    let service = scenario.start_ready();
    scenario.produce(burst("u-1", 6, 10));
    scenario.assert_exact();
    let path = "/api/v1/stats?from=2000-01-01T00:00:00%2B01:00&to=2100-01-01T00:00:00Z";
    let rows = || get(&service, path).1["rows"].as_array().cloned().unwrap_or_default();
    wait_until_or_show(PATIENCE, "the row is written", || service.log(), || !rows().is_empty());
    let (status, answer) = get(&service, path);
    assert_eq!((status, &answer["truncated"]), (200, &json!(false)));
    let row = &answer["rows"][0];
    assert_eq!((&row["transaction_count"], &row["amount_minor"]), (&json!(6), &json!("600")), "{answer}");
    assert_eq!(get(&service, "/api/v1/stats").1["rows"], json!([]), "the last hour holds nothing");
    let truncated = get(&service, &format!("{path}&limit=1")).1;
    assert_eq!(truncated["truncated"], json!(rows().len() > 1));
}

/// A client of the stream of alerts.
struct Stream(BufReader<TcpStream>);

impl Stream {
    fn open(scenario: &Scenario, after: Option<&str>) -> Self {
        let mut socket = TcpStream::connect(("127.0.0.1", scenario.config.http_port)).expect("the service listens");
        socket.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        let resume = after.map_or_else(String::new, |id| format!("Last-Event-ID: {id}\r\n"));
        write!(socket, "GET /api/v1/alerts/stream HTTP/1.1\r\nHost: here\r\n{resume}\r\n").expect("a request");
        let mut stream = Self(BufReader::new(socket));
        let started = Instant::now();
        while !stream.line().starts_with(": connected") {
            assert!(started.elapsed() < Duration::from_secs(30), "the stream does not begin");
        }
        stream
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.0.read_line(&mut line).expect("a line") > 0, "the stream has ended");
        line.trim_end().to_owned()
    }

    /// Id and content of the next alert.
    fn next_alert(&mut self) -> (String, Value) {
        let mut id = String::new();
        loop {
            let line = self.line();
            assert!(!line.starts_with("event: lagged"), "nothing is missed here");
            if let Some(found) = line.strip_prefix("id: ") {
                found.clone_into(&mut id);
            } else if let Some(data) = line.strip_prefix("data: ") {
                return (id, serde_json::from_str(data).expect("JSON"));
            }
        }
    }
}
