//! POSIX access control lists in the form of their extended attributes.
//!
//! ```text
//! u32 version = 2, then entries of   u16 tag   u16 permissions   u32 id (of named users and groups)
//! ```
//!
//! # Source
//! `include/uapi/linux/posix_acl_xattr.h`; `acl(5)`, "Object creation and default ACLs".

use nix::errno::Errno;
use std::ffi::CStr;

pub(crate) const ACCESS: &CStr = c"system.posix_acl_access";
pub(crate) const DEFAULT: &CStr = c"system.posix_acl_default";
pub(crate) const ACCESS_NAME: &[u8] = b"system.posix_acl_access";
pub(crate) const DEFAULT_NAME: &[u8] = b"system.posix_acl_default";

const VERSION_BYTES: usize = 4;
const ENTRY_BYTES: usize = 8;

const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

#[derive(Clone, Copy)]
struct Entry {
    tag: u16,
    permissions: u16,
    id: u32,
}

fn parse(value: &[u8]) -> nix::Result<Vec<Entry>> {
    let (version, entries) = value.split_at_checked(VERSION_BYTES).ok_or(Errno::EINVAL)?;
    if version != 2_u32.to_le_bytes() || entries.len() % ENTRY_BYTES != 0 {
        return Err(Errno::EINVAL);
    }
    let entry = |bytes: &[u8]| match *bytes {
        [a, b, c, d, e, f, g, h] => Ok(Entry {
            tag: u16::from_le_bytes([a, b]),
            permissions: u16::from_le_bytes([c, d]),
            id: u32::from_le_bytes([e, f, g, h]),
        }),
        _ => Err(Errno::EINVAL),
    };
    entries.chunks(ENTRY_BYTES).map(entry).collect()
}

fn write(entries: &[Entry]) -> Vec<u8> {
    let mut value = 2_u32.to_le_bytes().to_vec();
    for entry in entries {
        value.extend_from_slice(&entry.tag.to_le_bytes());
        value.extend_from_slice(&entry.permissions.to_le_bytes());
        value.extend_from_slice(&entry.id.to_le_bytes());
    }
    value
}

/// The same list with other numbers for the users and groups it names.
///
/// # Errors
/// `EINVAL` for an id without another number, and for what is no list.
pub(crate) fn translate(
    value: Vec<u8>,
    uid: impl Fn(u32) -> Option<u32>,
    gid: impl Fn(u32) -> Option<u32>,
) -> nix::Result<Vec<u8>> {
    // An empty value removes the list.
    if value.is_empty() {
        return Ok(value);
    }
    let mut entries = parse(&value)?;
    for entry in &mut entries {
        entry.id = match entry.tag {
            USER => uid(entry.id).ok_or(Errno::EINVAL)?,
            GROUP => gid(entry.id).ok_or(Errno::EINVAL)?,
            _ => entry.id,
        };
    }
    Ok(write(&entries))
}

/// What a directory's default list makes of a new file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Inherited {
    /// The new file's permission bits; the special ones stay.
    pub(crate) mode: u32,
    /// Its access list; `None` if the mode says it all.
    pub(crate) access: Option<Vec<u8>>,
}

/// Applies a default list to a file being created with `mode`.
///
/// # Errors
/// `EINVAL` for what is no list.
pub(crate) fn inherit(default: &[u8], mode: u32) -> nix::Result<Inherited> {
    let mut entries = parse(default)?;
    let has_mask = entries.iter().any(|entry| entry.tag == MASK);
    let mut result = mode & !0o777;
    let mut narrow = |entry: &mut Entry, shift: u32| {
        let asked = u16::try_from(mode >> shift & 0o7).unwrap_or(0);
        entry.permissions &= asked;
        result |= u32::from(entry.permissions & 0o7) << shift;
    };
    for entry in &mut entries {
        match entry.tag {
            USER_OBJ => narrow(entry, 6),
            MASK => narrow(entry, 3),
            GROUP_OBJ if !has_mask => narrow(entry, 3),
            OTHER => narrow(entry, 0),
            _ => {}
        }
    }
    let is_extended = entries.iter().any(|entry| !matches!(entry.tag, USER_OBJ | GROUP_OBJ | OTHER));
    Ok(Inherited { mode: result, access: is_extended.then(|| write(&entries)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        write(&entries.iter().map(|&(tag, permissions, id)| Entry { tag, permissions, id }).collect::<Vec<_>>())
    }

    #[test]
    fn default_list_narrows_by_the_mode_asked_for() {
        const NONE: u32 = u32::MAX;
        let plain = list(&[(USER_OBJ, 7, NONE), (GROUP_OBJ, 5, NONE), (OTHER, 0, NONE)]);
        assert_eq!(inherit(&plain, 0o4666).unwrap(), Inherited { mode: 0o4640, access: None });
        let named = list(&[(USER_OBJ, 7, NONE), (USER, 7, 5), (GROUP_OBJ, 5, NONE), (MASK, 7, NONE), (OTHER, 5, NONE)]);
        let expected =
            list(&[(USER_OBJ, 6, NONE), (USER, 7, 5), (GROUP_OBJ, 5, NONE), (MASK, 4, NONE), (OTHER, 4, NONE)]);
        assert_eq!(inherit(&named, 0o644).unwrap(), Inherited { mode: 0o644, access: Some(expected) });
        assert_eq!(inherit(b"\x02", 0o644), Err(Errno::EINVAL));
    }

    #[test]
    fn ids_are_translated_and_unknown_ones_refused() {
        let named = list(&[(USER_OBJ, 7, 9), (USER, 7, 5), (GROUP, 7, 6)]);
        let expected = list(&[(USER_OBJ, 7, 9), (USER, 7, 15), (GROUP, 7, 26)]);
        assert_eq!(translate(named.clone(), |uid| Some(uid + 10), |gid| Some(gid + 20)), Ok(expected));
        assert_eq!(translate(named, |_| None, Some), Err(Errno::EINVAL));
        assert_eq!(translate(Vec::new(), |_| None, Some), Ok(Vec::new()));
    }
}
