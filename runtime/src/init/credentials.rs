//! From root of the container to the process's own ids, capabilities and filter.
//!
//! **Runs in:** container init or an `exec` joiner, single-threaded, just before `execve`. The order is the contents:
//! each step takes away what an earlier one needed.

use oci_spec::runtime::Process;

use super::handshake::{Channel, Report};
use super::steps::InitError;
use crate::identity::{self, Emulation};
use crate::process::prctl;
use crate::security::capabilities::{self, Sets};
use crate::sys::SysError;
use crate::sys::process::{set_groups, set_ids};

/// Loads the system call filter.
pub type LoadFilter<'a> = &'a dyn Fn() -> Result<(), InitError>;

/// Takes on what `process` says. `emulation`: only id 0 exists, and others are emulated; the listener of that is reported
/// over `channel`.
///
/// `dies_with_parent`: a program dies with the process that started it.
pub fn apply(
    process: &Process,
    keep_groups: bool,
    emulation: Option<Emulation>,
    dies_with_parent: bool,
    filter: Option<LoadFilter<'_>>,
    channel: &Channel,
) -> Result<(), InitError> {
    let no_new_privileges = process.no_new_privileges().unwrap_or(false);
    let user = process.user();
    if emulation.is_some() && !keep_groups {
        // Denied in a namespace whose map its user wrote without help: there the user's groups stay, and reach as far as
        // files of the host are mounted.
        let _ = set_groups(&[]);
    }
    if let Some(emulation) = emulation
        && let Some(listener) = identity::enter(emulation)?
    {
        // From here on what is below waits for the notifier.
        channel.report(&Report::Listener(listener))?;
    }
    // Without no_new_privs the kernel wants CAP_SYS_ADMIN for a filter: load it while that is there.
    if let (Some(load), false) = (filter, no_new_privileges) {
        load()?;
    }
    let sets = process.capabilities().as_ref().map(Sets::from).unwrap_or_default();
    capabilities::drop_bounding(sets.bounding)?;
    capabilities::set_keep_caps(true)?;
    if emulation.is_some() && user.uid() != 0 {
        // For the kernel the program is root, and would get every capability back at execve.
        capabilities::ignore_root()?;
    }
    if !keep_groups {
        set_groups(user.additional_gids().as_deref().unwrap_or_default())
            .map_err(SysError::of("setgroups", "additional groups"))?;
    }
    set_ids(user.uid(), user.gid()).map_err(|errno| match errno {
        nix::errno::Errno::EINVAL => InitError::NoSuchId { uid: user.uid(), gid: user.gid() },
        errno => SysError { call: "setresuid", args: format!("{}:{}", user.uid(), user.gid()), errno }.into(),
    })?;
    capabilities::set_keep_caps(false)?;
    capabilities::set_sets(&sets)?;
    capabilities::set_ambient(sets.ambient)?;
    if dies_with_parent {
        // A change of ids clears it. With a pid namespace round the supervisor this is the second line of defence.
        prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64).map_err(SysError::of("prctl", "PR_SET_PDEATHSIG"))?;
    }
    if no_new_privileges {
        prctl(libc::PR_SET_NO_NEW_PRIVS, 1).map_err(SysError::of("prctl", "PR_SET_NO_NEW_PRIVS"))?;
        if let Some(load) = filter {
            load()?;
        }
    }
    Ok(())
}
