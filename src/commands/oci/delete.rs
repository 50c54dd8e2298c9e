//! `delete`: takes away what is left of a stopped container.

use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use runtime::cgroup::Cgroup;
use runtime::process::pidfd_send_signal;
use storage::state::oci::{Container, OciError};

use super::create::{poststop, take_away};
use super::status::{self, Status};
use super::{Outcome, Runtime, kill};
use crate::error::CommandError;

/// How long a killed process may take to end, in milliseconds.
const PATIENCE_MS: u16 = 10_000;

/// Delete a stopped container
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Id of the container
    #[arg(value_name = "CONTAINER")]
    id: String,
    /// Kill its processes first; a container that does not exist is no error
    #[arg(short, long)]
    force: bool,
}

/// Runs `delete`.
pub(super) fn run(args: Args, runtime: &Runtime) -> Outcome {
    let container = match runtime.root.open(&args.id) {
        Err(OciError::NotFound(_)) if args.force => return Ok(0),
        container => container?,
    };
    if args.force {
        end(&container)?;
    }
    let stopped = status::require(&container, "delete", &[Status::Stopped, Status::Creating]);
    stopped.map_err(|error| error.hinted(format_args!("coracle oci delete --force {}", args.id)))?;
    delete(container, runtime).map(|()| 0)
}

/// Deletes a container that has stopped.
pub(super) fn delete(container: Container, runtime: &Runtime) -> Result<(), CommandError> {
    let record = container.record.clone();
    // A configuration that cannot be read any more is no reason to keep the rest.
    let spec = runtime.spec(&record.id);
    let cgroup = record.cgroup.clone().and_then(|path| Cgroup::existing(path).ok());
    take_away(cgroup.as_ref());
    container.remove()?;
    if let Ok(spec) = spec {
        poststop(&spec, &record, runtime);
    }
    Ok(())
}

/// Kills whatever runs, and waits for the end of init.
fn end(container: &Container) -> Result<(), CommandError> {
    let Some(init) = status::init_of(&container.record)? else { return Ok(()) };
    kill::all(&container.record, libc::SIGKILL)?;
    match pidfd_send_signal(init.as_fd(), libc::SIGKILL) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(errno) => return Err(CommandError::host(format_args!("kill: {}", errno.desc().to_lowercase()))),
    }
    loop {
        let mut fds = [PollFd::new(init.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::from(PATIENCE_MS)) {
            Err(Errno::EINTR) => {}
            Ok(1..) => return Ok(()),
            _ => return Err(CommandError::host("the container's init was killed, but does not end")),
        }
    }
}
