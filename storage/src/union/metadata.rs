//! What a file has besides its contents: links' targets, extended attributes, flags; and what the file system has.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, RwLockReadGuard, RwLockWriteGuard};

use nix::errno::Errno;
use nix::fcntl::{OFlag, readlinkat};
use nix::sys::stat::fstat;
use nix::sys::statvfs::fstatvfs;
use std::os::unix::ffi::OsStringExt;

use super::attributes::{Attributes, Changes, FileKind, InodeNo, Statistics, XattrMode, xattr_list};
use super::handles::{Handle, OWN};
use super::inode_table::Node;
use super::stack::Part;
use super::tree::{At, Tree, reopen};
use super::upper::{
    CAPABILITY_NAME, DiskName, Made, Marks, Name, Recorded, Target, UpperLayer, visible_names, visible_xattrs,
};
use crate::layer::ids::Owner;
use crate::layer::index::Record;

/// Bits that a write by an ordinary user takes away.
pub(super) const PRIVILEGES: u32 = 0o6000;

/// Longest target of a link.
const TARGET_MAX: u64 = 4096;

impl Tree {
    pub(super) fn read_link(&self, ino: InodeNo) -> nix::Result<Vec<u8>> {
        let node = self.node(ino)?;
        if node.kind != FileKind::Symlink {
            return Err(Errno::EINVAL);
        }
        let _names = self.names();
        let (in_upper, part) = self.place(&node);
        if let Some(record) = self.stack.record(part).filter(|_| !in_upper) {
            return Ok(record.target().to_vec());
        }
        self.target_on_disk(&node, in_upper)
    }

    /// The target of a link in the upper or in a layer without index.
    pub(super) fn target_on_disk(&self, node: &Arc<Node>, in_upper: bool) -> nix::Result<Vec<u8>> {
        let at = if in_upper { self.at_upper(node)? } else { self.at_lower(node)? };
        let (target, handle) = match &at {
            At::Name(dir, name) => (readlinkat(&dir.fd, name.as_ref()), None),
            At::Open(handle) => (readlinkat(&handle.fd, ""), Some(handle)),
        };
        match target {
            Err(Errno::EINVAL | Errno::ENOENT) if self.single => {}
            result => return result.map(OsStringExt::into_vec),
        }
        // A link that is a file on disk: its contents are the target.
        let fd = match (&at, handle) {
            (_, Some(handle)) => reopen(handle.fd.as_fd(), OFlag::O_RDONLY | OFlag::O_NONBLOCK)?,
            (At::Name(dir, name), _) => {
                self.open_at(dir.fd.as_fd(), name, OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW)?
            }
            (At::Open(_), None) => return Err(Errno::EIO),
        };
        let mut target = Vec::new();
        std::io::Read::read_to_end(&mut std::io::Read::take(std::fs::File::from(fd), TARGET_MAX), &mut target)
            .map_err(|error| Errno::try_from(error).unwrap_or(Errno::EIO))?;
        Ok(target)
    }

    /// Whether a node is in the upper, and its topmost part.
    pub(super) fn place(&self, node: &Node) -> (bool, Part) {
        let state = node.lock();
        (state.in_upper(), state.part)
    }

    pub(super) fn xattr(&self, ino: InodeNo, name: &[u8]) -> nix::Result<Vec<u8>> {
        let node = self.node(ino)?;
        // Asked before the first write to each new file.
        if name == CAPABILITY_NAME && !self.single && node.privileges.are_none() {
            return Err(Errno::ENODATA);
        }
        let _names = self.names();
        let (in_upper, part) = self.place(&node);
        if in_upper {
            return self.with_target(&node, |upper, target| upper.xattr(target, name));
        }
        let disk_name = DiskName::of(name, self.single)?;
        match (self.stack.record(part), disk_name) {
            (_, DiskName::Hidden) => Err(Errno::ENODATA),
            (Some(record), DiskName::Override) => {
                self.recorded(&node, record).map(|recorded| recorded.to_value().into())
            }
            (Some(record), DiskName::Plain(_)) => self.lower_owners.told_xattr(record.xattrs(), name),
            (None, DiskName::Override) => {
                let file = self.path_fd(&node)?;
                let stat = fstat(&file.fd)?;
                let marks = Marks::read(file.fd.as_fd(), &stat)?;
                Ok(self.lower_owners.recorded(&stat, &marks).to_value().into())
            }
            (None, DiskName::Plain(_)) => {
                let file = self.path_fd(&node)?;
                let all = visible_xattrs(file.fd.as_fd(), &self.lower_owners)?;
                all.into_iter().find(|(known, _)| known == name).map(|(_, value)| value).ok_or(Errno::ENODATA)
            }
        }
    }

    /// Does something with a file of the upper. The caller holds the names.
    pub(super) fn with_target<T>(
        &self,
        node: &Arc<Node>,
        act: impl FnOnce(&UpperLayer, &Target<'_>) -> nix::Result<T>,
    ) -> nix::Result<T> {
        self.with_target_open(node, None, act)
    }

    fn with_target_open<T>(
        &self,
        node: &Arc<Node>,
        open: Option<Handle>,
        act: impl FnOnce(&UpperLayer, &Target<'_>) -> nix::Result<T>,
    ) -> nix::Result<T> {
        let upper = self.upper()?;
        let open = match open {
            Some(open) => open,
            None => self.path_fd(node)?,
        };
        let (file, kind) = (open.fd.as_fd(), node.kind);
        if !self.single {
            // Nothing that stands in marks matters.
            return act(upper, &Target { file, kind, stat: None, marks: &Marks::default(), name: None });
        }
        let stat = fstat(file)?;
        let marks = Marks::read(file, &stat)?;
        let at = self.at_upper(node)?;
        let name = match &at {
            At::Name(dir, name) => Some((dir.fd.as_fd(), Name::new(OsStr::from_bytes(name))?)),
            At::Open(_) => None,
        };
        act(upper, &Target { file, kind, stat: Some(&stat), marks: &marks, name })
    }

    /// What the index says of a file, with its true owner.
    pub(super) fn recorded(&self, node: &Node, record: Record<'_>) -> nix::Result<Recorded> {
        let record = self.described(node, record);
        let Owner { uid, gid } = match self.single {
            true => Owner { uid: record.uid(), gid: record.gid() },
            false => self.lower_owners.in_container(record.uid(), record.gid()),
        };
        Ok(Recorded { uid, gid, mode: record.mode() & 0o7777, kind: node.kind, device: 0 })
    }

    pub(super) fn xattr_names(&self, ino: InodeNo) -> nix::Result<Vec<u8>> {
        let node = self.node(ino)?;
        let _names = self.names();
        let (in_upper, part) = self.place(&node);
        match self.stack.record(part).filter(|_| !in_upper) {
            Some(record) => Ok(xattr_list(record.xattrs().map(|(name, _)| name))),
            None if in_upper => self.with_target(&node, |upper, target| upper.xattr_names(target)),
            None => visible_names(self.path_fd(&node)?.fd.as_fd()),
        }
    }

    pub(super) fn statistics(&self) -> nix::Result<Statistics> {
        let root = self.roots.iter().find(|root| root.writable).or(self.roots.get(1)).ok_or(Errno::EIO)?;
        let stat = fstatvfs(&root.fd)?;
        Ok(Statistics::of(&stat))
    }

    pub(super) fn inode_flags(&self, ino: InodeNo) -> nix::Result<u32> {
        let node = self.node(ino)?;
        if !matches!(node.kind, FileKind::File | FileKind::Directory) {
            return Err(Errno::ENOTTY);
        }
        let (in_upper, part) = self.place(&node);
        if !in_upper && !part.is_plain() {
            return Ok(0);
        }
        let fd = {
            let _names = self.names();
            reopen(self.path_fd(&node)?.fd.as_fd(), OFlag::O_RDONLY | OFlag::O_NONBLOCK)?
        };
        crate::sys::flags::get(fd.as_fd())
    }

    pub(super) fn set_attributes(&self, ino: InodeNo, changes: &Changes) -> nix::Result<Attributes> {
        let node = self.node(ino)?;
        let kill_privileges = changes.kill_privileges && !node.privileges.are_none();
        let changes = &Changes { kill_privileges, ..*changes };
        let is_nothing =
            matches!(changes, Changes { mode: None, uid: None, gid: None, size: None, atime: None, mtime: None, .. });
        if is_nothing && !changes.kill_privileges {
            return self.attributes(ino);
        }
        if changes.size.is_some() && node.kind != FileKind::File {
            return Err(if node.is_directory() { Errno::EISDIR } else { Errno::EINVAL });
        }
        self.copy_up(&node, changes.size)?;
        let file = match changes.size {
            Some(_) => Some(self.writable(&node)?),
            None => None,
        };
        let _names = self.names_to_change(&node);
        let replaced = self.with_target_open(&node, file, |upper, target| upper.set_attributes(target, changes))?;
        self.after_change(&node, replaced, changes.mode.is_some_and(|mode| mode & PRIVILEGES != 0))?;
        self.attributes_of(&node)
    }

    /// In single-id mode another owner may replace what is neither file nor directory on disk: then its name changes.
    fn names_to_change(&self, node: &Node) -> (Option<RwLockReadGuard<'_, ()>>, Option<RwLockWriteGuard<'_, ()>>) {
        match node.kind {
            FileKind::File | FileKind::Directory => (Some(self.names()), None),
            _ if self.single => (None, Some(self.names_exclusive())),
            _ => (Some(self.names()), None),
        }
    }

    /// What is remembered of a file is looked at again after a change.
    fn after_change(&self, node: &Node, replaced: Option<Made>, may_be_privileged: bool) -> nix::Result<()> {
        if may_be_privileged {
            node.privileges.may_have_come();
        }
        if let Some(made) = replaced {
            self.handles.remove(node.ino, OWN);
            self.set_upper(node, self.stack.real_number(made.stat.st_dev, made.stat.st_ino));
        }
        if node.is_directory()
            && let Some(more) = &mut node.lock().more
        {
            more.facts = None;
        }
        Ok(())
    }

    pub(super) fn set_xattr(
        &self,
        ino: InodeNo,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
        clear_setgid: bool,
    ) -> nix::Result<()> {
        let node = self.node(ino)?;
        if !node.lock().in_upper() {
            // What fails anyway copies nothing.
            self.upper()?;
            match (DiskName::of(name, self.single)?, mode) {
                (DiskName::Hidden, _) => return Err(Errno::EPERM),
                (_, XattrMode::Any) => {}
                (_, XattrMode::Replace) => drop(self.xattr(ino, name)?),
                (_, XattrMode::Create) => match self.xattr(ino, name) {
                    Ok(_) => return Err(Errno::EEXIST),
                    Err(Errno::ENODATA) => {}
                    Err(errno) => return Err(errno),
                },
            }
        }
        self.copy_up(&node, None)?;
        let _names = self.names_to_change(&node);
        let replaced =
            self.with_target(&node, |upper, target| upper.set_xattr(target, name, value, mode, clear_setgid))?;
        self.after_change(&node, replaced, true)
    }

    pub(super) fn remove_xattr(&self, ino: InodeNo, name: &[u8]) -> nix::Result<()> {
        let node = self.node(ino)?;
        if !node.lock().in_upper() {
            self.upper()?;
            self.xattr(ino, name)?;
        }
        self.copy_up(&node, None)?;
        let _names = self.names();
        self.with_target(&node, |upper, target| upper.remove_xattr(target, name))?;
        self.after_change(&node, None, false)
    }

    pub(super) fn set_inode_flags(&self, ino: InodeNo, flags: u32) -> nix::Result<()> {
        let node = self.node(ino)?;
        if !matches!(node.kind, FileKind::File | FileKind::Directory) {
            return Err(Errno::ENOTTY);
        }
        self.copy_up(&node, None)?;
        let _names = self.names();
        let fd = reopen(self.path_fd(&node)?.fd.as_fd(), OFlag::O_RDONLY | OFlag::O_NONBLOCK)?;
        crate::sys::flags::set(fd.as_fd(), flags)?;
        // It may be open for writing, which an immutable file does not allow any more.
        self.handles.remove(ino, OWN);
        Ok(())
    }
}
