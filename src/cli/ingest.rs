//! `tallyguard ingest`: transactions out of files into the embedded log.
//!
//! A bad line never stops the rest: it is named, and goes where `--invalid` says. What could not be taken in is counted, and
//! the exit code says that there was something.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use crossbeam_channel::RecvTimeoutError;

use super::intake::Intake;
use super::{ConfigFile, Exit, print, signals};
use crate::clock::monotonic_now;
use crate::config::SourceKind;
use crate::http::Accepts;

mod lines;
mod progress;
mod source;
mod table;

use progress::Progress;
use source::{Chunk, Format, Piece, Source};

const BATCH_LINES: usize = 4_000;
const BATCH_BYTES: usize = 2 << 20;
/// What has come in is sent on when no more comes for so long.
const GATHERING: Duration = Duration::from_millis(20);
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

NDJSON: one transaction per line. CSV: a header with the names of the fields, cells separated by
commas, an empty cell is an absent optional field; event_time is RFC 3339, or epoch milliseconds. A row
that does not fit its header is no valid transaction. Both plain, gzip or zstd, as their first bytes
tell. A line of more than 8 MiB is left out.

When a service runs on this configuration, the lines go through it, with the token of
http.admin_token_file; otherwise straight into its log, and no service can start meanwhile. Ingesting a
file twice counts each transaction once, as long as its windows are open.

Exit code 0 when everything was taken in, dead letters included; 1 otherwise.")]
pub struct IngestArgs {
    #[command(flatten)]
    pub file: ConfigFile,

    /// Files, or - for standard input
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,

    /// What becomes of lines that are not valid transactions
    #[arg(long, value_enum, default_value = "dead-letter")]
    pub invalid: Invalid,

    /// Form of the lines; auto: CSV when the first line is a header with a required field, else NDJSON
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
    /// Files that could not be read, or not to their end.
    broken_files: u64,
}

/// Takes all files in, one after the other.
///
/// # Errors
/// The log cannot be written, or the service that holds it stays away.
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
    let mut intake = Intake::open(&settings)?;
    let accepts = match args.invalid {
        Invalid::DeadLetter => Accepts::Everything,
        Invalid::Reject => Accepts::Valid,
    };
    let began = monotonic_now();
    let mut run = Run { intake: &mut intake, accepts, stop: &stop, counts: Counts::default() };
    let mut outcome = Ok(());
    for path in &args.files {
        outcome = run.take(path, args.format);
        if outcome.is_err() || stop.load(Ordering::Relaxed) {
            break;
        }
    }
    let Counts { accepted, dead_letters, rejected, broken_files } = run.counts;
    let elapsed = began.elapsed();
    let per_second = per_second(accepted + dead_letters, elapsed);
    let mut summary = format!(
        "{accepted} transactions taken in, {dead_letters} dead letters, {rejected} rejected, in {elapsed:.1?}: \
         {per_second} lines/s\n"
    );
    if broken_files > 0 {
        summary.push_str(&format!("{broken_files} of {} files could not be read to the end\n", args.files.len()));
    }
    print(&summary)?;
    outcome?;
    let is_whole = rejected == 0 && broken_files == 0 && !stop.load(Ordering::Relaxed);
    Ok(if is_whole { Exit::Done } else { Exit::Failed })
}

struct Run<'a> {
    intake: &'a mut Intake,
    accepts: Accepts,
    stop: &'a AtomicBool,
    counts: Counts,
}

impl Run<'_> {
    /// A file that cannot be read is reported and counted; the others are taken in all the same.
    fn take(&mut self, path: &Path, format: Format) -> anyhow::Result<()> {
        let name = source::name(path);
        let source = match Source::open(path, format) {
            Ok(source) => source,
            Err(error) => {
                self.counts.broken_files += 1;
                tracing::error!("{error:#}");
                return Ok(());
            }
        };
        let mut progress = Progress::new(&name, source.size);
        let outcome = self.take_pieces(&source, &name, &mut progress);
        progress.finish();
        outcome
    }

    fn take_pieces(&mut self, source: &Source, name: &str, progress: &mut Progress) -> anyhow::Result<()> {
        let mut batch = Chunk::default();
        let mut in_the_log = 0;
        loop {
            let piece = source.pieces.recv_timeout(GATHERING);
            let is_idle = piece.is_err();
            let end = match piece {
                Ok(Piece::Chunk(chunk)) => {
                    self.name_too_long(&chunk, name, progress);
                    batch.text.extend_from_slice(&chunk.text);
                    batch.numbers.extend(chunk.numbers);
                    None
                }
                Ok(Piece::End(outcome)) => Some(outcome),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => Some(Err((0, anyhow::anyhow!("the reading thread broke")))),
            };
            let is_full = batch.numbers.len() >= BATCH_LINES || batch.text.len() >= BATCH_BYTES;
            if !batch.numbers.is_empty() && (is_full || is_idle || end.is_some()) {
                self.deliver(&batch, name, progress)?;
                in_the_log += u64::try_from(batch.numbers.len())?;
                batch = Chunk::default();
            }
            progress.at(source.read.load(Ordering::Relaxed), in_the_log);
            match end {
                Some(Ok(())) => return Ok(()),
                Some(Err((line, error))) => {
                    self.counts.broken_files += 1;
                    let taken =
                        if line == 0 { "nothing of it".to_owned() } else { format!("what it holds up to line {line}") };
                    progress.interrupt(|| tracing::error!("{name}: {error:#}; {taken} was taken"));
                    return Ok(());
                }
                None if self.stop.load(Ordering::Relaxed) => {
                    let last = batch.numbers.first().copied();
                    let from = last.map_or_else(String::new, |line| format!(" from line {line} on"));
                    progress.interrupt(|| tracing::warn!("{name}: stopped; the rest of it{from} was not taken in"));
                    return Ok(());
                }
                None => {}
            }
        }
    }

    fn deliver(&mut self, batch: &Chunk, name: &str, progress: &Progress) -> anyhow::Result<()> {
        let first = batch.numbers.first().copied().unwrap_or(0);
        let results = self.intake.take(&batch.text, self.accepts, PATIENCE, self.stop).with_context(|| {
            format!(
                "{name}: what stands before line {first} is in the log, the rest perhaps; to send the file again is safe \
                 as long as its windows are open"
            )
        })?;
        if results.len() != batch.numbers.len() {
            bail!("{name}: {} results for {} lines from line {first} on", results.len(), batch.numbers.len());
        }
        for (result, &number) in results.iter().zip(&batch.numbers) {
            if result.is_accepted() {
                self.counts.accepted += 1;
                continue;
            }
            let is_kept = result.result == "dead-letter";
            *(if is_kept { &mut self.counts.dead_letters } else { &mut self.counts.rejected }) += 1;
            let (code, message) = (result.code.as_deref(), result.message.as_deref());
            self.name_bad(
                name,
                number,
                code.unwrap_or_default(),
                message.unwrap_or_default(),
                &result.result,
                progress,
            );
        }
        Ok(())
    }

    fn name_too_long(&mut self, chunk: &Chunk, name: &str, progress: &Progress) {
        for &number in &chunk.too_long {
            self.counts.rejected += 1;
            let message = format!("the line has more than {} bytes", source::LINE_MAX);
            self.name_bad(name, number, "record_too_large", &message, "rejected", progress);
        }
    }

    /// The first bad lines with their reasons; the counts hold the last one already.
    fn name_bad(&self, name: &str, line: u64, code: &str, message: &str, result: &str, progress: &Progress) {
        let bad = self.counts.dead_letters + self.counts.rejected;
        if bad <= NAMED {
            progress.interrupt(|| tracing::warn!("{name}, line {line}: {code}: {message} ({result})"));
        } else if bad == NAMED + 1 {
            progress.interrupt(|| tracing::warn!("further bad lines are only counted"));
        }
    }
}

fn per_second(count: u64, elapsed: Duration) -> u64 {
    let rate = u128::from(count) * 1_000_000 / elapsed.as_micros().max(1);
    u64::try_from(rate).unwrap_or(u64::MAX)
}
