//! `etcd gateway` and `etcd grpc-proxy` that end by themselves: texts, where they go, exit statuses, as
//! etcd 3.7.1 has them.

use std::process::{Command, Output};

fn run(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_etcd"));
    command.args(args).env_clear().output().expect("the program starts")
}

/// Standard error without log records.
fn messages(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    text.lines().filter(|line| !line.starts_with('{')).map(|line| format!("{line}\n")).collect()
}

fn check(args: &[&str], stdout: &str, stderr: &str) {
    let output = run(args);
    assert_eq!(output.status.code(), Some(1), "{args:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), stdout, "{args:?}");
    assert_eq!(messages(&output), stderr, "{args:?}");
}

#[test]
fn addresses_of_a_gateway_that_make_no_sense() {
    // The first has no newline in etcd either.
    check(&["gateway", "start", "--endpoints=x"], "error parsing endpoint \"x\"", "");
    check(&["gateway", "start", "extra", "--endpoints=http://x/y"], "error parsing endpoint \"x\"", "");
    for (args, text) in [
        (&["--listen-addr=nohost"][..], "failed to validate listen address: nohost"),
        (&["--listen-addr=nosuch.invalid:1"], "failed to resolve listen host: nosuch.invalid"),
        (&["--endpoints=nosuch.invalid:1"], "failed to resolve endpoint host: nosuch.invalid"),
        (&["--endpoints="], "no endpoints found"),
        (
            &["--listen-addr=127.0.0.1:4001", "--endpoints=127.0.0.1:4000,localhost:4001"],
            "SRV or endpoint (localhost:4001->127.0.0.1:4001) should not resolve to the gateway listen addr (127.0.0.1:4001)",
        ),
    ] {
        check(&[&["gateway", "start"], args].concat(), &format!("{text}\n"), "");
    }
}

#[test]
fn flags_of_a_proxy_that_do_not_hold_together() {
    for (args, text) in [
        (&["--resolver-prefix=a"][..], "invalid resolver-ttl 0"),
        (&["--resolver-ttl=5"], "invalid resolver-prefix \"\""),
        (
            &["--resolver-prefix=a", "--resolver-ttl=1", "--advertise-client-url="],
            "invalid advertise-client-url \"\"",
        ),
        (
            &["--auto-tls", "--self-signed-cert-validity=0"],
            "selfSignedCertValidity is invalid,it should be greater than 0",
        ),
        (
            &["--tls-min-version=x"],
            "tls-min-version is invalid: unexpected TLS version \"x\" (must be one of: TLS1.2, TLS1.3)",
        ),
        (
            &["--tls-max-version=y"],
            "tls-max-version is invalid: unexpected TLS version \"y\" (must be one of: TLS1.2, TLS1.3)",
        ),
        (
            &["--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"],
            "min version (TLS1.3) is greater than max version (TLS1.2)",
        ),
        (
            &["--tls-min-version=TLS1.3", "--listen-cipher-suites=TLS_AES_128_GCM_SHA256"],
            "cipher suites cannot be configured when only TLS1.3 is enabled",
        ),
        (
            &["--listen-addr=127.0.0.1:0", "--max-recv-bytes=10"],
            "gRPC message recv limit (10 bytes) must be greater than send limit (1572864 bytes)",
        ),
        (&["--listen-addr=127.0.0.1:0", "--metrics-addr=x"], "cannot parse \"x\""),
        (&["--listen-addr=127.0.0.1:0", "--cert=gone", "--key=gone"], "open gone: no such file or directory"),
    ] {
        check(&[&["grpc-proxy", "start"], args].concat(), "", &format!("{text}\n"));
    }
}

#[test]
fn a_listener_without_its_key_is_fatal() {
    let output = run(&["grpc-proxy", "start", "--listen-addr=127.0.0.1:0", "--trusted-ca-file=x"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    let last = text.lines().last().expect("a record");
    assert!(last.contains(r#""level":"fatal""#) && last.contains("failed to create TLS listener"), "{text}");
}

#[test]
fn command_lines_are_read_as_cobra_reads_them() {
    for args in
        [&["gateway"][..], &["gateway", "--help"], &["gateway", "nonsense"], &["gateway", "start", "-h"]]
    {
        let output = run(args);
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(text.contains("\nUsage:\n  etcd gateway ") && output.stderr.is_empty(), "{args:?}: {text}");
    }
    let help = String::from_utf8(run(&["grpc-proxy", "start", "--help"]).stdout).expect("text");
    assert!(help.contains("\n      --max-concurrent-streams uint32 "), "{help}");
    let fault = "unknown flag: --bogus";
    let output = run(&["gateway", "start", "--bogus"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(text.starts_with(&format!("Error: {fault}\nUsage:\n  etcd gateway start [flags]\n")), "{text}");
    assert!(text.ends_with(&format!("\n\n{fault}")), "{text}");
    let output = run(&["grpc-proxy", "start", "--max-concurrent-streams=4294967296"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        text.starts_with(
            "Error: invalid argument \"4294967296\" for \"--max-concurrent-streams\" flag: strconv.ParseUint: parsing \"4294967296\": value out of range\n"
        ),
        "{text}"
    );
}
