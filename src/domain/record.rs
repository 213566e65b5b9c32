//! From the bytes of a source record to a valid transaction, or to the one reason why it is none (contract §2).

use std::borrow::Cow;
use std::fmt;

use crate::domain::duration::Millis;
use crate::domain::ids::Offset;
use crate::domain::json::{Malformed, Member, Scanner, Text, Token};
use crate::domain::time::EventTime;
use crate::domain::timestamp::parse_rfc3339;
use crate::domain::usual;

/// A record of the source topic as the log hands it out; borrowed from the log's own buffers.
#[derive(Debug, Clone, Copy)]
pub struct SourceRecord<'a> {
    pub offset: Offset,
    /// The log's own timestamp, milliseconds since the epoch; `None` when the record carries none.
    pub timestamp_ms: Option<i64>,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
}

/// A record that keeps every rule of the contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction<'a> {
    pub transaction_id: Cow<'a, str>,
    pub order_id: Cow<'a, str>,
    pub user_id: Cow<'a, str>,
    pub merchant_id: Cow<'a, str>,
    /// Minor units of `currency`, 0 to 10^15.
    pub amount_minor: i64,
    /// Three letters A–Z.
    pub currency: [u8; 3],
    pub event_time: EventTime,
    pub status: Option<Cow<'a, str>>,
}

/// The fields of the contract's table, in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    TransactionId,
    OrderId,
    UserId,
    MerchantId,
    AmountMinor,
    Currency,
    EventTime,
    Channel,
    Status,
}

impl Field {
    const COUNT: usize = 9;
    /// As they follow each other in the contract, and in most records.
    pub(super) const ALL: [Self; Self::COUNT] = [
        Self::TransactionId,
        Self::OrderId,
        Self::UserId,
        Self::MerchantId,
        Self::AmountMinor,
        Self::Currency,
        Self::EventTime,
        Self::Channel,
        Self::Status,
    ];
    /// Their names as most records write them.
    const WRITTEN: [&'static str; Self::COUNT] = [
        r#""transaction_id":"#,
        r#""order_id":"#,
        r#""user_id":"#,
        r#""merchant_id":"#,
        r#""amount_minor":"#,
        r#""currency":"#,
        r#""event_time":"#,
        r#""channel":"#,
        r#""status":"#,
    ];

    /// Channel and status may be missing.
    fn required() -> &'static [Self] {
        &Self::ALL[..Self::Channel as usize]
    }

    /// A set of those that may not be missing, see [`Field::bit`].
    pub(super) const REQUIRED_BITS: u16 = Self::Channel.bit() - 1;

    pub(super) const fn bit(self) -> u16 {
        1 << self as u16
    }

    /// The one behind it in most records.
    #[inline]
    pub(super) fn next(self) -> Option<Self> {
        Self::ALL.get(self as usize + 1).copied()
    }

    #[inline]
    pub(super) fn written(self) -> &'static str {
        Self::WRITTEN[self as usize]
    }

    /// Whether `bytes` begin with it as most records write it.
    #[inline]
    pub(super) fn is_written_at(self, bytes: &[u8]) -> bool {
        // Each compares with a text of a length that the compiler knows.
        match self {
            Self::TransactionId => bytes.starts_with(const { Self::WRITTEN[0].as_bytes() }),
            Self::OrderId => bytes.starts_with(const { Self::WRITTEN[1].as_bytes() }),
            Self::UserId => bytes.starts_with(const { Self::WRITTEN[2].as_bytes() }),
            Self::MerchantId => bytes.starts_with(const { Self::WRITTEN[3].as_bytes() }),
            Self::AmountMinor => bytes.starts_with(const { Self::WRITTEN[4].as_bytes() }),
            Self::Currency => bytes.starts_with(const { Self::WRITTEN[5].as_bytes() }),
            Self::EventTime => bytes.starts_with(const { Self::WRITTEN[6].as_bytes() }),
            Self::Channel => bytes.starts_with(const { Self::WRITTEN[7].as_bytes() }),
            Self::Status => bytes.starts_with(const { Self::WRITTEN[8].as_bytes() }),
        }
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        let written = self.written();
        &written[1..written.len() - 2]
    }
}

impl Member for Field {
    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|field| field.name() == name)
    }

    fn likely_after(previous: Option<Self>) -> Option<(Self, &'static str)> {
        let next = previous.map_or(Some(Self::TransactionId), Self::next)?;
        Some((next, next.written()))
    }
}

/// Why a record is dead-lettered. The text names the field and never repeats its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    NullValue,
    InvalidUtf8,
    /// With the field, when it is one of the table that is at fault.
    InvalidJson(&'static str, Option<Field>),
    MissingField(Field),
    InvalidField(Field, &'static str),
    EventTimeInFuture,
}

impl Rejection {
    /// The reason code of the contract.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::NullValue => "null_value",
            Self::InvalidUtf8 => "invalid_utf8",
            Self::InvalidJson(..) => "invalid_json",
            Self::MissingField(_) => "missing_field",
            Self::InvalidField(..) => "invalid_field",
            Self::EventTimeInFuture => "event_time_in_future",
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NullValue => f.write_str("the record has no value"),
            Self::InvalidUtf8 => f.write_str("the value is not UTF-8"),
            Self::InvalidJson(detail, None) => write!(f, "the value is not the JSON object that is expected: {detail}"),
            Self::InvalidJson(detail, Some(field)) => {
                write!(f, "the value is not the JSON object that is expected: {}: {detail}", field.name())
            }
            Self::MissingField(field) => write!(f, "{} is missing", field.name()),
            Self::InvalidField(field, rule) => write!(f, "{} must be {rule}", field.name()),
            Self::EventTimeInFuture => {
                write!(f, "event_time is later than the record's own timestamp allows (time.max_future_skew)")
            }
        }
    }
}

const ID_RULE: &str = "a string of 1 to 128 bytes without control characters";
const LABEL_RULE: &str = "a string of at most 64 bytes without control characters, or null";
const AMOUNT_RULE: &str = "an integer from 0 to 10^15, written as such";
pub(super) const ID_BYTES_MAX: usize = 128;
pub(super) const LABEL_BYTES_MAX: usize = 64;
pub(super) const AMOUNT_MAX: i64 = 1_000_000_000_000_000;
const CURRENCY_RULE: &str = "three letters A-Z";
const TIME_RULE: &str = "an RFC 3339 time with offset or an integer of epoch milliseconds, from 2000 to 2099";

/// Reads and checks a record. The first reason that applies, in the contract's order, is the one given.
///
/// # Errors
/// The [`Rejection`] with which the record goes to the dead-letter topic.
pub fn validate<'a>(record: &SourceRecord<'a>, max_future_skew: Millis) -> Result<Transaction<'a>, Rejection> {
    let value = record.value.ok_or(Rejection::NullValue)?;
    let text = simdutf8::basic::from_utf8(value).map_err(|_| Rejection::InvalidUtf8)?;
    let transaction = match usual::read(text) {
        Some(transaction) => transaction,
        None => read_with_care(text)?,
    };
    match record.timestamp_ms {
        Some(timestamp) if transaction.event_time.0 > timestamp.saturating_add(max_future_skew.0) => {
            Err(Rejection::EventTimeInFuture)
        }
        _ => Ok(transaction),
    }
}

/// Reads whatever the contract allows, and finds the reason when it does not.
#[inline(never)]
pub(super) fn read_with_care(text: &str) -> Result<Transaction<'_>, Rejection> {
    let fields = Fields::read(text)?;
    match Field::required().iter().find(|&&field| matches!(fields.get(field), Value::Absent)) {
        Some(&field) => Err(Rejection::MissingField(field)),
        None => fields.into_transaction(),
    }
}

/// A field's value as far as the JSON grammar goes.
#[derive(Debug, Clone, Copy)]
enum Value<'a> {
    Absent,
    Null,
    Number(&'a str),
    /// Its escapes can be resolved.
    Text(Text<'a>),
    Other,
}

struct Fields<'a>([Value<'a>; Field::COUNT]);

impl<'a> Fields<'a> {
    fn read(text: &'a str) -> Result<Self, Rejection> {
        let mut fields = Self([const { Value::Absent }; Field::COUNT]);
        let mut at_fault = None;
        let read = Scanner::new(text).object(|field: Field, token| {
            at_fault = Some(field);
            let value = match token {
                Token::Null => Value::Null,
                Token::Number(literal) => Value::Number(literal),
                Token::Text(text) => {
                    text.check_escapes()?;
                    Value::Text(text)
                }
                Token::Bool | Token::Nested => Value::Other,
            };
            let slot = &mut fields.0[field as usize];
            if !matches!(slot, Value::Absent) {
                return Err(Malformed("given twice"));
            }
            *slot = value;
            at_fault = None;
            Ok(())
        });
        match read {
            Ok(()) => Ok(fields),
            Err(Malformed(detail)) => Err(Rejection::InvalidJson(detail, at_fault)),
        }
    }

    fn get(&self, field: Field) -> Value<'a> {
        self.0[field as usize]
    }

    fn into_transaction(self) -> Result<Transaction<'a>, Rejection> {
        let transaction = Transaction {
            transaction_id: self.id(Field::TransactionId)?,
            order_id: self.id(Field::OrderId)?,
            user_id: self.id(Field::UserId)?,
            merchant_id: self.id(Field::MerchantId)?,
            amount_minor: amount(self.get(Field::AmountMinor))
                .ok_or(Rejection::InvalidField(Field::AmountMinor, AMOUNT_RULE))?,
            currency: currency(self.get(Field::Currency))
                .ok_or(Rejection::InvalidField(Field::Currency, CURRENCY_RULE))?,
            event_time: event_time(self.get(Field::EventTime))
                .ok_or(Rejection::InvalidField(Field::EventTime, TIME_RULE))?,
            status: None,
        };
        self.label(Field::Channel)?;
        let status = self.label(Field::Status)?;
        Ok(Transaction { status, ..transaction })
    }

    fn id(&self, field: Field) -> Result<Cow<'a, str>, Rejection> {
        match self.get(field) {
            Value::Text(text) => clean(text).filter(|text| (1..=ID_BYTES_MAX).contains(&text.len())),
            _ => None,
        }
        .ok_or(Rejection::InvalidField(field, ID_RULE))
    }

    fn label(&self, field: Field) -> Result<Option<Cow<'a, str>>, Rejection> {
        match self.get(field) {
            Value::Absent | Value::Null => return Ok(None),
            Value::Text(text) => clean(text).filter(|text| text.len() <= LABEL_BYTES_MAX),
            _ => None,
        }
        .map(Some)
        .ok_or(Rejection::InvalidField(field, LABEL_RULE))
    }
}

/// A text without control characters: U+0000–U+001F and U+007F–U+009F.
fn clean(text: Text<'_>) -> Option<Cow<'_, str>> {
    let unescaped = text.unescaped().ok()?;
    let is_clean = text.is_printable_ascii()
        || !unescaped.chars().any(|character| matches!(character, '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}'));
    is_clean.then_some(unescaped)
}

/// The value of a JSON integer literal without sign, fraction or exponent.
fn unsigned_integer(value: Value<'_>) -> Option<i64> {
    match value {
        Value::Number(literal) => {
            // Eighteen digits always fit; no number that is allowed has more.
            let digits = Some(literal.as_bytes()).filter(|digits| (1..=18).contains(&digits.len()))?;
            digits
                .iter()
                .try_fold(0, |value, digit| digit.is_ascii_digit().then(|| value * 10 + i64::from(digit - b'0')))
        }
        _ => None,
    }
}

fn amount(value: Value<'_>) -> Option<i64> {
    unsigned_integer(value).filter(|amount| *amount <= AMOUNT_MAX)
}

fn currency(value: Value<'_>) -> Option<[u8; 3]> {
    match value {
        Value::Text(text) => {
            let text = text.unescaped().ok()?;
            text.as_bytes().try_into().ok().filter(|letters: &[u8; 3]| letters.iter().all(u8::is_ascii_uppercase))
        }
        _ => None,
    }
}

fn event_time(value: Value<'_>) -> Option<EventTime> {
    let time = match value {
        Value::Text(text) => parse_rfc3339(&text.unescaped().ok()?)?,
        number => EventTime(unsigned_integer(number)?),
    };
    (EventTime::MIN..EventTime::END).contains(&time).then_some(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_has_its_own_place_and_name() {
        for (at, field) in Field::ALL.into_iter().enumerate() {
            assert_eq!((field as usize, Field::named(field.name())), (at, Some(field)));
            assert_eq!(field.written(), format!("\"{}\":", field.name()));
            let found: Vec<_> = Field::ALL.iter().filter(|it| it.is_written_at(field.written().as_bytes())).collect();
            assert_eq!(found, [&field]);
            assert_eq!(Field::REQUIRED_BITS & field.bit() != 0, Field::required().contains(&field));
        }
        assert_eq!(Field::required().last(), Some(&Field::EventTime));
    }
}
