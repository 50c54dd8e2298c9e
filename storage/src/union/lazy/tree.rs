//! The tree that the layers make, as far as they have come.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::statvfs::fstatvfs;

use super::Places;
use super::ask;
use super::layer::{Contents, Facts, Layer};
use crate::layer::index::{Kind, NodeId, ROOT};
use crate::state::layout::create_dir;
use crate::union::attributes::{Attributes, Entry, FileKind, InodeNo, Statistics, xattr_list};
use crate::union::stack::{file_kind, time};
use crate::union::upper::Owners;

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// Nobody knows yet.
    Wait,
    /// There is none.
    Errno(Errno),
}

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

pub(super) type Answer<T> = Result<T, Stop>;

/// Where a file is: a layer, counted from the top, and a name in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    layer: usize,
    id: NodeId,
}

/// One name of a directory's listing.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    pub(super) name: Box<[u8]>,
    pub(super) ino: InodeNo,
    pub(super) kind: FileKind,
}

/// A directory that somebody has asked about.
#[derive(Debug)]
struct Directory {
    parent: InodeNo,
    name: Box<[u8]>,
    /// Where it lies, topmost first, as far as that is known.
    parts: Vec<Part>,
    /// The layer to ask next.
    next: usize,
    /// Nothing below shows.
    is_ended: bool,
    listing: Option<Rc<[Listed]>>,
}

/// Layers' ranges of numbers begin here.
const LAYER_SHIFT: u32 = 40;
/// Set in the number of a file with several names in a layer that was whole: the rest is its link group.
const GROUP: u64 = 1 << 39;
/// Set in the numbers of placeholders.
const PLACEHOLDER: u64 = 1 << 62;

/// Most files that are kept open.
const MAX_OPEN: usize = 512;

/// The tree.
#[derive(Debug)]
pub(super) struct LazyTree {
    places: Places,
    layers: Vec<Layer>,
    owners: Owners,
    directories: HashMap<InodeNo, Directory>,
    /// Files that are whole.
    open: HashMap<InodeNo, Rc<OwnedFd>>,
    /// What came before the rest of files.
    early: HashMap<InodeNo, Rc<OwnedFd>>,
    inotify: Inotify,
}

impl LazyTree {
    /// Begins to look.
    pub(super) fn new(places: Places) -> nix::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        create_dir(&places.notes).map_err(|_| Errno::ENOENT)?;
        create_dir(&places.layers).map_err(|_| Errno::ENOENT)?;
        // Before the rights to files end: what is made later below it may be written.
        create_dir(&ask::directory(&places.notes)).map_err(|_| Errno::ENOENT)?;
        for dir in [&places.notes, &places.layers] {
            inotify.add_watch(dir, AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CREATE)?;
        }
        let layers = places.names.iter().map(|name| Layer::new(name.clone())).collect();
        let owners = Owners::Mapped(places.ids.clone());
        let root = Directory {
            parent: InodeNo::ROOT,
            name: Box::default(),
            parts: Vec::new(),
            next: 0,
            is_ended: false,
            listing: None,
        };
        let directories = HashMap::from([(InodeNo::ROOT, root)]);
        let mut tree =
            Self { places, layers, owners, directories, open: HashMap::new(), early: HashMap::new(), inotify };
        tree.refresh();
        Ok(tree)
    }

    /// Readable when something may have come.
    pub(super) fn inotify(&self) -> &Inotify {
        &self.inotify
    }

    /// Forgets that something may have come: it is about to be looked for.
    pub(super) fn drain(&self) {
        while self.inotify.read_events().is_ok_and(|events| !events.is_empty()) {}
    }

    /// Looks for what has come, down to the first layer that is not complete: what lies below it does not show yet.
    pub(super) fn refresh(&mut self) {
        for layer in &mut self.layers {
            layer.refresh(&self.places, Some(&self.inotify));
            if !layer.is_complete {
                return;
            }
        }
    }

    /// What an archive has said that is not so any more.
    pub(super) fn contradiction(&self) -> Option<String> {
        self.layers.iter().find_map(Layer::contradiction).map(str::to_owned)
    }

    fn layer(&self, part: Part) -> Answer<&Layer> {
        self.layers.get(part.layer).ok_or(Stop::Errno(Errno::ESTALE))
    }

    fn facts(&self, part: Part) -> Answer<Facts> {
        // A layer that begins anew has not come as far again.
        self.layer(part)?.facts(part.id).ok_or(Stop::Wait)
    }

    fn number(&self, part: Part, facts: &Facts) -> Answer<InodeNo> {
        let position = (self.layers.len() - part.layer) as u64;
        let file = match self.layer(part)?.shared_number(part.id) {
            Some(group) => GROUP | u64::from(group),
            None => u64::from(facts.first) + 1,
        };
        Ok(InodeNo(position << LAYER_SHIFT | file))
    }

    fn part_of(&self, ino: InodeNo) -> Option<Part> {
        let position = usize::try_from(ino.0 >> LAYER_SHIFT).ok().filter(|position| *position > 0)?;
        let layer = self.layers.len().checked_sub(position)?;
        let id = NodeId::try_from((ino.0 & (GROUP - 1)).checked_sub(1)?).ok()?;
        if ino.0 & GROUP == 0 {
            return Some(Part { layer, id });
        }
        // Any name of the group is as good; asked seldom, since what is open stays open.
        let group = id + 1;
        let of = self.layers.get(layer)?;
        of.find_group(group).map(|id| Part { layer, id })
    }

    /// The `at`th part of a directory, if it has so many.
    fn part(&mut self, ino: InodeNo, at: usize) -> Answer<Option<Part>> {
        loop {
            let directory = self.directories.get(&ino).ok_or(Stop::Errno(Errno::ENOTDIR))?;
            if let Some(part) = directory.parts.get(at) {
                return Ok(Some(*part));
            }
            if directory.is_ended {
                return Ok(None);
            }
            self.extend(ino)?;
        }
    }

    /// Asks one more layer about a directory.
    fn extend(&mut self, ino: InodeNo) -> Answer<()> {
        let directory = self.directories.get(&ino).ok_or(Stop::Errno(Errno::ENOTDIR))?;
        let (next, parent) = (directory.next, directory.parent);
        // What a layer hides is known when all of it is.
        if self.layers.iter().take(next).any(|layer| !layer.is_complete) {
            return Err(Stop::Wait);
        }
        let hides = match directory.parts.last() {
            Some(last) if last.layer + 1 == next => self.facts(*last)?.is_opaque,
            _ => false,
        };
        let Some(layer) = self.layers.get(next).filter(|_| !hides) else {
            return self.advance(ino, |directory| directory.is_ended = true);
        };
        if !layer.is_begun() {
            return Err(Stop::Wait);
        }
        if ino == InodeNo::ROOT {
            return self.advance(ino, |directory| directory.parts.push(Part { layer: next, id: ROOT }));
        }
        let name = directory.name.clone();
        let in_parent = loop {
            let above = self.directories.get(&parent).ok_or(Stop::Errno(Errno::ESTALE))?;
            if above.next > next || above.is_ended {
                let is_cut = above.is_ended && above.next <= next;
                break above.parts.iter().find(|part| part.layer == next).copied().ok_or(is_cut);
            }
            self.extend(parent)?;
        };
        let (parent_id, layer) = match (in_parent, self.layers.get(next)) {
            (Ok(part), Some(layer)) => (part.id, layer),
            (Err(true), _) | (_, None) => return self.advance(ino, |directory| directory.is_ended = true),
            (Err(false), _) => return self.advance(ino, |_| {}),
        };
        let found = layer.child(parent_id, &name);
        let kind = found.and_then(|id| layer.facts(id)).map(|facts| facts.kind);
        match (found, kind) {
            (Some(id), Some(Kind::Directory)) => {
                self.advance(ino, |directory| directory.parts.push(Part { layer: next, id }))
            }
            (Some(_), _) => self.advance(ino, |directory| directory.is_ended = true),
            (None, _) if layer.is_complete => self.advance(ino, |_| {}),
            (None, _) => Err(Stop::Wait),
        }
    }

    fn advance(&mut self, ino: InodeNo, change: impl FnOnce(&mut Directory)) -> Answer<()> {
        let directory = self.directories.get_mut(&ino).ok_or(Stop::Errno(Errno::ENOTDIR))?;
        directory.next += 1;
        change(directory);
        Ok(())
    }

    /// What a name of a directory leads to, or that there is nothing.
    pub(super) fn lookup(&mut self, parent: InodeNo, name: &[u8]) -> Answer<Option<Entry>> {
        match self.find(parent, name) {
            Ok(Some(part)) => self.enter(parent, name, part).map(Some),
            Ok(None) => Ok(None),
            Err(Stop::Wait) => self.placeholder(parent, name).map(Some).ok_or(Stop::Wait),
            Err(stop) => Err(stop),
        }
    }

    fn find(&mut self, parent: InodeNo, name: &[u8]) -> Answer<Option<Part>> {
        if parent.0 & PLACEHOLDER != 0 {
            return Ok(None);
        }
        for at in 0.. {
            let Some(part) = self.part(parent, at)? else { break };
            let layer = self.layer(part)?;
            match layer.child(part.id, name) {
                Some(id) => {
                    let found = Part { layer: part.layer, id };
                    return Ok((self.facts(found)?.kind != Kind::Whiteout).then_some(found));
                }
                None if layer.is_complete => {}
                None => return Err(Stop::Wait),
            }
        }
        Ok(None)
    }

    /// Makes a name that was found one that is believed.
    fn enter(&mut self, parent: InodeNo, name: &[u8], part: Part) -> Answer<Entry> {
        let facts = self.facts(part)?;
        let ino = self.number(part, &facts)?;
        if facts.kind == Kind::Directory {
            self.directories.entry(ino).or_insert_with(|| Directory {
                parent,
                name: name.into(),
                parts: vec![part],
                next: part.layer + 1,
                is_ended: false,
                listing: None,
            });
        }
        let attributes = self.attributes(ino)?;
        if let Some(layer) = self.layers.get_mut(part.layer) {
            layer.believe(part.id);
        }
        Ok(Entry { attributes, generation: 0 })
    }

    /// What `stat` shows.
    pub(super) fn attributes(&mut self, ino: InodeNo) -> Answer<Attributes> {
        if ino.0 & PLACEHOLDER != 0 {
            return self.placeholder_attributes(ino);
        }
        let facts = if self.directories.contains_key(&ino) {
            self.described(ino)?
        } else {
            self.facts(self.part_of(ino).ok_or(Stop::Errno(Errno::ESTALE))?)?
        };
        let kind = file_kind(facts.kind).ok_or(Stop::Errno(Errno::EIO))?;
        let mtime = time(facts.mtime.secs, i64::from(facts.mtime.nanos));
        let owner = self.owners.in_container(facts.uid, facts.gid);
        let (size, blocks, nlink) = match kind {
            // Subdirectories are not counted: not all may be known.
            FileKind::Directory => (4096, 8, 1),
            FileKind::File => (facts.size, facts.size.div_ceil(4096).saturating_mul(8), facts.names.max(1)),
            _ => (facts.size, 0, facts.names.max(1)),
        };
        Ok(Attributes {
            ino,
            kind,
            mode: facts.mode & 0o7777,
            nlink,
            uid: owner.uid,
            gid: owner.gid,
            rdev: 0,
            size,
            blocks,
            atime: mtime,
            mtime,
            ctime: mtime,
        })
    }

    /// The topmost part of a directory that an archive has described.
    fn described(&mut self, ino: InodeNo) -> Answer<Facts> {
        let mut first = None;
        for at in 0.. {
            let part = match self.part(ino, at) {
                Ok(Some(part)) => part,
                Ok(None) => break,
                // Nobody sees the root of the layers but through the container's own.
                Err(Stop::Wait) if ino == InodeNo::ROOT => break,
                Err(stop) => return Err(stop),
            };
            let facts = self.facts(part)?;
            if !facts.is_implicit {
                return Ok(facts);
            }
            // It may be described later.
            if ino != InodeNo::ROOT && !self.layer(part)?.is_complete {
                return Err(Stop::Wait);
            }
            first.get_or_insert(facts);
        }
        Ok(first.unwrap_or(Facts {
            kind: Kind::Directory,
            is_opaque: false,
            is_implicit: true,
            mode: 0o755,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: crate::layer::tar::Timestamp::default(),
            first: ROOT,
            names: 1,
        }))
    }

    pub(super) fn read_link(&self, ino: InodeNo) -> Answer<Vec<u8>> {
        let part = self.part_of(ino).ok_or(Stop::Errno(Errno::EINVAL))?;
        match self.facts(part)?.kind {
            Kind::Symlink => Ok(self.layer(part)?.target(part.id)),
            _ => Err(Errno::EINVAL.into()),
        }
    }

    /// Some bytes of a file, open for reading where they are; there is nothing behind its end.
    pub(super) fn data(&mut self, ino: InodeNo, offset: u64, len: u64) -> Answer<Rc<OwnedFd>> {
        if let Some(open) = self.open.get(&ino) {
            return Ok(Rc::clone(open));
        }
        let part = self.part_of(ino).ok_or(Stop::Errno(Errno::ESTALE))?;
        let facts = self.facts(part)?;
        match facts.kind {
            Kind::File => {}
            Kind::Directory => return Err(Errno::EISDIR.into()),
            _ => return Err(Errno::EINVAL.into()),
        }
        let wanted = offset.min(facts.size)..offset.saturating_add(len).min(facts.size);
        // One file may be known by several names, of which any may have come first.
        match self.layer(part)?.contents(part.id, wanted.clone()) {
            Contents::Tree => self.keep_open(ino, |layer| layer.open(part.id), part),
            Contents::Early => self.open_early(ino, part),
            Contents::Awaited => {
                if let Some(layer) = self.layers.get_mut(part.layer) {
                    layer.ask(part.id, wanted);
                }
                Err(Stop::Wait)
            }
        }
    }

    fn keep_open(
        &mut self,
        ino: InodeNo,
        open: impl Fn(&Layer) -> nix::Result<OwnedFd>,
        part: Part,
    ) -> Answer<Rc<OwnedFd>> {
        let opened = match open(self.layer(part)?) {
            Err(Errno::EMFILE | Errno::ENFILE) if !self.open.is_empty() => {
                self.open.clear();
                self.early.clear();
                open(self.layer(part)?)
            }
            opened => opened,
        };
        let file = Rc::new(opened.map_err(|errno| match errno {
            // Its puller was killed and the rest swept: another one brings it again, unless nobody does.
            Errno::ENOENT => Stop::Wait,
            errno => Stop::Errno(errno),
        })?);
        if self.open.len() >= MAX_OPEN {
            self.open.clear();
        }
        self.early.remove(&ino);
        self.open.insert(ino, Rc::clone(&file));
        Ok(file)
    }

    /// What came early of a file; not kept among what is whole.
    fn open_early(&mut self, ino: InodeNo, part: Part) -> Answer<Rc<OwnedFd>> {
        if let Some(open) = self.early.get(&ino) {
            return Ok(Rc::clone(open));
        }
        let opened = self.layer(part)?.open_early(part.id);
        let file = Rc::new(opened.map_err(|errno| match errno {
            Errno::ENOENT => Stop::Wait,
            errno => Stop::Errno(errno),
        })?);
        if self.early.len() >= MAX_OPEN {
            self.early.clear();
        }
        self.early.insert(ino, Rc::clone(&file));
        Ok(file)
    }

    /// Whether all of a file is here.
    pub(super) fn is_here(&self, ino: InodeNo) -> Answer<bool> {
        let part = self.part_of(ino).ok_or(Stop::Errno(Errno::ESTALE))?;
        Ok(self.layer(part)?.contents(part.id, 0..u64::MAX) == Contents::Tree)
    }

    /// The names of a directory, all of them.
    pub(super) fn list(&mut self, ino: InodeNo) -> Answer<Rc<[Listed]>> {
        if ino.0 & PLACEHOLDER != 0 {
            return Ok(Rc::from([]));
        }
        let directory = self.directories.get(&ino).ok_or(Stop::Errno(Errno::ENOTDIR))?;
        if let Some(listing) = &directory.listing {
            return Ok(Rc::clone(listing));
        }
        let mut names: BTreeMap<Box<[u8]>, Option<Part>> = BTreeMap::new();
        for at in 0.. {
            let Some(part) = self.part(ino, at)? else { break };
            let layer = self.layer(part)?;
            if !layer.is_complete {
                return Err(Stop::Wait);
            }
            for id in layer.children(part.id) {
                let found = Part { layer: part.layer, id };
                let is_whiteout = self.facts(found)?.kind == Kind::Whiteout;
                names.entry(layer.name(id).into()).or_insert((!is_whiteout).then_some(found));
            }
        }
        let mut listing = Vec::new();
        for (name, part) in names {
            let Some(part) = part else { continue };
            let facts = self.facts(part)?;
            let Some(kind) = file_kind(facts.kind) else { continue };
            listing.push(Listed { name, ino: self.number(part, &facts)?, kind });
        }
        let listing: Rc<[Listed]> = listing.into();
        self.keep_listing(ino, &listing);
        Ok(listing)
    }

    /// Keeps one listing: a directory is listed piece by piece.
    fn keep_listing(&mut self, ino: InodeNo, listing: &Rc<[Listed]>) {
        for directory in self.directories.values_mut() {
            directory.listing = None;
        }
        if let Some(directory) = self.directories.get_mut(&ino) {
            directory.listing = Some(Rc::clone(listing));
        }
    }

    pub(super) fn parent(&self, ino: InodeNo) -> InodeNo {
        self.directories.get(&ino).map_or(InodeNo::ROOT, |directory| directory.parent)
    }

    pub(super) fn xattr(&mut self, ino: InodeNo, name: &[u8]) -> Answer<Vec<u8>> {
        let Some(part) = self.part_for_xattrs(ino)? else { return Err(Errno::ENODATA.into()) };
        Ok(self.owners.told_xattr(self.layer(part)?.xattrs(part.id), name)?)
    }

    pub(super) fn xattr_names(&mut self, ino: InodeNo) -> Answer<Vec<u8>> {
        let Some(part) = self.part_for_xattrs(ino)? else { return Ok(Vec::new()) };
        Ok(xattr_list(self.layer(part)?.xattrs(part.id).into_iter().map(|(name, _)| name)))
    }

    fn part_for_xattrs(&mut self, ino: InodeNo) -> Answer<Option<Part>> {
        if ino.0 & PLACEHOLDER != 0 {
            return Ok(None);
        }
        if ino == InodeNo::ROOT {
            return Ok(self.directories.get(&ino).and_then(|root| root.parts.first().copied()));
        }
        if self.directories.contains_key(&ino) {
            return self.part(ino, 0);
        }
        self.part_of(ino).map(Some).ok_or(Stop::Errno(Errno::ESTALE))
    }

    pub(super) fn statistics(&self) -> Answer<Statistics> {
        let stat = match self.layers.iter().find_map(Layer::dir) {
            Some(dir) => fstatvfs(dir)?,
            None => nix::sys::statvfs::statvfs(&self.places.layers)?,
        };
        Ok(Statistics::of(&stat))
    }

    /// What stands for a name that something will be mounted over.
    fn placeholder(&self, parent: InodeNo, name: &[u8]) -> Option<Entry> {
        let mut path = name.to_vec();
        let mut at = parent;
        while at != InodeNo::ROOT {
            let directory = self.directories.get(&at)?;
            path.splice(..0, [&*directory.name, b"/"].concat());
            at = directory.parent;
        }
        let number = self.places.covered.iter().position(|(known, _)| *known == path)?;
        let attributes = self.placeholder_attributes(InodeNo(PLACEHOLDER | number as u64)).ok()?;
        Some(Entry { attributes, generation: 0 })
    }

    fn placeholder_attributes(&self, ino: InodeNo) -> Answer<Attributes> {
        let number = usize::try_from(ino.0 & !PLACEHOLDER).unwrap_or(usize::MAX);
        let (_, is_directory) = self.places.covered.get(number).ok_or(Stop::Errno(Errno::ESTALE))?;
        let (kind, mode) = if *is_directory { (FileKind::Directory, 0o755) } else { (FileKind::File, 0o644) };
        let mtime = time(0, 0);
        let (nlink, uid, gid, rdev, size, blocks) = (1, 0, 0, 0, 0, 0);
        Ok(Attributes { ino, kind, mode, nlink, uid, gid, rdev, size, blocks, atime: mtime, mtime, ctime: mtime })
    }

    /// Whether a number is that of a placeholder.
    pub(super) fn is_placeholder(ino: InodeNo) -> bool {
        ino.0 & PLACEHOLDER != 0
    }
}
