//! What a partition's state says of one user. A look: it changes nothing, so it may happen between any two records.

use crate::domain::ids::IdKey;
use crate::domain::partition::PartitionState;
use crate::domain::time::{WindowEnd, WindowStart};

/// One user's counter in an open window, as one rule sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenCount {
    pub rule_id: String,
    /// The version that would decide the next record.
    pub rule_version: u32,
    pub window_start: WindowStart,
    pub window_end: WindowEnd,
    /// Transactions that count so far.
    pub transactions: u32,
    pub max_transactions: u32,
    /// The one alert of this rule, user and window was raised.
    pub has_alerted: bool,
}

impl PartitionState {
    /// The user's counters: the rules in the order of the configuration within each window size, windows oldest first.
    /// Empty when no open window has counted the user.
    #[must_use]
    pub fn open_counts(&self, user_id: &str) -> Vec<OpenCount> {
        let user = IdKey::of(user_id);
        let mut counts = Vec::new();
        for class in &self.classes {
            for window in &class.open {
                let Some(actor) = window.users.get(&user) else { continue };
                counts.extend(class.rules.iter().map(|&index| {
                    let history = &self.parameters.rules[index];
                    let version = history.version_at(self.next);
                    OpenCount {
                        rule_id: history.rule.id.clone(),
                        rule_version: version.version,
                        window_start: window.start,
                        window_end: window.start.end(class.size),
                        transactions: actor.transactions(),
                        max_transactions: version.max_transactions,
                        has_alerted: actor.has_raised(index),
                    }
                }));
            }
        }
        counts
    }
}
