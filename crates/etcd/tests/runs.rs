//! Members that start and stop: sockets of all kinds, limits of the system, ends by signals.
//!
//! Everything listens on unix sockets in a directory of its own, so no test needs a port. Tests that need
//! a namespace or a capability less say so and pass where the system does not let them have it.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// A member in a directory of its own. Killed on drop.
struct Run {
    dir: Arc<TempDir>,
    /// Name of the file with its records.
    log: String,
    child: Child,
}

/// `unix://` and this is a URL of a socket in the working directory.
fn socket(name: &str) -> String {
    format!("unix://{name}:0")
}

impl Run {
    /// Starts `words` in front of the program: wrappers, or nothing.
    fn start(wrapper: &[&str], args: &[&str]) -> Self {
        Self::start_in(Arc::new(tempfile::tempdir().expect("a directory")), "log", wrapper, args)
    }

    fn start_in(dir: Arc<TempDir>, name: &str, wrapper: &[&str], args: &[&str]) -> Self {
        let log = fs::File::create(dir.path().join(name)).expect("the log");
        let program = env!("CARGO_BIN_EXE_etcd");
        let mut command = match wrapper {
            [] => Command::new(program),
            [first, rest @ ..] => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
        };
        let child = command
            .args(args)
            .current_dir(dir.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the program");
        Self { dir, log: name.to_owned(), child }
    }

    /// A member that listens on unix sockets only.
    fn member(wrapper: &[&str], args: &[&str]) -> Self {
        let (client, peer) = (socket("c"), socket("p"));
        let initial = format!("default={peer}");
        let mut all = vec!["--listen-client-urls", &client, "--advertise-client-urls", &client];
        all.extend(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        all.extend(["--initial-cluster", &initial]);
        all.extend(args);
        Self::start(wrapper, &all)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path(&self.log)).unwrap_or_default()
    }

    /// Records with this message.
    fn records(&self, message: &str) -> Vec<Value> {
        let log = self.log();
        let records = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        records.filter(|record| record["msg"] == message).collect()
    }

    fn wait_for(&mut self, message: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.records(message).is_empty() {
            if let Some(status) = self.child.try_wait().expect("the process") {
                panic!("it ended with {status} before {message:?}:\n{}", self.log());
            }
            assert!(Instant::now() < deadline, "no record {message:?} in\n{}", self.log());
            std::thread::sleep(LOOK_INTERVAL);
        }
    }

    fn wait_end(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("the process") {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end\n{}", self.log());
            std::thread::sleep(LOOK_INTERVAL);
        }
    }

    fn signal(&self, pid: u32, name: &str) {
        let sent = Command::new("kill").args([name, &pid.to_string()]).status().expect("kill");
        assert!(sent.success(), "kill {name} {pid}");
    }

    /// What HTTP on a socket answers.
    fn get(&self, socket: &str, path: &str) -> String {
        // The name of a socket may be longer than the system takes if its directory is deep.
        let mut stream = UnixStream::connect(self.path(socket)).expect("the socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether a wrapper can be used here.
fn works(wrapper: &[&str]) -> bool {
    let ran = Command::new(wrapper[0]).args(&wrapper[1..]).arg("true").stderr(Stdio::null()).status();
    let works = ran.is_ok_and(|status| status.success());
    if !works {
        assert!(std::env::var_os("CI").is_none(), "{} is not possible here", wrapper.join(" "));
        eprintln!("passed over: {} is not possible here", wrapper.join(" "));
    }
    works
}

#[test]
fn a_signal_ends_the_member_and_then_the_process() {
    for (name, number, word) in [("-INT", 2, "interrupt"), ("-TERM", 15, "terminated")] {
        let mut run = Run::member(&[], &[]);
        run.wait_for("ready to serve client requests");
        run.signal(run.child.id(), name);
        let status = run.wait_end();
        // What shells call 130 and 143.
        assert_eq!(status.signal(), Some(number), "{}", run.log());
        assert_eq!(run.records("received signal; shutting down")[0]["signal"], word);
        assert_eq!(run.records("closed etcd server").len(), 1);
    }
}

#[test]
fn process_1_ends_with_0() {
    let wrapper = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"];
    if !works(&wrapper) {
        return;
    }
    let mut run = Run::member(&wrapper, &[]);
    run.wait_for("ready to serve client requests");
    let children = format!("/proc/{0}/task/{0}/children", run.child.id());
    let child = fs::read_to_string(children).expect("its child").trim().parse().expect("one process");
    run.signal(child, "-TERM");
    assert_eq!(run.wait_end().code(), Some(0), "{}", run.log());
    assert_eq!(run.records("closed etcd server").len(), 1);
}

#[test]
fn every_listener_may_be_a_unix_socket() {
    let (http, metrics) = (socket("h"), socket("m"));
    let args = ["--listen-client-http-urls", &http, "--listen-metrics-urls", &metrics];
    let mut run = Run::member(&[], &args);
    // A socket that somebody left is in nobody's way.
    run.wait_for("ready to serve client requests");
    assert!(run.get("h:0", "/health").ends_with("{\"health\":\"true\",\"reason\":\"\"}"));
    assert!(run.get("m:0", "/metrics").contains("\netcd_server_has_leader 1\n"));
    assert!(run.get("m:0", "/version").starts_with("HTTP/1.1 404 "), "metrics and health only");
    assert!(run.get("p:0", "/version").contains("\"etcdserver\""), "peers");
    run.signal(run.child.id(), "-TERM");
    run.wait_end();
    for name in ["c:0", "p:0", "h:0", "m:0"] {
        assert!(!run.path(name).exists(), "{name} is left");
    }
}

#[test]
fn members_meet_over_unix_sockets() {
    let dir = Arc::new(tempfile::tempdir().expect("a directory"));
    let initial = format!("n0={},n1={}", socket("p0"), socket("p1"));
    let mut members: Vec<Run> = (0..2)
        .map(|number| {
            let (name, client, peer) =
                (format!("n{number}"), socket(&format!("c{number}")), socket(&format!("p{number}")));
            let args = [
                "--name",
                &name,
                "--listen-client-urls",
                &client,
                "--advertise-client-urls",
                &client,
                "--listen-peer-urls",
                &peer,
                "--initial-advertise-peer-urls",
                &peer,
                "--initial-cluster",
                &initial,
            ];
            Run::start_in(dir.clone(), &format!("{name}.log"), &[], &args)
        })
        .collect();
    for member in &mut members {
        member.wait_for("ready to serve client requests");
    }
    for (number, member) in members.iter().enumerate() {
        // A linearizable read needs both.
        let answer = member.get(&format!("c{number}:0"), "/health");
        assert!(answer.contains("\"health\":\"true\""), "{answer}");
    }
}

#[test]
fn a_path_is_a_socket_too_and_an_old_one_goes() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("client");
    drop(std::os::unix::net::UnixListener::bind(&path).expect("an old socket"));
    let client = format!("unix://{}", path.display());
    let args = ["--listen-client-urls", &client, "--advertise-client-urls", &client];
    let mut run = Run::member(&[], &args);
    run.wait_for("ready to serve client requests");
    let mut stream = UnixStream::connect(&path).expect("the socket");
    stream.write_all(b"GET /health HTTP/1.0\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.contains("\"health\":\"true\""), "{answer}");
}

#[test]
fn an_address_in_use_ends_the_start() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    let url = format!("http://{address}");
    let want = format!("listen tcp {address}: bind: address already in use");
    for (flag, is_peer) in [("--listen-peer-urls", true), ("--listen-client-urls", false)] {
        let mut run = Run::member(&[], &[flag, &url]);
        assert_eq!(run.wait_end().code(), Some(1));
        assert_eq!(run.records("discovery failed")[0]["error"], *want);
        assert_eq!(run.records("creating peer listener failed").len(), usize::from(is_peer));
    }
}

#[test]
fn a_port_can_be_shared() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", taken.local_addr().expect("its address"));
    drop(taken);
    let args = ["--listen-metrics-urls", &url, "--socket-reuse-port"];
    let mut first = Run::member(&[], &args);
    first.wait_for("ready to serve client requests");
    let mut second = Run::member(&[], &args);
    second.wait_for("ready to serve client requests");
    let mut third = Run::member(&[], &args[..2]);
    assert_eq!(third.wait_end().code(), Some(1), "only who says so shares it");
}

#[test]
fn too_few_descriptors_end_the_start() {
    let mut run = Run::member(&["sh", "-c", "ulimit -n 150; exec \"$0\" \"$@\""], &[]);
    assert_eq!(run.wait_end().code(), Some(1));
    let records = run.records("file descriptor limit of etcd process is too low; please set higher");
    assert_eq!(records[0]["level"], "fatal");
    assert_eq!((&records[0]["limit"], &records[0]["recommended-limit"]), (&150.into(), &150.into()));
}

/// Bytes that a process keeps locked in memory.
fn locked_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let line = status.lines().find(|line| line.starts_with("VmLck:")).expect("a line");
    line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("a number")
}

#[test]
fn the_database_is_kept_in_memory() {
    if !works(&["prlimit", "--memlock=1048576"]) {
        return;
    }
    let mut run = Run::member(&["prlimit", "--memlock=1048576"], &["--memory-mlock"]);
    run.wait_for("ready to serve client requests");
    let file = fs::metadata(run.path("default.etcd/member/snap/db")).expect("the database");
    assert!(locked_kib(run.child.id()) * 1024 >= file.len(), "all of it");
    let mut run = Run::member(&[], &[]);
    run.wait_for("ready to serve client requests");
    assert_eq!(locked_kib(run.child.id()), 0);
}

#[test]
fn too_little_memory_to_lock_ends_the_start() {
    let wrapper =
        ["setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock", "prlimit", "--memlock=8192"];
    if !works(&wrapper) {
        return;
    }
    let mut run = Run::member(&wrapper, &["--memory-mlock"]);
    assert_eq!(run.wait_end().code(), Some(1), "{}", run.log());
    let records = run.records("discovery failed");
    let error = records[0]["error"].as_str().expect("a text");
    assert!(error.contains("member/snap/db: mlock error: Cannot allocate memory"), "{error}");
}

#[test]
fn files_are_for_the_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let mut run = Run::member(&[], &[]);
    run.wait_for("ready to serve client requests");
    let mode = |path: &str| fs::metadata(run.path(path)).expect(path).permissions().mode() & 0o777;
    for dir in ["default.etcd", "default.etcd/member", "default.etcd/member/snap", "default.etcd/member/wal"]
    {
        assert_eq!(mode(dir), 0o700, "{dir}");
    }
    assert_eq!(mode("default.etcd/member/snap/db"), 0o600);
    for entry in fs::read_dir(run.path("default.etcd/member/wal")).expect("the log") {
        let path = entry.expect("an entry").path();
        let name = Path::new("default.etcd/member/wal").join(path.file_name().expect("a name"));
        assert_eq!(mode(&name.to_string_lossy()), 0o600, "{}", name.display());
    }
    assert!(!run.path("default.etcd/.touch").exists());
}

#[test]
fn gates_are_in_the_first_record_and_in_the_metrics() {
    let metrics = socket("m");
    let gates = "--feature-gates=StopGRPCServiceOnDefrag=true,SetMemberLocalAddr=true";
    let mut run = Run::member(&[], &["--listen-metrics-urls", &metrics, gates]);
    run.wait_for("ready to serve client requests");
    let records = run.records("starting an etcd server");
    let text = records[0]["feature-gates"].as_str().expect("a text");
    assert_eq!(text, "SetMemberLocalAddr=true,StopGRPCServiceOnDefrag=true");
    let page = run.get("m:0", "/metrics");
    for (name, value) in [("StopGRPCServiceOnDefrag", 1), ("SetMemberLocalAddr", 1), ("LeaseCheckpoint", 0)] {
        let line = format!("etcd_server_feature_enabled{{name=\"{name}\",stage=\"ALPHA\"}} {value}");
        assert!(page.lines().any(|got| got == line), "{line}");
    }
    // There is no address here that others could reach.
    assert_eq!(
        run.records("unable to set a member local address due to lack of suitable local addresses").len(),
        1
    );
}

#[test]
fn a_quota_of_any_size_is_shown() {
    let metrics = socket("m");
    let args =
        ["--quota-backend-bytes", "17179869184", "--listen-metrics-urls", &metrics, "--socket-reuse-address"];
    let mut run = Run::member(&[], &args);
    run.wait_for("ready to serve client requests");
    assert_eq!(run.records("configuring socket options")[0]["reuse-address"], true);
    assert!(run.get("m:0", "/metrics").contains("\netcd_server_quota_backend_bytes 1.7179869184e+10\n"));
}

#[test]
fn an_unreachable_registry_is_asked_again() {
    let closed = TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = format!("http://{}", closed.local_addr().expect("its address"));
    drop(closed);
    let (client, peer) = (socket("c"), socket("p"));
    let args = [
        "--listen-client-urls",
        &client,
        "--advertise-client-urls",
        &client,
        "--listen-peer-urls",
        &peer,
        "--initial-advertise-peer-urls",
        &peer,
        "--discovery-token",
        "t",
        "--discovery-endpoints",
        &endpoint,
        "--discovery-request-timeout",
        "100ms",
    ];
    let mut run = Run::start(&[], &args);
    run.wait_for("retry connecting to discovery service");
    let record = &run.records("retry connecting to discovery service")[0];
    assert_eq!((&record["reason"], &record["backoff"]), (&"cluster status check".into(), &"2s".into()));
    assert_eq!(record["discovery-endpoints"], *endpoint);
}

#[test]
fn a_directory_of_the_old_proxy_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().to_string_lossy().into_owned();
    fs::create_dir(dir.path().join("proxy")).expect("the proxy's directory");
    let mut run = Run::member(&[], &["--data-dir", &path]);
    assert_eq!(run.wait_end().code(), Some(2));
    fs::create_dir(dir.path().join("member")).expect("the member's directory");
    let mut run = Run::member(&[], &["--data-dir", &path]);
    assert_eq!(run.wait_end().code(), Some(1));
    assert_eq!(run.records("invalid datadir; both member and proxy directories exist").len(), 1);
}
