//! Walks the table of etcd's server settings and proves each row, or says why not.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use server::config::table::{SETTINGS, Setting, Slot, flag};
use server::config::{Config, Failure, Loaded, Outcome, load};
use server::log::Level;

const TABLE: &str = include_str!("data/server-flags.tsv");

struct Row<'t> {
    kind: &'t str,
    name: &'t str,
    env: &'t str,
    yaml_key: &'t str,
    kind_of_value: &'t str,
    default: &'t str,
    status: &'t str,
    meaning: &'t str,
    notes: &'t str,
}

fn rows(kind: &str) -> Vec<Row<'static>> {
    let rows: Vec<Row<'_>> = TABLE
        .lines()
        .skip(1)
        .map(|line| {
            let cells: Vec<&str> = line.split('\t').collect();
            assert_eq!(cells.len(), 12, "{line}");
            Row {
                kind: cells[0],
                name: cells[1],
                env: cells[2],
                yaml_key: cells[3],
                kind_of_value: cells[4],
                default: cells[5],
                status: cells[9],
                meaning: cells[10],
                notes: cells[11],
            }
        })
        .filter(|row| row.kind == kind)
        .collect();
    assert!(!rows.is_empty(), "no rows of kind {kind}");
    rows
}

fn start(words: &[&str], variables: &[(&str, &str)], file: &str) -> Loaded {
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    let variables: Vec<(String, String)> =
        variables.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let read = |path: &Path| match path.to_str() {
        Some("f.yml") => Ok(file.as_bytes().to_vec()),
        _ => Err(io::Error::from_raw_os_error(2)),
    };
    match load(&words, &variables, &read) {
        Outcome::Start(loaded) => *loaded,
        other => panic!("{words:?} gives {other:?}"),
    }
}

fn from_file(text: &str) -> Loaded {
    start(&["--config-file=f.yml"], &[], text)
}

/// A value other than the default that this kind of setting accepts: as flag, in the file, as text.
fn sample(setting: &Setting) -> (&'static str, &'static str, &'static str) {
    match &setting.slot {
        Slot::Bool(_) if setting.text(&Config::default()) == "true" => ("false", "false", "false"),
        Slot::Bool(_) => ("T", "true", "true"),
        Slot::Uint(_) | Slot::Uint64(_) | Slot::Uint32(_) | Slot::Int(_) | Slot::Int64(_) => {
            ("0x1_9", "25", "25")
        }
        Slot::Duration(_) => ("7m", "420000000000", "7m0s"),
        Slot::Urls(_) => (
            "http://10.0.0.2:9,http://10.0.0.1:9",
            "http://10.0.0.2:9,http://10.0.0.1:9",
            "http://10.0.0.1:9,http://10.0.0.2:9",
        ),
        Slot::Origins(_) => ("http://b:1,http://a:1", "http://b:1,http://a:1", "http://a:1,http://b:1"),
        Slot::Names(_) => ("b,a,b", "b,a,b", "a,b"),
        Slot::SortedList(_) | Slot::List(_) => ("a,b", "[a, b]", "a,b"),
        Slot::Choice(_, words) => (words[1], words[1], words[1]),
        Slot::Choices(_, words) => (words[3], words[3], words[3]),
        Slot::Gates(_) => ("LeaseCheckpoint=true", "LeaseCheckpoint=true", "LeaseCheckpoint=true"),
        Slot::Compat(_) => ("3.6", "3.6", "3.6"),
        Slot::Text(_) => ("some text", "some text", "some text"),
    }
}

/// `a.b.c: value` as nested blocks.
fn nest(path: &str, value: &str) -> String {
    let mut text = String::new();
    for (depth, key) in path.split('.').enumerate() {
        text.push_str(&format!("\n{}{key}:", "  ".repeat(depth)));
    }
    format!("{text} {value}\n")
}

#[test]
fn every_server_row_is_a_flag_a_variable_and_a_key() {
    for row in rows("server") {
        let name = row.name;
        if matches!(name, "help, h" | "version") {
            // Proved by the tests of the program.
            continue;
        }
        assert!(matches!(row.status, "active" | "deprecated" | "vestigial"), "{name}: {}", row.status);
        let setting = flag(name).unwrap_or_else(|| panic!("--{name} is no flag"));
        assert_eq!(setting.variable(), row.env, "{name}");
        assert_eq!(setting.file_key.unwrap_or("-"), row.yaml_key, "{name}");
        let default = if row.default == "\"\"" { "" } else { row.default };
        assert_eq!(setting.text(&Config::default()), default, "default of {name}");
        assert_eq!(setting.is_bool(), row.kind_of_value == "bool", "{name}");
        if name == "config-file" {
            continue;
        }
        let (given, in_file, want) = sample(setting);
        let words = [format!("--{name}={given}")];
        let loaded = start(&[&words[0]], &[], "");
        assert_eq!(setting.text(&loaded.config), want, "--{name}: {:?}", loaded.failure);
        assert!(loaded.config.is_given(name));
        let loaded = start(&[], &[(row.env, given)], "");
        assert_eq!(setting.text(&loaded.config), want, "{}: {:?}", row.env, loaded.failure);
        if let Some(key) = setting.file_key {
            let loaded = from_file(&nest(key, in_file));
            let want = match &setting.slot {
                Slot::Choices(..) => "",
                _ => want,
            };
            assert_eq!(setting.text(&loaded.config), want, "{key} in a file: {:?}", loaded.failure);
            let loaded = from_file(&nest(&key.to_uppercase(), "null"));
            assert_eq!(setting.text(&loaded.config), default, "null keeps the default of {key}");
        }
    }
}

#[test]
fn every_flag_is_in_the_table_or_ours() {
    let known: BTreeSet<&str> = rows("server").iter().map(|row| row.name).collect();
    for setting in SETTINGS.iter().filter(|setting| setting.is_flag()) {
        let is_ours = ["compat-version", "auth-recovery"].contains(&setting.name);
        assert!(known.contains(setting.name) || is_ours, "{}", setting.name);
    }
}

#[test]
fn every_faulty_value_is_refused_in_the_known_words() {
    for row in rows("server") {
        let name = row.name;
        let Some(setting) = flag(name) else { continue };
        let (value, want) = match (&setting.slot, row.kind_of_value) {
            (Slot::Text(_) | Slot::Names(_) | Slot::List(_) | Slot::SortedList(_), _) => continue,
            (Slot::Bool(_), _) => {
                ("maybe", format!("invalid boolean value \"maybe\" for -{name}: parse error"))
            }
            (Slot::Uint32(_), _) => (
                "q",
                format!(
                    "invalid value \"q\" for flag -{name}: strconv.ParseUint: parsing \"q\": invalid syntax"
                ),
            ),
            (
                Slot::Uint(_) | Slot::Uint64(_) | Slot::Int(_) | Slot::Int64(_),
                "uint" | "uint64" | "int" | "int64",
            ) => (
                "99999999999999999999",
                format!("invalid value \"99999999999999999999\" for flag -{name}: value out of range"),
            ),
            (Slot::Duration(_), "duration") => {
                ("5", format!("invalid value \"5\" for flag -{name}: parse error"))
            }
            (Slot::Urls(_) | Slot::Origins(_), "url-list") => (
                "x",
                format!(
                    "invalid value \"x\" for flag -{name}: URL scheme must be http, https, unix, or unixs: x"
                ),
            ),
            (Slot::Choice(..), "enum") => {
                ("x", format!("invalid value \"x\" for flag -{name}: invalid value"))
            }
            (Slot::Choices(..), "enum-list") => {
                ("x", format!("invalid value \"x\" for flag -{name}: invalid value \"x\""))
            }
            (Slot::Gates(_), "gate-list") => {
                ("X=1", format!("invalid value \"X=1\" for flag -{name}: unrecognized feature gate: X"))
            }
            (_, kind) => panic!("--{name} has another type than the table says: {kind}"),
        };
        match load(&[format!("--{name}={value}")], &[], &|_| Err(io::ErrorKind::NotFound.into())) {
            Outcome::Usage(got) => assert_eq!(got, want),
            other => panic!("--{name}={value} gives {other:?}"),
        }
    }
}

#[test]
fn ignored_flags_do_nothing_and_say_nothing() {
    for row in rows("ignored") {
        for word in [format!("--{}", row.name), format!("-{}=value", row.name)] {
            let loaded = start(&[&word], &[], "");
            assert_eq!(loaded.failure, None, "{word}");
            assert!(loaded.early.is_empty(), "{word}");
        }
        let loaded = start(&[&format!("--{}", row.name), "x"], &[], "");
        assert_eq!(loaded.failure, Some(Failure::Invalid("\"x\" is not a valid flag".to_owned())));
        let loaded = start(&[], &[(row.env, "x")], "");
        assert_eq!(loaded.early[0].msg, "recognized and used environment variable");
    }
}

#[test]
fn removed_flags_go_on_as_recommended() {
    for row in rows("removed") {
        let advice = row.notes.split("Recommend: ").nth(1).unwrap_or_default();
        let word = |value: &str| format!("--{}={value}", row.name);
        let harmless = match row.name {
            "discovery" | "experimental-enable-v2v3" => "",
            "enable-v2" | "debug" => "false",
            _ if row.default == "\"\"" => "text",
            _ => row.default,
        };
        let loaded = start(&[&word(harmless)], &[], "");
        assert!(
            !matches!(loaded.failure, Some(Failure::Invalid(ref text)) if !text.contains("not supported by this build")),
            "{}: {:?}",
            row.name,
            loaded.failure
        );
        assert!(
            loaded.early.iter().any(|notice| notice.level == Level::Warn),
            "{} is not warned about",
            row.name
        );
        if let Some(target) = advice.split("maps to --").nth(1) {
            check_mapping(&row, target);
        }
        if advice.contains("refuse") {
            let bad = if row.kind_of_value == "bool" { "true" } else { "on" };
            assert!(
                matches!(
                    load(&[word(bad)], &[], &|_| Err(io::ErrorKind::NotFound.into())),
                    Outcome::Usage(_)
                ),
                "{}",
                row.name
            );
        }
        if harmless.is_empty() {
            continue;
        }
        let loaded = start(&[], &[(row.env, harmless)], "");
        assert!(!loaded.early.iter().any(|notice| notice.msg.starts_with("unrecognized")), "{}", row.env);
    }
}

/// A removed flag has the effect of its successor, and yields to it.
fn check_mapping(row: &Row<'_>, target: &str) {
    let name = row.name;
    if let Some(gate) = target.strip_prefix("feature-gates=").and_then(|gate| gate.strip_suffix("=<bool>")) {
        let on = !row.default.parse::<bool>().expect("a default");
        let loaded = start(&[&format!("--{name}={on}")], &[], "");
        assert_eq!(loaded.config.feature_gates.to_string(), format!("{gate}={on}"));
        return;
    }
    if target == "log-level=debug" {
        assert_eq!(start(&["--debug"], &[], "").config.log.level, "debug");
        assert_eq!(start(&["--debug", "--log-level=warn"], &[], "").config.log.level, "warn");
        return;
    }
    let setting = flag(target).unwrap_or_else(|| panic!("{target} is no flag"));
    let (given, in_file, want) = sample(setting);
    let loaded = start(&[&format!("--{name}={given}")], &[], "");
    assert_eq!(setting.text(&loaded.config), want, "--{name}");
    let loaded = start(
        &[&format!("--{name}={given}"), &format!("--{target}={}", setting.text(&Config::default()))],
        &[],
        "",
    );
    assert_eq!(
        setting.text(&loaded.config),
        setting.text(&Config::default()),
        "--{target} wins over --{name}"
    );
    if row.yaml_key == name {
        let loaded = from_file(&nest(name, in_file));
        assert_eq!(setting.text(&loaded.config), want, "{name} in a file: {:?}", loaded.failure);
    }
}

#[test]
fn blocks_of_the_file_hold_the_keys_of_their_rows() {
    for row in rows("yaml-only") {
        let prefix = format!("{}.", row.name);
        let keys =
            SETTINGS.iter().filter(|setting| setting.file_key.is_some_and(|key| key.starts_with(&prefix)));
        assert!(keys.clone().count() >= 2, "{}", row.name);
        for setting in keys {
            let last = setting.file_key.and_then(|key| key.rsplit('.').next()).unwrap_or_default();
            let listed = row.meaning.contains(last)
                || row.notes.contains(last)
                || row.name == "peer-transport-security";
            assert!(listed, "{last} is not a key of {}", row.name);
        }
    }
    let loaded =
        from_file("client-transport-security:\n  allowed-cn: [a, b]\n  skip-client-san-verification: true\n");
    assert_eq!(loaded.config.client_tls.allowed_cns, ["a", "b"]);
    assert!(loaded.config.client_tls.skip_client_san_verification);
}

/// Rows that are proved elsewhere or belong to work still to come.
#[test]
fn no_row_is_forgotten() {
    // Proved by `etcd/tests/starts.rs` against recorded starts of etcd.
    let by_starts = [
        "precedence.file",
        "precedence.conflict",
        "env.name",
        "env.empty",
        "env.used",
        "env.unknown",
        "env.ETCD_VERSION",
        "env.ETCD_VERIFY",
        "flag.dashes",
        "flag.value",
        "flag.url.empty",
        "yaml.parser",
        "yaml.duration",
        "unknown flag",
        "bad value",
        "bad bool",
        "missing value",
        "enum flags",
        "url no scheme",
        "url path",
        "gate unknown",
        "env value",
        "stray word",
        "file missing",
        "file decode",
        "file yaml",
        "file url",
        "file peer block",
        "bootstrap conflict",
        "advertise missing",
        "discovery pair",
        "discovery empty",
        "bind host",
        "advertise host",
        "advertise client host",
        "cluster state",
        "heartbeat zero",
        "election zero",
        "ratio",
        "election long",
        "compaction mode",
        "tracing rate",
        "checkpoint gates",
        "compact hash time",
        "tls version",
        "tls order",
        "tls13 suites",
        "fallback proxy",
        "logger",
        "log format",
        "log level",
        "log outputs",
        "log rotation",
        "log file",
        "1",
        "2",
        "0",
    ];
    // Proved by the tests below or by unit tests beside the code.
    let here = [
        "precedence.flag-env",
        "flag.repeat",
        "flag.lists",
        "yaml.urls",
        "yaml.defaults",
        "default.host",
        "default.cluster",
        "upstream.sample",
        "url scheme",
        "url port",
        "gate value",
        "compaction retention",
        "flag.subcommand",
        "env.ETCD_UNSUPPORTED_ARCH",
        "upstream.help",
    ];
    // Rows of the running member, TLS, discovery, journal, gateway and proxy: theirs to prove.
    let later = [
        "log journal",
        "tls suite",
        "https without cert",
        "metrics https",
        "same url",
        "cert missing",
        "client pair",
        "cn and hostname",
        "auth token",
        "local name",
        "peer urls differ",
        "duplicate url",
        "already bootstrapped",
        "join",
        "address in use",
        "fd limit",
        "gateway endpoint",
        "gateway loop",
        "grpc-proxy args",
        "130",
        "143",
    ];
    let known: BTreeSet<&str> = by_starts.into_iter().chain(here).chain(later).collect();
    let seen: BTreeSet<&str> =
        ["rule", "error", "exit"].into_iter().flat_map(|kind| rows(kind)).map(|row| row.name).collect();
    assert_eq!(seen.difference(&known).collect::<Vec<_>>(), Vec::<&&str>::new(), "rows without a proof");
    assert_eq!(known.difference(&seen).collect::<Vec<_>>(), Vec::<&&str>::new(), "proofs without a row");
    let kinds: BTreeSet<&str> = TABLE.lines().skip(1).filter_map(|line| line.split('\t').next()).collect();
    let handled =
        ["server", "ignored", "removed", "yaml-only", "gateway", "grpc-proxy", "rule", "error", "exit"];
    assert_eq!(kinds, handled.into_iter().collect());
}

#[test]
fn a_flag_wins_over_a_default_and_repeats_count_last() {
    assert_eq!(start(&["--name=a", "--name=b"], &[], "").config.name, "b");
    assert_eq!(start(&[], &[("ETCD_NAME", "v")], "").config.name, "v");
    let loaded = start(&["--feature-gates=LeaseCheckpoint=1", "--feature-gates=PriorityRequest=1"], &[], "");
    assert_eq!(loaded.config.feature_gates.to_string(), "LeaseCheckpoint=true,PriorityRequest=true");
    let loaded = start(&["--v2-deprecation=gone", "--v2-deprecation=write-only"], &[], "");
    assert_eq!(loaded.config.v2_deprecation, ["gone", "write-only"]);
    let loaded = start(&["--log-outputs=stderr,a,stderr", "--cipher-suites=b,a,b"], &[], "");
    assert_eq!(loaded.config.log.outputs, ["a", "stderr"]);
    assert_eq!(loaded.config.cipher_suites, ["b", "a", "b"]);
}

#[test]
fn a_file_starts_from_the_defaults() {
    let loaded =
        from_file("listen-client-urls: http://127.0.0.1:5\ndiscovery-srv: d\nself-signed-cert-validity: 0\n");
    assert_eq!(loaded.config.advertise_client_urls[0].as_str(), "http://localhost:2379");
    assert_eq!(loaded.config.initial_cluster, "");
    assert_eq!(loaded.config.self_signed_cert_validity_years, 1);
    let both = start(
        &["--config-file=f.yml", "--name=x"],
        &[("ETCD_NAME", "y"), ("ETCD_BOGUS", "1")],
        "data-dir: d",
    );
    assert_eq!((both.config.name.as_str(), both.config.data_dir.as_str()), ("default", "d"));
    assert!(both.early.is_empty());
    assert_eq!(both.failure, None);
    let variable = start(&[], &[("ETCD_CONFIG_FILE", "f.yml")], "name: from-file");
    assert_eq!(variable.config.name, "from-file");
}

#[test]
fn keys_of_the_upstream_sample_load() {
    let sample = "name: 'default'\ndata-dir:\nsnapshot-count: 10000\ndiscovery:\ndiscovery-fallback: 'proxy'\n\
                  discovery-proxy:\nproxy: 'off'\nproxy-failure-wait: 5000\nproxy-refresh-interval: 30000\n\
                  proxy-dial-timeout: 1000\nproxy-write-timeout: 5000\nproxy-read-timeout: 0\n\
                  client-transport-security:\n  cert-file:\n  client-cert-auth: false\n  auto-tls: false\n\
                  log-outputs: [stderr]\nforce-new-cluster: false\nauto-compaction-retention: \"0\"\nenable-v2: false\n";
    let loaded = from_file(sample);
    assert_eq!(loaded.failure, None);
    assert_eq!(loaded.config.auto_compaction_retention, "0");
    let refused = from_file("proxy: readonly\n");
    assert_eq!(
        refused.failure.map(|failure| failure.to_string()).as_deref(),
        Some("--proxy=\"readonly\" is refused: the v2 proxy no longer exists")
    );
}

#[test]
fn the_release_stood_in_for_decides_the_snapshot_count() {
    assert_eq!(start(&[], &[], "").config.snapshot_count(), 10_000);
    assert_eq!(start(&["--compat-version=3.5"], &[], "").config.snapshot_count, 100_000);
    assert_eq!(start(&["--compat-version=3.5", "--snapshot-count=7"], &[], "").config.snapshot_count(), 7);
    assert_eq!(
        start(&["--compat-version=3.5", "--snapshot-count=0"], &[], "").config.snapshot_count(),
        100_000
    );
    assert_eq!(start(&[], &[("ETCD_COMPAT_VERSION", "3.6")], "").config.compat_version.to_string(), "3.6");
    for text in ["compat-version: 3.5\n", "compat-version: \"3.5\"\n"] {
        assert_eq!(from_file(text).config.snapshot_count, 100_000);
    }
    let refused = from_file("compat-version: 3.4\n").failure.map(|failure| failure.to_string());
    assert_eq!(
        refused.as_deref(),
        Some("invalid value \"3.4\" for compat-version: must be one of 3.5, 3.6, 3.7")
    );
}

#[test]
fn defaults_of_the_cluster_follow_name_and_host() {
    use server::config::startup::{resolve_data_dir, resolve_default_host};
    let mut config = start(&["--name=m1"], &[], "").config;
    let notice = resolve_default_host(&mut config, Err("could not find default route".to_owned()));
    assert_eq!(notice.map(|notice| notice.msg).as_deref(), Some("failed to detect default host"));
    assert_eq!(config.initial_cluster, "m1=http://localhost:2380");
    assert_eq!(resolve_data_dir(&mut config).map(|notice| notice.level), Some(Level::Warn));
    assert_eq!(config.data_dir, "m1.etcd");

    let words = ["--name=m1", "--listen-peer-urls=http://0.0.0.0:12380"];
    let mut config = start(&words, &[], "").config;
    let notice = resolve_default_host(&mut config, Ok("10.1.2.3".to_owned()));
    assert_eq!(notice.map(|notice| notice.msg).as_deref(), Some("detected default host for advertise"));
    assert_eq!(config.initial_cluster, "m1=http://10.1.2.3:12380");
    assert_eq!(config.advertise_client_urls[0].as_str(), "http://localhost:2379");

    let loaded = start(&["--discovery-srv-name=x"], &[], "");
    assert_eq!(loaded.config.initial_cluster, "");
}

#[test]
fn retention_counts_by_mode() {
    for (mode, retention, want) in [
        ("periodic", "0", Ok("0s")),
        ("periodic", "2", Ok("2h0m0s")),
        ("periodic", "10m", Ok("10m0s")),
        ("revision", "1000", Ok("1\u{b5}s")),
        ("revision", "5m", Ok("5m0s")),
        ("periodic", "", Ok("0s")),
        ("periodic", "x", Err("error parsing CompactionRetention: time: invalid duration \"x\"")),
        ("periodic", "-1", Err("error parsing CompactionRetention: time: missing unit in duration \"-1\"")),
    ] {
        let config = Config {
            auto_compaction_mode: mode.to_owned(),
            auto_compaction_retention: retention.to_owned(),
            ..Config::default()
        };
        let got = config.compaction_retention().map(|span| span.to_string());
        assert_eq!(got, want.map(str::to_owned).map_err(str::to_owned), "{mode} {retention}");
    }
}

/// Only who says so gets a member without tokens: an empty variable is an unset one.
#[test]
fn an_empty_kind_of_tokens_is_given_by_flag_or_file() {
    assert_eq!(start(&["--auth-token="], &[], "").config.auth_token, "");
    assert_eq!(from_file("auth-token: \"\"\n").config.auth_token, "");
    assert_eq!(start(&[], &[("ETCD_AUTH_TOKEN", "")], "").config.auth_token, "simple");
    assert_eq!(start(&["--auth-recovery=off"], &[], "").config.auth_recovery, "off");
    let words = ["--auth-recovery=maybe".to_owned()];
    let Outcome::Usage(refused) = load(&words, &[], &|_: &Path| Ok(Vec::new())) else {
        panic!("anything is taken");
    };
    assert_eq!(refused, "invalid value \"maybe\" for flag -auth-recovery: invalid value");
}
