//! Several proxies before a member.

use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::future::join_all;
use server::config::{self, Outcome};
use server::run::{self, Serving};
use tokio::time::timeout;

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

/// A member in this process.
struct Cluster {
    endpoint: String,
    client: Client,
    serving: Option<Serving>,
    _dir: tempfile::TempDir,
}

impl Cluster {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let (clients, peers) = (format!("unix://{}", at("clients")), format!("unix://{}", at("peers")));
        let words = [
            "--data-dir",
            &at("data"),
            "--listen-client-urls",
            &clients,
            "--advertise-client-urls",
            "http://127.0.0.1:1",
            "--listen-peer-urls",
            &peers,
            "--initial-advertise-peer-urls",
            "http://127.0.0.1:2",
            "--initial-cluster",
            "default=http://127.0.0.1:2",
            "--unsafe-no-fsync",
        ]
        .map(str::to_owned);
        let Outcome::Start(loaded) = config::load(&words, &Vec::new(), &config::read_file) else {
            panic!("{words:?}")
        };
        assert!(loaded.failure.is_none(), "{:?}", loaded.failure);
        let serving = tokio::task::spawn_blocking(move || run::start(&loaded.config, drop)).await.unwrap();
        let client = Client::connect(client::Options::new([clients.clone()])).await.unwrap();
        Self { endpoint: clients, client, serving: Some(serving.unwrap()), _dir: dir }
    }

    async fn stop(mut self) {
        let serving = self.serving.take();
        tokio::task::spawn_blocking(move || serving.map(Serving::stop)).await.unwrap();
    }

    async fn owner(&self) -> Owner {
        self.owner_with("", Duration::from_secs(60)).await
    }

    async fn owner_with(&self, namespace: &str, ttl: Duration) -> Owner {
        let client = Client::connect(client::Options::new([self.endpoint.clone()])).await.unwrap();
        let upstream = Arc::new(Upstream::new(vec![client.clone()], namespace, false));
        let (leasing, session) = Leasing::with_ttl(upstream, "l/", ttl);
        let owner = Owner { leasing, session, client };
        eventually("a session", async || owner.leasing.claims.lock().lease() != 0).await;
        owner
    }

    /// The keys of claims at the cluster, without the prefix.
    async fn claims(&self) -> Vec<String> {
        let (key, range_end) = client::with_prefix("l/");
        let range = pb::RangeRequest { key, range_end, ..Default::default() };
        let kvs = self.client.call(range).await.unwrap().kvs;
        kvs.iter().map(|kv| String::from_utf8_lossy(&kv.key[2..]).into_owned()).collect()
    }

    async fn value(&self, key: &str) -> Option<String> {
        value_of(self.client.get(key.to_owned()).await.unwrap())
    }

    /// Past all claims.
    async fn put(&self, key: &str, value: &str) -> i64 {
        let answer = self.client.put(key.to_owned(), value.to_owned()).await.unwrap();
        answer.header.unwrap().revision
    }
}

async fn eventually(what: &str, done: impl AsyncFn() -> bool) {
    let wait = async {
        while !done().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("it never comes to {what}"));
}

fn value_of(answer: pb::RangeResponse) -> Option<String> {
    answer.kvs.first().map(|kv| String::from_utf8_lossy(&kv.value).into_owned())
}

fn get(key: &str) -> pb::RangeRequest {
    client::get(key.to_owned())
}

fn prefix(text: &str) -> pb::DeleteRangeRequest {
    let (key, range_end) = client::with_prefix(text.to_owned());
    pb::DeleteRangeRequest { key, range_end, ..Default::default() }
}

/// A proxy.
struct Owner {
    leasing: Arc<Leasing>,
    session: AbortHandle,
    client: Client,
}

impl Owner {
    async fn read(&self, request: pb::RangeRequest) -> pb::RangeResponse {
        let read = self.leasing.range(&self.client, true, request);
        timeout(PATIENCE, read).await.expect("an answer").unwrap()
    }

    async fn value(&self, key: &str) -> Option<String> {
        value_of(self.read(get(key)).await)
    }

    async fn put(&self, key: &str, value: &str) -> i64 {
        self.put_with(client::put(key.to_owned(), value.to_owned())).await.header.unwrap().revision
    }

    async fn put_with(&self, put: pb::PutRequest) -> pb::PutResponse {
        timeout(PATIENCE, self.leasing.put(&self.client, put)).await.expect("an answer").unwrap()
    }

    async fn delete(&self, request: pb::DeleteRangeRequest) -> pb::DeleteRangeResponse {
        let delete = self.leasing.delete_range(&self.client, request);
        timeout(PATIENCE, delete).await.expect("an answer").unwrap()
    }

    async fn txn(&self, txn: impl Into<pb::TxnRequest>) -> pb::TxnResponse {
        let answer = self.leasing.txn(&self.client, true, txn.into());
        timeout(PATIENCE, answer).await.expect("an answer").unwrap()
    }

    /// Whether a key would be read from memory.
    fn knows(&self, key: &str) -> bool {
        let mut request = get(key);
        // Claims nothing.
        request.serializable = true;
        matches!(self.leasing.claims.lock().read(&request, Instant::now()), Read::Here(_))
    }

    /// Its process dies.
    fn die(&self) {
        self.session.abort();
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.die();
    }
}

fn put(key: &str, value: &str) -> Request {
    Request::RequestPut(client::put(key.to_owned(), value.to_owned()))
}

fn read(key: &str) -> Request {
    Request::RequestRange(get(key))
}

#[tokio::test]
async fn what_is_claimed_is_read_from_memory() {
    let cluster = Cluster::start().await;
    let owner = cluster.owner().await;
    assert_eq!(owner.value("k").await, None);
    assert_eq!(cluster.claims().await, ["k"]);
    // Past the claims: who does that is not noticed.
    cluster.put("k", "1").await;
    assert_eq!(owner.value("k").await, None);
    // A put goes in once.
    let revision = owner.put("k", "2").await;
    let there = cluster.client.get("k").await.unwrap();
    assert_eq!((there.kvs[0].mod_revision, there.kvs[0].version), (revision, 2));
    cluster.stop().await;
}

#[tokio::test]
async fn writes_of_the_owner_are_known_at_once() {
    let cluster = Cluster::start().await;
    let owner = cluster.owner().await;
    let same = async |step: &str| {
        assert!(owner.knows("k"), "after {step}");
        let (seen, there) = (owner.read(get("k")).await, cluster.client.get("k").await.unwrap());
        assert_eq!((seen.kvs, seen.count), (there.kvs, there.count), "after {step}");
        assert_eq!(seen.header, there.header, "after {step}");
    };
    owner.read(get("k")).await;
    same("the claim").await;
    owner.put("k", "1").await;
    same("a put").await;
    let before = owner.put_with(pb::PutRequest { prev_kv: true, ..client::put("k", "2") }).await.prev_kv;
    assert_eq!(before.unwrap().value, "1");
    same("another one").await;
    owner.put_with(pb::PutRequest { ignore_value: true, ..client::put("k", "") }).await;
    same("a put without a value").await;
    assert_eq!(owner.delete(client::delete("k")).await.deleted, 1);
    same("a deletion").await;
    assert_eq!(owner.delete(client::delete("k")).await.deleted, 0);
    owner.txn(client::Txn::new().and_then(put("k", "3")).and_then(put("x", "1"))).await;
    same("a transaction").await;
    owner.txn(client::Txn::new().or_else(put("k", "4")).and_then(put("x", "2"))).await;
    same("one that took the other way").await;
    let inner = client::Txn::new().and_then(Request::RequestDeleteRange(client::delete("k"))).build();
    owner.txn(client::Txn::new().and_then(Request::RequestTxn(inner))).await;
    same("one inside of another").await;
    // A lease may take the key away without a word.
    let lease = cluster.client.grant(60).await.unwrap().id;
    owner.put_with(pb::PutRequest { lease, ..client::put("k", "5") }).await;
    assert!(!owner.knows("k"));
    assert_eq!(owner.value("k").await, Some("5".into()));
    assert!(!owner.knows("k"));
    cluster.client.revoke(lease).await.unwrap();
    assert_eq!(owner.value("k").await, None);
    cluster.stop().await;
}

#[tokio::test]
async fn a_claim_is_given_up_to_who_writes() {
    let cluster = Cluster::start().await;
    let (one, other) = (cluster.owner().await, cluster.owner().await);
    for key in ["a", "b", "c", "d"] {
        one.put(key, "0").await;
        assert_eq!(one.value(key).await, Some("0".into()));
    }
    // A look of somebody else changes nothing.
    assert_eq!(other.value("a").await, Some("0".into()));
    assert!(one.knows("a") && !other.knows("a"));
    other.put("a", "1").await;
    assert_eq!(one.value("a").await, Some("1".into()));
    assert!(!one.knows("a"), "it backs off");
    other.delete(client::delete("b")).await;
    assert_eq!(one.value("b").await, None);
    let answer = other.txn(client::Txn::new().and_then(put("c", "1")).and_then(put("d", "1"))).await;
    let revision = answer.header.unwrap().revision;
    for key in ["c", "d"] {
        let seen = one.read(get(key)).await;
        assert_eq!((&seen.kvs[0].value[..], seen.kvs[0].mod_revision), (&b"1"[..], revision));
    }
    assert_eq!(cluster.claims().await, Vec::<String>::new());
    // Who wrote reads and owns; the first one writes in turn.
    for key in ["a", "b", "c", "d"] {
        eventually("the other one's claim", async || {
            other.read(get(key)).await.count < 2 && other.knows(key)
        })
        .await;
    }
    one.put("a", "2").await;
    assert_eq!(other.value("a").await, Some("2".into()));
    cluster.stop().await;
}

#[tokio::test]
async fn deleted_ranges_are_gone_for_everybody() {
    let cluster = Cluster::start().await;
    let from = |key: &str| pb::DeleteRangeRequest {
        key: key.to_owned().into(),
        range_end: "\0".into(),
        ..Default::default()
    };
    let inner = |request| {
        let operation = Request::RequestDeleteRange(request);
        client::Txn::new().and_then(operation).build()
    };
    for (name, request, is_txn) in [
        ("a prefix", prefix("k"), false),
        ("all from a key on", from("k1"), false),
        ("everything", prefix(""), false),
        ("everything from before the claims", from("a"), false),
        ("in a transaction", prefix("k"), true),
        ("everything in a transaction", prefix(""), true),
    ] {
        let (one, other) = (cluster.owner().await, cluster.owner().await);
        for (number, owner) in [&one, &other, &one, &other].into_iter().enumerate() {
            let key = format!("k{}", number + 1);
            owner.put(&key, "v").await;
            eventually("a claim", async || owner.value(&key).await.is_some() && owner.knows(&key)).await;
        }
        one.put("j", "v").await;
        one.value("j").await;
        if is_txn {
            one.txn(inner(request.clone())).await;
        } else {
            let deleted = one.delete(request.clone()).await.deleted;
            assert!(deleted >= 4, "{name}: {deleted}");
        }
        for number in 1..=4 {
            for owner in [&one, &other] {
                assert_eq!(owner.value(&format!("k{number}")).await, None, "{name}");
            }
        }
        // Claims that went with the rest are no claims any more.
        for number in 1..=4 {
            let key = format!("k{number}");
            other.put(&key, "again").await;
            assert_eq!(one.value(&key).await, Some("again".into()), "{name}");
            one.put(&key, "and again").await;
            assert_eq!(other.value(&key).await, Some("and again".into()), "{name}");
        }
        let survives = request.key.starts_with(b"k");
        assert_eq!(one.value("j").await.is_some(), survives, "{name}");
        one.delete(prefix("")).await;
    }
    cluster.stop().await;
}

#[tokio::test]
async fn transactions_are_evaluated_as_the_cluster_does() {
    use client::Compare as C;
    use proto::etcdserverpb::compare::CompareResult::{Equal, Greater, Less, NotEqual};
    let cluster = Cluster::start().await;
    let owner = cluster.owner().await;
    owner.put("k", "b").await;
    let revision = owner.put("k", "c").await;
    for key in ["k", "none"] {
        owner.read(get(key)).await;
        assert!(owner.knows(key));
    }
    let mut compares = Vec::new();
    for key in ["k", "none"] {
        for result in [Equal, Greater, Less, NotEqual] {
            for number in [0, 1, 2, 3, revision - 1, revision, revision + 1] {
                compares.push(C::create_revision(key, result, number));
                compares.push(C::mod_revision(key, result, number));
                compares.push(C::key_version(key, result, number));
                compares.push(C::lease(key, result, number));
            }
            for value in ["", "a", "b", "c", "d"] {
                compares.push(C::value(key, result, value));
            }
        }
    }
    for compare in compares {
        let txn = client::Txn::new()
            .when(compare)
            .and_then(read("k"))
            .or_else(read("none"))
            .or_else(Request::RequestRange(pb::RangeRequest { keys_only: true, ..get("k") }))
            .build();
        let evaluated = owner.leasing.claims.lock().evaluate(&txn, Instant::now()).expect("from memory");
        let there = cluster.client.call(txn.clone()).await.unwrap();
        assert_eq!(evaluated, there, "{txn:?}");
    }
    for request in [
        pb::RangeRequest { count_only: true, ..get("k") },
        pb::RangeRequest { keys_only: true, ..get("k") },
        pb::RangeRequest { limit: 1, sort_order: 2, sort_target: 3, ..get("k") },
        pb::RangeRequest { min_mod_revision: revision + 1, ..get("k") },
        pb::RangeRequest { max_mod_revision: revision, ..get("k") },
        pb::RangeRequest { min_create_revision: revision, ..get("k") },
        pb::RangeRequest { max_create_revision: 1, ..get("none") },
    ] {
        let Read::Here(answer) = owner.leasing.claims.lock().read(&request, Instant::now()) else {
            panic!("not from memory: {request:?}")
        };
        assert_eq!(answer, cluster.client.call(request.clone()).await.unwrap(), "{request:?}");
    }
    let not_here = [
        client::Txn::new().and_then(read("unknown")).build(),
        client::Txn::new().when(C::key_version("unknown", Equal, 0)).and_then(read("k")).build(),
        client::Txn::new().when(C::key_version("k", Equal, 2)).and_then(put("k", "x")).build(),
        client::Txn::new()
            .when(pb::Compare { range_end: "\0".into(), ..C::key_version("k", Equal, 2) })
            .build(),
        client::Txn::new().build(),
    ];
    for txn in not_here {
        assert_eq!(owner.leasing.claims.lock().evaluate(&txn, Instant::now()), None, "{txn:?}");
    }
    // The path that is not taken may write.
    let update = client::Txn::new()
        .when(C::mod_revision("k", Equal, revision - 1))
        .and_then(put("k", "x"))
        .or_else(read("k"));
    let answer = owner.txn(update).await;
    assert!(!answer.succeeded && cluster.value("k").await == Some("c".into()));
    cluster.stop().await;
}

/// No read shows less than what was acknowledged before it, whoever wrote; nothing is written twice.
#[tokio::test]
async fn reads_are_linearizable_while_everybody_writes() {
    const KEYS: usize = 4;
    const WRITES: u64 = 40;
    let cluster = Cluster::start().await;
    let owners = Arc::new([cluster.owner().await, cluster.owner().await, cluster.owner().await]);
    let counters = || Arc::new([const { AtomicU64::new(0) }; KEYS]);
    let (begun, acknowledged) = (counters(), counters());
    let writers = (0..KEYS).map(|number| {
        let (owners, begun, acknowledged) = (owners.clone(), begun.clone(), acknowledged.clone());
        async move {
            let key = format!("k{number}");
            for value in 1..=WRITES {
                let owner = &owners[(value as usize + number) % 3];
                begun[number].store(value, Ordering::SeqCst);
                match value % 3 {
                    0 => drop(owner.put(&key, &value.to_string()).await),
                    1 => {
                        let compare = client::Compare::create_revision(
                            key.clone(),
                            proto::etcdserverpb::compare::CompareResult::Greater,
                            -1,
                        );
                        let txn = client::Txn::new().when(compare).and_then(put(&key, &value.to_string()));
                        assert!(owner.txn(txn).await.succeeded);
                    }
                    _ => {
                        let range = prefix(&key);
                        let txn = client::Txn::new()
                            .and_then(put(&format!("x{number}"), "x"))
                            .and_then(Request::RequestDeleteRange(prefix(&format!("y{number}"))))
                            .build();
                        owner.txn(txn).await;
                        owner.delete(range).await;
                        owner.put(&key, &value.to_string()).await;
                    }
                }
                acknowledged[number].store(value, Ordering::SeqCst);
            }
        }
    });
    let writers = join_all(writers);
    let readers = (0..6).map(|reader| {
        let (owners, begun, acknowledged) = (owners.clone(), begun.clone(), acknowledged.clone());
        async move {
            let mut round = reader;
            while acknowledged.iter().any(|done| done.load(Ordering::SeqCst) < WRITES) {
                round += 1;
                let (number, owner) = (round % KEYS, &owners[reader % 3]);
                let key = format!("k{number}");
                let before = acknowledged[number].load(Ordering::SeqCst);
                let seen = match round % 4 {
                    0 => {
                        let answer = owner.txn(client::Txn::new().and_then(read(&key))).await;
                        requests::found(answer)
                            .next()
                            .map(|kv| String::from_utf8_lossy(&kv.value).into_owned())
                    }
                    _ => owner.value(&key).await,
                };
                let after = begun[number].load(Ordering::SeqCst);
                // A third of the writes deletes first.
                let seen = seen.map(|text| text.parse::<u64>().unwrap());
                let may_be_gone = (before + 1..=after).any(|value| value % 3 == 2) || before == 0;
                match seen {
                    Some(seen) => assert!((before..=after).contains(&seen), "{before} {seen} {after}"),
                    None => assert!(may_be_gone, "{key} is gone between {before} and {after}"),
                }
                tokio::task::yield_now().await;
            }
        }
    });
    let readers = join_all(readers);
    timeout(3 * PATIENCE, async { tokio::join!(writers, readers) }).await.expect("it comes to an end");
    eventually("reads from memory", async || {
        owners[0].value("k0").await;
        owners[0].knows("k0")
    })
    .await;
    for number in 0..KEYS {
        let kv = cluster.client.get(format!("k{number}")).await.unwrap().kvs.remove(0);
        assert_eq!((&kv.value[..], kv.version), (WRITES.to_string().as_bytes(), 3));
    }
    cluster.stop().await;
}

/// Also one of ours whose reader has left before the answer came: if nobody waits for the deletion either, it may be
/// carried out at any time, and what is not known to be claimed cannot be ended then.
#[tokio::test]
async fn a_deleted_range_is_free_of_claims_that_nobody_knows() {
    let cluster = Cluster::start().await;
    let owner = cluster.owner().await;
    cluster.put("k1", "1").await;
    let lease = owner.leasing.claims.lock().lease();
    let claim = requests::acquire(&"l/".into(), &"k1".into(), lease);
    assert!(cluster.client.call(claim).await.unwrap().succeeded);
    assert_eq!(cluster.claims().await, ["k1"]);
    assert_eq!(owner.delete(prefix("k")).await.deleted, 1);
    assert_eq!(cluster.claims().await, Vec::<String>::new());
    cluster.stop().await;
}

#[tokio::test]
async fn what_is_to_be_forgotten_ends_the_session() {
    let cluster = Cluster::start().await;
    let owner = cluster.owner().await;
    owner.put("k", "1").await;
    owner.read(get("k")).await;
    let lease = owner.leasing.claims.lock().lease();
    owner.leasing.forget();
    assert!(!owner.knows("k"));
    assert_eq!(owner.value("k").await, Some("1".into()), "past memory");
    eventually("another session", async || ![0, lease].contains(&owner.leasing.claims.lock().lease())).await;
    eventually("a claim", async || owner.value("k").await.is_some() && owner.knows("k")).await;
    cluster.stop().await;
}

/// A write that nobody waits for any more may still be carried out: what was read before is not shown.
#[tokio::test]
async fn a_write_without_an_outcome_ends_the_claim() {
    let cluster = Cluster::start().await;
    let owner = cluster.owner().await;
    for round in 0..20 {
        let value = round.to_string();
        eventually("a claim", async || {
            owner.read(get("k")).await;
            owner.knows("k")
        })
        .await;
        {
            let write = owner.leasing.put(&owner.client, client::put("k", value.clone()));
            tokio::pin!(write);
            // It leaves, and its answer is not waited for.
            let patience = Duration::from_micros(50 * round);
            if timeout(patience, &mut write).await.is_ok() {
                continue;
            }
        }
        assert!(!owner.knows("k"));
        for _ in 0..5 {
            // It may be carried out in between, but never be undone.
            let number = |value: Option<String>| value.map(|text| text.parse::<u64>().unwrap());
            let there = number(cluster.value("k").await);
            let seen = number(owner.value("k").await);
            assert!(seen >= there, "round {round}: {seen:?} after {there:?}");
        }
    }
    cluster.stop().await;
}

#[tokio::test]
async fn what_a_dead_proxy_has_claimed_is_free_after_its_ttl() {
    let cluster = Cluster::start().await;
    let ttl = Duration::from_secs(1);
    let (dead, other) = (cluster.owner_with("", ttl).await, cluster.owner().await);
    assert_eq!(dead.value("k").await, None);
    assert!(dead.knows("k"));
    dead.die();
    let begun = Instant::now();
    other.put("k", "1").await;
    // It stops to show what it knew before anybody else may write.
    assert!(!dead.knows("k"));
    assert!(begun.elapsed() < PATIENCE);
    assert_eq!(dead.value("k").await, Some("1".into()));
    cluster.stop().await;
}

#[tokio::test]
async fn a_lost_session_is_replaced() {
    let cluster = Cluster::start().await;
    let owner = cluster.owner_with("", Duration::from_secs(2)).await;
    owner.put("k", "1").await;
    owner.value("k").await;
    assert!(owner.knows("k"));
    let lease = owner.leasing.claims.lock().lease();
    cluster.client.revoke(lease).await.unwrap();
    cluster.put("k", "2").await;
    eventually("an end of the claim", async || !owner.knows("k")).await;
    assert_eq!(owner.value("k").await, Some("2".into()));
    eventually("a new session", async || {
        !matches!(owner.leasing.claims.lock().lease(), 0) && { owner.leasing.claims.lock().lease() != lease }
    })
    .await;
    eventually("a new claim", async || {
        owner.read(get("k")).await;
        owner.knows("k")
    })
    .await;
    cluster.stop().await;
}

#[tokio::test]
async fn what_is_not_to_be_claimed() {
    let cluster = Cluster::start().await;
    let owner = cluster.owner_with("n/", Duration::from_secs(60)).await;
    let lease = cluster.client.grant(60).await.unwrap().id;
    let leased = pb::PutRequest { lease, ..client::put("leased", "v") };
    owner.put_with(leased).await;
    owner.put("plain", "v").await;
    for (request, claimed) in [
        (get("leased"), false),
        (get("l/plain"), false),
        (pb::RangeRequest { range_end: "\0".into(), ..get("plain") }, false),
        (pb::RangeRequest { revision: 1, ..get("plain") }, false),
        (pb::RangeRequest { serializable: true, ..get("plain") }, false),
        (get("plain"), true),
    ] {
        // What it says is not of interest.
        let _ = owner.leasing.range(&owner.client, true, request.clone()).await;
        assert_eq!(!owner.leasing.claims.lock().held().is_empty(), claimed, "{request:?}");
    }
    // In the namespace.
    let claims = pb::RangeRequest { range_end: "n/l0".into(), ..get("n/l/") };
    let found = cluster.client.call(claims).await.unwrap().kvs;
    assert_eq!(found.iter().map(|kv| &kv.key[..]).collect::<Vec<_>>(), [b"n/l/plain"]);
    let with_token = owner.leasing.range(&owner.client, false, get("plain")).await.unwrap();
    assert_eq!(with_token.count, 1);
    cluster.stop().await;
}

/// With auth on nobody without a token is shown anything, and claims do not stay in the way.
#[tokio::test]
async fn a_cluster_that_turns_strangers_away_ends_the_session() {
    let cluster = Cluster::start().await;
    let owner = cluster.owner_with("", Duration::from_secs(2)).await;
    owner.put("k", "1").await;
    owner.value("k").await;
    assert!(owner.knows("k"));
    let client = &cluster.client;
    client.call(pb::AuthRoleAddRequest { name: "root".into() }).await.unwrap();
    let (name, password) = ("root".to_owned(), "p".to_owned());
    let user =
        pb::AuthUserAddRequest { name: name.clone(), password: password.clone(), ..Default::default() };
    client.call(user).await.unwrap();
    let grant = pb::AuthUserGrantRoleRequest { user: name.clone(), role: name.clone() };
    client.call(grant).await.unwrap();
    client.call(pb::AuthEnableRequest {}).await.unwrap();
    eventually("silence", async || !owner.knows("k")).await;
    let refused = owner.leasing.range(&owner.client, true, get("k")).await.unwrap_err();
    assert!(refused.is_server("user name is empty"), "{refused}");
    let token = client.call(pb::AuthenticateRequest { name, password }).await.unwrap().token;
    let root = owner.client.with_token(&token);
    let write = owner.leasing.put(&root, client::put("k", "2"));
    timeout(PATIENCE, write).await.expect("the claim ends").unwrap();
    let seen = owner.leasing.range(&root, false, get("k")).await.unwrap();
    assert_eq!(value_of(seen), Some("2".into()));
    assert!(!owner.knows("k"));
    cluster.stop().await;
}
