//! Whom the files of a layer belong to.

use crate::digest::Digest;
use std::ffi::CStr;

/// Where a file's true owner and mode stand if the file itself cannot have them: `uid:gid:0octalmode`.
pub const OVERRIDE_XATTR: &CStr = c"user.containers.override_stat";

/// How the owners named in a layer become owners on disk.
///
/// All ids here are those of the user namespace that the unpacking process is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdPolicy {
    /// Files belong to the ids that the layer names, moved as the map says.
    Mapped(IdMap),
    /// All files belong to us; the true owner and mode stand in [`OVERRIDE_XATTR`] (of files and directories; only
    /// the layer's index knows them for other kinds) wherever they differ from 0:0 and the mode on disk.
    Single,
}

/// The tag of [`IdPolicy::Single`]: such layers are never those of a user who gets subordinate ids later.
pub const SINGLE_TAG: &str = "single";

/// How ids of a layer move; the identity unless ranges are given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdMap {
    uids: Vec<IdRange>,
    gids: Vec<IdRange>,
}

/// `length` ids from `from` become those from `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRange {
    /// First id in the layer.
    pub from: u32,
    /// First id on disk.
    pub to: u32,
    /// How many.
    pub length: u32,
}

/// Owner and group as they go to disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl IdPolicy {
    /// Every id stays what it is.
    pub fn identity() -> Self {
        Self::Mapped(IdMap::default())
    }

    /// What the directory of a layer unpacked this way has behind its digest; `None` for the store's base mapping,
    /// which [`Self::identity`] is.
    pub fn tag(&self) -> Option<String> {
        match self {
            Self::Mapped(map) => map.tag(),
            Self::Single => Some(SINGLE_TAG.to_owned()),
        }
    }

    /// The owner on disk, `None` if the map has no place for it.
    pub(crate) fn owner(&self, uid: u32, gid: u32) -> Option<Owner> {
        match self {
            Self::Single => Some(Owner { uid: 0, gid: 0 }),
            Self::Mapped(map) => Some(Owner { uid: forward(&map.uids, uid)?, gid: forward(&map.gids, gid)? }),
        }
    }

    /// The owner in the layer of what is on disk; ids outside the map stay what they are.
    pub(crate) fn owner_in_layer(&self, uid: u32, gid: u32) -> Owner {
        match self {
            Self::Single => Owner { uid: 0, gid: 0 },
            Self::Mapped(map) => Owner { uid: backward(&map.uids, uid), gid: backward(&map.gids, gid) },
        }
    }

    /// The permission bits on disk. What belongs to us alone must stay readable and removable by us.
    pub(crate) fn mode_on_disk(&self, mode: u32, is_directory: bool) -> u32 {
        match self {
            Self::Mapped(_) => mode,
            Self::Single => mode | if is_directory { 0o700 } else { 0o600 },
        }
    }

    /// The value of [`OVERRIDE_XATTR`], if the file needs one.
    pub(crate) fn override_value(&self, uid: u32, gid: u32, mode: u32, is_directory: bool) -> Option<String> {
        let is_told_by_stat = (uid, gid, mode) == (0, 0, self.mode_on_disk(mode, is_directory));
        (matches!(self, Self::Single) && !is_told_by_stat).then(|| format!("{uid}:{gid}:0{mode:o}"))
    }
}

/// Reads a value of [`OVERRIDE_XATTR`]: uid, gid, mode. A fourth part (the kind of file, written by podman) is ignored.
pub(crate) fn parse_override(value: &[u8]) -> Option<(u32, u32, u32)> {
    let mut parts = std::str::from_utf8(value).ok()?.split(':');
    let uid = parts.next()?.parse().ok()?;
    let gid = parts.next()?.parse().ok()?;
    let mode = u32::from_str_radix(parts.next()?, 8).ok()?;
    Some((uid, gid, mode & 0o7777))
}

impl IdMap {
    /// A map of the given ranges; ids outside all of them cannot be stored.
    pub fn new(uids: Vec<IdRange>, gids: Vec<IdRange>) -> Self {
        Self { uids, gids }
    }

    /// True if every id stays what it is.
    pub fn is_identity(&self) -> bool {
        let is_identity = |ranges: &[IdRange]| ranges.iter().all(|range| range.from == range.to);
        is_identity(&self.uids) && is_identity(&self.gids)
    }

    fn tag(&self) -> Option<String> {
        if self.is_identity() {
            return None;
        }
        let text = format!("{:?} {:?}", self.uids, self.gids);
        Some(Digest::of(text.as_bytes()).hex()[..12].to_owned())
    }
}

fn forward(ranges: &[IdRange], id: u32) -> Option<u32> {
    if ranges.is_empty() {
        return Some(id);
    }
    ranges.iter().find_map(|range| {
        let offset = id.checked_sub(range.from).filter(|offset| *offset < range.length)?;
        range.to.checked_add(offset)
    })
}

fn backward(ranges: &[IdRange], id: u32) -> u32 {
    let found = ranges.iter().find_map(|range| {
        let offset = id.checked_sub(range.to).filter(|offset| *offset < range.length)?;
        range.from.checked_add(offset)
    });
    found.unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_move_ids_both_ways_and_refuse_what_lies_outside() {
        // keep-id for user 1000: container 1000 is us, the ids below and above close the gap.
        let ranges = vec![
            IdRange { from: 0, to: 1, length: 1000 },
            IdRange { from: 1000, to: 0, length: 1 },
            IdRange { from: 1001, to: 1001, length: 64_535 },
        ];
        let policy = IdPolicy::Mapped(IdMap::new(ranges.clone(), ranges));
        assert_eq!(policy.owner(0, 1000), Some(Owner { uid: 1, gid: 0 }));
        assert_eq!(policy.owner_in_layer(1, 0), Owner { uid: 0, gid: 1000 });
        assert_eq!(policy.owner(65_536, 0), None);
        assert!(policy.tag().is_some());
        assert_eq!(IdPolicy::identity().tag(), None);
        assert_eq!(IdPolicy::identity().owner(70_000, 1), Some(Owner { uid: 70_000, gid: 1 }));
    }

    #[test]
    fn override_is_written_only_where_stat_would_lie() {
        assert_eq!(IdPolicy::Single.override_value(0, 0, 0o644, false), None);
        assert_eq!(IdPolicy::Single.override_value(0, 42, 0o640, false).as_deref(), Some("0:42:0640"));
        assert_eq!(IdPolicy::Single.override_value(0, 0, 0o444, false).as_deref(), Some("0:0:0444"));
        assert_eq!(IdPolicy::identity().override_value(1, 2, 0o644, false), None);
        assert_eq!(parse_override(b"0:42:04755"), Some((0, 42, 0o4755)));
        assert_eq!(parse_override(b"0:42:0640:file"), Some((0, 42, 0o640)));
        assert_eq!(parse_override(b"0:42"), None);
    }
}
