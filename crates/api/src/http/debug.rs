//! Pages for whoever looks inside: made elsewhere, on a thread where they may take their time.
//!
//! A page stops being made when its reader leaves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::header::{CONTENT_DISPOSITION, HeaderName, LOCATION};
use http::{HeaderValue, Request, Response, StatusCode, Uri};

use super::{HttpSide, NO_SNIFF, error, not_found, query_pairs, typed};
use crate::grpc::HttpBody;

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DebugRequest {
    /// The path.
    pub path: String,
    /// What stands behind the question mark.
    pub raw_query: String,
    /// The same, decoded.
    pub query: Vec<(String, String)>,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DebugPage {
    /// Status of HTTP.
    pub status: u16,
    /// Type of the body.
    pub content_type: &'static str,
    /// What to do with the body, if that is to be said.
    pub disposition: Option<String>,
    /// Where to go instead.
    pub location: Option<String>,
    /// The body.
    pub body: Vec<u8>,
}

impl DebugPage {
    /// Plain text.
    pub fn text(status: u16, text: String) -> Self {
        Self {
            status,
            content_type: "text/plain; charset=utf-8",
            disposition: None,
            location: None,
            body: text.into_bytes(),
        }
    }
}

/// Makes pages; `None` for those that there are not. The flag says that nobody waits any more.
pub type DebugPages = Arc<dyn Fn(&DebugRequest, &AtomicBool) -> Option<DebugPage> + Send + Sync>;

/// Raises a flag when it goes.
struct Left(Arc<AtomicBool>);

impl Drop for Left {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl HttpSide {
    pub(super) async fn debug_page<B>(&self, request: &Request<B>) -> Response<HttpBody> {
        match self.debug_pages.clone() {
            Some(pages) => debug_page(pages, request.uri()).await,
            None => not_found(),
        }
    }
}

/// Has a page made on a thread for long work, and answers with it.
pub async fn debug_page(pages: DebugPages, uri: &Uri) -> Response<HttpBody> {
    let raw_query = uri.query().unwrap_or_default().to_owned();
    let asked =
        DebugRequest { path: uri.path().to_owned(), query: query_pairs(&raw_query).collect(), raw_query };
    let left = Left(Arc::default());
    let flag = left.0.clone();
    let made = tokio::task::spawn_blocking(move || pages(&asked, &flag)).await;
    match made {
        Ok(Some(page)) => respond(page),
        Ok(None) => not_found(),
        Err(_) => error(StatusCode::INTERNAL_SERVER_ERROR, "the page could not be made"),
    }
}

fn respond(page: DebugPage) -> Response<HttpBody> {
    let status = StatusCode::from_u16(page.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = typed(status, HeaderValue::from_static(page.content_type), page.body);
    let headers = response.headers_mut();
    headers.insert(NO_SNIFF, HeaderValue::from_static("nosniff"));
    let mut add = |name: HeaderName, value: Option<String>| {
        if let Some(value) = value.and_then(|value| HeaderValue::from_str(&value).ok()) {
            headers.insert(name, value);
        }
    };
    add(CONTENT_DISPOSITION, page.disposition);
    add(LOCATION, page.location);
    response
}
