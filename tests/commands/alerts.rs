//! Followers of alerts that are stopped, abandoned, or whose service is killed.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::running::{PATIENCE, Running};
use crate::support::process::{GuardedChild, exit_code};
use crate::{World, burst};

impl World {
    /// Raises one alert of a user.
    fn alert(&self, user: &str) {
        let file = self.path("burst.ndjson");
        std::fs::write(&file, burst(user, 11)).unwrap();
        let (code, out, err) = self.run(&["ingest"], &[&file.display().to_string()]);
        assert_eq!(code, 0, "{out}\n{err}");
    }
}

#[test]
fn a_follower_sees_each_alert_once_while_the_service_is_killed_and_started_and_ends_with_0() {
    let world = World::new();
    let mut service = world.start();
    let config = world.config().display().to_string();
    let mut tail = Running::start(&world, &["alerts", "tail", "--config", &config, "--from", "beginning", "--json"]);
    let mut expected = Vec::new();
    for round in 0..4 {
        let user = format!("u-{round}");
        world.alert(&user);
        tail.wait_for(&format!("\"{user}\""));
        expected.push(user);
        service.kill9();
        service = world.start();
    }
    tail.process.signal(libc::SIGTERM);
    assert_eq!(tail.end(Duration::from_secs(5)), 0, "{}", tail.err());
    let seen: Vec<String> = tail
        .out()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["user_id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(seen, expected);
    let (code, last, err) = world.run(&["alerts", "tail"], &["--last", "1", "--for", "0s"]);
    assert!(code == 0 && last.is_empty(), "no time is no look: {last}{err}");
    let (code, last, err) = world.run(&["alerts", "tail"], &["--last", "1", "--for", "1s"]);
    assert_eq!(code, 0, "{err}");
    assert!(last.lines().count() == 1 && last.contains(" HIGH u-3: 11 transactions within 1m, limit 10 ("), "{last}");
    assert!(!last.contains('\u{1b}'), "no colours: this is no terminal");
}

#[test]
fn a_reader_that_has_seen_enough_ends_the_follower_without_a_complaint() {
    let world = World::new();
    let _service = world.start();
    world.alert("u-first");
    let mut command = Command::new(env!("CARGO_BIN_EXE_tallyguard"));
    command.args(["alerts", "tail", "--from", "beginning", "--config"]).arg(world.config());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut tail = GuardedChild::spawn_as_it_is(&mut command);
    let mut reader = BufReader::new(tail.take_stdout());
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert!(line.contains("u-first"), "{line}");
    drop(reader);
    world.alert("u-second");
    let status = tail.wait(PATIENCE).expect("it ends at the next alert");
    assert_eq!(exit_code(status), 0);
}

#[test]
fn without_a_log_there_is_nothing_to_follow_and_that_is_said() {
    let world = World::new();
    let (code, _, err) = world.run(&["alerts", "tail"], &["--for", "1s"]);
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("there is no embedded log in"), "{err}");
}
