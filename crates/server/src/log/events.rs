//! Events of the services, which speak `tracing`, as records of this log.
//!
//! Only ours: libraries that use `tracing` too are not listened to. Spans are not used.

use std::fmt::Debug;
use std::sync::Once;

use tracing::field::{Field as EventField, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};

use super::encode::Caller;
use super::{Field, Level, Value, wanted, write};

/// Crates whose events are records.
const SOURCES: [&str; 1] = ["api"];

/// Listens from now on, once per process. A program that embeds the server and listens itself goes
/// on doing so.
pub(super) fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let _ = tracing::subscriber::set_global_default(Bridge);
    });
}

struct Bridge;

fn level_of(metadata: &Metadata<'_>) -> Level {
    match *metadata.level() {
        tracing::Level::ERROR => Level::Error,
        tracing::Level::WARN => Level::Warn,
        tracing::Level::INFO => Level::Info,
        _ => Level::Debug,
    }
}

impl Subscriber for Bridge {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        let source = metadata.target().split("::").next().unwrap_or_default();
        // The level may change later.
        if metadata.is_event() && SOURCES.contains(&source) {
            Interest::sometimes()
        } else {
            Interest::never()
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        wanted(level_of(metadata))
    }

    fn event(&self, event: &Event<'_>) {
        let mut found = Found::default();
        event.record(&mut found);
        let metadata = event.metadata();
        let file = metadata.file().unwrap_or_default();
        let caller = Caller { file, line: metadata.line().unwrap_or_default() };
        write(level_of(metadata), "", caller, &found.message, &found.fields);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[derive(Default)]
struct Found {
    message: String,
    fields: Vec<Field<'static>>,
}

impl Found {
    fn add(&mut self, field: &EventField, value: impl Into<Value<'static>>) {
        self.fields.push((field.name(), value.into()));
    }
}

impl Visit for Found {
    fn record_debug(&mut self, field: &EventField, value: &dyn Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            _ => self.add(field, format!("{value:?}")),
        }
    }

    fn record_str(&mut self, field: &EventField, value: &str) {
        match field.name() {
            "message" => self.message = value.to_owned(),
            _ => self.add(field, value.to_owned()),
        }
    }

    fn record_u64(&mut self, field: &EventField, value: u64) {
        self.add(field, value);
    }

    fn record_i64(&mut self, field: &EventField, value: i64) {
        self.add(field, value);
    }

    fn record_bool(&mut self, field: &EventField, value: bool) {
        self.add(field, value);
    }

    fn record_f64(&mut self, field: &EventField, value: f64) {
        self.add(field, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Capture;

    #[test]
    fn events_of_our_crates_are_records() {
        listen();
        let capture = Capture::start();
        tracing::warn!(target: "api::services", user = "u", "status-code" = 503, error = %"why", "refused");
        tracing::warn!(target: "h2::codec", "not ours");
        let records = capture.records();
        assert!(!capture.contains("not ours"));
        let record = records.iter().find(|record| record.msg == "refused").unwrap();
        assert_eq!(record.level, Level::Warn);
        assert_eq!(record.field("user"), Some("\"u\"".to_owned()));
        assert_eq!(record.field("status-code"), Some("503".to_owned()));
        assert_eq!(record.field("error"), Some("\"why\"".to_owned()));
    }
}
