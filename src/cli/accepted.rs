//! Options of podman and docker that are taken so that command lines go on working, and have no effect here.
//!
//! Each says so in one line on stderr, and why, unless the value given asks for what is so anyway. Nothing that would
//! weaken the isolation of a container by being ignored may be here.

use std::marker::PhantomData;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches};

/// How an option is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// `--flag`, `--flag=true`, `--flag=false`.
    Switch,
    /// `--flag VALUE`, any number of times.
    Value,
}

/// An option without effect.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ignored {
    /// The name without dashes.
    pub(crate) name: &'static str,
    /// How it is written.
    pub(crate) form: Form,
    /// Values that ask for what is so anyway.
    pub(crate) idle: &'static [&'static str],
    /// Why it has no effect.
    pub(crate) why: &'static str,
}

/// The options without effect of one command.
pub(crate) trait Table {
    /// All of them.
    const OPTIONS: &'static [Ignored];
}

/// Those that were given. To be flattened into the arguments of a command.
#[derive(Clone, Debug)]
pub(crate) struct Accepted<T> {
    given: Vec<(&'static Ignored, String)>,
    table: PhantomData<T>,
}

impl<T> Default for Accepted<T> {
    fn default() -> Self {
        Self { given: Vec::new(), table: PhantomData }
    }
}

impl<T> Accepted<T> {
    /// One line for each option that was given for an effect.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (option, value) in &self.given {
            let line = format!("Warning: --{} is ignored: {}", option.name, option.why);
            if !option.idle.contains(&value.as_str()) && !lines.contains(&line) {
                lines.push(line);
            }
        }
        lines
    }

    /// The first that was given, where having no effect would be a wrong result.
    pub(crate) fn refuse(&self) -> Result<(), crate::error::CommandError> {
        let asked = self.given.iter().find(|(option, value)| !option.idle.contains(&value.as_str()));
        match asked {
            Some((option, _)) => Err(crate::error::CommandError::user(format!("--{}: {}", option.name, option.why))),
            None => Ok(()),
        }
    }

    /// Prints them.
    pub(crate) fn warn(&self) {
        for line in self.warnings() {
            eprintln!("{line}");
        }
    }
}

impl<T: Table> clap::Args for Accepted<T> {
    fn augment_args(command: clap::Command) -> clap::Command {
        command.args(T::OPTIONS.iter().map(|option| {
            let arg = Arg::new(option.name).long(option.name).hide(true).help(option.why);
            match option.form {
                Form::Switch => arg.action(ArgAction::SetTrue),
                Form::Value => arg.action(ArgAction::Append).value_name("VALUE").allow_hyphen_values(true),
            }
        }))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl<T: Table> clap::FromArgMatches for Accepted<T> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut given = Vec::new();
        for option in T::OPTIONS {
            if matches.value_source(option.name) != Some(ValueSource::CommandLine) {
                continue;
            }
            match option.form {
                // `--flag=false` asks for nothing.
                Form::Switch => {
                    given.extend(matches.get_flag(option.name).then(|| (option, "true".to_owned())));
                }
                Form::Value => {
                    let values = matches.get_many::<String>(option.name).into_iter().flatten();
                    given.extend(values.map(|value| (option, value.clone())));
                }
            }
        }
        Ok(Self { given, table: PhantomData })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Clone, Debug)]
    struct Odd;

    impl Table for Odd {
        const OPTIONS: &'static [Ignored] = &[
            Ignored { name: "switch", form: Form::Switch, idle: &[], why: "there is none" },
            Ignored { name: "level", form: Form::Value, idle: &["-1"], why: "nobody levels" },
        ];
    }

    #[derive(Parser)]
    #[command(mut_args = crate::cli::usage::valued_flag)]
    struct Cli {
        #[command(flatten)]
        accepted: Accepted<Odd>,
    }

    fn warnings(args: &[&str]) -> Vec<String> {
        Cli::try_parse_from(std::iter::once(&"x").chain(args)).unwrap().accepted.warnings()
    }

    #[test]
    fn what_has_no_effect_says_so_once() {
        assert_eq!(warnings(&[]), [""; 0]);
        assert_eq!(warnings(&["--switch"]), ["Warning: --switch is ignored: there is none"]);
        assert_eq!(warnings(&["--level", "5", "--level=6"]), ["Warning: --level is ignored: nobody levels"]);
    }

    #[test]
    fn what_asks_for_nothing_says_nothing() {
        assert_eq!(warnings(&["--switch=false", "--level", "-1"]), [""; 0]);
    }
}
