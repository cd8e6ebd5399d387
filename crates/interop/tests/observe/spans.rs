//! Spans, as a collector gets them.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, ensure};
use bench::wire::{Channel, Method};
use bytes::Bytes;
use http2::{Field, Head};
use interop::block_on;
use interop::member::{Member, free_port};
use prost::Message;
use proto::etcdserverpb as pb;
use server::otlp::message::{ExportRequest, Kind, SpanData};
use tokio::net::TcpListener;

use crate::{alike, plain};

#[derive(Default)]
struct Collected {
    service: Vec<String>,
    spans: Vec<SpanData>,
}

/// Takes spans until the test ends.
async fn collect(listener: TcpListener, collected: Rc<RefCell<Collected>>) {
    while let Ok((socket, _)) = listener.accept().await {
        let collected = collected.clone();
        tokio::task::spawn_local(async move {
            let mut connection = http2::server::Connection::new(socket, &[], http2::Config::default());
            while let Some(mut request) = poll_fn(|cx| connection.poll_accept(cx)).await {
                let collected = collected.clone();
                tokio::task::spawn_local(async move {
                    assert_eq!(
                        request.head.path(),
                        "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
                    );
                    let mut message = Vec::new();
                    while let Some(Ok(data)) = request.body.data().await {
                        message.extend_from_slice(&data);
                    }
                    // What comes is not compressed.
                    assert_eq!(message.first(), Some(&0));
                    let export = ExportRequest::decode(&message[5..]).expect("a request of OTLP");
                    let mut collected = collected.borrow_mut();
                    for part in export.resource_spans {
                        let attributes =
                            part.resource.map(|resource| resource.attributes).unwrap_or_default();
                        collected.service =
                            attributes.iter().map(|pair| format!("{}={}", pair.key, value(pair))).collect();
                        collected.spans.extend(part.scope_spans.into_iter().flat_map(|scope| scope.spans));
                    }
                    drop(collected);
                    let head = Head::response(200).with(Field::new("content-type", "application/grpc"));
                    let trailers = Head::trailers().with(Field::new("grpc-status", "0"));
                    let empty = Bytes::from_static(&[0; 5]);
                    // The member may have gone.
                    let _ = request.respond.send_all(&Rc::new(head), empty, &Rc::new(trailers));
                });
            }
        });
    }
}

fn value(pair: &server::otlp::message::KeyValue) -> String {
    match pair.value.as_ref().and_then(|value| value.kind.as_ref()) {
        Some(Kind::Text(text)) => text.clone(),
        Some(Kind::Flag(flag)) => flag.to_string(),
        Some(Kind::Int(number)) => number.to_string(),
        None => String::new(),
    }
}

/// A span without what differs from run to run.
fn shape(span: &SpanData) -> String {
    let attributes: Vec<String> = span
        .attributes
        .iter()
        .filter(|pair| pair.key != "server.port")
        .map(|pair| format!("{}={}", pair.key, value(pair)))
        .collect();
    let events: Vec<&str> = span.events.iter().map(|event| event.name.as_str()).collect();
    let status = span.status.as_ref().map_or(0, |status| status.code);
    format!(
        "{} kind {} flags {} [{}] {events:?} status {status} parent {}",
        span.name,
        span.kind,
        span.flags,
        attributes.join(" "),
        !span.parent_span_id.is_empty()
    )
}

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// Calls with and without a parent, then an orderly stop, which sends what waits.
async fn calls(member: &mut Member) -> anyhow::Result<()> {
    let authority = member.authority();
    let fault = |error| anyhow::anyhow!("{error:?}");
    let channel = Channel::connect(&authority).await.map_err(fault)?;
    let method = |path: &str, flags: &str| -> anyhow::Result<Method> {
        let method = Method::new(&authority, path)?;
        Ok(match flags {
            "" => method,
            flags => method.with_header("traceparent", format!("00-{TRACE}-{PARENT}-{flags}")),
        })
    };
    let put = pb::PutRequest { key: "k".into(), value: "hidden".into(), ..Default::default() };
    for flags in ["", "01", "00"] {
        let method = method("/etcdserverpb.KV/Put", flags)?;
        channel.call::<pb::PutResponse>(&method, &put).await.map_err(fault)?;
    }
    let range = pb::RangeRequest { key: "k".into(), limit: 3, ..Default::default() };
    let sampled = method("/etcdserverpb.KV/Range", "01")?;
    channel.call::<pb::RangeResponse>(&sampled, &range).await.map_err(fault)?;
    let txn = pb::TxnRequest {
        success: vec![pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) }],
        ..Default::default()
    };
    let sampled = method("/etcdserverpb.KV/Txn", "01")?;
    channel.call::<pb::TxnResponse>(&sampled, &txn).await.map_err(fault)?;
    let sampled = method("/etcdserverpb.Lease/LeaseRevoke", "01")?;
    let revoke = pb::LeaseRevokeRequest { id: 77 };
    let refused = channel.call::<pb::LeaseRevokeResponse>(&sampled, &revoke).await;
    ensure!(refused.is_err(), "a lease that nobody granted");
    drop(channel);
    member.stop_while_busy().await?;
    Ok(())
}

fn traced(program: &interop::programs::Program, rate: &str) -> anyhow::Result<Collected> {
    let address = format!("127.0.0.1:{}", free_port()?);
    let listener = std::net::TcpListener::bind(&address)?;
    listener.set_nonblocking(true)?;
    let collector = format!("--distributed-tracing-address={address}");
    let rate = format!("--distributed-tracing-sampling-rate={rate}");
    let args = [
        "--enable-distributed-tracing",
        &collector,
        &rate,
        "--distributed-tracing-service-name=shop",
        "--distributed-tracing-instance-id=one",
    ];
    let mut member = Member::start(program, &args)?;
    block_on(async {
        let collected = Rc::new(RefCell::new(Collected::default()));
        let listener = TcpListener::from_std(listener)?;
        let task = tokio::task::spawn_local(collect(listener, collected.clone()));
        calls(&mut member).await?;
        task.abort();
        Ok(collected.take())
    })
}

/// Only who asked for it is traced at the rate 0; spans say what etcd's say.
#[test]
fn calls_of_traced_callers_are_spans() -> anyhow::Result<()> {
    let mut all = Vec::new();
    for program in alike() {
        let Collected { service, spans } = traced(&program, "0")?;
        ensure!(service == ["service.instance.id=one", "service.name=shop"], "{service:?}");
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        for span in &spans {
            ensure!(hex(&span.trace_id) == TRACE, "{span:?}");
            ensure!(span.start_time_unix_nano <= span.end_time_unix_nano, "{span:?}");
            ensure!(!format!("{span:?}").contains("hidden"));
        }
        let calls: Vec<&SpanData> = spans.iter().filter(|span| span.name.contains('/')).collect();
        ensure!(calls.iter().all(|span| hex(&span.parent_span_id) == PARENT), "{calls:?}");
        // What lies inside a call has the call around it.
        for inner in spans.iter().filter(|span| !span.name.contains('/')) {
            let around = calls.iter().find(|call| call.span_id == inner.parent_span_id);
            around.with_context(|| format!("{} stands alone", inner.name))?;
        }
        let mut shapes: Vec<String> = spans.iter().map(shape).collect();
        shapes.sort();
        all.push(shapes);
    }
    let names: Vec<&str> = all[0].iter().filter_map(|text| text.split(' ').next()).collect();
    let expected = [
        "etcdserverpb.KV/Put",
        "etcdserverpb.KV/Range",
        "etcdserverpb.KV/Txn",
        "etcdserverpb.Lease/LeaseRevoke",
        "lease_revoke",
        "put",
        "range",
        "txn",
    ];
    ensure!(names == expected, "{:#?}", all[0]);
    for other in &all[1..] {
        ensure!(all[0] == *other, "ours {:#?}\ntheirs {other:#?}", all[0]);
    }
    Ok(())
}

#[test]
fn at_the_full_rate_every_call_is_traced() -> anyhow::Result<()> {
    let spans = traced(&plain(), "1000000")?.spans;
    let puts: Vec<&SpanData> = spans.iter().filter(|span| span.name == "etcdserverpb.KV/Put").collect();
    // One without a parent, one with; who says that he is not traced is not.
    ensure!(puts.len() == 2, "{puts:?}");
    ensure!(puts.iter().filter(|span| span.parent_span_id.is_empty()).count() == 1);
    Ok(())
}

/// No request waits for a collector, and neither does the end for long.
#[test]
fn a_collector_that_is_not_there_costs_nothing() -> anyhow::Result<()> {
    let address = format!("--distributed-tracing-address=127.0.0.1:{}", free_port()?);
    let args = ["--enable-distributed-tracing", &address, "--distributed-tracing-sampling-rate=1000000"];
    let mut member = Member::start(&plain(), &args)?;
    block_on(async {
        let work = calls(&mut member);
        tokio::time::timeout(Duration::from_secs(25), work).await.context("calls wait for the collector")?
    })
}
