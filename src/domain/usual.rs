//! Reads a record in one pass when it is written as most are: the fields of the contract and no others, in any order,
//! texts of printable ASCII without escapes, at most one blank behind a comma or a colon.
//!
//! It never judges: of whatever is written otherwise, or breaks a rule, it says nothing, and the scanner of `json` reads
//! it and finds the reason. What it does take it reads as that would; a test compares the two.

use std::borrow::Cow;

use crate::domain::record::{AMOUNT_MAX, Field, ID_BYTES_MAX, LABEL_BYTES_MAX, Transaction};
use crate::domain::swar;
use crate::domain::time::EventTime;
use crate::domain::timestamp::parse_rfc3339;

/// Digits that fit into 63 bits, whatever they are.
const DIGITS_MAX: usize = 18;

/// The transaction; `None` when the record must be read with more care.
#[must_use]
pub fn read(text: &str) -> Option<Transaction<'_>> {
    let mut cursor = Cursor { text, at: 0 };
    let mut transaction = Transaction {
        transaction_id: Cow::Borrowed(""),
        order_id: Cow::Borrowed(""),
        user_id: Cow::Borrowed(""),
        merchant_id: Cow::Borrowed(""),
        amount_minor: 0,
        currency: [0; 3],
        event_time: EventTime(0),
        status: None,
    };
    let mut seen = 0;
    let mut likely = Some(Field::TransactionId);
    cursor.byte(b'{')?;
    loop {
        let field = cursor.field(likely)?;
        if seen & field.bit() != 0 {
            return None;
        }
        seen |= field.bit();
        cursor.blank();
        match field {
            Field::TransactionId => transaction.transaction_id = Cow::Borrowed(cursor.id()?),
            Field::OrderId => transaction.order_id = Cow::Borrowed(cursor.id()?),
            Field::UserId => transaction.user_id = Cow::Borrowed(cursor.id()?),
            Field::MerchantId => transaction.merchant_id = Cow::Borrowed(cursor.id()?),
            Field::AmountMinor => transaction.amount_minor = cursor.integer().filter(|&amount| amount <= AMOUNT_MAX)?,
            Field::Currency => transaction.currency = cursor.currency()?,
            Field::EventTime => transaction.event_time = cursor.event_time()?,
            Field::Channel => {
                cursor.label()?;
            }
            Field::Status => transaction.status = cursor.label()?.map(Cow::Borrowed),
        }
        match cursor.next()? {
            b',' => cursor.blank(),
            b'}' => break,
            _ => return None,
        }
        likely = field.next();
    }
    let is_whole = cursor.at == text.len() && seen & Field::REQUIRED_BITS == Field::REQUIRED_BITS;
    is_whole.then_some(transaction)
}

struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    #[inline]
    fn rest(&self) -> &'a [u8] {
        self.text.as_bytes().get(self.at..).unwrap_or_default()
    }

    #[inline]
    fn next(&mut self) -> Option<u8> {
        let byte = *self.text.as_bytes().get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    #[inline]
    fn byte(&mut self, byte: u8) -> Option<()> {
        (self.next()? == byte).then_some(())
    }

    #[inline]
    fn blank(&mut self) {
        if self.text.as_bytes().get(self.at) == Some(&b' ') {
            self.at += 1;
        }
    }

    /// The field whose name and colon stand here.
    #[inline]
    fn field(&mut self, likely: Option<Field>) -> Option<Field> {
        let rest = self.rest();
        let field = likely
            .filter(|field| field.is_written_at(rest))
            .or_else(|| Field::ALL.into_iter().find(|field| field.is_written_at(rest)))?;
        self.at += field.written().len();
        Some(field)
    }

    /// A text of printable ASCII, from its opening quote to behind its closing one.
    #[inline]
    fn text(&mut self) -> Option<&'a str> {
        self.byte(b'"')?;
        let start = self.at;
        let run = swar::run(self.rest());
        let mut end = start + run.length;
        // The last bytes of the record, fewer than a word.
        while let Some(b' ' | b'!' | b'#'..=b'[' | b']'..=b'~') = self.text.as_bytes().get(end) {
            end += 1;
        }
        self.at = end;
        self.byte(b'"')?;
        if run.printable { self.text.get(start..end) } else { None }
    }

    #[inline]
    fn id(&mut self) -> Option<&'a str> {
        self.text().filter(|text| (1..=ID_BYTES_MAX).contains(&text.len()))
    }

    /// `Some(None)` for a null.
    #[inline]
    fn label(&mut self) -> Option<Option<&'a str>> {
        if self.rest().starts_with(b"null") {
            self.at += 4;
            return Some(None);
        }
        self.text().filter(|text| text.len() <= LABEL_BYTES_MAX).map(Some)
    }

    #[inline]
    fn currency(&mut self) -> Option<[u8; 3]> {
        let [b'"', letters @ .., b'"'] = *self.rest().first_chunk::<5>()? else { return None };
        self.at += 5;
        letters.iter().all(u8::is_ascii_uppercase).then_some(letters)
    }

    #[inline]
    fn event_time(&mut self) -> Option<EventTime> {
        let time =
            if self.rest().first() == Some(&b'"') { parse_rfc3339(self.text()?)? } else { EventTime(self.integer()?) };
        (EventTime::MIN..EventTime::END).contains(&time).then_some(time)
    }

    /// Digits alone, no more of them than allowed, and no zero in front.
    #[inline]
    fn integer(&mut self) -> Option<i64> {
        let digits = self.rest();
        let mut value = 0;
        let mut count = 0;
        while let Some(digit @ b'0'..=b'9') = digits.get(count) {
            if count == DIGITS_MAX {
                return None;
            }
            value = value * 10 + i64::from(digit - b'0');
            count += 1;
        }
        let is_number = count == 1 || (count > 1 && digits.first() != Some(&b'0'));
        self.at += count;
        is_number.then_some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::record::read_with_care;

    const RECORDS: [&str; 6] = [
        r#"{"transaction_id":"t-1","order_id":"o-1","user_id":"u-1","merchant_id":"m-1","amount_minor":1250,"currency":"EUR","event_time":"2026-05-04T10:11:12.345Z","channel":"web","status":"authorized"}"#,
        r#"{"transaction_id":"t-1","order_id":"o-1","user_id":"u-1","merchant_id":"m-1","amount_minor":0,"currency":"EUR","event_time":1767225600000,"channel":null,"status":null}"#,
        r#"{"status":"ok","transaction_id":"t-1","order_id":"o-1","user_id":"u-1","merchant_id":"m-1","amount_minor":7,"currency":"EUR","event_time":1767225600000}"#,
        r#"{"event_time": 1767225600000, "currency": "EUR", "amount_minor": 1000000000000000, "merchant_id": "m", "user_id": "u", "order_id": "o", "transaction_id": "t"}"#,
        r#"{"transaction_id":"abcdefgh","order_id":"0123456789abcdef","user_id":"u","merchant_id":"m~ !","amount_minor":9,"currency":"USD","event_time":1767225600000,"status":""}"#,
        r#"{"transaction_id":"t-1","order_id":"o-1","user_id":"u-1","merchant_id":"m-1","amount_minor":99,"currency":"EUR","event_time":"2026-05-04T10:11:12+02:00","channel":"a"}"#,
    ];

    #[test]
    fn usual_records_are_taken() {
        for record in RECORDS {
            assert_eq!(read(record), read_with_care(record).ok(), "{record}");
            assert!(read(record).is_some(), "{record}");
        }
    }

    #[test]
    fn records_that_are_not_usual_are_left_to_the_scanner() {
        let usual = RECORDS[0];
        for (this, by_that) in [
            ("t-1", r"t-\u0031"),
            ("t-1", "t-\u{e4}"),
            ("t-1", "t-\u{7f}"),
            (r#""web""#, "[]"),
            ("1250", "01250"),
            ("1250", "12.5e2"),
            ("1250", "-0"),
            ("1250", "1000000000000001"),
            ("1250", "99999999999999999999"),
            (r#""EUR""#, r#""eur""#),
            ("channel", "colour"),
            ("order_id", "user_id"),
            (r#""user_id":"u-1","#, ""),
            (r#":"u-1""#, r#" : "u-1""#),
            (r#""u-1""#, r#""""#),
            (r#"authorized"}"#, r#"authorized"} "#),
            ("2026", "1999"),
        ] {
            let record = usual.replace(this, by_that);
            assert_ne!(record, usual, "{this}");
            assert_eq!(read(&record), None, "{record}");
        }
    }

    /// Whatever it takes, the scanner takes, and reads the same.
    #[test]
    fn it_never_differs_from_the_scanner() {
        let pieces: Vec<char> = "\"\\{}[]:,. \t\n\u{1f}\u{7f}\u{e4}-+eE019aZTnul".chars().collect();
        let mut dice = 1_u64;
        let mut roll = |bound: usize| {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(dice >> 33).unwrap() % bound
        };
        let (mut taken, mut left) = (0, 0);
        for _ in 0..200_000 {
            let mut record: Vec<char> = RECORDS[roll(RECORDS.len())].chars().collect();
            for _ in 0..=roll(2) {
                let at = roll(record.len());
                match roll(4) {
                    0 => drop(record.remove(at)),
                    1 => record[at] = pieces[roll(pieces.len())],
                    2 => record.insert(at, pieces[roll(pieces.len())]),
                    _ => {
                        let copy = record[at..(at + roll(24)).min(record.len())].to_vec();
                        let place = roll(record.len());
                        record.splice(place..place, copy);
                    }
                }
            }
            let record: String = record.into_iter().collect();
            match read(&record) {
                Some(transaction) => {
                    assert_eq!(read_with_care(&record), Ok(transaction), "{record}");
                    taken += 1;
                }
                None => left += 1,
            }
        }
        assert!(taken > 10_000 && left > 10_000, "{taken} taken, {left} left");
    }
}
