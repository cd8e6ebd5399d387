//! etcdctl: lock with a command, watch with history, elect.

use crate::script::Script;

/// Commands that end by themselves.
pub async fn sessions(s: &mut Script) -> anyhow::Result<()> {
    let ran = s
        .ctl_quiet(
            &["lock", "l1", "--", "sh", "-c", "echo \"$ETCD_LOCK_KEY\" | cut -d/ -f1; exit 9"],
            &[],
            "",
        )
        .await?;
    s.note("ctl/lock with a command", &format!("exit {}\n{}", ran.code, ran.stdout));
    s.ctl("ctl/the lock is free afterwards", &["get", "--prefix", "l1", "--keys-only"]).await?;
    s.ctl("ctl/lock with a missing command", &["lock", "l1", "no-such-command-anywhere"]).await?;
    s.ctl("ctl/lock without a name", &["lock"]).await?;
    s.ctl("ctl/elect without a proposal", &["elect", "e"]).await?;
    for number in 0..3 {
        s.ctl_quiet(&["put", "w", &number.to_string()], &[], "").await?;
    }
    s.ctl_quiet(&["del", "w"], &[], "").await?;
    for format in ["simple", "json", "fields"] {
        // The command ends the watch once it has seen the deletion.
        let ran = s
            .ctl_quiet(
                &["watch", "w", "--rev=2", "--prev-kv", "-w", format, "--", "sh", "-c", END_AT_DELETE],
                &[],
                "",
            )
            .await?;
        s.note(&format!("ctl/watch -w {format}"), &format!("exit {}\n{}", ran.code, ran.stdout));
    }
    s.ctl_quiet(&["compaction", "4"], &[], "").await?;
    s.ctl("ctl/watch below the compaction", &["watch", "w", "--rev=2"]).await?;
    Ok(())
}

const END_AT_DELETE: &str = "test \"$ETCD_WATCH_EVENT_TYPE\" != '\"DELETE\"'";
