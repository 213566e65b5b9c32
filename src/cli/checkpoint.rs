//! `tallyguard checkpoint list|verify|export|import`: the local snapshots, looked at without touching them, whether the
//! service runs or not, and taken to another machine.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use chrono::{DateTime, SecondsFormat};
use clap::{Args, Subcommand};
use serde::Serialize;

use super::{ConfigFile, Exit, print};
use crate::clock::wall_clock_ms;
use crate::config::Settings;
use crate::protocol::recovery::SnapshotHead;
use crate::state::{
    self, CheckpointInfo, NamelessCheckpoint, ReadOnlyStore, SnapshotStore, StateError, StoredPartition,
    VerifiedPartition, VerifyReport, transfer,
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
    /// Copy a checkpoint to a folder, verified: for another machine, or to keep
    #[command(after_help = "\
Example:
  tallyguard checkpoint export --config tallyguard.toml --to /backup/tallyguard-monday

The service may run meanwhile.")]
    Export(ExportArgs),
    /// Make an exported checkpoint the state of this instance, which must not run
    #[command(after_help = "\
Example:
  tallyguard checkpoint import --config tallyguard.toml --from /backup/tallyguard-monday

At its start the service compares it with the group's offsets and the log, and replays what came since. A
checkpoint of another log is refused then, and one that is too old costs a longer replay.")]
    Import(ImportArgs),
}

#[derive(Debug, Args)]
pub struct ExportArgs {
    #[command(flatten)]
    pub file: ConfigFile,

    /// Folder to make; it must not exist
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,

    /// Which checkpoint, as `checkpoint list` numbers them [default: the newest]
    #[arg(long, value_name = "N")]
    pub id: Option<u64>,
}

#[derive(Debug, Args)]
pub struct ImportArgs {
    #[command(flatten)]
    pub file: ConfigFile,

    /// Folder that `checkpoint export` made
    #[arg(long, value_name = "DIR")]
    pub from: PathBuf,

    /// Move the state that is there aside
    #[arg(long)]
    pub replace: bool,
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
    let (CheckpointCommand::List(CheckpointArgs { file, .. })
    | CheckpointCommand::Verify(CheckpointArgs { file, .. })
    | CheckpointCommand::Export(ExportArgs { file, .. })
    | CheckpointCommand::Import(ImportArgs { file, .. })) = command;
    let settings = match super::load(&file.config) {
        Ok(settings) => settings,
        Err(exit) => return Ok(exit),
    };
    match command {
        CheckpointCommand::List(args) => look(args, false, &settings),
        CheckpointCommand::Verify(args) => look(args, true, &settings),
        CheckpointCommand::Export(args) => export(args, &settings),
        CheckpointCommand::Import(args) => import(args, &settings),
    }
}

fn export(args: &ExportArgs, settings: &Settings) -> anyhow::Result<Exit> {
    let state_dir = &settings.instance.state_dir;
    let all = SnapshotStore::survey_checkpoints(state_dir)?.0;
    let wanted = match args.id {
        Some(id) => all.into_iter().find(|checkpoint| checkpoint.sequence == id),
        None => all.into_iter().next_back(),
    };
    let Some(checkpoint) = wanted else {
        let which = args.id.map_or_else(|| "no checkpoint".to_owned(), |id| format!("no checkpoint {id}"));
        anyhow::bail!("{} holds {which}; `tallyguard checkpoint list` shows what there is", state_dir.display());
    };
    let report = match transfer::export(&checkpoint.path, &args.to) {
        Ok(report) => report,
        Err(_) if !checkpoint.path.exists() => {
            let id = checkpoint.sequence;
            anyhow::bail!("checkpoint {id} was deleted meanwhile by the service, which keeps the newest; try again");
        }
        Err(error) => return Err(error.into()),
    };
    if let Some(exit) = refuse_damage(&report)? {
        return Ok(exit);
    }
    let (id, to) = (checkpoint.sequence, args.to.display());
    print(&format!("checkpoint {id} is in {to}, verified\n{}", partitions(&report)))?;
    Ok(Exit::Done)
}

fn import(args: &ImportArgs, settings: &Settings) -> anyhow::Result<Exit> {
    let stored = ReadOnlyStore::open(&args.from)?.partitions()?.known;
    let mut reasons: Vec<String> = stored.iter().filter_map(judge_header).collect();
    let heads = stored.iter().filter_map(|stored| serde_json::from_slice::<SnapshotHead>(&stored.header).ok());
    let mut foreign: Vec<String> = heads.map(|head| head.identity.group).collect();
    foreign.retain(|group| *group != settings.source.group);
    foreign.dedup();
    let group = &settings.source.group;
    reasons.extend(foreign.iter().map(|other| format!("it is of the group {other}, and source.group is {group}")));
    if !reasons.is_empty() {
        tracing::error!("{} is not imported: {}", args.from.display(), reasons.join("; "));
        return Ok(Exit::Refused);
    }
    let state_dir = &settings.instance.state_dir;
    let imported = match transfer::import(&args.from, state_dir, args.replace, wall_clock_ms()) {
        Ok(imported) => imported,
        Err(StateError::Io { path, source, .. }) if source.kind() == std::io::ErrorKind::AlreadyExists => {
            let state = path.display();
            tracing::error!("{state} exists: this instance has a state; with --replace it is moved aside");
            return Ok(Exit::Refused);
        }
        Err(error) => return Err(error.into()),
    };
    if let Some(exit) = refuse_damage(&imported.report)? {
        return Ok(exit);
    }
    let mut text = format!("{} is the state of {} now\n", args.from.display(), state_dir.display());
    text += &partitions(&imported.report);
    if let Some(replaced) = imported.replaced {
        let _ = writeln!(text, "what was there before is in {}; delete it when all is well", replaced.display());
    }
    print(&text)?;
    Ok(Exit::Done)
}

fn partitions(report: &VerifyReport) -> String {
    let line = |found: &VerifiedPartition| {
        format!("    partition {} through {}, {} entries\n", found.partition, found.through, found.entries)
    };
    report.sound.iter().map(line).collect()
}

fn refuse_damage(report: &VerifyReport) -> anyhow::Result<Option<Exit>> {
    if report.is_sound() {
        return Ok(None);
    }
    let mut text = format!("{}: DAMAGED, nothing was copied\n", report.path.display());
    for (partition, why) in &report.corrupt {
        let _ = writeln!(text, "    partition {partition}: {why}");
    }
    text += "    what to do: take another checkpoint, and check the disk; the log rebuilds the state without any\n";
    print(&text)?;
    Ok(Some(Exit::Failed))
}

fn look(args: &CheckpointArgs, verifies: bool, settings: &Settings) -> anyhow::Result<Exit> {
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
    let report = Report { settings, checkpoints: &listed, nameless: &nameless };
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
