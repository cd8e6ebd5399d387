//! Log lines on stderr, in the shape of upstream's tool: parts separated by tabs, fields as JSON.
//!
//! ```text
//! 2026-11-21T09:01:19Z<TAB>info<TAB>commands/restore.rs:80<TAB>restoring snapshot<TAB>{"path": "s.db"}
//! ```

use std::panic::Location;

use cli::print::json_string;
use jiff::{Timestamp, tz::TimeZone};

/// Severity of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// What was done.
    Info,
    /// What somebody should look at.
    Warn,
}

/// The value of a field.
#[derive(Clone, Debug)]
pub enum Value {
    /// A text.
    Text(String),
    /// A number.
    Number(i128),
    /// Yes or no.
    Bool(bool),
    /// Several texts.
    List(Vec<String>),
}

macro_rules! values {
    ($($from:ty => |$value:ident| $make:expr;)*) => {$(
        impl From<$from> for Value {
            fn from($value: $from) -> Self {
                $make
            }
        }
    )*};
}

values! {
    &str => |text| Self::Text(text.to_owned());
    String => |text| Self::Text(text);
    &std::path::Path => |path| Self::Text(path.display().to_string());
    u64 => |number| Self::Number(number.into());
    i64 => |number| Self::Number(number.into());
    usize => |number| Self::Number(number as i128);
    bool => |value| Self::Bool(value);
    Vec<String> => |list| Self::List(list);
}

/// Writes a line at level info.
#[track_caller]
pub fn info(message: &str, fields: &[(&str, Value)]) {
    write(Level::Info, message, fields);
}

/// Writes a line at level warn.
#[track_caller]
pub fn warn(message: &str, fields: &[(&str, Value)]) {
    write(Level::Warn, message, fields);
}

#[track_caller]
fn write(level: Level, message: &str, fields: &[(&str, Value)]) {
    crate::progress::clear();
    eprintln!("{}", line(Timestamp::now(), &TimeZone::system(), Location::caller(), level, message, fields));
}

fn line(
    now: Timestamp,
    zone: &TimeZone,
    caller: &Location<'_>,
    level: Level,
    message: &str,
    fields: &[(&str, Value)],
) -> String {
    let level = match level {
        Level::Info => "info",
        Level::Warn => "warn",
    };
    let mut parts = caller.file().rsplit('/');
    let (file, directory) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let directory = if directory == "src" { "etcdutl" } else { directory };
    let mut out =
        format!("{}\t{level}\t{directory}/{file}:{}\t{message}", timestamp(now, zone), caller.line());
    if !fields.is_empty() {
        let fields: Vec<_> =
            fields.iter().map(|(name, value)| format!("{}: {}", json_string(name), json(value))).collect();
        out.push_str(&format!("\t{{{}}}", fields.join(", ")));
    }
    out
}

fn json(value: &Value) -> String {
    match value {
        Value::Text(text) => json_string(text),
        Value::Number(number) => number.to_string(),
        Value::Bool(value) => value.to_string(),
        Value::List(list) => format!("[{}]", list.iter().map(json_string).collect::<Vec<_>>().join(", ")),
    }
}

/// RFC 3339 in whole seconds.
fn timestamp(now: Timestamp, zone: &TimeZone) -> String {
    let local = zone.to_datetime(now);
    let offset = zone.to_offset(now).seconds() / 60;
    let zone = match offset {
        0 => "Z".to_owned(),
        _ => {
            let (sign, minutes) = (if offset < 0 { '-' } else { '+' }, offset.unsigned_abs());
            format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60)
        }
    };
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}{zone}",
        local.year(),
        local.month(),
        local.day(),
        local.hour(),
        local.minute(),
        local.second()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line() {
        let caller = Location::caller();
        let fields = [
            ("path", Value::from("a\"b")),
            ("size", Value::from(7_u64)),
            ("urls", Value::from(vec!["x".to_owned(), "y".to_owned()])),
            ("learner", Value::from(false)),
        ];
        let now = Timestamp::from_second(1_763_715_679).unwrap();
        let text = line(now, &TimeZone::UTC, caller, Level::Warn, "saved", &fields);
        let expected = format!(
            "2025-11-21T09:01:19Z\twarn\tetcdutl/log.rs:{}\tsaved\t{{\"path\": \"a\\\"b\", \"size\": 7, \"urls\": [\"x\", \"y\"], \"learner\": false}}",
            caller.line()
        );
        assert_eq!(text, expected);
        let zone = TimeZone::fixed(jiff::tz::offset(-3));
        assert!(
            line(now, &zone, caller, Level::Info, "m", &[]).starts_with("2025-11-21T06:01:19-03:00\tinfo\t")
        );
    }
}
