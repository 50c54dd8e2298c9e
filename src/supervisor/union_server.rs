//! The union server: the process that answers for a FUSE mount of layers.
//!
//! ```text
//! mounts (init, supervisor, `coracle mount`) ── /dev/fuse ──▶ forks the server ── requests ⇄ answers ── the kernel
//! ```
//! It opens the layers and the writable directories by descriptor and needs no name from then on. It ends when the mount is
//! gone, which is when the last process that can see it is; a supervisor's server also ends with its supervisor.
//!
//! **Runs in:** a child of the supervisor (or, for `coracle mount`, of that command), forked while that has one thread; then
//! a few threads. User namespace of the containers, its parent's pid namespace, the host's mount namespace or a copy of it:
//! never one that holds the mount which it answers for.

use std::ffi::CStr;
use std::io::{PipeReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use runtime::monitor::event_loop::{Interest, Turn};
use runtime::mount::rootfs::{Connection, Stack, Tree, Writable};
use runtime::process::spawn::{Servant, servant};
use runtime::process::{SysError, pidfd_send_signal, wait};
use runtime::security::capabilities::{self, Capability, CapabilitySet, Sets};
use storage::layer::IdMap;
use storage::layer::index::Index;
use storage::union::{Lower, Options, Owners, Union, Upper, lazy, server};

/// How long a container that was killed may take to be gone. If it takes longer, it waits for an answer of its server,
/// which is ended then.
pub(crate) const UNANSWERED: Duration = Duration::from_secs(1);

/// What process listings call it.
pub(crate) const NAME: &CStr = c"coracle-union";

/// Beside `upper`: what no program in the container could be told.
pub(crate) const LOG: &str = "union.log";

/// How long a server may take to notice that its mount is gone.
const PATIENCE: Duration = Duration::from_secs(2);

/// Recursive copy-up of a renamed directory goes this far; beyond, the caller gets `EXDEV` and copies by itself, as with
/// the kernel's overlay.
const COPY_UP_CAP_BYTES: u64 = 64 << 20;

/// What is to be served.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan<'a> {
    /// The directories.
    pub(crate) stack: &'a Stack,
    /// How ids of the base user namespace, which the mount is in, become those that the layers have.
    pub(crate) ids: &'a IdMap,
    /// The layers, where not all are there.
    pub(crate) arriving: Option<&'a lazy::Places>,
    /// Only id 0 is mapped: owners are recorded beside the files.
    pub(crate) single_id: bool,
    /// The server ends with the process that starts it.
    pub(crate) dies_with_parent: bool,
}

/// A running server. Dropped, it is killed.
#[derive(Debug)]
pub(crate) struct UnionServer {
    pidfd: OwnedFd,
    /// One line if it failed.
    reason: PipeReader,
    /// Where layers arrive: asks whether all that was answered holds.
    confirm: Option<UnixStream>,
    is_over: bool,
}

impl UnionServer {
    /// Forks the server of a connection.
    pub(crate) fn start(plan: Plan<'_>, connection: Connection) -> Result<UnionServer, SysError> {
        let (reason, writer) = std::io::pipe().map_err(|error| SysError {
            call: "pipe2",
            args: "O_CLOEXEC".into(),
            errno: errno_of(&error),
        })?;
        let (ours, theirs) = match plan.arriving.map(|_| UnixStream::pair()).transpose() {
            Ok(pair) => pair.unzip(),
            Err(error) => return Err(SysError { call: "socketpair", args: "AF_UNIX".into(), errno: errno_of(&error) }),
        };
        let mut descriptors = vec![connection.device.as_fd(), writer.as_fd()];
        descriptors.extend(theirs.as_ref().map(AsFd::as_fd));
        let role = Servant { name: NAME, keep: &descriptors, dies_with_parent: plan.dies_with_parent };
        let pidfd = servant(&role, || match serve(plan, &connection, theirs.as_ref()) {
            Ok(()) => 0,
            Err(text) => {
                // A parent that is gone needs no reason.
                let _ = (&writer).write_all(text.as_bytes());
                if plan.arriving.is_some() {
                    await_end(writer.as_fd());
                }
                1
            }
        })?;
        Ok(UnionServer { pidfd, reason, confirm: ours, is_over: false })
    }

    /// Asks whether all that the server has answered holds, now that everything is there.
    pub(crate) fn ask(&self) {
        if let Some(mut confirm) = self.confirm.as_ref() {
            // One that has ended is noticed by its end.
            let _ = confirm.write_all(b"?");
        }
    }

    /// The server's answer, if there is one: that all holds. Otherwise it ends.
    pub(crate) fn is_confirmed(&self) -> bool {
        self.confirm.as_ref().is_none_or(|mut confirm| matches!(confirm.read(&mut [0]), Ok(1)))
    }

    /// Where the answer comes.
    pub(crate) fn confirmation(&self) -> Option<BorrowedFd<'_>> {
        self.confirm.as_ref().map(AsFd::as_fd)
    }

    /// Readable when the server has ended.
    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Why the server has ended, if it has.
    pub(crate) fn failure(&mut self) -> Option<String> {
        self.end().map(|(_, reason)| reason)
    }

    /// Why the server has failed, if it has. One that ends because its mount is gone has not.
    pub(crate) fn crash(&mut self) -> Option<String> {
        self.end().and_then(|(is_failure, reason)| is_failure.then_some(reason))
    }

    /// Whether it failed, and a line about it.
    fn end(&mut self) -> Option<(bool, String)> {
        let exit = wait(self.pidfd.as_fd(), false).ok().flatten()?;
        self.is_over = true;
        let mut text = String::new();
        let _ = self.reason.read_to_string(&mut text);
        Some(match text.is_empty() {
            true => (
                i32::from(exit.code()) != 0,
                format!("the union file system's server ended with status {}", exit.code()),
            ),
            false => (true, format!("union file system: {text}")),
        })
    }

    /// Whether the server is about to end: its descriptors are being closed. Whoever asks the mount instead would wait for
    /// a server that is stopped.
    pub(crate) fn is_ending(&self) -> bool {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let mut fds = [PollFd::new(self.reason.as_fd(), PollFlags::POLLIN)];
        matches!(poll(&mut fds, PollTimeout::ZERO), Ok(ready) if ready > 0)
    }

    /// Readable when the server refuses to go on, and when it ends.
    pub(crate) fn refusing(&self) -> BorrowedFd<'_> {
        self.reason.as_fd()
    }

    /// Why the server refuses to go on, if it does: it answers nothing any more, but does not end before it is told to, so that
    /// nothing in the container sees files vanish.
    pub(crate) fn refusal(&mut self) -> Option<String> {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let mut fds = [PollFd::new(self.reason.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, PollTimeout::ZERO);
        fds.first().and_then(PollFd::revents).filter(|events| events.contains(PollFlags::POLLIN))?;
        let mut text = vec![0; 16 << 10];
        let len = self.reason.read(&mut text).ok().filter(|len| *len > 0)?;
        text.truncate(len);
        Some(format!("union file system: {}", String::from_utf8_lossy(&text)))
    }

    /// Ends the server: nobody waits for its answers any more.
    pub(crate) fn kill(&self) {
        // One that has ended needs no signal.
        let _ = pidfd_send_signal(self.pidfd.as_fd(), libc::SIGKILL);
    }

    /// Waits until the server has ended, or no longer.
    pub(crate) fn wait(&self, patience: Duration) {
        let mut turn = Turn::new();
        turn.watch(self.pidfd.as_fd(), Interest::Read, ());
        // A failure is as good as having waited long enough.
        let _ = turn.wait(Some(Instant::now() + patience));
    }

    /// Waits until the server has noticed that its mount is gone.
    pub(crate) fn stop(mut self) {
        self.wait(PATIENCE);
        self.is_over = matches!(wait(self.pidfd.as_fd(), false), Ok(Some(_)));
    }

    /// Leaves the server to its mount.
    pub(crate) fn detach(mut self) {
        self.is_over = true;
    }
}

impl Drop for UnionServer {
    fn drop(&mut self) {
        if !self.is_over {
            self.kill();
            let _ = wait(self.pidfd.as_fd(), true);
        }
    }
}

/// Keeps the mount while whoever has been told why this server ends kills what uses it; not for ever.
fn await_end(told: BorrowedFd<'_>) {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    // An error on this end: nobody has the other one any more.
    let _ = poll(&mut [PollFd::new(told, PollFlags::empty())], PollTimeout::from(10_000_u16));
}

/// The server's life.
fn serve(plan: Plan<'_>, connection: &Connection, confirm: Option<&UnixStream>) -> Result<(), String> {
    let max_open_files = raise_limit();
    if !plan.dies_with_parent {
        let_go_of_mounts(&plan.stack.base);
    }
    // The same directory as `upper`; without one (a disk that is full) the container runs all the same.
    let directory = plan.stack.writable.as_ref().and_then(|writable| writable.upper.parent());
    let log = directory.and_then(|dir| server::Log::open(&plan.stack.base.join(dir).join(LOG)).ok());
    if let Some(places) = plan.arriving.filter(|_| connection.tree == Tree::Lowers) {
        drop_capabilities()?;
        let device = connection.device.try_clone().map_err(|error| format!("dup(/dev/fuse): {error}"))?;
        let confirm = confirm.and_then(|confirm| confirm.as_fd().try_clone_to_owned().ok());
        return lazy::serve(places.clone(), device, confirm, log).map_err(|error| error.to_string());
    }
    let options = options(plan, connection.tree, max_open_files)?;
    drop_capabilities()?;
    // Where the kernel has no Landlock, `coracle doctor` says so.
    storage::union::confine(&options);
    let union = Union::open(options).map_err(|error| error.to_string())?;
    let device = connection.device.try_clone().map_err(|error| format!("dup(/dev/fuse): {error}"))?;
    let settings = server::Settings {
        posix_acl: !plan.single_id,
        // Where nothing is written, nothing is to be made durable.
        volatile: connection.tree == Tree::Lowers || plan.stack.writable.as_ref().is_some_and(|it| it.volatile),
        log,
        ..server::Settings::default()
    };
    server::serve(union, device, settings).map_err(|error| error.to_string())
}

/// Keeps what it takes to make files as a container's root and its users do: any owner, any mode, any name; nothing of
/// mounts, networks, processes. (A device file other than a whiteout cannot be made in a user namespace at all.)
fn drop_capabilities() -> Result<(), String> {
    let kept = [
        Capability::Chown,
        Capability::DacOverride,
        Capability::Fowner,
        Capability::Fsetid,
        // File capabilities, which are bound to this user namespace.
        Capability::Setfcap,
    ];
    let kept = kept.into_iter().fold(CapabilitySet::EMPTY, CapabilitySet::with);
    let none = CapabilitySet::EMPTY;
    let sets = Sets { bounding: kept, effective: kept, permitted: kept, inheritable: none, ambient: none };
    capabilities::set_sets(&sets).map_err(|error| error.to_string())
}

/// Takes what is mounted of containers and images out of this process's own mount namespace, a copy of one that may have had
/// some: whoever answers for a mount must not hold it, nor hold another server's.
fn let_go_of_mounts(base: &Path) {
    let base = base.canonicalize().unwrap_or_else(|_| base.to_owned());
    let places = runtime::mount::table::mount_points().unwrap_or_default();
    for place in places.iter().rev().filter(|place| place.starts_with(&base) && place.ends_with("merged")) {
        // With the mount below it, it may be gone already.
        let _ = runtime::mount::rootfs::unmount(place);
    }
}

/// As many descriptors as this user may have: what is open makes the difference between one call and four.
fn raise_limit() -> usize {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 64 };
    // More would only make the kernel's table of them larger.
    let wanted = hard.min(65_536).max(soft);
    let limit = if setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).is_ok() { wanted } else { soft };
    usize::try_from(limit).unwrap_or(usize::MAX) / 2
}

fn options(plan: Plan<'_>, tree: Tree, max_open_files: usize) -> Result<Options, String> {
    let stack = plan.stack;
    let base = open(nix::fcntl::AT_FDCWD, &stack.base)?;
    let lower = |path: &std::path::PathBuf| {
        // An unpacked layer without an index that can be read is one like any other directory.
        let index = path.parent().and_then(|layer| Index::open(&stack.base.join(layer).join("index")).ok());
        Ok(Lower { dir: open(base.as_fd(), path)?, index })
    };
    let writable = stack.writable.as_ref().filter(|_| tree == Tree::Whole);
    let upper = writable.map(|Writable { upper, work, .. }| {
        Ok::<_, String>(Upper { upper: open(base.as_fd(), upper)?, work: open(base.as_fd(), work)? })
    });
    Ok(Options {
        lowers: stack.lowers.iter().map(lower).collect::<Result<_, String>>()?,
        upper: upper.transpose()?,
        owners: if plan.single_id { Owners::Single } else { Owners::Mapped(IdMap::default()) },
        lower_ids: plan.ids.clone(),
        volatile: writable.is_some_and(|it| it.volatile),
        static_nlink: false,
        max_open_files,
        copy_up_cap_bytes: COPY_UP_CAP_BYTES,
    })
}

fn open(base: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, String> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    nix::fcntl::openat(base, path, flags, Mode::empty())
        .map_err(|errno| format!("open {}: {}", path.display(), errno.desc().to_lowercase()))
}

fn errno_of(error: &std::io::Error) -> nix::errno::Errno {
    nix::errno::Errno::from_raw(error.raw_os_error().unwrap_or(nix::errno::Errno::EIO as i32))
}
