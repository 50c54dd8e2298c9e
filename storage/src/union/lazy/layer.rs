//! One layer, as far as it has come.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::inotify::{AddWatchFlags, Inotify};
use nix::sys::stat::Mode;

use super::Places;
use super::ask::Asking;
use super::note;
use crate::layer::index::{Index, Kind, NodeId};
use crate::layer::journal::Table;
use crate::layer::staging::{EARLY, JOURNAL};
use crate::layer::tar::Timestamp;

/// Most bytes of a journal that are read in one piece.
const PIECE: usize = 64 << 10;

/// One layer.
#[derive(Debug)]
pub(super) struct Layer {
    name: String,
    /// Its tree, as soon as there is one.
    dir: Option<OwnedFd>,
    names: Names,
    /// The journal that is being read, and the temporary directory it is in.
    journal: Option<(File, String)>,
    /// All names are known.
    pub(super) is_complete: bool,
    /// It has its final name, or all of it is in the tree.
    is_whole: bool,
    /// Where contents lie that came before the rest, and who is asked for them.
    early: Option<Early>,
    /// One name of each file with several, in a layer that was whole; made when first asked for.
    groups: OnceCell<HashMap<u32, NodeId>>,
}

/// Contents that come before the rest.
#[derive(Debug)]
struct Early {
    dir: OwnedFd,
    asked: Asking,
}

/// Where some bytes of a file are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Contents {
    /// In the layer's tree, with all others of the file.
    Tree,
    /// Among what came early.
    Early,
    /// Nowhere yet.
    Awaited,
}

/// Where its names come from.
#[derive(Debug)]
enum Names {
    Unknown,
    /// It came while we looked.
    Table(Box<Table>),
    /// It was there.
    Index(Index),
}

/// What is known of one name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    pub(super) kind: Kind,
    pub(super) is_opaque: bool,
    pub(super) is_implicit: bool,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size: u64,
    pub(super) mtime: Timestamp,
    /// Which name stands for the file, and how many it has.
    pub(super) first: NodeId,
    pub(super) names: u32,
}

impl Layer {
    pub(super) fn new(name: String) -> Self {
        Self {
            name,
            dir: None,
            names: Names::Unknown,
            journal: None,
            is_complete: false,
            is_whole: false,
            early: None,
            groups: OnceCell::new(),
        }
    }

    /// Looks for what has come.
    pub(super) fn refresh(&mut self, places: &Places, inotify: Option<&Inotify>) {
        if self.is_whole {
            return;
        }
        // First: what is published now has been told before.
        let whole = places.layers.join(&self.name);
        let is_published = whole.join("diff").is_dir();
        self.read_journal();
        if is_published {
            self.adopt(&whole);
        } else if !self.is_whole {
            self.find_journal(places, inotify);
        }
    }

    fn find_journal(&mut self, places: &Places, inotify: Option<&Inotify>) {
        let Some(directory) = note::read(&places.notes, &self.name) else { return };
        if self.journal.as_ref().is_some_and(|(_, known)| *known == directory) {
            return;
        }
        let path = places.layers.join(&directory);
        let Ok(file) = File::open(path.join(JOURNAL)) else { return };
        let Some(dir) = open_dir(&path.join("tree/diff")) else { return };
        if let Some(inotify) = inotify {
            // Before it is read: what comes later wakes us.
            let _ = inotify.add_watch(&path.join(JOURNAL), AddWatchFlags::IN_MODIFY);
        }
        // The same archive tells the same ids, so what was answered from an earlier journal holds.
        self.names = Names::Table(Box::default());
        self.is_complete = false;
        self.dir = Some(dir);
        self.early = open_dir(&path.join(EARLY)).map(|dir| Early { dir, asked: Asking::at(&places.notes, &directory) });
        self.journal = Some((file, directory));
        self.read_journal();
    }

    fn read_journal(&mut self) {
        let (Some((file, _)), Names::Table(table)) = (&mut self.journal, &mut self.names) else { return };
        let mut piece = vec![0; PIECE];
        while let Ok(len) = file.read(&mut piece)
            && len > 0
        {
            table.feed(piece.get(..len).unwrap_or_default());
        }
        if table.is_complete {
            self.is_complete = true;
            self.is_whole = !table.is_apart;
        }
    }

    /// The layer has its final name.
    fn adopt(&mut self, whole: &Path) {
        let (Some(dir), Ok(index)) = (open_dir(&whole.join("diff")), Index::open(&whole.join("index"))) else { return };
        match &mut self.names {
            Names::Table(table) => {
                if !table.is_complete {
                    // Its unpacker was killed, and somebody else did it without telling.
                    table.complete_from(&index);
                }
            }
            names => *names = Names::Index(index),
        }
        self.dir = Some(dir);
        (self.is_complete, self.is_whole) = (true, true);
        self.early = None;
    }

    /// What an archive says twice.
    pub(super) fn contradiction(&self) -> Option<&str> {
        match &self.names {
            Names::Table(table) => table.contradiction.as_deref(),
            _ => None,
        }
    }

    /// Whether anything is known.
    pub(super) fn is_begun(&self) -> bool {
        !matches!(self.names, Names::Unknown)
    }

    pub(super) fn child(&self, parent: NodeId, name: &[u8]) -> Option<NodeId> {
        match &self.names {
            Names::Unknown => None,
            Names::Table(table) => table.child(parent, name),
            Names::Index(index) => index.record(parent)?.child(name).map(|record| record.number()),
        }
    }

    pub(super) fn children(&self, id: NodeId) -> Vec<NodeId> {
        match &self.names {
            Names::Unknown => Vec::new(),
            Names::Table(table) => table.children(id).to_vec(),
            Names::Index(index) => {
                index.record(id).into_iter().flat_map(|record| record.children()).map(|child| child.number()).collect()
            }
        }
    }

    pub(super) fn name(&self, id: NodeId) -> &[u8] {
        match &self.names {
            Names::Unknown => b"",
            Names::Table(table) => table.name(id),
            Names::Index(index) => index.record(id).map_or(b"", |record| record.name()),
        }
    }

    pub(super) fn facts(&self, id: NodeId) -> Option<Facts> {
        match &self.names {
            Names::Unknown => None,
            Names::Table(table) => {
                let node = table.node(id)?;
                let (first, names) = table.group(node.link_group).unwrap_or((id, 1));
                Some(Facts {
                    kind: node.kind,
                    is_opaque: node.is_opaque,
                    is_implicit: node.is_implicit,
                    mode: u32::from(node.mode),
                    uid: node.uid,
                    gid: node.gid,
                    size: if node.kind == Kind::Symlink { node.target().len() as u64 } else { node.size },
                    mtime: node.mtime(),
                    first,
                    names,
                })
            }
            Names::Index(index) => {
                let record = index.record(id)?;
                Some(Facts {
                    kind: record.kind()?,
                    is_opaque: record.is_opaque(),
                    is_implicit: record.is_implicit(),
                    mode: record.mode(),
                    uid: record.uid(),
                    gid: record.gid(),
                    size: record.size(),
                    mtime: record.mtime(),
                    first: record.number(),
                    names: record.names(),
                })
            }
        }
    }

    /// The number that names of one file share, where that is not the number of one of them.
    pub(super) fn shared_number(&self, id: NodeId) -> Option<u32> {
        match &self.names {
            Names::Index(index) => index.record(id).map(|record| record.link_group()).filter(|group| *group != 0),
            _ => None,
        }
    }

    /// A name of the file that has this number.
    pub(super) fn find_group(&self, group: u32) -> Option<NodeId> {
        let Names::Index(index) = &self.names else { return None };
        let groups = self.groups.get_or_init(|| {
            let records = (0..index.len()).filter_map(|number| index.record(number));
            let grouped = records.filter(|record| record.link_group() != 0);
            grouped.map(|record| (record.link_group(), record.number())).collect()
        });
        groups.get(&group).copied()
    }

    pub(super) fn target(&self, id: NodeId) -> Vec<u8> {
        match &self.names {
            Names::Unknown => Vec::new(),
            Names::Table(table) => table.node(id).map(|node| node.target().to_vec()).unwrap_or_default(),
            Names::Index(index) => index.record(id).map(|record| record.target().to_vec()).unwrap_or_default(),
        }
    }

    pub(super) fn xattrs(&self, id: NodeId) -> Vec<(&[u8], &[u8])> {
        match &self.names {
            Names::Unknown => Vec::new(),
            Names::Table(table) => {
                let all = table.node(id).into_iter().flat_map(|node| node.xattrs());
                all.map(|(name, value)| (name.as_slice(), value.as_slice())).collect()
            }
            Names::Index(index) => index.record(id).into_iter().flat_map(|record| record.xattrs()).collect(),
        }
    }

    /// Somebody believes a name from now on.
    pub(super) fn believe(&mut self, id: NodeId) {
        if let Names::Table(table) = &mut self.names {
            table.believe(id);
        }
    }

    /// Where these bytes of a file are.
    pub(super) fn contents(&self, id: NodeId, wanted: Range<u64>) -> Contents {
        match &self.names {
            _ if self.is_whole => Contents::Tree,
            Names::Table(table) if !table.is_here(id) => match table.has_early(id, wanted) {
                true => Contents::Early,
                false => Contents::Awaited,
            },
            _ => Contents::Tree,
        }
    }

    /// Asks for bytes of a file before the rest.
    pub(super) fn ask(&mut self, id: NodeId, wanted: Range<u64>) {
        if let Some(early) = &mut self.early {
            early.asked.ask(id, wanted);
        }
    }

    /// Opens what came early of a file.
    pub(super) fn open_early(&self, id: NodeId) -> nix::Result<OwnedFd> {
        let early = self.early.as_ref().ok_or(Errno::ENOENT)?;
        open_beneath(&early.dir, &[id.to_string().as_bytes()], READ)
    }

    /// Opens the file behind a name, nothing but what the names on the way say.
    pub(super) fn open(&self, id: NodeId) -> nix::Result<OwnedFd> {
        let dir = self.dir.as_ref().ok_or(Errno::ENOENT)?;
        let path = match &self.names {
            Names::Unknown => return Err(Errno::ENOENT),
            Names::Table(table) => table.path(id),
            Names::Index(index) => {
                let mut names = Vec::new();
                let mut at = index.record(id).ok_or(Errno::EIO)?;
                while at.number() != 0 {
                    names.push(at.name());
                    at = at.parent().filter(|parent| parent.number() < at.number()).ok_or(Errno::EIO)?;
                }
                names.reverse();
                names
            }
        };
        if path.iter().any(|name| matches!(*name, b"" | b"." | b"..") || name.contains(&b'/')) {
            return Err(Errno::EIO);
        }
        let open = |flags| open_beneath(dir, &path, flags);
        match open(READ | OFlag::O_NOATIME) {
            Err(Errno::EPERM) => open(READ),
            other => other,
        }
    }

    /// Its tree, for `statfs`.
    pub(super) fn dir(&self) -> Option<&OwnedFd> {
        self.dir.as_ref()
    }
}

const READ: OFlag = OFlag::O_RDONLY.union(OFlag::O_NONBLOCK).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// Names in one call go up to this length together.
const PATH_BYTES: usize = 3000;

fn open_beneath(dir: &OwnedFd, path: &[&[u8]], flags: OFlag) -> nix::Result<OwnedFd> {
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let open = |dir: std::os::fd::BorrowedFd<'_>, path: &[&[u8]], flags| {
        openat2(dir, path.join(&b'/').as_slice(), OpenHow::new().flags(flags).resolve(resolve))
    };
    let mut at: Option<OwnedFd> = None;
    let mut rest = path;
    loop {
        let mut len = 0;
        let fitting = rest.iter().take_while(|name| {
            len += name.len() + 1;
            len < PATH_BYTES
        });
        let (now, later) = rest.split_at_checked(fitting.count()).ok_or(Errno::EIO)?;
        let from = at.as_ref().map_or(dir.as_fd(), AsFd::as_fd);
        if later.is_empty() {
            return open(from, now, flags);
        }
        let next = open(from, now, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)?;
        at = Some(next);
        rest = later;
    }
}

fn open_dir(path: &Path) -> Option<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(nix::fcntl::AT_FDCWD, path, flags, Mode::empty()).ok()
}
