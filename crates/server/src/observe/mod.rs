//! What an operator observes of single requests: records of slow ones, and spans.
//!
//! Nothing here runs for a request that is neither slow nor traced; the places that notice
//! (`api::grpc::observe`, the apply thread) compare two times.

pub mod slow;
mod text;

use std::sync::Arc;
use std::time::Duration;

use api::grpc::{CallContext, Ended, Observation, Observer, Span, TRACE_THRESHOLD};

use crate::log::{self, Level};
use crate::otlp::Tracer;

/// Looks at the calls of a member's listeners.
#[derive(Debug)]
pub struct Watcher {
    slow_unary: Duration,
    tracer: Option<Arc<Tracer>>,
}

impl Watcher {
    /// One that warns of unary calls above this time.
    pub fn new(slow_unary: Duration, tracer: Option<Arc<Tracer>>) -> Self {
        Self { slow_unary, tracer }
    }

    /// It, ready for a listener.
    pub fn observation(self) -> Observation {
        Observation {
            slow: self.slow_unary.min(TRACE_THRESHOLD),
            traced: self.tracer.is_some(),
            observer: Arc::new(self),
        }
    }
}

impl Observer for Watcher {
    fn wants_all(&self) -> bool {
        log::enabled(Level::Debug)
    }

    fn begin(&self, context: &CallContext) -> Option<Box<Span>> {
        self.tracer.as_ref()?.begin(context)
    }

    fn ended(&self, mut call: Ended<'_>) {
        if let (Some(span), Some(tracer)) = (call.span.take(), &self.tracer) {
            tracer.finish(*span, &call);
        }
        if !call.unary {
            return;
        }
        if call.took > TRACE_THRESHOLD {
            slow::report_trace(&call);
        }
        if log::enabled(Level::Debug) {
            slow::report_call(&call, Level::Debug);
        } else if call.took > self.slow_unary {
            slow::report_call(&call, Level::Warn);
        }
    }
}
