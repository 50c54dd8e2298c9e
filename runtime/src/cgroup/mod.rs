//! The container's cgroup, where one is writable.
//!
//! Without a delegated cgroup a container runs in its starter's, and nothing here has an effect.

pub mod resources;

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
    /// Makes the cgroup `name` beside the one this process is in; `None` where that is not allowed.
    ///
    /// # Source
    /// Linux `Documentation/admin-guide/cgroup-v2.rst`, "Delegation".
    pub fn create(name: &str) -> Option<Cgroup> {
        let own = cgroup_of("self")?;
        // A cgroup with processes cannot hand controllers to children, so a sibling is better where it is allowed.
        [own.parent(), Some(&own)].into_iter().flatten().find_map(|parent| {
            let path = parent.join(name);
            fs::create_dir(&path).ok()?;
            let cgroup = open_directory(&path).map(|fd| Cgroup { path: path.clone(), fd });
            // Processes may be moved only where the user may write the common ancestor's list as well.
            let allowed = nix::unistd::access(&path.join("cgroup.procs"), nix::unistd::AccessFlags::W_OK).is_ok()
                && nix::unistd::access(&parent.join("cgroup.procs"), nix::unistd::AccessFlags::W_OK).is_ok();
            if !allowed {
                let _ = fs::remove_dir(&path);
                return None;
            }
            cgroup
        })
    }

    /// Makes the cgroup `path` of the hierarchy, or if it is relative below the one this process is in, with what is missing
    /// on the way.
    ///
    /// # Errors
    /// There is no version 2, or the user may not make it.
    pub fn create_at(path: &Path) -> std::io::Result<Cgroup> {
        let mount = MOUNTS.iter().find(|mount| Path::new(mount).join("cgroup.procs").exists());
        let mount = mount.ok_or(std::io::ErrorKind::Unsupported)?;
        let own = cgroup_of("self").ok_or(std::io::ErrorKind::Unsupported)?;
        let base = if path.is_absolute() { Path::new(mount) } else { &own };
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

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the cgroup of a process is; version 2 only.
    pub fn of_process(pid: i32) -> Option<PathBuf> {
        cgroup_of(&pid.to_string())
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
    let mount = MOUNTS.iter().find(|mount| Path::new(mount).join("cgroup.procs").exists())?;
    Some(Path::new(mount).join(own))
}
