//! The trace of a run: one number over everything that happened, and the lines, if wanted.

/// Folds what happens into a hash; prints it if asked.
#[derive(Debug)]
pub(crate) struct Trace {
    hash: u64,
    print: bool,
    /// Lines before this moment are not printed.
    print_from: u64,
}

/// Mixes a number into a hash.
pub(crate) fn mix(hash: u64, number: u64) -> u64 {
    let mixed = (hash ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}

/// Hash of bytes.
pub(crate) fn digest(bytes: &[u8]) -> u64 {
    let mut hash = mix(0xcbf2_9ce4_8422_2325, bytes.len() as u64);
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        let mut word = [0; 8];
        word.copy_from_slice(chunk);
        hash = mix(hash, u64::from_le_bytes(word));
    }
    for byte in chunks.remainder() {
        hash = mix(hash, u64::from(*byte));
    }
    hash
}

impl Trace {
    pub(crate) fn new(print: bool, print_from: u64) -> Self {
        Self { hash: 0, print, print_from }
    }

    /// Notes something that happened at `now` (microseconds).
    pub(crate) fn note(
        &mut self,
        now: u64,
        what: &'static str,
        numbers: &[u64],
        text: impl FnOnce() -> String,
    ) {
        self.hash = mix(mix(self.hash, now), digest(what.as_bytes()));
        for number in numbers {
            self.hash = mix(self.hash, *number);
        }
        if self.print && now >= self.print_from {
            println!("{:>10}.{:03} {what:<10} {}", now / 1000, now % 1000, text());
        }
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }
}
