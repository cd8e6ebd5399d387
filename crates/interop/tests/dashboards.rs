//! Every series that a dashboard or an alert rule names is there, with the labels that are selected by:
//! those of etcd's own mixin, listed in `data/mixin.tsv`, and those of `contrib/`.
//!
//! Some series appear with the first event of their kind, so the cluster here has had each: a peer
//! that does not answer, an alarm, a watch.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, ensure};
use interop::cluster::{Cluster, ask, ctl, eventually};
use interop::ctl::Until;
use interop::http;
use interop::programs::subject;
use proto::etcdserverpb::{AlarmRequest, AlarmResponse};

const MIXIN: &str = include_str!("data/mixin.tsv");

/// Names of series with the labels that are asked for.
type Wanted = BTreeMap<String, BTreeSet<String>>;

/// Made by who scrapes, or put on every series by him.
const SCRAPER: [&str; 3] = ["up", "job", "instance"];

fn mixin() -> Wanted {
    let rows = MIXIN.lines().filter(|line| !line.starts_with('#')).skip(1);
    rows.map(|row| {
        let mut columns = row.split('\t');
        let name = columns.next().unwrap_or_default().to_owned();
        let labels = columns.next().unwrap_or_default().split(',').filter(|label| !label.is_empty());
        (name, labels.map(str::to_owned).collect())
    })
    .collect()
}

/// Every `expr` of a document, however deep.
fn expressions(value: &serde_json::Value, found: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (key, value) in fields {
                match value.as_str() {
                    Some(text) if key == "expr" => found.push(text.to_owned()),
                    _ => expressions(value, found),
                }
            }
        }
        serde_json::Value::Array(values) => values.iter().for_each(|value| expressions(value, found)),
        _ => {}
    }
}

/// The names of series in an expression, with the labels in the braces behind them.
fn series(expression: &str, wanted: &mut Wanted) {
    let is_word = |character: char| character.is_ascii_alphanumeric() || character == '_' || character == ':';
    let mut rest = expression;
    while let Some(start) = rest.find(is_word) {
        rest = &rest[start..];
        let word = &rest[..rest.find(|character| !is_word(character)).unwrap_or(rest.len())];
        rest = &rest[word.len()..];
        let families = ["etcd_", "grpc_server_", "process_", "os_"];
        let Some(inside) = rest.strip_prefix('{').and_then(|inside| inside.split_once('}')) else {
            if families.iter().any(|family| word.starts_with(family)) {
                wanted.entry(word.to_owned()).or_default();
            }
            continue;
        };
        let labels = wanted.entry(word.to_owned()).or_default();
        // Values may hold commas; what stands before an operator is a name.
        for part in inside.0.split(',') {
            if let Some((name, _)) = part.split_once(['=', '!']) {
                labels.insert(name.trim().to_owned());
            }
        }
        rest = inside.1;
    }
}

fn contrib() -> anyhow::Result<Wanted> {
    let contrib = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../contrib");
    let read = |path: &str| std::fs::read_to_string(contrib.join(path)).context(path.to_owned());
    let dashboard: serde_json::Value = serde_json::from_str(&read("grafana/etcd.json")?)?;
    let rules: serde_json::Value = serde_norway::from_str(&read("prometheus/etcd-rules.yml")?)?;
    let (mut wanted, mut found) = (Wanted::new(), Vec::new());
    expressions(&dashboard, &mut found);
    ensure!(found.len() > 30, "the dashboard has {} expressions", found.len());
    let of_dashboard = found.len();
    expressions(&rules, &mut found);
    ensure!(found.len() > of_dashboard + 15, "there are {} rules", found.len() - of_dashboard);
    found.iter().for_each(|expression| series(expression, &mut wanted));
    for group in rules["groups"].as_array().context("groups")? {
        for rule in group["rules"].as_array().context("rules")? {
            let complete = rule["alert"].is_string()
                && rule["annotations"]["summary"].is_string()
                && rule["labels"]["severity"].is_string();
            ensure!(complete, "{rule}");
        }
    }
    Ok(wanted)
}

/// The series of a page, with the labels that they have.
fn parse(page: &str, found: &mut Wanted) {
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap_or_default();
        let labels = found.entry(name.to_owned()).or_default();
        if let Some((_, inside)) = line.split_once('{') {
            for part in inside.split("\",") {
                labels.extend(part.split_once("=\"").map(|(label, _)| label.to_owned()));
            }
        }
    }
}

fn missing(wanted: &Wanted, cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    let mut found = Wanted::new();
    for member in cluster.members.iter().filter(|member| member.pid().is_some()) {
        let page = http::request(&member.authority(), "GET", "/metrics", &[], "")?.body;
        parse(&String::from_utf8_lossy(&page), &mut found);
    }
    let mut missing = Vec::new();
    let made = |name: &str| !SCRAPER.contains(&name) && !ON_DEMAND.contains(&name);
    for (name, labels) in wanted.iter().filter(|(name, _)| made(name)) {
        match found.get(name) {
            None => missing.push(name.clone()),
            Some(present) => {
                let absent = labels.difference(present).filter(|label| !SCRAPER.contains(&label.as_str()));
                missing.extend(absent.map(|label| format!("{name}{{{label}}}")));
            }
        }
    }
    Ok(missing)
}

#[test]
fn every_series_of_the_mixin_and_of_ours_is_there() -> anyhow::Result<()> {
    let program = subject();
    let mut cluster = Cluster::start(&[&program, &program, &program], &[])?;
    ctl(&cluster.members[0]).run(&["put", "k", "v"])?.success()?;
    ctl(&cluster.members[0]).run_until(&["watch", "k", "--rev", "1"], "", Until::Lines(3))?;
    let alarm = AlarmRequest { action: 1, member_id: 0, alarm: 1 };
    ask::<AlarmResponse>(&cluster.members[0], "/etcdserverpb.Maintenance/Alarm", &alarm)?;
    let leader = cluster.leader()?;
    cluster.members[(leader + 1) % 3].kill()?;
    for (what, wanted) in [("etcd's mixin", mixin()), ("contrib", contrib()?)] {
        let mut left = Vec::new();
        let there = eventually(&format!("all series of {what}"), || {
            left = missing(&wanted, &cluster)?;
            Ok(left.is_empty())
        });
        ensure!(there.is_ok(), "{what}: not there: {left:?}");
    }
    Ok(())
}

/// Without `--metrics extensive` the durations of calls are not there, in etcd neither.
const ON_DEMAND: [&str; 1] = ["grpc_server_handling_seconds_bucket"];

#[test]
fn names_are_found_in_expressions() {
    let mut wanted = Wanted::new();
    series(
        "sum by (To) (rate(etcd_a{job=~\".*etcd.*\", To!=\"x\"}[5m])) / etcd_b > 0 and up{job=\"x\"}",
        &mut wanted,
    );
    let names: Vec<_> = wanted.keys().map(String::as_str).collect();
    assert_eq!(names, ["etcd_a", "etcd_b", "up"]);
    assert_eq!(wanted["etcd_a"].iter().map(String::as_str).collect::<Vec<_>>(), ["To", "job"]);
}
