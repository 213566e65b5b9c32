//! Who may use a schema, and how it comes into being.

use std::time::Duration;

use tallyguard::domain::ids::{Offset, PartitionId};
use tallyguard::stats::{Identity, ProgressProbe, StatsEvent, StatsOptions};

use crate::fixture::{TestWriter, flush, identity, options_for, row, schema_name};
use crate::support::{shared_database, wait_until};

#[test]
fn instances_that_start_at_once_and_again_later_find_one_complete_schema() {
    let database = shared_database();
    let schema = database.create_schema(&schema_name());
    for _ in 0..2 {
        let writers: Vec<_> = (0..4).map(|_| TestWriter::spawn(options_for(&schema))).collect();
        for writer in &writers {
            assert_eq!(writer.until_connected(), [StatsEvent::Connected]);
        }
    }
    let versions = database.query_in(&schema.name, "SELECT version FROM tallyguard_schema_version ORDER BY version");
    assert_eq!(versions.concat(), ["1", "2", "3"].map(|version| Some(version.to_owned())));
    let tables = database.query_in(&schema.name, "SHOW TABLES").concat();
    for table in [
        "order_stats",
        "order_stats_by_partition",
        "order_stats_identity",
        "order_stats_progress",
        "orders",
        "reconciliation_breaks",
        "reconciliation_runs",
        "rule_history",
    ] {
        assert!(tables.contains(&Some(table.to_owned())), "{table} is missing in {tables:?}");
    }
}

#[test]
fn a_migration_that_was_cut_in_two_is_completed() {
    let database = shared_database();
    let schema = database.create_schema(&schema_name());
    TestWriter::spawn(options_for(&schema)).until_connected();
    let cut = "DELETE FROM tallyguard_schema_version WHERE version > 1; DROP TABLE rule_history; DROP VIEW order_stats";
    database.query_in(&schema.name, cut);
    database.query_in(&schema.name, "DELETE FROM tallyguard_schema_version");
    let writer = TestWriter::spawn(options_for(&schema));
    writer.until_connected();
    database.query_in(&schema.name, "SELECT * FROM rule_history");
    database.query_in(&schema.name, "SELECT * FROM order_stats");
}

#[test]
fn a_schema_of_another_group_is_left_alone() {
    let database = shared_database();
    let schema = database.create_schema(&schema_name());
    let owner = TestWriter::spawn(options_for(&schema));
    owner.write(flush(0, 10, vec![row("m-1", 9)]));
    // As an older release would have left it: the stranger must not even bring it up to date.
    database.query_in(&schema.name, "DROP TABLE rule_history; DELETE FROM tallyguard_schema_version WHERE version = 3");

    let others = [
        Identity { cluster_id: "cluster-2".to_owned(), ..identity() },
        Identity { topic: "Transactions".to_owned(), ..identity() },
        Identity { topic_id: "topic-2".to_owned(), ..identity() },
        Identity { group: "tallyguard ".to_owned(), ..identity() },
    ];
    for other in others {
        let stranger = TestWriter::spawn(StatsOptions { identity: other, ..options_for(&schema) });
        // Accepted or not, nothing of it may arrive.
        let _ = stranger.handle.submit(flush(1, 20, vec![row("m-2", 19)]));
        let told = stranger.until(|event| matches!(event, StatsEvent::IdentityMismatch { .. }));
        assert_eq!(told, [StatsEvent::IdentityMismatch { found: identity() }]);
        assert!(stranger.handle.submit(flush(2, 20, vec![])).is_err(), "the task has ended");
    }
    let progress = database.query_in(&schema.name, "SELECT source_partition FROM order_stats_progress");
    assert_eq!(progress.concat(), [Some("0".to_owned())]);
    database.try_query_in(&schema.name, "SELECT * FROM rule_history").expect_err("not migrated");
}

#[test]
fn without_migrate_the_service_waits_for_a_schema_that_someone_else_creates() {
    let database = shared_database();
    let schema = database.create_schema(&schema_name());
    let writer = TestWriter::spawn(StatsOptions { migrate: false, ..options_for(&schema) });
    writer.handle.submit(flush(0, 1, vec![row("m-1", 0)])).unwrap();
    let error = writer.until_unavailable();
    assert!(error.contains("order_stats_identity"), "{error}");
    assert_eq!(database.query_in(&schema.name, "SHOW TABLES").len(), 0);
    for migration in [
        include_str!("../../schemas/mysql/0001_order_statistics.sql"),
        include_str!("../../schemas/mysql/0002_orders.sql"),
        include_str!("../../schemas/mysql/0003_reconciliation.sql"),
    ] {
        database.query_in(&schema.name, migration);
    }
    writer.until(|event| matches!(event, StatsEvent::Acknowledged { .. }));
}

#[test]
fn a_recovery_can_ask_how_far_the_statistics_reach() {
    let database = shared_database();
    let schema = database.create_schema(&schema_name());
    let options = options_for(&schema);
    let probe = ProgressProbe::new(&options);
    assert_eq!(probe.source_offset(PartitionId(3)), None, "an empty schema");
    let writer = TestWriter::spawn(options.clone());
    writer.write(flush(3, 77, vec![]));
    assert_eq!(probe.source_offset(PartitionId(3)), Some(Offset(77)));
    assert_eq!(probe.source_offset(PartitionId(4)), None);
    let progress = writer.handle.progress().expect("connected");
    assert_eq!(progress.into_iter().collect::<Vec<_>>(), [(PartitionId(3), Offset(77))]);
    let other = Identity { group: "another".to_owned(), ..identity() };
    let probe = ProgressProbe::new(&StatsOptions { identity: other, ..options });
    assert_eq!(probe.source_offset(PartitionId(3)), None, "somebody else's schema says nothing about ours");
    wait_until(Duration::from_secs(5), "the writer says nothing more", || {
        writer.is_silent_for(Duration::from_millis(10))
    });
}
