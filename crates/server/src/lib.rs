//! The server: configuration, logs, bootstrap, the threads of a member, listeners.

pub mod bootstrap;
pub mod compactor;
pub mod config;
pub mod driver;
pub mod duties;
mod fatal;
pub mod lanes;
pub mod log;
pub mod mailbox;
mod member;
mod members;
pub mod metrics;
pub mod node;
mod peers;
mod progress;
mod reads;
pub mod run;
mod scrape;
mod size;
pub mod start;
pub mod systemd;

pub use fatal::Fatal;
