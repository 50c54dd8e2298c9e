//! What is behind a name, and what `stat` shows of it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{FileStat, fstat};

use super::attributes::{Attributes, Entry, FileKind, InodeNo};
use super::handles::{OWN, in_layer};
use super::inode_table::{More, Node, Places, Seed, State};
use super::listing::Below;
use super::stack::{Part, Stack, file_kind, fold, stat_kind};
use super::tree::{Tree, stat_at};
use super::upper::Marks;
use crate::whiteout;

/// Longest name of any file system that an upper can lie on.
pub(super) const NAME_MAX: usize = 255;

/// Most directories of layers without index that a lookup leaves open.
const KEPT_OPEN: usize = 8;

/// What a name leads to.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) kind: FileKind,
    /// The file in the upper.
    pub(super) upper: Option<(FileStat, Marks)>,
    /// The same, open, if it is a directory that was looked at.
    pub(super) dir: Option<OwnedFd>,
    /// The topmost part in the lower layers and, of a directory, all others.
    pub(super) part: Part,
    pub(super) rest: Vec<Part>,
    /// What the disk says of the topmost part in a layer without index.
    pub(super) lower: Option<(FileStat, Marks)>,
    /// Directories in layers without index that were opened on the way.
    lower_dirs: Vec<(u16, OwnedFd)>,
}

impl Found {
    pub(super) fn nothing() -> Self {
        let (part, rest) = (Part::NONE, Vec::new());
        Self { kind: FileKind::File, upper: None, dir: None, part, rest, lower: None, lower_dirs: Vec::new() }
    }

    /// A file of the upper without anything below.
    pub(super) fn in_upper(kind: FileKind, stat: FileStat, marks: Marks) -> Self {
        Self { kind, upper: Some((stat, marks)), ..Self::nothing() }
    }

    fn push(&mut self, part: Part) {
        if self.part.is_none() { self.part = part } else { self.rest.push(part) }
    }

    pub(super) fn has_any(&self) -> bool {
        self.upper.is_some() || !self.part.is_none()
    }
}

impl Tree {
    pub(super) fn lookup(&self, parent: InodeNo, name: &[u8]) -> nix::Result<Entry> {
        check_name(name)?;
        let parent = self.directory(parent)?;
        let _names = self.names();
        let found = self.find(&parent, name, false)?.ok_or(Errno::ENOENT)?;
        self.enter(&parent, name, found).map(|(_, entry)| entry)
    }

    /// What a name of a directory leads to. `changes` says that the caller holds the directory's lock.
    pub(super) fn find(&self, parent: &Arc<Node>, name: &[u8], changes: bool) -> nix::Result<Option<Found>> {
        let (places, is_there) = {
            let state = parent.lock();
            (state.places(), state.has_name() || parent.ino == InodeNo::ROOT)
        };
        if !is_there {
            return Ok(None);
        }
        let is_gathered = Self::is_gathered(&places);
        let mut found = Found::nothing();
        let mut first = 1;
        let mut below = Below::UNKNOWN;
        if is_gathered || places.in_upper && places.has_lower() {
            let slot = self.listed(parent, &places, name, changes)?;
            if let Some(slot) = slot.as_ref().filter(|_| is_gathered) {
                below = slot.below;
            }
            match slot {
                Some(slot) if slot.kind.is_none() => return Ok(None),
                Some(slot) if slot.place == 0 && self.find_in_upper(parent, name, &mut found)? => {
                    return Ok(found.has_any().then_some(found));
                }
                Some(slot) => first = slot.place.max(1),
                None if is_gathered => return Ok(None),
                None => {}
            }
        } else if places.in_upper {
            if let Some(known) = self.listed_already(parent, name)
                && known.is_none_or(|slot| slot.kind.is_none())
            {
                return Ok(None);
            }
            self.find_in_upper(parent, name, &mut found)?;
            return Ok(found.has_any().then_some(found));
        }
        let is_topmost_known = is_gathered && !found.has_any();
        for (at, part) in places.parts().enumerate().skip(usize::from(first) - 1) {
            let place = at as u16 + 1;
            let is_end = match self.stack.record(part) {
                Some(dir) => self.find_in_index(part, dir.child(name), &mut found),
                None => match if is_topmost_known && place == first { Some(true) } else { below.has(place) } {
                    Some(true) => self.find_listed(parent, part, name, below.is_last(place), &mut found)?,
                    Some(false) => false,
                    None => self.find_in_tree(parent, part, name, &mut found)?,
                },
            };
            // What the listing knows to lie behind a file or a whiteout does not show.
            if is_end || below.is_last(place) {
                break;
            }
        }
        Ok(found.has_any().then_some(found))
    }

    /// True if nothing below matters any more.
    fn find_in_upper(&self, parent: &Arc<Node>, name: &[u8], found: &mut Found) -> nix::Result<bool> {
        let dir = self.upper_dir(parent)?;
        let stat = match stat_at(dir.fd.as_fd(), name) {
            Err(Errno::ENOENT) => return Ok(false),
            result => result?,
        };
        if whiteout::is_whiteout_device(&stat) {
            return Ok(true);
        }
        found.kind = stat_kind(&stat);
        let mut marks = Marks::default();
        if found.kind == FileKind::Directory {
            let fd = self.open_directory_at(dir.fd.as_fd(), name)?;
            marks = Marks::read(fd.as_fd(), &stat)?;
            found.dir = Some(fd);
        } else if found.kind == FileKind::File && (self.single || self.needs_marks(parent, &stat)?) {
            let fd = self.open_at(dir.fd.as_fd(), name, OFlag::O_PATH | OFlag::O_NOFOLLOW)?;
            marks = Marks::read(fd.as_fd(), &stat)?;
            if marks.is_whiteout {
                return Ok(true);
            }
        }
        let ends = found.kind != FileKind::Directory || marks.is_opaque;
        if self.single {
            found.kind = self.upper()?.owners().recorded(&stat, &marks).kind;
        }
        found.upper = Some((stat, marks));
        Ok(ends)
    }

    fn needs_marks(&self, parent: &Arc<Node>, stat: &FileStat) -> nix::Result<bool> {
        let facts = self.facts(parent)?;
        Ok(facts.is_impure || facts.may_have_whiteout_files && stat.st_size == 0)
    }

    /// What a record leads to that is the topmost of its name, in the part of `places` that is the `at`th.
    pub(super) fn found_record(&self, places: &Places, at: usize, part: Part) -> Option<Found> {
        let record = self.stack.record(part)?;
        let mut found = Found::nothing();
        let mut is_end = self.find_in_index(part, Some(record), &mut found);
        for below in places.parts().skip(at + 1) {
            if is_end {
                break;
            }
            is_end = self.find_in_index(below, self.stack.record(below)?.child(record.name()), &mut found);
        }
        found.has_any().then_some(found)
    }

    pub(super) fn find_in_index(
        &self,
        part: Part,
        child: Option<crate::layer::index::Record<'_>>,
        found: &mut Found,
    ) -> bool {
        let Some(child) = child else { return false };
        let Some(kind) = child.kind().and_then(file_kind) else { return true };
        let is_directory = kind == FileKind::Directory;
        if !found.has_any() {
            found.kind = kind;
        } else if !is_directory {
            return true;
        }
        found.push(Stack::part(part, child));
        !is_directory || child.is_opaque()
    }

    /// A name that a layer without index has, which hides nothing by itself.
    fn find_listed(
        &self,
        parent: &Arc<Node>,
        part: Part,
        name: &[u8],
        is_last: bool,
        found: &mut Found,
    ) -> nix::Result<bool> {
        let dir = self.lower_dir(parent, part.layer)?;
        let dir = dir.fd.as_fd();
        let stat = match stat_at(dir, name) {
            Err(Errno::ENOENT) => return Ok(false),
            result => result?,
        };
        if !found.has_any() {
            return self.found_in_tree(dir, part, name, stat, is_last, found);
        }
        // A file below a directory hides the directories below the file.
        if stat_kind(&stat) != FileKind::Directory {
            return Ok(true);
        }
        self.merge_directory(dir, part, name, is_last, found)
    }

    /// A name that a layer without index may have, or hide.
    pub(super) fn find_in_tree(
        &self,
        parent: &Arc<Node>,
        part: Part,
        name: &[u8],
        found: &mut Found,
    ) -> nix::Result<bool> {
        let dir = self.lower_dir(parent, part.layer)?;
        let dir = dir.fd.as_fd();
        let stat = match stat_at(dir, name) {
            Err(Errno::ENOENT) => return self.is_hidden_in_tree(dir, name),
            result => result?,
        };
        if whiteout::is_whiteout_device(&stat) || self.is_hidden_in_tree(dir, name)? {
            return Ok(true);
        }
        let kind = stat_kind(&stat);
        if kind == FileKind::File && stat.st_size == 0 && self.lower_marks(dir, name)?.is_whiteout {
            return Ok(true);
        }
        if !found.has_any() {
            return self.found_in_tree(dir, part, name, stat, false, found);
        }
        if kind != FileKind::Directory {
            return Ok(true);
        }
        self.merge_directory(dir, part, name, false, found)
    }

    /// The topmost file of a name.
    fn found_in_tree(
        &self,
        dir: BorrowedFd<'_>,
        part: Part,
        name: &[u8],
        stat: FileStat,
        is_last: bool,
        found: &mut Found,
    ) -> nix::Result<bool> {
        let kind = stat_kind(&stat);
        let is_directory = kind == FileKind::Directory;
        let needs_marks = self.single && matches!(kind, FileKind::File | FileKind::Directory);
        let marks = if needs_marks { self.lower_marks(dir, name)? } else { Marks::default() };
        found.kind = self.lower_owners.recorded(&stat, &marks).kind;
        found.lower = Some((stat, marks));
        if !is_directory {
            found.push(part);
            return Ok(true);
        }
        self.merge_directory(dir, part, name, is_last, found)
    }

    /// One more part of a directory; true if it hides all that is below.
    fn merge_directory(
        &self,
        dir: BorrowedFd<'_>,
        part: Part,
        name: &[u8],
        is_last: bool,
        found: &mut Found,
    ) -> nix::Result<bool> {
        found.push(part);
        if is_last {
            return Ok(true);
        }
        let fd = self.open_directory_at(dir, name)?;
        let is_opaque = Marks::read(fd.as_fd(), &fstat(&fd)?)?.is_opaque;
        let is_opaque = is_opaque || stat_at(fd.as_fd(), whiteout::tar_opaque()).is_ok();
        // Not hundreds at once.
        if found.lower_dirs.len() < KEPT_OPEN {
            found.lower_dirs.push((part.layer, fd));
        }
        Ok(is_opaque)
    }

    fn is_hidden_in_tree(&self, dir: BorrowedFd<'_>, name: &[u8]) -> nix::Result<bool> {
        match stat_at(dir, &whiteout::tar_whiteout(name)) {
            Ok(_) => Ok(true),
            Err(Errno::ENOENT | Errno::ENAMETOOLONG) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    /// The node behind a name, with one more reference, and what `stat` shows of it.
    pub(super) fn enter(&self, parent: &Arc<Node>, name: &[u8], found: Found) -> nix::Result<(Arc<Node>, Entry)> {
        let (upper, lower, part) = (found.upper, found.lower, found.part);
        let node = self.claim(parent, name, found)?;
        let attributes = || {
            let record = if part.is_none() { None } else { self.stack.record(part) };
            let mut attributes = match (&upper, &lower, record) {
                (Some((stat, marks)), _, _) => self.upper()?.owners().attributes(node.ino, stat, marks),
                (None, _, Some(record)) => {
                    let best = self.described(&node, record);
                    self.stack.attributes(node.ino, best).ok_or(Errno::EIO)?
                }
                (None, Some((stat, marks)), None) => self.lower_owners.attributes(node.ino, stat, marks),
                (None, None, None) => return Err(Errno::EIO),
            };
            self.count_names(&node, &mut attributes)?;
            Ok(attributes)
        };
        match attributes() {
            Ok(attributes) => Ok((node, Entry { attributes, generation: 0 })),
            Err(errno) => {
                self.forget(node.ino, 1);
                Err(errno)
            }
        }
    }

    /// The node behind a name, with one more reference.
    pub(super) fn claim(&self, parent: &Arc<Node>, name: &[u8], found: Found) -> nix::Result<Arc<Node>> {
        let Found { kind, upper, dir, part, rest, lower, lower_dirs } = found;
        let upper_number = match &upper {
            Some((stat, _)) => self.stack.real_number(stat.st_dev, stat.st_ino),
            None => InodeNo(0),
        };
        let is_directory = kind == FileKind::Directory;
        let record = if part.is_none() { None } else { self.stack.record(part) };
        let own_number = match (&upper, &lower, record) {
            // What was copied up keeps its number, and a merged directory has that of what lies below.
            (Some(_), _, Some(record)) if is_directory => self.stack.number(part, record),
            (Some((_, marks)), _, _) => {
                let origin = marks.origin.filter(|origin| origin.0 > 1);
                self.table.aliased(upper_number).or(origin).unwrap_or(upper_number)
            }
            (None, _, Some(record)) => self.stack.number(part, record),
            (None, Some((stat, _)), None) => self.stack.real_number(stat.st_dev, stat.st_ino),
            (None, None, None) => return Err(Errno::EIO),
        };
        let own_number = match (&upper, record) {
            (Some(_), None) if is_directory && !part.is_none() => {
                let dir = self.lower_dir(parent, part.layer)?;
                let stat = stat_at(dir.fd.as_fd(), name)?;
                self.stack.real_number(stat.st_dev, stat.st_ino)
            }
            _ => own_number,
        };
        let is_record_name = record.is_some_and(|record| record.name() == name);
        let stored: Box<[u8]> = if is_record_name { Box::default() } else { name.into() };
        let more = (!rest.is_empty()).then(|| Box::new(More { rest: Arc::from(rest), ..More::default() }));
        let state = State { parent: parent.ino, name: stored, upper: upper_number.0, part, more };
        let mut seed = Seed { ino: own_number, kind, state };
        let is_it = |state: &State| {
            let is_same_upper = state.upper == upper_number.0;
            is_same_upper && (upper_number.0 != 0 || state.part.is_none() == part.is_none())
        };
        // The number may be taken: a file that lost its other names to a copy-up. Then it gets another one.
        let mut tries = 0;
        let (node, is_new) = loop {
            match self.table.claim(seed, is_it) {
                Ok(claimed) => break claimed,
                Err(_) if tries > 8 => return Err(Errno::EIO),
                Err(mut refused) => {
                    tries += 1;
                    let is_first = tries == 1 && upper_number.0 != 0 && refused.ino != upper_number;
                    refused.ino =
                        if is_first { upper_number } else { fold(own_number.0 ^ upper_number.0 << 1 ^ tries) };
                    seed = refused;
                }
            }
        };
        if !is_new {
            self.add_name(&node, parent.ino, name);
        }
        if let Some(dir) = dir.filter(|_| is_new) {
            self.handles.insert(node.ino, OWN, dir, false);
        }
        for (layer, dir) in lower_dirs.into_iter().filter(|_| is_new) {
            self.handles.insert(node.ino, in_layer(layer), dir, false);
        }
        Ok(node)
    }

    /// A living file was met under a name that it may not be known by.
    pub(super) fn add_name(&self, node: &Node, parent: InodeNo, name: &[u8]) {
        let mut state = node.lock();
        let is_first = state.parent == parent && *self.first_name(&state) == *name;
        if is_first || state.further().iter().any(|(dir, known)| *dir == parent && **known == *name) {
            return;
        }
        if state.has_name() {
            state.more().names.push((parent, name.into()));
        } else {
            state.parent = parent;
            state.name = name.into();
        }
        drop(state);
        self.table.refer(parent);
    }

    /// The record that tells a directory's metadata: the topmost that a tar has named.
    pub(super) fn described<'a>(
        &'a self,
        node: &Node,
        topmost: crate::layer::index::Record<'a>,
    ) -> crate::layer::index::Record<'a> {
        if !topmost.is_implicit() {
            return topmost;
        }
        let places = node.lock().places();
        let mut records = places.parts().map_while(|part| self.stack.record(part));
        records.find(|record| !record.is_implicit()).unwrap_or(topmost)
    }

    /// What `stat` shows of a node. The caller holds the names.
    pub(super) fn attributes_of(&self, node: &Arc<Node>) -> nix::Result<Attributes> {
        let (in_upper, part) = {
            let state = node.lock();
            (state.in_upper(), state.part)
        };
        let record = if in_upper || part.is_none() { None } else { self.stack.record(part) };
        let mut attributes = if let Some(record) = record {
            self.stack.attributes(node.ino, self.described(node, record)).ok_or(Errno::EIO)?
        } else {
            let stat = self.stat(node, in_upper)?;
            let marks = if self.single { self.marks(node, &stat)? } else { Marks::default() };
            let owners = if in_upper { self.upper()?.owners() } else { &self.lower_owners };
            owners.attributes(node.ino, &stat, &marks)
        };
        self.count_names(node, &mut attributes)?;
        Ok(attributes)
    }

    pub(super) fn attributes(&self, ino: InodeNo) -> nix::Result<Attributes> {
        let node = self.node(ino)?;
        let _names = self.names();
        self.attributes_of(&node)
    }

    /// What stands on a file of the upper or of a layer without index.
    pub(super) fn marks(&self, node: &Arc<Node>, stat: &FileStat) -> nix::Result<Marks> {
        if !matches!(stat_kind(stat), FileKind::File | FileKind::Directory) {
            return Ok(Marks::default());
        }
        Marks::read(self.path_fd(node)?.fd.as_fd(), stat)
    }

    /// What creating in an upper directory must know about it.
    pub(super) fn facts(&self, node: &Arc<Node>) -> nix::Result<super::inode_table::Facts> {
        if let Some(facts) = node.lock().more.as_ref().and_then(|more| more.facts) {
            return Ok(facts);
        }
        let dir = self.upper_dir(node)?;
        let stat = fstat(&dir.fd)?;
        let marks = Marks::read(dir.fd.as_fd(), &stat)?;
        Ok(self.keep_facts(node, &stat, &marks))
    }

    /// The group that new files in a directory get: on disk, or as recorded where the disk has only one.
    fn set_gid(&self, stat: &FileStat, marks: &Marks) -> Option<u32> {
        if !self.single {
            return (stat.st_mode & nix::libc::S_ISGID != 0).then_some(stat.st_gid);
        }
        let recorded = self.lower_owners.recorded(stat, marks);
        (recorded.mode & nix::libc::S_ISGID != 0).then_some(recorded.gid)
    }

    /// Remembers what creating in an upper directory must know.
    pub(super) fn keep_facts(&self, node: &Node, stat: &FileStat, marks: &Marks) -> super::inode_table::Facts {
        let facts = super::inode_table::Facts {
            set_gid: self.set_gid(stat, marks),
            has_default_acl: marks.has_default_acl,
            is_impure: marks.is_impure,
            may_have_whiteout_files: marks.may_have_whiteout_files,
        };
        node.lock().more().facts = Some(facts);
        facts
    }
}

/// Refuses what cannot be one component of a path.
pub(super) fn check_name(name: &[u8]) -> nix::Result<()> {
    match name {
        b"" | b"." | b".." => Err(Errno::EINVAL),
        _ if name.len() > NAME_MAX => Err(Errno::ENAMETOOLONG),
        _ if name.contains(&b'/') || name.contains(&0) => Err(Errno::EINVAL),
        _ => Ok(()),
    }
}
