//! The status as a page for people: plain HTML without scripts, complete in itself.
//!
//! Every text from outside goes through [`Escaped`]; nothing else writes a variable into the page.

use std::fmt::{self, Display, Formatter, Write};

use chrono::{DateTime, SecondsFormat};

use crate::observe::report::{PartitionPhase, PartitionReport, StatusReport, Trouble};

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;margin:2em auto;max-width:70em;padding:0 1em;\
                     color:#222;background:#fff}h1{font-size:1.4em}h2{font-size:1.1em;margin-top:1.6em}\
                     table{border-collapse:collapse}th,td{padding:.2em .9em .2em 0;text-align:left;\
                     vertical-align:top;border-bottom:1px solid #ddd}.no{color:#a40000}.yes{color:#1d6b1d}";

/// The whole page.
#[must_use]
pub fn render(report: &StatusReport) -> String {
    let mut page = Page(String::with_capacity(8_192));
    let instance = &report.instance;
    page.add(format_args!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta http-equiv=\"refresh\" content=\"5\">\
         <title>Tallyguard {id}: {state}</title><style>{STYLE}</style></head>\n<body><h1>Tallyguard {id}</h1>\n",
        id = Escaped(&instance.id),
        state = report.state.as_str(),
    ));
    verdict(&mut page, report);
    partitions(&mut page, &report.partitions);
    rows(&mut page, "Work", &work(report));
    rows(&mut page, "Instance", &about(report));
    rules(&mut page, report);
    page.add(format_args!(
        "<p><a href=\"/api/v1/status\">status as JSON</a> · <a href=\"/metrics\">metrics</a> · \
         <a href=\"/readyz\">readiness</a> · <a href=\"/healthz\">health</a></p>\n</body></html>\n"
    ));
    page.0
}

struct Page(String);

impl Page {
    fn add(&mut self, content: fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _ = self.0.write_fmt(content);
    }
}

fn verdict(page: &mut Page, report: &StatusReport) {
    let (class, word) = if report.ready { ("yes", "ready") } else { ("no", "not ready") };
    page.add(format_args!("<p>{}, <strong class=\"{class}\">{word}</strong></p>\n", report.state.as_str()));
    for (class, sentences) in [("no", &report.reasons), ("look", &report.remarks)] {
        if sentences.is_empty() {
            continue;
        }
        page.add(format_args!("<ul class=\"{class}\">"));
        for sentence in sentences {
            page.add(format_args!("<li>{}</li>", Escaped(sentence)));
        }
        page.add(format_args!("</ul>\n"));
    }
}

fn partitions(page: &mut Page, partitions: &[PartitionReport]) {
    page.add(format_args!("<h2>Partitions</h2>\n"));
    if partitions.is_empty() {
        page.add(format_args!("<p>This instance owns no partition.</p>\n"));
        return;
    }
    page.add(format_args!(
        "<table><tr><th>partition<th>state<th>taken in<th>committed<th>end<th>lag<th>watermark<th>open users</tr>\n"
    ));
    for one in partitions {
        page.add(format_args!(
            "<tr><td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}</tr>\n",
            one.partition,
            Escaped(&phase(&one.phase)),
            known(one.applied_offset),
            known(one.committed_offset),
            known(one.end_offset),
            known(one.lag_records),
            one.watermark,
            one.open_users
        ));
    }
    page.add(format_args!("</table>\n"));
}

fn phase(phase: &PartitionPhase) -> String {
    match phase {
        PartitionPhase::Recovering { waiting_for: Some(why) } => format!("{}: {why}", phase.as_str()),
        PartitionPhase::Refused(refusal) => format!("refused. What to do: {}", refusal.remedy),
        PartitionPhase::Recovering { waiting_for: None } | PartitionPhase::Live | PartitionPhase::Revoking => {
            phase.as_str().to_owned()
        }
    }
}

type Row = (&'static str, String);

fn work(report: &StatusReport) -> Vec<Row> {
    let totals = &report.totals;
    let mut rows = vec![
        (
            "records",
            format!(
                "{} counted, {} duplicate, {} late, {} dead letters",
                totals.counted, totals.duplicate, totals.late, totals.dead_letter
            ),
        ),
        ("alerts", totals.alerts.to_string()),
        (
            "transactions",
            format!(
                "{} committed, {} aborted, {} producers replaced",
                totals.transactions_committed, totals.transactions_aborted, totals.producer_replacements
            ),
        ),
    ];
    let commit = report.commits.last.as_ref();
    rows.push((
        "last commit",
        commit.map_or_else(none, |last| format!("{}, in {} ms", time(last.at_ms), last.duration_ms)),
    ));
    let statistics = &report.statistics;
    rows.push((
        "statistics",
        match (statistics.enabled, statistics.connected) {
            (false, _) => "off".to_owned(),
            (true, connected) => format!(
                "{}, {} rows pending, last flush {}",
                if connected { "connected" } else { "not connected" },
                statistics.pending_rows,
                statistics.last_flush_at_ms.map_or_else(none, time)
            ),
        },
    ));
    rows.push(("last checkpoint", report.checkpoints.last_success_at_ms.map_or_else(none, time)));
    let errors = [
        ("last commit error", &report.commits.last_error),
        ("last Kafka error", &report.kafka.last_error),
        ("last statistics error", &report.statistics.last_error),
        ("last checkpoint error", &report.checkpoints.last_error),
    ];
    for (name, error) in errors {
        if let Some(Trouble { at_ms, message }) = error {
            rows.push((name, format!("{}: {message}", time(*at_ms))));
        }
    }
    rows
}

fn about(report: &StatusReport) -> Vec<Row> {
    let instance = &report.instance;
    vec![
        ("topic", instance.topic.clone()),
        ("group", instance.group.clone()),
        ("cluster", instance.cluster_id.clone().unwrap_or_else(none)),
        ("delivery", instance.mode.clone()),
        ("version", instance.version.clone()),
        ("started", time(instance.started_at_ms)),
        ("this page", time(instance.reported_at_ms)),
    ]
}

fn rows(page: &mut Page, title: &str, rows: &[Row]) {
    page.add(format_args!("<h2>{title}</h2>\n<table>"));
    for (name, value) in rows {
        page.add(format_args!("<tr><th>{name}<td>{}</tr>\n", Escaped(value)));
    }
    page.add(format_args!("</table>\n"));
}

fn rules(page: &mut Page, report: &StatusReport) {
    page.add(format_args!("<h2>Rules</h2>\n<table><tr><th>rule<th>version<th>limit<th>severity</tr>\n"));
    for rule in &report.rules {
        page.add(format_args!(
            "<tr><td>{}<td>{}<td>{} transactions within {}<td>{}</tr>\n",
            Escaped(&rule.id),
            rule.version,
            rule.max_transactions,
            Escaped(&rule.window),
            rule.severity.as_str()
        ));
    }
    page.add(format_args!("</table>\n"));
}

fn none() -> String {
    "none yet".to_owned()
}

fn known(value: Option<impl Display>) -> String {
    value.map_or_else(|| "unknown".to_owned(), |value| value.to_string())
}

fn time(epoch_ms: i64) -> String {
    DateTime::from_timestamp_millis(epoch_ms)
        .map_or_else(|| "unknown".to_owned(), |time| time.to_rfc3339_opts(SecondsFormat::Millis, true))
}

/// Text as it may stand in an element or a quoted attribute.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}
