//! Requests as text for the log, without what nobody should read there.
//!
//! Values are shown as their size, passwords and tokens not at all. Two forms are mixed, as upstream
//! mixes them: what it redacts is written by an old library (`key:"a" value_size:1 `, groups in angle
//! brackets), everything else by a new one (`key:"a" limit:5`, groups in braces).
//!
//! **Source**: etcd `api/etcdserverpb/raft_internal_stringer.go`, and what a running 3.7.1 prints.

use std::fmt::Write as _;

use proto::etcdserverpb as pb;
use proto::etcdserverpb::compare::TargetUnion;
use proto::etcdserverpb::request_op::Request;

/// Fields of a message, those at their default left out.
struct Fields {
    text: String,
    /// A blank stands behind each field, the last one included.
    old: bool,
}

impl Fields {
    fn new() -> Self {
        Self { text: String::new(), old: false }
    }

    fn old() -> Self {
        Self { text: String::new(), old: true }
    }

    fn put(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        let _ = match (self.old, self.text.is_empty()) {
            (true, _) => write!(self.text, "{name}:{value} "),
            (false, true) => write!(self.text, "{name}:{value}"),
            (false, false) => write!(self.text, " {name}:{value}"),
        };
        self
    }

    fn bytes(self, name: &str, value: &[u8]) -> Self {
        if value.is_empty() {
            return self;
        }
        let quoted = if self.old { quote_bytes(value) } else { quote_text(value) };
        self.put(name, quoted)
    }

    fn int(self, name: &str, value: i64) -> Self {
        if value == 0 { self } else { self.put(name, value) }
    }

    fn uint(self, name: &str, value: u64) -> Self {
        if value == 0 { self } else { self.put(name, value) }
    }

    fn flag(self, name: &str, value: bool) -> Self {
        if value { self.put(name, true) } else { self }
    }

    /// An enumeration; `word` is empty where the number has none.
    fn word(self, name: &str, number: i32, word: &str) -> Self {
        match (number, word) {
            (0, _) => self,
            (number, "") => self.put(name, number),
            (_, word) => self.put(name, word),
        }
    }

    fn group(self, name: &str, inner: &str) -> Self {
        self.put(name, format_args!("{{{inner}}}"))
    }
}

/// Everything beyond plain ASCII in octal.
fn quote_bytes(value: &[u8]) -> String {
    let mut text = String::from("\"");
    for byte in value {
        let _ = match byte {
            b'\n' => write!(text, "\\n"),
            b'\r' => write!(text, "\\r"),
            b'\t' => write!(text, "\\t"),
            b'"' => write!(text, "\\\""),
            b'\\' => write!(text, "\\\\"),
            0x20..0x7f => write!(text, "{}", char::from(*byte)),
            other => write!(text, "\\{other:03o}"),
        };
    }
    text.push('"');
    text
}

/// Text stays; what is none comes in hexadecimal.
fn quote_text(value: &[u8]) -> String {
    let mut text = String::from("\"");
    for chunk in value.utf8_chunks() {
        for symbol in chunk.valid().chars() {
            let _ = match symbol {
                '\n' => write!(text, "\\n"),
                '\r' => write!(text, "\\r"),
                '\t' => write!(text, "\\t"),
                '"' => write!(text, "\\\""),
                '\\' => write!(text, "\\\\"),
                control if u32::from(control) < 0x20 || control == '\x7f' => {
                    write!(text, "\\x{:02x}", u32::from(control))
                }
                other => write!(text, "{other}"),
            };
        }
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text.push('"');
    text
}

/// A put with the size of its value.
pub fn put(request: &pb::PutRequest) -> String {
    Fields::old()
        .bytes("key", &request.key)
        .int("value_size", request.value.len() as i64)
        .int("lease", request.lease)
        .flag("prev_kv", request.prev_kv)
        .flag("ignore_value", request.ignore_value)
        .flag("ignore_lease", request.ignore_lease)
        .text
}

/// A range.
pub fn range(request: &pb::RangeRequest) -> String {
    use pb::range_request::{SortOrder, SortTarget};
    let order = SortOrder::try_from(request.sort_order).map_or("", |order| order.as_str_name());
    let target = SortTarget::try_from(request.sort_target).map_or("", |target| target.as_str_name());
    Fields::new()
        .bytes("key", &request.key)
        .bytes("range_end", &request.range_end)
        .int("limit", request.limit)
        .int("revision", request.revision)
        .word("sort_order", request.sort_order, order)
        .word("sort_target", request.sort_target, target)
        .flag("serializable", request.serializable)
        .flag("keys_only", request.keys_only)
        .flag("count_only", request.count_only)
        .int("min_mod_revision", request.min_mod_revision)
        .int("max_mod_revision", request.max_mod_revision)
        .int("min_create_revision", request.min_create_revision)
        .int("max_create_revision", request.max_create_revision)
        .text
}

/// A deletion.
pub fn delete_range(request: &pb::DeleteRangeRequest) -> String {
    Fields::new()
        .bytes("key", &request.key)
        .bytes("range_end", &request.range_end)
        .flag("prev_kv", request.prev_kv)
        .text
}

/// A transaction with the sizes of its values.
pub fn txn(request: &pb::TxnRequest) -> String {
    let list = |ops: &[pb::RequestOp]| ops.iter().map(operation).collect::<Vec<_>>().join(" ");
    let compares: Vec<String> = request.compare.iter().map(compare).collect();
    format!(
        "compare:<{}> success:<{}> failure:<{}>",
        compares.join(" "),
        list(&request.success),
        list(&request.failure)
    )
}

fn operation(op: &pb::RequestOp) -> String {
    match &op.request {
        Some(Request::RequestPut(request)) => format!("request_put:<{}>", put(request)),
        Some(Request::RequestTxn(request)) => format!("request_txn:<{}>", txn(request)),
        Some(Request::RequestRange(request)) => format!("request_range:{{{}}}", range(request)),
        Some(Request::RequestDeleteRange(request)) => {
            format!("request_delete_range:{{{}}}", delete_range(request))
        }
        None => String::new(),
    }
}

fn compare(compare: &pb::Compare) -> String {
    use pb::compare::{CompareResult, CompareTarget};
    let fields = match &compare.target_union {
        Some(TargetUnion::Value(_)) => Fields::old(),
        _ => Fields::new(),
    };
    let result = CompareResult::try_from(compare.result).map_or("", |result| result.as_str_name());
    let target = CompareTarget::try_from(compare.target).map_or("", |target| target.as_str_name());
    let fields = fields
        .word("result", compare.result, result)
        .word("target", compare.target, target)
        .bytes("key", &compare.key);
    // Of a choice the one that was made is shown, zero or not.
    let fields = match &compare.target_union {
        None => fields,
        Some(TargetUnion::Version(number)) => fields.put("version", number),
        Some(TargetUnion::CreateRevision(number)) => fields.put("create_revision", number),
        Some(TargetUnion::ModRevision(number)) => fields.put("mod_revision", number),
        Some(TargetUnion::Lease(number)) => fields.put("lease", number),
        Some(TargetUnion::Value(value)) => fields.int("value_size", value.len() as i64),
    };
    fields.bytes("range_end", &compare.range_end).text
}

/// A request of the log.
pub fn raft_request(request: &pb::InternalRaftRequest) -> String {
    let header = request.header.as_ref().map_or_else(String::new, |header| {
        Fields::new()
            .uint("ID", header.id)
            .bytes("username", header.username.as_bytes())
            .uint("auth_revision", header.auth_revision)
            .text
    });
    if let Some(grant) = &request.lease_grant {
        return format!("header:<{header}> lease_grant:<ttl:{}-second id:{:016x}>", grant.ttl, grant.id);
    }
    if let Some(revoke) = &request.lease_revoke {
        return format!("header:<{header}> lease_revoke:<id:{:016x}>", revoke.id);
    }
    if let Some(login) = &request.authenticate {
        return format!("header:<{header}> authenticate:<name:{}>", login.name);
    }
    if let Some(user) = &request.auth_user_add {
        return format!("header:<{header}> auth_user_add:<name:{}>", user.name);
    }
    if let Some(user) = &request.auth_user_change_password {
        return format!("header:<{header}> auth_user_change_password:<name:{}>", user.name);
    }
    if let Some(request) = &request.put {
        return format!("header:<{header}> put:<{}>", put(request));
    }
    if let Some(request) = &request.txn {
        return format!("header:<{header}> txn:<{}>", txn(request));
    }
    let fields = Fields::new();
    let fields = if request.header.is_some() { fields.group("header", &header) } else { fields };
    others(fields.uint("ID", request.id), request).text
}

/// The requests in which there is nothing to hide.
fn others(fields: Fields, request: &pb::InternalRaftRequest) -> Fields {
    let named = |name: &str| Fields::new().bytes("name", name.as_bytes()).text;
    let in_role = |role: &str| Fields::new().bytes("role", role.as_bytes()).text;
    if let Some(request) = &request.range {
        return fields.group("range", &range(request));
    }
    if let Some(request) = &request.delete_range {
        return fields.group("delete_range", &delete_range(request));
    }
    if let Some(request) = &request.compaction {
        let inner = Fields::new().int("revision", request.revision).flag("physical", request.physical);
        return fields.group("compaction", &inner.text);
    }
    if let Some(request) = &request.alarm {
        let action = pb::alarm_request::AlarmAction::try_from(request.action);
        let alarm = pb::AlarmType::try_from(request.alarm);
        let inner = Fields::new()
            .word("action", request.action, action.map_or("", |action| action.as_str_name()))
            .uint("memberID", request.member_id)
            .word("alarm", request.alarm, alarm.map_or("", |alarm| alarm.as_str_name()));
        return fields.group("alarm", &inner.text);
    }
    if let Some(request) = &request.lease_checkpoint {
        let inner = request.checkpoints.iter().fold(Fields::new(), |fields, checkpoint| {
            let inner = Fields::new().int("ID", checkpoint.id).int("remaining_TTL", checkpoint.remaining_ttl);
            fields.group("checkpoints", &inner.text)
        });
        return fields.group("lease_checkpoint", &inner.text);
    }
    if let Some(user) = &request.auth_user_delete {
        return fields.group("auth_user_delete", &named(&user.name));
    }
    if let Some(user) = &request.auth_user_get {
        return fields.group("auth_user_get", &named(&user.name));
    }
    if let Some(grant) = &request.auth_user_grant_role {
        let inner = Fields::new().bytes("user", grant.user.as_bytes()).bytes("role", grant.role.as_bytes());
        return fields.group("auth_user_grant_role", &inner.text);
    }
    if let Some(revoke) = &request.auth_user_revoke_role {
        let inner = Fields::new().bytes("name", revoke.name.as_bytes()).bytes("role", revoke.role.as_bytes());
        return fields.group("auth_user_revoke_role", &inner.text);
    }
    if let Some(role) = &request.auth_role_add {
        return fields.group("auth_role_add", &named(&role.name));
    }
    if let Some(role) = &request.auth_role_delete {
        return fields.group("auth_role_delete", &in_role(&role.role));
    }
    if let Some(role) = &request.auth_role_get {
        return fields.group("auth_role_get", &in_role(&role.role));
    }
    if let Some(grant) = &request.auth_role_grant_permission {
        let permission = grant.perm.as_ref().map_or_else(String::new, |permission| {
            let kind = proto::authpb::permission::Type::try_from(permission.perm_type);
            Fields::new()
                .word("permType", permission.perm_type, kind.map_or("", |kind| kind.as_str_name()))
                .bytes("key", &permission.key)
                .bytes("range_end", &permission.range_end)
                .text
        });
        let inner = Fields::new().bytes("name", grant.name.as_bytes()).group("perm", &permission);
        return fields.group("auth_role_grant_permission", &inner.text);
    }
    if let Some(revoke) = &request.auth_role_revoke_permission {
        let inner = Fields::new()
            .bytes("role", revoke.role.as_bytes())
            .bytes("key", &revoke.key)
            .bytes("range_end", &revoke.range_end);
        return fields.group("auth_role_revoke_permission", &inner.text);
    }
    if let Some(set) = &request.cluster_version_set {
        return fields.group("cluster_version_set", &Fields::new().bytes("ver", set.ver.as_bytes()).text);
    }
    if let Some(set) = &request.cluster_member_attr_set {
        let attributes = set.member_attributes.as_ref().map_or_else(String::new, |attributes| {
            let named = Fields::new().bytes("name", attributes.name.as_bytes());
            let urls = attributes.client_urls.iter();
            urls.fold(named, |fields, url| fields.bytes("client_urls", url.as_bytes())).text
        });
        let inner = Fields::new().uint("member_ID", set.member_id).group("member_attributes", &attributes);
        return fields.group("cluster_member_attr_set", &inner.text);
    }
    if let Some(set) = &request.downgrade_info_set {
        let inner = Fields::new().flag("enabled", set.enabled).bytes("ver", set.ver.as_bytes());
        return fields.group("downgrade_info_set", &inner.text);
    }
    for (name, is_there) in [
        ("auth_enable", request.auth_enable.is_some()),
        ("auth_disable", request.auth_disable.is_some()),
        ("auth_status", request.auth_status.is_some()),
        ("auth_user_list", request.auth_user_list.is_some()),
        ("auth_role_list", request.auth_role_list.is_some()),
    ] {
        if is_there {
            return fields.group(name, "");
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;
    use pb::InternalRaftRequest as Raft;

    fn op(request: Request) -> pb::RequestOp {
        pb::RequestOp { request: Some(request) }
    }

    /// As 3.7.1 wrote it; where its new library puts one blank or two at its whim, one.
    #[test]
    fn requests_read_as_upstreams() {
        let header = || Some(pb::RequestHeader { id: 7, ..Default::default() });
        let key = |key: &'static str| pb::RangeRequest { key: key.into(), ..Default::default() };
        let put = pb::PutRequest { key: "foo".into(), value: "bar".into(), ..Default::default() };
        let odd = pb::PutRequest { key: (&b"q\"\x01\xff"[..]).into(), prev_kv: true, ..Default::default() };
        let secret = pb::PutRequest { key: "a".into(), value: "secret".into(), ..Default::default() };
        let leased = pb::PutRequest { key: "k".into(), value: "v".into(), lease: 18, ..Default::default() };
        let value = pb::Compare {
            target: 3,
            key: "a".into(),
            target_union: Some(TargetUnion::Value("b".into())),
            ..Default::default()
        };
        let revision = pb::Compare {
            result: 1,
            target: 2,
            key: "x".into(),
            target_union: Some(TargetUnion::ModRevision(0)),
            ..Default::default()
        };
        let txn = pb::TxnRequest {
            compare: vec![value, revision],
            success: vec![op(Request::RequestPut(secret)), op(Request::RequestRange(key("a")))],
            failure: vec![
                op(Request::RequestDeleteRange(pb::DeleteRangeRequest {
                    key: "a".into(),
                    ..Default::default()
                })),
                op(Request::RequestPut(leased)),
            ],
        };
        let user = pb::AuthUserAddRequest {
            name: "u".into(),
            password: "secret".into(),
            hashed_password: "secret".into(),
            ..Default::default()
        };
        let login = pb::InternalAuthenticateRequest {
            name: "u".into(),
            password: "secret".into(),
            simple_token: "secret".into(),
        };
        let set = proto::membershippb::ClusterVersionSetRequest { ver: "3.7.0".into() };
        for (request, want) in [
            (
                Raft { header: header(), put: Some(put), ..Default::default() },
                r#"header:<ID:7> put:<key:"foo" value_size:3 >"#,
            ),
            (
                Raft { header: header(), put: Some(odd), ..Default::default() },
                r#"header:<ID:7> put:<key:"q\"\001\377" prev_kv:true >"#,
            ),
            (
                Raft { header: header(), txn: Some(txn), ..Default::default() },
                r#"header:<ID:7> txn:<compare:<target:VALUE key:"a" value_size:1  result:GREATER target:MOD key:"x" mod_revision:0> success:<request_put:<key:"a" value_size:6 > request_range:{key:"a"}> failure:<request_delete_range:{key:"a"} request_put:<key:"k" value_size:1 lease:18 >>>"#,
            ),
            (
                Raft { header: header(), auth_user_add: Some(Box::new(user)), ..Default::default() },
                "header:<ID:7> auth_user_add:<name:u>",
            ),
            (
                Raft { header: header(), authenticate: Some(Box::new(login)), ..Default::default() },
                "header:<ID:7> authenticate:<name:u>",
            ),
            (
                Raft { header: header(), cluster_version_set: Some(Box::new(set)), ..Default::default() },
                r#"header:{ID:7} cluster_version_set:{ver:"3.7.0"}"#,
            ),
            (
                Raft {
                    header: header(),
                    compaction: Some(Box::new(pb::CompactionRequest { revision: 2, physical: false })),
                    ..Default::default()
                },
                "header:{ID:7} compaction:{revision:2}",
            ),
        ] {
            let got = raft_request(&request);
            assert_eq!(got, want);
            assert!(!got.contains("secret"));
        }
        let request = pb::RangeRequest {
            key: "f\u{e9}\n".into(),
            range_end: (&b"\xff\0"[..]).into(),
            limit: 5,
            sort_order: 2,
            keys_only: true,
            ..Default::default()
        };
        assert_eq!(
            range(&request),
            "key:\"f\u{e9}\\n\" range_end:\"\\xff\\x00\" limit:5 sort_order:DESCEND keys_only:true"
        );
    }
}
