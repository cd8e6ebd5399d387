//! What the fuzzer runs: one function per place where bytes that nobody vouches for enter.
//!
//! Each module has `run`, which takes the fuzzer's bytes and panics when a promise is broken, and
//! `seeds`, inputs to start from. Nothing here needs a fuzzer: the smoke test of this crate runs
//! every target over its seeds, over mutations of them and over all inputs that once found
//! something (`regressions/<target>/`). The fuzzer itself is the package `fuzz/`.
//!
//! Raw bytes seldom get past a checksum. So most targets read the first byte as a choice between
//! raw bytes and a little language for building input whose checksums and lengths are right and
//! whose content is the fuzzer's; each module describes its own.
//!
//! Deliberately absent: state that lives from one input to the next. The same bytes do the same.

pub mod bolt_image;
pub mod bolt_page;
pub mod certificates;
pub mod grpc_bytes;
pub mod http2_bytes;
mod input;
pub mod json_body;
pub mod raft_message;
pub mod request;
pub mod snap_file;
mod still_member;
pub mod wal_records;

/// A named input to start from.
pub type Seed = (&'static str, Vec<u8>);

/// One entry point for the fuzzer.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Name of the module, of the fuzzer's binary and of the directory with its finds.
    pub name: &'static str,
    /// Runs one input.
    pub run: fn(&[u8]),
    /// Inputs to start from.
    pub seeds: fn() -> Vec<Seed>,
    /// Mutations that the smoke test runs; the slow targets get fewer.
    pub smoke_rounds: u32,
}

macro_rules! targets {
    ($($module:ident $rounds:literal,)*) => {
        &[$(Target {
            name: stringify!($module),
            run: $module::run,
            seeds: $module::seeds,
            smoke_rounds: $rounds,
        },)*]
    };
}

/// All targets.
pub const TARGETS: &[Target] = targets![
    wal_records 10_000,
    snap_file 20_000,
    bolt_page 20_000,
    bolt_image 3_000,
    request 30_000,
    raft_message 30_000,
    grpc_bytes 4_000,
    http2_bytes 30_000,
    certificates 20_000,
    json_body 20_000,
];
