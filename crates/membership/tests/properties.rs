//! Any history of changes leaves a membership that its stores give back.

use membership::*;
use proptest::prelude::*;
use types::{ClusterId, MemberId, Version};

fn member() -> impl Strategy<Value = Member> {
    let urls = prop::collection::vec("http://[a-d]:[12](\\?[<>&ü\"]{0,3})?", 1..3);
    (1u64..6, urls, any::<bool>(), "[a-c<&\u{2028}]{0,3}").prop_map(|(id, peer_urls, is_learner, name)| {
        Member {
            is_learner,
            attributes: Attributes { name, client_urls: vec![] },
            ..Member::new(MemberId(id), peer_urls)
        }
    })
}

fn change() -> impl Strategy<Value = ConfChange> {
    prop_oneof![
        3 => member().prop_map(ConfChange::Add),
        1 => member().prop_map(ConfChange::UpdatePeerUrls),
        1 => (1u64..6).prop_map(|id| ConfChange::Promote(MemberId(id))),
        1 => (1u64..6).prop_map(|id| ConfChange::Remove(MemberId(id))),
    ]
}

proptest! {
    #[test]
    fn histories_survive_every_form(changes in prop::collection::vec(change(), 0..30)) {
        let mut cluster = Cluster::new(ClusterId(1), 2);
        let mut writes = Vec::new();
        for change in changes {
            // Through the raft form, as in the log.
            let change = ConfChange::decode(&change.encode(1)).unwrap();
            let before = cluster.clone();
            match cluster.apply(&change) {
                Ok(made) => writes.extend(made),
                Err(error) => {
                    prop_assert_eq!(cluster.validate(&change), Err(error));
                    prop_assert_eq!(&cluster, &before);
                }
            }
            prop_assert!(cluster.learners().count() <= 2);
            prop_assert!(cluster.members().all(|member| !cluster.is_removed(member.id)));
            let urls = cluster.members().flat_map(|member| {
                member.peer_urls.iter().collect::<std::collections::BTreeSet<_>>()
            });
            let (all, unique): (Vec<_>, std::collections::BTreeSet<_>) = urls.map(|url| (url, url)).unzip();
            prop_assert_eq!(all.len(), unique.len(), "two members share a URL");
        }
        cluster.set_version(Version::new(3, 6, 0));

        let mut stored = std::collections::BTreeMap::new();
        for write in writes {
            stored.insert((write.bucket, write.key), write.value);
        }
        let bucket = |wanted| {
            let live = stored.iter().filter(move |((bucket, _), value)| *bucket == wanted && value.is_some());
            live.map(|((_, key), value)| (&key[..], value.as_deref().unwrap()))
        };
        let version: &[(&[u8], &[u8])] = &[(b"clusterVersion", b"3.6.0")];
        let loaded = Cluster::load(ClusterId(1), 2, bucket(Bucket::Members), bucket(Bucket::MembersRemoved), version.iter().copied());
        prop_assert_eq!(&loaded.unwrap(), &cluster);

        let v2 = read_v2_store(cluster.to_v2_store().as_bytes()).unwrap();
        prop_assert_eq!(Cluster::from_parts(ClusterId(1), 2, v2.members, v2.removed, v2.version), cluster);
    }

    #[test]
    fn junk_never_panics(data in prop::collection::vec(any::<u8>(), 0..40), text in "[{}\\[\\]\":,a-dI0-9]{0,30}") {
        let _ = decode_entry(data.clone().into());
        let _ = read_v2_store(&data);
        let _ = read_v2_store(text.as_bytes());
        let _ = Member::from_json(text.as_bytes());
        let _ = InitialCluster::parse(&text);
    }
}
