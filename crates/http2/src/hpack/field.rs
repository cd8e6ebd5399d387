//! One header field, shared by the table it stands in and by the heads that name it.

use std::rc::Rc;

/// What RFC 7541 adds to a field's length when it counts sizes.
const OVERHEAD_BYTES: usize = 32;

/// What a field is to HTTP/2, found out once per field and not once per request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Method,
    Scheme,
    Authority,
    Path,
    Status,
    ContentLength,
    Regular,
    /// A name or value that makes a request or response malformed.
    Forbidden,
}

/// A name and its value.
#[derive(Debug, PartialEq, Eq)]
pub struct Field {
    bytes: Box<[u8]>,
    name_len: usize,
    pub(crate) kind: Kind,
    /// Whether a sender should remember it in the table that both sides share.
    pub(crate) indexed: bool,
}

impl Field {
    /// A field that is sent the same again and again.
    pub fn new(name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Rc<Self> {
        Rc::new(Self::build(name.as_ref(), value.as_ref(), true))
    }

    /// A field whose value will hardly come again.
    pub fn literal(name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Rc<Self> {
        Rc::new(Self::build(name.as_ref(), value.as_ref(), false))
    }

    fn build(name: &[u8], value: &[u8], indexed: bool) -> Self {
        let bytes = [name, value].concat().into_boxed_slice();
        Self { bytes, name_len: name.len(), kind: kind(name, value), indexed }
    }

    /// The name.
    pub fn name(&self) -> &[u8] {
        &self.bytes[..self.name_len]
    }

    /// The value.
    pub fn value(&self) -> &[u8] {
        &self.bytes[self.name_len..]
    }

    pub(crate) fn size(&self) -> usize {
        self.bytes.len() + OVERHEAD_BYTES
    }
}

fn kind(name: &[u8], value: &[u8]) -> Kind {
    if !value.iter().all(|&byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f)) {
        return Kind::Forbidden;
    }
    match name {
        b":method" => Kind::Method,
        b":scheme" => Kind::Scheme,
        b":authority" => Kind::Authority,
        b":path" if value.is_empty() => Kind::Forbidden,
        b":path" => Kind::Path,
        b":status" => Kind::Status,
        b"content-length" => Kind::ContentLength,
        b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding" | b"upgrade" => {
            Kind::Forbidden
        }
        b"te" if value != b"trailers" => Kind::Forbidden,
        _ if !name.is_empty() && name.iter().all(|&byte| is_name_byte(byte)) => Kind::Regular,
        _ => Kind::Forbidden,
    }
}

/// A token's characters, without capitals.
fn is_name_byte(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+'
        | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~')
}
