//! check perf and check datascale: writes of a known shape, and a verdict.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use client::proto::etcdserverpb as pb;
use client::{Client, put, with_prefix};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::failure::{BAD_FEATURE, ERROR, Failure, INVALID_INPUT};
use crate::print::say;
use crate::session::{Session, Settings};
use cli::text::quote;

const CLEANUP_LIMIT: Duration = Duration::from_secs(30);
const PERF_DURATION: Duration = Duration::from_secs(60);
const PERF_KEY_BYTES: usize = 256;
const PERF_VALUE_BYTES: usize = 1024;
const DATASCALE_KEY_BYTES: usize = 512;
const DATASCALE_VALUE_BYTES: usize = 512;

const MAX_SLOWEST_SECONDS: f64 = 0.5;
const MAX_DEVIATION_SECONDS: f64 = 0.1;
const LEAST_SHARE_OF_RATE: f64 = 0.9;

/// Which of the four workloads.
#[derive(Clone, Copy)]
struct Load {
    clients: usize,
    /// Writes per second of `check perf`.
    rate: u64,
    /// Keys of `check datascale`.
    keys: usize,
}

fn load(session: &Session) -> Result<Load, Failure> {
    let name = session.flags().text("load");
    Ok(match &name[..] {
        "s" | "small" => Load { clients: 50, rate: 150, keys: 10_000 },
        "m" | "medium" => Load { clients: 200, rate: 1_000, keys: 100_000 },
        "l" | "large" => Load { clients: 500, rate: 8_000, keys: 1_000_000 },
        "xl" | "xLarge" => Load { clients: 1_000, rate: 15_000, keys: 3_000_000 },
        _ => return Err(Failure::new(BAD_FEATURE, format!("unknown load option {name}"))),
    })
}

/// What the writes took.
#[derive(Default)]
struct Report {
    seconds: Vec<f64>,
    errors: BTreeMap<String, usize>,
}

impl Report {
    fn add(&mut self, result: Result<Duration, String>) {
        match result {
            Ok(took) => self.seconds.push(took.as_secs_f64()),
            Err(text) => *self.errors.entry(text).or_default() += 1,
        }
    }

    fn slowest(&self) -> f64 {
        self.seconds.iter().copied().fold(0.0, f64::max)
    }

    fn deviation(&self) -> f64 {
        let count = self.seconds.len().max(1) as f64;
        let mean = self.seconds.iter().sum::<f64>() / count;
        (self.seconds.iter().map(|one| (one - mean).powi(2)).sum::<f64>() / count).sqrt()
    }

    fn say_errors(&self) {
        say("FAIL: too many errors");
        self.errors.iter().for_each(|(text, count)| say(format!("FAIL: ERROR({text}) -> {count}")));
    }
}

pub async fn perf(session: &mut Session) -> Result<(), Failure> {
    let load = load(session)?;
    let settings = session.settings()?;
    let clients = connect_all(&settings, load.clients).await?;
    let prefix = session.flags().bytes("prefix");
    check_empty(&clients[0], &prefix, "'").await?;

    let key_prefix = prefix.clone();
    let done = Arc::new(AtomicUsize::new(0));
    let progress = Progress::start(PERF_DURATION.as_secs() as usize, None);
    let start = Instant::now();
    let writes = async {
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / load.rate as u32);
        let (requests, workers) = Workers::start(&clients, &done);
        let end = tokio::time::sleep(PERF_DURATION);
        tokio::pin!(end);
        loop {
            tokio::select! {
                () = &mut end => break,
                _ = ticks.tick() => {}
            }
            let request = write(&key_prefix, PERF_KEY_BYTES, PERF_VALUE_BYTES);
            if requests.send(request).await.is_err() {
                break;
            }
        }
        drop(requests);
        workers.finish().await
    };
    let report = tokio::select! {
        report = writes => report,
        _ = tokio::signal::ctrl_c() => {
            progress.finish();
            clean_up(&clients[0], &prefix, false).await?;
            return Err(Failure::silent(ERROR));
        }
    };
    let per_second = report.seconds.len() as f64 / start.elapsed().as_secs_f64();
    progress.finish();
    clean_up(&clients[0], &prefix, session.flags().bool("auto-compact")).await?;
    if session.flags().bool("auto-defrag") {
        defragment(&settings).await?;
    }
    match verdict(&report, per_second, load.rate) {
        true => {
            say("PASS");
            Ok(())
        }
        false => {
            say("FAIL");
            Err(Failure::silent(ERROR))
        }
    }
}

fn verdict(report: &Report, per_second: f64, rate: u64) -> bool {
    let mut passed = report.errors.is_empty();
    if !passed {
        report.say_errors();
    }
    let mut judge = |good: bool, pass: String, fail: String| {
        say(if good { pass } else { fail });
        passed &= good;
    };
    let shown = per_second as u64 + 1;
    judge(
        per_second / rate as f64 > LEAST_SHARE_OF_RATE,
        format!("PASS: Throughput is {shown} writes/s"),
        format!("FAIL: Throughput too low: {shown} writes/s"),
    );
    let slowest = report.slowest();
    judge(
        slowest <= MAX_SLOWEST_SECONDS,
        format!("PASS: Slowest request took {slowest:.6}s"),
        format!("Slowest request took too long: {slowest:.6}s"),
    );
    let deviation = report.deviation();
    judge(
        deviation <= MAX_DEVIATION_SECONDS,
        format!("PASS: Stddev is {deviation:.6}s"),
        format!("Stddev too high: {deviation:.6}s"),
    );
    passed
}

pub async fn datascale(session: &mut Session) -> Result<(), Failure> {
    let load = load(session)?;
    let settings = session.settings()?;
    let clients = connect_all(&settings, load.clients).await?;
    let prefix = session.flags().bytes("prefix");
    check_empty(&clients[0], &prefix, "").await?;
    let endpoint = settings.options.endpoints[0].clone();
    let unreadable = |when: &str| {
        say(format!("FAIL: Could not read process_resident_memory_bytes {when} the put operations."));
        Failure::silent(ERROR)
    };
    let before = resident_bytes(&endpoint).await.ok_or_else(|| unreadable("before"))?;
    say(format!(
        "Start data scale check for work load [{} key-value pairs, {} bytes per key-value, {} concurrent clients].",
        load.keys,
        DATASCALE_KEY_BYTES + DATASCALE_VALUE_BYTES,
        load.clients
    ));
    let done = Arc::new(AtomicUsize::new(0));
    let progress = Progress::start(load.keys, Some(done.clone()));
    let (requests, workers) = Workers::start(&clients, &done);
    for _ in 0..load.keys {
        let request = write(&prefix, DATASCALE_KEY_BYTES, DATASCALE_VALUE_BYTES);
        if requests.send(request).await.is_err() {
            break;
        }
    }
    drop(requests);
    let report = workers.finish().await;
    progress.finish();
    let after = resident_bytes(&endpoint).await.ok_or_else(|| unreadable("after"))?;
    let (key, range_end) = with_prefix(prefix);
    let deleted = clients[0].call(pb::DeleteRangeRequest { key, range_end, prev_kv: false }).await?;
    if session.flags().bool("auto-compact") {
        compact(&clients[0], deleted.header.unwrap_or_default().revision).await?;
    }
    if session.flags().bool("auto-defrag") {
        defragment(&settings).await?;
    }
    if !report.errors.is_empty() {
        report.say_errors();
        return Err(Failure::silent(ERROR));
    }
    say(format!("PASS: Approximate system memory used : {:.2} MB.", (after - before) / (1024.0 * 1024.0)));
    Ok(())
}

async fn connect_all(settings: &Settings, count: usize) -> Result<Vec<Client>, Failure> {
    let mut clients = Vec::with_capacity(count);
    for _ in 0..count {
        clients.push(settings.connect().await?);
    }
    Ok(clients)
}

async fn check_empty(client: &Client, prefix: &Bytes, mark: &str) -> Result<(), Failure> {
    let (key, range_end) = with_prefix(prefix.clone());
    let request = pb::RangeRequest { key, range_end, limit: 1, ..Default::default() };
    match client.call(request).await?.kvs.is_empty() {
        true => Ok(()),
        false => Err(Failure::new(
            INVALID_INPUT,
            format!(
                "prefix {} has keys. Delete with {mark}etcdctl del --prefix {}{mark} first",
                quote(prefix),
                cli::text::lossy(prefix)
            ),
        )),
    }
}

/// A write of a key that is unlikely to have been written before.
fn write(prefix: &Bytes, key_bytes: usize, value_bytes: usize) -> pb::PutRequest {
    use std::hash::{BuildHasher as _, RandomState};
    // Each state hashes differently: randomness without a generator to depend on.
    let random = RandomState::new().hash_one(key_bytes);
    let mut key = prefix.to_vec();
    key.extend_from_slice(&random.to_le_bytes());
    key.resize(prefix.len() + key_bytes, 0);
    put(key, vec![0; value_bytes])
}

/// One task per client, all fed from one queue.
struct Workers {
    tasks: JoinSet<()>,
    results: mpsc::UnboundedReceiver<Result<Duration, String>>,
}

impl Workers {
    fn start(clients: &[Client], done: &Arc<AtomicUsize>) -> (mpsc::Sender<pb::PutRequest>, Self) {
        // As many waiting requests as clients: a slow server slows the source down.
        let (requests, queue) = mpsc::channel::<pb::PutRequest>(clients.len());
        let queue = Arc::new(tokio::sync::Mutex::new(queue));
        let (reporting, results) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        for client in clients {
            let (client, queue, reporting, done) =
                (client.clone(), queue.clone(), reporting.clone(), done.clone());
            tasks.spawn(async move {
                loop {
                    let Some(request) = queue.lock().await.recv().await else { return };
                    let start = Instant::now();
                    let result = client.call(request).await;
                    done.fetch_add(1, Ordering::Relaxed);
                    let result = result.map(|_| start.elapsed()).map_err(|error| error.to_string());
                    if reporting.send(result).is_err() {
                        return;
                    }
                }
            });
        }
        (requests, Self { tasks, results })
    }

    async fn finish(mut self) -> Report {
        while self.tasks.join_next().await.is_some() {}
        self.results.close();
        let mut report = Report::default();
        while let Some(result) = self.results.recv().await {
            report.add(result);
        }
        report
    }
}

async fn clean_up(client: &Client, prefix: &Bytes, auto_compact: bool) -> Result<(), Failure> {
    let (key, range_end) = with_prefix(prefix.clone());
    let request = pb::DeleteRangeRequest { key, range_end, prev_kv: false };
    match client.with_timeout(CLEANUP_LIMIT).call(request).await {
        Ok(response) if auto_compact => compact(client, response.header.unwrap_or_default().revision).await,
        Ok(_) => Ok(()),
        Err(error) => {
            say(format!("FAIL: Cleanup failed during key deletion: ERROR({error})"));
            Ok(())
        }
    }
}

async fn compact(client: &Client, revision: i64) -> Result<(), Failure> {
    say(format!("Compacting with revision {revision}"));
    client.with_timeout(CLEANUP_LIMIT).call(pb::CompactionRequest { revision, physical: true }).await?;
    say(format!("Compacted with revision {revision}"));
    Ok(())
}

async fn defragment(settings: &Settings) -> Result<(), Failure> {
    for endpoint in &settings.options.endpoints {
        say(format!("Defragmenting {}", quote(endpoint)));
        let client = settings.only(endpoint).connect().await?;
        client.with_timeout(CLEANUP_LIMIT).call(pb::DefragmentRequest {}).await?;
        say(format!("Defragmented {}", quote(endpoint)));
    }
    Ok(())
}

/// Memory of the server process, from its metrics page.
async fn resident_bytes(endpoint: &str) -> Option<f64> {
    const NAME: &str = "process_resident_memory_bytes";
    let host = endpoint.strip_prefix("http://").unwrap_or(endpoint);
    let host = host.split('/').next().unwrap_or_default();
    let page = match fetch_page(host).await {
        Ok(page) => page,
        Err(error) => {
            say(format!("fetch error: {error}"));
            return None;
        }
    };
    let value = page.lines().find_map(|line| line.strip_prefix(NAME)).map(str::trim);
    match value.map(str::parse::<f64>) {
        Some(Ok(bytes)) if bytes != 0.0 => Some(bytes),
        Some(Err(error)) => {
            say(format!("parse error: {error}"));
            None
        }
        _ => {
            say(format!("could not find: {NAME}"));
            None
        }
    }
}

/// HTTP/1.0, so that the answer ends where the connection does.
async fn fetch_page(host: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(host).await?;
    stream.write_all(format!("GET /metrics HTTP/1.0\r\nHost: {host}\r\n\r\n").as_bytes()).await?;
    let mut page = Vec::new();
    stream.read_to_end(&mut page).await?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}

/// A bar on stderr, redrawn every second: elapsed seconds, or a counter.
struct Progress {
    total: usize,
    task: tokio::task::JoinHandle<()>,
}

impl Progress {
    fn start(total: usize, counter: Option<Arc<AtomicUsize>>) -> Self {
        let task = tokio::spawn(async move {
            let mut second = tokio::time::interval(Duration::from_secs(1));
            for elapsed in 0.. {
                second.tick().await;
                let done = counter.as_ref().map_or(elapsed, |counter| counter.load(Ordering::Relaxed));
                if std::io::stderr().is_terminal() {
                    eprint!("\r{}", bar(done.min(total), total));
                }
            }
        });
        Self { total, task }
    }

    fn finish(self) {
        self.task.abort();
        let start = if std::io::stderr().is_terminal() { "\r" } else { "" };
        eprintln!("{start}{}", bar(self.total, self.total));
    }
}

fn bar(done: usize, total: usize) -> String {
    const WIDTH: usize = 50;
    let filled = done * WIDTH / total.max(1);
    let head = if filled == WIDTH { "" } else { ">" };
    let line = format!("{}{head}", "-".repeat(filled));
    format!("{done} / {total} [{line:_<WIDTH$}] {:.2}%", done as f64 * 100.0 / total.max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_have_one_width() {
        assert_eq!(bar(0, 60).len(), bar(30, 60).len() - 2);
        assert!(bar(60, 60).ends_with("] 100.00%"));
    }

    #[test]
    fn deviation_and_slowest() {
        let report = Report { seconds: vec![1.0, 3.0], ..Default::default() };
        assert_eq!((report.slowest(), report.deviation()), (3.0, 1.0));
    }

    #[test]
    fn keys_differ_and_keep_their_prefix() {
        let prefix = Bytes::from_static(b"/p/");
        let (one, other) = (write(&prefix, 256, 1024), write(&prefix, 256, 1024));
        assert_ne!(one.key, other.key);
        assert!(one.key.starts_with(b"/p/"));
        assert_eq!((one.key.len(), one.value.len()), (259, 1024));
    }
}
