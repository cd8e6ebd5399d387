//! Go's text forms of booleans and integers, and its quoted strings.
//!
//! Flags, variables and start-up errors are read by scripts written against Go's `strconv` and
//! `flag` packages, so `0x10`, `1_000`, `T` and the error words have to mean the same here.
//!
//! Source: behaviour of Go `strconv` (ParseBool, ParseInt and ParseUint with base 0, Quote).

/// Why a number was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NumberFault {
    /// Not a number at all.
    Syntax,
    /// A number that the type cannot hold.
    Range,
}

impl NumberFault {
    /// The word of Go's `flag` package.
    pub fn flag_text(self) -> &'static str {
        match self {
            Self::Syntax => "parse error",
            Self::Range => "value out of range",
        }
    }

    /// The word of Go's `strconv` package.
    pub fn strconv_text(self) -> &'static str {
        match self {
            Self::Syntax => "invalid syntax",
            Self::Range => "value out of range",
        }
    }
}

/// The twelve spellings of a boolean.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// An unsigned integer of at most `bits` bits, with `0x`, `0o`, `0b` and plain-octal prefixes and
/// `_` between digits.
pub fn parse_uint(text: &str, bits: u32) -> Result<u64, NumberFault> {
    let (radix, digits) = split_radix(text);
    if digits.is_empty() || !underscores_are_fine(text) {
        return Err(NumberFault::Syntax);
    }
    let mut value: u64 = 0;
    let mut overflow = false;
    for symbol in digits.chars().filter(|symbol| *symbol != '_') {
        let digit = symbol.to_digit(radix).ok_or(NumberFault::Syntax)?;
        match value.checked_mul(u64::from(radix)).and_then(|value| value.checked_add(u64::from(digit))) {
            Some(next) => value = next,
            None => overflow = true,
        }
    }
    let limit = if bits >= 64 { u64::MAX } else { (1 << bits) - 1 };
    match overflow || value > limit {
        true => Err(NumberFault::Range),
        false => Ok(value),
    }
}

/// A signed 64-bit integer in the same notation.
pub fn parse_int(text: &str) -> Result<i64, NumberFault> {
    let (negative, magnitude) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let magnitude = i128::from(parse_uint(magnitude, 64)?);
    let value = if negative { -magnitude } else { magnitude };
    i64::try_from(value).map_err(|_| NumberFault::Range)
}

fn split_radix(text: &str) -> (u32, &str) {
    let lower = text.get(..2).map(str::to_ascii_lowercase);
    match lower.as_deref() {
        Some("0x") => (16, &text[2..]),
        Some("0o") => (8, &text[2..]),
        Some("0b") => (2, &text[2..]),
        _ if text.len() > 1 && text.starts_with('0') => (8, &text[1..]),
        _ => (10, text),
    }
}

/// An underscore must stand between two digits, where a radix prefix counts as a digit.
fn underscores_are_fine(text: &str) -> bool {
    if !text.contains('_') {
        return true;
    }
    let (radix, digits) = split_radix(text);
    let mut before_is_digit = radix != 10;
    let mut last_was_underscore = false;
    for symbol in digits.chars() {
        if symbol == '_' {
            if !before_is_digit {
                return false;
            }
            before_is_digit = false;
            last_was_underscore = true;
        } else {
            before_is_digit = true;
            last_was_underscore = false;
        }
    }
    !last_was_underscore
}

/// `text` in double quotes the way Go's `%q` writes it.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for symbol in text.chars() {
        match symbol {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            symbol if (symbol as u32) < 0x20 || symbol as u32 == 0x7f => {
                out.push_str(&format!("\\x{:02x}", symbol as u32));
            }
            symbol => out.push(symbol),
        }
    }
    out.push('"');
    out
}

/// A list of quoted strings, as Go prints `[]string` with `%q`.
pub fn quote_list(list: &[String]) -> String {
    let quoted: Vec<String> = list.iter().map(|item| quote(item)).collect();
    format!("[{}]", quoted.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_follow_go() {
        for (text, want) in [
            ("0", Ok(0)),
            ("10", Ok(10)),
            ("010", Ok(8)),
            ("0o10", Ok(8)),
            ("0X1f", Ok(31)),
            ("0b101", Ok(5)),
            ("1_000", Ok(1000)),
            ("0x_ff", Ok(255)),
            ("0_7", Ok(7)),
            ("18446744073709551615", Ok(u64::MAX)),
            ("18446744073709551616", Err(NumberFault::Range)),
            ("", Err(NumberFault::Syntax)),
            ("_1", Err(NumberFault::Syntax)),
            ("1_", Err(NumberFault::Syntax)),
            ("1__0", Err(NumberFault::Syntax)),
            ("08", Err(NumberFault::Syntax)),
            ("0x", Err(NumberFault::Syntax)),
            ("-1", Err(NumberFault::Syntax)),
            ("+1", Err(NumberFault::Syntax)),
            ("abc", Err(NumberFault::Syntax)),
            ("ä", Err(NumberFault::Syntax)),
        ] {
            assert_eq!(parse_uint(text, 64), want, "{text}");
        }
        assert_eq!(parse_uint("4294967295", 32), Ok(4_294_967_295));
        assert_eq!(parse_uint("4294967296", 32), Err(NumberFault::Range));
        assert_eq!(parse_int("-9223372036854775808"), Ok(i64::MIN));
        assert_eq!(parse_int("9223372036854775808"), Err(NumberFault::Range));
        assert_eq!(parse_int("+0x10"), Ok(16));
        assert_eq!(parse_int("--1"), Err(NumberFault::Syntax));
    }

    #[test]
    fn booleans_have_twelve_spellings() {
        for text in ["1", "t", "T", "true", "TRUE", "True"] {
            assert_eq!(parse_bool(text), Some(true));
        }
        for text in ["0", "f", "F", "false", "FALSE", "False"] {
            assert_eq!(parse_bool(text), Some(false));
        }
        for text in ["", "yes", "tRUE", "2", " true"] {
            assert_eq!(parse_bool(text), None);
        }
    }

    #[test]
    fn quoting_escapes_like_go() {
        assert_eq!(quote("a\"b\\c\n\u{1}ü"), "\"a\\\"b\\\\c\\n\\x01ü\"");
        assert_eq!(quote_list(&["a".into(), "b c".into()]), "[\"a\" \"b c\"]");
    }
}
