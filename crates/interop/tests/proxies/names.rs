//! Gateway and proxy that find their cluster by the DNS.

use interop::names::{Zone, with_own_names};

use super::*;

const DOMAIN: &str = "retcd.test";

#[test]
fn the_cluster_is_found_by_the_dns() -> anyhow::Result<()> {
    with_own_names("names::the_cluster_is_found_by_the_dns", inside)
}

fn inside() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let authority = Authority::new("ca")?;
    let ca = authority.write(dir.path(), "ca")?;
    // For its own name, not for the domain: nobody looks at it until there is something to say.
    let leaf = Leaf::new("member", &[&format!("m1.{DOMAIN}"), "127.0.0.1"]);
    let (cert, key) = authority.issue(&leaf)?.write(dir.path(), "member")?;
    // Etcd's proxy asks for a certificate of its own where it has a CA.
    let up = authority.issue(&Leaf::new("", &[]))?.write(dir.path(), "up")?;
    let up = [format!("--cacert={ca}"), format!("--cert={}", up.0), format!("--key={}", up.1)];
    let plain = Member::start(&our_program(), &[])?;
    let mut good = Member::prepare(&our_program(), &[], &dir.path().join("good"))?;
    let url = format!("https://{}", good.authority());
    let (listen, advertise) = ("--listen-client-urls", "--advertise-client-urls");
    good.add_args(&[listen, &url, advertise, &url, "--cert-file", &cert, "--key-file", &key]);
    good.spawn()?;
    let tls_ctl = |endpoint: String, args: &[&str]| {
        let ctl = Ctl { program: real("3.5", "etcdctl"), endpoint: format!("https://{endpoint}") };
        ctl.run(&[&[&*format!("--cacert={ca}")], args].concat())
    };
    eventually("it serves", || Ok(tls_ctl(good.authority(), &["put", "where", "good"])?.code == 0))?;
    direct(&plain).run(&["put", "where", "plain"])?.success()?;
    let port = |member: &Member| {
        let authority = member.authority();
        anyhow::Ok(authority.rsplit(':').next().context("a port")?.parse::<u16>()?)
    };
    let (plain_port, good_port) = (port(&plain)?, port(&good)?);
    // Where nobody listens.
    let no_port = 1;
    let services = vec![
        ("_etcd-client._tcp", vec![(0, plain_port)]),
        ("_etcd-client-club._tcp", vec![(0, plain_port)]),
        ("_etcd-client-safe._tcp", vec![(0, plain_port)]),
        ("_etcd-client-ssl-safe._tcp", vec![(2, no_port), (1, good_port)]),
    ];
    Zone { domain: DOMAIN, services }.serve()?;

    for program in [our_program(), yardstick()] {
        for kind in ["gateway", "grpc-proxy"] {
            let start = |endpoint: &str, args: &[&str]| {
                let args = [&["--discovery-srv", DOMAIN], args].concat();
                Front::start(&program, kind, &[endpoint.to_owned()], &args)
            };
            let nowhere = "127.0.0.1:1";
            let own = if kind == "gateway" { &[][..] } else { &["--advertise-client-url="] };
            let with = |args: &[&'static str]| -> Vec<&str> { [args, own].concat() };
            let name = format!("{kind} of {}", program.path.display());
            for args in
                [&["--insecure-discovery"][..], &["--insecure-discovery", "--discovery-srv-name=club"]]
            {
                let front = start(nowhere, &with(args)).context(name.clone())?;
                ensure!(through(&front).run(&["get", "where"])?.success()? == "where\nplain\n", "{name}");
                ensure!(front.log().contains("discovered cluster from SRV"), "{name}: {}", front.log());
            }
            // Only who is encrypted and there counts.
            let trust = [format!("--trusted-ca-file={ca}")];
            let files = if kind == "gateway" { &trust[..] } else { &up };
            let mut args = with(&["--discovery-srv-name=safe"]);
            args.extend(files.iter().map(String::as_str));
            let front = start(nowhere, &args)?;
            let found = match kind {
                "gateway" => tls_ctl(front.authority(), &["get", "where"])?,
                _ => through(&front).run(&["get", "where"])?,
            };
            ensure!(found.clone().success()? == "where\ngood\n", "{name}: {found:?}\n{}", front.log());
            let log = front.log();
            let record = log.lines().find(|line| line.contains("failed to validate discovered endpoints"));
            let record: serde_json::Value = serde_json::from_str(record.context(log.clone())?)?;
            let left = serde_json::json!([format!("https://m1.{DOMAIN}.:{good_port}")]);
            ensure!(record["endpoints"] == left && record["level"] == "warn", "{name}: {record}");
            let error = record["error"].as_str().unwrap_or_default();
            for fault in [
                format!("\"http://m0.{DOMAIN}.:{plain_port}\" is insecure"),
                format!("\"https://m2.{DOMAIN}.:{no_port}\" failed to dial ("),
            ] {
                ensure!(error.contains(&fault), "{name}: {error}");
            }
            // Without anybody left it is as if nobody had asked.
            let front = start(&plain.authority(), &with(&["--discovery-srv-name=club"]))?;
            ensure!(through(&front).run(&["get", "where"])?.success()? == "where\nplain\n", "{name}");
            // A service that is not there.
            let refused = match start(&plain.authority(), &with(&["--discovery-srv-name=none"])) {
                Ok(front) => front.wait_end()?,
                Err(refused) => format!("{refused:#}"),
            };
            for service in ["_etcd-client-ssl-none._tcp", "_etcd-client-none._tcp"] {
                let text = format!("lookup {service}.{DOMAIN}");
                ensure!(refused.contains(&text) && refused.contains("no such host"), "{name}: {refused}");
            }
        }
    }
    Ok(())
}
