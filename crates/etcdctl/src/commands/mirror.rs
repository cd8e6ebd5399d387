//! make-mirror: copies a prefix to another cluster, then follows its changes for ever.

use std::cell::Cell;
use std::time::Duration;

use bytes::Bytes;
use client::proto::etcdserverpb as pb;
use client::proto::etcdserverpb::request_op::Request as Op;
use client::proto::mvccpb::event::EventType;
use client::{Client, Options, cancel_error, delete, put, with_prefix};

use crate::failure::{BAD_CONNECTION, ERROR, Failure};
use crate::print::say;
use crate::session::{Session, connector, password_credentials};

const BATCH: i64 = 1000;
const REPORT: Duration = Duration::from_secs(30);

struct Mirror {
    source: Client,
    destination: Client,
    prefix: Bytes,
    destination_prefix: Bytes,
    max_operations: usize,
    copied: Cell<u64>,
}

pub async fn make_mirror(session: &mut Session) -> Result<(), Failure> {
    if session.invocation.args.len() != 1 {
        return Err(Failure::arguments("make-mirror takes one destination argument"));
    }
    let endpoint = session.invocation.arg_text(0);
    let flags = session.flags();
    let tls = connector(flags, ["dest-cert", "dest-key", "dest-cacert"], "dest-insecure-transport")?;
    let credentials = password_credentials(
        &flags.text("dest-user"),
        &flags.text("dest-password"),
        "Destination Password: ",
    )?;
    let settings = session.settings()?;
    let options = Options {
        endpoints: vec![endpoint],
        tls,
        server_name: String::new(),
        credentials,
        ..settings.options.clone()
    };
    let destination = Client::connect(options).await.map_err(|error| Failure::new(BAD_CONNECTION, error))?;
    let source = settings.connect().await?;
    let flags = session.flags();
    let (prefix, replacement) = (flags.bytes("prefix"), flags.bytes("dest-prefix"));
    let cut = flags.bool("no-dest-prefix");
    if cut && !replacement.is_empty() {
        return Err(Failure::arguments(
            "`--dest-prefix` and `--no-dest-prefix` cannot be set at the same time, choose one",
        ));
    }
    let keep = !cut && replacement.is_empty();
    let mirror = Mirror {
        source,
        destination,
        destination_prefix: if keep { prefix.clone() } else { replacement },
        prefix,
        max_operations: usize::try_from(flags.uint("max-txn-ops")).unwrap_or(usize::MAX),
        copied: Cell::new(0),
    };
    let revision = flags.int("rev");
    let report = async {
        loop {
            tokio::time::sleep(REPORT).await;
            say(mirror.copied.get().to_string());
        }
    };
    tokio::select! {
        result = mirror.run(revision) => result,
        () = report => Ok(()),
    }
}

impl Mirror {
    async fn run(&self, revision: i64) -> Result<(), Failure> {
        let from = if revision > 1 { revision } else { self.copy_all().await? + 1 };
        self.follow(from).await
    }

    fn range(&self) -> (Bytes, Bytes) {
        with_prefix(self.prefix.clone())
    }

    /// Where a key goes to.
    fn renamed(&self, key: &Bytes) -> Bytes {
        match key.strip_prefix(&self.prefix[..]) {
            Some(rest) => [&self.destination_prefix, rest].concat().into(),
            None => key.clone(),
        }
    }

    fn count(&self) {
        self.copied.set(self.copied.get() + 1);
    }

    /// Copies everything as of now; returns the revision of "now".
    async fn copy_all(&self) -> Result<i64, Failure> {
        let (mut key, range_end) = self.range();
        let mut revision = 0;
        loop {
            let request = pb::RangeRequest {
                key,
                range_end: range_end.clone(),
                limit: BATCH,
                revision,
                ..Default::default()
            };
            let response = self.source.call(request).await?;
            if revision == 0 {
                revision = response.header.unwrap_or_default().revision;
            }
            for kv in &response.kvs {
                self.destination.call(put(self.renamed(&kv.key), kv.value.clone())).await?;
                self.count();
            }
            match response.kvs.last() {
                Some(last) if response.more => key = [&last.key[..], b"\0"].concat().into(),
                _ => return Ok(revision),
            }
        }
    }

    async fn follow(&self, start_revision: i64) -> Result<(), Failure> {
        let (key, range_end) = self.range();
        let request = pb::WatchCreateRequest { key, range_end, start_revision, ..Default::default() };
        let mut watch = self.source.watch(request);
        while let Some(response) = watch.next().await {
            let response = response?;
            if let Some(error) = cancel_error(&response) {
                return Err(error.into());
            }
            self.apply(&response).await?;
        }
        Err(Failure::new(ERROR, "the watch of the source ended"))
    }

    /// One transaction per revision, split where it is too large.
    async fn apply(&self, response: &pb::WatchResponse) -> Result<(), Failure> {
        let mut operations = Vec::new();
        let mut last_revision = 0;
        for event in &response.events {
            let kv = event.kv.clone().unwrap_or_default();
            let next_revision = last_revision != 0 && kv.mod_revision > last_revision;
            if next_revision || operations.len() == self.max_operations {
                self.commit(&mut operations).await?;
            }
            last_revision = kv.mod_revision;
            let key = self.renamed(&kv.key);
            operations.push(match event.r#type() {
                EventType::Put => Op::RequestPut(put(key, kv.value)),
                EventType::Delete => Op::RequestDeleteRange(delete(key)),
            });
            self.count();
        }
        self.commit(&mut operations).await
    }

    async fn commit(&self, operations: &mut Vec<Op>) -> Result<(), Failure> {
        if operations.is_empty() {
            return Ok(());
        }
        let success = operations.drain(..).map(|request| pb::RequestOp { request: Some(request) }).collect();
        self.destination.call(pb::TxnRequest { success, ..Default::default() }).await?;
        Ok(())
    }
}
