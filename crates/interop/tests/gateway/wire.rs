//! Connections by hand: chunked lines that are read as they come, and WebSocket.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, ensure};
use interop::http;
use serde_json::Value;

/// Longest wait for what is expected to come.
const PATIENCE: Duration = Duration::from_secs(20);

/// The answer to a POST, as JSON.
pub fn post(authority: &str, path: &str, body: &Value) -> anyhow::Result<Value> {
    let answer = http::request(authority, "POST", path, &[], &body.to_string())?;
    let text = String::from_utf8_lossy(&answer.body);
    ensure!(answer.status == 200, "{path}: {} {text}", answer.status);
    serde_json::from_str(&text).with_context(|| format!("{path}: {text}"))
}

fn connect(authority: &str) -> anyhow::Result<TcpStream> {
    let socket = TcpStream::connect(authority)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

fn read_head(reader: &mut impl BufRead) -> anyhow::Result<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        ensure!(reader.read_line(&mut head)? > 0, "the connection ended after {head:?}");
    }
    Ok(head)
}

/// An answer that comes line by line. Dropping it ends the connection.
pub struct Lines {
    reader: BufReader<TcpStream>,
    text: Vec<u8>,
}

impl Lines {
    /// Sends a request whose body does not end, so that more can be said.
    pub fn open(authority: &str, path: &str, first: &Value) -> anyhow::Result<Self> {
        let mut socket = connect(authority)?;
        write!(socket, "POST {path} HTTP/1.1\r\nHost: {authority}\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        let mut lines = Self { reader: BufReader::new(socket), text: Vec::new() };
        lines.say(first)?;
        let head = read_head(&mut lines.reader)?;
        ensure!(head.starts_with("HTTP/1.1 200"), "{head}");
        Ok(lines)
    }

    /// Sends another value.
    pub fn say(&mut self, value: &Value) -> anyhow::Result<()> {
        let text = value.to_string();
        Ok(write!(self.reader.get_mut(), "{:x}\r\n{text}\r\n", text.len())?)
    }

    /// The result in the next line.
    pub fn next(&mut self) -> anyhow::Result<Value> {
        loop {
            if let Some(end) = self.text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.text.drain(..=end).collect();
                let mut value: Value = serde_json::from_slice(&line)?;
                return Ok(value.get_mut("result").with_context(|| format!("{line:?}"))?.take());
            }
            let mut size = String::new();
            self.reader.read_line(&mut size)?;
            let size = usize::from_str_radix(size.trim(), 16).with_context(|| format!("chunk {size:?}"))?;
            ensure!(size > 0, "the stream ended");
            let mut chunk = vec![0; size + 2];
            self.reader.read_exact(&mut chunk)?;
            self.text.extend_from_slice(&chunk[..size]);
        }
    }
}

/// A WebSocket.
pub struct Socket {
    reader: BufReader<TcpStream>,
    /// The head of the answer to the handshake.
    pub head: String,
}

impl Socket {
    pub fn open(authority: &str, path: &str, headers: &str) -> anyhow::Result<Self> {
        let mut socket = connect(authority)?;
        write!(
            socket,
            "GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: keep-alive, Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
        )?;
        let mut reader = BufReader::new(socket);
        let head = read_head(&mut reader)?;
        ensure!(head.starts_with("HTTP/1.1 101"), "{head}");
        ensure!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
        Ok(Self { reader, head })
    }

    /// Sends a frame; `first` is its first byte.
    pub fn send(&mut self, first: u8, payload: &[u8]) -> anyhow::Result<()> {
        let mask = [7, 11, 13, 17];
        let mut frame = vec![first, 0x80 | u8::try_from(payload.len()).context("a short frame")?];
        frame.extend_from_slice(&mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        Ok(self.reader.get_mut().write_all(&frame)?)
    }

    /// The next frame: its first byte and its payload.
    pub fn frame(&mut self) -> anyhow::Result<(u8, Vec<u8>)> {
        let mut head = [0; 2];
        self.reader.read_exact(&mut head)?;
        let len = match head[1] {
            126 => {
                let mut len = [0; 2];
                self.reader.read_exact(&mut len)?;
                usize::from(u16::from_be_bytes(len))
            }
            len => usize::from(len),
        };
        let mut payload = vec![0; len];
        self.reader.read_exact(&mut payload)?;
        Ok((head[0], payload))
    }

    /// The next message, which is text, as JSON.
    pub fn next(&mut self) -> anyhow::Result<Value> {
        let (first, payload) = self.frame()?;
        ensure!(first == 0x81, "{first:x} {payload:?}");
        Ok(serde_json::from_slice(&payload)?)
    }

    /// Whether the connection is closed now, after a frame that says so or without.
    pub fn is_closed(&mut self) -> bool {
        match self.frame() {
            Ok((first, _)) => first == 0x88 && self.frame().is_err(),
            Err(_) => true,
        }
    }
}
