//! What members agree on, or refuse to: the same data, one version, who belongs to the cluster.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use bench::wire::{Channel, Method};
use interop::block_on;
use interop::cluster::{Cluster, PATIENCE, ask, ctl, entry, eventually, status};
use interop::member::{Member, free_port};
use interop::programs::{Program, subject, subject_as, yardstick};
use interop::scripts::put;
use proto::etcdserverpb::{self as pb, PutResponse};

/// How long a request may take before the server gives up on it: 5 s and two elections.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(7);

fn log_of(member: &Member) -> anyhow::Result<String> {
    Ok(std::fs::read_to_string(member.log_file())?)
}

fn wait_for_log(member: &Member, text: &str) -> anyhow::Result<()> {
    eventually(text, || Ok(log_of(member)?.contains(text))).with_context(|| member.log_tail())
}

fn id_of(member: &Member) -> anyhow::Result<String> {
    Ok(format!("{:x}", status(member)?.header.context("a header")?.member_id))
}

/// Waits until a member has ended by itself, and checks that it said why.
fn ends_with(member: &mut Member, text: &str) -> anyhow::Result<()> {
    member.wait_end(PATIENCE)?;
    let log = log_of(member)?;
    ensure!(log.contains(text), "{text:?} is not in the log, which ends:\n{}", member.log_tail());
    Ok(())
}

mod corruption {
    use super::*;

    const MARKER: &str = "this text is exchanged on the disk of one member";
    const OTHER: &str = "that text is exchanged on the disk of one member";
    const CHECKS: [&str; 3] =
        ["--corrupt-check-time=1s", "--feature-gates=CompactHashCheck=true", "--compact-hash-check-time=1s"];

    /// Changes a value behind a member's back.
    fn corrupt(data_dir: &Path) -> anyhow::Result<()> {
        let path = data_dir.join("member/snap/db");
        let mut bytes = std::fs::read(&path)?;
        let found: Vec<usize> = bytes
            .windows(MARKER.len())
            .enumerate()
            .filter_map(|(at, window)| (window == MARKER.as_bytes()).then_some(at))
            .collect();
        ensure!(!found.is_empty(), "the value is not in {}", path.display());
        for at in found {
            bytes[at..at + OTHER.len()].copy_from_slice(OTHER.as_bytes());
        }
        Ok(std::fs::write(&path, bytes)?)
    }

    /// A cluster whose member `broken` holds other data than the others.
    fn broken_cluster(args: &[&str], broken: usize) -> anyhow::Result<Cluster> {
        let ours = subject_as("3.7");
        let mut cluster = Cluster::start(&[&ours, &ours, &ours], args)?;
        ctl(&cluster.members[0]).run(&["put", "marked", MARKER])?.success()?;
        cluster.settle()?;
        cluster.members[broken].stop()?;
        corrupt(&cluster.members[broken].data_dir())?;
        Ok(cluster)
    }

    fn alarms(member: &Member) -> anyhow::Result<String> {
        ctl(member).run(&["alarm", "list"])?.success()
    }

    #[test]
    fn a_follower_with_other_data_is_found_and_nothing_is_served_any_more() -> anyhow::Result<()> {
        let mut cluster = broken_cluster(&["--corrupt-check-time=1s"], 2)?;
        cluster.members[2].run()?;
        if cluster.leader()? == 2 {
            cluster.move_leader(0)?;
        }
        let leader = &cluster.members[cluster.leader()?];
        wait_for_log(leader, "enabled corruption checking")?;
        wait_for_log(leader, "same compact revision then hashes must match")?;
        let suspect = status(&cluster.members[2])?.header.context("a header")?.member_id;
        let expected = format!("memberID:{suspect} alarm:CORRUPT");
        for member in &cluster.members {
            eventually("the alarm is known", || Ok(alarms(member)?.contains(&expected)))?;
            // Reads do not go through the log and are answered, as upstream does.
            ctl(member).run(&["get", "marked"])?.success()?;
            for command in [&["put", "a", "b"][..], &["del", "marked"], &["lease", "grant", "60"]] {
                let refused = ctl(member).run(command)?;
                ensure!(
                    refused.messages().contains("etcdserver: corrupt cluster"),
                    "{command:?}: {}",
                    refused.messages()
                );
            }
        }
        wait_for_log(leader, "alarm raised")?;
        ctl(leader).run(&["alarm", "disarm"])?.success()?;
        wait_for_log(leader, "alarm disarmed")
    }

    #[test]
    fn a_member_with_other_data_does_not_start() -> anyhow::Result<()> {
        let mut cluster = broken_cluster(&["--feature-gates=InitialCorruptCheck=true"], 1)?;
        cluster.members[1].spawn()?;
        ends_with(&mut cluster.members[1], "found data inconsistency with peers")?;
        let log = log_of(&cluster.members[1])?;
        ensure!(log.contains("found different hash values from remote peer"), "{log}");
        // The others have the same data: each of them starts.
        cluster.members[0].stop()?;
        cluster.members[0].run()?;
        wait_for_log(&cluster.members[0], "initial corruption checking passed; no corruption")
    }

    #[test]
    fn the_minority_of_a_compaction_is_named() -> anyhow::Result<()> {
        let args = ["--feature-gates=CompactHashCheck=true", "--compact-hash-check-time=1s"];
        let mut cluster = broken_cluster(&args, 0)?;
        cluster.members[0].run()?;
        let suspect = status(&cluster.members[0])?.header.context("a header")?.member_id;
        let revision = status(&cluster.members[1])?.header.context("a header")?.revision;
        let writer = ctl(&cluster.members[1]);
        writer.run(&["put", "after", "the marker"])?.success()?;
        writer.run(&["compaction", &(revision + 1).to_string()])?.success()?;
        let leader = &cluster.members[cluster.leader()?];
        wait_for_log(leader, "Detected compaction hash mismatch")?;
        let expected = format!("memberID:{suspect} alarm:CORRUPT");
        eventually("the alarm is known", || Ok(alarms(leader)?.contains(&expected)))
    }

    /// With every check on, ours and the real ones find each other healthy, whoever leads.
    #[test]
    fn healthy_members_of_both_kinds_raise_no_alarm() -> anyhow::Result<()> {
        let real = Program {
            args: [
                "--experimental-corrupt-check-time=1s",
                "--experimental-compact-hash-check-enabled",
                "--experimental-compact-hash-check-time=1s",
            ]
            .map(str::to_owned)
            .into(),
            ..yardstick()
        };
        let mut ours = subject();
        ours.args.extend(CHECKS.map(str::to_owned));
        let cluster = Cluster::start(&[&real, &ours, &real], &[])?;
        for leader in [0, 1] {
            cluster.move_leader(leader)?;
            let leader = &cluster.members[leader];
            let writer = ctl(leader);
            for number in 0..30 {
                writer
                    .run(&["put", &format!("key/{}", number % 7), &format!("value {number}")])?
                    .success()?;
                if number % 5 == 0 {
                    writer.run(&["del", "key/1"])?.success()?;
                }
            }
            let revision = status(leader)?.header.context("a header")?.revision;
            writer.run(&["compaction", "--physical", &(revision - 3).to_string()])?.success()?;
            wait_for_log(leader, "successfully checked hash on whole cluster")?;
            let rounds = |log: &str| log.matches("finished peer corruption check").count();
            let before = rounds(&log_of(leader)?);
            eventually("three more checks", || Ok(rounds(&log_of(leader)?) >= before + 3))?;
            ensure!(alarms(leader)?.is_empty(), "{}", alarms(leader)?);
        }
        Ok(())
    }
}

mod downgrade {
    use super::*;

    fn downgrade(member: &Member, action: i32, version: &str) -> anyhow::Result<Result<String, String>> {
        let authority = member.authority();
        block_on(async {
            let channel = Channel::connect(&authority).await?;
            let method = Method::new(&authority, "/etcdserverpb.Maintenance/Downgrade")?;
            let request = pb::DowngradeRequest { action, version: version.to_owned() };
            let answer: Result<pb::DowngradeResponse, _> = channel.call(&method, &request).await;
            Ok(answer.map(|answer| answer.version).map_err(|status| status.message))
        })
    }

    fn enable(member: &Member, version: &str) -> anyhow::Result<Result<String, String>> {
        downgrade(member, 1, version)
    }

    fn cluster_version(member: &Member) -> anyhow::Result<String> {
        let answer = interop::http::request(&member.authority(), "GET", "/version", &[], "")?;
        let versions: serde_json::Value = serde_json::from_slice(&answer.body)?;
        Ok(versions["etcdcluster"].as_str().unwrap_or_default().to_owned())
    }

    /// Waits until every member has this cluster version and storage version.
    fn all_at(cluster: &Cluster, version: &str, storage: &str) -> anyhow::Result<()> {
        eventually(&format!("all at {version}, storage {storage}"), || {
            for member in &cluster.members {
                if cluster_version(member)? != version || status(member)?.storage_version != storage {
                    return Ok(false);
                }
            }
            Ok(true)
        })
    }

    fn restart_as(member: &mut Member, version: &str) -> anyhow::Result<()> {
        member.stop()?;
        member.use_program(&subject_as(version));
        member.run()
    }

    #[test]
    fn a_cluster_goes_down_a_version_and_up_again() -> anyhow::Result<()> {
        let ours = subject_as("3.7");
        let mut cluster = Cluster::start(&[&ours, &ours, &ours], &["--downgrade-check-time=1s"])?;
        all_at(&cluster, "3.7.0", "3.7.0")?;
        let refused = enable(&cluster.members[0], "3.5")?;
        ensure!(refused == Err("etcdserver: invalid downgrade target version".to_owned()), "{refused:?}");

        // A job that is cancelled leaves no trace.
        ensure!(enable(&cluster.members[0], "3.6")? == Ok("3.7".to_owned()));
        all_at(&cluster, "3.6.0", "3.6.0")?;
        ensure!(status(&cluster.members[1])?.downgrade_info.is_some_and(|job| job.enabled));
        let refused = enable(&cluster.members[1], "3.5")?;
        ensure!(
            refused == Err("etcdserver: cluster has a downgrade job in progress".to_owned()),
            "{refused:?}"
        );
        for member in &cluster.members {
            wait_for_log(member, "Cluster version downgrade detected, forcing snapshot")?;
            wait_for_log(member, "The server is ready to downgrade")?;
        }
        ensure!(downgrade(&cluster.members[2], 2, "")? == Ok("3.6".to_owned()));
        all_at(&cluster, "3.7.0", "3.7.0")?;

        // Again, and now the servers follow. A server that is too old for now does not start.
        cluster.members[0].stop()?;
        cluster.members[0].use_program(&subject_as("3.6"));
        cluster.members[0].spawn()?;
        ends_with(&mut cluster.members[0], "invalid downgrade; server version is lower")?;
        cluster.members[0].use_program(&ours);
        cluster.members[0].run()?;
        ensure!(enable(&cluster.members[0], "3.6")? == Ok("3.7".to_owned()));
        all_at(&cluster, "3.6.0", "3.6.0")?;
        for number in 0..3 {
            restart_as(&mut cluster.members[number], "3.6")?;
            ctl(&cluster.members[number]).run(&["put", "during", "the downgrade"])?.success()?;
        }
        eventually("the job is over", || {
            Ok(status(&cluster.members[0])?.downgrade_info.is_some_and(|job| !job.enabled))
        })?;
        all_at(&cluster, "3.6.0", "3.6.0")?;
        ensure!(status(&cluster.members[1])?.version == "3.6.14");

        // One more step, to a version whose databases know no version; then up all the way.
        ensure!(enable(&cluster.members[2], "3.5")? == Ok("3.6".to_owned()));
        all_at(&cluster, "3.5.0", "3.5.0")?;
        for number in 0..3 {
            restart_as(&mut cluster.members[number], "3.5")?;
        }
        eventually("the second job is over", || {
            let logs: Vec<String> = cluster.members.iter().map(log_of).collect::<Result<_, _>>()?;
            Ok(logs.concat().matches("the cluster has been downgraded").count() == 2)
        })?;
        cluster.settle()?;
        for number in 0..3 {
            restart_as(&mut cluster.members[number], "3.7")?;
        }
        all_at(&cluster, "3.7.0", "3.7.0")
    }

    #[test]
    #[cfg(feature = "newest")]
    fn a_job_of_the_real_one_is_carried_out_by_both() -> anyhow::Result<()> {
        use interop::programs::real;
        let theirs = Program::plain(real("3.7", "etcd"));
        let ours = subject_as("3.7");
        let cluster = Cluster::start(&[&theirs, &ours, &theirs], &[])?;
        all_at(&cluster, "3.7.0", "3.7.0")?;
        for leader in [0, 1] {
            cluster.move_leader(leader)?;
            ensure!(enable(&cluster.members[1 - leader], "3.6")? == Ok("3.7".to_owned()));
            all_at(&cluster, "3.6.0", "3.6.0")?;
            ensure!(downgrade(&cluster.members[leader], 2, "")? == Ok("3.6".to_owned()));
            all_at(&cluster, "3.7.0", "3.7.0")?;
        }
        let ours = downgrade(&cluster.members[1], 2, "")?;
        let theirs = downgrade(&cluster.members[0], 2, "")?;
        ensure!(ours == theirs, "a cancellation without a job: {ours:?}, {theirs:?}");
        Ok(())
    }
}

mod starting_over {
    use super::*;

    fn members_of(member: &Member) -> anyhow::Result<usize> {
        Ok(ctl(member).run(&["member", "list"])?.success()?.lines().count())
    }

    fn holds(member: &Member, key: &str) -> anyhow::Result<bool> {
        Ok(!ctl(member).run(&["get", "--print-value-only", key])?.success()?.trim().is_empty())
    }

    /// Three members of one kind die; one of them starts over as the other kind, goes on as the first.
    fn from_to(before: &Program, after: &Program) -> anyhow::Result<()> {
        let mut cluster = Cluster::start(&[before, before, before], &["--snapshot-count", "50"])?;
        for number in 0..120 {
            ctl(&cluster.members[number % 3]).run(&["put", &format!("key/{number}"), "value"])?.success()?;
        }
        cluster.settle()?;
        cluster.members.iter_mut().try_for_each(Member::kill)?;
        let survivor = &mut cluster.members[1];
        survivor.use_program(after);
        survivor.add_args(&["--force-new-cluster"]);
        survivor.run()?;
        wait_for_log(survivor, "forcing restart member")?;
        eventually("the others are gone", || Ok(members_of(survivor)? == 1))?;
        // That the very last entry was committed need not be on disk anywhere: then it is dropped.
        ensure!(holds(survivor, "key/118")?);
        ctl(survivor).run(&["put", "alone", "now"])?.success()?;
        survivor.kill()?;
        survivor.use_program(before);
        survivor.add_args(&["--force-new-cluster=false"]);
        survivor.run()?;
        ensure!(members_of(survivor)? == 1 && holds(survivor, "alone")? && holds(survivor, "key/0")?);
        Ok(())
    }

    #[test]
    fn what_the_real_ones_left_and_back() -> anyhow::Result<()> {
        from_to(&yardstick(), &subject())
    }

    #[test]
    fn the_real_one_on_what_ours_left_and_back() -> anyhow::Result<()> {
        from_to(&subject(), &yardstick())
    }

    #[test]
    fn what_was_not_committed_is_dropped_and_others_can_join() -> anyhow::Result<()> {
        let mut cluster = Cluster::start(&[&subject(), &subject(), &subject()], &[])?;
        cluster.put_and_get_anywhere("before")?;
        let leader = cluster.leader()?;
        for number in (0..3).filter(|number| *number != leader) {
            cluster.members[number].kill()?;
        }
        // It leads until it notices that nobody follows, and takes this into its log.
        let alone = ctl(&cluster.members[leader]);
        let unanswered = alone.run(&["--command-timeout=500ms", "put", "tail", "never committed"])?;
        ensure!(unanswered.code != 0, "a put without a quorum was acknowledged");
        cluster.members[leader].kill()?;
        let survivor = &mut cluster.members[leader];
        survivor.add_args(&["--force-new-cluster"]);
        survivor.run()?;
        wait_for_log(survivor, "discarding uncommitted WAL entries")?;
        ensure!(!holds(survivor, "tail")? && holds(survivor, "before/0")?);
        survivor.stop()?;
        survivor.add_args(&["--force-new-cluster=false"]);
        survivor.run()?;
        // A cluster like any other. (The helper counts on, so the newcomer stands for itself here.)
        let mut newcomer = Member::prepare(&subject(), &[], &cluster.place(7))?;
        let first = ctl(&cluster.members[leader]);
        let url = format!("--peer-urls=http://{}", newcomer.peer_authority());
        eventually("a member is added", || Ok(first.run(&["member", "add", "n7", &url])?.code == 0))?;
        let both = format!("{},{}", entry(leader, &cluster.members[leader]), entry(7, &newcomer));
        newcomer.add_args(&[
            "--name",
            "n7",
            "--initial-cluster",
            &both,
            "--initial-cluster-state",
            "existing",
        ]);
        newcomer.run()?;
        ensure!(holds(&newcomer, "before/0")? && members_of(&newcomer)? == 2);
        Ok(())
    }
}

mod bootstrap {
    use super::*;

    /// A member that is not to start, and what it has to say.
    fn refuses(args: &[&str], text: &str) -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let mut member = Member::prepare(&subject(), &[], dir.path())?;
        let url = format!("http://{}", member.peer_authority());
        let args: Vec<String> = args.iter().map(|arg| arg.replace("OWN", &url)).collect();
        member.add_args(&args.iter().map(String::as_str).collect::<Vec<_>>());
        member.spawn()?;
        ends_with(&mut member, text)
    }

    #[test]
    fn what_does_not_fit_is_named() -> anyhow::Result<()> {
        let nobody = format!("http://127.0.0.1:{}", free_port()?);
        let with = |text: &str| text.replace("NOBODY", &nobody);
        refuses(
            &["--name", "n7", "--initial-cluster", "m1=OWN"],
            "couldn't find local name \\\"n7\\\" in the initial cluster configuration",
        )?;
        refuses(&["--name", "a", "--initial-cluster", "a=OWN,b=OWN"], "has duplicate url")?;
        refuses(
            &["--name", "a", "--initial-cluster", &with("a=NOBODY,b=OWN")],
            "but missing from --initial-advertise-peer-urls=",
        )?;
        refuses(
            &[
                "--name",
                "a",
                "--initial-cluster",
                &with("a=OWN,b=NOBODY"),
                "--initial-cluster-state=existing",
            ],
            "cannot fetch cluster info from peer urls: could not retrieve cluster information from the given URLs",
        )
    }

    #[test]
    fn who_joins_has_to_know_the_members() -> anyhow::Result<()> {
        let newest = subject_as("3.7");
        let mut first = Cluster::start(&[&newest], &[])?;
        let join = |args: &[&str], text: &str| {
            let known = format!("{},", first.initial());
            let args: Vec<String> = args.iter().map(|arg| arg.replace("FIRST,", &known)).collect();
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            refuses(&[&args[..], &["--initial-cluster-state=existing"]].concat(), text)
        };
        join(&["--name", "n1", "--initial-cluster", "FIRST,n1=OWN"], "member count is unequal")?;
        // The helper adds the member; this one comes to the cluster in its place, as something older.
        let number = first.join(&newest, &[], &[])?;
        first.members[number].kill()?;
        // The newcomer may have been killed before it made anything.
        let _ = std::fs::remove_dir_all(first.members[number].data_dir());
        first.members[number].use_program(&subject_as("3.6"));
        first.members[number].spawn()?;
        ends_with(&mut first.members[number], "incompatible with current running cluster")
    }

    #[test]
    fn a_member_without_its_data_does_not_start_as_new() -> anyhow::Result<()> {
        let mut cluster = Cluster::start(&[&subject(), &subject(), &subject()], &[])?;
        let id = id_of(&cluster.members[2])?;
        cluster.members[2].stop()?;
        std::fs::remove_dir_all(cluster.members[2].data_dir())?;
        cluster.members[2].spawn()?;
        ends_with(&mut cluster.members[2], &format!("member {id} has already been bootstrapped"))?;

        // With another token it is a member of another cluster: nobody talks to it.
        cluster.members[2].add_args(&["--initial-cluster-token", "another"]);
        cluster.members[2].spawn()?;
        wait_for_log(&cluster.members[2], "cluster ID mismatch")?;
        let log = log_of(&cluster.members[2])?;
        ensure!(
            !log.rsplit("starting an etcd server").next().is_some_and(|last| last.contains("ready to serve"))
        );
        cluster.members[2].check_alive()?;
        cluster.members[2].kill()?;
        ctl(&cluster.members[0]).run(&["put", "the others", "go on"])?.success()?;
        Ok(())
    }

    #[test]
    fn a_member_that_was_removed_while_away_learns_it() -> anyhow::Result<()> {
        let mut cluster = Cluster::start(&[&subject(), &subject(), &subject()], &[])?;
        let id = id_of(&cluster.members[2])?;
        cluster.members[2].stop()?;
        let first = ctl(&cluster.members[0]);
        eventually("the member is removed", || Ok(first.run(&["member", "remove", &id])?.code == 0))?;
        cluster.members[2].spawn()?;
        let ended = cluster.members[2].wait_end(PATIENCE)?;
        ensure!(ended.success(), "it ended with {ended}");
        for member in &cluster.members[..2] {
            ctl(member).run(&["put", "still", "here"])?.success()?;
        }
        Ok(())
    }
}

mod members {
    use super::*;

    #[test]
    fn a_member_moves_to_another_address() -> anyhow::Result<()> {
        let mut cluster = Cluster::start(&[&subject(), &yardstick(), &subject()], &[])?;
        let id = id_of(&cluster.members[2])?;
        cluster.members[2].stop()?;
        let url = format!("http://127.0.0.1:{}", free_port()?);
        let update = ["member", "update", &id, &format!("--peer-urls={url}")];
        ctl(&cluster.members[0]).run(&update)?.success()?;
        for member in &cluster.members[..2] {
            ensure!(ctl(member).run(&["member", "list"])?.success()?.contains(&url));
        }
        let moved = ["--listen-peer-urls", &url, "--initial-advertise-peer-urls", &url];
        cluster.members[2].add_args(&moved);
        cluster.members[2].run()?;
        cluster.put_and_get_anywhere("moved")?;
        cluster.settle()?;
        // As a leader it is reached there as well.
        cluster.move_leader(2)?;
        cluster.put_and_get_anywhere("moved and leading")
    }

    #[test]
    fn the_others_replace_a_leader_that_was_removed() -> anyhow::Result<()> {
        let mut cluster = Cluster::start(&[&subject(), &subject(), &subject()], &[])?;
        let leader = cluster.leader()?;
        let id = id_of(&cluster.members[leader])?;
        let other = ctl(&cluster.members[(leader + 1) % 3]);
        eventually("the leader is removed", || Ok(other.run(&["member", "remove", &id])?.code == 0))?;
        let ended = cluster.members[leader].wait_end(PATIENCE)?;
        ensure!(ended.success(), "a member that was removed ended with {ended}");
        let log = log_of(&cluster.members[leader])?;
        ensure!(log.contains("data-dir used by this member must be removed"), "{log}");
        eventually("the others go on", || Ok(other.run(&["put", "without", "it"])?.code == 0))
    }

    /// Until the second voter runs the first one has no quorum: it starts without asking for one.
    #[test]
    fn a_second_voter_is_there_before_requests_time_out() -> anyhow::Result<()> {
        let mut cluster = Cluster::start(&[&subject()], &[])?;
        cluster.join(&subject(), &[], &[])?;
        let _: PutResponse = ask(&cluster.members[0], "/etcdserverpb.KV/Put", &put("k", "v"))?;
        Ok(())
    }

    #[test]
    fn learners_are_limited_by_the_flag() -> anyhow::Result<()> {
        let two = ["--max-learners", "2"];
        let mut cluster = Cluster::start(&[&subject()], &two)?;
        cluster.join(&subject(), &["--learner"], &two)?;
        cluster.join(&subject(), &["--learner"], &two)?;
        let third = format!("--peer-urls=http://127.0.0.1:{}", free_port()?);
        let refused = ctl(&cluster.members[0]).run(&["member", "add", "n3", &third, "--learner"])?;
        ensure!(
            refused.messages().contains("etcdserver: too many learner members in cluster"),
            "{}",
            refused.messages()
        );
        // Started again with a lower limit it would have to refuse what it knows.
        cluster.members[0].stop()?;
        cluster.members[0].add_args(&["--max-learners", "1"]);
        cluster.members[0].spawn()?;
        ends_with(&mut cluster.members[0], "membership: too many learner members in cluster")
    }

    #[test]
    fn strict_reconfiguration_can_be_switched_off() -> anyhow::Result<()> {
        for strict in [true, false] {
            let args = [format!("--strict-reconfig-check={strict}")];
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            let mut cluster = Cluster::start(&[&subject(), &subject(), &subject()], &args)?;
            cluster.members[2].kill()?;
            let first = ctl(&cluster.members[0]);
            eventually("the others have noticed", || {
                Ok(log_of(&cluster.members[0])?
                    .contains("peer became inactive (message send to peer failed)"))
            })?;
            let url = format!("--peer-urls=http://127.0.0.1:{}", free_port()?);
            let add = || first.run(&["member", "add", "n3", &url]);
            if strict {
                let refused = add()?.messages();
                ensure!(refused.contains("etcdserver: unhealthy cluster"), "{refused}");
            } else {
                // The one that was killed may have been the leader.
                eventually("the member is added", || Ok(add()?.code == 0))?;
            }
        }
        Ok(())
    }

    /// What a follower forwarded to a leader that died is answered when the next one is there, and not
    /// only at the end of its time.
    #[test]
    fn puts_that_went_to_a_dead_leader_are_answered_soon() -> anyhow::Result<()> {
        let mut cluster = Cluster::start(&[&subject(), &subject(), &subject()], &[])?;
        let leader = cluster.leader()?;
        let authority = cluster.members[(leader + 1) % 3].authority();
        let ended = block_on(async {
            let channel = Channel::connect(&authority).await?;
            let method = Method::new(&authority, "/etcdserverpb.KV/Put")?;
            let one = |number: usize| {
                let (channel, method) = (channel.clone(), method.clone());
                async move {
                    let start = Instant::now();
                    let answer: Result<PutResponse, _> =
                        channel.call(&method, &put(&format!("k{number}"), "v")).await;
                    (start.elapsed(), answer.map(drop))
                }
            };
            one(0).await.1.map_err(|status| anyhow::anyhow!("{}", status.message))?;
            cluster.members[leader].kill()?;
            Ok::<_, anyhow::Error>(futures_util::future::join_all((1..20).map(one)).await)
        })?;
        let mut lost = 0;
        for (took, answer) in ended {
            ensure!(took < REQUEST_TIMEOUT - Duration::from_millis(500), "{answer:?} after {took:?}");
            let Err(status) = answer else { continue };
            let text = "etcdserver: request timed out, possibly due to previous leader failure";
            if (status.code, &status.message[..]) != (14, text) {
                bail!("{} {}", status.code, status.message);
            }
            lost += 1;
        }
        ensure!(lost > 0, "no put went to the dead leader: nothing was tested");
        Ok(())
    }
}
