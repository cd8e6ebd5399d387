//! The format for people. Keys and values are printed as they are, whatever bytes they hold.

use client::prefix_end;
use client::proto::authpb::Permission;
use client::proto::authpb::permission::Type as PermissionType;
use client::proto::etcdserverpb as pb;
use client::proto::etcdserverpb::response_op::Response;
use client::proto::mvccpb::KeyValue;

use super::{Answer, Health, Printer, alarm_name, event_name, hash_rows, member_rows, status_rows};
use cli::text::{hex_escaped, lossy};

pub(super) fn render(printer: &Printer, answer: Answer<'_>) -> Vec<u8> {
    let mut out = Out { printer, bytes: Vec::new() };
    out.answer(answer);
    out.bytes
}

struct Out<'a> {
    printer: &'a Printer,
    bytes: Vec<u8>,
}

impl Out<'_> {
    fn line(&mut self, text: impl AsRef<[u8]>) {
        self.bytes.extend_from_slice(text.as_ref());
        self.bytes.push(b'\n');
    }

    fn rows(&mut self, rows: Vec<Vec<String>>) {
        rows.iter().for_each(|row| self.line(row.join(", ")));
    }

    fn key_value(&mut self, kv: &KeyValue) {
        let shown = |bytes: &[u8]| match self.printer.hex {
            true => hex_escaped(bytes).into_bytes(),
            false => bytes.to_vec(),
        };
        let (key, value) = (shown(&kv.key), shown(&kv.value));
        if !self.printer.value_only {
            self.line(key);
        }
        self.line(value);
    }

    fn answer(&mut self, answer: Answer<'_>) {
        match answer {
            Answer::Get(response) => response.kvs.iter().for_each(|kv| self.key_value(kv)),
            Answer::Put(response) => {
                self.line("OK");
                response.prev_kv.iter().for_each(|kv| self.key_value(kv));
            }
            Answer::Del(response) => {
                self.line(response.deleted.to_string());
                response.prev_kvs.iter().for_each(|kv| self.key_value(kv));
            }
            Answer::Txn(response) => self.txn(response),
            Answer::Watch(response) => {
                for event in &response.events {
                    self.line(event_name(event.r#type));
                    event.prev_kv.iter().chain(&event.kv).for_each(|kv| self.key_value(kv));
                }
            }
            Answer::Grant(response) => {
                self.line(format!("lease {:016x} granted with TTL({}s)", response.id, response.ttl));
            }
            Answer::Revoke(id, _) => self.line(format!("lease {id:016x} revoked")),
            Answer::KeepAlive(response) => {
                self.line(format!("lease {:016x} keepalived with TTL({})", response.id, response.ttl));
            }
            Answer::TimeToLive(response, keys) => self.time_to_live(response, keys),
            Answer::Leases(response) => {
                self.line(format!("found {} leases", response.leases.len()));
                response.leases.iter().for_each(|lease| self.line(format!("{:016x}", lease.id)));
            }
            Answer::Alarm(response) => {
                for alarm in &response.alarms {
                    let member = (alarm.member_id != 0).then(|| format!("memberID:{}", alarm.member_id));
                    let name = (alarm.alarm != 0).then(|| format!("alarm:{}", alarm_name(alarm.alarm)));
                    self.line(member.into_iter().chain(name).collect::<Vec<_>>().join(" "));
                }
            }
            Answer::MemberAdd(response) => {
                let member = response.member.clone().unwrap_or_default();
                let learner = if member.is_learner { " as learner " } else { " " };
                let cluster = cluster(&response.header);
                self.line(format!("Member {:16x} added{learner}to cluster {cluster}", member.id));
            }
            Answer::MemberRemove(id, response) => {
                self.line(format!("Member {id:16x} removed from cluster {}", cluster(&response.header)));
            }
            Answer::MemberUpdate(id, response) => {
                self.line(format!("Member {id:16x} updated in cluster {}", cluster(&response.header)));
            }
            Answer::MemberPromote(id, response) => {
                self.line(format!("Member {id:16x} promoted in cluster {}", cluster(&response.header)));
            }
            Answer::MemberList(response) => self.rows(member_rows(response)),
            Answer::EndpointHealth(list) => list.iter().for_each(|health| self.health(health)),
            Answer::EndpointStatus(list) => self.rows(status_rows(list)),
            Answer::EndpointHashKv(list) => self.rows(hash_rows(list)),
            Answer::MoveLeader(from, to, _) => {
                self.line(format!("Leadership transferred from {from:x} to {to:x}"));
            }
            Answer::Downgrade(what, response) => {
                self.line(format!("Downgrade {what} success, cluster version {}", response.version));
            }
            Answer::RoleAdd(role, _) => self.line(format!("Role {role} created")),
            Answer::RoleGet(role, response) => self.role(role, &response.perm),
            Answer::RoleDelete(role, _) => self.line(format!("Role {role} deleted")),
            Answer::RoleList(response) => response.roles.iter().for_each(|role| self.line(role)),
            Answer::RoleGrant(role, _) => self.line(format!("Role {role} updated")),
            Answer::RoleRevoke(role, key, end, _) => {
                let key = lossy(key);
                let what = match end {
                    b"" => format!("key {key}"),
                    b"\0" => format!("range [{key}, <open ended>"),
                    end => format!("range [{key}, {})", lossy(end)),
                };
                self.line(format!("Permission of {what} is revoked from role {role}"));
            }
            Answer::UserAdd(user, _) => self.line(format!("User {user} created")),
            Answer::UserGet(user, response) => {
                self.line(format!("User: {user}"));
                let roles = response.roles.iter().map(|role| format!(" {role}"));
                self.line(format!("Roles:{}", roles.collect::<String>()));
            }
            Answer::UserList(response) => response.users.iter().for_each(|user| self.line(user)),
            Answer::UserPasswd(_) => self.line("Password updated"),
            Answer::UserGrant(user, role, _) => self.line(format!("Role {role} is granted to user {user}")),
            Answer::UserRevoke(user, role, _) => {
                self.line(format!("Role {role} is revoked from user {user}"));
            }
            Answer::UserDelete(user, _) => self.line(format!("User {user} deleted")),
            Answer::AuthStatus(response) => {
                self.line(format!("Authentication Status: {}", response.enabled));
                self.line(format!("AuthRevision: {}", response.auth_revision));
            }
        }
    }

    fn txn(&mut self, response: &pb::TxnResponse) {
        self.line(if response.succeeded { "SUCCESS" } else { "FAILURE" });
        for operation in &response.responses {
            self.line("");
            match &operation.response {
                Some(Response::ResponseRange(range)) => self.answer(Answer::Get(range)),
                Some(Response::ResponsePut(put)) => self.answer(Answer::Put(put)),
                Some(Response::ResponseDeleteRange(deleted)) => self.answer(Answer::Del(deleted)),
                // Lines of etcdctl cannot ask for a nested transaction.
                Some(Response::ResponseTxn(txn)) => self.txn(txn),
                None => self.line("unexpected response"),
            }
        }
    }

    fn time_to_live(&mut self, response: &pb::LeaseTimeToLiveResponse, keys: bool) {
        let pb::LeaseTimeToLiveResponse { id, ttl, granted_ttl, .. } = response;
        if *granted_ttl == 0 && *ttl == -1 {
            return self.line(format!("lease {id:016x} already expired"));
        }
        let mut text =
            format!("lease {id:016x} granted with TTL({granted_ttl}s), remaining({ttl}s)").into_bytes();
        if keys {
            text.extend_from_slice(b", attached keys([");
            text.extend_from_slice(&response.keys.join(&b' '));
            text.extend_from_slice(b"])");
        }
        self.line(text);
    }

    /// Only the healthy ones: the others are reported on stderr.
    fn health(&mut self, health: &Health) {
        if health.error.is_empty() {
            let Health { endpoint, took, .. } = health;
            self.line(format!("{endpoint} is healthy: successfully committed proposal: took = {took}"));
        }
    }

    fn role(&mut self, role: &str, permissions: &[Permission]) {
        self.line(format!("Role {role}"));
        for (heading, kind) in [("KV Read:", PermissionType::Read), ("KV Write:", PermissionType::Write)] {
            self.line(heading);
            if role == "root" && permissions.is_empty() {
                self.line("\t[, <open ended>");
            }
            for permission in permissions {
                if [kind, PermissionType::Readwrite].contains(&permission.perm_type()) {
                    self.line(permission_line(permission));
                }
            }
        }
    }
}

fn permission_line(permission: &Permission) -> String {
    let (key, end) = (lossy(&permission.key), lossy(&permission.range_end));
    let mut text = match &permission.range_end[..] {
        b"" => return format!("\t{key}"),
        b"\0" => format!("\t[{key}, <open ended>"),
        _ => format!("\t[{key}, {end})"),
    };
    if !key.is_empty() && prefix_end(&permission.key) == permission.range_end {
        text.push_str(&format!(" (prefix {key})"));
    }
    text
}

fn cluster(header: &Option<pb::ResponseHeader>) -> String {
    format!("{:16x}", header.unwrap_or_default().cluster_id)
}
