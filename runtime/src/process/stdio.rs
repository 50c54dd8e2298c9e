//! Descriptors 0, 1 and 2 of a container and the supervisor's ends of them.
//!
//! ```text
//! pipes (no -t)                               pty (-t)
//! S stdin  ──pipe──▶ C 0                      S master ◀──pty──▶ C 0, 1, 2 (slave, controlling terminal)
//! S stdout ◀─pipe─── C 1                        └─ S keeps a slave open until C has exited, see [`Streams::Terminal`]
//! S stderr ◀─pipe─── C 2
//! ```
//!
//! **Runs in:** [`pipes`] in the supervisor before it clones C; [`ContainerEnd`]'s methods in C before `execve`.

use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, dup2_stderr, dup2_stdin, dup2_stdout, fchown, pipe2};

use crate::sys::monitor as sys;

/// What a container without a terminal reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// `/dev/null`: without `-i`.
    Null,
    /// A pipe that clients feed: with `-i`.
    Pipe,
}

/// The ends that become descriptors 0, 1 and 2 of C. Close-on-exec, with numbers above 2.
#[derive(Debug)]
pub struct ContainerEnd {
    stdin: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
    stdin_is_pipe: bool,
}

/// The supervisor's ends. They never block.
#[derive(Debug)]
pub enum Streams {
    /// One pipe a stream.
    Pipes {
        /// Written to; absent when the container reads `/dev/null`.
        stdin: Option<OwnedFd>,
        /// Read from.
        stdout: OwnedFd,
        /// Read from.
        stderr: OwnedFd,
    },
    /// One pty for all three.
    Terminal {
        /// Read from and written to.
        master: OwnedFd,
        /// Kept open so that the master does not report the end (`EIO`) while a container that closed all its
        /// descriptors for a moment is still running. Dropped when C has exited.
        slave: Option<OwnedFd>,
    },
}

impl Streams {
    /// The streams of a container whose pty has this master, as it came from C.
    ///
    /// # Errors
    /// What `TIOCGPTPEER` or `fcntl` say; the descriptor may be no pty master.
    pub fn terminal(master: OwnedFd) -> nix::Result<Self> {
        let slave = sys::open_pty_peer(master.as_fd())?;
        set_nonblocking(&master)?;
        Ok(Self::Terminal { master, slave: Some(slave) })
    }
}

/// Makes the pipes of a container without a terminal.
///
/// # Errors
/// What `pipe2(2)` or `open(2)` say: the process may be out of descriptors.
pub fn pipes(stdin: Input) -> nix::Result<(ContainerEnd, Streams)> {
    let (in_read, in_write) = match stdin {
        Input::Null => (open("/dev/null", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?, None),
        Input::Pipe => {
            let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
            set_nonblocking(&write)?;
            (read, Some(write))
        }
    };
    let (out_read, out_write) = pipe2(OFlag::O_CLOEXEC)?;
    let (err_read, err_write) = pipe2(OFlag::O_CLOEXEC)?;
    set_nonblocking(&out_read)?;
    set_nonblocking(&err_read)?;
    let container = ContainerEnd {
        stdin: sys::above_stdio(in_read)?,
        stdout: sys::above_stdio(out_write)?,
        stderr: sys::above_stdio(err_write)?,
        stdin_is_pipe: in_write.is_some(),
    };
    Ok((container, Streams::Pipes { stdin: in_write, stdout: out_read, stderr: err_read }))
}

/// Gives a container descriptors of somebody else's; the supervisor has nothing to copy then.
///
/// # Errors
/// The process may be out of descriptors.
pub fn handed_over(descriptors: &[OwnedFd; 3]) -> nix::Result<(ContainerEnd, Streams)> {
    let [stdin, stdout, stderr] = descriptors;
    let own = |fd: &OwnedFd| fd.try_clone().map_err(|_| nix::errno::Errno::EMFILE).and_then(sys::above_stdio);
    let container =
        ContainerEnd { stdin: own(stdin)?, stdout: own(stdout)?, stderr: own(stderr)?, stdin_is_pipe: false };
    // Pipes without a writer: they end at once.
    let ended = || pipe2(OFlag::O_CLOEXEC).map(|(read, _)| read);
    Ok((container, Streams::Pipes { stdin: None, stdout: ended()?, stderr: ended()? }))
}

impl ContainerEnd {
    /// Gives the pipes to the container's user, as ids of C's user namespace.
    ///
    /// `/dev/stdout` is `/proc/self/fd/1`: opening it opens the pipe anew with a permission check against its owner,
    /// who would be the container's root; nginx and others log that way as an ordinary user. See crun
    /// `maybe_chown_std_streams`.
    ///
    /// # Errors
    /// What `fchown(2)` says; `EINVAL` for ids that are not mapped. Safe to ignore when the user is root.
    pub fn give_to(&self, uid: Uid, gid: Gid) -> nix::Result<()> {
        if self.stdin_is_pipe {
            fchown(&self.stdin, Some(uid), Some(gid))?;
        }
        fchown(&self.stdout, Some(uid), Some(gid))?;
        fchown(&self.stderr, Some(uid), Some(gid))
    }

    /// The ends, for a test's child.
    #[cfg(test)]
    pub(crate) fn into_parts(self) -> [OwnedFd; 3] {
        [self.stdin, self.stdout, self.stderr]
    }

    /// Moves the ends to 0, 1 and 2, which stay open over `execve`. No allocation.
    ///
    /// # Errors
    /// What `dup2(2)` says.
    pub fn install(self) -> nix::Result<()> {
        dup2_stdin(&self.stdin)?;
        dup2_stdout(&self.stdout)?;
        dup2_stderr(&self.stderr)
    }
}

/// Sets `O_NONBLOCK` on a description that is ours alone. Never to be used on a descriptor that we inherited or were
/// passed: the flag belongs to the description, which the user's shell shares.
fn set_nonblocking(fd: &OwnedFd) -> nix::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno;
    use nix::unistd::{read, write};

    #[test]
    fn our_ends_do_not_block_and_theirs_do() {
        let (container, streams) = pipes(Input::Pipe).unwrap();
        let Streams::Pipes { stdin: Some(stdin), stdout, stderr } = streams else { panic!("pipes") };
        let is_nonblocking =
            |fd: &OwnedFd| OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL).unwrap()).contains(OFlag::O_NONBLOCK);
        for ours in [&stdin, &stdout, &stderr] {
            assert!(is_nonblocking(ours));
        }
        for theirs in [&container.stdin, &container.stdout, &container.stderr] {
            assert!(!is_nonblocking(theirs));
        }
        assert_eq!(read(&stdout, &mut [0; 8]), Err(Errno::EAGAIN));
        write(&container.stderr, b"hello").unwrap();
        let mut buffer = [0; 8];
        assert_eq!(read(&stderr, &mut buffer), Ok(5));
    }

    #[test]
    fn stdin_without_interaction_is_at_its_end() {
        let (container, streams) = pipes(Input::Null).unwrap();
        assert!(matches!(streams, Streams::Pipes { stdin: None, .. }));
        assert_eq!(read(&container.stdin, &mut [0; 8]), Ok(0));
    }

    #[test]
    fn giving_to_ourselves_works_without_privileges() {
        let (container, _streams) = pipes(Input::Pipe).unwrap();
        container.give_to(Uid::current(), Gid::current()).unwrap();
    }
}
