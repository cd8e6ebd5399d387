//! Integers as JSON writes them: `10`, `1e1`, `100e-1` and `10.0` are the same.
//!
//! **Source**: `protojson`, whose limits these are.

/// Most digits of a 64-bit integer.
const MOST_DIGITS: usize = 20;

/// The length of the JSON number at the start of `text`; `None` if there is none, or if what follows
/// looks like a part of it.
pub(crate) fn number_len(text: &[u8]) -> Option<usize> {
    let digits = |from: usize| text[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let mut at = usize::from(text.first() == Some(&b'-'));
    at += match text.get(at)? {
        b'0' => 1,
        b'1'..=b'9' => digits(at),
        _ => return None,
    };
    if text.get(at) == Some(&b'.') && digits(at + 1) > 0 {
        at += 1 + digits(at + 1);
    }
    if matches!(text.get(at), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(text.get(at + 1), Some(b'+' | b'-')));
        if digits(at + 1 + sign) > 0 {
            at += 1 + sign + digits(at + 1 + sign);
        }
    }
    let goes_on = text
        .get(at)
        .is_some_and(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.' | b'_'));
    (!goes_on).then_some(at)
}

/// The integer that a JSON number stands for, as a sign and digits.
fn whole(number: &str) -> Option<(bool, String)> {
    let (negative, number) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number),
    };
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (integer, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let integer = if integer == "0" { "" } else { integer };
    let fraction = fraction.trim_end_matches('0');
    if integer.is_empty() && fraction.is_empty() {
        return Some((false, "0".to_owned()));
    }
    let exponent: i32 = exponent.parse().ok()?;
    let shift = usize::try_from(exponent.unsigned_abs()).ok()?;
    if exponent < 0 {
        let kept = integer.len().checked_sub(shift)?;
        let fits = fraction.is_empty() && integer[kept..].bytes().all(|digit| digit == b'0');
        return fits.then(|| (negative, integer[..kept].to_owned()));
    }
    if fraction.len() > shift || integer.len().saturating_add(shift) > MOST_DIGITS {
        return None;
    }
    let zeros = "0".repeat(shift - fraction.len());
    Some((negative, format!("{integer}{fraction}{zeros}")))
}

/// A signed integer.
pub(crate) fn signed(number: &str) -> Option<i64> {
    let (negative, digits) = whole(number)?;
    let text = if negative { format!("-{digits}") } else { digits };
    text.parse().ok()
}

/// An unsigned integer.
pub(crate) fn unsigned(number: &str) -> Option<u64> {
    match whole(number)? {
        (false, digits) => digits.parse().ok(),
        (true, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_end_where_they_end() {
        for (text, length) in [
            ("10,", Some(2)),
            ("-1.5e+3 ", Some(7)),
            ("0", Some(1)),
            ("05", None),
            ("1.", None),
            ("1e", None),
            ("-", None),
            ("x", None),
            ("", None),
            ("1a", None),
        ] {
            assert_eq!(number_len(text.as_bytes()), length, "{text}");
        }
    }

    #[test]
    fn integers_may_have_exponents() {
        for (text, value) in [
            ("1e1", Some(10)),
            ("10.0", Some(10)),
            ("1.5e1", Some(15)),
            ("100e-1", Some(10)),
            ("-0", Some(0)),
            ("-0.0e5", Some(0)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("1.5", None),
            ("15e-1", None),
            ("1e-1", None),
            ("1e99999999999", None),
            ("1e20", None),
        ] {
            assert_eq!(signed(text), value, "{text}");
        }
        assert_eq!(unsigned("18446744073709551615"), Some(u64::MAX));
        assert_eq!((unsigned("-1"), unsigned("-0")), (None, Some(0)));
    }
}
