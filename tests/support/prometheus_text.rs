//! Reads the Prometheus text format 0.0.4 as strictly as a scraper does, for label values without commas.

use std::collections::{BTreeMap, BTreeSet};

/// A page in the Prometheus text format 0.0.4, read as strictly as a scraper does.
pub struct MetricsText {
    pub text: String,
    /// `counter`, `gauge` or `histogram` by name.
    pub kinds: BTreeMap<String, String>,
    /// By name and labels, as they are written.
    pub samples: BTreeMap<(String, String), f64>,
}

impl MetricsText {
    pub fn value(&self, name: &str, labels: &str) -> Option<f64> {
        self.samples.get(&(name.to_owned(), labels.to_owned())).copied()
    }

    /// Panics at whatever a scraper would refuse.
    pub fn read(text: String) -> Self {
        let mut page = Self { text: String::new(), kinds: BTreeMap::new(), samples: BTreeMap::new() };
        let mut described = BTreeSet::new();
        assert!(text.ends_with('\n'), "the last line does not end");
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, description) = help.split_once(' ').unwrap();
                assert!(!description.is_empty() && described.insert(name.to_owned()), "{line}");
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap();
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                assert!(described.contains(name), "no HELP before: {line}");
                assert!(page.kinds.insert(name.to_owned(), kind.to_owned()).is_none(), "a second TYPE: {line}");
            } else {
                page.read_sample(line);
            }
        }
        Self { text, ..page }
    }

    fn read_sample(&mut self, line: &str) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').map_or((series, ""), |(name, rest)| {
            (name, rest.strip_suffix('}').unwrap_or_else(|| panic!("labels do not end: {line}")))
        });
        assert!(name.chars().all(|one| one.is_ascii_lowercase() || one.is_ascii_digit() || one == '_'), "{line}");
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
        let family = family.filter(|family| self.kinds.get(*family).is_some_and(|kind| kind == "histogram"));
        assert!(self.kinds.contains_key(family.unwrap_or(name)), "no TYPE before: {line}");
        for label in labels.split(',').filter(|label| !label.is_empty()) {
            let (_, value) = label.split_once('=').unwrap();
            assert!(value.len() >= 2 && value.starts_with('"') && value.ends_with('"'), "{line}");
        }
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("not a number: {line}"));
        assert!(value.is_finite(), "{line}");
        let is_new = self.samples.insert((name.to_owned(), labels.to_owned()), value).is_none();
        assert!(is_new, "twice: {line}");
    }
}
