//! What a wrong command line is answered with: one line, as podman and docker word it.

use std::fmt;

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// A value that an option does not take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InvalidOption {
    /// The option with its dashes, or what it is of an image.
    pub(crate) flag: &'static str,
    /// What was given.
    pub(crate) value: String,
    /// What is wrong with it.
    pub(crate) reason: String,
}

impl fmt::Display for InvalidOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { flag, value, reason } = self;
        // Reasons quote what was given, and an image may have given it.
        let reason = printable(reason);
        if flag.starts_with('-') {
            write!(f, "invalid argument {value:?} for \"{flag}\" flag: {reason}")
        } else {
            write!(f, "{flag}: invalid value {value:?}: {reason}")
        }
    }
}

impl std::error::Error for InvalidOption {}

/// The outcome of one option.
pub(crate) type Checked<T> = Result<T, InvalidOption>;

/// Parses one value of `flag`.
pub(crate) fn one<T>(flag: &'static str, value: &str, parse: impl Fn(&str) -> Result<T, String>) -> Checked<T> {
    parse(value).map_err(|reason| InvalidOption { flag, value: value.to_owned(), reason })
}

/// Parses the value of `flag` if there is one.
pub(crate) fn maybe<T>(
    flag: &'static str,
    value: Option<&String>,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Checked<Option<T>> {
    value.map(|value| one(flag, value, parse)).transpose()
}

/// Parses every value of `flag`.
pub(crate) fn each<T>(
    flag: &'static str,
    values: &[String],
    parse: impl Fn(&str) -> Result<T, String>,
) -> Checked<Vec<T>> {
    values.iter().map(|value| one(flag, value, &parse)).collect()
}

/// What Go's `strconv.ParseBool` takes, for options that may be given as `--flag`, `--flag=true` or `--flag=false`.
pub(crate) fn boolean(value: &str) -> Result<bool, String> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("must be true or false".to_owned()),
    }
}

/// One line for an error of clap; the caller prints help and version errors itself.
pub(crate) fn one_line(error: &clap::Error) -> String {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => Some(texts.join(", ")),
        _ => None,
    };
    let arg = text(ContextKind::InvalidArg).unwrap_or_default();
    let flag = arg.split_whitespace().next().unwrap_or_default().split('=').next().unwrap_or_default();
    let flag = flag.trim_end_matches(['[', '<']);
    let value = text(ContextKind::InvalidValue).unwrap_or_default();
    match error.kind() {
        ErrorKind::UnknownArgument if flag.starts_with("--") => format!("unknown flag: {}", printable(flag)),
        ErrorKind::UnknownArgument if flag.starts_with('-') => {
            let letter = flag.trim_start_matches('-').chars().next().unwrap_or('-');
            format!("unknown shorthand flag: {letter:?} in {}", printable(flag))
        }
        ErrorKind::UnknownArgument => format!("unknown argument: {arg:?}"),
        ErrorKind::InvalidSubcommand => {
            let typed = text(ContextKind::InvalidSubcommand).unwrap_or_default();
            let command = command_of(error);
            let command = if command.is_empty() { "coracle" } else { &command };
            format!("unrecognized command `{command} {}`", printable(&typed))
        }
        ErrorKind::InvalidValue if value.is_empty() => format!("flag needs an argument: {flag}"),
        ErrorKind::NoEquals => format!("flag needs an argument: {flag}"),
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
            let reason = std::error::Error::source(error).map(ToString::to_string);
            // Those of the standard library speak of digits and types.
            let reason = match reason.as_deref() {
                None => "not one of the values it takes",
                Some("invalid digit found in string" | "cannot parse integer from empty string") => "must be a number",
                Some("invalid float literal" | "cannot parse float from empty string") => "must be a number",
                Some(text) if text.starts_with("number too ") => "out of range",
                Some(text) => text,
            };
            match flag.strip_prefix('<') {
                Some(name) => {
                    format!("invalid argument {value:?} for {}: {reason}", name.trim_end_matches(['>', '.']))
                }
                None => format!("invalid argument {value:?} for \"{flag}\" flag: {reason}"),
            }
        }
        ErrorKind::MissingRequiredArgument => format!("requires at least 1 argument: {arg}"),
        _ => first_line(&error.to_string()),
    }
}

/// Whether an error of clap is about an option, rather than about arguments or commands.
pub(crate) fn is_about_flag(error: &clap::Error) -> bool {
    let is_flag = matches!(error.get(ContextKind::InvalidArg), Some(ContextValue::String(arg)) if arg.starts_with('-'));
    is_flag && error.kind() != ErrorKind::MissingRequiredArgument
}

/// The command that an error of clap is about, `coracle image ls`; empty if it does not say.
pub(crate) fn command_of(error: &clap::Error) -> String {
    let usage = match error.get(ContextKind::Usage) {
        Some(ContextValue::StyledStr(usage)) => usage.to_string(),
        _ => return String::new(),
    };
    let words = usage.trim().strip_prefix("Usage:").unwrap_or_default().split_whitespace();
    let is_command = |word: &&str| !word.starts_with('-') && word.chars().all(|c| c.is_ascii_lowercase() || c == '-');
    words.take_while(is_command).collect::<Vec<_>>().join(" ")
}

fn first_line(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    printable(line.strip_prefix("error: ").unwrap_or(line))
}

fn printable(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

/// Lets a flag take a value as podman's do: `--rm`, `--rm=true`, `--rm=false`, `-i=false`. For [`clap::Command::mut_args`].
pub(crate) fn valued_flag(arg: clap::Arg) -> clap::Arg {
    if !matches!(arg.get_action(), clap::ArgAction::SetTrue) {
        return arg;
    }
    let has_default = !arg.get_default_values().is_empty();
    let arg = arg
        .action(clap::ArgAction::Set)
        .num_args(0..=1)
        .require_equals(true)
        .default_missing_value("true")
        .value_parser(boolean)
        .value_name("BOOL")
        .hide_possible_values(true)
        .hide_default_value(true);
    if has_default { arg } else { arg.default_value("false") }
}
