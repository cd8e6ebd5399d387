//! Every row of the tables of flags and metrics has its row in COMPAT.md, with a state that an operator can live
//! with and tests that exist.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const FLAGS: &str = include_str!("data/server-flags.tsv");
const METRICS: &str = include_str!("data/metrics.tsv");

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A row of a table in COMPAT.md.
#[derive(Clone, Debug)]
struct Row {
    state: String,
    tests: String,
}

/// The rows of the tables below a heading, by the name in their first cell.
fn rows(compat: &str, heading: &str) -> BTreeMap<String, Row> {
    let (_, rest) =
        compat.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("{heading} is missing"));
    let depth = heading.split(' ').next().unwrap_or_default();
    let section = rest.split(&format!("\n{depth} ")).next().unwrap_or_default();
    let section = section.split("\n## ").next().unwrap_or_default();
    let mut rows = BTreeMap::new();
    for line in section.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [name, state, tests] = cells[..] else { panic!("{heading}: not three cells: {line}") };
        let row = Row { state: state.to_owned(), tests: tests.to_owned() };
        // Two metrics have two rows: the old name in its own right, and as an alias.
        rows.insert(name.trim_matches('`').to_owned(), row);
    }
    rows
}

/// All Rust files of a crate, by path, with their text.
fn sources(name: &str, cache: &mut BTreeMap<String, String>) -> String {
    fn collect(dir: &Path, all: &mut String) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                all.push_str(&format!("\n//file {}\n", path.display()));
                collect(&path, all);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                all.push_str(&format!("\n//file {}\n", path.with_extension("").display()));
                all.push_str(&fs::read_to_string(&path).unwrap_or_default());
            }
        }
    }
    let made = || {
        let mut all = String::new();
        let dir = root().join("crates").join(name);
        collect(&dir.join("src"), &mut all);
        collect(&dir.join("tests"), &mut all);
        all
    };
    cache.entry(name.to_owned()).or_insert_with(made).clone()
}

/// What a cell with tests names: crates, and in each a function, a module or a file.
fn named(tests: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for part in tests.split('`').skip(1).step_by(2) {
        let part = part.trim_start_matches("crates/");
        let Some(name) = part.split([':', '/']).next().filter(|name| !name.is_empty()) else { continue };
        if part.ends_with(".rs") {
            let file = part.rsplit('/').next().unwrap_or_default().trim_end_matches(".rs");
            found.push((name.to_owned(), file.to_owned()));
            // `file.rs`: function
            let behind = tests.split(&format!("`{part}`: ")).nth(1).unwrap_or_default();
            let function: String =
                behind.chars().take_while(|symbol| symbol.is_alphanumeric() || *symbol == '_').collect();
            found.extend((!function.is_empty()).then(|| (name.to_owned(), function)));
        } else {
            let leaf = part.rsplit("::").next().unwrap_or_default();
            let leaves = match part.split_once('{') {
                Some((_, list)) => {
                    list.trim_end_matches('}').split(',').map(|leaf| leaf.trim().to_owned()).collect()
                }
                None => vec![leaf.to_owned()],
            };
            found.extend(leaves.into_iter().map(|leaf| (name.to_owned(), leaf)));
        }
    }
    found
}

fn exists(name: &str, leaf: &str, cache: &mut BTreeMap<String, String>) -> bool {
    let text = sources(name, cache);
    [format!("fn {leaf}("), format!("mod {leaf}"), format!("/{leaf}\n")]
        .iter()
        .any(|form| text.contains(form))
}

/// States that stand for a row that is not simply done, and are an answer to an operator nevertheless.
fn is_answer(state: &str) -> bool {
    ["done", "absent", "made by the scraper", "excused: "].iter().any(|start| state.starts_with(start))
}

fn check(
    rows: &BTreeMap<String, Row>,
    name: &str,
    cache: &mut BTreeMap<String, String>,
    faults: &mut Vec<String>,
) {
    let Some(row) = rows.get(name) else { return faults.push(format!("{name}: no row")) };
    if !is_answer(&row.state) {
        faults.push(format!("{name}: neither done nor excused: {}", row.state));
    }
    if row.state.starts_with("excused: ") {
        return;
    }
    let tests = named(&row.tests);
    if tests.is_empty() {
        faults.push(format!("{name}: no test is named: {}", row.tests));
    }
    for (of, leaf) in tests {
        if !exists(&of, &leaf, cache) {
            faults.push(format!("{name}: there is no {leaf} in {of}"));
        }
    }
}

#[test]
fn every_flag_is_exercised_or_excused() {
    let compat = fs::read_to_string(root().join("COMPAT.md")).expect("COMPAT.md");
    let heading = |kind: &str| match kind {
        "server" => "### Server flags (each with its `ETCD_` variable and key in the configuration file)",
        "ignored" => "### Hidden flags without effect",
        "removed" => "### Removed flags",
        "yaml-only" => "### Blocks of the configuration file",
        "rule" | "error" | "exit" => "### Rules, start errors, exit statuses",
        other => panic!("rows of kind {other}"),
    };
    let (mut cache, mut faults, mut count) = (BTreeMap::new(), Vec::new(), 0);
    for line in FLAGS.lines().skip(1) {
        let mut cells = line.split('\t');
        let (kind, name) = (cells.next().expect("a kind"), cells.next().expect("a name"));
        // Flags of the two other commands have sections of their own; their tables are walked by who parses them.
        if matches!(kind, "gateway" | "grpc-proxy") {
            let section = format!("### Flags of `etcd {kind}`");
            let text = compat.split(&section).nth(1).and_then(|rest| rest.split("\n### ").next());
            if !text.is_some_and(|text| text.contains(&format!("`{name}`"))) {
                faults.push(format!("{kind} {name}: no row"));
            }
            continue;
        }
        check(&rows(&compat, heading(kind)), name, &mut cache, &mut faults);
        count += 1;
    }
    assert!(count > 200, "only {count} rows were walked");
    assert!(faults.is_empty(), "{} faults\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn every_metric_is_fed_or_excused() {
    let compat = fs::read_to_string(root().join("COMPAT.md")).expect("COMPAT.md");
    let rows = rows(&compat, "## Metrics");
    let (mut cache, mut faults, mut count) = (BTreeMap::new(), Vec::new(), 0);
    for line in METRICS.lines().skip(1) {
        let name = line.split('\t').next().expect("a name");
        if !name.starts_with("RULE:") {
            check(&rows, name, &mut cache, &mut faults);
            count += 1;
        }
    }
    assert!(count > 160, "only {count} rows were walked");
    assert!(faults.is_empty(), "{} faults\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn names_of_tests_are_understood() {
    let cell = "`server/tests/flags.rs`: one_test; `interop::a::b`, `interop::x::{c, d}`";
    let expected =
        [("server", "flags"), ("server", "one_test"), ("interop", "b"), ("interop", "c"), ("interop", "d")];
    let found = named(cell);
    assert_eq!(found, expected.map(|(name, leaf)| (name.to_owned(), leaf.to_owned())));
    let mut cache = BTreeMap::new();
    assert!(exists("server", "names_of_tests_are_understood", &mut cache));
    assert!(exists("server", "walk", &mut cache) && !exists("server", "nothing_of_the_kind", &mut cache));
}
