//! What a load run found: counts and latencies per class of operation, and what the server used.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::process::Memory;

/// What kind of operation a sample belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Class {
    /// A put.
    Put,
    /// A single-key read.
    Get,
    /// A read of many keys.
    Range,
    /// A transaction.
    Txn,
    /// A watch event; latency from the put's send to the event's arrival.
    Event,
    /// A lease grant.
    Grant,
    /// A lease renewal.
    KeepAlive,
    /// A lease revocation.
    Revoke,
}

/// Names of the classes, by number.
pub const CLASS_NAMES: [&str; 8] =
    ["put", "get", "range", "txn", "event", "lease-grant", "lease-keepalive", "lease-revoke"];

/// Samples of one thread; merged at the end.
pub struct Samples {
    histograms: Vec<Option<Histogram<u64>>>,
    errors: [u64; CLASS_NAMES.len()],
    first_error: Option<String>,
}

impl Default for Samples {
    fn default() -> Self {
        Self { histograms: CLASS_NAMES.iter().map(|_| None).collect(), errors: [0; 8], first_error: None }
    }
}

fn new_histogram() -> Histogram<u64> {
    // One nanosecond to two minutes at three digits.
    Histogram::new_with_bounds(1, 120_000_000_000, 3).expect("constant bounds are valid")
}

impl Samples {
    /// Adds one latency.
    pub fn record(&mut self, class: Class, latency: Duration) {
        let histogram = self.histograms[class as usize].get_or_insert_with(new_histogram);
        histogram.saturating_record(latency.as_nanos().min(u128::from(u64::MAX)) as u64);
    }

    /// Adds one failure.
    pub fn fail(&mut self, class: Class, text: &dyn fmt::Display) {
        self.errors[class as usize] += 1;
        self.first_error.get_or_insert_with(|| text.to_string());
    }

    /// Adds another thread's samples.
    pub fn merge(&mut self, other: Samples) {
        for (mine, theirs) in self.histograms.iter_mut().zip(other.histograms) {
            match (mine.as_mut(), theirs) {
                (Some(mine), Some(theirs)) => mine.add(theirs).expect("same bounds"),
                (None, theirs) => *mine = theirs,
                (_, None) => {}
            }
        }
        for (mine, theirs) in self.errors.iter_mut().zip(other.errors) {
            *mine += theirs;
        }
        self.first_error = self.first_error.take().or(other.first_error);
    }

    fn summaries(&self, window: Duration) -> Vec<ClassReport> {
        let mut reports = Vec::new();
        for (index, name) in CLASS_NAMES.iter().enumerate() {
            let errors = self.errors[index];
            let empty = new_histogram();
            let histogram = match &self.histograms[index] {
                Some(histogram) => histogram,
                None if errors > 0 => &empty,
                None => continue,
            };
            let micros = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1000.0;
            reports.push(ClassReport {
                class: (*name).to_owned(),
                count: histogram.len(),
                errors,
                per_second: histogram.len() as f64 / window.as_secs_f64(),
                mean_us: histogram.mean() / 1000.0,
                p50_us: micros(0.5),
                p90_us: micros(0.9),
                p99_us: micros(0.99),
                p999_us: micros(0.999),
                max_us: histogram.max() as f64 / 1000.0,
            });
        }
        reports
    }
}

/// Figures of one class of operation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClassReport {
    /// Name of the class.
    pub class: String,
    /// Successes inside the window.
    pub count: u64,
    /// Failures inside the window.
    pub errors: u64,
    /// Successes per second.
    pub per_second: f64,
    /// Mean latency, microseconds.
    pub mean_us: f64,
    /// Median latency.
    pub p50_us: f64,
    /// 90th percentile.
    pub p90_us: f64,
    /// 99th percentile.
    pub p99_us: f64,
    /// 99.9th percentile.
    pub p999_us: f64,
    /// Slowest.
    pub max_us: f64,
}

/// What the server used during the window.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct ServerUse {
    /// User plus system time in seconds.
    pub cpu_seconds: f64,
    /// Share of one core.
    pub cores: f64,
    /// Microseconds per successful operation (of every class except events).
    pub cpu_us_per_op: f64,
    /// Microseconds per delivered event, of all CPU used, the puts' share included.
    pub cpu_us_per_event: Option<f64>,
    /// Memory at the end of the window.
    pub memory: Memory,
}

/// Result of one load run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Workload name.
    pub workload: String,
    /// Length of the measured window.
    pub seconds: f64,
    /// Operations due but never started (open loop only): the server could not keep the rate.
    pub not_started: u64,
    /// Figures per class.
    pub classes: Vec<ClassReport>,
    /// First failure, as text.
    pub first_error: Option<String>,
    /// Use by the server, when its process id was given.
    pub server: Option<ServerUse>,
}

impl Report {
    pub(super) fn new(
        workload: &str,
        window: Duration,
        samples: Samples,
        not_started: u64,
        used: Option<(Duration, Memory)>,
    ) -> Self {
        let classes = samples.summaries(window);
        let events: u64 =
            classes.iter().filter(|class| class.class == "event").map(|class| class.count).sum();
        let operations: u64 =
            classes.iter().filter(|class| class.class != "event").map(|class| class.count).sum();
        let server = used.map(|(cpu, memory)| ServerUse {
            cpu_seconds: cpu.as_secs_f64(),
            cores: cpu.as_secs_f64() / window.as_secs_f64(),
            cpu_us_per_op: cpu.as_secs_f64() * 1e6 / operations.max(1) as f64,
            cpu_us_per_event: (events > 0).then(|| cpu.as_secs_f64() * 1e6 / events as f64),
            memory,
        });
        Self {
            workload: workload.to_owned(),
            seconds: window.as_secs_f64(),
            not_started,
            classes,
            first_error: samples.first_error,
            server,
        }
    }

    /// The figures of one class, zero when it did not occur.
    pub fn class(&self, name: &str) -> Option<&ClassReport> {
        self.classes.iter().find(|class| class.class == name)
    }

    /// Failures of all classes.
    pub fn errors(&self) -> u64 {
        self.classes.iter().map(|class| class.errors).sum()
    }

    /// Successes per second over all classes except events.
    pub fn operations_per_second(&self) -> f64 {
        self.classes.iter().filter(|class| class.class != "event").map(|class| class.per_second).sum()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} for {:.1} s", self.workload, self.seconds)?;
        writeln!(
            f,
            "{:<16} {:>10} {:>7} {:>11} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
            "class", "count", "errors", "per second", "mean us", "p50", "p90", "p99", "p99.9", "max"
        )?;
        for class in &self.classes {
            writeln!(
                f,
                "{:<16} {:>10} {:>7} {:>11.0} {:>9.0} {:>9.0} {:>9.0} {:>9.0} {:>9.0} {:>9.0}",
                class.class,
                class.count,
                class.errors,
                class.per_second,
                class.mean_us,
                class.p50_us,
                class.p90_us,
                class.p99_us,
                class.p999_us,
                class.max_us
            )?;
        }
        if self.not_started > 0 {
            writeln!(f, "the rate was not kept: {} operations were due but not started", self.not_started)?;
        }
        if let Some(error) = &self.first_error {
            writeln!(f, "first error: {error}")?;
        }
        if let Some(server) = &self.server {
            let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
            write!(f, "server: {:.2} cores, {:.2} us CPU per operation", server.cores, server.cpu_us_per_op)?;
            if let Some(per_event) = server.cpu_us_per_event {
                write!(f, ", {per_event:.2} us per event")?;
            }
            let memory = server.memory;
            writeln!(
                f,
                "; resident {:.1} MiB (anonymous {:.1}, files {:.1})",
                mib(memory.rss_bytes),
                mib(memory.anon_bytes),
                mib(memory.file_bytes)
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merged_samples_keep_counts_and_the_first_error() {
        let mut left = Samples::default();
        left.record(Class::Put, Duration::from_micros(10));
        let mut right = Samples::default();
        right.record(Class::Put, Duration::from_micros(30));
        right.record(Class::Event, Duration::from_micros(5));
        right.fail(Class::Get, &"no");
        left.merge(right);
        let used = Some((Duration::from_micros(20), Memory::default()));
        let report = Report::new("x", Duration::from_secs(1), left, 0, used);
        assert_eq!(report.class("put").unwrap().count, 2);
        assert_eq!(report.class("get").unwrap().errors, 1);
        assert_eq!(report.first_error.as_deref(), Some("no"));
        assert_eq!(report.operations_per_second(), 2.0);
        let server = report.server.unwrap();
        assert!((server.cpu_us_per_op - 10.0).abs() < 1e-6);
        assert!((server.cpu_us_per_event.unwrap() - 20.0).abs() < 1e-6);
    }
}
