//! WebSocket: the handshake's answer, and frames.
//!
//! ```text
//! fin:1 reserved:3 opcode:4 | mask:1 length:7 | length: u16be or u64be | mask: 4 bytes | payload
//! ```
//!
//! - A client's frames are masked, a server's are not. No extensions.
//! - A message may come in several frames; control frames may come between them.
//! - After an error the connection ends with the code that says why.
//!
//! **Source**: RFC 6455.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, Bytes, BytesMut};
use sha1::{Digest as _, Sha1};

const SALT: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
/// Longest payload of a control frame.
const CONTROL_BYTES: usize = 125;

/// Normal end.
pub const CLOSE_NORMAL: u16 = 1000;
/// A frame that may not be.
pub const CLOSE_PROTOCOL: u16 = 1002;
/// A message that is too long.
pub const CLOSE_TOO_BIG: u16 = 1009;

/// The value of `Sec-WebSocket-Accept` for a client's key.
pub fn accept_key(key: &str) -> String {
    STANDARD.encode(Sha1::digest(format!("{key}{SALT}")))
}

/// What a client sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A whole message, of text or not.
    Message(Bytes),
    /// Wants this back in a pong.
    Ping(Bytes),
    /// The client is done; its code, if it gave one.
    Close(Option<u16>),
}

/// Why a connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Against the protocol.
    #[error("a frame against the protocol")]
    Protocol,
    /// Longer than allowed.
    #[error("a message that is too long")]
    TooBig,
}

impl FrameError {
    /// The code that tells the client.
    pub fn close_code(self) -> u16 {
        match self {
            Self::Protocol => CLOSE_PROTOCOL,
            Self::TooBig => CLOSE_TOO_BIG,
        }
    }
}

/// What a client has sent so far.
#[derive(Debug)]
pub struct Frames {
    buffer: BytesMut,
    /// The frames of a message that goes on.
    message: Option<BytesMut>,
    max_bytes: usize,
}

impl Frames {
    /// Takes messages of at most `max_bytes`.
    pub fn new(max_bytes: usize) -> Self {
        Self { buffer: BytesMut::new(), message: None, max_bytes }
    }

    /// Adds what has arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next event, if it has arrived as a whole.
    pub fn next_event(&mut self) -> Result<Option<Event>, FrameError> {
        while let Some((fin, opcode, payload)) = self.next_frame()? {
            match opcode {
                PING => return Ok(Some(Event::Ping(payload.freeze()))),
                PONG => continue,
                CLOSE => {
                    let code = payload.get(..2).map(|code| u16::from_be_bytes([code[0], code[1]]));
                    return Ok(Some(Event::Close(code)));
                }
                CONTINUATION => match &mut self.message {
                    Some(message) => {
                        if message.len() + payload.len() > self.max_bytes {
                            return Err(FrameError::TooBig);
                        }
                        message.unsplit(payload);
                    }
                    None => return Err(FrameError::Protocol),
                },
                _ if self.message.is_some() => return Err(FrameError::Protocol),
                _ => self.message = Some(payload),
            }
            if fin && let Some(message) = self.message.take() {
                return Ok(Some(Event::Message(message.freeze())));
            }
        }
        Ok(None)
    }

    /// Cuts a frame out: whether it is the last of its message, its kind, its payload in plain.
    fn next_frame(&mut self) -> Result<Option<(bool, u8, BytesMut)>, FrameError> {
        let Some((&first, &second)) = self.buffer.first().zip(self.buffer.get(1)) else { return Ok(None) };
        let (fin, opcode) = (first & 0x80 != 0, first & 0x0f);
        let is_control = opcode >= CLOSE;
        let known = matches!(opcode, CONTINUATION | TEXT | BINARY | CLOSE | PING | PONG);
        if first & 0x70 != 0 || second & 0x80 == 0 || !known || (is_control && !fin) {
            return Err(FrameError::Protocol);
        }
        let (head, len) = match second & 0x7f {
            126 => match self.buffer.get(2..4) {
                Some(len) => (4, u64::from(u16::from_be_bytes([len[0], len[1]]))),
                None => return Ok(None),
            },
            127 => match self.buffer.get(2..10) {
                Some(len) => (10, u64::from_be_bytes(len.try_into().expect("eight bytes"))),
                None => return Ok(None),
            },
            len => (2, u64::from(len)),
        };
        if is_control && len > CONTROL_BYTES as u64 {
            return Err(FrameError::Protocol);
        }
        if len > self.max_bytes as u64 {
            return Err(FrameError::TooBig);
        }
        let len = len as usize;
        if self.buffer.len() < head + 4 + len {
            return Ok(None);
        }
        self.buffer.advance(head);
        let mask = self.buffer.split_to(4);
        let mut payload = self.buffer.split_to(len);
        payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
        Ok(Some((fin, opcode, payload)))
    }
}

/// A frame of text.
pub fn text(payload: &[u8]) -> Vec<u8> {
    frame(TEXT, payload)
}

/// The answer to a ping.
pub fn pong(payload: &[u8]) -> Vec<u8> {
    frame(PONG, &payload[..payload.len().min(CONTROL_BYTES)])
}

/// The end.
pub fn close(code: u16) -> Vec<u8> {
    frame(CLOSE, &code.to_be_bytes())
}

fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        len @ 0..=125 => frame.push(len as u8),
        len @ 126..=0xffff => {
            frame.push(126);
            frame.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            frame.push(127);
            frame.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client's frame.
    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = frame(0, payload);
        bytes[0] = first;
        bytes[1] |= 0x80;
        let head = bytes.len() - payload.len();
        let mask = [1, 2, 3, 4];
        let body = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
        let mut made = bytes[..head].to_vec();
        made.extend_from_slice(&mask);
        made.extend(body);
        made
    }

    fn events(bytes: &[u8], size: usize) -> (Vec<Event>, Option<FrameError>) {
        let (mut frames, mut found) = (Frames::new(1000), Vec::new());
        for piece in bytes.chunks(size) {
            frames.push(piece);
            loop {
                match frames.next_event() {
                    Ok(Some(event)) => found.push(event),
                    Ok(None) => break,
                    Err(error) => return (found, Some(error)),
                }
            }
        }
        (found, None)
    }

    #[test]
    fn the_handshake_of_the_standard() {
        assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn messages_come_in_frames() {
        let long = vec![b'x'; 300];
        let bytes = [
            masked(0x81, b"abc"),
            masked(0x02, b"de"),
            masked(0x89, b"ping"),
            masked(0x00, b"f"),
            masked(0x8a, b"pong"),
            masked(0x80, b"g"),
            masked(0x81, &long),
            masked(0x88, &[3, 0xe8, b'!']),
        ]
        .concat();
        let expected = vec![
            Event::Message("abc".into()),
            Event::Ping("ping".into()),
            Event::Message("defg".into()),
            Event::Message(long.into()),
            Event::Close(Some(1000)),
        ];
        for size in [1, 7, 10_000] {
            assert_eq!(events(&bytes, size), (expected.clone(), None), "pieces of {size}");
        }
        assert_eq!(events(&masked(0x88, b""), 9), (vec![Event::Close(None)], None));
    }

    #[test]
    fn what_may_not_be_is_refused() {
        for bytes in [
            text(b"without a mask"),
            masked(0xc1, b"reserved bit"),
            masked(0x83, b"unknown"),
            masked(0x09, b"a ping in parts"),
            masked(0x80, b"nothing goes on"),
            [masked(0x01, b"a"), masked(0x01, b"b")].concat(),
            masked(0x89, &[0; 126]),
        ] {
            assert_eq!(events(&bytes, 5).1, Some(FrameError::Protocol), "{bytes:?}");
        }
        assert_eq!(events(&masked(0x81, &[0; 1001]), 50).1, Some(FrameError::TooBig));
        let parts = [masked(0x01, &[0; 600]), masked(0x80, &[0; 600])].concat();
        assert_eq!(events(&parts, 50).1, Some(FrameError::TooBig));
    }
}
