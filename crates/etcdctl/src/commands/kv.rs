//! get, put, del, compaction; and the requests they share with the lines of a transaction.

use std::io::Read as _;
use std::time::Duration;

use bytes::Bytes;
use client::proto::etcdserverpb as pb;
use client::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use client::{prefix_end, with_prefix};

use crate::failure::{BAD_FEATURE, ERROR, Failure};
use crate::print::{Answer, Format, say};
use crate::session::Session;
use cli::Flags;
use cli::number;
use cli::text::quote;

const TO_THE_END: Bytes = Bytes::from_static(b"\0");

pub async fn get(session: &mut Session) -> Result<(), Failure> {
    let request = range_request(session.flags(), &session.invocation.args)?;
    let (mut settings, client) = session.open().await?;
    let client = settings.limited(&client);
    let response = match session.flags().bool("stream") {
        true => client.range_stream(request).await?,
        false => client.call(request).await?,
    };
    if session.flags().bool("count-only") && settings.printer.format != Format::Fields {
        return Err(Failure::arguments("--count-only is only for `--write-out=fields`"));
    }
    if session.flags().bool("print-value-only") {
        if settings.printer.format != Format::Simple {
            return Err(Failure::arguments("print-value-only is only for `--write-out=simple`"));
        }
        settings.printer.value_only = true;
    }
    session.print(&settings, Answer::Get(&response))
}

pub async fn put(session: &mut Session) -> Result<(), Failure> {
    let request = put_request(session.flags(), &session.invocation.args, read_stdin)?;
    let (settings, client) = session.open().await?;
    let response = settings.limited(&client).call(request).await?;
    session.print(&settings, Answer::Put(&response))
}

pub async fn del(session: &mut Session) -> Result<(), Failure> {
    let request = delete_request(session.flags(), &session.invocation.args).await?;
    let (settings, client) = session.open().await?;
    let response = settings.limited(&client).call(request).await?;
    session.print(&settings, Answer::Del(&response))
}

pub async fn compaction(session: &mut Session) -> Result<(), Failure> {
    let [revision] = &session.invocation.args[..] else {
        return Err(Failure::arguments("compaction command needs 1 argument"));
    };
    let revision = number::int(&cli::text::lossy(revision), 10).map_err(|text| Failure::new(ERROR, text))?;
    let physical = session.flags().bool("physical");
    let (settings, client) = session.open().await?;
    settings.limited(&client).call(pb::CompactionRequest { revision, physical }).await?;
    say(format!("compacted revision {revision}"));
    Ok(())
}

fn read_stdin() -> Bytes {
    let mut value = Vec::new();
    // A read that fails counts as no value, as an empty one does.
    let _ = std::io::stdin().read_to_end(&mut value);
    value.into()
}

/// The choice of linearizable or serializable.
pub fn is_serializable(flags: &Flags) -> Result<bool, Failure> {
    match &flags.text("consistency")[..] {
        "s" => Ok(true),
        "l" => Ok(false),
        other => Err(Failure::new(BAD_FEATURE, format!("unknown consistency flag {}", quote(other)))),
    }
}

fn refuse_both(flags: &Flags, one: &str, other: &str) -> Result<(), Failure> {
    match flags.bool(one) && flags.bool(other) {
        true => Err(Failure::arguments(format!(
            "`--{one}` and `--{other}` cannot be set at the same time, choose one"
        ))),
        false => Ok(()),
    }
}

/// `(key, range_end)` from the arguments and `--prefix`, `--from-key`.
fn key_range(flags: &Flags, args: &[Bytes]) -> Result<(Bytes, Bytes), Failure> {
    let key = args[0].clone();
    let (prefix, from_key) = (flags.bool("prefix"), flags.bool("from-key"));
    match args.get(1) {
        Some(_) if prefix || from_key => Err(Failure::arguments(
            "too many arguments, only accept one argument when `--prefix` or `--from-key` is set",
        )),
        Some(end) => Ok((key, end.clone())),
        None if prefix => Ok(with_prefix(key)),
        None if from_key && key.is_empty() => Ok((TO_THE_END, TO_THE_END)),
        None if from_key => Ok((key, TO_THE_END)),
        None => Ok((key, Bytes::new())),
    }
}

pub fn range_request(flags: &Flags, args: &[Bytes]) -> Result<pb::RangeRequest, Failure> {
    if args.is_empty() {
        return Err(Failure::arguments(
            "get command needs one argument as key and an optional argument as range_end",
        ));
    }
    refuse_both(flags, "prefix", "from-key")?;
    refuse_both(flags, "keys-only", "count-only")?;
    let serializable = is_serializable(flags)?;
    let (key, range_end) = key_range(flags, args)?;
    let (sort_target, sort_order) = sorting(flags)?;
    let positive = |name: &str| flags.int(name).max(0);
    let bounds = |min: &str, max: &str, names: (&str, &str)| {
        let (least, most) = (positive(min), positive(max));
        match most > 0 && flags.int(min) > most {
            true => Err(Failure::new(BAD_FEATURE, format!("{}(={least}) > {}(={most})", names.0, names.1))),
            false => Ok((least, most)),
        }
    };
    let create = bounds("min-create-rev", "max-create-rev", ("getMinCreateRev", "getMaxCreateRev"))?;
    let modified = bounds("min-mod-rev", "max-mod-rev", ("getMinModRev", "getMaxModRev"))?;
    Ok(pb::RangeRequest {
        key,
        range_end,
        limit: flags.int("limit"),
        revision: positive("rev"),
        sort_order: sort_order.into(),
        sort_target: sort_target.into(),
        serializable,
        keys_only: flags.bool("keys-only"),
        count_only: flags.bool("count-only"),
        min_mod_revision: modified.0,
        max_mod_revision: modified.1,
        min_create_revision: create.0,
        max_create_revision: create.1,
    })
}

fn sorting(flags: &Flags) -> Result<(SortTarget, SortOrder), Failure> {
    let (order, target) = (flags.text("order"), flags.text("sort-by"));
    let sort_order = match &order.to_uppercase()[..] {
        "" => SortOrder::None,
        "ASCEND" => SortOrder::Ascend,
        "DESCEND" => SortOrder::Descend,
        _ => return Err(Failure::new(BAD_FEATURE, format!("bad sort order {order}"))),
    };
    let sort_target = match &target.to_uppercase()[..] {
        "" | "KEY" => SortTarget::Key,
        "CREATE" => SortTarget::Create,
        "MODIFY" => SortTarget::Mod,
        "VALUE" => SortTarget::Value,
        "VERSION" => SortTarget::Version,
        _ => return Err(Failure::new(BAD_FEATURE, format!("bad sort target {target}"))),
    };
    // Ascending by key is the order of the store. To ask for it would make the server read the
    // whole range before it applies a limit.
    match (sort_target, sort_order) {
        (SortTarget::Key, SortOrder::Ascend) => Ok((SortTarget::Key, SortOrder::None)),
        sorting => Ok(sorting),
    }
}

/// `read_value` is asked when no argument gives the value; what it finds must not be empty.
pub fn put_request(
    flags: &Flags,
    args: &[Bytes],
    read_value: impl FnOnce() -> Bytes,
) -> Result<pb::PutRequest, Failure> {
    let missing = || Failure::arguments("put command needs 1 argument and input from stdin or 2 arguments");
    let key = args.first().ok_or_else(missing)?.clone();
    let ignore_value = flags.bool("ignore-value");
    let value = match args.get(1) {
        Some(_) if ignore_value => {
            return Err(Failure::arguments("put command needs only 1 argument when 'ignore-value' is set"));
        }
        Some(value) => value.clone(),
        None if ignore_value => Bytes::new(),
        None => Some(read_value()).filter(|value| !value.is_empty()).ok_or_else(missing)?,
    };
    let lease = number::int(&flags.text("lease"), 16)
        .map_err(|text| Failure::arguments(format!("bad lease ID ({text}), expecting ID in Hex")))?;
    Ok(pb::PutRequest {
        key,
        value,
        lease,
        prev_kv: flags.bool("prev-kv"),
        ignore_value,
        ignore_lease: flags.bool("ignore-lease"),
    })
}

/// Deletion of a range without `--range` waits two seconds for an interruption.
pub async fn delete_request(flags: &Flags, args: &[Bytes]) -> Result<pb::DeleteRangeRequest, Failure> {
    if args.is_empty() || args.len() > 2 {
        return Err(Failure::arguments(
            "del command needs one argument as key and an optional argument as range_end",
        ));
    }
    refuse_both(flags, "prefix", "from-key")?;
    let (key, range_end) = key_range(flags, args)?;
    if args.len() > 1 && !flags.bool("range") {
        eprintln!(
            "Warning: Keys between {} and {} will be deleted. Please interrupt the command within next 2 seconds to cancel. You can provide `--range` flag to avoid the delay.",
            quote(&args[0]),
            quote(&args[1])
        );
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    Ok(pb::DeleteRangeRequest { key, range_end, prev_kv: flags.bool("prev-kv") })
}

/// `range_end` of a prefix given on the command line.
pub fn end_of_prefix(prefix: &[u8]) -> Bytes {
    prefix_end(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::ROOT;
    use cli::parse::{Outcome, parse};

    fn parsed(line: &str) -> (Flags, Vec<Bytes>) {
        let words: Vec<_> =
            line.split(' ').map(|word| Bytes::copy_from_slice(word.trim_matches('\'').as_bytes())).collect();
        match parse(&ROOT, &words) {
            Outcome::Run(invocation) => (invocation.flags, invocation.args),
            other => panic!("{line}: {other:?}"),
        }
    }

    fn range(line: &str) -> Result<pb::RangeRequest, Failure> {
        let (flags, args) = parsed(line);
        range_request(&flags, &args)
    }

    fn refused(line: &str, code: i32, text: &str) {
        assert_eq!(range(line), Err(Failure::new(code, text)), "{line}");
    }

    #[test]
    fn ranges() {
        assert_eq!(range("get a --prefix").unwrap().range_end, "b");
        let everything = range("get '' --prefix").unwrap();
        assert_eq!((&everything.key[..], &everything.range_end[..]), (&b"\0"[..], &b"\0"[..]));
        assert_eq!(range("get a --from-key").unwrap().range_end, "\0");
        assert_eq!(range("get a c ignored").unwrap().range_end, "c");
        assert_eq!(range("get '' --from-key").unwrap().key, "\0");
        // Sorting by key, ascending, is left to the store.
        assert_eq!(range("get a --order ascend").unwrap().sort_order, SortOrder::None as i32);
        let by_version = range("get a --order ascend --sort-by version").unwrap();
        assert_eq!(by_version.sort_order, SortOrder::Ascend as i32);
        assert_eq!(by_version.sort_target, SortTarget::Version as i32);
    }

    #[test]
    fn ranges_that_are_refused() {
        refused("get", 128, "get command needs one argument as key and an optional argument as range_end");
        refused("get a --order foo", 4, "bad sort order foo");
        refused("get a --sort-by foo", 4, "bad sort target foo");
        refused("get a --consistency x", 4, "unknown consistency flag \"x\"");
        refused(
            "get a --prefix --from-key",
            128,
            "`--prefix` and `--from-key` cannot be set at the same time, choose one",
        );
        refused(
            "get a b --prefix",
            128,
            "too many arguments, only accept one argument when `--prefix` or `--from-key` is set",
        );
        refused("get a --min-mod-rev 5 --max-mod-rev 3", 4, "getMinModRev(=5) > getMaxModRev(=3)");
    }

    #[test]
    fn puts() {
        let request = |line: &str, stdin: &'static str| {
            let (flags, args) = parsed(line);
            put_request(&flags, &args, || Bytes::from_static(stdin.as_bytes()))
        };
        assert_eq!(request("put k v --lease 1f", "").unwrap().lease, 0x1f);
        assert_eq!(request("put k", "from stdin\n").unwrap().value, "from stdin\n");
        let missing = "put command needs 1 argument and input from stdin or 2 arguments";
        assert_eq!(request("put k", ""), Err(Failure::new(128, missing)));
        let text = "bad lease ID (strconv.ParseInt: parsing \"zz\": invalid syntax), expecting ID in Hex";
        assert_eq!(request("put k v --lease zz", ""), Err(Failure::new(128, text)));
        let text = "put command needs only 1 argument when 'ignore-value' is set";
        assert_eq!(request("put k v --ignore-value", ""), Err(Failure::new(128, text)));
    }
}
