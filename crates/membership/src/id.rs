//! Ids of members and clusters, computed from what the operator wrote.
//!
//! **Source**: etcd `server/etcdserver/api/membership/{member,cluster}.go`.

use sha1::{Digest, Sha1};
use types::{ClusterId, MemberId};

/// Id of a member: SHA-1 over its sorted peer URLs and the token, and for a member that is added
/// at run time (then with an empty token) over the second in which that is asked for.
pub fn member_id<U: AsRef<str>>(peer_urls: &[U], token: &str, added_unix_seconds: Option<u64>) -> MemberId {
    let mut sorted: Vec<&str> = peer_urls.iter().map(AsRef::as_ref).collect();
    sorted.sort_unstable();
    let mut hasher = Sha1::new();
    for url in sorted {
        hasher.update(url);
    }
    hasher.update(token);
    if let Some(seconds) = added_unix_seconds {
        hasher.update(seconds.to_string());
    }
    MemberId(first_word(hasher))
}

/// Id of a cluster: SHA-1 over the ids of its first members, ascending. Fixed at bootstrap.
pub fn cluster_id(members: impl IntoIterator<Item = MemberId>) -> ClusterId {
    let mut ids: Vec<u64> = members.into_iter().map(|id| id.0).collect();
    ids.sort_unstable();
    let mut hasher = Sha1::new();
    for id in ids {
        hasher.update(id.to_be_bytes());
    }
    ClusterId(first_word(hasher))
}

fn first_word(hasher: Sha1) -> u64 {
    let digest = hasher.finalize();
    digest[..8].iter().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_of_the_recorded_member() {
        let id = member_id(&["http://127.0.0.1:22380"], "fixture-token", None);
        assert_eq!(id.to_string(), "f1805392ad554020");
        assert_eq!(cluster_id([id]).to_string(), "8408e75e887d4f16");
    }

    #[test]
    fn order_of_urls_and_members_does_not_matter() {
        let id = |urls: &[&str]| member_id(urls, "t", None);
        assert_eq!(id(&["http://a:1", "http://b:2"]), id(&["http://b:2", "http://a:1"]));
        assert_ne!(id(&["http://a:1"]), member_id(&["http://a:1"], "t", Some(1)));
        let (one, two) = (MemberId(1), MemberId(2));
        assert_eq!(cluster_id([one, two]), cluster_id([two, one]));
    }
}
