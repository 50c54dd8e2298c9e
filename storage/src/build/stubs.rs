//! Places that were made in a step's tree so that something could be mounted there, and are nothing without the mount.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, SFlag, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::BuildError;

/// A mount's target that was not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stub {
    /// The uppermost directory that was missing, or the target itself.
    pub first: PathBuf,
    /// The target.
    pub target: PathBuf,
}

/// Takes away empty files and directories from a target up to the first that was missing.
///
/// **Runs in:** a process in the user namespace.
///
/// # Errors
/// [`BuildError::Call`].
pub fn remove(diff: &Path, stubs: &[Stub]) -> Result<(), BuildError> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let failed = |call, path: &Path| {
        let path = path.as_os_str().as_bytes().to_vec();
        move |source| BuildError::call(call, &path, source)
    };
    let root = nix::fcntl::open(diff, flags, Mode::empty()).map_err(failed("open", diff))?;
    // The longest first: one may lie in another.
    let mut paths: Vec<&Path> = stubs
        .iter()
        .flat_map(|stub| stub.target.ancestors().take_while(|path| path.starts_with(&stub.first)))
        .collect();
    paths.sort_unstable_by_key(|path| std::cmp::Reverse(path.components().count()));
    for path in paths {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { continue };
        let Ok(name) = CString::new(name.as_bytes()) else { continue };
        let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
        let how = OpenHow::new().flags(flags).resolve(resolve);
        let relative = parent.strip_prefix("/").unwrap_or(parent);
        let relative = if relative.as_os_str().is_empty() { Path::new(".") } else { relative };
        let dir = match openat2(&root, relative, how) {
            Ok(dir) => dir,
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => continue,
            Err(errno) => return Err(failed("open", parent)(errno)),
        };
        let removed = match fstatat(&dir, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) if stat.st_mode & libc::S_IFMT == SFlag::S_IFDIR.bits() => {
                unlinkat(&dir, name.as_c_str(), UnlinkatFlags::RemoveDir)
            }
            Ok(stat) if stat.st_mode & libc::S_IFMT == SFlag::S_IFREG.bits() && stat.st_size == 0 => {
                unlinkat(&dir, name.as_c_str(), UnlinkatFlags::NoRemoveDir)
            }
            _ => continue,
        };
        match removed {
            // The step put something there.
            Ok(()) | Err(Errno::ENOTEMPTY | Errno::EEXIST | Errno::ENOENT) => {}
            Err(errno) => return Err(failed("unlink", path)(errno)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn what_was_made_for_a_mount_goes_and_what_a_step_made_stays() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path();
        for dir in ["etc", "run/secrets", "var/cache/apt", "kept/sub"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        fs::write(root.join("etc/hosts"), "").unwrap();
        fs::write(root.join("etc/hostname"), "mine").unwrap();
        fs::write(root.join("kept/file"), "mine").unwrap();
        let stub = |first: &str, target: &str| Stub { first: first.into(), target: target.into() };
        let stubs = [
            stub("/etc/hosts", "/etc/hosts"),
            stub("/etc/hostname", "/etc/hostname"),
            stub("/run", "/run/secrets"),
            stub("/run", "/run/.containerenv"),
            stub("/var", "/var/cache/apt"),
            stub("/kept", "/kept/sub"),
            stub("/nowhere", "/nowhere/x"),
        ];
        remove(root, &stubs).unwrap();
        assert!(root.join("etc").is_dir() && !root.join("etc/hosts").exists());
        assert!(root.join("etc/hostname").exists() && root.join("kept/file").exists());
        assert!(!root.join("run").exists() && !root.join("var").exists() && !root.join("kept/sub").exists());
    }
}
