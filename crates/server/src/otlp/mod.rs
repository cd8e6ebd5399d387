//! Distributed tracing: which calls are traced, and what their spans say.
//!
//! A caller who sends a `traceparent` decides himself; of all others the sampling rate takes some. Each
//! traced call has a span, and most unary ones a second one inside that names what was asked for. Spans of
//! calls that are not traced do not exist: deciding costs a look at one header, and for root spans a
//! random number.
//!
//! Deliberately absent: spans per watch and per renewal of a lease, and trace ids in outgoing calls: this
//! member calls nobody in a client's name.
//!
//! **Source**: etcd `server/embed/config_tracing.go`, the spans of `server/etcdserver/v3_server.go`, what
//! otelgrpc 0.68 sends; W3C Trace Context.

mod export;
pub mod message;

use std::cell::RefCell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use api::grpc::{CallContext, Code, Ended, Span};
use env::real::OsRandom;
use env::{Random, SeededRandom};
use prost::Message;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::request_op::Request;

use crate::config::Tracing;
use export::{Exporter, Finished, Target};
use message::{Event, KeyValue, Resource, SpanData, SpanStatus};

const INTERNAL: i32 = 1;
const SERVER: i32 = 2;
/// Sampled, and a parent in this process.
const LOCAL_FLAGS: u32 = 0x101;
/// Sampled, and a parent elsewhere.
const REMOTE_FLAGS: u32 = 0x301;

/// Decides which calls are traced, and hands their spans to the exporter.
#[derive(Debug)]
pub struct Tracer {
    sampler: Sampler,
    exporter: Exporter,
}

/// Which traces without a parent are taken: those whose id is below this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sampler {
    below: u64,
}

impl Sampler {
    fn new(per_million: i64) -> Self {
        let share = per_million.clamp(0, 1_000_000) as f64 / 1e6;
        Self { below: (share * (1_u64 << 63) as f64) as u64 }
    }

    fn takes(self, trace: &[u8; 16]) -> bool {
        let (_, low) = trace.split_at(8);
        let number = low.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        number >> 1 < self.below
    }

    /// Whether anything but what callers ask for is traced.
    fn takes_any(self) -> bool {
        self.below > 0
    }
}

thread_local! {
    /// Ids need to be different, not secret.
    static IDS: RefCell<SeededRandom> = RefCell::new(SeededRandom::new(OsRandom.next_u64()));
}

fn new_trace() -> [u8; 16] {
    IDS.with_borrow_mut(|ids| {
        let (high, low) = (ids.next_u64(), ids.next_u64() | 1);
        (u128::from(high) << 64 | u128::from(low)).to_be_bytes()
    })
}

fn new_span() -> [u8; 8] {
    // Zero is no id.
    IDS.with_borrow_mut(|ids| ids.next_u64() | 1).to_be_bytes()
}

/// What a caller's `traceparent` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Parent {
    trace: [u8; 16],
    span: [u8; 8],
    is_sampled: bool,
}

impl Parent {
    /// `version-trace-span-flags` in hexadecimal. What is not as it should be is no parent.
    fn parse(header: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(header).ok()?;
        let mut parts = text.split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let [version] = hex::<1>(version)?;
        // Later versions may have more behind it.
        if version == 0xff || (version == 0 && parts.next().is_some()) {
            return None;
        }
        let (trace, span, [flags]) = (hex::<16>(trace)?, hex::<8>(span)?, hex::<1>(flags)?);
        let is_valid = trace != [0; 16] && span != [0; 8];
        is_valid.then_some(Self { trace, span, is_sampled: flags & 1 == 1 })
    }
}

fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if text.len() != 2 * N || !text.bytes().all(is_hex) {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

impl Tracer {
    /// Begins to export, if that is wanted.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(config: &Tracing) -> std::io::Result<Option<Self>> {
        if !config.enabled {
            return Ok(None);
        }
        let mut attributes = Vec::new();
        if !config.instance_id.is_empty() {
            attributes.push(KeyValue::new("service.instance.id", config.instance_id.as_str()));
        }
        attributes.push(KeyValue::new("service.name", config.service_name.as_str()));
        let target = Target { address: config.address.clone(), resource: Resource { attributes } };
        let exporter = Exporter::start(target)?;
        Ok(Some(Self { sampler: Sampler::new(config.sampling_rate_per_million), exporter }))
    }

    /// Sends what waits, within a few seconds, and ends.
    pub fn stop(&self) {
        self.exporter.stop();
    }

    /// The span of a call, if it is to be traced.
    pub fn begin(&self, context: &CallContext) -> Option<Box<Span>> {
        let parent = context.metadata("traceparent").and_then(Parent::parse);
        let (trace, span) = match parent {
            Some(parent) if parent.is_sampled => (parent.trace, Some(parent.span)),
            Some(_) => return None,
            None if self.sampler.takes_any() => {
                let trace = new_trace();
                if !self.sampler.takes(&trace) {
                    return None;
                }
                (trace, None)
            }
            None => return None,
        };
        let state = match span {
            Some(_) => context.metadata("tracestate").unwrap_or_default(),
            None => b"",
        };
        let state = String::from_utf8_lossy(state).into_owned();
        Some(Box::new(Span { trace, id: new_span(), parent: span, state }))
    }

    /// A traced call has ended.
    pub fn finish(&self, span: Span, call: &Ended<'_>) {
        let times = Times::of(call);
        let inner = inner(call);
        let events = events(call, &times);
        let (events, inner_events) = if inner.is_some() { (vec![], events) } else { (events, vec![]) };
        let data = |id: [u8; 8], parent: Option<[u8; 8]>| SpanData {
            trace_id: span.trace.to_vec(),
            span_id: id.to_vec(),
            trace_state: span.state.clone(),
            parent_span_id: parent.map(|parent| parent.to_vec()).unwrap_or_default(),
            start_time_unix_nano: times.start,
            end_time_unix_nano: times.end,
            status: Some(SpanStatus::default()),
            ..Default::default()
        };
        if let Some((name, attributes)) = inner {
            let data = SpanData {
                name: name.to_owned(),
                kind: INTERNAL,
                attributes,
                events: inner_events,
                flags: LOCAL_FLAGS,
                ..data(new_span(), Some(span.id))
            };
            self.exporter.send(Finished { is_call: false, data });
        }
        let method = call.path.strip_prefix('/').unwrap_or(call.path);
        let mut attributes =
            vec![KeyValue::new("rpc.method", method), KeyValue::new("rpc.system.name", "grpc")];
        if let Some(own) = call.peer.own {
            attributes.push(KeyValue::new("server.address", own.ip().to_string().as_str()));
            attributes.push(KeyValue::new("server.port", i64::from(own.port())));
        }
        attributes.push(KeyValue::new("rpc.response.status_code", code_name(call.code)));
        let status = match is_fault(call.code) {
            true => SpanStatus { code: 2, message: call.message.to_owned() },
            false => SpanStatus::default(),
        };
        let data = SpanData {
            name: method.to_owned(),
            kind: SERVER,
            attributes,
            events,
            status: Some(status),
            flags: REMOTE_FLAGS,
            ..data(span.id, span.parent)
        };
        self.exporter.send(Finished { is_call: true, data });
    }
}

/// The moments of a call since the Unix epoch, in nanoseconds.
struct Times {
    start: u64,
    end: u64,
}

impl Times {
    fn of(call: &Ended<'_>) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Self { start: nanos(now.saturating_sub(call.took)), end: nanos(now) }
    }
}

fn events(call: &Ended<'_>, times: &Times) -> Vec<Event> {
    let Some(proposed) = call.stages.proposed else { return Vec::new() };
    let waited = proposed.saturating_duration_since(call.started).as_nanos();
    let sent = times.start.saturating_add(u64::try_from(waited).unwrap_or(u64::MAX)).min(times.end);
    vec![
        Event { time_unix_nano: sent, name: "Send raft proposal".to_owned() },
        Event { time_unix_nano: times.end, name: "Receive raft result".to_owned() },
    ]
}

/// The span inside that of a call: its name, and what was asked for.
fn inner(call: &Ended<'_>) -> Option<(&'static str, Vec<KeyValue>)> {
    let request = call.request?.clone();
    Some(match call.path {
        "/etcdserverpb.KV/Range" => {
            let message = pb::RangeRequest::decode(request).ok()?;
            let attributes = vec![
                KeyValue::new("range_begin", &message.key[..]),
                KeyValue::new("range_end", &message.range_end[..]),
                KeyValue::new("rev", message.revision),
                KeyValue::new("limit", message.limit),
                KeyValue::new("count_only", message.count_only),
                KeyValue::new("keys_only", message.keys_only),
            ];
            ("range", attributes)
        }
        "/etcdserverpb.KV/Put" => {
            let message = pb::PutRequest::decode(request).ok()?;
            ("put", vec![KeyValue::new("key", &message.key[..])])
        }
        "/etcdserverpb.KV/DeleteRange" => {
            let message = pb::DeleteRangeRequest::decode(request).ok()?;
            let attributes = vec![
                KeyValue::new("range_begin", &message.key[..]),
                KeyValue::new("range_end", &message.range_end[..]),
            ];
            ("delete_range", attributes)
        }
        "/etcdserverpb.KV/Txn" => ("txn", txn(&pb::TxnRequest::decode(request).ok()?)),
        "/etcdserverpb.KV/Compact" => {
            let message = pb::CompactionRequest::decode(request).ok()?;
            let attributes =
                vec![KeyValue::new("is_physical", message.physical), KeyValue::new("rev", message.revision)];
            ("compact", attributes)
        }
        "/etcdserverpb.Lease/LeaseGrant" => {
            let message = pb::LeaseGrantRequest::decode(request).ok()?;
            // The id may have been chosen here.
            let reply = call.reply.and_then(|reply| pb::LeaseGrantResponse::decode(reply.buf()).ok());
            let id = reply.map_or(message.id, |reply| reply.id);
            ("lease_grant", vec![KeyValue::new("id", id), KeyValue::new("ttl", message.ttl)])
        }
        "/etcdserverpb.Lease/LeaseRevoke" => {
            let message = pb::LeaseRevokeRequest::decode(request).ok()?;
            ("lease_revoke", vec![KeyValue::new("id", message.id)])
        }
        _ => return None,
    })
}

fn txn(message: &pb::TxnRequest) -> Vec<KeyValue> {
    let key_of = |op: &pb::RequestOp| match &op.request {
        Some(Request::RequestPut(put)) => put.key.clone(),
        Some(Request::RequestRange(range)) => range.key.clone(),
        Some(Request::RequestDeleteRange(delete)) => delete.key.clone(),
        Some(Request::RequestTxn(_)) | None => bytes::Bytes::new(),
    };
    let kind = message.success.iter().find_map(|op| match &op.request {
        Some(Request::RequestPut(_)) => Some("put"),
        Some(Request::RequestRange(_)) => Some("range"),
        Some(Request::RequestDeleteRange(_)) => Some("delete_range"),
        Some(Request::RequestTxn(_)) => Some("txn"),
        None => None,
    });
    let lease = message.success.iter().find_map(|op| match &op.request {
        Some(Request::RequestPut(put)) => Some(put.lease),
        _ => None,
    });
    let compared = message.compare.iter().map(|compare| compare.key.clone()).find(|key| !key.is_empty());
    let changed = message.success.iter().map(key_of).find(|key| !key.is_empty());
    let count = |length: usize| i64::try_from(length).unwrap_or(i64::MAX);
    vec![
        KeyValue::new("compare_first_key", &compared.unwrap_or_default()[..]),
        KeyValue::new("success_first_key", &changed.unwrap_or_default()[..]),
        KeyValue::new("success_first_type", kind.unwrap_or_default()),
        KeyValue::new("success_first_lease", lease.unwrap_or(-1)),
        KeyValue::new("compare_len", count(message.compare.len())),
        KeyValue::new("success_len", count(message.success.len())),
        KeyValue::new("failure_len", count(message.failure.len())),
        KeyValue::new("read_only", apply::is_read_only(message)),
    ]
}

/// As the conventions for spans write a code.
const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Canceled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// Whether the server is to blame, as the conventions see it.
const fn is_fault(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_are_read_and_junk_is_none() {
        let parent =
            Parent::parse(b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").expect("a parent");
        assert!(parent.is_sampled && parent.trace[0] == 0x0a && parent.span[7] == 0x31);
        assert!(
            !Parent::parse(b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00").unwrap().is_sampled
        );
        let later = b"cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more";
        assert!(Parent::parse(later).is_some());
        for junk in [
            &b""[..],
            b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            b"ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            b"00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            b"00-00000000000000000000000000000000-b7ad6b7169203331-01",
            b"00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            b"00-\xff\xff",
        ] {
            assert_eq!(Parent::parse(junk), None, "{}", String::from_utf8_lossy(junk));
        }
    }

    #[test]
    fn the_sampler_takes_its_share() {
        let taken = |per_million| {
            let sampler = Sampler::new(per_million);
            (0..4000).filter(|_| sampler.takes(&new_trace())).count()
        };
        assert_eq!((taken(0), taken(1_000_000)), (0, 4000));
        assert!((700..1300).contains(&taken(250_000)), "{}", taken(250_000));
        assert!(!Sampler::new(0).takes_any());
    }

    #[test]
    fn a_txn_is_summed_up() {
        let put = pb::PutRequest { key: "k".into(), lease: 7, ..Default::default() };
        let message = pb::TxnRequest {
            compare: vec![pb::Compare { key: "c".into(), ..Default::default() }],
            success: vec![pb::RequestOp { request: Some(Request::RequestPut(put)) }],
            failure: vec![],
        };
        let attributes = txn(&message);
        assert!(attributes.contains(&KeyValue::new("success_first_type", "put")));
        assert!(attributes.contains(&KeyValue::new("success_first_lease", 7)));
        assert!(attributes.contains(&KeyValue::new("read_only", false)));
        assert_eq!(txn(&pb::TxnRequest::default())[3], KeyValue::new("success_first_lease", -1));
    }
}
