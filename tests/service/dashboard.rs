//! The dashboard in a real browser: what an operator sees at night, and on a phone.

use std::io::Read;
use std::path::PathBuf;
use std::{env, fs};

use flate2::read::ZlibDecoder;

use crate::scenario::{Scenario, burst};
use crate::support::browser::{Looks, Page};

const DESKTOP: Looks = Looks { width: 1280, height: 1000, dark: false };
const PHONE: Looks = Looks { width: 390, height: 844, dark: false };
const ALL: [(&str, Looks); 4] = [
    ("desktop-light", DESKTOP),
    ("desktop-dark", Looks { dark: true, ..DESKTOP }),
    ("phone-light", PHONE),
    ("phone-dark", Looks { dark: true, ..PHONE }),
];
/// How far the page may move by itself, as browsers measure it: 0.1 is what is called good.
const SHIFT_MAX: f64 = 0.05;

#[test]
fn an_operator_sees_the_guarantee_the_partitions_and_an_alert_that_is_raised_meanwhile() {
    let scenario = Scenario::new().create_topics();
    let mut service = scenario.start_ready();
    let mut page = Page::open();
    page.look(DESKTOP);
    page.go_to(&format!("http://127.0.0.1:{}/", scenario.config.http_port));

    page.wait_for_text("headline", &["Exactly once: holding. Everything up to", "is committed."]);
    let partitions = page.wait_for_text("partitions", &["live"]);
    assert_eq!(partitions.lines().filter(|line| line.contains("live")).count(), 4, "{partitions}");
    page.wait_for_text("alerts-state", &["live; none so far"]);

    let unusual = "<img src=x onerror=alert(1)> & \"u\"";
    scenario.produce(burst("u-night", 11, 10));
    scenario.produce(burst(unusual, 6, 10));
    let said = format!("User {unusual}: 6 transactions within 10s, limit 5");
    let alerts = page.wait_for_text("alerts", &["User u-night: 11 transactions within 1m, limit 10", &said]);
    assert_eq!(alerts.matches("User u-night").count(), 2, "velocity-10s and velocity-1m, each once: {alerts}");
    page.wait_for_text("alert-count", &["3"]);
    page.wait_for_text("latency-note", &["median of 3"]);

    for (name, looks) in ALL {
        page.look(looks);
        let sideways = page.evaluate("document.documentElement.scrollWidth - innerWidth");
        assert!(sideways.as_i64().is_some_and(|pixels| pixels <= 0), "{name}: the page scrolls sideways by {sideways}");
        let picture = page.screenshot();
        save(name, &picture);
        assert_is_a_picture(name, &picture);
    }
    let elements = page.evaluate("document.querySelectorAll('main img').length");
    assert_eq!(elements, 0, "a user id became an element");
    assert_eq!(page.complaints(), [] as [String; 0], "exceptions, or violations of the page's own policy");

    service.kill9();
    page.wait_for_text("updated", &["no answer from the service", "all below is old"]);
}

#[test]
fn the_page_does_not_jump_while_records_and_alerts_come_in() {
    let scenario = Scenario::new().create_topics();
    let _service = scenario.start_ready();
    let mut page = Page::open();
    page.look(DESKTOP);
    page.go_to(&format!("http://127.0.0.1:{}/", scenario.config.http_port));
    page.wait_for_text("headline", &["Exactly once: holding."]);
    for second in 0..4 {
        scenario.produce((0..20).flat_map(|user| burst(&format!("u-{user}"), 11, 10 + 60 * second)));
        page.wait_for_text("alerts", &[&format!("window from 00:0{second}")]);
    }
    let shift = page.evaluate(
        "new Promise(done => { let sum = 0; new PerformanceObserver(list => { for (const one of list.getEntries()) \
         sum += one.value; }).observe({type: 'layout-shift', buffered: true}); setTimeout(() => done(sum), 300); })",
    );
    assert!(shift.as_f64().is_some_and(|shift| shift <= SHIFT_MAX), "the layout shifted by {shift}");
}

#[test]
fn the_keyboard_reaches_every_part_that_scrolls_and_every_link() {
    let scenario = Scenario::new().create_topics();
    let _service = scenario.start_ready();
    let mut page = Page::open();
    page.look(PHONE);
    page.go_to(&format!("http://127.0.0.1:{}/", scenario.config.http_port));
    page.wait_for_text("headline", &["Exactly once: holding."]);
    let unreachable = page.evaluate(
        "[...document.querySelectorAll('main *')].filter(one => ['auto', 'scroll'].includes(getComputedStyle(one).overflowY) \
         && one.tabIndex < 0).map(one => one.outerHTML.slice(0, 80))",
    );
    assert_eq!(unreachable, serde_json::json!([]));
    let unnamed = page.evaluate(
        "[...document.querySelectorAll('[tabindex], a')].filter(one => !(one.ariaLabel || one.innerText)).length",
    );
    assert_eq!(unnamed, 0, "what can be reached has a name");
}

/// Under the target folder, for a person to look at.
fn save(name: &str, picture: &[u8]) {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("dashboard");
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join(format!("{name}.png")), picture).expect("a picture is written");
}

/// A PNG whose pixels differ: an empty page, whatever its colour, holds a handful of byte values.
fn assert_is_a_picture(name: &str, png: &[u8]) {
    assert!(png.starts_with(b"\x89PNG\r\n\x1a\n"), "{name}: not a PNG");
    let mut packed = Vec::new();
    let mut rest = &png[8..];
    while let Some((head, tail)) = rest.split_at_checked(8) {
        let length = u32::from_be_bytes(head[..4].try_into().expect("four bytes"));
        let (data, tail) = tail.split_at(usize::try_from(length).expect("a length"));
        if &head[4..] == b"IDAT" {
            packed.extend_from_slice(data);
        }
        rest = &tail[4..];
    }
    let mut pixels = Vec::new();
    ZlibDecoder::new(&packed[..]).read_to_end(&mut pixels).expect("the pixels");
    let mut seen = [false; 256];
    pixels.iter().for_each(|byte| seen[usize::from(*byte)] = true);
    let values = seen.iter().filter(|seen| **seen).count();
    assert!(values > 60, "{name}: only {values} different bytes, as in a picture of one colour");
}
