//! Proves the harness that the other integration tests stand on: what it starts is real, keeps what it should keep,
//! and is gone when the test process is gone. A harness that loses a record by itself, or that hides an aborted one,
//! would make every other test here worthless.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;
use std::{env, fs};

use support::topics::{
    OpenTransaction, add_partitions, committed_offsets, create_topic, delete_group_offsets, delete_topic, end_offsets,
    produce, produce_aborted_transaction, read_all, read_all_uncommitted, truncate_before,
};
use support::{
    Broker, Database, TestConfig, TestRecord, free_port, shared_broker, shared_database, unique_name, wait_until,
};

const PATIENCE: Duration = Duration::from_secs(120);

fn topic_with(partitions: i32) -> (String, String) {
    let bootstrap = shared_broker().bootstrap();
    let topic = unique_name("harness");
    create_topic(&bootstrap, &topic, partitions, &[]);
    (bootstrap, topic)
}

fn values(records: &[support::ReadRecord]) -> Vec<String> {
    records.iter().map(support::ReadRecord::value_text).collect()
}

#[test]
fn a_record_comes_back_with_everything_it_was_produced_with() {
    let (bootstrap, topic) = topic_with(3);
    let full = TestRecord::new("user", "value")
        .in_partition(2)
        .at(1_700_000_000_123)
        .with_header("first", "1")
        .with_header("first", [0xff, 0x00]);
    let bare = TestRecord { partition: Some(2), headers: vec![("empty".to_owned(), None)], ..TestRecord::default() };
    produce(&bootstrap, &topic, [full.clone(), bare.clone()]);

    let found = read_all(&bootstrap, &topic);
    assert_eq!(found.len(), 2);
    assert_eq!((found[0].partition, found[0].offset, found[0].timestamp_ms), (2, 0, Some(1_700_000_000_123)));
    assert_eq!((&found[0].key, &found[0].value, &found[0].headers), (&full.key, &full.value, &full.headers));
    assert_eq!((&found[1].key, &found[1].value, &found[1].headers), (&None, &None, &bare.headers));
}

#[test]
fn many_records_keep_their_order_in_each_partition_and_their_key_decides_the_partition() {
    let (bootstrap, topic) = topic_with(4);
    let sent: Vec<TestRecord> =
        (0..50_000).map(|n| TestRecord::new(format!("u-{}", n % 100), format!("{n:05}"))).collect();
    produce(&bootstrap, &topic, sent.clone());

    let found = read_all(&bootstrap, &topic);
    assert_eq!(found.len(), sent.len());
    for user in ["u-0", "u-57", "u-99"] {
        let of_user: Vec<_> = found.iter().filter(|record| record.key_text() == user).collect();
        assert_eq!(of_user.len(), 500);
        assert!(of_user.is_sorted_by_key(|record| record.value_text()), "{user} is out of order");
        assert!(of_user.iter().all(|record| record.partition == of_user[0].partition), "{user} is in two partitions");
    }
}

#[test]
fn an_aborted_transaction_is_invisible_and_its_marker_takes_an_offset() {
    let (bootstrap, topic) = topic_with(1);
    produce(&bootstrap, &topic, [TestRecord::new("u", "kept")]);
    produce_aborted_transaction(&bootstrap, &topic, [TestRecord::new("u", "taken back")]);

    assert_eq!(values(&read_all(&bootstrap, &topic)), ["kept"]);
    assert_eq!(values(&read_all_uncommitted(&bootstrap, &topic)), ["kept", "taken back"]);
    assert_eq!(end_offsets(&bootstrap, &topic), [(0, 3)]);
}

#[test]
fn committed_records_end_before_an_undecided_transaction() {
    let (bootstrap, topic) = topic_with(1);
    produce(&bootstrap, &topic, [TestRecord::new("u", "before")]);
    let transaction = OpenTransaction::begin(&bootstrap, &topic, [TestRecord::new("u", "within")]);
    produce(&bootstrap, &topic, [TestRecord::new("u", "after")]);

    assert_eq!(values(&read_all(&bootstrap, &topic)), ["before"]);
    transaction.commit();
    wait_until(PATIENCE, "the commit's marker is written", || {
        values(&read_all(&bootstrap, &topic)) == ["before", "within", "after"]
    });
}

#[test]
fn topics_can_be_emptied_widened_and_deleted() {
    let (bootstrap, topic) = topic_with(1);
    assert_eq!(read_all(&bootstrap, &topic), []);
    produce(&bootstrap, &topic, ["0", "1", "2"].map(|value| TestRecord::new("u", value)));
    truncate_before(&bootstrap, &topic, 0, 2);
    assert_eq!(values(&read_all(&bootstrap, &topic)), ["2"]);

    add_partitions(&bootstrap, &topic, 2);
    produce(&bootstrap, &topic, [TestRecord::new("u", "3").in_partition(1)]);
    assert_eq!(values(&read_all(&bootstrap, &topic)), ["2", "3"]);

    delete_topic(&bootstrap, &topic);
    create_topic(&bootstrap, &topic, 1, &[("retention.ms", "-1")]);
    assert_eq!(read_all(&bootstrap, &topic), []);
}

#[test]
fn committed_offsets_show_their_metadata_and_can_be_deleted() {
    use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};

    let (bootstrap, topic) = topic_with(3);
    let group = unique_name("harness-group");
    assert_eq!(committed_offsets(&bootstrap, &group, &topic), []);
    {
        let client: BaseConsumer = rdkafka::ClientConfig::new()
            .set("bootstrap.servers", &bootstrap)
            .set("group.id", &group)
            .create()
            .expect("a consumer");
        let mut offsets = rdkafka::TopicPartitionList::new();
        let mut element = offsets.add_partition(&topic, 1);
        element.set_offset(rdkafka::Offset::Offset(42)).expect("an offset");
        element.set_metadata("metadata of 42");
        client.commit(&offsets, CommitMode::Sync).expect("commit");
    }
    assert_eq!(committed_offsets(&bootstrap, &group, &topic), [(1, 42, "metadata of 42".to_owned())]);
    delete_group_offsets(&bootstrap, &group);
    assert_eq!(committed_offsets(&bootstrap, &group, &topic), []);
}

#[test]
fn a_broker_that_was_killed_comes_back_with_its_records_on_its_port() {
    let broker = Broker::start();
    let bootstrap = broker.bootstrap();
    create_topic(&bootstrap, "kept", 2, &[]);
    produce(&bootstrap, "kept", [TestRecord::new("u", "before").in_partition(0)]);
    broker.kill9();
    broker.restart();
    assert_eq!(broker.bootstrap(), bootstrap);
    produce(&bootstrap, "kept", [TestRecord::new("u", "after").in_partition(1)]);
    assert_eq!(values(&read_all(&bootstrap, "kept")), ["before", "after"]);
}

#[test]
fn a_database_keeps_its_rows_over_a_stop_and_over_a_kill() {
    let database = Database::start();
    let schema = database.create_schema("kept");
    database.query_in(&schema.name, "CREATE TABLE t (id INT PRIMARY KEY, amount DECIMAL(38,0), note VARCHAR(9))");
    database.query_in(&schema.name, "INSERT INTO t VALUES (1, 12345678901234567890123456789012345678, NULL)");
    database.stop();
    assert!(!accepts(database.port()));
    database.start_again();
    database.query_in(&schema.name, "INSERT INTO t VALUES (2, -1, 'ü')");
    database.kill9();
    assert!(!accepts(database.port()));
    database.start_again();

    let rows = database.query("SELECT * FROM kept.t ORDER BY id");
    let text = |value: &str| Some(value.to_owned());
    assert_eq!(rows[0], [text("1"), text("12345678901234567890123456789012345678"), None]);
    assert_eq!(rows[1], [text("2"), text("-1"), text("ü")]);
}

fn accepts(port: u16) -> bool {
    std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
}

#[test]
fn the_service_account_needs_its_password_and_works_in_its_schema() {
    use sqlx::{Connection, MySqlConnection};

    let schema = shared_database().create_schema(&unique_name("harness"));
    support::block_on(async {
        let mut connection = MySqlConnection::connect(&schema.url_with_password).await.expect("connects");
        sqlx::raw_sql("CREATE TABLE t (id INT)").execute(&mut connection).await.expect("creates");
        let refused = MySqlConnection::connect(&schema.url).await.expect_err("no password");
        assert!(refused.to_string().contains("Access denied"), "{refused}");
    });
    assert_eq!(shared_database().query_in(&schema.name, "SHOW TABLES"), [[Some("t".to_owned())]]);
    assert!(shared_database().try_query_in(&schema.name, "SELECT * FROM absent").is_err());
}

#[test]
fn a_configuration_says_what_it_was_told() {
    let dir = Path::new("/nowhere");
    let config = TestConfig::new("127.0.0.1:1", dir)
        .with_rule("velocity-1m", 2, "1m", 3, "low")
        .with_rule("velocity-1h", 1, "1h", 30, "high")
        .set("time.out_of_orderness", "5s")
        .set_kafka_property("socket.timeout.ms", "1000");
    let other = config.clone().for_instance("b", dir).remove("time");
    let parsed: toml::Table = config.to_toml().parse().expect("TOML");
    assert_eq!(parsed["rules"].as_array().map(Vec::len), Some(2));
    assert_eq!(parsed["rules"][0]["version"].as_integer(), Some(2));
    assert_eq!(parsed["time"]["out_of_orderness"].as_str(), Some("5s"));
    assert_eq!(parsed["kafka"]["properties"]["socket.timeout.ms"].as_str(), Some("1000"));
    assert_eq!(parsed["stats"]["enabled"].as_bool(), Some(false));

    let parsed_other: toml::Table = other.to_toml().parse().expect("TOML");
    assert_eq!(parsed_other["source"], parsed["source"]);
    assert_ne!(parsed_other["http"], parsed["http"]);
    assert_eq!(parsed_other["instance"]["state_dir"].as_str(), Some("/nowhere/state-b"));
    assert!(!parsed_other.contains_key("time"));
}

#[test]
fn a_child_process_tells_how_it_ended_and_a_frozen_one_can_still_be_killed() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = dir.path().join("log");
    let spawn = |script: &str| support::GuardedChild::spawn(Command::new("bash").args(["-c", script]), &log);
    let code = |child: &mut support::GuardedChild| child.wait(PATIENCE).map(support::process::exit_code);

    assert_eq!(code(&mut spawn("echo said; exit 3")), Some(3));
    assert_eq!(fs::read_to_string(&log).expect("the log"), "said\n");

    let mut terminated = spawn("exec sleep 1000");
    assert_eq!(terminated.wait(Duration::from_millis(50)), None);
    terminated.signal(libc::SIGTERM);
    assert_eq!(code(&mut terminated), Some(128 + libc::SIGTERM));

    let mut frozen = spawn("exec sleep 1000");
    frozen.signal(libc::SIGSTOP);
    let pid = frozen.id().to_string();
    drop(frozen);
    assert!(!is_alive(&pid));
}

#[test]
fn an_http_answer_comes_with_its_status_and_silence_is_status_0() {
    use std::io::{Read, Write};

    let listener = std::net::TcpListener::bind(("127.0.0.1", free_port())).expect("a port");
    let port = listener.local_addr().expect("its port").port();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a request");
        let mut request = [0; 1024];
        let length = stream.read(&mut request).expect("a request");
        stream.write_all(b"HTTP/1.1 503 x\r\nContent-Length: 9\r\n\r\nnot ready").expect("an answer");
        String::from_utf8_lossy(&request[..length]).into_owned()
    });
    assert_eq!(support::service::http_get(port, "/readyz"), (503, "not ready".to_owned()));
    assert!(server.join().expect("the server").starts_with("GET /readyz HTTP/1.1"));
    assert_eq!(support::service::http_get(port, "/readyz").0, 0);
}

#[test]
fn free_ports_are_not_handed_out_twice() {
    let mut ports: Vec<u16> = (0..200).map(|_| free_port()).collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 200);
}

#[test]
#[should_panic(expected = "until the impossible happens")]
fn waiting_in_vain_names_what_was_waited_for() {
    wait_until(Duration::from_millis(20), "the impossible happens", || false);
}

/// The test runs itself a second time as the victim, which starts everything and is then killed in a way that no
/// destructor and no signal handler sees.
#[test]
fn a_killed_test_process_leaves_no_broker_no_database_and_no_directory_behind() {
    const NAME: &str = "a_killed_test_process_leaves_no_broker_no_database_and_no_directory_behind";
    const VICTIM: &str = "TALLYGUARD_HARNESS_VICTIM";
    if let Some(report) = env::var_os(VICTIM) {
        be_the_victim(Path::new(&report));
    }

    let dir = tempfile::tempdir().expect("a directory");
    let report = dir.path().join("report");
    let mut victim = Command::new(env::current_exe().expect("the test binary"))
        .args(["--exact", NAME, "--nocapture"])
        .env(VICTIM, &report)
        .stdout(Stdio::null())
        .spawn()
        .expect("the test binary runs again");
    wait_until(PATIENCE, "the victim has started its servers", || {
        assert!(victim.try_wait().expect("its state").is_none(), "the victim ended by itself");
        report.exists()
    });
    let text = fs::read_to_string(&report).expect("the victim's report");
    let lines: Vec<&str> = text.lines().collect();
    let (pids, folders) = lines.split_at(3);
    assert!(pids.iter().all(|pid| is_alive(pid)), "not all of {pids:?} run");

    victim.kill().expect("SIGKILL");
    victim.wait().expect("the victim ends");
    wait_until(PATIENCE, "its servers are gone", || !pids.iter().any(|pid| is_alive(pid)));
    wait_until(PATIENCE, "their directories are gone", || !folders.iter().any(|folder| Path::new(folder).exists()));
}

/// Starts servers on a thread that ends before the process does: they must not depend on it.
fn be_the_victim(report: &Path) -> ! {
    let (broker, database, sleeper) = std::thread::spawn(|| {
        let mut command = Command::new("sleep");
        command.arg("1000").stdout(Stdio::null()).stderr(Stdio::null());
        (Broker::start(), Database::start(), support::GuardedChild::spawn_with(&mut command))
    })
    .join()
    .expect("the servers start");
    let lines = [
        broker.process_id().to_string(),
        database.process_id().to_string(),
        sleeper.id().to_string(),
        broker.data_dir().display().to_string(),
        database.data_dir().display().to_string(),
    ];
    let unfinished: PathBuf = report.with_extension("unfinished");
    fs::write(&unfinished, lines.join("\n")).expect("the report");
    fs::rename(&unfinished, report).expect("the report");
    loop {
        sleep(Duration::from_secs(1));
    }
}

/// A process that has ended and that nobody has waited for (a zombie) is not alive.
fn is_alive(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.starts_with(" Z")))
}
