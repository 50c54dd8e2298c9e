//! What leads out of the user's namespace: started by the leader, and started again when it ends.

use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, pipe2};

use crate::driver::{Arg, Attachment, Driver, DriverError, Netns, Plan, Started};
use crate::sys;

/// How long the one of a leader that was killed may take to end: slirp4netns sees a pipe close, pasta looks once a second
/// for its namespace.
const LAST_MOMENT_MS: u16 = 3000;

/// One that ends sooner is not started again at once, but after as long.
const STEADY: Duration = Duration::from_secs(1);

/// The way out of a namespace.
#[derive(Default)]
pub struct WayOut {
    planned: Option<(Box<dyn Driver>, Plan)>,
    /// A directory of ours.
    scratch: PathBuf,
    unknown: Attachment,
    running: Option<(Started, Option<Visitor>)>,
    /// It has not said yet whether it leads anywhere.
    is_pending: bool,
    /// Why the one that somebody may wait for has ended.
    failure: Option<DriverError>,
    since: Option<Instant>,
}

impl std::fmt::Debug for WayOut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WayOut").field("running", &self.running).finish_non_exhaustive()
    }
}

impl WayOut {
    /// One that is to be started like this. The default is none.
    #[must_use]
    pub fn new(driver: Box<dyn Driver>, plan: Plan, scratch: PathBuf) -> Self {
        Self { planned: Some((driver, plan)), scratch, ..Self::default() }
    }

    /// What the namespace must be set to before.
    #[must_use]
    pub fn sysctls(&self) -> &'static [(&'static str, &'static str)] {
        self.planned.as_ref().map_or(&[], |(_, plan)| plan.sysctls)
    }

    /// What is known of it.
    pub(super) fn attachment(&self) -> &Attachment {
        match (&self.running, &self.planned) {
            (Some((started, _)), _) => started.attachment(),
            (None, Some((_, plan))) => &plan.attachment,
            (None, None) => &self.unknown,
        }
    }

    /// Its process, readable when it has ended.
    pub(super) fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.running.as_ref().map(|(started, _)| started.pidfd())
    }

    /// Starts it in this namespace: [`WayOut::settle`] waits for it. `earlier` is one that is about to end, whose device is
    /// in the way.
    ///
    /// # Errors
    /// [`DriverError`].
    pub(super) fn start(&mut self, netns: BorrowedFd<'_>, earlier: Option<BorrowedFd<'_>>) -> Result<(), DriverError> {
        let Some((driver, plan)) = &self.planned else { return Ok(()) };
        self.since = Some(Instant::now());
        if let Some(earlier) = earlier {
            let mut fds = [PollFd::new(earlier, PollFlags::POLLIN)];
            let _ = poll(&mut fds, PollTimeout::from(LAST_MOMENT_MS));
        }
        // A helper that finds the namespace by a process needs one that stays there.
        let visitor = match plan.args.contains(&Arg::NetnsPath) {
            true => Some(Visitor::new(netns).map_err(|source| DriverError::System {
                driver: driver.name(),
                what: "enter the namespace",
                source,
            })?),
            false => None,
        };
        let pid = visitor.as_ref().map_or(0, |visitor| visitor.host_pid);
        let started = driver.start(plan.clone(), Netns { fd: netns, pid, scratch: &self.scratch })?;
        // The packet filter needs the name of its device.
        let has_name = started.attachment().interface.is_some();
        self.running = Some((started, visitor));
        self.is_pending = true;
        self.failure = None;
        if has_name { Ok(()) } else { self.settle() }
    }

    /// Waits until it leads out, if it was started and has not said so.
    ///
    /// # Errors
    /// [`DriverError`]: it does not, and has ended.
    pub(super) fn settle(&mut self) -> Result<(), DriverError> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        let Some((started, _)) = self.running.as_mut().filter(|_| self.is_pending) else { return Ok(()) };
        let ready = started.wait_ready().and_then(|()| match started.attachment().interface {
            Some(_) => Ok(()),
            None => started.discover().map(drop),
        });
        self.is_pending = false;
        if ready.is_err() {
            self.ended();
        }
        ready
    }

    /// It has ended.
    pub(super) fn ended(&mut self) {
        if let Some((mut started, _visitor)) = self.running.take() {
            if std::mem::take(&mut self.is_pending) {
                self.failure = started.on_ready().err();
            }
            started.stop();
        }
    }

    /// When one that has ended may be started again.
    pub(super) fn due(&self) -> Option<Instant> {
        let since = self.since.filter(|_| self.running.is_none())?;
        let now = Instant::now();
        Some(if now.duration_since(since) < STEADY { since + STEADY } else { now })
    }
}

/// A process of ours that stays in a namespace until it is let go, or we end.
#[derive(Debug)]
struct Visitor {
    host_pid: i32,
    pid: Pid,
    /// Closed, it ends the process.
    hold: Option<OwnedFd>,
}

impl Visitor {
    fn new(netns: BorrowedFd<'_>) -> std::io::Result<Self> {
        let (held, hold) = pipe2(OFlag::O_CLOEXEC)?;
        let (told, tell) = pipe2(OFlag::O_CLOEXEC)?;
        match sys::fork()? {
            sys::Fork::Child => {
                drop((hold, told));
                let joined = crate::netlink::join(netns);
                // Nothing else of the leader's is to last as long.
                let mut kept = [held.as_raw_fd(), tell.as_raw_fd()];
                crate::process::close_all_but(&mut kept);
                let is_there = joined.is_ok() && nix::unistd::write(&tell, b"j").is_ok();
                if is_there {
                    let _ = nix::unistd::read(&held, &mut [0]);
                }
                sys::exit_now(i32::from(!is_there))
            }
            sys::Fork::Parent(pid) => {
                drop((held, tell));
                let visitor = Self { host_pid: host_pid(pid)?, pid, hold: Some(hold) };
                match nix::unistd::read(&told, &mut [0]) {
                    Ok(1) => Ok(visitor),
                    _ => Err(Errno::EPERM.into()),
                }
            }
        }
    }
}

impl Drop for Visitor {
    fn drop(&mut self) {
        drop(self.hold.take());
        let _ = waitpid(self.pid, None);
    }
}

/// The number that a child has in the `/proc` that is mounted here, which may be another pid namespace's.
fn host_pid(pid: Pid) -> std::io::Result<i32> {
    let pidfd = File::from(sys::pidfd_open(pid)?);
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_fd().as_raw_fd()))?;
    let number = text.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok());
    number.ok_or_else(|| Errno::ESRCH.into())
}
