//! The log: zap's record layout behind a small API.
//!
//! ```text
//! log::info!("opened backend db", "path" => path, "took" => took);
//! log::info("opened backend db", &[("path", path.into()), ("took", took.into())]);
//! log::named("raft").info("became leader at term 2", &[]);
//! ```
//!
//! The macros evaluate their fields only when the record is written; the functions take fields made
//! beforehand.
//!
//! One logger per process. Until [`configure`] is called it writes JSON at level info to stderr.
//! The level can change at any time ([`set_level`]); checking it is one relaxed load. Records are
//! built in a buffer of the thread and written under one mutex, a line at a time.
//!
//! [`fatal`] ends the process with status 1, [`panic`] with status 2, each after its record.
//!
//! Source: behaviour of etcd 3.7 `client/pkg/logutil` and zap 1.27.

mod capture;
mod encode;
mod events;
mod journal;
mod rotate;
mod sampler;
mod sink;
mod value;

use std::cell::RefCell;
use std::fmt;
use std::panic::Location;
use std::str::FromStr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use parking_lot::Mutex;

use encode::{Caller, Record, write_record};
use sampler::Sampler;
use sink::Sink;

pub use capture::{Capture, Captured};
pub use encode::Format;
pub use rotate::Rotation;
pub use sink::OpenSinkError;
pub use value::Value;

/// Weight of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Level {
    /// For developers.
    Debug,
    /// What happened.
    Info,
    /// What an operator may want to look at.
    Warn,
    /// What somebody has to look at.
    Error,
    /// A bug that does not stop the process.
    DPanic,
    /// A bug that stops the process with status 2.
    Panic,
    /// A fault that stops the process with status 1.
    Fatal,
}

impl Level {
    /// Every level, lightest first.
    pub const ALL: [Self; 7] =
        [Self::Debug, Self::Info, Self::Warn, Self::Error, Self::DPanic, Self::Panic, Self::Fatal];

    /// The name in records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
            Self::DPanic => "dpanic",
            Self::Panic => "panic",
            Self::Fatal => "fatal",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A word that is not a level; prints zap's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unrecognized level: {}", crate::config::scalars::quote(.0))]
pub struct ParseLevelError(pub String);

impl FromStr for Level {
    type Err = ParseLevelError;

    /// Any case; the empty word is info, `warning` is warn.
    fn from_str(text: &str) -> Result<Self, ParseLevelError> {
        match text.to_lowercase().as_str() {
            "" => Ok(Self::Info),
            "warning" => Ok(Self::Warn),
            lower => Self::ALL
                .into_iter()
                .find(|level| level.name() == lower)
                .ok_or_else(|| ParseLevelError(text.to_owned())),
        }
    }
}

/// How to log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Lowest level written.
    pub level: Level,
    /// Form of the records.
    pub format: Format,
    /// `default`, `stderr`, `stdout`, `systemd/journal` or paths.
    pub outputs: Vec<String>,
    /// How to rotate the file among them, if at all.
    pub rotation: Option<Rotation>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { level: Level::Info, format: Format::Json, outputs: vec!["default".to_owned()], rotation: None }
    }
}

struct Logger {
    format: Format,
    sinks: Mutex<Vec<Sink>>,
    sampler: Sampler,
}

static LEVEL: AtomicU8 = AtomicU8::new(Level::Info as u8);

fn global() -> &'static ArcSwap<Logger> {
    static GLOBAL: OnceLock<ArcSwap<Logger>> = OnceLock::new();
    GLOBAL.get_or_init(|| {
        ArcSwap::from_pointee(Logger {
            format: Format::Json,
            sinks: Mutex::new(vec![Sink::Stderr]),
            sampler: Sampler::new(),
        })
    })
}

fn zone() -> &'static TimeZone {
    static ZONE: OnceLock<TimeZone> = OnceLock::new();
    ZONE.get_or_init(TimeZone::system)
}

/// Opens the destinations and makes them those of the process. On an error nothing changes.
pub fn configure(settings: &Settings) -> Result<(), OpenSinkError> {
    let sinks = Sink::open_all(settings)?;
    let logger = Logger { format: settings.format, sinks: Mutex::new(sinks), sampler: Sampler::new() };
    global().store(Arc::new(logger));
    set_level(settings.level);
    events::listen();
    Ok(())
}

/// Changes the lowest level written.
pub fn set_level(level: Level) {
    LEVEL.store(level as u8, Ordering::Relaxed);
}

/// The lowest level written.
pub fn level() -> Level {
    let level = LEVEL.load(Ordering::Relaxed);
    Level::ALL.into_iter().find(|known| *known as u8 == level).unwrap_or(Level::Info)
}

/// Whether records of this level are written; ask before building costly fields.
pub fn enabled(level: Level) -> bool {
    level as u8 >= LEVEL.load(Ordering::Relaxed)
}

/// A field: name and value.
pub type Field<'f> = (&'f str, Value<'f>);

/// A logger with a name, shown as `logger`.
#[derive(Clone, Copy, Debug)]
pub struct Named(&'static str);

/// A logger with a name, for instance `raft`.
pub const fn named(name: &'static str) -> Named {
    Named(name)
}

const UNNAMED: Named = Named("");

impl Named {
    /// Writes a record of the given level.
    #[track_caller]
    pub fn log(self, level: Level, msg: &str, fields: &[Field<'_>]) {
        if enabled(level) || capture::active() {
            write(level, self.0, Location::caller().into(), msg, fields);
        }
    }

    /// Writes a record at level debug.
    #[track_caller]
    pub fn debug(self, msg: &str, fields: &[Field<'_>]) {
        self.log(Level::Debug, msg, fields);
    }

    /// Writes a record at level info.
    #[track_caller]
    pub fn info(self, msg: &str, fields: &[Field<'_>]) {
        self.log(Level::Info, msg, fields);
    }

    /// Writes a record at level warn.
    #[track_caller]
    pub fn warn(self, msg: &str, fields: &[Field<'_>]) {
        self.log(Level::Warn, msg, fields);
    }

    /// Writes a record at level error.
    #[track_caller]
    pub fn error(self, msg: &str, fields: &[Field<'_>]) {
        self.log(Level::Error, msg, fields);
    }
}

/// Writes a record of the given level.
#[track_caller]
pub fn log(level: Level, msg: &str, fields: &[Field<'_>]) {
    UNNAMED.log(level, msg, fields);
}

/// Writes a record at level debug.
#[track_caller]
pub fn debug(msg: &str, fields: &[Field<'_>]) {
    UNNAMED.log(Level::Debug, msg, fields);
}

/// Writes a record at level info.
#[track_caller]
pub fn info(msg: &str, fields: &[Field<'_>]) {
    UNNAMED.log(Level::Info, msg, fields);
}

/// Writes a record at level warn.
#[track_caller]
pub fn warn(msg: &str, fields: &[Field<'_>]) {
    UNNAMED.log(Level::Warn, msg, fields);
}

/// Writes a record at level error.
#[track_caller]
pub fn error(msg: &str, fields: &[Field<'_>]) {
    UNNAMED.log(Level::Error, msg, fields);
}

/// Writes a record at level fatal and ends the process with status 1.
#[track_caller]
pub fn fatal(msg: &str, fields: &[Field<'_>]) -> ! {
    UNNAMED.log(Level::Fatal, msg, fields);
    std::process::exit(1)
}

/// Writes a record at level panic and ends the process with status 2.
#[track_caller]
pub fn panic(msg: &str, fields: &[Field<'_>]) -> ! {
    UNNAMED.log(Level::Panic, msg, fields);
    eprintln!("panic: {msg}");
    std::process::exit(2)
}

#[doc(hidden)]
pub fn wanted(level: Level) -> bool {
    enabled(level) || capture::active()
}

/// Writes a record whose fields are evaluated only if it is written.
#[doc(hidden)]
#[macro_export]
macro_rules! log_record {
    ($level:ident, $msg:expr $(, $key:literal => $value:expr)* $(,)?) => {
        if $crate::log::wanted($crate::log::Level::$level) {
            $crate::log::log($crate::log::Level::$level, $msg, &[$(($key, $crate::log::Value::from($value))),*]);
        }
    };
}

/// Writes a record at level debug: `debug!("message", "key" => value)`.
#[doc(hidden)]
#[macro_export]
macro_rules! log_debug {
    ($($record:tt)*) => { $crate::log_record!(Debug, $($record)*) };
}

/// Writes a record at level info: `info!("message", "key" => value)`.
#[doc(hidden)]
#[macro_export]
macro_rules! log_info {
    ($($record:tt)*) => { $crate::log_record!(Info, $($record)*) };
}

/// Writes a record at level warn: `warn!("message", "key" => value)`.
#[doc(hidden)]
#[macro_export]
macro_rules! log_warn {
    ($($record:tt)*) => { $crate::log_record!(Warn, $($record)*) };
}

/// Writes a record at level error: `error!("message", "key" => value)`.
#[doc(hidden)]
#[macro_export]
macro_rules! log_error {
    ($($record:tt)*) => { $crate::log_record!(Error, $($record)*) };
}

pub use crate::{log_debug as debug, log_error as error, log_info as info, log_warn as warn};

/// A record that is going to be written, of which only the fields are missing.
#[must_use]
#[derive(Debug)]
pub struct Admitted {
    level: Level,
    msg: &'static str,
    time: Timestamp,
}

/// For records whose fields are dear to make and of which there may be many: whether the next one of this
/// message is written at all.
pub fn admit(level: Level, msg: &'static str) -> Option<Admitted> {
    if !wanted(level) {
        return None;
    }
    let time = Timestamp::now();
    (capture::active() || is_admitted(level, msg, time)).then_some(Admitted { level, msg, time })
}

impl Admitted {
    /// Writes it.
    #[track_caller]
    pub fn write(self, fields: &[Field<'_>]) {
        let Self { level, msg, time } = self;
        if !capture::take(level, "", msg, fields) {
            let caller = Location::caller().into();
            write_admitted(&Record { level, time, logger: "", caller, msg, fields });
        }
    }
}

fn is_admitted(level: Level, msg: &str, time: Timestamp) -> bool {
    let nanos = i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX);
    global().load().sampler.admits(level, msg, nanos)
}

fn write(level: Level, logger: &str, caller: Caller<'_>, msg: &str, fields: &[Field<'_>]) {
    let time = Timestamp::now();
    if !capture::take(level, logger, msg, fields) && is_admitted(level, msg, time) {
        write_admitted(&Record { level, time, logger, caller, msg, fields });
    }
}

fn write_admitted(record: &Record<'_>) {
    let global = global().load();
    thread_local! {
        static LINE: RefCell<String> = const { RefCell::new(String::new()) };
    }
    LINE.with_borrow_mut(|line| {
        line.clear();
        write_record(line, global.format, record, zone());
        for sink in global.sinks.lock().iter_mut() {
            // Nowhere left to report a log that cannot be written.
            let _ = sink.write(record.level, record.caller, line.as_bytes());
            report_lost(sink, global.format, record.time);
        }
        line.shrink_to(16 << 10);
    });
}

/// Tells a destination that takes records again how many it did not take.
fn report_lost(sink: &mut Sink, format: Format, time: Timestamp) {
    let lost = sink.take_lost();
    if lost == 0 {
        return;
    }
    let caller: Caller<'_> = Location::caller().into();
    let fields: &[Field<'_>] = &[("records", lost.into())];
    let msg = "the journal took too long; records were dropped";
    let record = Record { level: Level::Warn, time, logger: "", caller, msg, fields };
    let mut line = String::new();
    write_record(&mut line, format, &record, zone());
    // If it is not taken either, that is counted again.
    let _ = sink.write(Level::Warn, caller, line.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_parse_in_any_case() {
        for (text, want) in [
            ("debug", Level::Debug),
            ("INFO", Level::Info),
            ("", Level::Info),
            ("Warning", Level::Warn),
            ("dpanic", Level::DPanic),
            ("FATAL", Level::Fatal),
        ] {
            assert_eq!(text.parse(), Ok(want));
        }
        assert_eq!("foo".parse::<Level>().unwrap_err().to_string(), "unrecognized level: \"foo\"");
    }

    #[test]
    fn captured_records_do_not_reach_the_sinks() {
        let capture = Capture::start();
        named("raft").debug("tick", &[("term", 2_u64.into())]);
        error!("failed", "error" => "why");
        let records = capture.records();
        assert_eq!(records.len(), 2);
        assert_eq!((records[0].level, records[0].logger.as_str()), (Level::Debug, "raft"));
        assert_eq!(records[1].field("error"), Some("\"why\"".to_owned()));
        assert!(capture.contains("tick"));
        assert!(!capture.contains("tock"));
    }

    #[test]
    fn a_record_that_would_not_be_written_is_not_made() {
        let _others = capture::hold();
        let admitted = || (0..500).filter_map(|_| admit(Level::Error, "made for this test alone")).count();
        // A second begins anew at most once or twice.
        assert!((104..=400).contains(&admitted()));
        assert!(admit(Level::Debug, "made for this test alone").is_none());
    }

    #[test]
    fn files_receive_whole_lines() {
        let _serial = Capture::start();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("etcd.log").to_str().unwrap().to_owned();
        let settings = Settings { outputs: vec![path.clone()], ..Settings::default() };
        let mut sinks = Sink::open_all(&settings).unwrap();
        let mut line = String::new();
        let record = Record {
            level: Level::Warn,
            time: Timestamp::UNIX_EPOCH,
            logger: "",
            caller: Caller { file: "a/b.rs", line: 1 },
            msg: "m",
            fields: &[],
        };
        write_record(&mut line, Format::Json, &record, &TimeZone::UTC);
        sinks[0].write(record.level, record.caller, line.as_bytes()).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(
            text,
            "{\"level\":\"warn\",\"ts\":\"1970-01-01T00:00:00.000000Z\",\"caller\":\"a/b.rs:1\",\"msg\":\"m\"}\n"
        );
    }
}
