//! Whether a user may make a request: every part of it, taken or not.
//!
//! The applier asks at a request's place in the log; the services ask before reads that make no
//! entry. One set of rules, so nothing is open on one path and closed on the other:
//!
//! - a key that is put needs WRITE, with `prev_kv` READ too, and with a lease WRITE on every key that
//!   hangs on the lease already: otherwise the user could keep alive, or let die, keys of others;
//! - a transaction needs all of that for both branches, the nested ones included, and READ for the
//!   ranges of its compares.
//!
//! **Source**: etcd `server/etcdserver/apply/auth.go`.

use auth::{AuthError, AuthStore, Identity};
use lease::Lessor;
use pb::request_op::Request;
use proto::etcdserverpb as pb;
use types::LeaseId;

/// Users and roles, leases, and who asks.
pub struct Access<'a> {
    /// Users and roles.
    pub auth: &'a AuthStore,
    /// Leases with their keys.
    pub lessor: &'a Lessor,
    /// Who asks.
    pub who: &'a Identity,
}

type Verdict = Result<(), AuthError>;

impl Access<'_> {
    /// A range.
    ///
    /// # Errors
    /// Here and below: it is not allowed.
    pub fn range(&self, range: &pb::RangeRequest) -> Verdict {
        self.auth.may_read(self.who, &range.key, &range.range_end)
    }

    /// A put.
    ///
    /// # Errors
    /// It is not allowed.
    pub fn put(&self, put: &pb::PutRequest) -> Verdict {
        self.auth.may_write(self.who, &put.key, b"")?;
        self.writes_keys_of(LeaseId(put.lease))?;
        if put.prev_kv {
            self.auth.may_read(self.who, &put.key, b"")?;
        }
        Ok(())
    }

    /// A deletion.
    ///
    /// # Errors
    /// It is not allowed.
    pub fn delete_range(&self, delete: &pb::DeleteRangeRequest) -> Verdict {
        self.auth.may_write(self.who, &delete.key, &delete.range_end)?;
        if delete.prev_kv {
            self.auth.may_read(self.who, &delete.key, &delete.range_end)?;
        }
        Ok(())
    }

    /// A transaction.
    ///
    /// # Errors
    /// Some part of it is not allowed.
    pub fn txn(&self, txn: &pb::TxnRequest) -> Verdict {
        for compare in &txn.compare {
            self.auth.may_read(self.who, &compare.key, &compare.range_end)?;
        }
        for op in txn.success.iter().chain(&txn.failure) {
            match &op.request {
                Some(Request::RequestRange(range)) => self.range(range)?,
                Some(Request::RequestPut(put)) => self.put(put)?,
                Some(Request::RequestDeleteRange(delete)) => self.delete_range(delete)?,
                Some(Request::RequestTxn(nested)) => self.txn(nested)?,
                None => {}
            }
        }
        Ok(())
    }

    /// Every key of a lease may be written: the lease may be revoked, renewed, attached to.
    ///
    /// # Errors
    /// A key may not.
    pub fn writes_keys_of(&self, lease: LeaseId) -> Verdict {
        self.keys_of(lease, |key| self.auth.may_write(self.who, key, b""))
    }

    /// Every key of a lease may be read: the lease and its keys may be named.
    ///
    /// # Errors
    /// A key may not.
    pub fn reads_keys_of(&self, lease: LeaseId) -> Verdict {
        self.keys_of(lease, |key| self.auth.may_read(self.who, key, b""))
    }

    fn keys_of(&self, lease: LeaseId, may: impl Fn(&[u8]) -> Verdict) -> Verdict {
        if lease == LeaseId::default() || self.auth.may_administrate(Some(self.who)).is_ok() {
            return Ok(());
        }
        self.lessor.keys(lease).unwrap_or_default().iter().try_for_each(|key| may(key))
    }
}
