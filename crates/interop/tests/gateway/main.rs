//! The JSON gateway as people use it: `curl` as the documentation shows it, the loop of a manager of
//! database servers, WebSocket, certificates, listeners, and the reflection service.

mod wire;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bench::wire::{Channel, Method};
use interop::block_on;
use interop::cluster::eventually;
use interop::http;
use interop::member::{Member, free_port};
use interop::programs::{Program, subject, subject_as, yardstick};
use proto::reflection as pb;
use proto::reflection::server_reflection_request::MessageRequest;
use proto::reflection::server_reflection_response::MessageResponse;
use serde_json::{Value, json};
use tls::authority::{Authority, Leaf};
use wire::{Lines, Socket, post};

/// The answer of `curl` to words of a command line, as text.
fn curl(words: &[&str]) -> anyhow::Result<String> {
    let ran =
        Command::new("curl").args(["-sS", "-L", "--max-time", "20"]).args(words).output().context("curl")?;
    ensure!(ran.status.success(), "curl {words:?}: {}", String::from_utf8_lossy(&ran.stderr));
    Ok(String::from_utf8(ran.stdout)?)
}

/// The steps of etcd's page about the gateway.
#[test]
fn curl_as_the_documentation_shows_it() -> anyhow::Result<()> {
    for program in [subject(), yardstick()] {
        let member = Member::start(&program, &["--bcrypt-cost", "4"])?;
        let url = |path: &str| format!("{}/v3/{path}", member.client_url());
        let ask = |path: &str, body: &str| -> anyhow::Result<Value> {
            Ok(serde_json::from_str(&curl(&[&url(path), "-X", "POST", "-d", body])?)?)
        };
        let put = ask("kv/put", r#"{"key": "Zm9v", "value": "YmFy"}"#)?;
        ensure!(put["header"]["revision"] == "2" && put["header"]["raft_term"] == "2", "{put}");
        let range = ask("kv/range", r#"{"key": "Zm9v"}"#)?;
        ensure!(range["kvs"][0]["value"] == "YmFy" && range["count"] == "1", "{range}");
        let range = ask("kv/range", r#"{"key": "Zm9v", "range_end": "Zm9w"}"#)?;
        ensure!(range["kvs"][0]["key"] == "Zm9v", "{range}");

        let body = r#"{"create_request": {"key":"Zm9v"} }"#;
        let mut watch = Command::new("curl");
        watch.args(["-N", "-sS", "--max-time", "20", &url("watch"), "-X", "POST", "-d", body]);
        let mut watch = Running::start(watch)?;
        ensure!(watch.line()?["result"]["created"] == true);
        ask("kv/put", r#"{"key": "Zm9v", "value": "YmFy"}"#)?;
        let event = watch.line()?;
        ensure!(event["result"]["events"][0]["kv"]["value"] == "YmFy", "{event}");
        drop(watch);

        let txn = r#"{"compare":[{"target":"CREATE","key":"Zm9v","createRevision":"2"}],"success":[{"requestPut":{"key":"Zm9v","value":"YmFy"}}]}"#;
        let answer = ask("kv/txn", txn)?;
        ensure!(answer["succeeded"] == true, "{answer}");
        ensure!(answer["responses"][0]["response_put"]["header"]["revision"] == "4", "{answer}");
        let txn = r#"{"compare":[{"version":"4","result":"EQUAL","target":"VERSION","key":"Zm9v"}],"success":[{"requestRange":{"key":"Zm9v"}}]}"#;
        ensure!(ask("kv/txn", txn)?.get("succeeded").is_none());

        ask("auth/user/add", r#"{"name": "root", "password": "pass"}"#)?;
        ask("auth/role/add", r#"{"name": "root"}"#)?;
        ask("auth/user/grant", r#"{"user": "root", "role": "root"}"#)?;
        ask("auth/enable", "{}")?;
        let login = ask("auth/authenticate", r#"{"name": "root", "password": "pass"}"#)?;
        let header = format!("Authorization: {}", login["token"].as_str().context("no token")?);
        let put = r#"{"key": "Zm9v", "value": "YmFy"}"#;
        let with = curl(&[&url("kv/put"), "-H", &header, "-X", "POST", "-d", put])?;
        ensure!(with.contains("revision"), "{with}");
        let without = ask("kv/put", put)?;
        ensure!(without["message"] == "etcdserver: user name is empty", "{without}");
        // What older scripts have.
        let older = format!("{}/v3beta/kv/range", member.client_url());
        let range = curl(&[&older, "-H", &header, "-d", r#"{"key": "Zm9v"}"#])?;
        ensure!(range.contains("YmFy"), "{range}");
    }
    Ok(())
}

/// A program whose lines are read as they come.
struct Running {
    child: std::process::Child,
    lines: std::io::Lines<std::io::BufReader<std::process::ChildStdout>>,
}

impl Running {
    fn start(mut command: Command) -> anyhow::Result<Self> {
        use std::io::BufRead as _;
        let mut child = command.stdout(std::process::Stdio::piped()).spawn()?;
        let lines = std::io::BufReader::new(child.stdout.take().context("no output")?).lines();
        Ok(Self { child, lines })
    }

    fn line(&mut self) -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&self.lines.next().context("the program ended")??)?)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A manager of database servers, one of several: whoever holds the leader key leads.
struct Manager {
    authority: String,
    name: &'static str,
    lease: String,
}

const LEADER: &str = "L3NlcnZpY2UvZGIvbGVhZGVy";

impl Manager {
    fn new(authority: &str, name: &'static str) -> anyhow::Result<Self> {
        let granted = post(authority, "/v3/lease/grant", &json!({"TTL": 2}))?;
        let lease = granted["ID"].as_str().context("no lease")?.to_owned();
        Ok(Self { authority: authority.to_owned(), name, lease })
    }

    /// Takes the leader key if nobody has it.
    fn acquire(&self) -> anyhow::Result<bool> {
        let answer = post(
            &self.authority,
            "/v3/kv/txn",
            &json!({
                "compare": [{"target": "CREATE", "create_revision": 0, "key": LEADER}],
                "success": [{"request_put": {"key": LEADER, "value": self.name, "lease": self.lease}}],
                "failure": [{"request_range": {"key": LEADER}}],
            }),
        )?;
        Ok(answer["succeeded"] == true)
    }

    /// The seconds that the lease has again; nothing when it has ended.
    fn renew(&self) -> anyhow::Result<Option<String>> {
        let answer = post(&self.authority, "/v3/lease/keepalive", &json!({"ID": self.lease}))?;
        Ok(answer["result"]["TTL"].as_str().map(str::to_owned))
    }

    /// Writes its state, but only as the leader.
    fn write_status(&self) -> anyhow::Result<bool> {
        let answer = post(
            &self.authority,
            "/v3/kv/txn",
            &json!({
                "compare": [{"target": "VALUE", "value": self.name, "key": LEADER}],
                "success": [{"request_put": {"key": "c3RhdHVz", "value": self.name}}],
            }),
        )?;
        Ok(answer["succeeded"] == true)
    }
}

/// Leader lease, renewal, watch, take-over when the lease ends: with two members, as Patroni does it.
#[test]
fn leaders_hold_a_lease_and_others_take_over() -> anyhow::Result<()> {
    let member = Member::start(&subject(), &[])?;
    let authority = member.authority();
    let (first, second) = (Manager::new(&authority, "b25l")?, Manager::new(&authority, "dHdv")?);
    ensure!(first.acquire()? && !first.acquire()? && !second.acquire()?, "one of them leads");
    let mut watch = Lines::open(&authority, "/v3/watch", &json!({"create_request": {"key": LEADER}}))?;
    ensure!(watch.next()?["created"] == true);
    // Longer than the lease would last by itself.
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(5) {
        ensure!(first.renew()?.as_deref() == Some("2"), "the leader renews its lease");
        ensure!(second.renew()?.as_deref() == Some("2"));
        ensure!(first.write_status()? && !second.write_status()?, "only the leader writes");
        std::thread::sleep(Duration::from_millis(200));
    }
    // The leader falls silent. The other one hears of the end, and takes over.
    let mut taken = None;
    let ended = std::thread::scope(|scope| {
        let watching = scope.spawn(move || watch.next());
        while !watching.is_finished() {
            if second.renew()?.is_none() {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        taken = Some(second.acquire()?);
        watching.join().map_err(|_| anyhow::anyhow!("the watch panicked"))?
    })?;
    ensure!(ended["events"][0]["type"] == "DELETE", "{ended}");
    ensure!(taken == Some(true) && second.write_status()? && !first.write_status()?);
    ensure!(first.renew()?.is_none(), "the lease has ended");
    Ok(())
}

/// How many watchers the member has.
fn watchers(member: &Member) -> anyhow::Result<String> {
    let metrics = http::request(&member.authority(), "GET", "/metrics", &[], "")?.body;
    let text = String::from_utf8_lossy(&metrics).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix("etcd_debugging_mvcc_watcher_total "));
    Ok(line.context("no such metric")?.to_owned())
}

#[test]
fn watches_go_both_ways_and_end_with_their_client() -> anyhow::Result<()> {
    let mut member = Member::start(&subject(), &[])?;
    let authority = member.authority();
    let key = |text: &str, id: i64| json!({"create_request": {"key": text, "watch_id": id}});
    let mut watch = Lines::open(&authority, "/v3/watch", &key("YQ==", 1))?;
    ensure!(watch.next()?["created"] == true);
    watch.say(&key("Yg==", 2))?;
    ensure!(watch.next()?["watch_id"] == "2");
    post(&authority, "/v3/kv/put", &json!({"key": "Yg==", "value": "MQ=="}))?;
    ensure!(watch.next()?["events"][0]["kv"]["key"] == "Yg==");
    watch.say(&json!({"cancel_request": {"watch_id": 1}}))?;
    ensure!(watch.next()?["canceled"] == true);
    eventually("one watcher is left", || Ok(watchers(&member)? == "1"))?;
    drop(watch);
    eventually("the watcher goes with its client", || Ok(watchers(&member)? == "0"))?;
    // One that is still there does not hold up the end of the server.
    let mut last = Lines::open(&authority, "/v3/watch", &key("YQ==", 1))?;
    last.next()?;
    let started = Instant::now();
    member.stop()?;
    ensure!(started.elapsed() < Duration::from_secs(5), "a stop takes {:?}", started.elapsed());
    ensure!(last.next().is_err(), "the stream has ended");
    Ok(())
}

#[test]
fn a_watch_over_websocket() -> anyhow::Result<()> {
    for program in [subject(), yardstick()] {
        let member = Member::start(&program, &["--bcrypt-cost", "4"])?;
        let authority = member.authority();
        let mut socket = Socket::open(&authority, "/v3/watch", "")?;
        ensure!(!socket.head.to_ascii_lowercase().contains("sec-websocket-protocol"), "{}", socket.head);
        // In two frames, with a ping between them.
        socket.send(0x01, br#"{"create_request":"#)?;
        socket.send(0x89, b"well?")?;
        socket.send(0x80, br#"{"key":"YQ=="}}"#)?;
        ensure!(socket.frame()? == (0x8a, b"well?".to_vec()));
        ensure!(socket.next()?["result"]["created"] == true);
        post(&authority, "/v3/kv/put", &json!({"key": "YQ==", "value": "MQ=="}))?;
        let event = socket.next()?;
        ensure!(event["result"]["events"][0]["kv"]["value"] == "MQ==", "{event}");
        socket.send(0x88, &[3, 0xe8])?;
        ensure!(socket.is_closed());
        // In etcd it stays.
        if program.path != yardstick().path {
            eventually("the watcher goes with its client", || Ok(watchers(&member)? == "0"))?;
        }

        let mut socket = Socket::open(&authority, "/v3/nosuch", "")?;
        ensure!(socket.next()?["message"] == "Not Found" && socket.is_closed());

        // Users: a token as subprotocol, or in a cookie, which is stronger.
        let ask = |path: &str, body: Value| post(&authority, &format!("/v3/auth/{path}"), &body);
        ask("user/add", json!({"name": "root", "password": "r"}))?;
        ask("role/add", json!({"name": "root"}))?;
        ask("user/grant", json!({"user": "root", "role": "root"}))?;
        ask("enable", json!({}))?;
        let login = ask("authenticate", json!({"name": "root", "password": "r"}))?;
        let token = login["token"].as_str().context("no token")?;
        // 3.5 knows no "Bearer ": there it takes the token for another one.
        let bearer_helps = program.path != yardstick().path;
        for (headers, helps) in [
            (String::new(), false),
            (format!("Sec-WebSocket-Protocol: Bearer, {token}\r\n"), bearer_helps),
            (format!("Sec-WebSocket-Protocol: Bearer, x\r\nCookie: a=b; token={token}\r\n"), bearer_helps),
            (format!("Authorization: {token}\r\n"), false),
        ] {
            let mut socket = Socket::open(&authority, "/v3/watch", &headers)?;
            let has_protocol = socket.head.to_ascii_lowercase().contains("sec-websocket-protocol: bearer");
            ensure!(has_protocol == headers.contains("Bearer"), "{}", socket.head);
            socket.send(0x81, br#"{"create_request":{"key":"YQ=="}}"#)?;
            let answer = socket.next()?["result"].take();
            ensure!((answer["canceled"] != true) == helps, "{headers}: {answer}");
        }
    }
    Ok(())
}

/// Methods with one message answer at once, and a broken client is told so.
#[test]
fn other_methods_over_websocket() -> anyhow::Result<()> {
    let member = Member::start(&subject(), &[])?;
    let mut socket = Socket::open(&member.authority(), "/v3/kv/range", "")?;
    socket.send(0x81, br#"{"key":"YQ=="}"#)?;
    ensure!(socket.next()?["header"]["revision"] == "1" && socket.is_closed());
    let mut socket = Socket::open(&member.authority(), "/v3/kv/range", "")?;
    socket.send(0x81, b"{}")?;
    ensure!(socket.next()?["message"] == "etcdserver: key is not provided" && socket.is_closed());
    let mut socket = Socket::open(&member.authority(), "/v3/watch", "")?;
    socket.send(0x83, b"what is this")?;
    ensure!(socket.frame()? == (0x88, vec![3, 0xea]), "a code for an error of the protocol");
    Ok(())
}

#[test]
fn the_gateway_can_be_turned_off_and_served_elsewhere() -> anyhow::Result<()> {
    let get = json!({"key": "YQ=="});
    let member = Member::start(&subject(), &["--enable-grpc-gateway=false"])?;
    for path in ["/v3/kv/range", "/v3/", "/v3", "/v3beta/kv/range"] {
        let answer = http::request(&member.authority(), "POST", path, &[], &get.to_string())?;
        ensure!(answer.status == 404 && answer.body == b"404 page not found\n", "{path}: {answer:?}");
    }
    let (http_port, metrics_port) = (free_port()?, free_port()?);
    let http_url = format!("--listen-client-http-urls=http://127.0.0.1:{http_port}");
    let metrics_url = format!("--listen-metrics-urls=http://127.0.0.1:{metrics_port}");
    let member = Member::start(&subject(), &[&http_url, &metrics_url])?;
    let answer = post(&format!("127.0.0.1:{http_port}"), "/v3/kv/range", &get)?;
    ensure!(answer["header"]["revision"] == "1", "{answer}");
    ensure!(post(&member.authority(), "/v3/kv/range", &get).is_err(), "only gRPC there");
    let metrics = format!("127.0.0.1:{metrics_port}");
    ensure!(http::request(&metrics, "POST", "/v3/kv/range", &[], "{}")?.status == 404);
    Ok(())
}

#[test]
fn who_may_ask_is_checked_for_the_gateway_too() -> anyhow::Result<()> {
    let args = ["--host-whitelist=here", "--cors=http://page:1"];
    for program in [subject(), yardstick()] {
        let member = Member::start(&program, &args)?;
        let ask = |headers: &[(&str, &str)]| {
            http::request(&member.authority(), "POST", "/v3/kv/range", headers, r#"{"key":"YQ=="}"#)
        };
        ensure!(ask(&[])?.status == 421);
        ensure!(ask(&[("Host", "here")])?.header("access-control-allow-origin").is_none());
        let answer = ask(&[("Host", "here:1"), ("Origin", "http://page:1")])?;
        ensure!(answer.status == 200, "{answer:?}");
        ensure!(answer.header("access-control-allow-origin") == Some("http://page:1"));
    }
    Ok(())
}

/// Over TLS, by both versions of HTTP; and certificates with a name, which count for nothing here.
#[test]
fn certificates_and_versions_of_http() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    let authority = Authority::new("gateway-ca")?;
    authority.write(dir.path(), "ca")?;
    for (name, common_name) in [("server", "server"), ("root", "root"), ("nameless", "")] {
        authority.issue(&Leaf::new(common_name, &["127.0.0.1"]))?.write(dir.path(), name)?;
    }
    for program in [subject(), yardstick()] {
        let (_member, secure) = secure_member(&program, dir.path(), &path)?;
        let url = format!("{secure}/v3/");
        let ask = |who: &str, version: &str, path_: &str, body: &str| {
            let (certificate, key) = (path(&format!("{who}.crt")), path(&format!("{who}.key")));
            let ca = path("ca.crt");
            let target = format!("{url}{path_}");
            curl(&["--cacert", &ca, "--cert", &certificate, "--key", &key, version, &target, "-d", body])
        };
        for version in ["--http1.1", "--http2"] {
            let put = ask("root", version, "kv/put", r#"{"key":"Zm9v","value":"YmFy"}"#)?;
            ensure!(put.contains("revision"), "{put}");
            let mut watch = Command::new("curl");
            let (ca, certificate, key) = (path("ca.crt"), path("root.crt"), path("root.key"));
            watch.args([
                "-N",
                "-sS",
                "--max-time",
                "20",
                "--cacert",
                &ca,
                "--cert",
                &certificate,
                "--key",
                &key,
            ]);
            watch.args([
                version,
                &format!("{url}watch"),
                "-d",
                r#"{"create_request":{"key":"Zm9v","start_revision":2}}"#,
            ]);
            let mut watch = Running::start(watch)?;
            ensure!(watch.line()?["result"]["created"] == true);
            ensure!(watch.line()?["result"]["events"][0]["kv"]["value"] == "YmFy");
        }
        for (path, body) in [
            ("auth/user/add", r#"{"name":"root","options":{"no_password":true}}"#),
            ("auth/role/add", r#"{"name":"root"}"#),
            ("auth/user/grant", r#"{"user":"root","role":"root"}"#),
            ("auth/enable", "{}"),
        ] {
            ask("root", "--http2", path, body)?;
        }
        let refusal = "CommonName of client sending a request against gateway will be ignored and not used as expected\n";
        let named = ask("root", "--http2", "kv/range", r#"{"key":"Zm9v"}"#)?;
        ensure!(named == refusal, "{named}");
        let nameless = ask("nameless", "--http1.1", "kv/range", r#"{"key":"Zm9v"}"#)?;
        ensure!(nameless.contains("etcdserver: user name is empty"), "{nameless}");
    }
    Ok(())
}

/// A member that also listens encrypted, and that address.
fn secure_member(
    program: &Program,
    dir: &Path,
    file: &dyn Fn(&str) -> String,
) -> anyhow::Result<(Member, String)> {
    let secure = format!("https://127.0.0.1:{}", free_port()?);
    let mut member = Member::prepare(program, &[], &dir.join(format!("member-{}", free_port()?)))?;
    let urls = format!("{},{secure}", member.client_url());
    member.add_args(&[
        &format!("--listen-client-urls={urls}"),
        &format!("--advertise-client-urls={urls}"),
        &format!("--cert-file={}", file("server.crt")),
        &format!("--key-file={}", file("server.key")),
        &format!("--trusted-ca-file={}", file("ca.crt")),
        "--client-cert-auth",
    ]);
    member.run()?;
    Ok((member, secure))
}

/// What grpcurl asks: the services, and what they are made of.
#[test]
fn reflection_tells_tools_what_there_is() -> anyhow::Result<()> {
    let member = Member::start(&subject_as("3.7"), &[])?;
    block_on(async {
        let channel = Channel::connect(&member.authority()).await?;
        for version in ["v1", "v1alpha"] {
            let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
            let mut stream = channel.open(&Method::new(&member.authority(), &path)?).await?;
            let mut ask = async |request: MessageRequest| -> anyhow::Result<MessageResponse> {
                let request =
                    pb::ServerReflectionRequest { host: "h".into(), message_request: Some(request) };
                stream.send(&request)?;
                let answer: Option<pb::ServerReflectionResponse> = stream.receive().await?;
                let answer = answer.context("the stream ended")?;
                ensure!(answer.valid_host == "h" && answer.original_request == Some(request));
                answer.message_response.context("no answer")
            };
            let MessageResponse::ListServicesResponse(list) =
                ask(MessageRequest::ListServices("*".into())).await?
            else {
                anyhow::bail!("no list");
            };
            let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
            ensure!(
                names
                    == [
                        "etcdserverpb.Auth",
                        "etcdserverpb.Cluster",
                        "etcdserverpb.KV",
                        "etcdserverpb.Lease",
                        "etcdserverpb.Maintenance",
                        "etcdserverpb.Watch",
                        "grpc.health.v1.Health",
                        "grpc.reflection.v1.ServerReflection",
                        "grpc.reflection.v1alpha.ServerReflection",
                        "v3electionpb.Election",
                        "v3lockpb.Lock",
                    ],
                "{names:?}"
            );
            // The file with its imports, once; and only what it lacks the next time.
            for (symbol, files) in [
                ("etcdserverpb.KV", 4),
                ("etcdserverpb.KV.Range", 1),
                ("etcdserverpb.RangeRequest.SortOrder", 1),
                ("v3lockpb.Lock", 1),
            ] {
                let answer = ask(MessageRequest::FileContainingSymbol(symbol.into())).await?;
                let MessageResponse::FileDescriptorResponse(found) = answer else {
                    anyhow::bail!("{symbol}: {answer:?}");
                };
                ensure!(found.file_descriptor_proto.len() == files, "{symbol}");
            }
            for wrong in [
                MessageRequest::FileContainingSymbol("no.Such".into()),
                MessageRequest::FileByFilename("nosuch.proto".into()),
            ] {
                let answer = ask(wrong).await?;
                let MessageResponse::ErrorResponse(error) = answer else { anyhow::bail!("{answer:?}") };
                ensure!(error.error_code == 5, "{error:?}");
            }
        }
        Ok(())
    })
}
