//! `--experimental-enable-grpc-logging`: the records, which are etcd's.

use serde_json::Value;

use super::*;

const ARGS: &[&str] = &["--advertise-client-url=", "--experimental-enable-grpc-logging"];

/// What etcd 3.7.1 puts on record for [`records_of`]; headers of answers are left out here.
const RECORDS: &str = r#"
KV/Put > {"key":"aw==","value":"PHY+"}
KV/Put < {}
KV/Range > {"key":"aw=="}
KV/Range < {"count":"1","kvs":[{"key":"aw==","createRevision":"2","modRevision":"2","version":"1","value":"PHY+"}]}
KV/Range > {"key":"aw==","revision":"99"}
KV/Range < etcdserver: mvcc: required revision is a future revision
KV/Txn > {"compare":[{"result":"GREATER","target":"MOD","key":"aw=="}],"success":[{"requestPut":{"key":"eA==","value":"MQ=="}}],"failure":[{"requestDeleteRange":{"key":"eA=="}}]}
KV/Txn < {"responses":[{"responsePut":{}}],"succeeded":true}
KV/Compact > {"revision":"2","physical":true}
KV/Compact < {}
Lease/LeaseGrant > {"TTL":"100","ID":"7"}
Lease/LeaseGrant < {"TTL":"100","ID":"7"}
Cluster/MemberList > {"linearizable":true}
Watch/Watch > {"createRequest":{"key":"aw==","startRevision":"2"}}
Watch/Watch < {"created":true}
Watch/Watch < {"events":[{"kv":{"key":"aw==","createRevision":"2","modRevision":"2","version":"1","value":"PHY+"}}]}
Watch/Watch > rpc error: code = Canceled desc = context canceled {}
"#;

/// One line for each record, without what differs from run to run.
fn lines(log: &str) -> anyhow::Result<Vec<String>> {
    let mut lines = Vec::new();
    for line in log.lines().filter(|line| line.contains("payload logged as")) {
        let record: Value = serde_json::from_str(line)?;
        let side =
            if record["msg"].as_str().is_some_and(|msg| msg.starts_with("received")) { '>' } else { '<' };
        let kind = if side == '>' { "request" } else { "response" };
        let text = |name: &str| record[name].as_str().unwrap_or_default().to_owned();
        let expected = match side {
            '>' => "received payload logged as grpc.request.content field",
            _ => "returned response payload logged as grpc.response.content field",
        };
        ensure!(text("msg") == expected && text("level") == "info", "{line}");
        ensure!(text("peer.address").starts_with("127.0.0.1:"), "{line}");
        let service = text("grpc.service");
        let method = format!("{}/{}", service.rsplit('.').next().unwrap_or_default(), text("grpc.method"));
        let mut content = text(&format!("grpc.{kind}.content"));
        if method == "Cluster/MemberList" && side == '<' {
            continue;
        }
        if let Ok(mut message) = serde_json::from_str::<Value>(&content) {
            drop_headers(&mut message);
            content = message.to_string();
        }
        let error = text(&format!("grpc.{kind}.error"));
        let parts = [error, content].into_iter().filter(|part| !part.is_empty());
        lines.push(format!("{method} {side} {}", parts.collect::<Vec<_>>().join(" ")));
    }
    Ok(lines)
}

fn drop_headers(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("header");
            fields.values_mut().for_each(drop_headers);
        }
        Value::Array(values) => values.iter_mut().for_each(drop_headers),
        _ => {}
    }
}

fn records_of(program: &Program) -> anyhow::Result<(Vec<String>, String)> {
    use pb::compare::{CompareResult, CompareTarget, TargetUnion};
    use pb::request_op::Request;
    let member = Member::start(&yardstick(), &[])?;
    let front = Front::start(program, "grpc-proxy", &[member.authority()], ARGS)?;
    let authority = front.authority();
    block_on(async {
        let client = Channel::connect(&authority).await?;
        macro_rules! call {
            ($path:literal, $request:expr => $response:ty) => {{
                let method = Method::new(&authority, concat!("/etcdserverpb.", $path))?;
                client.call::<$response>(&method, &$request).await
            }};
        }
        let key = || bytes("k");
        let put = pb::PutRequest { key: key(), value: bytes("<v>"), ..Default::default() };
        call!("KV/Put", put => pb::PutResponse)?;
        let range = pb::RangeRequest { key: key(), ..Default::default() };
        call!("KV/Range", range => pb::RangeResponse)?;
        let later = pb::RangeRequest { revision: 99, ..range.clone() };
        ensure!(call!("KV/Range", later => pb::RangeResponse).is_err());
        let operation = |request| pb::RequestOp { request: Some(request) };
        let txn = pb::TxnRequest {
            compare: vec![pb::Compare {
                key: key(),
                result: CompareResult::Greater.into(),
                target: CompareTarget::Mod.into(),
                target_union: None::<TargetUnion>,
                ..Default::default()
            }],
            success: vec![operation(Request::RequestPut(pb::PutRequest {
                key: bytes("x"),
                value: bytes("1"),
                ..Default::default()
            }))],
            failure: vec![operation(Request::RequestDeleteRange(pb::DeleteRangeRequest {
                key: bytes("x"),
                ..Default::default()
            }))],
        };
        call!("KV/Txn", txn => pb::TxnResponse)?;
        let compact = pb::CompactionRequest { revision: 2, physical: true };
        call!("KV/Compact", compact => pb::CompactionResponse)?;
        let grant = pb::LeaseGrantRequest { id: 7, ttl: 100 };
        call!("Lease/LeaseGrant", grant => pb::LeaseGrantResponse)?;
        let list = pb::MemberListRequest { linearizable: true };
        call!("Cluster/MemberList", list => pb::MemberListResponse)?;
        let mut watch = Watching::open(&authority).await?;
        watch.create("k", 2)?;
        ensure!(watch.next().await?.created);
        ensure!(watch.values(1).await? == ["<v>"]);
        drop(watch);
        anyhow::Ok(())
    })?;
    eventually("the end of the watch is on record", || Ok(front.log().contains("context canceled")))?;
    Ok((lines(&front.log())?, front.log()))
}

#[test]
fn every_message_is_on_record() -> anyhow::Result<()> {
    let (found, log) = records_of(&our_program())?;
    ensure!(found == RECORDS.trim().lines().collect::<Vec<_>>(), "{}\n{log}", found.join("\n"));
    Ok(())
}

#[cfg(feature = "newest")]
#[test]
fn the_newest_etcd_has_the_same_records() -> anyhow::Result<()> {
    let (found, log) = records_of(&Program::plain(real("3.7", "etcd")))?;
    ensure!(found == RECORDS.trim().lines().collect::<Vec<_>>(), "{}\n{log}", found.join("\n"));
    Ok(())
}

/// Passwords and tokens are for nobody who reads a log.
#[test]
fn secrets_are_not_on_record() -> anyhow::Result<()> {
    let member = Member::start(&yardstick(), &[])?;
    let front = Front::start(&our_program(), "grpc-proxy", &[member.authority()], ARGS)?;
    let ctl = through(&front);
    for args in [
        &["user", "add", "root:hunter2"][..],
        &["user", "grant-role", "root", "root"],
        &["auth", "enable"],
        &["--user=root:hunter2", "put", "k", "v"],
    ] {
        ctl.run(args)?.success()?;
    }
    let log = front.log();
    let logged = lines(&log)?;
    ensure!(logged.iter().any(|line| line.starts_with(r#"Auth/UserAdd > {"name":"root""#)), "{logged:?}");
    ensure!(logged.contains(&r#"Auth/Authenticate > {"name":"root"}"#.to_owned()), "{logged:?}");
    ensure!(logged.contains(&"Auth/Authenticate < {}".to_owned()), "{logged:?}");
    ensure!(!log.contains("hunter2"), "{log}");
    Ok(())
}
