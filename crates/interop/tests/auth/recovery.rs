//! The way back after a forgotten root password, as operators' guides teach it: a member is
//! restarted with `--auth-token=""`, root gets a new password, the member is restarted normally.

use anyhow::{Context, ensure};
use interop::block_on;
use interop::cluster::eventually;
use interop::ctl::{Ctl, Ran};
use interop::http;
use interop::member::Member;
use interop::programs::{Program, ours, real, subject_as, yardstick};
use proto::etcdserverpb as pb;

use crate::calls::{PASSWORD, Server};
use crate::cluster::cluster;

const NOBODY: &str = "Error: etcdserver: user name is empty";
const WRONG: &str = "Error: etcdserver: authentication failed, invalid user ID or password";
const WARNING: &str = "auth token provider is empty: recovery mode; local callers without credentials";
const ACTS: &str = "recovery mode: a local caller without credentials acts as this user";

fn ctl(member: &Member) -> Ctl {
    Ctl { program: ours("etcdctl"), endpoint: member.client_url() }
}

/// A member with auth on, whose root password nobody remembers.
fn locked() -> anyhow::Result<Member> {
    enabled(Member::start(&subject_as("3.7"), &["--bcrypt-cost", "4"])?)
}

fn enabled(member: Member) -> anyhow::Result<Member> {
    block_on(async {
        let server = Server::connect(member).await?;
        server.enable().await?;
        Ok(server.member)
    })
}

fn restart(member: &mut Member, args: &[&str]) -> anyhow::Result<()> {
    member.stop()?;
    member.add_args(args);
    member.run()
}

fn refused(ran: &Ran, text: &str) -> anyhow::Result<()> {
    let message = ran.messages();
    ensure!(ran.code != 0 && message == text, "{}: {message:?} {:?}", ran.code, ran.stdout);
    Ok(())
}

/// How often a text stands in the log.
fn logged(member: &Member, text: &str) -> anyhow::Result<usize> {
    let log = std::fs::read_to_string(member.log_file())?;
    Ok(log.lines().filter(|line| line.contains(text)).count())
}

/// The steps of the guides, and what stays closed meanwhile.
#[test]
fn a_forgotten_root_password_is_replaced() -> anyhow::Result<()> {
    let mut member = locked()?;
    restart(&mut member, &["--auth-token="])?;
    let tool = ctl(&member);
    ensure!(logged(&member, WARNING)? == 1, "the mode is announced");
    for args in [
        &["get", "k"][..],
        &["put", "k", "v"],
        &["del", "k"],
        &["compaction", "1"],
        &["member", "list"],
        &["lease", "grant", "10"],
        &["lease", "list"],
        &["defrag"],
        &["alarm", "disarm"],
        &["move-leader", "1"],
    ] {
        let ran = tool.run(args)?;
        ensure!(ran.code != 0 && ran.stderr.contains("user name is empty"), "{args:?}: {}", ran.stderr);
    }
    for args in [&["snapshot", "save", "/dev/null"][..], &["watch", "k"]] {
        let ran = tool.run(args)?;
        ensure!(ran.code == 5 && ran.stderr.contains("user name is empty"), "{args:?}: {}", ran.stderr);
    }
    // Whoever gives a password is checked as ever; there are no tokens, so not even the right one does.
    for password in [PASSWORD, "wrong"] {
        let user = format!("--user=root:{password}");
        for args in [&["get", "k", &user][..], &["user", "list", &user], &["auth", "disable", &user]] {
            refused(&tool.run(args)?, WRONG)?;
        }
    }
    ensure!(logged(&member, ACTS)? == 0, "nobody was let in so far");
    let ran = tool.run_with(&["user", "passwd", "root", "--interactive=false"], &[], b"remembered\n")?;
    ensure!(ran.clone().success()? == "Password updated\n", "{ran:?}");
    ensure!(logged(&member, ACTS)? == 1 && logged(&member, "/etcdserverpb.Auth/UserChangePassword")? == 1);
    for (args, wanted) in [
        (&["auth", "status"][..], "Authentication Status: true"),
        (&["user", "add", "u:pw"], "User u created"),
        (&["role", "add", "r"], "Role r created"),
        (&["role", "grant-permission", "r", "readwrite", "k"], "Role r updated"),
        (&["user", "grant-role", "u", "r"], "Role r is granted to user u"),
        (&["user", "get", "u"], "User: u\nRoles: r"),
        (&["role", "get", "r"], "Role r\nKV Read:\n\tk\nKV Write:\n\tk"),
        (&["user", "list"], "root\nu"),
        (&["role", "list"], "r\nroot"),
        (&["user", "revoke-role", "u", "r"], "Role r is revoked from user u"),
        (&["role", "revoke-permission", "r", "k"], "Permission of key k is revoked from role r"),
        (&["role", "delete", "r"], "Role r deleted"),
        (&["user", "delete", "u"], "User u deleted"),
        (&["auth", "disable"], "Authentication Disabled"),
        (&["put", "k", "v"], "OK"),
        (&["auth", "enable"], "Authentication Enabled"),
    ] {
        let output = tool.run(args)?.success().with_context(|| format!("{args:?}"))?;
        ensure!(output.starts_with(wanted), "{args:?}: {output}");
    }
    refused(&tool.run(&["get", "k"])?, NOBODY)?;

    restart(&mut member, &["--auth-token=simple"])?;
    refused(&tool.run(&["user", "list"])?, NOBODY)?;
    refused(&tool.run(&["get", "k", "--user=root:pw"])?, WRONG)?;
    let found = tool.run(&["get", "k", "--user=root:remembered"])?.success()?;
    ensure!(found == "k\nv\n", "{found:?}");
    Ok(())
}

/// Only who calls the member directly is local: what comes by way of the JSON gateway may come
/// from a page in a browser.
#[test]
fn the_gateway_is_not_local() -> anyhow::Result<()> {
    let mut member = locked()?;
    restart(&mut member, &["--auth-token="])?;
    block_on(async {
        let server = Server::connect(member).await?;
        for (name, value) in [("grpcgateway-accept", "*/*"), ("token", "abc.1"), ("token", "")] {
            let method = server.method("Auth/UserList", None).with_header(name, value);
            let answer =
                server.channel.call::<pb::AuthUserListResponse>(&method, &pb::AuthUserListRequest {}).await;
            ensure!(answer.is_err(), "{name}: {value} was let in");
        }
        let authority = server.member.authority();
        for (path, headers) in [
            ("auth/user/list", &[][..]),
            ("auth/user/list", &[("Authorization", "abc.1")]),
            ("auth/user/list", &[("Authorization", "")]),
            ("auth/disable", &[]),
            ("auth/role/list", &[("Origin", "http://page")]),
        ] {
            let answer = http::request(&authority, "POST", &format!("/v3/{path}"), headers, "{}")?;
            let said = String::from_utf8_lossy(&answer.body).into_owned();
            ensure!(
                answer.status >= 400 && said.contains("etcdserver: "),
                "{path}: {} {said}",
                answer.status
            );
        }
        let list: pb::AuthUserListResponse =
            server.call("Auth/UserList", None, &pb::AuthUserListRequest {}).await?;
        ensure!(list.users == ["root"]);
        Ok(())
    })
}

/// `--auth-recovery=off`: nobody gets in, as with etcd.
#[test]
fn the_mode_can_be_ruled_out() -> anyhow::Result<()> {
    let mut member = locked()?;
    restart(&mut member, &["--auth-token=", "--auth-recovery=off"])?;
    let tool = ctl(&member);
    for args in [&["user", "list"][..], &["auth", "disable"], &["user", "add", "u:pw"], &["get", "k"]] {
        refused(&tool.run(args)?, NOBODY)?;
    }
    refused(&tool.run(&["user", "list", "--user=root:pw"])?, WRONG)?;
    ensure!(logged(&member, WARNING)? == 0);
    Ok(())
}

/// Leases end in the mode as ever, whoever's keys hang on them.
#[test]
fn leases_end_in_the_mode() -> anyhow::Result<()> {
    let mut member = locked()?;
    let tool = ctl(&member);
    let root = "--user=root:pw";
    let granted = tool.run(&["lease", "grant", "5", root])?.success()?;
    let lease = granted.split_whitespace().nth(1).context("no lease")?.to_owned();
    tool.run(&["put", "k", "v", "--lease", &lease, root])?.success()?;
    let has_keys = |member: &Member, count: u32| {
        let metrics = http::request(&member.authority(), "GET", "/metrics", &[], "")?.body;
        let line = format!("etcd_debugging_mvcc_keys_total {count}");
        anyhow::Ok(String::from_utf8_lossy(&metrics).lines().any(|other| other == line))
    };
    ensure!(has_keys(&member, 1)?, "the key is there");
    restart(&mut member, &["--auth-token="])?;
    eventually("the key goes with its lease", || has_keys(&member, 0))?;
    tool.run(&["auth", "disable"])?.success()?;
    ensure!(tool.run(&["get", "k"])?.success()?.is_empty());
    Ok(())
}

/// One of three members is restarted with the empty value, another one leads: what it lets through
/// the others accept, original ones too.
fn one_of_three(others: &Program) -> anyhow::Result<()> {
    let (_dir, mut members) = cluster([&subject_as("3.5"), others, others], &[])?;
    let (first, second) = (members.remove(0), members.remove(0));
    let mut first = enabled(first)?;
    // It gives up its leadership when it stops, and so starts as a follower.
    restart(&mut first, &["--auth-token="])?;
    let tool = ctl(&first);
    tool.run_with(&["user", "passwd", "root", "--interactive=false"], &[], b"remembered\n")?.success()?;
    tool.run(&["user", "add", "u:pw"])?.success()?;
    // On the others nothing is open.
    refused(&ctl(&second).run(&["user", "list"])?, NOBODY)?;
    restart(&mut first, &["--auth-token=simple"])?;
    for (member, program) in [(&first, ours("etcdctl")), (&second, real("3.5", "etcdctl"))] {
        let tool = Ctl { program, endpoint: member.client_url() };
        ensure!(tool.run(&["user", "list", "--user=root:remembered"])?.success()? == "root\nu\n");
        refused(&tool.run(&["user", "list", "--user=root:pw"])?, WRONG)?;
    }
    Ok(())
}

#[test]
fn one_of_three_opens_the_way_for_all() -> anyhow::Result<()> {
    one_of_three(&subject_as("3.5"))
}

#[test]
fn etcds_members_accept_what_ours_lets_through() -> anyhow::Result<()> {
    one_of_three(&yardstick())
}
