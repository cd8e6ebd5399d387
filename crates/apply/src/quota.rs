//! The space quota: what a request may cost and whether there is room.
//!
//! **Source**: etcd `server/storage/quota.go`.

use pb::request_op::Request;
use proto::etcdserverpb as pb;

/// Quota used when `--quota-backend-bytes` is 0.
pub const DEFAULT_QUOTA_BYTES: u64 = 2 * 1024 * 1024 * 1024;

/// Bytes charged for a put beside its key and value.
const PUT_OVERHEAD_BYTES: u64 = 256;
/// Bytes charged for a lease grant.
const LEASE_GRANT_BYTES: u64 = 64;

/// The limit of the backend's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quota {
    /// No limit (`--quota-backend-bytes` negative).
    Off,
    /// At most this many bytes.
    Bytes(u64),
}

impl Quota {
    /// Reads the flag's value.
    pub fn from_flag(bytes: i64) -> Self {
        match bytes {
            0 => Self::Bytes(DEFAULT_QUOTA_BYTES),
            limit => u64::try_from(limit).map_or(Self::Off, Self::Bytes),
        }
    }

    /// Whether a request of this cost fits beside `size_bytes`. Cost 0 always fits.
    pub fn allows(self, size_bytes: u64, cost: u64) -> bool {
        match self {
            Self::Off => true,
            Self::Bytes(limit) => cost == 0 || size_bytes.saturating_add(cost) < limit,
        }
    }

    /// The value that Status reports.
    pub fn reported_bytes(self) -> i64 {
        match self {
            Self::Off => -1,
            Self::Bytes(limit) => i64::try_from(limit).unwrap_or(i64::MAX),
        }
    }
}

/// Cost of a put in bytes.
pub fn put_cost(request: &pb::PutRequest) -> u64 {
    PUT_OVERHEAD_BYTES + request.key.len() as u64 + request.value.len() as u64
}

/// Cost of a transaction: the dearer of its branches, nested transactions included.
pub fn txn_cost(request: &pb::TxnRequest) -> u64 {
    let branch = |ops: &[pb::RequestOp]| -> u64 {
        ops.iter()
            .map(|op| match &op.request {
                Some(Request::RequestPut(put)) => put_cost(put),
                Some(Request::RequestTxn(txn)) => txn_cost(txn),
                _ => 0,
            })
            .sum()
    };
    branch(&request.success).max(branch(&request.failure))
}

/// Cost of a lease grant in bytes.
pub const fn lease_grant_cost() -> u64 {
    LEASE_GRANT_BYTES
}

/// Cost of a raft request in bytes; 0 for kinds that need no space.
pub fn cost(request: &pb::InternalRaftRequest) -> u64 {
    if let Some(put) = &request.put {
        put_cost(put)
    } else if let Some(txn) = &request.txn {
        txn_cost(txn)
    } else if request.lease_grant.is_some() {
        lease_grant_cost()
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &'static str, value: &'static str) -> pb::RequestOp {
        let put = pb::PutRequest { key: key.into(), value: value.into(), ..Default::default() };
        pb::RequestOp { request: Some(Request::RequestPut(put)) }
    }

    #[test]
    fn a_txn_costs_its_dearer_branch_with_nested_ones() {
        let nested = pb::TxnRequest { failure: vec![put("ab", "c")], ..Default::default() };
        let nested = pb::RequestOp { request: Some(Request::RequestTxn(nested)) };
        let txn = pb::TxnRequest {
            success: vec![put("a", "")],
            failure: vec![put("a", "b"), nested],
            compare: vec![],
        };
        assert_eq!(txn_cost(&txn), (256 + 2) + (256 + 3));
    }

    #[test]
    fn the_flag_has_three_meanings() {
        assert_eq!(Quota::from_flag(0), Quota::Bytes(DEFAULT_QUOTA_BYTES));
        assert_eq!(Quota::from_flag(-1), Quota::Off);
        assert!(Quota::from_flag(100).allows(0, 99));
        assert!(!Quota::from_flag(100).allows(1, 99));
        assert!(Quota::from_flag(100).allows(1000, 0));
    }
}
