//! The JSON form of the client API, without sockets: what etcd serves below `/v3/`.
//!
//! - [`routes`]: which path stands for which method;
//! - [`values`]: cuts JSON values out of a body that arrives in pieces;
//! - [`decode`](fn@decode) and [`encode`](fn@encode): from a JSON value to the encoded message, and back;
//! - [`answer`]: errors, lines of streams, statuses of HTTP;
//! - [`websocket`]: reading and writing its frames.
//!
//! Messages are never built: text becomes wire bytes and wire bytes become text, led by the tables of
//! [`schema`], so a value is copied once and decoded from base64 into its place.
//!
//! Deliberately absent: sockets, headers, time, and what a message means.
//!
//! **Source**: the gateway of etcd is `grpc-gateway/v2` with original field names and without
//! unset fields; the mapping is `protojson`'s, behind a first pass of Go's `encoding/json`. Texts of
//! errors are theirs, because clients see them.

pub mod answer;
mod decode;
mod encode;
mod number;
pub mod routes;
pub mod schema;
mod text;
pub mod values;
pub mod websocket;

pub use decode::{DecodeError, decode};
pub use encode::{EncodeError, Form, encode};
