//! HTTP/2 for gRPC, as lean as one thread per connection allows.
//!
//! - [`core`](mod@core): the protocol without I/O: bytes in, bytes out, streams by key;
//! - [`server`], [`client`]: a socket around it, and handles for the streams;
//! - [`Head`], [`Field`]: header lists that cost one pointer when they come again.
//!
//! Why not the crate `h2`, which this replaces: it serves every kind of program, so each of its
//! streams is shared between threads behind a mutex, each header list becomes a hash map, and each
//! frame passes a queue. Measured on one core, 1,000 clients, a server that only answers: see
//! ARCHITECTURE.md, "HTTP/2".
//!
//! Invariants:
//! - A connection and all its handles live on one thread (`Rc`, no locks). Handles never block.
//! - Whatever a peer does, memory is bounded: received data by the windows, header lists by their
//!   limit, data to send by [`Config::send_buffer_bytes`] per stream, everything behind that by not
//!   reading on while [`core`](mod@core)'s output is full.
//! - A connection on which nothing happens holds no buffer.
//! - Frames of one turn of the runtime leave together, 64 KiB a write.
//!
//! Deliberately absent: HTTP/1 and upgrades from it, server push, priorities (read and ignored),
//! Huffman coding of what we send, CONNECT tunnels, timers: who drives a connection sends its pings.
//!
//! **Source**: RFC 9113 (HTTP/2) and RFC 7541 (HPACK).

pub mod client;
pub mod core;
mod driver;
mod handles;
mod head;
mod hpack;
pub mod server;

pub use self::core::{Broken, Reason};
pub use handles::{Body, Sender};
pub use head::Head;
pub use hpack::Field;

/// Limits of one side of a connection.
#[derive(Clone, Debug)]
pub struct Config {
    /// What a stream may have under way to us.
    pub stream_window_bytes: u32,
    /// What all streams together may have under way to us.
    pub connection_window_bytes: u32,
    /// Streams that the peer may have open.
    pub max_concurrent_streams: u32,
    /// Longest header list, counted as HPACK counts.
    pub max_header_list_bytes: u32,
    /// Longest frame we take.
    pub max_frame_bytes: u32,
    /// What a stream may hold that the peer does not take, before [`Sender::poll_room`] waits.
    pub send_buffer_bytes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            stream_window_bytes: 1 << 20,
            connection_window_bytes: 16 << 20,
            max_concurrent_streams: u32::MAX,
            max_header_list_bytes: 256 << 10,
            max_frame_bytes: 16_384,
            send_buffer_bytes: 256 << 10,
        }
    }
}
