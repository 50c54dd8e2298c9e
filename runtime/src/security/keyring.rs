//! A session keyring of the container's own.
//!
//! Without one the container would share the user's session keyring, which may hold credentials.
//!
//! Runs in: the container's init, before user ids change.

use std::ffi::CStr;

use nix::errno::Errno;

use crate::sys::keyring;

/// Joining a session keyring that failed.
#[derive(Debug, thiserror::Error)]
#[error("keyctl(KEYCTL_JOIN_SESSION_KEYRING, {name}): {}{}", errno.desc().to_lowercase(), advice(*errno))]
#[non_exhaustive]
pub struct Error {
    /// The keyring's name.
    pub name: String,
    /// Why; `EDQUOT` when the user's key quota is used up (`/proc/sys/kernel/keys/maxkeys`).
    pub errno: Errno,
}

/// All for the possessor; view, read, link as a new keyring has them, and search for its user: only what may be searched
/// is found by name and joined again.
const PERMISSIONS: u32 = 0x3f1b_0000;

/// The one failure that users meet has a number they can look at.
fn advice(errno: Errno) -> &'static str {
    match errno {
        Errno::EDQUOT => ": each running container takes one of /proc/sys/kernel/keys/maxkeys",
        _ => "",
    }
}

/// What became of [`new_session`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Session {
    /// The process has a keyring of its own.
    Joined,
    /// The kernel has no keyrings, or we are ourselves under a filter that refuses `keyctl`: in both
    /// cases the container cannot reach one either.
    Unavailable,
}

/// Gives the calling process the session keyring `name`, which ends with the processes that hold it.
///
/// A name makes every process of the container, `exec` included, join the same keyring.
///
/// # Errors
/// [`Error`] for anything but a kernel without, or a filter against, keyrings.
pub fn new_session(name: &CStr) -> Result<Session, Error> {
    match keyring::join_session_keyring(name) {
        Ok(serial) => {
            // Where this is refused, `exec` gets a keyring apart.
            let _ = keyring::set_permissions(serial, PERMISSIONS);
            Ok(Session::Joined)
        }
        Err(Errno::ENOSYS | Errno::EPERM) => Ok(Session::Unavailable),
        Err(errno) => Err(Error { name: name.to_string_lossy().into_owned(), errno }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn used_up_quota_names_its_limit() {
        let error = Error { name: "_coracle.1".into(), errno: Errno::EDQUOT };
        assert_eq!(
            error.to_string(),
            "keyctl(KEYCTL_JOIN_SESSION_KEYRING, _coracle.1): quota exceeded: each running container takes one of \
             /proc/sys/kernel/keys/maxkeys"
        );
    }

    #[test]
    fn a_session_keyring_is_joined_or_reported_as_unavailable() {
        // Keyrings belong to threads' credentials: a thread of its own keeps the other tests' keyring.
        let session = std::thread::spawn(|| new_session(c"_coracle.test")).join().unwrap();
        assert!(matches!(session, Ok(Session::Joined | Session::Unavailable)), "{session:?}");
    }
}
