//! The membership inside a `.snap` file: the JSON of etcd's retired v2 store.
//!
//! ```text
//! /0/members/<hex id>/raftAttributes   {"peerURLs":[…],"isLearner":true}
//! /0/members/<hex id>/attributes       {"name":"…","clientURLs":[…]}   once published
//! /0/removed_members/<hex id>          ""
//! /0/version                           X.Y.0                           once decided
//! /1                                   the users' v2 keys: empty
//! ```
//!
//! Each node is `{"Path","CreatedIndex","ModifiedIndex","ExpireTime","Value","Children"}`; a leaf
//! has `null` children. etcd 3.5 takes its members from here; 3.6 and 3.7 write it for a
//! downgrade and put it into MsgSnap. Go's own output has more (watcher hub, statistics), which
//! no reader needs.
//!
//! **Source**: etcd `server/etcdserver/api/v2store/{store,node}.go`,
//! `server/etcdserver/api/membership/storev2.go`.

use std::fmt::Write as _;

use serde_json::Value;
use types::{MemberId, Version};

use crate::cluster::Cluster;
use crate::json::{JsonError, Object, push_string};
use crate::member::{Attributes, Member};

/// What a v2 store says about the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct V2Membership {
    /// Members, by ascending id.
    pub members: Vec<Member>,
    /// Ids of members that left, ascending.
    pub removed: Vec<MemberId>,
    /// The cluster version.
    pub version: Option<Version>,
    /// Whether there are v2 keys or v2 users besides: data that would be lost.
    pub has_user_data: bool,
}

/// A v2 store that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum V2StoreError {
    /// Not a JSON object with a root node.
    #[error("v2 store: no root node")]
    Root(#[source] Option<JsonError>),
    /// A member's node with an impossible name.
    #[error("v2 store: {path} is not named after a member id")]
    Id {
        /// Path of the node.
        path: String,
    },
    /// A member without peer URLs, or with something unknown.
    #[error("v2 store: {path}: {problem}")]
    Member {
        /// Path of the node.
        path: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// Attributes that are not JSON.
    #[error("v2 store: {path} cannot be read")]
    Attributes {
        /// Path of the node.
        path: String,
        /// What is wrong with it.
        #[source]
        source: JsonError,
    },
    /// The cluster version is not a version.
    #[error("v2 store: cluster version {text:?} is not a version")]
    Version {
        /// The stored text.
        text: String,
    },
}

const NEVER: &str = "0001-01-01T00:00:00Z";

impl Cluster {
    /// The v2 store of this membership, for `Snapshot.data` in `.snap` files and MsgSnap.
    pub fn to_v2_store(&self) -> String {
        let members = self.members().map(|member| {
            let mut parts = Vec::new();
            if !member.attributes.name.is_empty() || !member.attributes.client_urls.is_empty() {
                parts.push(Node::leaf("attributes", member.attributes.to_json()));
            }
            parts.push(Node::leaf("raftAttributes", member.raft_attributes_to_json()));
            Node::directory(member.id.to_string(), parts)
        });
        let removed: Vec<_> = self.removed().map(|id| Node::leaf(id.to_string(), String::new())).collect();
        let mut cluster = vec![Node::directory("members", members.collect())];
        if !removed.is_empty() {
            cluster.push(Node::directory("removed_members", removed));
        }
        cluster.extend(self.version().map(|version| Node::leaf("version", version.to_string())));
        let root = vec![Node::directory("0", cluster), Node::directory("1", Vec::new())];
        let mut json = "{\"Root\":".to_owned();
        write_node(&mut json, "/", "", &Children::Nodes(root));
        json.push_str(",\"CurrentIndex\":1,\"CurrentVersion\":2}");
        json
    }
}

struct Node {
    name: String,
    value: String,
    children: Children,
}

enum Children {
    Leaf,
    Nodes(Vec<Node>),
}

impl Node {
    fn leaf(name: impl Into<String>, value: String) -> Self {
        Self { name: name.into(), value, children: Children::Leaf }
    }

    /// `nodes` by ascending name, as Go writes maps.
    fn directory(name: impl Into<String>, mut nodes: Vec<Node>) -> Self {
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        Self { name: name.into(), value: String::new(), children: Children::Nodes(nodes) }
    }
}

fn write_node(json: &mut String, path: &str, value: &str, children: &Children) {
    json.push_str("{\"Path\":");
    push_string(json, path);
    let _ = write!(json, ",\"CreatedIndex\":1,\"ModifiedIndex\":1,\"ExpireTime\":\"{NEVER}\",\"Value\":");
    push_string(json, value);
    json.push_str(",\"Children\":");
    match children {
        Children::Leaf => json.push_str("null"),
        Children::Nodes(nodes) => {
            for (at, node) in nodes.iter().enumerate() {
                json.push(if at == 0 { '{' } else { ',' });
                push_string(json, &node.name);
                json.push(':');
                let path = format!("{}/{}", path.trim_end_matches('/'), node.name);
                write_node(json, &path, &node.value, &node.children);
            }
            json.push_str(if nodes.is_empty() { "{}" } else { "}" });
        }
    }
    json.push('}');
}

/// Reads the v2 store in `Snapshot.data`, whoever wrote it.
pub fn read_v2_store(json: &[u8]) -> Result<V2Membership, V2StoreError> {
    let store = Object::parse(json).map_err(|error| V2StoreError::Root(Some(error)))?;
    let root = store.field("Root").ok_or(V2StoreError::Root(None))?;
    let mut found = V2Membership { has_user_data: has_user_data(root), ..V2Membership::default() };
    let Some(cluster) = child(root, "0") else { return Ok(found) };
    for (name, node) in child(cluster, "members").into_iter().flat_map(children) {
        found.members.push(read_member(name, node)?);
    }
    for (name, _) in child(cluster, "removed_members").into_iter().flat_map(children) {
        let refuse = |_| V2StoreError::Id { path: format!("/0/removed_members/{name}") };
        found.removed.push(name.parse().map_err(refuse)?);
    }
    if let Some(node) = child(cluster, "version") {
        let text = value(node);
        found.version = Some(text.parse().map_err(|_| V2StoreError::Version { text: text.to_owned() })?);
    }
    found.members.sort_by_key(|member| member.id);
    found.removed.sort_unstable();
    Ok(found)
}

fn read_member(name: &str, node: &Value) -> Result<Member, V2StoreError> {
    let path = format!("/0/members/{name}");
    let id = name.parse().map_err(|_| V2StoreError::Id { path: path.clone() })?;
    let mut member = Member { id, ..Member::default() };
    let mut has_peer_urls = false;
    for (part, node) in children(node) {
        let json = value(node).as_bytes();
        let result = match part.as_str() {
            "raftAttributes" => {
                has_peer_urls = true;
                Object::parse(json).and_then(|object| member.read_raft_attributes(&object))
            }
            "attributes" => Attributes::from_json(json).map(|attributes| member.attributes = attributes),
            _ => return Err(V2StoreError::Member { path, problem: "unknown child" }),
        };
        result.map_err(|source| V2StoreError::Attributes { path: format!("{path}/{part}"), source })?;
    }
    if has_peer_urls { Ok(member) } else { Err(V2StoreError::Member { path, problem: "no raftAttributes" }) }
}

/// v2 keys live below `/1`, v2 users and roles two levels below `/2`.
fn has_user_data(root: &Value) -> bool {
    children(root).any(|(name, node)| match name.as_str() {
        "0" => false,
        "2" => children(node).any(|(_, node)| children(node).next().is_some()),
        _ => children(node).next().is_some(),
    })
}

fn child<'a>(node: &'a Value, name: &str) -> Option<&'a Value> {
    node.get("Children")?.get(name)
}

fn children(node: &Value) -> impl Iterator<Item = (&String, &Value)> {
    node.get("Children").and_then(Value::as_object).into_iter().flatten()
}

fn value(node: &Value) -> &str {
    node.get("Value").and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::ConfChange;
    use types::ClusterId;

    /// `Snapshot.data` of a `.snap` file of the fixture `killed-3.5.30`.
    const RECORDED: &[u8] = include_bytes!("../tests/fixtures/v2store-killed-3.5.30.json");

    #[test]
    fn a_recorded_store_is_read() {
        let found = read_v2_store(RECORDED).unwrap();
        let member = &found.members[0];
        assert_eq!((found.members.len(), member.id.to_string().as_str()), (1, "f1805392ad554020"));
        assert_eq!(member.peer_urls, ["http://127.0.0.1:22380"]);
        assert_eq!(member.attributes.name, "fx1");
        assert_eq!(found.version, Some(Version::new(3, 5, 0)));
        assert!(found.removed.is_empty() && !found.has_user_data);
    }

    /// Apart from indexes and the parts that nobody reads, we write what etcd wrote.
    #[test]
    fn a_store_is_written_as_upstream_does() {
        let found = read_v2_store(RECORDED).unwrap();
        let cluster = Cluster::from_parts(ClusterId(1), 1, found.members, [], found.version);
        let forget_indexes = |json: &[u8]| {
            let mut store: Value = serde_json::from_slice(json).unwrap();
            fn walk(node: &mut Value) {
                for index in ["CreatedIndex", "ModifiedIndex"] {
                    *node.get_mut(index).unwrap() = 0.into();
                }
                if let Some(children) = node.get_mut("Children").unwrap().as_object_mut() {
                    children.values_mut().for_each(walk);
                }
            }
            walk(&mut store["Root"]);
            store["Root"].to_string()
        };
        assert_eq!(forget_indexes(cluster.to_v2_store().as_bytes()), forget_indexes(RECORDED));
    }

    #[test]
    fn learners_and_removed_members_come_back() {
        let mut cluster = Cluster::new(ClusterId(1), 1);
        let learner =
            Member { is_learner: true, ..Member::new(MemberId(0xab), vec!["http://a:1?<&>".to_owned()]) };
        cluster.apply(&ConfChange::Add(learner)).unwrap();
        cluster.apply(&ConfChange::Add(Member::new(MemberId(2), vec!["http://b:1".to_owned()]))).unwrap();
        cluster.apply(&ConfChange::Remove(MemberId(2))).unwrap();
        let found = read_v2_store(cluster.to_v2_store().as_bytes()).unwrap();
        assert_eq!(found.members, cluster.members().cloned().collect::<Vec<_>>());
        assert_eq!(found.removed, [MemberId(2)]);
        assert_eq!(found.version, None);
    }

    #[test]
    fn junk_is_refused_with_its_place() {
        let store = |members: &str| {
            format!(
                r#"{{"Root":{{"Children":{{"0":{{"Children":{{"members":{{"Children":{members}}}}}}}}}}}}}"#
            )
        };
        for (json, text) in [
            ("[]".to_owned(), "no root node"),
            ("{}".to_owned(), "no root node"),
            (store(r#"{"zz":{}}"#), "/0/members/zz is not named"),
            (store(r#"{"a":{"Children":{}}}"#), "/0/members/a: no raftAttributes"),
            (store(r#"{"a":{"Children":{"x":{}}}}"#), "/0/members/a: unknown child"),
            (
                store(r#"{"a":{"Children":{"raftAttributes":{"Value":"{"}}}}"#),
                "/a/raftAttributes cannot be read",
            ),
        ] {
            let error = read_v2_store(json.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(text), "{json}: {error}");
        }
        let users = r#"{"Root":{"Children":{"1":{"Children":{"k":{"Value":"v"}}}}}}"#;
        assert!(read_v2_store(users.as_bytes()).unwrap().has_user_data);
    }
}
