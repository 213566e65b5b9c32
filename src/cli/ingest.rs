//! `tallyguard ingest`: transactions out of files into the embedded log.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::intake::Intake;
use super::{ConfigFile, Exit, print, signals};
use crate::clock::monotonic_now;
use crate::config::SourceKind;
use crate::http::Accepts;

mod progress;
mod source;

use progress::Progress;
use source::{Format, Lines};

const BATCH_LINES: usize = 2_000;
const BATCH_BYTES: usize = 2 << 20;
/// A service that restarts is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bad lines that are named; the others are counted.
const NAMED: u64 = 20;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tallyguard ingest --config tallyguard.toml day.ndjson.gz
  tallyguard ingest --config tallyguard.toml history.csv more.csv.zst
  tallyguard generate --events 100000 --out - | tallyguard ingest --config tallyguard.toml -

NDJSON: one transaction per line. CSV: a header with the names of the fields, an empty cell is an
absent optional field; event_time is RFC 3339, or epoch milliseconds. Both plain, gzip or zstd, as
their first bytes tell. When a service runs on this configuration, the lines go through it, with the
token of http.admin_token_file; otherwise straight into its log. Ingesting a file twice counts each
transaction once, as long as its windows are open.")]
pub struct IngestArgs {
    #[command(flatten)]
    pub file: ConfigFile,

    /// Files, or - for standard input
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,

    /// What becomes of lines that are not valid transactions
    #[arg(long, value_enum, default_value = "dead-letter")]
    pub invalid: Invalid,

    /// Form of the lines; auto: NDJSON when the first character is {, else CSV
    #[arg(long, value_enum, default_value = "auto")]
    pub format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Invalid {
    /// They go into the log as they are, and from there to the dead-letter topic
    DeadLetter,
    /// They are left out
    Reject,
}

#[derive(Debug, Default)]
struct Counts {
    accepted: u64,
    dead_letters: u64,
    rejected: u64,
}

/// Takes all files in, one after the other.
///
/// # Errors
/// A file cannot be read; the log cannot be written.
pub fn run(args: &IngestArgs) -> anyhow::Result<Exit> {
    let settings = match super::load(&args.file.config) {
        Ok(settings) => settings,
        Err(exit) => return Ok(exit),
    };
    if settings.source.kind == SourceKind::Kafka {
        tracing::error!(
            "source.kind = \"kafka\": ingest fills the embedded log; produce to topic {} instead, for example with \
             kafka-console-producer",
            settings.source.topic
        );
        return Ok(Exit::Usage);
    }
    let stop = signals::stop_on_signal()?;
    let intake = Intake::open(&settings)?;
    let accepts = match args.invalid {
        Invalid::DeadLetter => Accepts::Everything,
        Invalid::Reject => Accepts::Valid,
    };
    let began = monotonic_now();
    let mut counts = Counts::default();
    for path in &args.files {
        let mut run = Run { intake: &intake, accepts, stop: &stop, counts: &mut counts };
        run.take(path, args.format)?;
        if stop.load(Ordering::Relaxed) {
            tracing::warn!("stopped; what was reported as taken in is in the log");
            break;
        }
    }
    let seconds = began.elapsed().as_secs_f64().max(0.001);
    let Counts { accepted, dead_letters, rejected } = counts;
    print(&format!(
        "{accepted} transactions taken in, {dead_letters} dead letters, {rejected} rejected, in {seconds:.1} s\n"
    ))?;
    let is_whole = rejected == 0 && !stop.load(Ordering::Relaxed);
    Ok(if is_whole { Exit::Done } else { Exit::Failed })
}

struct Run<'a> {
    intake: &'a Intake,
    accepts: Accepts,
    stop: &'a AtomicBool,
    counts: &'a mut Counts,
}

impl Run<'_> {
    fn take(&mut self, path: &std::path::Path, format: Format) -> anyhow::Result<()> {
        let mut lines = Lines::open(path, format)?;
        let mut progress = Progress::new(path, lines.size());
        let (mut batch, mut numbers, mut line) = (Vec::new(), Vec::new(), Vec::new());
        loop {
            line.clear();
            let number = lines.next(&mut line)?;
            if let Some(number) = number {
                batch.extend_from_slice(&line);
                batch.push(b'\n');
                numbers.push(number);
            }
            let is_full = numbers.len() >= BATCH_LINES || batch.len() >= BATCH_BYTES;
            if (is_full || number.is_none()) && !numbers.is_empty() {
                self.deliver(path, &batch, &numbers)?;
                batch.clear();
                numbers.clear();
                progress.at(lines.bytes_read(), self.counts.accepted + self.counts.dead_letters);
            }
            if number.is_none() || self.stop.load(Ordering::Relaxed) {
                progress.finish();
                return Ok(());
            }
        }
    }

    fn deliver(&mut self, path: &std::path::Path, batch: &[u8], numbers: &[u64]) -> anyhow::Result<()> {
        for result in self.intake.take(batch, self.accepts, PATIENCE, self.stop)? {
            if result.is_accepted() {
                self.counts.accepted += 1;
                continue;
            }
            let is_kept = result.result == "dead-letter";
            *(if is_kept { &mut self.counts.dead_letters } else { &mut self.counts.rejected }) += 1;
            let bad = self.counts.dead_letters + self.counts.rejected;
            if bad <= NAMED {
                let number = numbers.get(result.line.saturating_sub(1)).copied().unwrap_or(0);
                let (code, message) = (result.code.unwrap_or_default(), result.message.unwrap_or_default());
                tracing::warn!("{}, line {number}: {code}: {message} ({})", path.display(), result.result);
            } else if bad == NAMED + 1 {
                tracing::warn!("further bad lines are only counted");
            }
        }
        Ok(())
    }
}
