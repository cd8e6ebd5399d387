//! The `grpc_server_*` families.
//!
//! The gRPC layer counts calls by method for itself; this turns its sums into series. All 17 codes
//! of every method are printed, used or not.

use super::kinds::Histogram;
use super::text::{Exposition, Kind};

/// Names of the codes by number.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// What was counted for one method.
#[derive(Clone, Copy, Debug)]
pub struct MethodCounts<'m> {
    /// Full name of the service.
    pub service: &'m str,
    /// Name of the method.
    pub method: &'m str,
    /// `unary`, `server_stream` or `bidi_stream`.
    pub shape: &'m str,
    /// Calls begun.
    pub started: u64,
    /// Messages in.
    pub received: u64,
    /// Messages out.
    pub sent: u64,
    /// Calls ended, by code.
    pub handled: [u64; CODES.len()],
    /// Latencies of calls, with `--metrics=extensive`.
    pub handling: Option<&'m Histogram>,
}

impl<'m> MethodCounts<'m> {
    /// What the gRPC layer counted, with latencies where they are kept.
    pub fn of(counts: &'m api::grpc::MethodCounts, handling: Option<&'m Histogram>) -> Self {
        Self {
            service: counts.info.service,
            method: counts.info.method,
            shape: counts.info.shape.label(),
            started: counts.started,
            received: counts.received,
            sent: counts.sent,
            handled: counts.handled,
            handling,
        }
    }

    pub(super) fn print(&self, out: &mut Exposition) {
        let labels =
            [("grpc_method", self.method), ("grpc_service", self.service), ("grpc_type", self.shape)];
        let counter = Kind::Counter;
        out.value("grpc_server_started_total", counter, "Calls begun.", &labels, self.started as f64);
        out.value(
            "grpc_server_msg_received_total",
            counter,
            "Messages received from callers.",
            &labels,
            self.received as f64,
        );
        out.value(
            "grpc_server_msg_sent_total",
            counter,
            "Messages sent to callers.",
            &labels,
            self.sent as f64,
        );
        for (code, count) in CODES.into_iter().zip(self.handled) {
            let labels = [("grpc_code", code), labels[0], labels[1], labels[2]];
            out.value("grpc_server_handled_total", counter, "Calls ended, by result.", &labels, count as f64);
        }
        if let Some(handling) = self.handling {
            out.histogram("grpc_server_handling_seconds", "Latency of calls.", &labels, handling);
        }
    }
}
