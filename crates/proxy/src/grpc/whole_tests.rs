//! Whole proxies before a cluster that answers what it is told to.

use std::time::Duration;

use client::Client;
use proto::etcdserverpb as pb;
use tokio::time::timeout;

use super::fake::{Fake, PATIENCE};
use super::{Identity, Prepared, Settings};
use crate::discover::Question;

fn settings(cluster: &Fake) -> Settings {
    Settings {
        listen: "127.0.0.1:0".to_owned(),
        metrics_url: String::new(),
        endpoints: vec![cluster.address()],
        sync_interval: Duration::ZERO,
        discovery: Question::default(),
        dial_keepalive_time: Duration::ZERO,
        dial_keepalive_timeout: Duration::ZERO,
        permit_without_stream: false,
        max_send_bytes: 0,
        max_receive_bytes: 0,
        cluster_tls: tls::Settings::default(),
        caller_tls: tls::Settings::default(),
        auto_tls: false,
        validity_years: 1,
        data_dir: String::new(),
        identity: Identity::default(),
        namespace: String::new(),
        leasing_prefix: String::new(),
        ordering: false,
        payload_log: false,
        keepalive_min_time: Duration::ZERO,
        keepalive_interval: Duration::ZERO,
        keepalive_timeout: Duration::ZERO,
        max_concurrent_streams: u32::MAX,
        enable_pprof: false,
    }
}

async fn start(settings: Settings) -> (Prepared, Client) {
    let proxy = tokio::task::spawn_blocking(|| Prepared::start(settings)).await.unwrap().unwrap();
    let address = proxy.local_addr().unwrap().to_string();
    (proxy, Client::connect(client::Options::new([address])).await.unwrap())
}

/// What was read to recover the order was forgotten: the first read could show an older state.
#[tokio::test]
async fn the_order_holds_from_the_start_on() {
    let cluster = Fake::start();
    cluster.revisions([10, 7, 8, 10]);
    let (_proxy, client) = start(Settings { ordering: true, ..settings(&cluster) }).await;
    let look = pb::RangeRequest { key: "k".into(), serializable: true, ..Default::default() };
    let answer = timeout(PATIENCE, client.call(look)).await.expect("an answer").unwrap();
    assert_eq!(answer.header.unwrap().revision, 10);
}

/// The proxy looked for a leader on a stream of its own, which may lead to another member than the watch.
#[tokio::test]
async fn who_asked_for_a_leader_is_told_when_there_is_none() {
    let cluster = Fake::start();
    let (proxy, client) = start(settings(&cluster)).await;
    let request = || pb::WatchCreateRequest { key: "k".into(), ..Default::default() };
    let watchers = [client.watcher(false), client.watcher(true)];
    let mut watches = watchers.each_ref().map(|watcher| watcher.watch_and_notify(request()));
    for watch in &mut watches {
        let created = timeout(PATIENCE, watch.next()).await.expect("an answer").unwrap().unwrap();
        assert!(created.created);
    }
    let mut begun = cluster.watches(2).await;
    begun.sort_unstable();
    assert_eq!(begun, [false, true]);
    cluster.lose_leader();
    let [patient, strict] = &mut watches;
    let told = timeout(PATIENCE, strict.next()).await.expect("he is told").unwrap();
    assert!(told.unwrap_err().is_server("no leader"));
    // The other one goes on, also when more of them begin.
    let mut more = watchers[0].watch_and_notify(request());
    assert!(timeout(PATIENCE, more.next()).await.expect("an answer").unwrap().unwrap().created);
    assert!(timeout(Duration::ZERO, patient.next()).await.is_err());
    drop(proxy);
}
