//! The part of the program `etcd` that others look at: its commands beside running a member, from
//! whose table manual page and completions are made.

pub mod proxies;
