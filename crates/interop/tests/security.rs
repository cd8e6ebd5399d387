//! etcd's security guide, walked through with our programs and the real ones: certificates made with
//! `openssl`, clusters whose members and clients verify each other, what is said to who stays outside,
//! and certificates that are replaced while clients are busy.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context, ensure};
use bench::wire::{Channel, Method};
use interop::block_on;
use interop::cluster::eventually;
use interop::ctl::{Ctl, Ran};
use interop::member::Member;
use interop::programs::{Program, ours, real, subject};
use proto::etcdserverpb::{PutRequest, PutResponse};
use tempfile::TempDir;
use tls::authority::{Authority, Leaf};

/// The certificates of all tests of this program.
struct Guide {
    dir: TempDir,
}

static GUIDE: OnceLock<Guide> = OnceLock::new();

fn openssl(dir: &Path, args: &str) {
    let ran =
        Command::new("openssl").args(args.split_whitespace()).current_dir(dir).output().expect("openssl");
    assert!(ran.status.success(), "openssl {args}: {}", String::from_utf8_lossy(&ran.stderr));
}

impl Guide {
    /// Made once; connections of this process are encrypted from then on.
    fn get() -> &'static Self {
        GUIDE.get_or_init(|| {
            let guide = Self { dir: tempfile::tempdir().expect("a directory") };
            guide.make().expect("certificates");
            let settings = tls::Settings {
                cert_file: guide.path("client.crt"),
                key_file: guide.path("client.key"),
                trusted_ca_file: guide.path("ca.crt"),
                // Some tests let members generate their certificates.
                insecure_skip_verify: true,
                ..tls::Settings::default()
            };
            bench::wire::encrypt(&settings).expect("the first call");
            guide
        })
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_string_lossy().into_owned()
    }

    fn make(&self) -> std::io::Result<()> {
        let dir = self.dir.path();
        let names = "subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth,clientAuth\n";
        fs::write(dir.join("member.ext"), names)?;
        fs::write(dir.join("client.ext"), "extendedKeyUsage=clientAuth\n")?;
        openssl(
            dir,
            "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=etcd-ca -keyout ca.key -out ca.crt",
        );
        for (name, key, extensions) in [
            ("member", "rsa:2048", "-extfile member.ext"),
            ("peer", "ec:ec.pem", "-extfile member.ext"),
            ("client", "rsa:2048", "-extfile client.ext"),
            // As it comes without a word about extensions: version 1.
            ("plain", "ec:ec.pem", ""),
        ] {
            openssl(dir, "ecparam -name prime256v1 -out ec.pem");
            openssl(
                dir,
                &format!("req -newkey {key} -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr"),
            );
            let sign = "x509 -req -CA ca.crt -CAkey ca.key -CAcreateserial -days 2";
            openssl(dir, &format!("{sign} -in {name}.csr -out {name}.crt {extensions}"));
        }
        openssl(dir, "genrsa -out jwt.key 2048");
        openssl(dir, "rsa -in jwt.key -pubout -out jwt.pub");
        Ok(())
    }

    /// Arguments of a member whose clients and peers have to show certificates.
    fn mutual(&self) -> Vec<String> {
        let (member, peer) = (self.path("member"), self.path("peer"));
        [
            format!("--cert-file={member}.crt"),
            format!("--key-file={member}.key"),
            format!("--trusted-ca-file={}", self.path("ca.crt")),
            "--client-cert-auth".into(),
            format!("--peer-cert-file={peer}.crt"),
            format!("--peer-key-file={peer}.key"),
            format!("--peer-trusted-ca-file={}", self.path("ca.crt")),
            "--peer-client-cert-auth".into(),
        ]
        .into()
    }

    /// What etcdctl is given to be let in as `name`.
    fn shows(&self, name: &str) -> Vec<String> {
        let file = |kind: &str| self.path(&format!("{name}.{kind}"));
        vec![
            format!("--cert={}", file("crt")),
            format!("--key={}", file("key")),
            format!("--cacert={}", self.path("ca.crt")),
        ]
    }
}

/// Members whose addresses are encrypted.
struct Cluster {
    members: Vec<Member>,
    _dir: TempDir,
}

fn url(authority: &str) -> String {
    format!("https://{authority}")
}

impl Cluster {
    fn start(programs: &[&Program], args: &[String]) -> anyhow::Result<Self> {
        Guide::get();
        let dir = tempfile::tempdir()?;
        let make = |(number, program): (usize, &&Program)| {
            Member::prepare(program, &[], &dir.path().join(format!("n{number}")))
        };
        let mut members = programs.iter().enumerate().map(make).collect::<anyhow::Result<Vec<_>>>()?;
        let entry =
            |(number, member): (usize, &Member)| format!("n{number}={}", url(&member.peer_authority()));
        let initial = members.iter().enumerate().map(entry).collect::<Vec<_>>().join(",");
        for (number, member) in members.iter_mut().enumerate() {
            let (client, peer) = (url(&member.authority()), url(&member.peer_authority()));
            member.add_args(&["--name", &format!("n{number}"), "--initial-cluster", &initial]);
            member.add_args(&["--listen-client-urls", &client, "--advertise-client-urls", &client]);
            member.add_args(&["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
            member.add_args(&args.iter().map(String::as_str).collect::<Vec<_>>());
            member.spawn()?;
        }
        for member in &mut members {
            member.wait_serving()?;
        }
        Ok(Self { members, _dir: dir })
    }

    /// Every etcdctl writes through each member and reads through the others.
    fn works_for(&self, tools: &[PathBuf], shown: &[String]) -> anyhow::Result<()> {
        for (tool, program) in tools.iter().enumerate() {
            for (number, member) in self.members.iter().enumerate() {
                let (key, value) = (format!("k{tool}-{number}"), format!("v{number}"));
                ctl(program, member, shown, &["put", &key, &value])?.success()?;
                for other in &self.members {
                    let got = ctl(program, other, shown, &["get", &key, "--print-value-only"])?.success()?;
                    ensure!(got.trim() == value, "{key} is {got}");
                }
            }
        }
        Ok(())
    }
}

fn ctl(program: &Path, member: &Member, shown: &[String], args: &[&str]) -> anyhow::Result<Ran> {
    let ctl = Ctl { program: program.to_owned(), endpoint: url(&member.authority()) };
    let args: Vec<&str> = shown.iter().map(String::as_str).chain(args.iter().copied()).collect();
    ctl.run(&args)
}

fn tools() -> Vec<PathBuf> {
    vec![ours("etcdctl"), real("3.5", "etcdctl")]
}

fn real_member() -> Program {
    Program::plain(real("3.5", "etcd"))
}

/// Waits for a record of a member's log that has all these words.
fn logged(member: &Member, words: &[&str]) -> anyhow::Result<()> {
    eventually(&format!("the log says {words:?}"), || {
        let log = String::from_utf8_lossy(&fs::read(member.log_file())?).into_owned();
        Ok(log.lines().any(|line| words.iter().all(|word| line.contains(word))))
    })
}

#[test]
fn three_members_and_their_clients_verify_each_other() -> anyhow::Result<()> {
    let guide = Guide::get();
    let (subject, args) = (subject(), guide.mutual());
    let cluster = Cluster::start(&[&subject, &subject, &subject], &args)?;
    cluster.works_for(&tools(), &guide.shows("client"))?;
    cluster.works_for(&tools()[..1], &guide.shows("plain"))?;
    let member = &cluster.members[0];
    logged(member, &["serving client traffic securely", "grpc+http"])?;
    // Variables instead of flags.
    let variables = [
        ("ETCDCTL_CACERT", guide.path("ca.crt")),
        ("ETCDCTL_CERT", guide.path("client.crt")),
        ("ETCDCTL_KEY", guide.path("client.key")),
    ];
    let variables: Vec<(&str, &str)> =
        variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let by_variables = Ctl { program: ours("etcdctl"), endpoint: url(&member.authority()) };
    by_variables.run_with(&["endpoint", "health"], &variables, b"")?.success()?;
    // Everything else on the port.
    let health = format!("{}/health", url(&member.authority()));
    let files = [guide.path("ca.crt"), guide.path("client.crt"), guide.path("client.key")];
    let curl = ["-sS", "--cacert", &files[0], "--cert", &files[1], "--key", &files[2]];
    for version in ["--http1.1", "--http2"] {
        let ran = Command::new("curl").args(curl).args([version, &health]).output().context("curl")?;
        let text = String::from_utf8_lossy(&ran.stdout);
        ensure!(
            text.contains("\"health\":\"true\""),
            "{version}: {text}{}",
            String::from_utf8_lossy(&ran.stderr)
        );
    }
    Ok(())
}

#[test]
fn ours_and_real_ones_verify_each_other() -> anyhow::Result<()> {
    let guide = Guide::get();
    let (subject, real) = (subject(), real_member());
    for programs in [[&subject, &real, &subject], [&real, &subject, &real]] {
        let cluster = Cluster::start(&programs, &guide.mutual())?;
        cluster.works_for(&tools(), &guide.shows("client"))?;
    }
    Ok(())
}

#[test]
fn generated_certificates_do_between_ours_and_real_ones() -> anyhow::Result<()> {
    let (subject, real) = (subject(), real_member());
    let args = ["--auto-tls".to_owned(), "--peer-auto-tls".to_owned()];
    let cluster = Cluster::start(&[&subject, &real, &subject], &args)?;
    cluster.works_for(
        &tools(),
        &["--insecure-skip-tls-verify".to_owned(), "--insecure-transport=false".to_owned()],
    )?;
    let files = cluster.members[0].data_dir().join("fixtures/client");
    // The certificate vouches for itself.
    let shown = [format!("--cacert={}", files.join("cert.pem").display())];
    for tool in tools() {
        ctl(&tool, &cluster.members[0], &shown, &["get", "k0-0"])?.success()?;
    }
    logged(&cluster.members[0], &["automatically generate certificates"])
}

/// Certificates that do not do, what the server's log and the client say about each.
const REFUSED: [(&str, &str, &str); 3] = [
    ("expired", "certificate has expired or is not yet valid", "remote error: tls: "),
    ("stranger", "certificate signed by unknown authority", "remote error: tls: "),
    ("nobody", "client didn't provide a certificate", "remote error: tls: "),
];

/// What a client says whose connection was reset.
const CUT_OFF: [&str; 2] = ["broken pipe", "connection reset by peer"];

#[test]
fn who_is_refused_hears_why_and_so_does_the_operator() -> anyhow::Result<()> {
    let guide = Guide::get();
    let dir = guide.dir.path();
    let now = SystemTime::now();
    let known = Authority::new("known")?;
    let (mine, key) = known.issue(&Leaf::new("server", &["127.0.0.1"]))?.write(dir, "known-server")?;
    let ca = known.write(dir, "known-ca")?;
    let expired = Leaf { not_after: now - Duration::from_secs(3600), ..Leaf::new("late", &["127.0.0.1"]) };
    known.issue(&expired)?.write(dir, "expired")?;
    Authority::new("other")?.issue(&Leaf::new("eve", &["127.0.0.1"]))?.write(dir, "stranger")?;
    known.issue(&Leaf::new("probe", &[]))?.write(dir, "probe")?;
    let both_cas = guide.path("both-cas.crt");
    // This test's own probe shows the guide's certificate.
    fs::write(
        &both_cas,
        format!("{}{}", fs::read_to_string(&ca)?, fs::read_to_string(guide.path("ca.crt"))?),
    )?;
    let args = [
        format!("--cert-file={mine}"),
        format!("--key-file={key}"),
        format!("--trusted-ca-file={both_cas}"),
        "--client-cert-auth".to_owned(),
        "--peer-auto-tls".to_owned(),
    ];
    for (program, is_ours) in [(subject(), true), (real_member(), false)] {
        let cluster = Cluster::start(&[&program], &args)?;
        let member = &cluster.members[0];
        for (name, ours_says, theirs) in REFUSED {
            for tool in tools() {
                let mut shown = vec![format!("--cacert={ca}"), "--command-timeout=2s".to_owned()];
                if name != "nobody" {
                    shown.push(format!("--cert={}", guide.path(&format!("{name}.crt"))));
                    shown.push(format!("--key={}", guide.path(&format!("{name}.key"))));
                }
                let ran = ctl(&tool, member, &shown, &["put", "a", "b"])?;
                ensure!(ran.code == 1, "{name}: {ran:?}");
                // etcd closes at once what it refused: its reset may overtake the reason.
                let cut_off = !is_ours && CUT_OFF.iter().any(|text| ran.stderr.contains(text));
                ensure!(
                    ran.stderr.contains(theirs) || cut_off,
                    "ours: {is_ours}, {} {name}: {}",
                    tool.display(),
                    ran.stderr
                );
                ensure!(ran.messages().contains("context deadline exceeded"), "{}", ran.stderr);
            }
            logged(member, &["rejected connection on client endpoint", "remote-addr", ours_says])?;
        }
        // A server that cannot be trusted.
        for tool in tools() {
            let mut shown = guide.shows("client");
            shown.push("--command-timeout=2s".to_owned());
            let ran = ctl(&tool, member, &shown, &["get", "a"])?;
            ensure!(
                ran.code == 1 && ran.stderr.contains("certificate signed by unknown authority"),
                "{ran:?}"
            );
        }
        logged(member, &["rejected connection on client endpoint", "remote error: tls: bad certificate"])?;
    }
    Ok(())
}

#[test]
fn etcdctl_refuses_what_does_not_hold_together() -> anyhow::Result<()> {
    for args in [
        &["--cert=c.pem", "get", "a"][..],
        &["--key=k.pem", "get", "a"],
        &["--cert=", "get", "a"],
        &["--cacert=", "get", "a"],
        &["--cacert=/nowhere/ca.pem", "get", "a"],
        &["--cert=/nowhere/c", "--key=/nowhere/k", "get", "a"],
    ] {
        let run = |program: PathBuf| Ctl { program, endpoint: "https://127.0.0.1:1".to_owned() }.run(args);
        let (mine, theirs) = (run(ours("etcdctl"))?, run(real("3.5", "etcdctl"))?);
        ensure!(
            (mine.code, mine.messages()) == (theirs.code, theirs.messages()),
            "{args:?}\n{mine:?}\n{theirs:?}"
        );
    }
    Ok(())
}

#[test]
fn a_peer_without_the_right_name_is_kept_out() -> anyhow::Result<()> {
    let guide = Guide::get();
    let dir = guide.dir.path();
    let authority = Authority::new("peers")?;
    let ca = authority.write(dir, "peers-ca")?;
    authority.issue(&Leaf::new("friend", &["127.0.0.1"]))?.write(dir, "friend")?;
    authority.issue(&Leaf::new("foe", &["127.0.0.1"]))?.write(dir, "foe")?;
    authority.issue(&Leaf::new("friend", &["10.1.2.3"]))?.write(dir, "elsewhere")?;
    let subject = subject();
    let mut args = guide.mutual()[..4].to_vec();
    args.extend([
        format!("--peer-cert-file={}", guide.path("friend.crt")),
        format!("--peer-key-file={}", guide.path("friend.key")),
        format!("--peer-trusted-ca-file={ca}"),
        "--peer-client-cert-auth".to_owned(),
        "--peer-cert-allowed-cn=friend".to_owned(),
    ]);
    let mut cluster = Cluster::start(&[&subject, &real_member(), &subject], &args)?;
    cluster.works_for(&tools()[..1], &guide.shows("client"))?;
    for (certificate, reason) in [
        ("foe", "client certificate authentication failed"),
        ("elsewhere", "certificate is valid for 10.1.2.3, not 127.0.0.1"),
    ] {
        cluster.members[2].stop()?;
        // What it listens with is still good; what it shows is not.
        cluster.members[2].add_args(&[
            &format!("--peer-client-cert-file={}", guide.path(&format!("{certificate}.crt"))),
            &format!("--peer-client-key-file={}", guide.path(&format!("{certificate}.key"))),
        ]);
        cluster.members[2].spawn()?;
        logged(&cluster.members[0], &["rejected connection on peer endpoint", reason])?;
        logged(&cluster.members[1], &["rejected connection on peer endpoint", reason])?;
    }
    Ok(())
}

/// Certificate, then key are replaced again and again while writers go on, on connections that stay
/// and on new ones. No request fails, and in the end the new certificate is the one that is shown.
#[test]
fn certificates_are_replaced_under_load() -> anyhow::Result<()> {
    let guide = Guide::get();
    let dir = guide.dir.path();
    let authority = Authority::new("renewing")?;
    let renew = |serial| {
        let issued = authority.issue(&Leaf { serial, ..Leaf::new("server", &["127.0.0.1"]) })?;
        Ok::<_, anyhow::Error>(issued.write(dir, "renewed")?)
    };
    let (cert, key) = renew(1)?;
    let ca = authority.write(dir, "renewing-ca")?;
    let args = [format!("--cert-file={cert}"), format!("--key-file={key}"), "--peer-auto-tls".to_owned()];
    let cluster = Cluster::start(&[&subject()], &args)?;
    let member = &cluster.members[0];
    let (over, puts, connections) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let authority_text = member.authority();
    let writer = |reconnect: bool| {
        block_on(async {
            let method = Method::new(&authority_text, "/etcdserverpb.KV/Put")?;
            let mut channel = Channel::connect(&authority_text).await?;
            while !over.load(Ordering::Relaxed) {
                if reconnect {
                    channel = Channel::connect(&authority_text).await?;
                    connections.fetch_add(1, Ordering::Relaxed);
                }
                let put = PutRequest { key: "a".into(), value: "b".into(), ..Default::default() };
                channel.call::<PutResponse>(&method, &put).await?;
                puts.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<_, anyhow::Error>(())
        })
    };
    std::thread::scope(|scope| {
        let writers = [false, true, true].map(|reconnect| scope.spawn(move || writer(reconnect)));
        let renewed = (|| {
            for serial in 2..=20 {
                renew(serial)?;
                let before = connections.load(Ordering::Relaxed);
                eventually("clients have connected again", || {
                    let dead = writers.iter().any(std::thread::ScopedJoinHandle::is_finished);
                    Ok(dead || connections.load(Ordering::Relaxed) >= before + 6)
                })?;
            }
            Ok::<_, anyhow::Error>(())
        })();
        over.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.join().expect("no panic")?;
        }
        renewed
    })?;
    ensure!(puts.load(Ordering::Relaxed) > 100);
    let shown = Command::new("openssl")
        .args(["s_client", "-connect", &authority_text, "-CAfile", &ca])
        .stdin(std::process::Stdio::null())
        .output()?;
    let serial = Command::new("sh")
        .arg("-c")
        .arg(format!("openssl x509 -noout -serial <<'E'\n{}\nE", String::from_utf8_lossy(&shown.stdout)))
        .output()?;
    ensure!(String::from_utf8_lossy(&serial.stdout).trim() == "serial=14", "{serial:?}");
    Ok(())
}

/// The second half of the guide: who shows a certificate is the user of its common name, who has a
/// password gets a signed token that every member takes.
#[test]
fn certificates_and_passwords_say_who_may_do_what() -> anyhow::Result<()> {
    let guide = Guide::get();
    let (subject, real) = (subject(), real_member());
    let mut args = guide.mutual();
    let (public, private) = (guide.path("jwt.pub"), guide.path("jwt.key"));
    args.push(format!("--auth-token=jwt,pub-key={public},priv-key={private},sign-method=RS256,ttl=10m"));
    for programs in [[&subject, &subject, &subject], [&real, &subject, &subject]] {
        let cluster = Cluster::start(&programs, &args)?;
        let shown = guide.shows("client");
        let as_user = |user: &str| [guide.shows("client"), vec![format!("--user={user}")]].concat();
        for (number, command) in [
            "user add root:secret",
            "role add root",
            "user grant-role root root",
            "role add app",
            "role grant-permission app readwrite /app/ --prefix=true",
            "user add client --no-password",
            "user grant-role client app",
            "user add bob:word",
            "auth enable",
        ]
        .iter()
        .enumerate()
        {
            let words: Vec<&str> = command.split(' ').collect();
            let (tool, member) = (&tools()[number % 2], &cluster.members[number % 3]);
            ctl(tool, member, &shown, &words)?.success()?;
        }
        for (tool, member) in
            tools().iter().flat_map(|tool| cluster.members.iter().map(move |one| (tool, one)))
        {
            ctl(tool, member, &shown, &["put", "/app/a", "b"])?.success()?;
            let denied = |shown: &[String], command: &[&str], text: &str| {
                let ran = ctl(tool, member, shown, command)?;
                ensure!(ran.code != 0 && ran.messages().contains(text), "{command:?}: {ran:?}");
                Ok::<_, anyhow::Error>(())
            };
            denied(&shown, &["put", "elsewhere", "b"], "permission denied")?;
            denied(&as_user("bob:word"), &["get", "/app/a"], "permission denied")?;
            denied(
                &as_user("root:wrong"),
                &["get", "/app/a"],
                "authentication failed, invalid user ID or password",
            )?;
            ctl(tool, member, &as_user("root:secret"), &["put", "elsewhere", "b"])?.success()?;
        }
        ctl(&tools()[0], &cluster.members[2], &as_user("root:secret"), &["auth", "disable"])?.success()?;
        ctl(&tools()[1], &cluster.members[1], &shown, &["put", "elsewhere", "c"])?.success()?;
    }
    Ok(())
}
