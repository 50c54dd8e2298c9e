//! What goes in and out of the container: the first client's streams, the log, the socket for those who attach.
//!
//! **Runs in:** S; single-threaded.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use runtime::monitor::log;
use runtime::monitor::relay::{self, StdinPolicy};
use runtime::process::pty::Winsize;
use storage::state::container::Record;
use storage::state::layout::Layout;
use storage::state::request::LogDriver;

use super::launch::Launch;
use crate::cli::parse::size;
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

/// The command's own descriptors, for a container that shall have them (`--log-driver passthrough`).
pub(super) fn handed_over(record: &Record) -> Result<Option<[OwnedFd; 3]>, CommandError> {
    if record.request.log.driver != LogDriver::Passthrough {
        return Ok(None);
    }
    let fail = |error: std::io::Error| CommandError::host(format!("dup(): {}", crate::error::reason(&error)));
    let own = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned().map_err(fail);
    let stdin = match record.request.stdin_open {
        true => own(std::io::stdin().as_fd())?,
        false => std::fs::File::open("/dev/null").map_err(fail)?.into(),
    };
    Ok(Some([stdin, own(std::io::stdout().as_fd())?, own(std::io::stderr().as_fd())?]))
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

/// The file a container's output is kept in: its own, or where `--log-opt path=` says.
pub(crate) fn log_file(layout: &Layout, record: &Record) -> Option<PathBuf> {
    let log = &record.request.log;
    let path = log.options.get("path").map(PathBuf::from);
    log.driver.has_file().then(|| path.unwrap_or_else(|| layout.container(&record.id).join("log")))
}

pub(super) fn open_log(layout: &Layout, record: &Record) -> Result<log::Log, CommandError> {
    let log = &record.request.log;
    let driver = match log.driver {
        LogDriver::K8sFile => log::Driver::K8sFile,
        LogDriver::JsonFile => log::Driver::JsonFile,
        LogDriver::Journald => return journal(record),
        LogDriver::Passthrough | LogDriver::None => return Ok(log::Log::none()),
    };
    let path = log_file(layout, record).unwrap_or_default();
    let (Some(directory), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Err(CommandError::user(format!("--log-opt path={}: not the name of a file", path.display())));
    };
    let directory = std::fs::File::open(directory).map_err(|error| {
        CommandError::host(format!("open log directory {}: {}", directory.display(), crate::error::reason(&error)))
    })?;
    log::Log::open(driver, directory.as_fd(), name, limits(&log.options)).map_err(CommandError::host)
}

/// `max-size` and `max-file`, checked when they were given.
fn limits(options: &BTreeMap<String, String>) -> log::Limits {
    let max_size_bytes = options.get("max-size").and_then(|text| size::bytes(text).ok()).filter(|bytes| *bytes > 0);
    let max_files = options.get("max-file").and_then(|text| text.parse().ok()).unwrap_or(1);
    log::Limits { max_size_bytes, max_files }
}

fn journal(record: &Record) -> Result<log::Log, CommandError> {
    let image = record.image.as_ref();
    let names = [
        ("{{.ID}}", record.id.short()),
        ("{{.FullID}}", record.id.as_str()),
        ("{{.Name}}", record.name.as_str()),
        ("{{.ImageName}}", image.map_or("", |image| image.full.as_str())),
        ("{{.ImageID}}", image.map_or("", |image| image.id.hex())),
    ];
    let tag = record.request.log.options.get("tag").map_or("", String::as_str);
    let tag = names.iter().fold(tag.to_owned(), |tag, (name, value)| tag.replace(name, value));
    let mut fields = vec![
        ("CONTAINER_ID", record.id.short()),
        ("CONTAINER_ID_FULL", record.id.as_str()),
        ("CONTAINER_NAME", record.name.as_str()),
        ("IMAGE_NAME", image.map_or("", |image| image.full.as_str())),
    ];
    if tag.is_empty() {
        fields.push(("SYSLOG_IDENTIFIER", record.name.as_str()));
    } else {
        fields.extend([("CONTAINER_TAG", tag.as_str()), ("SYSLOG_IDENTIFIER", tag.as_str())]);
    }
    log::Log::journald(Path::new(log::JOURNAL_SOCKET), &fields)
        .map_err(|error| CommandError::host(format!("--log-driver journald: {error}")).hinted("--log-driver k8s-file"))
}

pub(super) fn listener(layout: &Layout, record: &Record) -> Result<runtime::monitor::attach::Listener, CommandError> {
    let directory = std::fs::File::open(layout.runtime_container(&record.id))
        .map_err(|error| CommandError::host(format!("open the runtime directory: {}", crate::error::reason(&error))))?;
    runtime::monitor::attach::Listener::bind(directory.as_fd(), nix::unistd::Uid::from_raw(0))
        .map_err(CommandError::host)
}
