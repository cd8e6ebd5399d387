//! Output formats. Every answer goes through one [`Printer`], which knows what each format can
//! show; what it cannot show ends the program with code 4, after the request was carried out.

mod fields;
mod json;
mod simple;
mod table;

use std::io::Write as _;

pub use cli::print::Format;
use client::proto::authpb::permission::Type as PermissionType;
use client::proto::etcdserverpb as pb;
use prost::Message;

use crate::failure::{BAD_FEATURE, Failure};

/// The format of this name.
pub fn format(name: &str) -> Result<Format, Failure> {
    Format::parse(name).ok_or_else(|| Failure::new(BAD_FEATURE, "unsupported output format"))
}

/// One line of `endpoint health`.
#[derive(Clone, Debug)]
pub struct Health {
    /// The endpoint as given.
    pub endpoint: String,
    /// Whether it committed and has no alarm.
    pub health: bool,
    /// How long that took.
    pub took: String,
    /// Why it is not healthy.
    pub error: String,
}

/// Anything a command can show, with what the answer alone does not say.
#[derive(Clone, Copy, Debug)]
pub enum Answer<'a> {
    /// get, and the key of a lock or an election.
    Get(&'a pb::RangeResponse),
    /// put.
    Put(&'a pb::PutResponse),
    /// del.
    Del(&'a pb::DeleteRangeResponse),
    /// txn.
    Txn(&'a pb::TxnResponse),
    /// watch.
    Watch(&'a pb::WatchResponse),
    /// lease grant.
    Grant(&'a pb::LeaseGrantResponse),
    /// lease revoke, with the lease.
    Revoke(i64, &'a pb::LeaseRevokeResponse),
    /// lease keep-alive.
    KeepAlive(&'a pb::LeaseKeepAliveResponse),
    /// lease timetolive, and whether keys were asked for.
    TimeToLive(&'a pb::LeaseTimeToLiveResponse, bool),
    /// lease list.
    Leases(&'a pb::LeaseLeasesResponse),
    /// alarm list and disarm.
    Alarm(&'a pb::AlarmResponse),
    /// member add.
    MemberAdd(&'a pb::MemberAddResponse),
    /// member remove, with the member.
    MemberRemove(u64, &'a pb::MemberRemoveResponse),
    /// member update, with the member.
    MemberUpdate(u64, &'a pb::MemberUpdateResponse),
    /// member promote, with the member.
    MemberPromote(u64, &'a pb::MemberPromoteResponse),
    /// member list.
    MemberList(&'a pb::MemberListResponse),
    /// endpoint health.
    EndpointHealth(&'a [Health]),
    /// endpoint status.
    EndpointStatus(&'a [(String, pb::StatusResponse)]),
    /// endpoint hashkv.
    EndpointHashKv(&'a [(String, pb::HashKvResponse)]),
    /// move-leader, with the old and the new leader.
    MoveLeader(u64, u64, &'a pb::MoveLeaderResponse),
    /// downgrade, with what was done.
    Downgrade(&'a str, &'a pb::DowngradeResponse),
    /// role add.
    RoleAdd(&'a str, &'a pb::AuthRoleAddResponse),
    /// role get.
    RoleGet(&'a str, &'a pb::AuthRoleGetResponse),
    /// role delete.
    RoleDelete(&'a str, &'a pb::AuthRoleDeleteResponse),
    /// role list.
    RoleList(&'a pb::AuthRoleListResponse),
    /// role grant-permission.
    RoleGrant(&'a str, &'a pb::AuthRoleGrantPermissionResponse),
    /// role revoke-permission: role, key, end.
    RoleRevoke(&'a str, &'a [u8], &'a [u8], &'a pb::AuthRoleRevokePermissionResponse),
    /// user add.
    UserAdd(&'a str, &'a pb::AuthUserAddResponse),
    /// user get.
    UserGet(&'a str, &'a pb::AuthUserGetResponse),
    /// user list.
    UserList(&'a pb::AuthUserListResponse),
    /// user passwd.
    UserPasswd(&'a pb::AuthUserChangePasswordResponse),
    /// user grant-role: user, role.
    UserGrant(&'a str, &'a str, &'a pb::AuthUserGrantRoleResponse),
    /// user revoke-role: user, role.
    UserRevoke(&'a str, &'a str, &'a pb::AuthUserRevokeRoleResponse),
    /// user delete.
    UserDelete(&'a str, &'a pb::AuthUserDeleteResponse),
    /// auth status.
    AuthStatus(&'a pb::AuthStatusResponse),
}

/// Turns answers into bytes.
#[derive(Clone, Copy, Debug)]
pub struct Printer {
    /// The format.
    pub format: Format,
    /// Keys, values and ids in hexadecimal where the format has it.
    pub hex: bool,
    /// Values without keys.
    pub value_only: bool,
}

impl Printer {
    /// The bytes to print for `answer`.
    pub fn render(&self, answer: Answer<'_>) -> Result<Vec<u8>, Failure> {
        let rendered = match self.format {
            Format::Simple => Some(simple::render(self, answer)),
            Format::Fields => fields::render(self.hex, answer).map(String::into_bytes),
            Format::Json => Some((json::render(self.hex, answer) + "\n").into_bytes()),
            Format::Protobuf => protobuf(answer),
            Format::Table => table::render(answer).map(String::into_bytes),
        };
        rendered.ok_or_else(|| {
            Failure::new(BAD_FEATURE, format!("{} not supported as output format", self.format.name()))
        })
    }

    /// Prints `answer` on stdout.
    pub fn print(&self, answer: Answer<'_>) -> Result<(), Failure> {
        write_stdout(&self.render(answer)?);
        Ok(())
    }
}

/// Writes to stdout. Nobody left to read it: ends the program quietly, as a broken pipe does.
pub fn write_stdout(bytes: &[u8]) {
    let mut stdout = std::io::stdout().lock();
    if stdout.write_all(bytes).and_then(|()| stdout.flush()).is_err() {
        std::process::exit(141);
    }
}

/// Prints a line of text on stdout.
pub fn say(line: impl AsRef<str>) {
    write_stdout(format!("{}\n", line.as_ref()).as_bytes());
}

/// The encoded message. Answers about leases are only a header to upstream's printer.
fn protobuf(answer: Answer<'_>) -> Option<Vec<u8>> {
    let header = |header: &Option<pb::ResponseHeader>| header.unwrap_or_default().encode_to_vec();
    Some(match answer {
        Answer::Get(response) => response.encode_to_vec(),
        Answer::Put(response) => response.encode_to_vec(),
        Answer::Del(response) => response.encode_to_vec(),
        Answer::Txn(response) => response.encode_to_vec(),
        Answer::Watch(response) => {
            let pb::WatchResponse { header, events, compact_revision, canceled, created, .. } =
                response.clone();
            let shown = pb::WatchResponse {
                header,
                events,
                compact_revision,
                canceled,
                created,
                ..Default::default()
            };
            shown.encode_to_vec()
        }
        Answer::Grant(response) => header(&response.header),
        Answer::KeepAlive(response) => header(&response.header),
        Answer::TimeToLive(response, _) => header(&response.header),
        Answer::Leases(response) => header(&response.header),
        Answer::Revoke(_, response) => response.encode_to_vec(),
        Answer::Alarm(response) => response.encode_to_vec(),
        Answer::MemberAdd(response) => response.encode_to_vec(),
        Answer::MemberRemove(_, response) => response.encode_to_vec(),
        Answer::MemberUpdate(_, response) => response.encode_to_vec(),
        Answer::MemberPromote(_, response) => response.encode_to_vec(),
        Answer::MemberList(response) => response.encode_to_vec(),
        Answer::EndpointHealth(_) | Answer::EndpointStatus(_) | Answer::EndpointHashKv(_) => return None,
        Answer::MoveLeader(_, _, response) => response.encode_to_vec(),
        Answer::Downgrade(_, response) => response.encode_to_vec(),
        Answer::RoleAdd(_, response) => response.encode_to_vec(),
        Answer::RoleGet(_, response) => response.encode_to_vec(),
        Answer::RoleDelete(_, response) => response.encode_to_vec(),
        Answer::RoleList(response) => response.encode_to_vec(),
        Answer::RoleGrant(_, response) => response.encode_to_vec(),
        Answer::RoleRevoke(_, _, _, response) => response.encode_to_vec(),
        Answer::UserAdd(_, response) => response.encode_to_vec(),
        Answer::UserGet(_, response) => response.encode_to_vec(),
        Answer::UserList(response) => response.encode_to_vec(),
        Answer::UserPasswd(response) => response.encode_to_vec(),
        Answer::UserGrant(_, _, response) => response.encode_to_vec(),
        Answer::UserRevoke(_, _, response) => response.encode_to_vec(),
        Answer::UserDelete(_, response) => response.encode_to_vec(),
        Answer::AuthStatus(response) => response.encode_to_vec(),
    })
}

fn alarm_name(alarm: i32) -> String {
    match pb::AlarmType::try_from(alarm) {
        Ok(known) => known.as_str_name().to_owned(),
        Err(_) => alarm.to_string(),
    }
}

fn event_name(kind: i32) -> String {
    match kind {
        0 => "PUT".to_owned(),
        1 => "DELETE".to_owned(),
        other => other.to_string(),
    }
}

fn permission_name(kind: i32) -> String {
    match PermissionType::try_from(kind) {
        Ok(known) => known.as_str_name().to_owned(),
        Err(_) => kind.to_string(),
    }
}

fn member_rows(response: &pb::MemberListResponse) -> Vec<Vec<String>> {
    let row = |member: &pb::Member| {
        let started = if member.name.is_empty() { "unstarted" } else { "started" };
        vec![
            format!("{:x}", member.id),
            started.to_owned(),
            member.name.clone(),
            member.peer_ur_ls.join(","),
            member.client_ur_ls.join(","),
            member.is_learner.to_string(),
        ]
    };
    response.members.iter().map(row).collect()
}

fn status_rows(list: &[(String, pb::StatusResponse)]) -> Vec<Vec<String>> {
    let row = |(endpoint, status): &(String, pb::StatusResponse)| {
        let member = status.header.unwrap_or_default().member_id;
        let downgrade = status.downgrade_info.clone().unwrap_or_default();
        let used = match status.db_size {
            0 => 0,
            size => 100 - status.db_size_in_use.saturating_mul(100) / size,
        };
        let size = |bytes: i64| cli::text::size(bytes as u64);
        vec![
            endpoint.clone(),
            format!("{member:x}"),
            status.version.clone(),
            status.storage_version.clone(),
            size(status.db_size),
            size(status.db_size_in_use),
            format!("{used}%"),
            size(status.db_size_quota),
            (status.leader == member).to_string(),
            status.is_learner.to_string(),
            status.raft_term.to_string(),
            status.raft_index.to_string(),
            status.raft_applied_index.to_string(),
            status.errors.join(", "),
            downgrade.target_version,
            downgrade.enabled.to_string(),
        ]
    };
    list.iter().map(row).collect()
}

fn hash_rows(list: &[(String, pb::HashKvResponse)]) -> Vec<Vec<String>> {
    let row = |(endpoint, hash): &(String, pb::HashKvResponse)| {
        vec![endpoint.clone(), hash.hash.to_string(), hash.hash_revision.to_string()]
    };
    list.iter().map(row).collect()
}

#[cfg(test)]
mod tests;
