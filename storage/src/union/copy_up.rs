//! A file of a lower layer becomes one of the upper, so that it can be changed.
//!
//! The copy is made in the work directory without any lock but the mark that it is under way; it gets its name while
//! nothing else changes names. Then all names of the file lead to it: of a layer with an index those that the index
//! knows, else those that were looked up. Others of the latter stay with the old contents, and get another number.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, PoisonError};

use nix::errno::Errno;

use super::attributes::{Attributes, FileKind, InodeNo};
use super::handles::{Handle, OWN};
use super::inode_table::Node;
use super::listing::Listing;
use super::lookup::check_name;
use super::tree::Tree;
use super::upper::{LinkFrom, Made, Marks, Name, Source, Staged, keeping_times, visible_xattrs};

/// The mark that a file is being copied up.
struct Copying<'a> {
    tree: &'a Tree,
    ino: InodeNo,
}

impl Drop for Copying<'_> {
    fn drop(&mut self) {
        self.tree.copying.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.ino.0);
        self.tree.copied.notify_all();
    }
}

/// What a file of a lower layer is, owned.
struct Original {
    attributes: Attributes,
    data: Option<Handle>,
    target: Vec<u8>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Tree {
    /// Brings a file into the upper, with the directories above it. `length`: of a regular file only so much is needed.
    /// The caller holds no lock.
    pub(super) fn copy_up(&self, node: &Arc<Node>, length: Option<u64>) -> nix::Result<()> {
        self.upper()?;
        let mut tries = 0;
        while !node.lock().in_upper() {
            self.meet_all_names(node)?;
            for parent in self.parents(node) {
                self.copy_up_directory(&parent)?;
            }
            match self.copy_up_one(node, length) {
                // It was looked up under one more name meanwhile.
                Err(Errno::EAGAIN) if tries < 16 => tries += 1,
                result => return result,
            }
        }
        Ok(())
    }

    /// A directory, after all above it.
    fn copy_up_directory(&self, node: &Arc<Node>) -> nix::Result<()> {
        let mut missing = Vec::new();
        let mut at = Arc::clone(node);
        loop {
            let parent = {
                let state = at.lock();
                if state.in_upper() {
                    break;
                }
                state.parent
            };
            missing.push(Arc::clone(&at));
            if parent.0 == 0 {
                break;
            }
            at = self.node(parent)?;
        }
        missing.iter().rev().try_for_each(|node| self.copy_up_one(node, None))
    }

    /// The directories that the file has names in.
    fn parents(&self, node: &Node) -> Vec<Arc<Node>> {
        let state = node.lock();
        let first = state.has_name().then_some(state.parent);
        let numbers: Vec<InodeNo> = first.into_iter().chain(state.further().iter().map(|(dir, _)| *dir)).collect();
        drop(state);
        numbers.into_iter().filter_map(|ino| self.table.get(ino)).collect()
    }

    /// Looks up every name that the index has of a file with several.
    fn meet_all_names(&self, node: &Arc<Node>) -> nix::Result<()> {
        let part = node.lock().part;
        let Some(record) = self.stack.record(part) else { return Ok(()) };
        if node.is_directory() || record.names() < 2 {
            return Ok(());
        }
        for part in self.stack.names(part) {
            let names = self.stack.path(part)?;
            self.meet(&names)?;
        }
        Ok(())
    }

    /// Looks up a path. That it leads nowhere is no error.
    fn meet(&self, names: &[&[u8]]) -> nix::Result<()> {
        let mut at = self.node(InodeNo::ROOT)?;
        let mut met = Vec::new();
        let mut walk = || {
            for name in names {
                check_name(name)?;
                if !at.is_directory() {
                    break;
                }
                let _names = self.names();
                let Some(found) = self.find(&at, name, false)? else { break };
                let node = self.claim(&at, name, found)?;
                met.push(node.ino);
                at = node;
            }
            Ok(())
        };
        let result = walk();
        met.into_iter().for_each(|ino| self.forget(ino, 1));
        result
    }

    fn copy_up_one(&self, node: &Arc<Node>, length: Option<u64>) -> nix::Result<()> {
        let _copying = self.begin_copy(node.ino);
        if node.lock().in_upper() {
            return Ok(());
        }
        let upper = self.upper()?;
        let is_empty = length == Some(0);
        let original = self.original(node, is_empty)?;
        let source = Source {
            attributes: &original.attributes,
            data: original.data.as_ref().map(|data| data.fd.as_fd()),
            target: &original.target,
            xattrs: &original.xattrs,
            origin: Some(node.ino),
        };
        let length = if node.kind == FileKind::File { length } else { None };
        let staged = self.with_room(|| upper.stage_copy(&source, length))?;
        self.publish(node, staged)
    }

    fn begin_copy(&self, ino: InodeNo) -> Copying<'_> {
        let mut copying = self.copying.lock().unwrap_or_else(PoisonError::into_inner);
        while !copying.insert(ino.0) {
            copying = self.copied.wait(copying).unwrap_or_else(PoisonError::into_inner);
        }
        Copying { tree: self, ino }
    }

    /// What is to be copied.
    fn original(&self, node: &Arc<Node>, is_empty: bool) -> nix::Result<Original> {
        let wants_data = node.kind == FileKind::File && !is_empty;
        let data = if wants_data { Some(self.data(node)?) } else { None };
        let _names = self.names();
        let (_, part) = self.place(node);
        let target = match (node.kind, self.stack.record(part)) {
            (FileKind::Symlink, Some(record)) => record.target().to_vec(),
            (FileKind::Symlink, None) => self.target_on_disk(node, false)?,
            _ => Vec::new(),
        };
        let mut attributes = self.attributes_of(node)?;
        let (recorded, xattrs) = match self.stack.record(part) {
            Some(record) => {
                let described = self.described(node, record);
                let owned = |(name, value): (&[u8], &[u8])| {
                    (name.to_vec(), self.lower_owners.xattr_in_container(name, value.to_vec()))
                };
                (self.recorded(node, record)?, described.xattrs().map(owned).collect())
            }
            None => {
                let file = self.path_fd(node)?;
                let stat = nix::sys::stat::fstat(&file.fd)?;
                let marks = Marks::read(file.fd.as_fd(), &stat)?;
                let xattrs = visible_xattrs(file.fd.as_fd(), &self.lower_owners)?;
                (self.lower_owners.recorded(&stat, &marks), xattrs)
            }
        };
        (attributes.uid, attributes.gid, attributes.mode) = (recorded.uid, recorded.gid, recorded.mode);
        Ok(Original { attributes, data, target, xattrs })
    }

    /// Gives a copy its names.
    fn publish(&self, node: &Arc<Node>, staged: Staged<'_>) -> nix::Result<()> {
        let _names = self.names_exclusive();
        let names = {
            let state = node.lock();
            let first = state.has_name().then(|| (state.parent, Box::<[u8]>::from(&*self.first_name(&state))));
            first.into_iter().chain(state.further().iter().cloned()).collect::<Vec<_>>()
        };
        let mut names = names.into_iter();
        let Some((parent, name)) = names.next() else {
            // Its last name has gone meanwhile: a file that only those have who have it open.
            let made = staged.without_name()?;
            return self.keep_unnamed(node, made);
        };
        let parent = self.node(parent)?;
        if !parent.lock().in_upper() {
            // Looked up under another name since: the next try copies that directory first.
            return Err(Errno::EAGAIN);
        }
        let dir = self.upper_dir(&parent)?;
        // A merged directory has its number from below, whatever stands on it.
        if !node.is_directory() {
            self.make_impure(&parent, node)?;
        }
        let first = Name::new(OsStr::from_bytes(&name))?;
        let made = staged.publish(dir.fd.as_fd(), first)?;
        self.keep_copy(node, made);
        self.list_name(&parent, &name, node);
        for (other, other_name) in names {
            let Some(other) = self.table.get(other).filter(|other| other.lock().in_upper()) else { continue };
            let other_dir = self.upper_dir(&other)?;
            self.make_impure(&other, node)?;
            let to = Name::new(OsStr::from_bytes(&other_name))?;
            let upper = self.upper()?;
            // The container sees no change of that directory.
            let linked = keeping_times(other_dir.fd.as_fd(), || {
                upper.link(LinkFrom::Named(dir.fd.as_fd(), first), other_dir.fd.as_fd(), to)
            });
            match linked {
                Ok(()) => self.list_name(&other, &other_name, node),
                // No more links on this file system: the name keeps the old contents.
                Err(Errno::EMLINK) => self.remove_name(node, other.ino, &other_name),
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// A node has got its file in the upper.
    fn keep_copy(&self, node: &Arc<Node>, made: Made) {
        let number = self.stack.real_number(made.stat.st_dev, made.stat.st_ino);
        let places = node.lock().places();
        self.handles.remove(node.ino, OWN);
        self.set_upper(node, number);
        if node.is_directory() {
            self.keep_facts(node, &made.stat, &made.marks);
            if !Self::is_gathered(&places) {
                self.keep_listing(node, Listing::default());
            }
        }
        if let Some(file) = made.file {
            self.handles.insert(node.ino, OWN, file, node.kind == FileKind::File);
        }
    }

    fn keep_unnamed(&self, node: &Arc<Node>, made: Made) -> nix::Result<()> {
        let number = self.stack.real_number(made.stat.st_dev, made.stat.st_ino);
        self.handles.remove(node.ino, OWN);
        let file = made.file.ok_or(Errno::ENOENT)?;
        self.set_upper(node, number);
        let handle = Handle { fd: Arc::new(file), writable: node.kind == FileKind::File };
        node.lock().more().pinned = Some(handle);
        Ok(())
    }

    /// Brings all that a merged directory shows into the upper, so that it can be renamed. The answer are the
    /// directories, each with a reference that the caller gives back.
    ///
    /// # Errors
    /// `EXDEV` if that is more than may be copied; `ENOSPC` if it does not fit. Nothing was copied then.
    pub(super) fn gather_up(&self, node: &Arc<Node>) -> nix::Result<Vec<Arc<Node>>> {
        let mut bytes = 0_u64;
        self.walk(node, &mut |_, entry| {
            let size = if entry.kind == FileKind::File { entry.size } else { 0 };
            bytes = bytes.saturating_add(size.max(4096));
            if bytes > self.copy_up_cap_bytes { Err(Errno::EXDEV) } else { Ok(()) }
        })
        .map(|directories| self.give_back(&directories))?;
        let room = self.statistics()?;
        if room.blocks_available.saturating_mul(u64::from(room.fragment_bytes)) < bytes {
            return Err(Errno::ENOSPC);
        }
        self.copy_up(node, None)?;
        self.walk(node, &mut |node, _| self.copy_up(node, None))
    }

    pub(super) fn give_back(&self, nodes: &[Arc<Node>]) {
        nodes.iter().for_each(|node| self.forget(node.ino, 1));
    }

    /// Visits all that lies below a directory and is not in the upper, and collects the directories.
    fn walk(
        &self,
        top: &Arc<Node>,
        visit: &mut dyn FnMut(&Arc<Node>, &Attributes) -> nix::Result<()>,
    ) -> nix::Result<Vec<Arc<Node>>> {
        self.table.refer(top.ino);
        let mut directories = vec![Arc::clone(top)];
        let result = self.walk_into(&mut directories, visit);
        match result {
            Ok(()) => Ok(directories),
            Err(errno) => {
                self.give_back(&directories);
                Err(errno)
            }
        }
    }

    fn walk_into(
        &self,
        directories: &mut Vec<Arc<Node>>,
        visit: &mut dyn FnMut(&Arc<Node>, &Attributes) -> nix::Result<()>,
    ) -> nix::Result<()> {
        let mut next = 0;
        while let Some(dir) = directories.get(next).cloned() {
            next += 1;
            let places = dir.lock().places();
            let mut names: Vec<Box<[u8]>> = Vec::new();
            {
                let _names = self.names();
                self.for_each_name(&dir, &places, 0, &mut |named| {
                    names.push(named.name.into());
                    Ok(true)
                })?;
            }
            for name in names {
                let entered = {
                    let _names = self.names();
                    match self.find(&dir, &name, false)? {
                        Some(found) => Some(self.enter(&dir, &name, found)?),
                        None => None,
                    }
                };
                let Some((node, entry)) = entered else { continue };
                let (in_upper, has_lower) = {
                    let state = node.lock();
                    (state.in_upper(), !state.part.is_none())
                };
                let result = if in_upper { Ok(()) } else { visit(&node, &entry.attributes) };
                if node.is_directory() && has_lower && result.is_ok() {
                    directories.push(node);
                } else {
                    self.forget(node.ino, 1);
                }
                result?;
            }
        }
        Ok(())
    }
}
