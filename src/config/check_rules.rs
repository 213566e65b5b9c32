//! Checks the velocity rules.

use std::collections::BTreeMap;
use std::time::Duration;

use super::check::{DAY, millis};
use super::defaults;
use super::names;
use super::problem::{Findings, quoted};
use super::raw::RawRule;
use crate::domain::duration::Millis;
use crate::domain::ids::Offset;
use crate::domain::rule::{Parameters, Rule, RuleHistory, RuleVersion, Severity};
use crate::domain::user::RULES_MAX;
use crate::protocol::metadata::{LENGTH_MAX, LogIdentity, Metadata};

/// Longest rule id, in bytes.
const ID_MAX: usize = 64;

const WINDOW_ACCEPTED: &str = "a window size in whole seconds from 1s to 24h, in quotes, such as \"1m\"";

/// The rules, or the default one if none are configured; `raw` becomes what is in force.
pub(super) fn rules(raw: &mut Option<Vec<RawRule>>, findings: &mut Findings) -> Vec<Rule> {
    let configured = raw.get_or_insert_with(defaults::rules);
    if configured.is_empty() || configured.len() > RULES_MAX {
        let found = format!("a list of {}", configured.len());
        findings.refuse("rules", found, format!("1 to {RULES_MAX} rules"));
    }
    let mut seen = BTreeMap::new();
    let mut rules = Vec::new();
    for (index, raw) in configured.iter().enumerate() {
        let rule = rule(index, raw, findings);
        if let Some(id) = &raw.id {
            if let Some(other) = seen.get(id) {
                let key = format!("rules[{index}].id");
                findings.refuse(&key, quoted(id), format!("an id unlike that of rules[{other}]"));
            } else {
                seen.insert(id.clone(), index);
            }
        }
        rules.extend(rule);
    }
    rules
}

/// Every commit carries all rules. They must fit even in the longest commit, while each rule is being changed.
pub(super) fn room_in_metadata(rules: &[Rule], group: &str, findings: &mut Findings) {
    let histories = rules.iter().map(|rule| {
        let version = RuleVersion {
            from: Offset(i64::MAX),
            version: rule.version,
            max_transactions: rule.max_transactions,
            severity: Severity::Critical,
        };
        RuleHistory::with_versions(rule.clone(), vec![version; 2])
    });
    let longest = Parameters {
        rules: histories.collect(),
        out_of_orderness: Millis(i64::MAX),
        max_future_skew: Millis(i64::MAX),
        statistics: false,
        orders: false,
    };
    // A cluster may have an id of its own making; a topic's is always a UUID in Base64.
    let identity = LogIdentity { cluster_id: "c".repeat(36), topic_id: "t".repeat(22), group: group.to_owned() };
    let length = Metadata::length_max(&longest, identity);
    if length > LENGTH_MAX {
        let found = format!("{} rules that take up to {length} bytes of each commit", rules.len());
        findings.refuse("rules", found, format!("shorter rule ids or fewer rules: at most {LENGTH_MAX} bytes"));
    }
}

fn rule(index: usize, raw: &RawRule, findings: &mut Findings) -> Option<Rule> {
    let key = |name: &str| format!("rules[{index}].{name}");
    let id_accepted = format!("1 to {ID_MAX} bytes without control characters and `|`");
    match &raw.id {
        None => findings.refuse_absent(&key("id"), "it is missing", id_accepted),
        Some(id) if names::is_plain(id, ID_MAX) && !id.contains('|') => {}
        Some(id) => findings.refuse(&key("id"), quoted(id), id_accepted),
    }
    if raw.version == 0 {
        findings.refuse(&key("version"), 0, "a whole number from 1, higher with every change of the rule");
    }
    match &raw.window {
        None => findings.refuse_absent(&key("window"), "it is missing", WINDOW_ACCEPTED),
        Some(window) => {
            // Window bounds are written without a fraction of a second, so sizes are whole seconds.
            let value = window.value();
            if !(Duration::from_secs(1)..=DAY).contains(&value) || value.subsec_nanos() != 0 {
                findings.refuse(&key("window"), quoted(window.text()), WINDOW_ACCEPTED);
            }
        }
    }
    match raw.max_transactions {
        None => findings.refuse_absent(&key("max_transactions"), "it is missing", "a whole number from 1"),
        Some(0) => findings.refuse(&key("max_transactions"), 0, "a whole number from 1"),
        Some(_) => {}
    }
    let window = raw.window.as_ref()?;
    Some(Rule {
        id: raw.id.clone()?,
        version: raw.version,
        window: millis(window.value()),
        window_text: window.text().to_owned(),
        max_transactions: raw.max_transactions?,
        severity: raw.severity,
    })
}
