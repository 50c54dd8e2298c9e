//! Names come and go: what nodes and listings have to learn of it.

use std::num::NonZeroU64;
use std::os::fd::AsFd;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::attributes::{FileKind, InodeNo};
use super::handles::{Handle, OWN};
use super::inode_table::{Node, Places};
use super::listing::{Below, Slot};
use super::lookup::Found;
use super::tree::{At, Tree};
use super::upper::Parent;

impl Tree {
    /// What a name would lead to if the upper did not have it.
    pub(super) fn find_below(&self, parent: &Arc<Node>, name: &[u8]) -> nix::Result<Option<Found>> {
        let places = parent.lock().places();
        let mut found = Found::nothing();
        for part in places.parts() {
            let is_end = match self.stack.record(part) {
                Some(dir) => self.find_in_index(part, dir.child(name), &mut found),
                None => self.find_in_tree(parent, part, name, &mut found)?,
            };
            if is_end {
                break;
            }
        }
        Ok(found.has_any().then_some(found))
    }

    /// True if a name would be seen if the upper did not have it.
    pub(super) fn is_below(&self, parent: &Arc<Node>, name: &[u8]) -> nix::Result<bool> {
        let has_lower = parent.lock().places().has_lower();
        Ok(has_lower && self.find_below(parent, name)?.is_some())
    }

    /// The file behind a name, with one more reference, if that can be told without a look at the disk: what only the
    /// upper has, and somebody has looked up under this name.
    pub(super) fn known(&self, parent: &Node, name: &[u8]) -> Option<Arc<Node>> {
        let slot = self.listed_already(parent, name)??;
        if slot.place != 0 || slot.kind.is_none() {
            return None;
        }
        let number = InodeNo(slot.number?.get());
        let node = self.table.get_referred(self.table.aliased(number).unwrap_or(number))?;
        let is_it = {
            let state = node.lock();
            let is_first = state.parent == parent.ino && *self.first_name(&state) == *name;
            let is_further = || state.further().iter().any(|(dir, known)| *dir == parent.ino && **known == *name);
            let is_merged = node.is_directory() && !state.part.is_none();
            !is_merged && state.upper == number.0 && (is_first || is_further())
        };
        if !is_it {
            self.forget(node.ino, 1);
        }
        is_it.then_some(node)
    }

    /// The directory that something is to be made in.
    pub(super) fn parent<'a>(&self, node: &Arc<Node>, dir: &'a Handle) -> nix::Result<Parent<'a>> {
        let facts = self.facts(node)?;
        Ok(Parent { dir: dir.fd.as_fd(), set_gid: facts.set_gid, has_default_acl: facts.has_default_acl })
    }

    /// True while a directory has a name.
    pub(super) fn is_linked(&self, node: &Node) -> bool {
        node.ino == InodeNo::ROOT || node.lock().has_name()
    }

    /// A name of a directory leads to a file of the upper from now on.
    pub(super) fn list_name(&self, parent: &Node, name: &[u8], node: &Node) {
        // Another number than the file's own has to be asked for again once the node is forgotten.
        let (upper, is_merged) = {
            let state = node.lock();
            (state.upper, node.is_directory() && !state.part.is_none())
        };
        let is_own = upper == node.ino.0 && !is_merged;
        let mut slot = Slot::new(name, 0, Some(node.kind), if is_own { NonZeroU64::new(upper) } else { None });
        if is_merged {
            // It was copied up: what is below it has to be looked at.
            slot.below = Below::UNKNOWN;
        }
        self.with_listing(parent, |listing| listing.put(slot));
    }

    /// A name of a directory leads nowhere from now on: by a whiteout, or because nobody has it.
    pub(super) fn unlist_name(&self, parent: &Node, name: &[u8], by_whiteout: bool) {
        self.with_listing(parent, |listing| {
            if by_whiteout {
                listing.put(Slot::new(name, 0, None, None));
            } else {
                listing.remove(name);
            }
        });
    }

    /// A file has lost a name.
    pub(super) fn remove_name(&self, node: &Node, parent: InodeNo, name: &[u8]) {
        let mut state = node.lock();
        let is_first = state.parent == parent && *self.first_name(&state) == *name;
        let mut more = state.more.take();
        let mut has_lost = false;
        if is_first {
            let next = more.as_mut().and_then(|more| (!more.names.is_empty()).then(|| more.names.swap_remove(0)));
            (state.parent, state.name) = next.unwrap_or((InodeNo(0), Box::default()));
            has_lost = true;
        } else if let Some(more) = &mut more
            && let Some(at) = more.names.iter().position(|(dir, known)| *dir == parent && **known == *name)
        {
            more.names.swap_remove(at);
            has_lost = true;
        }
        state.more = more;
        if has_lost
            && !node.is_directory()
            && let Some(count) = state.more.as_mut().and_then(|more| more.count.as_mut())
        {
            *count = count.saturating_sub(1);
        }
        drop(state);
        if has_lost {
            self.forget(parent, 1);
        }
    }

    /// Count of a file's names, as far as they are known.
    pub(super) fn count_known_names(&self, node: &Node) -> usize {
        let state = node.lock();
        usize::from(state.has_name()) + state.further().len()
    }

    /// Holds on to a file that is about to lose its last name, as far as its layer does not.
    pub(super) fn pin(&self, node: &Arc<Node>) -> nix::Result<()> {
        let (in_upper, part, is_pinned) = {
            let state = node.lock();
            (state.in_upper(), state.part, state.more.as_ref().is_some_and(|more| more.pinned.is_some()))
        };
        if is_pinned || !in_upper && !part.is_plain() || self.count_known_names(node) > 1 {
            return Ok(());
        }
        let handle = match self.handles.get(node.ino, OWN) {
            Some(open) => open,
            None => match if in_upper { self.at_upper(node)? } else { self.at_lower(node)? } {
                At::Open(handle) => handle,
                At::Name(dir, name) => {
                    let fd = self.open_at(dir.fd.as_fd(), &name, OFlag::O_PATH | OFlag::O_NOFOLLOW)?;
                    Handle { fd: Arc::new(fd), writable: false }
                }
            },
        };
        node.lock().more().pinned = Some(handle);
        Ok(())
    }

    /// Undoes [`pin`](Self::pin) for a file that has a name after all.
    pub(super) fn unpin(&self, node: &Node) {
        let mut state = node.lock();
        if state.has_name()
            && let Some(more) = &mut state.more
        {
            more.pinned = None;
        }
    }

    /// A directory has got (or lost) so many subdirectories.
    pub(super) fn count_subdirectory(&self, parent: &Node, change: i32) {
        if let Some(count) = parent.lock().more.as_mut().and_then(|more| more.count.as_mut()) {
            *count = count.saturating_add_signed(change);
        }
    }

    /// Files in a directory may have other numbers than their own from now on.
    pub(super) fn make_impure(&self, parent: &Arc<Node>, node: &Node) -> nix::Result<()> {
        let is_own = {
            let state = node.lock();
            state.upper == node.ino.0
        };
        // Nothing else can say that it has another number.
        if is_own || !matches!(node.kind, FileKind::File | FileKind::Directory) {
            return Ok(());
        }
        self.mark_impure(parent)
    }

    /// See [`make_impure`](Self::make_impure).
    pub(super) fn mark_impure(&self, parent: &Arc<Node>) -> nix::Result<()> {
        if self.facts(parent)?.is_impure {
            return Ok(());
        }
        self.upper()?.mark_impure(self.upper_dir(parent)?.fd.as_fd())?;
        if let Some(facts) = parent.lock().more.as_mut().and_then(|more| more.facts.as_mut()) {
            facts.is_impure = true;
        }
        Ok(())
    }

    /// The file in the upper is another one from now on.
    pub(super) fn set_upper(&self, node: &Node, number: InodeNo) {
        let mut state = node.lock();
        let before = std::mem::replace(&mut state.upper, number.0);
        drop(state);
        if before != 0 && before != node.ino.0 {
            self.table.unalias(before);
        }
        if number != node.ino {
            self.table.alias(number.0, node.ino);
        }
    }

    /// Where a directory lies, if it is still somewhere.
    pub(super) fn places_of(&self, node: &Node) -> nix::Result<Places> {
        if !self.is_linked(node) {
            return Err(Errno::ENOENT);
        }
        Ok(node.lock().places())
    }
}
