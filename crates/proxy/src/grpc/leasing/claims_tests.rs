use proto::etcdserverpb::request_op::Request;
use proto::mvccpb::KeyValue;

use super::*;

const LEASE: i64 = 7;

fn claims() -> (Claims, Instant) {
    let now = Instant::now();
    let mut claims = Claims::new(&Bytes::from_static(b"l/"));
    claims.open(LEASE, now + Duration::from_secs(60));
    (claims, now)
}

fn ask(claims: &mut Claims, key: &str, now: Instant) -> Read {
    claims.read(&client::get(key.to_owned()), now)
}

fn ticket(claims: &mut Claims, key: &str, now: Instant) -> Ticket {
    match ask(claims, key, now) {
        Read::Claim(ticket) => ticket,
        other => panic!("no ticket for {key} but {other:?}"),
    }
}

fn header(revision: i64) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader { revision, ..Default::default() })
}

fn kv(value: &str, revision: i64) -> Known {
    let revisions = KeyValue { create_revision: revision, mod_revision: revision, ..Default::default() };
    Some(KeyValue { key: "k".into(), value: value.to_owned().into(), version: 1, ..revisions })
}

fn own(claims: &mut Claims, key: &str, revision: i64, now: Instant) {
    let ticket = ticket(claims, key, now);
    claims.acquired(&ticket, Acquired::Claimed(revision, kv("old", 1), header(revision)), now);
    assert_eq!(claims.claim(key.as_bytes()), revision);
}

fn value(claims: &mut Claims, key: &str, now: Instant) -> Option<String> {
    match ask(claims, key, now) {
        Read::Here(answer) => Some(String::from_utf8_lossy(&answer.kvs[0].value).into_owned()),
        Read::Claim(ticket) => {
            claims.acquired(&ticket, Acquired::Unknown, now);
            None
        }
        Read::Pass => None,
    }
}

fn put(value: &str) -> (Request, Writes) {
    let put = Request::RequestPut(client::put("k", value.to_owned()));
    let writes = Writes::of(&put);
    (put, writes)
}

fn applied(operation: Request, revision: i64) -> Ended {
    Ended::Applied(header(revision), super::super::requests::effects(operation, None))
}

fn range(key: &'static str, range_end: &'static str) -> Writes {
    Writes { keys: Vec::new(), ranges: vec![Span::new(&key.into(), &range_end.into())] }
}

#[test]
fn a_revocation_may_overtake_the_claim_it_ends() {
    let (mut claims, now) = claims();
    let ticket = ticket(&mut claims, "k", now);
    let key = Bytes::from_static(b"k");
    let leaving = claims.revoked(&key, 11, now).expect("the claim is at the cluster");
    assert_eq!(leaving, Leaving { lease: LEASE, key: key.clone(), created_before: 11 });
    claims.acquired(&ticket, Acquired::Claimed(10, kv("old", 1), header(10)), now);
    assert_eq!((claims.claim(b"k"), value(&mut claims, "k", now)), (0, None));
    claims.left(&key);
    // It backs off for a while, and claims again.
    assert!(matches!(ask(&mut claims, "k", now), Read::Pass));
    let later = now + BACKOFF;
    own(&mut claims, "k", 12, later);
    assert_eq!(value(&mut claims, "k", later).as_deref(), Some("old"));
    // What was said of the claim before comes late.
    assert_eq!(claims.revoked(&key, 11, later), None);
    claims.lost(&key, 12);
    assert_eq!(claims.claim(b"k"), 12);
    claims.lost(&key, 13);
    assert_eq!(claims.claim(b"k"), 0);
    claims.sweep(later + BACKOFF);
    assert!(claims.slots.is_empty() && claims.wanted.is_empty() && claims.totals.bytes == 0);
}

#[test]
fn what_was_read_before_a_write_is_not_kept() {
    let (mut claims, now) = claims();
    let ticket = ticket(&mut claims, "k", now);
    let (operation, writes) = put("new");
    let written = claims.begin(&writes);
    // While it is under way nobody asks for a claim.
    assert!(matches!(ask(&mut claims, "k", now), Read::Pass));
    claims.end(written, applied(operation, 12));
    claims.acquired(&ticket, Acquired::Claimed(10, kv("old", 1), header(10)), now);
    assert_eq!((claims.claim(b"k"), value(&mut claims, "k", now)), (10, None));
}

#[test]
fn one_write_at_a_time_is_known_and_two_are_not() {
    let (mut claims, now) = claims();
    own(&mut claims, "k", 10, now);
    let (operation, writes) = put("1");
    let written = claims.begin(&writes);
    assert_eq!(written.claims().collect::<Vec<_>>(), [(&Bytes::from_static(b"k"), 10)]);
    assert_eq!(value(&mut claims, "k", now), None);
    claims.end(written, applied(operation, 11));
    assert_eq!(value(&mut claims, "k", now).as_deref(), Some("1"));
    let ((first, writes), (second, _)) = (put("2"), put("3"));
    let (one, other) = (claims.begin(&writes), claims.begin(&writes));
    // In whichever order their answers come.
    claims.end(other, applied(second, 12));
    claims.end(one, applied(first, 13));
    assert_eq!((claims.claim(b"k"), value(&mut claims, "k", now)), (10, None));
    // What was refused was so because of a claim that may have been this one.
    let ticket = ticket(&mut claims, "k", now);
    claims.acquired(&ticket, Acquired::Claimed(10, kv("2", 13), header(14)), now);
    assert_eq!(value(&mut claims, "k", now).as_deref(), Some("2"));
    let written = claims.begin(&writes);
    claims.end(written, Ended::Refused);
    assert_eq!(value(&mut claims, "k", now), None);
}

#[test]
fn a_claim_under_which_nobody_knows_what_happened_is_never_taken_up_again() {
    let (mut claims, now) = claims();
    own(&mut claims, "k", 10, now);
    let asked = ticket_of_a_reader(&mut claims, now);
    let written = claims.begin(&put("1").1);
    let leaving = claims.end(written, Ended::Unknown);
    assert_eq!(leaving, [Leaving { lease: LEASE, key: "k".into(), created_before: 11 }]);
    claims.acquired(&asked, Acquired::Claimed(10, kv("old", 1), header(12)), now);
    assert_eq!(claims.claim(b"k"), 0);
    // Until its key is gone nobody asks; the next claim is a newer one.
    assert!(matches!(ask(&mut claims, "k", now), Read::Pass));
    claims.left(&"k".into());
    own(&mut claims, "k", 15, now);
}

/// A read that is under way while the key is claimed, but its value is not known.
fn ticket_of_a_reader(claims: &mut Claims, now: Instant) -> Ticket {
    let written = claims.begin(&put("0").1);
    claims.end(written, Ended::Refused);
    ticket(claims, "k", now)
}

#[test]
fn a_range_that_is_written_is_read_from_the_cluster() {
    let (mut claims, now) = claims();
    own(&mut claims, "k", 10, now);
    own(&mut claims, "z", 11, now);
    let written = claims.begin(&range("a", "l"));
    assert_eq!(value(&mut claims, "k", now), None);
    assert!(matches!(ask(&mut claims, "b", now), Read::Pass));
    assert!(value(&mut claims, "z", now).is_some());
    claims.end(written, Ended::Applied(header(12), Effects::new()));
    assert_eq!((claims.claim(b"k"), value(&mut claims, "k", now)), (10, None));
    // With the keys of the claims in it, all of them are over, but not those that came later.
    let written = claims.begin(&range("l/", "l0"));
    assert_eq!(value(&mut claims, "z", now), None);
    claims.end(written, Ended::Applied(header(20), Effects::new()));
    assert!(claims.held().is_empty() && claims.ranges.is_empty());
}

#[test]
fn without_a_session_nothing_is_shown() {
    let (mut claims, now) = claims();
    own(&mut claims, "k", 10, now);
    let over = now + Duration::from_secs(60);
    assert_eq!(value(&mut claims, "k", over), None);
    claims.extend(LEASE, over + Duration::from_secs(1));
    assert!(value(&mut claims, "k", over).is_some());
    let ticket = ticket(&mut claims, "other", now);
    claims.close();
    claims.open(LEASE + 1, over);
    assert_eq!((claims.claim(b"k"), value(&mut claims, "k", now)), (0, None));
    // Claimed under the lease of before.
    claims.acquired(&ticket, Acquired::Claimed(12, None, header(12)), now);
    assert!(claims.held().is_empty());
}

#[test]
fn too_much_makes_room() {
    let (mut claims, now) = claims();
    let bytes = 2 * size_of::<Slot>() + 40;
    claims.limits = Totals { claims: 2, bytes };
    own(&mut claims, "a", 10, now);
    own(&mut claims, "b", 11, now);
    let asked = ticket(&mut claims, "c", now);
    let leaving = claims.acquired(&asked, Acquired::Claimed(12, None, header(12)), now);
    assert_eq!(leaving.len(), 1);
    assert!(leaving[0].key != "c" && claims.held().len() == 2 && claims.claim(b"c") == 12);
    let asked = ticket(&mut claims, "d", now);
    let large = kv(&"x".repeat(50), 1);
    claims.acquired(&asked, Acquired::Claimed(13, large, header(13)), now);
    assert!(claims.totals.bytes <= bytes, "{:?}", claims.totals);
}

#[test]
fn a_renewal_that_comes_late_revives_nothing() {
    let (mut claims, now) = claims();
    claims.close();
    claims.extend(LEASE, now + Duration::from_secs(60));
    assert!(matches!(ask(&mut claims, "k", now), Read::Pass));
    claims.open(LEASE + 1, now + Duration::from_secs(1));
    claims.extend(LEASE, now + Duration::from_secs(60));
    assert!(matches!(ask(&mut claims, "k", now + Duration::from_secs(2)), Read::Pass));
    claims.extend(LEASE + 1, now + Duration::from_secs(60));
    ticket(&mut claims, "k", now + Duration::from_secs(2));
}

/// A value with a lease is never known, and to ask for its claim with each read is a write each time.
#[test]
fn what_cannot_be_known_is_given_up() {
    let (mut claims, now) = claims();
    let first = ticket(&mut claims, "k", now);
    let leased = kv("v", 1).map(|kv| KeyValue { lease: 9, ..kv });
    let leaving = claims.acquired(&first, Acquired::Claimed(10, leased, header(10)), now);
    assert_eq!(leaving, [Leaving { lease: LEASE, key: "k".into(), created_before: 11 }]);
    claims.left(&"k".into());
    assert!(matches!(ask(&mut claims, "k", now), Read::Pass));
    let again = ticket(&mut claims, "k", now + BACKOFF);
    // Nor is a cluster asked again and again that cannot write.
    claims.acquired(&again, Acquired::Failed, now + BACKOFF);
    assert!(matches!(ask(&mut claims, "k", now + BACKOFF), Read::Pass));
}

#[test]
fn written_values_make_room_too() {
    let (mut claims, now) = claims();
    own(&mut claims, "other", 9, now);
    own(&mut claims, "k", 10, now);
    claims.limits.bytes = claims.totals.bytes + 100;
    let (small, writes) = put("small");
    let written = claims.begin(&writes);
    assert!(claims.end(written, applied(small, 11)).is_empty());
    let (large, writes) = put(&"v".repeat(201));
    let written = claims.begin(&writes);
    let leaving = claims.end(written, applied(large, 12));
    assert_eq!(leaving.iter().map(|one| &one.key[..]).collect::<Vec<_>>(), [b"other"]);
    assert!(value(&mut claims, "k", now).is_some() && claims.totals.bytes <= claims.limits.bytes);
}
