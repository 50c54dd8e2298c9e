//! Whom the files of a layer belong to.

use crate::state::layout::Ownership;
use nix::sys::stat::SFlag;
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

    /// What a layer is unpacked as by this policy.
    pub fn ownership(&self) -> Ownership {
        match self {
            Self::Mapped(_) => Ownership::Mapped,
            Self::Single => Ownership::Single,
        }
    }

    /// The owner on disk, `None` if the map has no place for it.
    pub(crate) fn owner(&self, uid: u32, gid: u32) -> Option<Owner> {
        match self {
            Self::Single => Some(Owner { uid: 0, gid: 0 }),
            Self::Mapped(map) => Some(Owner { uid: map.uid_on_disk(uid)?, gid: map.gid_on_disk(gid)? }),
        }
    }

    /// The owner in the layer of what is on disk; ids outside the map stay what they are.
    pub(crate) fn owner_in_layer(&self, uid: u32, gid: u32) -> Owner {
        match self {
            Self::Single => Owner { uid: 0, gid: 0 },
            Self::Mapped(map) => {
                Owner { uid: map.uid_in_layer(uid).unwrap_or(uid), gid: map.gid_in_layer(gid).unwrap_or(gid) }
            }
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
        let recorded = Override { uid, gid, mode, kind: None, device: 0 };
        (matches!(self, Self::Single) && !is_told_by_stat).then(|| recorded.to_value())
    }
}

/// What a value of [`OVERRIDE_XATTR`] says.
///
/// ```text
/// uid:gid:0octalmode[:kind]     kind: file dir symlink pipe socket char-MAJOR-MINOR block-MAJOR-MINOR
/// ```
///
/// The kind is written only for what the disk shows as a regular file; a symbolic link's target is then the contents.
///
/// # Source
/// containers/storage, `pkg/idtools`, override xattr.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Override {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Permission bits, at most `0o7777`.
    pub(crate) mode: u32,
    /// `None`: what the file is on disk.
    pub(crate) kind: Option<SFlag>,
    /// Number of a device.
    pub(crate) device: u64,
}

impl Override {
    pub(crate) fn parse(value: &[u8]) -> Option<Self> {
        let mut parts = std::str::from_utf8(value).ok()?.split(':');
        let uid = parts.next()?.parse().ok()?;
        let gid = parts.next()?.parse().ok()?;
        let mode = u32::from_str_radix(parts.next()?, 8).ok()? & 0o7777;
        let (kind, device) = parts.next().map_or(Some((None, 0)), parse_kind)?;
        Some(Self { uid, gid, mode, kind, device })
    }

    pub(crate) fn to_value(self) -> String {
        let Self { uid, gid, mode, .. } = self;
        let (major, minor) = (libc::major(self.device), libc::minor(self.device));
        let kind = match self.kind {
            Some(SFlag::S_IFLNK) => ":symlink".to_owned(),
            Some(SFlag::S_IFIFO) => ":pipe".to_owned(),
            Some(SFlag::S_IFSOCK) => ":socket".to_owned(),
            Some(SFlag::S_IFCHR) => format!(":char-{major}-{minor}"),
            Some(SFlag::S_IFBLK) => format!(":block-{major}-{minor}"),
            _ => String::new(),
        };
        format!("{uid}:{gid}:0{mode:o}{kind}")
    }
}

fn parse_kind(kind: &str) -> Option<(Option<SFlag>, u64)> {
    let device = |numbers: &str| {
        let (major, minor) = numbers.split_once('-')?;
        Some(libc::makedev(major.parse().ok()?, minor.parse().ok()?))
    };
    Some(match kind {
        "file" => (Some(SFlag::S_IFREG), 0),
        "dir" => (Some(SFlag::S_IFDIR), 0),
        "symlink" => (Some(SFlag::S_IFLNK), 0),
        "pipe" => (Some(SFlag::S_IFIFO), 0),
        "socket" => (Some(SFlag::S_IFSOCK), 0),
        _ => match kind.split_once('-')? {
            ("char", numbers) => (Some(SFlag::S_IFCHR), device(numbers)?),
            ("block", numbers) => (Some(SFlag::S_IFBLK), device(numbers)?),
            _ => return None,
        },
    })
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

    /// The owner on disk, `None` if the map has no place for it.
    pub(crate) fn uid_on_disk(&self, uid: u32) -> Option<u32> {
        forward(&self.uids, uid)
    }

    /// The group on disk, `None` if the map has no place for it.
    pub(crate) fn gid_on_disk(&self, gid: u32) -> Option<u32> {
        forward(&self.gids, gid)
    }

    /// The owner in the layer, `None` if no id of the layer becomes this one.
    pub fn uid_in_layer(&self, uid: u32) -> Option<u32> {
        backward(&self.uids, uid)
    }

    /// The group in the layer, `None` if no id of the layer becomes this one.
    pub fn gid_in_layer(&self, gid: u32) -> Option<u32> {
        backward(&self.gids, gid)
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

fn backward(ranges: &[IdRange], id: u32) -> Option<u32> {
    if ranges.is_empty() {
        return Some(id);
    }
    ranges.iter().find_map(|range| {
        let offset = id.checked_sub(range.to).filter(|offset| *offset < range.length)?;
        range.from.checked_add(offset)
    })
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
        assert_eq!(IdPolicy::identity().owner(70_000, 1), Some(Owner { uid: 70_000, gid: 1 }));
    }

    #[test]
    fn override_is_written_only_where_stat_would_lie() {
        assert_eq!(IdPolicy::Single.override_value(0, 0, 0o644, false), None);
        assert_eq!(IdPolicy::Single.override_value(0, 42, 0o640, false).as_deref(), Some("0:42:0640"));
        assert_eq!(IdPolicy::Single.override_value(0, 0, 0o444, false).as_deref(), Some("0:0:0444"));
        assert_eq!(IdPolicy::identity().override_value(1, 2, 0o644, false), None);
    }

    #[test]
    fn override_values_are_read_and_written_in_every_kind() {
        let value = |uid, gid, mode, kind, device| Some(Override { uid, gid, mode, kind, device });
        let cases = [
            ("0:42:04755", value(0, 42, 0o4755, None, 0), "0:42:04755"),
            ("0:42:0640:file", value(0, 42, 0o640, Some(SFlag::S_IFREG), 0), "0:42:0640"),
            ("1:2:755:dir", value(1, 2, 0o755, Some(SFlag::S_IFDIR), 0), "1:2:0755"),
            ("1:2:0777:symlink", value(1, 2, 0o777, Some(SFlag::S_IFLNK), 0), "1:2:0777:symlink"),
            ("1:2:0600:pipe", value(1, 2, 0o600, Some(SFlag::S_IFIFO), 0), "1:2:0600:pipe"),
            ("1:2:0600:socket", value(1, 2, 0o600, Some(SFlag::S_IFSOCK), 0), "1:2:0600:socket"),
            ("0:5:0666:char-1-3", value(0, 5, 0o666, Some(SFlag::S_IFCHR), 0x103), "0:5:0666:char-1-3"),
            ("0:6:0660:block-8-0", value(0, 6, 0o660, Some(SFlag::S_IFBLK), 0x800), "0:6:0660:block-8-0"),
            ("0:42", None, ""),
            ("0:42:0640:char-1", None, ""),
            ("0:42:0640:door", None, ""),
            ("-1:42:0640", None, ""),
        ];
        for (text, expected, written) in cases {
            let parsed = Override::parse(text.as_bytes());
            assert_eq!(parsed, expected, "{text}");
            assert_eq!(parsed.map(Override::to_value).unwrap_or_default(), written, "{text}");
        }
    }
}
