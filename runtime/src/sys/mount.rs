//! The mount calls of Linux 5.2 and later, on descriptors.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag};
use nix::sys::stat::Mode;

use super::{Result, SysError};

/// Attributes of a mount, `MOUNT_ATTR_*`.
pub mod attr {
    /// Read-only.
    pub const RDONLY: u64 = 0x1;
    /// Set-user-ID bits have no effect.
    pub const NOSUID: u64 = 0x2;
    /// Devices cannot be opened.
    pub const NODEV: u64 = 0x4;
    /// Nothing can be executed.
    pub const NOEXEC: u64 = 0x8;
    /// Mask of the access-time modes.
    pub const ATIME_MASK: u64 = 0x70;
    /// Access times are not kept.
    pub const NOATIME: u64 = 0x10;
    /// Access times are kept strictly.
    pub const STRICTATIME: u64 = 0x20;
    /// Access times of directories are not kept.
    pub const NODIRATIME: u64 = 0x80;
    /// Symbolic links are not followed.
    pub const NOSYMFOLLOW: u64 = 0x20_0000;
}

fn c_path(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| SysError {
        call: "open",
        args: path.display().to_string(),
        errno: Errno::EINVAL,
    })
}

fn owned(result: libc::c_long) -> std::result::Result<OwnedFd, Errno> {
    let fd = Errno::result(result)? as RawFd;
    // SAFETY: the kernel returned a fresh descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A file system being configured, before it has a mount.
#[derive(Debug)]
pub struct FsContext {
    fd: OwnedFd,
    kind: &'static str,
}

const FSCONFIG_SET_FLAG: u32 = 0;
const FSCONFIG_SET_STRING: u32 = 1;
const FSCONFIG_CMD_CREATE: u32 = 6;

impl FsContext {
    /// Opens a context for the file system type `kind`.
    ///
    /// # Source
    /// `fsopen(2)`, Linux 5.2.
    pub fn open(kind: &'static str) -> Result<FsContext> {
        let name =
            CString::new(kind).map_err(|_| SysError { call: "fsopen", args: kind.into(), errno: Errno::EINVAL })?;
        // SAFETY: name is terminated; FSOPEN_CLOEXEC is 1.
        let result = unsafe { libc::syscall(libc::SYS_fsopen, name.as_ptr(), 1) };
        Ok(FsContext { fd: owned(result).map_err(SysError::of("fsopen", kind))?, kind })
    }

    fn config(&self, command: u32, key: Option<&CStr>, value: Option<&CStr>) -> std::result::Result<(), Errno> {
        let pointer = |s: Option<&CStr>| s.map_or(std::ptr::null(), CStr::as_ptr);
        // SAFETY: both strings are null or terminated and outlive the call.
        let result =
            unsafe { libc::syscall(libc::SYS_fsconfig, self.fd.as_raw_fd(), command, pointer(key), pointer(value), 0) };
        Errno::result(result).map(drop)
    }

    /// Sets an option without a value.
    pub fn flag(&self, key: &str) -> Result<()> {
        let name = c_path(Path::new(key))?;
        self.config(FSCONFIG_SET_FLAG, Some(&name), None)
            .map_err(SysError::of("fsconfig", format!("{}, {key}", self.kind)))
    }

    /// Sets an option with a value of at most 255 bytes.
    pub fn string(&self, key: &str, value: impl AsRef<Path>) -> Result<()> {
        let (name, text) = (c_path(Path::new(key))?, c_path(value.as_ref())?);
        self.config(FSCONFIG_SET_STRING, Some(&name), Some(&text))
            .map_err(SysError::of("fsconfig", format!("{}, {key}={}", self.kind, value.as_ref().display())))
    }

    /// Creates the file system and returns a detached mount of it.
    pub fn mount(self, attributes: u64) -> Result<OwnedFd> {
        self.config(FSCONFIG_CMD_CREATE, None, None).map_err(|errno| SysError {
            call: "fsconfig",
            args: format!("{}, create{}", self.kind, self.log()),
            errno,
        })?;
        // SAFETY: takes integers; FSMOUNT_CLOEXEC is 1.
        let result = unsafe { libc::syscall(libc::SYS_fsmount, self.fd.as_raw_fd(), 1, attributes) };
        owned(result).map_err(SysError::of("fsmount", self.kind))
    }

    /// What the kernel has to say about a failure: the first message of the context's log.
    fn log(&self) -> String {
        let mut buffer = [0; 512];
        match nix::unistd::read(&self.fd, &mut buffer) {
            Ok(n) if n > 2 => format!(": {}", String::from_utf8_lossy(&buffer[2..n]).trim()),
            _ => String::new(),
        }
    }
}

/// Makes a detached copy of the mount at `path` (relative to `dir`), with what is mounted below it if `recursive`.
///
/// # Source
/// `open_tree(2)`, Linux 5.2.
pub fn clone_tree(dir: BorrowedFd<'_>, path: &Path, recursive: bool) -> Result<OwnedFd> {
    const OPEN_TREE_CLONE: u32 = 1;
    let flags = OPEN_TREE_CLONE
        | libc::O_CLOEXEC as u32
        | libc::AT_EMPTY_PATH as u32
        | if recursive { libc::AT_RECURSIVE as u32 } else { 0 };
    let name = c_path(path)?;
    // SAFETY: name is terminated and outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_open_tree, dir.as_raw_fd(), name.as_ptr(), flags) };
    owned(result).map_err(SysError::of("open_tree", path.display()))
}

/// Attaches a detached mount on the file or directory behind `target`.
///
/// # Source
/// `move_mount(2)`, Linux 5.2.
pub fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>, what: impl std::fmt::Display) -> Result<()> {
    const F_EMPTY_PATH: u32 = 0x4;
    const T_EMPTY_PATH: u32 = 0x40;
    // SAFETY: both paths are empty strings, static.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            target.as_raw_fd(),
            c"".as_ptr(),
            F_EMPTY_PATH | T_EMPTY_PATH,
        )
    };
    Errno::result(result).map(drop).map_err(SysError::of("move_mount", what))
}

/// What `mount_setattr` changes.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub struct Attributes {
    /// `MOUNT_ATTR_*` to set.
    pub set: u64,
    /// `MOUNT_ATTR_*` to clear.
    pub clear: u64,
    /// `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE` or 0.
    pub propagation: u64,
    /// Descriptor of a user namespace for an id-mapped mount.
    pub userns_fd: u64,
}

/// Changes a mount's attributes.
///
/// # Source
/// `mount_setattr(2)`, Linux 5.12.
pub fn set_attributes(mount: BorrowedFd<'_>, attributes: Attributes, recursive: bool) -> Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty static string; attributes outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(&attributes),
            std::mem::size_of::<Attributes>(),
        )
    };
    Errno::result(result).map(drop).map_err(SysError::of("mount_setattr", format!("{attributes:x?}")))
}

/// Opens `path` as a process whose root is `root` would see it; symbolic links cannot lead out.
///
/// # Source
/// `openat2(2)` with `RESOLVE_IN_ROOT`, Linux 5.6.
pub fn open_in_root(root: BorrowedFd<'_>, path: &Path, flags: OFlag) -> Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    loop {
        // EAGAIN: something was renamed during the walk and the kernel could not be sure; openat2(2) says to retry.
        match nix::fcntl::openat2(root, path, how) {
            Err(Errno::EAGAIN) => continue,
            other => return other.map_err(SysError::of("openat2", path.display())),
        }
    }
}

/// As [`open_in_root`], creating the file with `mode` when it is missing.
pub fn create_in_root(root: BorrowedFd<'_>, path: &Path, mode: u32) -> Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_CREAT | OFlag::O_WRONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .mode(Mode::from_bits_truncate(mode))
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    nix::fcntl::openat2(root, path, how).map_err(SysError::of("openat2", path.display()))
}

/// Makes the directory behind the current directory the root and hangs the old root under the same place.
///
/// # Source
/// `pivot_root(2)`, "pivot_root(".", ".")".
pub fn pivot_here() -> Result<()> {
    nix::unistd::pivot_root(c".", c".").map_err(SysError::of("pivot_root", "., ."))?;
    nix::mount::umount2(c".", nix::mount::MntFlags::MNT_DETACH).map_err(SysError::of("umount2", "., MNT_DETACH"))
}
