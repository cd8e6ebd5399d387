//! Families whose series appear as they are used.

use std::sync::Arc;

use apply::RequestKind;
use parking_lot::RwLock;

use super::kinds::{Bounds, Counter, Gauge, Histogram};
use super::text::{Exposition, Kind, Labels};

/// One value per combination of label values.
#[derive(Debug)]
pub struct Labelled<T, const COUNT: usize> {
    /// Ascending by label values.
    series: RwLock<Vec<Series<T, COUNT>>>,
}

type Series<T, const COUNT: usize> = ([String; COUNT], Arc<T>);

/// Where these labels stand, or would.
fn place<T, const COUNT: usize>(series: &[Series<T, COUNT>], labels: &[&str; COUNT]) -> Result<usize, usize> {
    series.binary_search_by(|(values, _)| values.each_ref().map(String::as_str).cmp(labels))
}

impl<T, const COUNT: usize> Default for Labelled<T, COUNT> {
    fn default() -> Self {
        Self { series: RwLock::default() }
    }
}

impl<T: Default, const COUNT: usize> Labelled<T, COUNT> {
    /// The value of these labels; keep it where it is used often.
    pub fn with(&self, labels: [&str; COUNT]) -> Arc<T> {
        {
            let series = self.series.read();
            if let Ok(at) = place(&series, &labels) {
                return series[at].1.clone();
            }
        }
        let mut series = self.series.write();
        let at = place(&series, &labels).unwrap_or_else(|at| {
            series.insert(at, (labels.map(str::to_owned), Arc::default()));
            at
        });
        series[at].1.clone()
    }

    /// Forgets all series; for families of which one series at a time holds.
    pub fn clear(&self) {
        self.series.write().clear();
    }

    fn for_each(&self, names: [&'static str; COUNT], mut action: impl FnMut(Labels<'_>, &T)) {
        for (values, value) in self.series.read().iter() {
            let labels: [(&'static str, &str); COUNT] =
                std::array::from_fn(|at| (names[at], values[at].as_str()));
            action(&labels, value);
        }
    }
}

/// What a labelled family prints as.
pub(super) trait Print<const COUNT: usize> {
    fn print(
        &self,
        out: &mut Exposition,
        name: &'static str,
        help: &'static str,
        labels: [&'static str; COUNT],
    );
}

impl<const COUNT: usize> Print<COUNT> for Labelled<Counter, COUNT> {
    fn print(
        &self,
        out: &mut Exposition,
        name: &'static str,
        help: &'static str,
        labels: [&'static str; COUNT],
    ) {
        self.for_each(labels, |labels, value| {
            out.value(name, Kind::Counter, help, labels, value.get() as f64)
        });
    }
}

impl<const COUNT: usize> Print<COUNT> for Labelled<Gauge, COUNT> {
    fn print(
        &self,
        out: &mut Exposition,
        name: &'static str,
        help: &'static str,
        labels: [&'static str; COUNT],
    ) {
        self.for_each(labels, |labels, value| out.value(name, Kind::Gauge, help, labels, value.get() as f64));
    }
}

/// Latencies by operation and success; observing is two additions and no lock.
#[derive(Debug)]
pub struct OperationHistograms {
    /// Indexed by operation, failures first.
    cells: Box<[[Histogram; 2]]>,
}

impl OperationHistograms {
    pub(super) fn new(bounds: &'static Bounds) -> Self {
        Self {
            cells: RequestKind::ALL
                .iter()
                .map(|_| [Histogram::new(bounds), Histogram::new(bounds)])
                .collect(),
        }
    }

    /// Adds one operation.
    pub fn observe(&self, operation: RequestKind, success: bool, took: std::time::Duration) {
        self.cells[operation as usize][usize::from(success)].observe(took);
    }

    /// Adds several of the same operation, each of which took this many nanoseconds.
    pub fn observe_many(&self, operation: RequestKind, success: bool, nanos: u64, times: u64) {
        self.cells[operation as usize][usize::from(success)].observe_many(nanos, times);
    }

    /// Calls `action` with each series in use: operation, success as text, latencies.
    pub(super) fn for_each(&self, mut action: impl FnMut(RequestKind, &'static str, &Histogram)) {
        for (operation, cells) in RequestKind::ALL.iter().zip(&self.cells) {
            for (success, histogram) in ["false", "true"].into_iter().zip(cells) {
                if !histogram.is_empty() {
                    action(*operation, success, histogram);
                }
            }
        }
    }
}
