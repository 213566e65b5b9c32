//! From the raw model to [`Settings`]: ranges, names, combinations.
//!
//! Every refusal goes to [`Findings`] and the check goes on, so that one run reports all of them. The settings returned
//! while there are problems are discarded by the caller.

use std::path::PathBuf;
use std::time::Duration;

use super::duration::ConfiguredDuration;
use super::kafka_properties;
use super::names::{self, TOPIC_ACCEPTED};
use super::problem::{Findings, quoted};
use super::raw::{
    Mode, RawAlerts, RawCheckpoint, RawConfig, RawDelivery, RawEmbedded, RawInstance, RawKafka, RawReconcile,
    RawSource, RawTime,
};
use super::settings::{
    AlertsSettings, CheckpointSettings, DeliverySettings, EmbeddedSettings, InstanceSettings, KafkaSettings, Settings,
    SourceKind, SourceSettings, TimeSettings,
};
use super::{check_rules, check_services};
use crate::domain::duration::Millis;

const HOUR: Duration = Duration::from_secs(3_600);
pub(super) const DAY: Duration = Duration::from_secs(24 * 3_600);

/// Longest instance id and group, in bytes.
const ID_MAX: usize = 200;

/// Checks everything. `raw` comes back inside the settings as the effective configuration.
pub(super) fn settings(mut raw: RawConfig, findings: &mut Findings) -> Settings {
    let instance = instance(&mut raw.instance, findings);
    let source = source(&raw.source, findings);
    let rules = check_rules::rules(&mut raw.rules, findings);
    check_rules::room_in_metadata(&rules, &source.group, findings);
    let time = time(&raw.time, findings);
    let alerts = alerts(&mut raw.alerts, &raw.source.topic, findings);
    let delivery = delivery(&raw.delivery, raw.source.kind, findings);
    let kafka = kafka(&mut raw.kafka, &delivery, findings);
    let embedded = embedded(&mut raw.embedded, &instance, findings);
    let checkpoint = checkpoint(&raw.checkpoint, findings);
    let stats = check_services::stats(&mut raw.stats, raw.source.kind, &instance.state_dir, findings);
    let http = check_services::http(&mut raw.http, findings);
    reconcile(&raw.reconcile, findings);
    let warnings = std::mem::take(&mut findings.warnings);
    Settings {
        instance,
        source,
        kafka,
        embedded,
        rules,
        time,
        alerts,
        delivery,
        checkpoint,
        stats,
        http,
        warnings,
        effective: raw,
    }
}

/// A length of time within bounds, both included; `bounds` says them in words.
pub(super) fn within(
    key: &str,
    configured: &ConfiguredDuration,
    range: std::ops::RangeInclusive<Duration>,
    bounds: &str,
    findings: &mut Findings,
) -> Duration {
    let value = configured.value();
    if !range.contains(&value) {
        findings.refuse(key, quoted(configured.text()), format!("a length of time {bounds}"));
    }
    value
}

/// The value in the engine's unit; lengths that were refused as too long are cut.
pub(super) fn millis(duration: Duration) -> Millis {
    Millis(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX))
}

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn instance(raw: &mut RawInstance, findings: &mut Findings) -> InstanceSettings {
    let accepted = format!("1 to {ID_MAX} bytes without control characters");
    let id = match raw.id.clone() {
        Some(id) => id,
        None => gethostname::gethostname().to_string_lossy().into_owned(),
    };
    if !names::is_plain(&id, ID_MAX) {
        findings.refuse("instance.id", quoted(&id), accepted);
    }
    if raw.state_dir.is_empty() || raw.state_dir.contains('\0') {
        findings.refuse("instance.state_dir", quoted(&raw.state_dir), "the path of a directory");
    }
    if raw.threads > 1_024 {
        findings.refuse("instance.threads", raw.threads, "0 (one for each core) to 1024");
    }
    let threads = match raw.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => usize::from(threads),
    };
    raw.id = Some(id.clone());
    InstanceSettings { id, state_dir: PathBuf::from(&raw.state_dir), threads }
}

fn source(raw: &RawSource, findings: &mut Findings) -> SourceSettings {
    if !names::is_legal_topic(&raw.topic) {
        findings.refuse("source.topic", quoted(&raw.topic), TOPIC_ACCEPTED);
    }
    if !names::is_plain(&raw.group, ID_MAX) {
        let accepted = format!("1 to {ID_MAX} bytes without control characters");
        findings.refuse("source.group", quoted(&raw.group), accepted);
    }
    SourceSettings { kind: raw.kind, topic: raw.topic.clone(), group: raw.group.clone(), start: raw.start }
}

fn embedded(raw: &mut RawEmbedded, instance: &InstanceSettings, findings: &mut Findings) -> EmbeddedSettings {
    let dir = raw.dir.clone().map_or_else(|| instance.state_dir.join("log"), PathBuf::from);
    if dir == instance.state_dir {
        let reason = "the snapshots of instance.state_dir may be wiped, and the log may not";
        findings.refuse_because("embedded.dir", quoted(&dir.display().to_string()), reason, "another folder");
    }
    if !(1..=256).contains(&raw.partitions) {
        findings.refuse("embedded.partitions", raw.partitions, "a whole number from 1 to 256");
    }
    let allowed = Duration::ZERO..=DAY * 3_660;
    let age = within("embedded.retention_age", &raw.retention_age, allowed, "from 0s to 10 years", findings);
    raw.dir = Some(dir.display().to_string());
    EmbeddedSettings {
        dir,
        partitions: i32::from(raw.partitions),
        retention_age: age,
        retention_bytes: raw.retention_bytes,
    }
}

fn time(raw: &RawTime, findings: &mut Findings) -> TimeSettings {
    let allowed = Duration::ZERO..=DAY;
    let out_of_orderness = within("time.out_of_orderness", &raw.out_of_orderness, allowed, "from 0s to 24h", findings);
    let allowed = ms(1)..=DAY * 366;
    let max_future_skew =
        within("time.max_future_skew", &raw.max_future_skew, allowed, "from 1ms to 366 days", findings);
    if max_future_skew > out_of_orderness {
        findings.warn(format!(
            "time.max_future_skew = {} is larger than time.out_of_orderness = {}: a tolerated record from the future \
             can make punctual records late",
            quoted(raw.max_future_skew.text()),
            quoted(raw.out_of_orderness.text()),
        ));
    }
    TimeSettings { out_of_orderness: millis(out_of_orderness), max_future_skew: millis(max_future_skew) }
}

fn alerts(raw: &mut RawAlerts, source_topic: &str, findings: &mut Findings) -> AlertsSettings {
    let late_topic = raw.late_topic.clone().unwrap_or_else(|| format!("{source_topic}.late"));
    let dead_letter_topic = raw.dead_letter_topic.clone().unwrap_or_else(|| format!("{source_topic}.dead-letter"));
    let topics = [
        ("source.topic", source_topic),
        ("alerts.topic", raw.topic.as_str()),
        ("alerts.late_topic", late_topic.as_str()),
        ("alerts.dead_letter_topic", dead_letter_topic.as_str()),
    ];
    for (at, (key, topic)) in topics.iter().enumerate().skip(1) {
        if !names::is_legal_topic(topic) {
            // A name derived from an illegal one is not a second problem.
            if !topic.starts_with(source_topic) || names::is_legal_topic(source_topic) {
                findings.refuse(key, quoted(topic), TOPIC_ACCEPTED);
            }
        } else if let Some((other, _)) = topics[..at].iter().find(|(_, other)| names::topics_collide(topic, other)) {
            let accepted = format!("a name that differs from {other} in more than `.` and `_`");
            findings.refuse_because(key, quoted(topic), &format!("it collides with {other}"), accepted);
        }
    }
    raw.late_topic = Some(late_topic.clone());
    raw.dead_letter_topic = Some(dead_letter_topic.clone());
    AlertsSettings { topic: raw.topic.clone(), late_topic, dead_letter_topic }
}

/// What a weaker guarantee means, said once at every start, because nobody sees it in a topic that looks complete.
fn remark_on_mode(mode: Mode, source: SourceKind, findings: &mut Findings) {
    let name = quoted(mode.as_str());
    let meaning = match mode {
        Mode::ExactlyOnce => return,
        Mode::AtLeastOnce => {
            "after a crash or an error an alert may be there twice; whoever reads them must go by alert_id"
        }
        Mode::AtMostOnce => {
            "alerts of the moment of a crash or an error are missing for ever, and are not raised again in their window"
        }
    };
    findings.warn(format!("delivery.mode = {name}: {meaning}. Set \"exactly-once\" if that is not meant"));
    if source == SourceKind::Embedded {
        findings.warn(format!(
            "delivery.mode = {name} promises less and costs more on the embedded log: two synced writes a commit instead of \
             one. Set \"exactly-once\""
        ));
    }
}

fn delivery(raw: &RawDelivery, source: SourceKind, findings: &mut Findings) -> DeliverySettings {
    remark_on_mode(raw.mode, source, findings);
    let key = "delivery.transaction_timeout";
    let transaction_timeout =
        within(key, &raw.transaction_timeout, ms(1_000)..=HOUR / 4, "from 1s to 15m (the brokers' limit)", findings);
    let key = "delivery.max_commit_interval";
    let max_commit_interval = within(
        key,
        &raw.max_commit_interval,
        ms(1)..=HOUR / 4,
        "from 1ms to 15m, and in mode exactly-once to a fifth of delivery.transaction_timeout",
        findings,
    );
    if raw.mode == Mode::ExactlyOnce && max_commit_interval * 5 > transaction_timeout {
        let accepted = format!("at most a fifth of delivery.transaction_timeout ({})", raw.transaction_timeout.text());
        let reason = "a transaction could time out before it is committed";
        findings.refuse_because(key, quoted(raw.max_commit_interval.text()), reason, accepted);
    }
    DeliverySettings { mode: raw.mode, max_commit_interval, transaction_timeout }
}

fn kafka(raw: &mut RawKafka, delivery: &DeliverySettings, findings: &mut Findings) -> KafkaSettings {
    if !names::are_brokers(&raw.brokers) {
        findings.refuse("kafka.brokers", quoted(&raw.brokers), "host:port, or several of them separated by commas");
    }
    let allowed = ms(100)..=HOUR;
    let startup_timeout = within("kafka.startup_timeout", &raw.startup_timeout, allowed, "from 100ms to 1h", findings);
    let properties = kafka_properties::check(&raw.properties, findings);
    kafka_properties::check_together(&properties.values, delivery.transaction_timeout, findings);
    raw.properties = properties.shown;
    KafkaSettings { brokers: raw.brokers.clone(), startup_timeout, properties: properties.values }
}

fn checkpoint(raw: &RawCheckpoint, findings: &mut Findings) -> CheckpointSettings {
    let interval = within("checkpoint.interval", &raw.interval, ms(100)..=DAY, "from 100ms to 24h", findings);
    let min_pause = within("checkpoint.min_pause", &raw.min_pause, ms(0)..=DAY, "from 0s to 24h", findings);
    let timeout = within("checkpoint.timeout", &raw.timeout, ms(100)..=DAY, "from 100ms to 24h", findings);
    if !(1..=1_000).contains(&raw.retain) {
        findings.refuse("checkpoint.retain", raw.retain, "a whole number from 1 to 1000");
    }
    CheckpointSettings {
        interval,
        min_pause,
        timeout,
        tolerable_failures: raw.tolerable_failures,
        retain: usize::try_from(raw.retain).unwrap_or(usize::MAX),
    }
}

fn reconcile(raw: &RawReconcile, findings: &mut Findings) {
    let key = "reconcile.schedule";
    if raw.schedule.is_empty() {
        return;
    }
    if names::is_time_of_day(&raw.schedule) {
        let reason = "the nightly comparison is not yet available in this version";
        findings.refuse_because(key, quoted(&raw.schedule), reason, "leave it empty");
    } else {
        findings.refuse(key, quoted(&raw.schedule), "a time of day, \"HH:MM\" in UTC, or nothing");
    }
}
