//! The program `etcd`: arguments in, a member out, and a way to end it.
//!
//! This crate decides what a start looks like from outside: order of the first log records, texts
//! on stderr, exit statuses, signals. Settings are read by `server::config`, the member itself is
//! `server`'s.
//!
//! | status | when |
//! |---|---|
//! | 0 | `--version`, `--help`, the member was removed from its cluster, stopped as process 1 |
//! | 1 | settings that do not hold together, a fatal record, any fault of `gateway` and `grpc-proxy` |
//! | 2 | a fault of the command line, a panic |
//! | killed by the signal | SIGINT or SIGTERM, after an orderly stop |
//!
//! Source: behaviour of etcd 3.7.1 `server/etcdmain`.

mod serve;
mod signals;

use std::path::Path;
use std::process::exit;
use std::sync::mpsc;

use etcd::proxies;
use server::config::{self, Config, Failure, Loaded, Outcome, startup};
use server::run::{self, RunError};
use server::{log, systemd};

use signals::Signals;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What the main thread waits for while the member runs.
pub enum Event {
    /// The process was asked to end.
    Signal(signals::Signal),
    /// The member ended by itself: removed from its cluster, or for this reason.
    Ended(Result<(), String>),
}

fn main() {
    let words: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    if let Some("gateway" | "grpc-proxy") = words.get(1).map(String::as_str) {
        check_architecture();
        keep_small_pages();
        server::profile::set_allocator(allocator_figures);
        proxies::run(&words);
    }
    let (events, next_event) = mpsc::channel();
    // Before any other thread exists, so that every thread inherits the blocked signals.
    let signals = Signals::catch(events.clone());
    check_architecture();
    keep_small_pages();
    keep_freed_memory_for_a_while();
    server::profile::set_allocator(allocator_figures);
    let config = configure(&words);
    let stop = start(config, events);
    signals.member_serves();
    systemd::notify_ready();
    match next_event.recv() {
        Ok(Event::Signal(signal)) => {
            log::info!("received signal; shutting down", "signal" => signal.name());
            stop();
            signals.end_by(signal)
        }
        Ok(Event::Ended(Err(reason))) => log::fatal("listener failed", &[("error", reason.into())]),
        Ok(Event::Ended(Ok(()))) | Err(_) => exit(0),
    }
}

/// Huge pages for the heap double the resident memory of a store of small values, and whoever first
/// touches one waits until two megabytes are zeroed: ten times the time of a put.
fn keep_small_pages() {
    // Where this is refused the member works as well.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

/// Left alone, the allocator gives freed memory back after 100 ms. Batches, log entries and answers come and
/// go all the time: what one frees would be gone when the next one needs it, and each page costs a fault. Under
/// load it is kept for ten seconds, which took an eighth of the CPU off an update.
fn keep_freed_memory_for_a_while() {
    /// `mi_option_purge_delay` in mimalloc's header. In milliseconds, ten times as long for what an
    /// arena holds.
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
    const MILLISECONDS: std::ffi::c_long = 1000;
    // SAFETY: an option may be set at any time, and a number that is none is passed over. Where the
    // environment has `MIMALLOC_PURGE_DELAY`, that stays.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, MILLISECONDS) }
}

/// What the allocator knows about itself.
fn allocator_figures() -> server::profile::AllocatorFigures {
    let mut figures = [0_usize; 8];
    let [elapsed, user, system, resident, peak_resident, committed, peak_committed, faults] = &mut figures;
    // SAFETY: all eight places outlive the call, which only writes to them.
    unsafe {
        libmimalloc_sys::mi_process_info(
            elapsed,
            user,
            system,
            resident,
            peak_resident,
            committed,
            peak_committed,
            faults,
        );
    }
    server::profile::AllocatorFigures {
        committed_bytes: *committed as u64,
        peak_committed_bytes: *peak_committed as u64,
    }
}

/// From the command line to settings that hold together, or out.
fn configure(words: &[String]) -> Config {
    let variables: Vec<(String, String)> = std::env::vars_os()
        .map(|(key, value)| (key.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
        .collect();
    let read_file = |path: &Path| config::read_file(path);
    match config::load(words.get(1..).unwrap_or_default(), &variables, &read_file) {
        Outcome::Help => {
            eprint!("{}", config::USAGE_LINES);
            print!("{}", config::flags_text());
            exit(0)
        }
        Outcome::Version(compat) => {
            print!("{}", config::version_text(compat));
            exit(0)
        }
        Outcome::Usage(fault) => {
            eprint!("{fault}\n{}", config::USAGE_LINES);
            exit(2)
        }
        Outcome::Start(loaded) => report(words, *loaded),
    }
}

/// Writes the records of reading the settings where they belong.
fn report(words: &[String], loaded: Loaded) -> Config {
    let Loaded { config, early, log: log_settings, late, mut failure, from_file } = loaded;
    for notice in &early {
        notice.write();
    }
    // A file that does not hold together does not get to say where that is reported.
    let log_settings = log_settings.filter(|_| !(from_file && failure.is_some()));
    match log_settings.map(|settings| log::configure(&settings)) {
        Some(Err(error)) => failure = Some(Failure::Invalid(error.to_string())),
        _ => {
            for notice in &late {
                notice.write();
            }
        }
    }
    match failure {
        Some(Failure::Conflict(variable)) => log::fatal(
            "conflicting environment variable is shadowed by corresponding command-line flag (either unset environment variable or disable flag))",
            &[("environment-variable", variable.into())],
        ),
        Some(Failure::Plain(line)) => {
            eprintln!("{line}");
            exit(1)
        }
        Some(Failure::Panic(line)) => {
            eprintln!("{line}");
            exit(2)
        }
        failure => {
            log::info!("Running: ", "args" => config::secrets::shown_words(words));
            let Some(failure) = failure else { return config };
            let text = failure.to_string();
            log::warn!("failed to verify flags", "error" => &text);
            if matches!(failure, Failure::Rule(config::RuleError::AdvertiseMissing)) {
                log::warn!("advertise client URLs are not set", "error" => &text);
            }
            exit(1)
        }
    }
}

/// Settles the last defaults, looks at the data directory and starts the member. Returns when it
/// serves, with the way to stop it.
fn start(mut config: Config, events: mpsc::Sender<Event>) -> Box<dyn FnOnce()> {
    let notices = [
        startup::resolve_default_host(&mut config, startup::default_host()),
        startup::resolve_data_dir(&mut config),
    ];
    for notice in notices.iter().flatten() {
        notice.write();
    }
    let kind = match startup::identify_data_dir(&config.data_dir) {
        Ok((kind, strangers)) => {
            for notice in &strangers {
                notice.write();
            }
            kind
        }
        Err(error @ startup::DataDirError::Both) => log::fatal(&error.to_string(), &[]),
        Err(error) => log::fatal(
            "failed to list data directory",
            &[("dir", (&config.data_dir).into()), ("error", error.to_string().into())],
        ),
    };
    let message = match kind {
        startup::DirKind::Empty => "Initialize and start etcd server",
        startup::DirKind::Member => "server has already been initialized",
        startup::DirKind::Proxy => log::panic(
            "v2 http proxy has already been deprecated in 3.6",
            &[("dir-type", kind.name().into())],
        ),
    };
    log::info!(message, "data-dir" => &config.data_dir, "dir-type" => kind.name());
    match serve::start(&config, events) {
        Ok(stop) => stop,
        Err(error) => give_up(&config, &error),
    }
}

/// The records with which a start that failed ends.
fn give_up(config: &Config, error: &RunError) -> ! {
    let reason = error.to_string();
    match error.record() {
        run::TOKEN_USED => {
            let discovery = &config.discovery;
            log::warn!(run::TOKEN_USED, "discovery-token" => &discovery.token,
                "discovery-endpoints" => &discovery.endpoints, "error" => reason);
            log::warn!("do not reuse discovery token; generate a new one to bootstrap a cluster");
            exit(1)
        }
        _ if reason.contains("include") && reason.contains("--initial-cluster") => {
            log::warn!("failed to start", "error" => reason);
            if config.initial_cluster == config.initial_cluster_from_name(&config.name) {
                log::warn!("forgot to set --initial-cluster?");
            }
            exit(1)
        }
        record => match error {
            RunError::Descriptors { limit, recommended } => log::fatal(
                &reason,
                &[("limit", (*limit).into()), ("recommended-limit", (*recommended).into())],
            ),
            _ => log::fatal(record, &[("error", reason.into())]),
        },
    }
}

/// Other machines than the four supported ones have to be asked for by name.
fn check_architecture() {
    if matches!(startup::ARCH, "amd64" | "arm64" | "ppc64le" | "s390x") {
        return;
    }
    match std::env::var("ETCD_UNSUPPORTED_ARCH") {
        Ok(name) if name == startup::ARCH => {
            log::info!("running etcd on unsupported architecture since ETCD_UNSUPPORTED_ARCH is set", "arch" => name);
        }
        _ => {
            log::error!(
                "Refusing to run etcd on unsupported architecture since ETCD_UNSUPPORTED_ARCH is not set",
                "arch" => startup::ARCH
            );
            exit(1)
        }
    }
}
