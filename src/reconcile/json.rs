//! A strict JSON reader that keeps what the contract asks about and ordinary readers throw away.
//!
//! It keeps number literals as text (`-0`, `1e3` and `12.0` are not integers), object members in order and repeated
//! (a field given twice is an error), and whether a string held an escaped lone surrogate (an error in some fields
//! only). The grammar is RFC 8259: white space is blank, tab, line feed and carriage return, also before and after the
//! value; a byte-order mark is not white space. Nesting is bounded, so that no input can exhaust the stack.

/// Nesting beyond this is refused; the outermost array or object counts as 1.
pub const MAX_DEPTH: usize = 32;

/// Any JSON value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Json {
    Null,
    Bool(bool),
    /// The literal as written.
    Number(String),
    Text(Text),
    Array(Vec<Json>),
    /// Members in the order given, repeated names included.
    Object(Vec<(Text, Json)>),
}

/// A string after unescaping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// Lone surrogates stand here as U+FFFD.
    pub content: String,
    pub has_lone_surrogate: bool,
}

impl Json {
    /// Whether a string anywhere inside, member names included, held an escaped lone surrogate.
    #[must_use]
    pub fn has_lone_surrogate(&self) -> bool {
        match self {
            Self::Null | Self::Bool(_) | Self::Number(_) => false,
            Self::Text(text) => text.has_lone_surrogate,
            Self::Array(items) => items.iter().any(Self::has_lone_surrogate),
            Self::Object(members) => {
                members.iter().any(|(name, value)| name.has_lone_surrogate || value.has_lone_surrogate())
            }
        }
    }
}

/// Why a text is not JSON, and where. Names no content of the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason} at byte {at}")]
pub struct JsonError {
    pub reason: &'static str,
    pub at: usize,
}

/// Reads exactly one JSON value that fills the whole text.
pub fn parse(text: &str) -> Result<Json, JsonError> {
    let mut reader = Reader { text, at: 0 };
    reader.skip_white_space();
    let value = reader.value(0)?;
    reader.skip_white_space();
    if reader.at < text.len() { Err(reader.error("trailing bytes")) } else { Ok(value) }
}

struct Reader<'a> {
    text: &'a str,
    /// Position of the next byte; always at a character boundary.
    at: usize,
}

impl Reader<'_> {
    fn error(&self, reason: &'static str) -> JsonError {
        JsonError { reason, at: self.at }
    }

    fn peek(&self) -> Option<char> {
        self.text.get(self.at..).and_then(|rest| rest.chars().next())
    }

    fn next(&mut self) -> Option<char> {
        let character = self.peek()?;
        self.at += character.len_utf8();
        Some(character)
    }

    /// Takes the character if it comes next.
    fn take(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.at += wanted.len_utf8();
        }
        found
    }

    fn skip_white_space(&mut self) {
        while matches!(self.peek(), Some(' ' | '\t' | '\n' | '\r')) {
            self.at += 1;
        }
    }

    /// A value that stands inside `depth` arrays and objects.
    fn value(&mut self, depth: usize) -> Result<Json, JsonError> {
        match self.peek() {
            Some('{') => self.object(depth + 1),
            Some('[') => self.array(depth + 1),
            Some('"') => Ok(Json::Text(self.string()?)),
            Some('-' | '0'..='9') => Ok(Json::Number(self.number()?)),
            Some('t') => self.word("true", Json::Bool(true)),
            Some('f') => self.word("false", Json::Bool(false)),
            Some('n') => self.word("null", Json::Null),
            Some(_) => Err(self.error("no JSON value")),
            None => Err(self.error("unexpected end")),
        }
    }

    fn word(&mut self, word: &str, value: Json) -> Result<Json, JsonError> {
        if !self.text[self.at..].starts_with(word) {
            return Err(self.error("no JSON value"));
        }
        self.at += word.len();
        Ok(value)
    }

    fn object(&mut self, depth: usize) -> Result<Json, JsonError> {
        if depth > MAX_DEPTH {
            return Err(self.error("nested too deeply"));
        }
        self.next();
        let mut members = Vec::new();
        self.skip_white_space();
        if self.take('}') {
            return Ok(Json::Object(members));
        }
        loop {
            self.skip_white_space();
            if self.peek() != Some('"') {
                return Err(self.error("no member name"));
            }
            let name = self.string()?;
            self.skip_white_space();
            if !self.take(':') {
                return Err(self.error("no colon"));
            }
            self.skip_white_space();
            members.push((name, self.value(depth)?));
            self.skip_white_space();
            if self.take('}') {
                return Ok(Json::Object(members));
            }
            if !self.take(',') {
                return Err(self.error("neither comma nor end of object"));
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<Json, JsonError> {
        if depth > MAX_DEPTH {
            return Err(self.error("nested too deeply"));
        }
        self.next();
        let mut items = Vec::new();
        self.skip_white_space();
        if self.take(']') {
            return Ok(Json::Array(items));
        }
        loop {
            self.skip_white_space();
            items.push(self.value(depth)?);
            self.skip_white_space();
            if self.take(']') {
                return Ok(Json::Array(items));
            }
            if !self.take(',') {
                return Err(self.error("neither comma nor end of array"));
            }
        }
    }

    /// `-? (0 | [1-9][0-9]*) (\.[0-9]+)? ([eE][+-]?[0-9]+)?`
    fn number(&mut self) -> Result<String, JsonError> {
        let start = self.at;
        self.take('-');
        if !self.take('0') {
            self.digits()?;
        } else if matches!(self.peek(), Some('0'..='9')) {
            return Err(self.error("leading zero"));
        }
        if self.take('.') {
            self.digits()?;
        }
        if self.take('e') || self.take('E') {
            if !self.take('+') {
                self.take('-');
            }
            self.digits()?;
        }
        Ok(self.text[start..self.at].to_owned())
    }

    /// At least one digit.
    fn digits(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        while matches!(self.peek(), Some('0'..='9')) {
            self.at += 1;
        }
        if self.at == start { Err(self.error("no digit")) } else { Ok(()) }
    }

    fn string(&mut self) -> Result<Text, JsonError> {
        self.next();
        let mut text = Text { content: String::new(), has_lone_surrogate: false };
        loop {
            match self.next() {
                None => return Err(self.error("unexpected end")),
                Some('"') => return Ok(text),
                Some('\\') => self.escape(&mut text)?,
                Some('\0'..='\x1f') => return Err(self.error("control character in a string")),
                Some(character) => text.content.push(character),
            }
        }
    }

    /// What follows a backslash.
    fn escape(&mut self, text: &mut Text) -> Result<(), JsonError> {
        let character = match self.next() {
            Some('"') => '"',
            Some('\\') => '\\',
            Some('/') => '/',
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('u') => return self.unicode_escape(text),
            _ => return Err(self.error("unknown escape")),
        };
        text.content.push(character);
        Ok(())
    }

    /// What follows `\u`: a code unit, with a second escaped one directly behind it if the two form a pair.
    fn unicode_escape(&mut self, text: &mut Text) -> Result<(), JsonError> {
        let unit = self.code_unit()?;
        let mut code_point = unit;
        if (0xd800..=0xdbff).contains(&unit) {
            let behind_the_first = self.at;
            if self.take('\\') && self.take('u') {
                let second = self.code_unit()?;
                if (0xdc00..=0xdfff).contains(&second) {
                    code_point = 0x1_0000 + ((unit - 0xd800) << 10) + (second - 0xdc00);
                }
            }
            if code_point == unit {
                self.at = behind_the_first;
            }
        }
        // `from_u32` refuses surrogates and nothing else that can come here.
        let character = char::from_u32(code_point);
        text.has_lone_surrogate |= character.is_none();
        text.content.push(character.unwrap_or(char::REPLACEMENT_CHARACTER));
        Ok(())
    }

    fn code_unit(&mut self) -> Result<u32, JsonError> {
        let mut unit = 0;
        for _ in 0..4 {
            let digit = self.next().and_then(|character| character.to_digit(16));
            unit = unit * 16 + digit.ok_or_else(|| self.error("no hexadecimal digit"))?;
        }
        Ok(unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_of(json: &str) -> Text {
        match parse(json) {
            Ok(Json::Text(text)) => text,
            other => panic!("{json}: {other:?}"),
        }
    }

    #[test]
    fn a_surrogate_pair_is_one_character_and_anything_else_is_lone() {
        assert_eq!(text_of(r#""\ud83d\uDE00""#).content, "\u{1f600}");
        assert!(!text_of(r#""\ud83d\uDE00""#).has_lone_surrogate);
        for lone in [r#""\ud800""#, r#""\udc00\ud800""#, r#""\ud800\ud800""#, r#""\ud83d\\uDE00""#, r#""\ud800A""#] {
            assert!(text_of(lone).has_lone_surrogate, "{lone}");
        }
        // The escape behind a lone first half is read again, for itself.
        assert_eq!(text_of(r#""\ud800\u0041""#).content, "\u{fffd}A");
        assert_eq!(text_of(r#""\ud800\ud83d\ude00""#).content, "\u{fffd}\u{1f600}");
        assert_eq!(text_of(r#""\ud800\n""#).content, "\u{fffd}\n");
    }

    #[test]
    fn number_literals_are_kept_as_written_and_their_grammar_is_strict() {
        for literal in ["0", "-0", "12.0", "1e3", "1E+3", "1e-3", "1e999", "-1.5e07", "123456789012345678901234567890"]
        {
            assert_eq!(parse(literal), Ok(Json::Number(literal.to_owned())));
        }
        for wrong in
            ["01", "-01", "00", "+1", ".5", "1.", "1.e3", "1e", "1e+", "-", "0x10", "1_000", "NaN", "-Infinity"]
        {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn depth_counts_arrays_and_objects_from_the_outermost() {
        assert!(parse(&format!("{}{}", "[".repeat(32), "]".repeat(32))).is_ok());
        assert!(parse(&format!("{}1{}", "[".repeat(32), "]".repeat(32))).is_ok());
        assert!(parse(&format!("{}{}", "[".repeat(33), "]".repeat(33))).is_err());
        assert!(parse(&"[".repeat(1_000_000)).is_err());
        // Siblings do not add up.
        assert!(parse(&format!("[{}[]]", "[],".repeat(100))).is_ok());
    }

    #[test]
    fn only_one_value_with_json_white_space_around_it_is_read() {
        assert_eq!(parse(" \t\r\n[ ] \t\r\n"), Ok(Json::Array(Vec::new())));
        for wrong in ["", " ", "[] []", "[],", "[1,]", "{\"a\":1,}", "{,}", "\u{feff}[]", "[]\0", "\u{a0}[]", "[\u{b}]"]
        {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
        for wrong in
            ["{a:1}", "{'a':1}", "{\"a\" 1}", "{\"a\"}", "nul", "nulll", "True", "[1 2]", "\"a", "{\"a\":1", "//"]
        {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn escapes_and_raw_control_characters_follow_the_grammar() {
        assert_eq!(text_of(r#""\"\\\/\b\f\n\r\t\u0000\u00E9""#).content, "\"\\/\u{8}\u{c}\n\r\t\0\u{e9}");
        assert_eq!(text_of("\"\u{7f}\u{2028}\"").content, "\u{7f}\u{2028}");
        for wrong in
            [r#""\x41""#, r#""\u12""#, r#""\u00g0""#, r#""\u+041""#, r#""\'""#, r#""\U0041""#, "\"\t\"", "\"\n\""]
        {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn members_keep_their_order_and_repetitions() {
        let Ok(Json::Object(members)) = parse(r#"{"b":1,"a":2,"\u0062":3}"#) else { panic!("not an object") };
        let names: Vec<&str> = members.iter().map(|(name, _)| name.content.as_str()).collect();
        assert_eq!(names, ["b", "a", "b"]);
    }
}
