//! Versions: of a server, of the cluster, and the etcd release that a member stands in for.

use std::fmt;
use std::str::FromStr;

/// A release version, `major.minor.patch`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Patch number; cluster and storage versions have 0 here.
    pub patch: u32,
}

impl Version {
    /// Builds a version.
    pub const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self { major, minor, patch }
    }

    /// The same version with patch 0: the form of cluster and storage versions.
    pub const fn without_patch(self) -> Self {
        Self { patch: 0, ..self }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// Text that is not `major.minor.patch`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseVersionError {
    /// The refused text.
    pub text: String,
}

impl fmt::Display for ParseVersionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not a version of the form X.Y.Z", self.text)
    }
}

impl std::error::Error for ParseVersionError {}

impl FromStr for Version {
    type Err = ParseVersionError;
    /// Accepts `X.Y.Z`; a pre-release or build suffix behind the patch number is dropped.
    fn from_str(text: &str) -> Result<Self, ParseVersionError> {
        let refuse = || ParseVersionError { text: text.to_owned() };
        let core = text.split(['-', '+']).next().unwrap_or_default();
        let mut parts = core.split('.').map(|part| match part.bytes().all(|byte| byte.is_ascii_digit()) {
            true => part.parse::<u32>().map_err(|_| refuse()),
            false => Err(refuse()),
        });
        let mut part = || parts.next().ok_or_else(refuse)?;
        let version = Self::new(part()?, part()?, part()?);
        match parts.next() {
            None => Ok(version),
            Some(_) => Err(refuse()),
        }
    }
}

/// The etcd release line that this member stands in for (`--compat-version`).
///
/// Decides what `/version` and Status report, how far the cluster version may rise, and which
/// formats are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CompatVersion {
    /// etcd 3.5: no storage version, snapshots each 100,000 entries.
    V3_5,
    /// etcd 3.6.
    V3_6,
    /// etcd 3.7, the default.
    #[default]
    V3_7,
}

impl CompatVersion {
    /// The server version that the member claims.
    pub const fn server_version(self) -> Version {
        match self {
            Self::V3_5 => Version::new(3, 5, 30),
            Self::V3_6 => Version::new(3, 6, 14),
            Self::V3_7 => Version::new(3, 7, 1),
        }
    }

    /// The highest cluster version the member supports, as `X.Y.0`.
    pub const fn cluster_version(self) -> Version {
        self.server_version().without_patch()
    }

    /// The storage version that the member raises a data directory to; 3.5 has none.
    pub const fn storage_version(self) -> Option<Version> {
        match self {
            Self::V3_5 => None,
            _ => Some(self.cluster_version()),
        }
    }
}

impl fmt::Display for CompatVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = self.server_version();
        write!(f, "{}.{}", version.major, version.minor)
    }
}

impl FromStr for CompatVersion {
    type Err = ParseVersionError;
    fn from_str(text: &str) -> Result<Self, ParseVersionError> {
        match text {
            "3.5" => Ok(Self::V3_5),
            "3.6" => Ok(Self::V3_6),
            "3.7" => Ok(Self::V3_7),
            _ => Err(ParseVersionError { text: text.to_owned() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_parse_and_print() {
        assert_eq!("3.7.1".parse::<Version>().unwrap(), Version::new(3, 7, 1));
        assert_eq!("3.8.0-alpha.0".parse::<Version>().unwrap().to_string(), "3.8.0");
        for junk in ["", "3", "3.7", "3.7.1.2", "3.-1.0", "3.+7.0", "a.b.c"] {
            assert!(junk.parse::<Version>().is_err(), "{junk:?}");
        }
    }

    #[test]
    fn a_claimed_version_fixes_the_others() {
        let compat = "3.5".parse::<CompatVersion>().unwrap();
        assert_eq!(compat.server_version().to_string(), "3.5.30");
        assert_eq!(compat.cluster_version().to_string(), "3.5.0");
        assert_eq!(compat.storage_version(), None);
        assert!("3.8".parse::<CompatVersion>().is_err());
    }
}
