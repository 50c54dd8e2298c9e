//! The options of `exec`.

use std::path::PathBuf;

use clap::{ArgAction, Args};

use super::accepted::Accepted;
use super::options::Caller;
use super::options::ignored::OfExec;
use super::options::process::workdir;
use super::parse::pairs;
use super::usage::{Checked, each, maybe, valued_flag};

/// The options of `exec`, then the container, then the command as it is.
#[derive(Args, Clone, Debug)]
#[command(args_override_self = true, mut_args = valued_flag)]
pub(crate) struct ExecOptions {
    /// Keep standard input open
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Allocate a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Run in the background
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Keys that detach from the process, or an empty value for none
    #[arg(long, value_name = "KEYS")]
    pub(crate) detach_keys: Option<String>,
    /// User, and group, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]", allow_hyphen_values = true)]
    pub(crate) user: Option<String>,
    /// Working directory in the container
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// Set a variable, NAME=VALUE, or NAME to copy it from the environment
    #[arg(short, long = "env", value_name = "VARIABLE", action = ArgAction::Append)]
    pub(crate) env: Vec<String>,
    /// Set the variables in this file
    #[arg(long = "env-file", value_name = "FILE", action = ArgAction::Append)]
    pub(crate) env_files: Vec<String>,
    /// Give every privilege the user has themselves
    #[arg(long)]
    pub(crate) privileged: bool,
    /// Act on the latest container; then the first argument is the command
    #[arg(short, long)]
    pub(crate) latest: bool,
    #[command(flatten)]
    pub(crate) accepted: Accepted<OfExec>,
    /// The container, then the command and its arguments
    #[arg(value_name = "CONTAINER COMMAND [ARG...]", required = true, trailing_var_arg = true, num_args = 1..)]
    pub(crate) container_and_command: Vec<String>,
}

/// What `exec` was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExecRequest {
    /// Name or id of the container; the latest one if absent.
    pub(crate) container: Option<String>,
    /// The argument vector; never empty.
    pub(crate) args: Vec<String>,
    /// Variables over those of the container, `NAME=value`; with a terminal `TERM` is among them.
    pub(crate) env: Vec<String>,
    /// Instead of the container's user.
    pub(crate) user: Option<String>,
    /// Instead of the container's working directory.
    pub(crate) workdir: Option<PathBuf>,
    /// Keep standard input open.
    pub(crate) interactive: bool,
    /// Allocate a terminal.
    pub(crate) tty: bool,
    /// Run in the background.
    pub(crate) detach: bool,
    /// Keys that detach; the default ones when absent, none when empty.
    pub(crate) detach_keys: Option<String>,
    /// Every capability.
    pub(crate) privileged: bool,
}

/// Why there is no request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub(crate) enum BadExec {
    #[error(transparent)]
    Option(#[from] super::usage::InvalidOption),
    #[error("must provide a non-empty command to start an exec session")]
    NoCommand,
}

impl ExecOptions {
    /// Checks every option.
    pub(crate) fn ask(&self, caller: &Caller<'_>) -> Result<ExecRequest, BadExec> {
        let (container, args) = match self.container_and_command.split_first() {
            Some(_) if self.latest => (None, self.container_and_command.clone()),
            Some((container, args)) if !args.is_empty() => (Some(container.clone()), args.to_vec()),
            _ => return Err(BadExec::NoCommand),
        };
        Ok(ExecRequest {
            container,
            args,
            env: self.environment(caller)?,
            user: self.user.clone().filter(|user| !user.is_empty()),
            workdir: maybe("-w, --workdir", self.workdir.as_ref(), workdir)?.map(PathBuf::from),
            interactive: self.interactive,
            tty: self.tty,
            detach: self.detach,
            detach_keys: self.detach_keys.clone(),
            privileged: self.privileged,
        })
    }

    fn environment(&self, caller: &Caller<'_>) -> Checked<Vec<String>> {
        let mut env = Vec::new();
        if self.tty {
            pairs::set(&mut env, "TERM", "xterm");
        }
        let of_file = |path: &str| pairs::environment_file(&caller.file(path)?, caller.environment);
        let of_option = |value: &str| pairs::environment(value, caller.environment);
        let files = each("--env-file", &self.env_files, of_file)?;
        let options = each("-e, --env", &self.env, of_option)?;
        for (name, value) in files.iter().chain(&options).flatten() {
            pairs::set(&mut env, name, value);
        }
        Ok(env.into_iter().map(|(name, value)| format!("{name}={value}")).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: ExecOptions,
    }

    fn ask(args: &[&str]) -> Result<ExecRequest, String> {
        let caller = Caller {
            environment: &[("HOME".to_owned(), "/home/me".to_owned())],
            cwd: Path::new("/w"),
            uid: 1000,
            gid: 1000,
            read: &|_| Ok(b"FROM_FILE=1\n".to_vec()),
        };
        let cli = Cli::try_parse_from(std::iter::once(&"exec").chain(args));
        let cli = cli.map_err(|error| crate::cli::usage::one_line(&error))?;
        cli.options.ask(&caller).map_err(|error| error.to_string())
    }

    #[test]
    fn options_stop_at_the_container() {
        let request =
            ask(&["-it", "-uroot", "-w/tmp", "-e", "A=1", "-eHOME", "--env-file=f", "web", "ls", "-l", "-i=false"]);
        let request = request.unwrap();
        assert_eq!(request.args, ["ls", "-l", "-i=false"]);
        assert_eq!(request.env, ["TERM=xterm", "FROM_FILE=1", "A=1", "HOME=/home/me"]);
        assert_eq!((request.user.as_deref(), request.workdir.as_deref()), (Some("root"), Some(Path::new("/tmp"))));
        assert!(request.interactive && request.tty && !request.detach);
    }

    #[test]
    fn wrong_command_lines_are_answered_with_one_line() {
        for (args, expected) in [
            (&["web"][..], "must provide a non-empty command to start an exec session"),
            (&["--bogus", "web", "ls"], "unknown flag: --bogus"),
            (
                &["-w", "rel", "web", "ls"],
                "invalid argument \"rel\" for \"-w, --workdir\" flag: the working directory must be an absolute path",
            ),
            (
                &["-i=maybe", "web", "ls"],
                "invalid argument \"maybe\" for \"--interactive\" flag: must be true or false",
            ),
        ] {
            assert_eq!(ask(args).unwrap_err(), expected, "{args:?}");
        }
    }
}
