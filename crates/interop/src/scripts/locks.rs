//! The lock and election services.

use anyhow::Context;
use futures_util::future::join;
use proto::etcdserverpb::{LeaseGrantRequest, LeaseGrantResponse, LeaseRevokeRequest, LeaseRevokeResponse};
use proto::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest,
    ProclaimResponse, ResignRequest, ResignResponse,
};
use proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};

use super::range;
use crate::script::{Script, bytes};

const LOCK: &str = "/v3lockpb.Lock/Lock";
const UNLOCK: &str = "/v3lockpb.Lock/Unlock";
const CAMPAIGN: &str = "/v3electionpb.Election/Campaign";
const PROCLAIM: &str = "/v3electionpb.Election/Proclaim";
const LEADER: &str = "/v3electionpb.Election/Leader";
const OBSERVE: &str = "/v3electionpb.Election/Observe";
const RESIGN: &str = "/v3electionpb.Election/Resign";

async fn grant(s: &Script, id: i64) -> anyhow::Result<()> {
    let request = LeaseGrantRequest { id, ttl: 600 };
    let _: LeaseGrantResponse = s.channel.call(&s.method("/etcdserverpb.Lease/LeaseGrant"), &request).await?;
    Ok(())
}

/// Locks: owner, waiter, hand-over.
pub async fn lock(s: &mut Script) -> anyhow::Result<()> {
    grant(s, 0x11).await?;
    grant(s, 0x22).await?;
    let lock = |lease| LockRequest { name: bytes("mutex"), lease };
    let first = s.call::<LockResponse>("lock/first", LOCK, &lock(0x11)).await?;
    let _ = s.call::<LockResponse>("lock/same lease again", LOCK, &lock(0x11)).await;
    s.range("lock/key of the owner", range("mutex/", "mutex0")).await;
    let _ = s.call::<LockResponse>("lock/unknown lease", LOCK, &lock(0x99)).await;
    let channel = s.channel.clone();
    let method = s.method(LOCK);
    let waiting_request = lock(0x22);
    let waiting = channel.call::<LockResponse>(&method, &waiting_request);
    let hand_over = async {
        // The waiter stands in line once its key is there.
        let list = s.method(super::RANGE);
        loop {
            let answer: proto::etcdserverpb::RangeResponse =
                s.channel.call(&list, &range("mutex/", "mutex0")).await?;
            if answer.count == 2 {
                break;
            }
            tokio::task::yield_now().await;
        }
        let request = UnlockRequest { key: first.key.clone() };
        s.call::<UnlockResponse>("lock/unlock", UNLOCK, &request).await
    };
    let (second, unlocked) = join(waiting, hand_over).await;
    unlocked?;
    s.note("lock/the waiter gets it", &format!("{second:#?}"));
    s.range("lock/key of the new owner", range("mutex/", "mutex0")).await;
    let _ = s
        .call::<UnlockResponse>("lock/unlock an unknown key", UNLOCK, &UnlockRequest { key: bytes("x") })
        .await;
    let _ = s.call::<UnlockResponse>("lock/unlock an empty key", UNLOCK, &UnlockRequest::default()).await;
    let own: LockResponse =
        s.channel.call(&s.method(LOCK), &LockRequest { name: bytes("own"), lease: 0 }).await?;
    s.note("lock/without a lease", &format!("{}", own.key.starts_with(b"own/")));
    Ok(())
}

/// Elections: leader, proclamations, resignation.
pub async fn election(s: &mut Script) -> anyhow::Result<()> {
    grant(s, 0x33).await?;
    grant(s, 0x44).await?;
    let leader = LeaderRequest { name: bytes("vote") };
    let _ = s.call::<LeaderResponse>("election/no leader yet", LEADER, &leader).await;
    let campaign = |lease, value: &str| CampaignRequest { name: bytes("vote"), lease, value: bytes(value) };
    let won = s.call::<CampaignResponse>("election/campaign", CAMPAIGN, &campaign(0x33, "one")).await?;
    let _ = s.call::<LeaderResponse>("election/leader", LEADER, &leader).await;
    let mut observing = s.channel.server_stream(&s.method(OBSERVE), &leader).await?;
    let seen: LeaderResponse = observing.receive().await?.context("the observation ended")?;
    s.note("election/observe the leader", &format!("{seen:#?}"));
    let proclaim = |leader, value: &str| ProclaimRequest { leader, value: bytes(value) };
    let _ =
        s.call::<ProclaimResponse>("election/proclaim", PROCLAIM, &proclaim(won.leader.clone(), "two")).await;
    let seen: LeaderResponse = observing.receive().await?.context("the observation ended")?;
    s.note("election/observe the new value", &format!("{seen:#?}"));
    let _ = s.call::<CampaignResponse>("election/campaign again", CAMPAIGN, &campaign(0x33, "three")).await;
    let wrong = LeaderKey { rev: 1, ..won.leader.clone().unwrap_or_default() };
    let _ = s
        .call::<ProclaimResponse>(
            "election/proclaim with a wrong revision",
            PROCLAIM,
            &proclaim(Some(wrong.clone()), "x"),
        )
        .await;
    let _ = s
        .call::<ProclaimResponse>("election/proclaim without a leader", PROCLAIM, &proclaim(None, "x"))
        .await;
    let _ = s
        .call::<ResignResponse>("election/resign without a leader", RESIGN, &ResignRequest { leader: None })
        .await;
    let _ = s
        .call::<ResignResponse>(
            "election/resign with a wrong revision",
            RESIGN,
            &ResignRequest { leader: Some(wrong) },
        )
        .await;
    let _ = s
        .call::<CampaignResponse>("election/campaign with an unknown lease", CAMPAIGN, &campaign(0x99, "x"))
        .await;
    let channel = s.channel.clone();
    let method = s.method(CAMPAIGN);
    let waiting_request = campaign(0x44, "four");
    let waiting = channel.call::<CampaignResponse>(&method, &waiting_request);
    let resignation = async {
        let list = s.method(super::RANGE);
        loop {
            let answer: proto::etcdserverpb::RangeResponse =
                s.channel.call(&list, &range("vote/", "vote0")).await?;
            if answer.count == 2 {
                break;
            }
            tokio::task::yield_now().await;
        }
        let request = ResignRequest { leader: won.leader.clone() };
        s.call::<ResignResponse>("election/resign", RESIGN, &request).await
    };
    let (second, resigned) = join(waiting, resignation).await;
    resigned?;
    s.note("election/the next one wins", &format!("{second:#?}"));
    let request = LeaseRevokeRequest { id: 0x44 };
    let _: LeaseRevokeResponse =
        s.channel.call(&s.method("/etcdserverpb.Lease/LeaseRevoke"), &request).await?;
    let _ = s.call::<LeaderResponse>("election/no leader after the lease ended", LEADER, &leader).await;
    Ok(())
}
