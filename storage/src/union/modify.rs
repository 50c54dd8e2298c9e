//! Making and removing names.
//!
//! In one directory they come one after the other; other directories do not wait.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use nix::errno::Errno;

use super::attributes::{Caller, Entry, FileKind, InodeNo, NewFile};
use super::handles::{Handle, OWN};
use super::inode_table::{More, Node, Seed, State};
use super::listing::Listing;
use super::lookup::{Found, check_name};
use super::metadata::PRIVILEGES;
use super::stack::Part;
use super::tree::{At, Tree};
use super::upper::{LinkFrom, Made, Name, Parent, Presence, UpperLayer};

impl Tree {
    pub(super) fn make_node(
        &self,
        parent: InodeNo,
        name: &[u8],
        file: NewFile,
        kind: FileKind,
        rdev: u64,
    ) -> nix::Result<Entry> {
        self.make(parent, name, kind, |upper, parent, name| upper.create_node(parent, name, file, kind, rdev))
    }

    pub(super) fn make_directory(&self, parent: InodeNo, name: &[u8], file: NewFile) -> nix::Result<Entry> {
        self.make(parent, name, FileKind::Directory, |upper, parent, name| upper.create_directory(parent, name, file))
    }

    pub(super) fn make_symlink(
        &self,
        parent: InodeNo,
        name: &[u8],
        target: &OsStr,
        owner: Caller,
    ) -> nix::Result<Entry> {
        self.make(parent, name, FileKind::Symlink, |upper, parent, name| {
            upper.create_symlink(parent, name, target, owner)
        })
    }

    fn make(
        &self,
        parent: InodeNo,
        name: &[u8],
        kind: FileKind,
        make: impl Fn(&UpperLayer, Parent<'_>, Name<'_>) -> nix::Result<Made>,
    ) -> nix::Result<Entry> {
        check_name(name)?;
        let parent = self.directory(parent)?;
        self.copy_up(&parent, None)?;
        let upper = self.upper()?;
        let _names = self.names();
        let _change = self.change(parent.ino);
        let places = self.places_of(&parent)?;
        if places.has_lower() && self.find(&parent, name, true)?.is_some() {
            return Err(Errno::EEXIST);
        }
        let dir = self.upper_dir(&parent)?;
        let its_parent = self.parent(&parent, &dir)?;
        let checked = Name::new(OsStr::from_bytes(name))?;
        let made = self.with_room(|| make(upper, its_parent, checked))?;
        let is_harmless = made.stat.st_mode & PRIVILEGES == 0 && made.marks.override_stat.is_none();
        let (stat, marks) = (made.stat, made.marks);
        let (node, entry) = self.enter(&parent, name, Found::in_upper(kind, stat, marks))?;
        if is_harmless {
            node.privileges.have_gone(node.privileges.changes());
        }
        if kind == FileKind::Directory {
            self.keep_facts(&node, &stat, &marks);
            self.keep_listing(&node, Listing::default());
            self.count_subdirectory(&parent, 1);
        }
        if let Some(file) = made.file {
            self.handles.insert(node.ino, OWN, file, kind == FileKind::File);
        }
        self.list_name(&parent, name, &node);
        Ok(entry)
    }

    pub(super) fn make_unnamed(&self, parent: InodeNo, file: NewFile) -> nix::Result<Entry> {
        let parent = self.directory(parent)?;
        self.copy_up(&parent, None)?;
        let _names = self.names();
        self.places_of(&parent)?;
        let dir = self.upper_dir(&parent)?;
        let its_parent = self.parent(&parent, &dir)?;
        let made = self.with_room(|| self.upper()?.create_unnamed(its_parent, file))?;
        let number = self.stack.real_number(made.stat.st_dev, made.stat.st_ino);
        let handle = Handle { fd: Arc::new(made.file.ok_or(Errno::EIO)?), writable: true };
        let more = Some(Box::new(More { pinned: Some(handle), ..More::default() }));
        let state = State { parent: InodeNo(0), name: Box::default(), upper: number.0, part: Part::NONE, more };
        let seed = Seed { ino: number, kind: FileKind::File, state };
        let (node, _) = self.table.claim(seed, |state| state.upper == number.0).map_err(|_| Errno::EIO)?;
        Ok(Entry { attributes: self.attributes_of(&node)?, generation: 0 })
    }

    pub(super) fn link(&self, ino: InodeNo, parent: InodeNo, name: &[u8]) -> nix::Result<Entry> {
        check_name(name)?;
        let node = self.node(ino)?;
        let parent = self.directory(parent)?;
        if node.is_directory() {
            return Err(Errno::EPERM);
        }
        self.copy_up(&node, None)?;
        self.copy_up(&parent, None)?;
        let upper = self.upper()?;
        let _names = self.names_exclusive();
        if self.places_of(&parent)?.has_lower() && self.find(&parent, name, true)?.is_some() {
            return Err(Errno::EEXIST);
        }
        let dir = self.upper_dir(&parent)?;
        let to = Name::new(OsStr::from_bytes(name))?;
        self.make_impure(&parent, &node)?;
        match self.at_upper(&node)? {
            At::Open(handle) => upper.link(LinkFrom::Unnamed(handle.fd.as_fd()), dir.fd.as_fd(), to)?,
            At::Name(from, old) => {
                let from = LinkFrom::Named(from.fd.as_fd(), Name::new(OsStr::from_bytes(&old))?);
                upper.link(from, dir.fd.as_fd(), to)?;
            }
        }
        self.add_name(&node, parent.ino, name);
        self.unpin(&node);
        self.list_name(&parent, name, &node);
        let attributes = self.attributes_of(&node)?;
        self.table.refer(node.ino);
        Ok(Entry { attributes, generation: 0 })
    }

    pub(super) fn unlink(&self, parent: InodeNo, name: &[u8]) -> nix::Result<()> {
        check_name(name)?;
        let parent = self.directory(parent)?;
        self.copy_up(&parent, None)?;
        let _names = self.names();
        let _change = self.change(parent.ino);
        self.remove(&parent, name, false)
    }

    pub(super) fn remove_directory(&self, parent: InodeNo, name: &[u8]) -> nix::Result<()> {
        check_name(name)?;
        let parent = self.directory(parent)?;
        self.copy_up(&parent, None)?;
        let _names = self.names_exclusive();
        self.remove(&parent, name, true)?;
        self.count_subdirectory(&parent, -1);
        Ok(())
    }

    fn remove(&self, parent: &Arc<Node>, name: &[u8], wants_directory: bool) -> nix::Result<()> {
        let node = match self.known(parent, name) {
            Some(node) => node,
            None => {
                let found = self.find(parent, name, true)?.ok_or(Errno::ENOENT)?;
                self.claim(parent, name, found)?
            }
        };
        let result = self.remove_node(parent, name, &node, wants_directory);
        if result.is_err() {
            self.unpin(&node);
        }
        self.forget(node.ino, 1);
        result
    }

    fn remove_node(&self, parent: &Arc<Node>, name: &[u8], node: &Arc<Node>, wants_directory: bool) -> nix::Result<()> {
        let places = node.lock().places();
        match (node.is_directory(), wants_directory) {
            (true, false) => return Err(Errno::EISDIR),
            (false, true) => return Err(Errno::ENOTDIR),
            // What only the upper has the disk knows to be empty or not.
            (true, true) if places.has_lower() && !self.is_empty(node)? => return Err(Errno::ENOTEMPTY),
            _ => {}
        }
        let presence = Presence { upper: places.in_upper, lower: !places.in_upper || self.is_below(parent, name)? };
        self.pin(node)?;
        let (upper, dir, checked) = (self.upper()?, self.upper_dir(parent)?, Name::new(OsStr::from_bytes(name))?);
        if wants_directory {
            upper.remove_directory(dir.fd.as_fd(), checked, presence)?;
        } else {
            upper.remove_file(dir.fd.as_fd(), checked, presence)?;
        }
        self.remove_name(node, parent.ino, name);
        self.unlist_name(parent, name, presence.lower);
        Ok(())
    }

    /// True if nothing is to be seen in a directory. The caller has the names for itself.
    pub(super) fn is_empty(&self, node: &Arc<Node>) -> nix::Result<bool> {
        let places = node.lock().places();
        let mut is_empty = true;
        self.for_each_name(node, &places, 0, &mut |_| {
            is_empty = false;
            Ok(false)
        })?;
        Ok(is_empty)
    }
}
