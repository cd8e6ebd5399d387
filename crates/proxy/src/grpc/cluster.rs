//! The Cluster service, and the registration of this proxy.
//!
//! With an address to advertise the proxies are the members that clients see: those registered under
//! the resolver prefix, or this one alone. Everything else goes to the cluster.
//!
//! Registration: a key `<prefix>/<address>` under a lease that is kept alive; when that is lost, a new
//! one. Both lie in the namespace.
//!
//! **Source**: etcd `server/proxy/grpcproxy/{cluster,register}.go`, `client/v3/naming/endpoints`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::grpc::{CallContext, Code, Status};
use bytes::Bytes;
use client::concurrency::Session;
use client::{Client, Error};
use parking_lot::Mutex;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::request_op::Request;
use proto::mvccpb::event::EventType;
use serde_json::{Value, json};
use server::log;
use tokio::time::sleep;

use super::Proxy;
use super::namespace::Namespace;

const RETRY: Duration = Duration::from_secs(1);

/// How this proxy is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// `--advertise-client-url`.
    pub advertise: String,
    /// `--resolver-prefix`.
    pub prefix: String,
    /// `--resolver-ttl`, in seconds.
    pub ttl_seconds: i64,
}

/// A registered proxy: its address, and what it says about itself.
type Registered = (String, Value);

/// The proxies registered under the prefix, by key.
pub(crate) type Proxies = Arc<Mutex<BTreeMap<Bytes, Registered>>>;

/// `Cluster.MemberList`.
pub(crate) async fn member_list(
    proxy: &Proxy,
    context: &CallContext,
    request: pb::MemberListRequest,
) -> Result<pb::MemberListResponse, Status> {
    if proxy.identity.advertise.is_empty() {
        return proxy.upstream.call(context, request).await;
    }
    let registered: Vec<Registered> = proxy.proxies.lock().values().cloned().collect();
    let members = match registered.is_empty() {
        true => vec![member(host_name(), proxy.identity.advertise.clone())],
        false => registered
            .into_iter()
            .map(|(address, meta)| Ok(member(name_in(&meta)?, address)))
            .collect::<Result<_, Status>>()?,
    };
    Ok(pb::MemberListResponse { header: None, members })
}

fn member(name: String, address: String) -> pb::Member {
    pb::Member { name, client_ur_ls: vec![address], ..Default::default() }
}

/// The name in what a proxy says about itself, which is JSON in a text.
fn name_in(meta: &Value) -> Result<String, Status> {
    let unreadable = |reason: String| Status::new(Code::Unknown, reason);
    let text = meta.as_str().ok_or_else(|| unreadable("invalid metadata of a registered proxy".into()))?;
    let meta: Value = serde_json::from_str(text).map_err(|error| unreadable(error.to_string()))?;
    Ok(meta["name"].as_str().unwrap_or_default().to_owned())
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim_end().to_owned()
}

/// What is written under the key of a proxy.
fn entry(address: &str, name: &str) -> String {
    let meta = json!({ "name": name }).to_string();
    json!({ "Op": 0, "Addr": address, "Metadata": meta }).to_string()
}

fn parse(value: &[u8]) -> Option<Registered> {
    let entry: Value = serde_json::from_slice(value).ok()?;
    Some((entry["Addr"].as_str().unwrap_or_default().to_owned(), entry["Metadata"].clone()))
}

/// Keeps this proxy registered, for ever.
pub(crate) async fn register(client: Client, namespace: Namespace, identity: Identity) {
    loop {
        match register_once(&client, &namespace, &identity).await {
            Ok(session) => {
                log::info!(
                    "registered session with lease",
                    "addr" => &identity.advertise,
                    "lease-ttl" => identity.ttl_seconds
                );
                session.done().await;
                log::warn!("session expired; possible network partition or server restart");
                log::warn!("creating a new session to rejoin");
            }
            Err(error) => log::warn!("failed to create a session", "error" => error.to_string()),
        }
        sleep(RETRY).await;
    }
}

async fn register_once(
    client: &Client,
    namespace: &Namespace,
    identity: &Identity,
) -> Result<Session, Error> {
    let session = Session::new(client, identity.ttl_seconds).await?;
    let put = pb::PutRequest {
        key: format!("{}/{}", identity.prefix, identity.advertise).into(),
        value: entry(&identity.advertise, &host_name()).into(),
        lease: session.lease(),
        ..Default::default()
    };
    let operation = pb::RequestOp { request: Some(Request::RequestPut(put)) };
    let mut txn = pb::TxnRequest { success: vec![operation], ..Default::default() };
    namespace.enter_txn(&mut txn);
    match client.call(txn).await {
        Ok(_) => Ok(session),
        Err(error) => {
            // What went wrong first is what counts.
            let _ = session.close().await;
            Err(error)
        }
    }
}

/// Keeps `proxies` up to date, for ever.
pub(crate) async fn observe(client: Client, namespace: Namespace, prefix: String, proxies: Proxies) {
    loop {
        if let Err(error) = observe_once(&client, &namespace, &prefix, &proxies).await {
            log::warn!(
                "failed to establish endpoint watch",
                "prefix" => &prefix,
                "error" => error.to_string()
            );
        }
        sleep(RETRY).await;
    }
}

async fn observe_once(
    client: &Client,
    namespace: &Namespace,
    prefix: &str,
    proxies: &Proxies,
) -> Result<(), Error> {
    let (mut key, mut range_end) = client::with_prefix(format!("{prefix}/"));
    namespace.enter(&mut key, &mut range_end);
    let range = pb::RangeRequest {
        key: key.clone(),
        range_end: range_end.clone(),
        serializable: true,
        ..Default::default()
    };
    let now = client.call(range).await?;
    let registered = now.kvs.iter().filter_map(|kv| Some((kv.key.clone(), parse(&kv.value)?)));
    *proxies.lock() = registered.collect();
    let start_revision = now.header.map_or(0, |header| header.revision) + 1;
    let mut watch =
        client.watch(pb::WatchCreateRequest { key, range_end, start_revision, ..Default::default() });
    while let Some(answer) = watch.next().await {
        let response = answer?;
        if let Some(error) = client::cancel_error(&response) {
            return Err(error);
        }
        let mut proxies = proxies.lock();
        for event in response.events {
            let kind = event.r#type();
            let Some(kv) = event.kv else { continue };
            match (kind, parse(&kv.value)) {
                (EventType::Delete, _) => drop(proxies.remove(&kv.key)),
                (EventType::Put, Some(registered)) => drop(proxies.insert(kv.key, registered)),
                (EventType::Put, None) => log::warn!("unmarshal endpoint update failed"),
            }
        }
    }
    log::info!("endpoints watch channel closed");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_written_and_read_as_etcds() {
        let text = entry("127.0.0.1:23790", "host");
        assert_eq!(text, r#"{"Op":0,"Addr":"127.0.0.1:23790","Metadata":"{\"name\":\"host\"}"}"#);
        let (address, meta) = parse(text.as_bytes()).unwrap();
        assert_eq!((address.as_str(), name_in(&meta).unwrap().as_str()), ("127.0.0.1:23790", "host"));
        assert_eq!(parse(b"no json"), None);
        assert!(name_in(&Value::Null).is_err());
    }
}
