//! The registry of discovery: three members meet there, a fourth comes too late.

use std::time::Duration;

use anyhow::{Context, ensure};
use interop::cluster::{ctl, entry, eventually};
use interop::member::Member;
use interop::programs::{Program, real, subject, subject_as};
use tempfile::TempDir;

use crate::said;

/// A member `n<number>` that looks for its cluster in the registry.
fn candidate(
    program: &Program,
    dir: &TempDir,
    number: usize,
    registry: &str,
    token: &str,
) -> anyhow::Result<Member> {
    let name = format!("n{number}");
    let mut member = Member::prepare(program, &[], &dir.path().join(&name))?;
    member.discover();
    member.add_args(&["--name", &name, "--discovery-endpoints", registry, "--discovery-token", token]);
    Ok(member)
}

/// Waits for the end of a start that fails, and for what it says last but one.
fn refused(member: &mut Member, reason: &str) -> anyhow::Result<()> {
    member.spawn()?;
    let status = member.wait_end(Duration::from_secs(20))?;
    ensure!(status.code() == Some(1), "{status}\n{}", member.log_tail());
    let records = said(member, "failed to bootstrap; discovery token was already used");
    let record = records.last().with_context(|| member.log_tail())?;
    let expected = format!("failed to join discovery cluster ({reason})");
    ensure!(record["error"] == *expected, "{record}");
    ensure!(record["discovery-endpoints"].is_array() && record["discovery-token"].is_string(), "{record}");
    let advice = said(member, "do not reuse discovery token; generate a new one to bootstrap a cluster");
    ensure!(!advice.is_empty(), "no advice");
    let failed = said(member, "discovery failed to join cluster");
    ensure!(failed.last().is_some_and(|record| record["error"] == *reason), "{failed:?}");
    Ok(())
}

/// Members of these programs meet in a registry that a member of another serves.
fn meet(registry: &Program, members: &[&Program], late: &Program) -> anyhow::Result<()> {
    let holder = Member::start(registry, &[])?;
    let (dir, url, tool) = (tempfile::tempdir()?, holder.client_url(), ctl(&holder));
    let mut early = candidate(late, &dir, 9, &url, "club")?;
    refused(&mut early, "discovery: size key not found")?;
    tool.run(&["put", "/_etcd/registry/club/_config/size", "many"])?.success()?;
    refused(&mut early, "discovery: size key is bad")?;
    tool.run(&["put", "/_etcd/registry/club/_config/size", "3"])?.success()?;

    let candidates = members.iter().enumerate();
    let mut cluster = candidates
        .map(|(number, program)| candidate(program, &dir, number, &url, "club"))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let (last, first) = cluster.split_last_mut().context("members")?;
    for member in &mut *first {
        member.spawn()?;
    }
    for member in &*first {
        eventually("it waits for the others", || {
            Ok(!said(member, "waiting for peers from discovery service").is_empty())
        })?;
    }
    last.run()?;
    for member in &mut *first {
        member.wait_serving()?;
    }

    // Keys and values are those that any other member would write.
    let written = tool.run(&["get", "--prefix", "/_etcd/registry/club/members/"])?.success()?;
    let mut lines = written.lines();
    let (mut ids, mut entries) = (Vec::new(), Vec::new());
    while let (Some(key), Some(value)) = (lines.next(), lines.next()) {
        ids.push(key.trim_start_matches("/_etcd/registry/club/members/").to_owned());
        entries.push(value.to_owned());
    }
    entries.sort_unstable();
    let expected: Vec<String> =
        cluster.iter().enumerate().map(|(number, member)| entry(number, member)).collect();
    ensure!(entries == expected, "{entries:?}");
    for member in &cluster {
        let list = ctl(member).run(&["member", "list"])?.success()?;
        ensure!(list.lines().count() == 3 && ids.iter().all(|id| list.contains(id.as_str())), "{list}");
    }
    for (number, member) in cluster.iter().enumerate() {
        ctl(member).run(&["put", &format!("k{number}"), "v"])?.success()?;
        let read = ctl(&cluster[(number + 1) % 3]).run(&["get", &format!("k{number}")])?.success()?;
        ensure!(read == format!("k{number}\nv\n"), "{read}");
    }

    refused(&mut early, "discovery: cluster is full")?;
    // Whoever has a log asks nobody.
    cluster[0].stop()?;
    cluster[0].run()?;
    let ignored = "discovery token is ignored since cluster already initialized; valid logs are found";
    ensure!(said(&cluster[0], ignored).len() == 1, "{}", cluster[0].log_tail());
    Ok(())
}

#[test]
fn three_of_ours_meet_in_ours() -> anyhow::Result<()> {
    let ours = subject_as("3.7");
    meet(&ours, &[&ours, &ours, &ours], &ours)
}

#[test]
fn three_of_ours_meet_in_a_real_one() -> anyhow::Result<()> {
    let ours = subject();
    meet(&Program::plain(real("3.5", "etcd")), &[&ours, &ours, &ours], &ours)
}

#[cfg(feature = "newest")]
#[test]
fn ours_and_real_ones_meet_in_both() -> anyhow::Result<()> {
    let (ours, theirs) = (subject_as("3.7"), Program::plain(real("3.7", "etcd")));
    meet(&ours, &[&ours, &theirs, &ours], &theirs)?;
    meet(&theirs, &[&theirs, &ours, &theirs], &ours)
}

/// A registry that only lets users in, reached over TLS, described in a configuration file.
#[test]
fn a_registry_behind_tls_and_passwords() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let certs = tls::authority::Authority::new("registry")?;
    let ca = certs.write(dir.path(), "ca")?;
    let issued = certs.issue(&tls::authority::Leaf::new("registry", &["127.0.0.1"]))?;
    let (cert, key) = issued.write(dir.path(), "server")?;
    let mut holder = Member::prepare(&subject_as("3.7"), &[], &dir.path().join("registry"))?;
    let plain = interop::member::free_port()?;
    let (secure, plain) = (format!("https://{}", holder.authority()), format!("http://127.0.0.1:{plain}"));
    let both = format!("{secure},{plain}");
    holder.add_args(&["--listen-client-urls", &both, "--advertise-client-urls", &secure]);
    holder.add_args(&["--cert-file", &cert, "--key-file", &key]);
    holder.spawn()?;
    let tool = interop::ctl::Ctl { program: real("3.5", "etcdctl"), endpoint: plain };
    eventually("the registry serves", || Ok(tool.run(&["endpoint", "health"])?.code == 0))?;
    tool.run(&["put", "/_etcd/registry/t/_config/size", "1"])?.success()?;
    for command in ["user add root:r", "user grant-role root root", "auth enable"] {
        tool.run(&command.split(' ').collect::<Vec<_>>())?.success()?;
    }

    let mut member = Member::prepare(&subject_as("3.7"), &[], &dir.path().join("m"))?;
    let file = |password: &str| {
        format!(
            "name: m1\ndata-dir: {}\nlisten-client-urls: {client}\nadvertise-client-urls: {client}\n\
             listen-peer-urls: {peer}\ninitial-advertise-peer-urls: {peer}\ndiscovery-config:\n  token: t\n  \
             client:\n    endpoints: [\"{secure}\"]\n    dial-timeout: 20000000000\n    request-timeout: 20000000000\n    \
             secure:\n      cacert: {ca}\n      insecure-transport: false\n    auth:\n      username: root\n      \
             password: {password}\n",
            member.data_dir().display(),
            client = member.client_url(),
            peer = format_args!("http://{}", member.peer_authority()),
        )
    };
    let (wrong, right) = (dir.path().join("wrong.yml"), dir.path().join("right.yml"));
    std::fs::write(&wrong, file("x"))?;
    std::fs::write(&right, file("r"))?;
    member.discover();
    member.add_args(&["--config-file", &wrong.to_string_lossy()]);
    member.spawn()?;
    ensure!(member.wait_end(Duration::from_secs(40))?.code() == Some(1), "{}", member.log_tail());
    let error =
        "failed to join discovery cluster (etcdserver: authentication failed, invalid user ID or password)";
    let records = said(&member, "failed to bootstrap; discovery token was already used");
    ensure!(records.last().is_some_and(|record| record["error"] == *error), "{records:?}");
    member.add_args(&["--config-file", &right.to_string_lossy()]);
    member.run()
}
