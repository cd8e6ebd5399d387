//! member, alarm, move-leader, downgrade.

use client::proto::etcdserverpb as pb;
use client::proto::etcdserverpb::alarm_request::AlarmAction;
use client::proto::etcdserverpb::downgrade_request::DowngradeAction;

use super::kv::is_serializable;
use crate::failure::{ERROR, Failure};
use crate::print::{Answer, Format, say};
use crate::session::Session;
use cli::number;
use cli::text::quote;

pub async fn add(session: &mut Session) -> Result<(), Failure> {
    let args: Vec<_> = (0..session.invocation.args.len()).map(|at| session.invocation.arg_text(at)).collect();
    let [name] = &args[..] else {
        let mut text = match args.is_empty() {
            true => "member name not provided".to_owned(),
            false => "too many arguments".to_owned(),
        };
        for arg in args.iter().filter(|arg| arg.to_lowercase().starts_with("http")) {
            text.push_str(&format!(", did you mean --peer-urls={arg}"));
        }
        return Err(Failure::arguments(text));
    };
    let (urls_text, urls) = peer_urls(session)?;
    let is_learner = session.flags().bool("learner");
    let (settings, client) = session.open().await?;
    check_urls(&urls)?;
    let request = pb::MemberAddRequest { peer_ur_ls: urls, is_learner };
    let response = settings.limited(&client).call(request).await?;
    session.print(&settings, Answer::MemberAdd(&response))?;
    if settings.printer.format == Format::Simple {
        say(format!("\n{}", start_variables(name, &urls_text, &response)));
    }
    Ok(())
}

/// What the new member needs to be started with.
fn start_variables(name: &str, urls: &str, response: &pb::MemberAddResponse) -> String {
    let new = response.member.as_ref().map(|member| member.id);
    let name_of =
        |member: &pb::Member| if Some(member.id) == new { name.to_owned() } else { member.name.clone() };
    let cluster: Vec<_> = response
        .members
        .iter()
        .flat_map(|member| member.peer_ur_ls.iter().map(|url| format!("{}={url}", name_of(member))))
        .collect();
    format!(
        "ETCD_NAME={}\nETCD_INITIAL_CLUSTER={}\nETCD_INITIAL_ADVERTISE_PEER_URLS={}\nETCD_INITIAL_CLUSTER_STATE=\"existing\"",
        quote(name),
        quote(cluster.join(",")),
        quote(urls)
    )
}

pub async fn remove(session: &mut Session) -> Result<(), Failure> {
    let id = member_id(session)?;
    let (settings, client) = session.open().await?;
    let response = settings.limited(&client).call(pb::MemberRemoveRequest { id }).await?;
    session.print(&settings, Answer::MemberRemove(id, &response))
}

pub async fn update(session: &mut Session) -> Result<(), Failure> {
    let id = member_id(session)?;
    let (_, peer_ur_ls) = peer_urls(session)?;
    let (settings, client) = session.open().await?;
    check_urls(&peer_ur_ls)?;
    let response = settings.limited(&client).call(pb::MemberUpdateRequest { id, peer_ur_ls }).await?;
    session.print(&settings, Answer::MemberUpdate(id, &response))
}

pub async fn promote(session: &mut Session) -> Result<(), Failure> {
    let id = member_id(session)?;
    let (settings, client) = session.open().await?;
    let response = settings.limited(&client).call(pb::MemberPromoteRequest { id }).await?;
    session.print(&settings, Answer::MemberPromote(id, &response))
}

pub async fn list(session: &mut Session) -> Result<(), Failure> {
    let linearizable = !is_serializable(session.flags())?;
    let (settings, client) = session.open().await?;
    let response = settings.limited(&client).call(pb::MemberListRequest { linearizable }).await?;
    session.print(&settings, Answer::MemberList(&response))
}

fn member_id(session: &Session) -> Result<u64, Failure> {
    if session.invocation.args.len() != 1 {
        return Err(Failure::arguments("member ID is not provided"));
    }
    number::uint(&session.invocation.arg_text(0), 16)
        .map_err(|text| Failure::arguments(format!("bad member ID arg ({text}), expecting ID in Hex")))
}

fn peer_urls(session: &Session) -> Result<(String, Vec<String>), Failure> {
    let text = session.flags().text("peer-urls");
    match text.is_empty() {
        true => Err(Failure::arguments("member peer urls not provided")),
        false => {
            let urls = text.split(',').map(str::to_owned).collect();
            Ok((text, urls))
        }
    }
}

fn check_urls(urls: &[String]) -> Result<(), Failure> {
    let refuse = |text: String| Err(Failure::new(ERROR, text));
    for url in urls {
        let trimmed = url.trim();
        match trimmed.split_once("://") {
            Some(("http" | "https", rest)) => {
                let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
                let port = host.rsplit_once(':').filter(|(name, _)| {
                    // The colons of an address in version 6 need brackets around them.
                    !name.contains(':') || (name.starts_with('[') && name.ends_with(']'))
                });
                if port.is_none() {
                    return refuse(format!("URL address does not have the form \"host:port\": {trimmed}"));
                }
                if !path.is_empty() {
                    return refuse(format!("URL must not contain a path: {trimmed}"));
                }
            }
            Some(("unix" | "unixs", _)) => {}
            _ => return refuse(format!("URL scheme must be http, https, unix, or unixs: {trimmed}")),
        }
    }
    Ok(())
}

pub async fn alarm_list(session: &mut Session) -> Result<(), Failure> {
    if !session.invocation.args.is_empty() {
        return Err(Failure::arguments("alarm list command accepts no arguments"));
    }
    let (settings, client) = session.open().await?;
    let response = settings.limited(&client).call(pb::AlarmRequest::default()).await?;
    session.print(&settings, Answer::Alarm(&response))
}

pub async fn alarm_disarm(session: &mut Session) -> Result<(), Failure> {
    if !session.invocation.args.is_empty() {
        return Err(Failure::arguments("alarm disarm command accepts no arguments"));
    }
    let (settings, client) = session.open().await?;
    let client = settings.limited(&client);
    let raised = client.call(pb::AlarmRequest::default()).await?;
    // The sum of several answers has no header of its own.
    let mut cleared = pb::AlarmResponse::default();
    for pb::AlarmMember { member_id, alarm } in raised.alarms {
        let action = AlarmAction::Deactivate.into();
        cleared.alarms.extend(client.call(pb::AlarmRequest { action, member_id, alarm }).await?.alarms);
    }
    session.print(&settings, Answer::Alarm(&cleared))
}

pub async fn move_leader(session: &mut Session) -> Result<(), Failure> {
    if session.invocation.args.len() != 1 {
        return Err(Failure::arguments("move-leader command needs 1 argument"));
    }
    let target_id = number::uint(&session.invocation.arg_text(0), 16).map_err(Failure::arguments)?;
    let settings = session.settings()?;
    let endpoints = settings.options.endpoints.clone();
    if endpoints.is_empty() {
        settings.connect().await?;
    }
    for endpoint in &endpoints {
        let settings = settings.only(endpoint);
        let client = settings.limited(&settings.connect().await?);
        let status = client.call(pb::StatusRequest::default()).await?;
        if status.header.unwrap_or_default().member_id == status.leader {
            let response = client.call(pb::MoveLeaderRequest { target_id }).await?;
            return session.print(&settings, Answer::MoveLeader(status.leader, target_id, &response));
        }
    }
    Err(Failure::arguments(format!("no leader endpoint given at [{}]", endpoints.join(" "))))
}

pub async fn downgrade(session: &mut Session, what: &str) -> Result<(), Failure> {
    let version = session.invocation.arg_text(0);
    let action = match what {
        "validate" => DowngradeAction::Validate,
        "enable" => DowngradeAction::Enable,
        _ => DowngradeAction::Cancel,
    };
    let text = match session.invocation.args.len() {
        _ if action == DowngradeAction::Cancel => None,
        0 => Some("TARGET_VERSION not provided"),
        1 if version.is_empty() => Some("target version not provided"),
        1 => None,
        _ => Some("too many arguments"),
    };
    if let Some(text) = text {
        return Err(Failure::arguments(text));
    }
    let version = if action == DowngradeAction::Cancel { String::new() } else { version };
    let (settings, client) = session.open().await?;
    let request = pb::DowngradeRequest { action: action.into(), version };
    let response = settings.limited(&client).call(request).await?;
    session.print(&settings, Answer::Downgrade(what, &response))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let check = |url: &str| check_urls(&[url.to_owned()]).map_err(|failure| failure.text.unwrap());
        assert_eq!(check("http://127.0.0.1:2380"), Ok(()));
        assert_eq!(check("https://[::1]:2380"), Ok(()));
        assert_eq!(check("foo"), Err("URL scheme must be http, https, unix, or unixs: foo".into()));
        assert_eq!(
            check("http://a"),
            Err("URL address does not have the form \"host:port\": http://a".into())
        );
        assert_eq!(check("http://a:1/x"), Err("URL must not contain a path: http://a:1/x".into()));
    }

    #[test]
    fn what_a_new_member_is_started_with() {
        let member = |id, name: &str, url: &str| pb::Member {
            id,
            name: name.into(),
            peer_ur_ls: vec![url.into()],
            ..Default::default()
        };
        let response = pb::MemberAddResponse {
            member: Some(member(2, "", "http://b:1")),
            members: vec![member(2, "", "http://b:1"), member(1, "a", "http://a:1")],
            ..Default::default()
        };
        assert_eq!(
            start_variables("b", "http://b:1", &response),
            "ETCD_NAME=\"b\"\nETCD_INITIAL_CLUSTER=\"b=http://b:1,a=http://a:1\"\nETCD_INITIAL_ADVERTISE_PEER_URLS=\"http://b:1\"\nETCD_INITIAL_CLUSTER_STATE=\"existing\""
        );
    }
}
