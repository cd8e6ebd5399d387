//! The client handle, its options, and the token it authenticates with.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use proto::etcdserverpb as pb;
use tokio::time::Instant;
use tonic::metadata::{Ascii, MetadataValue};

use crate::connection::{Dial, Pool};
use crate::endpoint::Endpoint;
use crate::error::Error;

const DEFAULT_SEND_BYTES: usize = 2 << 20;
const DEFAULT_RECEIVE_BYTES: usize = i32::MAX as usize;

/// Who the caller is.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Credentials {
    /// Nobody in particular.
    #[default]
    None,
    /// A user; the client fetches a token and renews it when it runs out.
    Password {
        /// User name.
        name: String,
        /// Password.
        password: String,
    },
    /// A token, sent as it is.
    Token(String),
}

/// One failed attempt of a call, for logging.
pub struct FailedAttempt<'a> {
    /// `/package.Service/Method`.
    pub method: &'static str,
    /// 0 for the first.
    pub attempt: usize,
    /// Whom the request was sent to, if to anybody.
    pub peer: Option<&'a str>,
    /// What went wrong.
    pub error: &'a Error,
}

type FailureHook = Arc<dyn Fn(&FailedAttempt<'_>) + Send + Sync>;

/// What gRPC gives an attempt to connect that nobody limits.
pub(crate) const LONGEST_DIAL: Duration = Duration::from_secs(20);

/// How a client is made.
#[derive(Clone)]
pub struct Options {
    /// `host:port`, `http://host:port`, `https://host:port`, `unix:///path`, `unixs:///path`.
    pub endpoints: Vec<String>,
    /// Limit for one attempt to connect, and for fetching the first token. Zero is no limit of ours: an attempt
    /// has twenty seconds then, and the token as long as it takes.
    pub dial_timeout: Duration,
    /// How often an unused connection with open calls is probed; at least every 10 s is kept.
    pub keepalive_time: Duration,
    /// How long a probe may stay unanswered.
    pub keepalive_timeout: Duration,
    /// Probe connections without calls as well.
    pub keepalive_while_idle: bool,
    /// Largest request; 0 means 2 MiB.
    pub max_send_bytes: usize,
    /// Largest answer; 0 means 2^31 - 1.
    pub max_receive_bytes: usize,
    /// How to encrypt. Endpoints without a scheme are reached encrypted if this is given; those with
    /// `https` in any case, by default checked against the CAs of the system.
    pub tls: Option<tls::Connector>,
    /// The name that all servers have to show; empty for that of each endpoint.
    pub server_name: String,
    /// Who the caller is.
    pub credentials: Credentials,
    /// Told about every failed attempt of a unary call.
    pub on_failure: Option<FailureHook>,
}

impl Options {
    /// The defaults, for these endpoints.
    pub fn new<I: IntoIterator<Item = S>, S: Into<String>>(endpoints: I) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            dial_timeout: Duration::from_secs(2),
            keepalive_time: Duration::from_secs(10),
            keepalive_timeout: Duration::from_secs(6),
            keepalive_while_idle: false,
            max_send_bytes: 0,
            max_receive_bytes: 0,
            tls: None,
            server_name: String::new(),
            credentials: Credentials::None,
            on_failure: None,
        }
    }

    /// How long one attempt to connect may take.
    pub(crate) fn longest_attempt(&self) -> Duration {
        if self.dial_timeout.is_zero() { LONGEST_DIAL } else { self.dial_timeout }
    }
}

pub(crate) struct Shared {
    pub options: Options,
    pub pool: Pool,
    token: RwLock<Option<MetadataValue<Ascii>>>,
}

impl Shared {
    pub fn token(&self) -> Option<MetadataValue<Ascii>> {
        self.token.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_token(&self, text: &str) {
        let token = if text.is_empty() { None } else { text.parse().ok() };
        *self.token.write().unwrap_or_else(PoisonError::into_inner) = token;
    }
}

/// A handle to a cluster. Clones share connections and token.
#[derive(Clone)]
pub struct Client {
    pub(crate) shared: Arc<Shared>,
    pub(crate) deadline: Option<Instant>,
    /// The token of somebody on whose behalf this handle calls.
    pub(crate) token: Option<MetadataValue<Ascii>>,
}

impl Client {
    /// Makes a client. Connecting goes on in the background; only a login is waited for, up to
    /// the dial timeout.
    pub async fn connect(mut options: Options) -> Result<Self, Error> {
        if options.endpoints.is_empty() {
            return Err(Error::NoEndpoints);
        }
        let (send, receive) = (options.max_send_bytes, options.max_receive_bytes);
        if receive > 0 && send > receive {
            return Err(Error::Limits { receive, send });
        }
        if send == 0 {
            options.max_send_bytes = DEFAULT_SEND_BYTES;
        }
        if receive == 0 {
            options.max_receive_bytes = DEFAULT_RECEIVE_BYTES;
        }
        let endpoints = parse_endpoints(&options.endpoints, &options.server_name);
        let dial = Dial {
            timeout: options.longest_attempt(),
            keepalive_time: options.keepalive_time,
            keepalive_timeout: options.keepalive_timeout,
            keepalive_while_idle: options.keepalive_while_idle,
            tls: options.tls.clone(),
        };
        let timeout = options.dial_timeout;
        let pool = Pool::start(endpoints, dial);
        let shared = Arc::new(Shared { options, pool, token: RwLock::default() });
        let client = Self { shared, deadline: None, token: None };
        let first = if timeout.is_zero() { client.without_timeout() } else { client.with_timeout(timeout) };
        first.login().await?;
        Ok(client)
    }

    /// The endpoints, as they were given.
    pub fn endpoints(&self) -> &[String] {
        &self.shared.options.endpoints
    }

    /// The same client, whose calls must be answered within `limit` from now on. Long-lived
    /// streams have no deadline.
    pub fn with_timeout(&self, limit: Duration) -> Self {
        Self { deadline: Instant::now().checked_add(limit), ..self.clone() }
    }

    /// The same client, whose calls must be answered by then.
    pub fn with_deadline(&self, deadline: Option<Instant>) -> Self {
        Self { deadline, ..self.clone() }
    }

    /// The same client, which calls on behalf of the owner of this token: nobody renews it. A text
    /// that cannot be a token is none.
    pub fn with_token(&self, token: &str) -> Self {
        Self { token: token.parse().ok(), ..self.clone() }
    }

    /// The same client, whose calls may take for ever.
    pub fn without_timeout(&self) -> Self {
        Self { deadline: None, ..self.clone() }
    }

    /// Goes over to these endpoints: connections to those that stay are kept, however they are written now;
    /// calls on the others come to their end. New ones are made on the runtime that the client was made
    /// on. [`Client::endpoints`] does not follow. An empty list changes nothing.
    pub fn set_endpoints(&self, endpoints: &[String]) {
        if !endpoints.is_empty() {
            self.shared.pool.replace(parse_endpoints(endpoints, &self.shared.options.server_name));
        }
    }

    async fn login(&self) -> Result<(), Error> {
        match &self.shared.options.credentials {
            Credentials::None => Ok(()),
            Credentials::Token(token) => {
                self.shared.set_token(token);
                Ok(())
            }
            Credentials::Password { name, password } => {
                let request = pb::AuthenticateRequest { name: name.clone(), password: password.clone() };
                match Box::pin(self.call(request)).await {
                    Ok(response) => self.shared.set_token(&response.token),
                    Err(error) if error.is_server("authentication is not enabled") => {
                        self.shared.set_token("");
                    }
                    Err(error) => return Err(error),
                }
                Ok(())
            }
        }
    }

    /// Fetches a new token if `error` says that the old one is no good. True: try again.
    pub(crate) async fn renew_token(&self, path: &'static str, error: &Error) -> Result<bool, Error> {
        let with_password = matches!(self.shared.options.credentials, Credentials::Password { .. });
        let with_token = matches!(self.shared.options.credentials, Credentials::Token(_));
        let stale = match error {
            _ if with_token || self.token.is_some() || path == "/etcdserverpb.Auth/Authenticate" => false,
            error if error.is_server("user name is empty") => with_password,
            error if error.is_server("invalid auth token") => with_password,
            // Without a password the identity is the certificate's, and a repetition helps.
            error => error.is_server("revision of auth store is old"),
        };
        if stale && with_password {
            self.login().await?;
        }
        Ok(stale)
    }

    /// Streams live long and cannot renew a token once open, so they start with a fresh one.
    pub(crate) async fn refresh_for_stream(&self) -> Result<(), Error> {
        match self.shared.options.credentials {
            Credentials::Password { .. } if self.token.is_none() => self.login().await,
            _ => Ok(()),
        }
    }
}

fn parse_endpoints(texts: &[String], server_name: &str) -> Vec<Endpoint> {
    let mut endpoints: Vec<_> = texts.iter().map(|text| Endpoint::parse(text)).collect();
    for endpoint in &mut endpoints {
        if !server_name.is_empty() {
            endpoint.server_name = server_name.to_owned();
        }
    }
    endpoints
}
