//! Two server programs side by side.
//!
//! Every scenario starts each server in turn on a fresh data directory (or on a copy of one with
//! many keys), in interleaved rounds A B, A B, ..., so that whatever else the machine does hits
//! both. The figures are medians over the rounds. Placements: `one` pins the server to core 0 and
//! the load to core 1, `both` lets the server use both and keeps the load on core 1.

mod cluster;
mod large;
mod small;
pub mod table;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::process::{Cores, Server, ServerPlan, require_real_disk, wait_serving, warm_memory};

/// Which cores the server gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Placement {
    /// Server on core 0, load on core 1.
    One,
    /// Server on both cores, load on core 1.
    Both,
}

impl Placement {
    fn server_cores(self) -> Cores {
        match self {
            Self::One => Cores(vec![0]),
            Self::Both => Cores(vec![0, 1]),
        }
    }

    /// The word for tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::One => "one core",
            Self::Both => "both cores",
        }
    }
}

/// One thing to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// Puts of 1,000 clients: throughput and CPU per put.
    Put,
    /// Puts of one client: latency.
    Latency,
    /// Linearizable reads of 64 clients.
    Get,
    /// Serializable reads of 64 clients.
    Serializable,
    /// Kubernetes-style updates.
    Txn,
    /// Such updates mixed with reads, lists and watches.
    Kube,
    /// Watch fan-out at a fixed event rate.
    Watch,
    /// Three members, puts of 1,000 clients through all of them.
    ClusterPut,
    /// Three members, linearizable reads of 64 clients on a follower.
    ClusterGet,
    /// Many keys: start-up time, memory, and put latency while something heavy runs.
    Large,
}

impl Scenario {
    fn is_of_cluster(self) -> bool {
        matches!(self, Self::ClusterPut | Self::ClusterGet)
    }
}

/// What to compare and how.
#[derive(Clone, Debug)]
pub struct ComparePlan {
    /// The two programs with their extra arguments; the first is the yardstick.
    pub programs: [(PathBuf, Vec<String>); 2],
    /// Names for the table.
    pub labels: [String; 2],
    /// Where data directories are made; must be on a real disk.
    pub dir: PathBuf,
    /// Placements to run.
    pub placements: Vec<Placement>,
    /// Rounds per scenario.
    pub rounds: usize,
    /// Scenarios to run.
    pub scenarios: Vec<Scenario>,
    /// Length of a measured window.
    pub window: Duration,
    /// Keys of the `large` scenario.
    pub large_keys: u64,
    /// First port to use; a handful follow.
    pub base_port: u16,
    /// Program to run as the echo server (this one), to measure the ceiling of bare RPC.
    pub echo: Option<PathBuf>,
    /// Memory that is made sure of before each start: see [`warm_memory`].
    pub warm_bytes: usize,
    /// Encrypt what goes between load and servers. There is no encrypted echo server.
    pub tls: bool,
}

/// Name of a figure, e.g. `put.per_second`.
pub type Metric = &'static str;
/// The figures of one run of a scenario.
pub type Figures = Vec<(Metric, f64)>;

/// Everything measured: placement, metric, then the values of A and of B in the order of rounds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Results {
    /// Names of the two.
    pub labels: [String; 2],
    /// Values by placement and metric.
    pub values: BTreeMap<Placement, BTreeMap<String, [Vec<f64>; 2]>>,
    /// Median time of one small append with its sync, in microseconds, on the same directory.
    pub sync_us: f64,
    /// Puts and reads per second of the echo server, by placement.
    pub echo: BTreeMap<Placement, [f64; 2]>,
}

impl Results {
    fn add(&mut self, placement: Placement, which: usize, figures: Figures) {
        let metrics = self.values.entry(placement).or_default();
        for (metric, value) in figures {
            metrics.entry(metric.to_owned()).or_default()[which].push(value);
        }
    }

    /// Medians of A and B.
    pub fn medians(&self, placement: Placement, metric: &str) -> Option<[f64; 2]> {
        let [a, b] = self.values.get(&placement)?.get(metric)?;
        Some([median(a)?, median(b)?])
    }
}

/// The middle value, or the mean of the two in the middle.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// Runs the comparison; progress goes to stderr.
pub fn run(plan: &ComparePlan) -> anyhow::Result<Results> {
    ensure!(plan.rounds > 0, "at least one round is needed");
    std::fs::create_dir_all(&plan.dir).with_context(|| format!("cannot create {}", plan.dir.display()))?;
    require_real_disk(&plan.dir)?;
    Cores(vec![1]).pin_this_thread().context("a comparison needs two cores")?;
    let certificate = if plan.tls { Some(certificate(&plan.dir)?) } else { None };
    let mut results = Results { labels: plan.labels.clone(), ..Default::default() };
    results.sync_us = sync_probe(&plan.dir)?;
    for &placement in &plan.placements {
        let bench = Bench { plan, placement, certificate: certificate.clone() };
        if plan.echo.is_some() && !plan.tls {
            let figures = small::echo(&bench)?;
            eprintln!("{:<10} echo: {:.0} puts/s, {:.0} reads/s", placement.name(), figures[0], figures[1]);
            results.echo.insert(placement, figures);
        }
        for &scenario in &plan.scenarios {
            bench.scenario(scenario, &mut results)?;
        }
    }
    Ok(results)
}

/// One placement of a comparison under way.
struct Bench<'a> {
    plan: &'a ComparePlan,
    placement: Placement,
    certificate: Option<(String, String)>,
}

/// A CA, a certificate for the servers, and from now on encrypted connections to them.
fn certificate(dir: &Path) -> anyhow::Result<(String, String)> {
    let authority = tls::authority::Authority::new("bench")?;
    let leaf = tls::authority::Leaf::new("server", &["127.0.0.1", "localhost"]);
    let files = authority.issue(&leaf)?.write(dir, "server")?;
    let trusted_ca_file = authority.write(dir, "ca")?;
    crate::wire::encrypt(&tls::Settings { trusted_ca_file, ..Default::default() })?;
    Ok(files)
}

impl Bench<'_> {
    fn scenario(&self, scenario: Scenario, results: &mut Results) -> anyhow::Result<()> {
        let name = scenario.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        let filled = match scenario {
            Scenario::Large => Some([large::fill(self, 0)?, large::fill(self, 1)?]),
            _ => None,
        };
        if let Some(filled) = &filled {
            for (which, fill) in filled.iter().enumerate() {
                results.add(self.placement, which, fill.figures.clone());
            }
        }
        for round in 0..self.plan.rounds {
            for which in 0..2 {
                let figures = match &filled {
                    Some(filled) => large::round(self, which, &filled[which].dir),
                    None if scenario.is_of_cluster() => cluster::round(self, which, scenario),
                    None => small::round(self, which, scenario),
                }
                .with_context(|| format!("{}, scenario {name}, round {round}", self.plan.labels[which]))?;
                let text: Vec<_> =
                    figures.iter().map(|(metric, value)| format!("{metric} {value:.1}")).collect();
                let place = self.placement.name();
                eprintln!(
                    "{place:<10} {name:<12} round {round} {:<10} {}",
                    self.plan.labels[which],
                    text.join("  ")
                );
                results.add(self.placement, which, figures);
            }
        }
        for fill in filled.into_iter().flatten() {
            std::fs::remove_dir_all(&fill.dir)?;
        }
        Ok(())
    }

    /// An empty directory for one server run.
    fn fresh_dir(&self, which: usize, name: &str) -> anyhow::Result<PathBuf> {
        let dir = self.plan.dir.join(format!("{}-{name}", ["a", "b"][which]));
        match std::fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                bail!("cannot clear {}: {error}", dir.display())
            }
            _ => Ok(dir),
        }
    }

    /// A cluster of one.
    fn server_plan(&self, which: usize, data_dir: &Path) -> ServerPlan {
        let (program, extra_args) = &self.plan.programs[which];
        ServerPlan {
            program: program.clone(),
            name: "bench".into(),
            initial_cluster: String::new(),
            extra_args: extra_args.clone(),
            certificate: self.certificate.clone(),
            data_dir: data_dir.to_owned(),
            log_file: self.plan.dir.join(format!("{}.log", ["a", "b"][which])),
            client_port: self.plan.base_port,
            peer_port: self.plan.base_port + 1,
            cores: self.placement.server_cores(),
        }
    }

    /// Starts a server and waits for its first linearizable read; says how long that took.
    fn start(&self, which: usize, data_dir: &Path) -> anyhow::Result<(Server, Duration)> {
        warm_memory(self.plan.warm_bytes)?;
        let mut server = Server::start(&self.server_plan(which, data_dir))?;
        let (authority, started) = (server.authority.clone(), server.started);
        let took = wait_serving(&authority, started, Duration::from_secs(120), || server.check_alive())?;
        Ok((server, took))
    }
}

/// How long a stop may take.
const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// Median time of appending 2,300 bytes and syncing them.
fn sync_probe(dir: &Path) -> anyhow::Result<f64> {
    use std::os::unix::fs::FileExt;
    const APPEND_BYTES: usize = 2300;
    const APPENDS: usize = 300;
    let path = dir.join("sync-probe");
    let file = std::fs::File::options().create(true).truncate(true).write(true).read(true).open(&path)?;
    file.write_all_at(&vec![0; APPEND_BYTES * APPENDS], 0)?;
    file.sync_all()?;
    let block = vec![1u8; APPEND_BYTES];
    let mut times = Vec::new();
    for number in 0..APPENDS {
        let begun = Instant::now();
        file.write_all_at(&block, (number * APPEND_BYTES) as u64)?;
        file.sync_data()?;
        times.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    std::fs::remove_file(&path)?;
    median(&times).context("no sample")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }
}
