//! The ten buckets.

/// A bucket that etcd keeps. Ordered by name, as the file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BucketId {
    /// Active alarms.
    Alarm,
    /// Auth switch and revision.
    Auth,
    /// Roles.
    AuthRoles,
    /// Users.
    AuthUsers,
    /// Cluster version and downgrade state.
    Cluster,
    /// Key-value records by revision.
    Key,
    /// Leases.
    Lease,
    /// Members.
    Members,
    /// Ids of removed members.
    MembersRemoved,
    /// Consistent index, term, versions, compaction marks.
    Meta,
}

impl BucketId {
    /// All buckets in order of their names.
    pub const ALL: [Self; 10] = [
        Self::Alarm,
        Self::Auth,
        Self::AuthRoles,
        Self::AuthUsers,
        Self::Cluster,
        Self::Key,
        Self::Lease,
        Self::Members,
        Self::MembersRemoved,
        Self::Meta,
    ];

    /// The name in the file.
    pub const fn name(self) -> &'static [u8] {
        match self {
            Self::Alarm => b"alarm",
            Self::Auth => b"auth",
            Self::AuthRoles => b"authRoles",
            Self::AuthUsers => b"authUsers",
            Self::Cluster => b"cluster",
            Self::Key => b"key",
            Self::Lease => b"lease",
            Self::Members => b"members",
            Self::MembersRemoved => b"members_removed",
            Self::Meta => b"meta",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_that_of_names() {
        assert!(BucketId::ALL.is_sorted());
        assert!(BucketId::ALL.is_sorted_by_key(|bucket| bucket.name()));
    }
}
