//! Random transactions against a model of nested maps; the whole file is checked after each commit.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use bolt::{Bucket, BucketMut, Db, Options, ReadTx, Value};
use env::sim::SimDisk;
use proptest::prelude::*;

/// A bucket of the model.
#[derive(Clone, Debug, Default, PartialEq)]
struct Tree(BTreeMap<Vec<u8>, Item>);

#[derive(Clone, Debug, PartialEq)]
enum Item {
    Value(Vec<u8>),
    Bucket(Tree),
}

#[derive(Clone, Debug)]
enum Step {
    Put { path: Vec<u8>, key: u16, len: usize },
    Delete { path: Vec<u8>, key: u16 },
    DeleteRange { path: Vec<u8>, from: u16, count: u16 },
    Append { path: Vec<u8>, count: u16, len: usize },
    DeleteBucket { path: Vec<u8> },
    Commit,
    Rollback,
    OpenReader,
    CloseReader(usize),
    Reopen,
}

fn path() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(0_u8..3, 1..4)
}

fn step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![8 => 0_usize..40, 3 => 100_usize..1200, 1 => 3000_usize..20_000];
    prop_oneof![
        6 => (path(), 0_u16..400, len.clone()).prop_map(|(path, key, len)| Step::Put { path, key, len }),
        3 => (path(), 0_u16..400).prop_map(|(path, key)| Step::Delete { path, key }),
        2 => (path(), 0_u16..400, 1_u16..300).prop_map(|(path, from, count)| Step::DeleteRange { path, from, count }),
        3 => (path(), 1_u16..200, len).prop_map(|(path, count, len)| Step::Append { path, count, len: len % 700 }),
        1 => path().prop_map(|path| Step::DeleteBucket { path }),
        6 => Just(Step::Commit),
        1 => Just(Step::Rollback),
        2 => Just(Step::OpenReader),
        2 => (0_usize..8).prop_map(Step::CloseReader),
        1 => Just(Step::Reopen),
    ]
}

fn key_of(key: u16) -> Vec<u8> {
    // Lengths differ, and a few keys are long enough to need pages of their own in branches.
    let padding = if key.is_multiple_of(97) { 900 } else { usize::from(key % 7) };
    [format!("k{key:05}").into_bytes(), vec![b'x'; padding]].concat()
}

fn name_of(part: u8) -> Vec<u8> {
    format!("~bucket{part}").into_bytes()
}

fn value_of(key: &[u8], len: usize, salt: u64) -> Vec<u8> {
    let seed = key.iter().fold(salt, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
    (0..len).map(|index| (seed.wrapping_add(index as u64 * 7) >> 3) as u8).collect()
}

fn tree_at<'a>(root: &'a mut Tree, path: &[u8]) -> &'a mut Tree {
    path.iter().fold(root, |tree, part| {
        match tree.0.entry(name_of(*part)).or_insert_with(|| Item::Bucket(Tree::default())) {
            Item::Bucket(tree) => tree,
            Item::Value(_) => unreachable!("names of buckets are not keys"),
        }
    })
}

fn with_bucket(tx: &mut bolt::WriteTx<'_>, path: &[u8], run: impl FnOnce(&mut BucketMut<'_>)) {
    let mut bucket = tx.create_bucket_if_missing(&name_of(path[0])).unwrap();
    for part in &path[1..] {
        bucket = bucket.into_created_bucket(&name_of(*part)).unwrap();
    }
    run(&mut bucket);
}

fn content(bucket: Bucket<'_>) -> Tree {
    let mut tree = Tree::default();
    for item in bucket.iter() {
        let (key, value) = item.unwrap();
        let item = match value {
            Value::Data(data) => {
                assert_eq!(bucket.get(key).unwrap(), Some(data));
                Item::Value(data.to_vec())
            }
            Value::Bucket(nested) => Item::Bucket(content(nested)),
        };
        tree.0.insert(key.to_vec(), item);
    }
    let mut backwards = Vec::new();
    let mut cursor = bucket.cursor();
    let mut item = cursor.last().unwrap();
    while let Some((key, _)) = item {
        backwards.push(key.to_vec());
        item = cursor.prev().unwrap();
    }
    backwards.reverse();
    assert!(backwards.iter().eq(tree.0.keys()), "both directions show the same keys");
    let absent = [b"".to_vec(), b"k00250x".to_vec(), b"zzz".to_vec()];
    let keys: Vec<_> = absent.iter().chain(tree.0.keys()).collect();
    let single: Vec<_> = keys.iter().map(|key| bucket.get(key).unwrap()).collect();
    assert_eq!(bucket.get_all(&keys).unwrap(), single);
    for probe in [&b"k00100"[..], b"k00250x", b"", b"zzz"] {
        let found = bucket.cursor().seek(probe).unwrap().map(|(key, _)| key.to_vec());
        assert_eq!(found.as_ref(), tree.0.range(probe.to_vec()..).next().map(|(key, _)| key));
    }
    tree
}

fn scanned(bucket: &BucketMut<'_>) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
    let mut items = Vec::new();
    bucket
        .scan(b"", &mut |key, value| {
            items.push((key.to_vec(), value.map(<[u8]>::to_vec)));
            ControlFlow::Continue(())
        })
        .unwrap();
    items
}

struct World {
    disk: SimDisk,
    options: fn() -> Options,
    db: Option<Db>,
    committed: Tree,
    readers: Vec<(ReadTx, Tree)>,
    salt: u64,
}

impl World {
    fn open(&mut self) {
        self.db = Some(Db::open(Arc::new(self.disk.clone()), Path::new("db"), (self.options)()).unwrap());
    }

    /// Runs the steps up to the next commit or the like in one transaction.
    fn run(&mut self, steps: &[Step]) {
        let mut rest = steps;
        while !rest.is_empty() {
            let ends = |step: &Step| {
                !matches!(
                    step,
                    Step::Put { .. }
                        | Step::Delete { .. }
                        | Step::DeleteRange { .. }
                        | Step::Append { .. }
                        | Step::DeleteBucket { .. }
                )
            };
            let end = rest.iter().position(ends).unwrap_or(rest.len());
            self.transaction(&rest[..end], rest.get(end));
            if let Some(step) = rest.get(end) {
                self.between(step);
            }
            rest = &rest[(end + 1).min(rest.len())..];
        }
    }

    fn transaction(&mut self, steps: &[Step], last: Option<&Step>) {
        let db = self.db.clone().unwrap();
        let mut tree = self.committed.clone();
        let mut tx = db.write().unwrap();
        for step in steps {
            self.salt += 1;
            self.change(&mut tx, &mut tree, step);
        }
        if matches!(last, Some(Step::Rollback)) {
            return;
        }
        tx.commit().unwrap();
        self.committed = tree;
        assert_eq!(content(db.read().root()), self.committed);
    }

    fn change(&self, tx: &mut bolt::WriteTx<'_>, tree: &mut Tree, step: &Step) {
        match step {
            Step::Put { path, key, len } => {
                let (tree, key) = (tree_at(tree, path), key_of(*key));
                let value = value_of(&key, *len, self.salt);
                with_bucket(tx, path, |bucket| bucket.put(&key, &value).unwrap());
                tree.0.insert(key, Item::Value(value));
            }
            Step::Delete { path, key } => {
                let (tree, key) = (tree_at(tree, path), key_of(*key));
                let there = tree.0.remove(&key).is_some();
                with_bucket(tx, path, |bucket| assert_eq!(bucket.delete(&key).unwrap(), there));
            }
            Step::DeleteRange { path, from, count } => {
                let tree = tree_at(tree, path);
                with_bucket(tx, path, |bucket| {
                    for key in *from..*from + *count {
                        let there = tree.0.remove(&key_of(key)).is_some();
                        assert_eq!(bucket.delete(&key_of(key)).unwrap(), there);
                    }
                    let expected: Vec<_> = tree
                        .0
                        .iter()
                        .map(|(key, item)| match item {
                            Item::Value(value) => (key.clone(), Some(value.clone())),
                            Item::Bucket(_) => (key.clone(), None),
                        })
                        .collect();
                    assert_eq!(scanned(bucket), expected, "a transaction sees its own changes");
                });
            }
            Step::Append { path, count, len } => {
                let tree = tree_at(tree, path);
                with_bucket(tx, path, |bucket| {
                    bucket.set_fill_percent(0.9);
                    let last = tree.0.keys().rfind(|key| key[0] == b'l').cloned();
                    let next = last.map_or(0, |key| {
                        String::from_utf8(key[1..].to_vec()).unwrap().parse::<u64>().unwrap() + 1
                    });
                    for index in next..next + u64::from(*count) {
                        let key = format!("l{index:016}").into_bytes();
                        let value = value_of(&key, *len, self.salt);
                        bucket.put(&key, &value).unwrap();
                        assert_eq!(bucket.get(&key).unwrap(), Some(&value[..]));
                        tree.0.insert(key, Item::Value(value));
                    }
                });
            }
            Step::DeleteBucket { path } => {
                let (name, parents) = path.split_last().unwrap();
                let (name, mut at) = (name_of(*name), &mut *tree);
                for part in parents {
                    at = tree_at(at, &[*part]);
                }
                let there = at.0.remove(&name).is_some();
                let result = if parents.is_empty() {
                    tx.delete_bucket(&name)
                } else {
                    let mut result = Ok(());
                    with_bucket(tx, parents, |bucket| result = bucket.delete_bucket(&name));
                    result
                };
                assert_eq!(result.is_ok(), there, "{result:?}");
            }
            _ => unreachable!("not a change"),
        }
    }

    fn between(&mut self, step: &Step) {
        match step {
            Step::OpenReader => {
                let reader = self.db.as_ref().unwrap().read();
                self.readers.push((reader, self.committed.clone()));
            }
            Step::CloseReader(index) if *index < self.readers.len() => drop(self.readers.remove(*index)),
            Step::Reopen => {
                self.check_readers();
                self.readers.clear();
                self.db = None;
                self.open();
                assert_eq!(content(self.db.as_ref().unwrap().read().root()), self.committed);
            }
            _ => {}
        }
        self.check_readers();
    }

    fn check_readers(&self) {
        for (reader, expected) in &self.readers {
            assert_eq!(&content(reader.root()), expected, "a reader sees its own state for ever");
        }
    }
}

fn run(options: fn() -> Options, steps: &[Step]) {
    let mut world = World {
        disk: SimDisk::new(),
        options,
        db: None,
        committed: Tree::default(),
        readers: Vec::new(),
        salt: 0,
    };
    world.open();
    world.run(steps);
    world.between(&Step::Reopen);
    assert_eq!(world.db.as_ref().unwrap().read().check(), []);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_a_map(steps in prop::collection::vec(step(), 1..60)) {
        run(|| Options { verify: true, ..Options::default() }, &steps);
    }

    #[test]
    fn agrees_with_a_map_with_small_pages_and_the_freelist_in_the_file(steps in prop::collection::vec(step(), 1..60)) {
        run(|| Options { verify: true, page_size: 1024, no_freelist_sync: false, ..Options::default() }, &steps);
    }
}

/// Long keys make trees of many levels; deleting most of them makes merges climb through these.
#[derive(Clone, Debug)]
enum DeepStep {
    Put(u16, u16),
    Delete(u16, u16),
    Keep(u16),
    Commit,
}

fn deep_step() -> impl Strategy<Value = DeepStep> {
    prop_oneof![
        3 => (0_u16..600, 1_u16..300).prop_map(|(from, count)| DeepStep::Put(from, count)),
        4 => (0_u16..600, 1_u16..200).prop_map(|(from, count)| DeepStep::Delete(from, count)),
        1 => (2_u16..40).prop_map(DeepStep::Keep),
        4 => Just(DeepStep::Commit),
    ]
}

fn long_key(key: u16) -> Vec<u8> {
    let padding = 150 + usize::from(key % 11) * 40;
    [format!("{key:05}").into_bytes(), vec![b'x'; padding]].concat()
}

fn run_deep(steps: &[DeepStep]) {
    let options = Options { verify: true, page_size: 1024, ..Options::default() };
    let db = Db::open(Arc::new(SimDisk::new()), Path::new("db"), options).unwrap();
    let mut model = BTreeMap::new();
    for transaction in steps.split(|step| matches!(step, DeepStep::Commit)) {
        let mut tx = db.write().unwrap();
        let mut bucket = tx.create_bucket_if_missing(b"deep").unwrap();
        let mut delete = |bucket: &mut BucketMut<'_>, key: u16| {
            let there = model.remove(&long_key(key)).is_some();
            assert_eq!(bucket.delete(&long_key(key)).unwrap(), there);
        };
        for step in transaction {
            match step {
                DeepStep::Delete(from, count) => {
                    (*from..from + count).for_each(|key| delete(&mut bucket, key))
                }
                DeepStep::Keep(every) => {
                    (0..900).filter(|key| key % every != 0).for_each(|key| delete(&mut bucket, key));
                }
                _ => {}
            }
        }
        for step in transaction {
            if let DeepStep::Put(from, count) = step {
                for key in *from..from + count {
                    bucket.put(&long_key(key), &key.to_be_bytes()).unwrap();
                    model.insert(long_key(key), key.to_be_bytes().to_vec());
                }
            }
        }
        tx.commit().unwrap();
        let read = db.read();
        let bucket = read.bucket(b"deep").unwrap().unwrap();
        let found: Vec<_> = bucket.iter().map(|item| item.unwrap().0.to_vec()).collect();
        assert!(found.iter().eq(model.keys()));
        let (keys, values): (Vec<_>, Vec<_>) =
            model.iter().map(|(key, value)| (key, Some(&value[..]))).unzip();
        assert_eq!(bucket.get_all(&keys).unwrap(), values);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn deep_trees_agree_with_a_map(steps in prop::collection::vec(deep_step(), 1..60)) {
        run_deep(&steps);
    }
}
