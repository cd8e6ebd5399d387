//! Leases in small stories.

use std::time::Duration;

use lease::*;
use types::LeaseId;

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn lessor() -> Lessor {
    Lessor::new(Options::default())
}

fn primary() -> Lessor {
    let mut lessor = lessor();
    lessor.promote(s(0), s(0));
    lessor
}

#[test]
fn minimum_ttl_is_one_and_a_half_elections() {
    assert_eq!(minimum_ttl_seconds(10, ms(100)), 2);
    assert_eq!(minimum_ttl_seconds(10, ms(1000)), 15);
    assert_eq!(minimum_ttl_seconds(5, ms(100)), 1);
    assert_eq!(minimum_ttl_seconds(20, ms(100)), 3);
}

#[test]
fn grants_are_checked_in_upstreams_order() {
    let mut lessor = lessor();
    assert_eq!(lessor.grant(LeaseId(0), 10, s(0)), Err(GrantError::ZeroId));
    lessor.grant(LeaseId(-7), MAX_TTL_SECONDS, s(0)).unwrap();
    let too_large = lessor.grant(LeaseId(-7), MAX_TTL_SECONDS + 1, s(0));
    assert_eq!(too_large, Err(GrantError::TtlTooLarge));
    assert_eq!(too_large.unwrap_err().to_string(), "too large lease TTL");
    assert_eq!(lessor.grant(LeaseId(-7), 5, s(0)), Err(GrantError::Exists));
    for ttl in [-3, 0, 1] {
        let record = lessor.grant(LeaseId(100 + ttl), ttl, s(0)).unwrap();
        assert_eq!(record, Record { id: LeaseId(100 + ttl), ttl_seconds: 2, remaining_ttl_seconds: 0 });
    }
}

#[test]
fn only_the_primary_lets_leases_expire() {
    let mut lessor = lessor();
    lessor.grant(LeaseId(1), 10, s(0)).unwrap();
    assert_eq!(lessor.expired(s(1_000_000), 500), []);
    assert_eq!(lessor.next_event(s(0)), None);
    assert_eq!(lessor.renew(LeaseId(1), s(0)), RenewOutcome::NotPrimary);
    assert_eq!(
        lessor.time_to_live(LeaseId(1), s(5)),
        Some(TimeToLive { granted_seconds: 10, remaining_seconds: None })
    );

    lessor.promote(s(100), s(1));
    assert_eq!(lessor.next_event(s(100)), Some(s(11)));
    assert_eq!(
        lessor.time_to_live(LeaseId(1), ms(100_500)),
        Some(TimeToLive { granted_seconds: 10, remaining_seconds: Some(10) })
    );
    assert_eq!(lessor.expired(ms(110_999), 500), []);
    assert_eq!(lessor.expired(s(111), 500), [LeaseId(1)]);

    lessor.demote();
    assert_eq!(lessor.expired(s(1_000_000), 500), []);
    assert_eq!(lessor.renew(LeaseId(1), s(1)), RenewOutcome::NotPrimary);
}

#[test]
fn an_expired_lease_is_offered_again_until_it_is_revoked() {
    let mut lessor = primary();
    lessor.grant(LeaseId(1), 10, s(0)).unwrap();
    lessor.attach(b"b", LeaseId(1)).unwrap();
    lessor.attach(b"a", LeaseId(1)).unwrap();
    assert_eq!(lessor.expired(s(10), 500), [LeaseId(1)]);
    assert_eq!(lessor.renew(LeaseId(1), s(11)), RenewOutcome::ExpiredPending);
    assert_eq!(lessor.expired(s(16), 500), []);
    assert_eq!(lessor.expired(s(17), 500), [LeaseId(1)]);
    assert_eq!(lessor.time_to_live(LeaseId(1), s(13)).unwrap().remaining_seconds, Some(-3));

    assert_eq!(lessor.revoke(LeaseId(1)).unwrap(), ["a", "b"]);
    assert_eq!(lessor.lease_of(b"a"), None);
    assert_eq!(lessor.revoke(LeaseId(1)), None);
    assert_eq!(lessor.renew(LeaseId(1), s(18)), RenewOutcome::NotFound);
    assert_eq!(lessor.expired(s(100), 500), []);
}

#[test]
fn renewals_hold_a_lease_and_rounds_are_limited() {
    let mut lessor = primary();
    for id in 1..=1200 {
        lessor.grant(LeaseId(id), 10, s(0)).unwrap();
    }
    assert_eq!(lessor.renew(LeaseId(7), s(9)), RenewOutcome::Renewed(10));
    let first = lessor.expired(s(10), REVOKES_PER_ROUND);
    let second = lessor.expired(s(10), REVOKES_PER_ROUND);
    let third = lessor.expired(s(10), REVOKES_PER_ROUND);
    assert_eq!((first.len(), second.len(), third.len()), (500, 500, 199));
    assert_eq!(lessor.expired(s(10), REVOKES_PER_ROUND), []);
    assert!(!first.contains(&LeaseId(7)));
    assert_eq!(lessor.expired(ms(16_999), 2000), []);
    assert_eq!(lessor.expired(s(17), 2000).len(), 1199);
    assert_eq!(lessor.expired(s(19), 2000), [LeaseId(7)]);
}

#[test]
fn a_promotion_spreads_what_would_end_together() {
    let mut lessor = lessor();
    for id in 1..=5000 {
        lessor.grant(LeaseId(id), 60, s(0)).unwrap();
    }
    lessor.grant(LeaseId(9999), 3600, s(0)).unwrap();
    lessor.promote(s(10), s(1));
    let mut ended = 0;
    for second in 71..78 {
        let now = lessor.expired(s(second), 5000).len();
        assert!(now <= EXPIRIES_PER_SECOND, "{now} leases ended at {second}");
        ended += now;
    }
    assert_eq!(ended, 5000);
    assert_eq!(lessor.time_to_live(LeaseId(9999), s(11)).unwrap().remaining_seconds, Some(3600));
}

#[test]
fn few_leases_are_not_spread() {
    let mut lessor = lessor();
    for id in 1..=999 {
        lessor.grant(LeaseId(id), 60, s(0)).unwrap();
    }
    lessor.promote(s(0), s(1));
    assert_eq!(lessor.expired(s(61), 5000).len(), 999);
}

#[test]
fn a_key_hangs_on_one_lease() {
    let mut lessor = lessor();
    for id in [1, 2] {
        lessor.grant(LeaseId(id), 60, s(0)).unwrap();
    }
    lessor.attach(b"k", LeaseId(1)).unwrap();
    lessor.attach(b"k", LeaseId(2)).unwrap();
    assert_eq!(lessor.attach(b"k", LeaseId(3)), Err(UnknownLease(LeaseId(3))));
    assert_eq!(lessor.lease_of(b"k"), Some(LeaseId(2)));
    assert_eq!(lessor.keys(LeaseId(1)).unwrap(), [] as [&str; 0]);
    assert_eq!(lessor.keys(LeaseId(2)).unwrap(), ["k"]);
    assert_eq!(lessor.revoke(LeaseId(1)).unwrap(), [] as [&str; 0]);
    assert_eq!(lessor.lease_of(b"k"), Some(LeaseId(2)));
    assert_eq!(lessor.detach(b"k"), Some(LeaseId(2)));
    assert_eq!(lessor.detach(b"k"), None);
}

#[test]
fn checkpoints_are_taken_applied_and_cleared() {
    let options = Options { checkpoint_interval: Some(s(300)), ..Options::default() };
    let mut lessor = Lessor::new(options);
    lessor.promote(s(0), s(0));
    lessor.grant(LeaseId(1), 1000, s(0)).unwrap();
    lessor.grant(LeaseId(2), 300, s(0)).unwrap(); // not longer than the interval
    assert_eq!(lessor.due_checkpoints(s(299), 1000), []);
    assert_eq!(lessor.due_checkpoints(ms(300_200), 1000), [(LeaseId(1), 700)]);
    assert_eq!(lessor.due_checkpoints(s(301), 1000), []);

    assert_eq!(lessor.checkpoint(LeaseId(9), 700, true, s(301)), None);
    assert_eq!(lessor.checkpoint(LeaseId(1), 700, false, s(301)), None);
    let record = lessor.checkpoint(LeaseId(1), 700, true, s(301)).unwrap();
    assert_eq!(record, Record { id: LeaseId(1), ttl_seconds: 1000, remaining_ttl_seconds: 700 });
    assert_eq!(lessor.due_checkpoints(s(601), 1000), [(LeaseId(1), 399)]);

    // A renewal must not be undone by the checkpoint, so that is cleared first.
    assert_eq!(lessor.renew(LeaseId(1), s(700)), RenewOutcome::ClearCheckpointFirst);
    lessor.checkpoint(LeaseId(1), 0, true, s(701));
    assert_eq!(lessor.renew(LeaseId(1), s(702)), RenewOutcome::Renewed(1000));

    // The next leader starts from the remainder if there is one.
    lessor.checkpoint(LeaseId(1), 500, true, s(703));
    let mut next = Lessor::new(options);
    next.restore([Record { id: LeaseId(1), ttl_seconds: 1000, remaining_ttl_seconds: 500 }], []);
    next.promote(s(0), s(1));
    assert_eq!(next.time_to_live(LeaseId(1), s(0)).unwrap().remaining_seconds, Some(501));
}

#[test]
fn a_restore_raises_short_ttls_and_counts_strays() {
    let mut lessor = primary();
    let record = |id, ttl_seconds| Record { id: LeaseId(id), ttl_seconds, remaining_ttl_seconds: 0 };
    let strays = lessor.restore(
        [record(1, 1), record(2, 60)],
        [("k".into(), LeaseId(2)), ("l".into(), LeaseId(3)), ("m".into(), LeaseId(1))],
    );
    assert_eq!(strays, 1);
    assert!(!lessor.is_primary());
    let listed: Vec<_> = lessor.leases().into_iter().map(|info| (info.id.0, info.ttl_seconds)).collect();
    assert_eq!(listed, [(1, 2), (2, 60)]);
    assert_eq!(lessor.lease_of(b"k"), Some(LeaseId(2)));
    assert_eq!(lessor.lease_of(b"l"), None);
}

#[test]
fn dead_queue_entries_do_not_pile_up() {
    let mut lessor = Lessor::new(Options { checkpoint_interval: Some(s(300)), ..Options::default() });
    lessor.promote(s(0), s(0));
    for id in 1..=20_000 {
        lessor.grant(LeaseId(id), 86_400, s(0)).unwrap();
        lessor.checkpoint(LeaseId(id), 0, false, s(0));
        lessor.revoke(LeaseId(id)).unwrap();
    }
    assert_eq!(lessor.len(), 0);
    let text = format!("{lessor:?}");
    assert!(text.len() < 100_000, "the queues still hold {} bytes of text", text.len());
}
