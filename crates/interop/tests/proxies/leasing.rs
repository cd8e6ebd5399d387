//! `--experimental-leasing-prefix`: proxies that share a prefix, ours and the real one.

use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::future::{join_all, try_join, try_join_all};
use serde_json::Value;

use super::*;

const ARGS: &[&str] = &["--advertise-client-url=", "--experimental-leasing-prefix=lp/"];

fn two(member: &Member, programs: [&Program; 2]) -> anyhow::Result<[Front; 2]> {
    let start = |program| Front::start(program, "grpc-proxy", &[member.authority()], ARGS);
    Ok([start(programs[0])?, start(programs[1])?])
}

/// The keys that are claimed.
fn claims(member: &Member) -> anyhow::Result<Vec<String>> {
    let keys = direct(member).run(&["get", "--prefix", "lp/", "--keys-only"])?.success()?;
    Ok(keys.lines().filter_map(|line| line.strip_prefix("lp/")).map(str::to_owned).collect())
}

fn value(front: &Front, key: &str) -> anyhow::Result<String> {
    let found = through(front).run(&["get", key, "--print-value-only"])?.success()?;
    Ok(found.trim_end().to_owned())
}

fn put(front: &Front, key: &str, value: &str) -> anyhow::Result<()> {
    through(front).run(&["put", key, value])?.success().map(drop)
}

/// One after the other: what one has written the other reads at once.
fn in_turns(member: &Member, fronts: &[Front; 2]) -> anyhow::Result<()> {
    ensure!(value(&fronts[0], "k")?.is_empty());
    ensure!(claims(member)? == ["k"], "{:?}", claims(member)?);
    for round in 0..8 {
        let (writer, reader) = (&fronts[round % 2], &fronts[(round + 1) % 2]);
        put(writer, "k", &round.to_string())?;
        for front in [reader, writer] {
            ensure!(value(front, "k")? == round.to_string(), "round {round}:\n{}", front.log());
        }
    }
    for (number, range) in [(0, ["del", "--prefix", "r"]), (1, ["del", "r", "s"])] {
        for key in ["r1", "r2", "r3", "r4"] {
            let owner = &fronts[usize::from(key > "r2")];
            put(owner, key, "v")?;
            ensure!(value(owner, key)? == "v");
        }
        let deleted = through(&fronts[number]).run(&range)?.success()?;
        ensure!(deleted.trim_end() == "4", "{deleted}");
        for key in ["r1", "r2", "r3", "r4"] {
            for front in fronts {
                ensure!(value(front, key)?.is_empty(), "{key} is still there");
            }
        }
    }
    for (round, front) in [0, 1, 0].into_iter().map(|number| &fronts[number]).enumerate() {
        let old = value(front, "k")?;
        let swap = format!("value(\"k\") = \"{old}\"\n\nput k t{round}\nput k2 t{round}\n\nget k\n\n");
        let run = |front: &Front| through(front).run_with(&["txn"], &[], swap.as_bytes());
        ensure!(run(front)?.success()?.starts_with("SUCCESS"));
        for front in fronts {
            ensure!(run(front)?.success()? == format!("FAILURE\n\nk\nt{round}\n"));
            ensure!(value(front, "k2")? == format!("t{round}"));
        }
    }
    Ok(())
}

/// A caller of a front.
struct Caller {
    channel: Channel,
    range: Method,
    put: Method,
}

impl Caller {
    async fn of(front: &Front) -> anyhow::Result<Self> {
        let method = |path: &str| Method::new(&front.authority(), path);
        Ok(Self {
            channel: Channel::connect(&front.authority()).await?,
            range: method("/etcdserverpb.KV/Range")?,
            put: method("/etcdserverpb.KV/Put")?,
        })
    }

    async fn read(&self, key: &str) -> anyhow::Result<u64> {
        let request = pb::RangeRequest { key: bytes(key), ..Default::default() };
        let read = self.channel.call::<pb::RangeResponse>(&self.range, &request);
        let answer = tokio::time::timeout(PATIENCE, read).await.context("no answer to a read")??;
        answer.kvs.first().map_or(Ok(0), |kv| Ok(std::str::from_utf8(&kv.value)?.parse()?))
    }

    async fn put(&self, key: &str, value: u64) -> anyhow::Result<()> {
        let request =
            pb::PutRequest { key: bytes(key), value: bytes(&value.to_string()), ..Default::default() };
        let put = self.channel.call::<pb::PutResponse>(&self.put, &request);
        tokio::time::timeout(PATIENCE, put).await.context("no answer to a put")??;
        Ok(())
    }
}

/// Both write while both read: no read by way of ours shows less than what was acknowledged before it.
///
/// The real one is not held to that: two reads at the same time, both of which ask for the claim, can leave it
/// with a value that it goes on to show after the claim was given up.
fn at_once(fronts: &[Front; 2], ours: [bool; 2]) -> anyhow::Result<()> {
    const KEYS: usize = 3;
    const WRITES: u64 = 30;
    let counters = || [const { AtomicU64::new(0) }; KEYS];
    let (begun, acknowledged) = (&counters(), &counters());
    block_on(async {
        let callers = join_all(fronts.iter().map(Caller::of)).await;
        let callers = &callers.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
        let writers = try_join_all((0..KEYS).map(|number| async move {
            for value in 1..=WRITES {
                begun[number].store(value, Ordering::SeqCst);
                callers[(value as usize + number) % 2].put(&format!("c{number}"), value).await?;
                acknowledged[number].store(value, Ordering::SeqCst);
            }
            anyhow::Ok(())
        }));
        let readers = try_join_all((0..4).map(|reader| async move {
            let mut round = reader;
            while acknowledged.iter().any(|done| done.load(Ordering::SeqCst) < WRITES) {
                round += 1;
                let number = round % KEYS;
                let before = acknowledged[number].load(Ordering::SeqCst);
                let seen = callers[reader % 2].read(&format!("c{number}")).await?;
                let after = begun[number].load(Ordering::SeqCst);
                let is_right = (before..=after).contains(&seen);
                ensure!(is_right || !ours[reader % 2], "{seen} is not in {before}..={after}");
            }
            anyhow::Ok(())
        }));
        try_join(writers, readers).await.map(drop)
    })
}

#[test]
fn two_of_ours_share_a_prefix() -> anyhow::Result<()> {
    let member = Member::start(&yardstick(), &[])?;
    let ours = our_program();
    let fronts = two(&member, [&ours, &ours])?;
    in_turns(&member, &fronts)?;
    at_once(&fronts, [true, true])
}

#[test]
fn ours_and_the_real_one_share_a_prefix() -> anyhow::Result<()> {
    let member = Member::start(&our_program(), &[])?;
    let (ours, theirs) = (our_program(), yardstick());
    let fronts = two(&member, [&ours, &theirs])?;
    in_turns(&member, &fronts)?;
    at_once(&fronts, [true, false])?;
    // The other one claims first.
    let fronts = two(&member, [&theirs, &ours])?;
    direct(&member).run(&["del", "--prefix", ""])?.success()?;
    in_turns(&member, &fronts)
}

/// A put that is not claimed is one revision; etcd's proxy makes two of it.
#[test]
fn nothing_is_written_twice() -> anyhow::Result<()> {
    let member = Member::start(&yardstick(), &[])?;
    for (program, version) in [(our_program(), 1), (yardstick(), 2)] {
        let front = Front::start(&program, "grpc-proxy", &[member.authority()], ARGS)?;
        put(&front, "k", "v")?;
        let text = direct(&member).run(&["get", "k", "-w", "json"])?.success()?;
        let found: Value = serde_json::from_str(&text)?;
        ensure!(found["kvs"][0]["version"] == version, "{text}");
        through(&front).run(&["del", "k"])?.success()?;
    }
    Ok(())
}

/// A proxy is killed: what it has claimed is free when its lease is over.
#[test]
fn a_killed_proxy_holds_nobody_up_for_ever() -> anyhow::Result<()> {
    let member = Member::start(&yardstick(), &[])?;
    for program in [our_program(), yardstick()] {
        let mut fronts = two(&member, [&program, &our_program()])?;
        let key = format!("k{}", fronts[0].pid());
        put(&fronts[0], &key, "1")?;
        ensure!(value(&fronts[0], &key)? == "1");
        fronts[0].kill()?;
        let waits = through(&fronts[1]).run(&["put", &key, "2", "--command-timeout=1s"])?;
        ensure!(waits.code != 0 && waits.messages().contains("deadline exceeded"), "{waits:?}");
        ensure!(value(&fronts[1], &key)? == "1");
        let claim = direct(&member).run(&["get", &format!("lp/{key}"), "-w", "json"])?.success()?;
        let claim: Value = serde_json::from_str(&claim)?;
        let lease = format!("{:x}", claim["kvs"][0]["lease"].as_i64().context("a lease")?);
        // Its sixty seconds are shortened here.
        let granted = direct(&member).run(&["lease", "timetolive", &lease])?.success()?;
        ensure!(granted.contains("granted with TTL(60s)"), "{granted}");
        direct(&member).run(&["lease", "revoke", &lease])?.success()?;
        put(&fronts[1], &key, "3")?;
        ensure!(value(&fronts[1], &key)? == "3");
    }
    Ok(())
}

/// What is claimed is answered without the cluster, also when that is gone.
#[test]
fn claimed_keys_are_read_while_the_cluster_is_away() -> anyhow::Result<()> {
    let mut member = Member::start(&yardstick(), &[])?;
    let front = Front::start(&our_program(), "grpc-proxy", &[member.authority()], ARGS)?;
    put(&front, "k", "v")?;
    ensure!(value(&front, "k")? == "v");
    member.kill()?;
    ensure!(value(&front, "k")? == "v");
    let txn = "value(\"k\") = \"v\"\n\nget k\n\nput k x\n\n";
    ensure!(through(&front).run_with(&["txn"], &[], txn.as_bytes())?.success()? == "SUCCESS\n\nk\nv\n");
    let other = through(&front).run(&["get", "other", "--command-timeout=1s"])?;
    ensure!(other.code != 0, "{other:?}");
    member.run()?;
    put(&front, "k", "w")?;
    ensure!(value(&front, "k")? == "w");
    Ok(())
}

/// Authentication is turned on by way of the proxy: nothing it had claimed before is shown to who may not
/// see it.
#[test]
fn nothing_claimed_outlives_that_authentication_is_turned_on() -> anyhow::Result<()> {
    let member = Member::start(&yardstick(), &[])?;
    let front = Front::start(&our_program(), "grpc-proxy", &[member.authority()], ARGS)?;
    put(&front, "k", "v")?;
    ensure!(value(&front, "k")? == "v");
    ensure!(claims(&member)? == ["k"]);
    for command in
        [&["user", "add", "root:pw"][..], &["user", "grant-role", "root", "root"], &["auth", "enable"]]
    {
        through(&front).run(command)?.success()?;
    }
    let refused = through(&front).run(&["get", "k"])?;
    ensure!(refused.code != 0 && refused.messages().contains("user name is empty"), "{refused:?}");
    let allowed = through(&front).run(&["get", "k", "--print-value-only", "--user=root:pw"])?;
    ensure!(allowed.success()? == "v\n");
    Ok(())
}
