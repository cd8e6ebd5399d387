//! `"Name" : value` lines: one line per field, texts quoted as Go quotes them.

use client::proto::etcdserverpb as pb;
use client::proto::etcdserverpb::response_op::Response;
use client::proto::mvccpb::KeyValue;

use super::{Answer, alarm_name, event_name, permission_name};
use cli::text::quote;

/// `None`: this format cannot show the answer.
pub(super) fn render(hex: bool, answer: Answer<'_>) -> Option<String> {
    let mut out = Out { hex, text: String::new() };
    out.answer(answer).then_some(out.text)
}

struct Out {
    hex: bool,
    text: String,
}

impl Out {
    fn field(&mut self, name: &str, value: impl std::fmt::Display) {
        self.text.push_str(&format!("\"{name}\" : {value}\n"));
    }

    fn id(&mut self, name: &str, id: u64) {
        match self.hex {
            true => self.field(name, format_args!("{id:x}")),
            false => self.field(name, id),
        }
    }

    fn lease(&mut self, name: &str, lease: i64) {
        match self.hex {
            true => self.field(name, format_args!("{lease:016x}")),
            false => self.field(name, lease),
        }
    }

    fn header(&mut self, header: &Option<pb::ResponseHeader>) {
        let header = header.unwrap_or_default();
        self.id("ClusterID", header.cluster_id);
        self.id("MemberID", header.member_id);
        if header.revision > 0 {
            self.field("Revision", header.revision);
        }
        self.field("RaftTerm", header.raft_term);
    }

    fn key_value(&mut self, prefix: &str, kv: &KeyValue) {
        self.field(&format!("{prefix}Key"), quote(&kv.key));
        self.field(&format!("{prefix}CreateRevision"), kv.create_revision);
        self.field(&format!("{prefix}ModRevision"), kv.mod_revision);
        self.field(&format!("{prefix}Version"), kv.version);
        self.field(&format!("{prefix}Value"), quote(&kv.value));
        self.lease(&format!("{prefix}Lease"), kv.lease);
    }

    fn empty_line(&mut self) {
        self.text.push('\n');
    }

    /// False: not supported.
    fn answer(&mut self, answer: Answer<'_>) -> bool {
        match answer {
            Answer::Get(response) => {
                self.header(&response.header);
                response.kvs.iter().for_each(|kv| self.key_value("", kv));
                self.field("More", response.more);
                self.field("Count", response.count);
            }
            Answer::Put(response) => {
                self.header(&response.header);
                response.prev_kv.iter().for_each(|kv| self.key_value("Prev", kv));
            }
            Answer::Del(response) => {
                self.header(&response.header);
                self.field("Deleted", response.deleted);
                response.prev_kvs.iter().for_each(|kv| self.key_value("Prev", kv));
            }
            Answer::Txn(response) => self.txn(response),
            Answer::Watch(response) => {
                self.header(&response.header);
                for event in &response.events {
                    self.field("Type", event_name(event.r#type));
                    event.prev_kv.iter().for_each(|kv| self.key_value("Prev", kv));
                    self.key_value("", &event.kv.clone().unwrap_or_default());
                }
            }
            Answer::Grant(response) => {
                self.header(&response.header);
                self.lease("ID", response.id);
                self.field("TTL", response.ttl);
            }
            Answer::Revoke(_, response) => self.header(&response.header),
            Answer::KeepAlive(response) => {
                self.header(&response.header);
                self.lease("ID", response.id);
                self.field("TTL", response.ttl);
            }
            Answer::TimeToLive(response, _) => {
                self.header(&response.header);
                self.lease("ID", response.id);
                self.field("TTL", response.ttl);
                self.field("GrantedTTL", response.granted_ttl);
                response.keys.iter().for_each(|key| self.field("Key", quote(key)));
            }
            Answer::Leases(response) => {
                self.header(&response.header);
                response.leases.iter().for_each(|lease| self.lease("ID", lease.id));
            }
            Answer::Alarm(response) => {
                self.header(&response.header);
                for alarm in &response.alarms {
                    self.id("MemberID", alarm.member_id);
                    self.field("AlarmType", alarm_name(alarm.alarm));
                    self.empty_line();
                }
            }
            Answer::MemberList(response) => {
                self.header(&response.header);
                response.members.iter().for_each(|member| self.member(member));
            }
            Answer::EndpointHealth(list) => {
                for health in list {
                    self.field("Endpoint", quote(&health.endpoint));
                    self.field("Health", health.health);
                    self.field("Took", &health.took);
                    self.field("Error", &health.error);
                    self.empty_line();
                }
            }
            Answer::EndpointStatus(list) => {
                list.iter().for_each(|(endpoint, status)| self.status(endpoint, status));
            }
            Answer::EndpointHashKv(list) => {
                for (endpoint, hash) in list {
                    self.header(&hash.header);
                    self.field("Endpoint", quote(endpoint));
                    self.field("Hash", hash.hash);
                    self.field("HashRevision", hash.hash_revision);
                    self.empty_line();
                }
            }
            Answer::RoleGet(_, response) => {
                self.header(&response.header);
                for permission in &response.perm {
                    // Two blanks, as upstream has them.
                    self.field("PermType", format_args!(" {}", permission_name(permission.perm_type)));
                    self.field("Key", quote(&permission.key));
                    self.field("RangeEnd", quote(&permission.range_end));
                }
            }
            Answer::RoleList(response) => {
                self.header(&response.header);
                let roles = response.roles.iter().map(|role| format!(" {}", quote(role)));
                self.text.push_str(&format!("\"Roles\" :{}\n", roles.collect::<String>()));
            }
            Answer::RoleAdd(_, response) => self.header(&response.header),
            Answer::RoleDelete(_, response) => self.header(&response.header),
            Answer::RoleGrant(_, response) => self.header(&response.header),
            Answer::RoleRevoke(_, _, _, response) => self.header(&response.header),
            Answer::UserAdd(_, response) => self.header(&response.header),
            Answer::UserPasswd(response) => self.header(&response.header),
            Answer::UserGrant(_, _, response) => self.header(&response.header),
            Answer::UserRevoke(_, _, response) => self.header(&response.header),
            Answer::UserDelete(_, response) => self.header(&response.header),
            Answer::MemberAdd(_)
            | Answer::MemberRemove(..)
            | Answer::MemberUpdate(..)
            | Answer::MemberPromote(..)
            | Answer::MoveLeader(..)
            | Answer::Downgrade(..)
            | Answer::UserGet(..)
            | Answer::UserList(_)
            | Answer::AuthStatus(_) => return false,
        }
        true
    }

    fn txn(&mut self, response: &pb::TxnResponse) {
        self.header(&response.header);
        self.field("Succeeded", response.succeeded);
        for operation in &response.responses {
            match &operation.response {
                Some(Response::ResponseRange(range)) => drop(self.answer(Answer::Get(range))),
                Some(Response::ResponsePut(put)) => drop(self.answer(Answer::Put(put))),
                Some(Response::ResponseDeleteRange(deleted)) => drop(self.answer(Answer::Del(deleted))),
                Some(Response::ResponseTxn(txn)) => self.txn(txn),
                None => self.field("Unknown", "\"<nil>\""),
            }
        }
    }

    fn member(&mut self, member: &pb::Member) {
        self.id("ID", member.id);
        self.field("Name", quote(&member.name));
        member.peer_ur_ls.iter().for_each(|url| self.field("PeerURL", quote(url)));
        member.client_ur_ls.iter().for_each(|url| self.field("ClientURL", quote(url)));
        self.field("IsLearner", member.is_learner);
        self.empty_line();
    }

    fn status(&mut self, endpoint: &str, status: &pb::StatusResponse) {
        let downgrade = status.downgrade_info.clone().unwrap_or_default();
        self.header(&status.header);
        self.field("Version", quote(&status.version));
        self.field("StorageVersion", quote(&status.storage_version));
        self.field("DBSize", status.db_size);
        self.field("DBSizeInUse", status.db_size_in_use);
        self.field("DBSizeQuota", status.db_size_quota);
        self.field("Leader", status.leader);
        self.field("IsLearner", status.is_learner);
        self.field("RaftIndex", status.raft_index);
        self.field("RaftTerm", status.raft_term);
        self.field("RaftAppliedIndex", status.raft_applied_index);
        self.field("Errors", format_args!("[{}]", status.errors.join(" ")));
        self.field("Endpoint", quote(endpoint));
        self.field("DowngradeTargetVersion", quote(&downgrade.target_version));
        self.field("DowngradeEnabled", downgrade.enabled);
        self.empty_line();
    }
}
