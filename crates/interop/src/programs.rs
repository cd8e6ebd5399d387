//! Where the programs under test and their yardsticks are.
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `RETCD_BIN_DIR` | directory with our `etcd` and `etcdctl` | the build directory of this test |
//! | `RETCD_CACHE` | directory with the real programs, `etcd/3.4/`, `etcd/3.5/`, optionally `etcd/3.7/` | `.cache` |
//! | `RETCD_SUBJECT` | server program to test instead of ours | |
//! | `RETCD_SUBJECT_ARGS` | its extra arguments, separated by blanks | `--compat-version 3.5` for ours |

use std::path::{Path, PathBuf};

/// A server program with the arguments it always gets.
#[derive(Clone, Debug)]
pub struct Program {
    /// Path of the program.
    pub path: PathBuf,
    /// Extra arguments.
    pub args: Vec<String>,
}

impl Program {
    /// A program without extra arguments.
    pub fn plain(path: PathBuf) -> Self {
        Self { path, args: Vec::new() }
    }
}

/// The workspace's root.
pub fn root() -> PathBuf {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in crates/");
    crates.parent().expect("crates/ lies in the root").to_owned()
}

/// The cache of fetched programs and libraries.
pub fn cache() -> PathBuf {
    std::env::var_os("RETCD_CACHE").map_or_else(|| root().join(".cache"), PathBuf::from)
}

/// A real program: `real("3.5", "etcdctl")`.
///
/// # Panics
/// When it was not fetched, saying how to get it.
pub fn real(version: &str, program: &str) -> PathBuf {
    let path = cache().join("etcd").join(version).join(program);
    assert!(path.exists(), "{} is missing: run tools/fetch-etcd", path.display());
    path
}

/// One of our programs.
///
/// # Panics
/// When it was not built.
pub fn ours(program: &str) -> PathBuf {
    let dir = std::env::var_os("RETCD_BIN_DIR").map_or_else(build_dir, PathBuf::from);
    let path = dir.join(program);
    assert!(path.exists(), "{} is missing: run cargo build --workspace --bins", path.display());
    path
}

/// `target/<profile>`: tests run from `target/<profile>/deps`.
fn build_dir() -> PathBuf {
    let test = std::env::current_exe().expect("the test program has a path");
    let dir = test.parent().expect("a program lies in a directory");
    match dir.ends_with("deps") {
        true => dir.parent().expect("deps/ lies in the build directory").to_owned(),
        false => dir.to_owned(),
    }
}

/// The real server all answers are compared with.
pub fn yardstick() -> Program {
    Program::plain(real("3.5", "etcd"))
}

/// The server under test, standing in for etcd 3.5.
pub fn subject() -> Program {
    let words = |text: String| text.split_whitespace().map(str::to_owned).collect();
    match std::env::var_os("RETCD_SUBJECT") {
        Some(path) => Program {
            path: path.into(),
            args: std::env::var("RETCD_SUBJECT_ARGS").map(words).unwrap_or_default(),
        },
        None => subject_as("3.5"),
    }
}

/// Our server, standing in for some version.
pub fn subject_as(version: &str) -> Program {
    Program { path: ours("etcd"), args: vec!["--compat-version".into(), version.into()] }
}
