//! What can happen to a file: locked, deleted, replaced, not there, somebody else's, and a process that is killed.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use tallyguard::domain::ids::{Offset, PartitionId};
use tallyguard::stats::{Identity, StatsEvent, StatsOptions, Target};

use crate::both::{SqliteFile, open};
use crate::fixture::{TestWriter, flush, identity, options_to, row};
use crate::support::block_on;

fn acknowledged(through: i64) -> StatsEvent {
    StatsEvent::Acknowledged { partition: PartitionId(0), through: Offset(through) }
}

fn gap(acknowledged: i64, found: Option<i64>) -> StatsEvent {
    let (acknowledged, found) = (Offset(acknowledged), found.map(Offset));
    StatsEvent::GapAfterReconnect { partition: PartitionId(0), acknowledged, found }
}

fn merchants(file: &SqliteFile) -> String {
    file.texts("SELECT merchant_id FROM order_stats_by_partition ORDER BY 1").concat().join(" ")
}

#[test]
fn a_file_that_another_process_writes_to_is_waited_for() {
    let file = SqliteFile::new();
    let writer = TestWriter::spawn(file.options());
    writer.write(flush(0, 1, vec![row("m-1", 0)]));
    block_on(async {
        let mut other = open(&file.path()).await;
        sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
        writer.handle.submit(flush(0, 2, vec![row("m-2", 1)])).unwrap();
        // Longer than the 5 s that one statement waits.
        assert!(writer.is_silent_for(Duration::from_millis(6_500)), "neither written nor given up");
        sqlx::raw_sql("COMMIT").execute(&mut other).await.unwrap();
    });
    assert_eq!(writer.until(|event| *event == acknowledged(2)), [acknowledged(2)]);
    assert_eq!(merchants(&file), "m-1 m-2");
}

#[test]
fn readers_in_other_processes_are_not_in_the_way() {
    let file = SqliteFile::new();
    let writer = TestWriter::spawn(file.options());
    writer.write(flush(0, 1, vec![row("m-1", 0)]));
    block_on(async {
        let mut other = open(&file.path()).await;
        sqlx::raw_sql("BEGIN; SELECT * FROM order_stats").fetch_all(&mut other).await.unwrap();
        assert_eq!(writer.write(flush(0, 2, vec![row("m-2", 1)])), [acknowledged(2)]);
        let seen = sqlx::raw_sql("SELECT * FROM order_stats").fetch_all(&mut other).await.unwrap();
        assert_eq!(seen.len(), 1, "a reader sees one state of the file");
    });
}

#[test]
fn a_file_that_is_deleted_is_made_anew_and_what_it_held_is_reported() {
    let file = SqliteFile::new();
    let writer = TestWriter::spawn(file.options());
    writer.write(flush(0, 10, vec![row("m-1", 9)]));
    fs::remove_file(file.path()).unwrap();
    assert_eq!(writer.write(flush(0, 20, vec![row("m-2", 19)])), [gap(10, None), acknowledged(20)]);
    assert_eq!(merchants(&file), "m-2");
    // The log of the file alone: nothing is lost, for the open file still knows it.
    fs::remove_file(file.dir().join("statistics.sqlite-wal")).unwrap();
    assert_eq!(writer.write(flush(0, 30, vec![row("m-3", 29)])), [acknowledged(30)]);
    assert_eq!(merchants(&file), "m-2 m-3");
}

#[test]
fn a_file_that_is_replaced_by_an_older_copy_goes_on_from_there() {
    let file = SqliteFile::new();
    let backup = file.dir().join("backup.sqlite");
    let writer = TestWriter::spawn(file.options());
    writer.write(flush(0, 10, vec![row("m-1", 9)]));
    file.texts(&format!("VACUUM INTO '{}'", backup.display()));
    writer.write(flush(0, 20, vec![row("m-2", 19)]));
    fs::rename(&backup, file.path()).unwrap();
    assert_eq!(writer.write(flush(0, 30, vec![row("m-3", 29)])), [gap(20, Some(10)), acknowledged(30)]);
    assert_eq!(merchants(&file), "m-1 m-3");
    assert_eq!(file.texts("PRAGMA integrity_check"), [["ok"]]);
}

/// A reader keeps the write-ahead log of the old file from being emptied. Taken for the log of the new one it would
/// bring pages of the old file into it.
#[test]
fn the_log_of_a_file_that_was_replaced_while_it_was_read_does_not_get_into_the_new_one() {
    let file = SqliteFile::new();
    let backup = file.dir().join("backup.sqlite");
    let writer = TestWriter::spawn(file.options());
    writer.write(flush(0, 10, vec![row("m-1", 9)]));
    file.texts(&format!("VACUUM INTO '{}'", backup.display()));
    block_on(async {
        let mut reader = open(&file.path()).await;
        sqlx::raw_sql("BEGIN; SELECT * FROM order_stats").fetch_all(&mut reader).await.unwrap();
        writer.write(flush(0, 20, (0..200).map(|n| row(&format!("m-2-{n}"), 19)).collect()));
        fs::rename(&backup, file.path()).unwrap();
        assert_eq!(writer.write(flush(0, 30, vec![row("m-3", 29)])), [gap(20, Some(10)), acknowledged(30)]);
    });
    assert_eq!(merchants(&file), "m-1 m-3");
    assert_eq!(file.texts("PRAGMA integrity_check"), [["ok"]]);
}

#[test]
fn a_file_that_was_moved_away_holds_all_that_was_acknowledged() {
    let file = SqliteFile::new();
    let writer = TestWriter::spawn(file.options());
    writer.write(flush(0, 10, vec![row("m-1", 9)]));
    let moved = SqliteFile::new();
    fs::rename(file.path(), moved.path()).unwrap();
    writer.write(flush(0, 20, vec![row("m-2", 19)]));
    assert!(merchants(&moved).contains("m-1"));
    assert_eq!(merchants(&file), "m-2");
}

#[test]
fn a_file_that_replaces_ours_and_belongs_to_another_group_is_left_alone() {
    let (file, foreign) = (SqliteFile::new(), SqliteFile::new());
    let other = Identity { group: "another".to_owned(), ..identity() };
    let owner = TestWriter::spawn(StatsOptions { identity: other.clone(), ..foreign.options() });
    owner.write(flush(0, 5, vec![row("m-theirs", 4)]));
    assert!(owner.handle.shutdown(Duration::from_secs(10)));
    let writer = TestWriter::spawn(file.options());
    writer.write(flush(0, 10, vec![row("m-1", 9)]));
    fs::rename(foreign.path(), file.path()).unwrap();
    writer.handle.submit(flush(0, 20, vec![row("m-2", 19)])).unwrap();
    let told = writer.until(|event| matches!(event, StatsEvent::IdentityMismatch { .. }));
    assert_eq!(told, [StatsEvent::IdentityMismatch { found: other }]);
    assert_eq!(merchants(&file), "m-theirs");
}

#[test]
fn a_directory_that_cannot_be_written_to_and_a_file_that_is_no_database_are_waited_out() {
    let parent = SqliteFile::new();
    let dir = parent.dir().join("later");
    let path = dir.join("statistics.sqlite");
    let writer = TestWriter::spawn(options_to(Target::Sqlite(path.clone())));
    writer.handle.submit(flush(0, 1, vec![row("m-1", 0)])).unwrap();
    let error = writer.until_unavailable();
    assert!(error.contains("unable to open database file") && error.contains("later"), "{error}");
    fs::create_dir(&dir).unwrap();
    writer.until(|event| *event == acknowledged(1));

    fs::rename(&path, dir.join("aside.sqlite")).unwrap();
    fs::write(&path, "this is a text and no database, however long it goes on".repeat(100)).unwrap();
    writer.handle.submit(flush(0, 2, vec![row("m-2", 1)])).unwrap();
    let error = writer.until_unavailable();
    assert!(error.contains("not a database"), "{error}");
    fs::remove_file(&path).unwrap();
    writer.until(|event| *event == acknowledged(2));
}

/// The path that a process to be killed writes to.
const KILLED_WRITER: &str = "TALLYGUARD_TEST_KILLED_WRITER";

/// Not a test of its own: the process that the test below kills. Each flush has its rows at offsets below `through`.
#[test]
fn the_process_that_is_killed() {
    let Ok(path) = std::env::var(KILLED_WRITER) else { return };
    let writer = TestWriter::spawn(StatsOptions { batch_rows: 50, ..options_to(Target::Sqlite(path.into())) });
    let start = writer.until_connected();
    assert!(!start.is_empty());
    let known = writer.handle.progress().and_then(|progress| progress.get(&PartitionId(0)).copied());
    let mut through = known.map_or(0, |offset| offset.0);
    loop {
        let rows = (0..200).map(|n| row(&format!("m-{n:03}"), through)).collect();
        through += 1;
        writer.write(flush(0, through, rows));
        let mut stdout = std::io::stdout();
        writeln!(stdout, "acknowledged {through}").unwrap();
        stdout.flush().unwrap();
    }
}

/// An acknowledgement that a process gave before it was killed holds in the file, and the progress row never speaks for
/// rows that are not there.
#[test]
fn what_was_acknowledged_before_a_kill_is_in_the_file() {
    let file = SqliteFile::new();
    for kill_after in [1, 4, 9, 2, 17] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "file::the_process_that_is_killed", "--nocapture"])
            .env(KILLED_WRITER, file.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let told = lines.filter_map(|line| line.strip_prefix("acknowledged ")?.parse::<i64>().ok());
        let last = told.take(kill_after).last().expect("it writes");
        child.kill().unwrap();
        child.wait().unwrap();
        let progress = file.texts("SELECT source_offset FROM order_stats_progress").concat();
        let progress: i64 = progress[0].parse().unwrap();
        assert!(progress >= last, "acknowledged through {last}, found {progress}");
        let behind = format!("SELECT COUNT(*) FROM order_stats_by_partition WHERE source_offset >= {}", progress - 1);
        assert_eq!(file.texts(&behind), [["200"]], "all rows that the progress speaks for");
    }
    assert_eq!(file.texts("PRAGMA integrity_check"), [["ok"]]);
}

/// Reading a few minutes must not read the whole table.
#[test]
fn a_range_of_the_view_is_looked_up_by_the_key() {
    let file = SqliteFile::new();
    TestWriter::spawn(file.options()).until_connected();
    let plan = file.texts(
        "EXPLAIN QUERY PLAN SELECT * FROM order_stats WHERE window_start >= '2026-11-20 10:00:00.000' \
         AND window_start < '2026-11-20 10:05:00.000' ORDER BY window_start, merchant_id, currency LIMIT 10",
    );
    let plan = plan.concat().join("; ");
    assert!(
        plan.contains("SEARCH order_stats_by_partition USING PRIMARY KEY (window_start>? AND window_start<?)"),
        "{plan}"
    );
}
