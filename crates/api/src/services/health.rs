//! The standard health service: only the server as a whole (the empty name) is registered.
//!
//! **Source**: `google.golang.org/grpc/health`, as etcd registers it.

use proto::health as pb;

use crate::error::Error;
use crate::grpc::{CallContext, Code, Responses, Status};
use crate::member::Member;

fn response(status: pb::health_check_response::ServingStatus) -> pb::HealthCheckResponse {
    pb::HealthCheckResponse { status: status as i32 }
}

const SERVING: pb::health_check_response::ServingStatus = pb::health_check_response::ServingStatus::Serving;

/// `Health.Check`.
pub async fn check<M: Member>(
    _: &M,
    _: &CallContext,
    request: pb::HealthCheckRequest,
) -> Result<pb::HealthCheckResponse, Error> {
    match request.service.is_empty() {
        true => Ok(response(SERVING)),
        false => Err(Error::Status(Status::new(Code::NotFound, "unknown service"))),
    }
}

/// `Health.List`.
pub async fn list<M: Member>(
    _: &M,
    _: &CallContext,
    _: pb::HealthListRequest,
) -> Result<pb::HealthListResponse, Error> {
    Ok(pb::HealthListResponse { statuses: [(String::new(), response(SERVING))].into() })
}

/// `Health.Watch`: the state now; it does not change while the server runs.
pub async fn watch<M: Member>(
    _: &M,
    _: &CallContext,
    request: pb::HealthCheckRequest,
    responses: &mut Responses,
) -> Result<(), Error> {
    let state = match request.service.is_empty() {
        true => SERVING,
        false => pb::health_check_response::ServingStatus::ServiceUnknown,
    };
    responses.send(&response(state)).await?;
    std::future::poll_fn(|cx| responses.poll_gone(cx)).await;
    Err(Error::Status(Status::canceled()))
}
