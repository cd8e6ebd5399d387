//! Requests over HTTP/2 that are not gRPC, and the body that requests of both versions have.
//!
//! On encrypted ports curl, browsers and Prometheus speak HTTP/2 to `/health` and `/metrics`.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response, StatusCode, Version};
use http_body_util::BodyExt;
use http2::{Field, Head, Reason, Sender};
use hyper::body::{Body, Frame};

use super::connection::InFlight;
use super::leftover::Http1Body;
use super::{Caller, HttpBody, Service};

/// What a client sends with a request that is not gRPC.
pub enum RequestBody {
    /// Over HTTP/1.
    Http1(Http1Body),
    /// Over HTTP/2. Shared with who answers, see [`read_on`].
    Http2(Rc<RefCell<http2::Body>>),
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        Poll::Ready(match self.get_mut() {
            Self::Http1(body) => ready!(body.poll_frame(cx)).map(|frame| frame.map_err(io::Error::other)),
            Self::Http2(body) => ready!(body.borrow_mut().poll_data(cx))
                .map(|data| data.map(Frame::data).map_err(io::Error::other)),
        })
    }
}

/// Whether a request is a gRPC call: upstream looks for the words anywhere in the content type.
pub(crate) fn is_grpc(head: &Head) -> bool {
    let content_type = head.get("content-type").unwrap_or_default();
    content_type.windows(GRPC.len()).any(|part| part == GRPC)
}

/// How much of a request is read after its answer.
const LATE_BYTES: usize = 64 << 10;

const GRPC: &[u8] = b"application/grpc";

/// Has the service answer a request.
pub(crate) async fn answer<S: Service>(
    request: http2::server::Request,
    service: Rc<S>,
    caller: Caller,
    in_flight: InFlight,
) {
    let http2::server::Request { head, body, mut respond } = request;
    let without_body = head.method() == b"HEAD";
    let body = Rc::new(RefCell::new(body));
    let response = match read_head(&head) {
        Some(parts) => {
            let request = parts.map(|()| RequestBody::Http2(body.clone()));
            let taken_back = poll_fn(|cx| respond.poll_reset(cx).map(drop));
            tokio::select! {
                biased;
                response = service.http(request, caller) => response,
                () = taken_back => return,
            }
        }
        None => {
            let mut refusal = Response::new(HttpBody::default());
            *refusal.status_mut() = StatusCode::BAD_REQUEST;
            refusal
        }
    };
    if send(&mut respond, response, without_body).await.is_none() {
        respond.reset(Reason::INTERNAL_ERROR);
        return;
    }
    drop(in_flight);
    read_on(&body).await;
}

/// Reads what is left of a request that has its answer: some clients take an answer that overtakes their
/// request, and the stream's end behind it, for a failure. Behind [`LATE_BYTES`] the stream is closed.
async fn read_on(body: &RefCell<http2::Body>) {
    let mut left = LATE_BYTES;
    while left > 0 {
        match poll_fn(|cx| body.borrow_mut().poll_data(cx)).await {
            Some(Ok(data)) => left = left.saturating_sub(data.len()),
            _ => return,
        }
    }
}

/// `None` for what is no HTTP request.
fn read_head(head: &Head) -> Option<Request<()>> {
    let mut uri = http::Uri::builder().path_and_query(head.path());
    if let Some(authority) = head.authority() {
        uri = uri.scheme("https").authority(authority);
    }
    let mut request =
        Request::builder().version(Version::HTTP_2).method(head.method()).uri(uri.build().ok()?);
    for field in head.fields() {
        request = request.header(field.name(), field.value());
    }
    request.body(()).ok()
}

/// `None` if nobody wants it any more, or it is no response that HTTP/2 knows.
async fn send(respond: &mut Sender, response: Response<HttpBody>, without_body: bool) -> Option<()> {
    let (parts, mut body) = response.into_parts();
    let mut head = Head::response(parts.status.as_u16());
    for (name, value) in &parts.headers {
        head = head.with(Field::new(name.as_str(), value.as_bytes()));
    }
    if without_body || body.is_end_stream() {
        return respond.send_head(&Rc::new(head), true).ok();
    }
    respond.send_head(&Rc::new(head), false).ok()?;
    loop {
        // A stream that is quiet ends with its client too.
        let frame = tokio::select! {
            biased;
            () = poll_fn(|cx| respond.poll_reset(cx).map(drop)) => return None,
            frame = body.frame() => frame,
        };
        let Some(frame) = frame else { break };
        let Ok(mut data) = frame.unwrap_or_else(|never| match never {}).into_data() else { continue };
        while !data.is_empty() {
            let room = poll_fn(|cx| respond.poll_room(cx)).await.ok()?;
            let part = data.split_to(room.min(data.len()));
            respond.send_data(part, false).ok()?;
        }
    }
    respond.send_data(Bytes::new(), true).ok()
}
