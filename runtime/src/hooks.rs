//! Hooks: programs of a bundle's author that run at points of a container's life.
//!
//! **Runs in:** `prestart`, `createRuntime`, `poststart` and `poststop` in the runtime's process and namespaces;
//! `createContainer` and `startContainer` in container init. Single-threaded in both.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use oci_spec::runtime::Hook;

use crate::process::{Exit, pidfd_open, pidfd_send_signal, wait};
use crate::sys::SysError;

/// As much of what a hook says on stderr is passed on.
const SAID_MAX_BYTES: u64 = 1024;

/// A hook that did not do its work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HookError {
    /// It could not be started.
    #[error("{kind} hook {path}: {}", crate::sys::reason(source))]
    Start {
        /// `prestart`, `createRuntime` …
        kind: &'static str,
        /// The program.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// It failed.
    #[error("{kind} hook {path}: {how}{said}")]
    Failed {
        /// `prestart`, `createRuntime` …
        kind: &'static str,
        /// The program.
        path: String,
        /// Its exit status, in words.
        how: String,
        /// What it said, on one line, after a colon.
        said: String,
    },
    /// It took too long, and was killed.
    #[error("{kind} hook {path}: killed after {} s", limit.as_secs())]
    Timeout {
        /// `prestart`, `createRuntime` …
        kind: &'static str,
        /// The program.
        path: String,
        /// How long it may take.
        limit: Duration,
    },
    /// A kernel call failed.
    #[error(transparent)]
    Sys(#[from] SysError),
}

/// Runs the hooks of one `kind` in order, each with the container's state on its stdin, up to the first that fails.
///
/// # Errors
/// [`HookError`] of that hook.
///
/// # Source
/// OCI runtime specification, `config.md`, "POSIX-platform Hooks".
pub fn run_all(kind: &'static str, hooks: Option<&[Hook]>, state: &[u8]) -> Result<(), HookError> {
    hooks.unwrap_or_default().iter().try_for_each(|hook| run(kind, hook, state))
}

/// Runs one hook.
///
/// # Errors
/// [`HookError`].
pub fn run(kind: &'static str, hook: &Hook, state: &[u8]) -> Result<(), HookError> {
    let path = hook.path().display().to_string();
    let start_failed = |source: std::io::Error| HookError::Start { kind, path: path.clone(), source };
    let mut input = memory("state")?;
    input.write_all(state).and_then(|()| input.rewind()).map_err(start_failed)?;
    // A file, not a pipe: nobody need read while the hook runs.
    let mut said = memory("stderr")?;
    let stderr = said.try_clone().map_err(start_failed)?;
    let mut command = Command::new(hook.path());
    let args = hook.args().as_deref().unwrap_or_default();
    if let Some(name) = args.first() {
        command.arg0(name);
    }
    command.args(args.iter().skip(1)).env_clear();
    for pair in hook.env().iter().flatten() {
        if let Some((name, value)) = pair.split_once('=').filter(|(name, _)| !name.is_empty()) {
            command.env(name, value);
        }
    }
    let mut child = command.stdin(input).stdout(Stdio::null()).stderr(stderr).spawn().map_err(start_failed)?;
    let pidfd = pidfd_open(child.id().cast_signed()).map_err(SysError::of("pidfd_open", child.id()))?;
    let limit = hook.timeout().and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
    let is_in_time = waited(&pidfd, limit).map_err(SysError::of("poll", "hook"))?;
    if !is_in_time {
        let _ = pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
        let _ = child.wait();
        return Err(HookError::Timeout { kind, path, limit: limit.unwrap_or_default() });
    }
    let how = match wait(pidfd.as_fd(), true).map_err(SysError::of("waitid", "hook"))? {
        Some(Exit::Code(0)) | None => return Ok(()),
        Some(Exit::Code(code)) => format!("exit status {code}"),
        Some(Exit::Killed { signal, .. }) => format!("killed by {signal}"),
    };
    let mut text = Vec::new();
    let _ = said.rewind().and_then(|()| Read::by_ref(&mut said).take(SAID_MAX_BYTES).read_to_end(&mut text));
    let text = String::from_utf8_lossy(&text).trim().replace('\n', "; ");
    let said = if text.is_empty() { text } else { format!(": {text}") };
    Err(HookError::Failed { kind, path, how, said })
}

fn memory(name: &str) -> Result<File, SysError> {
    memfd_create(name, MFdFlags::MFD_CLOEXEC).map(File::from).map_err(SysError::of("memfd_create", name))
}

/// Waits for the end of a process; `false` if it goes on after `limit`.
fn waited(pidfd: &OwnedFd, limit: Option<Duration>) -> nix::Result<bool> {
    let until = limit.map(|limit| Instant::now() + limit);
    loop {
        let timeout = match until.map(|until| until.saturating_duration_since(Instant::now())) {
            None => PollTimeout::NONE,
            Some(left) => PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX),
        };
        let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Err(Errno::EINTR) => {}
            Ok(0) if until.is_some_and(|until| Instant::now() < until) => {}
            Ok(ready) => return Ok(ready > 0),
            Err(errno) => return Err(errno),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Hook {
        let mut hook = Hook::default();
        hook.set_path("/bin/sh".into()).set_args(Some(["sh", "-c", script].map(str::to_owned).to_vec()));
        hook
    }

    #[test]
    fn a_hook_reads_the_state_and_sees_its_own_environment_alone() {
        let mut hook = shell("test \"$(cat)\" = state && test \"$A\" = 1 && test -z \"$HOME$CARGO\"");
        hook.set_env(Some(vec!["A=1".to_owned()]));
        run("prestart", &hook, b"state").unwrap();
    }

    #[test]
    fn a_hook_that_fails_is_named_with_what_it_said() {
        let hooks = [shell("true"), shell("echo no such bridge >&2; exit 3"), shell("exit 4")];
        let error = run_all("createRuntime", Some(&hooks), b"").unwrap_err();
        assert_eq!(error.to_string(), "createRuntime hook /bin/sh: exit status 3: no such bridge");
        let mut absent = Hook::default();
        absent.set_path("/nonexistent/hook".into());
        let error = run("poststop", &absent, b"").unwrap_err();
        assert_eq!(error.to_string(), "poststop hook /nonexistent/hook: no such file or directory");
    }

    #[test]
    fn a_hook_that_takes_too_long_is_killed() {
        let mut hook = shell("exec sleep 1000");
        hook.set_timeout(Some(1));
        let error = run("poststart", &hook, b"").unwrap_err();
        assert_eq!(error.to_string(), "poststart hook /bin/sh: killed after 1 s");
    }
}
