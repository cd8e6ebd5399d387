//! Shell completion: the scripts ask the program itself, through the hidden command `__complete`.
//!
//! The protocol is cobra's, so scripts made by upstream's etcdctl work with this program too: one
//! candidate per line, `name<TAB>description`, then `:` and a number. 4 says "no file names".

use bytes::Bytes;

use super::parse::{Flags, find};
use super::spec::{CommandSpec, FlagSpec, Kind, Run};
use super::table::ROOT;
use crate::text::lossy;

const NO_FILES: u8 = 4;
const FILES: u8 = 0;

/// The answer for the words of a line, the unfinished last one included.
pub fn complete(words: &[Bytes], descriptions: bool) -> String {
    let (last, before) = match words.split_last() {
        Some((last, before)) => (lossy(last), before),
        None => (String::new(), &[][..]),
    };
    let (path, rest) = find(&ROOT, before);
    let command = path.last().expect("a path begins with the root");
    let flags: Vec<_> = path.iter().flat_map(|part| part.persistent).chain(command.flags).collect();
    let (candidates, directive) = candidates(command, &flags, &rest, &path, &last);
    let mut out = String::new();
    for (name, description) in candidates {
        match descriptions && !description.is_empty() {
            true => out.push_str(&format!("{name}\t{description}\n")),
            false => out.push_str(&format!("{name}\n")),
        }
    }
    out + &format!(":{directive}\n")
}

type Candidate = (String, &'static str);

fn candidates(
    command: &'static CommandSpec,
    flags: &[&'static FlagSpec],
    rest: &[Bytes],
    path: &[&'static CommandSpec],
    last: &str,
) -> (Vec<Candidate>, u8) {
    // The word is the value of a flag: of the one before, or behind the equals sign.
    if let Some((flag, value)) = last.strip_prefix("--").and_then(|flag| flag.split_once('=')) {
        let spec = flags.iter().find(|spec| spec.name == flag);
        return choices(spec, value, &format!("--{flag}="));
    }
    let previous = rest.last().map(|word| lossy(word)).unwrap_or_default();
    let waiting = flags.iter().find(|spec| {
        spec.kind != Kind::Bool
            && (previous.strip_prefix("--") == Some(spec.name)
                || spec.short.is_some_and(|short| previous == format!("-{short}")))
    });
    if waiting.is_some() {
        return choices(waiting, last, "");
    }
    if last.starts_with('-') {
        let named = flags
            .iter()
            .map(|spec| (format!("--{}", spec.name), spec.usage))
            .filter(|(name, _)| name.starts_with(last));
        return (sorted(named), NO_FILES);
    }
    let children = command
        .children
        .iter()
        .map(|child| (child.name.to_owned(), child.short))
        .filter(|(name, _)| name.starts_with(last));
    if !command.children.is_empty() {
        return (sorted(children), NO_FILES);
    }
    let words: &[&str] = match command.run {
        Some(Run::Completion) => &["bash", "zsh", "fish", "powershell"],
        Some(Run::SnapshotSave) => return (Vec::new(), FILES),
        Some(Run::Help) => {
            let mut flags = Flags::of(path);
            let args = flags.parse(rest).map(|(args, _)| args).unwrap_or_default();
            let (path, _) = find(&ROOT, &args);
            let topic = path.last().expect("a path begins with the root");
            let children = topic
                .children
                .iter()
                .map(|child| (child.name.to_owned(), child.short))
                .filter(|(name, _)| name.starts_with(last));
            return (sorted(children), NO_FILES);
        }
        _ => &[],
    };
    let words = words.iter().filter(|word| word.starts_with(last)).map(|word| ((*word).to_owned(), ""));
    (words.collect(), NO_FILES)
}

fn choices(spec: Option<&&'static FlagSpec>, typed: &str, prefix: &str) -> (Vec<Candidate>, u8) {
    let Some(spec) = spec else { return (Vec::new(), NO_FILES) };
    if ["cert", "key", "cacert"].iter().any(|file| spec.name.trim_start_matches("dest-") == *file) {
        return (Vec::new(), FILES);
    }
    let offered = spec.choices.iter().filter(|choice| choice.starts_with(typed));
    (offered.map(|choice| (format!("{prefix}{choice}"), "")).collect(), NO_FILES)
}

fn sorted(candidates: impl Iterator<Item = Candidate>) -> Vec<Candidate> {
    let mut candidates: Vec<_> = candidates.collect();
    candidates.sort();
    candidates
}

/// The script for a shell; `None` for a shell that has none.
pub fn script(shell: &str) -> Option<&'static str> {
    match shell {
        "bash" => Some(BASH),
        "zsh" => Some(ZSH),
        "fish" => Some(FISH),
        "powershell" => Some(POWERSHELL),
        _ => None,
    }
}

const BASH: &str = r#"# bash completion for etcdctl

__start_etcdctl() {
    local line out directive current=${COMP_WORDS[COMP_CWORD]}
    local words=("${COMP_WORDS[@]:1:COMP_CWORD-1}" "$current")
    # An equals sign splits words in bash: put flag and value together again.
    local -a joined=()
    local index
    for ((index = 0; index < ${#words[@]}; index++)); do
        if [[ ${words[index]} == "=" && ${#joined[@]} -gt 0 ]]; then
            joined[-1]+="="
            if ((index + 1 < ${#words[@]})); then
                joined[-1]+=${words[++index]}
            fi
        else
            joined+=("${words[index]}")
        fi
    done
    [[ $current == "=" ]] && current=""
    out=$("${COMP_WORDS[0]}" __completeNoDesc "${joined[@]}" 2>/dev/null) || return
    directive=${out##*:}
    out=${out%:*}
    COMPREPLY=()
    while IFS='' read -r line; do
        line=${line##*=}
        [[ -n $line && $line == "$current"* ]] && COMPREPLY+=("$line")
    done <<< "$out"
    if [[ ${#COMPREPLY[@]} -eq 0 && $directive -eq 0 ]]; then
        COMPREPLY=($(compgen -f -- "$current"))
    fi
}

complete -o default -F __start_etcdctl etcdctl
"#;

const ZSH: &str = r#"#compdef etcdctl
compdef _etcdctl etcdctl

_etcdctl() {
    local out line directive
    local -a candidates
    out=$("${words[1]}" __complete "${(@)words[2,CURRENT]}" 2>/dev/null) || return
    directive=${out##*:}
    for line in "${(@f)out%:*}"; do
        [[ -n $line ]] || continue
        local name=${line%%$'\t'*} description=
        [[ $line == *$'\t'* ]] && description=${line#*$'\t'}
        candidates+=("${name//:/\\:}${description:+:$description}")
    done
    if (( ${#candidates} )); then
        _describe 'etcdctl' candidates
    elif [[ $directive == 0 ]]; then
        _files
    fi
}

if [[ ${funcstack[1]} == _etcdctl ]]; then
    _etcdctl
fi
"#;

const FISH: &str = r#"# fish completion for etcdctl

function __etcdctl_candidates
    set -l words (commandline -opc) (commandline -ct)
    set -l out ($words[1] __complete $words[2..] 2>/dev/null)
    or return
    for line in $out
        string match -q -r '^:[0-9]+$' -- $line; or printf '%s\n' $line
    end
end

function __etcdctl_wants_files
    set -l words (commandline -opc) (commandline -ct)
    test (count $words) -gt 1; and $words[1] __complete $words[2..] 2>/dev/null | tail -n 1 | string match -q ':0'
end

complete -c etcdctl -e
complete -c etcdctl -n 'not __etcdctl_wants_files' -f
complete -c etcdctl -a '(__etcdctl_candidates)'
"#;

const POWERSHELL: &str = r#"# powershell completion for etcdctl

Register-ArgumentCompleter -Native -CommandName 'etcdctl' -ScriptBlock {
    param($word, $ast, $cursor)
    $words = @($ast.CommandElements | Where-Object { $_.Extent.EndOffset -lt $cursor } | ForEach-Object { "$_" })
    $program = "$($ast.CommandElements[0])"
    $before = @($words | Select-Object -Skip 1)
    $last = if ($word) { $word } else { '""' }
    & $program __complete @before $last 2>$null | Where-Object { $_ -notmatch '^:\d+$' } | ForEach-Object {
        $name, $description = $_ -split "`t", 2
        if (-not $description) { $description = $name }
        [System.Management.Automation.CompletionResult]::new($name, $name, 'ParameterValue', $description)
    }
}
"#;

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &[&'static str], expected: &str) {
        let words: Vec<Bytes> = line.iter().map(|word| Bytes::from_static(word.as_bytes())).collect();
        assert_eq!(complete(&words, false), expected, "{line:?}");
    }

    #[test]
    fn candidates_come_from_the_table() {
        check(&["le"], "lease\n:4\n");
        check(&["lease", ""], "grant\nkeep-alive\nlist\nrevoke\ntimetolive\n:4\n");
        check(&["get", "--order", ""], "ASCEND\nDESCEND\n:4\n");
        check(&["-w", "j"], "json\n:4\n");
        check(&["--write-out=t"], "--write-out=table\n:4\n");
        check(&["get", "k", "--min"], "--min-create-rev\n--min-mod-rev\n:4\n");
        check(&["snapshot", "save", ""], ":0\n");
        check(&["completion", "f"], "fish\n:4\n");
        check(&["help", "mem"], "member\n:4\n");
        check(&["help", "member", "a"], "add\n:4\n");
    }

    #[test]
    fn every_shell_has_a_script_that_asks_the_program() {
        for shell in ["bash", "zsh", "fish", "powershell"] {
            assert!(script(shell).unwrap().contains("__complete"), "{shell}");
        }
        assert!(script("tcsh").is_none());
    }
}
