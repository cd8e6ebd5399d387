//! Endpoints from the DNS: `--discovery-srv`.
//!
//! Two services are asked for, `_etcd-client-ssl._tcp` (https) and `_etcd-client._tcp` (http); a name
//! of the service is added with a dash. One of the two answers is enough.
//!
//! **Source**: etcd `client/pkg/srv/srv.go`.

use dns::Srv;

/// Neither service is known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("dns lookup errors: {secure} and {plain}")]
pub struct DiscoverError {
    /// What became of the question for encrypted endpoints.
    pub secure: String,
    /// What became of the other.
    pub plain: String,
}

/// Asks the DNS for the endpoints of a domain.
///
/// # Errors
/// Both questions failed.
pub async fn discover(domain: &str, service_name: &str) -> Result<Vec<String>, DiscoverError> {
    let suffix = if service_name.is_empty() { String::new() } else { format!("-{service_name}") };
    let secure = look_up(&format!("_etcd-client-ssl{suffix}._tcp.{domain}")).await;
    let plain = look_up(&format!("_etcd-client{suffix}._tcp.{domain}")).await;
    merge(secure, plain)
}

fn merge(
    secure: Result<Vec<Srv>, String>,
    plain: Result<Vec<Srv>, String>,
) -> Result<Vec<String>, DiscoverError> {
    if let (Err(secure), Err(plain)) = (&secure, &plain) {
        return Err(DiscoverError { secure: secure.clone(), plain: plain.clone() });
    }
    let mut endpoints = Vec::new();
    for (scheme, targets) in [("https", secure), ("http", plain)] {
        let mut targets = targets.unwrap_or_default();
        targets.sort_by_key(|target| (target.priority, u16::MAX - target.weight));
        endpoints
            .extend(targets.iter().map(|target| format!("{scheme}://{}:{}", target.target, target.port)));
    }
    Ok(endpoints)
}

async fn look_up(name: &str) -> Result<Vec<Srv>, String> {
    dns::srv(name).await.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_answer_is_enough() {
        let target =
            |priority, weight, host: &str| Srv { priority, weight, target: host.to_owned(), port: 2379 };
        let several = vec![target(2, 9, "c."), target(1, 1, "b."), target(1, 5, "a.")];
        let endpoints = merge(Err("no".into()), Ok(several.clone())).unwrap();
        assert_eq!(endpoints, ["http://a.:2379", "http://b.:2379", "http://c.:2379"]);
        let both = merge(Ok(vec![target(0, 0, "s.")]), Ok(several)).unwrap();
        assert_eq!((both.len(), both[0].as_str()), (4, "https://s.:2379"));
        let neither = merge(Err("one".into()), Err("other".into())).unwrap_err();
        assert_eq!(neither.to_string(), "dns lookup errors: one and other");
    }
}
