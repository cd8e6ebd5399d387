//! Strict reconfiguration: refuse a change that could cost the quorum, before it is proposed.
//!
//! **Source**: etcd `server/etcdserver/server.go` (`mayAddMember`, `mayRemoveMember`),
//! `server/etcdserver/util.go`.

use types::MemberId;

use crate::cluster::Cluster;

/// Why a change is not proposed. The texts are upstream's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReconfigError {
    /// Fewer started voters than a quorum afterwards.
    #[error("etcdserver: re-configuration failed due to not enough started members")]
    NotEnoughStarted,
    /// Too few voters have been connected for long enough.
    #[error("etcdserver: unhealthy cluster")]
    Unhealthy,
}

/// How a member is connected to this one, as its transport sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Not at all.
    Down,
    /// For less than 5 seconds.
    Recent,
    /// For 5 seconds or longer, or it is this member itself.
    Lasting,
}

impl Cluster {
    /// Whether a voter or learner may be added.
    pub fn may_add(&self, learner: bool, link: impl Fn(MemberId) -> Link) -> Result<(), ReconfigError> {
        let voters = self.voters().count();
        let started = self.started_voters(None);
        // One started voter of one may always be joined: it is how a restored cluster grows again.
        let exempt = learner || (started == 1 && voters == 1);
        if !exempt && started < quorum(voters + 1) {
            return Err(ReconfigError::NotEnoughStarted);
        }
        let healthy = voters == 1 || self.lasting_voters(link) >= quorum(voters + 1);
        healthy.then_some(()).ok_or(ReconfigError::Unhealthy)
    }

    /// Whether a member may be removed.
    pub fn may_remove(&self, id: MemberId, link: impl Fn(MemberId) -> Link) -> Result<(), ReconfigError> {
        if self.member(id).is_some_and(|member| member.is_learner) {
            return Ok(());
        }
        let voters = self.voters().count();
        let rest = self.voters().filter(|member| member.id != id).count();
        if self.started_voters(Some(id)) < quorum(rest) {
            return Err(ReconfigError::NotEnoughStarted);
        }
        // A member that is down is no part of the quorum that works now.
        if link(id) == Link::Down {
            return Ok(());
        }
        let healthy = self.lasting_voters(link) > 1 + voters.saturating_sub(1) / 2;
        healthy.then_some(()).ok_or(ReconfigError::Unhealthy)
    }

    /// Whether a learner may be promoted, its progress aside.
    pub fn may_promote(&self) -> Result<(), ReconfigError> {
        let enough = self.started_voters(None) + 1 >= quorum(self.voters().count() + 1);
        enough.then_some(()).ok_or(ReconfigError::NotEnoughStarted)
    }

    fn started_voters(&self, without: Option<MemberId>) -> usize {
        self.voters().filter(|member| Some(member.id) != without && member.is_started()).count()
    }

    fn lasting_voters(&self, link: impl Fn(MemberId) -> Link) -> usize {
        self.voters().filter(|member| link(member.id) == Link::Lasting).count()
    }
}

fn quorum(members: usize) -> usize {
    members / 2 + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::member::Member;
    use types::ClusterId;

    /// Voters 1..=n, the first `started` of them started.
    fn cluster(voters: u64, started: u64) -> Cluster {
        let members = (1..=voters).map(|id| {
            let mut member = Member::new(MemberId(id), vec![format!("http://{id}:1")]);
            if id <= started {
                member.attributes.name = format!("m{id}");
            }
            member
        });
        Cluster::from_parts(ClusterId(1), 1, members, [], None)
    }

    /// The first `lasting` members are well connected, the others down.
    fn link(lasting: u64) -> impl Fn(MemberId) -> Link {
        move |id| if id.0 <= lasting { Link::Lasting } else { Link::Down }
    }

    #[test]
    fn adding() {
        use ReconfigError::*;
        assert_eq!(cluster(1, 1).may_add(false, link(1)), Ok(()));
        assert_eq!(cluster(2, 1).may_add(false, link(2)), Err(NotEnoughStarted));
        assert_eq!(cluster(2, 1).may_add(true, link(2)), Ok(()));
        assert_eq!(cluster(3, 3).may_add(false, link(3)), Ok(()));
        assert_eq!(cluster(3, 3).may_add(false, link(2)), Err(Unhealthy));
        assert_eq!(cluster(3, 3).may_add(true, link(2)), Err(Unhealthy));
        assert_eq!(cluster(4, 4).may_add(false, link(3)), Ok(()));
    }

    #[test]
    fn removing() {
        use ReconfigError::*;
        assert_eq!(cluster(1, 1).may_remove(MemberId(1), link(1)), Err(NotEnoughStarted));
        assert_eq!(cluster(3, 3).may_remove(MemberId(3), link(3)), Ok(()));
        assert_eq!(cluster(3, 3).may_remove(MemberId(2), link(2)), Err(Unhealthy));
        assert_eq!(cluster(3, 3).may_remove(MemberId(3), link(2)), Ok(()), "the one that is down may go");
        assert_eq!(cluster(3, 2).may_remove(MemberId(2), link(3)), Err(NotEnoughStarted));
    }

    #[test]
    fn promoting() {
        assert_eq!(cluster(1, 1).may_promote(), Ok(()));
        assert_eq!(cluster(3, 1).may_promote(), Err(ReconfigError::NotEnoughStarted));
        assert_eq!(cluster(3, 2).may_promote(), Ok(()));
    }
}
