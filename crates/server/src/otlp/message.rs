//! The few messages of OTLP that a server which only sends spans needs.
//!
//! **Source**: field numbers of `opentelemetry-proto` 1.x (`collector/trace/v1`, `trace/v1`,
//! `resource/v1`, `common/v1`).

/// Bytes of a key that a span shows.
const LONGEST_KEY: usize = 1024;

/// What is sent to a collector.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ExportRequest {
    /// Spans by where they come from.
    #[prost(message, repeated, tag = "1")]
    pub resource_spans: Vec<ResourceSpans>,
}

/// Spans of one process.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ResourceSpans {
    /// The process.
    #[prost(message, optional, tag = "1")]
    pub resource: Option<Resource>,
    /// Its spans by who made them.
    #[prost(message, repeated, tag = "2")]
    pub scope_spans: Vec<ScopeSpans>,
}

/// A process.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Resource {
    /// Its properties.
    #[prost(message, repeated, tag = "1")]
    pub attributes: Vec<KeyValue>,
}

/// Spans of one part of a process.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ScopeSpans {
    /// The part.
    #[prost(message, optional, tag = "1")]
    pub scope: Option<Scope>,
    /// The spans.
    #[prost(message, repeated, tag = "2")]
    pub spans: Vec<SpanData>,
}

/// A part of a process.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Scope {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its version.
    #[prost(string, tag = "2")]
    pub version: String,
}

/// What happened between two moments.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SpanData {
    /// The trace.
    #[prost(bytes = "vec", tag = "1")]
    pub trace_id: Vec<u8>,
    /// The span.
    #[prost(bytes = "vec", tag = "2")]
    pub span_id: Vec<u8>,
    /// What the caller wants to be handed on.
    #[prost(string, tag = "3")]
    pub trace_state: String,
    /// The span around it; empty for none.
    #[prost(bytes = "vec", tag = "4")]
    pub parent_span_id: Vec<u8>,
    /// Its name.
    #[prost(string, tag = "5")]
    pub name: String,
    /// 1 internal, 2 server.
    #[prost(int32, tag = "6")]
    pub kind: i32,
    /// Begin, since the Unix epoch.
    #[prost(fixed64, tag = "7")]
    pub start_time_unix_nano: u64,
    /// End, since the Unix epoch.
    #[prost(fixed64, tag = "8")]
    pub end_time_unix_nano: u64,
    /// Its properties.
    #[prost(message, repeated, tag = "9")]
    pub attributes: Vec<KeyValue>,
    /// What happened meanwhile.
    #[prost(message, repeated, tag = "11")]
    pub events: Vec<Event>,
    /// How it went.
    #[prost(message, optional, tag = "15")]
    pub status: Option<SpanStatus>,
    /// Bit 0: sampled; bit 8: whether bit 9 counts; bit 9: the parent is elsewhere.
    #[prost(fixed32, tag = "16")]
    pub flags: u32,
}

/// Something at one moment.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Event {
    /// When, since the Unix epoch.
    #[prost(fixed64, tag = "1")]
    pub time_unix_nano: u64,
    /// What.
    #[prost(string, tag = "2")]
    pub name: String,
}

/// How a span went.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SpanStatus {
    /// Why it went wrong.
    #[prost(string, tag = "2")]
    pub message: String,
    /// 0 nothing to say, 2 an error.
    #[prost(int32, tag = "3")]
    pub code: i32,
}

/// A property.
#[derive(Clone, PartialEq, prost::Message)]
pub struct KeyValue {
    /// Its name.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Its value.
    #[prost(message, optional, tag = "2")]
    pub value: Option<AnyValue>,
}

/// A value of some kind.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AnyValue {
    /// The value.
    #[prost(oneof = "Kind", tags = "1, 2, 3")]
    pub kind: Option<Kind>,
}

/// The kinds of values that are sent.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Kind {
    /// Text.
    #[prost(string, tag = "1")]
    Text(String),
    /// Yes or no.
    #[prost(bool, tag = "2")]
    Flag(bool),
    /// A number.
    #[prost(int64, tag = "3")]
    Int(i64),
}

impl From<&str> for Kind {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<&[u8]> for Kind {
    /// Keys that are no text are shown as well as they can be, and long ones by their beginning: spans
    /// that wait are counted, not weighed.
    fn from(bytes: &[u8]) -> Self {
        let shown = &bytes[..bytes.len().min(LONGEST_KEY)];
        Self::Text(String::from_utf8_lossy(shown).into_owned())
    }
}

impl From<bool> for Kind {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

impl From<i64> for Kind {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

impl KeyValue {
    /// A property.
    pub fn new(key: &str, value: impl Into<Kind>) -> Self {
        Self { key: key.to_owned(), value: Some(AnyValue { kind: Some(value.into()) }) }
    }
}
