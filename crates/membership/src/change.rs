//! Membership changes as log entries, and the rules by which one still holds when its turn comes.
//!
//! | change | raft type | context |
//! |---|---|---|
//! | add voter | 0 AddNode | member JSON (with the name only at bootstrap) |
//! | add learner | 3 AddLearnerNode | member JSON with `isLearner` |
//! | promote | 0 AddNode | `{"id":N,"peerURLs":null,"isPromote":true}` |
//! | update URLs | 2 UpdateNode | member JSON |
//! | remove | 1 RemoveNode | none |
//!
//! **Source**: etcd `server/etcdserver/api/membership/cluster.go`.

use bytes::Bytes;
use proto::raftpb;
use types::MemberId;

use crate::json::{JsonError, Object, ObjectWriter};
use crate::member::Member;

/// A change of the membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfChange {
    /// A new member, voter or learner as the member says.
    Add(Member),
    /// A learner becomes a voter.
    Promote(MemberId),
    /// New peer URLs; of the given member only id and peer URLs count.
    UpdatePeerUrls(Member),
    /// A member leaves for good.
    Remove(MemberId),
}

/// A conf change entry that this release cannot mean anything by.
#[derive(Debug, thiserror::Error)]
pub enum MalformedChange {
    /// Type number out of range.
    #[error("conf change for member {node}: unknown type {kind}")]
    Type {
        /// Member the change is for.
        node: MemberId,
        /// The number.
        kind: i32,
    },
    /// The context is not a member.
    #[error("conf change for member {node}: context is not a member")]
    Context {
        /// Member the change is for.
        node: MemberId,
        /// What is wrong with it.
        #[source]
        source: JsonError,
    },
    /// The context is about another member.
    #[error("conf change for member {node}: context is about member {context}")]
    Ids {
        /// Member the change is for.
        node: MemberId,
        /// Member in the context.
        context: MemberId,
    },
}

/// Why a change does not hold (any more). The texts are upstream's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// The id belonged to a member that left.
    #[error("membership: ID removed")]
    IdRemoved,
    /// The id of a new member is taken.
    #[error("membership: ID exists")]
    IdExists,
    /// No such member.
    #[error("membership: ID not found")]
    IdNotFound,
    /// Another member has that peer URL.
    #[error("membership: peerURL exists")]
    PeerUrlExists,
    /// Only learners are promoted.
    #[error("membership: can only promote a learner member")]
    NotLearner,
    /// More learners than `--max-learners`.
    #[error("membership: too many learner members in cluster")]
    TooManyLearners,
}

impl ConfChange {
    /// The member that the change is about.
    pub fn member_id(&self) -> MemberId {
        match self {
            Self::Add(member) | Self::UpdatePeerUrls(member) => member.id,
            Self::Promote(id) | Self::Remove(id) => *id,
        }
    }

    /// The raft form. All scalars are set, as etcd 3.5 and 3.6 write them.
    pub fn encode(&self, request_id: u64) -> raftpb::ConfChange {
        use raftpb::ConfChangeType as Type;
        let (kind, context) = match self {
            Self::Add(member) if member.is_learner => {
                (Type::ConfChangeAddLearnerNode, Some(member.to_json()))
            }
            Self::Add(member) => (Type::ConfChangeAddNode, Some(member.to_json())),
            Self::Promote(id) => (Type::ConfChangeAddNode, Some(promote_context(*id))),
            Self::UpdatePeerUrls(member) => (Type::ConfChangeUpdateNode, Some(member.to_json())),
            Self::Remove(_) => (Type::ConfChangeRemoveNode, None),
        };
        raftpb::ConfChange {
            id: Some(request_id),
            r#type: Some(kind.into()),
            node_id: Some(self.member_id().0),
            context: context.map(Bytes::from),
        }
    }

    /// Reads the raft form.
    pub fn decode(change: &raftpb::ConfChange) -> Result<Self, MalformedChange> {
        use raftpb::ConfChangeType as Type;
        let node = MemberId(change.node_id.unwrap_or_default());
        let kind = change.r#type.unwrap_or_default();
        let known = Type::try_from(kind).map_err(|_| MalformedChange::Type { node, kind })?;
        if known == Type::ConfChangeRemoveNode {
            return Ok(Self::Remove(node));
        }
        let context = change.context.as_deref().unwrap_or_default();
        let (member, is_promote) =
            read_context(context).map_err(|source| MalformedChange::Context { node, source })?;
        if member.id != node {
            return Err(MalformedChange::Ids { node, context: member.id });
        }
        Ok(match known {
            Type::ConfChangeUpdateNode => Self::UpdatePeerUrls(member),
            _ if is_promote => Self::Promote(node),
            _ => Self::Add(member),
        })
    }
}

fn read_context(context: &[u8]) -> Result<(Member, bool), JsonError> {
    let object = Object::parse(context)?;
    Ok((Member::read(&object)?, object.bool("isPromote")?))
}

fn promote_context(id: MemberId) -> String {
    let mut writer = ObjectWriter::new();
    writer.raw("id", &id.0.to_string());
    writer.raw("peerURLs", "null");
    writer.raw("isPromote", "true");
    writer.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    /// Data of entry 1 of the fixture `clean-3.5.30`: the bootstrap of its only member.
    const BOOTSTRAP: &[u8] = b"\x08\x00\x10\x00\x18\xa0\x80\xd5\xea\xaa\xf2\x94\xc0\xf1\x01\"N{\"id\":17402000849597972512,\"peerURLs\":[\"http://127.0.0.1:22380\"],\"name\":\"fx1\"}";

    #[test]
    fn the_recorded_bootstrap_entry_is_read_and_written_back() {
        let change = ConfChange::decode(&raftpb::ConfChange::decode(BOOTSTRAP).unwrap()).unwrap();
        let ConfChange::Add(member) = &change else { panic!("{change:?}") };
        assert_eq!(
            (member.id.to_string().as_str(), member.attributes.name.as_str()),
            ("f1805392ad554020", "fx1")
        );
        assert_eq!(change.encode(0).encode_to_vec(), BOOTSTRAP);
    }

    #[test]
    fn every_kind_survives_the_raft_form() {
        let member = Member::new(MemberId(5), vec!["http://a:1".to_owned()]);
        let learner = Member { is_learner: true, ..member.clone() };
        let kinds = [
            (ConfChange::Add(member.clone()), 0, r#"{"id":5,"peerURLs":["http://a:1"]}"#),
            (ConfChange::Add(learner), 3, r#"{"id":5,"peerURLs":["http://a:1"],"isLearner":true}"#),
            (ConfChange::Promote(MemberId(5)), 0, r#"{"id":5,"peerURLs":null,"isPromote":true}"#),
            (ConfChange::UpdatePeerUrls(member), 2, r#"{"id":5,"peerURLs":["http://a:1"]}"#),
            (ConfChange::Remove(MemberId(5)), 1, ""),
        ];
        for (change, kind, context) in kinds {
            let raw = change.encode(9);
            assert_eq!((raw.id, raw.r#type, raw.node_id), (Some(9), Some(kind), Some(5)));
            assert_eq!(raw.context.as_deref().unwrap_or_default(), context.as_bytes());
            assert_eq!(ConfChange::decode(&raw).unwrap(), change);
        }
    }

    #[test]
    fn junk_is_refused() {
        let raw = |kind, context: &'static str| raftpb::ConfChange {
            id: None,
            r#type: Some(kind),
            node_id: Some(5),
            context: Some(context.into()),
        };
        assert!(matches!(ConfChange::decode(&raw(9, "{}")), Err(MalformedChange::Type { .. })));
        assert!(matches!(ConfChange::decode(&raw(0, "{")), Err(MalformedChange::Context { .. })));
        assert!(matches!(ConfChange::decode(&raw(0, r#"{"id":6}"#)), Err(MalformedChange::Ids { .. })));
    }
}
