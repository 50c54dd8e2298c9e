//! The container's first process.

use std::path::Path;

use clap::Args;
use storage::state::request::Request;

use super::Caller;
use crate::cli::parse::{Parsed, mount_flags, pairs, volume, words};
use crate::cli::usage::{Checked, InvalidOption, each, maybe, one};

/// Options of the first process.
#[derive(Args, Clone, Debug)]
pub(crate) struct ProcessOptions {
    /// Keep standard input open
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Allocate a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Set a variable, NAME=VALUE, or NAME to copy it from the environment
    #[arg(short, long = "env", value_name = "VARIABLE")]
    pub(crate) env: Vec<String>,
    /// Set the variables in this file
    #[arg(long = "env-file", value_name = "FILE")]
    pub(crate) env_files: Vec<String>,
    /// Copy the whole environment
    #[arg(long)]
    pub(crate) env_host: bool,
    /// Set a variable from those of the image, NAME=VALUE with $NAME or ${NAME} in it
    #[arg(long = "env-merge", value_name = "VARIABLE")]
    pub(crate) env_merge: Vec<String>,
    /// Leave out a variable of the image
    #[arg(long = "unsetenv", value_name = "NAME")]
    pub(crate) unset_env: Vec<String>,
    /// Leave out every variable of the image and every default one
    #[arg(long = "unsetenv-all")]
    pub(crate) unset_env_all: bool,
    /// Copy the proxy variables from the environment
    #[arg(long, default_value_t = true)]
    pub(crate) http_proxy: bool,
    /// Working directory in the container
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// User, and group, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]", allow_hyphen_values = true)]
    pub(crate) user: Option<String>,
    /// Add a group, or keep-groups for the caller's own
    #[arg(long = "group-add", value_name = "GROUP", value_delimiter = ',')]
    pub(crate) group_add: Vec<String>,
    /// Replace the entrypoint: a program, a JSON list, or an empty value for none
    #[arg(long, value_name = "ENTRYPOINT")]
    pub(crate) entrypoint: Option<String>,
    /// File mode creation mask, in octal
    #[arg(long, value_name = "MASK")]
    pub(crate) umask: Option<String>,
    /// Time zone, or local for the host's
    #[arg(long, value_name = "ZONE")]
    pub(crate) tz: Option<String>,
    /// Run an init that forwards signals and reaps processes
    #[arg(long)]
    pub(crate) init: bool,
    /// The init program to use; implies --init
    #[arg(long, value_name = "PATH")]
    pub(crate) init_path: Option<String>,
    /// Signal to stop the container with
    #[arg(long, value_name = "SIGNAL")]
    pub(crate) stop_signal: Option<String>,
    /// Seconds to wait before a container that is stopped is killed
    #[arg(long, value_name = "SECONDS")]
    pub(crate) stop_timeout: Option<u32>,
    /// Seconds the container may run
    #[arg(long, value_name = "SECONDS")]
    pub(crate) timeout: Option<u32>,
    /// Variables that are set below those of the image.
    #[arg(skip)]
    pub(crate) env_defaults: Vec<String>,
}

/// What the image has a say in, as it was asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct AskedProcess {
    /// Variables that the image's come after.
    pub(crate) env_below: Vec<(String, String)>,
    /// Variables that come after the image's.
    pub(crate) env_above: Vec<(String, String)>,
    /// Names that are left out of what is not asked for.
    pub(crate) unset_env: Vec<String>,
    /// Everything not asked for is left out.
    pub(crate) unset_env_all: bool,
    /// Variables whose values stand for others of the image.
    pub(crate) env_merge: Vec<(String, String)>,
    /// Instead of the image's entrypoint; empty for none.
    pub(crate) entrypoint: Option<Vec<String>>,
}

/// `PATH` where neither image nor user has one.
pub(crate) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Variables that `--http-proxy` copies, in lower and upper case.
const PROXIES: [&str; 5] = ["http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"];

impl ProcessOptions {
    pub(crate) fn apply(&self, request: &mut Request, caller: &Caller<'_>) -> Checked<AskedProcess> {
        request.stdin_open = self.interactive;
        request.tty = self.tty;
        request.user = self.user.clone().unwrap_or_default();
        if let Some(workdir) = maybe("-w, --workdir", self.workdir.as_ref(), workdir)? {
            request.workdir = workdir.into();
        }
        request.group_add = self.groups()?;
        request.umask = maybe("--umask", self.umask.as_ref(), words::umask)?;
        request.tz = maybe("--tz", self.tz.as_ref(), words::time_zone)?;
        request.init_path = maybe("--init-path", self.init_path.as_ref(), |path| volume::host_path(path, caller.cwd))?;
        request.init = self.init || request.init_path.is_some();
        request.stop_signal = maybe("--stop-signal", self.stop_signal.as_ref(), words::signal)?;
        request.stop_timeout = self.stop_timeout;
        request.timeout = self.timeout.filter(|seconds| *seconds > 0);
        Ok(AskedProcess {
            env_below: self.default_environment(caller)?,
            env_above: self.asked_environment(caller)?,
            env_merge: each("--env-merge", &self.env_merge, pairs::label)?,
            unset_env: self.unset_env.clone(),
            unset_env_all: self.unset_env_all,
            entrypoint: maybe("--entrypoint", self.entrypoint.as_ref(), entrypoint)?,
        })
    }

    fn groups(&self) -> Checked<Vec<String>> {
        let keep = self.group_add.iter().any(|group| group == "keep-groups");
        if keep && self.group_add.len() > 1 {
            return Err(InvalidOption {
                flag: "--group-add",
                value: "keep-groups".to_owned(),
                reason: "not allowed with any other --group-add options".to_owned(),
            });
        }
        each("--group-add", &self.group_add, |group| match group {
            "" => Err("must name a group".to_owned()),
            _ => Ok(group.to_owned()),
        })
    }

    fn default_environment(&self, caller: &Caller<'_>) -> Checked<Vec<(String, String)>> {
        let mut env = Vec::new();
        if self.env_host {
            env.extend(caller.environment.iter().cloned());
        }
        set_defaults(&mut env, self.tty);
        for (name, value) in each("env of containers.conf", &self.env_defaults, pairs::label)? {
            pairs::set(&mut env, &name, &value);
        }
        if self.http_proxy {
            for (name, value) in caller.environment {
                let lower = name.to_ascii_lowercase();
                let one_case = *name == lower || *name == name.to_ascii_uppercase();
                if one_case && PROXIES.contains(&lower.as_str()) {
                    pairs::set(&mut env, name, value);
                }
            }
        }
        Ok(env)
    }

    fn asked_environment(&self, caller: &Caller<'_>) -> Checked<Vec<(String, String)>> {
        let of_file = |path: &str| pairs::environment_file(&caller.file(path)?, caller.environment);
        let of_option = |value: &str| pairs::environment(value, caller.environment);
        let mut all = each("--env-file", &self.env_files, of_file)?;
        all.extend(each("-e, --env", &self.env, of_option)?);
        let mut env = Vec::new();
        for (name, value) in all.iter().flatten() {
            pairs::set(&mut env, name, value);
        }
        Ok(env)
    }
}

/// The variables of every container.
pub(crate) fn set_defaults(env: &mut Vec<(String, String)>, tty: bool) {
    pairs::set(env, "container", "coracle");
    if !env.iter().any(|(name, _)| name == "PATH") {
        pairs::set(env, "PATH", DEFAULT_PATH);
    }
    if tty {
        pairs::set(env, "TERM", "xterm");
    }
}

/// An absolute path in the container, made plain.
pub(crate) fn workdir(path: &str) -> Parsed<String> {
    if !path.starts_with('/') || path.contains('\0') {
        return Err("the working directory must be an absolute path".to_owned());
    }
    Ok(mount_flags::clean(Path::new(path)).to_string_lossy().into_owned())
}

/// A JSON list of strings, or one program as it is.
fn entrypoint(value: &str) -> Parsed<Vec<String>> {
    if value.is_empty() {
        return Ok(Vec::new());
    }
    if value.starts_with('[')
        && let Ok(list) = serde_json::from_str::<Vec<String>>(value)
    {
        return Ok(list);
    }
    Ok(vec![value.to_owned()])
}

/// Checks a signal that came with an image.
pub(crate) fn image_signal(value: &str) -> Checked<String> {
    one("STOPSIGNAL of the image", value, words::signal)
}
