//! `pause` and `resume`: by the cgroup's freezer; without a cgroup by signals to everything in the pid namespace.

use std::os::fd::{AsFd, OwnedFd};

use runtime::cgroup::Cgroup;
use runtime::exec::namespaces_unlike_ours;
use runtime::process::standstill;
use storage::state::oci::{Container, Record};

use super::status::{self, Status};
use super::{Outcome, Runtime};
use crate::error::{CommandError, reason};

/// Pause all processes of a container
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Id of the container
    #[arg(value_name = "CONTAINER")]
    id: String,
}

/// Let the processes of a paused container go on
#[derive(clap::Args, Debug)]
pub(super) struct ResumeArgs {
    /// Id of the container
    #[arg(value_name = "CONTAINER")]
    id: String,
}

/// Runs `pause`.
pub(super) fn run(args: Args, runtime: &Runtime) -> Outcome {
    let mut container = runtime.root.open(&args.id)?;
    status::require(&container, "pause", &[Status::Running])?;
    match cgroup_of(&container.record) {
        Some(cgroup) => cgroup.freeze().map_err(|error| failed("pause", &container, &reason(&error)))?,
        None => {
            let (init, namespaces) = reach("pause", &container)?;
            standstill::stop_in(init.as_fd(), namespaces)
                .map_err(|errno| failed("pause", &container, &errno.desc().to_lowercase()))?;
            container.record.is_paused = true;
            container.save()?;
        }
    }
    Ok(0)
}

/// Runs `resume`.
pub(super) fn run_resume(args: ResumeArgs, runtime: &Runtime) -> Outcome {
    let mut container = runtime.root.open(&args.id)?;
    status::require(&container, "resume", &[Status::Paused])?;
    if container.record.is_paused {
        let (init, namespaces) = reach("resume", &container)?;
        standstill::go_on_in(init.as_fd(), namespaces)
            .map_err(|errno| failed("resume", &container, &errno.desc().to_lowercase()))?;
        container.record.is_paused = false;
        container.save()?;
    }
    if let Some(cgroup) = cgroup_of(&container.record) {
        cgroup.thaw().map_err(|error| failed("resume", &container, &reason(&error)))?;
    }
    Ok(0)
}

fn cgroup_of(record: &Record) -> Option<Cgroup> {
    Cgroup::existing(record.cgroup.clone()?).ok()
}

/// Init, and the namespaces through which its pid namespace is reached.
fn reach(verb: &str, container: &Container) -> Result<(OwnedFd, i32), CommandError> {
    let init = status::init_of(&container.record)?.ok_or_else(|| failed(verb, container, "it has stopped"))?;
    let unlike =
        namespaces_unlike_ours(container.record.pid).map_err(|error| failed(verb, container, &reason(&error)))?;
    if unlike & libc::CLONE_NEWPID == 0 {
        return Err(failed(verb, container, "it has neither a cgroup nor a pid namespace of its own"));
    }
    Ok((init, unlike & (libc::CLONE_NEWPID | libc::CLONE_NEWUSER)))
}

fn failed(verb: &str, container: &Container, why: &str) -> CommandError {
    CommandError::host(format_args!("cannot {verb} container {}: {why}", container.record.id))
}
