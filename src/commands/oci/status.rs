//! What a container is doing: what is on record, held against what the kernel says of its init.

use std::path::Path;

use nix::errno::Errno;
use runtime::cgroup::Cgroup;
use runtime::process::pidfd;
use serde_json::{Value, json};
use std::os::fd::OwnedFd;
use storage::state::oci::{Container, OciError, Record, Stage};

use super::Runtime;
use crate::error::CommandError;

/// The states of the specification, and the one that runc and crun have besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Creating,
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    /// As users know it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Status::Creating => "creating",
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        }
    }

    /// The status of a container.
    pub(super) fn of(record: &Record) -> Status {
        if record.status == Stage::Creating {
            return Status::Creating;
        }
        if !pidfd::is_running(record.pid, record.start_time) {
            return Status::Stopped;
        }
        let is_frozen = || {
            let cgroup = record.cgroup.clone().and_then(|path| Cgroup::existing(path).ok());
            cgroup.is_some_and(|cgroup| cgroup.is_frozen())
        };
        match record.status {
            Stage::Created => Status::Created,
            _ if record.is_paused || is_frozen() => Status::Paused,
            _ => Status::Running,
        }
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The state as the specification has it, for hooks and for `state`. `pid` is what its reader knows init by.
///
/// # Source
/// OCI runtime specification, `runtime.md`, "State".
pub(super) fn state(record: &Record, status: &str, pid: i32) -> Value {
    let mut state = json!({
        "ociVersion": record.oci_version,
        "id": record.id,
        "status": status,
        "pid": pid,
        "bundle": record.bundle,
    });
    if !record.annotations.is_empty() {
        state["annotations"] = json!(record.annotations);
    }
    state
}

impl Runtime {
    /// What is known of a container.
    pub(super) fn record(&self, id: &str) -> Result<Record, CommandError> {
        Ok(self.root.read(id)?.ok_or_else(|| OciError::NotFound(id.to_owned()))?)
    }

    /// The configuration that a container was created with.
    pub(super) fn spec(&self, id: &str) -> Result<oci_spec::runtime::Spec, CommandError> {
        super::bundle::parse(Path::new("config.json"), &self.root.read_file(id, "config.json")?)
    }
}

/// A pidfd of a container's init; `None` if it has ended.
pub(super) fn init_of(record: &Record) -> Result<Option<OwnedFd>, CommandError> {
    if !pidfd::is_running(record.pid, record.start_time) {
        return Ok(None);
    }
    match pidfd::open_checked(record.pid, record.start_time) {
        Ok(init) => Ok(Some(init)),
        Err(Errno::ESRCH) => Ok(None),
        Err(errno) => {
            Err(CommandError::host(format_args!("pidfd_open({}): {}", record.pid, errno.desc().to_lowercase())))
        }
    }
}

/// The container must be in one of these states.
pub(super) fn require(container: &Container, verb: &str, allowed: &[Status]) -> Result<Status, CommandError> {
    let status = Status::of(&container.record);
    if allowed.contains(&status) {
        return Ok(status);
    }
    Err(CommandError::user(format_args!("cannot {verb} container {}: it is {status}", container.record.id)))
}
