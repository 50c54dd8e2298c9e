//! Which extended attributes a container sees, and by which names they lie on disk.
//!
//! | container's name | on disk |
//! | --- | --- |
//! | `user.overlay.X` | `user.overlay.overlay.X`, as the kernel escapes it for overlays in overlays; `user.overlay.X` on disk, the marks of a union, are hidden |
//! | `user.containers.override_stat`, `security.coracle.override_stat` | in single-id mode the file's true owner, mode and kind; else hidden |
//! | `user.coracle.*`, `user.fuseoverlayfs.*`, `security.fuseoverlayfs.*`, `trusted.*` | hidden |
//! | anything else | the same |
//!
//! # Source
//! Kernel `Documentation/filesystems/overlayfs.rst`, "Nesting overlayfs mounts" (`userxattr` mounts).

use nix::errno::Errno;
use std::borrow::Cow;
use std::ffi::CString;

const OVERLAY: &[u8] = b"user.overlay.";
const ESCAPE: &[u8] = b"overlay.";

/// The override's name, on disk and, in single-id mode, to the container.
pub(crate) const OVERRIDE_NAME: &[u8] = b"user.containers.override_stat";

/// Another name for the same, which the kernel lets through for links, pipes, sockets and devices: user xattrs of those
/// are refused before any file system is asked.
const OVERRIDE_OF_SPECIAL_NAME: &[u8] = b"security.coracle.override_stat";

const HIDDEN: [&[u8]; 4] = [b"user.coracle.", b"user.fuseoverlayfs.", b"security.fuseoverlayfs.", b"trusted."];

/// What a name that the container uses stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DiskName {
    /// An attribute of this name.
    Plain(CString),
    /// The file's true owner, mode and kind.
    Override,
    /// Nothing that the container may know of or make.
    Hidden,
}

impl DiskName {
    /// Reads a name that the container uses.
    ///
    /// # Errors
    /// `EINVAL` for what is no name.
    pub(crate) fn of(name: &[u8], is_single: bool) -> nix::Result<Self> {
        if name == OVERRIDE_NAME || name == OVERRIDE_OF_SPECIAL_NAME {
            return Ok(if is_single { Self::Override } else { Self::Hidden });
        }
        if HIDDEN.iter().any(|prefix| name.starts_with(prefix)) {
            return Ok(Self::Hidden);
        }
        let on_disk = match name.strip_prefix(OVERLAY) {
            Some(rest) => [OVERLAY, ESCAPE, rest].concat(),
            None => name.to_vec(),
        };
        CString::new(on_disk).map(Self::Plain).map_err(|_| Errno::EINVAL)
    }
}

/// The container's name of an attribute on disk; `None` for what it does not see.
pub(crate) fn in_container(on_disk: &[u8]) -> Option<Cow<'_, [u8]>> {
    if on_disk == OVERRIDE_NAME || HIDDEN.iter().any(|prefix| on_disk.starts_with(prefix)) {
        return None;
    }
    match on_disk.strip_prefix(OVERLAY) {
        Some(rest) => rest.strip_prefix(ESCAPE).map(|rest| Cow::Owned([OVERLAY, rest].concat())),
        None => Some(Cow::Borrowed(on_disk)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_hidden_escaped_and_found_again() {
        let plain = |name: &str| DiskName::Plain(CString::new(name).unwrap());
        let cases = [
            ("user.a", plain("user.a")),
            ("security.capability", plain("security.capability")),
            ("system.posix_acl_access", plain("system.posix_acl_access")),
            ("user.overlay.opaque", plain("user.overlay.overlay.opaque")),
            ("user.overlay.overlay.opaque", plain("user.overlay.overlay.overlay.opaque")),
            ("user.overlayfs", plain("user.overlayfs")),
            ("user.coracle.origin", DiskName::Hidden),
            ("trusted.overlay.opaque", DiskName::Hidden),
            ("user.fuseoverlayfs.opaque", DiskName::Hidden),
            ("user.containers.override_stat", DiskName::Hidden),
            ("user.containers.other", plain("user.containers.other")),
        ];
        for (name, expected) in cases {
            assert_eq!(DiskName::of(name.as_bytes(), false), Ok(expected.clone()), "{name}");
            if let DiskName::Plain(on_disk) = expected {
                assert_eq!(in_container(on_disk.as_bytes()).as_deref(), Some(name.as_bytes()), "{name}");
            }
        }
        for name in [
            "user.overlay.opaque",
            "user.overlay.coracle.origin",
            "user.coracle.x",
            "trusted.x",
            "user.containers.override_stat",
        ] {
            assert_eq!(in_container(name.as_bytes()), None, "{name}");
        }
        assert_eq!(DiskName::of(OVERRIDE_NAME, true), Ok(DiskName::Override));
        assert_eq!(DiskName::of(OVERRIDE_OF_SPECIAL_NAME, true), Ok(DiskName::Override));
    }
}
