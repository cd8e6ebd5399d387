//! Both sides against each other: who is let in, who is not, and what both say about it.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tls::authority::{Authority, Issued, Leaf, self_made};
use tls::{Acceptor, CipherSuites, Connector, Rejected, Report, Settings, Shown, Versions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_string_lossy().into_owned()
    }

    fn settings(&self, issued: &Issued, name: &str, ca: Option<&Authority>) -> Settings {
        let (cert_file, key_file) = issued.write(self.dir.path(), name).unwrap();
        let trusted_ca_file = ca.map(|ca| ca.write(self.dir.path(), &format!("{name}-ca")).unwrap());
        Settings {
            cert_file,
            key_file,
            trusted_ca_file: trusted_ca_file.unwrap_or_default(),
            ..Settings::default()
        }
    }
}

fn quiet() -> Report {
    Arc::new(|_| {})
}

fn loopback() -> Option<SocketAddr> {
    "127.0.0.1:4242".parse().ok()
}

type Met = (Result<Shown, Rejected>, Result<(), String>);

/// One connection: a few bytes go both ways. TLS 1.3 tells the connecting side only then whether its
/// certificate will do.
async fn meet(acceptor: &Acceptor, connector: &Connector, host: &str) -> Met {
    let (near, far) = tokio::io::duplex(1 << 16);
    let server = async {
        let (mut stream, shown) = acceptor.accept(near, loopback()).await?;
        let mut bytes = [0; 5];
        stream.read_exact(&mut bytes).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        Ok(shown)
    };
    let client = async {
        let mut stream = connector.connect(far, host).await.map_err(|error| error.to_string())?;
        let mut bytes = Vec::new();
        let talk = async {
            stream.write_all(b"hello").await?;
            stream.flush().await?;
            stream.read_to_end(&mut bytes).await
        };
        talk.await.map_err(|error| tls::explain(&error))?;
        if bytes == b"hello" { Ok(()) } else { Err(format!("got {bytes:?}")) }
    };
    tokio::join!(server, client)
}

fn acceptor(settings: &Settings) -> Acceptor {
    Acceptor::new(settings, &["h2", "http/1.1"], quiet()).unwrap()
}

fn connector(settings: &Settings) -> Connector {
    Connector::new(settings, &["h2"], quiet()).unwrap()
}

/// Settings of a server and of a client that know each other.
fn pair(place: &Place, ca: &Authority, client: &Leaf) -> (Settings, Settings) {
    let server = ca.issue(&Leaf::new("server", &["127.0.0.1", "localhost"])).unwrap();
    let client = ca.issue(client).unwrap();
    (place.settings(&server, "server", Some(ca)), place.settings(&client, "client", Some(ca)))
}

fn reasons(met: Met) -> (String, String) {
    (met.0.unwrap_err().reason, met.1.unwrap_err())
}

#[tokio::test]
async fn both_sides_know_each_other() {
    let (place, ca) = (Place::new(), Authority::new("ca").unwrap());
    let (server, client) = pair(&place, &ca, &Leaf::new("alice", &[]));
    for versions in [Versions::All, Versions::Only12, Versions::Only13] {
        let server = acceptor(&Settings { versions, ..server.clone() });
        for host in ["127.0.0.1", "localhost"] {
            let (shown, talked) = meet(&server, &connector(&client), host).await;
            assert_eq!(talked, Ok(()), "{versions:?}");
            assert_eq!(shown, Ok(Shown { certificate: true, common_name: "alice".into() }));
        }
    }
    let open = Settings { trusted_ca_file: String::new(), ..server };
    let (shown, talked) = meet(&acceptor(&open), &connector(&client), "localhost").await;
    assert_eq!((shown, talked), (Ok(Shown::default()), Ok(())));
}

#[tokio::test]
async fn strangers_stay_outside_and_hear_why() {
    let (place, ca, other) = (Place::new(), Authority::new("ca").unwrap(), Authority::new("other").unwrap());
    let (server, good) = pair(&place, &ca, &Leaf::new("alice", &[]));
    let now = SystemTime::now();
    let stranger = place.settings(&other.issue(&Leaf::new("eve", &[])).unwrap(), "eve", None);
    let expired =
        Leaf { not_after: now - Duration::from_secs(60), ..Leaf::new("old", &["10.0.0.9", "old.example"]) };
    let expired = place.settings(&ca.issue(&expired).unwrap(), "old", None);
    let only_server = Leaf { client: false, ..Leaf::new("server", &[]) };
    let only_server = place.settings(&ca.issue(&only_server).unwrap(), "wrong", None);
    let nobody = Settings { cert_file: String::new(), key_file: String::new(), ..good.clone() };
    let with_ca = |settings: Settings| Settings { trusted_ca_file: good.trusted_ca_file.clone(), ..settings };
    let server = acceptor(&server);
    let check = async |client: Settings, ours: &str, theirs: &str| {
        let (server, client) = reasons(meet(&server, &connector(&with_ca(client)), "localhost").await);
        assert!(server.starts_with(ours), "{server}");
        assert_eq!(client, theirs);
    };
    let failed = "tls: failed to verify certificate: x509: certificate";
    check(
        stranger,
        &format!("{failed} signed by unknown authority"),
        "remote error: tls: unknown certificate authority",
    )
    .await;
    check(
        expired.clone(),
        &format!("{failed} has expired or is not yet valid: current time 2"),
        "remote error: tls: expired certificate",
    )
    .await;
    check(
        only_server,
        &format!("{failed} specifies an incompatible key usage"),
        "remote error: tls: bad certificate",
    )
    .await;
    check(nobody, "tls: client didn't provide a certificate", "remote error: tls: certificate required")
        .await;
    let (rejected, _) = meet(&server, &connector(&with_ca(expired)), "localhost").await;
    let rejected = rejected.unwrap_err();
    assert_eq!(rejected.server_name, "localhost");
    assert_eq!(rejected.names, Some((vec!["10.0.0.9".to_owned()], vec!["old.example".to_owned()])));
    assert!(!rejected.is_silent);
}

#[tokio::test]
async fn clients_check_who_answers() {
    let (place, ca, other) = (Place::new(), Authority::new("ca").unwrap(), Authority::new("other").unwrap());
    let server = ca.issue(&Leaf::new("localhost", &["10.0.0.1", "*.example"])).unwrap();
    let server = acceptor(&place.settings(&server, "server", None));
    let trusting = |ca: &Authority| Settings {
        trusted_ca_file: ca.write(place.dir.path(), "trusted").unwrap(),
        ..Settings::default()
    };
    let check = async |settings: Settings, host: &str, expected: &str| {
        let (rejected, talked) = meet(&server, &connector(&settings), host).await;
        assert_eq!(talked.unwrap_err(), format!("tls: failed to verify certificate: x509: {expected}"));
        assert!(rejected.unwrap_err().reason.starts_with("remote error: tls: bad certificate"));
    };
    check(trusting(&other), "10.0.0.1", "certificate signed by unknown authority").await;
    check(trusting(&ca), "10.0.0.2", "certificate is valid for 10.0.0.1, not 10.0.0.2").await;
    check(trusting(&ca), "a.b.example", "certificate is valid for *.example, not a.b.example").await;
    // The common name is no host name.
    check(trusting(&ca), "localhost", "certificate is valid for *.example, not localhost").await;
    assert_eq!(meet(&server, &connector(&trusting(&ca)), "a.example").await.1, Ok(()));
    let blind = Settings { insecure_skip_verify: true, ..trusting(&other) };
    assert_eq!(meet(&server, &connector(&blind), "nobody").await.1, Ok(()));
}

#[tokio::test]
async fn names_are_demanded_on_both_sides() {
    let (place, ca) = (Place::new(), Authority::new("ca").unwrap());
    let (server, client) = pair(&place, &ca, &Leaf::new("alice", &["alice.example"]));
    let by_name = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    let cns = Settings { allowed_cns: by_name(&["bob", "alice"]), ..server.clone() };
    assert_eq!(meet(&acceptor(&cns), &connector(&client), "localhost").await.1, Ok(()));
    let hosts = Settings { allowed_hostnames: by_name(&["alice.example"]), ..server.clone() };
    assert_eq!(meet(&acceptor(&hosts), &connector(&client), "localhost").await.1, Ok(()));
    for strict in [
        Settings { allowed_cns: by_name(&["bob"]), ..server.clone() },
        Settings { allowed_hostnames: by_name(&["bob.example"]), ..server.clone() },
    ] {
        let (ours, theirs) = reasons(meet(&acceptor(&strict), &connector(&client), "localhost").await);
        assert_eq!(ours, "client certificate authentication failed");
        assert_eq!(theirs, "remote error: tls: bad certificate");
    }
    let picky = Settings { allowed_cns: by_name(&["another-server"]), ..client };
    let (rejected, talked) = meet(&acceptor(&server), &connector(&picky), "localhost").await;
    assert_eq!(talked.unwrap_err(), "client certificate authentication failed");
    assert_eq!(rejected.unwrap_err().reason, "remote error: tls: bad certificate");
    let both = Settings { allowed_cns: by_name(&["a"]), allowed_hostnames: by_name(&["b"]), ..server };
    assert!(Acceptor::new(&both, &[], quiet()).unwrap_err().to_string().contains("mutually exclusive"));
}

#[tokio::test]
async fn the_revocation_list_is_read_at_each_handshake() {
    let (place, ca) = (Place::new(), Authority::new("ca").unwrap());
    let (server, client) = pair(&place, &ca, &Leaf { serial: 0x00ab_cdef, ..Leaf::new("alice", &[]) });
    let server = Settings { crl_file: place.text("list.crl"), ..server };
    let (server, client) = (acceptor(&server), connector(&client));
    let list = place.path("list.crl");
    let missing = reasons(meet(&server, &client, "localhost").await).0;
    assert!(missing.ends_with("list.crl: no such file or directory"), "{missing}");
    fs::write(&list, ca.revoke(&[5, 6]).unwrap()).unwrap();
    assert_eq!(meet(&server, &client, "localhost").await.1, Ok(()));
    fs::write(&list, ca.revoke(&[5, 0x00ab_cdef]).unwrap()).unwrap();
    let (ours, theirs) = reasons(meet(&server, &client, "localhost").await);
    assert_eq!(ours, "transport: certificate serial abcdef revoked");
    assert_eq!(theirs, "remote error: tls: revoked certificate");
    fs::write(&list, b"-----BEGIN").unwrap();
    assert_eq!(reasons(meet(&server, &client, "localhost").await).0, "x509: malformed crl");
}

#[tokio::test]
async fn replaced_certificates_are_used_at_once() {
    let (place, ca) = (Place::new(), Authority::new("ca").unwrap());
    let (server, client) = pair(&place, &ca, &Leaf::new("alice", &[]));
    let warnings = Arc::new(Mutex::new(Vec::new()));
    let sink = warnings.clone();
    let report: Report = Arc::new(move |warning| sink.lock().unwrap().push(warning.text.clone()));
    let acceptor = Acceptor::new(&server, &["h2"], report.clone()).unwrap();
    let connector = Connector::new(&client, &["h2"], report).unwrap();
    let works = async |host: &str| meet(&acceptor, &connector, host).await.1;
    assert_eq!(works("localhost").await, Ok(()));
    assert!(works("renewed").await.is_err());
    // Between the certificate and its key the old pair goes on.
    let renewed = ca.issue(&Leaf::new("server", &["renewed"])).unwrap();
    fs::write(&server.cert_file, &renewed.cert).unwrap();
    assert_eq!(works("localhost").await, Ok(()));
    assert_eq!(works("localhost").await, Ok(()));
    fs::write(&server.key_file, &renewed.key).unwrap();
    assert_eq!(works("renewed").await, Ok(()));
    fs::remove_file(&server.cert_file).unwrap();
    assert_eq!(works("renewed").await, Ok(()));
    assert_eq!(
        *warnings.lock().unwrap(),
        ["failed to create peer certificate", "failed to find peer cert files"]
    );
    // The same on the connecting side.
    let bob = ca.issue(&Leaf::new("bob", &[])).unwrap();
    bob.write(place.dir.path(), "client").unwrap();
    let shown = meet(&acceptor, &connector, "renewed").await.0.unwrap();
    assert_eq!(shown.common_name, "bob");
}

#[tokio::test]
async fn who_connects_from_elsewhere_is_refused() {
    let (place, ca) = (Place::new(), Authority::new("ca").unwrap());
    let check = async |hosts: &[&str], expected: Result<(), &str>| {
        let (server, client) = pair(&place, &ca, &Leaf::new("peer", hosts));
        let server = acceptor(&Settings { check_client_address: true, ..server });
        let met = meet(&server, &connector(&client), "localhost").await.0;
        match (met, expected) {
            (Ok(_), Ok(())) => {}
            (Err(rejected), Err(text)) => assert!(rejected.reason.starts_with(text), "{}", rejected.reason),
            (met, expected) => panic!("{hosts:?}: {met:?} instead of {expected:?}"),
        }
    };
    check(&[], Ok(())).await;
    check(&["127.0.0.1"], Ok(())).await;
    check(&["10.0.0.1", "localhost"], Ok(())).await;
    check(&["10.0.0.1"], Err("x509: certificate is valid for 10.0.0.1, not 127.0.0.1")).await;
    check(&["peer.invalid"], Err("tls: \"127.0.0.1\" does not match any of DNSNames [\"peer.invalid\"]"))
        .await;
}

#[tokio::test]
async fn certificates_that_stand_for_themselves_count() {
    let place = Place::new();
    // What `openssl req -x509` makes: a CA that is its own leaf.
    let made = self_made(&Leaf { ca: true, ..Leaf::new("", &["localhost"]) }).unwrap();
    let server = place.settings(&made, "self", None);
    let client = Settings { trusted_ca_file: server.cert_file.clone(), ..Settings::default() };
    assert_eq!(meet(&acceptor(&server), &connector(&client), "localhost").await.1, Ok(()));
    // The same without CA flag, and a CA certified by another.
    let plain = self_made(&Leaf::new("", &["localhost"])).unwrap();
    let server = place.settings(&plain, "plain", None);
    let client = Settings { trusted_ca_file: server.cert_file.clone(), ..Settings::default() };
    assert_eq!(meet(&acceptor(&server), &connector(&client), "localhost").await.1, Ok(()));
    let root = Authority::new("root").unwrap();
    let sub = root.issue(&Leaf { ca: true, ..Leaf::new("sub", &["localhost"]) }).unwrap();
    let server = place.settings(&sub, "sub", None);
    let trusted_ca_file = root.write(place.dir.path(), "root").unwrap();
    let client = Settings { trusted_ca_file, ..Settings::default() };
    assert_eq!(meet(&acceptor(&server), &connector(&client), "localhost").await.1, Ok(()));
}

#[tokio::test]
async fn chains_are_followed_through_shown_intermediates() {
    let (place, root) = (Place::new(), Authority::new("root").unwrap());
    let (one, other) = (root.below("one").unwrap(), Authority::new("one").unwrap());
    let mut issued = one.issue(&Leaf::new("", &["localhost"])).unwrap();
    let alone = place.settings(&issued, "alone", None);
    issued.cert = format!("{}{}{}", issued.cert, other.pem(), one.pem());
    let chained = place.settings(&issued, "chained", None);
    let trusted_ca_file = root.write(place.dir.path(), "root").unwrap();
    let client = connector(&Settings { trusted_ca_file, ..Settings::default() });
    assert_eq!(meet(&acceptor(&chained), &client, "localhost").await.1, Ok(()));
    let error = meet(&acceptor(&alone), &client, "localhost").await.1.unwrap_err();
    assert_eq!(error, "tls: failed to verify certificate: x509: certificate signed by unknown authority");
}

/// Certificates of version 1, as `openssl x509 -req` long made them, made with OpenSSL 3.0; valid
/// until 2126.
#[tokio::test]
async fn version_one_certificates_count() {
    let place = Place::new();
    let data = |name: &str| format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"));
    let server = Authority::new("ca").unwrap().issue(&Leaf::new("", &["localhost"])).unwrap();
    let mut server = place.settings(&server, "server", None);
    let trusted_ca_file = server.cert_file.clone();
    server.trusted_ca_file = data("v1-ca.crt");
    let client = Settings {
        cert_file: data("v1-client.crt"),
        key_file: data("v1-client.key"),
        trusted_ca_file,
        ..Settings::default()
    };
    let (shown, talked) = meet(&acceptor(&server), &connector(&client), "localhost").await;
    assert_eq!(talked, Ok(()));
    assert_eq!(shown.unwrap().common_name, "v1-client");
}

#[tokio::test]
async fn garbage_and_silence_are_told_apart() {
    let (place, ca) = (Place::new(), Authority::new("ca").unwrap());
    let (server, _) = pair(&place, &ca, &Leaf::new("alice", &[]));
    let server = acceptor(&server);
    let check = async |bytes: &[u8]| {
        let (near, mut far) = tokio::io::duplex(1 << 16);
        far.write_all(bytes).await.unwrap();
        drop(far);
        server.accept(near, None).await.unwrap_err()
    };
    assert_eq!(
        check(b"GET / HTTP/1.1\r\n\r\n").await.reason,
        "tls: first record does not look like a TLS handshake"
    );
    let silent = check(b"").await;
    assert_eq!((silent.reason.as_str(), silent.is_silent), ("EOF", true));
    let mut random = 1_u64;
    for len in [1_usize, 5, 6, 100, 5000] {
        let mut bytes: Vec<u8> = std::iter::repeat_with(|| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 56) as u8
        })
        .take(len)
        .collect();
        check(&bytes).await;
        bytes.splice(..bytes.len().min(3), [22, 3, 1]);
        check(&bytes).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_stalls_ends() {
    let (place, ca) = (Place::new(), Authority::new("ca").unwrap());
    let (server, _) = pair(&place, &ca, &Leaf::new("alice", &[]));
    let (near, _far) = tokio::io::duplex(16);
    let rejected = acceptor(&server).accept(near, None).await.unwrap_err();
    assert_eq!(rejected.reason, "i/o timeout");
}

#[test]
fn mistakes_are_named() {
    let (place, ca, other) = (Place::new(), Authority::new("ca").unwrap(), Authority::new("other").unwrap());
    let (server, _) = pair(&place, &ca, &Leaf::new("alice", &[]));
    let other = place.settings(&other.issue(&Leaf::new("", &[])).unwrap(), "other", None);
    let error = |settings: Settings| Acceptor::new(&settings, &[], quiet()).unwrap_err().to_string();
    let missing = Settings { cert_file: "/nowhere/a.crt".into(), ..server.clone() };
    assert_eq!(error(missing), "open /nowhere/a.crt: no such file or directory");
    let half = Settings { key_file: String::new(), cert_file: "a".into(), ..server.clone() };
    assert_eq!(error(half), "KeyFile and CertFile must both be present[key: , cert: a]");
    let half = Settings { client_cert_file: "c".into(), ..server.clone() };
    assert_eq!(
        error(half),
        "ClientKeyFile and ClientCertFile must both be present or both absent: key: , cert: c]"
    );
    let mixed = Settings { key_file: other.key_file.clone(), ..server.clone() };
    assert_eq!(error(mixed), "tls: private key does not match public key");
    let swapped = Settings { key_file: other.cert_file, ..server.clone() };
    assert_eq!(error(swapped), "tls: failed to find any PEM data in key input");
    let no_ca = Settings { trusted_ca_file: "/nowhere/ca".into(), ..server.clone() };
    assert_eq!(error(no_ca), "open /nowhere/ca: no such file or directory");
    let only13 = CipherSuites::from_names(&["TLS_AES_128_GCM_SHA256"]).unwrap();
    let nothing = Settings { suites: only13, versions: Versions::Only12, ..server };
    assert!(error(nothing).contains("no cipher suite is left"));
}
