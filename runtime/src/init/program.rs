//! The container's program: found in its `PATH`, executed.

use std::borrow::Cow;
use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::AccessFlags;
use oci_spec::runtime::Process;

use super::handshake::Channel;
use super::sealed_exe::SealedFd;
use super::steps::InitError;

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program ready to be executed.
#[derive(Debug)]
pub struct Program {
    path: CString,
    args: Vec<CString>,
    env: Vec<CString>,
}

impl Program {
    /// Finds the program of `process` as the container's user sees it: call after the ids are taken.
    pub fn find(process: &Process) -> Result<Program, InitError> {
        let empty = Vec::new();
        let args = process.args().as_ref().unwrap_or(&empty);
        let env = process.env().as_ref().unwrap_or(&empty);
        let name = args.first().ok_or(InitError::NoCommand)?;
        let path_list = env.iter().find_map(|pair| pair.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
        let path = find_in(path_list, name)?;
        let c = |text: &str| CString::new(text).map_err(|_| InitError::NulByte);
        Ok(Program {
            path: CString::new(path.into_os_string().as_bytes()).map_err(|_| InitError::NulByte)?,
            args: args.iter().map(|arg| c(arg)).collect::<Result<_, _>>()?,
            env: env.iter().map(|pair| c(&with_own_pid(pair))).collect::<Result<_, _>>()?,
        })
    }

    /// Becomes the program; through a sealed copy of ours where one is needed. Returns only on failure.
    pub fn exec(&self, sealed: Option<&SealedFd>, channel: &Channel) -> InitError {
        let Some(sealed) = sealed else {
            return failure(&self.path, crate::sys::process::exec(None, &self.path, &self.args, &self.env));
        };
        let number = channel.as_fd().as_raw_fd().to_string();
        let mut args = vec![super::sealed_exe::ROLE_NAME.to_owned()];
        args.extend(CString::new(number));
        args.push(self.path.clone());
        args.extend(self.args.iter().cloned());
        if let Err(errno) = crate::sys::process::set_close_on_exec(channel.as_fd(), false) {
            return failure(&self.path, errno);
        }
        let errno = crate::sys::process::exec(Some(sealed.as_fd()), c"", &args, &self.env);
        failure(c"/proc/self/exe", errno)
    }
}

/// Sockets that were passed on are for the process that is named with them. Nobody but itself knows its number.
///
/// # Source
/// `sd_listen_fds(3)`.
fn with_own_pid(pair: &str) -> Cow<'_, str> {
    match pair {
        "LISTEN_PID=" => format!("LISTEN_PID={}", nix::unistd::getpid()).into(),
        pair => pair.into(),
    }
}

/// The error for a program that did not start.
pub fn failure(path: &std::ffi::CStr, errno: Errno) -> InitError {
    InitError::Exec { path: path.to_string_lossy().into_owned(), errno }
}

/// What `execvp(3)` would run, with its two distinct failures.
fn find_in(path_list: &str, name: &str) -> Result<PathBuf, InitError> {
    let not_found = || InitError::NotFound { name: name.to_owned() };
    if name.is_empty() {
        return Err(not_found());
    }
    if name.contains('/') {
        let path = Path::new(name);
        return match check(path) {
            Ok(()) => Ok(path.to_owned()),
            Err(errno) => Err(InitError::Exec { path: name.to_owned(), errno }),
        };
    }
    let mut refused = None;
    for dir in std::env::split_paths(OsStr::new(path_list)) {
        let dir = if dir.as_os_str().is_empty() { PathBuf::from(".") } else { dir };
        let path = dir.join(name);
        match check(&path) {
            Ok(()) => return Ok(path),
            Err(Errno::EACCES | Errno::EISDIR) => refused = refused.or(Some(path)),
            Err(_) => {}
        }
    }
    match refused {
        Some(path) => Err(InitError::Exec { path: path.display().to_string(), errno: Errno::EACCES }),
        None => Err(not_found()),
    }
}

fn check(path: &Path) -> Result<(), Errno> {
    let stat = nix::sys::stat::stat(path)?;
    match stat.st_mode & libc::S_IFMT {
        libc::S_IFREG => {}
        libc::S_IFDIR => return Err(Errno::EISDIR),
        _ => return Err(Errno::EACCES),
    }
    // Root passes access(2) for files without any execute bit only where execve would refuse them too.
    nix::unistd::faccessat(nix::fcntl::AT_FDCWD, path, AccessFlags::X_OK, nix::fcntl::AtFlags::AT_EACCESS)
}
