//! Authentication against the real etcd: who may do what, tokens, clusters, data directories.

mod calls;
mod cluster;
mod fuzz;
mod leaks;
mod recovery;
