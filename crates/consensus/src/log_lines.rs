//! The log lines of the crate `raft`, as text, to a function of the caller.

use std::fmt::{self, Write};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use slog::{Drain, KV, Key, Logger, OwnedKVList, Record, Serializer, o};

/// How important a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For developers.
    Debug,
    /// A change of state.
    Info,
    /// Something out of the ordinary that raft handled.
    Warn,
    /// Something that should not be.
    Error,
}

/// Takes a line: importance and text, which starts with the member's id as upstream's do.
pub type LogLine = Arc<dyn Fn(Level, &str) + Send + Sync>;

/// A logger for `raft` that hands lines of at least `level` to `line`.
pub(crate) fn logger(id: u64, level: Level, line: Option<LogLine>) -> Logger {
    match line {
        None => Logger::root(slog::Discard, o!()),
        Some(line) => Logger::root(Lines { id, level, line: AssertUnwindSafe(line) }, o!()),
    }
}

struct Lines {
    id: u64,
    level: Level,
    /// A panic in it leaves nothing of ours half done.
    line: AssertUnwindSafe<LogLine>,
}

impl Drain for Lines {
    type Ok = ();
    type Err = slog::Never;

    fn log(&self, record: &Record<'_>, _: &OwnedKVList) -> Result<(), slog::Never> {
        let level = match record.level() {
            slog::Level::Critical | slog::Level::Error => Level::Error,
            slog::Level::Warning => Level::Warn,
            slog::Level::Info => Level::Info,
            slog::Level::Debug | slog::Level::Trace => Level::Debug,
        };
        if level < self.level {
            return Ok(());
        }
        let mut text = Text { buffer: String::new(), pairs: 0 };
        // Writing to a string cannot fail.
        let _ = write!(text.buffer, "{:x} {}", self.id, record.msg());
        let _ = record.kv().serialize(record, &mut text);
        if text.pairs > 0 {
            text.buffer.push(']');
        }
        (self.line.0)(level, &text.buffer);
        Ok(())
    }
}

struct Text {
    buffer: String,
    pairs: usize,
}

impl Serializer for Text {
    fn emit_arguments(&mut self, key: Key, value: &fmt::Arguments<'_>) -> slog::Result {
        let separator = if self.pairs == 0 { " [" } else { ", " };
        self.pairs += 1;
        write!(self.buffer, "{separator}{key}: {value}").map_err(|_| slog::Error::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn lines_start_with_the_member_and_end_with_the_values() {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = lines.clone();
        let line: LogLine =
            Arc::new(move |level, text: &str| sink.lock().unwrap().push((level, text.to_owned())));
        let logger = logger(0xabc, Level::Info, Some(line));
        slog::info!(logger, "became follower at term {term}", term = 3; "peers" => 2);
        slog::debug!(logger, "not wanted");
        slog::warn!(logger, "plain");
        let lines = lines.lock().unwrap();
        assert_eq!(lines[0], (Level::Info, "abc became follower at term 3 [peers: 2, term: 3]".to_owned()));
        assert_eq!(lines[1], (Level::Warn, "abc plain".to_owned()));
        assert_eq!(lines.len(), 2);
    }
}
