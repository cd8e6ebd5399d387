//! The pages of the tools: every command with its flags.

use cli::help::flag_rows;
use cli::{CommandSpec, FlagSpec};

use crate::roff::Page;

/// The page of `etcdctl`.
pub fn etcdctl_page() -> String {
    let mut page = Page::new("etcdctl", "command-line client of retcd and etcd");
    page.section("SYNOPSIS");
    page.text("etcdctl [global options] command [options] [arguments]");
    page.section("DESCRIPTION");
    page.text(
        "Talks to the members of a cluster: reads, writes and watches keys, manages leases, members, users and roles, \
         takes snapshots, checks and repairs. Flags may stand before and behind the command, with values behind a \
         blank or an equals sign. A command may be cut to a unique beginning.",
    );
    commands(&mut page, &etcdctl::ROOT);
    globals(&mut page, etcdctl::ROOT.persistent);
    page.section("ENVIRONMENT");
    page.text(
        "Each global option has a variable: ETCDCTL_ and its name in upper case with underscores, such as \
         ETCDCTL_ENDPOINTS. To give both is an error. watch takes the key from ETCDCTL_WATCH_KEY and the end of the \
         range from ETCDCTL_WATCH_RANGE_END.",
    );
    exit_codes(
        &mut page,
        &[
            ("0", "success"),
            ("1", "the request failed, timed out or was refused; the command or a flag is unknown"),
            ("2", "no connection could be made, or the login was refused"),
            ("3", "input that is no transaction; end of input; keys where a check wants none"),
            ("4", "an unknown output format or word"),
            ("5", "the server ended a watch; a snapshot could not be saved"),
            ("128", "wrong arguments"),
            ("other", "of the command that lock ran"),
        ],
    );
    page.section("EXAMPLES");
    page.text(
        "  etcdctl put greeting hello\n  etcdctl get --prefix /registry/ --keys-only\n  \
         etcdctl --endpoints a:2379,b:2379 endpoint status -w table\n  etcdctl snapshot save backup.db",
    );
    page.section("SEE ALSO");
    page.text("etcd(1), etcdutl(1)");
    page.finish()
}

/// The page of `etcdutl`.
pub fn etcdutl_page() -> String {
    let mut page = Page::new("etcdutl", "tool for snapshots and for the files of stopped members");
    page.section("SYNOPSIS");
    page.text("etcdutl [global options] command [options] [arguments]");
    page.section("DESCRIPTION");
    page.text(
        "Restores snapshots, and looks at, checks, defragments and migrates the data directories of members that do not \
         run. It never talks to a server: that is what etcdctl does.",
    );
    commands(&mut page, &etcdutl::ROOT);
    globals(&mut page, etcdutl::ROOT.persistent);
    exit_codes(
        &mut page,
        &[
            ("0", "success; for check: the member can be started"),
            ("1", "anything else, said in a line on standard error"),
            ("128", "wrong arguments"),
        ],
    );
    page.section("EXAMPLES");
    page.text(
        "  etcdutl snapshot status backup.db -w table\n  \
         etcdutl snapshot restore backup.db --data-dir /var/lib/etcd/default\n  \
         etcdutl check --data-dir /var/lib/etcd/default",
    );
    page.section("SEE ALSO");
    page.text("etcd(1), etcdctl(1)");
    page.finish()
}

fn commands<R>(page: &mut Page, root: &'static CommandSpec<R>) {
    page.section("COMMANDS");
    for child in sorted(root) {
        command(page, root.name, child, &[]);
    }
}

fn command<R>(page: &mut Page, above: &str, spec: &'static CommandSpec<R>, inherited: &[&'static FlagSpec]) {
    let name = format!("{above} {}", spec.name);
    let shared: Vec<_> = inherited.iter().copied().chain(spec.persistent).collect();
    if spec.run.is_some() {
        page.subsection(&format!("{name}{}", spec.arguments));
        page.text(if spec.long.is_empty() { spec.short } else { spec.long });
        let mut own: Vec<_> = spec.flags.iter().chain(shared.iter().copied()).collect();
        own.sort_by_key(|flag| flag.name);
        for (left, right) in flag_rows(own) {
            page.item(left.trim(), &right);
        }
    }
    for child in sorted(spec) {
        command(page, &name, child, &shared);
    }
}

fn sorted<R>(spec: &'static CommandSpec<R>) -> Vec<&'static CommandSpec<R>> {
    let mut children: Vec<_> = spec.children.iter().collect();
    children.sort_by_key(|child| child.name);
    children
}

fn globals(page: &mut Page, flags: &'static [FlagSpec]) {
    page.section("GLOBAL OPTIONS");
    for (left, right) in flag_rows(flags) {
        page.item(left.trim(), &right);
    }
}

fn exit_codes(page: &mut Page, codes: &[(&str, &str)]) {
    page.section("EXIT STATUS");
    for (code, meaning) in codes {
        page.item(code, meaning);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roff::escape;

    fn check<R>(page: &str, above: &str, spec: &'static CommandSpec<R>) -> usize {
        let name = format!("{above}{}", spec.name);
        let heading = format!(".SS {}", escape(&format!("{name}{}", spec.arguments)));
        assert_eq!(
            page.lines().filter(|line| *line == heading).count(),
            usize::from(spec.run.is_some() && !above.is_empty()),
            "{heading}"
        );
        let mut seen = 0;
        for flag in spec.flags.iter().chain(spec.persistent) {
            let term = format!("\\-\\-{}", escape(flag.name));
            let listed =
                page.lines().any(|line| line.starts_with(".B ") && line.split(' ').any(|word| word == term));
            assert!(listed, "{name}: {}", flag.name);
            seen += 1;
        }
        seen + spec.children.iter().map(|child| check(page, &format!("{name} "), child)).sum::<usize>()
    }

    #[test]
    fn every_command_and_every_flag_is_in_its_page() {
        assert!(check(&etcdctl_page(), "", &etcdctl::ROOT) > 90);
        assert!(check(&etcdutl_page(), "", &etcdutl::ROOT) > 20);
    }
}
