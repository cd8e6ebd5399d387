//! One script, two tools: the real etcdctl and ours, each against a real server of the same
//! version. Ours follows 3.7.1; where only 3.5 is at hand, what changed since is a known difference.

use interop::known::Known;
use interop::member::Member;
use interop::programs::{Program, ours, real, real_if_there};
use interop::script::{Script, compare};
use interop::{block_on, scripts};

/// The newest version whose tool and server are there.
fn version() -> &'static str {
    if real_if_there("3.7", "etcdctl").is_some() { "3.7" } else { "3.5" }
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
                let member = Member::start(&Program::plain(real(version(), "etcd")), &[])?;
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
}
