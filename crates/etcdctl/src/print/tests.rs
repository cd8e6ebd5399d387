//! Goldens: canned answers in every format. The expected texts were taken from upstream's
//! etcdctl 3.7.1 given the same answers.

use client::proto::authpb::Permission;
use client::proto::etcdserverpb as pb;
use client::proto::etcdserverpb::response_op::Response;
use client::proto::mvccpb::{Event, KeyValue};

use super::*;

fn header(revision: i64) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader {
        cluster_id: 0x1c45a069f3a1d796,
        member_id: 0xb71f75320dc06a6c,
        revision,
        raft_term: 2,
    })
}

const HEADER_JSON: &str =
    "\"cluster_id\":2037210783374497686,\"member_id\":13195394291058371180,\"revision\":6,\"raft_term\":2";

fn key_value() -> KeyValue {
    KeyValue {
        key: "k\x01".into(),
        create_revision: 2,
        mod_revision: 5,
        version: 4,
        value: "v\"é".into(),
        lease: 0x619fa1fd44464337,
    }
}

fn rendered(format: Format, hex: bool, answer: Answer<'_>) -> Result<String, Failure> {
    let printer = Printer { format, hex, value_only: false };
    printer.render(answer).map(|bytes| String::from_utf8(bytes).unwrap())
}

#[track_caller]
fn check(format: Format, hex: bool, answer: Answer<'_>, expected: &str) {
    assert_eq!(rendered(format, hex, answer).unwrap(), expected);
}

#[track_caller]
fn refused(format: Format, answer: Answer<'_>) {
    let text = format!("{} not supported as output format", format.name());
    assert_eq!(rendered(format, false, answer), Err(Failure::new(4, text)));
}

#[test]
fn get() {
    let response = pb::RangeResponse { header: header(6), kvs: vec![key_value()], count: 3, more: true };
    let answer = Answer::Get(&response);
    check(Format::Simple, false, answer, "k\x01\nv\"é\n");
    check(Format::Simple, true, answer, "\\x6b\\x01\n\\x76\\x22\\xc3\\xa9\n");
    let json = format!(
        "{{\"header\":{{{HEADER_JSON}}},\"kvs\":[{{\"key\":\"awE=\",\"create_revision\":2,\"mod_revision\":5,\"version\":4,\"value\":\"diLDqQ==\",\"lease\":7034519252120257335}}],\"more\":true,\"count\":3}}\n"
    );
    check(Format::Json, false, answer, &json);
    check(
        Format::Fields,
        false,
        answer,
        r#""ClusterID" : 2037210783374497686
"MemberID" : 13195394291058371180
"Revision" : 6
"RaftTerm" : 2
"Key" : "k\x01"
"CreateRevision" : 2
"ModRevision" : 5
"Version" : 4
"Value" : "v\"é"
"Lease" : 7034519252120257335
"More" : true
"Count" : 3
"#,
    );
    let hex = rendered(Format::Fields, true, answer).unwrap();
    assert!(hex.starts_with("\"ClusterID\" : 1c45a069f3a1d796\n\"MemberID\" : b71f75320dc06a6c\n"), "{hex}");
    assert!(hex.contains("\"Lease\" : 619fa1fd44464337\n"), "{hex}");
    refused(Format::Table, answer);
}

#[test]
fn no_match_is_silent() {
    let response = pb::RangeResponse { header: header(6), ..Default::default() };
    check(Format::Simple, false, Answer::Get(&response), "");
    check(Format::Json, false, Answer::Get(&response), &format!("{{\"header\":{{{HEADER_JSON}}}}}\n"));
}

#[test]
fn values_only() {
    let response = pb::RangeResponse { kvs: vec![key_value()], ..Default::default() };
    let printer = Printer { format: Format::Simple, hex: false, value_only: true };
    assert_eq!(printer.render(Answer::Get(&response)).unwrap(), "v\"é\n".as_bytes());
}

#[test]
fn bytes_that_are_not_text_pass_unchanged() {
    let kv = KeyValue { key: (&b"\xff"[..]).into(), value: (&b"\x00\n"[..]).into(), ..Default::default() };
    let response = pb::RangeResponse { kvs: vec![kv], ..Default::default() };
    let printer = Printer { format: Format::Simple, hex: false, value_only: false };
    assert_eq!(printer.render(Answer::Get(&response)).unwrap(), b"\xff\n\x00\n\n");
}

#[test]
fn txn() {
    let inner = |revision| Some(pb::ResponseHeader { revision, ..Default::default() });
    let operation = |response| pb::ResponseOp { response: Some(response) };
    let response = pb::TxnResponse {
        header: header(6),
        succeeded: true,
        responses: vec![
            operation(Response::ResponsePut(pb::PutResponse { header: inner(6), prev_kv: None })),
            operation(Response::ResponseRange(pb::RangeResponse { header: inner(6), ..Default::default() })),
            operation(Response::ResponseDeleteRange(pb::DeleteRangeResponse {
                header: inner(6),
                deleted: 1,
                prev_kvs: vec![],
            })),
        ],
    };
    let answer = Answer::Txn(&response);
    check(Format::Simple, false, answer, "SUCCESS\n\nOK\n\n\n1\n");
    let json = format!(
        "{{\"header\":{{{HEADER_JSON}}},\"succeeded\":true,\"responses\":[{{\"Response\":{{\"response_put\":{{\"header\":{{\"revision\":6}}}}}}}},{{\"Response\":{{\"response_range\":{{\"header\":{{\"revision\":6}}}}}}}},{{\"Response\":{{\"response_delete_range\":{{\"header\":{{\"revision\":6}},\"deleted\":1}}}}}}]}}\n"
    );
    check(Format::Json, false, answer, &json);
    let fields = rendered(Format::Fields, false, answer).unwrap();
    assert!(fields.contains("\"Succeeded\" : true\n\"ClusterID\" : 0\n\"MemberID\" : 0\n\"Revision\" : 6\n"));
    let failed = pb::TxnResponse { header: header(6), ..Default::default() };
    check(Format::Simple, false, Answer::Txn(&failed), "FAILURE\n");
    check(Format::Json, false, Answer::Txn(&failed), &format!("{{\"header\":{{{HEADER_JSON}}}}}\n"));
}

#[test]
fn watch() {
    let deleted = KeyValue { key: "w".into(), mod_revision: 6, ..Default::default() };
    let response = pb::WatchResponse {
        header: header(6),
        events: vec![Event { r#type: 1, kv: Some(deleted), prev_kv: Some(key_value()) }],
        ..Default::default()
    };
    let answer = Answer::Watch(&response);
    check(Format::Simple, false, answer, "DELETE\nk\x01\nv\"é\nw\n\n");
    let json = rendered(Format::Json, false, answer).unwrap();
    let start = format!(
        "{{\"Header\":{{{HEADER_JSON}}},\"Events\":[{{\"type\":1,\"kv\":{{\"key\":\"dw==\",\"mod_revision\":6}},\"prev_kv\":{{"
    );
    assert!(json.starts_with(&start), "{json}");
    let end = "\"CompactRevision\":0,\"Canceled\":false,\"Created\":false,\"CancelReason\":\"\"}\n";
    assert!(json.ends_with(end), "{json}");
    let progress = pb::WatchResponse { header: header(6), ..Default::default() };
    assert!(rendered(Format::Json, false, Answer::Watch(&progress)).unwrap().contains("\"Events\":null,"));
}

#[test]
fn leases() {
    let id = 0x619fa1fd44464337;
    let grant = pb::LeaseGrantResponse { header: header(6), id, ttl: 100, error: String::new() };
    check(Format::Simple, false, Answer::Grant(&grant), "lease 619fa1fd44464337 granted with TTL(100s)\n");
    let json = format!("{{{HEADER_JSON},\"ID\":7034519252120257335,\"TTL\":100,\"Error\":\"\"}}\n");
    check(Format::Json, false, Answer::Grant(&grant), &json);
    // Only the header, as upstream's printer sees nothing else.
    let encoded =
        Printer { format: Format::Protobuf, hex: false, value_only: false }.render(Answer::Grant(&grant));
    assert_eq!(encoded.unwrap(), header(6).unwrap().encode_to_vec());

    let response = pb::LeaseTimeToLiveResponse {
        header: header(6),
        id,
        ttl: 99,
        granted_ttl: 100,
        keys: vec!["a".into(), "b".into()],
    };
    let text = "lease 619fa1fd44464337 granted with TTL(100s), remaining(99s), attached keys([a b])\n";
    check(Format::Simple, false, Answer::TimeToLive(&response, true), text);
    let json = format!(
        "{{{HEADER_JSON},\"id\":7034519252120257335,\"ttl\":99,\"granted-ttl\":100,\"keys\":[\"YQ==\",\"Yg==\"]}}\n"
    );
    check(Format::Json, false, Answer::TimeToLive(&response, true), &json);
    let gone = pb::LeaseTimeToLiveResponse { header: header(6), id, ttl: -1, ..Default::default() };
    check(
        Format::Simple,
        false,
        Answer::TimeToLive(&gone, false),
        "lease 619fa1fd44464337 already expired\n",
    );
    assert!(
        rendered(Format::Json, false, Answer::TimeToLive(&gone, false))
            .unwrap()
            .ends_with("\"keys\":null}\n")
    );

    let none = pb::LeaseLeasesResponse { header: header(6), leases: vec![] };
    check(Format::Json, false, Answer::Leases(&none), &format!("{{{HEADER_JSON},\"leases\":[]}}\n"));
    check(Format::Simple, false, Answer::Leases(&none), "found 0 leases\n");
}

fn members() -> pb::MemberListResponse {
    let started = pb::Member {
        id: 0x374545c218c3619f,
        name: "ec".into(),
        peer_ur_ls: vec!["http://127.0.0.1:2380".into()],
        client_ur_ls: vec!["http://127.0.0.1:2379".into()],
        is_learner: false,
    };
    let new = pb::Member {
        id: 0x23702844c5b757db,
        peer_ur_ls: vec!["http://a:1".into(), "http://b:1".into()],
        is_learner: true,
        ..Default::default()
    };
    pb::MemberListResponse { header: header(0), members: vec![new, started] }
}

#[test]
fn member_list() {
    let response = members();
    let answer = Answer::MemberList(&response);
    check(
        Format::Simple,
        false,
        answer,
        "23702844c5b757db, unstarted, , http://a:1,http://b:1, , true\n374545c218c3619f, started, ec, http://127.0.0.1:2380, http://127.0.0.1:2379, false\n",
    );
    check(
        Format::Table,
        false,
        answer,
        "\
┌──────────────────┬───────────┬──────┬───────────────────────┬───────────────────────┬────────────┐
│        ID        │  STATUS   │ NAME │      PEER ADDRS       │     CLIENT ADDRS      │ IS LEARNER │
├──────────────────┼───────────┼──────┼───────────────────────┼───────────────────────┼────────────┤
│ 23702844c5b757db │ unstarted │      │ http://a:1,http://b:1 │                       │       true │
│ 374545c218c3619f │   started │   ec │ http://127.0.0.1:2380 │ http://127.0.0.1:2379 │      false │
└──────────────────┴───────────┴──────┴───────────────────────┴───────────────────────┴────────────┘
",
    );
    let json = rendered(Format::Json, false, answer).unwrap();
    assert!(json.contains(
        "\"members\":[{\"ID\":2553585264559085531,\"peerURLs\":[\"http://a:1\",\"http://b:1\"],\"isLearner\":true},{\"ID\":3982666145420501407,\"name\":\"ec\","
    ));
    let hex = rendered(Format::Json, true, answer).unwrap();
    assert!(hex.starts_with(
        "{\"header\":{\"cluster_id\":\"1c45a069f3a1d796\",\"member_id\":\"b71f75320dc06a6c\",\"raft_term\":2},\"members\":[{\"ID\":\"23702844c5b757db\","
    ));
    let fields = rendered(Format::Fields, false, answer).unwrap();
    assert!(fields.starts_with("\"ClusterID\" : 2037210783374497686\n\"MemberID\" : 13195394291058371180\n\"RaftTerm\" : 2\n\"ID\" : 2553585264559085531\n\"Name\" : \"\"\n\"PeerURL\" : \"http://a:1\"\n"));
    assert!(fields.ends_with("\"IsLearner\" : false\n\n"));
}

#[test]
fn member_changes() {
    let pb::MemberListResponse { header, members } = members();
    let added = pb::MemberAddResponse { header, member: members.first().cloned(), members: members.clone() };
    check(
        Format::Simple,
        false,
        Answer::MemberAdd(&added),
        "Member 23702844c5b757db added as learner to cluster 1c45a069f3a1d796\n",
    );
    let removed = pb::MemberRemoveResponse { header, members };
    check(
        Format::Simple,
        false,
        Answer::MemberRemove(0xabc, &removed),
        "Member              abc removed from cluster 1c45a069f3a1d796\n",
    );
    for format in [Format::Fields, Format::Table] {
        refused(format, Answer::MemberAdd(&added));
        refused(format, Answer::MemberRemove(1, &removed));
    }
}

#[test]
fn endpoint_status() {
    let status = pb::StatusResponse {
        header: header(6),
        version: "3.7.1".into(),
        db_size: 28_672,
        db_size_in_use: 20_480,
        db_size_quota: 2_147_483_648,
        leader: 0xb71f75320dc06a6c,
        raft_index: 55,
        raft_term: 2,
        raft_applied_index: 54,
        errors: vec!["memberID:1  alarm:NOSPACE".into()],
        storage_version: "3.7.0".into(),
        downgrade_info: Some(pb::DowngradeInfo { enabled: true, target_version: "3.6.0".into() }),
        is_learner: false,
    };
    let list = [("127.0.0.1:2379".to_owned(), status)];
    let answer = Answer::EndpointStatus(&list);
    check(
        Format::Simple,
        false,
        answer,
        "127.0.0.1:2379, b71f75320dc06a6c, 3.7.1, 3.7.0, 29 kB, 20 kB, 29%, 2.1 GB, true, false, 2, 55, 54, memberID:1  alarm:NOSPACE, 3.6.0, true\n",
    );
    let json = format!(
        "[{{\"Endpoint\":\"127.0.0.1:2379\",\"Status\":{{\"header\":{{{HEADER_JSON}}},\"version\":\"3.7.1\",\"dbSize\":28672,\"leader\":13195394291058371180,\"raftIndex\":55,\"raftTerm\":2,\"raftAppliedIndex\":54,\"errors\":[\"memberID:1  alarm:NOSPACE\"],\"dbSizeInUse\":20480,\"storageVersion\":\"3.7.0\",\"dbSizeQuota\":2147483648,\"downgradeInfo\":{{\"enabled\":true,\"targetVersion\":\"3.6.0\"}}}}}}]\n"
    );
    check(Format::Json, false, answer, &json);
    refused(Format::Protobuf, answer);
    check(Format::Json, false, Answer::EndpointStatus(&[]), "null\n");
    // A server that has not opened its database reports nothing, which must not divide by zero.
    let empty = [("a".to_owned(), pb::StatusResponse::default())];
    assert!(
        rendered(Format::Simple, false, Answer::EndpointStatus(&empty)).unwrap().contains(", 0 B, 0 B, 0%, ")
    );
}

#[test]
fn endpoint_health() {
    let health = |health, error: &str| Health {
        endpoint: "127.0.0.1:1".into(),
        health,
        took: "3.789957ms".into(),
        error: error.into(),
    };
    let list = [health(true, ""), health(false, "context deadline exceeded")];
    let answer = Answer::EndpointHealth(&list);
    check(
        Format::Simple,
        false,
        answer,
        "127.0.0.1:1 is healthy: successfully committed proposal: took = 3.789957ms\n",
    );
    check(
        Format::Json,
        false,
        answer,
        "[{\"endpoint\":\"127.0.0.1:1\",\"health\":true,\"took\":\"3.789957ms\"},{\"endpoint\":\"127.0.0.1:1\",\"health\":false,\"took\":\"3.789957ms\",\"error\":\"context deadline exceeded\"}]\n",
    );
    check(
        Format::Fields,
        false,
        Answer::EndpointHealth(&list[..1]),
        "\"Endpoint\" : \"127.0.0.1:1\"\n\"Health\" : true\n\"Took\" : 3.789957ms\n\"Error\" : \n\n",
    );
}

#[test]
fn alarms() {
    let alarms = vec![pb::AlarmMember { member_id: 9, alarm: 1 }, pb::AlarmMember { member_id: 9, alarm: 2 }];
    let response = pb::AlarmResponse { header: header(6), alarms };
    check(
        Format::Simple,
        false,
        Answer::Alarm(&response),
        "memberID:9 alarm:NOSPACE\nmemberID:9 alarm:CORRUPT\n",
    );
    let json = format!(
        "{{\"header\":{{{HEADER_JSON}}},\"alarms\":[{{\"memberID\":9,\"alarm\":1}},{{\"memberID\":9,\"alarm\":2}}]}}\n"
    );
    check(Format::Json, false, Answer::Alarm(&response), &json);
    check(Format::Json, false, Answer::Alarm(&pb::AlarmResponse::default()), "{}\n");
}

#[test]
fn roles() {
    let permission = |perm_type, key: &'static str, end: &'static str| Permission {
        perm_type,
        key: key.into(),
        range_end: end.into(),
    };
    let response = pb::AuthRoleGetResponse {
        header: header(6),
        perm: vec![
            permission(2, "a", "d"),
            permission(0, "foo", ""),
            permission(1, "pre", "prf"),
            permission(0, "z", "\0"),
        ],
    };
    check(
        Format::Simple,
        false,
        Answer::RoleGet("r1", &response),
        "Role r1\nKV Read:\n\t[a, d)\n\tfoo\n\t[z, <open ended>\nKV Write:\n\t[a, d)\n\t[pre, prf) (prefix pre)\n",
    );
    let root = pb::AuthRoleGetResponse { header: header(6), perm: vec![] };
    check(
        Format::Simple,
        false,
        Answer::RoleGet("root", &root),
        "Role root\nKV Read:\n\t[, <open ended>\nKV Write:\n\t[, <open ended>\n",
    );
    let fields = rendered(Format::Fields, false, Answer::RoleGet("r1", &response)).unwrap();
    assert!(fields.contains("\"PermType\" :  READWRITE\n\"Key\" : \"a\"\n\"RangeEnd\" : \"d\"\n"));
    let json = rendered(Format::Json, false, Answer::RoleGet("r1", &response)).unwrap();
    assert!(
        json.contains(
            "\"perm\":[{\"permType\":2,\"key\":\"YQ==\",\"range_end\":\"ZA==\"},{\"key\":\"Zm9v\"},"
        )
    );
    let list = pb::AuthRoleListResponse { header: header(6), roles: vec!["r1".into(), "root".into()] };
    assert!(
        rendered(Format::Fields, false, Answer::RoleList(&list))
            .unwrap()
            .ends_with("\"Roles\" : \"r1\" \"root\"\n")
    );
    let revoked = pb::AuthRoleRevokePermissionResponse::default();
    check(
        Format::Simple,
        false,
        Answer::RoleRevoke("r1", b"z", b"\0", &revoked),
        "Permission of range [z, <open ended> is revoked from role r1\n",
    );
}

#[test]
fn json_text_is_escaped_as_go_escapes_it() {
    let list = pb::AuthUserListResponse { header: None, users: vec!["<a&b>\"\\\n\x01\u{2028}é".into()] };
    check(
        Format::Json,
        false,
        Answer::UserList(&list),
        "{\"users\":[\"\\u003ca\\u0026b\\u003e\\\"\\\\\\n\\u0001\\u2028é\"]}\n",
    );
}
