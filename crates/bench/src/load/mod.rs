//! The load generator: many clients over a few connections, from one thread per load core.
//!
//! Each thread has its own single-threaded runtime, its share of the clients, and its own
//! samples; they meet twice before the window: when all keys are there, and when all watch.
//! Watchers have a thread of their own: they are other processes than those that write, and a
//! thread full of clients would keep them from reading. Only operations that end inside the window
//! `[start, end)` count. Closed loop: a client sends its next operation when the last was answered.
//! Open loop: see [`pace`].

pub mod fill;
pub mod ops;
pub mod pace;
pub mod report;
mod update;
mod watch;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures_util::FutureExt;
use futures_util::future::{join_all, try_join_all};
use tokio::runtime::LocalRuntime;

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

/// Barrier and window shared by the load threads, that of the watchers, and the sampling one. Who has failed comes
/// all the same, so that the others do not wait for ever.
struct Meeting {
    barrier: Barrier,
    window: OnceLock<Window>,
    epoch: Instant,
    /// Somebody could not write the keys.
    failed: AtomicBool,
}

impl Meeting {
    /// Watchers begin when all keys are there: writing them is not what is measured.
    fn wait_for_keys(&self) {
        self.barrier.wait();
    }

    /// The window is near.
    fn wait_for_all(&self) {
        self.barrier.wait();
    }
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
        barrier: Barrier::new(threads + 1 + usize::from(plan.workload.has_watchers())),
        window: OnceLock::new(),
        epoch: Instant::now(),
        failed: AtomicBool::new(false),
    });
    let workers: Vec<_> = (0..threads)
        .map(|index| {
            let plan = plan.clone();
            let meeting = meeting.clone();
            std::thread::spawn(move || thread_main(&plan, index, threads, &meeting))
        })
        .collect();
    let watching = plan.workload.has_watchers().then(|| {
        let (plan, meeting) = (plan.clone(), meeting.clone());
        std::thread::spawn(move || watch_main(&plan, &meeting))
    });
    meeting.wait_for_keys();
    meeting.wait_for_all();
    let window = agree(&meeting, plan);
    let used = (!plan.pids.is_empty()).then(|| measure_servers(&plan.pids, window)).transpose();
    let mut samples = Samples::default();
    let mut not_started = 0;
    for worker in workers {
        let outcome = worker.join().map_err(|_| anyhow::anyhow!("a load thread panicked"))??;
        samples.merge(outcome.samples);
        not_started += outcome.not_started;
    }
    if let Some(watching) = watching {
        samples.merge(watching.join().map_err(|_| anyhow::anyhow!("the watching thread panicked"))??);
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
    let prepared = prepare_clients(plan, index, threads, meeting.epoch);
    meeting.failed.fetch_or(prepared.is_err(), Ordering::SeqCst);
    meeting.wait_for_keys();
    meeting.wait_for_all();
    let (runtime, clients) = prepared?;
    runtime.block_on(drive(plan, threads, clients, agree(meeting, plan)))
}

fn prepare_clients(
    plan: &LoadPlan,
    index: usize,
    threads: usize,
    epoch: Instant,
) -> anyhow::Result<(LocalRuntime, Vec<Vec<Client>>)> {
    let runtime = local_runtime()?;
    let clients = runtime.block_on(prepare(plan, index, threads, epoch))?;
    Ok((runtime, clients))
}

fn watch_main(plan: &LoadPlan, meeting: &Meeting) -> anyhow::Result<Samples> {
    env::turns::shorten();
    meeting.wait_for_keys();
    let has_failed = meeting.failed.load(Ordering::SeqCst);
    let opened = (!has_failed).then(|| open_watchers(plan, meeting.epoch));
    meeting.wait_for_all();
    // Whose failure it is, says so.
    let Some((runtime, watchers)) = opened.transpose()? else { return Ok(Samples::default()) };
    runtime.block_on(watchers.read(agree(meeting, plan)))
}

fn open_watchers(plan: &LoadPlan, epoch: Instant) -> anyhow::Result<(LocalRuntime, watch::Watchers)> {
    let runtime = local_runtime()?;
    let watchers = runtime.block_on(watch::open(plan, &shared_by_clients(plan, epoch), &servers(plan)?))?;
    Ok((runtime, watchers))
}

fn shared_by_clients(plan: &LoadPlan, epoch: Instant) -> Shared {
    let mut value_bytes = plan.space.value_bytes;
    if plan.workload == Workload::Watch {
        value_bytes = value_bytes.max(8);
    }
    Shared {
        workload: plan.workload,
        space: plan.space.clone(),
        range_limit: plan.range_limit,
        clients: plan.clients as u64,
        value: filler(value_bytes),
        epoch,
    }
}

/// Authority and request heads of each endpoint.
fn servers(plan: &LoadPlan) -> anyhow::Result<Vec<(String, Rc<Methods>)>> {
    ensure!(!plan.endpoints.is_empty(), "at least one endpoint is needed");
    let server = |endpoint: &String| {
        let authority = authority_of(endpoint)?;
        let methods = Rc::new(Methods::new(&authority)?);
        Ok((authority, methods))
    };
    plan.endpoints.iter().map(server).collect()
}

/// The clients of each connection.
async fn prepare(
    plan: &LoadPlan,
    index: usize,
    threads: usize,
    epoch: Instant,
) -> anyhow::Result<Vec<Vec<Client>>> {
    let (shared, servers) = (Rc::new(shared_by_clients(plan, epoch)), servers(plan)?);
    let connections = plan.connections.div_ceil(threads);
    let mut channels = Vec::new();
    for number in 0..connections {
        let (authority, methods) = &servers[number % servers.len()];
        let channel =
            Channel::connect(authority).await.with_context(|| format!("cannot connect to {authority}"))?;
        channels.push((channel, methods.clone()));
    }
    let mut clients: Vec<Vec<_>> = channels.iter().map(|_| Vec::new()).collect();
    for (position, number) in (index..plan.clients).step_by(threads).enumerate() {
        let connection = position % channels.len();
        let (channel, methods) = channels[connection].clone();
        clients[connection].push(Client::new(shared.clone(), methods, channel, number as u64));
    }
    try_join_all(clients.iter_mut().flatten().map(Client::prepare)).await?;
    Ok(clients)
}

async fn drive(
    plan: &LoadPlan,
    threads: usize,
    clients: Vec<Vec<Client>>,
    window: Window,
) -> anyhow::Result<Outcome> {
    let samples = Rc::new(RefCell::new(Samples::default()));
    let queue = plan.rate.map(|rate| {
        let queue = DueQueue::default();
        let feeding = pace::feed(queue.clone(), rate / threads as f64, window.begin, window.end);
        tokio::task::spawn_local(feeding);
        queue
    });
    let tasks: Vec<_> = match &queue {
        Some(queue) => clients
            .into_iter()
            .flatten()
            .map(|client| open_loop(client, samples.clone(), window, queue.clone()))
            .map(tokio::task::spawn_local)
            .collect(),
        // Answers come together, so clients of a connection share a task: what the load uses of a core that it
        // shares with the server is missing there.
        None => clients
            .into_iter()
            .map(|clients| clients.into_iter().map(|client| closed_loop(client, samples.clone(), window)))
            .map(|clients| join_all(clients).map(|_| ()))
            .map(tokio::task::spawn_local)
            .collect(),
    };
    let until = tokio::time::Instant::from_std(window.end);
    tokio::time::sleep_until(until).await;
    let drained = tokio::time::timeout(DRAIN, join_all(tasks));
    drained.await.context("operations were still unanswered 20 s after the end")?;
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
