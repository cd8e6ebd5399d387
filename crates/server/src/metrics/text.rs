//! The text exposition format, as Go's client library prints it.
//!
//! Families sorted by name, each with a HELP and a TYPE line; labels sorted by name; series sorted
//! by label values. Counters and gauges print as floats in Go's shortest form (`2.147483648e+09`),
//! bucket and value counts as whole numbers.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::kinds::Histogram;

/// `Content-Type` of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";

/// Kind of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Up and down.
    Gauge,
    /// Buckets.
    Histogram,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Label names with values, sorted by name.
pub type Labels<'l> = &'l [(&'static str, &'l str)];

struct Family {
    kind: Kind,
    help: &'static str,
    /// Label values, then the lines of the series.
    series: BTreeMap<Vec<String>, String>,
}

/// Families being collected.
#[derive(Default)]
pub struct Exposition {
    families: BTreeMap<&'static str, Family>,
}

impl Exposition {
    fn series(
        &mut self,
        name: &'static str,
        kind: Kind,
        help: &'static str,
        labels: Labels<'_>,
        lines: String,
    ) {
        debug_assert!(labels.is_sorted_by(|a, b| a.0 < b.0), "labels of {name} are not sorted");
        let family =
            self.families.entry(name).or_insert_with(|| Family { kind, help, series: BTreeMap::new() });
        family.series.insert(labels.iter().map(|(_, value)| (*value).to_owned()).collect(), lines);
    }

    /// Adds a series with one value.
    pub fn value(
        &mut self,
        name: &'static str,
        kind: Kind,
        help: &'static str,
        labels: Labels<'_>,
        value: f64,
    ) {
        let mut line = String::new();
        write_name(&mut line, name, "", labels, None);
        let _ = writeln!(line, "{}", go_float(value));
        self.series(name, kind, help, labels, line);
    }

    /// Adds a histogram.
    pub fn histogram(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: Labels<'_>,
        histogram: &Histogram,
    ) {
        let (buckets, sum, count) = histogram.read();
        self.buckets(name, help, labels, buckets, sum, count);
    }

    /// Adds what the transport counted.
    pub fn peer_series(&mut self, series: &peer::Series) {
        let mut labels: Vec<(&'static str, &str)> =
            series.labels.iter().map(|(name, value)| (*name, value.as_str())).collect();
        labels.sort_unstable();
        match &series.value {
            peer::Value::Counter(count) => {
                self.value(series.name, Kind::Counter, series.help, &labels, *count as f64);
            }
            peer::Value::Gauge(value) => {
                self.value(series.name, Kind::Gauge, series.help, &labels, *value as f64);
            }
            peer::Value::Histogram(read) => {
                let (buckets, sum, count) = (read.buckets.clone(), read.sum_seconds, read.count);
                self.buckets(series.name, series.help, &labels, buckets, sum, count);
            }
        }
    }

    fn buckets(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: Labels<'_>,
        buckets: Vec<(f64, u64)>,
        sum: f64,
        count: u64,
    ) {
        let mut lines = String::with_capacity(buckets.len() * 96);
        let top = std::iter::once(("+Inf".to_owned(), count));
        for (bound, below) in buckets.into_iter().map(|(bound, below)| (go_float(bound), below)).chain(top) {
            write_name(&mut lines, name, "_bucket", labels, Some(&bound));
            let _ = writeln!(lines, "{below}");
        }
        write_name(&mut lines, name, "_sum", labels, None);
        let _ = writeln!(lines, "{}", go_float(sum));
        write_name(&mut lines, name, "_count", labels, None);
        let _ = writeln!(lines, "{count}");
        self.series(name, Kind::Histogram, help, labels, lines);
    }

    /// The whole text.
    pub fn finish(self) -> String {
        let mut out = String::with_capacity(64 << 10);
        for (name, family) in self.families {
            let help = family.help.replace('\\', "\\\\").replace('\n', "\\n");
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {}", family.kind.name());
            for lines in family.series.into_values() {
                out.push_str(&lines);
            }
        }
        out
    }
}

/// `name_suffix{labels,le="bound"} ` with the blank; no braces without labels.
fn write_name(out: &mut String, name: &str, suffix: &str, labels: Labels<'_>, bound: Option<&str>) {
    out.push_str(name);
    out.push_str(suffix);
    let all = labels.iter().map(|(name, value)| (*name, *value)).chain(bound.map(|bound| ("le", bound)));
    let mut open = false;
    for (label, value) in all {
        out.push(if open { ',' } else { '{' });
        open = true;
        out.push_str(label);
        out.push_str("=\"");
        for symbol in value.chars() {
            match symbol {
                '\\' => out.push_str("\\\\"),
                '"' => out.push_str("\\\""),
                '\n' => out.push_str("\\n"),
                symbol => out.push(symbol),
            }
        }
        out.push('"');
    }
    if open {
        out.push('}');
    }
    out.push(' ');
}

/// A float as Go's `strconv.FormatFloat(v, 'g', -1, 64)` prints it.
pub fn go_float(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let scientific = format!("{value:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    let Ok(exponent) = exponent.parse::<i32>() else { return scientific };
    // The shortest form turns scientific from a million on.
    match exponent {
        -4..6 => format!("{value}"),
        exponent if exponent < 0 => format!("{digits}e-{:02}", -exponent),
        exponent => format!("{digits}e+{exponent:02}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::kinds::TTL;
    use super::*;

    #[test]
    fn floats_print_like_go() {
        for (value, want) in [
            (0.0, "0"),
            (1.0, "1"),
            (-1.0, "-1"),
            (20480.0, "20480"),
            (819_200.0, "819200"),
            (1_048_576.0, "1.048576e+06"),
            (1_000_000.0, "1e+06"),
            (2_147_483_648.0, "2.147483648e+09"),
            (1.844_674_407_370_955_2e19, "1.8446744073709552e+19"),
            (9.8448e-05, "9.8448e-05"),
            (0.0001, "0.0001"),
            (0.02816938, "0.02816938"),
            (f64::INFINITY, "+Inf"),
        ] {
            assert_eq!(go_float(value), want);
        }
    }

    #[test]
    fn families_and_series_are_sorted() {
        let mut out = Exposition::default();
        out.value("b_total", Kind::Counter, "second\nline", &[("code", "Z"), ("method", "a")], 2.0);
        out.value("b_total", Kind::Counter, "second\nline", &[("code", "A"), ("method", "\"q\"\\")], 1.0);
        out.value("a", Kind::Gauge, "first", &[], -1.0);
        assert_eq!(
            out.finish(),
            "# HELP a first\n# TYPE a gauge\na -1\n# HELP b_total second\\nline\n# TYPE b_total counter\n\
             b_total{code=\"A\",method=\"\\\"q\\\"\\\\\"} 1\nb_total{code=\"Z\",method=\"a\"} 2\n"
        );
    }

    #[test]
    fn histograms_print_bounds_sum_and_count() {
        let histogram = Histogram::new(&TTL);
        histogram.observe_raw(60);
        let mut out = Exposition::default();
        out.histogram("h", "help", &[("op", "x")], &histogram);
        let text = out.finish();
        assert!(text.contains("h_bucket{op=\"x\",le=\"32\"} 0\nh_bucket{op=\"x\",le=\"64\"} 1\n"));
        assert!(text.contains("h_bucket{op=\"x\",le=\"1.048576e+06\"} 1\n"));
        assert!(
            text.ends_with("h_bucket{op=\"x\",le=\"+Inf\"} 1\nh_sum{op=\"x\"} 60\nh_count{op=\"x\"} 1\n")
        );
    }
}
