//! What init and the supervisor say to each other, over one `SOCK_SEQPACKET` pair.
//!
//! ```text
//! init                              supervisor
//!  │                 ◄──── go ────  id maps are written
//!  │ ──── FUSE device, tree ─────►  (only with a FUSE mount) a server is forked; init waits for its answers
//!  │ mounts, console
//!  │ ──── console + pty master ──►  (only with a terminal)
//!  │ ──── ready ────────────────►
//!  │                 ◄──── go ────  network is up, state is written
//!  │ ──── listener ─────────────►  (only where ids are emulated) a notifier is started
//!  │ execve
//!  │ ════ end of file ══════════►   the program runs
//!  or, at any time,
//!  │ ──── failed: code, text ───►   init exits
//! ```
//! End of file towards init means that the supervisor is gone: init exits.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg, socketpair,
};

use crate::mount::rootfs::{Connection, Driver, Tree};
use crate::sys::SysError;

/// Longest message; longer failure texts are cut.
const MAX_BYTES: usize = 4096;

/// From init to the supervisor.
#[derive(Debug)]
pub enum Report {
    /// The master side of the container's terminal.
    Console(OwnedFd),
    /// The pidfd of the process that joined a container: from the joiner of an `exec`.
    Process(OwnedFd),
    /// A FUSE mount that somebody must answer for: before anything else, since init waits for it.
    Fuse(Connection),
    /// The container's root directory, and what mounted it if it is a stack of layers.
    Root(OwnedFd, Option<Driver>),
    /// The listener of the filter under which ids are emulated (see [`crate::identity`]).
    Listener(OwnedFd),
    /// Everything is mounted.
    Ready,
    /// The container cannot start.
    Failed {
        /// Exit status: 125, 126 or 127.
        code: i32,
        /// One line.
        message: String,
    },
    /// The channel closed without a failure: the program was executed, or init was killed.
    Closed,
}

/// One end.
#[derive(Debug)]
pub struct Channel(OwnedFd);

/// Makes both ends: init's, the supervisor's.
pub fn pair() -> Result<(Channel, Channel), SysError> {
    let (init, supervisor) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
        .map_err(SysError::of("socketpair", "AF_UNIX, SOCK_SEQPACKET"))?;
    Ok((Channel(init), Channel(supervisor)))
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Channel {
    /// Takes a descriptor that came through an `execve` of ours.
    pub fn adopt(fd: OwnedFd) -> Channel {
        Channel(fd)
    }

    fn send(&self, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
        let fds: Vec<i32> = fd.iter().map(|fd| fd.as_raw_fd()).collect();
        let control = [ControlMessage::ScmRights(&fds)];
        let control = if fds.is_empty() { &control[..0] } else { &control[..] };
        sendmsg::<()>(self.0.as_raw_fd(), &[IoSlice::new(bytes)], control, MsgFlags::MSG_NOSIGNAL, None).map(drop)
    }

    /// Supervisor: lets init go on.
    pub fn send_go(&self) -> Result<(), SysError> {
        self.send(b"G", None).map_err(SysError::of("sendmsg", "init, go"))
    }

    /// Init: waits for the supervisor; `false` if it is gone.
    pub fn wait_go(&self) -> bool {
        let mut byte = [0; 1];
        loop {
            match nix::unistd::read(&self.0, &mut byte) {
                Err(Errno::EINTR) => continue,
                Ok(1) => return true,
                _ => return false,
            }
        }
    }

    /// Init: reports. A failure to do so means that nobody listens.
    pub fn report(&self, report: &Report) -> Result<(), SysError> {
        let fail = SysError::of("sendmsg", "supervisor");
        match report {
            Report::Console(fd) => self.send(b"C", Some(fd.as_fd())).map_err(fail),
            Report::Process(fd) => self.send(b"P", Some(fd.as_fd())).map_err(fail),
            Report::Fuse(Connection { device, tree }) => {
                let message = match tree {
                    Tree::Whole => b"UW",
                    Tree::Lowers => b"UL",
                };
                self.send(message, Some(device.as_fd())).map_err(fail)
            }
            Report::Root(fd, driver) => {
                let name = driver.map_or("", Driver::as_str);
                self.send(format!("T{name}").as_bytes(), Some(fd.as_fd())).map_err(fail)
            }
            Report::Listener(fd) => self.send(b"L", Some(fd.as_fd())).map_err(fail),
            Report::Ready => self.send(b"R", None).map_err(fail),
            Report::Failed { code, message } => {
                let mut bytes = vec![b'F', *code as u8];
                bytes.extend(message.bytes().take(MAX_BYTES - 2));
                self.send(&bytes, None).map_err(fail)
            }
            Report::Closed => Ok(()),
        }
    }

    /// Supervisor: receives the next report.
    pub fn receive(&self) -> Result<Report, SysError> {
        let mut bytes = [0; MAX_BYTES];
        let mut control = nix::cmsg_space!([i32; 1]);
        let (length, fd) = loop {
            let mut slices = [IoSliceMut::new(&mut bytes)];
            match recvmsg::<()>(self.0.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC) {
                Err(Errno::EINTR) => continue,
                Err(Errno::ECONNRESET) => return Ok(Report::Closed),
                Err(errno) => return Err(SysError { call: "recvmsg", args: "init".into(), errno }),
                Ok(message) => {
                    let fd = message.cmsgs().ok().and_then(|mut all| {
                        all.find_map(|one| match one {
                            ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
                            _ => None,
                        })
                    });
                    break (message.bytes, fd);
                }
            }
        };
        let fd = fd.map(crate::sys::process::received_fd);
        Ok(match (bytes[..length].split_first(), fd) {
            (Some((b'C', _)), Some(fd)) => Report::Console(fd),
            (Some((b'P', _)), Some(fd)) => Report::Process(fd),
            (Some((b'U', rest)), Some(device)) => {
                let tree = if rest == b"L" { Tree::Lowers } else { Tree::Whole };
                Report::Fuse(Connection { device, tree })
            }
            (Some((b'T', rest)), Some(fd)) => Report::Root(fd, Driver::of_name(rest)),
            (Some((b'L', _)), Some(fd)) => Report::Listener(fd),
            (Some((b'R', _)), _) => Report::Ready,
            (Some((b'F', rest)), _) => Report::Failed {
                code: rest.first().copied().map_or(125, i32::from),
                message: String::from_utf8_lossy(rest.get(1..).unwrap_or_default()).into_owned(),
            },
            _ => Report::Closed,
        })
    }
}
