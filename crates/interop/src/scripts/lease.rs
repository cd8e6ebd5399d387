//! Leases.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use proto::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesRequest,
    LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse, PutRequest, RangeResponse,
};

use super::{RANGE, get, put, range};
use crate::script::Script;

const GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
const REVOKE: &str = "/etcdserverpb.Lease/LeaseRevoke";
const TIME_TO_LIVE: &str = "/etcdserverpb.Lease/LeaseTimeToLive";
const LEASES: &str = "/etcdserverpb.Lease/LeaseLeases";
const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";

async fn grant(s: &mut Script, name: &str, id: i64, ttl: i64) {
    let _ = s.call::<LeaseGrantResponse>(name, GRANT, &LeaseGrantRequest { id, ttl }).await;
}

async fn revoke(s: &mut Script, name: &str, id: i64) {
    let _ = s.call::<LeaseRevokeResponse>(name, REVOKE, &LeaseRevokeRequest { id }).await;
}

async fn time_to_live(s: &mut Script, name: &str, id: i64) {
    let request = LeaseTimeToLiveRequest { id, keys: true };
    let blur = |answer: &mut LeaseTimeToLiveResponse| {
        answer.keys.sort();
        // A second may pass between grant and question.
        if answer.ttl > 0 && answer.granted_ttl - answer.ttl <= 2 {
            answer.ttl = answer.granted_ttl;
        }
    };
    let _ = s.call_blurred(name, TIME_TO_LIVE, &request, blur).await;
}

/// Grants, attachments, revocations.
pub async fn basics(s: &mut Script) -> anyhow::Result<()> {
    grant(s, "lease/grant with an id", 1001, 600).await;
    grant(s, "lease/grant the same id", 1001, 600).await;
    grant(s, "lease/negative id", -7, 600).await;
    grant(s, "lease/ttl 0", 1002, 0).await;
    grant(s, "lease/negative ttl", 1003, -5).await;
    grant(s, "lease/ttl below the minimum", 1004, 1).await;
    grant(s, "lease/largest ttl", 1005, 9_000_000_000).await;
    grant(s, "lease/ttl too large", 1006, 9_000_000_001).await;
    grant(s, "lease/ttl too large for an existing id", 1001, 9_000_000_001).await;
    for id in [1002, 1003, 1004] {
        let request = LeaseRevokeRequest { id };
        let _: LeaseRevokeResponse = s.channel.call(&s.method(REVOKE), &request).await?;
    }
    let chosen: LeaseGrantResponse =
        s.channel.call(&s.method(GRANT), &LeaseGrantRequest { id: 0, ttl: 300 }).await?;
    s.note("lease/id chosen by the server is positive", &format!("{}, ttl {}", chosen.id > 0, chosen.ttl));
    s.normaliser.replace_id(chosen.id as u64, "<lease>");
    s.put("lease/attach", PutRequest { lease: 1001, ..put("l/b", "1") }).await;
    s.put("lease/attach another", PutRequest { lease: 1001, ..put("l/a", "1") }).await;
    s.range("lease/kv shows it", range("l/", "l0")).await;
    time_to_live(s, "lease/time to live", 1001).await;
    time_to_live(s, "lease/time to live of a missing one", 4242).await;
    time_to_live(s, "lease/time to live of the chosen one", chosen.id).await;
    s.put("lease/ignore_lease keeps it", PutRequest { ignore_lease: true, ..put("l/a", "2") }).await;
    s.range("lease/still attached", get("l/a")).await;
    s.put("lease/move to another", PutRequest { lease: -7, prev_kv: true, ..put("l/a", "3") }).await;
    s.put("lease/detach", put("l/b", "2")).await;
    time_to_live(s, "lease/time to live after that", 1001).await;
    time_to_live(s, "lease/time to live of the negative one", -7).await;
    let blur = |answer: &mut LeaseLeasesResponse| answer.leases.sort_by_key(|lease| lease.id);
    let _ = s.call_blurred("lease/list", LEASES, &LeaseLeasesRequest {}, blur).await;
    s.put("lease/attach once more", PutRequest { lease: -7, ..put("l/z", "1") }).await;
    revoke(s, "lease/revoke", -7).await;
    revoke(s, "lease/revoke again", -7).await;
    revoke(s, "lease/revoke without keys", 1001).await;
    revoke(s, "lease/revoke 0", 0).await;
    s.range("lease/keys are gone", range("l/", "l0")).await;
    let mut watching = s.watch().await?;
    watching.create(proto::etcdserverpb::WatchCreateRequest {
        key: "l/".into(),
        range_end: "l0".into(),
        start_revision: 2,
        prev_kv: true,
        ..Default::default()
    })?;
    s.watch_response("lease/watch created", &mut watching).await;
    s.watch_events("lease/history", &mut watching, 8).await;
    Ok(())
}

/// Renewals and expiry.
pub async fn keep_alive(s: &mut Script) -> anyhow::Result<()> {
    grant(s, "lease/grant for renewal", 5, 100).await;
    let mut stream = s.channel.open(&s.method(KEEP_ALIVE)).await?;
    for (name, id) in [("renew", 5), ("renew a missing one", 6), ("renew again", 5), ("renew 0", 0)] {
        stream.send(&LeaseKeepAliveRequest { id })?;
        let answer: LeaseKeepAliveResponse = stream.receive().await?.context("the stream ended")?;
        s.note(&format!("lease/{name}"), &format!("{answer:#?}"));
    }
    stream.half_close()?;
    let end = stream.receive_raw().await;
    s.note("lease/half-close ends the stream", &format!("{end:?}"));
    grant(s, "lease/short", 8, 2).await;
    s.put("lease/attach to the short one", PutRequest { lease: 8, ..put("short", "1") }).await;
    let begun = Instant::now();
    let method = s.method(RANGE);
    while s.channel.call::<RangeResponse>(&method, &get("short")).await?.count > 0 {
        ensure!(begun.elapsed() < Duration::from_secs(15), "a lease of 2 s did not expire within 15 s");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    s.note("lease/not expired too early", &format!("{}", begun.elapsed() >= Duration::from_millis(1500)));
    s.range("lease/expired key", get("short")).await;
    time_to_live(s, "lease/time to live of the expired one", 8).await;
    revoke(s, "lease/revoke the expired one", 8).await;
    let mut stream = s.channel.open(&s.method(KEEP_ALIVE)).await?;
    stream.send(&LeaseKeepAliveRequest { id: 8 })?;
    let answer: LeaseKeepAliveResponse = stream.receive().await?.context("the stream ended")?;
    s.note("lease/renew the expired one", &format!("{answer:#?}"));
    Ok(())
}
