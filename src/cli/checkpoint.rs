//! `tallyguard checkpoint list|verify`: the local snapshots, looked at without touching them, whether the service runs or
//! not.

use std::fmt::Write;
use std::path::Path;

use chrono::{DateTime, SecondsFormat};
use clap::{Args, Subcommand};
use serde::Serialize;

use super::{ConfigFile, Exit, print};
use crate::clock::wall_clock_ms;
use crate::config::Settings;
use crate::protocol::recovery::SnapshotHead;
use crate::state::{
    self, CheckpointInfo, NamelessCheckpoint, ReadOnlyStore, SnapshotStore, StateError, StoredPartition, VerifyReport,
};

#[derive(Debug, Subcommand)]
pub enum CheckpointCommand {
    /// List the retained checkpoints
    #[command(after_help = "Example:\n  tallyguard checkpoint list --config tallyguard.toml")]
    List(CheckpointArgs),
    /// Read every checkpoint and check all checksums; exit code 1 when one is damaged
    #[command(after_help = "\
Example:
  tallyguard checkpoint verify --config tallyguard.toml

A damaged checkpoint loses nothing: the log rebuilds the state. Delete its folder, and look at the
disk.")]
    Verify(CheckpointArgs),
}

#[derive(Debug, Args)]
pub struct CheckpointArgs {
    #[command(flatten)]
    pub file: ConfigFile,

    /// Print one JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Serialize)]
struct Listed {
    id: u64,
    path: String,
    created_at: String,
    age_seconds: i64,
    /// Most files are shared with other checkpoints.
    bytes: u64,
    partitions: Vec<ListedPartition>,
    /// Of `verify`: what is wrong, by partition; empty when all is sound.
    #[serde(skip_serializing_if = "Option::is_none")]
    damage: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    entries: Option<u64>,
}

#[derive(Debug, Serialize)]
struct ListedPartition {
    partition: i32,
    through: i64,
}

/// Carries out the command.
///
/// # Errors
/// When the state directory cannot be read, or the result cannot be written.
pub fn run(command: &CheckpointCommand) -> anyhow::Result<Exit> {
    let (args, verifies) = match command {
        CheckpointCommand::List(args) => (args, false),
        CheckpointCommand::Verify(args) => (args, true),
    };
    let settings = match super::load(&args.file.config) {
        Ok(settings) => settings,
        Err(exit) => return Ok(exit),
    };
    let (described, mut nameless) = SnapshotStore::survey_checkpoints(&settings.instance.state_dir)?;
    let mut listed: Vec<Listed> = described.into_iter().map(Listed::from).collect();
    if verifies {
        for checkpoint in &mut listed {
            checkpoint.verify();
        }
        // A running service replaces old ones at any time: what is gone was not damaged.
        listed.retain(|checkpoint| !is_gone(Path::new(&checkpoint.path)));
        nameless.retain(|checkpoint| !is_gone(&checkpoint.path));
    }
    let is_sound = !verifies || nameless.is_empty() && listed.iter().all(Listed::is_sound);
    let report = Report { settings: &settings, checkpoints: &listed, nameless: &nameless };
    print(&if args.json { report.as_json() } else { report.as_text() })?;
    if is_sound { Ok(Exit::Done) } else { Ok(Exit::Failed) }
}

/// RocksDB makes the folder that it is to look into: a look at one that was just deleted leaves an empty one.
fn is_gone(checkpoint: &Path) -> bool {
    // Refused unless it is empty.
    std::fs::remove_dir(checkpoint).is_ok() || !checkpoint.exists()
}

impl From<CheckpointInfo> for Listed {
    fn from(info: CheckpointInfo) -> Self {
        let created = DateTime::from_timestamp_millis(info.created_at_ms).unwrap_or_default();
        Self {
            id: info.sequence,
            path: info.path.display().to_string(),
            created_at: created.to_rfc3339_opts(SecondsFormat::Millis, true),
            age_seconds: wall_clock_ms().saturating_sub(info.created_at_ms) / 1_000,
            bytes: info.bytes,
            partitions: info
                .partitions
                .iter()
                .map(|(partition, through)| ListedPartition { partition: partition.0, through: through.0 })
                .collect(),
            damage: None,
            entries: None,
        }
    }
}

impl Listed {
    fn is_sound(&self) -> bool {
        self.damage.as_ref().is_none_or(Vec::is_empty)
    }

    fn verify(&mut self) {
        let verified = state::verify(Path::new(&self.path)).and_then(|report| {
            let store = ReadOnlyStore::open(Path::new(&self.path))?;
            Ok((report, store.partitions()?.known))
        });
        match verified {
            Ok((report, stored)) => {
                self.entries = Some(report.sound.iter().map(|partition| partition.entries).sum());
                let mut damage = self.judge(&report);
                damage.extend(stored.iter().filter_map(judge_header));
                self.damage = Some(damage);
            }
            Err(StateError::Unreadable { detail, .. }) => self.damage = Some(vec![detail]),
            Err(error) => self.damage = Some(vec![error.to_string()]),
        }
    }

    /// Also what the description says and the store does not hold.
    fn judge(&self, report: &VerifyReport) -> Vec<String> {
        let corrupt = report.corrupt.iter().map(|(partition, why)| format!("partition {partition}: {why}"));
        let holds = |wanted: &ListedPartition| {
            let mut sound = report.sound.iter();
            sound.any(|found| found.partition.0 == wanted.partition && found.through.0 == wanted.through)
        };
        let missing = self.partitions.iter().filter(|wanted| {
            !holds(wanted) && report.corrupt.iter().all(|(partition, _)| partition.0 != wanted.partition)
        });
        let missing =
            missing.map(|wanted| format!("partition {}: not the state through {}", wanted.partition, wanted.through));
        corrupt.chain(missing).collect()
    }
}

/// What a recovery reads before the entries.
fn judge_header(stored: &StoredPartition) -> Option<String> {
    let partition = stored.partition;
    match serde_json::from_slice::<SnapshotHead>(&stored.header) {
        Ok(head) if head.through == stored.through => None,
        Ok(head) => {
            Some(format!("partition {partition}: its header speaks of {} instead of {}", head.through, stored.through))
        }
        Err(error) => Some(format!("partition {partition}: its header is not one of this version: {error}")),
    }
}

struct Report<'a> {
    settings: &'a Settings,
    checkpoints: &'a [Listed],
    /// Folders that do not say what they hold.
    nameless: &'a [NamelessCheckpoint],
}

impl Report<'_> {
    fn as_json(&self) -> String {
        let nameless = self
            .nameless
            .iter()
            .map(|NamelessCheckpoint { path, detail }| serde_json::json!({ "path": path, "detail": detail }));
        let report = serde_json::json!({
            "state_dir": self.settings.instance.state_dir,
            "retain": self.settings.checkpoint.retain,
            "checkpoints": self.checkpoints,
            "unreadable": nameless.collect::<Vec<_>>(),
        });
        format!("{report:#}\n")
    }

    fn as_text(&self) -> String {
        let mut text = as_text(self.settings, self.checkpoints);
        for NamelessCheckpoint { path, detail } in self.nameless {
            // Writing to a text cannot fail.
            let _ = writeln!(text, "{}: DAMAGED\n    {detail}", path.display());
            let _ = writeln!(text, "    what to do: delete it and check the disk; the log rebuilds the state");
        }
        text
    }
}

fn as_text(settings: &Settings, checkpoints: &[Listed]) -> String {
    let dir = settings.instance.state_dir.display();
    let mut text = match checkpoints.len() {
        0 => format!("{dir}: no checkpoint yet\n"),
        number => format!("{dir}: {number} checkpoint(s), oldest first\n"),
    };
    for checkpoint in checkpoints {
        let Listed { id, created_at, age_seconds, bytes, partitions, damage, entries, path } = checkpoint;
        // Writing to a text cannot fail.
        let _ = write!(text, "{id}: {created_at} ({age_seconds} s old), {bytes} bytes");
        if let Some(entries) = entries {
            let _ = write!(text, ", {entries} entries");
        }
        let verdict = match damage.as_deref() {
            None => "",
            Some([]) => ", sound",
            Some(_) => ", DAMAGED",
        };
        let _ = writeln!(text, "{verdict}");
        let through: Vec<_> = partitions.iter().map(|it| format!("{} through {}", it.partition, it.through)).collect();
        let _ = writeln!(text, "    partitions {}", through.join(", "));
        for why in damage.iter().flatten() {
            let _ = writeln!(text, "    {why}");
        }
        if damage.as_ref().is_some_and(|damage| !damage.is_empty()) {
            let _ = writeln!(text, "    what to do: delete {path} and check the disk; the log rebuilds the state");
        }
    }
    text
}
