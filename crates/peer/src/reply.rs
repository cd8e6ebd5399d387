//! Answers in the form of Go's `net/http`.

use std::convert::Infallible;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};

/// Body of an answer.
pub(crate) type Reply = UnsyncBoxBody<Bytes, Infallible>;

const NO_SNIFF: HeaderName = HeaderName::from_static("x-content-type-options");
pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");
pub(crate) const PROTOBUF: HeaderValue = HeaderValue::from_static("application/protobuf");
const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

pub(crate) fn empty(status: StatusCode) -> Response<Reply> {
    with_body(status, Bytes::new())
}

fn with_body(status: StatusCode, body: Bytes) -> Response<Reply> {
    let mut response = Response::new(Full::new(body).boxed_unsync());
    *response.status_mut() = status;
    response
}

/// An error or another short text, with a line end.
pub(crate) fn text(status: StatusCode, line: &str) -> Response<Reply> {
    let mut response = with_body(status, Bytes::from(format!("{line}\n")));
    response.headers_mut().insert(CONTENT_TYPE, PLAIN);
    response.headers_mut().insert(NO_SNIFF, HeaderValue::from_static("nosniff"));
    response
}

pub(crate) fn typed(content_type: HeaderValue, body: impl Into<Bytes>) -> Response<Reply> {
    let mut response = with_body(StatusCode::OK, body.into());
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

pub(crate) fn not_found() -> Response<Reply> {
    text(StatusCode::NOT_FOUND, "404 page not found")
}

/// The refusal of any method but this one.
pub(crate) fn wrong_method(allowed: &Method) -> Response<Reply> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    response
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static(if *allowed == Method::GET { "GET" } else { "POST" }));
    response
}
