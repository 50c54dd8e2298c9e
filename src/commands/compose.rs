//! `compose`: hands the command line to a program that runs compose files.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::{AccessFlags, access};
use storage::state::layout::{Layout, create_dir};

use super::{Context, Outcome};
use crate::config;
use crate::error::{CommandError, reason};

/// podman's variable with the one provider to take.
const PROVIDER: &str = "PODMAN_COMPOSE_PROVIDER";

/// Where, in the runtime directory, the link to us lies.
const LINKS: &str = "bin";

const EXAMPLES: &str = r#"Examples:
  coracle compose up -d
  coracle compose -f web.yaml ps
  coracle compose down

Taken is podman-compose from PATH, else what PODMAN_COMPOSE_PROVIDER or compose_providers of containers.conf names."#;

/// Run compose files with podman-compose or docker-compose
///
/// Everything after the word goes to the program, which calls this one. docker-compose talks to an API socket instead, and
/// there is none here: it is taken only when it is named and DOCKER_HOST says whom it shall talk to.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, disable_help_flag = true)]
pub(crate) struct Args {
    /// The command line of the program
    #[arg(value_name = "ARG", trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    let provider = find()?;
    let mut command = Command::new(&provider.path);
    if let Some(path) = path_with_us(&context.layout)? {
        command.env("PATH", path);
    }
    if provider.kind == Kind::PodmanCompose
        && let Some(globals) = globals(&context.layout)?
    {
        command.arg("--podman-args").arg(globals);
    }
    let error = command.args(args.args).exec();
    Err(CommandError::user(format_args!("run {}: {}", provider.path.display(), reason(&error))))
}

/// A PATH in which podman is us: by that name we are asked for what that podman can do whose command line we offer. `None`
/// where it is so already.
fn path_with_us(layout: &Layout) -> Result<Option<OsString>, CommandError> {
    let own =
        std::env::current_exe().map_err(|error| CommandError::host(format!("our own path: {}", reason(&error))))?;
    let is_own = |link: &Path| std::fs::canonicalize(link).is_ok_and(|target| target == own);
    let path = std::env::var_os("PATH").unwrap_or_default();
    if in_path("podman".as_ref(), &path).is_some_and(|link| is_own(&link)) {
        return Ok(None);
    }
    let directory = layout.runtime_dir().join(LINKS);
    let link = directory.join("podman");
    if !is_own(&link) {
        create_dir(&directory)?;
        let new = directory.join(format!(".podman.{}", std::process::id()));
        let made = symlink(&own, &new).and_then(|()| std::fs::rename(&new, &link));
        made.map_err(|error| CommandError::host(format!("link {}: {}", link.display(), reason(&error))))?;
    }
    let all = std::iter::once(directory).chain(std::env::split_paths(&path));
    std::env::join_paths(all).map(Some).map_err(|error| CommandError::host(format!("PATH: {error}")))
}

/// Where our files are, in the words of podman-compose, which splits them at white space; `None` if it need not be said.
fn globals(layout: &Layout) -> Result<Option<OsString>, CommandError> {
    let default = Layout::from_env()?;
    if *layout == default {
        return Ok(None);
    }
    let paths = [layout.data_dir(), layout.runtime_dir()];
    if let Some(path) = paths.iter().find(|path| path.as_os_str().as_bytes().iter().any(u8::is_ascii_whitespace)) {
        return Err(CommandError::user(format_args!(
            "{}: podman-compose cannot be told of a directory with white space in its name",
            path.display()
        )));
    }
    let mut text = OsString::from("--root=");
    text.push(paths[0]);
    text.push(" --runroot=");
    text.push(paths[1]);
    Ok(Some(text))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It calls us.
    PodmanCompose,
    /// It talks to a socket.
    DockerCompose,
    /// Who knows.
    Other,
}

#[derive(Debug, PartialEq, Eq)]
struct Provider {
    path: PathBuf,
    kind: Kind,
}

impl Provider {
    fn new(path: PathBuf) -> Self {
        let name = path.file_name().unwrap_or_default().as_bytes();
        let kind = match () {
            () if name.starts_with(b"podman-compose") => Kind::PodmanCompose,
            () if name.starts_with(b"docker-compose") => Kind::DockerCompose,
            () => Kind::Other,
        };
        Self { path, kind }
    }
}

/// The program to take.
fn find() -> Result<Provider, CommandError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let named = match std::env::var_os(PROVIDER).filter(|name| !name.is_empty()) {
        Some(name) => Some((PROVIDER, vec![PathBuf::from(name)])),
        None => config::compose_providers()?.map(|names| ("compose_providers", names)),
    };
    let Some((source, names)) = named else {
        return match in_path("podman-compose".as_ref(), &path) {
            Some(path) => Ok(Provider::new(path)),
            None => Err(none_installed(in_path("docker-compose".as_ref(), &path).is_some())),
        };
    };
    let found = names.iter().find_map(|name| executable(name, &path)).map(Provider::new);
    let Some(provider) = found else {
        let names: Vec<String> = names.iter().map(|name| name.display().to_string()).collect();
        return Err(CommandError::user(format_args!("{source}: no such program: {}", names.join(", "))));
    };
    if provider.kind == Kind::DockerCompose && std::env::var_os("DOCKER_HOST").is_none() {
        return Err(CommandError::user(format_args!(
            "{}: docker-compose needs an API socket, and coracle has none",
            provider.path.display()
        ))
        .hinted("pip install podman-compose"));
    }
    Ok(provider)
}

fn none_installed(has_docker_compose: bool) -> CommandError {
    let but =
        if has_docker_compose { "; docker-compose is, but needs an API socket, and coracle has none" } else { "" };
    CommandError::user(format_args!("compose: podman-compose is not installed{but}"))
        .hinted("pip install podman-compose")
}

/// A program by its path, or by its name in PATH.
fn executable(name: &Path, path: &OsStr) -> Option<PathBuf> {
    match name.as_os_str().as_bytes().contains(&b'/') {
        true => is_executable(name).then(|| name.to_owned()),
        false => in_path(name.as_os_str(), path),
    }
}

fn in_path(name: &OsStr, path: &OsStr) -> Option<PathBuf> {
    let directories = std::env::split_paths(path).filter(|directory| directory.is_absolute());
    directories.map(|directory| directory.join(name)).find(|path| is_executable(path))
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && access(path, AccessFlags::X_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn providers_are_known_by_their_names() {
        for (path, kind) in [
            ("/usr/bin/podman-compose", Kind::PodmanCompose),
            ("/opt/docker-compose-v2", Kind::DockerCompose),
            ("/opt/mine", Kind::Other),
        ] {
            assert_eq!(Provider::new(path.into()).kind, kind, "{path}");
        }
    }

    #[test]
    fn only_programs_are_found_in_path() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("thing");
        std::fs::write(&path, "").unwrap();
        let search = |path: &Path| in_path("thing".as_ref(), path.as_os_str());
        assert_eq!(search(directory.path()), None);
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        assert_eq!(search(directory.path()), Some(path));
    }
}
