//! etcdctl: auth, user, role, in all formats; logins; passwords that are typed.

use crate::script::Script;

const FORMATS: [&str; 5] = ["simple", "json", "fields", "table", "protobuf"];
const ROOT: &str = "--user=root:rootpw";

async fn each(s: &mut Script, topic: &str, commands: &[&[&str]]) -> anyhow::Result<()> {
    for (number, args) in commands.iter().enumerate() {
        s.ctl(&format!("ctl/{topic} {number:02} {}", args.join(" ")), args).await?;
    }
    Ok(())
}

/// Every command in every format, and every way to use it wrongly, while auth is off.
pub async fn users_and_roles(s: &mut Script) -> anyhow::Result<()> {
    for format in FORMATS {
        let (user, role) = (format!("u-{format}"), format!("r-{format}"));
        let (user, role) = (&user[..], &role[..]);
        let commands: [&[&str]; 22] = [
            &["user", "add", &format!("{user}:pw")],
            &["role", "add", role],
            &["role", "get", role],
            &["role", "grant-permission", role, "readwrite", "a", "d"],
            &["role", "grant-permission", role, "READ", "foo"],
            &["role", "grant-permission", role, "write", "pre", "--prefix"],
            &["role", "grant-permission", role, "read", "z", "--from-key"],
            &["role", "grant-permission", role, "write", "", "--prefix"],
            &["role", "grant-permission", role, "read", "tab\t", "nl\n"],
            &["role", "get", role],
            &["user", "grant-role", user, role],
            &["user", "grant-role", user, role],
            &["user", "get", user],
            &["user", "get", user, "--detail"],
            &["user", "list"],
            &["role", "list"],
            &["role", "revoke-permission", role, "foo"],
            &["role", "revoke-permission", role, "a", "d"],
            &["role", "revoke-permission", role, "pre", "--prefix"],
            &["role", "revoke-permission", role, "z", "--from-key"],
            &["role", "revoke-permission", role, "", "--prefix"],
            &["auth", "status"],
        ];
        for (number, args) in commands.iter().enumerate() {
            // Text and messages in one output: neither can be read.
            if args.contains(&"--detail") && format == "protobuf" {
                continue;
            }
            let args = [args, &["-w", format][..]].concat();
            s.ctl(&format!("ctl/{format} {number:02} {}", args.join(" ")), &args).await?;
        }
        let args = ["user", "passwd", user, "--interactive=false", "-w", format];
        s.ctl_with(&format!("ctl/{format} {}", args.join(" ")), &args, &[], "other words\n").await?;
        for args in
            [&["user", "revoke-role", user, role][..], &["role", "delete", role], &["user", "delete", user]]
        {
            let args = [args, &["-w", format][..]].concat();
            s.ctl(&format!("ctl/{format} {}", args.join(" ")), &args).await?;
        }
    }
    for args in [&["user", "add", "u:pw"][..], &["role", "add", "r"]] {
        s.ctl_quiet(args, &[], "").await?;
    }
    let refused: [&[&str]; 54] = [
        &["user", "add"],
        &["user", "add", "a", "b"],
        &["user", "add", ":pw"],
        &["user", "add", "u:pw"],
        &["user", "add", "", "--no-password"],
        &["user", "add", "x", "--new-user-password", "pw"],
        &["user", "add", "y:pw", "--new-user-password", "pw"],
        &["user", "add", "z:pw", "--no-password"],
        &["user", "add", "empty:"],
        &["user", "list"],
        &["user", "list", "x"],
        &["user", "get"],
        &["user", "get", "nobody"],
        &["user", "get", "nobody", "--detail"],
        &["user", "delete"],
        &["user", "delete", "nobody"],
        &["user", "passwd"],
        &["user", "passwd", "nobody", "--interactive=false"],
        &["user", "grant-role"],
        &["user", "grant-role", "u"],
        &["user", "grant-role", "u", "norole"],
        &["user", "grant-role", "nobody", "r"],
        &["user", "revoke-role", "u"],
        &["user", "revoke-role", "u", "r"],
        &["user", "revoke-role", "nobody", "r"],
        &["role", "add"],
        &["role", "add", "r"],
        &["role", "add", ""],
        &["role", "get"],
        &["role", "get", "norole"],
        &["role", "get", "root"],
        &["role", "delete"],
        &["role", "delete", "norole"],
        &["role", "list", "x"],
        &["role", "grant-permission"],
        &["role", "grant-permission", "r", "rw", "a"],
        &["role", "grant-permission", "r", "read", "a", "b", "--prefix"],
        &["role", "grant-permission", "r", "read", "a", "b", "--from-key"],
        &["role", "grant-permission", "r", "read", "a", "--prefix", "--from-key"],
        &["role", "grant-permission", "r", "read", "", "--prefix", "--from-key"],
        &["role", "grant-permission", "r", "read", "b", "a"],
        &["role", "grant-permission", "r", "read", "a", "a"],
        &["role", "grant-permission", "r", "read", ""],
        &["role", "grant-permission", "r", "read", "", "b"],
        &["role", "grant-permission", "norole", "read", "a"],
        &["role", "revoke-permission"],
        &["role", "revoke-permission", "r"],
        &["role", "revoke-permission", "r", "nokey"],
        &["role", "revoke-permission", "norole", "a"],
        &["role", "revoke-permission", "r", "a", "--prefix", "--from-key"],
        &["auth", "enable", "x"],
        &["auth", "disable", "x"],
        &["auth", "status", "x"],
        &["auth", "disable"],
    ];
    each(s, "refused", &refused).await
}

/// The switch, and getting in by flags and variables.
pub async fn logins(s: &mut Script) -> anyhow::Result<()> {
    let steps: [&[&str]; 26] = [
        &["auth", "enable"],
        &["get", "a", "--user=root:pw"],
        &["user", "add", "root:rootpw"],
        &["auth", "enable", "-w", "json"],
        &["auth", "enable"],
        &["auth", "enable", ROOT],
        &["role", "get", "root", ROOT],
        &["role", "add", "r", ROOT],
        &["role", "grant-permission", "r", "readwrite", "a", "c", ROOT],
        &["user", "add", "u:pw", ROOT],
        &["user", "add", "bare", "--no-password", ROOT],
        &["user", "grant-role", "u", "r", ROOT],
        &["put", "a", "1", "--user=u:pw"],
        &["put", "a", "2", "--user=u", "--password=pw"],
        &["put", "a", "3", "--user=u:pw", "--password=pw"],
        &["put", "a", "3", "--password=pw"],
        &["put", "x", "1", "--user=u:pw"],
        &["get", "a", "--prefix", "--user=u:pw"],
        &["get", "", "--prefix", "--user=u:pw"],
        &["get", "a"],
        &["get", "a", "--user=u:wrong"],
        &["get", "a", "--user=nobody:pw"],
        &["get", "a", "--user=u:"],
        &["get", "a", "--user=:pw"],
        &["get", "a", "--user=bare:pw"],
        &["txn", "--user=u:pw"],
    ];
    each(s, "auth", &steps).await?;
    for (name, variables) in [
        ("user and password in one", &[("ETCDCTL_USER", "u:pw")][..]),
        ("user and password", &[("ETCDCTL_USER", "u"), ("ETCDCTL_PASSWORD", "pw")]),
        ("wrong password", &[("ETCDCTL_USER", "u"), ("ETCDCTL_PASSWORD", "x")]),
        ("empty user", &[("ETCDCTL_USER", "")]),
    ] {
        s.ctl_with(&format!("ctl/variables: {name}"), &["get", "a"], variables, "").await?;
    }
    for (name, input) in
        [("right", "pw\n"), ("wrong", "x\n"), ("empty", "\n"), ("nothing", ""), ("unended", "pw")]
    {
        s.ctl_with(&format!("ctl/prompt: {name}"), &["get", "a", "--user=u"], &[], input).await?;
    }
    for (name, input) in [
        ("the same twice", "new\nnew\n"),
        ("not the same", "new\nold\n"),
        ("empty", "\n\n"),
        ("once", "new\n"),
        ("nothing", ""),
    ] {
        let args = ["user", "passwd", "u", ROOT];
        s.ctl_with(&format!("ctl/passwd: {name}"), &args, &[], input).await?;
        // Behind "u": see K107 for what 3.5 takes for its password otherwise.
        let user = format!("z-{}", name.replace(' ', "-"));
        s.ctl_with(&format!("ctl/add: {name}"), &["user", "add", &user, ROOT], &[], input).await?;
    }
    let steps: [&[&str]; 29] = [
        &["user", "list", ROOT],
        &["user", "list", "--user=u:new"],
        &["user", "get", "u", "--user=u:new"],
        &["user", "get", "u", "--detail", "--user=u:new"],
        &["user", "get", "root", "--user=u:new"],
        &["role", "get", "r", "--user=u:new"],
        &["role", "list", "--user=u:new"],
        &["role", "add", "r2", "--user=u:new"],
        &["user", "passwd", "u", "--interactive=false", "--user=u:new"],
        &["auth", "disable", "--user=u:new"],
        &["auth", "status", ROOT],
        &["auth", "status", ROOT, "-w", "json"],
        &["member", "list", "--user=u:new"],
        &["compaction", "2", "--user=u:new"],
        &["defrag", "--user=u:new"],
        &["alarm", "list", "--user=u:new"],
        &["lease", "list", "--user=u:new"],
        &["lease", "grant", "100"],
        &["move-leader", "1", "--user=u:new"],
        &["watch", "x", "--user=u:new"],
        &["watch", "a"],
        &["lock", "l", "--user=u:new"],
        &["elect", "e", "p", "--user=u:new"],
        &["user", "delete", "root", ROOT],
        &["user", "revoke-role", "root", "root", ROOT],
        &["role", "delete", "root", ROOT],
        &["role", "delete", "r", ROOT],
        &["get", "a", "--user=u:new"],
        &["auth", "disable", ROOT],
    ];
    each(s, "later", &steps).await?;
    s.ctl("ctl/after that", &["get", "a"]).await?;
    s.ctl("ctl/off and with a user", &["get", "a", "--user=u:new"]).await?;
    Ok(())
}

/// Passwords typed on a terminal: nothing of them is shown.
pub async fn typed(s: &mut Script) -> anyhow::Result<()> {
    for args in [&["user", "add", "root:rootpw"][..], &["auth", "enable"]] {
        s.ctl_quiet(args, &[], "").await?;
    }
    for (args, answers) in [
        (&["user", "add", "u", ROOT][..], &["secret-1", "secret-1"][..]),
        (&["user", "passwd", "u", ROOT], &["secret-2", "secret-2"]),
        (&["user", "passwd", "u", ROOT], &["secret-3", "secret-4"]),
        (&["user", "get", "u", "--user=root"], &["rootpw"]),
        (&["user", "get", "u", "--user=root"], &["secret-5"]),
        (&["user", "get", "u", "--user=u"], &["secret-2"]),
    ] {
        s.ctl_typed(&format!("ctl/typed {} {answers:?}", args.join(" ")), args, answers).await?;
    }
    Ok(())
}
