//! Members that find each other by the DNS.

use std::time::Duration;

use anyhow::{Context, ensure};
use interop::cluster::ctl;
use interop::member::Member;
use interop::names::{Zone, with_own_names};
use interop::programs::{Program, subject, yardstick};

use crate::said;

const DOMAIN: &str = "retcd.test";

#[test]
fn members_find_each_other_by_the_dns() -> anyhow::Result<()> {
    with_own_names("names::members_find_each_other_by_the_dns", inside)
}

fn inside() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let programs = [subject(), yardstick(), subject()];
    let mut members = Vec::new();
    for (number, program) in programs.iter().enumerate() {
        members.push(member(program, &dir.path().join(format!("n{number}")), number)?);
    }
    let places = members.iter().enumerate().map(|(number, (_, port))| (number, *port));
    Zone { domain: DOMAIN, services: vec![("_etcd-server-club._tcp", places.collect())] }.serve()?;

    for (member, _) in &mut members {
        member.add_args(&["--discovery-srv", DOMAIN, "--discovery-srv-name", "club"]);
        member.spawn()?;
    }
    for (member, _) in &mut members {
        member.wait_serving()?;
    }
    for (number, (member, _)) in members.iter().enumerate() {
        ctl(member).run(&["put", &format!("k{number}"), "v"])?.success()?;
        let list = ctl(member).run(&["member", "list"])?.success()?;
        ensure!(list.lines().count() == 3, "{list}");
        for other in 0..3 {
            ensure!(list.contains(&format!("http://m{other}.{DOMAIN}:")), "{list}");
            ensure!(list.contains(&format!(", n{other}, ")), "names are published: {list}");
        }
    }
    let found = said(&members[0].0, "get cluster for etcd-server SRV");
    ensure!(found[0]["service-name"] == "etcd-server-club", "{found:?}");
    ensure!(found[0]["found-cluster"].as_array().is_some_and(|found| found.len() == 3), "{found:?}");
    ensure!(said(&members[0].0, "got bootstrap from DNS for etcd-server").len() == 3, "one for each");

    // What is wrong is said in the same words.
    for (domain, wanted) in [
        (DOMAIN, "cannot find local etcd member \"n7\" in SRV records"),
        (
            "nowhere.test",
            "error querying DNS SRV records for _etcd-server-club lookup _etcd-server-club._tcp.nowhere.test",
        ),
    ] {
        for program in &programs[..2] {
            let (mut stranger, _) =
                member(program, &dir.path().join(format!("{domain}-{}", program.args.len())), 7)?;
            stranger.add_args(&["--discovery-srv", domain, "--discovery-srv-name", "club"]);
            stranger.spawn()?;
            let status = stranger.wait_end(Duration::from_secs(20))?;
            ensure!(status.code() == Some(1), "{status}");
            let failed = said(&stranger, "discovery failed");
            let error = failed.last().and_then(|record| record["error"].as_str()).unwrap_or_default();
            ensure!(error.starts_with("error setting up initial cluster: "), "{error}");
            ensure!(error.contains(wanted), "{}: {error}", program.path.display());
        }
    }
    Ok(())
}

/// A member `n<number>` that is reached as `m<number>`, and its peer port.
fn member(program: &Program, dir: &std::path::Path, number: usize) -> anyhow::Result<(Member, u16)> {
    let mut member = Member::prepare(program, &[], dir)?;
    member.discover();
    let port: u16 = member.peer_authority().rsplit(':').next().context("a port")?.parse()?;
    let url = format!("http://m{number}.{DOMAIN}:{port}");
    member.add_args(&["--name", &format!("n{number}"), "--initial-advertise-peer-urls", &url]);
    Ok((member, port))
}
