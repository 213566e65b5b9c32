//! What the writer does while the database does not serve, and what is there afterwards.

use std::time::Duration;

use tallyguard::domain::ids::{Offset, PartitionId};
use tallyguard::stats::{StatsEvent, StatsOptions};

use crate::fixture::{TestWriter, flush, options_as, options_for, row, schema_name};
use crate::support::{Database, Schema, shared_database, wait_until};

fn count(database: &Database, schema: &Schema) -> String {
    database.query_in(&schema.name, "SELECT COUNT(*) FROM order_stats_by_partition").concat().concat_text()
}

trait ConcatText {
    fn concat_text(self) -> String;
}

impl ConcatText for Vec<Option<String>> {
    fn concat_text(self) -> String {
        self.into_iter().flatten().collect()
    }
}

fn acknowledged(partition: i32, through: i64) -> StatsEvent {
    StatsEvent::Acknowledged { partition: PartitionId(partition), through: Offset(through) }
}

#[test]
fn a_server_that_dies_and_comes_back_finds_everything_waiting_for_it() {
    let database = Database::start();
    let schema = database.create_schema(&schema_name());
    let writer = TestWriter::spawn(options_for(&schema));
    writer.write(flush(0, 10, vec![row("m-0", 9)]));
    database.kill9();
    for partition in 0..3 {
        writer.handle.submit(flush(partition, 20, vec![row("m-1", 19)])).unwrap();
    }
    writer.until_unavailable();
    writer.handle.submit(flush(1, 30, vec![])).expect_err("one flush per partition");
    // Partition 2 is taken away meanwhile.
    writer.handle.forget(PartitionId(2));
    database.start_again();
    let mut events = writer.until_connected();
    events.extend(writer.until(|event| *event == acknowledged(1, 20)));
    assert!(events.contains(&acknowledged(0, 20)), "{events:?}");
    assert!(!events.contains(&acknowledged(2, 20)), "{events:?}");
    assert!(!events.iter().any(|event| matches!(event, StatsEvent::GapAfterReconnect { .. })), "{events:?}");
    assert_eq!(count(&database, &schema), "3");
}

#[test]
fn a_server_that_hangs_is_an_outage_and_not_a_hang() {
    let database = Database::start();
    let schema = database.create_schema(&schema_name());
    let options = StatsOptions { statement_timeout: Duration::from_secs(1), ..options_for(&schema) };
    let writer = TestWriter::spawn(options);
    writer.until_connected();
    database.sigstop();
    writer.handle.submit(flush(0, 1, vec![row("m-1", 0)])).unwrap();
    let error = writer.until_unavailable();
    assert!(error.contains("did not answer within 1 s"), "{error}");
    database.sigcont();
    writer.until(|event| *event == acknowledged(0, 1));
    assert_eq!(count(&database, &schema), "1");
}

#[test]
fn a_server_that_is_read_only_refuses_no_row_for_good() {
    let database = Database::start();
    let schema = database.create_schema(&schema_name());
    // The harness's account may write to read-only servers.
    database.query(&format!(
        "CREATE USER plain@'127.0.0.1' IDENTIFIED BY 'p'; GRANT ALL ON `{}`.* TO plain@'127.0.0.1'",
        schema.name
    ));
    let writer = TestWriter::spawn(options_as(&schema, "plain", "p"));
    writer.write(flush(0, 1, vec![row("m-1", 0)]));
    database.query("SET GLOBAL read_only = 1");
    writer.handle.submit(flush(0, 2, vec![row("m-2", 1)])).unwrap();
    let error = writer.until_unavailable();
    assert!(error.contains("read-only"), "{error}");
    database.query("SET GLOBAL read_only = 0");
    let events = writer.until(|event| *event == acknowledged(0, 2));
    assert_eq!(events, [StatsEvent::Connected, acknowledged(0, 2)]);
    assert_eq!(count(&database, &schema), "2");
}

#[test]
fn wrong_passwords_and_missing_rights_are_waited_out() {
    let database = shared_database();
    let schema = database.create_schema(&schema_name());
    let user = schema.name.chars().rev().take(20).collect::<String>();
    database.query(&format!("CREATE USER `{user}`@'127.0.0.1' IDENTIFIED BY 'right'"));
    let writer = TestWriter::spawn(options_as(&schema, &user, "fixed later"));
    writer.handle.submit(flush(0, 1, vec![row("m-1", 0)])).unwrap();
    let denied = writer.until_unavailable();
    assert!(denied.contains("Access denied"), "{denied}");
    assert!(!denied.contains("fixed later"), "{denied}");
    database.query(&format!("ALTER USER `{user}`@'127.0.0.1' IDENTIFIED BY 'fixed later'"));
    writer.until_unavailable();
    database.query(&format!("GRANT SELECT ON `{}`.* TO `{user}`@'127.0.0.1'", schema.name));
    let no_right = writer.until_unavailable();
    assert!(no_right.contains("command denied"), "{no_right}");
    database.query(&format!("GRANT ALL ON `{}`.* TO `{user}`@'127.0.0.1'", schema.name));
    writer.until(|event| *event == acknowledged(0, 1));
}

fn cut_connections(database: &Database, schema: &Schema) {
    let connections =
        format!("SELECT id FROM information_schema.processlist WHERE db = '{}' AND user <> 'root'", schema.name);
    for id in database.query(&connections).concat().into_iter().flatten() {
        database.query(&format!("KILL CONNECTION {id}"));
    }
}

#[test]
fn a_connection_that_is_cut_while_idle_is_no_outage() {
    let database = shared_database();
    let schema = database.create_schema(&schema_name());
    let writer = TestWriter::spawn(options_for(&schema));
    writer.write(flush(0, 1, vec![]));
    cut_connections(database, &schema);
    let events = writer.write(flush(0, 2, vec![row("m-1", 1)]));
    assert_eq!(events, [acknowledged(0, 2)]);
}

#[test]
fn progress_that_a_fail_over_dropped_is_reported() {
    let database = shared_database();
    let schema = database.create_schema(&schema_name());
    let writer = TestWriter::spawn(options_for(&schema));
    for partition in 0..3 {
        writer.write(flush(partition, 100, vec![row("m-1", 99)]));
    }
    let fail_over = "UPDATE order_stats_progress SET source_offset = 40 WHERE source_partition = 0; \
                     DELETE FROM order_stats_progress WHERE source_partition = 1";
    database.query_in(&schema.name, fail_over);
    cut_connections(database, &schema);
    let gap = |partition, found: Option<i64>| StatsEvent::GapAfterReconnect {
        partition: PartitionId(partition),
        acknowledged: Offset(100),
        found: found.map(Offset),
    };
    let events = writer.write(flush(2, 110, vec![]));
    assert_eq!(events, [gap(0, Some(40)), gap(1, None), acknowledged(2, 110)]);
    cut_connections(database, &schema);
    assert_eq!(writer.write(flush(2, 120, vec![])), [acknowledged(2, 120)], "a gap is told once");
}

#[test]
fn a_row_that_another_transaction_holds_is_waited_for() {
    let database = shared_database();
    let schema = database.create_schema(&schema_name());
    let writer = TestWriter::spawn(options_for(&schema));
    writer.write(flush(0, 1, vec![row("m-1", 0)]));
    // Longer than the session's lock wait time-out of 5 s.
    let hold = "BEGIN; UPDATE order_stats_by_partition SET order_count = 7; DO SLEEP(6.5); ROLLBACK";
    std::thread::scope(|scope| {
        scope.spawn(|| database.query_in(&schema.name, hold));
        wait_until(Duration::from_secs(10), "the row is held", || {
            let sleeping = "SELECT 1 FROM information_schema.processlist WHERE info LIKE 'DO SLEEP%' AND db = ";
            !database.query(&format!("{sleeping}'{}'", schema.name)).is_empty()
        });
        let events = writer.write(flush(0, 2, vec![row("m-1", 1)]));
        assert_eq!(events, [acknowledged(0, 2)]);
    });
}

#[test]
fn a_shutdown_writes_what_waits_and_gives_up_at_its_deadline() {
    let database = Database::start();
    let schema = database.create_schema(&schema_name());
    let writer = TestWriter::spawn(options_for(&schema));
    writer.until_connected();
    for partition in 0..20 {
        writer.handle.submit(flush(partition, 1, vec![row("m-1", 0)])).unwrap();
    }
    assert!(writer.handle.shutdown(Duration::from_secs(30)));
    assert_eq!(count(&database, &schema), "20");

    let writer = TestWriter::spawn(options_for(&schema));
    writer.until_connected();
    database.stop();
    assert!(TestWriter::spawn(options_for(&schema)).handle.shutdown(Duration::from_secs(30)), "nothing waits");
    writer.handle.submit(flush(0, 2, vec![])).unwrap();
    assert!(!writer.handle.shutdown(Duration::from_millis(300)));
}
