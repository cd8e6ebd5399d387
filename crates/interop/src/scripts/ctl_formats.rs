//! etcdctl: each command in each format, also those that it refuses, and what scripts do wrong.

use prost::Message;
use proto::etcdserverpb::{AlarmRequest, AlarmResponse, ResponseHeader};

use crate::ctl::Until;
use crate::script::Script;

const FORMATS: [&str; 5] = ["simple", "json", "fields", "table", "protobuf"];

/// Leases, members, alarms, downgrades and what ignores the format.
pub async fn formats(s: &mut Script) -> anyhow::Result<()> {
    for format in FORMATS {
        s.ctl(&format!("ctl/f put -w {format}"), &["put", "k", format, "-w", format]).await?;
        s.ctl(&format!("ctl/f txn get -w {format}"), &["get", "k", "nothing", "-w", format]).await?;
        s.ctl(&format!("ctl/f del -w {format}"), &["del", "k", "-w", format]).await?;
        s.ctl_with(&format!("ctl/f txn -w {format}"), &["txn", "-w", format], &[], "\nput a 1\n\n\n").await?;
    }
    for format in FORMATS {
        lease(s, format).await?;
    }
    for (number, format) in FORMATS.into_iter().enumerate() {
        member(s, number, format).await?;
    }
    for format in FORMATS {
        alarm(s, format).await?;
    }
    for format in FORMATS {
        s.ctl_quiet(&["put", "compacted", format], &[], "").await?;
        let revision = s.ctl_quiet(&["get", "compacted", "-w", "json"], &[], "").await?.stdout;
        let revision: serde_json::Value = serde_json::from_str(&revision)?;
        let revision = revision["header"]["revision"].to_string();
        s.ctl(&format!("ctl/f compaction -w {format}"), &["compaction", &revision, "-w", format]).await?;
        for words in [&["downgrade", "validate", "3.4"][..], &["downgrade", "cancel"]] {
            let name = format!("ctl/f {} -w {format}", words.join(" "));
            s.ctl(&name, &[words, &["-w", format]].concat()).await?;
        }
        let version = s.ctl_quiet(&["version", "-w", format], &[], "").await?;
        s.note(&format!("ctl/f version -w {format}"), &version.stdout.lines().count().to_string());
    }
    let own = format!("{:x}", s.member_id);
    s.ctl("ctl/f move-leader to itself", &["move-leader", &own]).await?;
    Ok(())
}

async fn lease(s: &mut Script, format: &str) -> anyhow::Result<()> {
    let granted = s.ctl_quiet(&["lease", "grant", "700", "-w", format], &[], "").await?;
    let list = s.ctl_quiet(&["lease", "list"], &[], "").await?.stdout;
    let id = list.lines().nth(1).unwrap_or_default().to_owned();
    s.normaliser.replace_id(u64::from_str_radix(&id, 16)?, "<lease>");
    let text = match format {
        "protobuf" => format!("{:#?}\n", ResponseHeader::decode(&granted.raw[..])),
        _ => granted.stdout.clone(),
    };
    s.note(
        &format!("ctl/f lease grant -w {format}"),
        &format!("{}\n{text}{}", granted.code, granted.messages()),
    );
    for (what, words) in
        [("list", vec!["lease", "list"]), ("keep-alive", vec!["lease", "keep-alive", "--once", &id])]
    {
        let ran = s.ctl_quiet(&[&words[..], &["-w", format]].concat(), &[], "").await?;
        let text = match format {
            // Nothing but a header.
            "protobuf" => format!("{:#?}\n", ResponseHeader::decode(&ran.raw[..])),
            _ => ran.stdout.clone(),
        };
        s.note(
            &format!("ctl/f lease {what} -w {format}"),
            &format!("{}\n{text}{}", ran.code, ran.messages()),
        );
    }
    let ran = s.ctl_quiet(&["lease", "timetolive", &id, "-w", format], &[], "").await?;
    // One second may have passed.
    let text = ran.stdout.replace("699", "700");
    if format != "protobuf" {
        s.note(
            &format!("ctl/f lease timetolive -w {format}"),
            &format!("{}\n{text}{}", ran.code, ran.messages()),
        );
    }
    s.ctl(&format!("ctl/f lease revoke -w {format}"), &["lease", "revoke", &id, "-w", format]).await?;
    Ok(())
}

async fn member(s: &mut Script, number: usize, format: &str) -> anyhow::Result<()> {
    let url = format!("http://127.0.0.1:{}", number + 1);
    let add = ["member", "add", "n", "--learner", "--peer-urls", &url, "-w", format];
    let added = s.ctl_quiet(&add, &[], "").await?;
    let list = s.ctl_quiet(&["member", "list"], &[], "").await?.stdout;
    let line = list.lines().find(|line| line.contains("unstarted")).unwrap_or_default();
    let id = line.split(',').next().unwrap_or_default().to_owned();
    s.normaliser.replace_id(u64::from_str_radix(&id, 16)?, "<new>");
    let text = match format {
        "protobuf" => "a message\n".to_owned(),
        // Members come in the order of their ids.
        "simple" => unpadded(&added.stdout).lines().map(|line| sorted(line) + "\n").collect(),
        "json" => format!("{} members\n", added.stdout.matches("\"ID\"").count()),
        _ => added.stdout.clone(),
    };
    s.note(&format!("ctl/f member add -w {format}"), &format!("{}\n{text}{}", added.code, added.messages()));
    // The order of members follows their ids, which differ from run to run: only the new one is shown.
    let new_alone =
        |text: &str| text.lines().filter(|line| line.contains(&id)).collect::<Vec<_>>().join("\n");
    let listed = s.ctl_quiet(&["member", "list", "-w", "simple"], &[], "").await?;
    s.note(&format!("ctl/f member list with the new one, {format}"), &new_alone(&listed.stdout));
    s.ctl(&format!("ctl/f member promote -w {format}"), &["member", "promote", &id, "-w", format]).await?;
    for (what, words) in [
        ("update", vec!["member", "update", &id, "--peer-urls", "http://127.0.0.1:77"]),
        ("remove", vec!["member", "remove", &id]),
    ] {
        let ran = s.ctl_quiet(&[&words[..], &["-w", format]].concat(), &[], "").await?;
        let text = match (format, what) {
            ("protobuf", _) => "a message\n".to_owned(),
            // Both members, in the order of their ids.
            ("json", "update") => format!("{} members\n", ran.stdout.matches("\"ID\"").count()),
            _ => unpadded(&ran.stdout),
        };
        s.note(
            &format!("ctl/f member {what} -w {format}"),
            &format!("{}\n{text}{}", ran.code, ran.messages()),
        );
    }
    Ok(())
}

/// An id of fifteen digits or fewer is padded to sixteen.
fn unpadded(text: &str) -> String {
    let mut words = text.splitn(2, ' ');
    match (words.next(), words.next()) {
        (Some("Member"), Some(rest)) => format!("Member {}", rest.trim_start()),
        _ => text.to_owned(),
    }
}

/// A line with the parts of a list in quotes in order.
fn sorted(line: &str) -> String {
    let Some((name, list)) = line.split_once("=\"") else { return line.to_owned() };
    let mut parts: Vec<_> = list.trim_end_matches('"').split(',').collect();
    parts.sort_by_key(|part| !part.starts_with("m1="));
    format!("{name}=\"{}\"", parts.join(","))
}

async fn alarm(s: &mut Script, format: &str) -> anyhow::Result<()> {
    let request = AlarmRequest { action: 1, member_id: s.member_id, alarm: 1 };
    let path = "/etcdserverpb.Maintenance/Alarm";
    let name = format!("ctl/f alarm raised for {format}");
    let raised = s.call_blurred::<AlarmResponse>(&name, path, &request, |_| {}).await;
    raised.map_err(|status| anyhow::anyhow!("{status}"))?;
    alarm_shown(s, "list", format).await?;
    s.ctl(&format!("ctl/f put while full, {format}"), &["put", "k", "v"]).await?;
    s.ctl(&format!("ctl/f health while full, {format}"), &["endpoint", "health", "-w", format]).await?;
    alarm_shown(s, "disarm", format).await?;
    s.ctl(&format!("ctl/f no alarm -w {format}"), &["alarm", "list", "-w", format]).await?;
    Ok(())
}

async fn alarm_shown(s: &mut Script, what: &str, format: &str) -> anyhow::Result<()> {
    let ran = s.ctl_quiet(&["alarm", what, "-w", format], &[], "").await?;
    let text = match AlarmResponse::decode(&ran.raw[..]) {
        Ok(answer) if format == "protobuf" => format!("{:#?}\n", answer.alarms),
        _ => ran.stdout.clone(),
    };
    // What a panic says differs from run to run.
    let messages = if ran.code == 2 { "panic".to_owned() } else { ran.messages() };
    s.note(&format!("ctl/f alarm {what} -w {format}"), &format!("{}\n{text}{messages}", ran.code));
    Ok(())
}

/// Commands that go on until they are told to stop.
pub async fn endless(s: &mut Script) -> anyhow::Result<()> {
    for (format, lines) in [("simple", 2), ("json", 1), ("fields", 12)] {
        for (what, words) in [
            ("lock", vec!["lock", "held", "-w", format]),
            ("elect", vec!["elect", "chosen", "me", "-w", format]),
        ] {
            let ran = s.ctl_until(&words, "", Until::Lines(lines)).await?;
            let text: Vec<_> = ran.stdout.lines().map(without_lease).collect();
            s.note(&format!("ctl/e {what} -w {format}"), &format!("exit {}\n{}", ran.code, text.join("\n")));
        }
        s.ctl_quiet(&["put", "w", "1"], &[], "").await?;
        let watch = ["watch", "w", "--rev", "1", "-w", format];
        let ran = s.ctl_until(&watch, "", Until::Lines(1)).await?;
        s.note(
            &format!("ctl/e watch -w {format}"),
            &format!("exit {}\n{}", ran.code, ran.stdout.lines().next().unwrap_or_default()),
        );
    }
    s.ctl("ctl/e lock -w table", &["lock", "held", "-w", "table"]).await?;
    s.ctl("ctl/e watch -w table", &["watch", "w", "--rev", "1", "-w", "table"]).await?;
    let ran = s.ctl_until(&["lease", "keep-alive", "12345"], "", Until::End).await?;
    s.note("ctl/e keep-alive of nothing", &format!("exit {}\n{}\n{}", ran.code, ran.stdout, ran.messages()));
    for (name, input) in [
        ("words", "foo\n\nwatch\nwatch x y --prefix\nprogres\nwatch k -- \n"),
        ("an unknown flag", "watch --bogus k\n"),
        ("a bad number", "watch k --rev x\n"),
        ("nothing", ""),
    ] {
        s.ctl_with(&format!("ctl/e watch -i, {name}"), &["watch", "-i"], &[], input).await?;
    }
    let input = "watch w --rev 1\n";
    let ran = s.ctl_until(&["watch", "-i"], input, Until::Lines(3)).await?;
    let head: Vec<_> = ran.stdout.lines().take(3).collect();
    s.note("ctl/e watch -i, events", &head.join("\n"));
    Ok(())
}

/// The id of a lease behind the name of a lock or an election.
fn without_lease(line: &str) -> String {
    match line.split_once("held/").or_else(|| line.split_once("chosen/")) {
        Some((before, after)) => {
            let digits = after.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(after.len());
            format!("{before}<name>/<lease>{}", &after[digits..])
        }
        // In JSON the key is base64; revisions and leases differ.
        None if line.starts_with('{') => {
            let value: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
            let names: Vec<_> =
                value["kvs"][0].as_object().map(|kv| kv.keys().cloned().collect()).unwrap_or_default();
            format!("{} {}", names.join(","), value["count"])
        }
        None if line.contains("Lease\" : ") => "\"Lease\" : <lease>".to_owned(),
        None => line.to_owned(),
    }
}

/// What scripts get wrong.
pub async fn mistakes(s: &mut Script) -> anyhow::Result<()> {
    for key in ["a", "b", "c", "d"] {
        s.ctl_quiet(&["put", key, "v"], &[], "").await?;
    }
    let commands: &[&[&str]] = &[
        &["put", "k", "v", "extra", "words"],
        &["put"],
        &["get", "a", "b", "c"],
        &["del", "a", "c"],
        &["get", "k", "--limit", "x"],
        &["get", "k", "--rev=-1"],
        &["get", "k", "--sort-by=KEY", "--order="],
        &["get", "a", "--keys-only", "--count-only"],
        &["get", "a", "--print-value-only", "-w", "json"],
        &["get", "a", "--print-value-only", "-w", "fields"],
        &["get", "a", "--keys-only", "-w", "json"],
        &["compaction", "1", "2"],
        &["compaction", "--", "-1"],
        &["lease", "grant", "1", "2"],
        &["lease", "timetolive"],
        &["lease", "revoke", "1", "2"],
        &["lease", "keep-alive", "zz"],
        &["lease", "list", "extra"],
        &["member", "add"],
        &["member", "add", "n"],
        &["member", "add", "n", "http://x:1"],
        &["member", "add", "n", "m", "--peer-urls=http://x:1"],
        &["member", "add", "n", "--peer-urls=foo"],
        &["member", "add", "n", "--peer-urls="],
        &["member", "remove"],
        &["member", "remove", "zz"],
        &["member", "remove", "123"],
        &["member", "update"],
        &["member", "update", "123"],
        &["member", "update", "123", "--peer-urls=http://x:1"],
        &["member", "update", "zz", "--peer-urls=http://x:1"],
        &["member", "promote"],
        &["member", "promote", "123"],
        &["member", "promote", "zz"],
        &["member", "list", "extra"],
        &["move-leader", "1", "2"],
        &["move-leader", "123"],
        &["alarm", "list", "extra"],
        &["alarm", "disarm", "extra"],
        &["endpoint", "hashkv", "--rev", "100000"],
        &["endpoint", "health", "-w", "protobuf"],
        &["endpoint", "status", "-w", "protobuf"],
        &["endpoint", "hashkv", "-w", "protobuf"],
        &["endpoint", "hashkv", "-w", "nosuch"],
        &["downgrade", "validate"],
        &["downgrade", "validate", "x"],
        &["downgrade", "validate", "3.9"],
        &["downgrade", "enable"],
        &["downgrade", "enable", "3.3"],
        &["snapshot", "save", "a", "b"],
        &["snapshot", "save", "/nosuch/directory/file"],
        &["lock", "l", "--ttl", "x"],
        &["elect"],
        &["elect", "e", "-l", "p"],
        &["elect", "e", "p", "q"],
        &["watch", "k", "e", "--prefix"],
        &["watch", "k", "--rev", "x"],
        &["make-mirror"],
        &["make-mirror", "x", "y"],
        &["make-mirror", "--dest-prefix=p", "--no-dest-prefix", "127.0.0.1:1"],
        &["make-mirror", "127.0.0.1:1", "--max-txn-ops", "x"],
        &["check", "perf", "--load=zz"],
        &["check", "datascale", "--load=zz"],
        &["check", "perf", "--prefix=d"],
        &["check", "datascale", "--prefix=d"],
        &["txn", "extra"],
        &["defrag", "extra"],
        &["put", "k", "v", "--user", "a:b", "--password", "c"],
        &["get", "k", "--cert", ""],
        &["get", "k", "--key", ""],
        &["get", "k", "--cacert", ""],
        &["get", "k", "--cert", "/nosuch.pem"],
        &["get", "k", "--key", "/nosuch.pem"],
        &["get", "k", "--dial-timeout", "x"],
        &["get", "k", "--command-timeout", "-1x"],
        &["get", "k", "--hex=maybe"],
        &["auth", "enable", "extra"],
        &["auth", "disable", "extra"],
        &["role", "add"],
        &["role", "get"],
        &["role", "grant-permission", "r"],
        &["role", "grant-permission", "r", "rw", "k"],
        &["role", "revoke-permission", "r"],
        &["user", "add"],
        &["user", "get"],
        &["user", "grant-role", "u"],
    ];
    for args in commands {
        let ran = s.ctl_quiet(args, &[], "").await?;
        // The usage that follows some errors is in each tool's own words.
        let messages = ran.messages();
        let errors: Vec<_> =
            messages.lines().take_while(|line| !line.is_empty() && !is_usage(line)).collect();
        let usage = ["Usage:", "USAGE:"].iter().any(|word| ran.stdout.contains(word));
        let stdout = if usage { "" } else { &ran.stdout };
        let mut text = format!("exit {}\n--- stdout\n{stdout}--- stderr\n", ran.code);
        let mut lines = errors;
        lines.dedup();
        text.push_str(&lines.join("\n"));
        s.note(&format!("ctl/m {}", args.join(" ")), &text);
    }
    Ok(())
}

fn is_usage(line: &str) -> bool {
    line.starts_with("Usage:") || line.starts_with("NAME:")
}

/// Endpoints that are not there, and variables.
pub async fn surroundings(s: &mut Script) -> anyhow::Result<()> {
    let dead = "127.0.0.1:1";
    let both = format!("{dead},{}", s.ctl.endpoint);
    let limits = ["--dial-timeout=300ms", "--command-timeout=400ms"];
    let commands: &[&[&str]] = &[
        &["put", "k", "v"],
        &["get", "k"],
        &["member", "list"],
        &["endpoint", "status"],
        &["endpoint", "hashkv"],
        &["defrag"],
        &["lease", "grant", "5"],
        &["alarm", "list"],
        &["endpoint", "health"],
        &["move-leader", "123"],
    ];
    for args in commands {
        let variables = [("ETCDCTL_ENDPOINTS", dead)];
        let words = [args, &limits[..]].concat();
        s.ctl_with(&format!("ctl/s dead: {}", args.join(" ")), &words, &variables, "").await?;
    }
    let variables = [("ETCDCTL_ENDPOINTS", both.as_str())];
    s.ctl_with("ctl/s one of two answers", &["put", "k", "v"], &variables, "").await?;
    s.ctl_with("ctl/s two for a snapshot", &["snapshot", "save", "/tmp/nosuch/x"], &variables, "").await?;
    let live = s.ctl.endpoint.clone();
    for (name, variable, value) in [
        ("a shadowed variable", "ETCDCTL_WRITE_OUT", "json"),
        ("an unparsable variable", "ETCDCTL_COMMAND_TIMEOUT", "soon"),
        ("an unknown variable", "ETCDCTL_FOO", "1"),
        ("an empty variable", "ETCDCTL_WRITE_OUT", ""),
        ("the API variable", "ETCDCTL_API", "3"),
    ] {
        let variables = [("ETCDCTL_ENDPOINTS", live.as_str()), (variable, value)];
        let shadow: &[&str] = if name == "a shadowed variable" { &["-w", "simple"] } else { &[] };
        let words = [&["get", "k", "--print-value-only"], shadow].concat();
        s.ctl_with(&format!("ctl/s {name}"), &words, &variables, "").await?;
    }
    for (name, endpoint) in [("nothing", ""), ("a comma", ","), ("a scheme", "ftp://x:1")] {
        let words = ["get", "k", "--endpoints", endpoint, "--dial-timeout=300ms", "--command-timeout=400ms"];
        let ran = s.ctl_quiet(&words, &[("ETCDCTL_ENDPOINTS", "")], "").await?;
        s.note(&format!("ctl/s endpoint is {name}"), &format!("exit {}\n{}", ran.code, ran.messages()));
    }
    let variables =
        [("ETCDCTL_ENDPOINTS", live.as_str()), ("ETCDCTL_WATCH_KEY", "k"), ("ETCDCTL_WATCH_RANGE_END", "z")];
    for words in [&["watch", "k"][..], &["watch", "k", "z"], &["watch", "--prefix"]] {
        s.ctl_with(&format!("ctl/s watch variables: {}", words.join(" ")), words, &variables, "").await?;
    }
    Ok(())
}
