//! Capabilities: from `--cap-add` and `--cap-drop` to the five sets of the container's first process.
//!
//! The set is computed as a plain value ([`CapabilitySet::adjust`], [`process_sets`]) and written to
//! config.json; init then takes it back and applies it with the small functions at the end of this
//! file, in this order:
//!
//! ```text
//! drop_bounding          needs CAP_SETPCAP, so before anything is given up
//! set_keep_caps(true)    only if the user id is about to change from 0
//! setgroups, setgid, setuid
//! set_sets               permitted, effective, inheritable in one capset
//! set_ambient            after inheritable and permitted, which bound it
//! no_new_privs, seccomp, execve
//! ```
//!
//! `securebits` are not touched: root in the container gains its permitted set at `execve` as on
//! any Linux machine, within the bounding set. The exception is a user that is emulated ([`ignore_root`]).

mod set;

pub use set::{Capability, CapabilitySet, Selection, UnknownCapability};

use std::str::FromStr;

use nix::errno::Errno;
use oci_spec::runtime as oci;

use crate::sys::caps;

/// A capability call that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Dropping one capability from the bounding set.
    #[error("prctl(PR_CAPBSET_DROP, {number}): {}", errno.desc().to_lowercase())]
    DropBounding {
        /// The capability's number.
        number: u8,
        /// Why; `EPERM` without `CAP_SETPCAP`.
        errno: Errno,
    },
    /// Keeping the permitted set over a change of the user id.
    #[error("prctl(PR_SET_KEEPCAPS): {}", .0.desc().to_lowercase())]
    KeepCaps(Errno),
    /// Making root an ordinary user.
    #[error("prctl(PR_SET_SECUREBITS, SECBIT_NOROOT): {}", .0.desc().to_lowercase())]
    Securebits(Errno),
    /// Setting permitted, effective and inheritable.
    #[error("capset(effective {:?}, permitted {:?}, inheritable {:?}): {}", sets.effective, sets.permitted, sets.inheritable, errno.desc().to_lowercase())]
    Capset {
        /// What was asked for.
        sets: Box<Sets>,
        /// Why; `EPERM` if a set would grow beyond what is permitted.
        errno: Errno,
    },
    /// Emptying the ambient set.
    #[error("prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL): {}", .0.desc().to_lowercase())]
    ClearAmbient(Errno),
    /// Raising one ambient capability.
    #[error("prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, {capability}): {}", errno.desc().to_lowercase())]
    RaiseAmbient {
        /// The capability.
        capability: Capability,
        /// Why; `EPERM` if it is not both permitted and inheritable.
        errno: Errno,
    },
}

/// The five capability sets of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sets {
    /// What `execve` can ever grant.
    pub bounding: CapabilitySet,
    /// What the kernel checks.
    pub effective: CapabilitySet,
    /// What the process may make effective.
    pub permitted: CapabilitySet,
    /// What survives `execve` of a file with inheritable capabilities.
    pub inheritable: CapabilitySet,
    /// What survives `execve` of an ordinary file without being root.
    pub ambient: CapabilitySet,
}

/// The sets of a container's process, by podman's rule.
///
/// Root gets the whole bounding set. Another user gets only what was added by name (`--cap-add`, in
/// `added`), and gets that as ambient too so that it survives `execve`; the rest of the bounding set
/// is within reach of setuid programs only.
pub fn process_sets(bounding: CapabilitySet, added: &[Selection], user_is_root: bool) -> Sets {
    if user_is_root {
        return Sets { bounding, effective: bounding, permitted: bounding, ..Sets::default() };
    }
    let named = CapabilitySet::EMPTY.adjust(added, &[]).intersection(bounding);
    Sets { bounding, effective: named, permitted: named, inheritable: named, ambient: named }
}

impl From<Sets> for oci::LinuxCapabilities {
    fn from(sets: Sets) -> Self {
        let mut capabilities = Self::default();
        capabilities
            .set_bounding(Some(sets.bounding.into()))
            .set_effective(Some(sets.effective.into()))
            .set_permitted(Some(sets.permitted.into()))
            .set_inheritable(Some(sets.inheritable.into()))
            .set_ambient(Some(sets.ambient.into()));
        capabilities
    }
}

impl From<&oci::LinuxCapabilities> for Sets {
    fn from(capabilities: &oci::LinuxCapabilities) -> Self {
        let set = |list: &Option<oci::Capabilities>| list.as_ref().map(CapabilitySet::from).unwrap_or_default();
        Self {
            bounding: set(capabilities.bounding()),
            effective: set(capabilities.effective()),
            permitted: set(capabilities.permitted()),
            inheritable: set(capabilities.inheritable()),
            ambient: set(capabilities.ambient()),
        }
    }
}

impl From<CapabilitySet> for oci::Capabilities {
    fn from(set: CapabilitySet) -> Self {
        set.iter().filter_map(|capability| oci::Capability::from_str(capability.name()).ok()).collect()
    }
}

impl From<&oci::Capabilities> for CapabilitySet {
    fn from(capabilities: &oci::Capabilities) -> Self {
        capabilities.iter().filter_map(|capability| capability.to_string().parse().ok()).collect()
    }
}

/// The highest capability of the running kernel: 40 since Linux 5.9.
///
/// Asked by `prctl`, not read from `/proc/sys/kernel/cap_last_cap`: init calls this where `/proc` is
/// the container's.
pub fn last_capability() -> u8 {
    (0..=63).rev().find(|number| caps::is_bounding(*number).is_ok()).unwrap_or(0)
}

/// The bounding set of the calling thread.
pub fn bounding() -> CapabilitySet {
    let bits =
        (0..=63).filter(|number| caps::is_bounding(*number) == Ok(true)).fold(0, |bits, number| bits | 1 << number);
    CapabilitySet::from_bits(bits)
}

/// Drops everything but `keep` from the bounding set, also what only a newer kernel knows.
///
/// # Errors
/// [`Error::DropBounding`].
pub fn drop_bounding(keep: CapabilitySet) -> Result<(), Error> {
    for number in 0..=63 {
        if keep.bits() & (1 << number) != 0 {
            continue;
        }
        match caps::drop_bounding(number) {
            Ok(()) => {}
            // Above the kernel's last capability.
            Err(Errno::EINVAL) => break,
            Err(errno) => return Err(Error::DropBounding { number, errno }),
        }
    }
    Ok(())
}

/// Keeps (or not) the permitted set when the user id changes from 0; `execve` clears it.
///
/// # Errors
/// [`Error::KeepCaps`].
pub fn set_keep_caps(keep: bool) -> Result<(), Error> {
    caps::set_keep_caps(keep).map_err(Error::KeepCaps)
}

/// Makes root an id like any other for this thread and all it will start: no capabilities at `execve`.
///
/// # Errors
/// [`Error::Securebits`].
pub fn ignore_root() -> Result<(), Error> {
    // SECBIT_NOROOT of linux/securebits.h.
    crate::process::prctl(libc::PR_SET_SECUREBITS, 1).map_err(Error::Securebits)
}

/// Sets permitted, effective and inheritable of the calling thread in one call.
///
/// What the running kernel does not know is left out.
///
/// # Errors
/// [`Error::Capset`].
pub fn set_sets(sets: &Sets) -> Result<(), Error> {
    let last = last_capability();
    let bits = |set: CapabilitySet| set.up_to(last).bits();
    caps::capset(bits(sets.effective), bits(sets.permitted), bits(sets.inheritable))
        .map_err(|errno| Error::Capset { sets: Box::new(*sets), errno })
}

/// Makes the ambient set exactly this one.
///
/// # Errors
/// [`Error::ClearAmbient`], [`Error::RaiseAmbient`].
pub fn set_ambient(ambient: CapabilitySet) -> Result<(), Error> {
    caps::ambient_clear().map_err(Error::ClearAmbient)?;
    for capability in ambient.iter() {
        match caps::ambient_raise(capability.number()) {
            Ok(()) => {}
            // Above the kernel's last capability.
            Err(Errno::EINVAL) => break,
            Err(errno) => return Err(Error::RaiseAmbient { capability, errno }),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
