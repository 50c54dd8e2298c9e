//! docker's and podman's rules of `cp`: what is copied, and where it comes to lie.
//!
//! | source | target | result |
//! | --- | --- | --- |
//! | file | a directory | in it, by the source's name |
//! | file | something else | in its place; a link leads to the place |
//! | file | nothing, below a directory | that name |
//! | file | nothing, with a slash at the end | refused |
//! | directory | a directory | in it, by the source's name |
//! | directory with `/.` | a directory | its contents in it |
//! | directory | nothing, below a directory | a directory of that name |
//! | directory | a file | refused |
//!
//! **Runs in:** the CLI for the host's side, the worker for a container's.

use std::ffi::CString;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::{Mode, SFlag, fstat};
use storage::layer::IdPolicy;
use storage::layer::diff::{TreeForm, write_file, write_tree_below};

use super::{NO_ITEMS, os};
use crate::error::CommandError;

/// Most links followed to a name, as in the kernel.
const MAX_LINKS: usize = 40;

/// Where names are resolved.
#[derive(Debug)]
pub(super) enum Place<'a> {
    /// As the user's shell does.
    Host,
    /// Beneath a container's root.
    Container { root: BorrowedFd<'a>, name: &'a str },
}

/// What is copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    /// Last component of its path; none of `/` and of what ends with `/.`, whose contents are meant.
    pub(super) name: Option<Vec<u8>>,
    pub(super) is_directory: bool,
}

/// An opened source.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) source: Source,
    path: String,
    /// The directory itself, or the one that the file is in.
    dir: OwnedFd,
    file: CString,
}

/// Where to unpack.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) dir: OwnedFd,
    /// The name there; none for contents that go into `dir`.
    pub(super) name: Option<Vec<u8>>,
}

impl Place<'_> {
    fn open(&self, path: &[u8], flags: OFlag) -> Result<OwnedFd, Errno> {
        let path = PathBuf::from(os(path));
        match self {
            Place::Host => nix::fcntl::open(&path, flags | OFlag::O_CLOEXEC, Mode::empty()),
            Place::Container { root, .. } => {
                runtime::mount::open_in_root(*root, &path, flags).map_err(|error| error.errno)
            }
        }
    }

    fn not_found(&self, path: &[u8], errno: Errno) -> CommandError {
        let path = String::from_utf8_lossy(path);
        let why = errno.desc().to_lowercase();
        CommandError::user(match self {
            Place::Host => format!("{path:?} could not be found on the host: {why}"),
            Place::Container { name, .. } => format!("{path:?} could not be found on container {name}: {why}"),
        })
    }

    /// The directory that a name is in, and the name there, links followed.
    fn parent_of(&self, path: &[u8]) -> Result<(OwnedFd, Vec<u8>), Errno> {
        let mut path = path.to_vec();
        for _ in 0..MAX_LINKS {
            let (above, name) = split(&path);
            let dir = self.open(&above, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
            match readlinkat(&dir, name.as_slice()) {
                Ok(target) if target.as_encoded_bytes().starts_with(b"/") => path = target.into_vec(),
                Ok(target) => path = [&above, &b"/"[..], &target.into_vec()].concat(),
                Err(Errno::EINVAL | Errno::ENOENT) => return Ok((dir, name)),
                Err(errno) => return Err(errno),
            }
        }
        Err(Errno::ELOOP)
    }
}

/// A path above the last component, and that.
fn split(path: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |at| at + 1);
    let path = path.get(..end).unwrap_or_default();
    match path.iter().rposition(|byte| *byte == b'/') {
        None => (b".".to_vec(), path.to_vec()),
        Some(slash) => {
            let above = if slash == 0 { &b"/"[..] } else { path.get(..slash).unwrap_or_default() };
            (above.to_vec(), path.get(slash + 1..).unwrap_or_default().to_vec())
        }
    }
}

/// Finds what is to be copied. A link is followed.
pub(super) fn open_source(place: &Place<'_>, path: &[u8]) -> Result<Opened, CommandError> {
    let missing = |errno| place.not_found(path, errno);
    let found = place.open(path, OFlag::O_PATH).map_err(missing)?;
    let is_directory = is_directory(&found).map_err(missing)?;
    let (_, name) = split(path);
    let name = (!matches!(name.as_slice(), b"" | b"." | b"..")).then_some(name);
    let (dir, file) = match is_directory {
        true => {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            (openat(&found, ".", flags, Mode::empty()).map_err(missing)?, Vec::new())
        }
        false => place.parent_of(path).map_err(missing)?,
    };
    let file = CString::new(file).map_err(|_| missing(Errno::EINVAL))?;
    let path = String::from_utf8_lossy(path).into_owned();
    Ok(Opened { source: Source { name, is_directory }, path, dir, file })
}

impl Opened {
    /// Writes it as a tar; of a directory all names lie below `prefix`.
    pub(super) fn pack(&self, prefix: &[u8], ids: &IdPolicy, out: impl Write) -> Result<(), CommandError> {
        let written = match self.source.is_directory {
            true => write_tree_below(self.dir.as_fd(), prefix, TreeForm::Plain, ids, out),
            false => {
                let name = self.source.name.as_deref().unwrap_or(b"file");
                write_file(self.dir.as_fd(), &self.file, name, ids, out)
            }
        };
        let written =
            written.map_err(|error| CommandError::host(error).while_doing(format!("copy {:?}", self.path)))?;
        match written.entries {
            0 => Err(CommandError::user(format!("{:?}: {NO_ITEMS}", self.path))),
            _ => Ok(()),
        }
    }
}

/// Finds where something goes.
pub(super) fn target(place: &Place<'_>, path: &[u8], source: &Source) -> Result<Target, CommandError> {
    let missing = |errno| place.not_found(path, errno);
    match place.open(path, OFlag::O_PATH) {
        Ok(found) if is_directory(&found).map_err(missing)? => Ok(Target { dir: found, name: source.name.clone() }),
        Ok(_) if source.is_directory => {
            Err(CommandError::user("destination must be a directory when copying a directory"))
        }
        Ok(_) => named(place, path),
        Err(Errno::ENOENT) if !path.ends_with(b"/") && !path.ends_with(b"/.") => named(place, path),
        Err(errno) => Err(missing(errno)),
    }
}

fn named(place: &Place<'_>, path: &[u8]) -> Result<Target, CommandError> {
    let (dir, name) = place.parent_of(path).map_err(|errno| place.not_found(path, errno))?;
    Ok(Target { dir, name: Some(name) })
}

/// Finds where an archive goes.
pub(super) fn target_of_archive(place: &Place<'_>, path: &[u8]) -> Result<Target, CommandError> {
    match place.open(path, OFlag::O_PATH | OFlag::O_DIRECTORY) {
        Ok(dir) => Ok(Target { dir, name: None }),
        Err(_) => Err(CommandError::user("destination must be a directory when copying from stdin")),
    }
}

fn is_directory(fd: &OwnedFd) -> Result<bool, Errno> {
    Ok(SFlag::from_bits_truncate(fstat(fd)?.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR)
}
