//! Records of what took long: applying, reading, unary calls, and what they waited for.
//!
//! **Source**: etcd `server/etcdserver/txn/util.go`, `server/etcdserver/api/v3rpc/interceptor.go`,
//! `pkg/traceutil`.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use api::error::Error;
use api::grpc::{Ended, SentReply, TRACE_THRESHOLD};
use api::member::{ReadOutcome, ReadRequest, SlowRead};
use apply::{ApplyError, Reply};
use env::Random;
use env::real::OsRandom;
use jiff::{SignedDuration, Timestamp};
use prost::Message;
use proto::etcdserverpb as pb;

use super::text;
use crate::config::duration::GoDuration;
use crate::log::{self, Admitted, Field, Level};
use crate::metrics::Metrics;

const SLOW: &str = "apply request took too long";
const FAILED: &str = "failed to apply request";

/// An entry that was applied slowly, or refused.
#[derive(Clone, Copy, Debug)]
pub struct AppliedEntry<'a> {
    /// The entry's data.
    pub data: &'a bytes::Bytes,
    /// What came of it.
    pub result: &'a Result<Reply, ApplyError>,
    /// How long it took.
    pub took: Duration,
}

impl AppliedEntry<'_> {
    /// Whether the entry deserves a record: slower than `limit`, or refused by what it found.
    pub fn is_notable(&self, limit: Duration) -> bool {
        self.took > limit || self.is_failure()
    }

    fn is_failure(&self) -> bool {
        !matches!(self.result, Ok(_) | Err(ApplyError::Compacted))
    }

    /// Writes the records.
    pub fn report(&self, limit: Duration, metrics: &Metrics) {
        if self.took > limit {
            metrics.slow_apply.inc();
        }
        // In a storm of refusals most records are not written: those cost this thread next to nothing.
        let slow = (self.took > limit).then(|| log::admit(Level::Warn, SLOW)).flatten();
        let failed = self.is_failure().then(|| log::admit(Level::Warn, FAILED)).flatten();
        if slow.is_none() && failed.is_none() {
            return;
        }
        let request = match membership::decode_entry(self.data.clone()) {
            Ok(Some(request)) => text::raft_request(&request),
            // It was applied, so it did decode.
            Ok(None) | Err(_) => String::new(),
        };
        let response = match self.result {
            Ok(reply) => reply_len(reply).map_or_else(String::new, |len| format!("size:{len}")),
            Err(_) => String::new(),
        };
        let error = self.result.as_ref().err().map(apply_error);
        if let Some(record) = slow {
            write_slow(record, self.took, limit, "", &request, &response, error.clone());
        }
        if let Some(record) = failed {
            let mut fields: Vec<Field<'_>> =
                vec![("took", self.took.into()), ("request", request.into()), ("response", response.into())];
            fields.extend(error.map(|error| ("error", error.into())));
            record.write(&fields);
        }
    }
}

fn write_slow(
    record: Admitted,
    took: Duration,
    limit: Duration,
    prefix: &str,
    request: &str,
    response: &str,
    error: Option<String>,
) {
    let mut fields: Vec<Field<'_>> = vec![
        ("took", took.into()),
        ("expected-duration", limit.into()),
        ("prefix", prefix.into()),
        ("request", request.into()),
        ("response", response.into()),
    ];
    fields.extend(error.map(|error| ("error", error.into())));
    record.write(&fields);
}

/// Upstream's words, which differ from those that clients get.
fn apply_error(error: &ApplyError) -> String {
    match error {
        ApplyError::Corrupt => "etcdserver: corrupt cluster".to_owned(),
        ApplyError::NoSpace => "etcdserver: no space".to_owned(),
        ApplyError::KeyNotFound => "etcdserver: key not found".to_owned(),
        ApplyError::LeaseNotFound(_) => "lease not found".to_owned(),
        ApplyError::LeaseExists(_) => "lease already exists".to_owned(),
        ApplyError::Compacted => "mvcc: required revision has been compacted".to_owned(),
        ApplyError::FutureRevision => "mvcc: required revision is a future revision".to_owned(),
        other => other.to_string(),
    }
}

fn reply_len(reply: &Reply) -> Option<usize> {
    Some(match reply {
        Reply::Empty => return None,
        Reply::Put(message) => message.encoded_len(),
        Reply::Range(message) => message.encoded_len(),
        Reply::DeleteRange(message) => message.encoded_len(),
        Reply::Txn(message) => message.encoded_len(),
        Reply::Compaction(message) => message.encoded_len(),
        Reply::LeaseGrant(message) => message.encoded_len(),
        Reply::LeaseRevoke(message) => message.encoded_len(),
        Reply::LeaseCheckpoint(message) => message.encoded_len(),
        Reply::Alarm(message) => message.encoded_len(),
        Reply::AuthChange(header) => pb::AuthEnableResponse { header: *header }.encoded_len(),
        Reply::Authenticate(message) => message.encoded_len(),
        Reply::AuthStatus(message) => message.encoded_len(),
        Reply::AuthUser(message) => message.encoded_len(),
        Reply::AuthUsers(message) => message.encoded_len(),
        Reply::AuthRole(message) => message.encoded_len(),
        Reply::AuthRoles(message) => message.encoded_len(),
    })
}

/// Writes the record of a read that took longer than `limit`.
pub fn report_read(read: &SlowRead<'_>, limit: Duration, metrics: &Metrics) {
    metrics.slow_apply.inc();
    let Some(record) = log::admit(Level::Warn, SLOW) else { return };
    let (prefix, request) = match read.request {
        ReadRequest::Range(request) => ("read-only range ", text::range(request)),
        ReadRequest::Txn(request) => ("read-only txn ", text::txn(request)),
    };
    let response = match read.outcome {
        Ok(ReadOutcome::Range { count, bytes }) => format!("range_response_count:{count} size:{bytes}"),
        Ok(ReadOutcome::Txn(response)) => {
            let counts: Vec<String> = response
                .responses
                .iter()
                .filter_map(|op| match &op.response {
                    Some(pb::response_op::Response::ResponseRange(range)) => {
                        Some(format!("range_response_count:{}", range.kvs.len()))
                    }
                    _ => None,
                })
                .collect();
            format!("responses:<{}> size:{}", counts.join(" "), response.encoded_len())
        }
        Err(_) => String::new(),
    };
    let error = read.outcome.err().map(Error::to_string);
    write_slow(record, read.took, limit, prefix, &request, &response, error);
}

/// What records tell of a transaction's answer. What it read is passed over: it may be large, and the
/// answer has not left yet.
#[derive(Clone, PartialEq, prost::Message)]
struct TxnSummary {
    #[prost(message, optional, tag = "1")]
    header: Option<pb::ResponseHeader>,
    #[prost(bool, tag = "2")]
    succeeded: bool,
    #[prost(message, repeated, tag = "3")]
    responses: Vec<Unread>,
}

/// A message of which nothing is kept.
#[derive(Clone, PartialEq, prost::Message)]
struct Unread {}

/// The two sides of a unary call as they count. Unknown is -1.
struct Stats {
    request_count: i64,
    request_size: i64,
    response_count: i64,
    response_size: i64,
    content: String,
}

impl Stats {
    fn of(call: &Ended<'_>) -> Self {
        let request = call.request.cloned().unwrap_or_default();
        let reply = call.reply.as_ref().map(SentReply::buf);
        let response_size = call.reply.map_or(0, |reply| reply.len() as i64);
        let known = |request_count, response_count, content| Self {
            request_count,
            request_size: request.len() as i64,
            response_count,
            response_size,
            content,
        };
        let decoded = match call.path {
            "/etcdserverpb.KV/Range" => pb::RangeRequest::decode(request.clone())
                .map(|message| known(0, call.found.map_or(0, |found| found.total), text::range(&message))),
            "/etcdserverpb.KV/Put" => {
                pb::PutRequest::decode(request.clone()).map(|message| known(1, 0, text::put(&message)))
            }
            "/etcdserverpb.KV/DeleteRange" => {
                pb::DeleteRangeRequest::decode(request.clone()).map(|message| {
                    let reply = reply.and_then(|reply| pb::DeleteRangeResponse::decode(reply).ok());
                    known(0, reply.map_or(0, |reply| reply.deleted), text::delete_range(&message))
                })
            }
            "/etcdserverpb.KV/Txn" => {
                let reply = reply.and_then(|reply| TxnSummary::decode(reply).ok());
                pb::TxnRequest::decode(request.clone())
                    .map(|message| Self::of_txn(&message, reply.map(|reply| reply.succeeded), response_size))
            }
            _ => Ok(Self {
                request_count: -1,
                request_size: -1,
                response_count: -1,
                response_size: -1,
                content: String::new(),
            }),
        };
        // What does not decode was refused for that, and has nothing to say.
        decoded.unwrap_or_else(|_| known(0, 0, String::new()))
    }

    /// Only the branch that was taken counts.
    fn of_txn(request: &pb::TxnRequest, succeeded: Option<bool>, response_size: i64) -> Self {
        let Some(succeeded) = succeeded else {
            return Self {
                request_count: 0,
                request_size: 0,
                response_count: 0,
                response_size: 0,
                content: String::new(),
            };
        };
        let taken = if succeeded { &request.success } else { &request.failure };
        Self {
            request_count: taken.len() as i64,
            request_size: taken.iter().map(|op| op.encoded_len() as i64).sum(),
            response_count: 0,
            response_size,
            content: text::txn(request),
        }
    }
}

/// Writes the record of a unary call.
pub fn report_call(call: &Ended<'_>, level: Level) {
    let stats = Stats::of(call);
    let remote = call.peer.address.map_or_else(|| "@".to_owned(), |address| address.to_string());
    log::log(
        level,
        "request stats",
        &[
            ("start time", began(call.took).into()),
            ("time spent", call.took.into()),
            ("remote", remote.into()),
            ("response type", call.path.into()),
            ("request count", stats.request_count.into()),
            ("request size", stats.request_size.into()),
            ("response count", stats.response_count.into()),
            ("response size", stats.response_size.into()),
            ("request content", stats.content.into()),
        ],
    );
}

/// The wall-clock time so long ago.
fn began(took: Duration) -> Timestamp {
    let now = Timestamp::now();
    SignedDuration::try_from(took).ok().and_then(|took| now.checked_sub(took).ok()).unwrap_or(now)
}

/// Writes what a slow call waited for.
pub fn report_trace(call: &Ended<'_>) {
    let Some((operation, fields)) = operation(call) else { return };
    let mut detail = String::from("{");
    for (name, value) in fields {
        let _ = write!(detail, "{name}:{value}; ");
    }
    detail.push('}');
    let steps = steps(call);
    // Steps that hardly took part of the time are left out.
    let limit = TRACE_THRESHOLD / u32::try_from(steps.len() + 1).unwrap_or(u32::MAX);
    let steps: Vec<String> = steps
        .into_iter()
        .filter(|(_, took)| *took > limit)
        .map(|(name, took)| format!("'{name}'  (duration: {})", GoDuration::from(took)))
        .collect();
    let start = began(call.took);
    let number = i64::from(OsRandom.next_u64() as u32 >> 1);
    let count = steps.len();
    log::info(
        "trace",
        &[
            ("trace_id", number.into()),
            ("operation", operation.into()),
            ("detail", detail.into()),
            ("duration", call.took.into()),
            ("start", start.into()),
            ("end", Timestamp::now().into()),
            ("steps", steps.into()),
            ("step_count", count.into()),
        ],
    );
}

/// What a call did, and to what. None for calls that do not lead to the key space.
fn operation(call: &Ended<'_>) -> Option<(&'static str, Vec<(&'static str, String)>)> {
    let request = call.request?.clone();
    let reply = call.reply.as_ref().map(SentReply::buf);
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut fields = Vec::new();
    let header = |fields: &mut Vec<_>, header: Option<pb::ResponseHeader>| {
        let revision = header.map(|header| header.revision.to_string());
        fields.extend(revision.map(|revision| ("response_revision", revision)));
    };
    let operation = match call.path {
        "/etcdserverpb.KV/Range" => {
            let message = pb::RangeRequest::decode(request).ok()?;
            fields.push(("range_begin", lossy(&message.key)));
            fields.push(("range_end", lossy(&message.range_end)));
            if let Some(found) = call.found {
                fields.push(("response_count", found.returned.to_string()));
                fields.push(("response_revision", found.revision.to_string()));
            }
            "range"
        }
        "/etcdserverpb.KV/Put" => {
            fields.push(("req_size", request.len().to_string()));
            let message = pb::PutRequest::decode(request).ok()?;
            fields.insert(0, ("key", lossy(&message.key)));
            if let Some(reply) = reply.and_then(|reply| pb::PutResponse::decode(reply).ok()) {
                header(&mut fields, reply.header);
            }
            "put"
        }
        "/etcdserverpb.KV/DeleteRange" => {
            let message = pb::DeleteRangeRequest::decode(request).ok()?;
            fields.push(("key", lossy(&message.key)));
            fields.push(("range_end", lossy(&message.range_end)));
            if let Some(reply) = reply.and_then(|reply| pb::DeleteRangeResponse::decode(reply).ok()) {
                header(&mut fields, reply.header);
            }
            "delete_range"
        }
        "/etcdserverpb.KV/Txn" => {
            let message = pb::TxnRequest::decode(request).ok()?;
            fields.push(("read_only", apply::is_read_only(&message).to_string()));
            if let Some(reply) = reply.and_then(|reply| TxnSummary::decode(reply).ok()) {
                fields.push(("number_of_response", reply.responses.len().to_string()));
                header(&mut fields, reply.header);
            }
            "transaction"
        }
        "/etcdserverpb.KV/Compact" => {
            let message = pb::CompactionRequest::decode(request).ok()?;
            fields.push(("revision", message.revision.to_string()));
            if let Some(reply) = reply.and_then(|reply| pb::CompactionResponse::decode(reply).ok()) {
                header(&mut fields, reply.header);
            }
            "compact"
        }
        _ => return None,
    };
    Some((operation, fields))
}

/// The parts of a call's time, in order.
fn steps(call: &Ended<'_>) -> Vec<(&'static str, Duration)> {
    let ended = call.started + call.took;
    let between = |from: Instant, to: Instant| to.saturating_duration_since(from);
    let mut steps = Vec::new();
    let mut last = call.started;
    if let Some(agreed) = call.stages.agreed {
        steps.push(("agreement among raft nodes before linearized reading", between(last, agreed)));
        last = agreed;
    }
    match call.stages.applied {
        Some((begun, applied)) => {
            steps.push(("process raft request", between(last, begun)));
            steps.push(("apply the request", between(begun, applied)));
            steps.push(("hand over the result", between(applied, ended)));
        }
        None if matches!(call.path, "/etcdserverpb.KV/Range" | "/etcdserverpb.KV/Txn") => {
            steps.push(("range keys from in-memory index tree and bolt db", between(last, ended)));
        }
        None => {}
    }
    steps
}

/// A moment of the member's clock, as the threads' own clock has it.
pub fn instant_of(moment: Duration, clock_now: Duration) -> Option<Instant> {
    Instant::now().checked_sub(clock_now.checked_sub(moment)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Value;

    /// Whether a field of a record is there with this text.
    fn has(record: &log::Captured, name: &str, want: &str) -> bool {
        record.fields.iter().any(|(key, value)| key == name && *value == Value::from(want))
    }

    #[test]
    fn a_slow_entry_and_a_refused_one() {
        let put = pb::PutRequest { key: "k".into(), value: "secret".into(), ..Default::default() };
        let request = pb::InternalRaftRequest {
            header: Some(pb::RequestHeader { id: 9, ..Default::default() }),
            put: Some(put),
            ..Default::default()
        };
        let data = request.encode_to_vec().into();
        let metrics = Metrics::default();
        let limit = Duration::from_millis(100);
        let capture = log::Capture::start();
        let reply = pb::PutResponse {
            header: Some(pb::ResponseHeader { revision: 2, ..Default::default() }),
            ..Default::default()
        };
        let (good, bad) = (Ok(Reply::Put(reply)), Err(ApplyError::LeaseNotFound(types::LeaseId(7))));
        let entry =
            |result, millis| AppliedEntry { data: &data, result, took: Duration::from_millis(millis) };
        assert!(!entry(&good, 100).is_notable(limit));
        assert!(!entry(&Err(ApplyError::Compacted), 1).is_notable(limit));
        for entry in [entry(&good, 101), entry(&bad, 1)] {
            assert!(entry.is_notable(limit));
            entry.report(limit, &metrics);
        }
        let records = capture.records();
        assert_eq!(records.len(), 2);
        assert_eq!(records[0].msg, "apply request took too long");
        assert!(has(&records[0], "request", "header:<ID:9> put:<key:\"k\" value_size:6 >"));
        assert!(has(&records[0], "response", "size:4") && has(&records[0], "prefix", ""));
        let names: Vec<&str> = records[0].fields.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["took", "expected-duration", "prefix", "request", "response"]);
        assert_eq!(records[1].msg, "failed to apply request");
        assert!(has(&records[1], "error", "lease not found"));
        assert_eq!(metrics.slow_apply.get(), 1);
    }

    #[test]
    fn a_slow_read() {
        let request = pb::RangeRequest { key: "a".into(), range_end: "b".into(), ..Default::default() };
        let metrics = Metrics::default();
        let capture = log::Capture::start();
        let read = SlowRead {
            request: ReadRequest::Range(&request),
            took: Duration::from_secs(1),
            outcome: Ok(ReadOutcome::Range { count: 3, bytes: 99 }),
        };
        report_read(&read, Duration::from_millis(1), &metrics);
        let records = capture.records();
        assert!(has(&records[0], "prefix", "read-only range "));
        assert!(has(&records[0], "response", "range_response_count:3 size:99"));
        assert_eq!(metrics.slow_apply.get(), 1);
    }

    #[test]
    fn steps_follow_the_stages() {
        let put = pb::PutRequest { key: "k".into(), value: "secret".into(), ..Default::default() };
        let request = put.encode_to_vec().into();
        let started = Instant::now();
        let after = |millis| started + Duration::from_millis(millis);
        let call = Ended {
            path: "/etcdserverpb.KV/Put",
            unary: true,
            peer: &api::grpc::Peer::default(),
            started,
            took: Duration::from_millis(500),
            request: Some(&request),
            reply: None,
            code: api::grpc::Code::Ok,
            message: "",
            stages: api::grpc::Stages { applied: Some((after(400), after(490))), ..Default::default() },
            found: None,
            span: None,
        };
        let capture = log::Capture::start();
        report_trace(&call);
        report_call(&call, Level::Warn);
        let records = capture.records();
        assert!(has(&records[0], "operation", "put"));
        assert!(has(&records[0], "detail", "{key:k; req_size:11; }"));
        assert_eq!(
            records[0].field("steps").unwrap(),
            "[\"'process raft request'  (duration: 400ms)\",\"'apply the request'  (duration: 90ms)\"]"
        );
        assert_eq!(records[0].field("step_count").unwrap(), "2");
        assert!(has(&records[1], "request content", "key:\"k\" value_size:6 "));
        assert_eq!(records[1].field("request count").unwrap(), "1");
        assert!(!format!("{records:?}").contains("secret"));
    }
}
