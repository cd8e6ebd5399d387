//! `/debug/pprof/`: real profiles of this process, in the form that `go tool pprof` reads.
//!
//! | page | what it gives |
//! |---|---|
//! | `profile` | where CPU time goes, sampled for `?seconds=` (30) |
//! | `goroutine` | what every thread does now; `?debug=1` as text |
//! | `heap` | memory by what it is mapped from, and the allocator's own figures with `?debug=1` |
//! | `cmdline`, `symbol` | as in Go |
//! | `allocs`, `block`, `mutex`, `threadcreate`, `trace` | 501 with the reason: nothing here records that |
//!
//! Deliberately absent: functions that were inlined are part of their callers, and there are no line
//! numbers: `pprof` finds both by itself in a binary with debug information.
//!
//! **Source**: behaviour of Go's `net/http/pprof`.

mod encode;
mod memory;
mod modules;
mod sampler;
mod unwind;

use std::fmt::Write as _;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use api::http::{DebugPage, DebugRequest};

use crate::config::secrets;
use encode::Builder;
use sampler::{Counted, ProfileError};

const PREFIX: &str = "/debug/pprof";
const DEFAULT_SECONDS: u64 = 30;

/// What the allocator says about itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AllocatorFigures {
    /// Memory that it may use now.
    pub committed_bytes: u64,
    /// The most that was.
    pub peak_committed_bytes: u64,
}

static ALLOCATOR: OnceLock<fn() -> AllocatorFigures> = OnceLock::new();

/// Names the source of the allocator's figures. The first one counts.
pub fn set_allocator(figures: fn() -> AllocatorFigures) {
    let _ = ALLOCATOR.set(figures);
}

/// The allocator's figures, if there is a source.
pub fn allocator() -> Option<AllocatorFigures> {
    ALLOCATOR.get().map(|figures| figures())
}

/// The profiles, what each is, and whether there is such a thing here.
const PAGES: [(&str, &str, bool); 10] = [
    ("allocs", "All past allocations. Not recorded here", false),
    ("block", "Where threads waited for each other. Not recorded here", false),
    ("cmdline", "The command line of this process", true),
    ("goroutine", "What every thread does now. With debug=1 as text", true),
    (
        "heap",
        "Memory by what it is mapped from. With debug=1 as text, with the figures of the allocator",
        true,
    ),
    ("mutex", "Who held locks that others waited for. Not recorded here", false),
    (
        "profile",
        "Where CPU time goes. The seconds parameter says for how long. Open the file with go tool pprof",
        true,
    ),
    ("symbol", "Maps addresses to names of functions", true),
    ("threadcreate", "Where threads were started. Not recorded here", false),
    ("trace", "All that happened for a while. Not recorded here", false),
];

/// Answers a page below `/debug/`; `None` for those that are not ours. Takes as long as the profile.
pub fn answer(request: &DebugRequest, cancelled: &AtomicBool) -> Option<DebugPage> {
    if matches!(request.path.as_str(), "/debug/requests" | "/debug/events") {
        return Some(missing(
            "traces of the gRPC library",
            "the log has a record \"request stats\" per request",
        ));
    }
    let name = request.path.strip_prefix(PREFIX)?;
    let parameter = |name: &str| request.query.iter().find(|(key, _)| key == name).map(|(_, value)| &**value);
    let as_text = parameter("debug").is_some_and(|level| !matches!(level, "" | "0"));
    Some(match name {
        "" => DebugPage {
            location: Some(format!("{PREFIX}/")),
            ..DebugPage::text(307, "Temporary Redirect\n".to_owned())
        },
        "/" => index(),
        "/cmdline" => {
            let words: Vec<String> = std::env::args().collect();
            DebugPage::text(200, secrets::shown_words(&words).join("\0"))
        }
        "/profile" => {
            let seconds =
                parameter("seconds").and_then(|text| text.parse().ok()).filter(|seconds| *seconds > 0);
            cpu(Duration::from_secs(seconds.unwrap_or(DEFAULT_SECONDS)), cancelled)
        }
        "/goroutine" => threads(as_text),
        "/heap" => heap(as_text),
        "/symbol" => symbol(&request.raw_query),
        "/allocs" => missing("a record of allocations", "memory by mapping is at heap"),
        "/block" | "/mutex" => {
            missing("a record of waiting for locks", "what threads do now is at goroutine")
        }
        "/threadcreate" => missing("a record of thread starts", "the threads there are now are at goroutine"),
        "/trace" => missing("an execution trace", "where CPU time goes is at profile"),
        _ => DebugPage::text(404, "Unknown profile\n".to_owned()),
    })
}

fn missing(what: &str, instead: &str) -> DebugPage {
    DebugPage::text(
        501,
        format!(
            "this server keeps no {}: {instead}\n",
            what.trim_start_matches("a ").trim_start_matches("an ")
        ),
    )
}

fn refused(error: &ProfileError) -> DebugPage {
    DebugPage::text(500, format!("{error}\n"))
}

fn file(name: &str, body: Vec<u8>) -> DebugPage {
    DebugPage {
        status: 200,
        content_type: "application/octet-stream",
        disposition: Some(format!("attachment; filename=\"{name}\"")),
        location: None,
        body,
    }
}

fn index() -> DebugPage {
    let mut rows = String::new();
    let mut notes = String::new();
    for (name, note, is_here) in PAGES {
        let query = if matches!(name, "goroutine" | "heap") { "?debug=1" } else { "" };
        let mark = if is_here { "" } else { " (501)" };
        let _ = writeln!(rows, "<tr><td><a href='{name}{query}'>{name}</a>{mark}</td></tr>");
        let _ = writeln!(notes, "<li>{name}: {note}</li>");
    }
    let text = format!(
        "<html>\n<head>\n<title>/debug/pprof/</title>\n</head>\n<body>\n/debug/pprof/\n<br>\n\
         <p>Types of profiles available:</p>\n<table>\n{rows}</table>\n<ul>\n{notes}</ul>\n</body>\n</html>\n"
    );
    DebugPage { content_type: "text/html; charset=utf-8", ..DebugPage::text(200, text) }
}

fn cpu(length: Duration, cancelled: &AtomicBool) -> DebugPage {
    let begun = Instant::now();
    let counted = match sampler::profile(length, cancelled) {
        Ok(counted) => counted,
        Err(error) => return refused(&error),
    };
    let mut builder = Builder::new(&[("samples", "count"), ("cpu", "nanoseconds")], &counted.modules);
    builder.over(begun.elapsed(), sampler::PERIOD, ("cpu", "nanoseconds"));
    if counted.lost > 0 {
        builder.remark(&format!("{} samples were lost: too many at once", counted.lost));
    }
    for ((_, stack), count) in &counted.stacks {
        let count = i64::try_from(*count).unwrap_or(i64::MAX);
        let nanos = count.saturating_mul(sampler::PERIOD.as_nanos() as i64);
        builder.stack(stack, vec![count, nanos], &[]);
    }
    file("profile", builder.finish())
}

/// The name that a thread gave itself.
fn thread_name(thread: i32) -> String {
    let name = std::fs::read_to_string(format!("/proc/self/task/{thread}/comm")).unwrap_or_default();
    name.trim_end().to_owned()
}

fn threads(as_text: bool) -> DebugPage {
    let counted = match sampler::dump() {
        Ok(counted) => counted,
        Err(error) => return refused(&error),
    };
    if as_text {
        return DebugPage::text(200, stacks_text(&counted));
    }
    let mut builder = Builder::new(&[("thread", "count")], &counted.modules);
    for ((thread, stack), count) in &counted.stacks {
        let name = thread.map(thread_name).unwrap_or_default();
        builder.stack(stack, vec![i64::try_from(*count).unwrap_or(i64::MAX)], &[("thread", &name)]);
    }
    file("goroutine", builder.finish())
}

fn stacks_text(counted: &Counted) -> String {
    let mut text = format!("threads: total {}\n", counted.stacks.len());
    for (thread, stack) in counted.stacks.keys() {
        let thread = thread.unwrap_or_default();
        let _ = writeln!(text, "\nthread {thread} [{}]:", thread_name(thread));
        for (depth, address) in stack.iter().enumerate() {
            let place = if depth == 0 { *address } else { address - 1 };
            let name = function_at(&counted.modules, place);
            let _ = writeln!(text, "#\t{address:#x}\t{}", name.unwrap_or_else(|| "?".to_owned()));
        }
    }
    text
}

fn function_at(modules: &[modules::Module], address: u64) -> Option<String> {
    modules.iter().find(|module| module.has_code_at(address))?.function(address)
}

fn heap(as_text: bool) -> DebugPage {
    let uses = memory::by_mapping();
    if as_text {
        let mut text = String::new();
        if let Some(figures) = allocator() {
            let _ = writeln!(text, "allocator: committed {} bytes", figures.committed_bytes);
            let _ = writeln!(text, "allocator: peak committed {} bytes", figures.peak_committed_bytes);
        }
        let _ = writeln!(text, "{:>14} {:>14}  mapping", "resident", "dirty");
        for (name, entry) in &uses {
            let _ = writeln!(text, "{:>14} {:>14}  {name}", entry.resident_bytes, entry.dirty_bytes);
        }
        return DebugPage::text(200, text);
    }
    let mut builder = Builder::new(&[("dirty_space", "bytes"), ("resident_space", "bytes")], &[]);
    builder.remark("memory by what it is mapped from: this server keeps no record of allocations");
    for (name, entry) in &uses {
        // The last one is what is shown first.
        let value = [entry.dirty_bytes, entry.resident_bytes];
        builder.thing(name, value.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX)).to_vec());
    }
    file("heap", builder.finish())
}

/// Addresses in hexadecimal with a plus between them.
fn symbol(query: &str) -> DebugPage {
    let mut text = "num_symbols: 1\n".to_owned();
    let addresses: Vec<u64> = query
        .split('+')
        .filter_map(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok())
        .filter(|address| *address != 0)
        .collect();
    let modules = if addresses.is_empty() { Vec::new() } else { modules::loaded() };
    for address in addresses {
        if let Some(name) = function_at(&modules, address) {
            let _ = writeln!(text, "{address:#x} {name}");
        }
    }
    DebugPage::text(200, text)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use prost::Message;

    use super::encode::Profile;
    use super::*;

    fn get(path: &str, query: &str) -> DebugPage {
        let request = DebugRequest {
            path: path.to_owned(),
            raw_query: query.to_owned(),
            query: query
                .split('&')
                .filter_map(|pair| pair.split_once('='))
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
        };
        answer(&request, &AtomicBool::new(false)).expect("a page")
    }

    fn decode(page: &DebugPage) -> Profile {
        assert_eq!((page.status, page.content_type), (200, "application/octet-stream"));
        let mut bytes = Vec::new();
        flate2::read::GzDecoder::new(&page.body[..]).read_to_end(&mut bytes).unwrap();
        let profile = Profile::decode(&bytes[..]).unwrap();
        let texts = profile.string_table.len() as i64;
        assert_eq!(profile.string_table[0], "");
        for function in &profile.function {
            assert!((1..texts).contains(&function.name));
        }
        for sample in &profile.sample {
            assert_eq!(sample.value.len(), profile.sample_type.len());
            let known = |id: &u64| profile.location.iter().any(|location| location.id == *id);
            assert!(sample.location_id.iter().all(known));
        }
        profile
    }

    fn has_function(profile: &Profile, part: &str) -> bool {
        profile.string_table.iter().any(|text| text.contains(part))
    }

    #[test]
    fn what_is_not_recorded_is_said() {
        for name in ["allocs", "block", "mutex", "threadcreate", "trace"] {
            let page = get(&format!("/debug/pprof/{name}"), "");
            assert_eq!(page.status, 501);
            assert!(String::from_utf8(page.body).unwrap().starts_with("this server keeps no "));
        }
        assert_eq!(get("/debug/pprof/nothing", "").status, 404);
        assert_eq!(get("/debug/requests", "").status, 501);
        let page = get("/debug/pprof", "");
        assert_eq!((page.status, page.location.as_deref()), (307, Some("/debug/pprof/")));
        assert!(String::from_utf8(get("/debug/pprof/", "").body).unwrap().contains("href='profile'"));
    }

    #[test]
    fn profiles_decode() {
        let _turn = sampler::tests::TURN.lock();
        let threads = decode(&get("/debug/pprof/goroutine", ""));
        assert!(has_function(&threads, "::"), "names of functions");
        let heap = decode(&get("/debug/pprof/heap", ""));
        assert!(has_function(&heap, "libc") && heap.sample.iter().all(|sample| sample.value[1] > 0));
        let cpu = decode(&get("/debug/pprof/profile", "seconds=1"));
        assert_eq!(cpu.period, 10_000_000);
        assert!(cpu.duration_nanos >= 1_000_000_000);
        let text = String::from_utf8(get("/debug/pprof/goroutine", "debug=1").body).unwrap();
        assert!(text.contains("\n#\t0x"), "{text}");
    }

    #[test]
    fn symbols_are_named() {
        let query = format!("{:#x}+0x1", index as *const () as u64);
        let text = String::from_utf8(get("/debug/pprof/symbol", &query).body).unwrap();
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.ends_with("server::profile::index\n"), "{text}");
    }
}
