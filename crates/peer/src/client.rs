//! What a member asks other members, outside of raft.
//!
//! Plain async functions that open a connection for each question: they are asked rarely, and on
//! whichever runtime the caller has. Each has a time limit. Where several URLs are given they are
//! tried in turn.
//!
//! **Source**: etcd `server/etcdserver/{cluster_util,corrupt}.go`, `server/lease/leasehttp/http.go`.

use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method, StatusCode, request};
use membership::Member;
use prost::Message as _;
use proto::etcdserverpb::{LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseTimeToLiveRequest};
use proto::leasepb::{LeaseInternalRequest, LeaseInternalResponse};
use serde_json::Value;
use tokio::time::timeout;
use types::{ClusterId, LeaseId, MemberId, Version};

use crate::handler::{HashKv, HashKvError, LeaseError, LeaseTimes, PromoteError};
use crate::identity::{CLUSTER_ID, CLUSTER_MISMATCH, bare_request, text as header};
use crate::link::{Body, Link, LinkError, LinkLimits, full, read_body};
use crate::log::Log;
use crate::net::Dialer;
use crate::url::{BadUrl, PeerUrl};

/// Longest answer that is read: a lease with very many keys.
const MAX_ANSWER_BYTES: usize = 100 << 20;
/// How long etcd waits for an answer about the cluster before it joins.
pub const JOIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Asks other members.
#[derive(Clone, Debug)]
pub struct Client {
    dialer: Dialer,
    log: Log,
}

/// A cluster as one of its members describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteCluster {
    /// Its id.
    pub id: ClusterId,
    /// Its members.
    pub members: Vec<Member>,
}

/// Versions as a member tells them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Versions {
    /// Of the server.
    pub server: String,
    /// Of the cluster; `not_decided` in a new one.
    pub cluster: String,
    /// Of the storage; empty from members before 3.6.
    pub storage: String,
}

impl Versions {
    /// The server's version, if it is one.
    pub fn server_version(&self) -> Option<Version> {
        self.server.parse().ok()
    }

    /// The cluster's version, if it is decided.
    pub fn cluster_version(&self) -> Option<Version> {
        self.cluster.parse().ok()
    }
}

/// Why nobody told about the cluster. The texts are upstream's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    /// None of the URLs answered as a member does.
    #[error("could not retrieve cluster information from the given URLs")]
    NoAnswer,
    /// One answered that there are no members.
    #[error("failed to get raft cluster member(s) from the given URLs")]
    NoMembers,
}

/// Why a question got no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// A URL that no peer can have.
    #[error(transparent)]
    Url(#[from] BadUrl),
    /// No connection or no answer.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// Not in time.
    #[error("request to {0} timed out")]
    Timeout(String),
    /// Another answer than expected.
    #[error("{url} answered {status}: {body}")]
    Status {
        /// Who was asked.
        url: String,
        /// The status.
        status: StatusCode,
        /// What it said.
        body: String,
    },
    /// An answer that is not understood.
    #[error("{url} gave an answer that is not understood: {reason}")]
    Answer {
        /// Who was asked.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// There was no URL to ask.
    #[error("no peer URL to ask")]
    NoUrl,
}

struct Answer {
    url: String,
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim_end().to_owned()
    }

    fn ok(self) -> Result<Self, AskError> {
        if self.status == StatusCode::OK {
            return Ok(self);
        }
        let body = self.text();
        Err(AskError::Status { url: self.url, status: self.status, body })
    }

    fn json(&self) -> Result<Value, AskError> {
        serde_json::from_slice(&self.body).map_err(|error| self.not_understood(error))
    }

    fn not_understood(&self, reason: impl std::fmt::Display) -> AskError {
        AskError::Answer { url: self.url.clone(), reason: reason.to_string() }
    }
}

impl Client {
    /// A client that reports failures to `log`.
    pub fn new(dialer: Dialer, log: Log) -> Self {
        Self { dialer, log }
    }

    /// Id and members of the cluster that the first answering URL belongs to. etcd asks the URLs
    /// in ascending order, each for [`JOIN_TIMEOUT`].
    ///
    /// # Errors
    /// Nobody answered; the log has the reasons.
    pub async fn cluster<U: AsRef<str>>(
        &self,
        urls: &[U],
        each: Duration,
    ) -> Result<RemoteCluster, ClusterError> {
        for url in urls {
            let address = format!("{}/members", url.as_ref());
            match self.cluster_from(url.as_ref(), each).await {
                Ok(cluster) if cluster.members.is_empty() => return Err(ClusterError::NoMembers),
                Ok(cluster) => return Ok(cluster),
                Err(error) => {
                    let line = match error {
                        AskError::Answer { .. } => "failed to unmarshal cluster response",
                        _ => "failed to get cluster response",
                    };
                    self.log.warn(line, &[("address", address.into()), ("error", error.to_string().into())]);
                }
            }
        }
        Err(ClusterError::NoAnswer)
    }

    async fn cluster_from(&self, url: &str, limit: Duration) -> Result<RemoteCluster, AskError> {
        let answer = self.get(url, "/members", limit).await?;
        let members = members_of(&answer)?;
        let id =
            header(&answer.headers, &CLUSTER_ID).parse().map_err(|error| answer.not_understood(error))?;
        Ok(RemoteCluster { id, members })
    }

    /// Whether the cluster at these URLs has seen this member run: then its data is lost and it
    /// must not be made anew.
    pub async fn is_bootstrapped<U: AsRef<str>>(&self, urls: &[U], id: MemberId, each: Duration) -> bool {
        let quiet = Self { log: Log::silent(), ..self.clone() };
        let Ok(cluster) = quiet.cluster(urls, each).await else { return false };
        cluster.members.iter().any(|member| member.id == id && !member.attributes.client_urls.is_empty())
    }

    /// Versions of the member at these URLs.
    ///
    /// # Errors
    /// The last failure.
    pub async fn versions<U: AsRef<str>>(
        &self,
        id: MemberId,
        urls: &[U],
        each: Duration,
    ) -> Result<Versions, AskError> {
        let mut last = AskError::NoUrl;
        for url in urls {
            match self.versions_from(url.as_ref(), each).await {
                Ok(versions) => return Ok(versions),
                Err(error) => {
                    self.log_unreachable(&format!("{}/version", url.as_ref()), id, &error);
                    last = error;
                }
            }
        }
        Err(last)
    }

    async fn versions_from(&self, url: &str, limit: Duration) -> Result<Versions, AskError> {
        let answer = self.get(url, "/version", limit).await?;
        let json = answer.json()?;
        let field = |name| json.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        if !json.is_object() {
            return Err(answer.not_understood("not an object"));
        }
        Ok(Versions { server: field("etcdserver"), cluster: field("etcdcluster"), storage: field("storage") })
    }

    /// Whether a downgrade job runs, as the member at these URLs knows.
    ///
    /// # Errors
    /// The last failure.
    pub async fn downgrade_enabled<U: AsRef<str>>(
        &self,
        id: MemberId,
        urls: &[U],
        each: Duration,
    ) -> Result<bool, AskError> {
        const PATH: &str = "/downgrade/enabled";
        let mut last = AskError::NoUrl;
        for url in urls {
            let answer = self.get(url.as_ref(), PATH, each).await;
            let enabled = answer.and_then(|answer| match &answer.body[..] {
                b"true" => Ok(true),
                b"false" => Ok(false),
                _ => Err(answer.not_understood("neither true nor false")),
            });
            match enabled {
                Ok(enabled) => return Ok(enabled),
                Err(error) => {
                    self.log_unreachable(&format!("{}{PATH}", url.as_ref()), id, &error);
                    last = error;
                }
            }
        }
        Err(last)
    }

    /// Hash of the store of the member at this URL.
    ///
    /// # Errors
    /// The member's reason, or no answer.
    pub async fn hash_kv(
        &self,
        url: &str,
        cluster: ClusterId,
        revision: i64,
        limit: Duration,
    ) -> Result<HashKv, HashKvError> {
        let body = if revision == 0 { "{}".to_owned() } else { format!("{{\"revision\":{revision}}}") };
        let answer = self
            .ask(url, Method::GET, "/members/hashkv", limit, body, |request| {
                request.header(CONTENT_TYPE, "application/json").header(CLUSTER_ID, cluster.to_string())
            })
            .await
            .map_err(|error| HashKvError::Other(error.to_string()))?;
        let text = answer.text();
        match answer.status {
            StatusCode::OK => read_hash(&answer).map_err(|error| HashKvError::Other(error.to_string())),
            StatusCode::BAD_REQUEST if text.contains(&HashKvError::Compacted.to_string()) => {
                Err(HashKvError::Compacted)
            }
            StatusCode::BAD_REQUEST if text.contains(&HashKvError::FutureRevision.to_string()) => {
                Err(HashKvError::FutureRevision)
            }
            StatusCode::PRECONDITION_FAILED if text.contains(CLUSTER_MISMATCH) => {
                Err(HashKvError::ClusterIdMismatch)
            }
            _ => Err(HashKvError::Other(format!("unknown error: {text}"))),
        }
    }

    /// Has the leader at these URLs renew a lease; answers its TTL in seconds.
    ///
    /// # Errors
    /// `NotFound` at once, else the last failure.
    pub async fn renew_lease<U: AsRef<str>>(
        &self,
        urls: &[U],
        id: LeaseId,
        each: Duration,
    ) -> Result<i64, LeaseError> {
        let request = LeaseKeepAliveRequest { id: id.0 }.encode_to_vec();
        let answer = self.ask_leader(urls, "/leases", request, each).await?;
        let response = LeaseKeepAliveResponse::decode(answer).map_err(lease_answer)?;
        if response.id != id.0 {
            return Err(LeaseError::Other("lease: renew id mismatch".to_owned()));
        }
        Ok(response.ttl)
    }

    /// What the leader at these URLs knows about a lease.
    ///
    /// # Errors
    /// `NotFound` at once, else the last failure.
    pub async fn lease_times<U: AsRef<str>>(
        &self,
        urls: &[U],
        id: LeaseId,
        keys: bool,
        each: Duration,
    ) -> Result<LeaseTimes, LeaseError> {
        let request = LeaseTimeToLiveRequest { id: id.0, keys };
        let request = LeaseInternalRequest { lease_time_to_live_request: Some(request) }.encode_to_vec();
        let answer = self.ask_leader(urls, "/leases/internal", request, each).await?;
        let response = LeaseInternalResponse::decode(answer).map_err(lease_answer)?;
        let response = response.lease_time_to_live_response.unwrap_or_default();
        if response.id != id.0 {
            return Err(LeaseError::Other("lease: TTL id mismatch".to_owned()));
        }
        Ok(LeaseTimes {
            granted_seconds: response.granted_ttl,
            remaining_seconds: response.ttl,
            keys: response.keys,
        })
    }

    /// Posts a lease request to each URL until one has an answer.
    async fn ask_leader<U: AsRef<str>>(
        &self,
        urls: &[U],
        path: &'static str,
        request: Vec<u8>,
        each: Duration,
    ) -> Result<Bytes, LeaseError> {
        let request = Bytes::from(request);
        let mut last = LeaseError::Other(AskError::NoUrl.to_string());
        for url in urls {
            let asked = self.ask(url.as_ref(), Method::POST, path, each, request.clone(), |request| {
                request.header(CONTENT_TYPE, "application/protobuf")
            });
            last = match asked.await {
                Ok(answer) if answer.status == StatusCode::OK => return Ok(answer.body),
                Ok(answer) if answer.status == StatusCode::NOT_FOUND => return Err(LeaseError::NotFound),
                Ok(answer) if answer.status == StatusCode::REQUEST_TIMEOUT => LeaseError::Timeout,
                Ok(answer) => LeaseError::Other(format!("lease: unknown error({})", answer.text())),
                Err(error) => LeaseError::Other(error.to_string()),
            };
        }
        Err(last)
    }

    /// Has the leader at these URLs promote a learner; answers the members afterwards. Errors that
    /// are not about the member itself are worth another try.
    ///
    /// # Errors
    /// The leader's reason at once, else the last failure.
    pub async fn promote<U: AsRef<str>>(
        &self,
        urls: &[U],
        id: MemberId,
        token: Option<&str>,
        each: Duration,
    ) -> Result<Vec<Member>, PromoteError> {
        let mut last = PromoteError::Other(AskError::NoUrl.to_string());
        for url in urls {
            last = match self.promote_at(url.as_ref(), id, token, each).await {
                Err(error @ (PromoteError::Timeout | PromoteError::Other(_))) => error,
                decided => return decided,
            };
        }
        Err(last)
    }

    async fn promote_at(
        &self,
        url: &str,
        id: MemberId,
        token: Option<&str>,
        limit: Duration,
    ) -> Result<Vec<Member>, PromoteError> {
        let other = |error: AskError| PromoteError::Other(error.to_string());
        let path = format!("/members/promote/{}", id.0);
        let asked = self.ask(url, Method::POST, &path, limit, Bytes::new(), |request| {
            match token.map(HeaderValue::from_str) {
                Some(Ok(token)) => request.header(AUTHORIZATION, token),
                _ => request,
            }
        });
        let answer = asked.await.map_err(other)?;
        let text = answer.text();
        match answer.status {
            StatusCode::OK => members_of(&answer).map_err(other),
            StatusCode::NOT_FOUND => Err(PromoteError::NotFound),
            StatusCode::REQUEST_TIMEOUT => Err(PromoteError::Timeout),
            StatusCode::PRECONDITION_FAILED if text.contains(&PromoteError::NotReady.to_string()) => {
                Err(PromoteError::NotReady)
            }
            StatusCode::PRECONDITION_FAILED if text.contains(&PromoteError::NotLearner.to_string()) => {
                Err(PromoteError::NotLearner)
            }
            _ => Err(PromoteError::Other(format!("member promote: unknown error({text})"))),
        }
    }

    async fn get(&self, url: &str, path: &str, limit: Duration) -> Result<Answer, AskError> {
        self.ask(url, Method::GET, path, limit, Bytes::new(), |request| request).await?.ok()
    }

    async fn ask(
        &self,
        url: &str,
        method: Method,
        path: &str,
        limit: Duration,
        body: impl Into<Bytes>,
        extend: impl Fn(request::Builder) -> request::Builder,
    ) -> Result<Answer, AskError> {
        let peer = PeerUrl::parse(url)?;
        let body = body.into();
        let request = || -> http::Request<Body> {
            extend(bare_request(method.clone(), &peer, path))
                .body(full(body.clone()))
                .expect("parts of a request were checked when they were made")
        };
        let mut link = Link::new(self.dialer.clone(), LinkLimits { write: limit, response: limit });
        let exchange = async {
            let response = link.send(&peer, request).await?;
            let (head, body) = response.into_parts();
            let body = read_body(body, MAX_ANSWER_BYTES, limit, &peer).await?;
            Ok(Answer { url: format!("{peer}{path}"), status: head.status, headers: head.headers, body })
        };
        timeout(limit, exchange).await.unwrap_or_else(|_| Err(AskError::Timeout(peer.to_string())))
    }

    fn log_unreachable(&self, address: &str, id: MemberId, error: &AskError) {
        let line = match error {
            AskError::Answer { .. } => "failed to unmarshal response",
            _ => "failed to reach the peer URL",
        };
        self.log.warn(
            line,
            &[
                ("address", address.into()),
                ("remote-member-id", id.into()),
                ("error", error.to_string().into()),
            ],
        );
    }
}

fn members_of(answer: &Answer) -> Result<Vec<Member>, AskError> {
    let Value::Array(members) = answer.json()? else { return Err(answer.not_understood("not an array")) };
    let read = |member: &Value| Member::from_json(member.to_string().as_bytes());
    members.iter().map(read).collect::<Result<_, _>>().map_err(|error| answer.not_understood(error))
}

fn read_hash(answer: &Answer) -> Result<HashKv, AskError> {
    let json = answer.json()?;
    let number = |value: Option<&Value>| match value {
        None => Ok(0),
        Some(value) => value.as_i64().ok_or_else(|| answer.not_understood("not a number")),
    };
    let header = json.get("header").ok_or_else(|| answer.not_understood("no header"))?;
    let hash = number(json.get("hash"))?;
    Ok(HashKv {
        hash: u32::try_from(hash).map_err(|error| answer.not_understood(error))?,
        compact_revision: number(json.get("compact_revision"))?,
        hash_revision: number(json.get("hash_revision"))?,
        current_revision: number(header.get("revision"))?,
    })
}

fn lease_answer(error: prost::DecodeError) -> LeaseError {
    LeaseError::Other(format!("lease: {error}"))
}
