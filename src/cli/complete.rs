//! What a shell may complete a command line with: commands, options and the names of what there is.
//!
//! Pure but for the names, which are asked for only where one may stand.

use clap::{Arg, Command};

/// What the values of an argument name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Names {
    /// Containers.
    Containers,
    /// Images.
    Images,
    /// Volumes.
    Volumes,
    /// Networks.
    Networks,
}

/// A word, and what it stands for; empty for names.
pub(crate) type Candidate = (String, String);

/// The words that may stand in place of the last of `words`, which may be empty; none if it is a file of the shell's.
pub(crate) fn candidates(
    root: Command,
    words: &[String],
    names: &mut dyn FnMut(Names) -> Vec<String>,
) -> Vec<Candidate> {
    let Some((current, before)) = words.split_last() else { return Vec::new() };
    let mut command = root;
    let mut positionals = 0;
    let mut pending: Option<Arg> = None;
    let mut options_ended = false;
    for word in before {
        if pending.take().is_some() {
            continue;
        }
        if !options_ended && word.len() > 1 && word.starts_with('-') {
            options_ended = word == "--";
            pending = option(&command, word).filter(|arg| takes_separate_value(arg) && !has_value(&command, word));
        } else if let Some(found) = (positionals == 0).then(|| command.find_subcommand(word)).flatten() {
            command = found.clone();
        } else {
            positionals += 1;
            options_ended |= trails(&command);
        }
    }
    let fits = |word: &str| word.starts_with(current.as_str());
    if let Some(arg) = pending {
        return values(&arg, names).into_iter().filter(|(word, _)| fits(word)).collect();
    }
    if !options_ended && current.starts_with("--") && current.contains('=') {
        let (name, value) = current.split_once('=').unwrap_or((current, ""));
        let Some(arg) = option(&command, name) else { return Vec::new() };
        let found = values(&arg, names).into_iter().filter(|(word, _)| word.starts_with(value));
        return found.map(|(word, about)| (format!("{name}={word}"), about)).collect();
    }
    if !options_ended && current.starts_with('-') {
        return options(&command).into_iter().filter(|(word, _)| fits(word)).collect();
    }
    let mut found: Vec<Candidate> = Vec::new();
    if positionals == 0 {
        let shown = command.get_subcommands().filter(|one| !one.is_hide_set());
        found.extend(shown.map(|one| (one.get_name().to_owned(), text(one.get_about()))));
    }
    found.extend(positional(&command, positionals).map(|arg| values(arg, names)).unwrap_or_default());
    found.retain(|(word, _)| fits(word));
    found
}

fn text(help: Option<&clap::builder::StyledStr>) -> String {
    help.map(ToString::to_string).unwrap_or_default().lines().next().unwrap_or_default().to_owned()
}

/// The option that a word with dashes is; of several short ones in a word, the last.
fn option(command: &Command, word: &str) -> Option<Arg> {
    let found = match word.strip_prefix("--") {
        Some(long) => {
            let long = long.split('=').next().unwrap_or_default();
            command.get_arguments().find(|arg| {
                arg.get_long() == Some(long) || arg.get_all_aliases().is_some_and(|all| all.contains(&long))
            })
        }
        None => {
            let letter = word.chars().next_back()?;
            command.get_arguments().find(|arg| arg.get_short() == Some(letter))
        }
    };
    found.cloned()
}

fn takes_separate_value(arg: &Arg) -> bool {
    arg.get_action().takes_values() && !arg.is_require_equals_set()
}

/// `--name=value`, or `-nvalue`.
fn has_value(command: &Command, word: &str) -> bool {
    match word.strip_prefix("--") {
        Some(long) => long.contains('='),
        None => {
            // A short one that takes a value takes the rest of the word.
            let mut letters = word.chars().skip(1);
            let takes = |letter: char| {
                let arg = command.get_arguments().find(|arg| arg.get_short() == Some(letter));
                arg.is_some_and(takes_separate_value)
            };
            letters.by_ref().find(|letter| takes(*letter)).is_some() && letters.next().is_some()
        }
    }
}

fn trails(command: &Command) -> bool {
    command.get_positionals().any(Arg::is_trailing_var_arg_set)
}

fn positional(command: &Command, index: usize) -> Option<&Arg> {
    let all: Vec<&Arg> = command.get_positionals().collect();
    match all.get(index) {
        Some(arg) if index == 0 || !arg.is_trailing_var_arg_set() => Some(arg),
        // `CONTAINER...`, but of `IMAGE COMMAND...` in one list only the first is an image.
        _ => all.last().copied().filter(|arg| !arg.is_trailing_var_arg_set() && repeats(arg)),
    }
}

fn repeats(arg: &Arg) -> bool {
    matches!(arg.get_action(), clap::ArgAction::Append)
}

fn options(command: &Command) -> Vec<Candidate> {
    let shown = command.get_arguments().filter(|arg| !arg.is_hide_set() && !arg.is_positional());
    let mut all: Vec<Candidate> = shown
        .flat_map(|arg| {
            let about = text(arg.get_help());
            let long = arg.get_long().map(|long| (format!("--{long}"), about.clone()));
            let short = arg.get_short().map(|short| (format!("-{short}"), about));
            long.into_iter().chain(short)
        })
        .collect();
    all.push(("--help".to_owned(), "Print help".to_owned()));
    all.sort();
    all.dedup_by(|one, other| one.0 == other.0);
    all
}

/// The values of an argument that can be told.
fn values(arg: &Arg, names: &mut dyn FnMut(Names) -> Vec<String>) -> Vec<Candidate> {
    let possible: Vec<Candidate> = arg
        .get_possible_values()
        .iter()
        .filter(|value| !value.is_hide_set())
        .map(|value| (value.get_name().to_owned(), text(value.get_help())))
        .collect();
    let what = arg.get_value_names().unwrap_or_default().first().map(|name| name.as_str()).unwrap_or_default();
    let plain = |names: Vec<String>| names.into_iter().map(|name| (name, String::new()));
    let first = what.split([' ', '[', '|', '.', ':']).find(|word| !word.is_empty()).unwrap_or_default();
    match (arg.get_long(), first) {
        // As containers have it; builds use whole images.
        (Some("pull"), _) if arg.get_num_args().is_none_or(|count| count.min_values() > 0) => {
            words(&["always", "lazy", "missing", "never", "newer"])
        }
        (Some("pull" | "policy"), _) => words(&["always", "missing", "never", "newer"]),
        (Some("restart"), _) => words(&["no", "always", "on-failure", "unless-stopped"]),
        (Some("network"), _) => {
            let mut all: Vec<Candidate> = plain(names(Names::Networks)).collect();
            all.extend(words(&["none", "host", "builtin", "slirp4netns", "pasta"]));
            all.extend(names(Names::Containers).into_iter().map(|name| (format!("container:{name}"), String::new())));
            all
        }
        (Some("type"), "TYPE") => words(&["container", "image", "network", "pod", "volume"]),
        _ if !possible.is_empty() => possible,
        (_, "CONTAINER") if what.contains("|IMAGE") => {
            plain(names(Names::Containers)).chain(plain(names(Names::Images))).collect()
        }
        (_, "CONTAINER") => plain(names(Names::Containers)).collect(),
        (_, "IMAGE") => plain(names(Names::Images)).collect(),
        (_, "NETWORK") => plain(names(Names::Networks)).collect(),
        (Some("volume"), _) | (_, "VOLUME") => plain(names(Names::Volumes)).collect(),
        (None, "NAME") if arg.get_help().is_some_and(|help| help.to_string().contains("IDs")) => {
            [Names::Containers, Names::Images, Names::Volumes]
                .into_iter()
                .flat_map(|kind| plain(names(kind)).collect::<Vec<_>>())
                .collect()
        }
        _ => Vec::new(),
    }
}

fn words(all: &[&str]) -> Vec<Candidate> {
    all.iter().map(|word| ((*word).to_owned(), String::new())).collect()
}

/// Splits a line of a shell into words as far as completion needs it: quotes and backslashes.
pub(crate) fn split(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    let mut started = false;
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match (quote, letter) {
            (None, letter) if letter.is_whitespace() => {
                if started {
                    words.push(std::mem::take(&mut word));
                }
                started = false;
                continue;
            }
            (None, '\'' | '"') => quote = Some(letter),
            (Some(open), letter) if open == letter => quote = None,
            (None | Some('"'), '\\') => word.extend(letters.next()),
            (_, letter) => word.push(letter),
        }
        started = true;
    }
    words.push(word);
    words
}

#[cfg(test)]
mod tests {
    use clap::ArgAction;

    use super::*;

    fn root() -> Command {
        let switch = |name: &'static str, short| Arg::new(name).long(name).short(short).action(ArgAction::SetTrue);
        Command::new("coracle")
            .arg(Arg::new("root").long("root").value_name("DIR"))
            .subcommand(
                Command::new("run")
                    .about("Run it")
                    .arg(switch("interactive", 'i').help("Keep it open"))
                    .arg(switch("tty", 't'))
                    .arg(Arg::new("name").long("name").value_name("NAME"))
                    .arg(Arg::new("pull").long("pull").value_name("POLICY"))
                    .arg(Arg::new("network").long("network").value_name("NETWORK").action(ArgAction::Append))
                    .arg(Arg::new("volume").short('v').long("volume").value_name("VOLUME").action(ArgAction::Append))
                    .arg(
                        Arg::new("image")
                            .value_name("IMAGE [COMMAND [ARG...]]")
                            .trailing_var_arg(true)
                            .num_args(1..)
                            .action(ArgAction::Append),
                    ),
            )
            .subcommand(
                Command::new("rm")
                    .arg(Arg::new("containers").value_name("CONTAINER").action(ArgAction::Append).num_args(0..)),
            )
            .subcommand(
                Command::new("connect")
                    .hide(true)
                    .arg(Arg::new("network").value_name("NETWORK"))
                    .arg(Arg::new("container").value_name("CONTAINER")),
            )
            .subcommand(Command::new("secretly").hide(true))
    }

    fn of(line: &str) -> String {
        let mut names = |kind| match kind {
            Names::Containers => vec!["web".to_owned(), "worker".to_owned()],
            Names::Images => vec!["nginx:1".to_owned(), "redis".to_owned()],
            Names::Volumes => vec!["data".to_owned()],
            Names::Networks => vec!["podman".to_owned(), "front".to_owned()],
        };
        let words: Vec<String> = split(line).into_iter().skip(1).collect();
        let found = candidates(root(), &words, &mut names);
        found.into_iter().map(|(word, _)| word).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn words_are_completed_with_what_may_stand_there() {
        for (line, expected) in [
            ("coracle ", "run rm"),
            ("coracle r", "run rm"),
            ("coracle --root /x r", "run rm"),
            ("coracle run ", "nginx:1 redis"),
            ("coracle run -it ng", "nginx:1"),
            ("coracle run --t", "--tty"),
            ("coracle run --name x re", "redis"),
            ("coracle run --name=x re", "redis"),
            ("coracle run --pull n", "never newer"),
            ("coracle run --pull l", "lazy"),
            ("coracle run --pull=al", "--pull=always"),
            ("coracle run -v ", "data"),
            ("coracle run -itv ", "data"),
            ("coracle run -v/x ", "nginx:1 redis"),
            ("coracle run redis -", ""),
            ("coracle run redis re", ""),
            ("coracle rm ", "web worker"),
            ("coracle rm web wo", "worker"),
            ("coracle run --network f", "front"),
            ("coracle run --network container:w", "container:web container:worker"),
            ("coracle connect fr", "front"),
            ("coracle connect front we", "web"),
            ("coracle nosuch ", ""),
        ] {
            assert_eq!(of(line), expected, "{line}");
        }
    }

    #[test]
    fn lines_are_split_as_shells_do() {
        assert_eq!(split("a 'b c' d\\ e \"f\\\"\" "), ["a", "b c", "d e", "f\"", ""]);
        assert_eq!(split("a b"), ["a", "b"]);
    }
}
