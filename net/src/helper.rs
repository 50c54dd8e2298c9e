//! Starts a network program and keeps hold of it.
//!
//! **Runs in:** the supervisor, which has one thread: the helper's descriptors lose close-on-exec for the moment of
//! the spawn, and nothing else can be spawned in that moment. `Command` without hooks is posix_spawn, a vfork: no
//! page table is copied.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::Mode;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{Pid, mkfifo, pipe2};

use crate::driver::{Arg, Netns};
use crate::sys;

/// How much of a helper's output an error shows, in bytes.
const LAST_WORDS: u64 = 4096;

/// A running helper.
#[derive(Debug)]
pub(crate) struct Helper {
    pidfd: OwnedFd,
    /// What it prints; memory only, so that it never blocks on us.
    output: File,
    /// Its hang-up tells slirp4netns to end, should we be killed.
    _exit: Option<OwnedFd>,
    reaped: bool,
}

/// Starts `program`; returns it and the descriptor that becomes readable when it is ready.
pub(crate) fn spawn(
    program: &Path,
    args: &[Arg],
    netns: Netns<'_>,
) -> Result<(Helper, OwnedFd), (&'static str, io::Error)> {
    let failed = |what| move |errno: nix::errno::Errno| (what, io::Error::from(errno));
    let output = memfd_create(c"helper-output", MFdFlags::MFD_CLOEXEC).map_err(failed("memfd_create"))?;
    let (exit_read, exit_write) = pipe2(OFlag::O_CLOEXEC).map_err(failed("pipe"))?;

    let fifo = netns.scratch.join("network-ready");
    let (ready_read, ready_write) = if args.contains(&Arg::ReadyPath) {
        (make_fifo(&fifo).map_err(|source| ("make the ready FIFO", source))?, None)
    } else {
        let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(failed("pipe"))?;
        fcntl(&read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(failed("fcntl"))?;
        (read, Some(write))
    };

    let mut inherited: Vec<BorrowedFd<'_>> = Vec::new();
    let mut text: Vec<OsString> = Vec::with_capacity(args.len());
    for arg in args {
        let number = |fd: BorrowedFd<'_>| fd.as_raw_fd().to_string();
        match arg {
            Arg::Text(arg) => text.push(arg.clone()),
            Arg::NetnsFd => {
                inherited.push(netns.fd);
                text.push(format!("/proc/self/fd/{}", number(netns.fd)).into());
            }
            Arg::NetnsPath => text.push(format!("/proc/{}/ns/net", netns.pid).into()),
            Arg::ReadyFd => {
                if let Some(write) = &ready_write {
                    inherited.push(write.as_fd());
                    text.push(number(write.as_fd()).into());
                }
            }
            Arg::ReadyPath => text.push(fifo.clone().into()),
            Arg::ExitFd => {
                inherited.push(exit_read.as_fd());
                text.push(number(exit_read.as_fd()).into());
            }
        }
    }

    let stderr = output.try_clone().map_err(|source| ("duplicate a descriptor", source))?;
    let mut command = Command::new(program);
    command.args(text).stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
    command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    for fd in &inherited {
        set_cloexec(*fd, false).map_err(failed("fcntl"))?;
    }
    let spawned = command.spawn();
    for fd in &inherited {
        set_cloexec(*fd, true).map_err(failed("fcntl"))?;
    }
    let child = spawned.map_err(|source| ("spawn the helper", source))?;
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or(-1));
    let pidfd = sys::pidfd_open(pid).map_err(|source| ("pidfd_open", source))?;
    Ok((Helper { pidfd, output: File::from(output), _exit: Some(exit_write), reaped: false }, ready_read))
}

fn set_cloexec(fd: BorrowedFd<'_>, on: bool) -> nix::Result<()> {
    let flags = if on { FdFlag::FD_CLOEXEC } else { FdFlag::empty() };
    fcntl(fd, FcntlArg::F_SETFD(flags)).map(drop)
}

/// Makes a FIFO anew and opens it for reading; it has no writer yet, so a hang-up means that one came and went.
fn make_fifo(path: &Path) -> io::Result<OwnedFd> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR)?,
    }
    let flags = libc::O_NONBLOCK | libc::O_NOFOLLOW;
    Ok(File::options().read(true).custom_flags(flags).open(path)?.into())
}

impl Helper {
    /// A process that we forked, which writes to `output` why it gave up.
    pub(crate) fn forked(pidfd: OwnedFd, output: File) -> Self {
        Self { pidfd, output, _exit: None, reaped: false }
    }

    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// The helper's last line that says something, or that it ended.
    pub(crate) fn last_words(&mut self) -> String {
        let mut text = Vec::new();
        let len = self.output.metadata().map_or(0, |m| m.len());
        let read = self
            .output
            .seek(SeekFrom::Start(len.saturating_sub(LAST_WORDS)))
            .and_then(|_| self.output.read_to_end(&mut text));
        let text = String::from_utf8_lossy(&text);
        let printable = |line: &str| line.chars().filter(|c| !c.is_control()).collect::<String>();
        match text.lines().map(str::trim).rfind(|line| !line.is_empty()) {
            Some(line) if read.is_ok() => printable(line),
            _ => "the helper ended before the network was there".to_owned(),
        }
    }

    /// Kills the helper, waits for its end and reaps it.
    pub(crate) fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if !std::mem::replace(&mut self.reaped, true) {
            let _ = sys::pidfd_signal(self.pidfd.as_fd(), libc::SIGKILL);
            let _ = waitid(Id::PIDFd(self.pidfd.as_fd()), WaitPidFlag::WEXITED);
        }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.end();
    }
}

/// Finds a program in `PATH`, then where distributions put network programs.
#[must_use]
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/usr/sbin:/bin".into());
    std::env::split_paths(&path)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(name))
        .find(|file| nix::unistd::access(file, nix::unistd::AccessFlags::X_OK).is_ok() && file.is_file())
}

/// Whether the program knows an option: whether its file holds the name, as its table of options must.
///
/// Costs 20–60 µs in the page cache; asking the program for its version costs a millisecond.
#[must_use]
pub(crate) fn has_option(program: &Path, name: &str) -> bool {
    let Ok(bytes) = std::fs::read(program) else { return false };
    let mut wanted = name.as_bytes().to_vec();
    wanted.push(0);
    sys::contains(&bytes, &wanted)
}
