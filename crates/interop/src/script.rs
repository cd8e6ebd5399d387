//! A script of interactions and its transcript.
//!
//! The same script runs against two servers. Each interaction leaves an [`Entry`]: its name and
//! the answer as text, with ids and addresses named by the [`Normaliser`]. Entries are compared
//! one by one; see [`compare`].

use std::fmt::Debug;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use bench::wire::{Channel, Duplex, Method, Status, frame_raw};
use bytes::Bytes;
use prost::Message;
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::etcdserverpb::{
    MemberListRequest, MemberListResponse, ResponseHeader, WatchCreateRequest, WatchRequest, WatchResponse,
};
use proto::mvccpb::Event;

use crate::ctl::Ctl;
use crate::http;
use crate::known::Known;
use crate::member::Member;
use crate::normalise::Normaliser;
use crate::terminal;

/// Longest wait for an answer that is expected to come.
const PATIENCE: Duration = Duration::from_secs(20);

/// One interaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Unique within the script.
    pub name: String,
    /// The normalised answer.
    pub answer: String,
}

/// A script under way against one server.
pub struct Script {
    /// The connection all calls share.
    pub channel: Channel,
    /// `host:port` for clients.
    pub authority: String,
    /// The command-line tool.
    pub ctl: Ctl,
    /// A directory for files, the same name for no two servers.
    pub scratch: PathBuf,
    /// Texts that belong to this server.
    pub normaliser: Normaliser,
    /// The member's id.
    pub member_id: u64,
    /// Numbers entries that would have the same name otherwise.
    pub step: usize,
    entries: Vec<Entry>,
}

impl Script {
    /// Connects to a member and learns its ids.
    pub async fn connect(member: &Member, ctl: PathBuf) -> anyhow::Result<Self> {
        Self::connect_through(member, member.authority(), ctl).await
    }

    /// The same, through something that stands before the member at `authority`.
    pub async fn connect_through(member: &Member, authority: String, ctl: PathBuf) -> anyhow::Result<Self> {
        let channel = Channel::connect(&authority).await?;
        let mut normaliser = Normaliser::default();
        normaliser.replace(&authority, "<client>");
        normaliser.replace(member.authority(), "<client>");
        normaliser.replace(member.peer_authority(), "<peer>");
        normaliser.replace(member.dir().display().to_string(), "<dir>");
        let method = Method::new(&authority, "/etcdserverpb.Cluster/MemberList")?;
        let list: MemberListResponse =
            channel.call(&method, &MemberListRequest { linearizable: true }).await?;
        let header = list.header.context("a member list without header")?;
        normaliser.replace_id(header.cluster_id, "<cluster>");
        normaliser.replace_id(header.member_id, "<member>");
        Ok(Self {
            channel,
            ctl: Ctl { program: ctl, endpoint: format!("http://{authority}") },
            scratch: member.dir().to_owned(),
            authority,
            normaliser,
            member_id: header.member_id,
            step: 0,
            entries: Vec::new(),
        })
    }

    /// Everything recorded.
    pub fn into_entries(self) -> Vec<Entry> {
        self.entries
    }

    /// Records an answer as text.
    ///
    /// # Panics
    /// When the name was used before: entries are told apart by it.
    pub fn note(&mut self, name: &str, answer: &str) {
        assert!(!self.entries.iter().any(|entry| entry.name == name), "two entries are named {name}");
        let answer = self.normaliser.apply(answer);
        self.entries.push(Entry { name: name.to_owned(), answer });
    }

    /// The method of a path.
    pub fn method(&self, path: &str) -> Method {
        Method::new(&self.authority, path).expect("a path that is a constant of the script")
    }

    /// Calls and records, letting `blur` remove what may differ from the answer first.
    pub async fn call_blurred<R: Message + Default + Debug>(
        &mut self,
        name: &str,
        path: &str,
        request: &impl Message,
        blur: impl FnOnce(&mut R),
    ) -> Result<R, Status> {
        let method = self.method(path);
        let call = self.channel.call::<R>(&method, request);
        let result = match tokio::time::timeout(PATIENCE, call).await {
            Ok(result) => result,
            Err(_) => Err(Status { code: 4, message: "no answer within the patience of the test".into() }),
        };
        match result {
            Ok(answer) => {
                // Encoded and decoded to have a copy: messages are plain data, `Clone` adds nothing.
                let mut shown = R::decode(answer.encode_to_vec().as_slice()).unwrap_or_default();
                blur(&mut shown);
                self.note(name, &format!("{shown:#?}"));
                Ok(answer)
            }
            Err(status) => {
                self.note(name, &status.to_string());
                Err(status)
            }
        }
    }

    /// Calls and records the whole answer.
    pub async fn call<R: Message + Default + Debug>(
        &mut self,
        name: &str,
        path: &str,
        request: &impl Message,
    ) -> Result<R, Status> {
        self.call_blurred(name, path, request, |_| {}).await
    }

    /// Sends bytes that need not be a message and records how that ended.
    pub async fn call_bytes(&mut self, name: &str, path: &str, message: &[u8]) {
        let method = self.method(path);
        let call = self.channel.call_raw(&method, frame_raw(message));
        let text = match tokio::time::timeout(PATIENCE, call).await {
            Ok(Ok(answer)) => format!("answer of {} bytes", answer.len()),
            Ok(Err(status)) => status.to_string(),
            Err(_) => "no answer".into(),
        };
        self.note(name, &text);
    }

    /// Runs the command-line tool and records status, output and messages.
    pub async fn ctl(&mut self, name: &str, args: &[&str]) -> anyhow::Result<String> {
        self.ctl_with(name, args, &[], "").await
    }

    /// The same with variables and input.
    pub async fn ctl_with(
        &mut self,
        name: &str,
        args: &[&str],
        variables: &[(&str, &str)],
        input: &str,
    ) -> anyhow::Result<String> {
        let ran = self.ctl_quiet(args, variables, input).await?;
        let stdout = if args.contains(&"protobuf") { show_message(&ran.raw) } else { ran.stdout.clone() };
        let text = format!("exit {}\n--- stdout\n{stdout}--- stderr\n{}", ran.code, ran.messages());
        self.note(name, &text);
        Ok(ran.stdout)
    }

    /// Runs the command-line tool on a terminal on which somebody types passwords, and records status
    /// and what the terminal shows.
    pub async fn ctl_typed(&mut self, name: &str, args: &[&str], answers: &[&str]) -> anyhow::Result<()> {
        let ctl = self.ctl.clone();
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let answers: Vec<String> = answers.iter().map(|answer| (*answer).to_owned()).collect();
        let (code, shown) =
            tokio::task::spawn_blocking(move || terminal::run_typed(&ctl, &args, &answers)).await??;
        self.note(name, &format!("exit {code}\n{shown}"));
        Ok(())
    }

    /// Runs the command-line tool without recording.
    pub async fn ctl_quiet(
        &self,
        args: &[&str],
        variables: &[(&str, &str)],
        input: &str,
    ) -> anyhow::Result<crate::ctl::Ran> {
        let ctl = self.ctl.clone();
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let variables: Vec<(String, String)> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let input = input.to_owned();
        tokio::task::spawn_blocking(move || {
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            let variables: Vec<(&str, &str)> =
                variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            ctl.run_with(&args, &variables, input.as_bytes())
        })
        .await?
    }

    /// Runs a command of the tool that does not end by itself, without recording.
    pub async fn ctl_until(
        &self,
        args: &[&str],
        input: &str,
        until: crate::ctl::Until,
    ) -> anyhow::Result<crate::ctl::Ran> {
        let ctl = self.ctl.clone();
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let input = input.to_owned();
        tokio::task::spawn_blocking(move || {
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            ctl.run_until(&args, &input, until)
        })
        .await?
    }

    /// Sends an HTTP request and records status, the headers that matter, and the body.
    pub async fn http(
        &mut self,
        name: &str,
        verb: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> anyhow::Result<()> {
        let answer = self.http_quiet(verb, path, headers).await?;
        let mut text = format!("status {}\n", answer.status);
        for header in SHOWN_HEADERS {
            if let Some(value) = answer.header(header) {
                text += &format!("{header}: {value}\n");
            }
        }
        text += &String::from_utf8_lossy(&answer.body);
        self.note(name, &text);
        Ok(())
    }

    /// Sends an HTTP request without recording.
    pub async fn http_quiet(
        &self,
        verb: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> anyhow::Result<http::Answer> {
        let authority = self.authority.clone();
        let (verb, path) = (verb.to_owned(), path.to_owned());
        let headers: Vec<(String, String)> =
            headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        tokio::task::spawn_blocking(move || {
            let headers: Vec<(&str, &str)> =
                headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            http::request(&authority, &verb, &path, &headers, "")
        })
        .await?
    }

    /// Opens a watch stream.
    pub async fn watch(&self) -> Result<Watching, Status> {
        let stream = self.channel.open(&self.method("/etcdserverpb.Watch/Watch")).await?;
        Ok(Watching { stream })
    }

    /// Receives one watch response and records it without its events' batching.
    pub async fn watch_response(&mut self, name: &str, watching: &mut Watching) -> Option<WatchResponse> {
        let response = watching.next().await;
        match &response {
            Ok(Some(response)) => self.note(name, &format!("{response:#?}")),
            Ok(None) => self.note(name, "the stream ended"),
            Err(status) => self.note(name, &status.to_string()),
        }
        response.ok().flatten()
    }

    /// Receives responses until `count` events came, and records the events with their watch ids.
    /// How many responses they came in is the server's choice.
    pub async fn watch_events(&mut self, name: &str, watching: &mut Watching, count: usize) {
        let mut events: Vec<(i64, Event)> = Vec::new();
        let mut end = String::new();
        while events.len() < count {
            match watching.next().await {
                Ok(Some(response)) if response.created || response.canceled || response.events.is_empty() => {
                    end = format!("between the events: {response:#?}");
                    break;
                }
                Ok(Some(response)) => {
                    events.extend(response.events.into_iter().map(|event| (response.watch_id, event)));
                }
                Ok(None) => {
                    end = "the stream ended".into();
                    break;
                }
                Err(status) => {
                    end = status.to_string();
                    break;
                }
            }
        }
        // Between watchers of a stream the order is open; within one it is not.
        events.sort_by_key(|(id, _)| *id);
        self.note(name, &format!("{events:#?}{end}"));
    }
}

const SHOWN_HEADERS: [&str; 7] = [
    "allow",
    "content-type",
    "location",
    "access-control-allow-methods",
    "access-control-allow-origin",
    "access-control-allow-headers",
    "x-content-type-options",
];

/// A watch stream of a script.
pub struct Watching {
    stream: Duplex,
}

impl Watching {
    /// Asks for a watcher.
    pub fn create(&mut self, request: WatchCreateRequest) -> Result<(), Status> {
        self.send(RequestUnion::CreateRequest(request))
    }

    /// Asks to end a watcher.
    pub fn cancel(&mut self, watch_id: i64) -> Result<(), Status> {
        self.send(RequestUnion::CancelRequest(proto::etcdserverpb::WatchCancelRequest { watch_id }))
    }

    /// Asks for progress.
    pub fn progress(&mut self) -> Result<(), Status> {
        self.send(RequestUnion::ProgressRequest(proto::etcdserverpb::WatchProgressRequest {}))
    }

    /// Sends any request.
    pub fn send(&mut self, request: RequestUnion) -> Result<(), Status> {
        self.stream.send(&WatchRequest { request_union: Some(request) })
    }

    /// Says that no more requests follow.
    pub fn half_close(&mut self) -> Result<(), Status> {
        self.stream.half_close()
    }

    /// The next response, within the patience of the test.
    pub async fn next(&mut self) -> Result<Option<WatchResponse>, Status> {
        match tokio::time::timeout(PATIENCE, self.stream.receive()).await {
            Ok(received) => received,
            Err(_) => Err(Status { code: 4, message: "no response within the patience of the test".into() }),
        }
    }
}

/// Compares two transcripts of one script; lists every difference that is not known.
pub fn compare(expected: &[Entry], found: &[Entry], known: &Known) -> anyhow::Result<()> {
    let names = |entries: &[Entry]| entries.iter().map(|entry| entry.name.clone()).collect::<Vec<_>>();
    let mut faults = Vec::new();
    for entry in expected {
        let Some(other) = found.iter().find(|other| other.name == entry.name) else {
            faults.push(format!("## {}: only the first server came this far", entry.name));
            continue;
        };
        if entry.answer == other.answer || known.allows(&entry.name) {
            continue;
        }
        faults.push(format!("## {}\n{}", entry.name, difference(&entry.answer, &other.answer)));
    }
    ensure!(
        faults.is_empty(),
        "{} of {} answers differ:\n\n{}",
        faults.len(),
        expected.len(),
        faults.join("\n\n")
    );
    ensure!(names(expected) == names(found), "the second server was asked more than the first");
    Ok(())
}

/// The lines of two texts that differ, `-` for the first and `+` for the second.
fn difference(first: &str, second: &str) -> String {
    let (first, second): (Vec<_>, Vec<_>) = (first.lines().collect(), second.lines().collect());
    let same_start = first.iter().zip(&second).take_while(|(left, right)| left == right).count();
    let rest = first.len().min(second.len()) - same_start;
    let same_end =
        (0..rest).take_while(|back| first[first.len() - 1 - back] == second[second.len() - 1 - back]).count();
    let context = same_start.saturating_sub(2)..same_start;
    let mut out: Vec<_> = first[context].iter().map(|line| format!("  {line}")).collect();
    out.extend(first[same_start..first.len() - same_end].iter().map(|line| format!("- {line}")));
    out.extend(second[same_start..second.len() - same_end].iter().map(|line| format!("+ {line}")));
    out.join("\n")
}

/// A message as text: its header (field 1) decoded, the rest as it is.
fn show_message(bytes: &[u8]) -> String {
    let header = bytes.split_at_checked(2).filter(|(start, _)| start[0] == 0x0a && start[1] < 0x80);
    let parts = header.and_then(|(start, rest)| rest.split_at_checked(start[1] as usize));
    match parts.map(|(header, rest)| (ResponseHeader::decode(header), rest)) {
        Some((Ok(header), rest)) => format!("{header:#?}\n{}\n", rest.escape_ascii()),
        _ => format!("{}\n", bytes.escape_ascii()),
    }
}

/// Bytes from text, for requests.
pub fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, answer: &str) -> Entry {
        Entry { name: name.into(), answer: answer.into() }
    }

    #[test]
    fn differences_are_found_unless_known() {
        let known = Known::parse("D1\tb*\tserver\tfor the test\n").unwrap();
        let first = [entry("a", "1\n2\n3"), entry("b1", "x")];
        let same = [entry("a", "1\n2\n3"), entry("b1", "y")];
        compare(&first, &same, &known).unwrap();
        let other = [entry("a", "1\n5\n3"), entry("b1", "y")];
        let text = compare(&first, &other, &known).unwrap_err().to_string();
        assert!(text.contains("## a\n  1\n- 2\n+ 5"), "{text}");
        assert!(compare(&first, &other[..1], &known).is_err());
    }
}
