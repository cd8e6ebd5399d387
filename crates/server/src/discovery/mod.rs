//! How a new cluster finds its first members: from a registry in another cluster
//! ([`registry`], `--discovery-token`), or from the DNS ([`names`], `--discovery-srv`).
//!
//! Both end in the text of an `--initial-cluster`, and from there everything goes on as if the operator
//! had written it. A member with a log asks neither.

pub mod names;
pub mod registry;

use env::real::RealDisk;

use crate::config::Config;
use names::NamesError;

/// The settings with the initial cluster that discovery begins with: the members that the DNS names, or
/// for the registry this member alone, with the registry's token as the cluster's. `None` if nothing is
/// to be discovered.
///
/// # Errors
/// What the DNS says cannot be used.
pub fn begin(config: &Config) -> Result<Option<Config>, NamesError> {
    let mut config = config.clone();
    if !config.discovery.endpoints.is_empty() {
        config.initial_cluster = config.initial_cluster_from_name(&config.name);
        config.initial_cluster_token.clone_from(&config.discovery.token);
        return Ok(Some(config));
    }
    // A log that cannot be looked for is reported by who opens it.
    let is_restart = wal::exists(&RealDisk, &config.wal_path()).unwrap_or(false);
    if config.discovery_srv.is_empty() || is_restart {
        return Ok(None);
    }
    let found = names::initial_cluster(&config)?;
    let is_encrypted = found.iter().flat_map(|(_, urls)| urls).any(|url| url.starts_with("https://"));
    if is_encrypted && config.peer_tls.trusted_ca_file.is_empty() {
        // Nobody but the CAs of the system can speak for the peers: a certificate of the domain will do.
        config.peer_server_name.clone_from(&config.discovery_srv);
    }
    config.initial_cluster = found.to_string();
    Ok(Some(config))
}
