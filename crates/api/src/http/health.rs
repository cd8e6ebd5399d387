//! `/health`, `/livez` and `/readyz`.
//!
//! **Source**: etcd `server/etcdserver/api/etcdhttp/health.go`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use http::{Request, Response, StatusCode, Uri};
use parking_lot::Mutex;
use proto::etcdserverpb as pb;

use super::{HttpSide, NO_SNIFF, PLAIN_TEXT, error, get_only, not_found, query_pairs, typed};
use crate::error::Error;
use crate::grpc::HttpBody;
use crate::member::Member;

/// Results of health checks: `etcd_server_health_*` and `etcd_server_healthcheck*`.
#[derive(Debug, Default)]
pub struct HealthCounters {
    success: AtomicU64,
    failures: AtomicU64,
    checks: Mutex<BTreeMap<(&'static str, &'static str), CheckCounts>>,
}

/// Results of one check of `/livez` or `/readyz`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckCounts {
    /// The last run succeeded: `etcd_server_healthcheck`.
    pub healthy: bool,
    /// Runs that succeeded.
    pub successes: u64,
    /// Runs that failed.
    pub errors: u64,
}

impl HealthCounters {
    /// `etcd_server_health_success`.
    pub fn success(&self) -> u64 {
        self.success.load(Ordering::Relaxed)
    }

    /// `etcd_server_health_failures`.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// The checks that ran, by type (`livez`, `readyz`) and name.
    pub fn checks(&self) -> BTreeMap<(&'static str, &'static str), CheckCounts> {
        self.checks.lock().clone()
    }

    fn record(&self, probe: &'static str, check: Check, healthy: bool) {
        let mut checks = self.checks.lock();
        let counts = checks.entry((probe, check.name())).or_default();
        counts.healthy = healthy;
        *(if healthy { &mut counts.successes } else { &mut counts.errors }) += 1;
    }
}

/// One thing that `/livez` or `/readyz` looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

const LIVEZ: &[Check] = &[Check::SerializableRead];
const READYZ: &[Check] =
    &[Check::DataCorruption, Check::SerializableRead, Check::LinearizableRead, Check::NonLearner];

impl Check {
    const fn name(self) -> &'static str {
        match self {
            Self::DataCorruption => "data_corruption",
            Self::SerializableRead => "serializable_read",
            Self::LinearizableRead => "linearizable_read",
            Self::NonLearner => "non_learner",
        }
    }

    async fn run<M: Member>(self, member: &M) -> Result<(), String> {
        match self {
            Self::DataCorruption => match member.shared().alarms().is_active(pb::AlarmType::Corrupt) {
                true => Err("alarm activated: CORRUPT".to_owned()),
                false => Ok(()),
            },
            Self::SerializableRead => read(member, true).await,
            Self::LinearizableRead => read(member, false).await,
            Self::NonLearner => match member.raft().is_learner {
                true => Err("not supported for learner".to_owned()),
                false => Ok(()),
            },
        }
    }
}

/// Reads the empty key, as upstream does, within the request timeout.
async fn read<M: Member>(member: &M, serializable: bool) -> Result<(), String> {
    let look = async {
        if !serializable {
            member.read_index().await?;
        }
        member.store().range(&mvcc::RangeQuery::key(bytes::Bytes::new()))?;
        Ok::<_, Error>(())
    };
    match tokio::time::timeout(member.config().request_timeout, look).await {
        Ok(outcome) => outcome.map_err(|error| error.to_string()),
        Err(_) => Err("context deadline exceeded".to_owned()),
    }
}

impl HttpSide {
    pub(super) async fn health<M: Member>(&self, member: &M, uri: &Uri) -> Response<HttpBody> {
        let pairs: Vec<_> = query_pairs(uri.query().unwrap_or_default()).collect();
        let excluded = |alarm: &str| pairs.iter().any(|(name, value)| name == "exclude" && value == alarm);
        let serializable =
            pairs.iter().find(|(name, _)| name == "serializable").is_some_and(|(_, value)| value == "true");
        match sickness(member, excluded, serializable).await {
            None => {
                self.health.success.fetch_add(1, Ordering::Relaxed);
                typed(StatusCode::OK, PLAIN_TEXT, r#"{"health":"true","reason":""}"#)
            }
            Some(reason) => {
                self.health.failures.fetch_add(1, Ordering::Relaxed);
                let reason = serde_json::Value::String(reason);
                let text = format!(r#"{{"health":"false","reason":{reason}}}"#);
                tracing::warn!(output = text, "status-code" = 503, "/health error");
                error(StatusCode::SERVICE_UNAVAILABLE, &text)
            }
        }
    }

    pub(super) async fn probe<M: Member, B>(&self, member: &M, request: &Request<B>) -> Response<HttpBody> {
        let path = request.uri().path();
        let mut segments = path[1..].splitn(2, '/');
        let (probe, all) = match segments.next() {
            Some("livez") => ("livez", LIVEZ),
            Some("readyz") => ("readyz", READYZ),
            _ => return not_found(),
        };
        let single = segments.next();
        let known = |name: &str| all.iter().find(|check| check.name() == name);
        let chosen: Vec<Check> = match single.map(known) {
            Some(Some(check)) => vec![*check],
            Some(None) => return not_found(),
            None => all.to_vec(),
        };
        if let Some(refusal) = get_only(request) {
            return refusal;
        }
        let pairs: Vec<_> = query_pairs(request.uri().query().unwrap_or_default()).collect();
        let excluded = |check: &Check| {
            single.is_none() && pairs.iter().any(|(name, value)| name == "exclude" && value == check.name())
        };
        let (mut report, mut healthy) = (String::new(), true);
        for check in chosen.into_iter().filter(|check| !excluded(check)) {
            let outcome = check.run(member).await;
            self.health.record(probe, check, outcome.is_ok());
            // Writing to a string cannot fail.
            let _ = match outcome {
                Ok(()) => writeln!(report, "[+]{} ok", check.name()),
                Err(reason) => {
                    healthy = false;
                    writeln!(report, "[-]{} failed: {reason}", check.name())
                }
            };
        }
        if !healthy {
            tracing::error!(path, reason = report, "status-code" = 503, "Health check error");
            return error(StatusCode::SERVICE_UNAVAILABLE, &report);
        }
        let verbose = pairs.iter().any(|(name, _)| name == "verbose");
        let text = if verbose { format!("{report}ok\n") } else { "ok\n".to_owned() };
        let mut response = typed(StatusCode::OK, PLAIN_TEXT, text);
        response.headers_mut().insert(NO_SNIFF, http::HeaderValue::from_static("nosniff"));
        response
    }
}

/// Why the member is not healthy: alarms, then the leader, then a read.
async fn sickness<M: Member>(
    member: &M,
    excluded: impl Fn(&str) -> bool,
    serializable: bool,
) -> Option<String> {
    for alarm in member.shared().alarms().list(pb::AlarmType::None as i32) {
        let name = pb::AlarmType::try_from(alarm.alarm).map_or("UNKNOWN", |kind| kind.as_str_name());
        if !excluded(name) {
            tracing::warn!(
                alarm = format!("memberID:{} alarm:{name}", alarm.member_id),
                "serving /health false due to an alarm"
            );
            return Some(format!("ALARM {name}"));
        }
    }
    if !serializable && member.raft().leader.is_none() {
        tracing::warn!("serving /health false; no leader");
        return Some("RAFT NO LEADER".to_owned());
    }
    let reason = read(member, serializable).await.err()?;
    tracing::warn!(error = reason, "serving /health false; Range fails");
    Some(format!("RANGE ERROR:{reason}"))
}
