//! `kill`: sends a signal to a container's init, or to all of its processes.

use std::os::fd::AsFd;

use nix::errno::Errno;
use runtime::cgroup::Cgroup;
use runtime::process::signal::Signal;
use runtime::process::{pidfd_open, pidfd_send_signal};
use storage::state::oci::Record;

use super::status::{self, Status};
use super::{Outcome, Runtime, show};
use crate::error::CommandError;

/// Send a signal to a container
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Id of the container
    #[arg(value_name = "CONTAINER")]
    id: String,
    /// Name or number of the signal
    #[arg(value_name = "SIGNAL", default_value = "SIGTERM")]
    signal: String,
    /// Send it to every process of the container
    #[arg(short, long)]
    all: bool,
}

/// Runs `kill`.
pub(super) fn run(args: Args, runtime: &Runtime) -> Outcome {
    let signal: Signal = args.signal.parse().map_err(CommandError::user)?;
    let container = runtime.root.open(&args.id)?;
    if args.all && Status::of(&container.record) == Status::Stopped {
        // Without a pid namespace of its own there may be something left, and nothing is no error.
        return all(&container.record, signal.number()).map(|()| 0);
    }
    status::require(&container, "kill", &[Status::Created, Status::Running, Status::Paused])?;
    if args.all {
        return all(&container.record, signal.number()).map(|()| 0);
    }
    let stopped = || CommandError::user(format_args!("cannot kill container {}: it is stopped", args.id));
    let init = status::init_of(&container.record)?.ok_or_else(stopped)?;
    match pidfd_send_signal(init.as_fd(), signal.number()) {
        Ok(()) => {}
        Err(Errno::ESRCH) => return Err(stopped()),
        Err(errno) => return Err(refused(signal.number(), errno)),
    }
    // What stands still does not take even this.
    if signal == Signal::KILL
        && let Some(cgroup) = container.record.cgroup.clone().and_then(|path| Cgroup::existing(path).ok())
        && cgroup.is_frozen()
    {
        let _ = cgroup.thaw();
    }
    Ok(0)
}

/// Sends a signal to every process of a container.
pub(super) fn all(record: &Record, signal: i32) -> Result<(), CommandError> {
    if signal == libc::SIGKILL
        && let Some(cgroup) = record.cgroup.clone().and_then(|path| Cgroup::existing(path).ok())
        && cgroup.kill().is_ok()
    {
        return Ok(());
    }
    for pid in show::processes(record)? {
        // A pidfd, and a second look: the number may be somebody else's by now.
        let Ok(process) = pidfd_open(pid) else { continue };
        if !show::processes(record)?.contains(&pid) {
            continue;
        }
        match pidfd_send_signal(process.as_fd(), signal) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => return Err(refused(signal, errno)),
        }
    }
    Ok(())
}

fn refused(signal: i32, errno: Errno) -> CommandError {
    CommandError::host(format_args!("pidfd_send_signal({signal}): {}", errno.desc().to_lowercase()))
}
