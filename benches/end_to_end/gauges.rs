//! What a running service says of itself on `/metrics`.

use tallyguard::observe::metrics::{CONSUMER_LAG, OPEN_USERS, STATS_PENDING_ROWS, TRANSACTIONS};

use crate::support::{MetricsText, Service};

/// One look.
pub struct Gauges(MetricsText);

impl Gauges {
    /// `None` when the service does not answer now.
    pub fn look(service: &Service) -> Option<Self> {
        let (status, page) = service.http_get("/metrics");
        (status == 200).then(|| Self(MetricsText::read(page)))
    }

    /// End of the log less what was taken in, all partitions together.
    pub fn lag(&self) -> f64 {
        self.sum(CONSUMER_LAG)
    }

    pub fn open_users(&self) -> f64 {
        self.sum(OPEN_USERS)
    }

    /// Statistics rows that the database does not have yet.
    pub fn pending_rows(&self) -> f64 {
        self.sum(STATS_PENDING_ROWS)
    }

    /// Transactions committed so far.
    pub fn committed(&self) -> f64 {
        self.0.value(TRANSACTIONS, "result=\"committed\"").unwrap_or(0.0)
    }

    fn sum(&self, name: &str) -> f64 {
        let series = self.0.samples.iter().filter(|((series, _), _)| series == name);
        series.map(|(_, value)| value).sum()
    }
}
