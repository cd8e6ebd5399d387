//! A cluster's life, and what is stored of it.

use std::collections::BTreeMap;

use membership::*;
use types::{ClusterId, MemberId, Version};

type Buckets = BTreeMap<(Bucket, Vec<u8>), Vec<u8>>;

fn store(buckets: &mut Buckets, writes: Vec<BucketWrite>) {
    for write in writes {
        let place = (write.bucket, write.key.to_vec());
        match write.value {
            Some(value) => buckets.insert(place, value.to_vec()),
            None => buckets.remove(&place),
        };
    }
}

fn load(buckets: &Buckets) -> Cluster {
    let bucket = |wanted| {
        let all = buckets.iter().filter(move |((bucket, _), _)| *bucket == wanted);
        all.map(|((_, key), value)| (key.as_slice(), value.as_slice()))
    };
    Cluster::load(
        ClusterId(1),
        1,
        bucket(Bucket::Members),
        bucket(Bucket::MembersRemoved),
        bucket(Bucket::Cluster),
    )
    .unwrap()
}

fn member(id: u64, url: &str) -> Member {
    Member::new(MemberId(id), vec![url.to_owned()])
}

fn learner(id: u64, url: &str) -> Member {
    Member { is_learner: true, ..member(id, url) }
}

#[test]
fn what_is_stored_is_what_is_known() {
    let mut cluster = Cluster::new(ClusterId(1), 1);
    let mut buckets = Buckets::new();
    let attributes = Attributes { name: "a<b".to_owned(), client_urls: vec!["http://c:1".to_owned()] };
    store(&mut buckets, cluster.apply(&ConfChange::Add(member(0xab, "http://a:1"))).unwrap());
    store(&mut buckets, cluster.apply(&ConfChange::Add(learner(2, "http://b:1"))).unwrap());
    store(&mut buckets, cluster.set_attributes(MemberId(0xab), attributes).unwrap());
    store(&mut buckets, cluster.apply(&ConfChange::Promote(MemberId(2))).unwrap());
    store(&mut buckets, cluster.apply(&ConfChange::UpdatePeerUrls(member(2, "http://b:2"))).unwrap());
    store(&mut buckets, cluster.apply(&ConfChange::Add(member(3, "http://d:1"))).unwrap());
    store(&mut buckets, cluster.apply(&ConfChange::Remove(MemberId(3))).unwrap());
    store(&mut buckets, cluster.set_version(Version::new(3, 7, 0)));
    store(&mut buckets, cluster.set_downgrade(Some("3.6.0")));
    assert_eq!(load(&buckets), cluster);

    let text: Vec<_> = buckets
        .iter()
        .map(|((bucket, key), value)| {
            format!("{bucket:?} {} {}", String::from_utf8_lossy(key), String::from_utf8_lossy(value))
        })
        .collect();
    assert_eq!(
        text,
        [
            r#"Cluster clusterVersion 3.7.0"#,
            r#"Cluster downgrade {"target-version":"3.6.0","enabled":true}"#,
            r#"Members 2 {"id":2,"peerURLs":["http://b:2"]}"#,
            r#"Members ab {"id":171,"peerURLs":["http://a:1"],"name":"a\u003cb","clientURLs":["http://c:1"]}"#,
            r#"MembersRemoved 3 removed"#,
        ]
    );

    let mut copy = Buckets::new();
    store(&mut copy, cluster.save());
    assert_eq!(copy, buckets);
    store(&mut buckets, cluster.set_downgrade(None));
    assert_eq!(
        buckets[&(Bucket::Cluster, b"downgrade".to_vec())],
        br#"{"target-version":"","enabled":false}"#
    );
}

#[test]
fn changes_that_do_not_hold_have_upstreams_texts() {
    let mut cluster = Cluster::new(ClusterId(1), 1);
    for change in [
        ConfChange::Add(member(1, "http://a:1")),
        ConfChange::Add(learner(2, "http://b:1")),
        ConfChange::Add(member(3, "http://c:1")),
        ConfChange::Remove(MemberId(3)),
    ] {
        cluster.apply(&change).unwrap();
    }
    let before = cluster.clone();
    for (change, text) in [
        (ConfChange::Add(member(3, "http://x:1")), "membership: ID removed"),
        (ConfChange::Remove(MemberId(3)), "membership: ID removed"),
        (ConfChange::Promote(MemberId(3)), "membership: ID removed"),
        (ConfChange::Add(member(1, "http://x:1")), "membership: ID exists"),
        (ConfChange::Add(member(4, "http://b:1")), "membership: peerURL exists"),
        (ConfChange::Add(learner(4, "http://x:1")), "membership: too many learner members in cluster"),
        (ConfChange::Promote(MemberId(4)), "membership: ID not found"),
        (ConfChange::Promote(MemberId(1)), "membership: can only promote a learner member"),
        (ConfChange::UpdatePeerUrls(member(4, "http://x:1")), "membership: ID not found"),
        (ConfChange::UpdatePeerUrls(member(1, "http://b:1")), "membership: peerURL exists"),
        (ConfChange::Remove(MemberId(4)), "membership: ID not found"),
    ] {
        assert_eq!(cluster.apply(&change).unwrap_err().to_string(), text, "{change:?}");
    }
    assert_eq!(cluster, before);
    cluster.apply(&ConfChange::UpdatePeerUrls(member(1, "http://a:1"))).unwrap();
}

#[test]
fn attributes_of_members_that_left_are_ignored() {
    let mut cluster = Cluster::new(ClusterId(1), 1);
    cluster.apply(&ConfChange::Add(member(1, "http://a:1"))).unwrap();
    cluster.apply(&ConfChange::Remove(MemberId(1))).unwrap();
    assert_eq!(cluster.set_attributes(MemberId(1), Attributes::default()), Ok(vec![]));
    assert_eq!(cluster.set_attributes(MemberId(2), Attributes::default()), Err(ChangeError::IdNotFound));
}

#[test]
fn a_downgrade_is_over_when_all_servers_are_there() {
    let mut cluster = Cluster::new(ClusterId(1), 1);
    let version = |minor| Some(Version::new(3, minor, 9));
    assert!(!cluster.is_downgrade_complete([version(6)]));
    cluster.set_downgrade(Some("3.6.0"));
    assert!(cluster.is_downgrade_complete([version(6), version(6)]));
    assert!(!cluster.is_downgrade_complete([version(6), version(7)]));
    assert!(!cluster.is_downgrade_complete([version(6), None]));
}

#[test]
fn stored_junk_is_refused_with_its_place() {
    let load = |members: &[(&'static [u8], &'static [u8])], cluster: &[(&'static [u8], &'static [u8])]| {
        let error = Cluster::load(ClusterId(1), 1, members.to_vec(), [], cluster.to_vec()).unwrap_err();
        error.to_string()
    };
    assert_eq!(load(&[(b"zz", b"{}")], &[]), "bucket members: key \"zz\" is not a member id");
    assert_eq!(load(&[(b"ab", b"{")], &[]), "bucket members: member ab cannot be read");
    assert_eq!(
        load(&[], &[(b"clusterVersion", b"x")]),
        "bucket cluster: clusterVersion \"x\" is not a version"
    );
    assert_eq!(load(&[], &[(b"downgrade", b"1")]), "bucket cluster: the downgrade job cannot be read");
}
