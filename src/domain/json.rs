//! A strict, allocation-free scanner for one flat JSON object.
//!
//! It reads the grammar of RFC 8259 to the end of the text and hands out each member of the outermost object as a
//! borrowed token; nested values are checked and skipped. It exists because the contract decides things that a general
//! parser hides: number literals as they are written, members given twice, lone surrogates only where they matter, and
//! a depth limit that counts. It never allocates unless a string must be unescaped, and never recurses.

use std::borrow::Cow;

use crate::domain::swar;

/// The text is not what the contract calls a JSON object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// Deepest allowed nesting, the outermost object counted as 1.
const DEPTH_MAX: usize = 32;

/// One value of the outermost object, not yet interpreted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token<'a> {
    Null,
    Bool,
    /// The literal as it is written.
    Number(&'a str),
    Text(Text<'a>),
    /// An array or an object.
    Nested,
}

/// The inside of a string literal, quotes excluded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Text<'a> {
    raw: &'a str,
    escaped: bool,
    /// Every byte of `raw` is one of 0x20–0x7E.
    printable: bool,
}

impl<'a> Text<'a> {
    /// Whether every character of the text is known to be one of U+0020–U+007E; false says nothing.
    #[must_use]
    pub fn is_printable_ascii(self) -> bool {
        self.printable && !self.escaped
    }

    /// # Errors
    /// What [`Text::unescaped`] would say.
    pub fn check_escapes(self) -> Result<(), Malformed> {
        if self.escaped { self.unescaped().map(|_| ()) } else { Ok(()) }
    }

    /// The text with its escapes resolved.
    ///
    /// # Errors
    /// When an escape names a lone surrogate, which no Unicode text can hold.
    pub fn unescaped(self) -> Result<Cow<'a, str>, Malformed> {
        if !self.escaped {
            return Ok(Cow::Borrowed(self.raw));
        }
        let mut text = String::with_capacity(self.raw.len());
        let mut rest = self.raw;
        while let Some(at) = rest.find('\\') {
            text.push_str(&rest[..at]);
            let (character, length) = resolve_escape(&rest.as_bytes()[at..])?;
            text.push(character);
            rest = &rest[at + length..];
        }
        text.push_str(rest);
        Ok(Cow::Owned(text))
    }
}

/// Resolves the escape at the head of `bytes` (a backslash); the scanner has checked its form. Returns the character
/// and how many bytes it took.
fn resolve_escape(bytes: &[u8]) -> Result<(char, usize), Malformed> {
    const LONE: Malformed = Malformed("an escape names a lone surrogate");
    let simple = |character| Ok((character, 2));
    match bytes.get(1) {
        Some(b'b') => simple('\u{8}'),
        Some(b'f') => simple('\u{c}'),
        Some(b'n') => simple('\n'),
        Some(b'r') => simple('\r'),
        Some(b't') => simple('\t'),
        Some(b'u') => {
            let first = hex4(bytes.get(2..6)).ok_or(LONE)?;
            if let Some(character) = char::from_u32(first) {
                return Ok((character, 6));
            }
            // `first` is a surrogate: only a high one followed by an escaped low one makes a character.
            let second = match bytes.get(6..8) {
                Some(b"\\u") => hex4(bytes.get(8..12)).ok_or(LONE)?,
                _ => return Err(LONE),
            };
            if first >= 0xdc00 || !(0xdc00..0xe000).contains(&second) {
                return Err(LONE);
            }
            let code_point = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
            char::from_u32(code_point).map(|character| (character, 12)).ok_or(LONE)
        }
        Some(&other) => simple(char::from(other)),
        None => Err(LONE),
    }
}

fn hex4(digits: Option<&[u8]>) -> Option<u32> {
    digits?.iter().try_fold(0, |value, &digit| Some(value * 16 + char::from(digit).to_digit(16)?))
}

/// The members that matter to whoever reads an object.
pub trait Member: Copy {
    /// The member of that name.
    fn named(name: &str) -> Option<Self>;

    /// What most texts have behind that member, or first of all: the member, and its name as it is then written, from the
    /// quote in front of it to the colon.
    fn likely_after(previous: Option<Self>) -> Option<(Self, &'static str)>;
}

/// Where the scanner stands in the text.
pub struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    #[must_use]
    pub fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// Reads the whole text as one object and calls `take` for each of its members that matters, in order.
    ///
    /// `take` is told the member and its value; it returns an error to refuse the text. Inside the value of a member that
    /// matters, however deep, lone surrogates are refused too.
    ///
    /// # Errors
    /// [`Malformed`] when the text is anything but one JSON object.
    pub fn object<M: Member>(
        mut self,
        mut take: impl FnMut(M, Token<'a>) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        let mut previous = None;
        self.blanks();
        self.expect(b'{', "not an object")?;
        self.blanks();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return self.end();
        }
        loop {
            let member = match M::likely_after(previous) {
                Some((member, written)) if self.text.as_bytes()[self.at..].starts_with(written.as_bytes()) => {
                    self.at += written.len();
                    Some(member)
                }
                _ => self.member()?,
            };
            previous = member;
            self.blanks();
            let token = self.value(member.is_some())?;
            if let Some(member) = member {
                take(member, token)?;
            }
            self.blanks();
            match self.next() {
                Some(b',') => self.blanks(),
                Some(b'}') => return self.end(),
                _ => return Err(Malformed("a comma or the end of the object was expected")),
            }
        }
    }

    /// Reads a name and the colon behind it.
    fn member<M: Member>(&mut self) -> Result<Option<M>, Malformed> {
        self.expect(b'"', "a member name was expected")?;
        let name = self.string()?;
        self.blanks();
        self.expect(b':', "a colon was expected")?;
        if !name.escaped {
            return Ok(M::named(name.raw));
        }
        // A name with a lone surrogate is not the name of any member that matters.
        Ok(name.unescaped().ok().and_then(|name| M::named(&name)))
    }

    fn end(mut self) -> Result<(), Malformed> {
        self.blanks();
        if self.at == self.text.len() { Ok(()) } else { Err(Malformed("text after the end of the object")) }
    }

    fn value(&mut self, strict: bool) -> Result<Token<'a>, Malformed> {
        match self.peek() {
            Some(b'"') => {
                self.at += 1;
                let text = self.string()?;
                Ok(Token::Text(text))
            }
            Some(b'{' | b'[') => self.nested(strict).map(|()| Token::Nested),
            _ => self.scalar(),
        }
    }

    fn scalar(&mut self) -> Result<Token<'a>, Malformed> {
        match self.peek() {
            Some(b'-' | b'0'..=b'9') => self.number().map(Token::Number),
            Some(b'n') => self.literal("null").map(|()| Token::Null),
            Some(b't') => self.literal("true").map(|()| Token::Bool),
            Some(b'f') => self.literal("false").map(|()| Token::Bool),
            _ => Err(Malformed("a value was expected")),
        }
    }

    /// Checks and skips an array or object, keeping for each open level one bit: is it an object?
    fn nested(&mut self, strict: bool) -> Result<(), Malformed> {
        let mut objects = 0_u64;
        let mut depth = 1;
        loop {
            // Here a value is expected at nesting `depth`.
            match self.peek() {
                Some(opening @ (b'{' | b'[')) => {
                    self.at += 1;
                    depth += 1;
                    if depth > DEPTH_MAX {
                        return Err(Malformed("nested too deeply"));
                    }
                    let is_object = opening == b'{';
                    objects = objects << 1 | u64::from(is_object);
                    self.blanks();
                    if self.peek() == Some(if is_object { b'}' } else { b']' }) {
                        self.at += 1;
                        objects >>= 1;
                        depth -= 1;
                    } else {
                        if is_object {
                            self.member_name(strict)?;
                        }
                        continue;
                    }
                }
                Some(b'"') => {
                    self.at += 1;
                    let text = self.string()?;
                    if strict && text.escaped {
                        text.unescaped()?;
                    }
                }
                _ => {
                    self.scalar()?;
                }
            }
            // Here a value has just ended.
            while depth > 1 {
                self.blanks();
                let is_object = objects & 1 == 1;
                match self.next() {
                    Some(b',') => {
                        self.blanks();
                        if is_object {
                            self.member_name(strict)?;
                        }
                        break;
                    }
                    Some(b'}') if is_object => {}
                    Some(b']') if !is_object => {}
                    _ => return Err(Malformed("a comma or a closing bracket was expected")),
                }
                objects >>= 1;
                depth -= 1;
            }
            if depth == 1 {
                return Ok(());
            }
        }
    }

    fn member_name(&mut self, strict: bool) -> Result<(), Malformed> {
        self.expect(b'"', "a member name was expected")?;
        let name = self.string()?;
        if strict && name.escaped {
            name.unescaped()?;
        }
        self.blanks();
        self.expect(b':', "a colon was expected")?;
        self.blanks();
        Ok(())
    }

    /// Reads a string from behind its opening quote to behind its closing one.
    #[inline]
    fn string(&mut self) -> Result<Text<'a>, Malformed> {
        let start = self.at;
        let bytes = self.text.as_bytes();
        let (mut escaped, mut printable) = (false, true);
        loop {
            let run = swar::run(&bytes[self.at..]);
            self.at += run.length;
            printable &= run.printable;
            match bytes.get(self.at) {
                Some(b'"') => {
                    let raw = &self.text[start..self.at];
                    self.at += 1;
                    return Ok(Text { raw, escaped, printable });
                }
                Some(b'\\') => {
                    escaped = true;
                    self.at += match bytes.get(self.at + 1) {
                        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => 2,
                        Some(b'u') if hex4(bytes.get(self.at + 2..self.at + 6)).is_some() => 6,
                        _ => return Err(Malformed("an unknown escape")),
                    };
                }
                Some(0..0x20) => return Err(Malformed("a control character inside a string")),
                // The last bytes of the text, fewer than a word.
                Some(&byte) => {
                    printable &= (0x20..0x7f).contains(&byte);
                    self.at += 1;
                }
                None => return Err(Malformed("the text ends inside a string")),
            }
        }
    }

    fn number(&mut self) -> Result<&'a str, Malformed> {
        const BAD: Malformed = Malformed("not a number");
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.next() {
            Some(b'0') => {}
            Some(b'1'..=b'9') => {
                self.digits();
            }
            _ => return Err(BAD),
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            if self.digits() == 0 {
                return Err(BAD);
            }
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            if self.digits() == 0 {
                return Err(BAD);
            }
        }
        Ok(&self.text[start..self.at])
    }

    fn digits(&mut self) -> usize {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        self.at - start
    }

    fn literal(&mut self, literal: &'static str) -> Result<(), Malformed> {
        if self.text.as_bytes()[self.at..].starts_with(literal.as_bytes()) {
            self.at += literal.len();
            Ok(())
        } else {
            Err(Malformed("a value was expected"))
        }
    }

    fn blanks(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8, otherwise: &'static str) -> Result<(), Malformed> {
        if self.next() == Some(byte) { Ok(()) } else { Err(Malformed(otherwise)) }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of all members, "a" and "b" matter, and "b" is likely behind "a".
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Letter {
        A,
        B,
    }

    impl Member for Letter {
        fn named(name: &str) -> Option<Self> {
            match name {
                "a" => Some(Self::A),
                "b" => Some(Self::B),
                _ => None,
            }
        }

        fn likely_after(previous: Option<Self>) -> Option<(Self, &'static str)> {
            (previous == Some(Self::A)).then_some((Self::B, "\"b\":"))
        }
    }

    fn scan(text: &str) -> Result<Vec<String>, Malformed> {
        let mut seen = Vec::new();
        Scanner::new(text).object(|letter: Letter, token| {
            seen.push(format!("{letter:?} {token:?}"));
            if let Token::Text(text) = token {
                text.unescaped()?;
            }
            Ok(())
        })?;
        Ok(seen)
    }

    #[test]
    fn a_member_that_is_likely_and_one_that_is_not_are_read_alike() {
        for (text, expected) in [
            (r#"{"a":1,"b":2}"#, vec!["A Number(\"1\")", "B Number(\"2\")"]),
            (r#"{"a":1, "b" : 2}"#, vec!["A Number(\"1\")", "B Number(\"2\")"]),
            (r#"{"b":1,"a":2}"#, vec!["B Number(\"1\")", "A Number(\"2\")"]),
            (r#"{"a":1,"x":0,"b":2}"#, vec!["A Number(\"1\")", "B Number(\"2\")"]),
            (r#"{"a":1,"\u0062":2}"#, vec!["A Number(\"1\")", "B Number(\"2\")"]),
            (r#"{"a":1,"b":2,"b":3}"#, vec!["A Number(\"1\")", "B Number(\"2\")", "B Number(\"3\")"]),
        ] {
            assert_eq!(scan(text).unwrap(), expected, "{text}");
        }
        assert!(scan(r#"{"a":1,"b":}"#).is_err() && scan(r#"{"a":1,"b":"#).is_err());
    }

    #[test]
    fn nested_values_are_checked_and_skipped() {
        assert_eq!(scan(r#" { "x" : [ 1 , {"y":[[],{}]} , "s" ] , "a" : null } "#).map(|seen| seen.len()), Ok(1));
        for bad in [
            "",
            "[]",
            "{",
            "{}x",
            r#"{"x":[1,]}"#,
            r#"{"x":[1}"#,
            r#"{"x":{"y"}}"#,
            r#"{"x":01}"#,
            r#"{"x":1.}"#,
            r#"{"x":tru}"#,
            r#"{"x":"\x"}"#,
            "{\"x\":\"\n\"}",
            r#"{"x":1,}"#,
            r#"{"x" 1}"#,
            "\u{feff}{}",
        ] {
            assert!(scan(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_string_ends_where_it_ends_wherever_it_stands() {
        for length in 0..20 {
            for at in 0..=length {
                for odd in ["", "\u{7f}", "\u{80}", "~", " ", "\\n", "\u{1f}", "\\x"] {
                    let inside = format!("{}{odd}{}", "a".repeat(at), "b".repeat(length - at));
                    let text = format!("{{\"a\":\"{inside}\"}}");
                    let mut found = None;
                    let read = Scanner::new(&text).object(|_: Letter, token| {
                        found = Some(token);
                        Ok(())
                    });
                    let is_text = !matches!(odd, "\u{1f}" | "\\x");
                    assert_eq!(read.is_ok(), is_text, "{text}");
                    let Some(Token::Text(found)) = found.filter(|_| is_text) else { continue };
                    assert_eq!((found.raw, found.escaped), (&*inside, odd == "\\n"));
                    assert_eq!(found.is_printable_ascii(), matches!(odd, "" | "~" | " "), "{text}");
                }
            }
        }
    }

    #[test]
    fn depth_counts_the_outer_object_as_one() {
        let nested = |depth: usize| format!("{{\"x\":{}{}}}", "[".repeat(depth - 1), "]".repeat(depth - 1));
        assert!(scan(&nested(32)).is_ok());
        assert!(scan(&nested(33)).is_err());
    }

    #[test]
    fn lone_surrogates_are_refused_only_in_fields_that_matter() {
        assert!(scan(r#"{"x":"\ud800","\udc00":1,"y":["\ud800"]}"#).is_ok());
        assert!(scan(r#"{"a":"\ud800"}"#).is_err());
        assert!(scan(r#"{"a":["\udc00"]}"#).is_err());
        assert!(scan(r#"{"a":"\ud83d\ude00"}"#).is_ok());
        assert!(scan(r#"{"a":"\ud83d\ud83d"}"#).is_err());
        assert_eq!(scan(r#"{"\u0061":1}"#).map(|seen| seen.len()), Ok(1), "an escaped name is the name");
    }
}
