//! Slow requests: records, steps, counters.

use std::time::Duration;

use anyhow::{Context, ensure};
use bench::wire::{Channel, Method};
use interop::block_on;
use interop::cluster::{Cluster, ctl, eventually};
use interop::member::Member;
use proto::etcdserverpb as pb;
use serde_json::Value;

use crate::{alike, get, plain, records, records_of};

/// The value of a series without labels.
fn metric(member: &Member, name: &str) -> anyhow::Result<f64> {
    let (_, body) = get(member, "/metrics")?;
    let text = String::from_utf8(body)?;
    let line = text.lines().find(|line| line.split(' ').next() == Some(name));
    Ok(line
        .with_context(|| format!("{name} is not there"))?
        .rsplit(' ')
        .next()
        .unwrap_or_default()
        .parse()?)
}

/// A record without what differs from run to run; upstream's newer texts have one blank or two.
fn shape(record: &Value) -> String {
    let mut record = record.clone();
    if let Some(object) = record.as_object_mut() {
        for field in ["ts", "caller", "took", "start time", "time spent", "remote"] {
            object.remove(field);
        }
        // Ids of members and clusters, which follow from the ports, are longer or shorter.
        if object.get("response size").and_then(Value::as_i64).is_some_and(|size| size > 0) {
            object.remove("response size");
        }
    }
    let text = record.to_string().replace("  ", " ");
    let (mut plain, mut rest) = (String::new(), text.as_str());
    while let Some(at) = rest.find("ID:") {
        plain.push_str(&rest[..at + 3]);
        rest = rest[at + 3..].trim_start_matches(|symbol: char| symbol.is_ascii_digit());
    }
    plain + rest
}

#[test]
fn what_is_slow_is_told_without_values_and_passwords() -> anyhow::Result<()> {
    let mut shapes = Vec::new();
    for program in alike() {
        let args = ["--warning-apply-duration=1ns", "--warning-unary-request-duration=1ns"];
        let member = Member::start(&program, &args)?;
        let tool = ctl(&member);
        tool.run(&["put", "a\"b", "hidden"])?.success()?;
        tool.run(&["put", "a", "hidden", "--prev-kv"])?.success()?;
        tool.run(&["get", "a", "--prefix", "--limit", "7"])?.success()?;
        tool.run(&["del", "a", "--prefix"])?.success()?;
        ensure!(tool.run(&["put", "z", "hidden", "--lease=1234"])?.code != 0);
        tool.run(&["user", "add", "u:hidden"])?.success()?;
        tool.run(&["compaction", "2"])?.success()?;
        let txn = "value(\"a\") = \"hidden\"\n\nput k hidden\nget k\n\nget a\n\n";
        let ran = tool.run_until(&["txn"], txn, interop::ctl::Until::End)?;
        ensure!(ran.code == 0, "{ran:?}");
        let texts = ["apply request took too long", "failed to apply request", "request stats"];
        let mut found = Vec::new();
        for text in texts {
            found.extend(records_of(&member, text)?);
        }
        let wanted = |record: &&Value| {
            // The member's own entries, and what the tool asks beside.
            let text = record.to_string();
            !text.contains("cluster_") && !text.contains("MemberList") && !text.contains("RangeStream")
        };
        let told: Vec<String> = found.iter().filter(wanted).map(shape).collect();
        ensure!(
            told.iter().any(|text| text.contains(r#"put:<key:\"z\" value_size:6 lease:4660 >"#)),
            "{told:#?}"
        );
        ensure!(told.iter().any(|text| text.contains(r#""prefix":"read-only range ""#)), "{told:#?}");
        ensure!(told.iter().any(|text| text.contains(r#""error":"lease not found""#)), "{told:#?}");
        ensure!(
            told.iter().any(|text| text.contains(r#""response type":"/etcdserverpb.KV/Txn""#)),
            "{told:#?}"
        );
        let log = std::fs::read_to_string(member.log_file())?;
        ensure!(!log.contains("hidden"), "a value or a password is in the log");
        ensure!(metric(&member, "etcd_server_slow_apply_total")? >= 8.0);
        shapes.push(told);
    }
    for other in &shapes[1..] {
        // Users' entries are answered with another header.
        let comparable = |texts: &[String]| -> Vec<String> {
            let mut texts: Vec<String> = texts
                .iter()
                .filter(|text| !text.contains("auth_") && !text.contains("Auth/"))
                .cloned()
                .collect();
            texts.sort();
            texts
        };
        let (ours, theirs) = (comparable(&shapes[0]), comparable(other));
        ensure!(ours == theirs, "ours {ours:#?}\ntheirs {theirs:#?}");
    }
    Ok(())
}

#[test]
fn what_is_not_slow_is_not_told() -> anyhow::Result<()> {
    let hour = ["--warning-apply-duration=1h", "--warning-unary-request-duration=1h"];
    let member = Member::start(&plain(), &hour)?;
    ctl(&member).run(&["put", "a", "b"])?.success()?;
    for text in ["apply request took too long", "request stats"] {
        ensure!(records_of(&member, text)?.is_empty(), "{text}");
    }
    ensure!(metric(&member, "etcd_server_slow_apply_total")? == 0.0);
    Ok(())
}

#[test]
fn at_level_debug_every_request_is_told() -> anyhow::Result<()> {
    let member = Member::start(&plain(), &["--log-level=debug"])?;
    ctl(&member).run(&["put", "a", "hidden"])?.success()?;
    let told = records_of(&member, "request stats")?;
    let puts: Vec<&Value> =
        told.iter().filter(|record| record["response type"] == "/etcdserverpb.KV/Put").collect();
    ensure!(puts.len() == 1 && puts[0]["level"] == "debug", "{told:?}");
    // That level opens the profiles as well.
    ensure!(get(&member, "/debug/pprof/")?.0 == 200);
    Ok(())
}

/// A put that has to wait for a member that stands still leaves a trace of where the time went.
#[test]
fn a_slow_put_says_what_it_waited_for() -> anyhow::Result<()> {
    let program = plain();
    let cluster = Cluster::start(&[&program, &program], &[])?;
    cluster.settle()?;
    let leader = cluster.leader()?;
    let (member, other) = (&cluster.members[leader], &cluster.members[1 - leader]);
    other.pause()?;
    let put = pb::PutRequest { key: "slow".into(), value: "hidden".into(), ..Default::default() };
    let put_path = "/etcdserverpb.KV/Put";
    let outcome = block_on(async {
        let channel =
            Channel::connect(&member.authority()).await.map_err(|error| anyhow::anyhow!("{error:?}"))?;
        let method = Method::new(&member.authority(), put_path)?;
        let call = channel.call::<pb::PutResponse>(&method, &put);
        let resume = async {
            tokio::time::sleep(Duration::from_millis(250)).await;
            other.resume()
        };
        let (answer, resumed) = futures_util::future::join(call, resume).await;
        resumed?;
        answer.map_err(|error| anyhow::anyhow!("{error:?}"))
    });
    outcome?;
    let mut trace = Value::Null;
    eventually("the trace", || {
        let found = records_of(member, "trace")?;
        trace = found.into_iter().find(|record| record["operation"] == "put").unwrap_or_default();
        Ok(!trace.is_null())
    })?;
    let detail = trace["detail"].as_str().unwrap_or_default();
    ensure!(detail.starts_with("{key:slow; req_size:14; response_revision:"), "{trace}");
    let steps = trace["steps"].as_array().context("steps")?;
    let first = steps.first().and_then(Value::as_str).unwrap_or_default();
    ensure!(first.starts_with("'process raft request'  (duration: "), "{trace}");
    ensure!(trace["step_count"] == steps.len(), "{trace}");
    ensure!(!records(member)?.iter().any(|record| record.to_string().contains("hidden")));
    Ok(())
}

#[test]
fn extensive_metrics_time_every_method() -> anyhow::Result<()> {
    let count = "grpc_server_handling_seconds_count{grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"}";
    for (detail, expected) in [("extensive", Some("2")), ("basic", None)] {
        let member = Member::start(&plain(), &["--metrics", detail])?;
        for key in ["a", "b"] {
            ctl(&member).run(&["put", key, "x"])?.success()?;
        }
        let (_, body) = get(&member, "/metrics")?;
        let text = String::from_utf8(body)?;
        let found = text.lines().find_map(|line| line.strip_prefix(count)).map(str::trim);
        ensure!(found == expected, "{detail}: {found:?}");
    }
    Ok(())
}
