//! Partitions, statistics, checkpoints and users.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use serde_json::json;
use tallyguard::clock;
use tallyguard::http::{NotBegun, Ports};
use tallyguard::observe::status::{About, StatusBoard};

use crate::doubles::{OneUser, Rows, TwoCheckpoints};
use crate::{TOKEN, ask, assert_problem, eventful, get, post, send, serve, serve_all, served, working};

fn ports() -> Ports {
    Ports::default()
}

#[test]
fn partitions_tell_where_each_stands_and_why_one_is_refused() {
    let answer = get(serve(&eventful()), "/api/v1/partitions").json();
    let partitions = answer["partitions"].as_array().unwrap();
    assert_eq!(partitions.len(), 3);
    let first = &partitions[0];
    for (field, expected) in [
        ("phase", json!("live")),
        ("committed_offset", json!(1_190)),
        ("end_offset", json!(1_230)),
        ("lag_records", json!(30)),
    ] {
        assert_eq!(first[field], expected, "{field}");
    }
    assert_eq!((&first["open_users"], &partitions[1]["code"]), (&json!(17), &json!("log_truncated")));
    assert_problem(&get(serve(&working()), "/api/v1/partitions?all=1"), 400, "bad_parameter", "\"all\"");
}

#[test]
fn statistics_come_for_the_range_that_was_asked_for_and_say_when_there_are_more() {
    let rows = Arc::new(Rows { count: 5, is_away: false, asked: Mutex::default() });
    let ports = ports();
    ports.set_statistics(rows.clone());
    let address = serve_all(served(&working(), &ports));
    let path = "/api/v1/stats?from=2026-11-20T10:00:00Z&to=2026-11-20T11:00:00+01:00&limit=5";
    assert_problem(&get(address, path), 400, "bad_parameter", "from must be before");
    let answer = get(address, "/api/v1/stats?from=2026-11-20T10:00:00Z&to=2026-11-20T12:00:00+01:00&limit=5").json();
    assert_eq!(
        (&answer["from"], &answer["to"]),
        (&json!("2026-11-20T10:00:00.000Z"), &json!("2026-11-20T11:00:00.000Z"))
    );
    assert_eq!((answer["rows"].as_array().unwrap().len(), &answer["truncated"]), (5, &json!(false)));
    assert_eq!(answer["rows"][0]["amount_minor"], json!("170141183460469231731687303715884105728"));
    let answer = get(address, "/api/v1/stats?limit=4").json();
    assert_eq!((answer["rows"].as_array().unwrap().len(), &answer["truncated"]), (4, &json!(true)));
    let (from_ms, to_ms, limit) = *rows.asked.lock().last().unwrap();
    assert_eq!((to_ms - from_ms, limit), (3_600_000, 5), "the last hour, and one row more than asked for");
    assert!((clock::wall_clock_ms() - to_ms).abs() < 10_000, "up to now");
}

#[test]
fn a_wrong_parameter_of_the_statistics_is_named() {
    let ports = ports();
    ports.set_statistics(Arc::new(Rows { count: 1, is_away: false, asked: Mutex::default() }));
    let address = serve_all(served(&working(), &ports));
    for (query, named) in [
        ("from=yesterday", "from must be a time"),
        ("to=2026-11-20T10:00:00", "to must be a time"),
        ("to=2026-13-20T10:00:00Z", "to must be a time"),
        ("limit=0", "limit must be a whole number from 1 to 10000"),
        ("limit=10001", "limit must be"),
        ("limit=%2B5", "limit must be"),
        ("limit=", "limit must be"),
        ("limit=1&limit=2", "limit must be given once"),
        ("form=2026-11-20T10:00:00Z", "no parameter \"form\""),
    ] {
        assert_problem(&get(address, &format!("/api/v1/stats?{query}")), 400, "bad_parameter", named);
    }
}

#[test]
fn statistics_that_are_off_away_or_not_open_yet_say_so() {
    let off = StatusBoard::new(About { statistics_enabled: false, ..about() });
    assert_problem(&get(serve(&off), "/api/v1/stats"), 404, "statistics_off", "stats.enabled = false");
    assert_problem(&get(serve(&working()), "/api/v1/stats"), 503, "not_open", "not open yet");
    let ports = ports();
    ports.set_statistics(Arc::new(Rows { count: 0, is_away: true, asked: Mutex::default() }));
    let answer = get(serve_all(served(&working(), &ports)), "/api/v1/stats");
    assert_problem(&answer, 503, "database_unavailable", "the database does not answer");
}

fn about() -> About {
    About {
        instance_id: "risk-1".to_owned(),
        group: "tallyguard".to_owned(),
        topic: "transactions".to_owned(),
        mode: "exactly-once".to_owned(),
        started_at_ms: 0,
        statistics_enabled: true,
        tolerable_checkpoint_failures: 3,
        rules: Vec::new(),
    }
}

#[test]
fn retained_checkpoints_are_listed_newest_first_without_their_place_on_the_disk() {
    let ports = ports();
    assert_problem(&get(serve_all(served(&working(), &ports)), "/api/v1/checkpoints"), 503, "not_open", "not open yet");
    ports.set_checkpoints(Arc::new(TwoCheckpoints::answering(Ok(()))));
    let answer = get(serve_all(served(&working(), &ports)), "/api/v1/checkpoints");
    let newest = json!({
        "sequence": 8, "created_at": "2025-11-21T04:40:10.000Z", "bytes": 4_096, "partitions": [{"partition": 0, "offset": 200}],
    });
    let found = answer.json();
    assert_eq!((&found["retain"], &found["checkpoints"][0]), (&json!(3), &newest));
    assert_eq!(found["checkpoints"][1]["sequence"], json!(7));
    assert!(!answer.body.contains("/secret"), "{}", answer.body);
    let broken = crate::state::ports();
    broken.set_checkpoints(Arc::new(TwoCheckpoints { list_fails: true, ..TwoCheckpoints::answering(Ok(())) }));
    let answer = get(serve_all(served(&working(), &broken)), "/api/v1/checkpoints");
    assert_problem(&answer, 503, "checkpoints_unreadable", "cannot list the folder");
}

#[test]
fn a_checkpoint_is_begun_for_the_holder_of_the_token_and_for_nobody_else() {
    let (ports, checkpoints) = (ports(), Arc::new(TwoCheckpoints::answering(Ok(()))));
    ports.set_checkpoints(checkpoints.clone());
    let address = serve_all(served(&working(), &ports));
    let almost = &TOKEN[..TOKEN.len() - 1];
    for authorization in ["", "Bearer", "Bearer ", &format!("Basic {TOKEN}"), TOKEN, &format!("Bearer {almost}")] {
        let headers = [("Authorization", authorization)];
        let headers = if authorization.is_empty() { &[][..] } else { &headers[..] };
        let answer = send("POST", address, "/api/v1/checkpoints", headers, b"");
        assert_problem(&answer, 401, "unauthorized", "Authorization: Bearer");
        assert_eq!(answer.headers["www-authenticate"], "Bearer");
        assert!(!answer.body.contains(almost), "{}", answer.body);
    }
    assert_eq!(checkpoints.begun.load(Ordering::SeqCst), 0);
    let answer = post(address, "/api/v1/checkpoints", b"");
    assert_eq!(answer.status, 202, "{}", answer.body);
    assert!(answer.json()["visible_at"].as_str().unwrap().contains("/api/v1/checkpoints"), "{}", answer.body);
    assert_problem(&post(address, "/api/v1/checkpoints?now=1", b""), 400, "bad_parameter", "\"now\"");
    assert_eq!(checkpoints.begun.load(Ordering::SeqCst), 1);

    let mut without = served(&working(), &ports);
    without.options.admin_token = None;
    let answer = post(serve_all(without), "/api/v1/checkpoints", b"");
    assert_problem(&answer, 401, "unauthorized", "no token is configured (http.admin_token_file)");
}

#[test]
fn a_checkpoint_that_is_not_begun_says_why() {
    for (why, status, error, message) in [
        (NotBegun::UnderWay, 409, "under_way", "a checkpoint is under way"),
        (NotBegun::NothingRuns, 409, "nothing_runs", "no partition runs here"),
        (NotBegun::NoAnswer, 503, "no_answer", "did not answer in time"),
    ] {
        let ports = ports();
        ports.set_checkpoints(Arc::new(TwoCheckpoints::answering(Err(why))));
        let address = serve_all(served(&working(), &ports));
        assert_problem(&post(address, "/api/v1/checkpoints", b""), status, error, message);
    }
    let address = serve(&working());
    assert_problem(&post(address, "/api/v1/checkpoints", b""), 503, "not_open", "not open yet");
}

fn serve_user(known: &str, is_silent: bool) -> (std::net::SocketAddr, Arc<OneUser>) {
    let (ports, users) = (ports(), Arc::new(OneUser { known: known.to_owned(), is_silent, asked: Mutex::default() }));
    ports.set_users(users.clone());
    (serve_all(served(&working(), &ports)), users)
}

#[test]
fn a_user_is_asked_for_by_the_very_id_whatever_characters_it_has() {
    let unusual = "ü/1 %?#+\"";
    let (address, users) = serve_user(unusual, false);
    let answer = get(address, "/api/v1/users/%C3%BC%2F1%20%25%3F%23+%22").json();
    let window = json!({
        "partition": 1, "rule_id": "velocity-1m", "rule_version": 2, "window_start": "2025-11-21T04:40:00Z",
        "window_end": "2025-11-21T04:41:00Z", "count": 11, "max_transactions": 10, "alerted": true,
    });
    assert_eq!(answer, json!({"user_id": unusual, "windows": [window], "silent_partitions": []}));
    assert_eq!(*users.asked.lock(), [unusual]);
}

#[test]
fn a_user_without_open_windows_is_404_and_one_who_may_be_in_a_silent_partition_is_503() {
    let (address, _) = serve_user("u-1", false);
    assert_problem(&get(address, "/api/v1/users/u-2"), 404, "no_open_window", "in the partitions that run here: 1, 2");
    let (address, _) = serve_user("u-1", true);
    assert_problem(&get(address, "/api/v1/users/u-2"), 503, "no_answer", "partitions 2 did not answer");
    assert_eq!(get(address, "/api/v1/users/u-1").json()["silent_partitions"], json!([2]));
    assert_problem(&get(serve(&working()), "/api/v1/users/u-1"), 503, "not_open", "not open yet");
}

#[test]
fn an_id_that_no_user_can_have_is_refused() {
    let (address, users) = serve_user("u-1", false);
    let long = "x".repeat(129);
    for id in ["%zz", "%2", "%", "%FF", &long] {
        let answer = ask("GET", address, &format!("/api/v1/users/{id}"));
        assert_problem(&answer, 400, "bad_parameter", "id must be a user id of 1 to 128 bytes");
    }
    assert!(users.asked.lock().is_empty());
}
