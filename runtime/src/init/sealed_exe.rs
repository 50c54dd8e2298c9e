//! Keeps coracle's own binary out of reach of containers (CVE-2019-5736).
//!
//! Container root *is* the user, who may own the binary. A program that is `#!/proc/self/exe`, or links there, makes
//! the kernel execute what init runs: our binary, whose `/proc/<pid>/exe` another process of the container could then
//! open and write. So init first executes the binary once more through a detached read-only mount of it; what anyone
//! finds under `/proc/*/exe` from then on is that mount. Where the user could not write the binary anyway (a package
//! installed it), the detour is left out; and in a build that is linked dynamically, which is for development, since its
//! linker is not in the image.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;

use super::handshake::{Channel, Report};
use super::steps::InitError;
use crate::sys::SysError;
use crate::sys::mount::{Attributes, attr, clone_tree, set_attributes};

/// `argv[0]` of the second stage: `coracle-exec CHANNEL-FD PATH ARGV…`.
pub const ROLE_NAME: &CStr = c"coracle-exec";

/// Our binary, if the user could write it.
#[derive(Debug, Clone)]
pub struct SealedExe {
    path: PathBuf,
    dev: u64,
    ino: u64,
}

/// A read-only mount of our binary.
#[derive(Debug)]
pub struct SealedFd(OwnedFd);

impl AsFd for SealedFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl SealedExe {
    /// What needs protection; `None` when file permissions do it. Call as the user, before entering a user namespace.
    pub fn of_self() -> Result<Option<SealedExe>, SysError> {
        if cfg!(not(target_feature = "crt-static")) {
            return Ok(None);
        }
        let exe = "/proc/self/exe";
        let stat = nix::sys::stat::stat(exe).map_err(SysError::of("stat", exe))?;
        let writable = nix::unistd::faccessat(
            nix::fcntl::AT_FDCWD,
            exe,
            nix::unistd::AccessFlags::W_OK,
            nix::fcntl::AtFlags::AT_EACCESS,
        )
        // A running program cannot be opened for writing, but the question is about its permissions.
        .is_ok();
        if stat.st_uid != nix::unistd::geteuid().as_raw() && !writable {
            return Ok(None);
        }
        let path = std::fs::read_link(exe).map_err(|_| SysError {
            call: "readlink",
            args: exe.into(),
            errno: Errno::ENOENT,
        })?;
        Ok(Some(SealedExe { path, dev: stat.st_dev, ino: stat.st_ino }))
    }

    /// Makes the read-only mount; in the container's mount namespace, the host's tree still reachable.
    pub fn open(&self) -> Result<SealedFd, SysError> {
        let mount = clone_tree(nix::fcntl::AT_FDCWD, &self.path, false)?;
        let stat = nix::sys::stat::fstat(&mount).map_err(SysError::of("fstat", self.path.display()))?;
        if (stat.st_dev, stat.st_ino) != (self.dev, self.ino) {
            // Replaced while we run, as an upgrade does: the next command uses the new one.
            return Err(SysError { call: "open_tree", args: self.path.display().to_string(), errno: Errno::ESTALE });
        }
        let set = attr::RDONLY | attr::NOSUID | attr::NODEV;
        set_attributes(mount.as_fd(), Attributes { set, ..Attributes::default() }, false)?;
        Ok(SealedFd(mount))
    }
}

/// A descriptor of our binary that can be executed after the host's tree is gone; nobody can write through it.
pub fn own_binary(sealed: Option<&SealedFd>) -> Result<OwnedFd, SysError> {
    match sealed {
        Some(sealed) => {
            sealed.0.try_clone().map_err(|_| SysError { call: "dup", args: "own binary".into(), errno: Errno::EMFILE })
        }
        None => nix::fcntl::open(
            "/proc/self/exe",
            nix::fcntl::OFlag::O_PATH | nix::fcntl::OFlag::O_CLOEXEC,
            nix::sys::stat::Mode::empty(),
        )
        .map_err(SysError::of("open", "/proc/self/exe")),
    }
}

/// The second stage: executes what its arguments say. Returns the exit status of a failure.
pub fn second_stage(args: Vec<std::ffi::CString>) -> i32 {
    let mut args = args.into_iter().skip(1);
    let channel = args.next().and_then(|text| text.to_str().ok()?.parse().ok());
    let Some(channel) = channel.and_then(|fd| crate::sys::process::adopt_fd(fd).ok()) else { return 125 };
    let channel = Channel::adopt(channel);
    let Some(path) = args.next() else { return 125 };
    let argv: Vec<_> = args.collect();
    if crate::sys::process::set_close_on_exec(channel.as_fd(), true).is_err() {
        return 125;
    }
    use std::os::unix::ffi::OsStrExt;
    let env: Vec<_> = std::env::vars_os()
        .filter_map(|(key, value)| {
            let mut pair = key.as_bytes().to_vec();
            pair.push(b'=');
            pair.extend_from_slice(value.as_bytes());
            std::ffi::CString::new(pair).ok()
        })
        .collect();
    // Rust's runtime has set SIGPIPE to be ignored before main, and what is ignored stays so over execve.
    crate::process::signal::reset_for_exec();
    let error: InitError = super::program::failure(&path, crate::sys::process::exec(None, &path, &argv, &env));
    let code = error.code();
    // Nobody listening means that the supervisor is gone, and we go too.
    let _ = channel.report(&Report::Failed { code, message: error.to_string() });
    code
}
