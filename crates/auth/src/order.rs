//! The order that Go's `sort.Sort` gives to elements that compare equal.
//!
//! A role's permissions are kept sorted by key with that function, which is not stable, and a grant
//! changes the first permission of its key if that has the same range, else adds one. So the order
//! of permissions with equal keys decides what a later grant does. Members of one cluster must do
//! the same with an entry, whoever made them: we keep that order too.
//!
//! Up to 12 elements the sort is an insertion sort, which is stable; beyond that this is the
//! pattern-defeating quicksort as Go has it since 1.19, with its constants, its pivots and its
//! generator. A golden file made by Go holds it true.
//!
//! **Source**: the behaviour of Go's package `sort`.

/// Runs of up to this many elements are sorted by insertion.
const INSERTION: usize = 12;
/// From here on a pivot is the median of three medians, and elements may be shifted.
const LONG: usize = 50;
/// Exchanges of a pivot's choice that show a descending run.
const ALL_EXCHANGED: usize = 12;
/// Neighbours out of order that are put right before an almost sorted run counts as unsorted.
const REPAIRS: usize = 5;

/// Sorts as Go does.
pub(crate) fn sort<T>(elements: &mut [T], less: impl Fn(&T, &T) -> bool) {
    let (length, bad_pivots) = (elements.len(), bit_length(elements.len()));
    Sort { elements, less }.range(0, length, bad_pivots);
}

/// Bits that a number needs.
fn bit_length(number: usize) -> u32 {
    usize::BITS - number.leading_zeros()
}

struct Sort<'a, T, F> {
    elements: &'a mut [T],
    less: F,
}

/// What choosing a pivot told about a run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Run {
    Ascending,
    Descending,
    Mixed,
}

impl<T, F: Fn(&T, &T) -> bool> Sort<'_, T, F> {
    fn less(&self, left: usize, right: usize) -> bool {
        (self.less)(&self.elements[left], &self.elements[right])
    }

    fn swap(&mut self, left: usize, right: usize) {
        self.elements.swap(left, right);
    }

    /// Sorts `[start, end)`, going over to a heap after too many bad pivots.
    fn range(&mut self, mut start: usize, mut end: usize, mut bad_pivots: u32) {
        let (mut balanced, mut partitioned) = (true, true);
        loop {
            let length = end - start;
            if length <= INSERTION {
                return self.insert(start, end);
            }
            if bad_pivots == 0 {
                return self.heap(start, end);
            }
            if !balanced {
                self.scatter(start, length);
                bad_pivots -= 1;
            }
            let (mut pivot, mut run) = self.pivot(start, length);
            if run == Run::Descending {
                self.elements[start..end].reverse();
                pivot = end - 1 - (pivot - start);
                run = Run::Ascending;
            }
            if balanced && partitioned && run == Run::Ascending && self.repair(start, end) {
                return;
            }
            if start > 0 && !self.less(start - 1, pivot) {
                start = self.partition_equal(start, end, pivot);
                continue;
            }
            let middle;
            (middle, partitioned) = self.partition(start, end, pivot);
            let (left, right) = (middle - start, end - middle);
            balanced = left.min(right) >= length / 8;
            if left < right {
                self.range(start, middle, bad_pivots);
                start = middle + 1;
            } else {
                self.range(middle + 1, end, bad_pivots);
                end = middle;
            }
        }
    }

    fn insert(&mut self, start: usize, end: usize) {
        for next in start + 1..end {
            let mut at = next;
            while at > start && self.less(at, at - 1) {
                self.swap(at, at - 1);
                at -= 1;
            }
        }
    }

    fn heap(&mut self, start: usize, end: usize) {
        let length = end - start;
        for root in (0..=(length - 1) / 2).rev() {
            self.sift_down(start, root, length);
        }
        for last in (0..length).rev() {
            self.swap(start, start + last);
            self.sift_down(start, 0, last);
        }
    }

    fn sift_down(&mut self, start: usize, mut root: usize, length: usize) {
        loop {
            let mut child = 2 * root + 1;
            if child >= length {
                return;
            }
            if child + 1 < length && self.less(start + child, start + child + 1) {
                child += 1;
            }
            if !self.less(start + root, start + child) {
                return;
            }
            self.swap(start + root, start + child);
            root = child;
        }
    }

    /// Exchanges three elements in the middle with others, drawn from a generator that begins with
    /// the length.
    fn scatter(&mut self, start: usize, length: usize) {
        let mut random = length as u64;
        let mask = (1_u64 << bit_length(length)) - 1;
        let middle = start + length / 4 * 2;
        for at in middle - 1..=middle + 1 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let mut other = (random & mask) as usize;
            if other >= length {
                other -= length;
            }
            self.swap(at, start + other);
        }
    }

    fn pivot(&self, start: usize, length: usize) -> (usize, Run) {
        let quarter = length / 4;
        let [mut first, mut second, mut third] = [1, 2, 3].map(|number| start + quarter * number);
        let mut exchanged = 0;
        if length >= LONG {
            [first, second, third] =
                [first, second, third].map(|at| self.median([at - 1, at, at + 1], &mut exchanged));
        }
        let pivot = self.median([first, second, third], &mut exchanged);
        match exchanged {
            0 => (pivot, Run::Ascending),
            ALL_EXCHANGED => (pivot, Run::Descending),
            _ => (pivot, Run::Mixed),
        }
    }

    fn median(&self, [mut low, mut middle, mut high]: [usize; 3], exchanged: &mut usize) -> usize {
        let mut order = |left: &mut usize, right: &mut usize| {
            if self.less(*right, *left) {
                std::mem::swap(left, right);
                *exchanged += 1;
            }
        };
        order(&mut low, &mut middle);
        order(&mut middle, &mut high);
        order(&mut low, &mut middle);
        middle
    }

    /// Whether a run that looks sorted is, after at most a few elements of a long one were shifted.
    fn repair(&mut self, start: usize, end: usize) -> bool {
        let mut at = start + 1;
        for _ in 0..REPAIRS {
            while at < end && !self.less(at, at - 1) {
                at += 1;
            }
            if at == end {
                return true;
            }
            if end - start < LONG {
                return false;
            }
            self.swap(at, at - 1);
            // To the left down to the very first element, as Go does: what stands before the run is
            // not greater.
            if at - start >= 2 {
                let mut left = at - 1;
                while left >= 1 && self.less(left, left - 1) {
                    self.swap(left, left - 1);
                    left -= 1;
                }
            }
            let mut right = at + 1;
            while right < end && self.less(right, right - 1) {
                self.swap(right, right - 1);
                right += 1;
            }
        }
        false
    }

    /// Puts what is less than the pivot before it; whether that was so already.
    fn partition(&mut self, start: usize, end: usize, pivot: usize) -> (usize, bool) {
        self.swap(start, pivot);
        let (mut low, mut high) = (start + 1, end - 1);
        let mut already = true;
        loop {
            while low <= high && self.less(low, start) {
                low += 1;
            }
            while low <= high && !self.less(high, start) {
                high -= 1;
            }
            if low > high {
                self.swap(high, start);
                return (high, already);
            }
            already = false;
            self.swap(low, high);
            low += 1;
            high -= 1;
        }
    }

    /// Puts what equals the pivot, the least there is, in front; gives where the rest begins.
    fn partition_equal(&mut self, start: usize, end: usize, pivot: usize) -> usize {
        self.swap(start, pivot);
        let (mut low, mut high) = (start + 1, end - 1);
        loop {
            while low <= high && !self.less(start, low) {
                low += 1;
            }
            while low <= high && self.less(start, high) {
                high -= 1;
            }
            if low > high {
                return low;
            }
            self.swap(low, high);
            low += 1;
            high -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each line is what Go's `sort.Sort` made of keys with their places: `keys -> places`.
    /// Made by `tests/order/main.go`.
    #[test]
    fn equal_elements_stand_where_go_puts_them() {
        let mut cases = 0;
        for line in include_str!("../tests/order/golden.txt").lines() {
            let (keys, places) = line.split_once(" -> ").unwrap();
            let numbers =
                |text: &str| text.split(' ').map(|word| word.parse().unwrap()).collect::<Vec<usize>>();
            let mut elements: Vec<(usize, usize)> = numbers(keys).into_iter().zip(0..).collect();
            sort(&mut elements, |left, right| left.0 < right.0);
            let found: Vec<usize> = elements.iter().map(|(_, place)| *place).collect();
            assert_eq!(found, numbers(places), "{keys}");
            cases += 1;
        }
        assert!(cases > 200);
    }
}
