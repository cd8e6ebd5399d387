//! One script, two servers: the real etcd 3.5, and ours standing in for it. The answers must be
//! equal but for ids, addresses and times, or stand in `known-differences.tsv`.
//!
//! `RETCD_SUBJECT=<program>` tests another server; with it, `RETCD_KNOWN=no` shows what is known.

use anyhow::Context;
use interop::known::{Known, compat_page};
use interop::member::Member;
use interop::programs::{real, subject, yardstick};
use interop::script::{Entry, Script, compare};
use interop::{block_on, scripts};

fn known() -> Known {
    match std::env::var("RETCD_KNOWN").as_deref() {
        Ok("no") => Known::nothing(),
        _ => Known::load().expect("the list of known differences is well formed").of(&["server"]),
    }
}

/// Runs a script against a fresh member of each server and compares.
macro_rules! differential {
    ($($name:ident: $module:ident, $script:ident;)*) => {$(
        #[test]
        fn $name() -> anyhow::Result<()> {
            let expected = run!(yardstick(), $module, $script).context("the real server")?;
            let found = run!(subject(), $module, $script).context("the server under test")?;
            compare(&expected, &found, &known())
        }
    )*
        /// Every name of an entry, from the real server alone.
        fn all_entries() -> anyhow::Result<Vec<Entry>> {
            let mut entries = Vec::new();
            $(entries.extend(run!(yardstick(), $module, $script)?);)*
            Ok(entries)
        }
    };
}

macro_rules! run {
    ($program:expr, $module:ident, $script:ident) => {{
        let member = Member::start(&$program, &[])?;
        block_on(async {
            let mut script = Script::connect(&member, real("3.5", "etcdctl")).await?;
            scripts::$module::$script(&mut script).await?;
            anyhow::Ok(script.into_entries())
        })
    }};
}

differential! {
    puts: kv, puts;
    deletes: kv, deletes;
    ranges: kv, ranges;
    compaction: kv, compaction;
    txn_compares: txn, compares;
    txn_operations: txn, operations;
    txn_refusals: txn, refusals;
    watch_events: watch, events;
    watch_control: watch, control;
    watch_compacted: watch, compacted;
    watch_fragments: watch, fragments;
    lease_basics: lease, basics;
    lease_keep_alive: lease, keep_alive;
    lock: locks, lock;
    election: locks, election;
    maintenance: maintenance, basics;
    alarms: maintenance, alarms;
    wire_faults: wire, faults;
    http_endpoints: http, endpoints;
    gateway_routes: gateway, routes;
    gateway_forms: gateway, forms;
    gateway_surroundings: gateway, surroundings;
    gateway_streams: gateway, streams;
    gateway_users: gateway, users;
    ctl_keys: ctl_data, keys;
    ctl_txns: ctl_data, txns;
    ctl_leases: ctl_data, leases;
    ctl_maintenance: ctl_cluster, maintenance;
    ctl_command_line: ctl_cluster, command_line;
    ctl_sessions: ctl_concurrency, sessions;
    ctl_formats: ctl_formats, formats;
    ctl_endless: ctl_formats, endless;
    ctl_mistakes: ctl_formats, mistakes;
    ctl_surroundings: ctl_formats, surroundings;
    ctl_users_and_roles: ctl_auth, users_and_roles;
    ctl_logins: ctl_auth, logins;
    ctl_typed: ctl_auth, typed;
}

/// The script is as large as promised, its list of exceptions fits it, and COMPAT.md has them all.
#[test]
fn the_script_and_its_exceptions_are_sound() -> anyhow::Result<()> {
    let entries = all_entries()?;
    let names: Vec<_> = entries.iter().map(|entry| entry.name.as_str()).collect();
    println!("{} interactions", names.len());
    assert!(names.len() >= 150, "only {} interactions", names.len());
    let known = Known::load()?.of(&["server", "etcdctl", "etcdctl-3.5"]);
    let unused = known.unused(&names);
    assert!(unused.is_empty(), "known differences of entries that do not exist: {unused:?}");
    if !known.differences.is_empty() {
        let missing = known.missing_in(&compat_page()?);
        assert!(missing.is_empty(), "known differences that COMPAT.md does not mention: {missing:?}");
    }
    Ok(())
}

/// The gateway beside the newest release, in whose place ours stands by default.
#[cfg(feature = "newest")]
mod newest {
    use super::*;
    use interop::programs::{Program, subject_as};

    /// Runs a script against both and compares.
    macro_rules! both {
        ($($script:ident)*) => {$(
            #[test]
            fn $script() -> anyhow::Result<()> {
                let newest = Program::plain(real("3.7", "etcd"));
                let expected = run!(newest, gateway, $script).context("the real server")?;
                let found = run!(subject_as("3.7"), gateway, $script).context("the server under test")?;
                compare(&expected, &found, &known())
            }
        )*};
    }

    both!(routes forms surroundings streams users);
}
