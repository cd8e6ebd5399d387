//! TLS by etcd's rules: files and names in, encrypted connections out.
//!
//! ```text
//! Settings ─▶ Acceptor::accept(io)  ─▶ (stream, who the other side has shown to be)
//!          └▶ Connector::connect(io, host) ─▶ stream
//! ```
//!
//! - [`Settings`] holds the flags of one kind of listener; [`Versions`], [`CipherSuites`] by etcd's names.
//! - [`Acceptor`] and [`Connector`] make handshakes. Certificate, key and revocation list are looked at again
//!   for each handshake and read again when they changed, so replacing them needs no restart; CA
//!   files are read once. Sessions are never resumed: each connection is verified as a whole.
//! - [`verify`](mod@verify) says which certificates count. Go's rules, because certificates that etcd
//!   takes have to be taken here: version 1 certificates, CA certificates that stand for
//!   themselves, expired CAs refused. The signatures themselves are checked by `ring`.
//! - [`self_signed`] is `--auto-tls`.
//!
//! Error texts are those of Go's `crypto/tls` and `crypto/x509`: operators know them.
//!
//! Deliberately absent: TLS 1.1 and older, CBC, RC4, 3DES and plain RSA key exchange, session
//! resumption, OCSP.
//!
//! **Source**: etcd `client/pkg/transport/{listener,listener_tls}.go`, `client/pkg/tlsutil`; Go's
//! `crypto/x509/verify.go` (rules and texts); RFC 5280.

mod accept;
mod address;
pub mod authority;
mod certificate;
mod connect;
mod crypto;
mod der;
mod files;
mod generate;
mod settings;
mod suites;
mod text;
pub mod verify;

pub use accept::{Acceptor, Rejected, Shown};
pub use connect::Connector;
pub use files::{FileError, common_name};
pub use generate::{GenerateError, Generated, self_signed};
pub use settings::{Report, Settings, SetupError, Versions, Warning};
pub use suites::{CipherSuites, SuiteError};
pub use text::explain;

/// The accepting side's encrypted stream.
pub type ServerStream<IO> = tokio_rustls::server::TlsStream<IO>;
/// The connecting side's encrypted stream.
pub type ClientStream<IO> = tokio_rustls::client::TlsStream<IO>;
