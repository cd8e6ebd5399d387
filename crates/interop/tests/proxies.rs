//! `etcd gateway` and `etcd grpc-proxy` of ours, before clusters of the real etcd and of ours, driven by
//! the real etcdctl and by hand.

#[path = "proxies/leasing.rs"]
mod leasing;
#[path = "proxies/names.rs"]
mod names;
#[path = "proxies/records.rs"]
mod records;
#[path = "proxies/sockets.rs"]
mod sockets;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use bench::wire::{Channel, Duplex, Method};
use interop::cluster::{Cluster, eventually};
use interop::ctl::{Ctl, Until};
use interop::front::Front;
use interop::http;
use interop::member::Member;
use interop::programs::{Program, ours, real, subject, yardstick};
use interop::script::{Entry, Script, bytes};
use interop::{block_on, scripts};
use proto::etcdserverpb as pb;
use proto::etcdserverpb::watch_request::RequestUnion;
use tls::authority::{Authority, Leaf};

const PATIENCE: Duration = Duration::from_secs(30);

fn our_program() -> Program {
    Program::plain(ours("etcd"))
}

/// Our proxy before these members.
fn proxy(members: &[&Member], args: &[&str]) -> anyhow::Result<Front> {
    let endpoints: Vec<String> = members.iter().map(|member| member.authority()).collect();
    Front::start(&our_program(), "grpc-proxy", &endpoints, args)
}

fn through(front: &Front) -> Ctl {
    front.ctl(real("3.5", "etcdctl"))
}

fn direct(member: &Member) -> Ctl {
    interop::cluster::ctl(member)
}

/// A watch stream of a caller.
struct Watching(Duplex);

impl Watching {
    async fn open(authority: &str) -> anyhow::Result<Self> {
        let channel = Channel::connect(authority).await?;
        Ok(Self(channel.open(&Method::new(authority, "/etcdserverpb.Watch/Watch")?).await?))
    }

    fn create(&mut self, key: &str, start_revision: i64) -> anyhow::Result<()> {
        let request = pb::WatchCreateRequest { key: bytes(key), start_revision, ..Default::default() };
        let request_union = Some(RequestUnion::CreateRequest(request));
        Ok(self.0.send(&pb::WatchRequest { request_union })?)
    }

    async fn next(&mut self) -> anyhow::Result<pb::WatchResponse> {
        let received = tokio::time::timeout(PATIENCE, self.0.receive()).await.context("nothing came")?;
        received?.context("the stream ended")
    }

    /// Values of the events of one watch until there are `count` of them.
    async fn values(&mut self, count: usize) -> anyhow::Result<Vec<String>> {
        let mut values = Vec::new();
        while values.len() < count {
            for event in self.next().await?.events {
                let kv = event.kv.context("an event without its key")?;
                values.push(String::from_utf8(kv.value.to_vec())?);
            }
        }
        Ok(values)
    }
}

/// The acceptance of the proxy: a thousand equal watches are one at the cluster, and each of them gets
/// every event in its order.
fn a_thousand_watches(program: &Program) -> anyhow::Result<()> {
    const STREAMS: usize = 20;
    const WATCHES: usize = 50;
    const PUTS: usize = 20;
    let member = Member::start(program, &[])?;
    let front = proxy(&[&member], &[])?;
    let upstream = || {
        // Slow watchers count apart.
        let name = "etcd_debugging_mvcc_watcher_total";
        Front::metric(&member.authority(), "/metrics", name)
    };
    ensure!(upstream()? == 0.0, "somebody watches already");
    block_on(async {
        let mut streams = Vec::new();
        for _ in 0..STREAMS {
            let mut stream = Watching::open(&front.authority()).await?;
            for id in 0..WATCHES as i64 {
                stream.create("k", 0)?;
                let created = stream.next().await?;
                ensure!(created.created && !created.canceled && created.watch_id == id, "{created:?}");
            }
            streams.push(stream);
        }
        ensure!(upstream()? == 1.0, "{} watches at the cluster", upstream()?);
        let client = Channel::connect(&front.authority()).await?;
        let put = Method::new(&front.authority(), "/etcdserverpb.KV/Put")?;
        for number in 0..PUTS {
            let request =
                pb::PutRequest { key: bytes("k"), value: bytes(&number.to_string()), ..Default::default() };
            let _: pb::PutResponse = client.call(&put, &request).await?;
        }
        let expected: Vec<String> = (0..PUTS).map(|number| number.to_string()).collect();
        for stream in &mut streams {
            let mut seen = vec![Vec::new(); WATCHES];
            while seen.iter().any(|values| values.len() < PUTS) {
                let response = stream.next().await?;
                for event in response.events {
                    let value = event.kv.context("an event without its key")?.value;
                    let values = seen.get_mut(response.watch_id as usize).context("an unknown watch")?;
                    values.push(String::from_utf8(value.to_vec())?);
                }
            }
            ensure!(seen.iter().all(|values| *values == expected), "{seen:?}");
        }
        ensure!(upstream()? == 1.0, "{} watches at the cluster", upstream()?);
        let shared = (STREAMS * WATCHES - 1) as f64;
        let own = |name| Front::metric(&front.authority(), "/proxy/metrics", name);
        ensure!(own("etcd_grpc_proxy_watchers_coalescing_total")? == shared);
        ensure!(own("etcd_grpc_proxy_events_coalescing_total")? == shared * PUTS as f64);
        // One that needs history has its own until it has caught up.
        let mut late = Watching::open(&front.authority()).await?;
        late.create("k", 2)?;
        ensure!(late.next().await?.created);
        ensure!(late.values(PUTS).await? == expected);
        let request = pb::PutRequest { key: bytes("k"), value: bytes("last"), ..Default::default() };
        let _: pb::PutResponse = client.call(&put, &request).await?;
        ensure!(late.values(1).await? == ["last"]);
        ensure!(streams[0].values(WATCHES).await? == vec!["last"; WATCHES]);
        anyhow::Ok(())
    })?;
    eventually("the late one shares as well, then nobody watches", || Ok(upstream()? <= 1.0))?;
    eventually("nobody watches any more", || Ok(upstream()? == 0.0))
}

#[test]
fn a_thousand_watches_are_one_before_the_real_etcd() -> anyhow::Result<()> {
    a_thousand_watches(&yardstick())
}

#[test]
fn a_thousand_watches_are_one_before_ours() -> anyhow::Result<()> {
    a_thousand_watches(&our_program())
}

/// A member dies: gateway and proxy go on with the others, and a watch that is open loses nothing.
#[test]
fn an_endpoint_dies_under_traffic() -> anyhow::Result<()> {
    let program = subject();
    let mut cluster = Cluster::start(&[&program; 3], &[])?;
    cluster.settle()?;
    let endpoints: Vec<String> = cluster.members.iter().map(Member::client_url).collect();
    let gateway = Front::start(&our_program(), "gateway", &endpoints, &["--retry-delay=100ms"])?;
    let proxy = Front::start(&our_program(), "grpc-proxy", &endpoints, &[])?;
    let fronts = [through(&gateway), through(&proxy)];
    let put = |number: usize| -> anyhow::Result<()> {
        let value = number.to_string();
        // While a leader is elected a write may be refused; whether it counts is then unknown, but
        // putting the same value twice is one event more, so look first.
        eventually("a put succeeds", || {
            let ctl = &fronts[number % 2];
            let there = ctl.run(&["get", "k", "--print-value-only"])?;
            Ok(there.stdout.trim_end() == value || ctl.run(&["put", "k", &value])?.code == 0)
        })
    };
    let (authority, (open, opened)) = (proxy.authority(), std::sync::mpsc::channel());
    let watching = std::thread::spawn(move || {
        block_on(async {
            let mut watch = Watching::open(&authority).await?;
            watch.create("k", 0)?;
            ensure!(watch.next().await?.created);
            open.send(())?;
            let mut seen = Vec::new();
            while seen.last().is_none_or(|value| value != "17") {
                seen.extend(watch.values(1).await?);
            }
            Ok(seen)
        })
    });
    opened.recv_timeout(PATIENCE).context("the watch does not open")?;
    (0..6).try_for_each(put)?;
    let leader = cluster.leader()?;
    // This one learns of the other members by itself.
    let sync = ["--endpoints-auto-sync-interval=100ms", "--debug"];
    let alone = Front::start(&our_program(), "grpc-proxy", &endpoints[leader..=leader], &sync)?;
    eventually("the members are followed", || Ok(alone.log().contains("following the member list")))?;
    cluster.members[leader].kill()?;
    (6..18).try_for_each(put)?;
    let mut seen = watching.join().map_err(|_| anyhow::anyhow!("the watch panicked"))??;
    seen.dedup();
    let expected: Vec<String> = (0..18).map(|number| number.to_string()).collect();
    ensure!(seen == expected, "{seen:?}");
    ensure!(through(&alone).run(&["get", "k", "--print-value-only"])?.success()? == "17\n");
    cluster.members[leader].run()?;
    ensure!(gateway.log().contains("\"msg\":\"deactivated endpoint\""), "{}", gateway.log());
    eventually("the gateway sees that it is back", || Ok(gateway.log().contains("\"msg\":\"activated\"")))
}

#[test]
fn a_namespace_keeps_everything_inside() -> anyhow::Result<()> {
    let member = Member::start(&yardstick(), &[])?;
    let (inside, outside) = (proxy(&[&member], &["--namespace=team/"])?, direct(&member));
    let inner = through(&inside);
    outside.run(&["put", "team", "before"])?.success()?;
    outside.run(&["put", "teamz", "behind"])?.success()?;
    let lease = inner.run(&["lease", "grant", "600"])?.success()?;
    let lease = lease.split_whitespace().nth(1).context("a lease id")?.to_owned();
    inner.run(&["put", "a", "1", "--lease", &lease])?.success()?;
    outside.run(&["put", "other", "2", "--lease", &lease])?.success()?;
    let txn = "value(\"a\") = \"1\"\n\nput b 2\nget a\n\n\n";
    let answer = inner.run_with(&["txn"], &[], txn.as_bytes())?.success()?;
    ensure!(answer.contains("SUCCESS") && answer.contains("\na\n1\n"), "{answer}");
    let check = |ctl: &Ctl, args: &[&str], want: &str| {
        let found = ctl.run(args)?.success()?;
        ensure!(found == want, "{args:?}: {found:?} and not {want:?}");
        Ok(())
    };
    check(&inner, &["get", "", "--from-key", "--keys-only"], "a\n\nb\n\n")?;
    check(&outside, &["get", "team/", "--prefix"], "team/a\n1\nteam/b\n2\n")?;
    let listed = inner.run(&["lease", "timetolive", &lease, "--keys"])?.success()?;
    ensure!(listed.ends_with("attached keys([a])\n"), "{listed}");
    let watched = inner.run_until(&["watch", "", "--prefix", "--rev=1", "--prev-kv"], "", Until::Lines(6))?;
    ensure!(watched.stdout == "PUT\na\n1\nPUT\nb\n2\n", "{}", watched.stdout);
    check(&inner, &["del", "", "--from-key"], "2\n")?;
    check(&outside, &["get", "", "--from-key", "--keys-only"], "other\n\nteam\n\nteamz\n\n")?;
    let empty = inner.run(&["put", "", "x"])?;
    ensure!(empty.messages() == "Error: etcdserver: key is not provided", "{}", empty.messages());
    Ok(())
}

#[test]
fn proxies_register_and_are_the_members() -> anyhow::Result<()> {
    let member = Member::start(&yardstick(), &[])?;
    let args = ["--resolver-prefix=proxies", "--resolver-ttl=2"];
    let start = |address: &str| {
        proxy(&[&member], &[&args[..], &[&format!("--advertise-client-url={address}")]].concat())
    };
    let (one, mut other) = (start("10.0.0.1:1")?, start("10.0.0.2:2")?);
    let members = || through(&one).run(&["member", "list"])?.success();
    eventually("both are members", || {
        let list = members()?;
        Ok(list.contains("10.0.0.1:1") && list.contains("10.0.0.2:2"))
    })?;
    let entry = direct(&member).run(&["get", "proxies/10.0.0.1:1", "--print-value-only"])?.success()?;
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname")?;
    let meta = format!(r#"{{\"name\":\"{}\"}}"#, host.trim_end());
    ensure!(entry == format!("{{\"Op\":0,\"Addr\":\"10.0.0.1:1\",\"Metadata\":\"{meta}\"}}\n"), "{entry}");
    ensure!(one.log().contains("registered session with lease"));
    // The real proxy sees ours, and the other way round.
    let real_args = [&args[..], &["--advertise-client-url=10.0.0.3:3"]].concat();
    let theirs = Front::start(&yardstick(), "grpc-proxy", &[member.authority()], &real_args)?;
    eventually("each sees the other", || {
        let list = through(&theirs).run(&["member", "list"])?.stdout;
        Ok(members()?.contains("10.0.0.3:3") && list.contains("10.0.0.1:1"))
    })?;
    other.kill()?;
    eventually("the dead one is gone", || Ok(!members()?.contains("10.0.0.2:2")))?;
    ensure!(members()?.contains("10.0.0.1:1"));
    Ok(())
}

/// Certificates for the way up and for callers.
#[test]
fn both_sides_are_encrypted() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let certify = |authority: &Authority, name: &str, common_name: &str| {
        let issued = authority.issue(&Leaf::new(common_name, &["127.0.0.1", "localhost"]))?;
        anyhow::Ok(issued.write(dir.path(), name)?)
    };
    let (inner, outer) = (Authority::new("inner")?, Authority::new("outer")?);
    let (inner_ca, outer_ca) = (inner.write(dir.path(), "inner-ca")?, outer.write(dir.path(), "outer-ca")?);
    let member_pair = certify(&inner, "member", "member")?;
    let up_pair = certify(&inner, "up", "")?;
    let named_pair = certify(&inner, "named", "somebody")?;
    let down_pair = certify(&outer, "down", "proxy")?;
    let caller_pair = certify(&outer, "caller", "caller")?;
    let mut member = Member::prepare(&our_program(), &[], &dir.path().join("m"))?;
    let url = format!("https://{}", member.authority());
    member.add_args(&[
        &format!("--listen-client-urls={url}"),
        &format!("--advertise-client-urls={url}"),
        &format!("--cert-file={}", member_pair.0),
        &format!("--key-file={}", member_pair.1),
        &format!("--trusted-ca-file={inner_ca}"),
        "--client-cert-auth",
    ]);
    member.spawn()?;
    let up = |pair: &(String, String)| {
        vec![
            format!("--cacert={inner_ca}"),
            format!("--cert={}", pair.0),
            format!("--key={}", pair.1),
            format!("--cert-file={}", down_pair.0),
            format!("--key-file={}", down_pair.1),
            format!("--trusted-ca-file={outer_ca}"),
            "--advertise-client-url=".to_owned(),
        ]
    };
    let start = |args: Vec<String>| {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        Front::start(&our_program(), "grpc-proxy", std::slice::from_ref(&url), &args)
    };
    // It may have listened for a moment before it looked.
    let refused = match start(up(&named_pair)) {
        Ok(front) => front.wait_end()?,
        Err(refused) => format!("{refused:#}"),
    };
    ensure!(refused.contains("cert has non empty Common Name (somebody)"), "{refused}");
    let front = start(up(&up_pair))?;
    let ctl = Ctl { program: real("3.5", "etcdctl"), endpoint: format!("https://{}", front.authority()) };
    let run = |pair: Option<&(String, String)>, args: &[&str]| {
        let mut all = vec![format!("--cacert={outer_ca}"), "--command-timeout=20s".to_owned()];
        if let Some((cert, key)) = pair {
            all.extend([format!("--cert={cert}"), format!("--key={key}")]);
        }
        let all: Vec<&str> = all.iter().map(String::as_str).chain(args.iter().copied()).collect();
        ctl.run(&all)
    };
    eventually("the member serves", || Ok(run(Some(&caller_pair), &["put", "k", "v"])?.code == 0))?;
    ensure!(run(Some(&caller_pair), &["get", "k"])?.success()? == "k\nv\n");
    let nobody = run(None, &["--dial-timeout=1s", "--command-timeout=2s", "get", "k"])?;
    ensure!(nobody.code != 0, "a caller without a certificate was let in");
    let stranger = run(Some(&member_pair), &["--dial-timeout=1s", "--command-timeout=2s", "get", "k"])?;
    ensure!(stranger.code != 0, "a caller with a certificate of another CA was let in");
    auto_tls(&url, &inner_ca, &up_pair, dir.path())
}

/// A proxy that makes its own certificate, and looks at its own health with it.
fn auto_tls(url: &str, ca: &str, up: &(String, String), dir: &Path) -> anyhow::Result<()> {
    let args = [
        format!("--cacert={ca}"),
        format!("--cert={}", up.0),
        format!("--key={}", up.1),
        "--auto-tls".to_owned(),
        format!("--data-dir={}", dir.join("proxy").display()),
    ];
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let front = Front::start(&our_program(), "grpc-proxy", &[url.to_owned()], &args)?;
    let made = dir.join("proxy/fixtures/proxy/cert.pem");
    let ctl = Ctl { program: real("3.5", "etcdctl"), endpoint: format!("https://{}", front.authority()) };
    let cacert = format!("--cacert={}", made.display());
    ensure!(ctl.run(&[&cacert, "get", "k"])?.success()? == "k\nv\n");
    Ok(())
}

/// Tokens go up with each call, and nobody reads what somebody else may.
#[test]
fn users_are_told_apart() -> anyhow::Result<()> {
    let member = Member::start(&yardstick(), &[])?;
    let front = proxy(&[&member], &[])?;
    let ctl = through(&front);
    ctl.run(&["put", "open", "1"])?.success()?;
    ctl.run(&["put", "secret", "2"])?.success()?;
    // Into the cache.
    ctl.run(&["get", "secret"])?.success()?;
    ensure!(ctl.run(&["get", "secret", "--consistency=s"])?.success()? == "secret\n2\n");
    let hits = Front::metric(&front.authority(), "/proxy/metrics", "etcd_grpc_proxy_cache_hits_total")?;
    ensure!(hits == 1.0, "{hits} hits");
    for args in [
        &["user", "add", "root:r"][..],
        &["user", "grant-role", "root", "root"],
        &["user", "add", "u:p"],
        &["role", "add", "reader"],
        &["role", "grant-permission", "reader", "read", "open"],
        &["user", "grant-role", "u", "reader"],
        &["auth", "enable"],
    ] {
        ctl.run(args)?.success()?;
    }
    let denied = "Error: etcdserver: permission denied";
    ensure!(ctl.run(&["--user=root:r", "get", "secret"])?.success()? == "secret\n2\n");
    for consistency in ["--consistency=s", "--consistency=l"] {
        ensure!(ctl.run(&["--user=u:p", "get", "open", consistency])?.success()? == "open\n1\n");
        let found = ctl.run(&["--user=u:p", "get", "secret", consistency])?;
        ensure!(found.messages() == denied, "{}", found.messages());
        let found = ctl.run(&["get", "secret", consistency])?;
        ensure!(found.messages() == "Error: etcdserver: user name is empty", "{}", found.messages());
    }
    let watched = ctl.run_until(&["--user=u:p", "watch", "secret"], "", Until::End)?;
    ensure!(watched.stderr.contains("permission denied"), "{watched:?}");
    let watched = ctl.run_until(&["--user=u:p", "watch", "open", "--rev=1"], "", Until::Lines(3))?;
    ensure!(watched.stdout == "PUT\nopen\n1\n", "{watched:?}");
    Ok(())
}

/// What is kept, what is not, and the pages of the proxy.
#[test]
fn the_cache_and_the_pages() -> anyhow::Result<()> {
    let mut member = Member::start(&yardstick(), &[])?;
    let front = proxy(&[&member], &["--metrics-addr=http://127.0.0.1:0"])?;
    let (ctl, direct) = (through(&front), direct(&member));
    let own = |name: &str| {
        Front::metric(&front.authority(), "/proxy/metrics", &format!("etcd_grpc_proxy_cache_{name}"))
    };
    let get = |expected: &str| {
        let found = ctl.run(&["get", "k", "--consistency=s", "--print-value-only"])?.success()?;
        ensure!(found.trim_end() == expected, "{found:?} and not {expected:?}");
        Ok(())
    };
    ctl.run(&["put", "k", "1"])?.success()?;
    get("1")?;
    direct.run(&["put", "k", "2"])?.success()?;
    // Written past the proxy: it goes on showing what it has.
    get("1")?;
    ensure!((own("hits_total")?, own("misses_total")?, own("keys_total")?) == (1.0, 1.0, 1.0));
    let txn = "mod(\"k\") = \"99\"\n\nput x 1\n\nget x\n\n";
    ctl.run_with(&["txn"], &[], txn.as_bytes())?.success()?;
    // Who compared it has to see what is there.
    get("2")?;
    ctl.run(&["put", "k", "3"])?.success()?;
    get("3")?;
    ctl.run(&["get", "k", "--rev=3"])?.success()?;
    ctl.run(&["compact", "4"])?.success()?;
    let gone = ctl.run(&["get", "k", "--rev=3", "--consistency=s"])?;
    ensure!(gone.messages().ends_with("required revision has been compacted"), "{}", gone.messages());

    let page = |path: &str| http::request(&front.authority(), "GET", path, &[], "");
    let healthy = r#"{"health":"true","reason":""}"#;
    for path in ["/health", "/proxy/health"] {
        // The address that is advertised by default is not this one.
        let answer = page(path)?;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        match path {
            "/health" => ensure!(answer.status == 200 && text == healthy, "{text}"),
            _ => ensure!(answer.status == 503 && text.contains("GET ERROR:"), "{text}"),
        }
    }
    let metrics = String::from_utf8(page("/metrics")?.body)?;
    ensure!(metrics.contains("\netcd_server_has_leader 1\n"), "{metrics}");
    ensure!(page("/version")?.status == 404);
    let posted = http::request(&front.authority(), "POST", "/health", &[], "")?;
    ensure!(posted.status == 405 && posted.header("allow") == Some("GET"));
    member.kill()?;
    let sick = page("/health")?;
    ensure!(sick.status == 503, "{sick:?}");
    ensure!(page("/metrics")?.status == 500);
    Ok(())
}

/// One script, three ways: through the real proxy, straight to the member, through ours. An answer of
/// ours has to be that of the real proxy, or that of the member itself.
#[test]
fn a_script_goes_through_as_through_the_real_proxy() -> anyhow::Result<()> {
    const TRANSPARENT: &str = "--advertise-client-url=";
    macro_rules! answers {
        ($front:expr, $module:ident, $script:ident) => {{
            let member = Member::start(&yardstick(), &[])?;
            let program: Option<Program> = $front;
            let front = match &program {
                Some(program) => {
                    Some(Front::start(program, "grpc-proxy", &[member.authority()], &[TRANSPARENT])?)
                }
                None => None,
            };
            let authority = front.as_ref().map_or(member.authority(), Front::authority);
            block_on(async {
                let mut script = Script::connect_through(&member, authority, real("3.5", "etcdctl")).await?;
                scripts::$module::$script(&mut script).await?;
                anyhow::Ok(script.into_entries())
            })
        }};
    }
    let mut faults = Vec::new();
    let mut compare = |theirs: &[Entry], member: &[Entry], ours: &[Entry]| {
        for entry in ours {
            let same = |other: &&Entry| other.name == entry.name && other.answer == entry.answer;
            if !theirs.iter().chain(member).any(|other| same(&other)) {
                let of = |entries: &[Entry]| {
                    entries.iter().find(|other| other.name == entry.name).map(|other| other.answer.clone())
                };
                let (name, answer) = (&entry.name, &entry.answer);
                faults.push(format!(
                    "## {name}\nreal proxy: {:?}\nmember: {:?}\nours: {answer:?}",
                    of(theirs),
                    of(member)
                ));
            }
        }
        ensure!(ours.len() == member.len(), "{} answers and not {}", ours.len(), member.len());
        Ok(())
    };
    macro_rules! scripts {
        ($($module:ident $script:ident),*) => {$(
            let theirs = std::thread::spawn(|| answers!(Some(yardstick()), $module, $script));
            let member = std::thread::spawn(|| answers!(None, $module, $script));
            let ours = answers!(Some(our_program()), $module, $script)?;
            let joined = |thread: std::thread::JoinHandle<anyhow::Result<Vec<Entry>>>| {
                thread.join().map_err(|_| anyhow::anyhow!("a script panicked"))?
            };
            compare(&joined(theirs)?, &joined(member)?, &ours)?;
        )*};
    }
    scripts!(kv puts, kv deletes, kv ranges, kv compaction, txn operations, watch events, lease basics,
        ctl_data keys);
    ensure!(faults.is_empty(), "{} answers are nobody's:\n\n{}", faults.len(), faults.join("\n\n"));
    Ok(())
}
