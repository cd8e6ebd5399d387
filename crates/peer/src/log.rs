//! Log lines with named values, to a function of the caller.
//!
//! Messages and field names are etcd's: tools and operators look for them.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use types::{ClusterId, MemberId};

/// Weight of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For developers.
    Debug,
    /// What happened.
    Info,
    /// What an operator may want to look at.
    Warn,
    /// What somebody has to look at.
    Error,
}

/// Value of a field.
#[derive(Clone, Debug, PartialEq)]
pub enum Field<'f> {
    /// Text.
    Text(Cow<'f, str>),
    /// A number.
    Number(u64),
    /// True or false.
    Flag(bool),
    /// A span of time.
    Span(Duration),
    /// An id, to be printed in hexadecimal without padding.
    Id(u64),
}

impl<'f> From<&'f str> for Field<'f> {
    fn from(text: &'f str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Field<'_> {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl From<MemberId> for Field<'_> {
    fn from(id: MemberId) -> Self {
        Self::Id(id.0)
    }
}

impl From<ClusterId> for Field<'_> {
    fn from(id: ClusterId) -> Self {
        Self::Id(id.0)
    }
}

impl From<u64> for Field<'_> {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<bool> for Field<'_> {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

impl From<Duration> for Field<'_> {
    fn from(span: Duration) -> Self {
        Self::Span(span)
    }
}

/// The fields of a line.
pub type Fields<'f> = [(&'static str, Field<'f>)];

/// Takes a line.
type Sink = dyn Fn(Level, &str, &Fields<'_>) + Send + Sync;

/// Where lines go. Clones share it.
#[derive(Clone)]
pub struct Log(Arc<Sink>);

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Log")
    }
}

impl Log {
    /// Lines go to `sink`, which is called on the thread of the peers and on those that send.
    pub fn new(sink: impl Fn(Level, &str, &Fields<'_>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(sink))
    }

    /// Nobody reads.
    pub fn silent() -> Self {
        Self::new(|_, _, _| {})
    }

    pub(crate) fn debug(&self, message: &str, fields: &Fields<'_>) {
        (self.0)(Level::Debug, message, fields);
    }

    pub(crate) fn info(&self, message: &str, fields: &Fields<'_>) {
        (self.0)(Level::Info, message, fields);
    }

    pub(crate) fn warn(&self, message: &str, fields: &Fields<'_>) {
        (self.0)(Level::Warn, message, fields);
    }

    pub(crate) fn error(&self, message: &str, fields: &Fields<'_>) {
        (self.0)(Level::Error, message, fields);
    }
}

/// Lets a line through once a second at most, for what can happen with every message.
#[derive(Debug)]
pub(crate) struct Limiter {
    start: Instant,
    /// Milliseconds since `start` before which nothing is let through.
    next_ms: AtomicU64,
    held_back: AtomicU64,
}

impl Default for Limiter {
    fn default() -> Self {
        Self { start: Instant::now(), next_ms: AtomicU64::new(0), held_back: AtomicU64::new(0) }
    }
}

impl Limiter {
    const PAUSE_MS: u64 = 1000;

    /// Whether to write the line; if so, how many were held back since the last one.
    pub(crate) fn pass(&self) -> Option<u64> {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        let next = self.next_ms.load(Ordering::Relaxed);
        let later = now.saturating_add(Self::PAUSE_MS);
        let mine = now >= next
            && self.next_ms.compare_exchange(next, later, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if mine {
            return Some(self.held_back.swap(0, Ordering::Relaxed));
        }
        self.held_back.fetch_add(1, Ordering::Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_line_a_second() {
        let limiter = Limiter::default();
        assert_eq!(limiter.pass(), Some(0));
        assert_eq!((limiter.pass(), limiter.pass()), (None, None));
        tokio::time::advance(Duration::from_millis(1001)).await;
        assert_eq!(limiter.pass(), Some(2));
        assert_eq!(limiter.pass(), None);
    }
}
