//! Every target over its seeds, over mutations of them, and over all inputs that once found
//! something. The fuzzer looks further; this holds what it has shown, on any toolchain.

use std::cell::RefCell;
use std::path::Path;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

use env::{Random, SeededRandom};
use fuzz_targets::{TARGETS, Target};
use parking_lot::Mutex;

/// Longest input that mutations grow to.
const MOST_BYTES: usize = 16 << 10;

/// Panics so far, on whatever thread: a runtime catches those of its tasks.
static PANICS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static CURRENT: RefCell<Option<(&'static str, Vec<u8>)>> = const { RefCell::new(None) };
}

/// Counts panics and says which input caused them.
fn watch_for_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let default = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANICS.fetch_add(1, Ordering::SeqCst);
            CURRENT.with_borrow(|current| {
                if let Some((name, input)) = current {
                    eprintln!("target {name}, input {}", hex(input));
                }
            });
            default(info);
        }));
    });
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn run(target: &Target, input: &[u8]) {
    CURRENT.set(Some((target.name, input.to_vec())));
    (target.run)(input);
    CURRENT.set(None);
}

/// One to four small changes, as fuzzers make them.
fn mutate(input: &mut Vec<u8>, other: &[u8], random: &mut SeededRandom) {
    const NUMBERS: [u64; 9] = [0, 1, 0x7f, 0x80, 0xff, 0x7fff_ffff, 0xffff_ffff, i64::MAX as u64, u64::MAX];
    for _ in 0..=random.below(4) {
        let at = random.below(input.len() as u64 + 1) as usize;
        let len = (random.below(12) + 1) as usize;
        let end = (at + len).min(input.len());
        match random.below(8) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => input[at] = random.next_u64() as u8,
            2 => drop(input.drain(at..end)),
            3 => {
                let new: Vec<u8> = (0..len).map(|_| random.next_u64() as u8).collect();
                input.splice(at..at, new);
            }
            4 => {
                let number = NUMBERS[random.below(9) as usize].to_le_bytes();
                let width = 1 << random.below(4);
                let end = (at + width).min(input.len());
                input[at..end].copy_from_slice(&number[..end - at]);
            }
            5 => {
                let copy = input[at..end].to_vec();
                let to = random.below(input.len() as u64 + 1) as usize;
                input.splice(to..to, copy);
            }
            6 if !other.is_empty() => {
                let from = random.below(other.len() as u64) as usize;
                let end = (from + 4 * len).min(other.len());
                input.splice(at..at, other[from..end].iter().copied());
            }
            7 => input.truncate(at),
            _ => input.push(random.next_u64() as u8),
        }
    }
    input.truncate(MOST_BYTES);
}

/// One test at a time: a panic on another thread is counted for whoever runs.
static TURN: Mutex<()> = Mutex::new(());

fn check(name: &str) {
    let _turn = TURN.lock();
    watch_for_panics();
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target of that name");
    let before = PANICS.load(Ordering::SeqCst);
    let seeds = (target.seeds)();
    for (_, seed) in &seeds {
        run(target, seed);
    }
    let finds = Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions").join(name);
    for find in std::fs::read_dir(&finds).into_iter().flatten() {
        run(target, &std::fs::read(find.unwrap().path()).unwrap());
    }
    let mut random = SeededRandom::new(7);
    for _ in 0..target.smoke_rounds {
        let mut pick = || &seeds[random.below(seeds.len() as u64) as usize].1;
        let (mut input, other) = (pick().clone(), pick());
        mutate(&mut input, other, &mut random);
        run(target, &input);
    }
    assert_eq!(PANICS.load(Ordering::SeqCst), before, "something panicked, see above");
}

macro_rules! smoke_tests {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            check(stringify!($name));
        })*

        /// A target without a test would be forgotten.
        #[test]
        fn every_target_is_tested() {
            let tested = [$(stringify!($name)),*];
            assert_eq!(TARGETS.iter().map(|target| target.name).collect::<Vec<_>>(), tested);
        }
    };
}

smoke_tests! {
    wal_records snap_file bolt_page bolt_image request raft_message grpc_bytes http2_bytes certificates json_body
}

/// The corpus keeps each seed in a file of its name.
#[test]
fn seeds_have_names_of_their_own() {
    let _turn = TURN.lock();
    for target in TARGETS {
        let mut names: Vec<_> = (target.seeds)().into_iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{}: {names:?}", target.name);
        assert!(names.len() >= 2, "{}", target.name);
    }
}
