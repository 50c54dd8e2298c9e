//! What a union file system notes on a file of the upper, in extended attributes.

use super::acl;
use super::owners::Owners;
use super::xattr_names::{OVERRIDE_NAME, in_container};
use crate::layer::ids::Override;
use crate::sys::xattr;
use crate::union::attributes::InodeNo;
use crate::whiteout;
use nix::errno::Errno;
use nix::sys::stat::FileStat;
use std::ffi::{CStr, CString};
use std::os::fd::BorrowedFd;

/// Holds the number that a file had before it was copied up, in decimal. The kernel's overlay, where it mounts the same
/// upper later, hides every name of this beginning and copies none up; it has no meaning for this one.
///
/// Symbolic links, pipes, sockets and devices cannot have it: copied up, they keep their number for as long as the union is
/// mounted, and have that of their file in the upper from the next mount on. The kernel's overlay does the same with
/// `userxattr`. What could tell their numbers beside the upper would be wrong after any change that another driver made.
pub(crate) const ORIGIN: &CStr = c"user.overlay.coracle.origin";

/// An older name of the same, which the kernel's overlay shows. Read only.
const OLD_ORIGIN: &CStr = c"user.coracle.origin";

/// Marks a directory that may have files with [`ORIGIN`] in it: only there the mark is worth a look. The kernel's overlay
/// means the same by it.
const IMPURE: &CStr = c"user.overlay.impure";

/// Marks an opaque directory where fuse-overlayfs wrote it.
const FOREIGN_OPAQUE: &CStr = c"user.fuseoverlayfs.opaque";

/// Other spellings of the override, by fuse-overlayfs.
const FOREIGN_OVERRIDES: [&CStr; 2] = [c"user.fuseoverlayfs.override_stat", c"security.fuseoverlayfs.override_stat"];

/// What stands on a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    /// The directory hides what lies below it.
    pub(crate) is_opaque: bool,
    /// The directory may have whiteouts in their xattr form.
    pub(crate) may_have_whiteout_files: bool,
    /// The directory may have files that were copied up.
    pub(crate) is_impure: bool,
    /// The file is a whiteout in its xattr form.
    pub(crate) is_whiteout: bool,
    /// The number it had before it was copied up.
    pub(crate) origin: Option<InodeNo>,
    /// Its true owner, mode and kind.
    pub(crate) override_stat: Option<Override>,
    /// The directory gives an access list to what is made in it.
    pub(crate) has_default_acl: bool,
}

impl Marks {
    /// Reads the marks of what a descriptor of any kind refers to: one call, and one more for each that is there.
    ///
    /// Only regular files and directories can have marks.
    ///
    /// # Errors
    /// The kernel's errno.
    pub(crate) fn read(file: BorrowedFd<'_>, stat: &FileStat) -> nix::Result<Self> {
        if !matches!(stat.st_mode & libc::S_IFMT, libc::S_IFREG | libc::S_IFDIR) {
            return Ok(Self::default());
        }
        let mut marks = Self::default();
        let mut foreign_override = None;
        let mut old_origin = None;
        let number = |text: &[u8]| std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).map(InodeNo);
        for name in xattr::list(file)? {
            let name = name.as_c_str();
            // Nobody but a privileged server may read user xattrs of a file that is closed to its owner; what such a server
            // cannot know is the number from before the copy.
            let value = || match xattr::find(file, name) {
                Err(Errno::EACCES) => Ok(None),
                found => found.map(|value| Some(value.unwrap_or_default())),
            };
            if name == whiteout::OPAQUE_XATTR {
                match value()?.as_deref() {
                    // Of the two words this one is on every directory that was moved. What is in it cannot be seen either.
                    Some(b"y") | None => marks.is_opaque = true,
                    Some(b"x") => marks.may_have_whiteout_files = true,
                    Some(_) => {}
                }
            } else if name == FOREIGN_OPAQUE {
                marks.is_opaque |= value()?.is_none_or(|value| value == b"y");
            } else if name == IMPURE {
                marks.is_impure = value()?.is_none_or(|value| value == b"y");
            } else if name == whiteout::WHITEOUT_XATTR {
                marks.is_whiteout = true;
            } else if name == ORIGIN {
                marks.origin = value()?.and_then(|text| number(&text));
            } else if name == OLD_ORIGIN {
                old_origin = value()?.and_then(|text| number(&text));
            } else if name.to_bytes() == OVERRIDE_NAME {
                marks.override_stat = value()?.and_then(|text| Override::parse(&text));
            } else if FOREIGN_OVERRIDES.contains(&name) {
                foreign_override = value()?.and_then(|text| Override::parse(&text));
            } else if name == acl::DEFAULT {
                marks.has_default_acl = true;
            }
        }
        // An opaque directory may have whiteout files too: the one xattr has room for one of the two words.
        marks.may_have_whiteout_files |= marks.is_opaque;
        marks.override_stat = marks.override_stat.or(foreign_override);
        marks.origin = marks.origin.or(old_origin);
        Ok(marks)
    }
}

/// The extended attributes of a file on disk as the container sees them.
///
/// # Errors
/// The kernel's errno.
pub(crate) fn visible_xattrs(file: BorrowedFd<'_>, owners: &Owners) -> nix::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut visible = Vec::new();
    for on_disk in xattr::list(file)? {
        let Some(name) = in_container(on_disk.to_bytes()) else { continue };
        if let Some(value) = xattr::find(file, &on_disk)? {
            let value = owners.xattr_in_container(&name, value);
            visible.push((name.into_owned(), value));
        }
    }
    Ok(visible)
}

/// The names of [`visible_xattrs`], each with its terminating zero.
///
/// # Errors
/// The kernel's errno.
pub(crate) fn visible_names(file: BorrowedFd<'_>) -> nix::Result<Vec<u8>> {
    let mut names = Vec::new();
    for on_disk in xattr::list(file)? {
        if let Some(name) = in_container(on_disk.to_bytes()) {
            names.extend_from_slice(&name);
            names.push(0);
        }
    }
    Ok(names)
}

/// Notes that a directory has, or will have, files that were copied up.
///
/// # Errors
/// The kernel's errno.
pub(crate) fn mark_impure(dir: BorrowedFd<'_>) -> nix::Result<()> {
    xattr::set(dir, IMPURE, b"y")
}

/// The value of [`ORIGIN`].
pub(crate) fn origin_value(origin: InodeNo) -> CString {
    CString::new(origin.0.to_string()).unwrap_or_default()
}
