//! Range requests as store queries, and store results as responses.

use mvcc::{RangeQuery, RangeResult, ReadError, SortOrder, SortTarget};
use proto::etcdserverpb as pb;
use types::{CompatVersion, KeyRange};

/// The query of a range request.
///
/// A sort number outside the protocol sorts by nothing: releases before 3.6 ignored it, later
/// ones refuse it before it gets here.
pub fn query(request: &pb::RangeRequest, compat: CompatVersion) -> RangeQuery {
    use pb::range_request::{SortOrder as Order, SortTarget as Target};
    let sort_target = match Target::try_from(request.sort_target).unwrap_or_default() {
        Target::Key => SortTarget::Key,
        Target::Version => SortTarget::Version,
        Target::Create => SortTarget::Create,
        Target::Mod => SortTarget::Mod,
        Target::Value => SortTarget::Value,
    };
    let sort_order = match Order::try_from(request.sort_order).unwrap_or_default() {
        Order::None => SortOrder::None,
        Order::Ascend => SortOrder::Ascend,
        Order::Descend => SortOrder::Descend,
    };
    RangeQuery {
        revision: request.revision,
        limit: request.limit,
        count_only: request.count_only,
        keys_only: request.keys_only,
        // 3.7 answers keys_only from the index, which knows no lease, unless it sorts by value.
        keys_only_from_index: compat >= CompatVersion::V3_7 && sort_target != SortTarget::Value,
        sort_target,
        sort_order,
        min_mod_revision: request.min_mod_revision,
        max_mod_revision: request.max_mod_revision,
        min_create_revision: request.min_create_revision,
        max_create_revision: request.max_create_revision,
        ..RangeQuery::new(KeyRange::from_wire(request.key.clone(), request.range_end.clone()))
    }
}

/// The response to a range, with the revision alone in its header.
///
/// # Errors
/// A record of the result is damaged.
pub fn response(result: &RangeResult) -> Result<pb::RangeResponse, ReadError> {
    Ok(pb::RangeResponse {
        header: Some(header(result.revision)),
        kvs: result.kvs.decode()?,
        more: result.more,
        count: result.count,
    })
}

/// A header that holds only a revision.
pub(crate) fn header(revision: i64) -> pb::ResponseHeader {
    pb::ResponseHeader { revision, ..Default::default() }
}
