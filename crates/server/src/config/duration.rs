//! Go's `time.Duration`: signed nanoseconds with a text form such as `1m30s` or `1.5ms`.
//!
//! Flags and variables take the text form, the configuration file takes the bare nanoseconds, logs
//! and errors print the text form.
//!
//! Source: behaviour of Go `time.ParseDuration` and `Duration.String`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::scalars::quote;

const NANOS_PER_SECOND: u64 = 1_000_000_000;
/// One more than the largest positive value: the magnitude of the smallest negative one.
const LIMIT: u64 = 1 << 63;

/// A signed span of time in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GoDuration(i64);

impl GoDuration {
    /// No time at all.
    pub const ZERO: Self = Self(0);

    /// A span of whole nanoseconds.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// A span of whole milliseconds.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis * 1_000_000)
    }

    /// A span of whole seconds.
    pub const fn from_secs(seconds: i64) -> Self {
        Self(seconds * NANOS_PER_SECOND as i64)
    }

    /// The nanoseconds, negative below zero.
    pub const fn as_nanos(self) -> i64 {
        self.0
    }

    /// Whether this is exactly zero, which many settings read as "use the built-in value".
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// The span as the standard library has it; negative spans become zero.
    pub const fn to_std(self) -> Duration {
        match self.0 {
            negative if negative < 0 => Duration::ZERO,
            nanos => Duration::from_nanos(nanos as u64),
        }
    }
}

impl From<Duration> for GoDuration {
    /// Spans beyond 292 years become the largest value.
    fn from(span: Duration) -> Self {
        Self(i64::try_from(span.as_nanos()).unwrap_or(i64::MAX))
    }
}

/// Text that is not a duration; prints Go's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseDurationError {
    /// Not of the form number unit, number unit, …, or too large.
    #[error("time: invalid duration {}", quote(.0))]
    Invalid(String),
    /// A number with nothing behind it.
    #[error("time: missing unit in duration {}", quote(.0))]
    MissingUnit(String),
    /// A unit nobody knows.
    #[error("time: unknown unit {} in duration {}", quote(.unit), quote(.text))]
    UnknownUnit {
        /// The unit as written.
        unit: String,
        /// The whole text.
        text: String,
    },
}

impl FromStr for GoDuration {
    type Err = ParseDurationError;

    fn from_str(text: &str) -> Result<Self, ParseDurationError> {
        let invalid = || ParseDurationError::Invalid(text.to_owned());
        let (negative, mut rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        if rest == "0" {
            return Ok(Self::ZERO);
        }
        if rest.is_empty() {
            return Err(invalid());
        }
        let mut total: u64 = 0;
        while !rest.is_empty() {
            let (span, behind) = take_part(rest, text)?;
            total = total.checked_add(span).filter(|total| *total <= LIMIT).ok_or_else(invalid)?;
            rest = behind;
        }
        match (negative, total) {
            (true, LIMIT) => Ok(Self(i64::MIN)),
            (false, LIMIT) => Err(invalid()),
            (true, total) => Ok(Self(-(total as i64))),
            (false, total) => Ok(Self(total as i64)),
        }
    }
}

/// One `number unit` at the start of `rest`, in nanoseconds, and what follows it.
fn take_part<'t>(rest: &'t str, text: &str) -> Result<(u64, &'t str), ParseDurationError> {
    let invalid = || ParseDurationError::Invalid(text.to_owned());
    let whole_length = digits_in_front(rest);
    let whole = match &rest[..whole_length] {
        "" => 0,
        digits => digits.parse::<u64>().ok().filter(|whole| *whole <= LIMIT).ok_or_else(invalid)?,
    };
    let mut behind = &rest[whole_length..];
    let mut fraction = (0_u64, 1_f64);
    let mut fraction_length = 0;
    if let Some(decimals) = behind.strip_prefix('.') {
        fraction_length = digits_in_front(decimals);
        fraction = leading_fraction(&decimals[..fraction_length]);
        behind = &decimals[fraction_length..];
    }
    if whole_length == 0 && fraction_length == 0 {
        return Err(invalid());
    }
    let unit_length =
        behind.find(|symbol: char| symbol == '.' || symbol.is_ascii_digit()).unwrap_or(behind.len());
    let unit = &behind[..unit_length];
    let scale: u64 = match unit {
        "" => return Err(ParseDurationError::MissingUnit(text.to_owned())),
        "ns" => 1,
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => NANOS_PER_SECOND,
        "m" => 60 * NANOS_PER_SECOND,
        "h" => 3_600 * NANOS_PER_SECOND,
        unit => return Err(ParseDurationError::UnknownUnit { unit: unit.to_owned(), text: text.to_owned() }),
    };
    let mut span = whole.checked_mul(scale).filter(|span| *span <= LIMIT).ok_or_else(invalid)?;
    if fraction.0 > 0 {
        span += (fraction.0 as f64 * (scale as f64 / fraction.1)) as u64;
        if span > LIMIT {
            return Err(invalid());
        }
    }
    Ok((span, &behind[unit_length..]))
}

fn digits_in_front(text: &str) -> usize {
    text.bytes().take_while(u8::is_ascii_digit).count()
}

/// The digits as a number and the power of ten they are divided by; digits that no longer fit are
/// dropped.
fn leading_fraction(digits: &str) -> (u64, f64) {
    let mut value: u64 = 0;
    let mut scale = 1_f64;
    for digit in digits.bytes() {
        match value
            .checked_mul(10)
            .map(|value| value + u64::from(digit - b'0'))
            .filter(|value| *value < LIMIT)
        {
            Some(next) => value = next,
            None => break,
        }
        scale *= 10.0;
    }
    (value, scale)
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0s");
        }
        if self.0 < 0 {
            f.write_str("-")?;
        }
        let nanos = self.0.unsigned_abs();
        if nanos < NANOS_PER_SECOND {
            return match nanos {
                nanos if nanos < 1_000 => write!(f, "{nanos}ns"),
                nanos if nanos < 1_000_000 => write_scaled(f, nanos, 1_000, "\u{b5}s"),
                nanos => write_scaled(f, nanos, 1_000_000, "ms"),
            };
        }
        let minutes = nanos / (60 * NANOS_PER_SECOND);
        if minutes >= 60 {
            write!(f, "{}h", minutes / 60)?;
        }
        if minutes > 0 {
            write!(f, "{}m", minutes % 60)?;
        }
        write_scaled(f, nanos % (60 * NANOS_PER_SECOND), NANOS_PER_SECOND, "s")
    }
}

/// `nanos / scale` with as many decimals as needed and no trailing zero.
fn write_scaled(f: &mut fmt::Formatter<'_>, nanos: u64, scale: u64, unit: &str) -> fmt::Result {
    let rest = nanos % scale;
    write!(f, "{}", nanos / scale)?;
    if rest != 0 {
        let width = scale.ilog10() as usize;
        let decimals = format!("{rest:0width$}");
        write!(f, ".{}", decimals.trim_end_matches('0'))?;
    }
    f.write_str(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printing_follows_go() {
        for (nanos, want) in [
            (0, "0s"),
            (1, "1ns"),
            (1_100, "1.1\u{b5}s"),
            (2_200_000, "2.2ms"),
            (1_050_000, "1.05ms"),
            (900_000_000, "900ms"),
            (3_300_000_000, "3.3s"),
            (245_000_000_000, "4m5s"),
            (245_001_000_000, "4m5.001s"),
            (18_367_001_000_000, "5h6m7.001s"),
            (7_200_000_000_000, "2h0m0s"),
            (60_000_000_000, "1m0s"),
            (480_000_000_001, "8m0.000000001s"),
            (i64::MAX, "2562047h47m16.854775807s"),
            (i64::MIN, "-2562047h47m16.854775808s"),
            (-1_500_000_000, "-1.5s"),
        ] {
            let duration = GoDuration::from_nanos(nanos);
            assert_eq!(duration.to_string(), want);
            assert_eq!(want.parse(), Ok(duration), "{want}");
        }
    }

    #[test]
    fn parsing_follows_go() {
        for (text, want) in [
            ("0", 0),
            ("5s", 5_000_000_000),
            ("+5s", 5_000_000_000),
            ("-5s", -5_000_000_000),
            ("5.0s", 5_000_000_000),
            (".5s", 500_000_000),
            ("5.s", 5_000_000_000),
            ("1h15m30.918273645s", 4_530_918_273_645),
            ("3000000h", 0),
            ("1\u{3bc}s", 1_000),
            ("0.3333333333333333333h", 1_200_000_000_000),
            ("9223372036854775807ns", i64::MAX),
            ("-9223372036854775808ns", i64::MIN),
        ] {
            let got = text.parse::<GoDuration>();
            match want {
                0 if text != "0" => assert!(got.is_err(), "{text}"),
                nanos => assert_eq!(got, Ok(GoDuration::from_nanos(nanos)), "{text}"),
            }
        }
        for (text, want) in [
            ("", "time: invalid duration \"\""),
            ("3", "time: missing unit in duration \"3\""),
            ("s", "time: invalid duration \"s\""),
            (".", "time: invalid duration \".\""),
            ("1d", "time: unknown unit \"d\" in duration \"1d\""),
            ("-", "time: invalid duration \"-\""),
            ("9223372036854775808ns", "time: invalid duration \"9223372036854775808ns\""),
        ] {
            assert_eq!(text.parse::<GoDuration>().unwrap_err().to_string(), want, "{text}");
        }
    }

    #[test]
    fn conversion_clamps() {
        assert_eq!(GoDuration::from_millis(-5).to_std(), Duration::ZERO);
        assert_eq!(GoDuration::from(Duration::MAX).as_nanos(), i64::MAX);
        assert_eq!(GoDuration::from_secs(2).to_std(), Duration::from_secs(2));
    }
}
