//! `dump db` and `dump wal`: every record of a database or a log, one JSON object per line.
//!
//! For `jq`, for comparing two members, for looking at a file that no server starts on. Keys and values
//! are texts where they are UTF-8, otherwise base64 under a name that ends in `_base64`. Password
//! hashes are never shown.
//!
//! A damaged log is shown up to the damage, which is then the error; a database must have a sound
//! structure.

use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use backend::{BucketId, schema};
use env::{Disk, OpenMode};
use prost::Message as _;
use proto::etcdserverpb::{self as pb, InternalRaftRequest};
use types::{ConfState, Entry, EntryKind, RecordKey};
use wal::format::{Record, RecordKind, Scan, ScanError};

use super::Invocation;
use crate::failure::{Failure, chain};
use crate::files::{self, refused};
use crate::json::{Object, array};

/// Takes lines; fails when nobody reads them any more.
type Sink<'a> = &'a mut dyn FnMut(String) -> Result<(), Failure>;

/// Carries `dump db` out.
pub fn run_db(invocation: &Invocation) -> Result<(), Failure> {
    let file = PathBuf::from(invocation.arg_text(0));
    files::must_exist(&file)?;
    let tx = files::open_to_read(files::disk(), &file, super::timeout(&invocation.flags))?.read();
    let faults = tx.check();
    if let Some(first) = faults.first() {
        return Err(Failure::error(format!(
            "{}: {} faults, the first one: {first}",
            file.display(),
            faults.len()
        )));
    }
    to_stdout(|sink| dump_db(&tx, sink))
}

/// Carries `dump wal` out.
pub fn run_wal(invocation: &Invocation) -> Result<(), Failure> {
    let dir = PathBuf::from(invocation.arg_text(0));
    files::must_exist(&dir)?;
    to_stdout(|sink| dump_wal(&*files::disk(), &dir, sink))
}

fn to_stdout(dump: impl FnOnce(Sink<'_>) -> Result<(), Failure>) -> Result<(), Failure> {
    let mut out = BufWriter::with_capacity(1 << 16, std::io::stdout().lock());
    // Whoever reads no further, such as `head`, has what he wanted.
    let gone = |_| std::process::exit(141);
    let result = dump(&mut |line| writeln!(out, "{line}").map_err(gone));
    out.flush().map_err(gone)?;
    result
}

fn dump_db(tx: &bolt::ReadTx, sink: Sink<'_>) -> Result<(), Failure> {
    for bucket in tx.buckets() {
        let (name, bucket) = bucket?;
        let known = BucketId::ALL.into_iter().find(|id| id.name() == name);
        for item in bucket.iter() {
            let (key, value) = item?;
            let line = Object::new().bytes("bucket", name);
            let line = match value.data() {
                Some(value) => item_line(line, known, key, value),
                None => line.bytes("nested_bucket", key),
            };
            sink(line.end())?;
        }
    }
    Ok(())
}

/// What a record holds, by the bucket it is in; key and value as they are where that is unknown.
fn item_line(line: Object, bucket: Option<BucketId>, key: &[u8], value: &[u8]) -> Object {
    let plain = |line: Object| line.bytes("key", key).bytes("value", value);
    match bucket {
        Some(BucketId::Key) => record_line(line, key, value),
        Some(BucketId::Meta) => meta_line(line, key, value),
        Some(BucketId::Lease) => match lease::decode_record(key, value) {
            Ok(record) => line
                .text("lease", format!("{:016x}", record.id.0))
                .raw("ttl", record.ttl_seconds)
                .number("remaining_ttl", record.remaining_ttl_seconds),
            Err(_) => plain(line),
        },
        Some(BucketId::Alarm) => match schema::parse_alarm_key(key) {
            Some((member, kind)) => line.text("member", member.to_string()).raw("alarm", kind),
            None => plain(line),
        },
        Some(BucketId::Members) => match membership::Member::from_json(value) {
            Ok(member) => line.bytes("key", key).raw("member", member.to_json()),
            Err(_) => plain(line),
        },
        Some(BucketId::Auth) => match (key, value) {
            (schema::AUTH_ENABLED, _) => line.bytes("key", key).raw("value", value == [1]),
            (schema::AUTH_REVISION, _) => number_line(line, key, value),
            _ => plain(line),
        },
        Some(BucketId::AuthUsers) => match proto::authpb::User::decode(value) {
            Ok(user) => line
                .bytes("user", &user.name)
                .flag("has_password", !user.password.is_empty())
                .flag("no_password", user.options.is_some_and(|options| options.no_password))
                .raw("roles", array(user.roles.iter().map(cli::print::json_string))),
            Err(_) => line.bytes("user", key),
        },
        Some(BucketId::AuthRoles) => match proto::authpb::Role::decode(value) {
            Ok(role) => line
                .bytes("role", &role.name)
                .raw("permissions", array(role.key_permission.iter().map(permission))),
            Err(_) => plain(line),
        },
        _ => plain(line),
    }
}

fn permission(permission: &proto::authpb::Permission) -> String {
    use proto::authpb::permission::Type;
    let kind = Type::try_from(permission.perm_type).map_or("unknown", |kind| kind.as_str_name());
    Object::new()
        .text("type", kind)
        .bytes("key", &permission.key)
        .bytes_if_any("range_end", &permission.range_end)
        .end()
}

fn record_line(line: Object, key: &[u8], value: &[u8]) -> Object {
    let (Ok(record), Ok(fields)) = (RecordKey::decode(key), mvcc::record::parse(value)) else {
        return line.bytes("key", key).bytes("value", value);
    };
    let line = line.raw("main", record.revision.main).raw("sub", record.revision.sub);
    match record.tombstone {
        true => line.flag("tombstone", true).bytes("key", fields.key),
        false => line
            .bytes("key", fields.key)
            .number("create_revision", fields.create_revision)
            .number("mod_revision", fields.mod_revision)
            .number("version", fields.version)
            .bytes("value", fields.value)
            .number("lease", fields.lease),
    }
}

fn meta_line(line: Object, key: &[u8], value: &[u8]) -> Object {
    match key {
        schema::CONSISTENT_INDEX | schema::TERM => number_line(line, key, value),
        schema::SCHEDULED_COMPACT_REVISION | schema::FINISHED_COMPACT_REVISION => {
            match RecordKey::decode(value) {
                Ok(record) => line.bytes("key", key).raw("value", record.revision.main),
                Err(_) => line.bytes("key", key).bytes("value", value),
            }
        }
        _ => line.bytes("key", key).bytes("value", value),
    }
}

fn number_line(line: Object, key: &[u8], value: &[u8]) -> Object {
    match <[u8; 8]>::try_from(value) {
        Ok(number) => line.bytes("key", key).raw("value", u64::from_be_bytes(number)),
        Err(_) => line.bytes("key", key).bytes("value", value),
    }
}

fn dump_wal(disk: &dyn Disk, dir: &Path, sink: Sink<'_>) -> Result<(), Failure> {
    let names = wal::segments(disk, dir)?;
    if names.is_empty() {
        return Err(Failure::error(format!("{}: no log segment in it", dir.display())));
    }
    let mut crc = 0;
    for (number, name) in names.iter().enumerate() {
        let path = dir.join(name.file_name());
        let file = disk.open(&path, OpenMode::Read).map_err(refused("open", &path))?;
        sink(Object::new().text("segment", name.file_name()).end())?;
        let mut scan = Scan::new(&*file, crc).map_err(refused("read", &path))?;
        loop {
            let offset = scan.offset();
            match scan.next_record() {
                Ok(Some(record)) => sink(log_line(offset, record))?,
                Ok(None) => break,
                Err(ScanError::Torn) if number + 1 == names.len() => {
                    sink(Object::new().raw("offset", offset).flag("torn", true).end())?;
                    break;
                }
                Err(error) => {
                    return Err(Failure::error(format!(
                        "{}: damaged at byte {offset}: {}",
                        path.display(),
                        chain(&error)
                    )));
                }
            }
        }
        crc = scan.crc();
    }
    Ok(())
}

fn log_line(offset: u64, record: Record<'_>) -> String {
    let line = Object::new().raw("offset", offset);
    let unreadable =
        |line: Object, what: &str| line.text("record", what).bytes("undecoded", record.data).end();
    match record.kind {
        RecordKind::Crc => line.text("record", "crc").raw("crc", record.crc).end(),
        RecordKind::Metadata => match wal::format::decode_metadata(record.data) {
            Ok(metadata) => line
                .text("record", "metadata")
                .text("member", metadata.member.to_string())
                .text("cluster", metadata.cluster.to_string())
                .end(),
            Err(_) => unreadable(line, "metadata"),
        },
        RecordKind::State => match wal::format::decode_hard_state(record.data) {
            Ok(state) => line
                .text("record", "state")
                .raw("term", state.term)
                .text("vote", format!("{:x}", state.vote))
                .raw("commit", state.commit)
                .end(),
            Err(_) => unreadable(line, "state"),
        },
        RecordKind::Snapshot => match wal::format::decode_wal_snapshot(record.data) {
            Ok(snapshot) => {
                let line = line
                    .text("record", "snapshot")
                    .raw("index", snapshot.position.index)
                    .raw("term", snapshot.position.term);
                match snapshot.conf_state {
                    Some(state) => line.raw("conf_state", conf_state(&state)).end(),
                    None => line.end(),
                }
            }
            Err(_) => unreadable(line, "snapshot"),
        },
        RecordKind::Entry => match wal::format::decode_entry(record.data) {
            Ok(entry) => entry_line(line, &entry),
            Err(_) => unreadable(line, "entry"),
        },
    }
}

fn conf_state(state: &ConfState) -> String {
    let ids = |ids: &[u64]| array(ids.iter().map(|id| format!("\"{id:x}\"")));
    Object::new().raw("voters", ids(&state.voters)).raw("learners", ids(&state.learners)).end()
}

fn entry_line(line: Object, entry: &Entry) -> String {
    let line = line.text("record", "entry").raw("index", entry.index).raw("term", entry.term);
    match entry.kind {
        EntryKind::Normal => match membership::decode_entry(entry.data.clone()) {
            Ok(None) => line.text("kind", "empty").end(),
            Ok(Some(request)) => {
                let (name, body) = request_body(&request);
                let id = request.header.as_ref().map_or(request.id, |header| header.id);
                let user = request.header.as_ref().map(|header| header.username.clone()).unwrap_or_default();
                line.text("kind", "request")
                    .text("request_id", format!("{id:x}"))
                    .bytes_if_any("user", user.as_bytes())
                    .raw(name, body)
                    .end()
            }
            Err(_) => line.text("kind", "request").bytes("undecoded", &entry.data).end(),
        },
        EntryKind::ConfChange => {
            let line = line.text("kind", "conf_change");
            match proto::raftpb::ConfChange::decode(&entry.data[..]) {
                Ok(change) => conf_change(line, &change).end(),
                Err(_) => line.bytes("undecoded", &entry.data).end(),
            }
        }
        EntryKind::ConfChangeV2 => line.text("kind", "conf_change_v2").bytes("undecoded", &entry.data).end(),
    }
}

fn conf_change(line: Object, change: &proto::raftpb::ConfChange) -> Object {
    match membership::ConfChange::decode(change) {
        Ok(membership::ConfChange::Add(member)) => line.text("change", "add").raw("member", member.to_json()),
        Ok(membership::ConfChange::UpdatePeerUrls(member)) => {
            line.text("change", "update").raw("member", member.to_json())
        }
        Ok(membership::ConfChange::Promote(id)) => {
            line.text("change", "promote").text("member_id", id.to_string())
        }
        Ok(membership::ConfChange::Remove(id)) => {
            line.text("change", "remove").text("member_id", id.to_string())
        }
        Err(error) => line.text("undecoded", chain(&error)),
    }
}

/// Name and content of the one request that is set.
fn request_body(request: &InternalRaftRequest) -> (&'static str, String) {
    if let Some(put) = &request.put {
        return ("put", put_body(put));
    }
    if let Some(delete) = &request.delete_range {
        return ("delete_range", range_body(&delete.key, &delete.range_end));
    }
    if let Some(txn) = &request.txn {
        return ("txn", txn_body(txn));
    }
    if let Some(compaction) = &request.compaction {
        let body = Object::new().raw("revision", compaction.revision).flag("physical", compaction.physical);
        return ("compaction", body.end());
    }
    if let Some(grant) = &request.lease_grant {
        return (
            "lease_grant",
            Object::new().text("id", format!("{:016x}", grant.id)).raw("ttl", grant.ttl).end(),
        );
    }
    if let Some(revoke) = &request.lease_revoke {
        return ("lease_revoke", Object::new().text("id", format!("{:016x}", revoke.id)).end());
    }
    if let Some(alarm) = &request.alarm {
        let body = Object::new()
            .raw("action", alarm.action)
            .text("member", format!("{:x}", alarm.member_id))
            .raw("alarm", alarm.alarm);
        return ("alarm", body.end());
    }
    if let Some(checkpoint) = &request.lease_checkpoint {
        return ("lease_checkpoint", Object::new().raw("leases", checkpoint.checkpoints.len()).end());
    }
    if let Some(set) = &request.cluster_version_set {
        return ("cluster_version_set", Object::new().text("version", &set.ver).end());
    }
    if let Some(set) = &request.cluster_member_attr_set {
        let attributes = set.member_attributes.clone().unwrap_or_default();
        let body = Object::new()
            .text("member", format!("{:x}", set.member_id))
            .text("name", &attributes.name)
            .raw("client_urls", array(attributes.client_urls.iter().map(cli::print::json_string)));
        return ("cluster_member_attr_set", body.end());
    }
    if let Some(set) = &request.downgrade_info_set {
        return (
            "downgrade_info_set",
            Object::new().raw("enabled", set.enabled).text("version", &set.ver).end(),
        );
    }
    auth_body(request)
}

/// Requests about users and roles: whom they concern, never a password.
fn auth_body(request: &InternalRaftRequest) -> (&'static str, String) {
    let named = |name: &str| Object::new().text("name", name).end();
    let pair = |user: &str, role: &str| Object::new().text("user", user).text("role", role).end();
    if let Some(user) = &request.auth_user_add {
        return ("auth_user_add", named(&user.name));
    }
    if let Some(user) = &request.auth_user_delete {
        return ("auth_user_delete", named(&user.name));
    }
    if let Some(user) = &request.auth_user_change_password {
        return ("auth_user_change_password", named(&user.name));
    }
    if let Some(grant) = &request.auth_user_grant_role {
        return ("auth_user_grant_role", pair(&grant.user, &grant.role));
    }
    if let Some(revoke) = &request.auth_user_revoke_role {
        return ("auth_user_revoke_role", pair(&revoke.name, &revoke.role));
    }
    if let Some(role) = &request.auth_role_add {
        return ("auth_role_add", named(&role.name));
    }
    if let Some(role) = &request.auth_role_delete {
        return ("auth_role_delete", named(&role.role));
    }
    if let Some(grant) = &request.auth_role_grant_permission {
        let given = grant.perm.as_ref().map_or("null".to_owned(), permission);
        return (
            "auth_role_grant_permission",
            Object::new().text("role", &grant.name).raw("permission", given).end(),
        );
    }
    if let Some(revoke) = &request.auth_role_revoke_permission {
        let body = Object::new()
            .text("role", &revoke.role)
            .bytes("key", &revoke.key)
            .bytes_if_any("range_end", &revoke.range_end);
        return ("auth_role_revoke_permission", body.end());
    }
    let empty = Object::new().end();
    match request {
        InternalRaftRequest { auth_enable: Some(_), .. } => ("auth_enable", empty),
        InternalRaftRequest { auth_disable: Some(_), .. } => ("auth_disable", empty),
        InternalRaftRequest { authenticate: Some(login), .. } => ("authenticate", named(&login.name)),
        InternalRaftRequest { range: Some(range), .. } => ("range", range_body(&range.key, &range.range_end)),
        _ => ("other", empty),
    }
}

fn put_body(put: &pb::PutRequest) -> String {
    Object::new()
        .bytes("key", &put.key)
        .bytes("value", &put.value)
        .number("lease", put.lease)
        .flag("ignore_value", put.ignore_value)
        .flag("ignore_lease", put.ignore_lease)
        .end()
}

fn range_body(key: &[u8], range_end: &[u8]) -> String {
    Object::new().bytes("key", key).bytes_if_any("range_end", range_end).end()
}

fn txn_body(txn: &pb::TxnRequest) -> String {
    Object::new()
        .raw("compare", array(txn.compare.iter().map(comparison)))
        .raw("success", array(txn.success.iter().map(operation)))
        .raw("failure", array(txn.failure.iter().map(operation)))
        .end()
}

/// What is compared with what, in the words of `etcdctl txn`.
fn comparison(compare: &pb::Compare) -> String {
    use pb::compare::TargetUnion;
    let operator = ["=", ">", "<", "!="].get(compare.result as usize).copied().unwrap_or("?");
    let line = Object::new().bytes("key", &compare.key).bytes_if_any("range_end", &compare.range_end);
    match &compare.target_union {
        Some(TargetUnion::Version(number)) => line.text("version", operator).raw("operand", number),
        Some(TargetUnion::CreateRevision(number)) => line.text("create", operator).raw("operand", number),
        Some(TargetUnion::ModRevision(number)) => line.text("mod", operator).raw("operand", number),
        Some(TargetUnion::Value(value)) => line.text("value", operator).bytes("operand", value),
        Some(TargetUnion::Lease(lease)) => {
            line.text("lease", operator).text("operand", format!("{lease:016x}"))
        }
        None => line,
    }
    .end()
}

fn operation(operation: &pb::RequestOp) -> String {
    use pb::request_op::Request;
    let (name, body) = match &operation.request {
        Some(Request::RequestPut(put)) => ("put", put_body(put)),
        Some(Request::RequestDeleteRange(delete)) => {
            ("delete_range", range_body(&delete.key, &delete.range_end))
        }
        Some(Request::RequestRange(range)) => ("range", range_body(&range.key, &range.range_end)),
        Some(Request::RequestTxn(txn)) => ("txn", txn_body(txn)),
        None => return Object::new().end(),
    };
    Object::new().raw(name, body).end()
}

#[cfg(test)]
#[path = "dump_tests.rs"]
mod tests;
