//! What clients were told, checked for linearizability.
//!
//! A general checker searches for an order of all calls that explains every answer. Here the order
//! comes with the answers: each names the revision of the store at which it was true. So it is
//! enough to check that this order is one ([`check`]):
//! - it respects time: what was called after something returned comes after it (a write has a
//!   higher revision, a read none that is lower);
//! - it explains the answers: each write is in the story at its revision, each read and each
//!   comparison gives what the story has at its revision;
//! - a call whose outcome is not known happened once or not at all, and not before it was called;
//! - nothing is in the story that nobody asked for.
//!
//! The story is what a watcher of everything is told ([`Story`]); it has to follow a naive model of
//! revisions and versions. Values are unique: a value tells which call wrote it.
//!
//! Serializable reads may be old, but each has to be true at its revision.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use proto::mvccpb::event::EventType;
use proto::mvccpb::{Event, KeyValue};

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// A put of a value that nobody else writes.
    Put {
        /// Where.
        key: Bytes,
        /// What.
        value: Bytes,
    },
    /// The same if the key still has this modification revision (0: does not exist); otherwise a
    /// read of the key.
    Swap {
        /// Where.
        key: Bytes,
        /// Revision that the key must have.
        expected: i64,
        /// What.
        value: Bytes,
    },
    /// A deletion of one key.
    Delete {
        /// Which.
        key: Bytes,
    },
    /// A read of `[key, end)`, of one key if there is no end.
    Read {
        /// From.
        key: Bytes,
        /// To.
        end: Bytes,
        /// Whether an old state is good enough.
        serializable: bool,
    },
}

/// What it is told.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// The put, the deletion (of something) or the swap happened.
    Written,
    /// The deletion found nothing.
    NothingThere,
    /// The comparison failed; what the key holds.
    Different(Option<KeyValue>),
    /// What was read.
    Kvs(Vec<KeyValue>),
}

/// A call and its answer.
#[derive(Clone, Debug)]
pub struct Call {
    /// Who asked.
    pub client: usize,
    /// `host:port` of the member that was asked.
    pub member: String,
    /// What was asked for.
    pub op: Op,
    /// When it was sent.
    pub called: Duration,
    /// When the answer came, or the client gave up.
    pub returned: Duration,
    /// The revision and the answer; or why there is none, and then it may have happened, or happen
    /// later.
    pub answer: Result<(i64, Answer), String>,
}

/// All changes in order.
#[derive(Debug, Default)]
pub struct Story {
    /// The events, as a watcher gets them.
    pub events: Vec<Event>,
    keys: BTreeMap<Bytes, Vec<(i64, Option<KeyValue>)>>,
}

impl Story {
    /// Takes all events since the first revision.
    ///
    /// # Errors
    /// They contradict the rules of revisions.
    pub fn new(events: Vec<Event>) -> anyhow::Result<Self> {
        let mut story = Self { keys: BTreeMap::new(), events: Vec::new() };
        let mut last = 1;
        for event in events {
            let kv = event.kv.clone().context("an event without a key")?;
            let revision = kv.mod_revision;
            ensure!(revision == last || revision == last + 1, "revision {revision} follows {last}");
            last = revision;
            let versions = story.keys.entry(kv.key.clone()).or_default();
            let before = versions.last().and_then(|(_, kv)| kv.as_ref());
            if event.r#type() == EventType::Delete {
                ensure!(before.is_some(), "revision {revision} deletes {:?}, which was not there", kv.key);
                versions.push((revision, None));
            } else {
                let created = before.map_or(revision, |before| before.create_revision);
                let version = before.map_or(1, |before| before.version + 1);
                ensure!(
                    (kv.create_revision, kv.version) == (created, version),
                    "revision {revision} should be version {version} since {created}: {kv:?}"
                );
                versions.push((revision, Some(kv)));
            }
            story.events.push(event);
        }
        Ok(story)
    }

    /// The last revision.
    pub fn revision(&self) -> i64 {
        self.events.last().and_then(|event| event.kv.as_ref()).map_or(1, |kv| kv.mod_revision)
    }

    /// What a key holds at a revision.
    pub fn at(&self, key: &Bytes, revision: i64) -> Option<&KeyValue> {
        let versions = self.keys.get(key)?;
        let later = versions.partition_point(|(changed, _)| *changed <= revision);
        versions.get(later.checked_sub(1)?)?.1.as_ref()
    }

    /// The key's change at exactly this revision: `None` if there is none, `Some(None)` for a
    /// deletion.
    fn change(&self, key: &Bytes, revision: i64) -> Option<Option<&KeyValue>> {
        let versions = self.keys.get(key)?;
        let place = versions.binary_search_by_key(&revision, |(changed, _)| *changed).ok()?;
        Some(versions[place].1.as_ref())
    }

    fn range(&self, key: &Bytes, end: &Bytes, revision: i64) -> Vec<&KeyValue> {
        if end.is_empty() {
            return self.at(key, revision).into_iter().collect();
        }
        let keys = self.keys.range(key.clone()..end.clone()).map(|(key, _)| key);
        keys.filter_map(|key| self.at(key, revision)).collect()
    }

    /// When this value was written under this key.
    fn written(&self, key: &Bytes, value: &Bytes) -> Option<i64> {
        let versions = self.keys.get(key)?;
        versions.iter().find(|(_, kv)| kv.as_ref().is_some_and(|kv| kv.value == *value)).map(|(at, _)| *at)
    }
}

/// What a history was made of, for the log of a test.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Acknowledged writes.
    pub writes: usize,
    /// Answered reads, refused swaps included.
    pub reads: usize,
    /// Calls without an answer.
    pub unknown: usize,
    /// Writes without an answer that happened all the same.
    pub happened: usize,
}

/// Checks the calls of all clients whose keys begin with `prefix`, which belongs to them alone.
///
/// # Errors
/// No order of the calls explains the answers.
pub fn check(calls: &[Call], story: &Story, prefix: &str) -> anyhow::Result<Summary> {
    let mut summary = Summary::default();
    for call in calls {
        explain(call, story, &mut summary).with_context(|| format!("{call:?}"))?;
    }
    in_time(calls, story)?;
    nothing_else(calls, story, prefix)?;
    Ok(summary)
}

/// Whether the story has what the answer says.
fn explain(call: &Call, story: &Story, summary: &mut Summary) -> anyhow::Result<()> {
    let Ok((revision, answer)) = &call.answer else {
        summary.unknown += 1;
        summary.happened += usize::from(place(call, story).is_some());
        return Ok(());
    };
    let revision = *revision;
    ensure!(revision <= story.revision(), "the story ends at {}", story.revision());
    summary.writes += usize::from(*answer == Answer::Written);
    summary.reads += usize::from(*answer != Answer::Written);
    match (&call.op, answer) {
        (Op::Put { key, value }, Answer::Written) => written(story, key, value, revision),
        (Op::Swap { key, value, expected }, Answer::Written) => {
            let before = story.at(key, revision - 1).map_or(0, |kv| kv.mod_revision);
            ensure!(before == *expected, "it was at {before} then");
            written(story, key, value, revision)
        }
        (Op::Swap { key, expected, .. }, Answer::Different(held)) => {
            let there = story.at(key, revision);
            ensure!(there == held.as_ref(), "the story has {there:?}");
            let mod_revision = there.map_or(0, |kv| kv.mod_revision);
            ensure!(mod_revision != *expected, "the comparison should have held");
            Ok(())
        }
        (Op::Delete { key }, Answer::Written) => {
            ensure!(story.change(key, revision) == Some(None), "the story has no deletion there");
            Ok(())
        }
        (Op::Delete { key }, Answer::NothingThere) => {
            ensure!(story.at(key, revision).is_none(), "there was something");
            Ok(())
        }
        (Op::Read { key, end, .. }, Answer::Kvs(kvs)) => {
            let there = story.range(key, end, revision);
            ensure!(there.iter().copied().eq(kvs), "the story has {there:?}");
            Ok(())
        }
        _ => bail!("an answer of another kind"),
    }
}

fn written(story: &Story, key: &Bytes, value: &Bytes, revision: i64) -> anyhow::Result<()> {
    let there = story.change(key, revision).flatten();
    ensure!(
        there.is_some_and(|kv| kv.value == *value),
        "the story has {there:?}: an acknowledged write is lost"
    );
    Ok(())
}

/// The revision at which a call happened, and whether it wrote; none for a read or deletion without
/// an answer, or a write that is not in the story.
fn place(call: &Call, story: &Story) -> Option<(i64, bool)> {
    match (&call.answer, &call.op) {
        (Ok((revision, answer)), _) => Some((*revision, *answer == Answer::Written)),
        (Err(_), Op::Put { key, value } | Op::Swap { key, value, .. }) => {
            Some((story.written(key, value)?, true))
        }
        (Err(_), Op::Delete { .. } | Op::Read { .. }) => None,
    }
}

/// Whether the order respects time.
fn in_time(calls: &[Call], story: &Story) -> anyhow::Result<()> {
    let placed: Vec<(&Call, i64, bool)> = calls
        .iter()
        .filter_map(|call| place(call, story).map(|(revision, wrote)| (call, revision, wrote)))
        .collect();
    let mut by_start: Vec<_> = placed.iter().collect();
    by_start.sort_by_key(|(call, ..)| call.called);
    // What returned without an answer is not known to have happened before anything.
    let mut by_end: Vec<_> = placed.iter().filter(|(call, ..)| call.answer.is_ok()).collect();
    by_end.sort_by_key(|(call, ..)| call.returned);
    let mut ended = by_end.into_iter().peekable();
    let mut newest: Option<(&Call, i64)> = None;
    for (call, revision, wrote) in by_start {
        while let Some((before, reached, _)) = ended.next_if(|(before, ..)| before.returned < call.called) {
            if newest.is_none_or(|(_, newest)| newest < *reached) {
                newest = Some((before, *reached));
            }
        }
        let Some((before, floor)) = newest else { continue };
        let old = if *wrote { *revision <= floor } else { *revision < floor };
        let may_be_old = matches!(call.op, Op::Read { serializable: true, .. });
        ensure!(
            !old || may_be_old,
            "out of order: at {revision}:\n{call:?}\nwas called after this at {floor} had returned:\n{before:?}"
        );
    }
    Ok(())
}

/// Whether every change in the story was asked for, and once.
fn nothing_else(calls: &[Call], story: &Story, prefix: &str) -> anyhow::Result<()> {
    let mut values = HashMap::new();
    let mut deletions = HashMap::new();
    let mut open_deletions: HashMap<&Bytes, usize> = HashMap::new();
    for call in calls {
        match (&call.op, &call.answer) {
            (Op::Put { key, value } | Op::Swap { key, value, .. }, answer) => {
                let refused = matches!(answer, Ok((_, Answer::Different(_))));
                let known = values.insert(value, (key, refused));
                ensure!(known.is_none(), "the value {value:?} is not unique: this checks nothing");
            }
            (Op::Delete { key }, Ok((revision, Answer::Written))) => drop(deletions.insert(revision, key)),
            (Op::Delete { key }, Err(_)) => *open_deletions.entry(key).or_default() += 1,
            _ => {}
        }
    }
    for event in &story.events {
        let Some(kv) = event.kv.as_ref().filter(|kv| kv.key.starts_with(prefix.as_bytes())) else { continue };
        if event.r#type() == EventType::Delete {
            if deletions.get(&kv.mod_revision) != Some(&&kv.key) {
                let open = open_deletions.get_mut(&kv.key).filter(|open| **open > 0);
                *open.with_context(|| format!("nobody deleted {:?} at {}", kv.key, kv.mod_revision))? -= 1;
            }
            continue;
        }
        let wrote = values.remove(&kv.value);
        let (key, refused) =
            wrote.with_context(|| format!("nobody wrote {kv:?}, or it was written twice"))?;
        ensure!(*key == kv.key && !refused, "{kv:?} was refused, or meant for {key:?}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kv(key: &str, value: &str, (created, changed, version): (i64, i64, i64)) -> KeyValue {
        KeyValue {
            key: key.to_owned().into(),
            value: value.to_owned().into(),
            create_revision: created,
            mod_revision: changed,
            version,
            lease: 0,
        }
    }

    fn put(kv: KeyValue) -> Event {
        Event { kv: Some(kv), ..Default::default() }
    }

    fn deleted(key: &str, revision: i64) -> Event {
        let kv = kv(key, "", (0, revision, 0));
        Event { r#type: EventType::Delete.into(), kv: Some(kv), ..Default::default() }
    }

    /// a=1 at 2, b=2 at 3, a=3 at 4, b gone at 5, a=4 at 6.
    fn story() -> Story {
        Story::new(vec![
            put(kv("k/a", "1", (2, 2, 1))),
            put(kv("k/b", "2", (3, 3, 1))),
            put(kv("k/a", "3", (2, 4, 2))),
            deleted("k/b", 5),
            put(kv("k/a", "4", (2, 6, 3))),
        ])
        .unwrap()
    }

    fn call(op: Op, (called, returned): (u64, u64), answer: Result<(i64, Answer), String>) -> Call {
        let time = Duration::from_millis;
        let (called, returned) = (time(called), time(returned));
        Call { client: 0, member: String::new(), op, called, returned, answer }
    }

    fn write(key: &'static str, value: &'static str) -> Op {
        Op::Put { key: key.into(), value: value.into() }
    }

    fn swap(expected: i64, value: &'static str) -> Op {
        Op::Swap { key: "k/a".into(), expected, value: value.into() }
    }

    fn read(serializable: bool) -> Op {
        Op::Read { key: "k/a".into(), end: "k/c".into(), serializable }
    }

    fn good() -> Vec<Call> {
        let both = vec![kv("k/a", "3", (2, 4, 2)), kv("k/b", "2", (3, 3, 1))];
        vec![
            call(write("k/a", "1"), (0, 10), Ok((2, Answer::Written))),
            // Overlaps with the one before and the one behind.
            call(write("k/b", "2"), (5, 30), Ok((3, Answer::Written))),
            call(swap(2, "3"), (20, 35), Ok((4, Answer::Written))),
            call(read(false), (25, 50), Ok((4, Answer::Kvs(both.clone())))),
            call(Op::Delete { key: "k/b".into() }, (40, 60), Err("timeout".into())),
            call(swap(2, "9"), (70, 80), Ok((5, Answer::Different(Some(kv("k/a", "3", (2, 4, 2))))))),
            call(Op::Delete { key: "k/b".into() }, (70, 80), Ok((5, Answer::NothingThere))),
            call(write("k/a", "4"), (70, 90), Err("timeout".into())),
            call(write("k/a", "5"), (70, 90), Err("timeout".into())),
            call(read(true), (200, 210), Ok((4, Answer::Kvs(both)))),
        ]
    }

    fn finding(change: impl FnOnce(&mut Vec<Call>)) -> String {
        let mut calls = good();
        change(&mut calls);
        format!("{:#}", check(&calls, &story(), "k/").unwrap_err())
    }

    #[test]
    fn an_order_that_explains_all_answers_is_accepted() {
        let summary = check(&good(), &story(), "k/").unwrap();
        assert_eq!(summary, Summary { writes: 3, reads: 4, unknown: 3, happened: 1 });
    }

    #[test]
    fn what_no_order_explains_is_found() {
        let lost = finding(|calls| calls[0].answer = Ok((4, Answer::Written)));
        assert!(lost.contains("acknowledged write is lost"), "{lost}");
        let stale = finding(|calls| calls[9].op = read(false));
        assert!(stale.contains("out of order"), "{stale}");
        let reordered = finding(|calls| calls[1].called = Duration::from_millis(36));
        assert!(reordered.contains("out of order"), "{reordered}");
        // Seen by a read before it was asked for.
        let early = finding(|calls| {
            calls[7].called = Duration::from_millis(300);
            calls[9].answer = Ok((6, Answer::Kvs(vec![kv("k/a", "4", (2, 6, 3))])));
        });
        assert!(early.contains("out of order"), "{early}");
        let invented = finding(|calls| drop(calls.remove(7)));
        assert!(invented.contains("nobody wrote"), "{invented}");
        let deleted = finding(|calls| drop(calls.remove(4)));
        assert!(deleted.contains("nobody deleted"), "{deleted}");
        let compared = finding(|calls| calls[2].op = swap(3, "3"));
        assert!(compared.contains("it was at 2 then"), "{compared}");
        let refused = finding(|calls| calls[5].op = swap(4, "9"));
        assert!(refused.contains("should have held"), "{refused}");
        let torn = finding(|calls| calls[3].answer = Ok((4, Answer::Kvs(Vec::new()))));
        assert!(torn.contains("the story has"), "{torn}");
        let there = finding(|calls| calls[6].answer = Ok((3, Answer::NothingThere)));
        assert!(there.contains("there was something"), "{there}");
        let twice = finding(|calls| {
            calls[7].op = write("k/a", "3");
            calls[7].called = Duration::from_millis(20);
            calls.remove(2);
        });
        assert!(twice.contains("nobody wrote"), "{twice}");
    }

    #[test]
    fn a_story_follows_the_rules_of_revisions() {
        let wrong = |events: Vec<Event>| Story::new(events).unwrap_err().to_string();
        assert_eq!(wrong(vec![put(kv("a", "1", (3, 3, 1)))]), "revision 3 follows 1");
        assert!(wrong(vec![deleted("a", 2)]).contains("which was not there"));
        let twice = vec![put(kv("a", "1", (2, 2, 1))), put(kv("a", "2", (2, 3, 1)))];
        assert!(wrong(twice).contains("should be version 2 since 2"));
    }
}
