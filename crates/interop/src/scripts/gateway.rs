//! The JSON gateway: every route, the forms it takes, its refusals, streams, users.
//!
//! JSON is compared as JSON, line by line: blanks between values come and go with upstream's builds.

use anyhow::Context;
use serde_json::Value;

use crate::http::{self, Answer};
use crate::script::Script;

/// Headers that are part of an answer.
const SHOWN: [&str; 10] = [
    "content-type",
    "grpc-metadata-content-type",
    "www-authenticate",
    "location",
    "transfer-encoding",
    "sec-websocket-version",
    "x-content-type-options",
    "access-control-allow-origin",
    "access-control-allow-methods",
    "access-control-allow-headers",
];

/// Values that no two servers share.
const BLURRED: [&str; 9] = [
    "raftIndex",
    "raftAppliedIndex",
    "dbSize",
    "dbSizeInUse",
    "hash",
    "token",
    "blob",
    "remaining_bytes",
    "storageVersion",
];

/// An answer as it is compared.
pub fn shown(answer: &Answer) -> String {
    let mut text = format!("status {}\n", answer.status);
    for header in SHOWN {
        if let Some(value) = answer.header(header) {
            text += &format!("{header}: {value}\n");
        }
    }
    // The runtime of some builds puts a hard blank into its errors.
    let body = String::from_utf8_lossy(&answer.body).replace("proto:\u{a0}", "proto: ");
    // Which of the two ends a stream whose time is over, deadline or the other side's reset, is a race
    // inside the real gateway.
    let body =
        body.replace("stream terminated by RST_STREAM with error code: CANCEL", "context deadline exceeded");
    let lines = body.split('\n').map(|line| match serde_json::from_str::<Value>(line) {
        Ok(mut value) => {
            blur(&mut value);
            value.to_string()
        }
        Err(_) => line.to_owned(),
    });
    text + &lines.collect::<Vec<_>>().join("\n")
}

fn blur(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if BLURRED.contains(&name.as_str()) {
                    *value = Value::String("...".into());
                }
                blur(value);
            }
        }
        Value::Array(values) => values.iter_mut().for_each(blur),
        _ => {}
    }
}

impl Script {
    /// Sends a request with a body, without recording.
    pub async fn json_quiet(
        &self,
        verb: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> anyhow::Result<Answer> {
        let authority = self.authority.clone();
        let (verb, path, body) = (verb.to_owned(), path.to_owned(), body.to_owned());
        let headers: Vec<_> =
            headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        tokio::task::spawn_blocking(move || {
            let headers: Vec<_> = headers
                .iter()
                .map(|(name, value): &(String, String)| (name.as_str(), value.as_str()))
                .collect();
            http::request(&authority, &verb, &path, &headers, &body)
        })
        .await?
    }

    /// Sends a request with a body and records the answer.
    async fn ask(
        &mut self,
        verb: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> anyhow::Result<()> {
        let answer = self.json_quiet(verb, path, headers, body).await?;
        let start: String = body.chars().take(200).collect();
        self.step += 1;
        let name = format!("gateway/{} {verb} {path} {headers:?} {start}", self.step);
        self.note(&name, &shown(&answer));
        Ok(())
    }

    async fn post(&mut self, path: &str, body: &str) -> anyhow::Result<()> {
        self.ask("POST", &format!("/v3/{path}"), &[], body).await
    }

    /// A stream that is cut off after a while.
    async fn post_briefly(&mut self, path: &str, body: &str) -> anyhow::Result<()> {
        self.ask("POST", &format!("/v3/{path}"), &[("Grpc-Timeout", "1500m")], body).await
    }
}

/// Every route once, with messages that tell something.
pub async fn routes(s: &mut Script) -> anyhow::Result<()> {
    for (path, body) in [
        ("kv/put", r#"{"key":"Zm9v","value":"YmFy"}"#),
        ("kv/put", r#"{"key":"Zm9v","value":"YmF6","prev_kv":true}"#),
        ("kv/put", r#"{"key":"Zm9vMQ==","value":""}"#),
        ("kv/range", r#"{"key":"Zm9v"}"#),
        ("kv/range", r#"{"key":"Zm9v","range_end":"Zm9w","sort_target":"MOD","sort_order":"DESCEND"}"#),
        ("kv/range", r#"{"key":"Zm9v","rangeEnd":"Zm9w","count_only":true}"#),
        ("kv/range", r#"{"key":"Zm9v","rangeEnd":"Zm9w","limit":1,"keysOnly":true}"#),
        ("kv/range", r#"{"key":"Zm9v","revision":2}"#),
        ("kv/range", r#"{"key":"Zm9v","revision":"99"}"#),
        ("kv/range", r#"{"key":"bm9uZQ=="}"#),
        (
            "kv/txn",
            r#"{"compare":[{"target":"VALUE","key":"Zm9v","value":"YmF6"}],"success":[{"requestPut":{"key":"Zm9v","value":"MQ=="}},{"request_range":{"key":"Zm9v"}},{"request_delete_range":{"key":"bm9uZQ=="}},{"request_txn":{}}],"failure":[]}"#,
        ),
        (
            "kv/txn",
            r#"{"compare":[{"target":"CREATE","result":"GREATER","key":"Zm9v","create_revision":"9"}],"failure":[{"requestRange":{"key":"Zm9v"}}]}"#,
        ),
        ("kv/txn", r#"{"compare":[{"result":"EQUAL","target":"VERSION","key":"Zm9v","version":3}]}"#),
        ("kv/txn", "{}"),
        ("kv/deleterange", r#"{"key":"Zm9v","prev_kv":true}"#),
        ("kv/deleterange", r#"{"key":"bm9uZQ=="}"#),
        ("kv/compaction", r#"{"revision":"3","physical":true}"#),
        ("kv/compaction", r#"{"revision":"3"}"#),
        ("kv/range", r#"{"key":"Zm9v","revision":2}"#),
        ("lease/grant", r#"{"TTL":"600","ID":"77"}"#),
        ("lease/grant", r#"{"TTL":600,"ID":77}"#),
        ("lease/grant", r#"{"TTL":600,"ID":78}"#),
        ("kv/put", r#"{"key":"bA==","value":"bA==","lease":"77"}"#),
        ("lease/keepalive", r#"{"ID":"77"}"#),
        ("lease/timetolive", r#"{"ID":5,"keys":true}"#),
        ("kv/lease/timetolive", r#"{"ID":5}"#),
        ("lease/leases", ""),
        ("kv/lease/leases", "{}"),
        ("lease/revoke", r#"{"ID":"77"}"#),
        ("kv/lease/revoke", r#"{"ID":78}"#),
        ("lease/revoke", r#"{"ID":"77"}"#),
        ("cluster/member/list", "{}"),
        ("cluster/member/list", r#"{"linearizable":true}"#),
        ("cluster/member/add", r#"{"peerURLs":["x"]}"#),
        ("cluster/member/remove", r#"{"ID":"5"}"#),
        ("cluster/member/update", r#"{"ID":"5","peerURLs":["http://127.0.0.1:1"]}"#),
        ("cluster/member/promote", r#"{"ID":"5"}"#),
        ("maintenance/alarm", "{}"),
        ("maintenance/alarm", r#"{"action":"ACTIVATE","alarm":"NOSPACE","memberID":"3"}"#),
        ("maintenance/alarm", r#"{"action":2,"alarm":1,"memberID":3}"#),
        ("maintenance/defragment", "{}"),
        ("maintenance/hash", "{}"),
        ("maintenance/transfer-leadership", r#"{"targetID":"5"}"#),
        ("maintenance/downgrade", r#"{"version":"x"}"#),
        ("auth/authenticate", r#"{"name":"root","password":"r"}"#),
        ("lease/grant", r#"{"TTL":600,"ID":4660}"#),
        ("lock/lock", r#"{"name":"bA==","lease":"4660"}"#),
        ("lock/unlock", r#"{"key":"bC8xMjM0"}"#),
        ("election/leader", r#"{"name":"ZQ=="}"#),
        ("election/campaign", r#"{"name":"ZQ==","lease":"4660","value":"bWU="}"#),
        ("election/leader", r#"{"name":"ZQ=="}"#),
        ("election/proclaim", r#"{"value":"bW9yZQ=="}"#),
        ("election/resign", r#"{"leader":{"name":"ZQ==","key":"ZS8xMjM0","rev":"12","lease":"4660"}}"#),
        ("kv/rangestream", r#"{"key":"Zm9v"}"#),
        ("kv", "{}"),
        ("", "{}"),
    ] {
        s.post(path, body).await?;
    }
    Ok(())
}

/// What is taken and what is refused, and how.
pub async fn forms(s: &mut Script) -> anyhow::Result<()> {
    s.post("kv/put", r#"{"key":"Zm9v","value":"YmFy"}"#).await?;
    for body in [
        r#"{"key":"Zm9v"} and more"#,
        r#"{"key":"Zm9v"}{"key":"x"}"#,
        "\n\t {\"key\":\"Zm9v\"}\n",
        "{",
        "[]",
        "null",
        "5",
        "\"x\"",
        "nope",
        r#"{"key":5}"#,
        r#"{"key":"%%%"}"#,
        r#"{"key":"Zm9"}"#,
        r#"{"key":"Zm9v="}"#,
        r#"{"key":"Zm9v\x"}"#,
        r#"{"key":"\u005am9v","range_end":"_-8"}"#,
        r#"{"key":"Zm9v","limit":"x"}"#,
        r#"{"key":"Zm9v","limit":1.5}"#,
        r#"{"key":"Zm9v","limit":1e1}"#,
        r#"{"key":"Zm9v","limit":"1e1"}"#,
        r#"{"key":"Zm9v","limit":"5 "}"#,
        r#"{"key":"Zm9v","limit":05}"#,
        r#"{"key":"Zm9v","limit":-0}"#,
        r#"{"key":"Zm9v","limit":"0x5"}"#,
        r#"{"key":"Zm9v","limit":""}"#,
        r#"{"key":"Zm9v","limit":9223372036854775808}"#,
        r#"{"key":"Zm9v","limit":true}"#,
        r#"{"key":"Zm9v","limit":null,"range_end":null}"#,
        r#"{"key":"Zm9v","bogus":{"a":[1,2,"}"]},"serializable":true}"#,
        r#"{"key":"Zm9v","sort_order":"NOPE"}"#,
        r#"{"key":"Zm9v","sort_order":"DESCEND","sort_target":3}"#,
        r#"{"key":"Zm9v","sort_order":1.5}"#,
        r#"{"key":"Zm9v","sort_order":{}}"#,
        r#"{"key":"Zm9v","sort_order":[1]}"#,
        r#"{"key":"Zm9v","sort_order":null}"#,
        r#"{"key":"Zm9v","sortOrder":1,"sort_order":1}"#,
        r#"{"key":"Zm9v","key":"Zg"}"#,
        r#"{"key":"Zm9v","serializable":"true"}"#,
        r#"{"key":"Zm9v","serializable":1}"#,
        r#"{"key":"Zm9v",}"#,
        r#"{"key":"Zm9v" "limit":1}"#,
        r#"{"key" "Zm9v"}"#,
        "{\"key\":\"Zm9v\",\n  \"limit\":\"\u{e9}\", \"revision\":\"x\"}",
        "{\"\u{e9}\":1, \"limit\":\"x\"}",
        r#"{key:1}"#,
        "",
    ] {
        s.post("kv/range", body).await?;
    }
    for body in [
        r#"{"compare":{}}"#,
        r#"{"compare":[5]}"#,
        r#"{"compare":[null]}"#,
        r#"{"compare":null}"#,
        r#"{"compare":[{"target":"VERSION","key":"Zm9v","version":"1","value":"Zg=="}]}"#,
        r#"{"compare":[{"target":"VERSION","key":"Zm9v","version":"0"}]}"#,
        r#"{"success":[{"request_put":5}]}"#,
        r#"{"success":[{"request_put":{"key":"YQ=="},"request_range":{"key":"YQ=="}}]}"#,
        r#"{"success":[{}]}"#,
    ] {
        s.post("kv/txn", body).await?;
    }
    for body in [
        r#"{"name":"a\ud800"}"#,
        r#"{"name":"a\ud800\u0041bcd"}"#,
        r#"{"name":"<&>\u00e9\u2028\ud83d\ude00\u0001\"\\","options":{"no_password":true}}"#,
        r#"{"name":7}"#,
        r#"{}"#,
    ] {
        s.post("auth/user/add", body).await?;
    }
    s.post("auth/user/list", "{}").await?;
    // Larger than a request may be, and larger than a message may be.
    for bytes in [1_800_000, 3_000_000] {
        let value = "AAAA".repeat(bytes / 3);
        s.post("kv/put", &format!(r#"{{"key":"YQ==","value":"{value}"}}"#)).await.context("a large value")?;
    }
    Ok(())
}

/// Methods, headers, paths beside the routes.
pub async fn surroundings(s: &mut Script) -> anyhow::Result<()> {
    let get = r#"{"key":"Zm9v"}"#;
    for (verb, path) in [
        ("GET", "/v3/kv/range"),
        ("PUT", "/v3/kv/range"),
        ("DELETE", "/v3/kv/range"),
        ("OPTIONS", "/v3/kv/range"),
        ("OPTIONS", "/v3/nosuch"),
        ("GET", "/v3/nosuch"),
        ("GET", "/v3/watch"),
        ("POST", "/v3/nosuch"),
        ("POST", "/v3/kv/range/"),
        ("POST", "/v3/kv/Range"),
        ("POST", "/v3/kv%2Frange"),
        ("POST", "/v3/kv/range?limit=1"),
        ("POST", "/v3beta/kv/range"),
        ("GET", "/v3beta/kv/range"),
        ("POST", "/v3alpha/kv/range"),
        ("POST", "/v2/keys"),
        ("POST", "/v3"),
        ("POST", "/v3/"),
    ] {
        let body = if verb == "POST" { get } else { "" };
        s.ask(verb, path, &[], body).await?;
    }
    for header in [
        ("Content-Type", "text/plain"),
        ("Content-Type", "application/grpc"),
        ("Accept", "text/html"),
        ("Origin", "http://example.com"),
        ("Grpc-Timeout", "1n"),
        ("Grpc-Timeout", "-3S"),
        ("Grpc-Timeout", "5S"),
        ("Grpc-Timeout", "0S"),
        ("Grpc-Timeout", "x"),
        ("Grpc-Timeout", "5"),
        ("Grpc-Metadata-Client-Api-Version", "3.5.0"),
        ("Grpc-Metadata-Hasleader", "true"),
        ("Authorization", "whatever"),
        ("X-HTTP-Method-Override", "GET"),
    ] {
        s.ask("POST", "/v3/kv/range", &[header], get).await?;
    }
    let form = ("Content-Type", "application/x-www-form-urlencoded");
    s.ask("POST", "/v3/kv/range", &[form, ("X-HTTP-Method-Override", "get")], get).await?;
    let socket = [("Connection", "Upgrade"), ("Upgrade", "websocket")];
    let key = ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
    let version = ("Sec-WebSocket-Version", "13");
    for headers in [&[][..], &[version], &[key], &[version, ("Sec-WebSocket-Key", "short")]] {
        s.ask("GET", "/v3/watch", &[&socket, headers].concat(), "").await?;
    }
    s.ask("POST", "/v3/watch", &[&socket[..], &[key, version]].concat(), "").await
}

/// Streams of answers and of requests.
pub async fn streams(s: &mut Script) -> anyhow::Result<()> {
    for value in ["MQ==", "Mg==", "PA=="] {
        s.post("kv/put", &format!(r#"{{"key":"Zm9v","value":"{value}"}}"#)).await?;
    }
    s.post("kv/deleterange", r#"{"key":"Zm9v"}"#).await?;
    for body in [
        r#"{"create_request":{"key":"Zm9v","start_revision":"2","prev_kv":true}}"#,
        r#"{"createRequest":{"key":"Zm9v","startRevision":2,"filters":["NOPUT"]}}"#,
        r#"{"create_request":{"key":"Zm9v","start_revision":2,"filters":["NODELETE"],"watch_id":7}}"#,
        r#"{"create_request":{"key":"Zm9v","watch_id":"5"}} {"cancel_request":{"watch_id":"5"}}{"progress_request":{}}"#,
        r#"{"create_request":{"key":"Zm9v"}}{x"#,
        r#"{"create_request":{"key":7}}"#,
        "",
    ] {
        s.post_briefly("watch", body).await?;
    }
    s.post("lease/grant", r#"{"TTL":600,"ID":77}"#).await?;
    for body in [r#"{"ID":77}{"ID":77} {"ID":5}"#, r#"{"ID":77}{"ID":"#, r#"{"ID":77}{"ID":"x"}"#, "{", ""] {
        s.post("lease/keepalive", body).await?;
    }
    s.post("maintenance/snapshot", "{bad").await?;
    s.post("election/observe", "[]").await?;
    s.post_briefly("election/observe", r#"{"name":"bm9uZQ=="}"#).await?;
    s.post("election/campaign", r#"{"name":"ZQ==","lease":"77","value":"bWU="}"#).await?;
    s.post_briefly("election/observe", r#"{"name":"ZQ=="}"#).await?;
    // What a snapshot says is its server's; that all of it comes is not.
    let answer = s.json_quiet("POST", "/v3/maintenance/snapshot", &[], "{}").await?;
    let lines = answer.body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let lines: Vec<Value> = lines.map(serde_json::from_slice).collect::<Result<_, _>>()?;
    let last = lines.last().context("an empty snapshot")?;
    let text = format!(
        "{} {:?} {:?}",
        answer.status,
        answer.header("content-type"),
        last["result"]["remaining_bytes"]
    );
    s.note("gateway/snapshot", &text);
    Ok(())
}

/// Users and tokens.
pub async fn users(s: &mut Script) -> anyhow::Result<()> {
    for (path, body) in [
        ("auth/user/add", r#"{"name":"root","password":"r"}"#),
        ("auth/user/add", r#"{"name":"root","password":"r"}"#),
        ("auth/user/add", r#"{"name":"u","password":"p"}"#),
        ("auth/role/add", r#"{"name":"root"}"#),
        ("auth/role/add", r#"{"name":"r"}"#),
        ("auth/role/grant", r#"{"name":"r","perm":{"permType":"READ","key":"Zm9v"}}"#),
        ("auth/role/grant", r#"{"name":"r","perm":{"permType":2,"key":"YQ==","range_end":"Yg=="}}"#),
        ("auth/role/get", r#"{"role":"r"}"#),
        ("auth/role/revoke", r#"{"role":"r","key":"YQ==","range_end":"Yg=="}"#),
        ("auth/role/list", ""),
        ("auth/user/grant", r#"{"user":"root","role":"root"}"#),
        ("auth/user/grant", r#"{"user":"u","role":"r"}"#),
        ("auth/user/get", r#"{"name":"u"}"#),
        ("auth/enable", "{}"),
        ("kv/range", r#"{"key":"Zm9v"}"#),
        ("kv/put", r#"{"key":"Zm9v"}"#),
        ("lease/keepalive", r#"{"ID":7}"#),
        ("election/observe", r#"{"name":"Zm9v"}"#),
        ("auth/authenticate", r#"{"name":"root","password":"x"}"#),
        ("auth/authenticate", r#"{"name":"root","password":"r"}"#),
    ] {
        s.post(path, body).await?;
    }
    s.post_briefly("watch", r#"{"create_request":{"key":"Zm9v"}}"#).await?;
    let root = token(s, "root", "r").await?;
    let user = token(s, "u", "p").await?;
    s.normaliser.replace(&root, "<root>");
    s.normaliser.replace(&user, "<user>");
    let get = r#"{"key":"Zm9v"}"#;
    for (name, value) in [
        ("Authorization", root.as_str()),
        ("Grpc-Metadata-Token", &root),
        ("Grpc-Metadata-Authorization", &root),
        ("Token", &root),
        ("Authorization", "nonsense"),
        ("Authorization", ""),
        ("Authorization", &user),
    ] {
        // The name of an entry must not hold what differs.
        let answer = s.json_quiet("POST", "/v3/kv/range", &[(name, value)], get).await?;
        s.step += 1;
        s.note(&format!("gateway/{} range with {name}", s.step), &shown(&answer));
    }
    for (who, token) in [("root", &root), ("user", &user)] {
        for (path, body) in [
            ("kv/put", r#"{"key":"Zm9v"}"#),
            ("auth/user/list", "{}"),
            ("auth/user/changepw", r#"{"name":"u","password":"q"}"#),
            ("kv/range", get),
            ("maintenance/alarm", r#"{"action":"ACTIVATE"}"#),
            ("auth/user/revoke", r#"{"name":"u","role":"r"}"#),
        ] {
            let answer =
                s.json_quiet("POST", &format!("/v3/{path}"), &[("Authorization", token)], body).await?;
            s.note(&format!("gateway/{path} as {who}"), &shown(&answer));
        }
    }
    let header = [("Authorization", root.as_str())];
    for (path, body) in [
        ("auth/role/delete", r#"{"role":"r"}"#),
        ("auth/user/delete", r#"{"name":"u"}"#),
        ("auth/status", "{}"),
        ("auth/disable", "{}"),
        ("kv/range", get),
    ] {
        let answer = s.json_quiet("POST", &format!("/v3/{path}"), &header, body).await?;
        s.note(&format!("gateway/{path} at last"), &shown(&answer));
    }
    Ok(())
}

async fn token(s: &Script, name: &str, password: &str) -> anyhow::Result<String> {
    let body = format!(r#"{{"name":"{name}","password":"{password}"}}"#);
    let answer = s.json_quiet("POST", "/v3/auth/authenticate", &[], &body).await?;
    let value: Value = serde_json::from_slice(&answer.body)?;
    Ok(value["token"].as_str().context("no token")?.to_owned())
}
