//! Files and pipes that are slow, broken or large, and a service that dies on the way.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::time::Duration;

use serde_json::Value;
use tallyguard::domain::ids::PartitionId;
use tallyguard::log::embedded::EmbeddedView;

use crate::running::{PATIENCE, Running};
use crate::support::service::run_command_with;
use crate::support::{free_port, wait_until, wait_until_or_show};
use crate::{World, burst, gzip, lines, transaction};

impl World {
    /// Every value in the log.
    fn values(&self) -> Vec<String> {
        let view = EmbeddedView::open(&self.path("state/log")).expect("the log");
        let partitions = (0..view.partitions().unwrap()).map(PartitionId);
        let records = partitions.flat_map(|partition| {
            let (start, end) = view.bounds(partition).unwrap();
            view.records(partition, start, end).unwrap()
        });
        records.map(|stored| String::from_utf8_lossy(&stored.record.value.unwrap_or_default()).into_owned()).collect()
    }
}

#[test]
fn what_is_rejected_is_not_in_the_log_and_what_becomes_a_dead_letter_is_there_byte_for_byte() {
    let world = World::new();
    let file = world.path("mixed.ndjson");
    let bad = ["[1, 2]", "{\"user_id\":\"u\"}", "\u{feff}{}", "  {\"a\":\"b\"}  ", "\"text\""];
    // The first line looks like an array: the file is named NDJSON.
    let text = bad.map(|line| format!("{line}\n")).concat() + &burst("u-1", 2);
    fs::write(&file, &text).unwrap();
    let file = file.display().to_string();
    let (code, out, err) = world.run(&["ingest"], &[&file, "--format", "ndjson", "--invalid", "reject"]);
    assert_eq!(code, 1, "{err}");
    assert!(out.starts_with("2 transactions taken in, 0 dead letters, 5 rejected"), "{out}");
    assert_eq!(world.values().len(), 2);
    let (code, out, err) = world.run(&["ingest"], &[&file, "--format", "ndjson"]);
    assert_eq!(code, 0, "{err}");
    assert!(out.starts_with("2 transactions taken in, 5 dead letters, 0 rejected"), "{out}");
    assert!(err.contains("line 1: invalid_json") && err.contains("line 2: missing_field"), "{err}");
    let values: BTreeSet<String> = world.values().into_iter().collect();
    assert!(bad.iter().all(|line| values.contains(*line)), "{values:?}");
}

#[test]
fn only_the_first_bad_lines_are_named_and_no_value_is_shown() {
    let world = World::new();
    let file = world.path("bad.ndjson");
    fs::write(&file, "{\"user_id\":\"very-secret\"}\n".repeat(500)).unwrap();
    let (code, out, err) = world.run(&["ingest"], &[&file.display().to_string()]);
    assert_eq!(code, 0, "{err}");
    assert!(out.starts_with("0 transactions taken in, 500 dead letters, 0 rejected"), "{out}");
    assert_eq!(err.matches("missing_field").count(), 20, "{err}");
    assert!(err.contains("further bad lines are only counted") && !err.contains("very-secret"), "{err}");
}

#[test]
fn a_file_that_breaks_off_or_is_not_there_does_not_stop_the_others() {
    let world = World::new();
    let (broken, sound) = (world.path("broken.ndjson.gz"), world.path("sound.ndjson"));
    gzip(&broken, &lines((0..20_000).map(|number| transaction(&format!("u-{}", number * 7_919 % 997), number))));
    let bytes = fs::read(&broken).unwrap();
    fs::write(&broken, &bytes[..bytes.len() / 2]).unwrap();
    fs::write(&sound, burst("u-sound", 3)).unwrap();
    let paths = [broken, world.path("missing.csv"), sound].map(|path| path.display().to_string());
    let (code, out, err) = world.run(&["ingest"], &[&paths[0], &paths[1], &paths[2]]);
    assert_eq!(code, 1, "{err}");
    assert!(out.contains("2 of 3 files could not be read to the end"), "{out}");
    assert!(err.contains("cannot open") && err.contains("what it holds up to line"), "{err}");
    let values = world.values();
    assert!(values.len() > 3_000 && values.len() < 20_000, "{}", values.len());
    assert_eq!(values.iter().filter(|value| value.contains("u-sound")).count(), 3);
    assert!(values.iter().all(|value| serde_json::from_str::<Value>(value).is_ok()), "no half line is in the log");
}

#[test]
fn a_pipe_that_pauses_is_taken_in_as_it_comes_and_a_signal_ends_the_waiting() {
    let world = World::new();
    let _service = world.start();
    let config = world.config().display().to_string();
    let mut ingest = Running::start(&world, &["ingest", "--config", &config, "-"]);
    let mut pipe = ingest.process.take_stdin();
    for (user, alerts) in [("u-first", 1), ("u-second", 2)] {
        pipe.write_all(burst(user, 11).as_bytes()).unwrap();
        wait_until(PATIENCE, "the alert of what was written so far", || world.alerts().len() == alerts);
    }
    ingest.process.signal(libc::SIGINT);
    assert_eq!(ingest.end(Duration::from_secs(10)), 1, "not everything was taken in: {}", ingest.err());
    assert!(ingest.out().starts_with("22 transactions taken in"), "{}", ingest.out());
    assert!(ingest.err().contains("stopped"), "{}", ingest.err());
}

/// The answer to a batch may be lost with the process: it is sent again, and counts once.
#[test]
fn a_service_that_is_killed_while_it_takes_transactions_in_loses_nothing_and_counts_nothing_twice() {
    const USERS: usize = 1_000;
    const REPEATED: usize = 40;
    const KILLS: usize = 4;
    const SENT: usize = USERS * 11 * REPEATED;
    let world = World::new();
    let mut service = world.start();
    // 11 of each user, all in one minute: an alert each; one that counts twice would not change it, but one that is
    // missing would.
    let all = (0..11).flat_map(|number| (0..USERS).map(move |user| transaction(&format!("u-{user}"), number)));
    let all = lines(all);
    let config = world.config().display().to_string();
    let mut ingest = Running::start(&world, &["ingest", "--config", &config, "-"]);
    let mut pipe = ingest.process.take_stdin();
    // The end is held back until the last kill, so that each hits the middle however fast or slow the machine is.
    let (go_on, gate) = std::sync::mpsc::channel();
    let writer = std::thread::spawn(move || {
        for number in 0..REPEATED {
            if number % (REPEATED / KILLS) == REPEATED / KILLS - 1 {
                gate.recv().unwrap();
            }
            pipe.write_all(all.as_bytes()).unwrap();
        }
    });
    for _ in 0..KILLS {
        std::thread::sleep(Duration::from_millis(250));
        assert!(ingest.process.is_running(), "not interrupted: {}", ingest.out());
        service.kill9();
        service = world.start();
        go_on.send(()).unwrap();
    }
    writer.join().unwrap();
    assert_eq!(ingest.end(PATIENCE), 0, "{}\n{}", ingest.out(), ingest.err());
    assert!(ingest.out().starts_with(&format!("{SENT} transactions taken in")), "{}", ingest.out());
    let totals = || -> (u64, u64) {
        let offsets = world.run(&["offsets", "show"], &["--json"]).1;
        let offsets: Value = serde_json::from_str(&offsets).unwrap_or_default();
        let partitions = offsets["partitions"].as_array().cloned().unwrap_or_default();
        let sum = |name: &str| partitions.iter().filter_map(|partition| partition[name].as_u64()).sum();
        (sum("committed"), sum("log_end"))
    };
    wait_until_or_show(
        PATIENCE,
        "everything is committed",
        || format!("{:?}", totals()),
        || {
            let (committed, end) = totals();
            committed == end && end > 0
        },
    );
    let values = world.values();
    assert!(values.len() >= SENT, "what was acknowledged is in the log");
    assert_eq!(values.into_iter().collect::<BTreeSet<_>>().len(), USERS * 11);
    let alerts = world.alerts();
    let users: BTreeSet<_> = alerts.iter().map(|alert| alert["user_id"].to_string()).collect();
    assert_eq!((alerts.len(), users.len()), (USERS, USERS), "each user alerted, and once");
    assert!(alerts.iter().all(|alert| alert["count"] == 11));
}

/// The second finds the log taken, and nobody who listens; the first ends.
#[test]
fn a_second_ingest_waits_for_the_first_and_goes_on_without_a_service() {
    let world = World::new();
    let config = world.config().display().to_string();
    let mut first = Running::start(&world, &["ingest", "--config", &config, "-"]);
    let mut pipe = first.process.take_stdin();
    pipe.write_all(burst("u-first", 11).as_bytes()).unwrap();
    wait_until(PATIENCE, "the first has the log", || world.path("state/log/lock").exists());
    let file = world.path("second.ndjson");
    fs::write(&file, burst("u-second", 11)).unwrap();
    let mut second = Running::start(&world, &["ingest", "--config", &config, &file.display().to_string()]);
    std::thread::sleep(Duration::from_millis(700));
    assert!(second.process.is_running(), "{}\n{}", second.out(), second.err());
    drop(pipe);
    assert_eq!(first.end(PATIENCE), 0, "{}", first.err());
    assert_eq!(second.end(Duration::from_secs(20)), 0, "{}", second.err());
    assert_eq!(world.values().into_iter().collect::<BTreeSet<_>>().len(), 22);
}

/// A proxy of the environment knows nothing of a service on this machine, and would see the token.
#[test]
fn a_proxy_of_the_environment_is_not_asked() {
    let world = World::new();
    let _service = world.start();
    let file = world.path("some.ndjson");
    fs::write(&file, burst("u-1", 3)).unwrap();
    let (config, file) = (world.config().display().to_string(), file.display().to_string());
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let proxies = ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"].map(|name| (name, nobody.as_str()));
    let (code, out, err) = run_command_with(&["ingest", "--config", &config, &file], &proxies, Duration::from_secs(30));
    assert_eq!(code, 0, "{err}");
    assert!(out.starts_with("3 transactions taken in"), "{out}");
}
