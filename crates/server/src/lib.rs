//! server

pub mod config;
pub mod log;
pub mod metrics;
pub mod systemd;
