//! What clients did and saw, and whether one order of it explains everything.
//!
//! Every answer names the revision it belongs to, so the order has not to be searched for: it is the
//! order of revisions. What is left to check takes one walk over the operations in time:
//!
//! - an acknowledged put is in the history, once, at the revision that its answer named;
//! - a put without an answer is there at most once, and not before it was sent;
//! - a read shows its key as the history has it at the revision that its answer named;
//! - whatever began after something had ended has a revision that is not smaller (puts: that is
//!   larger).
//!
//! The history itself comes from watchers ([`Timeline`]), who must all have seen the same.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{bail, ensure};

/// A put or a linearizable read of a client. Times count from the start of the test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// The key.
    pub key: String,
    /// When it was sent.
    pub sent: Duration,
    /// What was asked.
    pub call: Call,
    /// When the answer came, and the revision that it named.
    pub answer: Option<(Duration, i64)>,
}

/// What was asked and, for a read, answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// Writes a value that nobody else writes.
    Put(String),
    /// Found this value with this revision of its last change.
    Get(Option<(String, i64)>),
}

/// A change of a key: its new value, or nothing if it was deleted.
pub type Change = (String, Option<String>);

/// The changes of each revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timeline {
    revisions: BTreeMap<i64, Vec<Change>>,
}

impl Timeline {
    /// Takes what a watcher was told, all changes of a revision together.
    ///
    /// # Errors
    /// Another watcher was told something else.
    pub fn tell(&mut self, revision: i64, changes: Vec<Change>) -> anyhow::Result<()> {
        let known = self.revisions.entry(revision).or_insert_with(|| changes.clone());
        ensure!(
            *known == changes,
            "revision {revision} is {known:?} to one watcher and {changes:?} to another"
        );
        Ok(())
    }

    /// Number of revisions.
    pub fn len(&self) -> usize {
        self.revisions.len()
    }

    /// Whether nothing happened.
    pub fn is_empty(&self) -> bool {
        self.revisions.is_empty()
    }

    /// The newest revision.
    pub fn last(&self) -> i64 {
        self.revisions.last_key_value().map_or(0, |(revision, _)| *revision)
    }
}

/// Checks operations against the history.
///
/// # Errors
/// The first thing that no order explains.
pub fn check(operations: &[Operation], timeline: &Timeline) -> anyhow::Result<()> {
    let mut written: BTreeMap<(&str, &str), i64> = BTreeMap::new();
    let mut keys: BTreeMap<&str, BTreeMap<i64, Option<&str>>> = BTreeMap::new();
    for (revision, changes) in &timeline.revisions {
        for (key, value) in changes {
            keys.entry(key).or_default().insert(*revision, value.as_deref());
            if let Some(value) = value
                && let Some(first) = written.insert((key, value), *revision)
            {
                bail!("{key} = {value} was written at revision {first} and again at {revision}");
            }
        }
    }
    let mut sends = Vec::new();
    let mut ends = Vec::new();
    for operation in operations {
        let (revision, is_put) = match &operation.call {
            Call::Put(value) => match settle_put(operation, value, &written)? {
                Some(revision) => (revision, true),
                None => continue,
            },
            Call::Get(found) => {
                let Some((_, revision)) = operation.answer else { continue };
                check_read(operation, found.as_ref(), revision, keys.get(operation.key.as_str()))?;
                (revision, false)
            }
        };
        sends.push((operation.sent, revision, is_put, operation));
        ends.extend(operation.answer.map(|(end, _)| (end, revision)));
    }
    check_order(sends, ends)
}

/// Where the history has a put; `None` if it never happened.
fn settle_put(
    operation: &Operation,
    value: &str,
    written: &BTreeMap<(&str, &str), i64>,
) -> anyhow::Result<Option<i64>> {
    let found = written.get(&(operation.key.as_str(), value)).copied();
    if let Some((_, told)) = operation.answer {
        ensure!(found == Some(told), "acknowledged at revision {told}, found at {found:?}: {operation:?}");
    }
    Ok(found)
}

fn check_read(
    operation: &Operation,
    found: Option<&(String, i64)>,
    revision: i64,
    history: Option<&BTreeMap<i64, Option<&str>>>,
) -> anyhow::Result<()> {
    let latest = history.and_then(|changes| changes.range(..=revision).next_back());
    let due = latest.and_then(|(at, value)| value.map(|value| (value, *at)));
    let found = found.map(|(value, at)| (value.as_str(), *at));
    ensure!(found == due, "at revision {revision} the key holds {due:?}: {operation:?}");
    Ok(())
}

/// Nothing that began after something had ended lies before it.
fn check_order(
    mut sends: Vec<(Duration, i64, bool, &Operation)>,
    mut ends: Vec<(Duration, i64)>,
) -> anyhow::Result<()> {
    sends.sort_by_key(|(sent, ..)| *sent);
    ends.sort_unstable();
    let mut ended = ends.into_iter().peekable();
    let mut newest = 0;
    for (sent, revision, is_put, operation) in sends {
        while let Some((_, at)) = ended.next_if(|(end, _)| *end < sent) {
            newest = newest.max(at);
        }
        let fits = revision > newest || (!is_put && revision == newest);
        ensure!(
            fits,
            "revision {newest} had been answered before this was sent, which got {revision}: {operation:?}"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(value: &str, sent: u64, answer: Option<(u64, i64)>) -> Operation {
        let answer = answer.map(|(end, revision)| (Duration::from_secs(end), revision));
        Operation { key: "k".into(), sent: Duration::from_secs(sent), call: Call::Put(value.into()), answer }
    }

    fn get(found: Option<(&str, i64)>, sent: u64, answer: (u64, i64)) -> Operation {
        let found = found.map(|(value, at)| (value.to_owned(), at));
        Operation { call: Call::Get(found), ..put("", sent, Some(answer)) }
    }

    /// Revision 2 is `a`, 3 is `b`, 4 deletes, 5 is `c`.
    fn timeline() -> Timeline {
        let mut timeline = Timeline::default();
        for (revision, value) in [(2, Some("a")), (3, Some("b")), (4, None), (5, Some("c"))] {
            timeline.tell(revision, vec![("k".to_owned(), value.map(str::to_owned))]).unwrap();
        }
        timeline
    }

    fn base() -> Vec<Operation> {
        vec![
            put("a", 0, Some((1, 2))),
            get(Some(("a", 2)), 2, (3, 2)),
            put("b", 2, None),
            get(None, 6, (9, 4)),
            put("c", 7, Some((8, 5))),
            put("never", 3, None),
        ]
    }

    #[test]
    fn what_one_order_explains_passes() {
        check(&base(), &timeline()).unwrap();
    }

    #[test]
    fn what_no_order_explains_is_found() {
        let bad = [
            ("a lost write", put("lost", 0, Some((9, 3)))),
            ("another revision than told", put("b", 2, Some((9, 4)))),
            ("a value from the future", get(Some(("b", 3)), 2, (9, 2))),
            ("a stale read", get(Some(("a", 2)), 9, (10, 2))),
            ("a deleted key", get(Some(("b", 3)), 6, (7, 4))),
            ("a wrong revision of a value", get(Some(("a", 3)), 2, (9, 2))),
            ("an effect before its cause", put("b", 9, None)),
        ];
        for (what, operation) in bad {
            let mut operations = base();
            operations.retain(|kept| kept.call != operation.call || matches!(kept.call, Call::Get(_)));
            operations.push(operation);
            assert!(check(&operations, &timeline()).is_err(), "{what}");
        }
    }

    #[test]
    fn watchers_must_agree_and_values_come_once() {
        let mut timeline = timeline();
        assert!(timeline.tell(3, vec![("k".into(), Some("x".into()))]).is_err());
        timeline.tell(6, vec![("k".into(), Some("a".into()))]).unwrap();
        assert_eq!((timeline.len(), timeline.last()), (5, 6));
        assert!(check(&base(), &timeline).is_err());
    }
}
