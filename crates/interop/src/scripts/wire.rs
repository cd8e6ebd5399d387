//! What a well-behaved client never sends, below the level of messages.

use http::HeaderValue;

use super::{PUT, RANGE, get};
use crate::http as plain;
use crate::script::Script;

/// Unknown methods, undecodable messages, odd metadata, garbage.
pub async fn faults(s: &mut Script) -> anyhow::Result<()> {
    s.call_bytes("wire/unknown service", "/no.such.Service/Method", b"").await;
    s.call_bytes("wire/unknown method", "/etcdserverpb.KV/Nothing", b"").await;
    s.call_bytes("wire/path without a method", "/etcdserverpb.KV", b"").await;
    s.call_bytes("wire/reflection", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", b"").await;
    s.call_bytes("wire/empty message", PUT, b"").await;
    let undecodable = s.channel.call_raw(&s.method(PUT), bench::wire::frame_raw(&[0xff, 0xff, 0xff])).await;
    let text = match undecodable {
        // The text behind the colon is the decoder's.
        Err(status) => {
            let start = status.message.split(':').take(2).collect::<Vec<_>>().join(":");
            format!("status {}: {start}", status.code)
        }
        Ok(_) => "accepted".into(),
    };
    s.note("wire/undecodable message", &text);
    let with = |name: &'static str, value: &'static str| -> anyhow::Result<_> {
        Ok(s.method(RANGE).with_header(name, HeaderValue::from_static(value)))
    };
    let cases = [
        ("hasleader", with("hasleader", "true")?),
        ("unknown encoding", with("grpc-encoding", "deflate")?),
        ("client version", with("client-api-version", "3.5.0")?),
        ("token while auth is off", with("token", "nonsense")?),
        ("authorization while auth is off", with("authorization", "Bearer nonsense")?),
        ("user metadata", with("x-anything", "1")?),
        ("other content subtype", with("content-type", "application/grpc+proto")?),
        ("long deadline", with("grpc-timeout", "10S")?),
        ("deadline that is over", with("grpc-timeout", "1n")?),
    ];
    for (name, method) in cases {
        let framed = bench::wire::frame(&get("k"));
        let text = match s.channel.call_raw(&method, framed).await {
            Ok(_) => "answered".into(),
            Err(status) => status.to_string(),
        };
        s.note(&format!("wire/{name}"), &text);
    }
    for (name, bytes) in
        [("text", &b"hello, is anybody there?\r\n\r\n"[..]), ("zeros", &[0; 64]), ("nothing", b"")]
    {
        let authority = s.authority.clone();
        let bytes = bytes.to_vec();
        tokio::task::spawn_blocking(move || {
            use std::io::Write;
            let mut socket = std::net::TcpStream::connect(authority)?;
            socket.write_all(&bytes)
        })
        .await??;
        let alive = s.channel.call_raw(&s.method(RANGE), bench::wire::frame(&get("k"))).await;
        s.note(&format!("wire/alive after {name}"), &format!("{}", alive.is_ok()));
    }
    let authority = s.authority.clone();
    let answer = tokio::task::spawn_blocking(move || plain::exchange(&authority, b"BOGUS\r\n\r\n")).await??;
    let first = String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned();
    s.note("wire/not HTTP", &first);
    Ok(())
}
