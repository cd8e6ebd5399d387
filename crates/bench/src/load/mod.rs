//! The load generator: many clients over a few connections, from one thread per load core.
//!
//! Each thread has its own single-threaded runtime, its share of the clients, and its own
//! samples; they meet at a barrier before the window and at the end. Only operations that end
//! inside the window `[start, end)` count. Closed loop: a client sends its next operation when
//! the last was answered. Open loop: see [`pace`].

pub mod fill;
pub mod ops;
pub mod pace;
pub mod report;
mod watch;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Barrier, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use self::ops::{Client, KeySpace, Methods, Shared, Workload, filler};
use self::pace::DueQueue;
use self::report::{Report, Samples};
use crate::process;
use crate::wire::{Channel, authority_of, local_runtime};

/// Everything a run needs to know.
#[derive(Clone, Debug)]
pub struct LoadPlan {
    /// Client URLs; connections are spread over them.
    pub endpoints: Vec<String>,
    /// What the clients do.
    pub workload: Workload,
    /// Keys and values.
    pub space: KeySpace,
    /// Connections.
    pub connections: usize,
    /// Concurrent clients.
    pub clients: usize,
    /// Load threads.
    pub threads: usize,
    /// Time before the window.
    pub warmup: Duration,
    /// Length of the window.
    pub duration: Duration,
    /// Operations per second of the open loop; `None` is the closed loop.
    pub rate: Option<f64>,
    /// Keys per range read.
    pub range_limit: i64,
    /// Watchers of the `watch` workload.
    pub watchers: usize,
    /// Streams the watchers are spread over.
    pub watch_streams: usize,
    /// Server processes to measure, as one.
    pub pids: Vec<u32>,
}

impl Default for LoadPlan {
    fn default() -> Self {
        Self {
            endpoints: vec!["http://127.0.0.1:2379".into()],
            workload: Workload::Put,
            space: KeySpace {
                prefix: "bench/".into(),
                keys: 10_000,
                key_bytes: 24,
                value_bytes: 100,
                sequential: false,
            },
            connections: 100,
            clients: 1000,
            threads: 1,
            warmup: Duration::from_secs(1),
            duration: Duration::from_secs(10),
            rate: None,
            range_limit: 500,
            watchers: 1000,
            watch_streams: 50,
            pids: Vec::new(),
        }
    }
}

/// The instants all threads agree on.
#[derive(Clone, Copy, Debug)]
struct Window {
    begin: Instant,
    start: Instant,
    end: Instant,
}

impl Window {
    fn covers(&self, instant: Instant) -> bool {
        self.start <= instant && instant < self.end
    }
}

/// Barrier and window shared by the load threads and the sampling thread.
struct Meeting {
    barrier: Barrier,
    window: OnceLock<Window>,
    epoch: Instant,
}

/// How long after the window an operation in flight may still take before it is given up.
const DRAIN: Duration = Duration::from_secs(20);

/// Pause of a client after a failure: a server that is gone fails calls faster than it serves them.
const AFTER_FAILURE: Duration = Duration::from_millis(10);

/// Runs a load to its end.
pub fn run(plan: &LoadPlan) -> anyhow::Result<Report> {
    ensure!(
        plan.clients > 0 && plan.connections > 0 && plan.threads > 0,
        "clients, connections, threads: at least 1"
    );
    ensure!(plan.space.keys > 0, "at least one key is needed");
    let threads = plan.threads.min(plan.clients);
    let meeting = Arc::new(Meeting {
        barrier: Barrier::new(threads + 1),
        window: OnceLock::new(),
        epoch: Instant::now(),
    });
    let workers: Vec<_> = (0..threads)
        .map(|index| {
            let plan = plan.clone();
            let meeting = meeting.clone();
            std::thread::spawn(move || thread_main(&plan, index, threads, &meeting))
        })
        .collect();
    meeting.barrier.wait();
    let window = agree(&meeting, plan);
    let used = (!plan.pids.is_empty()).then(|| measure_servers(&plan.pids, window)).transpose();
    let mut samples = Samples::default();
    let mut not_started = 0;
    for worker in workers {
        let outcome = worker.join().map_err(|_| anyhow::anyhow!("a load thread panicked"))??;
        samples.merge(outcome.samples);
        not_started += outcome.not_started;
    }
    let length = window.end - window.start;
    Ok(Report::new(&plan.workload.name(), length, samples, not_started, used?))
}

fn agree(meeting: &Meeting, plan: &LoadPlan) -> Window {
    *meeting.window.get_or_init(|| {
        let begin = Instant::now();
        Window { begin, start: begin + plan.warmup, end: begin + plan.warmup + plan.duration }
    })
}

fn measure_servers(pids: &[u32], window: Window) -> anyhow::Result<(Duration, process::Memory)> {
    let cpu_time = || pids.iter().map(|pid| process::cpu_time(*pid)).sum::<anyhow::Result<Duration>>();
    std::thread::sleep(window.start.saturating_duration_since(Instant::now()));
    let before = cpu_time()?;
    std::thread::sleep(window.end.saturating_duration_since(Instant::now()));
    let after = cpu_time()?;
    let memory = pids.iter().map(|pid| process::memory(*pid)).sum::<anyhow::Result<process::Memory>>()?;
    Ok((after.saturating_sub(before), memory))
}

struct Outcome {
    samples: Samples,
    not_started: u64,
}

fn thread_main(plan: &LoadPlan, index: usize, threads: usize, meeting: &Meeting) -> anyhow::Result<Outcome> {
    // What measures must not wait for what disturbs on the same core.
    env::turns::shorten();
    let runtime = local_runtime()?;
    let ready = runtime.block_on(prepare(plan, index, threads, meeting));
    // Also after a failure, so that the others do not wait for ever.
    meeting.barrier.wait();
    let window = agree(meeting, plan);
    runtime.block_on(drive(plan, threads, ready?, window))
}

struct Ready {
    clients: Vec<Client>,
    watchers: Option<watch::Watchers>,
    samples: Rc<RefCell<Samples>>,
}

async fn prepare(plan: &LoadPlan, index: usize, threads: usize, meeting: &Meeting) -> anyhow::Result<Ready> {
    let mut value_bytes = plan.space.value_bytes;
    if plan.workload == Workload::Watch {
        value_bytes = value_bytes.max(8);
    }
    let shared = Rc::new(Shared {
        workload: plan.workload,
        space: plan.space.clone(),
        range_limit: plan.range_limit,
        clients: plan.clients as u64,
        value: filler(value_bytes),
        epoch: meeting.epoch,
    });
    let mut servers = Vec::new();
    for endpoint in &plan.endpoints {
        let authority = authority_of(endpoint)?;
        servers.push((authority.clone(), Rc::new(Methods::new(&authority)?)));
    }
    ensure!(!servers.is_empty(), "at least one endpoint is needed");
    let connections = plan.connections.div_ceil(threads);
    let mut channels = Vec::new();
    for number in 0..connections {
        let (authority, methods) = &servers[number % servers.len()];
        let channel =
            Channel::connect(authority).await.with_context(|| format!("cannot connect to {authority}"))?;
        channels.push((channel, methods.clone()));
    }
    let mut clients: Vec<_> = (index..plan.clients)
        .step_by(threads)
        .enumerate()
        .map(|(position, number)| {
            let (channel, methods) = channels[position % channels.len()].clone();
            Client::new(shared.clone(), methods, channel, number as u64)
        })
        .collect();
    futures_util::future::try_join_all(clients.iter_mut().map(Client::prepare)).await?;
    let samples = Rc::new(RefCell::new(Samples::default()));
    let watchers = match plan.workload {
        Workload::Watch | Workload::Kube if index == 0 => Some(watch::open(plan, &shared, &servers).await?),
        _ => None,
    };
    Ok(Ready { clients, watchers, samples })
}

async fn drive(plan: &LoadPlan, threads: usize, ready: Ready, window: Window) -> anyhow::Result<Outcome> {
    let Ready { clients, watchers, samples } = ready;
    let readers = watchers.map(|watchers| watchers.read(samples.clone(), window));
    let queue = plan.rate.map(|rate| {
        let queue = DueQueue::default();
        let feeding = pace::feed(queue.clone(), rate / threads as f64, window.begin, window.end);
        tokio::task::spawn_local(feeding);
        queue
    });
    let tasks: Vec<_> = clients
        .into_iter()
        .map(|client| match &queue {
            Some(queue) => {
                tokio::task::spawn_local(open_loop(client, samples.clone(), window, queue.clone()))
            }
            None => tokio::task::spawn_local(closed_loop(client, samples.clone(), window)),
        })
        .collect();
    let until = tokio::time::Instant::from_std(window.end);
    tokio::time::sleep_until(until).await;
    let drained = tokio::time::timeout(DRAIN, futures_util::future::join_all(tasks));
    drained.await.context("operations were still unanswered 20 s after the end")?;
    if let Some(readers) = readers {
        readers.finish().await?;
    }
    let not_started = queue.map_or(0, |queue| queue.waiting() as u64);
    Ok(Outcome { samples: samples.take(), not_started })
}

async fn closed_loop(mut client: Client, samples: Rc<RefCell<Samples>>, window: Window) {
    let mut begun = Instant::now();
    while begun < window.end {
        let (class, result) = client.step().await;
        let now = Instant::now();
        let failed = result.is_err();
        if window.covers(now) {
            note(&samples, class, result, now - begun);
        }
        begun = now;
        if failed {
            tokio::time::sleep(AFTER_FAILURE).await;
            begun = Instant::now();
        }
    }
}

async fn open_loop(mut client: Client, samples: Rc<RefCell<Samples>>, window: Window, queue: DueQueue) {
    loop {
        let end = tokio::time::Instant::from_std(window.end);
        let Ok(due) = tokio::time::timeout_at(end, queue.take()).await else { return };
        if Instant::now() >= window.end {
            return;
        }
        let (class, result) = client.step().await;
        // Counted by the due time: an operation due inside the window counts even if its answer
        // comes late, or slow answers at the end would be forgotten.
        if window.covers(due) {
            note(&samples, class, result, due.elapsed());
        }
    }
}

fn note(
    samples: &RefCell<Samples>,
    class: report::Class,
    result: Result<(), crate::wire::Status>,
    latency: Duration,
) {
    let mut samples = samples.borrow_mut();
    match result {
        Ok(()) => samples.record(class, latency),
        Err(status) => samples.fail(class, &status),
    }
}
