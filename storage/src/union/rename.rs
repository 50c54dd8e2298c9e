//! Renames.
//!
//! What is renamed lies in the upper as a whole: a file is copied up before, a merged directory with all that is below
//! it, as far as that is not too much. Then one rename in the upper is all that happens.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use nix::errno::Errno;

use super::attributes::{FileKind, InodeNo, RenameMode};
use super::inode_table::Node;
use super::lookup::check_name;
use super::stack::Part;
use super::tree::Tree;
use super::upper::{Name, RenameSide};
use crate::whiteout;

/// How often the names may change under us before we give up.
const TRIES: usize = 32;

/// One of the two names.
#[derive(Clone, Copy)]
struct Side<'a> {
    parent: &'a Arc<Node>,
    name: &'a [u8],
}

/// A file that takes part, with a reference; and the directories that were gathered up for it.
struct Taken<'a> {
    tree: &'a Tree,
    node: Arc<Node>,
    gathered: Vec<Arc<Node>>,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.tree.give_back(&self.gathered);
        self.tree.forget(self.node.ino, 1);
    }
}

impl Tree {
    pub(super) fn rename(
        &self,
        parent: InodeNo,
        name: &[u8],
        new_parent: InodeNo,
        new_name: &[u8],
        mode: RenameMode,
    ) -> nix::Result<()> {
        check_name(name)?;
        check_name(new_name)?;
        if mode.whiteout || mode.exchange && mode.no_replace {
            return Err(Errno::EINVAL);
        }
        let (parent, new_parent) = (self.directory(parent)?, self.directory(new_parent)?);
        self.copy_up(&parent, None)?;
        self.copy_up(&new_parent, None)?;
        let from = Side { parent: &parent, name };
        let to = Side { parent: &new_parent, name: new_name };
        for _ in 0..TRIES {
            let Some(source) = self.take(from, true)? else { return Err(Errno::ENOENT) };
            let target = self.take(to, mode.exchange)?;
            let _names = self.names_exclusive();
            if !self.is_ready(&source, from)? {
                continue;
            }
            match &target {
                None if self.find(to.parent, to.name, true)?.is_some() => continue,
                Some(target) if mode.exchange && !self.is_ready(target, to)? => continue,
                Some(target) if !self.leads_to(to, &target.node)? => continue,
                _ => {}
            }
            return self.rename_now(from, to, mode, &source, target.as_ref());
        }
        Err(Errno::EBUSY)
    }

    /// Finds what has a name; brings it into the upper if it will move.
    fn take(&self, side: Side<'_>, moves: bool) -> nix::Result<Option<Taken<'_>>> {
        let node = {
            let _names = self.names();
            let Some(node) = self.resolve(side, false)? else { return Ok(None) };
            node
        };
        let mut part = Taken { tree: self, node, gathered: Vec::new() };
        if moves {
            if part.node.is_directory() && part.node.lock().places().has_lower() {
                part.gathered = self.gather_up(&part.node)?;
            } else {
                self.copy_up(&part.node, None)?;
            }
        }
        Ok(Some(part))
    }

    /// True if a file that is to move still has the name and lies in the upper as a whole.
    fn is_ready(&self, part: &Taken<'_>, side: Side<'_>) -> nix::Result<bool> {
        let (in_upper, has_lower) = {
            let state = part.node.lock();
            (state.in_upper(), state.places().has_lower())
        };
        let is_whole = in_upper && (!part.node.is_directory() || !has_lower || !part.gathered.is_empty());
        Ok(is_whole && self.leads_to(side, &part.node)?)
    }

    /// True if a name leads to a node. The caller has the names for itself.
    fn leads_to(&self, side: Side<'_>, node: &Arc<Node>) -> nix::Result<bool> {
        let Some(there) = self.resolve(side, true)? else { return Ok(false) };
        self.forget(there.ino, 1);
        Ok(Arc::ptr_eq(&there, node))
    }

    /// What a name leads to, with one more reference.
    fn resolve(&self, side: Side<'_>, changes: bool) -> nix::Result<Option<Arc<Node>>> {
        if let Some(node) = self.known(side.parent, side.name) {
            return Ok(Some(node));
        }
        match self.find(side.parent, side.name, changes)? {
            Some(found) => self.claim(side.parent, side.name, found).map(Some),
            None => Ok(None),
        }
    }

    fn rename_now(
        &self,
        from: Side<'_>,
        to: Side<'_>,
        mode: RenameMode,
        source: &Taken<'_>,
        target: Option<&Taken<'_>>,
    ) -> nix::Result<()> {
        let (node, replaced) = (&source.node, target.map(|target| &target.node));
        self.check(from, to, mode, node, replaced)?;
        if replaced.is_some_and(|replaced| Arc::ptr_eq(replaced, node)) {
            // Two names of one file: POSIX wants nothing to happen.
            return Ok(());
        }
        let (lower_from, lower_to) = (self.is_below(from.parent, from.name)?, self.is_below(to.parent, to.name)?);
        self.part_from_lower(source)?;
        self.make_impure(to.parent, node)?;
        match (replaced, target) {
            (Some(replaced), Some(target)) if mode.exchange => {
                self.part_from_lower(target)?;
                self.make_impure(from.parent, replaced)?;
            }
            (Some(replaced), _) => self.pin(replaced)?,
            _ => {}
        }
        let (from_dir, to_dir) = (self.upper_dir(from.parent)?, self.upper_dir(to.parent)?);
        let side = |dir, name, node: Option<&Arc<Node>>, lower| {
            let name = Name::new(OsStr::from_bytes(name))?;
            Ok(RenameSide { dir, name, is_directory: node.is_some_and(|node| node.is_directory()), lower })
        };
        let result = self.upper()?.rename(
            side(from_dir.fd.as_fd(), from.name, Some(node), lower_from)?,
            side(to_dir.fd.as_fd(), to.name, replaced, lower_to)?,
            mode,
        );
        if let Err(errno) = result {
            if let Some(replaced) = replaced {
                self.unpin(replaced);
            }
            return Err(errno);
        }
        if let Some(replaced) = replaced {
            self.remove_name(replaced, to.parent.ino, to.name);
        }
        self.remove_name(node, from.parent.ino, from.name);
        self.add_name(node, to.parent.ino, to.name);
        self.unpin(node);
        self.list_name(to.parent, to.name, node);
        match replaced.filter(|_| mode.exchange) {
            Some(replaced) => {
                self.add_name(replaced, from.parent.ino, from.name);
                self.unpin(replaced);
                self.list_name(from.parent, from.name, replaced);
            }
            None => self.unlist_name(from.parent, from.name, lower_from),
        }
        let is_directory = |node: &Arc<Node>| i32::from(node.is_directory());
        let coming = is_directory(node) - replaced.map_or(0, is_directory);
        let going = is_directory(node) - replaced.filter(|_| mode.exchange).map_or(0, is_directory);
        self.count_subdirectory(to.parent, coming);
        self.count_subdirectory(from.parent, -going);
        Ok(())
    }

    /// What `rename(2)` refuses.
    fn check(
        &self,
        from: Side<'_>,
        to: Side<'_>,
        mode: RenameMode,
        node: &Arc<Node>,
        replaced: Option<&Arc<Node>>,
    ) -> nix::Result<()> {
        self.places_of(from.parent)?;
        self.places_of(to.parent)?;
        if node.is_directory() && self.is_within(to.parent, node)? {
            return Err(Errno::EINVAL);
        }
        let Some(replaced) = replaced else {
            return if mode.exchange { Err(Errno::ENOENT) } else { Ok(()) };
        };
        if mode.no_replace {
            return Err(Errno::EEXIST);
        }
        if mode.exchange {
            let is_above = replaced.is_directory() && self.is_within(from.parent, replaced)?;
            return if is_above { Err(Errno::EINVAL) } else { Ok(()) };
        }
        match (node.kind == FileKind::Directory, replaced.is_directory()) {
            (true, false) => Err(Errno::ENOTDIR),
            (false, true) => Err(Errno::EISDIR),
            (true, true) if !Arc::ptr_eq(node, replaced) && !self.is_empty(replaced)? => Err(Errno::ENOTEMPTY),
            _ => Ok(()),
        }
    }

    /// True if a directory is another one or below it.
    fn is_within(&self, node: &Arc<Node>, top: &Arc<Node>) -> nix::Result<bool> {
        let mut at = Arc::clone(node);
        loop {
            if Arc::ptr_eq(&at, top) {
                return Ok(true);
            }
            if at.ino == InodeNo::ROOT {
                return Ok(false);
            }
            let parent = at.lock().parent;
            at = self.node(parent)?;
        }
    }

    /// A directory that was gathered up has nothing to do with the lower layers from now on, nor has what is below it.
    fn part_from_lower(&self, part: &Taken<'_>) -> nix::Result<()> {
        if part.gathered.is_empty() {
            return Ok(());
        }
        whiteout::make_opaque(self.upper_dir(&part.node)?.fd.as_fd())?;
        for directory in &part.gathered {
            self.mark_impure(directory)?;
        }
        for directory in &part.gathered {
            self.drop_listing(directory);
            let mut state = directory.lock();
            state.name = Box::from(&*self.first_name(&state));
            state.part = Part::NONE;
            if let Some(more) = &mut state.more {
                more.rest = Arc::from([]);
                more.count = None;
            }
        }
        Ok(())
    }
}
