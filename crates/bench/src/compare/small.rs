//! Scenarios that start from an empty data directory.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};

use super::{Bench, Figures, STOP_PATIENCE, Scenario};
use crate::load::ops::Workload;
use crate::load::report::Report;
use crate::load::{self, LoadPlan};
use crate::process::cpu_time;
use crate::wire::scheme;

/// Events per second of the watch scenario: 500 puts, each seen by 100 watchers.
const WATCH_PUTS_PER_SECOND: f64 = 500.0;
const WATCH_KEYS: u64 = 10;
const WATCHERS: usize = 1000;
const WATCH_STREAMS: usize = 50;

/// One run of one server.
pub(super) fn round(bench: &Bench<'_>, which: usize, scenario: Scenario) -> anyhow::Result<Figures> {
    let dir = bench.fresh_dir(which, "data")?;
    let (mut server, _) = bench.start(which, &dir)?;
    let mut plan = plan_of(scenario, bench.plan.window);
    plan.endpoints = vec![format!("{}://{}", scheme(), server.authority)];
    plan.pids = vec![server.pid()];
    let figures = match scenario {
        Scenario::Watch => watch(&plan)?,
        _ => figures_of(scenario, &checked(load::run(&plan)?)?)?,
    };
    server.check_alive()?;
    server.stop(STOP_PATIENCE)?;
    std::fs::remove_dir_all(&dir)?;
    Ok(figures)
}

pub(super) fn plan_of(scenario: Scenario, window: Duration) -> LoadPlan {
    let mut plan = LoadPlan { duration: window, ..Default::default() };
    let (workload, connections, clients) = match scenario {
        Scenario::Put | Scenario::ClusterPut | Scenario::Large => (Workload::Put, 100, 1000),
        Scenario::Latency => (Workload::Put, 1, 1),
        Scenario::Get | Scenario::ClusterGet => (Workload::Get, 16, 64),
        Scenario::Serializable => (Workload::Serializable, 16, 64),
        Scenario::Txn => (Workload::Txn, 100, 1000),
        Scenario::Kube => (Workload::Kube, 100, 1000),
        Scenario::Watch => (Workload::Watch, 16, 64),
    };
    plan.workload = workload;
    plan.connections = connections;
    plan.clients = clients;
    match scenario {
        Scenario::Txn | Scenario::Kube => {
            plan.space.value_bytes = 1000;
            plan.space.prefix = "/registry/".into();
            plan.space.key_bytes = 40;
        }
        Scenario::Watch => {
            plan.space.keys = WATCH_KEYS;
            plan.rate = Some(WATCH_PUTS_PER_SECOND);
            plan.watchers = WATCHERS;
            plan.watch_streams = WATCH_STREAMS;
        }
        _ => {}
    }
    plan
}

/// A run with failures measures something else than it says.
pub(super) fn checked(report: Report) -> anyhow::Result<Report> {
    let first = report.first_error.as_deref().unwrap_or_default();
    ensure!(report.errors() == 0, "{} operations failed, the first with: {first}", report.errors());
    Ok(report)
}

pub(super) fn figures_of(scenario: Scenario, report: &Report) -> anyhow::Result<Figures> {
    let used = report.server.as_ref().context("server use was not measured")?;
    let class = |name| report.class(name).with_context(|| format!("no {name} was measured"));
    Ok(match scenario {
        Scenario::Put | Scenario::Large => {
            let put = class("put")?;
            vec![
                ("put.per_second", put.per_second),
                ("put.p99_us", put.p99_us),
                ("put.cpu_us", used.cpu_us_per_op),
                ("put.cores", used.cores),
            ]
        }
        Scenario::ClusterPut => {
            let put = class("put")?;
            vec![
                ("cluster.put_per_second", put.per_second),
                ("cluster.put_p99_us", put.p99_us),
                ("cluster.put_cpu_us", used.cpu_us_per_op),
            ]
        }
        Scenario::ClusterGet => vec![
            ("cluster.get_per_second", class("get")?.per_second),
            ("cluster.get_p99_us", class("get")?.p99_us),
        ],
        Scenario::Latency => {
            let put = class("put")?;
            vec![("latency.p50_us", put.p50_us), ("latency.p99_us", put.p99_us)]
        }
        Scenario::Get => {
            vec![("get.per_second", class("get")?.per_second), ("get.p99_us", class("get")?.p99_us)]
        }
        Scenario::Serializable => {
            let get = class("get")?;
            vec![("serializable.per_second", get.per_second), ("serializable.p99_us", get.p99_us)]
        }
        Scenario::Txn => {
            vec![("txn.per_second", class("txn")?.per_second), ("txn.p99_us", class("txn")?.p99_us)]
        }
        Scenario::Kube => vec![
            ("kube.per_second", report.operations_per_second()),
            ("kube.txn_p99_us", class("txn")?.p99_us),
            ("kube.cpu_us", used.cpu_us_per_op),
        ],
        Scenario::Watch => {
            let event = class("event")?;
            vec![
                ("watch.events_per_second", event.per_second),
                ("watch.p50_us", event.p50_us),
                ("watch.p99_us", event.p99_us),
                ("watch.cpu_seconds", used.cpu_seconds),
                ("watch.events", event.count as f64),
            ]
        }
    })
}

/// The same puts without and with watchers: the difference in CPU is what the events cost.
fn watch(plan: &LoadPlan) -> anyhow::Result<Figures> {
    let mut without = plan.clone();
    without.workload = Workload::Put;
    let baseline = checked(load::run(&without)?)?;
    let baseline = baseline.server.context("server use was not measured")?.cpu_seconds;
    let report = checked(load::run(plan)?)?;
    ensure!(report.not_started == 0, "the put rate was not kept");
    let mut figures = figures_of(Scenario::Watch, &report)?;
    let find = |name| figures.iter().find(|(metric, _)| *metric == name).map_or(0.0, |(_, value)| *value);
    let (cpu, events) = (find("watch.cpu_seconds"), find("watch.events").max(1.0));
    figures.push(("watch.cpu_us_per_event", cpu * 1e6 / events));
    figures.push(("watch.net_cpu_us_per_event", (cpu - baseline).max(0.0) * 1e6 / events));
    figures.retain(|(metric, _)| !matches!(*metric, "watch.cpu_seconds" | "watch.events"));
    Ok(figures)
}

/// Puts and linearizable reads per second of a server that only answers.
pub(super) fn echo(bench: &Bench<'_>) -> anyhow::Result<[f64; 2]> {
    let program = bench.plan.echo.as_ref().context("no echo program")?;
    let address = format!("127.0.0.1:{}", bench.plan.base_port + 2);
    let cores = bench.placement.server_cores();
    let mut command = Command::new(program);
    command.args(["echo", "--listen", &address, "--threads", &cores.0.len().to_string()]);
    command.stdin(Stdio::null());
    let mut child = KillOnDrop(crate::process::spawn_on(&mut command, &cores)?);
    let socket = address.parse()?;
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while std::net::TcpStream::connect_timeout(&socket, Duration::from_millis(100)).is_err() {
        ensure!(child.0.try_wait()?.is_none(), "the echo server ended");
        ensure!(std::time::Instant::now() < deadline, "the echo server does not listen");
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut rates = [0.0; 2];
    for (rate, scenario) in rates.iter_mut().zip([Scenario::Put, Scenario::Get]) {
        let mut plan = plan_of(scenario, bench.plan.window);
        plan.endpoints = vec![format!("http://{address}")];
        *rate = checked(load::run(&plan)?)?.operations_per_second();
    }
    // The process was alive to the end, or its time could not be read.
    cpu_time(child.0.id())?;
    Ok(rates)
}

struct KillOnDrop(std::process::Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
