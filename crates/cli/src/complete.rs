//! Shell completion: the scripts ask the program itself, through the hidden command `__complete`.
//!
//! The protocol is cobra's, so scripts made by upstream's tools work with these programs too: one
//! candidate per line, `name<TAB>description`, then `:` and a number. 4 says "no file names".

use bytes::Bytes;

use crate::parse::{Flags, find};
use crate::spec::{Arguments, CommandSpec, FlagSpec, Kind};
use crate::text::lossy;

const NO_FILES: u8 = 4;
const FILES: u8 = 0;

/// The shells that there are scripts for.
pub const SHELLS: &[&str] = &["bash", "zsh", "fish", "powershell"];

/// The answer for a command line that begins with the hidden command; `None` for any other.
pub fn answer<R>(root: &'static CommandSpec<R>, words: &[Bytes]) -> Option<String> {
    match words.split_first() {
        Some((hidden, rest)) if &hidden[..] == b"__complete" => Some(complete(root, rest, true)),
        Some((hidden, rest)) if &hidden[..] == b"__completeNoDesc" => Some(complete(root, rest, false)),
        _ => None,
    }
}

/// The answer for the words of a line, the unfinished last one included.
pub fn complete<R>(root: &'static CommandSpec<R>, words: &[Bytes], descriptions: bool) -> String {
    let (last, before) = match words.split_last() {
        Some((last, before)) => (lossy(last), before),
        None => (String::new(), &[][..]),
    };
    let (path, rest) = find(root, before);
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

fn candidates<R>(
    command: &'static CommandSpec<R>,
    flags: &[&'static FlagSpec],
    rest: &[Bytes],
    path: &[&'static CommandSpec<R>],
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
    if !command.children.is_empty() {
        // Behind a word that is no command there is nothing to offer.
        let words = Flags::of(path).parse(rest).map(|(args, _)| args).unwrap_or_default();
        let offered = if words.is_empty() { children(command, last) } else { Vec::new() };
        return (offered, NO_FILES);
    }
    match command.offers {
        Arguments::Unknown => (Vec::new(), NO_FILES),
        Arguments::Files => (Vec::new(), FILES),
        Arguments::Words(words) => {
            let words = words.iter().filter(|word| word.starts_with(last));
            (words.map(|word| ((*word).to_owned(), "")).collect(), NO_FILES)
        }
        Arguments::Topics => {
            let mut flags = Flags::of(path);
            let args = flags.parse(rest).map(|(args, _)| args).unwrap_or_default();
            let (path, _) = find(path[0], &args);
            (children(path.last().expect("a path begins with the root"), last), NO_FILES)
        }
    }
}

fn children<R>(command: &'static CommandSpec<R>, last: &str) -> Vec<Candidate> {
    let children = command.children.iter().map(|child| (child.name.to_owned(), child.short));
    sorted(children.filter(|(name, _)| name.starts_with(last)))
}

fn choices(spec: Option<&&'static FlagSpec>, typed: &str, prefix: &str) -> (Vec<Candidate>, u8) {
    let Some(spec) = spec else { return (Vec::new(), NO_FILES) };
    if spec.is_path {
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

/// The script of a program for a shell; `None` for a shell that has none.
pub fn script(program: &str, shell: &str) -> Option<String> {
    let script = match shell {
        "bash" => BASH,
        "zsh" => ZSH,
        "fish" => FISH,
        "powershell" => POWERSHELL,
        _ => return None,
    };
    Some(script.replace("PROGRAM", program))
}

const BASH: &str = r#"# bash completion for PROGRAM

__start_PROGRAM() {
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

complete -o default -F __start_PROGRAM PROGRAM
"#;

const ZSH: &str = r#"#compdef PROGRAM
compdef _PROGRAM PROGRAM

_PROGRAM() {
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
        _describe 'PROGRAM' candidates
    elif [[ $directive == 0 ]]; then
        _files
    fi
}

if [[ ${funcstack[1]} == _PROGRAM ]]; then
    _PROGRAM
fi
"#;

const FISH: &str = r#"# fish completion for PROGRAM

function __PROGRAM_candidates
    set -l words (commandline -opc) (commandline -ct)
    set -l out ($words[1] __complete $words[2..] 2>/dev/null)
    or return
    for line in $out
        string match -q -r '^:[0-9]+$' -- $line; or printf '%s\n' $line
    end
end

function __PROGRAM_wants_files
    set -l words (commandline -opc) (commandline -ct)
    test (count $words) -gt 1; and $words[1] __complete $words[2..] 2>/dev/null | tail -n 1 | string match -q ':0'
end

complete -c PROGRAM -e
complete -c PROGRAM -n 'not __PROGRAM_wants_files' -f
complete -c PROGRAM -a '(__PROGRAM_candidates)'
"#;

const POWERSHELL: &str = r#"# powershell completion for PROGRAM

Register-ArgumentCompleter -Native -CommandName 'PROGRAM' -ScriptBlock {
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

    #[test]
    fn every_shell_has_a_script_that_asks_the_program() {
        for shell in SHELLS {
            let script = script("tool", shell).unwrap();
            assert!(script.contains("__complete") && script.contains("tool"), "{shell}");
            assert!(!script.contains("PROGRAM"), "{shell}");
        }
        assert!(script("tool", "tcsh").is_none());
    }
}
