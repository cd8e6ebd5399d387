//! The server: configuration, logs, bootstrap, the threads of a member, listeners.

pub mod bootstrap;
pub mod compactor;
pub mod config;
mod corruption;
mod defragment;
pub mod discovery;
pub mod driver;
pub mod duties;
mod fatal;
mod force_new;
mod join;
pub mod lanes;
pub mod listen;
mod listeners;
pub mod log;
pub mod mailbox;
mod member;
mod members;
pub mod metrics;
pub mod node;
mod notes;
mod observe;
pub mod otlp;
mod peers;
pub mod profile;
mod progress;
mod reads;
mod resolve;
pub mod run;
mod scrape;
pub mod security;
mod size;
pub mod start;
pub mod systemd;
mod versions;

pub use fatal::Fatal;
