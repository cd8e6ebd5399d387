//! The two text forms of a log record.
//!
//! JSON: one object per line, keys in the order `level ts [logger] caller msg`, then the fields in
//! the order given. Console: the same parts separated by tabs, the fields as one JSON object at
//! the end. There is no `stacktrace` field: a Rust release build has no cheap and readable one.
//!
//! Source: layout of zap 1.27 as etcd 3.7 configures it.

use std::fmt::Write as _;
use std::panic::Location;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::{Level, Value};

/// Form of the records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// One JSON object per line.
    #[default]
    Json,
    /// Tab separated.
    Console,
}

/// Everything that one record is made of.
pub(super) struct Record<'r> {
    pub level: Level,
    pub time: Timestamp,
    pub logger: &'r str,
    pub caller: Caller<'r>,
    pub msg: &'r str,
    pub fields: &'r [(&'r str, Value<'r>)],
}

/// Place in the source, to be shortened to `crate/file.rs:line`.
#[derive(Clone, Copy)]
pub(super) struct Caller<'r> {
    pub file: &'r str,
    pub line: u32,
}

impl Caller<'_> {
    /// The directory of the file, or the crate when that directory is `src`.
    pub fn directory(&self) -> &str {
        let (directory, _) = self.file.rsplit_once('/').unwrap_or(("", self.file));
        let directory = directory.strip_suffix("/src").unwrap_or(directory);
        directory.rsplit('/').next().unwrap_or_default()
    }
}

impl From<&'static Location<'static>> for Caller<'static> {
    fn from(location: &'static Location<'static>) -> Self {
        Self { file: location.file(), line: location.line() }
    }
}

/// Appends the record and its line end to `out`.
pub(super) fn write_record(out: &mut String, format: Format, record: &Record<'_>, zone: &TimeZone) {
    match format {
        Format::Json => write_json_record(out, record, zone),
        Format::Console => write_console_record(out, record, zone),
    }
    out.push('\n');
}

fn write_json_record(out: &mut String, record: &Record<'_>, zone: &TimeZone) {
    out.push_str("{\"level\":\"");
    out.push_str(record.level.name());
    out.push_str("\",\"ts\":\"");
    write_time(out, record.time, zone);
    out.push('"');
    if !record.logger.is_empty() {
        out.push_str(",\"logger\":");
        write_text(out, record.logger);
    }
    out.push_str(",\"caller\":\"");
    write_caller(out, record.caller);
    out.push_str("\",\"msg\":");
    write_text(out, record.msg);
    for (key, value) in record.fields {
        out.push(',');
        write_text(out, key);
        out.push(':');
        write_value(out, value, "");
    }
    out.push('}');
}

fn write_console_record(out: &mut String, record: &Record<'_>, zone: &TimeZone) {
    write_time(out, record.time, zone);
    out.push('\t');
    out.push_str(record.level.name());
    if !record.logger.is_empty() {
        out.push('\t');
        out.push_str(record.logger);
    }
    out.push('\t');
    write_caller(out, record.caller);
    out.push('\t');
    out.push_str(record.msg);
    if record.fields.is_empty() {
        return;
    }
    out.push_str("\t{");
    for (position, (key, value)) in record.fields.iter().enumerate() {
        if position > 0 {
            out.push_str(", ");
        }
        write_text(out, key);
        out.push_str(": ");
        write_value(out, value, " ");
    }
    out.push('}');
}

/// `2026-11-21T08:26:04.870458Z`, or with `+0100` at the end.
fn write_time(out: &mut String, time: Timestamp, zone: &TimeZone) {
    let offset = zone.to_offset(time);
    let local = offset.to_datetime(time);
    let _ = write!(
        out,
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}",
        local.year(),
        local.month(),
        local.day(),
        local.hour(),
        local.minute(),
        local.second(),
        local.subsec_nanosecond() / 1_000
    );
    match offset.seconds() / 60 {
        0 => out.push('Z'),
        minutes => {
            let sign = if minutes < 0 { '-' } else { '+' };
            let minutes = minutes.unsigned_abs();
            let _ = write!(out, "{sign}{:02}{:02}", minutes / 60, minutes % 60);
        }
    }
}

/// `crate/file.rs:line`.
fn write_caller(out: &mut String, caller: Caller<'_>) {
    let directory = caller.directory();
    let file = caller.file.rsplit('/').next().unwrap_or_default();
    if !directory.is_empty() {
        out.push_str(directory);
        out.push('/');
    }
    let _ = write!(out, "{file}:{}", caller.line);
}

/// A JSON string, escaped as zap escapes it: no HTML escapes, no short form for rare controls.
pub(super) fn write_text(out: &mut String, text: &str) {
    out.push('"');
    let mut copied = 0;
    for (at, byte) in text.bytes().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.push_str(&text[copied..at]);
        copied = at + 1;
        match byte {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            control => {
                let _ = write!(out, "\\u{control:04x}");
            }
        }
    }
    out.push_str(&text[copied..]);
    out.push('"');
}

pub(super) fn write_value(out: &mut String, value: &Value<'_>, space: &str) {
    match value {
        Value::Text(text) => write_text(out, text),
        Value::Int(number) => {
            let _ = write!(out, "{number}");
        }
        Value::Uint(number) => {
            let _ = write!(out, "{number}");
        }
        Value::Float(number) if number.is_nan() => out.push_str("\"NaN\""),
        Value::Float(number) if number.is_infinite() => {
            out.push_str(if *number > 0.0 { "\"+Inf\"" } else { "\"-Inf\"" });
        }
        Value::Float(number) => {
            let _ = write!(out, "{number}");
        }
        Value::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
        Value::Duration(span) => {
            let _ = write!(out, "\"{span}\"");
        }
        Value::Time(time) => {
            out.push('"');
            write_time(out, *time, super::zone());
            out.push('"');
        }
        Value::Hex(id) => {
            let _ = write!(out, "\"{id:x}\"");
        }
        Value::List(items) => {
            out.push('[');
            for (position, item) in items.iter().enumerate() {
                if position > 0 {
                    out.push(',');
                    out.push_str(space);
                }
                write_value(out, item, space);
            }
            out.push(']');
        }
        Value::Object(items) => {
            out.push('{');
            for (position, (key, item)) in items.iter().enumerate() {
                if position > 0 {
                    out.push(',');
                    out.push_str(space);
                }
                write_text(out, key);
                out.push(':');
                out.push_str(space);
                write_value(out, item, space);
            }
            out.push('}');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn record<'r>(logger: &'r str, fields: &'r [(&'r str, Value<'r>)]) -> Record<'r> {
        Record {
            level: Level::Info,
            time: "2026-11-21T08:26:04.870458912Z".parse().unwrap(),
            logger,
            caller: Caller { file: "crates/server/src/embed.rs", line: 12 },
            msg: "Running: ",
            fields,
        }
    }

    fn line(format: Format, record: &Record<'_>, zone: &TimeZone) -> String {
        let mut out = String::new();
        write_record(&mut out, format, record, zone);
        out
    }

    #[test]
    fn json_keeps_the_order_of_keys() {
        let fields = [
            ("args", Value::from(vec!["a".to_owned(), "b\"c".to_owned()])),
            ("took", Value::from(Duration::from_micros(1_050))),
            ("id", Value::Hex(0x2a)),
            ("count", Value::from(3_u64)),
            ("ok", Value::from(true)),
            ("ratio", Value::from(0.5)),
            ("group", Value::Object(vec![("k".into(), Value::Int(-1))])),
            ("error", Value::from("line\n\u{1}\t\\ü<&>")),
        ];
        assert_eq!(
            line(Format::Json, &record("", &fields), &TimeZone::UTC),
            "{\"level\":\"info\",\"ts\":\"2026-11-21T08:26:04.870458Z\",\"caller\":\"server/embed.rs:12\",\
             \"msg\":\"Running: \",\"args\":[\"a\",\"b\\\"c\"],\"took\":\"1.05ms\",\"id\":\"2a\",\"count\":3,\
             \"ok\":true,\"ratio\":0.5,\"group\":{\"k\":-1},\"error\":\"line\\n\\u0001\\t\\\\ü<&>\"}\n"
        );
        let parsed: serde_json::Value =
            serde_json::from_str(&line(Format::Json, &record("raft", &fields), &TimeZone::UTC)).unwrap();
        let keys: Vec<&String> = parsed.as_object().unwrap().keys().collect();
        assert_eq!(keys[..5], ["level", "ts", "logger", "caller", "msg"]);
    }

    #[test]
    fn console_is_tab_separated() {
        let fields = [("a", Value::from("x")), ("b", Value::from(vec!["1".to_owned(), "2".to_owned()]))];
        assert_eq!(
            line(Format::Console, &record("raft", &fields), &TimeZone::UTC),
            "2026-11-21T08:26:04.870458Z\tinfo\traft\tserver/embed.rs:12\tRunning: \t{\"a\": \"x\", \"b\": [\"1\", \"2\"]}\n"
        );
        assert_eq!(
            line(Format::Console, &record("", &[]), &TimeZone::UTC),
            "2026-11-21T08:26:04.870458Z\tinfo\tserver/embed.rs:12\tRunning: \n"
        );
    }

    #[test]
    fn time_is_local_with_a_bare_offset() {
        for (hours, want) in [(1, "09:26:04.870458+0100"), (-5, "03:26:04.870458-0500")] {
            let zone = TimeZone::fixed(jiff::tz::offset(hours));
            assert!(line(Format::Json, &record("", &[]), &zone).contains(want));
        }
    }

    #[test]
    fn callers_are_short() {
        for (file, want) in [
            ("crates/server/src/driver/apply.rs", "driver/apply.rs:7"),
            ("crates/etcd/src/main.rs", "etcd/main.rs:7"),
            ("/home/u/retcd/crates/etcd/src/main.rs", "etcd/main.rs:7"),
            ("main.rs", "main.rs:7"),
        ] {
            let mut out = String::new();
            write_caller(&mut out, Caller { file, line: 7 });
            assert_eq!(out, want);
        }
    }
}
