//! The command that made a container or pod, taken apart by the definitions of the command line.

use clap::Command;

use crate::commands::defined;
use crate::quadlet::words::quote;
use crate::role::Program;

/// A command as it was typed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Typed {
    /// What stood before the command.
    before: Vec<String>,
    /// Options by their long name, and the words of each. Those of a cluster like `-dit` stand alone.
    pub(super) options: Vec<(String, Vec<String>)>,
    /// From the first word that is no option: the image and the command.
    pub(super) rest: Vec<String>,
}

impl Typed {
    /// That of `run` or `create`, also of `container run`.
    pub(super) fn of_container(words: &[String]) -> Option<Self> {
        let at = words.iter().position(|word| word == "run" || word == "create")?;
        Self::new(words, at, &["run"])
    }

    /// That of `pod create`.
    pub(super) fn of_pod(words: &[String]) -> Option<Self> {
        let at = words.windows(2).position(|two| two == ["pod", "create"])?;
        Self::new(words, at + 1, &["pod", "create"])
    }

    fn new(words: &[String], at: usize, path: &[&str]) -> Option<Self> {
        let mut command = &defined(Program::CORACLE);
        for name in path {
            command = command.find_subcommand(name)?;
        }
        let before = words.get(1..at).unwrap_or_default();
        let nouns = ["container", "pod"];
        let before = before.iter().filter(|word| !nouns.contains(&word.as_str())).cloned().collect();
        let mut typed = Self { before, ..Self::default() };
        typed.split(command, words.get(at + 1..)?);
        Some(typed)
    }

    /// What stood before the command.
    pub(super) fn before(&self) -> &[String] {
        &self.before
    }

    /// The value of an option's last mention; empty for a switch.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        let (_, words) = self.options.iter().rev().find(|(option, _)| option == name)?;
        Some(match words.as_slice() {
            [_, value] => value,
            [one] => one.split_once('=').map_or("", |(_, value)| value),
            _ => "",
        })
    }

    fn split(&mut self, command: &Command, words: &[String]) {
        let takes_word = |arg: &clap::Arg| {
            arg.get_action().takes_values() && arg.get_num_args().is_none_or(|range| range.min_values() > 0)
        };
        let mut words = words.iter().cloned();
        while let Some(word) = words.next() {
            if word == "--" || word == "-" || !word.starts_with('-') {
                self.rest.extend((word != "--").then_some(word));
                self.rest.extend(words);
                return;
            }
            if let Some(long) = word.strip_prefix("--") {
                let name = long.split('=').next().unwrap_or(long);
                let arg = command.get_arguments().find(|arg| {
                    arg.get_long() == Some(name) || arg.get_all_aliases().is_some_and(|all| all.contains(&name))
                });
                let canonical = arg.and_then(clap::Arg::get_long).unwrap_or(name).to_owned();
                let value = if !long.contains('=') && arg.is_some_and(takes_word) { words.next() } else { None };
                self.options.push((canonical, [word].into_iter().chain(value).collect()));
                continue;
            }
            let mut letters = word.chars().skip(1);
            while let Some(letter) = letters.next() {
                let arg = command.get_arguments().find(|arg| {
                    arg.get_short() == Some(letter)
                        || arg.get_all_short_aliases().is_some_and(|all| all.contains(&letter))
                });
                let name = arg.and_then(clap::Arg::get_long).map_or_else(|| letter.to_string(), str::to_owned);
                let mut option = vec![format!("-{letter}")];
                if arg.is_some_and(takes_word) {
                    let attached: String = letters.by_ref().collect();
                    option.extend(if attached.is_empty() { words.next() } else { Some(attached) });
                }
                self.options.push((name, option));
            }
        }
    }
}

/// Words of a unit's command, an option on each line.
pub(super) fn layout(words: &[String]) -> String {
    let mut text = String::new();
    for (number, word) in words.iter().enumerate() {
        if number > 0 {
            text.push_str(if word.starts_with('-') { " \\\n\t" } else { " " });
        }
        text.push_str(&quote(word));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn options_end_at_the_image() {
        let line = "coracle --log-level error run -dit --name web -p80:80 --rm=true --label a=b --env=X=1 -e Y nginx -g --name x";
        let typed = Typed::of_container(&words(line)).unwrap();
        assert_eq!(typed.before(), ["--log-level", "error"]);
        let options: Vec<_> =
            typed.options.iter().map(|(name, words)| format!("{name}: {}", words.join(" "))).collect();
        let expected = [
            "detach: -d",
            "interactive: -i",
            "tty: -t",
            "name: --name web",
            "publish: -p 80:80",
            "rm: --rm=true",
            "label: --label a=b",
            "env: --env=X=1",
            "env: -e Y",
        ];
        assert_eq!(options, expected);
        assert_eq!(typed.rest, ["nginx", "-g", "--name", "x"]);
        assert_eq!((typed.value("name"), typed.value("env"), typed.value("pod")), (Some("web"), Some("Y"), None));
        assert_eq!(Typed::of_container(&words("coracle kube play x")), None);
        let pod = Typed::of_pod(&words("coracle pod create --share net -n p -p 80:80")).unwrap();
        assert_eq!((pod.value("name"), pod.options.len(), pod.rest.len()), (Some("p"), 3, 0));
    }

    #[test]
    fn options_stand_on_lines_of_their_own() {
        assert_eq!(layout(&words("a run -d --name x i")), "a run \\\n\t-d \\\n\t--name x i");
    }
}
