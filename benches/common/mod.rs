//! What both benchmark programs share: arguments, medians, numbers of a process, tables.
//!
//! A benchmark is a plain program. It repeats what it compares in interleaved rounds and quotes medians, because the
//! machine is never quiet; ratios within one run say more than the figures themselves. `--quick` runs everything with
//! tiny numbers, so that tests can show that the benchmarks still work; its figures mean nothing.
#![allow(dead_code, reason = "each benchmark uses its own part of this module")]

pub mod dice;
pub mod plot;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// `--quick`, `--only NAME`, `--rounds N`, `--rate R`, `--minutes M`, `--engine TEXT`, `--out DIR`; whatever cargo adds (`--bench`) is ignored.
pub struct Arguments {
    pub quick: bool,
    /// One rate of live load instead of the usual ones.
    pub rate: Option<u64>,
    /// Another length for what takes long.
    pub minutes: Option<u64>,
    /// Of the engines that are compared, only ours and those whose title holds this.
    pub engine: Option<String>,
    rounds: Option<usize>,
    only: Vec<String>,
    out: PathBuf,
}

impl Arguments {
    pub fn parse() -> Self {
        let mut parsed = Self {
            quick: false,
            rate: None,
            minutes: None,
            engine: None,
            rounds: None,
            only: Vec::new(),
            out: Path::new(env!("CARGO_TARGET_TMPDIR")).join("benchmarks"),
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--quick" => parsed.quick = true,
                "--only" => parsed.only.push(arguments.next().expect("--only NAME")),
                "--rounds" => parsed.rounds = Some(number(arguments.next())),
                "--rate" => parsed.rate = Some(number(arguments.next())),
                "--minutes" => parsed.minutes = Some(number(arguments.next())),
                "--engine" => parsed.engine = Some(arguments.next().expect("--engine TEXT")),
                "--out" => parsed.out = arguments.next().expect("--out DIR").into(),
                "--bench" | "--test" => {}
                other => {
                    panic!(
                        "unknown argument {other}; known are --quick, --only NAME, --rounds N, --rate R, --minutes M, \
                         --engine TEXT, --out DIR"
                    )
                }
            }
        }
        parsed
    }

    /// Whether the part of that name is wanted: all are, unless `--only` names some.
    pub fn wants(&self, part: &str) -> bool {
        self.only.is_empty() || self.names(part)
    }

    /// Whether `--only` names that part.
    pub fn names(&self, part: &str) -> bool {
        self.only.iter().any(|name| name == part)
    }

    /// How often what is compared takes turns: as asked for, or `full`, or once with `--quick`.
    pub fn rounds(&self, full: usize) -> usize {
        self.rounds.unwrap_or(self.scaled(full, 1))
    }

    /// `full`, or `quick` with `--quick`.
    pub fn scaled<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }
}

fn number<T: std::str::FromStr>(argument: Option<String>) -> T {
    argument.and_then(|text| text.parse().ok()).expect("a number")
}

/// Tables of figures, printed as they come and written as Markdown and JSON at the end.
pub struct Report {
    name: &'static str,
    quick: bool,
    markdown: String,
    tables: Vec<serde_json::Value>,
    /// Name and SVG.
    plots: Vec<(String, String)>,
}

impl Report {
    pub fn new(name: &'static str, arguments: &Arguments) -> Self {
        let mut report =
            Self { name, quick: arguments.quick, markdown: String::new(), tables: Vec::new(), plots: Vec::new() };
        report.say(&format!("# {name}: {}, {} cores, load {}", utc_date(), cores(), load_average()));
        if arguments.quick {
            report.say("Quick run: the figures mean nothing.");
        }
        report
    }

    /// A line of text.
    pub fn say(&mut self, text: &str) {
        eprintln!("{text}");
        let _ = writeln!(self.markdown, "{text}\n");
    }

    /// A table; the first column names the row.
    pub fn table(&mut self, title: &str, columns: &[&str], rows: &[Vec<String>]) {
        let mut text = format!("## {title}\n\n| {} |\n|{}\n", columns.join(" | "), " --- |".repeat(columns.len()));
        for row in rows {
            let _ = writeln!(text, "| {} |", row.join(" | "));
        }
        eprintln!("\n{text}");
        let _ = writeln!(self.markdown, "{text}");
        self.tables.push(serde_json::json!({"title": title, "columns": columns, "rows": rows}));
    }

    /// A picture, written beside the tables.
    pub fn plot(&mut self, name: &str, svg: &str) {
        self.plots.push((format!("{}-{name}.svg", self.name), svg.to_owned()));
    }

    /// Writes `NAME.md`, `NAME.json` and the pictures, and says where.
    pub fn write(self, arguments: &Arguments) {
        std::fs::create_dir_all(&arguments.out).expect("the directory of the results");
        let path = arguments.out.join(format!("{}.md", self.name));
        std::fs::write(&path, &self.markdown).expect("the results as Markdown");
        let json = serde_json::json!({
            "benchmark": self.name, "quick": self.quick, "date": utc_date(), "cores": cores(), "tables": self.tables,
        });
        std::fs::write(path.with_extension("json"), format!("{json:#}\n")).expect("the results as JSON");
        for (name, svg) in &self.plots {
            std::fs::write(arguments.out.join(name), svg).expect("a picture of the results");
        }
        eprintln!("written to {}, .json and {} pictures", path.display(), self.plots.len());
    }
}

fn utc_date() -> String {
    tallyguard::clock::utc_now().format("%Y-%m-%d %H:%M UTC").to_string()
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// How busy the machine is with other things: above the number of cores, only ratios mean something.
fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// Seconds that `act` takes, and what it returns.
pub fn timed<T>(act: impl FnOnce() -> T) -> (f64, T) {
    let began = Instant::now();
    let result = act();
    (began.elapsed().as_secs_f64(), result)
}

pub fn median(values: &[f64]) -> f64 {
    percentile(values, 50.0)
}

/// The smallest value that at least `percent` of the values do not exceed; NaN of nothing.
pub fn percentile(values: &[f64], percent: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (percent / 100.0 * count(sorted.len())).ceil();
    let below = sorted.iter().enumerate().find(|(index, _)| count(index + 1) >= rank);
    below.map_or(f64::NAN, |(_, value)| *value)
}

/// A count as a number to divide by.
#[allow(clippy::cast_precision_loss, reason = "figures are rounded for people anyway")]
pub fn count(value: impl TryInto<u64>) -> f64 {
    value.try_into().unwrap_or(0) as f64
}

/// Bytes of memory that a process has resident now.
pub fn resident_bytes(process: &str) -> u64 {
    status_kib(process, "VmRSS:") * 1024
}

/// The most that it ever had resident.
pub fn resident_peak_bytes(process: &str) -> u64 {
    status_kib(process, "VmHWM:") * 1024
}

fn status_kib(process: &str, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

/// What a process had resident at most is counted anew from now on.
pub fn forget_resident_peak(process: u32) {
    std::fs::write(format!("/proc/{process}/clear_refs"), "5").expect("a process of ours");
}

/// Processor time that a process has used, user and system, in seconds.
pub fn cpu_seconds(process: &str) -> f64 {
    // The clock tick of every Linux on the usual architectures.
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The name, in parentheses, may hold blanks; utime and stime are the 12th and 13th field after it.
    let fields = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ').collect::<Vec<_>>()).unwrap_or_default();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<u32>().ok()).unwrap_or(0);
    (f64::from(ticks(11)) + f64::from(ticks(12))) / TICKS_PER_SECOND
}

/// Thousands with a blank in between, no fraction.
pub fn whole(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(' ');
        }
        grouped.push(digit);
    }
    grouped
}
