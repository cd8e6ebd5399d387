//! lease grant, revoke, timetolive, list, keep-alive.

use client::proto::etcdserverpb as pb;

use crate::failure::{BAD_CONNECTION, ERROR, Failure};
use crate::print::{Answer, Format, say};
use crate::session::Session;
use cli::number;

pub async fn grant(session: &mut Session) -> Result<(), Failure> {
    if session.invocation.args.len() != 1 {
        return Err(Failure::arguments("lease grant command needs TTL argument"));
    }
    let ttl = number::int(&session.invocation.arg_text(0), 10)
        .map_err(|text| Failure::arguments(format!("bad TTL ({text})")))?;
    let (settings, client) = session.open().await?;
    let response = settings
        .limited(&client)
        .grant(ttl)
        .await
        .map_err(|error| Failure::new(ERROR, format!("failed to grant lease ({error})")))?;
    session.print(&settings, Answer::Grant(&response))
}

pub async fn revoke(session: &mut Session) -> Result<(), Failure> {
    let id = lease_argument(session, "lease revoke command needs 1 argument")?;
    let (settings, client) = session.open().await?;
    let response = settings
        .limited(&client)
        .revoke(id)
        .await
        .map_err(|error| Failure::new(ERROR, format!("failed to revoke lease ({error})")))?;
    session.print(&settings, Answer::Revoke(id, &response))
}

pub async fn time_to_live(session: &mut Session) -> Result<(), Failure> {
    check_count(session, "lease timetolive command needs lease ID as argument")?;
    let keys = session.flags().bool("keys");
    let (settings, client) = session.open().await?;
    let id = lease_id(session)?;
    let request = pb::LeaseTimeToLiveRequest { id, keys };
    let response = settings.limited_if_asked(&client).call(request).await.map_err(bad_connection)?;
    session.print(&settings, Answer::TimeToLive(&response, keys))
}

pub async fn list(session: &mut Session) -> Result<(), Failure> {
    let (settings, client) = session.open().await?;
    let request = pb::LeaseLeasesRequest::default();
    let response = settings.limited_if_asked(&client).call(request).await.map_err(bad_connection)?;
    session.print(&settings, Answer::Leases(&response))
}

pub async fn keep_alive(session: &mut Session) -> Result<(), Failure> {
    let id = lease_argument(session, "lease keep-alive command needs lease ID as argument")?;
    let (settings, client) = session.open().await?;
    if session.flags().bool("once") {
        let response =
            settings.limited_if_asked(&client).keep_alive_once(id).await.map_err(bad_connection)?;
        return session.print(&settings, Answer::KeepAlive(&response));
    }
    let mut renewals = client.keep_alive(id);
    while let Some(response) = renewals.next().await {
        session.print(&settings, Answer::KeepAlive(&response))?;
    }
    if settings.printer.format == Format::Simple {
        say(format!("lease {id:016x} expired or revoked."));
    }
    Ok(())
}

fn bad_connection(error: client::Error) -> Failure {
    Failure::new(BAD_CONNECTION, error)
}

fn check_count(session: &Session, text: &str) -> Result<(), Failure> {
    match session.invocation.args.len() {
        1 => Ok(()),
        _ => Err(Failure::arguments(text)),
    }
}

fn lease_argument(session: &Session, missing: &str) -> Result<i64, Failure> {
    check_count(session, missing)?;
    lease_id(session)
}

fn lease_id(session: &Session) -> Result<i64, Failure> {
    number::int(&session.invocation.arg_text(0), 16)
        .map_err(|text| Failure::arguments(format!("bad lease ID arg ({text}), expecting ID in Hex")))
}
