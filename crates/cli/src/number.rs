//! Numbers, booleans and durations as Go's parsers accept and refuse them.

use std::time::Duration;

use crate::text::quote;

/// Go's `strconv.ParseInt(text, radix, 64)`; radix 0 takes it from a `0x`, `0o`, `0b` or `0` prefix.
pub fn int(text: &str, radix: u32) -> Result<i64, String> {
    let refuse = |what: &str| format!("strconv.ParseInt: parsing {}: {what}", quote(text));
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let magnitude = magnitude(digits, radix).map_err(refuse)?;
    let number = if negative { -i128::from(magnitude) } else { i128::from(magnitude) };
    i64::try_from(number).map_err(|_| refuse(OUT_OF_RANGE))
}

/// Go's `strconv.ParseUint(text, radix, 64)`.
pub fn uint(text: &str, radix: u32) -> Result<u64, String> {
    magnitude(text, radix).map_err(|what| format!("strconv.ParseUint: parsing {}: {what}", quote(text)))
}

/// Go's `strconv.ParseUint(text, radix, 32)`.
pub fn uint32(text: &str, radix: u32) -> Result<u32, String> {
    let too_large = || format!("strconv.ParseUint: parsing {}: {OUT_OF_RANGE}", quote(text));
    uint(text, radix).and_then(|number| u32::try_from(number).map_err(|_| too_large()))
}

const BAD_SYNTAX: &str = "invalid syntax";
const OUT_OF_RANGE: &str = "value out of range";

fn magnitude(digits: &str, radix: u32) -> Result<u64, &'static str> {
    let lower = digits.to_ascii_lowercase();
    let (digits, radix, underscores) = match radix {
        0 => match lower.as_bytes() {
            [b'0', b'x', ..] => (&lower[2..], 16, true),
            [b'0', b'o', ..] => (&lower[2..], 8, true),
            [b'0', b'b', ..] => (&lower[2..], 2, true),
            [b'0', _, ..] => (&lower[1..], 8, true),
            _ => (&lower[..], 10, true),
        },
        radix => (&lower[..], radix, false),
    };
    let cleaned = match underscores && !digits.ends_with('_') && !digits.contains("__") {
        true => digits.replace('_', ""),
        false => digits.to_owned(),
    };
    if cleaned.is_empty() || !cleaned.chars().all(|digit| digit.is_digit(radix)) {
        return Err(BAD_SYNTAX);
    }
    u64::from_str_radix(&cleaned, radix).map_err(|_| OUT_OF_RANGE)
}

/// Go's `strconv.ParseBool`.
pub fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("strconv.ParseBool: parsing {}: {BAD_SYNTAX}", quote(text))),
    }
}

/// Go's `time.ParseDuration`. A negative duration is read as zero: every use is a limit that has
/// then passed already.
pub fn duration(text: &str) -> Result<Duration, String> {
    let invalid = || format!("time: invalid duration {}", quote(text));
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total = 0f64;
    while !rest.is_empty() {
        let end = rest.find(|symbol: char| !symbol.is_ascii_digit() && symbol != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(end);
        let amount: f64 = match number {
            "" | "." => return Err(invalid()),
            number => number.parse().map_err(|_| invalid())?,
        };
        let end = tail.find(|symbol: char| symbol.is_ascii_digit() || symbol == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let nanos = match unit {
            "" => return Err(format!("time: missing unit in duration {}", quote(text))),
            "ns" => 1f64,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            unit => return Err(format!("time: unknown unit {} in duration {}", quote(unit), quote(text))),
        };
        total += amount * nanos;
        rest = tail;
    }
    match total > i64::MAX as f64 {
        true => Err(invalid()),
        false if negative => Ok(Duration::ZERO),
        false => Ok(Duration::from_nanos(total.round() as u64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_follow_go() {
        assert_eq!(int("-0x10", 0), Ok(-16));
        assert_eq!(int("010", 0), Ok(8));
        assert_eq!(int("1_000", 0), Ok(1000));
        assert_eq!(int("ff", 16), Ok(255));
        assert_eq!(int("zz", 16), Err("strconv.ParseInt: parsing \"zz\": invalid syntax".into()));
        assert_eq!(int("", 10), Err("strconv.ParseInt: parsing \"\": invalid syntax".into()));
        assert_eq!(
            int("9223372036854775808", 10),
            Err("strconv.ParseInt: parsing \"9223372036854775808\": value out of range".into())
        );
        assert_eq!(uint("f1805392ad554020", 16), Ok(0xf1805392ad554020));
        assert_eq!(uint("-1", 16), Err("strconv.ParseUint: parsing \"-1\": invalid syntax".into()));
    }

    #[test]
    fn durations_follow_go() {
        assert_eq!(duration("1m30.5s"), Ok(Duration::from_millis(90_500)));
        assert_eq!(duration("100ms"), Ok(Duration::from_millis(100)));
        assert_eq!(duration("-3s"), Ok(Duration::ZERO));
        assert_eq!(duration("5"), Err("time: missing unit in duration \"5\"".into()));
        assert_eq!(duration("x"), Err("time: invalid duration \"x\"".into()));
        assert_eq!(duration("5d"), Err("time: unknown unit \"d\" in duration \"5d\"".into()));
    }
}
