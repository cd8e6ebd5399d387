//! The lessor against a naive model: a map that is searched from end to end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lease::*;
use proptest::prelude::*;
use types::LeaseId;

const RETRY: u64 = 7;

#[derive(Clone, Debug)]
enum Step {
    Grant { id: i64, ttl: i64 },
    Revoke { id: i64 },
    Attach { key: u8, id: i64 },
    Detach { key: u8 },
    Renew { id: i64 },
    Checkpoint { id: i64, remaining: i64 },
    Pass { seconds: u64 },
    Expired,
    Promote { extend: u64 },
    Demote,
    Restore,
}

fn step() -> impl Strategy<Value = Step> {
    let id = 1i64..6;
    prop_oneof![
        4 => (id.clone(), -1i64..30).prop_map(|(id, ttl)| Step::Grant { id, ttl }),
        1 => id.clone().prop_map(|id| Step::Revoke { id }),
        3 => (0u8..5, id.clone()).prop_map(|(key, id)| Step::Attach { key, id }),
        1 => (0u8..5).prop_map(|key| Step::Detach { key }),
        3 => id.clone().prop_map(|id| Step::Renew { id }),
        1 => (id, 0i64..20).prop_map(|(id, remaining)| Step::Checkpoint { id, remaining }),
        4 => (0u64..12).prop_map(|seconds| Step::Pass { seconds }),
        4 => Just(Step::Expired),
        1 => (0u64..3).prop_map(|extend| Step::Promote { extend }),
        1 => Just(Step::Demote),
        1 => Just(Step::Restore),
    ]
}

#[derive(Default)]
struct Held {
    ttl: i64,
    remaining: i64,
    expiry: Option<u64>,
    quiet_until: u64,
    keys: BTreeSet<u8>,
}

#[derive(Default)]
struct Model {
    primary: bool,
    leases: BTreeMap<i64, Held>,
}

impl Model {
    fn effective(held: &Held) -> u64 {
        (if held.remaining > 0 { held.remaining } else { held.ttl }) as u64
    }

    fn promote(&mut self, now: u64, extend: u64) {
        self.primary = true;
        for held in self.leases.values_mut() {
            held.expiry = Some(now + extend + Self::effective(held));
            held.quiet_until = 0;
        }
    }

    fn demote(&mut self) {
        self.primary = false;
        for held in self.leases.values_mut() {
            held.expiry = None;
        }
    }

    fn detach(&mut self, key: u8) {
        for held in self.leases.values_mut() {
            held.keys.remove(&key);
        }
    }

    fn expired(&mut self, now: u64) -> BTreeSet<i64> {
        let mut expired = BTreeSet::new();
        for (id, held) in &mut self.leases {
            if held.expiry.is_some_and(|expiry| expiry <= now) && held.quiet_until <= now {
                held.quiet_until = now + RETRY;
                expired.insert(*id);
            }
        }
        expired
    }
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn lessor_agrees_with_the_model(steps in prop::collection::vec(step(), 1..60)) {
        let mut lessor = Lessor::new(Options { retry_interval: at(RETRY), ..Options::default() });
        let mut model = Model::default();
        let mut now = 1000;
        for step in steps {
            match step {
                Step::Grant { id, ttl } => {
                    let granted = lessor.grant(LeaseId(id), ttl, at(now));
                    prop_assert_eq!(granted.is_ok(), !model.leases.contains_key(&id));
                    if let Ok(record) = granted {
                        let ttl = ttl.max(2);
                        prop_assert_eq!(record.ttl_seconds, ttl);
                        let expiry = model.primary.then_some(now + ttl as u64);
                        model.leases.insert(id, Held { ttl, expiry, ..Held::default() });
                    }
                }
                Step::Revoke { id } => {
                    let keys = lessor.revoke(LeaseId(id)).map(|keys| keys.iter().map(|key| key[0]).collect::<Vec<_>>());
                    prop_assert_eq!(keys, model.leases.remove(&id).map(|held| held.keys.into_iter().collect()));
                }
                Step::Attach { key, id } => {
                    let known = model.leases.contains_key(&id);
                    prop_assert_eq!(lessor.attach(&[key], LeaseId(id)).is_ok(), known);
                    if known {
                        model.detach(key);
                        model.leases.get_mut(&id).unwrap().keys.insert(key);
                    }
                }
                Step::Detach { key } => {
                    lessor.detach(&[key]);
                    model.detach(key);
                }
                Step::Renew { id } => {
                    let expected = match model.leases.get_mut(&id) {
                        _ if !model.primary => RenewOutcome::NotPrimary,
                        None => RenewOutcome::NotFound,
                        Some(held) if held.expiry.unwrap() <= now => RenewOutcome::ExpiredPending,
                        Some(held) if held.remaining > 0 => RenewOutcome::ClearCheckpointFirst,
                        Some(held) => {
                            held.expiry = Some(now + held.ttl as u64);
                            RenewOutcome::Renewed(held.ttl)
                        }
                    };
                    prop_assert_eq!(lessor.renew(LeaseId(id), at(now)), expected);
                }
                Step::Checkpoint { id, remaining } => {
                    let stored = lessor.checkpoint(LeaseId(id), remaining, true, at(now));
                    prop_assert_eq!(stored.is_some(), model.leases.contains_key(&id));
                    if let Some(held) = model.leases.get_mut(&id) {
                        held.remaining = remaining;
                    }
                }
                Step::Pass { seconds } => now += seconds,
                Step::Expired => {
                    let named: Vec<_> = lessor.expired(at(now), 100).into_iter().map(|id| id.0).collect();
                    let expected = model.expired(now);
                    prop_assert_eq!(named.len(), expected.len());
                    prop_assert_eq!(named.into_iter().collect::<BTreeSet<_>>(), expected);
                }
                Step::Promote { extend } => {
                    lessor.promote(at(now), at(extend));
                    model.promote(now, extend);
                }
                Step::Demote => {
                    lessor.demote();
                    model.demote();
                }
                Step::Restore => {
                    let records: Vec<_> = model.leases.iter().map(|(id, held)| {
                        let record = Record { id: LeaseId(*id), ttl_seconds: held.ttl, remaining_ttl_seconds: held.remaining };
                        decode_record(&record_key(record.id), &encode_record(&record)).unwrap()
                    }).collect();
                    let keys: Vec<_> = model.leases.iter()
                        .flat_map(|(id, held)| held.keys.iter().map(|key| (vec![*key].into(), LeaseId(*id)))).collect();
                    prop_assert_eq!(lessor.restore(records, keys), 0);
                    model.demote();
                }
            }
            prop_assert_eq!(lessor.len(), model.leases.len());
            let mut order: Vec<_> = model.leases.iter().map(|(id, held)| (held.expiry.unwrap_or(u64::MAX), *id)).collect();
            order.sort_unstable();
            prop_assert_eq!(
                lessor.leases().iter().map(|info| info.id.0).collect::<Vec<_>>(),
                order.into_iter().map(|(_, id)| id).collect::<Vec<_>>()
            );
            for (id, held) in &model.leases {
                let left = lessor.time_to_live(LeaseId(*id), at(now)).unwrap();
                prop_assert_eq!(left.granted_seconds, held.ttl);
                prop_assert_eq!(left.remaining_seconds, held.expiry.map(|expiry| expiry as i64 - now as i64));
                let keys: Vec<_> = lessor.keys(LeaseId(*id)).unwrap().iter().map(|key| key[0]).collect();
                prop_assert_eq!(keys, held.keys.iter().copied().collect::<Vec<_>>());
            }
            // The caller that sleeps until the next event misses nothing.
            if let Some(next) = model.leases.values().filter_map(|held| held.expiry.map(|expiry| expiry.max(held.quiet_until))).min() {
                let wait = lessor.next_event(at(now)).expect("something will expire");
                prop_assert!(wait <= at(next.saturating_sub(now)));
            }
        }
    }
}
