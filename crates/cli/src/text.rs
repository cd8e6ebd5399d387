//! Text as Go prints it: quoted strings, durations, sizes.
//!
//! Scripts read this output, so it follows Go's `strconv`, `time` and the `humanize` package
//! to the letter.

use std::fmt::Write as _;
use std::time::Duration;

/// Quotes bytes as Go's `%q`: printable text stays, the rest is escaped.
pub fn quote(bytes: impl AsRef<[u8]>) -> String {
    let mut out = String::from("\"");
    for chunk in bytes.as_ref().utf8_chunks() {
        for character in chunk.valid().chars() {
            push_quoted(&mut out, character);
        }
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out.push('"');
    out
}

fn push_quoted(out: &mut String, character: char) {
    let escape = match character {
        '"' => "\\\"",
        '\\' => "\\\\",
        '\x07' => "\\a",
        '\x08' => "\\b",
        '\x0c' => "\\f",
        '\n' => "\\n",
        '\r' => "\\r",
        '\t' => "\\t",
        '\x0b' => "\\v",
        other if is_printable(other) => {
            out.push(other);
            return;
        }
        other => {
            let _ = match other as u32 {
                code @ (..0x20 | 0x7f) => write!(out, "\\x{code:02x}"),
                code @ ..0x10000 => write!(out, "\\u{code:04x}"),
                code => write!(out, "\\U{code:08x}"),
            };
            return;
        }
    };
    out.push_str(escape);
}

/// Letters, marks, numbers, punctuation, symbols and the ASCII space.
fn is_printable(character: char) -> bool {
    if character.is_ascii() {
        return (' '..='~').contains(&character);
    }
    // Rust escapes what is not printable by the same classes. Marks are escaped only at the
    // front of a string, hence the letter before it.
    let text = String::from_iter(['a', character]);
    text.escape_debug().count() == 2
}

/// Reads one Go string literal, `"…"` or back-quoted, from the front of `text`.
/// Returns the value and what follows the literal.
pub fn unquote_front(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    match *text.first()? {
        b'`' => {
            let end = text[1..].iter().position(|&byte| byte == b'`')? + 1;
            let value = text[1..end].iter().copied().filter(|&byte| byte != b'\r').collect();
            Some((value, &text[end + 1..]))
        }
        b'"' => {
            let mut value = Vec::new();
            let mut rest = &text[1..];
            loop {
                match *rest.first()? {
                    b'"' => return Some((value, &rest[1..])),
                    b'\n' => return None,
                    b'\\' => rest = unescape(&rest[1..], &mut value)?,
                    byte => {
                        value.push(byte);
                        rest = &rest[1..];
                    }
                }
            }
        }
        _ => None,
    }
}

fn unescape<'a>(text: &'a [u8], value: &mut Vec<u8>) -> Option<&'a [u8]> {
    let simple = match *text.first()? {
        b'a' => 0x07,
        b'b' => 0x08,
        b'f' => 0x0c,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'v' => 0x0b,
        b'\\' => b'\\',
        b'"' => b'"',
        b'x' => return numeric(&text[1..], 2, 16, value),
        b'u' => return numeric(&text[1..], 4, 16, value),
        b'U' => return numeric(&text[1..], 8, 16, value),
        b'0'..=b'7' => return numeric(text, 3, 8, value),
        _ => return None,
    };
    value.push(simple);
    Some(&text[1..])
}

fn numeric<'a>(text: &'a [u8], digits: usize, radix: u32, value: &mut Vec<u8>) -> Option<&'a [u8]> {
    let digits_text = std::str::from_utf8(text.get(..digits)?).ok()?;
    if !digits_text.chars().all(|digit| digit.is_digit(radix)) {
        return None;
    }
    let code = u32::from_str_radix(digits_text, radix).ok()?;
    match digits {
        // \xNN and octal are bytes, \u and \U are characters.
        2 | 3 => value.push(u8::try_from(code).ok()?),
        _ => value.extend_from_slice(char::from_u32(code)?.encode_utf8(&mut [0; 4]).as_bytes()),
    }
    Some(&text[digits..])
}

/// A duration as Go prints it: `3.458665ms`, `1m2s`, `0s`.
pub fn duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let unit = |size: u128, name: &str| format!("{}{name}", fraction(nanos, size));
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => unit(1_000, "µs"),
        1_000_000..1_000_000_000 => unit(1_000_000, "ms"),
        _ => {
            let seconds = nanos / 1_000_000_000;
            let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
            let rest = fraction(nanos % 60_000_000_000, 1_000_000_000);
            match (hours, minutes) {
                (0, 0) => format!("{rest}s"),
                (0, minutes) => format!("{minutes}m{rest}s"),
                (hours, minutes) => format!("{hours}h{minutes}m{rest}s"),
            }
        }
    }
}

fn fraction(amount: u128, unit: u128) -> String {
    let (whole, part) = (amount / unit, amount % unit);
    if part == 0 {
        return whole.to_string();
    }
    let width = unit.ilog10() as usize;
    let digits = format!("{part:0width$}");
    format!("{whole}.{}", digits.trim_end_matches('0'))
}

/// A size in powers of 1000, two digits when below ten: `2.1 GB`, `29 kB`, `0 B`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 10 {
        return format!("{bytes} B");
    }
    let power = ((bytes as f64).ln() / 1000f64.ln()).floor() as i32;
    let value = (bytes as f64 / 1000f64.powi(power) * 10.0 + 0.5).floor() / 10.0;
    let unit = UNITS[power.clamp(0, 6) as usize];
    match value < 10.0 {
        true => format!("{value:.1} {unit}"),
        false => format!("{} {unit}", value.round_ties_even()),
    }
}

/// Every byte as `\xNN`.
pub fn hex_escaped(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "\\x{byte:02x}");
        out
    })
}

/// The bytes as text, with a mark in place of what is not UTF-8.
pub fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Splits a line of `watch -i` or `txn` into words: bare, `'verbatim'`, `"with escapes"`.
///
/// A quote that is never closed is skipped, as upstream's pattern does. `None`: a double-quoted
/// word with a bad escape.
pub fn words(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(&byte) = line.get(at) {
        let length = match byte {
            b'"' => double_quoted(&line[at..]),
            b'\'' => line[at + 1..].iter().position(|&byte| byte == b'\'').map(|end| end + 2),
            byte if byte.is_ascii_whitespace() || byte == 0x0b => None,
            _ => Some(line[at..].iter().take_while(|byte| !byte.is_ascii_whitespace()).count()),
        };
        let Some(length) = length else {
            at += 1;
            continue;
        };
        let word = &line[at..at + length];
        found.push(match byte {
            b'"' => unquote_front(word)?.0,
            b'\'' => word[1..length - 1].to_vec(),
            _ => word.to_vec(),
        });
        at += length;
    }
    Some(found)
}

fn double_quoted(text: &[u8]) -> Option<usize> {
    let mut at = 1;
    loop {
        match *text.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_follows_go() {
        assert_eq!(quote("plain é 世界"), "\"plain é 世界\"");
        assert_eq!(quote(b"\x00\x07\n\"\\\x7f\xff"), r#""\x00\a\n\"\\\x7f\xff""#);
        assert_eq!(quote("\u{a0}\u{ad}\u{feff}\u{10ffff}"), r#""\u00a0\u00ad\ufeff\U0010ffff""#);
        assert_eq!(quote("e\u{301}"), "\"e\u{301}\"");
        assert_eq!(quote("\u{301}"), "\"\u{301}\"");
    }

    #[test]
    fn literals_are_read_back() {
        let (value, rest) = unquote_front(br#""a\n\x41\101\u00e9\"" tail"#).unwrap();
        assert_eq!(value, "a\nAAé\"".as_bytes());
        assert_eq!(rest, b" tail");
        assert_eq!(unquote_front(b"`a\\n`)").unwrap().0, b"a\\n");
        for junk in [&b"\"open"[..], br#""\q""#, br#""\x4""#, b"bare", br#""\400""#] {
            assert!(unquote_front(junk).is_none(), "{junk:?}");
        }
    }

    #[test]
    fn durations_follow_go() {
        let check = |nanos: u64, text: &str| assert_eq!(duration(Duration::from_nanos(nanos)), text);
        check(0, "0s");
        check(999, "999ns");
        check(1_500, "1.5µs");
        check(3_458_665, "3.458665ms");
        check(1_000_703_369, "1.000703369s");
        check(5_000_000_000, "5s");
        check(62_000_000_000, "1m2s");
        check(3_600_000_000_000, "1h0m0s");
    }

    #[test]
    fn sizes_follow_humanize() {
        for (bytes, text) in [
            (0, "0 B"),
            (9, "9 B"),
            (20_480, "20 kB"),
            (28_672, "29 kB"),
            (2_147_483_648, "2.1 GB"),
            (1_000, "1.0 kB"),
            (999, "999 B"),
            (82_854_982, "83 MB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn words_of_a_line() {
        let words = |line: &str| words(line.as_bytes()).unwrap();
        assert_eq!(words(r#"put a "x\ty"  'z"w' b"c"#), [&b"put"[..], b"a", b"x\ty", b"z\"w", b"b\"c"]);
        assert_eq!(words("  "), Vec::<Vec<u8>>::new());
        assert_eq!(words("'open"), [b"open"]);
        assert!(super::words(br#"put "\q""#).is_none());
    }
}
