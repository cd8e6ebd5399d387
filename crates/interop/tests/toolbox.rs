//! What etcdctl does beyond single requests: filtered watches, mirrors, checks. Ours, on servers of both
//! kinds; where the real tool has the command, it must come to the same.

use anyhow::ensure;
use interop::cluster::{ctl, eventually};
use interop::ctl::{Ctl, Until};
use interop::member::Member;
use interop::programs::{Program, ours, real, subject, subject_as, yardstick};

fn our_ctl(member: &Member) -> Ctl {
    Ctl { program: ours("etcdctl"), endpoint: member.client_url() }
}

/// One put and one deletion below the prefix of the guide.
fn app_config(program: &Program) -> anyhow::Result<Member> {
    let member = Member::start(program, &[])?;
    let tool = ctl(&member);
    tool.run(&["put", "/app/config/a", "1"])?.success()?;
    tool.run(&["del", "/app/config/a"])?.success()?;
    Ok(member)
}

/// All nine rows: what is given, and whether puts and deletions are shown.
#[test]
fn watch_filters_show_what_the_guides_say() -> anyhow::Result<()> {
    let rows: [(&[&str], bool, bool); 8] = [
        (&[], true, true),
        (&["--filter-put"], false, true),
        (&["--filter-delete=true"], true, false),
        (&["--filter-put=false"], true, false),
        (&["--filter-delete=false"], false, true),
        (&["--filter-put=t", "--filter-delete=0"], false, true),
        (&["--filter-put=f", "--filter-delete=1"], true, false),
        (&["--filter-put=false", "--filter-delete=false"], true, true),
    ];
    for program in [subject(), yardstick()] {
        let member = app_config(&program)?;
        let tool = our_ctl(&member);
        for (flags, puts, deletions) in rows {
            for format in ["simple", "json"] {
                let shown = watch(&tool, flags, format, puts, deletions)?;
                ensure!(shown == (puts, deletions), "{flags:?} {format} on {program:?}: {shown:?}");
            }
            let line = format!("watch /app/config/ --prefix --rev 1 {}\n", flags.join(" "));
            let lines = 3 * (usize::from(puts) + usize::from(deletions));
            let ran = tool.run_until(&["watch", "-i"], &line, Until::Lines(lines))?;
            let kinds = (ran.stdout.contains("PUT"), ran.stdout.contains("DELETE"));
            ensure!(kinds == (puts, deletions), "-i {flags:?}: {ran:?}");
        }
        let ran = tool.run(&["watch", "k", "--filter-put", "--filter-delete"])?;
        let expected = "Error: --filter-put and --filter-delete cannot be set at the same time";
        ensure!(ran.code == 128 && ran.messages() == expected, "{ran:?}");
        // A separate word is not the value but the key.
        ctl(&member).run(&["put", "false", "x"])?.success()?;
        ctl(&member).run(&["del", "false"])?.success()?;
        let ran = tool.run_until(&["watch", "--filter-put", "false", "--rev", "1"], "", Until::Lines(3))?;
        ensure!(ran.stdout.starts_with("DELETE\nfalse\n"), "{ran:?}");
    }
    Ok(())
}

/// The kinds of events that a watch over the history shows. It is known how many lines to wait for.
fn watch(
    tool: &Ctl,
    flags: &[&str],
    format: &str,
    puts: bool,
    deletions: bool,
) -> anyhow::Result<(bool, bool)> {
    // Both events lie in the past and come in one answer.
    let lines = if format == "json" { 1 } else { 3 * (usize::from(puts) + usize::from(deletions)) };
    let args = [&["watch", "/app/config/", "--prefix", "--rev", "1", "-w", format], flags].concat();
    let ran = tool.run_until(&args, "", Until::Lines(lines))?;
    match format {
        "json" => {
            let mut kinds = (false, false);
            for line in ran.stdout.lines() {
                let answer: serde_json::Value = serde_json::from_str(line)?;
                for event in answer["Events"].as_array().into_iter().flatten() {
                    match event["type"].as_u64() {
                        Some(1) => kinds.1 = true,
                        _ => kinds.0 = true,
                    }
                }
            }
            Ok(kinds)
        }
        _ => Ok((ran.stdout.contains("PUT"), ran.stdout.contains("DELETE"))),
    }
}

/// Copies a prefix and follows it, until the destination holds what is expected. The first of the keys
/// is looked at twice: copied, with the value `before`, and followed, when it is `2`.
fn mirror(
    tool: std::path::PathBuf,
    from: &Member,
    to: &Member,
    flags: &[&str],
    expected: &[(&str, &str)],
) -> anyhow::Result<()> {
    let (source, destination) = (ctl(from), ctl(to));
    for start in (0..300).step_by(100) {
        let puts: String =
            (start..start + 100).map(|number| format!("put copy/{number:03} before\n")).collect();
        source.run_with(&["txn"], &[], format!("\n{puts}\n\n").as_bytes())?.success()?;
    }
    source.run(&["put", "other", "stays"])?.success()?;
    let mut child = std::process::Command::new(tool)
        .args(["make-mirror", "--endpoints", &from.client_url()])
        .args(flags)
        .arg(to.authority())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()?;
    let has = |key: &str, value: &str| -> anyhow::Result<bool> {
        let found = destination.run(&["get", "--print-value-only", key])?.success()?;
        Ok(found.trim_end() == value)
    };
    let followed = (|| {
        let (first, _) = expected[0];
        eventually("the first copy is there", || has(first, "before"))?;
        source.run(&["put", "copy/001", "after"])?.success()?;
        source.run(&["del", "copy/002"])?.success()?;
        source.run_with(&["txn"], &[], b"\nput copy/new 1\nput copy/000 2\ndel copy/003\n\n\n")?.success()?;
        for (key, value) in expected {
            eventually(&format!("{key} is {value:?}"), || {
                has(key, if *value == "before" { "2" } else { value })
            })?;
        }
        anyhow::Ok(())
    })();
    child.kill()?;
    child.wait()?;
    followed
}

#[test]
fn mirrors_copy_and_follow() -> anyhow::Result<()> {
    let plain = [
        ("copy/000", "before"),
        ("copy/001", "after"),
        ("copy/002", ""),
        ("copy/003", ""),
        ("copy/new", "1"),
        ("other", "stays"),
    ];
    let moved = [
        ("moved/000", "before"),
        ("moved/001", "after"),
        ("moved/002", ""),
        ("moved/new", "1"),
        ("other", ""),
        ("copy/000", ""),
    ];
    let cut = [("000", "before"), ("001", "after"), ("002", ""), ("new", "1"), ("other", "")];
    let prefix = ["--prefix", "copy/"];
    for (from, to, tool) in [
        (subject(), yardstick(), ours("etcdctl")),
        (yardstick(), subject(), ours("etcdctl")),
        (subject(), subject(), real("3.5", "etcdctl")),
    ] {
        let moved_flags = [&prefix[..], &["--dest-prefix", "moved/"]].concat();
        let cut_flags = [&prefix[..], &["--no-dest-prefix"]].concat();
        for (flags, expected) in [(&[][..], &plain[..]), (&moved_flags, &moved), (&cut_flags, &cut)] {
            let (source, target) = (Member::start(&from, &[])?, Member::start(&to, &[])?);
            mirror(tool.clone(), &source, &target, flags, expected)?;
        }
    }
    Ok(())
}

/// Texts around the numbers are equal, the keys are gone afterwards.
#[test]
fn check_datascale_says_how_much_memory_keys_take() -> anyhow::Result<()> {
    let blur = |text: &str| {
        let mut out = String::new();
        for character in text.chars() {
            if !character.is_ascii_digit() {
                out.push(character);
            } else if !out.ends_with('#') {
                out.push('#');
            }
        }
        out
    };
    let mut seen = Vec::new();
    for program in [subject(), yardstick()] {
        for tool in [ours("etcdctl"), real("3.5", "etcdctl")] {
            let member = Member::start(&program, &[])?;
            let tool = Ctl { program: tool, endpoint: member.client_url() };
            let ran = tool.run(&["check", "datascale", "--load", "s", "--auto-compact", "--auto-defrag"])?;
            ensure!(ran.code == 0, "{ran:?}");
            // 3.5 has its bar here.
            let lines: Vec<_> = ran.stdout.lines().filter(|line| !line.contains('\r')).collect();
            seen.push(blur(&lines.join("\n")));
            let left =
                tool.run(&["get", "--prefix", "/etcdctl-check-datascale/", "--keys-only"])?.success()?;
            ensure!(left.is_empty(), "keys are left: {left:?}");
        }
    }
    ensure!(seen.iter().all(|text| *text == seen[0]), "{seen:#?}");
    Ok(())
}

/// The streaming call shows what the plain one shows, on a server that has it.
#[test]
fn get_stream_shows_the_same() -> anyhow::Result<()> {
    let member = Member::start(&subject_as("3.7"), &[])?;
    let tool = our_ctl(&member);
    for number in 0..200 {
        ctl(&member).run(&["put", &format!("k/{number:03}"), &"x".repeat(20 * number)])?.success()?;
    }
    for flags in [
        &["--prefix", "k/"][..],
        &["--prefix", "k/", "--keys-only"],
        &["--prefix", "k/", "--limit", "7"],
        &["k/010", "k/020", "-w", "fields"],
        &["k/010", "--rev", "15"],
        &["nosuch"],
    ] {
        let plain = tool.run(&[&["get"], flags].concat())?;
        let streamed = tool.run(&[&["get", "--stream"], flags].concat())?;
        ensure!(plain.code == streamed.code && plain.stdout == streamed.stdout, "{flags:?}: {streamed:?}");
    }
    Ok(())
}
