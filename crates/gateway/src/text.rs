//! Reading a JSON value that was cut out, token by token, and naming places in it.
//!
//! **Source**: `protojson`, whose texts these are.

use std::borrow::Cow;

use crate::number::number_len;
use crate::values::is_space;

/// A token. Commas are passed over: that they stand right was checked when the value was cut out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token<'a> {
    pub(crate) kind: TokenKind<'a>,
    /// Offset of its first byte.
    pub(crate) at: usize,
    /// As it stands there.
    pub(crate) raw: &'a [u8],
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TokenKind<'a> {
    ObjectOpen,
    ObjectClose,
    ArrayOpen,
    ArrayClose,
    Null,
    Bool(bool),
    Number(&'a str),
    String(Cow<'a, str>),
    End,
}

/// Why a value is not the message that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("proto: {0}")]
pub struct DecodeError(pub(crate) String);

/// A place in a value.
pub(crate) struct Cursor<'a> {
    all: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(all: &'a [u8]) -> Self {
        Self { all, at: 0 }
    }

    /// The next token.
    pub(crate) fn read(&mut self) -> Result<Token<'a>, DecodeError> {
        self.skip(|byte| is_space(byte) || byte == b',' || byte == b':');
        let (at, rest) = (self.at, &self.all[self.at..]);
        let word = |word: &str, kind| rest.starts_with(word.as_bytes()).then_some((word.len(), kind));
        let found = match rest.first() {
            None => Some((0, TokenKind::End)),
            Some(b'{') => Some((1, TokenKind::ObjectOpen)),
            Some(b'}') => Some((1, TokenKind::ObjectClose)),
            Some(b'[') => Some((1, TokenKind::ArrayOpen)),
            Some(b']') => Some((1, TokenKind::ArrayClose)),
            Some(b'n') => word("null", TokenKind::Null),
            Some(b't') => word("true", TokenKind::Bool(true)),
            Some(b'f') => word("false", TokenKind::Bool(false)),
            Some(b'"') => Some(self.string()?),
            Some(_) => number_len(rest).and_then(|len| {
                let number = std::str::from_utf8(&rest[..len]).ok()?;
                Some((len, TokenKind::Number(number)))
            }),
        };
        let Some((len, kind)) = found else {
            return Err(self.syntax_error(at, &format!("invalid value {}", first_char(rest))));
        };
        self.at += len;
        Ok(Token { kind, at, raw: &rest[..len] })
    }

    /// Whether the next token begins with this byte.
    pub(crate) fn next_is(&mut self, byte: u8) -> bool {
        self.skip(|byte| is_space(byte) || byte == b',' || byte == b':');
        self.all.get(self.at) == Some(&byte)
    }

    /// Passes over a value of any kind.
    pub(crate) fn skip_value(&mut self) -> Result<(), DecodeError> {
        let mut depth = 0_usize;
        loop {
            match self.read()?.kind {
                TokenKind::ObjectOpen | TokenKind::ArrayOpen => depth += 1,
                TokenKind::ObjectClose | TokenKind::ArrayClose => depth = depth.saturating_sub(1),
                TokenKind::End => return Err(unexpected_end()),
                _ => {}
            }
            if depth == 0 {
                return Ok(());
            }
        }
    }

    pub(crate) fn unexpected(&self, token: &Token<'_>) -> DecodeError {
        if token.kind == TokenKind::End {
            return unexpected_end();
        }
        self.syntax_error(token.at, &format!("unexpected token {}", String::from_utf8_lossy(token.raw)))
    }

    pub(crate) fn syntax_error(&self, at: usize, text: &str) -> DecodeError {
        let (line, column) = self.position(at);
        DecodeError(format!("syntax error (line {line}:{column}): {text}"))
    }

    pub(crate) fn error(&self, at: usize, text: &str) -> DecodeError {
        let (line, column) = self.position(at);
        DecodeError(format!("(line {line}:{column}): {text}"))
    }

    /// Line and column, from 1; columns are characters.
    fn position(&self, at: usize) -> (usize, usize) {
        let before = &self.all[..at];
        let lines = before.iter().filter(|byte| **byte == b'\n').count();
        let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        (lines + 1, String::from_utf8_lossy(&before[line_start..]).chars().count() + 1)
    }

    fn skip(&mut self, skipped: impl Fn(u8) -> bool) {
        while self.all.get(self.at).is_some_and(|byte| skipped(*byte)) {
            self.at += 1;
        }
    }

    /// The string that begins here, and the length of its token.
    fn string(&self) -> Result<(usize, TokenKind<'a>), DecodeError> {
        let body = &self.all[self.at + 1..];
        let plain = body.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20));
        let plain = plain.ok_or_else(unexpected_end)?;
        let start = self.utf8(&body[..plain])?;
        if body[plain] == b'"' {
            return Ok((plain + 2, TokenKind::String(Cow::Borrowed(start))));
        }
        let (mut text, mut rest) = (start.to_owned(), &body[plain..]);
        loop {
            match rest.first() {
                None => return Err(unexpected_end()),
                Some(b'"') => {
                    let len = body.len() - rest.len() + 2;
                    return Ok((len, TokenKind::String(Cow::Owned(text))));
                }
                Some(b'\\') => {
                    let (character, len) = self.escape(rest)?;
                    text.push(character);
                    rest = &rest[len..];
                }
                Some(0..0x20) => {
                    return Err(self.syntax_error(self.at, "invalid character in string"));
                }
                Some(_) => {
                    let len = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20));
                    let len = len.unwrap_or(rest.len());
                    text.push_str(self.utf8(&rest[..len])?);
                    rest = &rest[len..];
                }
            }
        }
    }

    fn utf8<'t>(&self, text: &'t [u8]) -> Result<&'t str, DecodeError> {
        std::str::from_utf8(text).map_err(|_| self.syntax_error(self.at, "invalid UTF-8 in string"))
    }

    /// The character of an escape, and the length of that.
    fn escape(&self, text: &[u8]) -> Result<(char, usize), DecodeError> {
        let plain = match text.get(1).ok_or_else(unexpected_end)? {
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => return self.unicode(text),
            byte @ (b'"' | b'\\' | b'/') => char::from(*byte),
            _ => return Err(self.bad_escape(&text[..2])),
        };
        Ok((plain, 2))
    }

    fn unicode(&self, text: &[u8]) -> Result<(char, usize), DecodeError> {
        let unit = |from: usize| -> Result<u32, DecodeError> {
            let digits = text.get(from + 2..from + 6).ok_or_else(unexpected_end)?;
            let digits = digits.iter().map(|digit| char::from(*digit).to_digit(16));
            let value = digits.into_iter().try_fold(0, |value, digit| Some(value * 16 + digit?));
            value.ok_or_else(|| self.bad_escape(&text[from..from + 6]))
        };
        let first = unit(0)?;
        if !(0xd800..0xe000).contains(&first) {
            return Ok((char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER), 6));
        }
        // Half of a pair: the other one has to follow.
        let second = text.get(6..12).ok_or_else(unexpected_end)?;
        let low = unit(6).ok().filter(|low| second.starts_with(b"\\u") && (0xdc00..0xe000).contains(low));
        match low {
            Some(low) if first < 0xdc00 => {
                let number = 0x1_0000 + ((first - 0xd800) << 10) + (low - 0xdc00);
                Ok((char::from_u32(number).unwrap_or(char::REPLACEMENT_CHARACTER), 12))
            }
            _ => Err(self.bad_escape(second)),
        }
    }

    fn bad_escape(&self, escape: &[u8]) -> DecodeError {
        let escape = String::from_utf8_lossy(escape);
        self.syntax_error(self.at, &format!("invalid escape code {escape:?} in string"))
    }
}

fn unexpected_end() -> DecodeError {
    DecodeError("unexpected EOF".to_owned())
}

fn first_char(text: &[u8]) -> String {
    String::from_utf8_lossy(&text[..text.len().min(32)]).chars().take(1).collect()
}
