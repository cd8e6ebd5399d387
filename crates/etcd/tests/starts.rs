//! Starts that end by themselves, side by side with what etcd 3.7.1 said and returned.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Output};

use serde_json::Value;

const GOLDEN: &str = include_str!("data/starts-3.7.1.jsonl");

/// Files for which we differ, and why.
const DIFFERENT: [(&str, &str); 3] = [
    (
        "name: yes\n",
        "a plain word of YAML 1.1 for true; read as text here, because quotes cannot be told from none",
    ),
    ("a: *x\n", "an unknown anchor; refused too, but the parser underneath does not tell its name"),
    ("name: n\n", "as in the first line"),
];

struct Start {
    args: Vec<String>,
    variables: BTreeMap<String, String>,
    file: Option<String>,
}

fn run(start: &Start) -> Output {
    let dir = tempfile::tempdir().expect("a directory");
    if let Some(text) = &start.file {
        fs::write(dir.path().join("f.yml"), text).expect("the configuration file");
    }
    Command::new(env!("CARGO_BIN_EXE_etcd"))
        .args(&start.args)
        .current_dir(dir.path())
        .env_clear()
        .envs(&start.variables)
        .output()
        .expect("the program")
}

/// Stderr in the form of the golden file.
fn lines(output: &Output) -> Vec<Value> {
    let mut lines = Vec::new();
    for line in String::from_utf8_lossy(&output.stderr).lines() {
        if line.starts_with("Usage") {
            lines.push("USAGE".into());
            break;
        }
        if !line.starts_with('{') {
            lines.push(line.into());
            continue;
        }
        let mut record: Value = serde_json::from_str(line).expect("a record");
        let object = record.as_object_mut().expect("an object");
        assert!(object.get("ts").is_some() && object.get("caller").is_some(), "{line}");
        object.shift_remove("ts");
        object.shift_remove("caller");
        if let Some(program) = object.get_mut("args").and_then(|args| args.get_mut(0)) {
            *program = "X".into();
        }
        lines.push(record);
    }
    lines
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(|text| text.as_str().expect("a text").to_owned()).collect()
}

#[test]
fn every_refused_start_reads_like_upstream() {
    let mut faults = Vec::new();
    for line in GOLDEN.lines() {
        let golden: Value = serde_json::from_str(line).expect("a line of the golden file");
        let variables = golden["env"].as_object().expect("variables");
        let start = Start {
            args: texts(&golden["args"]),
            variables: variables
                .iter()
                .map(|(key, value)| (key.clone(), value.as_str().expect("a text").to_owned()))
                .collect(),
            file: golden["file"].as_str().map(str::to_owned),
        };
        let known = |file: &String| DIFFERENT.iter().any(|(text, _)| file == text || file.ends_with(text));
        if start.file.as_ref().is_some_and(known) {
            continue;
        }
        let output = run(&start);
        let (status, got) = (output.status.code(), lines(&output));
        let mut want: Vec<Value> = golden["stderr"].as_array().expect("stderr").clone();
        for record in &mut want {
            // Known difference K39: secrets stay out of the log.
            if record["variable-name"].as_str().is_some_and(|name| name.contains("PASSWORD")) {
                record["variable-value"] = "***".into();
            }
        }
        // Serialised: the order of fields counts.
        let text = |lines: &[Value]| lines.iter().map(Value::to_string).collect::<Vec<_>>().join("\n  ");
        if status != golden["status"].as_i64().map(|status| status as i32) || text(&got) != text(&want) {
            faults.push(format!("{line}\n got {status:?}\n  {}\n want\n  {}", text(&got), text(&want)));
        }
    }
    assert!(faults.is_empty(), "{} starts differ\n{}", faults.len(), faults.join("\n\n"));
}

fn plain(args: &[&str]) -> Output {
    run(&Start {
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        variables: BTreeMap::new(),
        file: None,
    })
}

#[test]
fn version_and_help_leave_with_0() {
    let output = plain(&["--version"]);
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success() && output.stderr.is_empty());
    assert!(text.starts_with("etcd Version: 3.7.1\nGit SHA: "), "{text}");
    assert_eq!(text.lines().count(), 5);
    for flag in ["--help", "-help", "-h", "--h"] {
        let output = plain(&[flag]);
        assert!(output.status.success());
        assert!(output.stderr.starts_with(b"Usage:\n"));
        assert!(output.stdout.starts_with(b"\nMember:\n  --name 'default'\n"));
    }
    let output = plain(&["--compat-version=3.5", "--version"]);
    assert!(output.stdout.starts_with(b"etcd Version: 3.5.30\n"));
}

#[test]
fn what_no_longer_exists_is_refused_by_name() {
    for (args, want) in [
        (
            &["--discovery=http://x"][..],
            "invalid value \"http://x\" for flag -discovery: v2 discovery no longer exists",
        ),
        (&["--enable-v2"], "invalid boolean value \"true\" for -enable-v2: the v2 API no longer exists"),
    ] {
        let output = plain(args);
        assert!(!output.status.success());
        let text = String::from_utf8(output.stderr).expect("text").replace("\\\"", "\"");
        assert!(text.contains(want), "{args:?}: {text}");
    }
}

#[test]
fn tls_that_cannot_work_is_refused() {
    let discovery = "discovery failed";
    for (args, record, want) in [
        (
            &["--listen-client-urls=https://127.0.0.1:1", "--advertise-client-urls=https://127.0.0.1:1"][..],
            discovery,
            "TLS key/cert (--cert-file, --key-file) must be provided for client url https://127.0.0.1:1 with HTTPS scheme",
        ),
        (&["--cipher-suites=TLS_X"], discovery, "unexpected TLS cipher suite \"TLS_X\""),
        (&["--cipher-suites=TLS_RSA_WITH_RC4_128_SHA"], discovery, "is not offered"),
        (
            &["--listen-metrics-urls=https://127.0.0.1:1"],
            discovery,
            "client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url",
        ),
        (
            &["--cert-file=/nowhere/c.pem", "--key-file=/nowhere/k.pem"],
            "listener failed",
            "open /nowhere/c.pem: no such file or directory",
        ),
        (
            &["--cert-file=c.pem", "--key-file=k.pem", "--client-cert-file=d.pem"],
            "listener failed",
            "ClientKeyFile and ClientCertFile must both be present or both absent: key: , cert: d.pem]",
        ),
        (
            &["--listen-client-urls=http://127.0.0.1:1", "--listen-client-http-urls=https://127.0.0.1:1"],
            discovery,
            "TLS key/cert",
        ),
        (
            &[
                "--listen-client-urls=http://127.0.0.1:1",
                "--advertise-client-urls=http://127.0.0.1:1",
                "--listen-peer-urls=http://127.0.0.1:0",
                "--listen-client-http-urls=http://127.0.0.1:1",
            ],
            discovery,
            "cannot bind both --listen-client-urls and --listen-client-http-urls on the same url http://127.0.0.1:1",
        ),
        (
            &["--auto-tls", "--self-signed-cert-validity=0"],
            "failed to get client self-signed certs",
            "selfSignedCertValidity is invalid,it should be greater than 0",
        ),
    ] {
        let mut args = args.to_vec();
        if !args.iter().any(|arg| arg.starts_with("--advertise-client-urls")) {
            args.push("--advertise-client-urls=http://127.0.0.1:1");
        }
        let output = plain(&args);
        assert_eq!(output.status.code(), Some(1));
        let text = String::from_utf8(output.stderr).expect("text").replace("\\\"", "\"");
        let last = text.lines().last().unwrap_or_default();
        assert!(last.contains(record) && last.contains(want), "{args:?}: {text}");
    }
}
