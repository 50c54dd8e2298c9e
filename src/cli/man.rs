//! Manual pages, from the definitions of the command line: what `--help` says, as roff.

use std::fmt::Write;

use clap::{Arg, Command};

/// A page: its file name and its text.
pub(crate) type Page = (String, String);

/// The pages of a command and of all below it that are not hidden. `path` is the words before it.
pub(crate) fn pages(command: &Command, path: &[&str]) -> Vec<Page> {
    let mut words = path.to_vec();
    words.push(command.get_name());
    let shown: Vec<&Command> = command.get_subcommands().filter(|one| !one.is_hide_set()).collect();
    let mut all = vec![(format!("{}.1", words.join("-")), page(command, &words, &shown))];
    for one in shown {
        all.extend(pages(one, &words));
    }
    all
}

fn page(command: &Command, words: &[&str], subcommands: &[&Command]) -> String {
    let (title, line) = (words.join("-"), words.join(" "));
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let long = command.get_long_about().map(ToString::to_string).unwrap_or_default();
    let mut out = String::new();
    // Writing to a String does not fail.
    let _ = writeln!(out, ".TH {} 1", quoted(&title.to_uppercase()));
    let _ = writeln!(out, ".SH NAME\n{} \\- {}", escaped(&title), escaped(first_line(&about)));
    let _ = writeln!(out, ".SH SYNOPSIS\n.B {}", escaped(&line));
    let has_options = command.get_arguments().any(|arg| !arg.is_positional() && !arg.is_hide_set());
    if has_options {
        out.push_str("[\\fIOPTIONS\\fR]\n");
    }
    if !subcommands.is_empty() {
        out.push_str("\\fICOMMAND\\fR\n");
    }
    for arg in command.get_positionals() {
        let name = escaped(&value_name(arg));
        let dots = if matches!(arg.get_action(), clap::ArgAction::Append) { "..." } else { "" };
        let _ = match arg.is_required_set() {
            true => writeln!(out, "\\fI{name}\\fR{dots}"),
            false => writeln!(out, "[\\fI{name}\\fR{dots}]"),
        };
    }
    let description = if long.is_empty() { about.as_str() } else { long.as_str() };
    let _ = writeln!(out, ".SH DESCRIPTION\n{}.", paragraphs(description).trim_end_matches(['\n', '.']));
    if !subcommands.is_empty() {
        out.push_str(".SH COMMANDS\n");
        for one in subcommands {
            let about = one.get_about().map(ToString::to_string).unwrap_or_default();
            let page = escaped(&format!("{title}-{}", one.get_name()));
            let _ = writeln!(out, ".TP\n.BR {page} (1)\n{}.", escaped(first_line(&about)));
        }
    }
    let options: Vec<&Arg> = command.get_arguments().filter(|arg| !arg.is_positional() && !arg.is_hide_set()).collect();
    if !options.is_empty() {
        out.push_str(".SH OPTIONS\n");
        for arg in options {
            let _ = writeln!(out, ".TP\n{}\n{}", flags(arg), help(arg));
        }
    }
    if let Some(examples) = command.get_after_help() {
        let text = examples.to_string();
        let text = text.strip_prefix("Examples:").unwrap_or(&text);
        let _ = writeln!(out, ".SH EXAMPLES\n.nf\n{}.fi", lines(text));
    }
    if let Some((parent, _)) = title.rsplit_once('-').filter(|_| words.len() > 1) {
        let _ = writeln!(out, ".SH SEE ALSO\n.BR {} (1)", escaped(parent));
    }
    out
}

fn flags(arg: &Arg) -> String {
    let bold = |text: String| format!("\\fB{}\\fR", escaped(&text));
    let short = arg.get_short().map(|short| bold(format!("-{short}")));
    let aliases = arg.get_visible_aliases().unwrap_or_default();
    let long = arg.get_long().into_iter().chain(aliases).map(|long| bold(format!("--{long}")));
    let names: Vec<String> = short.into_iter().chain(long).collect();
    let value = if arg.get_action().takes_values() {
        let name = escaped(&value_name(arg));
        if arg.is_require_equals_set() { format!("[=\\fI{name}\\fR]") } else { format!(" \\fI{name}\\fR") }
    } else {
        String::new()
    };
    names.join(", ") + &value
}

fn help(arg: &Arg) -> String {
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let defaults: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    let mut out = paragraphs(&help).trim_end_matches(['\n', '.']).to_owned();
    if !defaults.is_empty() && !arg.is_hide_default_value_set() {
        let _ = write!(out, " (default {})", escaped(&defaults.join(", ")));
    }
    out + "."
}

fn value_name(arg: &Arg) -> String {
    let names: Vec<&str> = arg.get_value_names().unwrap_or_default().iter().map(|name| name.as_str()).collect();
    if names.is_empty() { arg.get_id().as_str().to_uppercase() } else { names.join(" ") }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default().trim_end_matches('.')
}

fn paragraphs(text: &str) -> String {
    text.split("\n\n").map(|part| escaped(part.trim()) + "\n").collect::<Vec<_>>().join(".PP\n")
}

fn lines(text: &str) -> String {
    text.lines().filter(|line| !line.trim().is_empty()).map(|line| escaped(line.trim()) + "\n").collect()
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", escaped(text).replace('"', "\\(dq"))
}

/// Text that roff takes for text.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for (index, line) in text.lines().enumerate() {
        if index > 0 {
            out.push('\n');
        }
        if line.starts_with(['.', '\'']) {
            out.push_str("\\&");
        }
        for c in line.chars() {
            match c {
                '\\' => out.push_str("\\e"),
                '-' => out.push_str("\\-"),
                c => out.push(c),
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use clap::ArgAction;

    use super::*;

    #[test]
    fn a_page_says_what_help_says() {
        let command = Command::new("coracle").about("Containers").subcommand(
            Command::new("rm")
                .about("Remove them")
                .arg(Arg::new("force").short('f').long("force").action(ArgAction::SetTrue).help("Also running ones"))
                .arg(Arg::new("time").long("time").value_name("SECONDS").help(".dots and back\\slashes"))
                .arg(Arg::new("names").value_name("CONTAINER").action(ArgAction::Append).required(true))
                .after_help("Examples:\n  coracle rm web"),
        );
        let pages = pages(&command, &[]);
        let names: Vec<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["coracle.1", "coracle-rm.1"]);
        assert_eq!(
            pages[1].1,
            ".TH \"CORACLE\\-RM\" 1\n.SH NAME\ncoracle\\-rm \\- Remove them\n.SH SYNOPSIS\n.B coracle rm\n[\\fIOPTIONS\\fR]\n\
             \\fICONTAINER\\fR...\n.SH DESCRIPTION\nRemove them.\n.SH OPTIONS\n.TP\n\\fB\\-f\\fR, \\fB\\-\\-force\\fR\n\
             Also running ones.\n.TP\n\\fB\\-\\-time\\fR \\fISECONDS\\fR\n\\&.dots and back\\eslashes.\n.SH EXAMPLES\n.nf\n\
             coracle rm web\n.fi\n.SH SEE ALSO\n.BR coracle (1)\n"
        );
        assert!(pages[0].1.contains(".BR coracle\\-rm (1)\nRemove them."));
    }
}
