//! `bench`: load, fill, echo server, and comparison of two servers. See the library for how.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use bench::compare::{self, ComparePlan, Placement, Scenario, table};
use bench::load::fill::{self, FillPlan};
use bench::load::ops::{KeySpace, Workload};
use bench::load::{self, LoadPlan};
use bench::logins::{self, LoginPlan};
use bench::{echo, process, wire};
use clap::{Args, Parser, Subcommand, ValueEnum};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Drives any etcd by its client URL and measures what it answers and uses.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run one workload.
    Load(LoadArgs),
    /// Write many keys, once each.
    Fill(FillArgs),
    /// Serve Put, Range and Txn without doing anything, on retcd's HTTP/2: the ceiling of bare RPC.
    Echo {
        /// Address to listen on.
        #[arg(long, default_value = "127.0.0.1:2379")]
        listen: SocketAddr,
        /// Threads, one runtime each.
        #[arg(long, default_value_t = 1)]
        threads: usize,
        /// Value size in Range answers.
        #[arg(long, default_value_t = 100)]
        value_size: usize,
    },
    /// Start a server with users; measure logins, and what first logins cost others' puts.
    Logins(LoginArgs),
    /// Run two server programs side by side and print the ratios.
    Compare(CompareArgs),
    /// Print the table of an earlier comparison again.
    Table {
        /// The JSON written by `compare`.
        file: PathBuf,
    },
}

#[derive(Args)]
struct SpaceArgs {
    /// Text in front of every key.
    #[arg(long, default_value = "bench/")]
    prefix: String,
    /// Number of different keys.
    #[arg(long, default_value_t = 10_000)]
    keys: u64,
    /// Length of a key.
    #[arg(long, default_value_t = 24)]
    key_size: usize,
    /// Length of a value.
    #[arg(long, default_value_t = 100)]
    value_size: usize,
    /// Walk through the keys instead of drawing them.
    #[arg(long)]
    sequential: bool,
}

impl SpaceArgs {
    fn space(&self) -> KeySpace {
        KeySpace {
            prefix: self.prefix.clone(),
            keys: self.keys,
            key_bytes: self.key_size,
            value_bytes: self.value_size,
            sequential: self.sequential,
        }
    }
}

#[derive(Args)]
struct LoadArgs {
    /// What the clients do.
    workload: Workload,
    /// Client URLs, comma separated.
    #[arg(long, value_delimiter = ',', default_value = "http://127.0.0.1:2379")]
    endpoints: Vec<String>,
    #[command(flatten)]
    space: SpaceArgs,
    /// Connections.
    #[arg(long, default_value_t = 100)]
    connections: usize,
    /// Concurrent clients.
    #[arg(long, default_value_t = 1000)]
    clients: usize,
    /// Load threads.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Cores of the load threads, comma separated.
    #[arg(long, value_delimiter = ',')]
    cores: Vec<usize>,
    /// Seconds measured.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Seconds before that.
    #[arg(long, default_value_t = 1.0)]
    warmup: f64,
    /// Operations per second (open loop); without it the loop is closed.
    #[arg(long)]
    rate: Option<f64>,
    /// Keys per range read.
    #[arg(long, default_value_t = 500)]
    range_limit: i64,
    /// Watchers of the watch workload.
    #[arg(long, default_value_t = 1000)]
    watchers: usize,
    /// Streams the watchers are spread over.
    #[arg(long, default_value_t = 50)]
    watch_streams: usize,
    /// Server processes to measure as one, comma separated.
    #[arg(long, value_delimiter = ',')]
    pid: Vec<u32>,
    /// CA that vouches for the servers of https:// endpoints; any server will do if not given.
    #[arg(long, default_value = "")]
    cacert: String,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct FillArgs {
    /// Client URL.
    #[arg(long, default_value = "http://127.0.0.1:2379")]
    endpoint: String,
    #[command(flatten)]
    space: SpaceArgs,
    /// Number of the first key.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Connections.
    #[arg(long, default_value_t = 100)]
    connections: usize,
    /// Puts in flight.
    #[arg(long, default_value_t = 1000)]
    in_flight: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PlacementArg {
    One,
    Both,
    All,
}

#[derive(Args)]
struct CompareArgs {
    /// The yardstick: path of a server program.
    #[arg(long)]
    a: PathBuf,
    /// The other server program.
    #[arg(long)]
    b: PathBuf,
    /// Extra arguments for A, separated by blanks.
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    a_args: String,
    /// Extra arguments for B.
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    b_args: String,
    /// Name of A in the table.
    #[arg(long, default_value = "A")]
    a_label: String,
    /// Name of B in the table.
    #[arg(long, default_value = "B")]
    b_label: String,
    /// Directory for data; must be on a real disk.
    #[arg(long, default_value = "target/bench")]
    dir: PathBuf,
    /// Cores of the server: one, both, or all to run both placements.
    #[arg(long, default_value = "all")]
    placement: PlacementArg,
    /// Interleaved rounds per scenario.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Scenarios, comma separated; all if absent.
    #[arg(long, value_delimiter = ',')]
    scenario: Vec<Scenario>,
    /// Seconds measured per run.
    #[arg(long, default_value_t = 8.0)]
    seconds: f64,
    /// Keys of the large scenario.
    #[arg(long, default_value_t = 1_000_000)]
    large_keys: u64,
    /// First of six ports to use.
    #[arg(long, default_value_t = 25300)]
    port: u16,
    /// Do not measure the echo server.
    #[arg(long)]
    no_echo: bool,
    /// MiB of memory to touch before each start, so that the host of a virtual machine does not hand them out
    /// page by page while a server is measured; 0 leaves that out.
    #[arg(long, default_value_t = 2048)]
    warm_mib: usize,
    /// Encrypt what goes between load and servers; certificates are made for it.
    #[arg(long)]
    tls: bool,
    /// Also write everything measured to this file, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Args)]
struct LoginArgs {
    /// The server program.
    #[arg(long)]
    server: PathBuf,
    /// Extra arguments for it, separated by blanks.
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    server_args: String,
    /// A directory for its data that is empty or not there yet; must be on a real disk.
    #[arg(long, default_value = "target/bench/logins")]
    dir: PathBuf,
    /// First of two ports to use.
    #[arg(long, default_value_t = 25300)]
    port: u16,
    /// Users that log in at once.
    #[arg(long, default_value_t = 100)]
    users: usize,
    /// Cost of hashing a password.
    #[arg(long, default_value_t = 10)]
    cost: u32,
    /// Puts per second by somebody else.
    #[arg(long, default_value_t = 2000.0)]
    rate: f64,
    /// Pairs of a quiet window and a crowd.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of a quiet window.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
}

/// The allocator gives nothing back: what a load frees it needs again at once, and faulting it in again would
/// be measured with the server.
fn keep_freed_memory() {
    /// `mi_option_purge_delay` in mimalloc's header.
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
    // SAFETY: an option may be set at any time, and a number that is none is passed over.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, -1) }
}

fn main() -> anyhow::Result<()> {
    keep_freed_memory();
    match Cli::parse().command {
        Command::Load(args) => run_load(&args),
        Command::Fill(args) => run_fill(&args),
        Command::Echo { listen, threads, value_size } => echo::serve(listen, threads, value_size),
        Command::Logins(args) => run_logins(args),
        Command::Compare(args) => run_compare(args),
        Command::Table { file } => {
            let text =
                std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
            print!("{}", table::render(&serde_json::from_str(&text)?));
            Ok(())
        }
    }
}

fn seconds(value: f64) -> anyhow::Result<Duration> {
    Duration::try_from_secs_f64(value).with_context(|| format!("{value} is not a number of seconds"))
}

fn run_load(args: &LoadArgs) -> anyhow::Result<()> {
    if !args.cacert.is_empty() || args.endpoints.iter().any(|endpoint| endpoint.starts_with("https://")) {
        wire::encrypt(&tls::Settings {
            trusted_ca_file: args.cacert.clone(),
            insecure_skip_verify: args.cacert.is_empty(),
            ..Default::default()
        })?;
    }
    process::Cores(args.cores.clone()).pin_this_thread()?;
    let report = load::run(&LoadPlan {
        endpoints: args.endpoints.clone(),
        workload: args.workload,
        space: args.space.space(),
        connections: args.connections,
        clients: args.clients,
        threads: args.threads,
        warmup: seconds(args.warmup)?,
        duration: seconds(args.seconds)?,
        rate: args.rate,
        range_limit: args.range_limit,
        watchers: args.watchers,
        watch_streams: args.watch_streams,
        pids: args.pid.clone(),
    })?;
    match args.json {
        true => println!("{}", serde_json::to_string_pretty(&report)?),
        false => print!("{report}"),
    }
    ensure!(report.errors() == 0, "{} operations failed", report.errors());
    Ok(())
}

fn run_fill(args: &FillArgs) -> anyhow::Result<()> {
    let took = fill::run(&FillPlan {
        endpoint: args.endpoint.clone(),
        space: args.space.space(),
        first: args.first,
        connections: args.connections,
        in_flight: args.in_flight,
    })?;
    let rate = args.space.keys as f64 / took.as_secs_f64();
    println!("{} keys in {:.1} s, {rate:.0} per second", args.space.keys, took.as_secs_f64());
    Ok(())
}

fn run_logins(args: LoginArgs) -> anyhow::Result<()> {
    let report = logins::run(&LoginPlan {
        program: args.server,
        extra_args: args.server_args.split_whitespace().map(str::to_owned).collect(),
        dir: args.dir,
        port: args.port,
        users: args.users,
        cost: args.cost,
        rate: args.rate,
        rounds: args.rounds,
        window: seconds(args.seconds)?,
    })?;
    print!("{report}");
    Ok(())
}

fn run_compare(args: CompareArgs) -> anyhow::Result<()> {
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
    let results = compare::run(&ComparePlan {
        programs: [(args.a, words(&args.a_args)), (args.b, words(&args.b_args))],
        labels: [args.a_label, args.b_label],
        dir: args.dir,
        placements: match args.placement {
            PlacementArg::One => vec![Placement::One],
            PlacementArg::Both => vec![Placement::Both],
            PlacementArg::All => vec![Placement::One, Placement::Both],
        },
        rounds: args.rounds,
        scenarios: match args.scenario.is_empty() {
            true => Scenario::value_variants().to_vec(),
            false => args.scenario,
        },
        window: seconds(args.seconds)?,
        large_keys: args.large_keys,
        base_port: args.port,
        echo: if args.no_echo { None } else { Some(std::env::current_exe()?) },
        warm_bytes: args.warm_mib << 20,
        tls: args.tls,
    })?;
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_string_pretty(&results)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    print!("{}", table::render(&results));
    Ok(())
}
