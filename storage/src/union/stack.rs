//! The lower layers: what they hold, where it lies, which number it has.
//!
//! A layer with an index answers from it; its tree is touched only to read data. One without is read from its tree, and
//! is taken to change as little.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::libc;
use nix::sys::stat::{FileStat, Mode, fstat};

use super::attributes::{Attributes, FileKind, InodeNo};
use super::upper::Owners;
use crate::layer::ids::Owner;
use crate::layer::index::{Index, Kind, Record};

/// A lower layer.
#[derive(Debug)]
pub struct Lower {
    /// Its tree (`diff/`), open as a directory; `O_PATH` is enough.
    pub dir: OwnedFd,
    /// Its index, if coracle unpacked it.
    pub index: Option<Index>,
}

/// Where a file is: a record of an indexed layer, or the same path as the union's in one without index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// Counted from the top.
    pub(super) layer: u16,
    record: u32,
}

const PLAIN: u32 = u32::MAX;

impl Part {
    /// No file: what a node without lower layers has.
    pub(super) const NONE: Self = Self { layer: u16::MAX, record: PLAIN };

    pub(super) fn is_none(self) -> bool {
        self == Self::NONE
    }

    pub(super) fn is_plain(self) -> bool {
        self.record == PLAIN
    }
}

/// The lower layers of a mount, topmost first.
#[derive(Debug)]
pub(super) struct Stack {
    layers: Vec<Layer>,
    /// Devices in the order in which they got high bits in numbers.
    devices: Mutex<Vec<u64>>,
    /// What the numbers of the layers become.
    owners: Owners,
}

#[derive(Debug)]
struct Layer {
    dir: Arc<OwnedFd>,
    index: Option<Index>,
    device: u64,
    /// Records of each link group; made when first asked for.
    links: OnceLock<HashMap<u32, Vec<u32>>>,
}

/// Numbers of records begin here, one range for each layer.
const LAYER_SHIFT: u32 = 40;
/// Set in the number of a file with several names: the rest is its link group.
const GROUP: u64 = 1 << 39;
/// Set in numbers of files on another device than the first.
const OTHER_DEVICE: u64 = 1 << 62;
/// Set in numbers that were folded.
const FOLDED: u64 = 1 << 63;
/// Longest path handed to the kernel in one piece.
const PATH_MAX: usize = 4096;

impl Stack {
    /// `first` is the device whose files keep their numbers: the upper directory's.
    pub(super) fn new(lowers: Vec<Lower>, first: Option<u64>, owners: Owners) -> nix::Result<Self> {
        let layers: Vec<Layer> = lowers
            .into_iter()
            .map(|Lower { dir, index }| {
                let device = fstat(&dir)?.st_dev;
                Ok(Layer { dir: Arc::new(dir), index, device, links: OnceLock::new() })
            })
            .collect::<nix::Result<_>>()?;
        if layers.len() >= usize::from(u16::MAX) {
            return Err(Errno::E2BIG);
        }
        let mut devices: Vec<u64> = first.into_iter().collect();
        for layer in layers.iter().rev().filter(|layer| layer.index.is_none()) {
            if !devices.contains(&layer.device) {
                devices.push(layer.device);
            }
        }
        Ok(Self { layers, devices: Mutex::new(devices), owners })
    }

    /// The roots of all layers.
    pub(super) fn roots(&self) -> Vec<Part> {
        let root = |(layer, of): (usize, &Layer)| Part {
            layer: layer as u16,
            record: if of.index.is_some() { 0 } else { PLAIN },
        };
        self.layers.iter().enumerate().map(root).collect()
    }

    /// The directories that the layers' trees begin with.
    pub(super) fn root_dirs(&self) -> impl Iterator<Item = Arc<OwnedFd>> + '_ {
        self.layers.iter().map(|layer| Arc::clone(&layer.dir))
    }

    /// The record behind a part of an indexed layer.
    pub(super) fn record(&self, part: Part) -> Option<Record<'_>> {
        self.layers.get(usize::from(part.layer))?.index.as_ref()?.record(part.record)
    }

    /// The part of a record of the layer that `beside` is in.
    pub(super) fn part(beside: Part, record: Record<'_>) -> Part {
        Part { layer: beside.layer, record: record.number() }
    }

    /// The number of a record of a layer.
    pub(super) fn number(&self, part: Part, record: Record<'_>) -> InodeNo {
        let position = self.layers.len() as u64 - u64::from(part.layer);
        let file = match record.link_group() {
            0 => u64::from(record.number()) + 1,
            group => GROUP | u64::from(group),
        };
        InodeNo(position << LAYER_SHIFT | file)
    }

    /// The number of a file that `stat` has seen.
    pub(super) fn real_number(&self, device: u64, ino: u64) -> InodeNo {
        let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        let place = devices.iter().position(|known| *known == device).unwrap_or_else(|| {
            devices.push(device);
            devices.len() - 1
        }) as u64;
        let fits = ino > InodeNo::ROOT.0 && ino < 1 << LAYER_SHIFT;
        match place {
            0 if fits => InodeNo(ino),
            1..0x1_0000 if fits => InodeNo(OTHER_DEVICE | place << LAYER_SHIFT | ino),
            _ => fold(place ^ ino.rotate_left(20)),
        }
    }

    /// The device that a layer's tree is on.
    pub(super) fn device(&self, layer: u16) -> u64 {
        self.layers.get(usize::from(layer)).map_or(0, |layer| layer.device)
    }

    /// All names of the file behind a record, as parts.
    pub(super) fn names(&self, part: Part) -> Vec<Part> {
        let Some(record) = self.record(part) else { return Vec::new() };
        let group = record.link_group();
        let Some(layer) = self.layers.get(usize::from(part.layer)).filter(|_| group != 0) else { return vec![part] };
        let links = layer.links.get_or_init(|| {
            let mut links: HashMap<u32, Vec<u32>> = HashMap::new();
            let index = layer.index.as_ref();
            let records = index.into_iter().flat_map(|index| (0..index.len()).filter_map(|at| index.record(at)));
            for record in records.filter(|record| record.link_group() != 0) {
                links.entry(record.link_group()).or_default().push(record.number());
            }
            links
        });
        let records = links.get(&group).into_iter().flatten();
        records.map(|record| Part { layer: part.layer, record: *record }).collect()
    }

    /// What `stat` would show of a record, but for a directory's count of names.
    pub(super) fn attributes(&self, ino: InodeNo, record: Record<'_>) -> Option<Attributes> {
        let kind = file_kind(record.kind()?)?;
        let mtime = time(record.mtime().secs, i64::from(record.mtime().nanos));
        let Owner { uid, gid } = self.owners.in_container(record.uid(), record.gid());
        let (size, blocks) = match kind {
            FileKind::Directory => (4096, 8),
            FileKind::File => (record.size(), record.size().div_ceil(4096).saturating_mul(8)),
            _ => (record.size(), 0),
        };
        let nlink = if kind == FileKind::Directory { 2 } else { record.names().max(1) };
        let mode = record.mode() & 0o7777;
        Some(Attributes { ino, kind, mode, nlink, uid, gid, rdev: 0, size, blocks, atime: mtime, mtime, ctime: mtime })
    }

    /// The names on the way to a record, from the root down.
    ///
    /// # Errors
    /// `EIO` if the index is damaged.
    pub(super) fn path(&self, part: Part) -> nix::Result<Vec<&[u8]>> {
        let mut names = Vec::new();
        let mut at = self.record(part).ok_or(Errno::EIO)?;
        while at.number() != 0 {
            names.push(at.name());
            // Parents stand before their children: a damaged index cannot send us in a circle.
            at = at.parent().filter(|parent| parent.number() < at.number()).ok_or(Errno::EIO)?;
        }
        names.reverse();
        if names.iter().any(|name| matches!(*name, b"" | b"." | b"..") || name.contains(&b'/')) {
            return Err(Errno::EIO);
        }
        Ok(names)
    }

    /// True if there is one layer only.
    pub(super) fn is_alone(&self) -> bool {
        self.layers.len() == 1
    }

    /// Opens the file of a record. The tree never changes, so its path is what the index says; where that leads nowhere,
    /// the layer is damaged.
    pub(super) fn open(&self, part: Part, flags: OFlag) -> nix::Result<OwnedFd> {
        self.open_path(part, flags).map_err(|errno| match errno {
            Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::EXDEV => Errno::EIO,
            errno => errno,
        })
    }

    fn open_path(&self, part: Part, flags: OFlag) -> nix::Result<OwnedFd> {
        let layer = self.layers.get(usize::from(part.layer)).ok_or(Errno::EIO)?;
        let names = self.path(part)?;
        if names.is_empty() {
            return openat(&layer.dir, ".", flags | OFlag::O_CLOEXEC, Mode::empty());
        }
        let mut dir: Option<OwnedFd> = None;
        let mut rest = names.as_slice();
        loop {
            let mut len = 0;
            let fitting = rest.iter().take_while(|name| {
                len += name.len() + 1;
                len < PATH_MAX
            });
            let (now, later) = rest.split_at_checked(fitting.count()).ok_or(Errno::EIO)?;
            let path = now.join(&b'/');
            let from = dir.as_ref().map_or(layer.dir.as_fd(), |dir| dir.as_fd());
            if later.is_empty() {
                return open_beneath(from, &path, flags);
            }
            let next = open_beneath(from, &path, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
            dir = Some(next);
            rest = later;
        }
    }
}

fn open_beneath(dir: BorrowedFd<'_>, path: &[u8], flags: OFlag) -> nix::Result<OwnedFd> {
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    openat2(dir, path, OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve))
}

/// What a record stands for; `None` for a whiteout.
pub(super) fn file_kind(kind: Kind) -> Option<FileKind> {
    match kind {
        Kind::Directory => Some(FileKind::Directory),
        Kind::File => Some(FileKind::File),
        Kind::Symlink => Some(FileKind::Symlink),
        Kind::Fifo => Some(FileKind::Fifo),
        Kind::Whiteout => None,
    }
}

/// What `stat` has seen.
pub(super) fn stat_kind(stat: &FileStat) -> FileKind {
    match stat.st_mode & libc::S_IFMT {
        libc::S_IFDIR => FileKind::Directory,
        libc::S_IFLNK => FileKind::Symlink,
        libc::S_IFIFO => FileKind::Fifo,
        libc::S_IFSOCK => FileKind::Socket,
        libc::S_IFCHR => FileKind::CharDevice,
        libc::S_IFBLK => FileKind::BlockDevice,
        _ => FileKind::File,
    }
}

/// A number for what has none of its own, from whatever tells it apart.
pub(super) fn fold(seed: u64) -> InodeNo {
    let mut mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    InodeNo(mixed ^ mixed >> 31 | FOLDED)
}

pub(super) fn time(secs: i64, nanos: i64) -> SystemTime {
    let whole = Duration::from_secs(secs.unsigned_abs());
    let nanos = Duration::from_nanos(nanos.clamp(0, 999_999_999).unsigned_abs());
    let begin =
        if secs < 0 { SystemTime::UNIX_EPOCH.checked_sub(whole) } else { SystemTime::UNIX_EPOCH.checked_add(whole) };
    begin.and_then(|begin| begin.checked_add(nanos)).unwrap_or(SystemTime::UNIX_EPOCH)
}
