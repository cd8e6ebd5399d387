//! watch: from arguments, from the environment, or line by line.

use std::process::Stdio;

use bytes::Bytes;
use client::proto::etcdserverpb as pb;
use client::proto::etcdserverpb::watch_create_request::FilterType;
use client::{Watch, cancel_error, is_progress, prefix_end};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::failure::{ERROR, Failure, INTERRUPTED, INVALID_INPUT};
use crate::print::{Answer, Printer, say};
use crate::session::Session;
use crate::table::WATCH_FLAGS;
use cli::Flags;
use cli::text::{lossy, quote, words};

const BAD_COUNT: &str = "bad number of arguments";

/// Key and range end from the environment.
struct Environment {
    key: Bytes,
    range_end: Bytes,
}

impl Environment {
    fn read() -> Result<Self, Failure> {
        let variable = |name| {
            std::env::var_os(name)
                .map_or_else(Bytes::new, |text| Bytes::copy_from_slice(text.as_encoded_bytes()))
        };
        let (key, range_end) = (variable("ETCDCTL_WATCH_KEY"), variable("ETCDCTL_WATCH_RANGE_END"));
        if key.is_empty() && !range_end.is_empty() {
            return Err(Failure::arguments(format!(
                "ETCDCTL_WATCH_KEY is empty but got ETCDCTL_WATCH_RANGE_END={}",
                quote(&range_end)
            )));
        }
        Ok(Self { key, range_end })
    }
}

/// What to watch and what to run for each event.
#[derive(Debug, PartialEq)]
struct Plan {
    /// Key and perhaps range end, from wherever they came.
    keys: Vec<Bytes>,
    command: Vec<Bytes>,
}

impl Plan {
    /// `args` are the words that are not flags, the first `before_dash` of them stood before `--`.
    fn new(args: &[Bytes], before_dash: Option<usize>, environment: &Environment) -> Result<Self, Failure> {
        let (words, command) = args.split_at(before_dash.unwrap_or(args.len()));
        if before_dash.is_some() && command.is_empty() {
            return Err(Failure::arguments(format!("{BAD_COUNT} (found separator --, but no commands)")));
        }
        let keys = match environment.key.is_empty() {
            true => words.to_vec(),
            false if words.is_empty() => {
                let both = [&environment.key, &environment.range_end];
                both.into_iter().filter(|text| !text.is_empty()).cloned().collect()
            }
            false => {
                return Err(Failure::arguments(format!("{BAD_COUNT} (found conflicting environment key)")));
            }
        };
        Ok(Self { keys, command: command.to_vec() })
    }

    fn request(&self, flags: &Flags) -> Result<pb::WatchCreateRequest, Failure> {
        let key = self.keys.first().ok_or_else(|| Failure::arguments(BAD_COUNT))?.clone();
        let prefix = flags.bool("prefix");
        let (key, range_end) = match &self.keys[..] {
            [_, _] if prefix => {
                return Err(Failure::arguments("`range_end` and `--prefix` are mutually exclusive"));
            }
            [_, range_end] => (key, range_end.clone()),
            _ if prefix && key.is_empty() => (Bytes::from_static(b"\0"), Bytes::from_static(b"\0")),
            _ if prefix => {
                let end = prefix_end(&key);
                (key, end)
            }
            _ => (key, Bytes::new()),
        };
        Ok(pb::WatchCreateRequest {
            key,
            range_end,
            start_revision: flags.int("rev"),
            progress_notify: flags.bool("progress-notify"),
            filters: filters(flags)?.into_iter().map(Into::into).collect(),
            prev_kv: flags.bool("prev-kv"),
            ..Default::default()
        })
    }
}

/// True drops a kind of event. False, said outright, shows that kind only.
fn filters(flags: &Flags) -> Result<Vec<FilterType>, Failure> {
    let (put, delete) = (flags.given_bool("filter-put"), flags.given_bool("filter-delete"));
    match (put, delete) {
        (Some(true), Some(true)) => {
            Err(Failure::arguments("--filter-put and --filter-delete cannot be set at the same time"))
        }
        (None, None) | (Some(false), Some(false)) => Ok(vec![]),
        (Some(true), _) | (None, Some(false)) => Ok(vec![FilterType::Noput]),
        (_, Some(true)) | (Some(false), None) => Ok(vec![FilterType::Nodelete]),
    }
}

pub async fn watch(session: &mut Session) -> Result<(), Failure> {
    let environment = Environment::read()?;
    if session.flags().bool("interactive") {
        return interactive(session, &environment).await;
    }
    let plan = Plan::new(&session.invocation.args, session.invocation.before_dash, &environment)?;
    let (settings, client) = session.open().await?;
    let request = plan.request(session.flags())?;
    show(client.watcher(true).watch(request), settings.printer, plan.command).await?;
    Err(Failure::new(INTERRUPTED, "watch is canceled by the server"))
}

/// Prints what a watch brings until it ends. Fails only if its command or the format does.
async fn show(mut watch: Watch, printer: Printer, command: Vec<Bytes>) -> Result<(), Failure> {
    while let Some(response) = watch.next().await {
        let ended = || pb::WatchResponse {
            header: Some(pb::ResponseHeader::default()),
            canceled: true,
            ..Default::default()
        };
        let (response, error) = match response {
            Ok(response) => {
                let error = cancel_error(&response).map(|error| cancel_text(&error, response.created));
                // Of a watch that never came to be, only the reason is known.
                (if response.created && response.canceled { ended() } else { response }, error)
            }
            Err(error) => (ended(), Some(error.to_string())),
        };
        if let Some(error) = error {
            eprintln!("watch was canceled ({error})");
        }
        if is_progress(&response) {
            let revision = response.header.unwrap_or_default().revision;
            say(format!("progress notify: {revision}"));
        }
        printer.print(Answer::Watch(&response))?;
        if !command.is_empty() {
            run_for_events(&response, &command).await?;
        }
    }
    Ok(())
}

/// The reason for refusing a watch stands alone, whether it names a status or not.
fn cancel_text(error: &client::Error, refused: bool) -> String {
    match error {
        client::Error::Rpc { message, .. } if refused => message.clone(),
        other => other.to_string(),
    }
}

async fn run_for_events(response: &pb::WatchResponse, command: &[Bytes]) -> Result<(), Failure> {
    use std::os::unix::ffi::OsStrExt as _;
    let os = |bytes: &Bytes| std::ffi::OsStr::from_bytes(bytes).to_owned();
    for event in &response.events {
        let kv = event.kv.clone().unwrap_or_default();
        let kind = if event.r#type == 0 { "PUT" } else { "DELETE" };
        let status = tokio::process::Command::new(os(&command[0]))
            .args(command[1..].iter().map(os))
            .stdin(Stdio::null())
            .env("ETCD_WATCH_REVISION", response.header.unwrap_or_default().revision.to_string())
            .env("ETCD_WATCH_EVENT_TYPE", quote(kind))
            .env("ETCD_WATCH_KEY", quote(&kv.key))
            .env("ETCD_WATCH_VALUE", quote(&kv.value))
            .status()
            .await;
        let text = super::lock::exit_text(&command[0], &status);
        if let Some(text) = text {
            let words: Vec<_> = command.iter().map(quote).collect();
            eprintln!("command [{}] error ({text})", words.join(" "));
            return Err(Failure::silent(ERROR));
        }
    }
    Ok(())
}

async fn interactive(session: &mut Session, environment: &Environment) -> Result<(), Failure> {
    let (settings, client) = session.open().await?;
    let watcher = client.watcher(true);
    let mut input = BufReader::new(tokio::io::stdin());
    loop {
        let mut line = Vec::new();
        let read = input.read_until(b'\n', &mut line).await;
        if read.is_err() || line.pop() != Some(b'\n') {
            return Err(Failure::new(INVALID_INPUT, "error reading watch request line: EOF"));
        }
        let shown = lossy(&line);
        let words = words(&line).ok_or_else(|| Failure::new(INVALID_INPUT, "invalid syntax"))?;
        let words: Vec<Bytes> = words.into_iter().map(Bytes::from).collect();
        match words.first().map(|word| &word[..]) {
            None => eprintln!("Invalid command: {shown} (watch and progress supported)"),
            Some(b"progress") => watcher.request_progress(),
            Some(b"watch") if words.len() < 2 && environment.key.is_empty() => {
                eprintln!("Invalid command {shown} (command type or key is not provided)");
            }
            Some(b"watch") => {
                let (plan, flags) = parse_line(&words[1..], environment)?;
                match plan.request(&flags) {
                    Ok(request) => {
                        let (watch, printer) = (watcher.watch(request), settings.printer);
                        tokio::spawn(async move {
                            if let Err(failure) = show(watch, printer, plan.command).await {
                                crate::end(failure);
                            }
                        });
                    }
                    Err(failure) => {
                        eprintln!("Invalid command {shown} ({})", failure.text.unwrap_or_default());
                    }
                }
            }
            Some(_) => eprintln!("Invalid command {shown} (only support watch)"),
        }
    }
}

fn parse_line(words: &[Bytes], environment: &Environment) -> Result<(Plan, Flags), Failure> {
    let mut flags = Flags::new(WATCH_FLAGS);
    let (args, before_dash) = flags.parse(words).map_err(Failure::arguments)?;
    let plan = Plan::new(&args, before_dash, environment)?;
    if plan.keys.is_empty() && plan.command.is_empty() {
        return Err(Failure::arguments(BAD_COUNT));
    }
    Ok((plan, flags))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(key: &'static str, range_end: &'static str) -> Environment {
        Environment { key: key.into(), range_end: range_end.into() }
    }

    fn line(text: &str, environment: &Environment) -> Result<(Plan, Flags), String> {
        let words: Vec<Bytes> = words(text.as_bytes()).unwrap().into_iter().map(Bytes::from).collect();
        parse_line(&words, environment).map_err(|failure| {
            assert_eq!(failure.code, 128);
            failure.text.unwrap()
        })
    }

    #[test]
    fn where_the_keys_come_from() {
        let none = environment("", "");
        let (plan, _) = line("a b --rev 3 -- echo a", &none).unwrap();
        assert_eq!(
            plan,
            Plan { keys: vec!["a".into(), "b".into()], command: vec!["echo".into(), "a".into()] }
        );
        let (plan, _) = line("-- echo", &environment("k", "l")).unwrap();
        assert_eq!(plan, Plan { keys: vec!["k".into(), "l".into()], command: vec!["echo".into()] });
        assert_eq!(
            line("a", &environment("k", "")).unwrap_err(),
            "bad number of arguments (found conflicting environment key)"
        );
        assert_eq!(
            line("a --", &none).unwrap_err(),
            "bad number of arguments (found separator --, but no commands)"
        );
        assert_eq!(line("--prefix", &none).unwrap_err(), "bad number of arguments");
        assert_eq!(line("--x", &none).unwrap_err(), "unknown flag: --x");
    }

    #[test]
    fn requests() {
        let none = environment("", "");
        let request = |text: &str| {
            let (plan, flags) = line(text, &none).unwrap();
            plan.request(&flags)
        };
        let watch = request("a --prefix --rev 5 --prev-kv").unwrap();
        assert_eq!((&watch.range_end[..], watch.start_revision, watch.prev_kv), (&b"b"[..], 5, true));
        assert_eq!(request("a b c").unwrap().range_end, "");
        assert_eq!(
            request("--prefix x y").unwrap_err().text.unwrap(),
            "`range_end` and `--prefix` are mutually exclusive"
        );
    }

    /// Guides for operators teach `--filter-put=false` as "only PUT events". Every row of the
    /// table that makes that true, and `false` as a word of its own is a key.
    #[test]
    fn filter_flags_know_whether_they_were_given() {
        let none = environment("", "");
        let filters = |text: &str| {
            let (plan, flags) = line(&format!("{text} k"), &none).unwrap();
            plan.request(&flags).map(|request| request.filters).map_err(|failure| failure.text.unwrap())
        };
        let (drop_puts, drop_deletes) =
            (Ok(vec![FilterType::Noput as i32]), Ok(vec![FilterType::Nodelete as i32]));
        assert_eq!(filters(""), Ok(vec![]));
        assert_eq!(filters("--filter-put"), drop_puts);
        assert_eq!(filters("--filter-delete"), drop_deletes);
        assert_eq!(filters("--filter-put=false"), drop_deletes);
        assert_eq!(filters("--filter-delete=false"), drop_puts);
        assert_eq!(filters("--filter-put --filter-delete=f"), drop_puts);
        assert_eq!(filters("--filter-put=0 --filter-delete"), drop_deletes);
        assert_eq!(filters("--filter-put=false --filter-delete=false"), Ok(vec![]));
        assert_eq!(
            filters("--filter-put --filter-delete"),
            Err("--filter-put and --filter-delete cannot be set at the same time".into())
        );
        let (plan, _) = line("--filter-put false", &none).unwrap();
        assert_eq!(plan.keys, ["false"]);
    }
}
