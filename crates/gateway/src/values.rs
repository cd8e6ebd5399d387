//! Cuts JSON values out of a body that arrives in pieces.
//!
//! A value is looked at once, byte by byte, however it was cut into pieces; what is cut out is
//! proper JSON but for the text of its strings, which may be no UTF-8.
//!
//! - A value that is an object or an array ends with its bracket; any other one with the byte behind
//!   it, or with the body.
//! - After an error there is nothing more.
//!
//! **Source**: Go's `encoding/json` (`scanner.go`, `stream.go`), whose texts these are.

use bytes::{Buf, Bytes, BytesMut};

/// Deepest nesting of objects and arrays.
const MOST_DEPTH: usize = 10_000;

/// Why a body is no sequence of JSON values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SyntaxError {
    /// A byte that may not stand where it stands.
    #[error("invalid character {} {}", quote(*.0), .1)]
    Invalid(u8, &'static str),
    /// The body ends within a value.
    #[error("unexpected EOF")]
    UnexpectedEnd,
    /// Too many brackets.
    #[error("exceeded max depth")]
    TooDeep,
}

/// A body so far.
#[derive(Debug, Default)]
pub struct Values {
    buffer: BytesMut,
    /// Bytes of the buffer that the scanner has seen.
    scanned: usize,
    scanner: Scanner,
}

impl Values {
    /// Adds what has arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Bytes that are held.
    pub fn held(&self) -> usize {
        self.buffer.len()
    }

    /// The next whole value, if it is there.
    pub fn next_value(&mut self) -> Result<Option<Bytes>, SyntaxError> {
        if matches!(self.scanner.state, State::BeginValue) && self.scanner.nesting.is_empty() {
            let blanks = self.buffer.iter().take_while(|byte| is_space(**byte)).count();
            self.buffer.advance(blanks);
            self.scanned = 0;
        }
        while let Some(&byte) = self.buffer.get(self.scanned) {
            match self.scanner.step(byte)? {
                Step::Goes => self.scanned += 1,
                Step::EndsBehind => {
                    self.scanned += 1;
                    return Ok(Some(self.take()));
                }
                Step::EndedBefore => return Ok(Some(self.take())),
            }
        }
        Ok(None)
    }

    /// The last value of a body that has ended: a number or a literal that nothing followed.
    pub fn finish(&mut self) -> Result<Option<Bytes>, SyntaxError> {
        if let Some(value) = self.next_value()? {
            return Ok(Some(value));
        }
        if self.buffer.is_empty() {
            return Ok(None);
        }
        // As upstream has it, whatever a blank would not end is an early end.
        match self.scanner.step(b' ') {
            Ok(Step::EndedBefore) => Ok(Some(self.take())),
            _ => Err(SyntaxError::UnexpectedEnd),
        }
    }

    fn take(&mut self) -> Bytes {
        let value = self.buffer.split_to(self.scanned).freeze();
        self.scanned = 0;
        self.scanner = Scanner::default();
        value
    }
}

pub(crate) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

enum Step {
    Goes,
    /// The value ends behind this byte.
    EndsBehind,
    /// The value ended before this byte.
    EndedBefore,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nesting {
    Key,
    Value,
    Array,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    BeginValue,
    BeginValueOrEnd,
    BeginKey,
    BeginKeyOrEnd,
    EndValue,
    InString,
    Escape,
    /// Hexadecimal digits still to come.
    Unicode(u8),
    Negative,
    Zero,
    Integer,
    Dot,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
    /// Letters of a literal that have come.
    Literal(&'static str, usize),
}

#[derive(Debug, Default)]
struct Scanner {
    state: State,
    nesting: Vec<Nesting>,
}

impl Scanner {
    fn step(&mut self, byte: u8) -> Result<Step, SyntaxError> {
        use State as S;
        let refuse = |context| Err(SyntaxError::Invalid(byte, context));
        self.state = match self.state {
            S::BeginValue | S::BeginValueOrEnd | S::BeginKey | S::BeginKeyOrEnd if is_space(byte) => {
                self.state
            }
            S::BeginValueOrEnd if byte == b']' => return self.end_value(byte),
            S::BeginValue | S::BeginValueOrEnd => match byte {
                b'{' => {
                    self.nest(Nesting::Key)?;
                    S::BeginKeyOrEnd
                }
                b'[' => {
                    self.nest(Nesting::Array)?;
                    S::BeginValueOrEnd
                }
                b'"' => S::InString,
                b'-' => S::Negative,
                b'0' => S::Zero,
                b'1'..=b'9' => S::Integer,
                b't' => S::Literal("true", 1),
                b'f' => S::Literal("false", 1),
                b'n' => S::Literal("null", 1),
                _ => return refuse("looking for beginning of value"),
            },
            S::BeginKeyOrEnd if byte == b'}' => {
                self.expect_value();
                return self.end_value(byte);
            }
            S::BeginKey | S::BeginKeyOrEnd => match byte {
                b'"' => S::InString,
                _ => return refuse("looking for beginning of object key string"),
            },
            S::EndValue => return self.end_value(byte),
            S::InString => match byte {
                b'"' => S::EndValue,
                b'\\' => S::Escape,
                0..0x20 => return refuse("in string literal"),
                _ => S::InString,
            },
            S::Escape => match byte {
                b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"' => S::InString,
                b'u' => S::Unicode(4),
                _ => return refuse("in string escape code"),
            },
            S::Unicode(left) => match byte {
                _ if !byte.is_ascii_hexdigit() => return refuse("in \\u hexadecimal character escape"),
                _ if left == 1 => S::InString,
                _ => S::Unicode(left - 1),
            },
            S::Negative => match byte {
                b'0' => S::Zero,
                b'1'..=b'9' => S::Integer,
                _ => return refuse("in numeric literal"),
            },
            S::Integer if byte.is_ascii_digit() => S::Integer,
            S::Zero | S::Integer => match byte {
                b'.' => S::Dot,
                b'e' | b'E' => S::Exponent,
                _ => return self.end_value(byte),
            },
            S::Dot if byte.is_ascii_digit() => S::Fraction,
            S::Dot => return refuse("after decimal point in numeric literal"),
            S::Fraction => match byte {
                b'0'..=b'9' => S::Fraction,
                b'e' | b'E' => S::Exponent,
                _ => return self.end_value(byte),
            },
            S::Exponent if matches!(byte, b'+' | b'-') => S::ExponentSign,
            S::Exponent | S::ExponentSign | S::ExponentDigits if byte.is_ascii_digit() => S::ExponentDigits,
            S::Exponent | S::ExponentSign => return refuse("in exponent of numeric literal"),
            S::ExponentDigits => return self.end_value(byte),
            S::Literal(word, at) if word.as_bytes()[at] == byte => match at + 1 {
                at if at == word.len() => S::EndValue,
                at => S::Literal(word, at),
            },
            S::Literal(word, at) => return refuse(in_literal(word, at)),
        };
        Ok(Step::Goes)
    }

    fn nest(&mut self, nesting: Nesting) -> Result<(), SyntaxError> {
        if self.nesting.len() == MOST_DEPTH {
            return Err(SyntaxError::TooDeep);
        }
        self.nesting.push(nesting);
        Ok(())
    }

    /// In an empty object the closing bracket comes where a key may stand.
    fn expect_value(&mut self) {
        if let Some(last) = self.nesting.last_mut() {
            *last = Nesting::Value;
        }
    }

    /// A byte behind a value, or a key.
    fn end_value(&mut self, byte: u8) -> Result<Step, SyntaxError> {
        let Some(nesting) = self.nesting.last_mut() else { return Ok(Step::EndedBefore) };
        if is_space(byte) {
            self.state = State::EndValue;
            return Ok(Step::Goes);
        }
        self.state = match (*nesting, byte) {
            (Nesting::Key, b':') => {
                *nesting = Nesting::Value;
                State::BeginValue
            }
            (Nesting::Value, b',') => {
                *nesting = Nesting::Key;
                State::BeginKey
            }
            (Nesting::Array, b',') => State::BeginValue,
            (Nesting::Value, b'}') | (Nesting::Array, b']') => {
                self.nesting.pop();
                if self.nesting.is_empty() {
                    return Ok(Step::EndsBehind);
                }
                State::EndValue
            }
            (Nesting::Key, _) => return Err(SyntaxError::Invalid(byte, "after object key")),
            (Nesting::Value, _) => return Err(SyntaxError::Invalid(byte, "after object key:value pair")),
            (Nesting::Array, _) => return Err(SyntaxError::Invalid(byte, "after array element")),
        };
        Ok(Step::Goes)
    }
}

fn in_literal(word: &str, at: usize) -> &'static str {
    match (word, at) {
        ("true", 1) => "in literal true (expecting 'r')",
        ("true", 2) => "in literal true (expecting 'u')",
        ("true", _) => "in literal true (expecting 'e')",
        ("false", 1) => "in literal false (expecting 'a')",
        ("false", 2) => "in literal false (expecting 'l')",
        ("false", 3) => "in literal false (expecting 's')",
        ("false", _) => "in literal false (expecting 'e')",
        (_, 1) => "in literal null (expecting 'u')",
        _ => "in literal null (expecting 'l')",
    }
}

/// A byte as Go quotes a character of that number.
fn quote(byte: u8) -> String {
    match byte {
        b'\'' => "'\\''".to_owned(),
        b'\\' => "'\\\\'".to_owned(),
        7 => "'\\a'".to_owned(),
        8 => "'\\b'".to_owned(),
        9 => "'\\t'".to_owned(),
        10 => "'\\n'".to_owned(),
        11 => "'\\v'".to_owned(),
        12 => "'\\f'".to_owned(),
        13 => "'\\r'".to_owned(),
        0..0x20 | 0x7f => format!("'\\x{byte:02x}'"),
        0x80..0xa1 | 0xad => format!("'\\u{byte:04x}'"),
        _ => format!("'{}'", char::from(byte)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// All values of a body that comes in pieces of `size` bytes, and how it ends.
    fn cut(body: &[u8], size: usize) -> (Vec<Bytes>, Option<SyntaxError>) {
        let (mut values, mut found) = (Values::default(), Vec::new());
        for piece in body.chunks(size.max(1)) {
            values.push(piece);
            loop {
                match values.next_value() {
                    Ok(Some(value)) => found.push(value),
                    Ok(None) => break,
                    Err(error) => return (found, Some(error)),
                }
            }
        }
        loop {
            match values.finish() {
                Ok(Some(value)) => found.push(value),
                Ok(None) => return (found, None),
                Err(error) => return (found, Some(error)),
            }
        }
    }

    #[test]
    fn values_are_cut_out() {
        let (found, error) = cut(b" {\"a\":[1,{}]}{} 5 \"x\\\"\" null[ ]-0.5e+7", 3);
        assert_eq!(error, None);
        assert_eq!(found, ["{\"a\":[1,{}]}", "{}", "5", "\"x\\\"\"", "null", "[ ]", "-0.5e+7"]);
    }

    #[test]
    fn errors_are_upstreams() {
        for (body, text) in [
            ("{", "unexpected EOF"),
            ("{\"a\":1,}", "invalid character '}' looking for beginning of object key string"),
            ("{\"a\" 1}", "invalid character '1' after object key"),
            ("{\"a\":05}", "invalid character '5' after object key:value pair"),
            ("[1 2]", "invalid character '2' after array element"),
            ("nope", "invalid character 'o' in literal null (expecting 'u')"),
            ("\"\\x\"", "invalid character 'x' in string escape code"),
            ("\"\\u00g", "invalid character 'g' in \\u hexadecimal character escape"),
            ("\"\n\"", "invalid character '\\n' in string literal"),
            ("-x", "invalid character 'x' in numeric literal"),
            ("1.x", "invalid character 'x' after decimal point in numeric literal"),
            ("1ex", "invalid character 'x' in exponent of numeric literal"),
            ("'", "invalid character '\\'' looking for beginning of value"),
            ("\u{e9}", "invalid character '\u{c3}' looking for beginning of value"),
            ("\u{1}", "invalid character '\\x01' looking for beginning of value"),
            ("tru", "unexpected EOF"),
        ] {
            assert_eq!(cut(body.as_bytes(), 1).1.unwrap().to_string(), text, "{body}");
        }
        assert_eq!(cut("[".repeat(10_001).as_bytes(), 100).1, Some(SyntaxError::TooDeep));
    }

    #[test]
    fn a_body_of_blanks_is_empty() {
        assert_eq!(cut(b" \n\t", 1), (vec![], None));
        assert_eq!(cut(b"{}\n", 1), (vec![Bytes::from_static(b"{}")], None));
    }

    proptest! {
        /// Pieces make no difference, and what is cut out a strict parser takes.
        #[test]
        fn pieces_make_no_difference(
            body in "([\\[\\]{}:,\" 01ax.eE\\-\\\\u]|true|null|\"a\":|\\{\"a\":){0,20}", size in 1_usize..5
        ) {
            let whole = cut(body.as_bytes(), body.len());
            prop_assert_eq!(&cut(body.as_bytes(), size), &whole);
            for value in whole.0 {
                // Numbers too large for the judge are no matter of syntax.
                let judged = serde_json::from_slice::<serde_json::Value>(&value);
                let fine = judged.is_ok() || judged.is_err_and(|error| !error.is_syntax() || error.to_string().contains("surrogate") || error.to_string().contains("out of range"));
                prop_assert!(fine, "{:?}", value);
            }
        }
    }
}
