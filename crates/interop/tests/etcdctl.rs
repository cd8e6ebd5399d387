//! One script, two tools: the real etcdctl and ours, each against a real server of the same
//! version. Ours follows 3.7.1; compared with 3.5, what changed since is a known difference. The
//! feature `newest` compares with 3.7.

use interop::known::Known;
use interop::member::Member;
use interop::programs::{Program, ours, real};
use interop::script::{Script, compare};
use interop::{block_on, scripts};

/// The version whose tool and server ours is compared with.
fn version() -> &'static str {
    if cfg!(feature = "newest") { "3.7" } else { "3.5" }
}

fn known() -> anyhow::Result<Known> {
    match std::env::var("RETCD_KNOWN").as_deref() {
        Ok("no") => Ok(Known::nothing()),
        _ if version() == "3.5" => Ok(Known::load()?.of(&["etcdctl", "etcdctl-3.5"])),
        _ => Ok(Known::load()?.of(&["etcdctl"])),
    }
}

macro_rules! tools {
    ($($name:ident: $module:ident, $script:ident;)*) => {$(
        #[test]
        fn $name() -> anyhow::Result<()> {
            let run = |tool: std::path::PathBuf| {
                let member = Member::start(&Program::plain(real(version(), "etcd")), &["--bcrypt-cost", "4"])?;
                block_on(async {
                    let mut script = Script::connect(&member, tool).await?;
                    scripts::$module::$script(&mut script).await?;
                    anyhow::Ok(script.into_entries())
                })
            };
            compare(&run(real(version(), "etcdctl"))?, &run(ours("etcdctl"))?, &known()?)
        }
    )*};
}

tools! {
    keys: ctl_data, keys;
    txns: ctl_data, txns;
    leases: ctl_data, leases;
    maintenance: ctl_cluster, maintenance;
    command_line: ctl_cluster, command_line;
    sessions: ctl_concurrency, sessions;
    formats: ctl_formats, formats;
    endless: ctl_formats, endless;
    mistakes: ctl_formats, mistakes;
    surroundings: ctl_formats, surroundings;
    users_and_roles: ctl_auth, users_and_roles;
    logins: ctl_auth, logins;
    typed: ctl_auth, typed;
}
