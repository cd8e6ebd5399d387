//! The standard health service: only the server as a whole (the empty name) is registered.
//!
//! **Source**: `google.golang.org/grpc/health`, as etcd registers it.

use std::task::Poll;

use proto::health as pb;
use proto::health::health_check_response::ServingStatus;

use crate::error::Error;
use crate::grpc::{CallContext, Code, Responses, Status};
use crate::member::Member;

fn response(status: ServingStatus) -> pb::HealthCheckResponse {
    pb::HealthCheckResponse { status: status as i32 }
}

fn status(serves: bool) -> ServingStatus {
    if serves { ServingStatus::Serving } else { ServingStatus::NotServing }
}

/// `Health.Check`.
pub async fn check<M: Member>(
    member: &M,
    _: &CallContext,
    request: pb::HealthCheckRequest,
) -> Result<pb::HealthCheckResponse, Error> {
    match request.service.is_empty() {
        true => Ok(response(status(*member.serving().borrow()))),
        false => Err(Error::Status(Status::new(Code::NotFound, "unknown service"))),
    }
}

/// `Health.List`.
pub async fn list<M: Member>(
    member: &M,
    _: &CallContext,
    _: pb::HealthListRequest,
) -> Result<pb::HealthListResponse, Error> {
    let all = response(status(*member.serving().borrow()));
    Ok(pb::HealthListResponse { statuses: [(String::new(), all)].into() })
}

/// `Health.Watch`: the state now, then each change of it.
pub async fn watch<M: Member>(
    member: &M,
    _: &CallContext,
    request: pb::HealthCheckRequest,
    responses: &mut Responses,
) -> Result<(), Error> {
    let mut serving = member.serving();
    let is_known = request.service.is_empty();
    loop {
        let state =
            if is_known { status(*serving.borrow_and_update()) } else { ServingStatus::ServiceUnknown };
        responses.send(&response(state)).await?;
        let changed = async {
            // Without a sender nothing changes any more.
            if !is_known || serving.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let mut changed = std::pin::pin!(changed);
        let gone = std::future::poll_fn(|cx| {
            if changed.as_mut().poll(cx).is_ready() {
                return Poll::Ready(false);
            }
            responses.poll_gone(cx).map(|()| true)
        });
        if gone.await {
            return Err(Error::Status(Status::canceled()));
        }
    }
}
