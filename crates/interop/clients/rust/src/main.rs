//! Drives a server with the `etcd-client` library: KV, txn, watch with resume, lease, lock,
//! election. Ends with a panic at the first wrong answer.
//!
//! Protocol with the test: the URL is the only argument; the line `restart` on stdout asks for
//! the server to be killed and started again, a line on stdin says that this was done.

use std::io::{BufRead, Write};
use std::time::Duration;

use etcd_client::{
    Client, Compare, CompareOp, DeleteOptions, EventType, GetOptions, LeaseTimeToLiveOptions, LockOptions,
    PutOptions, ResignOptions, SortOrder, SortTarget, Txn, TxnOp, WatchOptions,
};

type Outcome = Result<(), Box<dyn std::error::Error>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let url = std::env::args().nth(1).ok_or("usage: rust-client URL")?;
    let mut client = Client::connect([url], None).await?;
    tokio::time::timeout(Duration::from_secs(60), async {
        kv(&mut client).await?;
        txn(&mut client).await?;
        lease(&mut client).await?;
        lock(&mut client).await?;
        election(&mut client).await?;
        watch(&mut client).await
    })
    .await??;
    println!("done");
    Ok(())
}

async fn kv(client: &mut Client) -> Outcome {
    for number in 0..5 {
        client.put(format!("rs/kv/{number}"), number.to_string(), None).await?;
    }
    let previous = client.put("rs/kv/0", "again", Some(PutOptions::new().with_prev_key())).await?;
    assert_eq!(previous.prev_key().map(|kv| kv.value().to_vec()), Some(b"0".to_vec()));
    let options =
        GetOptions::new().with_prefix().with_sort(SortTarget::Mod, SortOrder::Descend).with_limit(2);
    let found = client.get("rs/kv/", Some(options)).await?;
    assert_eq!((found.kvs().len(), found.count(), found.more()), (2, 5, true));
    assert_eq!(found.kvs()[0].key(), b"rs/kv/0");
    assert_eq!(found.kvs()[0].version(), 2);
    let deleted = client.delete("rs/kv/", Some(DeleteOptions::new().with_prefix().with_prev_key())).await?;
    assert_eq!((deleted.deleted(), deleted.prev_kvs().len()), (5, 5));
    assert!(client.get("rs/kv/0", None).await?.kvs().is_empty());
    let refused = client.put("", "x", None).await.expect_err("an empty key must be refused");
    assert!(refused.to_string().contains("key is not provided"), "{refused}");
    Ok(())
}

async fn txn(client: &mut Client) -> Outcome {
    client.put("rs/txn", "1", None).await?;
    let update = |expected: &str, value: &str| {
        Txn::new()
            .when([Compare::value("rs/txn", CompareOp::Equal, expected)])
            .and_then([TxnOp::put("rs/txn", value, None), TxnOp::get("rs/txn", None)])
            .or_else([TxnOp::get("rs/txn", None)])
    };
    let done = client.txn(update("1", "2")).await?;
    assert!(done.succeeded() && done.op_responses().len() == 2);
    let refused = client.txn(update("1", "3")).await?;
    assert!(!refused.succeeded() && refused.op_responses().len() == 1);
    assert_eq!(client.get("rs/txn", None).await?.kvs()[0].value(), b"2");
    Ok(())
}

async fn lease(client: &mut Client) -> Outcome {
    let lease = client.lease_grant(60, None).await?;
    assert_eq!(lease.ttl(), 60);
    client.put("rs/leased", "x", Some(PutOptions::new().with_lease(lease.id()))).await?;
    let (mut keeper, mut answers) = client.lease_keep_alive(lease.id()).await?;
    for _ in 0..3 {
        keeper.keep_alive().await?;
        let answer = answers.message().await?.ok_or("the keep-alive stream ended")?;
        assert_eq!((answer.id(), answer.ttl()), (lease.id(), 60));
    }
    let options = LeaseTimeToLiveOptions::new().with_keys();
    let left = client.lease_time_to_live(lease.id(), Some(options)).await?;
    assert!(left.ttl() > 50 && left.granted_ttl() == 60 && left.keys() == [b"rs/leased"]);
    assert!(client.leases().await?.leases().iter().any(|other| other.id() == lease.id()));
    client.lease_revoke(lease.id()).await?;
    assert!(client.get("rs/leased", None).await?.kvs().is_empty());
    assert!(client.lease_revoke(lease.id()).await.is_err());
    Ok(())
}

async fn lock(client: &mut Client) -> Outcome {
    let first = client.lock("rs/lock", None).await?.key().to_vec();
    let lease = client.lease_grant(60, None).await?.id();
    let mut other = client.clone();
    let options = LockOptions::new().with_lease(lease);
    let waiting = tokio::spawn(async move { other.lock("rs/lock", Some(options)).await });
    while client.get("rs/lock", Some(GetOptions::new().with_prefix().with_count_only())).await?.count() < 2 {
        tokio::task::yield_now().await;
    }
    assert!(!waiting.is_finished(), "two hold the lock");
    client.unlock(first).await?;
    let second = waiting.await??.key().to_vec();
    client.unlock(second).await?;
    Ok(())
}

async fn election(client: &mut Client) -> Outcome {
    let lease = client.lease_grant(60, None).await?.id();
    let won = client.campaign("rs/vote", "me", lease).await?;
    let leader = won.leader().ok_or("no leader key")?.clone();
    assert_eq!(client.leader("rs/vote").await?.kv().map(|kv| kv.value().to_vec()), Some(b"me".to_vec()));
    let mut observed = client.observe("rs/vote").await?;
    let first = observed.message().await?.ok_or("the observation ended")?;
    assert_eq!(first.kv().map(|kv| kv.value().to_vec()), Some(b"me".to_vec()));
    let options = etcd_client::ProclaimOptions::new().with_leader(leader.clone());
    client.proclaim("still me", Some(options)).await?;
    let second = observed.message().await?.ok_or("the observation ended")?;
    assert_eq!(second.kv().map(|kv| kv.value().to_vec()), Some(b"still me".to_vec()));
    client.resign(Some(ResignOptions::new().with_leader(leader))).await?;
    assert!(client.leader("rs/vote").await.is_err());
    client.lease_revoke(lease).await?;
    Ok(())
}

/// Every event exactly once and in order, across a kill of the server.
async fn watch(client: &mut Client) -> Outcome {
    let mut seen = Vec::new();
    let mut next = 0;
    for round in 0..2 {
        let options = WatchOptions::new().with_prefix().with_start_revision(next).with_prev_key();
        let mut stream = client.watch("rs/watch/", Some(options)).await?;
        for number in 0..5 {
            client.put("rs/watch/k", format!("{round}-{number}"), None).await?;
        }
        client.delete("rs/watch/k", None).await?;
        while seen.len() < (round + 1) * 6 {
            let answer = stream.message().await?.ok_or("the watch ended")?;
            assert!(!answer.canceled(), "{answer:?}");
            for event in answer.events() {
                let kv = event.kv().ok_or("an event without kv")?;
                next = kv.mod_revision() + 1;
                seen.push(match event.event_type() {
                    EventType::Put => String::from_utf8(kv.value().to_vec())?,
                    EventType::Delete => "deleted".to_owned(),
                });
            }
        }
        if round == 0 {
            drop(stream);
            // Written while nobody watches, seen by the next round.
            client.put("rs/watch/k", "between", None).await?;
            restart()?;
            while client.get("rs/watch/k", None).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            seen.retain(|event| event != "between");
            let options = WatchOptions::new().with_prefix().with_start_revision(next);
            let mut stream = client.watch("rs/watch/", Some(options)).await?;
            let between = loop {
                let answer = stream.message().await?.ok_or("the watch ended")?;
                if let Some(event) = answer.events().first() {
                    break event.kv().ok_or("an event without kv")?.clone();
                }
            };
            assert_eq!(between.value(), b"between");
            next = between.mod_revision() + 1;
        }
    }
    let expected: Vec<_> = (0..2)
        .flat_map(|round| (0..5).map(move |number| format!("{round}-{number}")).chain(["deleted".to_owned()]))
        .collect();
    assert_eq!(seen, expected);
    Ok(())
}

fn restart() -> Outcome {
    println!("restart");
    std::io::stdout().flush()?;
    std::io::stdin().lock().read_line(&mut String::new())?;
    Ok(())
}
