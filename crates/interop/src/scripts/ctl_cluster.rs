//! etcdctl: members, endpoints, maintenance, errors of the command line itself.

use crate::script::Script;

/// member, endpoint, alarm, compaction, defrag, snapshot, move-leader, version.
pub async fn maintenance(s: &mut Script) -> anyhow::Result<()> {
    for number in 0..5 {
        s.ctl_quiet(&["put", "k", &number.to_string()], &[], "").await?;
    }
    for format in ["simple", "json", "fields", "table"] {
        s.ctl(&format!("ctl/member list -w {format}"), &["member", "list", "-w", format]).await?;
        s.ctl(&format!("ctl/endpoint health -w {format}"), &["endpoint", "health", "-w", format]).await?;
        s.ctl(&format!("ctl/endpoint hashkv -w {format}"), &["endpoint", "hashkv", "-w", format]).await?;
    }
    s.ctl("ctl/member list --hex -w json", &["member", "list", "--hex", "-w", "json"]).await?;
    s.ctl("ctl/endpoint health --cluster", &["endpoint", "health", "--cluster"]).await?;
    s.ctl("ctl/endpoint hashkv --rev", &["endpoint", "hashkv", "--rev", "4"]).await?;
    let status = s.ctl_quiet(&["endpoint", "status", "-w", "json"], &[], "").await?.stdout;
    let status: serde_json::Value = serde_json::from_str(&status)?;
    let mut fields: Vec<_> = Vec::new();
    if let Some(object) = status[0]["Status"].as_object() {
        for (name, value) in object {
            let own = ["raftIndex", "raftAppliedIndex", "dbSize", "dbSizeInUse"].contains(&name.as_str());
            fields.push(if own { format!("{name}: {}", value.is_u64()) } else { format!("{name}: {value}") });
        }
    }
    s.note("ctl/endpoint status -w json", &fields.join("\n"));
    let commands: [&[&str]; 14] = [
        &["alarm", "list"],
        &["alarm", "disarm"],
        &["compaction", "3"],
        &["compaction", "3"],
        &["compaction", "999"],
        &["compaction", "x"],
        &["compaction"],
        &["compaction", "4", "--physical"],
        &["get", "k", "--rev=2"],
        &["move-leader", "8e9e05c52164694d"],
        &["move-leader"],
        &["move-leader", "xyz"],
        &["snapshot", "save"],
        &["endpoint", "bogus"],
    ];
    for (number, args) in commands.iter().enumerate() {
        s.ctl(&format!("ctl/{number:02} {}", args.join(" ")), args).await?;
    }
    s.ctl("ctl/defrag", &["defrag"]).await?;
    let file = s.scratch.join("snapshot.db").display().to_string();
    s.ctl("ctl/snapshot save", &["snapshot", "save", &file]).await?;
    let length = std::fs::metadata(&file)?.len();
    s.note("ctl/snapshot is a database and a digest", &format!("{}", length % 4096 == 32));
    Ok(())
}

/// Flags, variables, unknown words.
pub async fn command_line(s: &mut Script) -> anyhow::Result<()> {
    s.ctl("ctl/unknown flag", &["get", "k", "--nosuch"]).await?;
    s.ctl("ctl/unknown command", &["bogus"]).await?;
    s.ctl("ctl/group with an unknown word", &["lease", "bogus"]).await?;
    s.ctl("ctl/watch without a key", &["watch"]).await?;
    s.ctl("ctl/short timeout", &["get", "k", "--command-timeout=1ns"]).await?;
    let endpoint = s.ctl.endpoint.clone();
    let variables = [("ETCDCTL_ENDPOINTS", endpoint.as_str()), ("ETCDCTL_WRITE_OUT", "json")];
    s.ctl_with("ctl/endpoints and format by variables", &["get", "k"], &variables, "").await?;
    let variables = [("ETCDCTL_ENDPOINTS", endpoint.as_str()), ("ETCDCTL_HEX", "true")];
    s.ctl_with("ctl/hex by a variable", &["put", "k", "v"], &variables, "").await?;
    s.ctl("ctl/several endpoints", &["get", "k", &format!("--endpoints={endpoint},{endpoint}")]).await?;
    s.ctl("ctl/bare endpoint", &["get", "k", "--endpoints", &s.authority.clone()]).await?;
    Ok(())
}
