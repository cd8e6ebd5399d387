//! The registry in which the first members of a cluster find each other: keys in another cluster.
//!
//! ```text
//! /_etcd/registry/<token>/_config/size           decimal number of members, written beforehand
//! /_etcd/registry/<token>/members/<member id>    name=url[,name=url]
//! ```
//!
//! A member looks whether there is room, writes its own key, and waits until as many keys are there as the
//! cluster is to have. The oldest of them, by the revision that created them, are the cluster: who came too
//! late finds out when it looks again after writing.
//!
//! A registry that does not answer is asked again, each time after twice the pause, up to
//! [`LONGEST_PAUSE`], without end. What is wrong with its keys is an error at once.
//!
//! **Source**: etcd `server/etcdserver/api/v3discovery`.

use std::time::Duration;

use bytes::Bytes;
use client::{Client, Credentials, Options};
use membership::InitialCluster;
use proto::etcdserverpb as pb;
use proto::mvccpb::KeyValue;
use types::MemberId;

use crate::config::Discovery;
use crate::log::{self, Field, Level};

const PREFIX: &str = "/_etcd/registry";
/// The pause between two tries doubles up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(256);

/// Why the registry does not let a member in.
#[derive(Debug, thiserror::Error)]
#[error("failed to join discovery cluster ({0})")]
pub struct DiscoveryError(#[from] Reason);

/// What is wrong.
#[derive(Debug, thiserror::Error)]
pub enum Reason {
    /// Nobody said how many members there are to be.
    #[error("discovery: size key not found")]
    SizeNotFound,
    /// It is no number above zero.
    #[error("discovery: size key is bad")]
    BadSize,
    /// Others were faster.
    #[error("discovery: cluster is full")]
    Full,
    /// A member that counts wrote something that cannot be used.
    #[error("discovery: invalid peer URL")]
    InvalidUrl,
    /// Two of them wrote the same URL.
    #[error("discovery cluster {0} has duplicate url")]
    DuplicateUrl(InitialCluster),
    /// How the registry is to be reached does not hold together.
    #[error(transparent)]
    Tls(#[from] tls::SetupError),
    /// It refused the user.
    #[error(transparent)]
    Client(#[from] client::Error),
}

/// Enters a member into the registry and waits for the others. `own` is its part of the initial cluster.
///
/// # Errors
/// The registry's keys, or that the cluster is full already.
pub async fn join(
    settings: &Discovery,
    member: MemberId,
    own: &InitialCluster,
) -> Result<InitialCluster, DiscoveryError> {
    log::info!("Bootstrapping cluster using v3 discovery.");
    let registry = connect(settings).await?;
    let mut joining = Joining { settings, registry, own: member_key(&settings.token, member), tries: 0 };
    let joined = joining.join(&own.to_string()).await;
    match &joined {
        Ok(found) => joining.log(
            Level::Info,
            "discovery joined cluster successfully",
            &[("cluster", found.to_string().into())],
        ),
        Err(error) => joining.log(
            Level::Error,
            "discovery failed to join cluster",
            &[("cluster", "".into()), ("error", error.to_string().into())],
        ),
    }
    Ok(joined?)
}

async fn connect(settings: &Discovery) -> Result<Client, Reason> {
    let credentials = match (settings.auth_token.as_str(), settings.user.as_str()) {
        ("", "") => Credentials::None,
        ("", name) => Credentials::Password { name: name.to_owned(), password: settings.password.clone() },
        (token, _) => Credentials::Token(token.to_owned()),
    };
    let bytes = |limit: i64| usize::try_from(limit).unwrap_or_default();
    let options = Options {
        dial_timeout: settings.dial_timeout.to_std(),
        keepalive_time: settings.keepalive_time.to_std(),
        keepalive_timeout: settings.keepalive_timeout.to_std(),
        max_send_bytes: bytes(settings.max_request_bytes),
        max_receive_bytes: bytes(settings.max_recv_bytes),
        tls: connector(settings)?,
        server_name: settings.server_name.clone(),
        credentials,
        ..Options::new(settings.endpoints.clone())
    };
    Ok(Client::connect(options).await?)
}

fn connector(settings: &Discovery) -> Result<Option<tls::Connector>, tls::SetupError> {
    let named = [&settings.cert_file, &settings.key_file, &settings.ca_file, &settings.server_name];
    let wanted = !settings.insecure_transport
        || settings.insecure_skip_tls_verify
        || named.iter().any(|text| !text.is_empty());
    let settings = tls::Settings {
        cert_file: settings.cert_file.clone(),
        key_file: settings.key_file.clone(),
        trusted_ca_file: settings.ca_file.clone(),
        insecure_skip_verify: settings.insecure_skip_tls_verify,
        ..tls::Settings::default()
    };
    wanted.then(|| tls::Connector::new(&settings, &["h2"], crate::security::report())).transpose()
}

/// `/_etcd/registry/<token>/<rest>`, cleaned as upstream cleans paths.
fn key(token: &str, rest: &str) -> String {
    let mut parts = Vec::new();
    for part in [PREFIX, token, rest].iter().flat_map(|text| text.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

fn member_key(token: &str, member: MemberId) -> String {
    key(token, &format!("members/{member}"))
}

/// What is asked of the cluster that holds the registry.
trait Registry {
    /// The value of a key.
    async fn value(&self, key: &str, limit: Duration) -> Result<Option<Bytes>, client::Error>;
    /// The keys with a prefix, and the revision at which they were these.
    async fn list(&self, prefix: &str, limit: Duration) -> Result<(Vec<KeyValue>, i64), client::Error>;
    /// Writes a key.
    async fn write(&self, key: &str, value: &str, limit: Duration) -> Result<(), client::Error>;
    /// Hands over what changes from a revision on, until that is enough or nothing more comes.
    async fn follow(&self, prefix: &str, revision: i64, enough: impl FnMut(Vec<KeyValue>) -> bool);
    /// Lets time pass.
    async fn pause(&self, span: Duration);
}

impl Registry for Client {
    async fn value(&self, key: &str, limit: Duration) -> Result<Option<Bytes>, client::Error> {
        let found = self.with_timeout(limit).get(key.to_owned()).await?;
        Ok(found.kvs.into_iter().next().map(|pair| pair.value))
    }

    async fn list(&self, prefix: &str, limit: Duration) -> Result<(Vec<KeyValue>, i64), client::Error> {
        let (key, range_end) = client::with_prefix(prefix.to_owned());
        let request = pb::RangeRequest { key, range_end, ..Default::default() };
        let found = self.with_timeout(limit).call(request).await?;
        Ok((found.kvs, found.header.map_or(0, |header| header.revision)))
    }

    async fn write(&self, key: &str, value: &str, limit: Duration) -> Result<(), client::Error> {
        self.with_timeout(limit).put(key.to_owned(), value.to_owned()).await.map(drop)
    }

    async fn follow(&self, prefix: &str, revision: i64, mut enough: impl FnMut(Vec<KeyValue>) -> bool) {
        let (key, range_end) = client::with_prefix(prefix.to_owned());
        let request =
            pb::WatchCreateRequest { key, range_end, start_revision: revision, ..Default::default() };
        let mut watch = self.watch(request);
        while let Some(Ok(response)) = watch.next().await {
            if client::cancel_error(&response).is_some()
                || enough(response.events.into_iter().filter_map(|event| event.kv).collect())
            {
                return;
            }
        }
    }

    async fn pause(&self, span: Duration) {
        tokio::time::sleep(span).await;
    }
}

/// One member on its way in.
struct Joining<'a, R> {
    settings: &'a Discovery,
    registry: R,
    /// The key of the member itself.
    own: String,
    /// Tries since the registry answered last.
    tries: u32,
}

impl<R: Registry> Joining<'_, R> {
    async fn join(&mut self, own: &str) -> Result<InitialCluster, Reason> {
        self.look().await?;
        self.register(own).await;
        loop {
            let (mut entries, size, revision) = self.look().await?;
            if entries.0.len() >= size {
                return entries.cluster(size);
            }
            self.wait(&mut entries, size, revision).await;
            if entries.0.len() >= size {
                return entries.cluster(size);
            }
            // The watch ended before its time: its history was compacted.
            self.pause("cluster status check").await;
        }
    }

    /// Who is there, how many there are to be, and as of which revision. Whoever is not among the first so
    /// many is too late.
    async fn look(&mut self) -> Result<(Entries, usize, i64), Reason> {
        loop {
            if let Some(size) = self.size().await?
                && let Some((entries, revision)) = self.entries().await
            {
                self.tries = 0;
                return match entries.0.iter().take(size).any(|entry| entry.key == self.own) {
                    false if entries.0.len() >= size => Err(Reason::Full),
                    _ => Ok((entries, size, revision)),
                };
            }
            self.pause("cluster status check").await;
        }
    }

    /// How many members there are to be; `None` if the registry does not answer.
    async fn size(&self) -> Result<Option<usize>, Reason> {
        let key = key(&self.settings.token, "_config/size");
        match self.registry.value(&key, self.limit()).await {
            Ok(Some(value)) => parse_size(&value).map(Some),
            Ok(None) => Err(Reason::SizeNotFound),
            Err(error) => {
                let fields = [("clusterSizeKey", key.into()), ("error", error.to_string().into())];
                self.log(Level::Warn, "failed to get cluster size from discovery service", &fields);
                Ok(None)
            }
        }
    }

    async fn entries(&self) -> Option<(Entries, i64)> {
        let prefix = self.prefix();
        match self.registry.list(&prefix, self.limit()).await {
            Ok((pairs, revision)) => {
                let mut entries = Entries::default();
                self.add(&mut entries, pairs);
                Some((entries, revision))
            }
            Err(error) => {
                let fields = [("membersKeyPrefix", prefix.into()), ("error", error.to_string().into())];
                self.log(Level::Warn, "failed to get cluster members from discovery service", &fields);
                None
            }
        }
    }

    async fn register(&mut self, own: &str) {
        loop {
            match self.registry.write(&self.own, own, self.limit()).await {
                Ok(()) => break,
                Err(error) => {
                    let fields = [("memberKey", (&self.own).into()), ("error", error.to_string().into())];
                    let text = "failed to register members itself to the discovery service";
                    self.log(Level::Warn, text, &fields);
                }
            }
            self.pause("register member itself").await;
        }
        self.tries = 0;
        let fields = [("memberKey", (&self.own).into()), ("memberInfo", own.into())];
        self.log(Level::Info, "register member itself successfully", &fields);
    }

    async fn wait(&self, entries: &mut Entries, size: usize, revision: i64) {
        let found =
            |entries: &Entries| [("clusterSize", size.into()), ("found-peers", entries.0.len().into())];
        self.log(Level::Info, "waiting for peers from discovery service", &found(entries));
        let prefix = self.prefix();
        let followed = self.registry.follow(&prefix, revision + 1, |changed| {
            self.add(entries, changed);
            entries.0.len() >= size
        });
        followed.await;
        if entries.0.len() >= size {
            self.log(Level::Info, "found all needed peers from discovery service", &found(entries));
        }
    }

    fn add(&self, entries: &mut Entries, pairs: Vec<KeyValue>) {
        for pair in pairs {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
            let entry =
                Entry { created: pair.create_revision, key: text(&pair.key), info: text(&pair.value) };
            let fields = [("memberKey", entry.key.clone().into()), ("memberInfo", entry.info.clone().into())];
            match entries.add(entry) {
                Ok(()) => self.log(Level::Info, "found peer from discovery service", &fields),
                Err(reason) => self.log(Level::Warn, reason, &fields),
            }
        }
    }

    async fn pause(&mut self, step: &str) {
        self.tries += 1;
        let pause = pause_after(self.tries);
        self.log(
            Level::Warn,
            "retry connecting to discovery service",
            &[("reason", step.into()), ("backoff", pause.into())],
        );
        self.registry.pause(pause).await;
    }

    fn prefix(&self) -> String {
        key(&self.settings.token, "members")
    }

    fn limit(&self) -> Duration {
        self.settings.request_timeout.to_std()
    }

    fn log(&self, level: Level, text: &str, fields: &[Field<'_>]) {
        let mut all: Vec<Field<'_>> = vec![
            ("discovery-token", (&self.settings.token).into()),
            ("discovery-endpoints", self.settings.endpoints.join(",").into()),
        ];
        all.extend_from_slice(fields);
        log::log(level, text, &all);
    }
}

fn pause_after(tries: u32) -> Duration {
    Duration::from_secs(1u64.checked_shl(tries).unwrap_or(u64::MAX)).min(LONGEST_PAUSE)
}

fn parse_size(value: &[u8]) -> Result<usize, Reason> {
    let text = std::str::from_utf8(value).map_err(|_| Reason::BadSize)?;
    match text.parse::<i64>() {
        Ok(size @ 1..) => usize::try_from(size).map_err(|_| Reason::BadSize),
        _ => Err(Reason::BadSize),
    }
}

/// What a member wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    /// The revision that created its key.
    created: i64,
    key: String,
    info: String,
}

/// Members that registered, the oldest first.
#[derive(Debug, Default)]
struct Entries(Vec<Entry>);

impl Entries {
    fn add(&mut self, entry: Entry) -> Result<(), &'static str> {
        if !entry.info.contains('=') {
            return Err("invalid peer info returned from discovery service");
        }
        if self.0.iter().any(|other| other.key == entry.key) {
            return Err("found duplicate peer from discovery service");
        }
        self.0.push(entry);
        self.0.sort_by_key(|entry| entry.created);
        Ok(())
    }

    /// The first so many as a cluster.
    fn cluster(&self, size: usize) -> Result<InitialCluster, Reason> {
        let texts: Vec<&str> = self.0.iter().take(size).map(|entry| entry.info.as_str()).collect();
        let cluster = InitialCluster::parse(&texts.join(",")).map_err(|_| Reason::InvalidUrl)?;
        match cluster.has_duplicate_url() {
            true => Err(Reason::DuplicateUrl(cluster)),
            false => Ok(cluster),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use parking_lot::Mutex;

    use super::*;
    use crate::config::Config;

    /// A registry in memory: every write is a revision. It fails as often as told, then answers.
    #[derive(Default)]
    struct Memory {
        pairs: Mutex<BTreeMap<String, KeyValue>>,
        failures: Mutex<u32>,
        /// Time that was let pass.
        paused: Mutex<Duration>,
        /// Who registers while somebody waits.
        late: Mutex<Vec<(&'static str, &'static str)>>,
    }

    impl Memory {
        fn put(&self, key: &str, value: &str) -> KeyValue {
            let mut pairs = self.pairs.lock();
            let created = pairs.values().map(|pair| pair.mod_revision).max().unwrap_or(1) + 1;
            let pair = KeyValue {
                key: key.to_owned().into(),
                value: value.to_owned().into(),
                create_revision: created,
                mod_revision: created,
                ..Default::default()
            };
            pairs.insert(key.to_owned(), pair.clone());
            pair
        }

        fn answer<T>(&self, answer: T) -> Result<T, client::Error> {
            let mut failures = self.failures.lock();
            match *failures {
                0 => Ok(answer),
                _ => {
                    *failures -= 1;
                    Err(client::Error::DeadlineExceeded)
                }
            }
        }
    }

    impl Registry for &Memory {
        async fn value(&self, key: &str, _: Duration) -> Result<Option<Bytes>, client::Error> {
            self.answer(self.pairs.lock().get(key).map(|pair| pair.value.clone()))
        }

        async fn list(&self, prefix: &str, _: Duration) -> Result<(Vec<KeyValue>, i64), client::Error> {
            let pairs = self.pairs.lock();
            let found = pairs.range(prefix.to_owned()..).filter(|(key, _)| key.starts_with(prefix));
            let revision = pairs.values().map(|pair| pair.mod_revision).max().unwrap_or(1);
            self.answer((found.map(|(_, pair)| pair.clone()).collect(), revision))
        }

        async fn write(&self, key: &str, value: &str, _: Duration) -> Result<(), client::Error> {
            self.answer(())?;
            self.put(key, value);
            Ok(())
        }

        async fn follow(&self, _: &str, _: i64, mut enough: impl FnMut(Vec<KeyValue>) -> bool) {
            for (key, value) in std::mem::take(&mut *self.late.lock()) {
                if enough(vec![self.put(key, value)]) {
                    return;
                }
            }
        }

        async fn pause(&self, span: Duration) {
            *self.paused.lock() += span;
        }
    }

    const SIZE: &str = "/_etcd/registry/t/_config/size";
    const A: (&str, &str) = ("/_etcd/registry/t/members/a", "a=http://h:1");
    const B: (&str, &str) = ("/_etcd/registry/t/members/b", "b=http://h:2");

    /// Has member 2a register as `own`; gives the cluster or the error, and how long it took.
    fn enter(memory: &Memory) -> (String, Duration) {
        let settings = Discovery { token: "t".to_owned(), ..Config::default().discovery };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let own = member_key("t", MemberId(0x2a));
            let mut joining = Joining { settings: &settings, registry: memory, own, tries: 0 };
            let joined = joining.join("own=http://h:9").await;
            let paused = std::mem::take(&mut *memory.paused.lock());
            (joined.map_or_else(|error| error.to_string(), |found| found.to_string()), paused)
        })
    }

    #[test]
    fn the_size_has_to_be_a_number() {
        let memory = Memory::default();
        assert_eq!(enter(&memory).0, "discovery: size key not found");
        for bad in ["", "0", "-1", "three", " 3"] {
            memory.put(SIZE, bad);
            assert_eq!(enter(&memory).0, "discovery: size key is bad", "{bad:?}");
        }
        let error = DiscoveryError(Reason::BadSize);
        assert_eq!(error.to_string(), "failed to join discovery cluster (discovery: size key is bad)");
    }

    #[test]
    fn the_first_members_are_the_cluster() {
        let memory = Memory::default();
        memory.put(SIZE, "2");
        memory.put(A.0, A.1);
        assert_eq!(enter(&memory).0, "a=http://h:1,own=http://h:9");
        assert_eq!(memory.pairs.lock()["/_etcd/registry/t/members/2a"].value, "own=http://h:9");
        // Who starts again is still one of them.
        assert_eq!(enter(&memory).0, "a=http://h:1,own=http://h:9");
        let memory = Memory::default();
        memory.put(SIZE, "2");
        memory.put(B.0, B.1);
        memory.put(A.0, A.1);
        assert_eq!(enter(&memory).0, "discovery: cluster is full");
        assert!(!memory.pairs.lock().contains_key("/_etcd/registry/t/members/2a"), "it did not register");
    }

    #[test]
    fn the_others_are_waited_for() {
        let memory = Memory::default();
        memory.put(SIZE, "3");
        // What is no member does not count, nor does one twice.
        *memory.late.lock() = vec![("/_etcd/registry/t/members/x", "nothing"), A, A, B];
        assert_eq!(enter(&memory), ("a=http://h:1,b=http://h:2,own=http://h:9".to_owned(), Duration::ZERO));
    }

    #[test]
    fn members_that_cannot_be_used_are_an_error() {
        for (info, expected) in [
            ("a=nowhere", "discovery: invalid peer URL"),
            ("a=http://h:9", "discovery cluster a=http://h:9,own=http://h:9 has duplicate url"),
        ] {
            let memory = Memory::default();
            memory.put(SIZE, "2");
            memory.put(A.0, info);
            assert_eq!(enter(&memory).0, expected);
        }
    }

    #[test]
    fn a_registry_that_does_not_answer_is_asked_again() {
        let memory = Memory { failures: Mutex::new(10), ..Memory::default() };
        memory.put(SIZE, "1");
        let (cluster, took) = enter(&memory);
        assert_eq!(cluster, "own=http://h:9");
        // Two, four and so on up to 256 seconds, and again 256.
        assert_eq!(took.as_secs(), (1..=8).map(|tries| 1 << tries).sum::<u64>() + 2 * 256);
    }

    #[test]
    fn tokens_are_parts_of_paths() {
        assert_eq!(key("t", "members"), "/_etcd/registry/t/members");
        assert_eq!(key("/a//b/", "_config/size"), "/_etcd/registry/a/b/_config/size");
        assert_eq!(key("../x", "members"), "/_etcd/x/members");
    }
}
