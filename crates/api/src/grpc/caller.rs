//! Who sent a request that is not gRPC, and what its handler may do beside answering: make calls of
//! its own, and take the connection over.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use http2::Head;
use tokio::time::Instant;

use super::call::Call;
use super::connection::Shared;
use super::inner::InnerCall;
use super::metadata::{CallContext, Peer};

type Next = Pin<Box<dyn Future<Output = ()>>>;

/// What a connection becomes after HTTP/1.
#[derive(Clone, Default)]
pub(crate) struct Takeover(Rc<RefCell<Option<Next>>>);

impl Takeover {
    pub(crate) fn take(&self) -> Option<Next> {
        self.0.borrow_mut().take()
    }
}

/// The sender of a request.
#[derive(Clone)]
pub struct Caller {
    shared: Rc<Shared>,
    takeover: Option<Takeover>,
}

impl Caller {
    pub(crate) fn new(shared: &Rc<Shared>, takeover: Option<Takeover>) -> Self {
        Self { shared: shared.clone(), takeover }
    }

    /// The other end of the connection.
    pub fn peer(&self) -> &Rc<Peer> {
        &self.shared.peer
    }

    /// Longest message that a call takes.
    pub fn max_receive_bytes(&self) -> usize {
        self.shared.max_receive_bytes
    }

    /// Begins a call in the sender's name. `headers` has the path and the metadata. The call does not
    /// count as one from the same machine, nor has it a certificate: what is sent on may have been
    /// written by a page in a browser.
    pub fn call(&self, headers: Head, deadline: Option<Instant>) -> (Call, InnerCall) {
        let Peer { address, secure, .. } = **self.peer();
        let peer = Rc::new(Peer { address, secure, ..Peer::default() });
        Call::inner(CallContext { headers: Rc::new(headers), deadline, peer }, &self.shared)
    }

    /// Has the connection go on with this once the answer, an upgrade, is sent. Nothing happens over
    /// HTTP/2, which has no upgrades.
    pub fn take_over(&self, next: impl Future<Output = ()> + 'static) {
        if let Some(takeover) = &self.takeover {
            *takeover.0.borrow_mut() = Some(Box::pin(next));
        }
    }

    /// Whether the connection can go on as something else.
    pub fn can_upgrade(&self) -> bool {
        self.takeover.is_some()
    }

    /// Returns when the connection begins to stop; streams that last have to end then.
    pub async fn stopping(&self) {
        self.shared.stopping.begun().await;
    }
}
