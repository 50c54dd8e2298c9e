//! The container's cgroup, where one can be had; version 2 only.
//!
//! ```text
//! place: where ─▶ manager: a scope, if one has to be asked for ─▶ Cgroup: made ─▶ resources: its limits
//!
//! NAME.scope or NAME.service    delegated to us
//!   supervisor/                 whoever was in it: a cgroup with processes hands no controllers on
//!   coracle-ID/                 the container
//! ```
//! Where there is none a container runs in its starter's, and nothing here has an effect.

/// Where one can be made.
pub mod place;

/// What the user's service manager is asked for.
pub mod manager;

/// D-Bus.
mod bus;

/// Limits, as its files have them.
pub mod resources;

/// Limits, as the service manager has them.
mod properties;

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::stat::Mode;

/// A cgroup of our own making; v2 only.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    /// For `CLONE_INTO_CGROUP`.
    pub fd: OwnedFd,
}

/// Where version 2 is mounted: alone, or beside version 1.
const MOUNTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

impl Cgroup {
    /// Makes the cgroup `name` below one that is delegated to the user.
    ///
    /// # Errors
    /// It is not, or it is full.
    pub fn create_in(parent: &Path, name: &str) -> std::io::Result<Cgroup> {
        let path = parent.join(name);
        match fs::create_dir(&path) {
            // Of an earlier run, whose supervisor was killed. Nobody else has this name.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                let _ = fs::remove_dir(&path);
                fs::create_dir(&path)?;
            }
            made => made?,
        }
        let fd = open_directory(&path).ok_or(std::io::ErrorKind::NotFound)?;
        Ok(Cgroup { path, fd })
    }

    /// Makes the cgroup `name` where [`place::Place::find`] allows one without asking anybody.
    pub fn create(name: &str) -> Option<Cgroup> {
        match place::Place::find() {
            place::Place::Delegated(parent) => Cgroup::create_in(&parent, name).ok(),
            _ => None,
        }
    }

    /// Makes the cgroup `path` of the hierarchy, or if it is relative below the one this process is in, with what is missing
    /// on the way.
    ///
    /// # Errors
    /// There is no version 2, or the user may not make it.
    pub fn create_at(path: &Path) -> std::io::Result<Cgroup> {
        let mount = mount().ok_or(std::io::ErrorKind::Unsupported)?;
        let own = cgroup_of("self").ok_or(std::io::ErrorKind::Unsupported)?;
        let base = if path.is_absolute() { mount } else { &own };
        let inside = path.components().filter(|one| matches!(one, std::path::Component::Normal(_)));
        let path = base.join(inside.collect::<PathBuf>());
        let missing = path.ancestors().take_while(|one| !one.exists()).map(Path::to_owned).collect::<Vec<_>>();
        missing.iter().rev().try_for_each(fs::create_dir)?;
        // Processes may be moved only where the user may write the common ancestor's list as well.
        let common = path.ancestors().find(|ancestor| own.starts_with(ancestor)).unwrap_or(base);
        let may = |cgroup: &Path| nix::unistd::access(&cgroup.join("cgroup.procs"), nix::unistd::AccessFlags::W_OK);
        let checked = may(common).and_then(|()| may(&path)).map_err(std::io::Error::from);
        match checked.and_then(|()| open_directory(&path).ok_or(std::io::ErrorKind::NotFound.into())) {
            Ok(fd) => Ok(Cgroup { path, fd }),
            Err(error) => {
                missing.iter().for_each(|made| drop(fs::remove_dir(made)));
                Err(error)
            }
        }
    }

    /// One that was made before.
    ///
    /// # Errors
    /// It is gone.
    pub fn existing(path: PathBuf) -> std::io::Result<Cgroup> {
        let fd = open_directory(&path).ok_or(std::io::ErrorKind::NotFound)?;
        Ok(Cgroup { path, fd })
    }

    /// The processes in it and in those below it, as the `/proc` that the caller sees counts.
    ///
    /// # Errors
    /// It is gone.
    pub fn processes(&self) -> std::io::Result<Vec<i32>> {
        let mut all = Vec::new();
        let mut directories = vec![self.path.clone()];
        while let Some(directory) = directories.pop() {
            let text = fs::read_to_string(directory.join("cgroup.procs"))?;
            all.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
            let below = fs::read_dir(&directory)?.flatten();
            directories
                .extend(below.filter(|one| one.file_type().is_ok_and(|kind| kind.is_dir())).map(|one| one.path()));
        }
        all.sort_unstable();
        Ok(all)
    }

    /// Whether its processes stand still.
    pub fn is_frozen(&self) -> bool {
        fs::read_to_string(self.path.join("cgroup.freeze")).is_ok_and(|text| text.trim() == "1")
    }

    /// What changes, as [`crate::monitor::event_loop::Interest`] has it, when [`oom_kills`] of its text may have grown.
    pub fn memory_events(&self) -> Option<fs::File> {
        fs::File::open(self.path.join("memory.events")).ok()
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the cgroup of a process is; version 2 only.
    pub fn of_process(pid: i32) -> Option<PathBuf> {
        cgroup_of(&pid.to_string())
    }

    /// Whether this process may move others from its cgroup to that one.
    ///
    /// # Source
    /// Linux `Documentation/admin-guide/cgroup-v2.rst`, "Delegation Containment".
    pub fn may_enter(path: &Path) -> bool {
        let Some(own) = cgroup_of("self") else { return false };
        let common = path.ancestors().find(|ancestor| own.starts_with(ancestor));
        common.is_some_and(|common| {
            nix::unistd::access(&common.join("cgroup.procs"), nix::unistd::AccessFlags::W_OK).is_ok()
        })
    }

    /// Opens an existing one.
    pub fn open(path: &Path) -> Option<OwnedFd> {
        open_directory(path)
    }

    /// Kills every process in it.
    ///
    /// # Source
    /// `cgroup.kill`, Linux 5.14.
    pub fn kill(&self) -> std::io::Result<()> {
        fs::write(self.path.join("cgroup.kill"), "1")
    }

    /// Stops every process in it and waits until they stand.
    ///
    /// # Source
    /// `cgroup.freeze`, Linux 5.2.
    pub fn freeze(&self) -> std::io::Result<()> {
        freeze(&self.path)
    }

    /// Lets them go on.
    pub fn thaw(&self) -> std::io::Result<()> {
        thaw(&self.path)
    }

    /// Waits until the last process has left it, but not for long.
    ///
    /// # Errors
    /// It is gone.
    pub fn wait_empty(&self) -> std::io::Result<()> {
        wait_for(&self.path, "populated 0")
    }

    /// Removes it; it must be empty.
    pub fn remove(&self) -> std::io::Result<()> {
        fs::remove_dir(&self.path)
    }
}

/// A cgroup whose processes stand still until this is dropped.
#[derive(Debug)]
pub struct Frozen(PathBuf);

impl Frozen {
    /// Stops every process of the cgroup and waits until they stand.
    ///
    /// # Source
    /// `cgroup.freeze`, Linux 5.2.
    pub fn new(cgroup: &Path) -> std::io::Result<Frozen> {
        freeze(cgroup)?;
        Ok(Frozen(cgroup.to_owned()))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = thaw(&self.0);
    }
}

/// Stops every process of a cgroup and waits until they stand.
fn freeze(cgroup: &Path) -> std::io::Result<()> {
    fs::write(cgroup.join("cgroup.freeze"), "1")?;
    // A process that waits for a device cannot be stopped: go on without it after a while.
    wait_for(cgroup, "frozen 1")
}

/// Waits until `cgroup.events` has this line, but not for long.
fn wait_for(cgroup: &Path, line: &str) -> std::io::Result<()> {
    let events = cgroup.join("cgroup.events");
    for _ in 0..50 {
        let file = fs::File::open(&events)?;
        if std::io::read_to_string(&file)?.lines().any(|other| other == line) {
            break;
        }
        let mut changed = [PollFd::new(file.as_fd(), PollFlags::POLLPRI)];
        nix::poll::poll(&mut changed, PollTimeout::from(100_u8))?;
    }
    Ok(())
}

fn thaw(cgroup: &Path) -> std::io::Result<()> {
    fs::write(cgroup.join("cgroup.freeze"), "0")
}

fn open_directory(path: &Path) -> Option<OwnedFd> {
    nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).ok()
}

fn cgroup_of(process: &str) -> Option<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{process}/cgroup")).ok()?;
    let own = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(mount()?.join(own))
}

/// How often the kernel has killed a process for want of memory, from the text of `memory.events`.
pub fn oom_kills(memory_events: &str) -> Option<u64> {
    memory_events.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

/// Where version 2 is mounted.
pub fn mount() -> Option<&'static Path> {
    MOUNTS.into_iter().map(Path::new).find(|mount| mount.join("cgroup.procs").exists())
}

/// Has a cgroup hand these controllers on to those in it. A cgroup with processes cannot: with `may_clear` they move into
/// one of their own, below it.
///
/// Gives those that it does not have.
///
/// # Errors
/// `EBUSY` if there are processes that may not be moved.
pub fn hand_on(parent: &Path, controllers: &BTreeSet<&str>, may_clear: bool) -> std::io::Result<BTreeSet<String>> {
    let (there, on) = (place::controllers(parent), enabled(parent));
    let missing = controllers.iter().filter(|one| !there.contains(**one)).map(|one| (*one).to_owned()).collect();
    let wanted: Vec<&str> =
        controllers.iter().filter(|one| there.contains(**one) && !on.contains(**one)).copied().collect();
    if wanted.is_empty() {
        return Ok(missing);
    }
    // Controllers that threads can be divided by are turned on beside processes without an error, and then no cgroup
    // below takes a process any more.
    if !fs::read_to_string(parent.join("cgroup.procs"))?.is_empty() {
        if !may_clear {
            return Err(std::io::Error::from_raw_os_error(libc::EBUSY));
        }
        clear(parent)?;
    }
    let text: String = wanted.iter().map(|one| format!("+{one} ")).collect();
    fs::write(parent.join("cgroup.subtree_control"), text.trim_end())?;
    Ok(missing)
}

fn enabled(parent: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(parent.join("cgroup.subtree_control")).unwrap_or_default();
    text.split_ascii_whitespace().map(str::to_owned).collect()
}

/// Where processes go that stand in the way of their cgroup's controllers.
pub const ASIDE: &str = "supervisor";

/// Moves every process of a cgroup into one below it.
fn clear(cgroup: &Path) -> std::io::Result<()> {
    let aside = cgroup.join(ASIDE);
    match fs::create_dir(&aside) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    // Those that are born meanwhile are found by another look.
    for _ in 0..100 {
        let text = fs::read_to_string(cgroup.join("cgroup.procs"))?;
        let mut moved = false;
        for pid in text.lines() {
            match fs::write(aside.join("cgroup.procs"), pid) {
                // It has ended.
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                done => done?,
            }
            moved = true;
        }
        if !moved {
            return Ok(());
        }
    }
    Err(std::io::ErrorKind::ResourceBusy.into())
}
