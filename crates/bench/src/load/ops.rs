//! The operations of the workloads, as one client performs them.

use std::rc::Rc;
use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};
use clap::ValueEnum;
use proto::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseRevokeRequest,
    PutRequest, RangeRequest,
};

use super::report::Class;
use super::update::{self, Update};
use crate::wire::{Channel, Duplex, Method, Status};

/// What the clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Workload {
    /// Puts.
    Put,
    /// Linearizable single-key reads.
    Get,
    /// Serializable single-key reads.
    Serializable,
    /// Reads of `--range-limit` keys.
    Range,
    /// Updates as Kubernetes does them: compare the mod revision, put, else get.
    Txn,
    /// A control plane: such updates, reads, a few lists, and watches over the whole prefix.
    Kube,
    /// Watch fan-out: puts carry their send time, watchers measure put-to-event latency.
    Watch,
    /// Leases: grant, renew several times, revoke.
    Lease,
    /// Everything: 60 % reads, 25 % puts, 10 % transactions, 5 % ranges.
    Mixed,
}

impl Workload {
    /// The word for reports.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    pub(super) fn needs_keys(self) -> bool {
        !matches!(self, Self::Put | Self::Watch | Self::Lease)
    }

    pub(super) fn has_watchers(self) -> bool {
        matches!(self, Self::Watch | Self::Kube)
    }
}

/// Keys and values.
#[derive(Clone, Debug)]
pub struct KeySpace {
    /// In front of every key.
    pub prefix: String,
    /// Number of different keys.
    pub keys: u64,
    /// Length of a key with its prefix.
    pub key_bytes: usize,
    /// Length of a value.
    pub value_bytes: usize,
    /// Puts walk through the keys instead of drawing them.
    pub sequential: bool,
}

impl KeySpace {
    /// The key of a number: prefix, then the number with leading zeros up to the key length.
    pub fn key(&self, number: u64) -> Bytes {
        let mut key = Vec::new();
        self.put_key(number, &mut key);
        key.into()
    }

    fn put_key(&self, number: u64, key: &mut Vec<u8>) {
        key.reserve(self.key_bytes.max(self.prefix.len() + 20));
        key.put_slice(self.prefix.as_bytes());
        let width = self.key_bytes.saturating_sub(self.prefix.len());
        let mut digits = [b'0'; 20];
        let mut rest = number;
        let mut first = digits.len();
        loop {
            first -= 1;
            digits[first] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        let length = digits.len() - first;
        key.put_bytes(b'0', width.saturating_sub(length));
        key.put_slice(&digits[first..]);
    }

    /// The smallest key above every key of the prefix.
    pub fn end(&self) -> Bytes {
        let mut end = self.prefix.clone().into_bytes();
        while let Some(last) = end.pop() {
            if last < 0xff {
                end.push(last + 1);
                return Bytes::from(end);
            }
        }
        Bytes::from_static(&[0])
    }
}

/// A small fast generator (xorshift64*); statistical quality is enough for drawing keys.
#[derive(Clone)]
pub struct Draw(u64);

impl Draw {
    /// Any seed will do.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Evenly below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        (high * bound) >> 32
    }
}

/// Bytes that do not compress, the same for every run.
pub fn filler(length: usize) -> Bytes {
    let mut draw = Draw::new(7);
    (0..length).map(|_| draw.below(256) as u8).collect()
}

/// Request heads for one server.
pub struct Methods {
    pub(super) put: Method,
    pub(super) range: Method,
    pub(super) txn: Method,
    pub(super) watch: Method,
    grant: Method,
    keep_alive: Method,
    revoke: Method,
}

impl Methods {
    /// Prepares all heads.
    pub fn new(authority: &str) -> anyhow::Result<Self> {
        let method = |path| Method::new(authority, path);
        Ok(Self {
            put: method("/etcdserverpb.KV/Put")?,
            range: method("/etcdserverpb.KV/Range")?,
            txn: method("/etcdserverpb.KV/Txn")?,
            watch: method("/etcdserverpb.Watch/Watch")?,
            grant: method("/etcdserverpb.Lease/LeaseGrant")?,
            keep_alive: method("/etcdserverpb.Lease/LeaseKeepAlive")?,
            revoke: method("/etcdserverpb.Lease/LeaseRevoke")?,
        })
    }
}

/// What all clients of a thread share.
pub struct Shared {
    pub(super) workload: Workload,
    pub(super) space: KeySpace,
    pub(super) range_limit: i64,
    pub(super) clients: u64,
    pub(super) value: Bytes,
    /// Put times in watch values count from here.
    pub(super) epoch: Instant,
}

/// One client.
pub struct Client {
    shared: Rc<Shared>,
    methods: Rc<Methods>,
    channel: Channel,
    draw: Draw,
    number: u64,
    next_key: u64,
    /// Mod revisions of the keys this client alone updates: number, number + clients, ...
    mod_revisions: Vec<i64>,
    /// The key of the update that is made.
    key: Vec<u8>,
    lease: Option<(i64, u32, Duplex)>,
}

/// Renewals of a lease between its grant and its revocation.
const RENEWALS_PER_LEASE: u32 = 8;

impl Client {
    pub(super) fn new(shared: Rc<Shared>, methods: Rc<Methods>, channel: Channel, number: u64) -> Self {
        let draw = Draw::new(number + 1);
        let next_key = number * (shared.space.keys / shared.clients.max(1));
        let (mod_revisions, key) = (Vec::new(), Vec::new());
        Self { shared, methods, channel, draw, number, next_key, mod_revisions, key, lease: None }
    }

    /// Creates the keys the workload expects to find: this client's share of them.
    pub(super) async fn prepare(&mut self) -> Result<(), Status> {
        if !self.shared.workload.needs_keys() {
            return Ok(());
        }
        let mut number = self.number;
        while number < self.shared.space.keys {
            let answer: proto::etcdserverpb::PutResponse =
                self.channel.call(&self.methods.put, &self.put_request(number)).await?;
            self.mod_revisions.push(answer.header.map_or(0, |header| header.revision));
            number += self.shared.clients;
        }
        Ok(())
    }

    /// Performs one operation.
    pub(super) async fn step(&mut self) -> (Class, Result<(), Status>) {
        match self.shared.workload {
            Workload::Put | Workload::Watch => self.put().await,
            Workload::Get => self.get(false).await,
            Workload::Serializable => self.get(true).await,
            Workload::Range => self.range().await,
            Workload::Txn => self.txn().await,
            Workload::Lease => self.lease().await,
            Workload::Kube => match self.draw.below(1000) {
                0..500 => self.txn().await,
                500..997 => self.get(false).await,
                _ => self.range().await,
            },
            Workload::Mixed => match self.draw.below(100) {
                0..60 => self.get(false).await,
                60..85 => self.put().await,
                85..95 => self.txn().await,
                _ => self.range().await,
            },
        }
    }

    fn draw_key(&mut self) -> u64 {
        if self.shared.space.sequential {
            self.next_key = (self.next_key + 1) % self.shared.space.keys;
            return self.next_key;
        }
        self.draw.below(self.shared.space.keys)
    }

    fn put_request(&self, number: u64) -> PutRequest {
        PutRequest {
            key: self.shared.space.key(number),
            value: self.shared.value.clone(),
            ..Default::default()
        }
    }

    async fn put(&mut self) -> (Class, Result<(), Status>) {
        let number = self.draw_key();
        let mut request = self.put_request(number);
        if self.shared.workload == Workload::Watch {
            let mut value = BytesMut::from(&self.shared.value[..]);
            let sent = self.shared.epoch.elapsed().as_nanos() as u64;
            value[..8].copy_from_slice(&sent.to_be_bytes());
            request.value = value.freeze();
        }
        (Class::Put, self.channel.call_unread(&self.methods.put, &request).await)
    }

    async fn get(&mut self, serializable: bool) -> (Class, Result<(), Status>) {
        let key = self.shared.space.key(self.draw.below(self.shared.space.keys));
        let request = RangeRequest { key, serializable, ..Default::default() };
        (Class::Get, self.channel.call_unread(&self.methods.range, &request).await)
    }

    async fn range(&mut self) -> (Class, Result<(), Status>) {
        let request = RangeRequest {
            key: self.shared.space.key(self.draw.below(self.shared.space.keys)),
            range_end: self.shared.space.end(),
            limit: self.shared.range_limit,
            ..Default::default()
        };
        (Class::Range, self.channel.call_unread(&self.methods.range, &request).await)
    }

    async fn txn(&mut self) -> (Class, Result<(), Status>) {
        if self.mod_revisions.is_empty() {
            return self.get(false).await;
        }
        let slot = self.draw.below(self.mod_revisions.len() as u64) as usize;
        self.key.clear();
        self.shared.space.put_key(self.number + slot as u64 * self.shared.clients, &mut self.key);
        let update = Update::new(&self.key, self.mod_revisions[slot], &self.shared.value);
        let answer =
            self.channel.call_written(&self.methods.txn, update.len(), |out| update.write(out)).await;
        let revision = answer.and_then(update::revision);
        (Class::Txn, revision.map(|revision| self.mod_revisions[slot] = revision))
    }

    async fn lease(&mut self) -> (Class, Result<(), Status>) {
        match self.lease.take() {
            None => (Class::Grant, self.grant().await),
            Some((id, RENEWALS_PER_LEASE, _stream)) => {
                let request = LeaseRevokeRequest { id };
                (Class::Revoke, self.channel.call_unread(&self.methods.revoke, &request).await)
            }
            Some((id, renewals, mut stream)) => {
                let result = renew(&mut stream, id).await;
                if result.is_ok() {
                    self.lease = Some((id, renewals + 1, stream));
                }
                (Class::KeepAlive, result)
            }
        }
    }

    async fn grant(&mut self) -> Result<(), Status> {
        let request = LeaseGrantRequest { ttl: 60, id: 0 };
        let granted: LeaseGrantResponse = self.channel.call(&self.methods.grant, &request).await?;
        let stream = self.channel.open(&self.methods.keep_alive).await?;
        self.lease = Some((granted.id, 0, stream));
        Ok(())
    }
}

async fn renew(stream: &mut Duplex, id: i64) -> Result<(), Status> {
    stream.send(&LeaseKeepAliveRequest { id })?;
    match stream.receive::<LeaseKeepAliveResponse>().await? {
        Some(answer) if answer.ttl > 0 => Ok(()),
        _ => Err(Status { code: 5, message: format!("lease {id:x} is gone") }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_padded_and_ordered() {
        let space =
            KeySpace { prefix: "p/".into(), keys: 10, key_bytes: 8, value_bytes: 1, sequential: false };
        assert_eq!(space.key(0), "p/000000");
        assert_eq!(space.key(42), "p/000042");
        assert_eq!(space.key(123_456_789), "p/123456789");
        assert_eq!(space.end(), "p0");
    }

    #[test]
    fn draws_stay_below_the_bound_and_spread() {
        let mut draw = Draw::new(3);
        let mut seen = [0u32; 10];
        for _ in 0..10_000 {
            seen[draw.below(10) as usize] += 1;
        }
        assert!(seen.iter().all(|count| (700..1300).contains(count)), "{seen:?}");
    }
}
