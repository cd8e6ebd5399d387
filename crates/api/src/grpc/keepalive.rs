//! Pings: ours, to find clients that have gone, and those of clients, of which there may be too many.
//!
//! **Source**: `google.golang.org/grpc` `internal/transport/http2_server.go`.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http2::server::Connection;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep};

use super::{Options, Protocols};

/// Pings that come too early before a client is sent away.
const STRIKES: u32 = 2;
/// How often a client without calls may ping.
const IDLE_MIN_TIME: Duration = Duration::from_secs(2 * 60 * 60);

/// Pings an idle peer and notices when it no longer answers.
pub(crate) struct Keepalive {
    interval: Duration,
    patience: Duration,
    timer: Pin<Box<Sleep>>,
    waiting: bool,
}

impl Keepalive {
    pub(crate) fn new(options: &Options) -> Self {
        let (interval, patience) = (options.keepalive_interval, options.keepalive_timeout);
        Self { interval, patience, timer: Box::pin(sleep(interval)), waiting: false }
    }

    /// Ready when a ping was not answered in time.
    pub(crate) fn poll_dead<IO>(&mut self, connection: &mut Connection<IO>, cx: &mut Context<'_>) -> Poll<()>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        if self.waiting && connection.take_pong() {
            self.waiting = false;
            self.timer.as_mut().reset(Instant::now() + self.interval);
        }
        loop {
            ready!(self.timer.as_mut().poll(cx));
            if self.waiting {
                return Poll::Ready(());
            }
            connection.ping();
            self.waiting = true;
            self.timer.as_mut().reset(Instant::now() + self.patience);
        }
    }
}

/// Counts pings that come too early. A ping behind something that we sent is none: clients measure
/// the line with them.
pub(crate) struct PingPolicy {
    min_time: Duration,
    last: Option<Instant>,
    strikes: u32,
}

impl PingPolicy {
    /// Upstream has no such policy where gRPC and HTTP share an encrypted port.
    pub(crate) fn new(options: &Options, secure: bool) -> Self {
        let lenient = secure && options.protocols == Protocols::Both;
        let min_time = if lenient { Duration::ZERO } else { options.keepalive_min_time };
        Self { min_time, last: None, strikes: 0 }
    }

    /// Looks at the pings that have come since.
    pub(crate) fn are_too_many<IO>(&mut self, connection: &mut Connection<IO>) -> bool
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let Some(pings) = connection.take_pings() else { return false };
        if self.min_time.is_zero() {
            return false;
        }
        let min_time = if pings.idle { IDLE_MIN_TIME } else { self.min_time };
        self.count(pings.count, pings.forgiven, min_time, Instant::now())
    }

    fn count(&mut self, count: u32, forgiven: bool, min_time: Duration, now: Instant) -> bool {
        let mut count = count;
        if forgiven {
            self.strikes = 0;
            self.last = Some(now);
            count -= 1;
        }
        for _ in 0..count {
            if self.last.is_some_and(|last| now < last + min_time) {
                self.strikes += 1;
            }
            self.last = Some(now);
        }
        self.strikes > STRIKES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strikes_add_up_until_we_send_something() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut policy = PingPolicy { min_time: Duration::from_secs(5), last: None, strikes: 0 };
        let mut ping = |forgiven, seconds| policy.count(1, forgiven, Duration::from_secs(5), at(seconds));
        assert!(!ping(false, 0));
        assert!(!ping(false, 5));
        assert!(!ping(false, 6) && !ping(false, 7));
        assert!(!ping(true, 8));
        assert!(!ping(false, 9) && !ping(false, 10));
        assert!(ping(false, 11));
        let mut burst = PingPolicy { min_time: Duration::from_secs(5), last: None, strikes: 0 };
        assert!(!burst.count(3, false, Duration::from_secs(5), start));
        assert!(burst.count(1, false, Duration::from_secs(5), start));
    }
}
