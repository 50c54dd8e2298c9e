//! What goes in and out of the container: the first client's streams, the log, the socket for those who attach.
//!
//! **Runs in:** S; single-threaded.

use std::os::fd::{AsFd, OwnedFd};

use runtime::monitor::log;
use runtime::monitor::relay::{self, StdinPolicy};
use runtime::process::pty::Winsize;
use storage::state::container::Record;
use storage::state::layout::Layout;
use storage::state::request::{LogDriver, Request};

use super::launch::Launch;
use crate::error::CommandError;

/// How the command that started the container stays with it.
#[derive(Debug, Clone)]
pub(crate) struct FirstClient {
    /// Its stdin feeds the container.
    pub(crate) stdin: bool,
    /// It gets the container's output.
    pub(crate) stdout: bool,
    /// It gets the container's error output.
    pub(crate) stderr: bool,
    /// Keys that detach; empty for none.
    pub(crate) detach_keys: runtime::monitor::detach_keys::DetachKeys,
    /// Size of its terminal.
    pub(crate) size: Option<Winsize>,
}

pub(super) fn stdin_policy(launch: &Launch) -> StdinPolicy {
    match (launch.record.request.stdin_open, launch.attach.as_ref().is_some_and(|client| client.stdin)) {
        (false, _) => StdinPolicy::NotInteractive,
        (true, true) => StdinPolicy::Once,
        (true, false) => StdinPolicy::StaysOpen,
    }
}

pub(super) fn first_client(first: &FirstClient, control: Option<OwnedFd>) -> Result<relay::FirstClient, CommandError> {
    let own = |wanted: bool, fd: std::os::fd::BorrowedFd<'_>| match wanted {
        true => fd.try_clone_to_owned().map(Some),
        false => Ok(None),
    };
    let fail = |error: std::io::Error| CommandError::host(format!("dup(): {}", crate::error::reason(&error)));
    Ok(relay::FirstClient {
        control,
        stdin: own(first.stdin, std::io::stdin().as_fd()).map_err(fail)?,
        stdout: own(first.stdout, std::io::stdout().as_fd()).map_err(fail)?,
        stderr: own(first.stderr, std::io::stderr().as_fd()).map_err(fail)?,
        detach_keys: first.detach_keys.clone(),
    })
}

/// Puts `/dev/null` at 0, 1 and 2.
pub(super) fn let_go_of_streams() -> Result<(), CommandError> {
    let null = std::fs::File::options().read(true).write(true).open("/dev/null");
    let null = null.map_err(|error| CommandError::host(format!("open /dev/null: {}", crate::error::reason(&error))))?;
    nix::unistd::dup2_stdin(&null)
        .and_then(|()| nix::unistd::dup2_stdout(&null))
        .and_then(|()| nix::unistd::dup2_stderr(&null))
        .map_err(super::build::errno("dup2"))
}

pub(super) fn open_log(layout: &Layout, record: &Record) -> Result<log::Log, CommandError> {
    let request: &Request = &record.request;
    let driver = match request.log.driver {
        LogDriver::K8sFile => log::Driver::K8sFile,
        LogDriver::JsonFile => log::Driver::JsonFile,
        LogDriver::None => return Ok(log::Log::none()),
    };
    let directory = std::fs::File::open(layout.container(&record.id)).map_err(|error| {
        CommandError::host(format!("open the container's directory: {}", crate::error::reason(&error)))
    })?;
    log::Log::open(driver, directory.as_fd(), "log", log::Limits::default()).map_err(CommandError::host)
}

pub(super) fn listener(layout: &Layout, record: &Record) -> Result<runtime::monitor::attach::Listener, CommandError> {
    let directory = std::fs::File::open(layout.runtime_container(&record.id))
        .map_err(|error| CommandError::host(format!("open the runtime directory: {}", crate::error::reason(&error))))?;
    runtime::monitor::attach::Listener::bind(directory.as_fd(), nix::unistd::Uid::from_raw(0))
        .map_err(CommandError::host)
}
