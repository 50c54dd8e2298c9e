//! Every spelling of whiteout and opaque: tar name, 0/0 device, xattr.
//!
//! | where | whiteout of `x` | opaque directory `d` |
//! | --- | --- | --- |
//! | tar of a layer | empty file `.wh.x` | empty file `d/.wh..wh..opq` |
//! | unpacked layer, container's upper directory | `x` is a character device 0/0 | `user.overlay.opaque` of `d` is `y` |
//! | the same where `mknod` is refused (kernel 6.7) | `x` is an empty file with `user.overlay.whiteout`, its directory has `user.overlay.opaque` = `x` or `y` | as above |
//!
//! # Source
//! OCI image specification, "Layer Filesystem Changeset"; kernel `Documentation/filesystems/overlayfs.rst`.

use crate::sys::xattr;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, mknodat};
use std::ffi::CStr;
use std::os::fd::AsFd;

/// Marks a directory that hides what lies below it.
pub const OPAQUE_XATTR: &CStr = c"user.overlay.opaque";

/// Marks an empty file that stands for a whiteout.
pub const WHITEOUT_XATTR: &CStr = c"user.overlay.whiteout";

const PREFIX: &[u8] = b".wh.";
const META_PREFIX: &[u8] = b".wh..wh.";
const OPAQUE_NAME: &[u8] = b".wh..wh..opq";

/// What the last component of a name in a layer's tar stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TarName<'a> {
    /// An entry of that name.
    Plain(&'a [u8]),
    /// The name below is hidden.
    Whiteout(&'a [u8]),
    /// All of the directory's contents below are hidden.
    Opaque,
    /// Aufs' own files (`.wh..wh.plnk`, `.wh..wh.aufs`), which mean nothing outside aufs.
    AufsMetadata,
    /// A whiteout of nothing, of `.` or of `..`: only an attack writes it.
    Invalid,
}

impl<'a> TarName<'a> {
    /// Reads a name's last component.
    pub fn parse(name: &'a [u8]) -> Self {
        match name.strip_prefix(PREFIX) {
            None => Self::Plain(name),
            Some(b"" | b"." | b"..") => Self::Invalid,
            Some(_) if name == OPAQUE_NAME => Self::Opaque,
            Some(_) if name.starts_with(META_PREFIX) => Self::AufsMetadata,
            Some(hidden) => Self::Whiteout(hidden),
        }
    }
}

/// True if a directory of this name would read as a whiteout in a tar.
pub fn is_reserved(name: &[u8]) -> bool {
    name.starts_with(PREFIX)
}

/// The tar spelling of a whiteout.
pub fn tar_whiteout(name: &[u8]) -> Vec<u8> {
    [PREFIX, name].concat()
}

/// The tar spelling of an opaque directory: an entry in it.
pub fn tar_opaque() -> &'static [u8] {
    OPAQUE_NAME
}

/// True for the device form of a whiteout.
pub fn is_whiteout_device(stat: &FileStat) -> bool {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFCHR && stat.st_rdev == 0
}

/// True if the file behind a readable descriptor is the xattr form of a whiteout.
///
/// # Errors
/// The kernel's errno.
pub fn is_whiteout_file(fd: impl AsFd) -> nix::Result<bool> {
    Ok(xattr::find(fd.as_fd(), WHITEOUT_XATTR)?.is_some())
}

/// True if the directory behind a readable descriptor hides what lies below it.
///
/// # Errors
/// The kernel's errno.
pub fn is_opaque(dir: impl AsFd) -> nix::Result<bool> {
    Ok(xattr::find(dir.as_fd(), OPAQUE_XATTR)?.as_deref() == Some(b"y"))
}

/// Marks the directory behind a readable descriptor opaque.
///
/// # Errors
/// The kernel's errno; `ENOTSUP` on a file system without user xattrs, which no rootless overlay can use.
pub fn make_opaque(dir: impl AsFd) -> nix::Result<()> {
    xattr::set(dir.as_fd(), OPAQUE_XATTR, b"y")
}

/// Makes a whiteout of `name` in `dir`, where nothing of that name may be.
///
/// # Errors
/// The kernel's errno.
///
/// # Source
/// `mknod(2)`: a character device 0/0 needs no privilege since Linux 5.8.
pub fn make(dir: impl AsFd, name: &[u8]) -> nix::Result<()> {
    match mknodat(&dir, name, SFlag::S_IFCHR, Mode::empty(), 0) {
        Err(Errno::EPERM | Errno::EACCES | Errno::ENOSYS) => make_file(dir, name),
        result => result,
    }
}

fn make_file(dir: impl AsFd, name: &[u8]) -> nix::Result<()> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = openat(&dir, name, flags, Mode::from_bits_truncate(0o600))?;
    xattr::set(file.as_fd(), WHITEOUT_XATTR, b"y")?;
    let dir = openat(&dir, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    // The kernel looks for such files only in directories that say they have some.
    if xattr::find(dir.as_fd(), OPAQUE_XATTR)?.is_none() {
        xattr::set(dir.as_fd(), OPAQUE_XATTR, b"x")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_a_tar() {
        let cases: &[(&[u8], TarName<'_>)] = &[
            (b"a", TarName::Plain(b"a")),
            (b".wh", TarName::Plain(b".wh")),
            (b".wh.a", TarName::Whiteout(b"a")),
            (b".wh..a", TarName::Whiteout(b".a")),
            (b".wh....", TarName::Whiteout(b"...")),
            (b".wh..wh..opq", TarName::Opaque),
            (b".wh..wh.plnk", TarName::AufsMetadata),
            (b".wh..wh..opq2", TarName::AufsMetadata),
            (b".wh.", TarName::Invalid),
            (b".wh..", TarName::Invalid),
            (b".wh...", TarName::Invalid),
        ];
        for (name, expected) in cases {
            assert_eq!(TarName::parse(name), *expected, "{}", name.escape_ascii());
        }
    }

    #[test]
    fn xattr_form_is_recognised_and_marks_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        let fd = std::fs::File::open(dir.path()).unwrap();
        match make_file(&fd, b"gone") {
            Err(Errno::ENOTSUP) => eprintln!("skipped: needs a file system with user xattrs"),
            result => {
                result.unwrap();
                assert!(is_whiteout_file(std::fs::File::open(dir.path().join("gone")).unwrap()).unwrap());
                assert!(!is_opaque(&fd).unwrap());
                make_opaque(&fd).unwrap();
                assert!(is_opaque(&fd).unwrap());
            }
        }
    }
}
