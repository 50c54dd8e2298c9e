//! Descriptors that the command was given besides the standard ones, for a container that shall have them too.
//!
//! They keep their numbers: nothing of ours can take one while it is open. Whatever is executed on the way to the container
//! does not get them, since they are close-on-exec until [`crate::init::steps::become_program`].

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;

use crate::sys::process as sys;

/// Descriptors of whoever typed the command.
#[derive(Debug, Default)]
pub struct Inherited(Vec<OwnedFd>);

/// There is no such descriptor, or it is one of ours.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("file descriptor {0} is not available")]
pub struct NotInherited(pub i32);

impl Inherited {
    /// Takes over the descriptors of these numbers, once.
    ///
    /// # Errors
    /// [`NotInherited`] for one that is not open, that is a standard stream, or that we opened: ours are close-on-exec,
    /// and one that was inherited cannot be.
    pub fn take(numbers: &[i32]) -> Result<Inherited, NotInherited> {
        let mut all: Vec<OwnedFd> = Vec::with_capacity(numbers.len());
        for number in numbers {
            if all.iter().any(|fd| fd.as_raw_fd() == *number) {
                continue;
            }
            let taken = match *number > 2 && sys::is_inherited(*number) {
                true => sys::adopt_fd(*number),
                false => Err(Errno::EBADF),
            };
            let taken = taken.and_then(|fd| sys::set_close_on_exec(fd.as_fd(), true).map(|()| fd));
            all.push(taken.map_err(|_| NotInherited(*number))?);
        }
        Ok(Inherited(all))
    }

    /// Whether the one of this number is among them.
    pub fn contains(&self, number: i32) -> bool {
        self.0.iter().any(|fd| fd.as_raw_fd() == number)
    }

    /// Has those of `other` as well.
    pub fn append(&mut self, mut other: Inherited) {
        self.0.append(&mut other.0);
    }

    /// Copies of those of these numbers, for another use of the same.
    ///
    /// # Errors
    /// What `fcntl(2)` says.
    pub fn copies(&self, numbers: &[i32]) -> Result<Vec<OwnedFd>, Errno> {
        let these = self.0.iter().filter(|fd| numbers.contains(&fd.as_raw_fd()));
        let copy = |fd: &OwnedFd| fd.try_clone().map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)));
        these.map(copy).collect()
    }

    /// Closes those of these numbers here: nobody gets them.
    pub fn drop_these(&mut self, numbers: &[i32]) {
        self.0.retain(|fd| !numbers.contains(&fd.as_raw_fd()));
    }

    /// Closes them here. Whoever waits for the last of their kind to be closed waits for the container alone.
    pub fn let_go(&mut self) {
        self.0.clear();
    }

    /// Lets the next `execve` of this process pass them on.
    ///
    /// # Errors
    /// What `fcntl(2)` says.
    pub fn pass_on(&self) -> Result<(), Errno> {
        self.0.iter().try_for_each(|fd| sys::set_close_on_exec(fd.as_fd(), false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_inherited_is_taken() {
        let ours = std::fs::File::open("/dev/null").unwrap();
        let number = ours.as_raw_fd();
        assert_eq!(Inherited::take(&[number]).unwrap_err(), NotInherited(number), "it is close-on-exec");
        assert_eq!(Inherited::take(&[1]).unwrap_err(), NotInherited(1));
        assert_eq!(Inherited::take(&[60_000]).unwrap_err(), NotInherited(60_000));
        assert_eq!(Inherited::take(&[-1]).unwrap_err(), NotInherited(-1));
        sys::set_close_on_exec(ours.as_fd(), false).unwrap();
        let number = std::os::fd::IntoRawFd::into_raw_fd(ours);
        let taken = Inherited::take(&[number, number]).unwrap();
        assert_eq!(taken.0.len(), 1);
        assert!(!sys::is_inherited(number), "nothing executed on the way gets it");
        taken.pass_on().unwrap();
        assert!(sys::is_inherited(number));
    }
}
