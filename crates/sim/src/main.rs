//! Runs seeds and says what they found.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Parser;
use sim::{Bug, Options, Outcome};

/// Simulates clusters from seeds. Exit status 1: a seed found something.
#[derive(Debug, Parser)]
struct Arguments {
    /// Run this seed.
    #[arg(long, conflicts_with_all = ["seeds", "minutes"])]
    seed: Option<u64>,
    /// Run the seeds of this range, `A..B`.
    #[arg(long)]
    seeds: Option<String>,
    /// Run seeds for so long, from the start of `--seeds` or from 0.
    #[arg(long)]
    minutes: Option<f64>,
    /// Threads, each with seeds of its own.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Print what happens (with --seed).
    #[arg(long)]
    trace: bool,
    /// Print only from this virtual millisecond on.
    #[arg(long, default_value_t = 0)]
    trace_from: u64,
    /// Plant a bug, to see that it is found.
    #[arg(long)]
    bug: Option<String>,
    /// Change the membership all the time.
    #[arg(long)]
    reconfigure: bool,
    /// Go on after a finding.
    #[arg(long)]
    keep_going: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    server::log::set_level(server::log::Level::Fatal);
    let bug = match &arguments.bug {
        None => None,
        Some(name) => Some(Bug::from_name(name).with_context(|| {
            let names: Vec<_> = Bug::ALL.iter().map(|bug| bug.name()).collect();
            format!("there is no bug {name}; there are {}", names.join(", "))
        })?),
    };
    if let Some(seed) = arguments.seed {
        let options = Options {
            trace: arguments.trace,
            trace_from_ms: arguments.trace_from,
            bug,
            reconfigure: arguments.reconfigure,
        };
        let outcome = sim::run(seed, options);
        println!(
            "seed {seed}: trace {:016x}, {:.1} virtual seconds, {:?}",
            outcome.trace,
            outcome.virtual_micros as f64 / 1e6,
            outcome.stats
        );
        return Ok(report(&outcome, options));
    }
    let (from, to) = range(&arguments)?;
    let until = arguments.minutes.map(|minutes| Instant::now() + Duration::from_secs_f64(minutes * 60.0));
    Ok(run_many(from, to, until, bug, &arguments))
}

fn range(arguments: &Arguments) -> anyhow::Result<(u64, u64)> {
    let Some(text) = &arguments.seeds else {
        return Ok((0, if arguments.minutes.is_some() { u64::MAX } else { 100 }));
    };
    let Some((from, to)) = text.split_once("..") else { bail!("--seeds takes A..B, not {text}") };
    let to = if to.is_empty() { u64::MAX } else { to.parse().context("--seeds")? };
    Ok((from.parse().context("--seeds")?, to))
}

#[derive(Default)]
struct Totals {
    seeds: u64,
    findings: u64,
    virtual_micros: u64,
    stats: sim::Stats,
}

fn run_many(from: u64, to: u64, until: Option<Instant>, bug: Option<Bug>, arguments: &Arguments) -> ExitCode {
    let (next, stop, totals) = (AtomicU64::new(from), AtomicBool::new(false), Mutex::new(Totals::default()));
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs.max(1) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) && until.is_none_or(|until| Instant::now() < until) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= to {
                        return;
                    }
                    let options = Options { bug, reconfigure: arguments.reconfigure, ..Options::default() };
                    let outcome = sim::run(seed, options);
                    let mut totals = totals.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    totals.add(&outcome);
                    if outcome.finding.is_some() {
                        report(&outcome, options);
                        stop.fetch_or(!arguments.keep_going, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let totals = totals.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let minutes = start.elapsed().as_secs_f64() / 60.0;
    println!(
        "{} seeds in {:.1} minutes: {:.0} seeds per minute, {:.1} simulated hours, {} findings",
        totals.seeds,
        minutes,
        totals.seeds as f64 / minutes,
        totals.virtual_micros as f64 / 3.6e9,
        totals.findings
    );
    println!("{:?}", totals.stats);
    ExitCode::from(u8::from(totals.findings > 0))
}

impl Totals {
    fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        self.findings += u64::from(outcome.finding.is_some());
        self.virtual_micros += outcome.virtual_micros;
        self.stats.add(&outcome.stats);
    }
}

fn report(outcome: &Outcome, options: Options) -> ExitCode {
    let Some(finding) = &outcome.finding else { return ExitCode::SUCCESS };
    let planted = options.bug.map(|bug| format!(" --bug {}", bug.name())).unwrap_or_default();
    let reconfigure = if options.reconfigure { " --reconfigure" } else { "" };
    println!("seed {}: {finding}", outcome.seed);
    println!("  replay: cargo run -p sim -- --seed {}{planted}{reconfigure} --trace", outcome.seed);
    ExitCode::FAILURE
}
