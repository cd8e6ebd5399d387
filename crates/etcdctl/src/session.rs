//! From global flags and environment variables to a client and a printer.
//!
//! Nothing here happens before a command has checked its own arguments: which mistake is
//! reported first is part of the behaviour.

use std::sync::Arc;
use std::time::Duration;

use client::{Client, Credentials, FailedAttempt, Options};

use crate::commands::Invocation;
use crate::failure::{BAD_CONNECTION, ERROR, Failure};
use crate::log::{Field, Level, log};
use crate::print::{self, Answer, Printer};
use cli::Flags;
pub use cli::terminal::ask;
use cli::text::lossy;

/// A command with its flags, and everything made from the global ones.
pub struct Session {
    /// The command line; flags include what the environment says once [`Session::settings`] ran.
    pub invocation: Invocation,
}

/// What the global flags amount to.
#[derive(Clone)]
pub struct Settings {
    /// How to make a client, for the endpoints of the flags.
    pub options: Options,
    /// How to print.
    pub printer: Printer,
    /// Limit for a short command.
    pub command_timeout: Duration,
    /// Whether that limit was given, so that it also counts for the long ones.
    pub explicit_timeout: bool,
}

impl Settings {
    /// A client for these settings.
    pub async fn connect(&self) -> Result<Client, Failure> {
        Client::connect(self.options.clone()).await.map_err(|error| Failure::new(BAD_CONNECTION, error))
    }

    /// The same for other endpoints.
    pub fn only(&self, endpoint: &str) -> Self {
        let mut settings = self.clone();
        settings.options.endpoints = vec![endpoint.to_owned()];
        settings
    }

    /// Logs failed calls under this name.
    pub fn logging_as(mut self, logger: &'static str) -> Self {
        self.options.on_failure = failure_hook(&self.options.endpoints, logger);
        self
    }

    /// The client with the deadline of a short command.
    pub fn limited(&self, client: &Client) -> Client {
        client.with_timeout(self.command_timeout)
    }

    /// The client with a deadline only if the user gave one.
    pub fn limited_if_asked(&self, client: &Client) -> Client {
        match self.explicit_timeout {
            true => client.with_timeout(self.command_timeout),
            false => client.without_timeout(),
        }
    }
}

impl Session {
    /// The command's flags.
    pub fn flags(&self) -> &Flags {
        &self.invocation.flags
    }

    /// Reads environment and global flags.
    pub fn settings(&mut self) -> Result<Settings, Failure> {
        self.read_environment()?;
        let flags = &self.invocation.flags;
        if flags.bool("debug") {
            for name in self.inherited_names() {
                eprintln!("{}={}", variable(name), flags.shown(name));
            }
        }
        let endpoints = self.endpoints()?;
        let tls = connector(flags, ["cert", "key", "cacert"], "insecure-transport")?;
        // A certificate for the domain will do for all its servers, if only such are wanted.
        let server_name = match flags.bool("insecure-discovery") {
            true => String::new(),
            false => flags.text("discovery-srv"),
        };
        let credentials = credentials(flags)?;
        let printer = Printer {
            format: print::format(&flags.text("write-out"))?,
            hex: flags.bool("hex"),
            value_only: false,
        };
        let bytes = |name| usize::try_from(flags.int(name)).unwrap_or(0);
        let options = Options {
            dial_timeout: flags.duration("dial-timeout"),
            keepalive_time: flags.duration("keepalive-time"),
            keepalive_timeout: flags.duration("keepalive-timeout"),
            max_send_bytes: bytes("max-request-bytes"),
            max_receive_bytes: bytes("max-recv-bytes"),
            tls,
            server_name,
            credentials,
            on_failure: failure_hook(&endpoints, "etcd-client"),
            ..Options::new(endpoints)
        };
        Ok(Settings {
            options,
            printer,
            command_timeout: flags.duration("command-timeout"),
            explicit_timeout: flags.is_given("command-timeout"),
        })
    }

    /// Settings and a client for them.
    pub async fn open(&mut self) -> Result<(Settings, Client), Failure> {
        let settings = self.settings()?;
        let client = settings.connect().await?;
        Ok((settings, client))
    }

    /// Prints an answer in the chosen format.
    pub fn print(&self, settings: &Settings, answer: Answer<'_>) -> Result<(), Failure> {
        settings.printer.print(answer)
    }

    fn endpoints(&self) -> Result<Vec<String>, Failure> {
        let flags = &self.invocation.flags;
        let domain = flags.text("discovery-srv");
        if !domain.is_empty() {
            let mut found = discover(&domain, &flags.text("discovery-srv-name"))?;
            if !flags.bool("insecure-discovery") {
                found.retain(|endpoint| {
                    let secure = !endpoint.starts_with("http://");
                    if !secure {
                        eprintln!("ignoring discovered insecure endpoint {endpoint:?}");
                    }
                    secure
                });
            }
            if !found.is_empty() {
                return Ok(found);
            }
        }
        Ok(flags.list("endpoints").iter().map(|endpoint| endpoint.trim().to_owned()).collect())
    }

    fn inherited_names(&self) -> Vec<&'static str> {
        let parents = &self.invocation.path[..self.invocation.path.len() - 1];
        let mut names: Vec<_> =
            parents.iter().flat_map(|parent| parent.persistent).map(|spec| spec.name).collect();
        names.sort_unstable();
        names
    }

    /// Gives flags that were not on the command line the values of their variables.
    fn read_environment(&mut self) -> Result<(), Failure> {
        let names = self.inherited_names();
        let given: Vec<_> = names.iter().map(|name| self.flags().is_given(name)).collect();
        let is_watch = self.invocation.command().name == "watch";
        for (name, value) in std::env::vars_os() {
            let (name, value) = (lossy(name.as_encoded_bytes()), value);
            let flag = names.iter().position(|flag| variable(flag) == name);
            match flag {
                Some(place) if given[place] => {
                    let text = "conflicting environment variable is shadowed by corresponding command-line flag (either unset environment variable or disable flag))";
                    log(Level::Fatal, None, text, &[("environment-variable", Field::Text(&name))]);
                    return Err(Failure::silent(ERROR));
                }
                Some(place) if !value.is_empty() => {
                    // A value that cannot be read counts as absent.
                    let _ = self.invocation.flags.set(names[place], value.as_encoded_bytes());
                }
                None if name == "ETCDCTL_API" && value == "3" => {}
                None if is_watch && name.starts_with("ETCDCTL_WATCH_") && !value.is_empty() => {}
                // An empty value counts as absent too, but not without a word.
                _ if name.starts_with("ETCDCTL_") => {
                    let whole = format!("{name}={}", lossy(value.as_encoded_bytes()));
                    let field = [("environment-variable", Field::Text(&whole))];
                    log(Level::Warn, None, "unrecognized environment variable", &field);
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The variable of a flag.
fn variable(flag: &str) -> String {
    format!("ETCDCTL_{}", flag.to_uppercase().replace('-', "_"))
}

/// Asks the DNS, on a thread of its own: settings are read by plain functions.
fn discover(domain: &str, service: &str) -> Result<Vec<String>, Failure> {
    let (domain, service) = (domain.to_owned(), service.to_owned());
    let asked = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(client::discover(&domain, &service)))
    });
    let answer: std::io::Result<_> =
        asked.join().unwrap_or_else(|_| Err(std::io::Error::other("the lookup broke off")));
    match answer {
        Ok(Ok(endpoints)) => Ok(endpoints),
        Ok(Err(error)) => Err(Failure::new(ERROR, error)),
        Err(error) => Err(Failure::new(ERROR, error)),
    }
}

/// What the flags for certificates, in this order: certificate, key, CA, amount to. `None`: plain text.
pub fn connector(
    flags: &Flags,
    files: [&str; 3],
    plain: &str,
) -> Result<Option<client::tls::Connector>, Failure> {
    let own = files[0] == "cert";
    for name in files {
        if own && flags.is_given(name) && flags.bytes(name).is_empty() {
            return Err(Failure::arguments(format!("empty string is passed to --{name} option")));
        }
    }
    let [cert, key, cacert] = files.map(|name| flags.text(name));
    let skip = own && flags.bool("insecure-skip-tls-verify");
    if cert.is_empty() && key.is_empty() && cacert.is_empty() && flags.bool(plain) && !skip {
        return Ok(None);
    }
    let settings = client::tls::Settings {
        cert_file: cert,
        key_file: key,
        trusted_ca_file: cacert,
        insecure_skip_verify: skip,
        ..client::tls::Settings::default()
    };
    let connector = client::tls::Connector::new(&settings, &["h2"], Arc::new(|_| {}));
    connector.map(Some).map_err(Failure::arguments)
}

fn credentials(flags: &Flags) -> Result<Credentials, Failure> {
    let token = flags.text("auth-jwt-token");
    if !token.is_empty() {
        return Ok(Credentials::Token(token));
    }
    password_credentials(&flags.text("user"), &flags.text("password"), "Password: ")
}

/// Reads `name[:password]`, asking for what is missing. Without a password there are no credentials.
pub fn password_credentials(user: &str, password: &str, prompt: &str) -> Result<Credentials, Failure> {
    if user.is_empty() {
        return Ok(Credentials::None);
    }
    let (name, password) = match user.split_once(':') {
        _ if !password.is_empty() => (user, password.to_owned()),
        Some((name, password)) => (name, password.to_owned()),
        None => (user, ask(prompt).map_err(|error| Failure::new(ERROR, error))?),
    };
    Ok(match name.is_empty() || password.is_empty() {
        true => Credentials::None,
        false => Credentials::Password { name: name.to_owned(), password },
    })
}

type Hook = Arc<dyn Fn(&FailedAttempt<'_>) + Send + Sync>;

/// Writes a warning for each failed attempt, unless `ETCD_CLIENT_DEBUG` asks for less.
fn failure_hook(endpoints: &[String], logger: &'static str) -> Option<Hook> {
    let level = std::env::var("ETCD_CLIENT_DEBUG").unwrap_or_default().to_lowercase();
    if ["error", "dpanic", "panic", "fatal"].contains(&level.as_str()) {
        return None;
    }
    let first = endpoints.first().map(String::as_str).unwrap_or_default();
    let authority = first.split_once("://").map_or(first, |(_, rest)| rest).to_owned();
    Some(Arc::new(move |failed| {
        let target = format!("etcd-endpoints://{:#x}/{authority}", std::process::id());
        let peer = failed.peer.map_or("Peer{}".to_owned(), |peer| format!("Peer{{Addr: '{peer}'}}"));
        let fields = [
            ("target", Field::Text(&target)),
            ("peer", Field::Text(&peer)),
            ("method", Field::Text(failed.method)),
            ("attempt", Field::Number(failed.attempt as u64)),
            ("error", Field::Text(&failed.error.status_text())),
        ];
        log(Level::Warn, Some(logger), "retrying of unary invoker failed", &fields);
    }))
}
