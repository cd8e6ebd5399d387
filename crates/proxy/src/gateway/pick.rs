//! Which endpoint is next: the best priority that is alive; in it by weight, else in turn.
//!
//! **Source**: etcd `server/proxy/tcpproxy/userspace.go` (pick); RFC 2782.

use std::hash::{BuildHasher, Hasher, RandomState};

/// Where to forward to. Without SRV records all have the same priority and no weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `host:port`.
    pub address: String,
    /// The lowest number goes first.
    pub priority: u16,
    /// Share within a priority.
    pub weight: u16,
}

impl Endpoint {
    /// An endpoint like any other.
    pub fn new(host: &str, port: u16) -> Self {
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        Self { address: format!("{host}:{port}"), priority: 0, weight: 0 }
    }
}

/// One in so many connections goes to endpoints without weight if others have one.
const RARELY: u64 = 100;

pub(super) struct Picker {
    endpoints: Vec<(Endpoint, bool)>,
    turn: usize,
    random: RandomState,
    draws: u64,
}

impl Picker {
    pub(super) fn new(endpoints: Vec<Endpoint>) -> Self {
        let endpoints = endpoints.into_iter().map(|endpoint| (endpoint, true)).collect();
        Self { endpoints, turn: 0, random: RandomState::new(), draws: 0 }
    }

    pub(super) fn addresses(&self) -> impl Iterator<Item = &str> {
        self.endpoints.iter().map(|(endpoint, _)| endpoint.address.as_str())
    }

    pub(super) fn set_active(&mut self, number: usize, active: bool) {
        self.endpoints[number].1 = active;
    }

    pub(super) fn inactive(&self) -> Vec<(usize, String)> {
        let all = self.endpoints.iter().enumerate();
        all.filter(|(_, (_, active))| !active)
            .map(|(number, (endpoint, _))| (number, endpoint.address.clone()))
            .collect()
    }

    /// Number and address of the endpoint for the next connection.
    pub(super) fn pick(&mut self) -> Option<(usize, String)> {
        let alive = || self.endpoints.iter().enumerate().filter(|(_, (_, active))| *active);
        let best = alive().map(|(_, (endpoint, _))| endpoint.priority).min()?;
        let candidates = alive().filter(|(_, (endpoint, _))| endpoint.priority == best);
        let (weighted, equal): (Vec<_>, Vec<_>) = candidates
            .map(|(number, (endpoint, _))| (number, u64::from(endpoint.weight)))
            .partition(|(_, weight)| *weight > 0);
        let number = if weighted.is_empty() || (!equal.is_empty() && self.draw(RARELY) == 0) {
            self.turn = self.turn.wrapping_add(1);
            equal[self.turn.wrapping_sub(1) % equal.len()].0
        } else {
            let total = weighted.iter().map(|(_, weight)| weight).sum();
            by_weight(&weighted, self.draw(total))
        };
        Some((number, self.endpoints[number].0.address.clone()))
    }

    /// A number below `end`. Fair enough for spreading load.
    fn draw(&mut self, end: u64) -> u64 {
        self.draws += 1;
        let mut hasher = self.random.build_hasher();
        hasher.write_u64(self.draws);
        hasher.finish() % end
    }
}

/// Whose share `drawn` lies in.
fn by_weight(weighted: &[(usize, u64)], drawn: u64) -> usize {
    let mut end = 0;
    let chosen = weighted.iter().find(|(_, weight)| {
        end += weight;
        drawn < end
    });
    chosen.expect("what is drawn is below the sum of all weights").0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(name: &str, priority: u16, weight: u16) -> Endpoint {
        Endpoint { address: name.to_owned(), priority, weight }
    }

    fn picks(picker: &mut Picker, count: usize) -> Vec<String> {
        (0..count).filter_map(|_| picker.pick()).map(|(_, address)| address).collect()
    }

    #[test]
    fn equal_endpoints_come_in_turn_and_dead_ones_not_at_all() {
        let all = ["a", "b", "c"].map(|name| endpoint(name, 0, 0));
        let mut picker = Picker::new(all.to_vec());
        assert_eq!(picks(&mut picker, 4), ["a", "b", "c", "a"]);
        picker.set_active(1, false);
        assert!(!picks(&mut picker, 6).contains(&"b".to_owned()));
        assert_eq!(picker.inactive(), [(1, "b".to_owned())]);
        picker.set_active(0, false);
        picker.set_active(2, false);
        assert_eq!(picker.pick(), None);
    }

    #[test]
    fn the_best_priority_that_is_alive_serves() {
        let mut picker = Picker::new(vec![endpoint("spare", 2, 0), endpoint("main", 1, 0)]);
        assert_eq!(picks(&mut picker, 3), ["main"; 3]);
        picker.set_active(1, false);
        assert_eq!(picks(&mut picker, 3), ["spare"; 3]);
    }

    #[test]
    fn weights_are_shares() {
        let weighted = [(4, 1), (7, 3)];
        let chosen: Vec<_> = (0..4).map(|drawn| by_weight(&weighted, drawn)).collect();
        assert_eq!(chosen, [4, 7, 7, 7]);
        let mut picker = Picker::new(vec![endpoint("light", 0, 1), endpoint("heavy", 0, 60_000)]);
        let heavy = picks(&mut picker, 200).iter().filter(|name| *name == "heavy").count();
        assert!(heavy > 190, "{heavy} of 200 for a share of nearly all");
    }

    #[test]
    fn addresses_of_version_six_stand_in_brackets() {
        assert_eq!(Endpoint::new("::1", 2379).address, "[::1]:2379");
    }
}
