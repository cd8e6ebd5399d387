use super::*;
use crate::test_files::{killed, snapshot};

fn lines(dump: impl FnOnce(Sink<'_>) -> Result<(), Failure>) -> (Vec<String>, Option<String>) {
    let mut lines = Vec::new();
    let result = dump(&mut |line| {
        lines.push(line);
        Ok(())
    });
    (lines, result.err().and_then(|failure| failure.text))
}

#[test]
fn every_record_of_a_database_is_a_line() {
    let tx = bolt::ReadTx::from_image(snapshot()).unwrap();
    let (lines, error) = lines(|sink| dump_db(&tx, sink));
    assert_eq!(error, None);
    assert_eq!(lines.len(), 572, "as many as etcd 3.5 counts");
    for expected in [
        r#"{"bucket":"authUsers","user":"alice","has_password":true,"roles":["reader"]}"#,
        r#"{"bucket":"meta","key":"consistent_index","value":578}"#,
        r#"{"bucket":"meta","key":"finishedCompactRev","value":475}"#,
        r#"{"bucket":"lease","lease":"000"#,
        r#""tombstone":true,"key":"/registry/pods/ns3/"#,
        r#""key_base64":"#,
        r#""member":{"id":17402000849597972512,"peerURLs":["http://127.0.0.1:22380"]"#,
        r#"{"bucket":"authRoles","role":"reader","permissions":[{"type":"READ","key":"/registry/","range_end":"/registry0"}"#,
    ] {
        assert!(lines.iter().any(|line| line.contains(expected)), "{expected}");
    }
    assert!(lines.iter().all(|line| !line.contains("$2a$")), "no password hash");
}

#[test]
fn every_record_of_a_log_is_a_line() {
    let disk = killed();
    let (lines, error) = lines(|sink| dump_wal(&disk, Path::new("d/member/wal"), sink));
    assert_eq!(error, None);
    let entries: Vec<_> = lines.iter().filter(|line| line.contains("\"record\":\"entry\"")).collect();
    assert!(entries.last().unwrap().contains("\"index\":624,\"term\":3,"), "{:?}", entries.last());
    for expected in [
        r#"{"segment":"0000000000000000-0000000000000000.wal"}"#,
        r#""record":"metadata","member":"f1805392ad554020","cluster":"8408e75e887d4f16"}"#,
        r#""kind":"conf_change","change":"add","member":{"id":17402000849597972512,"#,
        r#""record":"snapshot","index":603,"term":3,"conf_state":{"voters":["f1805392ad554020"],"learners":[]}}"#,
        r#""txn":{"compare":[{"key":"cli/key0","value":"=","operand":"second value 0"}],"success":[{"put":{"key":"txn/a","value":"1"}},"#,
        r#""compaction":{"revision":475,"physical":true}"#,
        r#""auth_user_add":{"name":"alice"}"#,
        r#""cluster_version_set":{"version":"3.5.0"}"#,
        r#""lease_grant":{"id":"#,
    ] {
        assert!(lines.iter().any(|line| line.contains(expected)), "{expected}");
    }
    assert!(lines.iter().all(|line| !line.contains("secret-pw") && !line.contains("$2a$")), "no password");
}

#[test]
fn a_damaged_log_is_shown_up_to_the_damage() {
    let disk = killed();
    disk.flip_bit(&Path::new("d/member/wal").join(crate::test_files::SEGMENT), 50_000, 1);
    let (lines, error) = lines(|sink| dump_wal(&disk, Path::new("d/member/wal"), sink));
    assert!(lines.len() > 50);
    assert!(error.unwrap().contains("damaged at byte"));
}
