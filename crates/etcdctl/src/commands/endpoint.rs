//! endpoint health, status, hashkv, and defrag: commands that ask each endpoint by itself.

use std::time::Instant;

use client::Code;
use client::proto::etcdserverpb as pb;
use tokio::task::JoinSet;

use crate::failure::{ERROR, Failure};
use crate::print::{Answer, Format, Health, say};
use crate::session::{Session, Settings};
use cli::text;

pub async fn health(session: &mut Session) -> Result<(), Failure> {
    let settings = session.settings()?;
    let mut asked = JoinSet::new();
    for endpoint in endpoints(session, &settings).await? {
        asked.spawn(health_of(settings.only(&endpoint).logging_as("client"), endpoint));
    }
    let mut list = Vec::new();
    while let Some(health) = asked.join_next().await {
        list.push(health.map_err(|error| Failure::new(ERROR, error))?);
    }
    let unhealthy = list.iter().filter(|health| !health.error.is_empty());
    if settings.printer.format == Format::Simple {
        unhealthy.clone().for_each(|Health { endpoint, error, .. }| {
            eprintln!("{endpoint} is unhealthy: failed to commit proposal: {error}");
        });
    }
    session.print(&settings, Answer::EndpointHealth(&list))?;
    match unhealthy.count() {
        0 => Ok(()),
        _ => Err(Failure::new(ERROR, "unhealthy cluster")),
    }
}

async fn health_of(settings: Settings, endpoint: String) -> Health {
    let client = match settings.connect().await {
        Ok(client) => settings.limited(&client),
        Err(failure) => {
            let error = failure.text.unwrap_or_default();
            return Health { endpoint, health: false, took: String::new(), error };
        }
    };
    let start = Instant::now();
    let read = client.get("health").await;
    let took = text::duration(start.elapsed());
    // A refused read went through consensus all the same.
    let refused = |error: &client::Error| error.code() == Some(Code::PermissionDenied);
    let error = match read {
        Err(error) if !refused(&error) => error.to_string(),
        _ => match client.call(alarm_list()).await {
            Err(_) => "Unable to fetch the alarm list".to_owned(),
            Ok(response) if response.alarms.is_empty() => String::new(),
            Ok(response) => active_alarms(&response),
        },
    };
    Health { endpoint, health: error.is_empty(), took, error }
}

fn alarm_list() -> pb::AlarmRequest {
    pb::AlarmRequest::default()
}

fn active_alarms(response: &pb::AlarmResponse) -> String {
    let name = |member: &pb::AlarmMember| match member.alarm() {
        pb::AlarmType::Nospace => "NOSPACE ",
        pb::AlarmType::Corrupt => "CORRUPT ",
        pb::AlarmType::None => "UNKNOWN ",
    };
    format!("Active Alarm(s): {}", response.alarms.iter().map(name).collect::<String>())
}

pub async fn status(session: &mut Session) -> Result<(), Failure> {
    let settings = session.settings()?;
    let mut list = Vec::new();
    let mut failed = false;
    for endpoint in endpoints(session, &settings).await? {
        match each(&settings, &endpoint, pb::StatusRequest::default()).await? {
            Ok(response) => list.push((endpoint, response)),
            Err(error) => {
                failed = true;
                eprintln!("Failed to get the status of endpoint {endpoint} ({error})");
            }
        }
    }
    session.print(&settings, Answer::EndpointStatus(&list))?;
    if failed { Err(Failure::silent(ERROR)) } else { Ok(()) }
}

pub async fn hashkv(session: &mut Session) -> Result<(), Failure> {
    let settings = session.settings()?;
    let revision = session.flags().int("rev");
    let mut list = Vec::new();
    let mut last_error = None;
    for endpoint in endpoints(session, &settings).await? {
        match each(&settings, &endpoint, pb::HashKvRequest { revision }).await? {
            Ok(response) => list.push((endpoint, response)),
            Err(error) => {
                eprintln!("Failed to get the hash of endpoint {endpoint} ({error})");
                last_error = Some(error);
            }
        }
    }
    session.print(&settings, Answer::EndpointHashKv(&list))?;
    last_error.map_or(Ok(()), |error| Err(error.into()))
}

pub async fn defrag(session: &mut Session) -> Result<(), Failure> {
    let settings = session.settings()?;
    let mut failed = false;
    for endpoint in endpoints(session, &settings).await? {
        let start = Instant::now();
        let result = each(&settings, &endpoint, pb::DefragmentRequest::default()).await?;
        let took = text::duration(start.elapsed());
        match result {
            Ok(_) => say(format!("Finished defragmenting etcd member[{endpoint}]. took {took}")),
            Err(error) => {
                failed = true;
                eprintln!("Failed to defragment etcd member[{endpoint}]. took {took}. ({error})");
            }
        }
    }
    if failed { Err(Failure::silent(ERROR)) } else { Ok(()) }
}

/// Makes one call to one endpoint. The outer failure ends the command, the inner one is reported.
async fn each<R: client::Rpc>(
    settings: &Settings,
    endpoint: &str,
    request: R,
) -> Result<Result<R::Response, client::Error>, Failure> {
    let settings = settings.only(endpoint);
    let client = settings.connect().await?;
    Ok(settings.limited(&client).call(request).await)
}

/// The endpoints of the flags, or with `--cluster` those of the member list.
async fn endpoints(session: &Session, settings: &Settings) -> Result<Vec<String>, Failure> {
    if !session.flags().bool("cluster") {
        return Ok(session.flags().list("endpoints"));
    }
    let client = settings.connect().await.map_err(|failure| Failure { code: ERROR, ..failure })?;
    let request = pb::MemberListRequest { linearizable: true };
    let response = settings.limited(&client).call(request).await.map_err(|error| {
        Failure::new(ERROR, format!("failed to fetch endpoints from etcd cluster member list: {error}"))
    })?;
    Ok(response.members.into_iter().flat_map(|member| member.client_ur_ls).collect())
}
