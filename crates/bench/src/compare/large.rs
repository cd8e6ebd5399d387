//! The scenario with many keys: start-up, memory, and puts while something heavy runs.
//!
//! The keys are written once per server and placement; each round works on a copy. After the keys
//! a fifth of them are overwritten, so that the compaction has old revisions to remove.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, DefragmentRequest, DefragmentResponse, RangeRequest,
    RangeResponse, SnapshotRequest,
};
use tokio::task::LocalSet;

use super::small::checked;
use super::{Bench, Figures, Metric, STOP_PATIENCE};
use crate::load::fill::{self, FillPlan};
use crate::load::ops::KeySpace;
use crate::load::{self, LoadPlan};
use crate::process::{Memory, memory};
use crate::wire::{Channel, Duplex, Method};

/// Puts per second while latencies are measured: far below what either server can do.
const PUTS_PER_SECOND: f64 = 1000.0;
const MIB: f64 = (1 << 20) as f64;

/// A data directory with all keys.
pub(super) struct Filled {
    pub(super) dir: PathBuf,
    pub(super) figures: Figures,
}

fn space(keys: u64) -> KeySpace {
    KeySpace { prefix: "large/".into(), keys, key_bytes: 24, value_bytes: 100, sequential: true }
}

/// Writes the keys and stops the server.
pub(super) fn fill(bench: &Bench<'_>, which: usize) -> anyhow::Result<Filled> {
    let dir = bench.fresh_dir(which, "filled")?;
    let (mut server, _) = bench.start(which, &dir)?;
    let endpoint = format!("{}://{}", crate::wire::scheme(), server.authority);
    let keys = bench.plan.large_keys;
    let mut plan = FillPlan { endpoint, space: space(keys), first: 0, connections: 100, in_flight: 1000 };
    let took = fill::run(&plan)?;
    let rss = settled_memory(server.pid())?.rss_bytes as f64 / MIB;
    plan.space.keys = keys / 5;
    fill::run(&plan)?;
    server.check_alive()?;
    server.stop(STOP_PATIENCE)?;
    let rate = keys as f64 / took.as_secs_f64();
    eprintln!(
        "{:<10} fill {}: {rate:.0} puts/s, {rss:.0} MiB",
        bench.placement.name(),
        bench.plan.labels[which]
    );
    Ok(Filled { dir, figures: vec![("large.fill_per_second", rate), ("large.rss_after_fill_mib", rss)] })
}

/// Memory of a server that has finished what its start or its load left to do: when less than 1 %
/// has changed for a second, or after half a minute.
fn settled_memory(pid: u32) -> anyhow::Result<Memory> {
    const LOOK_INTERVAL: Duration = Duration::from_millis(200);
    const STEADY_LOOKS: u32 = 5;
    const PATIENCE: Duration = Duration::from_secs(30);
    let begun = Instant::now();
    let (mut used, mut steady_at, mut looks) = (memory(pid)?, 0, 0);
    while looks < STEADY_LOOKS && begun.elapsed() < PATIENCE {
        std::thread::sleep(LOOK_INTERVAL);
        if looks == 0 {
            steady_at = used.rss_bytes;
        }
        used = memory(pid)?;
        let moved = used.rss_bytes.abs_diff(steady_at) > steady_at / 100;
        looks = if moved { 0 } else { looks + 1 };
    }
    Ok(used)
}

/// What runs beside the puts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beside {
    Nothing,
    Snapshots,
    Ranges,
    Compaction,
    Defragmentation,
}

const STEPS: [(Beside, Metric, Metric); 5] = [
    (Beside::Nothing, "large.idle_p999_us", "large.idle_count"),
    (Beside::Snapshots, "large.snapshot_p999_us", "large.snapshot_count"),
    (Beside::Ranges, "large.range_p999_us", "large.range_count"),
    (Beside::Compaction, "large.compaction_p999_us", "large.compaction_count"),
    (Beside::Defragmentation, "large.defrag_p999_us", "large.defrag_count"),
];

/// One round on a copy of the directory.
pub(super) fn round(bench: &Bench<'_>, which: usize, filled: &Path) -> anyhow::Result<Figures> {
    let dir = bench.fresh_dir(which, "copy")?;
    copy_dir(filled, &dir)?;
    rustix::fs::sync();
    let (mut server, took) = bench.start(which, &dir)?;
    let used = settled_memory(server.pid())?;
    let mut figures = vec![
        ("large.start_ms", took.as_secs_f64() * 1e3),
        ("large.rss_after_start_mib", used.rss_bytes as f64 / MIB),
        ("large.anon_after_start_mib", used.anon_bytes as f64 / MIB),
    ];
    for (beside, latency, count) in STEPS {
        let (p999, max, times) = puts_beside(bench, &server.authority, beside)
            .with_context(|| format!("puts beside {beside:?}"))?;
        figures.push((latency, p999));
        if beside == Beside::Defragmentation {
            figures.push(("large.defrag_max_us", max));
        }
        figures.push((count, times));
        server.check_alive()?;
    }
    server.stop(STOP_PATIENCE)?;
    std::fs::remove_dir_all(&dir)?;
    Ok(figures)
}

/// Returns p99.9 and maximum of the puts, and how often the other thing was done.
fn puts_beside(bench: &Bench<'_>, authority: &str, beside: Beside) -> anyhow::Result<(f64, f64, f64)> {
    let plan = LoadPlan {
        endpoints: vec![format!("{}://{authority}", crate::wire::scheme())],
        space: KeySpace { sequential: false, ..space(bench.plan.large_keys) },
        connections: 16,
        clients: 256,
        rate: Some(PUTS_PER_SECOND),
        duration: bench.plan.window,
        ..Default::default()
    };
    let stop = Arc::new(AtomicBool::new(false));
    let times = Arc::new(AtomicU64::new(0));
    let disturber = std::thread::spawn({
        let (authority, stop, times, warmup) =
            (authority.to_owned(), stop.clone(), times.clone(), plan.warmup);
        let keys = space(bench.plan.large_keys);
        move || disturb(&authority, beside, warmup, &keys, &stop, &times)
    });
    let report = load::run(&plan);
    stop.store(true, Ordering::Relaxed);
    disturber.join().map_err(|_| anyhow::anyhow!("the disturbing thread panicked"))??;
    let report = checked(report?)?;
    let put = report.class("put").context("no put was measured")?;
    Ok((put.p999_us, put.max_us, times.load(Ordering::Relaxed) as f64))
}

fn disturb(
    authority: &str,
    beside: Beside,
    warmup: Duration,
    keys: &KeySpace,
    stop: &AtomicBool,
    times: &AtomicU64,
) -> anyhow::Result<()> {
    if beside == Beside::Nothing {
        return Ok(());
    }
    // It shares the load's core: measuring puts goes first.
    rustix::process::nice(19)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        tokio::time::sleep(warmup).await;
        let channel = Channel::connect(authority).await?;
        match beside {
            Beside::Nothing => {}
            Beside::Compaction => compact(authority, &channel, times).await?,
            Beside::Defragmentation => {
                let method = Method::new(authority, "/etcdserverpb.Maintenance/Defragment")?;
                channel.call::<DefragmentResponse>(&method, &DefragmentRequest {}).await?;
                times.fetch_add(1, Ordering::Relaxed);
            }
            Beside::Snapshots => {
                let method = Method::new(authority, "/etcdserverpb.Maintenance/Snapshot")?;
                while !stop.load(Ordering::Relaxed) {
                    let stream = channel.server_stream(&method, &SnapshotRequest {}).await?;
                    read_all(stream, stop, times).await?;
                }
            }
            Beside::Ranges => {
                let method = Method::new(authority, "/etcdserverpb.KV/Range")?;
                let request = RangeRequest {
                    key: keys.prefix.clone().into(),
                    range_end: keys.end(),
                    ..Default::default()
                };
                while !stop.load(Ordering::Relaxed) {
                    let stream = channel.server_stream(&method, &request).await?;
                    read_all(stream, stop, times).await?;
                }
            }
        }
        Ok(())
    })
}

async fn compact(authority: &str, channel: &Channel, times: &AtomicU64) -> anyhow::Result<()> {
    let range = Method::new(authority, "/etcdserverpb.KV/Range")?;
    let probe = RangeRequest { key: "probe".into(), ..Default::default() };
    let answer: RangeResponse = channel.call(&range, &probe).await?;
    let revision = answer.header.context("an answer without header")?.revision;
    let method = Method::new(authority, "/etcdserverpb.KV/Compact")?;
    let request = CompactionRequest { revision, physical: true };
    channel.call::<CompactionResponse>(&method, &request).await?;
    times.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

/// Reads a stream to its end, or until told to stop.
async fn read_all(mut stream: Duplex, stop: &AtomicBool, times: &AtomicU64) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut bytes = 0;
    while let Some(chunk) = stream.chunk().await? {
        bytes += chunk.len();
        if stop.load(Ordering::Relaxed) {
            return Ok(());
        }
    }
    ensure!(bytes > 0, "an empty answer after {:?}", begun.elapsed());
    times.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

fn copy_dir(from: &Path, to: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().mode(0o700).create(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy_dir(&entry.path(), &target)?,
            false => drop(std::fs::copy(entry.path(), &target)?),
        }
    }
    Ok(())
}
