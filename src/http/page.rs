//! The dashboard: one page that is complete as it is sent, and kept up to date by a script of its own.
//!
//! Every text from outside goes through [`Escaped`]; nothing else writes a variable into the page. The script
//! (`dashboard/dashboard.js`) finds the places to update by their ids and writes text only; `view` forms what both show.

mod view;

use std::fmt::{self, Display, Formatter, Write};

use actix_web::HttpResponse;
use actix_web::http::header::ContentType;
use actix_web::web::Data;

use crate::observe::report::{GuaranteeState, PartitionReport, StatusReport};
use crate::observe::status::StatusBoard;
use view::{Tile, event_time, grouped, known, phase, time_of_day};

const SCRIPT: &str = include_str!("dashboard/dashboard.js");
const STYLE: &str = include_str!("dashboard/dashboard.css");

#[utoipa::path(
    get, path = "/", tag = "operation", summary = "The dashboard",
    responses((status = 200, content_type = "text/html", body = String))
)]
pub async fn dashboard(board: Data<StatusBoard>) -> HttpResponse {
    HttpResponse::Ok().content_type(ContentType::html()).body(render(&board.snapshot()))
}

pub async fn script() -> HttpResponse {
    HttpResponse::Ok().content_type("text/javascript; charset=utf-8").body(SCRIPT)
}

pub async fn style() -> HttpResponse {
    HttpResponse::Ok().content_type("text/css; charset=utf-8").body(STYLE)
}

/// The whole page.
#[must_use]
pub fn render(report: &StatusReport) -> String {
    let mut page = Page(String::with_capacity(16_384));
    let instance = &report.instance;
    page.add(format_args!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\">\
         <title>Tallyguard {id}: {state}</title><link rel=\"stylesheet\" href=\"/dashboard.css\">\
         <noscript><meta http-equiv=\"refresh\" content=\"5\"></noscript>\
         <script src=\"/dashboard.js\" defer></script></head>\n<body>\n\
         <header><h1>Tallyguard <span>{id}</span></h1>\
         <p>{mode} · version {version} · <span id=\"updated\">as of {now}</span></p></header>\n<main>\n",
        id = Escaped(&instance.id),
        state = report.state.as_str(),
        mode = Escaped(&instance.mode),
        version = Escaped(&instance.version),
        now = time_of_day(instance.reported_at_ms),
    ));
    guarantee(&mut page, report);
    tiles(&mut page, report);
    page.add(format_args!("<div class=\"columns\">\n"));
    partitions(&mut page, &report.partitions);
    alerts(&mut page);
    page.add(format_args!("</div>\n<div class=\"columns\">\n"));
    rows(&mut page, "Work", "work", &view::work(report));
    rows(&mut page, "Instance", "instance", &view::about(report));
    page.add(format_args!("</div>\n"));
    rules(&mut page, report);
    page.add(format_args!(
        "</main>\n<footer><a href=\"/api/v1/status\">status as JSON</a> <a href=\"/api/v1/alerts\">alerts as JSON</a> \
         <a href=\"/api/v1/checkpoints\">checkpoints</a> <a href=\"/metrics\">metrics</a> \
         <a href=\"/readyz\">readiness</a> <a href=\"/healthz\">health</a> \
         <a href=\"/api/v1/openapi.json\">OpenAPI</a></footer>\n</body></html>\n"
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

/// The first thing to be seen: does the guarantee hold, and what is to be done.
fn guarantee(page: &mut Page, report: &StatusReport) {
    let guarantee = &report.guarantee;
    let state = match guarantee.state {
        GuaranteeState::Holding => "holding",
        GuaranteeState::Waiting => "waiting",
        GuaranteeState::Stopped => "stopped",
    };
    let (word, ready) = if report.ready { ("ready", "yes") } else { ("not ready", "no") };
    page.add(format_args!(
        "<section id=\"guarantee\" class=\"{state}\" aria-label=\"State of the guarantee\">\
         <p id=\"headline\" role=\"status\">{}</p><p id=\"what-to-do\">{}</p>\
         <p class=\"state\"><span id=\"state\">{}</span>, <strong id=\"ready\" class=\"{ready}\">{word}</strong></p>\n\
         <ul id=\"reasons\">",
        Escaped(&guarantee.headline),
        Escaped(guarantee.what_to_do.as_deref().unwrap_or_default()),
        report.state.as_str(),
    ));
    for sentence in report.reasons.iter().chain(&report.remarks) {
        page.add(format_args!("<li>{}</li>", Escaped(sentence)));
    }
    page.add(format_args!("</ul></section>\n"));
}

fn tiles(page: &mut Page, report: &StatusReport) {
    page.add(format_args!("<section id=\"tiles\" aria-label=\"At a glance\">\n"));
    for Tile { id, label, value, note } in view::tiles(report) {
        page.add(format_args!(
            "<div class=\"tile\"><h2>{label}</h2><p class=\"value\" id=\"{id}\">{}</p><p class=\"note\" id=\"{id}-note\">{}</p>\
             </div>\n",
            Escaped(&value),
            Escaped(&note),
        ));
    }
    page.add(format_args!("</section>\n"));
}

fn partitions(page: &mut Page, partitions: &[PartitionReport]) {
    page.add(format_args!(
        "<section><h2>Partitions</h2><div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Partitions\">\
         <table><thead><tr><th>partition<th>state<th class=\"number\">lag<th class=\"number\">committed\
         <th class=\"number wider\">end<th class=\"number\">open users<th class=\"wide\">watermark</tr></thead>\
         <tbody id=\"partitions\">\n"
    ));
    for one in partitions {
        page.add(format_args!(
            "<tr><td>{}<td class=\"{}\">{}<td class=\"number\">{}<td class=\"number\">{}<td class=\"number wider\">{}\
             <td class=\"number\">{}<td class=\"wide time\">{}</tr>\n",
            one.partition,
            one.phase.as_str(),
            Escaped(&phase(&one.phase)),
            known(one.lag_records.map(grouped)),
            known(one.committed_offset),
            known(one.end_offset),
            grouped(one.open_users),
            event_time(one.watermark),
        ));
    }
    let hidden = if partitions.is_empty() { "" } else { " hidden" };
    page.add(format_args!(
        "</tbody></table></div><p id=\"no-partitions\"{hidden}>This instance owns no partition.</p></section>\n"
    ));
}

/// Filled by the script; without it the list is a link away.
fn alerts(page: &mut Page) {
    page.add(format_args!(
        "<section><h2>Alerts <span id=\"alerts-state\"></span></h2>\
         <noscript><p>Without scripts: <a href=\"/api/v1/alerts\">the newest alerts as JSON</a>.</p></noscript>\
         <ol id=\"alerts\" class=\"scroll\" tabindex=\"0\" role=\"log\" aria-label=\"Newest alerts first\"></ol></section>\n"
    ));
}

fn rows(page: &mut Page, title: &str, id: &str, rows: &[view::Row]) {
    page.add(format_args!("<section><h2>{title}</h2>\n<table><tbody id=\"{id}\">"));
    for (name, value) in rows {
        page.add(format_args!("<tr><th scope=\"row\">{name}<td>{}</tr>\n", Escaped(value)));
    }
    page.add(format_args!("</tbody></table></section>\n"));
}

fn rules(page: &mut Page, report: &StatusReport) {
    page.add(format_args!(
        "<section><h2>Rules</h2>\n<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Rules\"><table>\
         <thead><tr><th>rule<th>version<th>limit<th>severity</tr></thead><tbody>\n"
    ));
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
    page.add(format_args!("</tbody></table></div></section>\n"));
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
