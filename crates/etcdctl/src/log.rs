//! JSON log lines on stderr, in the shape of upstream's logger.

use std::panic::Location;
use std::time::{SystemTime, UNIX_EPOCH};

use cli::print::json_string;

/// Severity of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Progress.
    Info,
    /// Something failed that is tried again.
    Warn,
    /// The program ends here.
    Fatal,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Fatal => "fatal",
        }
    }
}

/// Writes one line. Values of `fields` are texts, except where they are digits only by type.
#[track_caller]
pub fn log(level: Level, logger: Option<&str>, message: &str, fields: &[(&str, Field<'_>)]) {
    eprintln!("{}", line(SystemTime::now(), Location::caller(), level, logger, message, fields));
}

/// The value of a field.
#[derive(Clone, Copy, Debug)]
pub enum Field<'a> {
    /// A text.
    Text(&'a str),
    /// A number.
    Number(u64),
}

fn line(
    now: SystemTime,
    caller: &Location<'_>,
    level: Level,
    logger: Option<&str>,
    message: &str,
    fields: &[(&str, Field<'_>)],
) -> String {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut out = format!("{{\"level\":\"{}\",\"ts\":\"{}\"", level.name(), timestamp(since.as_micros()));
    if let Some(logger) = logger {
        out.push_str(&format!(",\"logger\":{}", json_string(logger)));
    }
    let file = caller.file().rsplit('/').next().unwrap_or_default();
    out.push_str(&format!(
        ",\"caller\":\"etcdctl/{file}:{}\",\"msg\":{}",
        caller.line(),
        json_string(message)
    ));
    for (name, value) in fields {
        let value = match value {
            Field::Text(text) => json_string(text),
            Field::Number(number) => number.to_string(),
        };
        out.push_str(&format!(",\"{name}\":{value}"));
    }
    out + "}"
}

/// Microseconds since 1970 as `2006-01-02T15:04:05.000000Z`.
fn timestamp(micros: u128) -> String {
    let (seconds, micros) = ((micros / 1_000_000) as i64, micros % 1_000_000);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Years begin in March here, so that the leap day is the last of its year.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn timestamps() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(timestamp(951_827_696_000_001), "2000-02-29T12:34:56.000001Z");
        assert_eq!(timestamp(1_735_689_599_999_999), "2024-12-31T23:59:59.999999Z");
    }

    #[test]
    fn a_line() {
        let caller = Location::caller();
        let fields = [("path", Field::Text("a\"b")), ("attempt", Field::Number(0))];
        let text =
            line(UNIX_EPOCH + Duration::from_secs(1), caller, Level::Info, Some("client"), "saved", &fields);
        let expected = format!(
            "{{\"level\":\"info\",\"ts\":\"1970-01-01T00:00:01.000000Z\",\"logger\":\"client\",\"caller\":\"etcdctl/log.rs:{}\",\"msg\":\"saved\",\"path\":\"a\\\"b\",\"attempt\":0}}",
            caller.line()
        );
        assert_eq!(text, expected);
    }
}
