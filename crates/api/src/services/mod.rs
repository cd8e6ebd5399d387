//! The services of the client API, and the dispatch of gRPC calls to them.
//!
//! A service is a set of plain async functions over messages, generic in the
//! [`Member`](crate::member::Member) behind; tests call them directly. What
//! surrounds each call (the interceptor of upstream) is `admit`.

pub mod access;
pub mod auth;
pub mod cluster;
pub mod concurrency;
mod dispatch;
pub mod health;
pub mod kv;
pub mod lease;
pub mod maintenance;
pub mod methods;
pub mod passwords;
pub mod reflection;
mod signal;
mod validate;
pub mod watch;

pub use dispatch::EtcdService;
pub use passwords::Passwords;
