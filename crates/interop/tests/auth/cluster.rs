//! Several members, and directories that move between programs, with auth on.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use interop::block_on;
use interop::ctl::Ctl;
use interop::member::Member;
use interop::programs::{Program, ours, real, subject, yardstick};
use proto::authpb::permission::Type;
use proto::etcdserverpb as pb;

use crate::calls::{PASSWORD, Server};

/// Three members that serve.
pub fn cluster(programs: [&Program; 3], args: &[&str]) -> anyhow::Result<(tempfile::TempDir, Vec<Member>)> {
    let dir = tempfile::Builder::new().prefix("retcd-auth-").tempdir()?;
    let mut members = Vec::new();
    for (number, program) in programs.into_iter().enumerate() {
        let args = [&["--bcrypt-cost", "4"][..], args].concat();
        members.push(Member::prepare(program, &args, &dir.path().join(format!("n{number}")))?);
    }
    let entry = |(number, member): (usize, &Member)| format!("n{number}=http://{}", member.peer_authority());
    let initial = members.iter().enumerate().map(entry).collect::<Vec<_>>().join(",");
    for (number, member) in members.iter_mut().enumerate() {
        member.add_args(&["--name", &format!("n{number}"), "--initial-cluster", &initial]);
        member.spawn()?;
    }
    for member in &mut members {
        member.wait_serving()?;
    }
    Ok((dir, members))
}

/// Users, roles and logins by way of every member, each seen at once by the others.
fn members_agree(programs: [&Program; 3], args: &[&str]) -> anyhow::Result<()> {
    let is_etcds = programs.map(|program| program.path == yardstick().path);
    let (_dir, members) = cluster(programs, args)?;
    block_on(async {
        let mut servers = Vec::new();
        for member in members {
            servers.push(Server::connect(member).await?);
        }
        servers[0].enable().await?;
        for (number, server) in servers.iter().enumerate() {
            let root = server.login("root", PASSWORD).await?;
            let (user, role) = (format!("u{number}"), format!("r{number}"));
            server.user(Some(&root), &user).await?;
            let root = server.login("root", PASSWORD).await?;
            server.role(Some(&root), &role).await?;
            let root = server.login("root", PASSWORD).await?;
            server.allow(Some(&root), &role, Type::Readwrite, (&user, "")).await?;
            let root = server.login("root", PASSWORD).await?;
            server.give(Some(&root), &user, &role).await?;
        }
        // A token of one member is good on all, at once.
        for (at, server) in servers.iter().enumerate() {
            for number in 0..servers.len() {
                let user = format!("u{number}");
                let token = server.login(&user, PASSWORD).await?;
                for (where_used, other) in servers.iter().enumerate() {
                    let put =
                        pb::PutRequest { key: user.clone().into(), value: "v".into(), ..Default::default() };
                    let deadline = Instant::now() + Duration::from_secs(10);
                    loop {
                        let answer = other.call::<pb::PutResponse>("KV/Put", Some(&token), &put).await;
                        match answer {
                            // etcd looks a token up one entry too early if that entry has not come yet.
                            Err(status)
                                if is_etcds[where_used] && status.message.ends_with("invalid auth token") =>
                            {
                                ensure!(Instant::now() < deadline, "the token never arrives");
                            }
                            answer => {
                                let text = || format!("token of member {at} used on member {where_used}");
                                answer.with_context(text)?;
                                break;
                            }
                        }
                    }
                    let foreign = pb::PutRequest { key: "foreign".into(), ..put };
                    let refused = other.call::<pb::PutResponse>("KV/Put", Some(&token), &foreign).await;
                    assert_eq!(refused.unwrap_err().message, "etcdserver: permission denied");
                }
            }
        }
        // The same users, roles and revisions everywhere, in the same bytes.
        let mut seen = Vec::new();
        for server in &servers {
            let root = server.login("root", PASSWORD).await?;
            let root = Some(root.as_str());
            let read = pb::RangeRequest { key: "u".into(), range_end: "v".into(), ..Default::default() };
            let keys: pb::RangeResponse = server.call("KV/Range", root, &read).await?;
            let status: pb::AuthStatusResponse =
                server.call("Auth/AuthStatus", root, &pb::AuthStatusRequest {}).await?;
            let users: pb::AuthUserListResponse =
                server.call("Auth/UserList", root, &pb::AuthUserListRequest {}).await?;
            seen.push((keys.kvs, status.auth_revision, users.users));
        }
        ensure!(seen.windows(2).all(|pair| pair[0] == pair[1]), "{seen:#?}");
        Ok(())
    })
}

#[test]
fn three_of_ours_agree() -> anyhow::Result<()> {
    members_agree([&subject(), &subject(), &subject()], &[])
}

#[test]
fn ours_and_etcds_agree() -> anyhow::Result<()> {
    members_agree([&yardstick(), &subject(), &subject()], &[])?;
    members_agree([&subject(), &yardstick(), &yardstick()], &[])
}

#[test]
fn ours_and_etcds_agree_with_signed_tokens() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let key = dir.path().join("key");
    std::fs::write(&key, "shared")?;
    let flag = format!("jwt,sign-method=HS384,priv-key={}", key.display());
    members_agree([&yardstick(), &subject(), &subject()], &["--auth-token", &flag])
}

/// A directory with auth on moves from one program to the other and back; users log in with the
/// passwords that the other one hashed.
#[test]
fn a_directory_with_auth_moves_both_ways() -> anyhow::Result<()> {
    let own = tempfile::tempdir()?;
    let mut member = Member::prepare(&yardstick(), &["--bcrypt-cost", "4"], own.path())?;
    member.run()?;
    member = block_on(async {
        let server = Server::connect(member).await?;
        server.enable().await?;
        anyhow::Ok(server.member)
    })?;
    for (round, program) in [subject(), yardstick(), subject()].iter().enumerate() {
        member.stop()?;
        member.use_program(program);
        member.run()?;
        member = block_on(async {
            let server = Server::connect(member).await?;
            let root = server.login("root", PASSWORD).await?;
            let user = format!("u{round}");
            server.user(Some(&root), &user).await?;
            for before in 0..=round {
                server.login(&format!("u{before}"), PASSWORD).await?;
            }
            let read = pb::RangeRequest { key: "k".into(), ..Default::default() };
            let nobody = server.call::<pb::RangeResponse>("KV/Range", None, &read).await;
            assert_eq!(nobody.unwrap_err().message, "etcdserver: user name is empty");
            anyhow::Ok(server.member)
        })?;
    }
    Ok(())
}

/// Both tools on both servers: what users and roles look like, and how a user gets in.
#[test]
fn both_tools_manage_users_on_both_servers() -> anyhow::Result<()> {
    let (mut outputs, tools) = (Vec::new(), [ours("etcdctl"), real("3.5", "etcdctl")]);
    for program in [subject(), yardstick()] {
        for tool in &tools {
            let member = Member::start(&program, &["--bcrypt-cost", "4"])?;
            let ctl = Ctl { program: tool.clone(), endpoint: member.client_url() };
            let mut output = String::new();
            let mut run = |args: &[&str], input: &str| -> anyhow::Result<()> {
                let ran = ctl.run_with(args, &[], input.as_bytes())?;
                output.push_str(&format!("{args:?} -> {} {}{}\n", ran.code, ran.stdout, ran.messages()));
                Ok(())
            };
            let root = "--user=root:rootpw";
            for args in [
                &["user", "add", "root:rootpw"][..],
                &["role", "add", "root"],
                &["user", "grant-role", "root", "root"],
                &["auth", "enable"],
                &["auth", "status", root],
                &["user", "add", "u:pw", root],
                &["user", "add", "bare", "--no-password", root],
                &["role", "add", "r", root],
                &["role", "grant-permission", "r", "readwrite", "a", "c", root],
                &["role", "grant-permission", "r", "read", "p", "--prefix=true", root],
                &["role", "grant-permission", "r", "write", "q", "--from-key=true", root],
                &["role", "get", "r", root],
                &["role", "list", root],
                &["user", "grant-role", "u", "r", root],
                &["user", "get", "u", root],
                &["user", "get", "u", "--detail", root],
                &["user", "list", root],
                &["put", "a", "1", "--user=u:pw"],
                &["put", "a", "2", "--user=u", "--password=pw"],
                &["get", "a", "--user=u:pw"],
                &["get", "x", "--user=u:pw"],
                &["get", "a"],
                &["get", "a", "--user=u:wrong"],
                &["get", "a", "--user=bare:pw"],
                &["role", "revoke-permission", "r", "a", "c", root],
                &["user", "revoke-role", "u", "r", root],
                &["user", "delete", "u", root],
                &["role", "delete", "r", root],
                &["user", "delete", "root", root],
                &["auth", "disable", root],
                &["auth", "status"],
            ] {
                run(args, "")?;
            }
            run(&["user", "passwd", "bare", "--interactive=false"], "newpw\n")?;
            run(&["user", "add", "typed", "--interactive=false"], "newpw\n")?;
            for format in ["json", "simple"] {
                let ran = ctl.run(&["user", "list", "-w", format])?;
                output.push_str(&format!("{} {}\n", ran.code, ran.stdout.len() > 5));
            }
            outputs.push(output);
        }
    }
    for (at, output) in outputs.iter().enumerate().skip(1) {
        let differing = outputs[0].lines().zip(output.lines()).find(|(left, right)| left != right);
        ensure!(differing.is_none(), "pairing {at}: {differing:?}");
    }
    Ok(())
}
