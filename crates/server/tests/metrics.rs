//! Walks the table of etcd's metrics: each family is printed with its type, labels and bounds, or
//! is listed here with the reason why not.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use api::member::{ReadKind, ReadTimes};
use apply::RequestKind;
use server::config::gates::FeatureGates;
use server::metrics::Metrics;
use server::metrics::grpc::MethodCounts;
use types::{MemberId, Version};

const TABLE: &str = include_str!("data/metrics.tsv");

/// Prefixes and names that we do not print.
const ABSENT: [(&str, &str); 5] = [
    ("go_", "the Go runtime; only go_threads has a meaning here"),
    (
        "etcd_debugging_store_",
        "traffic of the v2 store, which does not exist; the three that stay 0 are there",
    ),
    ("etcd_http_", "the v2 API"),
    ("etcd_proxy_", "the v2 proxy"),
    ("up", "made by the scraper"),
];

struct Family {
    kind: String,
    labels: BTreeSet<String>,
    bounds: Vec<String>,
}

fn parse(text: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut last = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let name = rest.split(' ').next().expect("a name");
            assert!(*name > *last, "{name} is not behind {last}");
            assert!(rest.len() > name.len() + 1, "{name} has no help");
            name.clone_into(&mut last);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type");
            assert_eq!(name, last);
            let family = Family { kind: kind.to_owned(), labels: BTreeSet::new(), bounds: Vec::new() };
            assert!(families.insert(name.to_owned(), family).is_none(), "{name} twice");
        } else {
            let family = families.get_mut(&last).expect("a family");
            let (series, value) = line.rsplit_once(' ').expect("a value");
            value.parse::<f64>().unwrap_or_else(|_| panic!("{line}"));
            let Some((_, labels)) = series.strip_suffix('}').and_then(|series| series.split_once('{')) else {
                continue;
            };
            for label in labels.split("\",") {
                let (name, value) = label.split_once("=\"").expect("a label");
                match name {
                    "le" => {
                        let bound = value.trim_end_matches('"').to_owned();
                        if !family.bounds.contains(&bound) {
                            family.bounds.push(bound);
                        }
                    }
                    name => {
                        family.labels.insert(name.to_owned());
                    }
                }
            }
        }
    }
    families
}

/// A member that has done a little of everything.
fn busy() -> String {
    let metrics = Metrics::default();
    metrics.identify(MemberId(0x2a), Version::new(3, 7, 1), &FeatureGates::default(), 2 << 30);
    metrics.agree_on_cluster_version(Version::new(3, 6, 0));
    metrics.agree_on_cluster_version(Version::new(3, 7, 0));
    metrics.client_requests.with(["3.7", "unary"]).inc();
    metrics.learner_promote_failures.with(["etcdserver: can only promote a learner member"]).inc();
    metrics.healthcheck.with(["serializable_read", "livez"]).set(1);
    metrics.healthchecks.with(["serializable_read", "success", "livez"]).inc();
    metrics.alarms.with(["NOSPACE", "2a"]).add(1);
    metrics.known_peers.with(["2a", "2a"]).set(1);
    metrics.stream_failures.with(["watch", "send"]).inc();
    for kind in [RequestKind::Put, RequestKind::AuthStatus, RequestKind::Unknown] {
        metrics.applied_operations(kind, true, Duration::from_micros(5), 1);
    }
    metrics.request(RequestKind::Put, false, Duration::from_micros(5));
    let (total, in_store) = (Duration::from_micros(60), Some(Duration::from_micros(51)));
    metrics.read(&ReadTimes { kind: ReadKind::Range, success: true, total, in_store });
    metrics.read(&ReadTimes { kind: ReadKind::ReadonlyTxn, success: false, total, in_store: None });
    metrics.compaction(Duration::from_micros(7_900), 12);
    metrics.lease_granted(60);
    let handling = Metrics::call_histogram();
    let mut handled = [0; 17];
    handled[8] = 3;
    let put = MethodCounts {
        service: "etcdserverpb.KV",
        method: "Put",
        shape: "unary",
        started: 5,
        received: 5,
        sent: 4,
        handled,
        handling: Some(&handling),
    };
    metrics.render(&[put], Some(&peers()))
}

/// A transport that did everything once.
fn peers() -> peer::Metrics {
    let metrics = peer::Metrics::new(MemberId(1));
    let other = metrics.peer(MemberId(2));
    for counter in [
        &other.sent_bytes,
        &other.received_bytes,
        &other.sent_failures,
        &other.received_failures,
        &other.disconnected,
        &other.snapshot_send_success,
        &other.snapshot_send_failures,
        &other.snapshot_receive_success,
        &other.snapshot_receive_failures,
    ] {
        counter.inc();
    }
    for gauge in [&other.active, &other.snapshot_send_inflights, &other.snapshot_receive_inflights] {
        gauge.add(1);
    }
    other.round_trip.observe(Duration::from_millis(1));
    other.snapshot_send_duration.observe(Duration::from_millis(1));
    other.snapshot_receive_duration.observe(Duration::from_millis(1));
    metrics
}

#[test]
fn every_row_is_printed_or_excused() {
    let families = parse(&busy());
    let mut rows = BTreeSet::new();
    for line in TABLE.lines().skip(1) {
        let cells: Vec<&str> = line.split('\t').collect();
        let (name, kind, labels, buckets) = (cells[0], cells[1], cells[2], cells[3]);
        if name.starts_with("RULE:") {
            continue;
        }
        rows.insert(name);
        let Some(family) = families.get(name) else {
            assert!(ABSENT.iter().any(|(prefix, _)| name.starts_with(prefix)), "{name} is missing");
            continue;
        };
        assert_eq!(family.kind, kind, "{name}");
        let want: BTreeSet<String> =
            labels.split(',').filter(|label| *label != "-").map(str::to_owned).collect();
        assert_eq!(family.labels, want, "{name}");
        if kind == "histogram" {
            check_bounds(name, buckets, &family.bounds);
        }
    }
    for name in families.keys() {
        assert!(rows.contains(name.as_str()) || name.starts_with("retcd_"), "{name} is no metric of etcd");
    }
}

fn check_bounds(name: &str, buckets: &str, bounds: &[String]) {
    assert_eq!(bounds.last().map(String::as_str), Some("+Inf"), "{name}");
    let bounds: Vec<f64> =
        bounds[..bounds.len() - 1].iter().map(|bound| bound.parse().expect("a bound")).collect();
    let numbers = buckets.strip_prefix("exp(").and_then(|rest| rest.split(')').next());
    let want: Vec<f64> = match numbers {
        Some(numbers) => {
            let numbers: Vec<f64> =
                numbers.split(',').map(|number| number.parse().expect("a number")).collect();
            (0..numbers[2] as i32).map(|power| numbers[0] * numbers[1].powi(power)).collect()
        }
        None => buckets.split(' ').map(|number| number.parse().expect("a number")).collect(),
    };
    assert_eq!(bounds.len(), want.len(), "{name}");
    for (got, want) in bounds.iter().zip(want) {
        assert!((got - want).abs() <= want * 1e-9, "{name}: {got} is not {want}");
    }
}

#[test]
fn values_come_out_as_counted() {
    let text = busy();
    for line in [
        "etcd_cluster_version{cluster_version=\"3.7\"} 1",
        "etcd_server_version{server_version=\"3.7.1\"} 1",
        "etcd_server_id{server_id=\"2a\"} 1",
        "etcd_server_feature_enabled{name=\"FastLeaseKeepAlive\",stage=\"BETA\"} 1",
        "etcd_server_quota_backend_bytes 2.147483648e+09",
        "etcd_debugging_mvcc_compact_revision -1",
        "etcd_server_apply_duration_seconds_count{op=\"unknown\",success=\"true\",version=\"v3\"} 2",
        "etcd_server_request_duration_seconds_count{success=\"false\",type=\"ReadonlyTxn\"} 1",
        "etcd_server_range_duration_seconds_sum{success=\"true\"} 5.1e-05",
        "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds_sum 7",
        "etcd_debugging_mvcc_db_compaction_keys_total 12",
        "etcd_debugging_lease_ttl_total_sum 60",
        "grpc_server_handled_total{grpc_code=\"ResourceExhausted\",grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 3",
        "grpc_server_msg_sent_total{grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 4",
        "promhttp_metric_handler_requests_in_flight 1",
        "promhttp_metric_handler_requests_total{code=\"200\"} 0",
    ] {
        assert!(text.lines().any(|got| got == line), "{line}");
    }
    assert!(!text.contains("cluster_version=\"3.6\""), "the old version is gone");
    assert_eq!(text.matches("grpc_server_handled_total{").count(), 17);
}
