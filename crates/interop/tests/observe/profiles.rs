//! `/debug/pprof/`: what comes is a profile of the running process.

use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::ensure;
use interop::cluster::eventually;
use interop::member::Member;
use prost::Message;

use crate::{get, plain};

/// The parts of a profile that are looked at, by their public numbers.
#[derive(Clone, PartialEq, Message)]
struct Profile {
    #[prost(bytes = "vec", repeated, tag = "2")]
    sample: Vec<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "4")]
    location: Vec<Vec<u8>>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
    #[prost(int64, tag = "12")]
    period: i64,
}

fn profile(member: &Member, path: &str) -> anyhow::Result<Profile> {
    let (status, body) = get(member, path)?;
    ensure!(status == 200, "{path}: {status} {}", String::from_utf8_lossy(&body));
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(&body[..]).read_to_end(&mut plain)?;
    let profile = Profile::decode(&plain[..])?;
    ensure!(profile.string_table.first().is_some_and(String::is_empty), "{path}");
    Ok(profile)
}

#[test]
fn profiles_show_the_running_process() -> anyhow::Result<()> {
    let member = Member::start(&plain(), &["--enable-pprof"])?;
    let (status, index) = get(&member, "/debug/pprof/")?;
    ensure!(status == 200 && String::from_utf8_lossy(&index).contains("Types of profiles available"));

    let done = AtomicBool::new(false);
    let cpu = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                // A page that costs something. What fails here is not what is tested.
                let _ = get(&member, "/metrics");
            }
        });
        // On a machine that is busy with other things the first seconds may see nothing.
        let mut cpu = Profile::default();
        let taken = eventually("samples", || {
            cpu = profile(&member, "/debug/pprof/profile?seconds=1")?;
            Ok(!cpu.sample.is_empty() && !cpu.location.is_empty())
        });
        done.store(true, Ordering::Relaxed);
        taken.map(|()| cpu)
    })?;
    ensure!(cpu.period == 10_000_000 && cpu.duration_nanos >= 1_000_000_000);
    let named = |profile: &Profile, part: &str| profile.string_table.iter().any(|text| text.contains(part));
    ensure!(named(&cpu, "cpu") && named(&cpu, "::"), "{:?}", cpu.string_table);

    let threads = profile(&member, "/debug/pprof/goroutine")?;
    ensure!(named(&threads, "server::driver") && named(&threads, "raft"), "{:?}", threads.string_table);
    let heap = profile(&member, "/debug/pprof/heap")?;
    ensure!(named(&heap, "resident_space") && named(&heap, "member/snap/db"), "{:?}", heap.string_table);
    let (_, text) = get(&member, "/debug/pprof/heap?debug=1")?;
    ensure!(String::from_utf8_lossy(&text).starts_with("allocator: committed "));

    for missing in ["trace", "block", "mutex", "allocs", "threadcreate"] {
        ensure!(get(&member, &format!("/debug/pprof/{missing}"))?.0 == 501);
    }
    let (status, vars) = get(&member, "/debug/vars")?;
    let vars: serde_json::Value = serde_json::from_slice(&vars)?;
    ensure!(status == 200 && vars["memstats"]["HeapSys"].as_u64().is_some_and(|bytes| bytes > 0), "{vars}");
    Ok(())
}

#[test]
fn without_the_flag_there_are_none() -> anyhow::Result<()> {
    let member = Member::start(&plain(), &[])?;
    for path in ["/debug/pprof/", "/debug/pprof/profile", "/debug/requests", "/debug/events"] {
        ensure!(get(&member, path)?.0 == 404, "{path}");
    }
    Ok(())
}
