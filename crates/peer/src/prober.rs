//! Probing: how long a round trip to a peer takes, and whether its clock agrees.
//!
//! Two probers per peer, one for each kind of connection etcd has, every 4 s. What they found is
//! looked at after 5 s, then every 30 s while all is well: one value for the histogram each time.
//!
//! **Source**: etcd `server/etcdserver/api/rafthttp/probing_status.go`, module `probing`.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use jiff::Timestamp;
use types::MemberId;

use crate::context::Shared;
use crate::identity::bare_request;
use crate::link::{Link, LinkError, LinkLimits, full, read_body};
use crate::log::Field;
use crate::metrics::PeerMetrics;
use crate::url::{PeerUrl, UrlPicker};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};

/// Where a member answers probes.
pub(crate) const PATH: &str = "/raft/probing";
/// Name of the prober that stands for streams and pipeline.
pub(crate) const RAFT_MESSAGES: &str = "ROUND_TRIPPER_RAFT_MESSAGE";
/// Name of the prober that stands for snapshots.
pub(crate) const SNAPSHOTS: &str = "ROUND_TRIPPER_SNAPSHOT";

const LOOK_WHEN_WELL: Duration = Duration::from_secs(30);
const LOOK_WHEN_ILL: Duration = Duration::from_secs(5);
const MAX_CLOCK_DIFFERENCE: Duration = Duration::from_secs(1);
/// Longest answer that is read.
const MAX_ANSWER_BYTES: usize = 4096;

/// The answer to a probe.
pub(crate) fn answer() -> String {
    format!("{{\"OK\":true,\"Now\":\"{}\"}}\n", Timestamp::now())
}

/// Why a probe failed.
#[derive(Clone, Debug, thiserror::Error)]
enum ProbeError {
    #[error("{0}")]
    Link(Arc<LinkError>),
    #[error("got unexpected HTTP status code {status} from {url}")]
    Status { status: StatusCode, url: String },
    #[error("the answer is not that of a member")]
    Answer,
}

impl From<LinkError> for ProbeError {
    fn from(error: LinkError) -> Self {
        Self::Link(Arc::new(error))
    }
}

/// What the probes found.
#[derive(Default)]
struct Findings {
    /// Smoothed: 7/8 old, 1/8 new.
    round_trip: Duration,
    clock_difference: Duration,
    healthy: bool,
    error: Option<ProbeError>,
}

impl Findings {
    fn record(&mut self, took: Duration, their_now: Timestamp) {
        let last = if self.round_trip.is_zero() { took } else { self.round_trip };
        self.round_trip = (last * 7 + took) / 8;
        let behind = Timestamp::now().duration_since(their_now).as_nanos();
        let expected = i128::try_from(self.round_trip.as_nanos() / 2).unwrap_or_default();
        // A clock ahead of ours counts as well as one behind it.
        let difference = u64::try_from((behind - expected).unsigned_abs()).unwrap_or(u64::MAX);
        self.clock_difference = Duration::from_nanos(difference);
        self.healthy = true;
        self.error = None;
    }

    fn record_failure(&mut self, error: ProbeError) {
        self.healthy = false;
        self.error = Some(error);
    }
}

/// Probes one peer until it is dropped.
pub(crate) struct Prober {
    pub(crate) name: &'static str,
    pub(crate) peer: MemberId,
    pub(crate) shared: Arc<Shared>,
    pub(crate) picker: Arc<UrlPicker>,
    pub(crate) metrics: Arc<PeerMetrics>,
}

impl Prober {
    pub(crate) async fn run(self) {
        let limits =
            LinkLimits { write: self.shared.config.write_timeout, response: self.shared.config.read_timeout };
        let mut link = Link::new(self.shared.config.dialer.clone(), limits);
        // Shorter than the time after which the other side closes a silent connection.
        let period = self.shared.config.read_timeout.saturating_sub(Duration::from_secs(1));
        let period = period.max(Duration::from_millis(100));
        let mut ticks = interval_at(Instant::now() + period, period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut findings = Findings::default();
        let mut look = Box::pin(sleep(LOOK_WHEN_ILL));
        loop {
            tokio::select! {
                _ = ticks.tick() => self.probe(&mut link, &mut findings).await,
                () = &mut look => {
                    let pause = self.look_at(&findings);
                    look.as_mut().reset(Instant::now() + pause);
                }
            }
        }
    }

    async fn probe(&self, link: &mut Link, findings: &mut Findings) {
        let url = self.picker.pick();
        let started = Instant::now();
        match self.ask(link, &url).await {
            Ok(their_now) => findings.record(started.elapsed(), their_now),
            Err(error) => {
                link.close();
                findings.record_failure(error);
            }
        }
    }

    async fn ask(&self, link: &mut Link, url: &PeerUrl) -> Result<Timestamp, ProbeError> {
        let request = || {
            bare_request(Method::GET, url, PATH)
                .body(full(""))
                .expect("parts of a request were checked when they were made")
        };
        let response = link.send(url, request).await?;
        let status = response.status();
        let patience = self.shared.config.read_timeout;
        let body = read_body(response.into_body(), MAX_ANSWER_BYTES, patience, url).await?;
        if status != StatusCode::OK {
            return Err(ProbeError::Status { status, url: format!("{url}{PATH}") });
        }
        read_answer(&body).ok_or(ProbeError::Answer)
    }

    /// Says what is wrong; answers when to look again.
    fn look_at(&self, findings: &Findings) -> Duration {
        if !findings.healthy {
            self.shared.log().warn("prober detected unhealthy status", &self.fields(findings));
        }
        if findings.clock_difference > MAX_CLOCK_DIFFERENCE {
            let mut fields = self.fields(findings);
            fields.insert(2, ("clock-drift", findings.clock_difference.into()));
            self.shared.log().warn("prober found high clock drift", &fields);
        }
        self.metrics.round_trip.observe(findings.round_trip);
        if findings.healthy { LOOK_WHEN_WELL } else { LOOK_WHEN_ILL }
    }

    fn fields(&self, findings: &Findings) -> Vec<(&'static str, Field<'static>)> {
        let mut fields = vec![
            ("round-tripper-name", self.name.into()),
            ("remote-peer-id", self.peer.into()),
            ("rtt", findings.round_trip.into()),
        ];
        if let Some(error) = &findings.error {
            fields.push(("error", error.to_string().into()));
        }
        fields
    }
}

/// When the other side answered, by its clock.
fn read_answer(body: &[u8]) -> Option<Timestamp> {
    let answer: serde_json::Value = serde_json::from_slice(body).ok()?;
    if answer.get("OK")?.as_bool() != Some(true) {
        return None;
    }
    answer.get("Now")?.as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_in_both_dialects() {
        assert!(read_answer(answer().as_bytes()).is_some());
        let with_zone = br#"{"OK":true,"Now":"2026-11-21T08:38:39.123456789+01:00"}"#;
        assert_eq!(read_answer(with_zone), "2026-11-21T07:38:39.123456789Z".parse().ok());
        assert_eq!(read_answer(br#"{"OK":false,"Now":"2026-11-21T07:38:39Z"}"#), None);
        assert_eq!(read_answer(b"<html>"), None);
    }

    #[test]
    fn clocks_are_compared_in_both_directions() {
        let mut findings = Findings::default();
        let now = Timestamp::now();
        findings.record(Duration::from_millis(8), now);
        assert!(findings.healthy && findings.clock_difference < MAX_CLOCK_DIFFERENCE);
        assert_eq!(findings.round_trip, Duration::from_millis(8));
        findings.record(Duration::from_millis(16), now + jiff::SignedDuration::from_secs(5));
        assert_eq!(findings.round_trip, Duration::from_millis(9));
        assert!(findings.clock_difference > Duration::from_secs(4));
        findings.record_failure(ProbeError::Answer);
        assert!(!findings.healthy);
    }
}
