//! What a transaction record is: the contract's table of fields, read a second time.
//!
//! [`validate`] gives the transaction, or the first reason in the contract's order why the record is a dead letter.
//! It depends on the record alone, never on a clock. Messages name a field and never repeat its value.

use std::fmt;

use super::json::{self, Json};
use super::rfc3339;

/// 2000-01-01T00:00:00Z, the first event time that is accepted.
const FIRST_EVENT_TIME_MS: i64 = 946_684_800_000;
/// 2100-01-01T00:00:00Z, the first event time that is not accepted any more.
const END_OF_EVENT_TIME_MS: i64 = 4_102_444_800_000;
const MAX_AMOUNT_MINOR: i64 = 1_000_000_000_000_000;
const MAX_ID_BYTES: usize = 128;
const MAX_OPTIONAL_BYTES: usize = 64;

/// The fields of the table, in its order; the first seven are required.
const FIELDS: [&str; 9] = [
    "transaction_id",
    "order_id",
    "user_id",
    "merchant_id",
    "amount_minor",
    "currency",
    "event_time",
    "channel",
    "status",
];
const REQUIRED_FIELDS: usize = 7;

/// A valid record's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    pub transaction_id: String,
    pub order_id: String,
    pub user_id: String,
    pub merchant_id: String,
    pub amount_minor: i64,
    pub currency: String,
    pub event_time_ms: i64,
    pub channel: Option<String>,
    pub status: Option<String>,
}

/// Why a record is a dead letter; the order is that in which reasons are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReasonCode {
    NullValue,
    InvalidUtf8,
    InvalidJson,
    MissingField,
    InvalidField,
    EventTimeInFuture,
}

impl ReasonCode {
    /// The text in the header `tallyguard.error.code`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NullValue => "null_value",
            Self::InvalidUtf8 => "invalid_utf8",
            Self::InvalidJson => "invalid_json",
            Self::MissingField => "missing_field",
            Self::InvalidField => "invalid_field",
            Self::EventTimeInFuture => "event_time_in_future",
        }
    }
}

/// The reason why a record is a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    pub code: ReasonCode,
    /// The field of the table that the reason is about, if it is about one.
    pub field: Option<&'static str>,
    detail: String,
}

impl Rejection {
    fn of_record(code: ReasonCode, detail: impl Into<String>) -> Self {
        Self { code, field: None, detail: detail.into() }
    }

    fn of_field(code: ReasonCode, field: &'static str, detail: impl Into<String>) -> Self {
        Self { code, field: Some(field), detail: detail.into() }
    }
}

/// The message for people; it holds nothing of the record's values.
impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.field {
            Some(field) => write!(f, "{field}: {}", self.detail),
            None => f.write_str(&self.detail),
        }
    }
}

/// Reads a record's value. `timestamp_ms` is the record's own Kafka timestamp, `None` if it has none.
pub fn validate(
    value: Option<&[u8]>,
    timestamp_ms: Option<i64>,
    max_future_skew_ms: i64,
) -> Result<Transaction, Rejection> {
    let value = value.ok_or_else(|| Rejection::of_record(ReasonCode::NullValue, "the record has no value"))?;
    let text = std::str::from_utf8(value).map_err(|error| {
        Rejection::of_record(ReasonCode::InvalidUtf8, format!("not UTF-8 at byte {}", error.valid_up_to()))
    })?;
    let fields = Fields::read(text)?;
    fields.require_all()?;
    let transaction = Transaction {
        transaction_id: fields.id("transaction_id")?,
        order_id: fields.id("order_id")?,
        user_id: fields.id("user_id")?,
        merchant_id: fields.id("merchant_id")?,
        amount_minor: fields.amount("amount_minor")?,
        currency: fields.currency("currency")?,
        event_time_ms: fields.event_time("event_time")?,
        channel: fields.optional_text("channel")?,
        status: fields.optional_text("status")?,
    };
    match timestamp_ms {
        Some(timestamp_ms) if transaction.event_time_ms > timestamp_ms.saturating_add(max_future_skew_ms) => {
            let detail = "later than the record's timestamp allows";
            Err(Rejection::of_field(ReasonCode::EventTimeInFuture, "event_time", detail))
        }
        _ => Ok(transaction),
    }
}

/// The members of the record's object that the table names, each at most once.
struct Fields {
    values: Vec<(&'static str, Json)>,
}

impl Fields {
    fn read(text: &str) -> Result<Self, Rejection> {
        let invalid = |detail: String| Rejection::of_record(ReasonCode::InvalidJson, detail);
        let Json::Object(members) = json::parse(text).map_err(|error| invalid(error.to_string()))? else {
            return Err(invalid("not an object".to_owned()));
        };
        let mut values: Vec<(&'static str, Json)> = Vec::new();
        for (name, value) in members {
            // A name with a lone surrogate holds U+FFFD and so is none of the table.
            let Some(field) = FIELDS.into_iter().find(|field| *field == name.content) else { continue };
            if values.iter().any(|(earlier, _)| *earlier == field) {
                return Err(Rejection::of_field(ReasonCode::InvalidJson, field, "given twice"));
            }
            if value.has_lone_surrogate() {
                return Err(Rejection::of_field(ReasonCode::InvalidJson, field, "lone surrogate"));
            }
            values.push((field, value));
        }
        Ok(Self { values })
    }

    fn get(&self, field: &str) -> Option<&Json> {
        self.values.iter().find(|(name, _)| *name == field).map(|(_, value)| value)
    }

    fn require_all(&self) -> Result<(), Rejection> {
        match FIELDS[..REQUIRED_FIELDS].iter().find(|field| self.get(field).is_none()) {
            Some(field) => Err(Rejection::of_field(ReasonCode::MissingField, field, "missing")),
            None => Ok(()),
        }
    }

    fn id(&self, field: &'static str) -> Result<String, Rejection> {
        let text = self.text(field)?;
        if text.is_empty() || text.len() > MAX_ID_BYTES {
            return Err(invalid_field(field, "must have 1 to 128 bytes"));
        }
        without_control_characters(field, text)
    }

    fn optional_text(&self, field: &'static str) -> Result<Option<String>, Rejection> {
        if matches!(self.get(field), None | Some(Json::Null)) {
            return Ok(None);
        }
        let text = self.text(field)?;
        if text.len() > MAX_OPTIONAL_BYTES {
            return Err(invalid_field(field, "must have at most 64 bytes"));
        }
        without_control_characters(field, text).map(Some)
    }

    fn amount(&self, field: &'static str) -> Result<i64, Rejection> {
        let Some(Json::Number(literal)) = self.get(field) else {
            return Err(invalid_field(field, "must be an integer"));
        };
        match unsigned_integer(literal) {
            Some(amount) if amount <= MAX_AMOUNT_MINOR => Ok(amount),
            _ => Err(invalid_field(field, "must be an integer literal of 0 to 10^15")),
        }
    }

    fn currency(&self, field: &'static str) -> Result<String, Rejection> {
        let text = self.text(field)?;
        if text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_uppercase()) {
            Ok(text.to_owned())
        } else {
            Err(invalid_field(field, "must be three letters A-Z"))
        }
    }

    fn event_time(&self, field: &'static str) -> Result<i64, Rejection> {
        let event_time_ms = match self.get(field) {
            Some(Json::Number(literal)) => unsigned_integer(literal),
            Some(Json::Text(text)) => rfc3339::parse(&text.content),
            _ => None,
        };
        match event_time_ms {
            Some(time) if (FIRST_EVENT_TIME_MS..END_OF_EVENT_TIME_MS).contains(&time) => Ok(time),
            Some(_) => Err(invalid_field(field, "must be of 2000-01-01 or later and before 2100-01-01")),
            None => Err(invalid_field(field, "must be RFC 3339 with offset, or an integer of epoch milliseconds")),
        }
    }

    fn text(&self, field: &'static str) -> Result<&str, Rejection> {
        match self.get(field) {
            Some(Json::Text(text)) => Ok(&text.content),
            _ => Err(invalid_field(field, "must be a string")),
        }
    }
}

fn invalid_field(field: &'static str, detail: &str) -> Rejection {
    Rejection::of_field(ReasonCode::InvalidField, field, detail)
}

/// The value of a literal of nothing but digits. Everything negative is out of every range, and `-0` is refused.
fn unsigned_integer(literal: &str) -> Option<i64> {
    if literal.bytes().all(|byte| byte.is_ascii_digit()) { literal.parse().ok() } else { None }
}

fn without_control_characters(field: &'static str, text: &str) -> Result<String, Rejection> {
    let is_control = |character: char| matches!(character, '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}');
    if text.chars().any(is_control) {
        return Err(invalid_field(field, "must not hold control characters"));
    }
    Ok(text.to_owned())
}
