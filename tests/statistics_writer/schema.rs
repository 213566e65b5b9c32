//! Who may use a schema, and how it comes into being.

use std::time::Duration;

use tallyguard::domain::ids::{Offset, PartitionId};
use tallyguard::stats::{Identity, ProgressProbe, StatsEvent, StatsOptions};

use crate::both::{OnBoth, on_both};
use crate::fixture::{TestWriter, flush, identity, row};
use crate::support::wait_until;

on_both! {
    instances_that_start_at_once_and_again_later_find_one_complete_schema,
    a_migration_that_was_cut_in_two_is_completed,
    a_schema_of_another_group_is_left_alone,
    without_migrate_the_service_waits_for_a_schema_that_someone_else_creates,
    a_recovery_can_ask_how_far_the_statistics_reach,
}

fn instances_that_start_at_once_and_again_later_find_one_complete_schema(database: &OnBoth) {
    for _ in 0..2 {
        let writers: Vec<_> = (0..4).map(|_| TestWriter::spawn(database.options())).collect();
        for writer in &writers {
            assert_eq!(writer.until_connected(), [StatsEvent::Connected]);
        }
    }
    let versions = database.texts("SELECT version FROM tallyguard_schema_version ORDER BY version");
    assert_eq!(versions.concat(), ["1", "2", "3"]);
    let tables = database.tables();
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
        assert!(tables.contains(&table.to_owned()), "{table} is missing in {tables:?}");
    }
}

fn a_migration_that_was_cut_in_two_is_completed(database: &OnBoth) {
    TestWriter::spawn(database.options()).until_connected();
    let cut = "DELETE FROM tallyguard_schema_version WHERE version > 1; DROP TABLE rule_history; DROP VIEW order_stats";
    database.run(cut);
    database.run("DELETE FROM tallyguard_schema_version");
    let writer = TestWriter::spawn(database.options());
    writer.until_connected();
    database.run("SELECT * FROM rule_history");
    database.run("SELECT * FROM order_stats");
}

fn a_schema_of_another_group_is_left_alone(database: &OnBoth) {
    let owner = TestWriter::spawn(database.options());
    owner.write(flush(0, 10, vec![row("m-1", 9)]));
    // As an older release would have left it: the stranger must not even bring it up to date.
    database.run("DROP TABLE rule_history; DELETE FROM tallyguard_schema_version WHERE version = 3");

    let others = [
        Identity { cluster_id: "cluster-2".to_owned(), ..identity() },
        Identity { topic: "Transactions".to_owned(), ..identity() },
        Identity { topic_id: "topic-2".to_owned(), ..identity() },
        Identity { group: "tallyguard ".to_owned(), ..identity() },
    ];
    for other in others {
        let stranger = TestWriter::spawn(StatsOptions { identity: other, ..database.options() });
        // Accepted or not, nothing of it may arrive.
        let _ = stranger.handle.submit(flush(1, 20, vec![row("m-2", 19)]));
        let told = stranger.until(|event| matches!(event, StatsEvent::IdentityMismatch { .. }));
        assert_eq!(told, [StatsEvent::IdentityMismatch { found: identity() }]);
        assert!(stranger.handle.submit(flush(2, 20, vec![])).is_err(), "the task has ended");
    }
    assert_eq!(database.texts("SELECT source_partition FROM order_stats_progress"), [["0"]]);
    assert!(!database.tables().contains(&"rule_history".to_owned()), "not migrated");
}

fn without_migrate_the_service_waits_for_a_schema_that_someone_else_creates(database: &OnBoth) {
    database.run("SELECT 1");
    let writer = TestWriter::spawn(StatsOptions { migrate: false, ..database.options() });
    writer.handle.submit(flush(0, 1, vec![row("m-1", 0)])).unwrap();
    let error = writer.until_unavailable();
    assert!(error.contains("order_stats_identity"), "{error}");
    assert_eq!(database.tables(), Vec::<String>::new());
    database.migrations().into_iter().for_each(|migration| database.run(migration));
    writer.until(|event| matches!(event, StatsEvent::Acknowledged { .. }));
}

fn a_recovery_can_ask_how_far_the_statistics_reach(database: &OnBoth) {
    let options = database.options();
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
