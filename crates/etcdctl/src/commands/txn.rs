//! txn: three blocks of lines from stdin become one transaction.

use std::io::BufRead as _;

use bytes::Bytes;
use client::Compare;
use client::proto::etcdserverpb as pb;
use client::proto::etcdserverpb::compare::CompareResult;
use client::proto::etcdserverpb::request_op::Request as Op;

use super::Run;
use super::kv;
use crate::failure::{Failure, INVALID_INPUT};
use crate::print::{Answer, say};
use crate::session::Session;
use crate::table::TXN_ROOT;
use cli::help;
use cli::number;
use cli::parse::{Outcome, parse};
use cli::text::{lossy, quote, unquote_front, words};

pub async fn txn(session: &mut Session) -> Result<(), Failure> {
    if !session.invocation.args.is_empty() {
        return Err(Failure::arguments("txn command does not accept argument"));
    }
    let (settings, client) = session.open().await?;
    let prompt = |text: &str| {
        if session.flags().bool("interactive") {
            say(text);
        }
    };
    let mut request = pb::TxnRequest::default();
    prompt("compares:");
    while let Some(line) = next_line()? {
        request.compare.push(parse_compare(&line)?);
    }
    prompt("success requests (get, put, del):");
    while let Some(line) = next_line()? {
        request.success.push(parse_request(&line).await?);
    }
    prompt("failure requests (get, put, del):");
    while let Some(line) = next_line()? {
        request.failure.push(parse_request(&line).await?);
    }
    let response = settings.limited_if_asked(&client).call(request).await?;
    session.print(&settings, Answer::Txn(&response))
}

fn invalid(text: impl ToString) -> Failure {
    Failure::new(INVALID_INPUT, text)
}

/// The next line, trimmed; `None` for an empty one, which ends a block.
fn next_line() -> Result<Option<Vec<u8>>, Failure> {
    let mut line = Vec::new();
    std::io::stdin().lock().read_until(b'\n', &mut line).map_err(invalid)?;
    // A last line without its end counts as absent too.
    if line.pop() != Some(b'\n') {
        return Err(invalid("EOF"));
    }
    let line = line.trim_ascii().to_vec();
    Ok((!line.is_empty()).then_some(line))
}

fn parse_compare(line: &[u8]) -> Result<pb::Compare, Failure> {
    let shown = lossy(line);
    let malformed = || invalid(format!("malformed comparison: {shown}"));
    let open = line.iter().position(|&byte| byte == b'(').ok_or_else(malformed)?;
    let target = lossy(&line[..open]);
    let (key, operator, value) = scan(&line[open + 1..]).map_err(|(key, operator)| {
        let got = format!("{target}({}) {operator} {}", quote(key), quote(""));
        invalid(format!("malformed comparison: {shown}; got {got}"))
    })?;
    let result = match &operator[..] {
        "=" => CompareResult::Equal,
        "!=" => CompareResult::NotEqual,
        ">" => CompareResult::Greater,
        "<" => CompareResult::Less,
        _ => return Err(invalid(format!("malformed comparison: {shown} (unknown operator {operator})"))),
    };
    let bad_number = |_| invalid(format!("invalid txn compare request: {shown}"));
    let number = || number::int(&lossy(&value), 10).map_err(bad_number);
    Ok(match &target[..] {
        "ver" | "version" => Compare::key_version(key, result, number()?),
        "c" | "create" => Compare::create_revision(key, result, number()?),
        "m" | "mod" => Compare::mod_revision(key, result, number()?),
        "val" | "value" => Compare::value(key, result, value),
        "lease" => Compare::lease(key, result, lease_id(&lossy(&value)).map_err(bad_number)?),
        _ => return Err(invalid(format!("malformed comparison: {shown} (unknown target {target})"))),
    })
}

/// Hexadecimal as etcdctl prints ids; what is too long for that is decimal, as JSON has them.
fn lease_id(text: &str) -> Result<i64, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    number::int(digits, if digits.len() <= 16 { 16 } else { 10 })
}

/// Reads `"key") operator "value"`. On failure: key and operator as far as they were read.
#[allow(clippy::type_complexity)]
fn scan(text: &[u8]) -> Result<(Vec<u8>, String, Vec<u8>), (Vec<u8>, String)> {
    let nothing = || (Vec::new(), String::new());
    let (key, rest) = unquote_front(text.trim_ascii_start()).ok_or_else(nothing)?;
    let Some(rest) = rest.strip_prefix(b")").filter(|rest| rest.first().is_some_and(u8::is_ascii_whitespace))
    else {
        return Err((key, String::new()));
    };
    let rest = rest.trim_ascii_start();
    let end = rest.iter().position(u8::is_ascii_whitespace).unwrap_or(rest.len());
    let operator = lossy(&rest[..end]);
    match unquote_front(rest[end..].trim_ascii_start()) {
        Some((value, _)) => Ok((key, operator, value)),
        None => Err((key, operator)),
    }
}

async fn parse_request(line: &[u8]) -> Result<pb::RequestOp, Failure> {
    let shown = lossy(line);
    let words = words(line).ok_or_else(|| invalid("invalid syntax"))?;
    if words.len() < 2 {
        return Err(invalid(format!("invalid txn compare request: {shown}")));
    }
    let words: Vec<Bytes> = words.into_iter().map(Bytes::from).collect();
    let invocation = match parse(&TXN_ROOT, &words) {
        Outcome::Run(invocation) => invocation,
        Outcome::Usage(_, path) | Outcome::Help(path) => {
            eprintln!("{}", help::usage(&path, crate::GLOBAL_FLAGS));
            return Err(invalid(format!("invalid txn request: {shown}")));
        }
        Outcome::UnknownCommand(_) => return Err(invalid(format!("invalid txn request: {shown}"))),
    };
    let (flags, args) = (&invocation.flags, &invocation.args[..]);
    let request = match invocation.command().run {
        // stdin holds the lines that follow, so a value cannot come from there.
        Some(Run::Put) => Op::RequestPut(kv::put_request(flags, args, Bytes::new)?),
        Some(Run::Get) => Op::RequestRange(kv::range_request(flags, args)?),
        _ => Op::RequestDeleteRange(kv::delete_request(flags, args).await?),
    };
    Ok(pb::RequestOp { request: Some(request) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use client::proto::etcdserverpb::compare::{CompareTarget, TargetUnion};

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    fn refused(line: &str, text: &str) {
        assert_eq!(parse_compare(line.as_bytes()), Err(Failure::new(3, text)));
    }

    #[test]
    fn comparisons() {
        let compare = parse_compare(br#"mod("k\x00") > "5""#).unwrap();
        assert_eq!(&compare.key[..], b"k\0");
        assert_eq!(compare.result, CompareResult::Greater as i32);
        assert_eq!(compare.target, CompareTarget::Mod as i32);
        assert_eq!(compare.target_union, Some(TargetUnion::ModRevision(5)));
        let compare = parse_compare(b"val(`k`)  !=  `a b`").unwrap();
        assert_eq!(compare.target_union, Some(TargetUnion::Value("a b".into())));
        let lease = |line: &str| parse_compare(line.as_bytes()).unwrap().target_union;
        assert_eq!(lease("lease(\"k\") = \"1f\""), Some(TargetUnion::Lease(0x1f)));
        let decimal = "lease(\"k\") = \"7034519252120257335\"";
        assert_eq!(lease(decimal), Some(TargetUnion::Lease(7034519252120257335)));
    }

    #[test]
    fn comparisons_that_are_refused() {
        refused("foo", "malformed comparison: foo");
        refused("bad(\"foo\") > \"1\"", "malformed comparison: bad(\"foo\") > \"1\" (unknown target bad)");
        refused("val(\"k\") =", "malformed comparison: val(\"k\") =; got val(\"k\") = \"\"");
        refused("mod(\"foo\") > \"x\"", "invalid txn compare request: mod(\"foo\") > \"x\"");
        refused("mod(\"foo\") == \"1\"", "malformed comparison: mod(\"foo\") == \"1\" (unknown operator ==)");
    }

    #[test]
    fn requests() {
        let request = |line: &str| block_on(parse_request(line.as_bytes()));
        let Op::RequestPut(put) = request("put a 'x y' --prev-kv").unwrap().request.unwrap() else {
            panic!()
        };
        assert_eq!((&put.value[..], put.prev_kv), (&b"x y"[..], true));
        let Op::RequestRange(get) = request("get k --prefix").unwrap().request.unwrap() else { panic!() };
        assert_eq!(get.range_end, "l");
        let refused = |line: &str, code: i32, text: &str| {
            assert_eq!(request(line), Err(Failure::new(code, text)), "{line}");
        };
        refused("put", 3, "invalid txn compare request: put");
        refused("lease grant 10", 3, "invalid txn request: lease grant 10");
        refused("get k --bogus", 3, "invalid txn request: get k --bogus");
        refused("put k", 128, "put command needs 1 argument and input from stdin or 2 arguments");
    }
}
