//! A member and its JSON forms.
//!
//! ```text
//! bucket, /members: {"id":N,"peerURLs":[…],"isLearner":true,"name":"…","clientURLs":[…]}
//! raftAttributes:   {"peerURLs":[…],"isLearner":true}
//! attributes:       {"name":"…","clientURLs":[…]}
//! ```
//!
//! False and empty fields are left out, except `peerURLs`.
//!
//! **Source**: etcd `server/etcdserver/api/membership/member.go`.

use types::MemberId;

use crate::json::{JsonError, Object, ObjectWriter};

/// What a member says about itself once it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Name; empty until the member has published itself.
    pub name: String,
    /// Where clients reach it.
    pub client_urls: Vec<String>,
}

/// A member of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// Id, also the raft node id.
    pub id: MemberId,
    /// Where other members reach it.
    pub peer_urls: Vec<String>,
    /// Follows the log without a vote.
    pub is_learner: bool,
    /// What it published about itself.
    pub attributes: Attributes,
}

impl Attributes {
    /// The JSON form.
    pub fn to_json(&self) -> String {
        let mut writer = ObjectWriter::new();
        self.write(&mut writer);
        writer.finish()
    }

    /// Reads the JSON form.
    pub fn from_json(json: &[u8]) -> Result<Self, JsonError> {
        Self::read(&Object::parse(json)?)
    }

    fn write(&self, writer: &mut ObjectWriter) {
        if !self.name.is_empty() {
            writer.string("name", &self.name);
        }
        if !self.client_urls.is_empty() {
            writer.strings("clientURLs", &self.client_urls);
        }
    }

    fn read(object: &Object) -> Result<Self, JsonError> {
        let client_urls = object.strings("clientURLs")?.unwrap_or_default();
        Ok(Self { name: object.string("name")?, client_urls })
    }
}

impl Member {
    /// A voter that has not published itself.
    pub fn new(id: MemberId, peer_urls: Vec<String>) -> Self {
        Self { id, peer_urls, ..Self::default() }
    }

    /// Whether the member has run already, so far as its publishing tells.
    pub fn is_started(&self) -> bool {
        !self.attributes.name.is_empty()
    }

    /// The JSON form in bucket `members`, in `/members` and in conf changes.
    pub fn to_json(&self) -> String {
        let mut writer = ObjectWriter::new();
        self.write(&mut writer);
        writer.finish()
    }

    pub(crate) fn write(&self, writer: &mut ObjectWriter) {
        writer.raw("id", &self.id.0.to_string());
        self.write_raft_attributes(writer);
        self.attributes.write(writer);
    }

    /// Reads the JSON form.
    pub fn from_json(json: &[u8]) -> Result<Self, JsonError> {
        Self::read(&Object::parse(json)?)
    }

    pub(crate) fn read(object: &Object) -> Result<Self, JsonError> {
        let mut member = Self { id: MemberId(object.number("id")?), ..Self::default() };
        member.read_raft_attributes(object)?;
        member.attributes = Attributes::read(object)?;
        Ok(member)
    }

    pub(crate) fn raft_attributes_to_json(&self) -> String {
        let mut writer = ObjectWriter::new();
        self.write_raft_attributes(&mut writer);
        writer.finish()
    }

    fn write_raft_attributes(&self, writer: &mut ObjectWriter) {
        writer.strings("peerURLs", &self.peer_urls);
        if self.is_learner {
            writer.raw("isLearner", "true");
        }
    }

    pub(crate) fn read_raft_attributes(&mut self, object: &Object) -> Result<(), JsonError> {
        self.peer_urls = object.strings("peerURLs")?.unwrap_or_default();
        self.is_learner = object.bool("isLearner")?;
        Ok(())
    }

    /// The form in answers of the client API.
    pub fn to_proto(&self) -> proto::etcdserverpb::Member {
        proto::etcdserverpb::Member {
            id: self.id.0,
            name: self.attributes.name.clone(),
            peer_ur_ls: self.peer_urls.clone(),
            client_ur_ls: self.attributes.client_urls.clone(),
            is_learner: self.is_learner,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Value in bucket `members` of the fixture `clean-3.5.30`.
    const STORED: &str = r#"{"id":17402000849597972512,"peerURLs":["http://127.0.0.1:22380"],"name":"fx1","clientURLs":["http://127.0.0.1:22379"]}"#;

    #[test]
    fn the_recorded_member_is_read_and_written_back() {
        let member = Member::from_json(STORED.as_bytes()).unwrap();
        assert_eq!(member.id.to_string(), "f1805392ad554020");
        assert!(member.is_started() && !member.is_learner);
        assert_eq!(member.to_json(), STORED);
        assert_eq!(member.to_proto().client_ur_ls, ["http://127.0.0.1:22379"]);
    }

    #[test]
    fn learners_and_strange_names() {
        let mut member = Member::new(MemberId(7), vec!["http://a:1?x=1&y=<z>".to_owned()]);
        member.is_learner = true;
        let json = r#"{"id":7,"peerURLs":["http://a:1?x=1\u0026y=\u003cz\u003e"],"isLearner":true}"#;
        assert_eq!(member.to_json(), json);
        assert_eq!(Member::from_json(json.as_bytes()).unwrap(), member);
        assert_eq!(Attributes::default().to_json(), "{}");
    }
}
