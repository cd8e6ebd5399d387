//! etcdctl: put, get, del, txn, lease, watch, in all formats.

use crate::script::Script;

const FORMATS: [&str; 4] = ["simple", "json", "fields", "protobuf"];

/// put, get, del.
pub async fn keys(s: &mut Script) -> anyhow::Result<()> {
    s.ctl("ctl/put", &["put", "foo", "bar"]).await?;
    s.ctl_with("ctl/put from input", &["put", "piped"], &[], "line 1\nline 2\n").await?;
    s.ctl("ctl/put without a value", &["put", "foo"]).await?;
    s.ctl("ctl/put a dash", &["put", "dash", "--", "-v"]).await?;
    s.ctl("ctl/put with a bad lease", &["put", "a", "b", "--lease=zz"]).await?;
    s.ctl("ctl/put with an unknown lease", &["put", "a", "b", "--lease=1234"]).await?;
    s.ctl("ctl/put ignoring the value", &["put", "foo", "--ignore-value"]).await?;
    s.ctl("ctl/put ignoring a given value", &["put", "foo", "x", "--ignore-value"]).await?;
    s.ctl("ctl/put to an empty key", &["put", "", "x"]).await?;
    s.ctl("ctl/put special bytes", &["put", "sp\ta", "tab\tquote\"nl\n\u{e9}"]).await?;
    for (number, key) in ["a1", "a2", "a3", "b1"].iter().enumerate() {
        s.ctl_quiet(&["put", key, &number.to_string()], &[], "").await?;
    }
    for format in FORMATS {
        s.ctl(&format!("ctl/put -w {format}"), &["put", "foo", format, "--prev-kv", "-w", format]).await?;
        s.ctl(&format!("ctl/get -w {format}"), &["get", "foo", "-w", format]).await?;
        s.ctl(&format!("ctl/get special -w {format}"), &["get", "sp\ta", "-w", format]).await?;
        s.ctl(&format!("ctl/get a range -w {format}"), &["get", "a", "b", "--limit=2", "-w", format]).await?;
        s.ctl(&format!("ctl/get nothing -w {format}"), &["get", "nosuch", "-w", format]).await?;
        s.ctl(&format!("ctl/get --hex -w {format}"), &["get", "foo", "--hex", "-w", format]).await?;
        s.ctl(&format!("ctl/del nothing -w {format}"), &["del", "nosuch", "-w", format]).await?;
        s.ctl_quiet(&["put", "gone", "v"], &[], "").await?;
        s.ctl(&format!("ctl/del -w {format}"), &["del", "gone", "--prev-kv", "-w", format]).await?;
    }
    let gets: [&[&str]; 24] = [
        &["get", "--prefix", "a"],
        &["get", "--from-key", "a2"],
        &["get", "--prefix", ""],
        &["get", "a1", "a3"],
        &["get", "--prefix", "a", "--keys-only"],
        &["get", "--prefix", "a", "--print-value-only"],
        &["get", "--prefix", "a", "--order=DESCEND"],
        &["get", "--prefix", "a", "--order=descend", "--sort-by=value"],
        &["get", "--prefix", "a", "--sort-by=MODIFY", "--order=DESCEND"],
        &["get", "--prefix", "a", "--sort-by=bad"],
        &["get", "--prefix", "a", "--order=bad"],
        &["get", "--prefix", "a", "--consistency=s"],
        &["get", "--prefix", "a", "--consistency=x"],
        &["get", "--prefix", "a", "--rev=3"],
        &["get", "--prefix", "a", "--rev=9000"],
        &["get", "--prefix", "a", "--count-only"],
        &["get", "--prefix", "a", "--count-only", "-w", "fields"],
        &["get", "--prefix", "--from-key", "a"],
        &["get", "a", "b", "--prefix"],
        &["get"],
        &["get", ""],
        &["get", "foo", "-w", "table"],
        &["get", "foo", "-w", "nosuch"],
        &["get", "foo", "--hex"],
    ];
    for args in gets {
        s.ctl(&format!("ctl/{}", args.join(" ")), args).await?;
    }
    let deletions: [&[&str]; 5] = [
        &["del", "--prefix", "a1"],
        &["del", "--from-key", "zzz"],
        &["del"],
        &["del", "--prefix", "--from-key", "x"],
        &["del", "a2", "a9", "--range"],
    ];
    for args in deletions {
        s.ctl(&format!("ctl/{}", args.join(" ")), args).await?;
    }
    Ok(())
}

/// txn from standard input.
pub async fn txns(s: &mut Script) -> anyhow::Result<()> {
    s.ctl_quiet(&["put", "foo", "bar"], &[], "").await?;
    let inputs = [
        (
            "success",
            "ver(\"foo\") = \"1\"\nvalue(\"foo\") = \"bar\"\n\nput a \"x y\"\nget foo\n\nput b 2\n\n",
        ),
        ("failure", "mod(\"foo\") > \"1000\"\n\nput a 1\n\nget a\ndel a --prev-kv\n\n"),
        ("no compare", "\nput c 'single quoted'\nget c\n\n\n"),
        (
            "all targets",
            "c(\"foo\") > \"0\"\nm(\"foo\") != \"0\"\nval(\"foo\") < \"z\"\n\nget --prefix f\n\n\n",
        ),
        ("empty", "\n\n\n"),
        ("malformed compare", "foo\n\n\n\n"),
        ("unknown target", "bad(\"foo\") > \"1\"\n\n\n\n"),
        ("number expected", "mod(\"foo\") > \"x\"\n\n\n\n"),
        ("unknown request", "\nlease grant 10\n\n\n"),
        ("end of input", "ver(\"foo\") = \"1\"\n\nput a 1\n"),
        ("duplicate key", "\nput a 1\nput a 2\n\n\n"),
    ];
    for (name, input) in inputs {
        s.ctl_with(&format!("ctl/txn, {name}"), &["txn"], &[], input).await?;
    }
    for format in FORMATS {
        let input = "ver(\"foo\") > \"0\"\n\nput a 1\nget foo\ndel nosuch\n\nget foo\n\n";
        s.ctl_with(&format!("ctl/txn -w {format}"), &["txn", "-w", format], &[], input).await?;
        let input = "ver(\"foo\") = \"0\"\n\n\nget foo\n\n";
        s.ctl_with(&format!("ctl/txn failing -w {format}"), &["txn", "-w", format], &[], input).await?;
    }
    s.ctl_with("ctl/txn -i", &["txn", "-i"], &[], "\nput a 1\n\n\n").await?;
    s.ctl("ctl/txn with an argument", &["txn", "x"]).await?;
    Ok(())
}

/// lease and its formats.
pub async fn leases(s: &mut Script) -> anyhow::Result<()> {
    let granted = s.ctl_quiet(&["lease", "grant", "600"], &[], "").await?.stdout;
    let id = granted.split(' ').nth(1).unwrap_or_default().to_owned();
    let number = u64::from_str_radix(&id, 16)?;
    s.normaliser.replace_id(number, "<lease>");
    s.note("ctl/lease granted", &granted);
    s.ctl("ctl/put with the lease", &["put", "leased", "1", "--lease", &id]).await?;
    s.ctl("ctl/get with a lease as json", &["get", "leased", "-w", "json"]).await?;
    s.ctl("ctl/get with a lease as fields", &["get", "leased", "-w", "fields"]).await?;
    for format in ["simple", "json"] {
        let ran = s.ctl_quiet(&["lease", "timetolive", &id, "--keys", "-w", format], &[], "").await?;
        // One second may have passed.
        let text = ran.stdout.replace("(599s)", "(600s)").replace("\"ttl\":599", "\"ttl\":600");
        s.note(&format!("ctl/lease timetolive -w {format}"), &text);
        s.ctl(&format!("ctl/lease list -w {format}"), &["lease", "list", "-w", format]).await?;
        s.ctl(
            &format!("ctl/lease keep-alive --once -w {format}"),
            &["lease", "keep-alive", "--once", &id, "-w", format],
        )
        .await?;
    }
    let faults: [&[&str]; 10] = [
        &["lease", "grant"],
        &["lease", "grant", "x"],
        &["lease", "revoke", "zz"],
        &["lease", "revoke", "12345"],
        &["lease", "timetolive", "12345"],
        &["lease", "timetolive", "zz"],
        &["lease", "keep-alive", "--once", "12345"],
        &["lease", "keep-alive"],
        &["lease", "grant", "9999999999"],
        &["lease", "revoke"],
    ];
    for args in faults {
        s.ctl(&format!("ctl/{}", args.join(" ")), args).await?;
    }
    s.ctl("ctl/lease revoked", &["lease", "revoke", &id]).await?;
    s.ctl("ctl/the key went with it", &["get", "leased"]).await?;
    Ok(())
}
