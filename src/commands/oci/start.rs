//! `start`: lets the program of a created container run.

use nix::unistd::{UnlinkatFlags, unlinkat};
use oci_spec::runtime::Hook;
use runtime::hooks;
use runtime::init::gate;
use runtime::init::handshake::Report;
use runtime::process::pidfd_send_signal;
use std::os::fd::AsFd;
use storage::state::oci::{Container, Stage};

use super::status::{self, Status};
use super::{Outcome, Runtime};
use crate::error::CommandError;

/// Start the process of a created container
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Id of the container
    #[arg(value_name = "CONTAINER")]
    id: String,
}

/// Runs `start`.
pub(super) fn run(args: Args, runtime: &Runtime) -> Outcome {
    // 126 and 127 are for those who run a program.
    start(runtime.root.open(&args.id)?, runtime).map(|()| 0).map_err(|error| error.with_code(1))
}

/// Starts a container that is locked.
pub(super) fn start(mut container: Container, runtime: &Runtime) -> Result<(), CommandError> {
    status::require(&container, "start", &[Status::Created])?;
    let id = container.record.id.clone();
    let init = gate::knock(container.directory())?;
    // From here on it is not to be started again, whatever becomes of us: an init that we let down exits.
    let _ = unlinkat(container.directory(), gate::NAME, UnlinkatFlags::NoRemoveDir);
    container.record.status = Stage::Running;
    container.save()?;
    init.send_go()?;
    loop {
        match init.receive()? {
            Report::Closed => break,
            Report::Failed { code, message } => return Err(super::create::init_failed(code, message)),
            _ => {}
        }
    }
    let spec = runtime.spec(&id)?;
    let list: Option<&[Hook]> = spec.hooks().as_ref().and_then(|all| all.poststart().as_deref());
    let state = status::state(&container.record, "running", container.record.pid).to_string();
    hooks::run_all("poststart", list, state.as_bytes()).map_err(|error| {
        // The specification has such a container stopped.
        if let Ok(Some(init)) = status::init_of(&container.record) {
            let _ = pidfd_send_signal(init.as_fd(), libc::SIGKILL);
        }
        CommandError::from(error)
    })
}
