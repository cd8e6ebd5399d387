//! Scenarios of three members on this machine.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use proto::etcdserverpb::{StatusRequest, StatusResponse};
use tokio::task::LocalSet;

use super::small::{checked, figures_of, plan_of};
use super::{Bench, Figures, STOP_PATIENCE, Scenario};
use crate::load;
use crate::process::{Server, ServerPlan, wait_serving, warm_memory};
use crate::wire::{Channel, Method, scheme};

const MEMBERS: u16 = 3;
const START_PATIENCE: Duration = Duration::from_secs(120);

/// One run of one cluster.
pub(super) fn round(bench: &Bench<'_>, which: usize, scenario: Scenario) -> anyhow::Result<Figures> {
    let dir = bench.fresh_dir(which, "data")?;
    let plans = plans(bench, which, &dir);
    warm_memory(bench.plan.warm_bytes)?;
    let mut servers = plans.iter().map(Server::start).collect::<anyhow::Result<Vec<_>>>()?;
    for server in &mut servers {
        let (authority, started) = (server.authority.clone(), server.started);
        wait_serving(&authority, started, START_PATIENCE, || server.check_alive())?;
    }
    let mut plan = plan_of(scenario, bench.plan.window);
    plan.pids = servers.iter().map(Server::pid).collect();
    plan.endpoints = match scenario {
        Scenario::ClusterGet => vec![format!("{}://{}", scheme(), a_follower(&servers)?)],
        _ => servers.iter().map(|server| format!("{}://{}", scheme(), server.authority)).collect(),
    };
    let figures = figures_of(scenario, &checked(load::run(&plan)?)?)?;
    for mut server in servers {
        server.check_alive()?;
        server.stop(STOP_PATIENCE)?;
    }
    std::fs::remove_dir_all(&dir)?;
    Ok(figures)
}

fn plans(bench: &Bench<'_>, which: usize, dir: &std::path::Path) -> Vec<ServerPlan> {
    let single = bench.server_plan(which, dir);
    let port = |member: u16| bench.plan.base_port + 2 * member;
    let entry = |member| format!("m{member}=http://127.0.0.1:{}", port(member) + 1);
    let initial_cluster = (0..MEMBERS).map(entry).collect::<Vec<_>>().join(",");
    let member = |member| ServerPlan {
        name: format!("m{member}"),
        initial_cluster: initial_cluster.clone(),
        data_dir: dir.join(format!("m{member}")),
        client_port: port(member),
        peer_port: port(member) + 1,
        ..single.clone()
    };
    (0..MEMBERS).map(member).collect()
}

/// The authority of a member that does not lead.
fn a_follower(servers: &[Server]) -> anyhow::Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let deadline = Instant::now() + START_PATIENCE;
    loop {
        for server in servers {
            let status = LocalSet::new().block_on(&runtime, status(&server.authority))?;
            let own = status.header.as_ref().context("a status without a header")?.member_id;
            if status.leader != 0 && status.leader != own {
                return Ok(server.authority.clone());
            }
        }
        ensure!(Instant::now() < deadline, "no member follows a leader");
    }
}

async fn status(authority: &str) -> anyhow::Result<StatusResponse> {
    let channel = Channel::connect(authority).await?;
    let method = Method::new(authority, "/etcdserverpb.Maintenance/Status")?;
    Ok(channel.call(&method, &StatusRequest::default()).await?)
}
