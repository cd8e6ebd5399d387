//! The results as a markdown table beside the budget.

use std::fmt::Write;

use super::{Placement, Results};

/// What a row demands.
#[derive(Clone, Copy, Debug)]
enum Demand {
    /// B divided by A at least this.
    AtLeast(f64),
    /// B divided by A at most this.
    AtMost(f64),
    /// B itself at most this.
    Absolute(f64),
    /// Nothing: the row informs.
    None,
}

impl Demand {
    fn holds(self, a: f64, b: f64) -> Option<bool> {
        match self {
            Self::AtLeast(bound) => Some(b >= a * bound),
            Self::AtMost(bound) => Some(b <= a * bound),
            Self::Absolute(bound) => Some(b <= bound),
            Self::None => None,
        }
    }

    fn text(self, unit: &str) -> String {
        match self {
            Self::AtLeast(bound) => format!("≥ {bound}×"),
            Self::AtMost(bound) => format!("≤ {bound}×"),
            Self::Absolute(bound) => format!("≤ {bound:.0} {unit}"),
            Self::None => "–".into(),
        }
    }
}

struct Row {
    what: &'static str,
    metric: &'static str,
    unit: &'static str,
    /// Must and aim with the server on one core.
    one: [Demand; 2],
    /// Must and aim with the server on both.
    both: [Demand; 2],
}

const fn row(
    what: &'static str,
    metric: &'static str,
    unit: &'static str,
    one: [Demand; 2],
    both: [Demand; 2],
) -> Row {
    Row { what, metric, unit, one, both }
}

fn rows(sync_us: f64) -> Vec<Row> {
    use Demand::{Absolute, AtLeast, AtMost, None};
    let reads = ([AtLeast(3.5), AtLeast(6.0)], [AtLeast(2.0), AtLeast(3.5)]);
    let updates = [AtLeast(5.0), AtLeast(10.0)];
    let informs = [None, None];
    let half = [AtMost(0.5), AtMost(0.25)];
    let four = [AtLeast(4.0), AtLeast(7.0)];
    let quarter = [AtMost(0.25), AtMost(0.25)];
    let latency = [AtMost(0.75), Absolute(sync_us + 100.0)];
    vec![
        row(
            "put, 1,000 clients",
            "put.per_second",
            "/s",
            [AtLeast(4.0), AtLeast(7.0)],
            [AtLeast(2.2), AtLeast(4.0)],
        ),
        row("put, 1,000 clients, p99", "put.p99_us", "µs", informs, informs),
        row(
            "server CPU per put",
            "put.cpu_us",
            "µs",
            [AtMost(0.25), Absolute(6.0)],
            [AtMost(0.25), Absolute(6.0)],
        ),
        row("put, one client, p50", "latency.p50_us", "µs", latency, latency),
        row("linearizable get, 64 clients", "get.per_second", "/s", reads.0, reads.1),
        row("serializable get, 64 clients", "serializable.per_second", "/s", reads.0, reads.1),
        row("Kubernetes-style txn", "txn.per_second", "/s", updates, updates),
        row("Kubernetes mix", "kube.per_second", "/s", updates, updates),
        row("watch, CPU per event (all CPU)", "watch.cpu_us_per_event", "µs", half, half),
        row("watch, CPU per event (above puts alone)", "watch.net_cpu_us_per_event", "µs", half, half),
        row(
            "watch, put to event, p99",
            "watch.p99_us",
            "µs",
            [AtMost(1.0), Absolute(1000.0)],
            [AtMost(1.0), Absolute(1000.0)],
        ),
        row("watch, events delivered", "watch.events_per_second", "/s", informs, informs),
        row("three members: put, 1,000 clients", "cluster.put_per_second", "/s", four, four),
        row("three members: put, 1,000 clients, p99", "cluster.put_p99_us", "µs", informs, informs),
        row("three members: CPU per put of all", "cluster.put_cpu_us", "µs", quarter, quarter),
        row(
            "three members: linearizable get on a follower",
            "cluster.get_per_second",
            "/s",
            reads.0,
            reads.0,
        ),
        row("three members: the same, p99", "cluster.get_p99_us", "µs", informs, informs),
        row("many keys: resident after filling", "large.rss_after_fill_mib", "MiB", half, half),
        row("many keys: resident after a start", "large.rss_after_start_mib", "MiB", half, half),
        row("many keys: of that anonymous", "large.anon_after_start_mib", "MiB", informs, informs),
        row(
            "many keys: start to first linearizable read",
            "large.start_ms",
            "ms",
            [AtMost(0.5), AtMost(0.1)],
            [AtMost(0.5), AtMost(0.1)],
        ),
        row("many keys: put p99.9, idle", "large.idle_p999_us", "µs", informs, informs),
        row("many keys: longest put during defragmentation", "large.defrag_max_us", "µs", informs, informs),
    ]
}

/// Rows whose figure is each server's own p99.9 against its idle p99.9.
const DISTURBED: [(&str, &str, bool); 4] = [
    ("put p99.9 during compaction, × idle", "large.compaction_p999_us", true),
    ("put p99.9 during snapshot save, × idle", "large.snapshot_p999_us", true),
    ("put p99.9 during full ranges, × idle", "large.range_p999_us", true),
    ("put p99.9 during defragmentation, × idle", "large.defrag_p999_us", false),
];
const DISTURBED_MUST: f64 = 3.0;
const DISTURBED_AIM: f64 = 1.5;

/// Renders everything that was measured.
pub fn render(results: &Results) -> String {
    let mut out = String::new();
    let [a, b] = &results.labels;
    let _ = writeln!(out, "| what | server on | {a} | {b} | {b} / {a} | must | aim | reached |");
    let _ = writeln!(out, "|---|---|---:|---:|---:|---|---|---|");
    for &placement in results.values.keys() {
        for row in rows(results.sync_us) {
            let Some([a, b]) = results.medians(placement, row.metric) else { continue };
            let [must, aim] = if placement == Placement::One { row.one } else { row.both };
            let _ = writeln!(
                out,
                "| {} | {} | {} {} | {} {} | {:.2} | {} | {} | {} |",
                row.what,
                placement.name(),
                number(a),
                row.unit,
                number(b),
                row.unit,
                b / a,
                must.text(row.unit),
                aim.text(row.unit),
                reached(must.holds(a, b), aim.holds(a, b)),
            );
        }
        disturbed_rows(results, placement, &mut out);
    }
    let _ = writeln!(
        out,
        "\nOne append of 2,300 bytes with its sync on this disk: {:.0} µs (median).",
        results.sync_us
    );
    echo_lines(results, &mut out);
    out
}

fn disturbed_rows(results: &Results, placement: Placement, out: &mut String) {
    let Some(idle) = results.medians(placement, "large.idle_p999_us") else { return };
    for (what, metric, demanded) in DISTURBED {
        let Some([a, b]) = results.medians(placement, metric) else { continue };
        let (a, b) = (a / idle[0], b / idle[1]);
        let (must, aim, reached) = match demanded {
            true => {
                ("≤ 3× idle", "≤ 1.5× idle", reached(Some(b <= DISTURBED_MUST), Some(b <= DISTURBED_AIM)))
            }
            false => ("–", "–", ""),
        };
        let place = placement.name();
        let _ = writeln!(
            out,
            "| {what} | {place} | {a:.2} | {b:.2} | {:.2} | {must} | {aim} | {reached} |",
            b / a
        );
    }
}

fn echo_lines(results: &Results, out: &mut String) {
    for (placement, [puts, reads]) in &results.echo {
        let share = |metric: &str, ceiling: f64| match results.medians(*placement, metric) {
            Some([a, b]) => format!(" ({:.0} % and {:.0} %)", a / ceiling * 100.0, b / ceiling * 100.0),
            None => String::new(),
        };
        let _ = writeln!(
            out,
            "Bare RPC, {}: {} puts/s{}, {} reads/s{}.",
            placement.name(),
            number(*puts),
            share("put.per_second", *puts),
            number(*reads),
            share("get.per_second", *reads)
        );
    }
}

fn reached(must: Option<bool>, aim: Option<bool>) -> &'static str {
    match (must, aim) {
        (Some(false), _) => "**no**",
        (Some(true), Some(true)) => "aim",
        (Some(true), _) => "must",
        (None, _) => "",
    }
}

/// Three significant digits and thousands separators.
fn number(value: f64) -> String {
    let decimals = match value.abs() {
        0.0..10.0 => 2,
        10.0..100.0 => 1,
        _ => 0,
    };
    let text = format!("{value:.decimals$}");
    let (whole, fraction) =
        text.split_once('.').map_or((text.as_str(), None), |(whole, rest)| (whole, Some(rest)));
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    match fraction {
        Some(fraction) => format!("{grouped}.{fraction}"),
        None => grouped,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(number(1_234_567.8), "1,234,568");
        assert_eq!(number(12.34), "12.3");
        assert_eq!(number(0.5), "0.50");
        assert_eq!(number(123.0), "123");
    }

    #[test]
    fn rows_say_what_was_reached() {
        let mut results = Results { labels: ["etcd".into(), "ours".into()], ..Default::default() };
        results.add(Placement::One, 0, vec![("put.per_second", 25_000.0), ("put.cpu_us", 36.0)]);
        results.add(Placement::One, 1, vec![("put.per_second", 110_000.0), ("put.cpu_us", 10.0)]);
        let text = render(&results);
        assert!(
            text.contains(
                "| put, 1,000 clients | one core | 25,000 /s | 110,000 /s | 4.40 | ≥ 4× | ≥ 7× | must |"
            ),
            "{text}"
        );
        assert!(
            text.contains(
                "| server CPU per put | one core | 36.0 µs | 10.0 µs | 0.28 | ≤ 0.25× | ≤ 6 µs | **no** |"
            ),
            "{text}"
        );
    }
}
