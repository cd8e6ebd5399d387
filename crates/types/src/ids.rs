//! Member, cluster, lease and request ids. Printed as upstream prints them: lower-case hex, no padding.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $repr:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $repr);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:x})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let digits_only = text.bytes().all(|byte| byte.is_ascii_hexdigit());
                match u64::from_str_radix(text, 16) {
                    Ok(number) if digits_only => Ok(Self(number as $repr)),
                    _ => Err(ParseIdError { text: text.to_owned() }),
                }
            }
        }
    };
}

/// Text that is not a hexadecimal id of at most 64 bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseIdError {
    /// The refused text.
    pub text: String,
}

impl fmt::Display for ParseIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not a hexadecimal id of at most 64 bits", self.text)
    }
}

impl std::error::Error for ParseIdError {}

hex_id!(
    /// Id of a member, also its raft node id. 0 means "none".
    MemberId,
    u64
);
hex_id!(
    /// Id of a cluster, fixed at bootstrap.
    ClusterId,
    u64
);
hex_id!(
    /// Id of a lease. Negative ids are legal; 0 means "no lease".
    LeaseId,
    i64
);

/// Id of a request in flight, unique in the cluster: it finds the waiter of an applied entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Hands out request ids: 16 bits of the member id, 40 bits of start time in milliseconds, then
/// an 8-bit counter that overflows into the time.
///
/// Ids can be split into lanes, so that the id alone tells which thread of the member waits for
/// the answer: lane `n` of `count` hands out the ids whose remainder by `count` is `n`.
///
/// **Source**: etcd `pkg/idutil/id.go`; lanes are ours.
#[derive(Debug)]
pub struct RequestIdGenerator {
    prefix: u64,
    suffix: AtomicU64,
    stride: u64,
}

impl RequestIdGenerator {
    const SUFFIX_BITS: u32 = 48;

    /// A generator for `member`, started at `unix_ms` milliseconds since the epoch.
    pub fn new(member: MemberId, unix_ms: u64) -> Self {
        Self::with_lane(member, unix_ms, 0, 1)
    }

    /// A generator of the ids of one lane.
    ///
    /// # Panics
    /// If `count` is not a power of two of at most 256, or `lane` is not below it.
    pub fn with_lane(member: MemberId, unix_ms: u64, lane: u8, count: u16) -> Self {
        assert!(count.is_power_of_two() && count <= 256, "{count} lanes do not divide the counter");
        assert!(u16::from(lane) < count, "lane {lane} of {count}");
        let suffix = ((unix_ms & ((1 << 40) - 1)) << 8) | u64::from(lane);
        Self {
            prefix: (member.0 & 0xffff) << Self::SUFFIX_BITS,
            suffix: AtomicU64::new(suffix),
            stride: count.into(),
        }
    }

    /// The next id. Never returns the same id twice in one process life.
    pub fn next(&self) -> RequestId {
        let suffix = self.suffix.fetch_add(self.stride, Ordering::Relaxed).wrapping_add(self.stride);
        RequestId(self.prefix | (suffix & ((1 << Self::SUFFIX_BITS) - 1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_print_and_parse_as_upstream_does() {
        assert_eq!(MemberId(0xf1805392ad554020).to_string(), "f1805392ad554020");
        assert_eq!("8408e75e887d4f16".parse::<ClusterId>().unwrap(), ClusterId(0x8408e75e887d4f16));
        assert_eq!(LeaseId(-1).to_string(), "ffffffffffffffff");
        for junk in ["", "+1", "xyz", "12345678901234567"] {
            assert!(junk.parse::<MemberId>().is_err(), "{junk:?}");
        }
    }

    #[test]
    fn request_ids_have_upstreams_layout() {
        let generator = RequestIdGenerator::new(MemberId(0x12fefd), 0x100);
        assert_eq!(generator.next(), RequestId(0xfefd_0000_0001_0001));
        assert_eq!(generator.next(), RequestId(0xfefd_0000_0001_0002));
        let lane = RequestIdGenerator::with_lane(MemberId(0x12fefd), 0x100, 3, 16);
        assert_eq!(lane.next(), RequestId(0xfefd_0000_0001_0013));
        assert_eq!(lane.next(), RequestId(0xfefd_0000_0001_0023));
    }
}
