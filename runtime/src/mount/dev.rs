//! The container's `/dev`: a tmpfs that is filled before anything of the image can see it.
//!
//! **Runs in:** container init. Device nodes cannot be made in a user namespace; the host's are bound instead.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};

use super::MountError;
use super::target::make_directories;
use crate::sys::SysError;
use crate::sys::mount::{attach, clone_tree, open_in_root};

/// The devices every container has.
pub const DEFAULT: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

const LINKS: [(&str, &str); 6] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("/proc/kcore", "core"),
    ("pts/ptmx", "ptmx"),
];

/// Makes mount points, links and empty files in a `/dev` that is not yet attached.
pub fn fill(dev: BorrowedFd<'_>) -> Result<(), SysError> {
    for dir in ["pts", "shm", "mqueue"] {
        nix::sys::stat::mkdirat(dev, dir, Mode::from_bits_truncate(0o755)).map_err(SysError::of("mkdirat", dir))?;
    }
    for (target, name) in LINKS {
        nix::unistd::symlinkat(target, dev, name).map_err(SysError::of("symlinkat", name))?;
    }
    for name in DEFAULT {
        touch(dev, Path::new(name))?;
    }
    Ok(())
}

fn touch(dir: BorrowedFd<'_>, name: &Path) -> Result<(), SysError> {
    let flags = OFlag::O_CREAT | OFlag::O_WRONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    nix::fcntl::openat(dir, name, flags, Mode::from_bits_truncate(0o666))
        .map(drop)
        .map_err(SysError::of("openat", name.display()))
}

/// Binds the host's default devices over the files that [`fill`] made in the attached `/dev`.
pub fn bind_defaults(dev: BorrowedFd<'_>) -> Result<(), MountError> {
    for name in DEFAULT {
        let device = host_device(Path::new("/dev").join(name).as_path())?;
        let target = open_in_root(dev, Path::new(name), OFlag::O_PATH | OFlag::O_NOFOLLOW)?;
        attach(device.as_fd(), target.as_fd(), name)?;
    }
    Ok(())
}

/// Binds one more device of the host at `path` of the container.
pub fn bind(root: BorrowedFd<'_>, host: &Path, path: &Path) -> Result<(), MountError> {
    let fail = |source| MountError::Mount {
        source_name: host.display().to_string(),
        target: path.display().to_string(),
        source,
    };
    let device = host_device(host).map_err(fail)?;
    let target = super::target::open_or_make(root, path, super::target::Kind::File).map_err(fail)?;
    attach(device.as_fd(), target.as_fd(), path.display()).map_err(fail)
}

/// Adds what every container has to a `/dev` that the bundle does not mount anything on.
pub fn add_defaults(root: BorrowedFd<'_>) -> Result<(), MountError> {
    for name in DEFAULT {
        let path = Path::new("/dev").join(name);
        bind(root, &path, &path)?;
    }
    let dev = open_in_root(root, Path::new("/dev"), OFlag::O_PATH | OFlag::O_DIRECTORY)?;
    for (target, name) in LINKS {
        match nix::unistd::symlinkat(target, dev.as_fd(), name) {
            // The root file system's own.
            Err(Errno::EEXIST | Errno::EROFS) => {}
            made => made.map_err(SysError::of("symlinkat", name))?,
        }
    }
    Ok(())
}

/// Gives the container a device that a bundle describes: a FIFO is made, a device is the host's of the same name, which
/// must be that device.
pub fn make(root: BorrowedFd<'_>, device: &LinuxDevice) -> Result<(), MountError> {
    let path = device.path();
    let failed = |call: &'static str, errno| {
        let source = SysError { call, args: path.display().to_string(), errno };
        MountError::Mount { source_name: path.display().to_string(), target: path.display().to_string(), source }
    };
    if device.typ() == LinuxDeviceType::P {
        let parent = make_directories(root, path.parent().unwrap_or(Path::new("/")), 0o755)?;
        let mode = Mode::from_bits_truncate(device.file_mode().unwrap_or(0o666));
        let name = path.file_name().unwrap_or_default();
        return nix::sys::stat::mknodat(&parent, name, nix::sys::stat::SFlag::S_IFIFO, mode, 0)
            .map_err(|errno| failed("mknodat", errno));
    }
    let stat = nix::sys::stat::stat(path).map_err(|errno| failed("stat", errno))?;
    let (major, minor) = (u64::try_from(device.major()), u64::try_from(device.minor()));
    let is_block = stat.st_mode & libc::S_IFMT == libc::S_IFBLK;
    let is_same = (nix::sys::stat::major(stat.st_rdev), nix::sys::stat::minor(stat.st_rdev))
        == (major.unwrap_or(u64::MAX), minor.unwrap_or(u64::MAX));
    if !is_same || is_block != (device.typ() == LinuxDeviceType::B) {
        // Nobody but root of the host can make another.
        return Err(failed("mknod", Errno::EPERM));
    }
    bind(root, path, path)
}

/// A detached bind mount of a device of the host.
pub fn host_device(path: &Path) -> Result<OwnedFd, SysError> {
    let metadata = nix::sys::stat::stat(path).map_err(SysError::of("stat", path.display()))?;
    let kind = metadata.st_mode & libc::S_IFMT;
    if kind != libc::S_IFCHR && kind != libc::S_IFBLK {
        return Err(SysError { call: "stat", args: path.display().to_string(), errno: Errno::ENODEV });
    }
    clone_tree(nix::fcntl::AT_FDCWD, path, false)
}
