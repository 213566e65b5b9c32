//! Reads query parameters strictly: a parameter that is unknown, given twice or not readable is refused by name, rather
//! than ignored, so that a misspelt `form=` does not silently ask for something else.

use actix_web::web::Query;
use chrono::DateTime;

use crate::http::problem::Problem;

/// The parameters of one request.
pub struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// # Errors
    /// When there is one that is not `known`, or one twice.
    pub fn read(query: &str, known: &[&str]) -> Result<Self, Problem> {
        let Ok(Query(pairs)) = Query::<Vec<(String, String)>>::from_query(query) else {
            return Err(Problem::bad_request("bad_parameter", "the query string cannot be read"));
        };
        for (at, (name, _)) in pairs.iter().enumerate() {
            if !known.contains(&name.as_str()) {
                let list = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                let shown: String = name.chars().take(40).collect();
                let message = format!("there is no parameter {shown:?} here; known: {list}");
                return Err(Problem::bad_request("bad_parameter", message));
            }
            if pairs[..at].iter().any(|(earlier, _)| earlier == name) {
                return Err(Problem::bad_parameter(name, "given once"));
            }
        }
        Ok(Self(pairs))
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// A whole number from 1 to `max`.
    ///
    /// # Errors
    /// Names the parameter.
    pub fn limit(&self, name: &str, default: usize, max: usize) -> Result<usize, Problem> {
        let Some(text) = self.text(name) else { return Ok(default) };
        let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse().ok().filter(|number| is_plain && (1..=max).contains(number));
        number.ok_or_else(|| Problem::bad_parameter(name, &format!("a whole number from 1 to {max}")))
    }

    /// A time in RFC 3339, as milliseconds since the epoch.
    ///
    /// # Errors
    /// Names the parameter.
    pub fn time_ms(&self, name: &str) -> Result<Option<i64>, Problem> {
        let Some(text) = self.text(name) else { return Ok(None) };
        // A plus sign that was not escaped arrives as a blank, which RFC 3339 has nowhere else.
        let time = DateTime::parse_from_rfc3339(&text.replace(' ', "+"));
        let accepted = "a time with offset as in RFC 3339, such as 2026-11-20T10:00:00Z";
        time.map(|time| Some(time.timestamp_millis())).map_err(|_| Problem::bad_parameter(name, accepted))
    }
}
