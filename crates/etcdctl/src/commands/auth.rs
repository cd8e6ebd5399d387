//! auth, user, role.

use bytes::Bytes;
use client::proto::authpb::permission::Type as PermissionType;
use client::proto::authpb::{Permission, UserAddOptions};
use client::proto::etcdserverpb as pb;
use std::io::BufRead as _;

use super::kv::end_of_prefix;
use crate::failure::Failure;
use crate::print::{Answer, say};
use crate::session::{Session, ask};

/// The arguments, if there are exactly `count`.
fn exactly(session: &Session, count: usize, text: &str) -> Result<Vec<String>, Failure> {
    match session.invocation.args.len() == count {
        true => Ok((0..count).map(|at| session.invocation.arg_text(at)).collect()),
        false => Err(Failure::arguments(text)),
    }
}

pub async fn enable(session: &mut Session) -> Result<(), Failure> {
    exactly(session, 0, "auth enable command does not accept any arguments")?;
    let (settings, client) = session.open().await?;
    let client = settings.limited(&client);
    let root = || "root".to_owned();
    loop {
        match client.call(pb::AuthEnableRequest {}).await {
            Ok(_) => break,
            Err(error) if error.is_server("root user does not have root role") => {
                client.call(pb::AuthRoleAddRequest { name: root() }).await?;
                client.call(pb::AuthUserGrantRoleRequest { user: root(), role: root() }).await?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    say("Authentication Enabled");
    Ok(())
}

pub async fn disable(session: &mut Session) -> Result<(), Failure> {
    exactly(session, 0, "auth disable command does not accept any arguments")?;
    let (settings, client) = session.open().await?;
    settings.limited(&client).call(pb::AuthDisableRequest {}).await?;
    say("Authentication Disabled");
    Ok(())
}

pub async fn status(session: &mut Session) -> Result<(), Failure> {
    exactly(session, 0, "auth status command does not accept any arguments")?;
    let (settings, client) = session.open().await?;
    let response = settings.limited(&client).call(pb::AuthStatusRequest {}).await?;
    session.print(&settings, Answer::AuthStatus(&response))
}

pub async fn user_add(session: &mut Session) -> Result<(), Failure> {
    let args = exactly(session, 1, "user add command requires user name as its argument")?;
    let no_password = session.flags().bool("no-password");
    let flag_password = session.flags().text("new-user-password");
    let (name, password) = match args[0].split_once(':') {
        _ if no_password => (args[0].clone(), String::new()),
        _ if !flag_password.is_empty() => (args[0].clone(), flag_password),
        Some(("", _)) => return Err(Failure::arguments("empty user name is not allowed")),
        Some((name, password)) => (name.to_owned(), password.to_owned()),
        None => (args[0].clone(), new_password(session, &args[0])?),
    };
    let (settings, client) = session.open().await?;
    let options = Some(UserAddOptions { no_password });
    let request = pb::AuthUserAddRequest { name: name.clone(), password, options, ..Default::default() };
    let response = settings.limited_if_asked(&client).call(request).await?;
    session.print(&settings, Answer::UserAdd(&name, &response))
}

pub async fn user_passwd(session: &mut Session) -> Result<(), Failure> {
    let args = exactly(session, 1, "user passwd command requires user name as its argument")?;
    let name = args[0].clone();
    let password = new_password(session, &name)?;
    let (settings, client) = session.open().await?;
    let request = pb::AuthUserChangePasswordRequest { name, password, ..Default::default() };
    let response = settings.limited_if_asked(&client).call(request).await?;
    session.print(&settings, Answer::UserPasswd(&response))
}

fn new_password(session: &Session, name: &str) -> Result<String, Failure> {
    if !session.flags().bool("interactive") {
        let mut line = String::new();
        // Nothing to read means an empty password, as upstream has it.
        let _ = std::io::stdin().lock().read_line(&mut line);
        return Ok(line.split_whitespace().next().unwrap_or_default().to_owned());
    }
    let asked = |prompt: &str| {
        ask(prompt).map_err(|error| Failure::arguments(format!("failed to ask password: {error}")))
    };
    let first = asked(&format!("Password of {name}: "))?;
    if first.is_empty() {
        return Err(Failure::arguments("empty password"));
    }
    match asked(&format!("Type password of {name} again for confirmation: "))? == first {
        true => Ok(first),
        false => Err(Failure::arguments("given passwords are different")),
    }
}

pub async fn user_delete(session: &mut Session) -> Result<(), Failure> {
    let args = exactly(session, 1, "user delete command requires user name as its argument")?;
    let (settings, client) = session.open().await?;
    let request = pb::AuthUserDeleteRequest { name: args[0].clone() };
    let response = settings.limited_if_asked(&client).call(request).await?;
    session.print(&settings, Answer::UserDelete(&args[0], &response))
}

pub async fn user_get(session: &mut Session) -> Result<(), Failure> {
    let args = exactly(session, 1, "user get command requires user name as its argument")?;
    let (settings, client) = session.open().await?;
    let client = settings.limited_if_asked(&client);
    let response = client.call(pb::AuthUserGetRequest { name: args[0].clone() }).await?;
    if !session.flags().bool("detail") {
        return session.print(&settings, Answer::UserGet(&args[0], &response));
    }
    say(format!("User: {}", args[0]));
    for role in &response.roles {
        say("");
        let detail = client.call(pb::AuthRoleGetRequest { role: role.clone() }).await?;
        session.print(&settings, Answer::RoleGet(role, &detail))?;
    }
    Ok(())
}

pub async fn user_list(session: &mut Session) -> Result<(), Failure> {
    exactly(session, 0, "user list command requires no arguments")?;
    let (settings, client) = session.open().await?;
    let response = settings.limited_if_asked(&client).call(pb::AuthUserListRequest {}).await?;
    session.print(&settings, Answer::UserList(&response))
}

pub async fn user_grant_role(session: &mut Session) -> Result<(), Failure> {
    let args = exactly(session, 2, "user grant command requires user name and role name as its argument")?;
    let (settings, client) = session.open().await?;
    let request = pb::AuthUserGrantRoleRequest { user: args[0].clone(), role: args[1].clone() };
    let response = settings.limited_if_asked(&client).call(request).await?;
    session.print(&settings, Answer::UserGrant(&args[0], &args[1], &response))
}

pub async fn user_revoke_role(session: &mut Session) -> Result<(), Failure> {
    let args = exactly(session, 2, "user revoke-role requires user name and role name as its argument")?;
    let (settings, client) = session.open().await?;
    let request = pb::AuthUserRevokeRoleRequest { name: args[0].clone(), role: args[1].clone() };
    let response = settings.limited_if_asked(&client).call(request).await?;
    session.print(&settings, Answer::UserRevoke(&args[0], &args[1], &response))
}

pub async fn role_add(session: &mut Session) -> Result<(), Failure> {
    let args = exactly(session, 1, "role add command requires role name as its argument")?;
    let (settings, client) = session.open().await?;
    let request = pb::AuthRoleAddRequest { name: args[0].clone() };
    let response = settings.limited_if_asked(&client).call(request).await?;
    session.print(&settings, Answer::RoleAdd(&args[0], &response))
}

pub async fn role_delete(session: &mut Session) -> Result<(), Failure> {
    let args = exactly(session, 1, "role delete command requires role name as its argument")?;
    let (settings, client) = session.open().await?;
    let request = pb::AuthRoleDeleteRequest { role: args[0].clone() };
    let response = settings.limited_if_asked(&client).call(request).await?;
    session.print(&settings, Answer::RoleDelete(&args[0], &response))
}

pub async fn role_get(session: &mut Session) -> Result<(), Failure> {
    let args = exactly(session, 1, "role get command requires role name as its argument")?;
    let (settings, client) = session.open().await?;
    let request = pb::AuthRoleGetRequest { role: args[0].clone() };
    let response = settings.limited_if_asked(&client).call(request).await?;
    session.print(&settings, Answer::RoleGet(&args[0], &response))
}

pub async fn role_list(session: &mut Session) -> Result<(), Failure> {
    exactly(session, 0, "role list command requires no arguments")?;
    let (settings, client) = session.open().await?;
    let response = settings.limited_if_asked(&client).call(pb::AuthRoleListRequest {}).await?;
    session.print(&settings, Answer::RoleList(&response))
}

pub async fn role_grant_permission(session: &mut Session) -> Result<(), Failure> {
    if session.invocation.args.len() < 3 {
        return Err(Failure::arguments(
            "role grant command requires role name, permission type, and key [endkey] as its argument",
        ));
    }
    let (role, kind) = (session.invocation.arg_text(0), session.invocation.arg_text(1));
    let perm_type = match &kind.to_uppercase()[..] {
        "READ" => PermissionType::Read,
        "WRITE" => PermissionType::Write,
        "READWRITE" => PermissionType::Readwrite,
        _ => return Err(Failure::arguments(format!("invalid permission type: {kind}"))),
    };
    let (key, range_end) = permission_range(session, &session.invocation.args[2..])?;
    let (settings, client) = session.open().await?;
    let perm = Some(Permission { perm_type: perm_type.into(), key, range_end });
    let request = pb::AuthRoleGrantPermissionRequest { name: role.clone(), perm };
    let response = settings.limited_if_asked(&client).call(request).await?;
    session.print(&settings, Answer::RoleGrant(&role, &response))
}

pub async fn role_revoke_permission(session: &mut Session) -> Result<(), Failure> {
    if session.invocation.args.len() < 2 {
        return Err(Failure::arguments(
            "role revoke-permission command requires role name and key [endkey] as its argument",
        ));
    }
    let (role, shown_key) = (session.invocation.arg_text(0), session.invocation.args[1].clone());
    let (key, range_end) = permission_range(session, &session.invocation.args[1..])?;
    let (settings, client) = session.open().await?;
    let request =
        pb::AuthRoleRevokePermissionRequest { role: role.clone(), key, range_end: range_end.clone() };
    let response = settings.limited_if_asked(&client).call(request).await?;
    session.print(&settings, Answer::RoleRevoke(&role, &shown_key, &range_end, &response))
}

fn permission_range(session: &Session, args: &[Bytes]) -> Result<(Bytes, Bytes), Failure> {
    let (prefix, from_key) = (session.flags().bool("prefix"), session.flags().bool("from-key"));
    let key = args[0].clone();
    let open = Bytes::from_static(b"\0");
    let refuse = |text: &str| Err(Failure::arguments(text));
    match args.get(1) {
        _ if prefix && from_key && (key.is_empty() || args.len() == 1) => {
            refuse("--from-key and --prefix flags are mutually exclusive")
        }
        // The empty key begins every key; the server wants its first possible one instead.
        _ if key.is_empty() && (prefix || from_key) => Ok((open.clone(), open)),
        _ if key.is_empty() => Ok((open, Bytes::new())),
        Some(_) if prefix => refuse("unexpected endkey argument with --prefix flag"),
        Some(_) if from_key => refuse("unexpected endkey argument with --from-key flag"),
        Some(end) => Ok((key, end.clone())),
        None if prefix => {
            let end = end_of_prefix(&key);
            Ok((key, end))
        }
        None if from_key => Ok((key, open)),
        None => Ok((key, Bytes::new())),
    }
}
