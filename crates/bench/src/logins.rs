//! What logins cost: how many a second when the passwords are known, and what a crowd of first
//! logins does to everybody else's puts.
//!
//! Two windows alternate, with the same open loop of puts by one user: a quiet one, and one in which
//! many users log in at once for the first time. Between them the auth revision moves, which makes
//! every login a first one again. The puts of the busy window are those that were due before the
//! last login was answered.

use std::cell::RefCell;
use std::convert::Infallible;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use hdrhistogram::Histogram;
use proto::authpb::Permission;
use proto::etcdserverpb as pb;

use crate::load::pace::{DueQueue, feed};
use crate::process::{Cores, Server, ServerPlan, wait_serving};
use crate::wire::{Channel, Method, local_runtime};

const ROOT: &str = "root";
const PASSWORD: &str = "a password like others";
const START_PATIENCE: Duration = Duration::from_secs(30);

/// What to measure.
#[derive(Clone, Debug)]
pub struct LoginPlan {
    /// The server program.
    pub program: PathBuf,
    /// Its extra arguments.
    pub extra_args: Vec<String>,
    /// Directory for its data, on a real disk.
    pub dir: PathBuf,
    /// First of two ports.
    pub port: u16,
    /// Users that log in at once.
    pub users: usize,
    /// `--bcrypt-cost`.
    pub cost: u32,
    /// Puts per second of the other user.
    pub rate: f64,
    /// Pairs of windows.
    pub rounds: usize,
    /// Length of a quiet window, and of the measurement of known passwords.
    pub window: Duration,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct LoginReport {
    /// Logins per second with passwords that the server has seen before.
    pub known_per_second: f64,
    /// Per round: puts' p99 while nobody logs in, while everybody does, and how long that took.
    pub rounds: Vec<(Duration, Duration, Duration)>,
}

impl LoginReport {
    /// The median over the rounds of busy p99 by quiet p99.
    pub fn p99_ratio(&self) -> f64 {
        let ratio =
            |(quiet, busy, _): &(Duration, Duration, Duration)| busy.as_secs_f64() / quiet.as_secs_f64();
        let mut ratios: Vec<f64> = self.rounds.iter().map(ratio).collect();
        ratios.sort_by(f64::total_cmp);
        ratios.get(ratios.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

impl std::fmt::Display for LoginReport {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(out, "logins with known passwords: {:.0}/s", self.known_per_second)?;
        for (quiet, busy, took) in &self.rounds {
            writeln!(
                out,
                "p99 of puts: quiet {quiet:.1?}, during first logins {busy:.1?} (all in {took:.1?})"
            )?;
        }
        writeln!(out, "median ratio: {:.2}", self.p99_ratio())
    }
}

/// Starts a server with users and measures.
pub fn run(plan: &LoginPlan) -> anyhow::Result<LoginReport> {
    std::fs::create_dir_all(&plan.dir)?;
    let mut extra_args = vec!["--bcrypt-cost".to_owned(), plan.cost.to_string()];
    extra_args.extend(plan.extra_args.iter().cloned());
    let mut server = Server::start(&ServerPlan {
        program: plan.program.clone(),
        name: "logins".to_owned(),
        initial_cluster: String::new(),
        extra_args,
        data_dir: plan.dir.join("data"),
        log_file: plan.dir.join("log"),
        client_port: plan.port,
        peer_port: plan.port + 1,
        cores: Cores::default(),
        certificate: None,
    })?;
    let authority = server.authority.clone();
    wait_serving(&authority, server.started, START_PATIENCE, || server.check_alive())?;
    let report = local_runtime()?.block_on(measure(plan, &authority));
    server.stop(START_PATIENCE)?;
    report
}

/// A connection, and the token to use on it.
#[derive(Clone)]
struct Caller {
    channel: Channel,
    authority: String,
    token: Option<String>,
}

impl Caller {
    async fn connect(authority: &str) -> anyhow::Result<Self> {
        let channel = Channel::connect(authority).await?;
        Ok(Self { channel, authority: authority.to_owned(), token: None })
    }

    async fn call<R: prost::Message + Default>(
        &self,
        path: &str,
        request: &impl prost::Message,
    ) -> anyhow::Result<R> {
        let mut method = Method::new(&self.authority, &format!("/etcdserverpb.{path}"))?;
        if let Some(token) = &self.token {
            method = method.with_header("token", token);
        }
        self.channel.call(&method, request).await.with_context(|| path.to_owned())
    }

    async fn login(&self, name: &str) -> anyhow::Result<String> {
        let request = pb::AuthenticateRequest { name: name.to_owned(), password: PASSWORD.to_owned() };
        Ok(self.call::<pb::AuthenticateResponse>("Auth/Authenticate", &request).await?.token)
    }

    /// The same connection in the name of a user.
    async fn as_user(&self, name: &str) -> anyhow::Result<Self> {
        Ok(Self { token: Some(self.login(name).await?), ..self.clone() })
    }
}

async fn measure(plan: &LoginPlan, authority: &str) -> anyhow::Result<LoginReport> {
    let open = Caller::connect(authority).await?;
    let names: Vec<String> = (0..plan.users).map(|number| format!("user-{number}")).collect();
    prepare(&open, &names).await?;
    let known_per_second = known(plan, &open).await?;
    let mut rounds = Vec::new();
    for number in 0..plan.rounds {
        // Every password is new to the server from here on.
        let root = open.as_user(ROOT).await?;
        let role = pb::AuthRoleAddRequest { name: format!("moves-{number}") };
        root.call::<pb::AuthRoleAddResponse>("Auth/RoleAdd", &role).await?;
        let putter = open.as_user("putter").await?;
        let rest = async {
            tokio::time::sleep(plan.window).await;
            Ok(())
        };
        let (quiet, _) = puts_during(plan, &putter, rest).await?;
        let crowd = async {
            let logins = names.iter().map(|name| async {
                // Each user is a client of its own.
                Caller::connect(authority).await?.login(name).await
            });
            futures_util::future::try_join_all(logins).await.map(drop)
        };
        let (busy, took) = puts_during(plan, &putter, crowd).await?;
        rounds.push((quiet, busy, took));
    }
    Ok(LoginReport { known_per_second, rounds })
}

async fn prepare(open: &Caller, names: &[String]) -> anyhow::Result<()> {
    let others = names.iter().map(String::as_str);
    let adds = [ROOT, "putter"].into_iter().chain(others).map(|name| {
        let request = pb::AuthUserAddRequest {
            name: name.to_owned(),
            password: PASSWORD.to_owned(),
            ..Default::default()
        };
        async move { open.call::<pb::AuthUserAddResponse>("Auth/UserAdd", &request).await }
    });
    futures_util::future::try_join_all(adds).await?;
    for (user, role) in [(ROOT, ROOT), ("putter", "puts")] {
        let name = role.to_owned();
        open.call::<pb::AuthRoleAddResponse>("Auth/RoleAdd", &pb::AuthRoleAddRequest { name }).await?;
        let grant = pb::AuthUserGrantRoleRequest { user: user.to_owned(), role: role.to_owned() };
        open.call::<pb::AuthUserGrantRoleResponse>("Auth/UserGrantRole", &grant).await?;
    }
    let perm = Some(Permission { perm_type: 2, key: "k".into(), range_end: "l".into() });
    let grant = pb::AuthRoleGrantPermissionRequest { name: "puts".to_owned(), perm };
    open.call::<pb::AuthRoleGrantPermissionResponse>("Auth/RoleGrantPermission", &grant).await?;
    open.call::<pb::AuthEnableResponse>("Auth/AuthEnable", &pb::AuthEnableRequest {}).await?;
    Ok(())
}

/// Logins a second of clients that logged in before.
async fn known(plan: &LoginPlan, open: &Caller) -> anyhow::Result<f64> {
    const CLIENTS: usize = 64;
    open.login("putter").await?;
    let start = Instant::now();
    let clients = (0..CLIENTS).map(|_| async {
        let mut done = 0_u64;
        while start.elapsed() < plan.window {
            open.login("putter").await?;
            done += 1;
        }
        anyhow::Ok(done)
    });
    let done: u64 = futures_util::future::try_join_all(clients).await?.iter().sum();
    Ok(done as f64 / start.elapsed().as_secs_f64())
}

async fn put_when_due(
    number: usize,
    putter: Caller,
    queue: DueQueue,
    latencies: Rc<RefCell<Histogram<u64>>>,
) -> anyhow::Result<Infallible> {
    let key = format!("k{number}").into();
    let request = pb::PutRequest { key, value: vec![b'v'; 100].into(), ..Default::default() };
    loop {
        let due = queue.take().await;
        putter.call::<pb::PutResponse>("KV/Put", &request).await?;
        latencies.borrow_mut().saturating_record(due.elapsed().as_nanos() as u64);
    }
}

/// The p99 of puts while something goes on, and how long that took.
async fn puts_during(
    plan: &LoginPlan,
    putter: &Caller,
    doing: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<(Duration, Duration)> {
    const CLIENTS: usize = 64;
    let queue = DueQueue::default();
    let latencies = Rc::new(RefCell::new(Histogram::<u64>::new_with_bounds(1, 120_000_000_000, 3)?));
    let start = Instant::now();
    let clients = (0..CLIENTS).map(|number| {
        let client = put_when_due(number, putter.clone(), queue.clone(), latencies.clone());
        tokio::task::spawn_local(client)
    });
    let clients: Vec<_> = clients.collect();
    // As long as anybody may need it; ends with this function.
    let far = start + Duration::from_secs(600);
    let done = tokio::select! {
        done = doing => done,
        fed = feed(queue, plan.rate, start, far) => Err(fed.map_or_else(Into::into, |()| anyhow::anyhow!("no end"))),
    };
    let took = start.elapsed();
    for client in &clients {
        ensure!(!client.is_finished(), "a put failed");
        client.abort();
    }
    done?;
    let p99 = latencies.borrow().value_at_quantile(0.99);
    Ok((Duration::from_nanos(p99), took))
}
