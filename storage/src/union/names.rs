//! Which names a directory has, before anybody asks what is behind them.
//!
//! | the directory lies in | its names come from |
//! | --- | --- |
//! | one to eight indexed layers | their indexes, as they are |
//! | the same and the upper | the indexes, and a listing of the upper |
//! | anything else | one listing of all |
//!
//! Cookies: 1 is `.`, 2 is `..`; a record's says layer and record; a listing's is the hash of the name with
//! [`LISTED`]. None of them depends on what else is in the directory.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::libc;
use nix::sys::stat::{Mode, fstat};

use super::attributes::{FileKind, InodeNo};
use super::inode_table::{Node, Places};
use super::listing::{Listing, Slot};
use super::stack::{Part, Stack, file_kind, stat_kind};
use super::tree::{Tree, stat_at};
use super::upper::Marks;
use crate::layer::index::Record;
use crate::sys::{getdents, xattr};
use crate::whiteout::{self, TarName};

/// Set in cookies of names from a listing.
const LISTED: u64 = 1 << 61;

/// Directories in more indexed layers get a listing: finding out what hides what would take too long.
const MAX_INDEXES: usize = 8;

/// Behind `.` and `..`.
pub(super) const FIRST_COOKIE: u64 = 2;

/// A name of a directory.
pub(super) struct Named<'a> {
    pub(super) name: &'a [u8],
    pub(super) cookie: u64,
    pub(super) kind: FileKind,
    /// Its number as far as the name alone tells.
    pub(super) number: Option<InodeNo>,
    /// The record behind it and in which of the directory's parts that is, if no other part matters.
    pub(super) record: Option<(usize, Part)>,
}

impl Tree {
    /// True if a listing has all names, those of indexes as well.
    pub(super) fn is_gathered(places: &Places) -> bool {
        places.parts().any(Part::is_plain) || places.parts().count() > MAX_INDEXES
    }

    /// What the listing knows of a name, in a directory that needs one; it is made if it is missing. `changes` says
    /// that the caller holds the directory's lock.
    pub(super) fn listed(
        &self,
        node: &Arc<Node>,
        places: &Places,
        name: &[u8],
        changes: bool,
    ) -> nix::Result<Option<Slot>> {
        self.look_into_listing(node, places, changes, |listing| listing.get(name).cloned())
    }

    /// What the listing knows of a name, if there is a listing.
    pub(super) fn listed_already(&self, node: &Node, name: &[u8]) -> Option<Option<Slot>> {
        let state = node.lock();
        let listing = state.more.as_ref()?.listing.as_ref()?;
        Some(listing.get(name).cloned())
    }

    pub(super) fn look_into_listing<T>(
        &self,
        node: &Arc<Node>,
        places: &Places,
        changes: bool,
        look: impl FnOnce(&Listing) -> T,
    ) -> nix::Result<T> {
        {
            let state = node.lock();
            if let Some(listing) = state.more.as_ref().and_then(|more| more.listing.as_ref()) {
                return Ok(look(listing));
            }
        }
        let guard = (!changes).then(|| self.change(node.ino));
        let listing = self.gather(node, places)?;
        let found = look(&listing);
        self.keep_listing(node, listing);
        drop(guard);
        Ok(found)
    }

    fn gather(&self, node: &Arc<Node>, places: &Places) -> nix::Result<Listing> {
        let mut listing = Listing::default();
        if places.in_upper {
            let dir = self.upper_dir(node)?;
            let has_lower = places.has_lower();
            self.list_upper(dir.fd.as_fd(), has_lower, &mut listing)?;
        }
        if Self::is_gathered(places) {
            for (at, part) in places.parts().enumerate() {
                let place = at as u16 + 1;
                match self.stack.record(part) {
                    Some(record) => self.list_record(part, record, place, &mut listing),
                    None => {
                        let dir = self.lower_dir(node, part.layer)?;
                        self.list_lower(dir.fd.as_fd(), part.layer, place, &mut listing)?;
                    }
                }
            }
        }
        Ok(listing)
    }

    fn list_upper(&self, dir: BorrowedFd<'_>, has_lower: bool, listing: &mut Listing) -> nix::Result<()> {
        let marks = Marks::read(dir, &fstat(dir)?)?;
        let is_vague = self.single || marks.is_impure;
        for_each_entry(dir, |name, ino, kind| {
            let (kind, is_whiteout) = self.classify(dir, name, kind, marks.may_have_whiteout_files)?;
            // A directory may be merged, and then has the number of what lies below.
            let is_clear = !(is_vague || has_lower && kind == FileKind::Directory);
            let number = is_clear.then(|| self.stack.real_number(self.upper_device, ino).0);
            let kind = (!is_whiteout).then_some(kind);
            listing.put(Slot::new(name, 0, kind, number.and_then(std::num::NonZeroU64::new)));
            Ok(())
        })
    }

    fn list_lower(&self, dir: BorrowedFd<'_>, layer: u16, place: u16, listing: &mut Listing) -> nix::Result<()> {
        // Whiteouts in their xattr form stand only in directories that say so (and in opaque ones, which have no room to).
        let may_have_whiteout_files = xattr::find(dir, whiteout::OPAQUE_XATTR)?.is_some();
        for_each_entry(dir, |name, ino, kind| {
            let (name, kind) = match TarName::parse(name) {
                TarName::Whiteout(hidden) => (hidden, None),
                TarName::Plain(name) => {
                    let (kind, is_whiteout) = self.classify(dir, name, kind, may_have_whiteout_files)?;
                    (name, (!is_whiteout).then_some(kind))
                }
                _ => return Ok(()),
            };
            let is_clear = !self.single && kind.is_some();
            let number = is_clear.then(|| self.stack.real_number(self.stack.device(layer), ino).0);
            let number = number.and_then(std::num::NonZeroU64::new);
            listing.put_below(Slot::new(name, place, kind, number));
            Ok(())
        })
    }

    fn list_record(&self, part: Part, record: Record<'_>, place: u16, listing: &mut Listing) {
        for child in record.children() {
            let Some(kind) = child.kind().map(file_kind) else { continue };
            let number = std::num::NonZeroU64::new(self.stack.number(Stack::part(part, child), child).0);
            listing.put_below(Slot::new(child.name(), place, kind, number));
        }
    }

    /// What an entry is, and whether it stands for a whiteout.
    fn classify(
        &self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        kind: Option<FileKind>,
        may_be_file: bool,
    ) -> nix::Result<(FileKind, bool)> {
        match kind {
            Some(FileKind::CharDevice) | None => {}
            Some(FileKind::File) if may_be_file => {}
            Some(kind) => return Ok((kind, false)),
        }
        let stat = stat_at(dir, name)?;
        let is_whiteout = whiteout::is_whiteout_device(&stat)
            || may_be_file && stat_kind(&stat) == FileKind::File && stat.st_size == 0 && self.is_marked(dir, name)?;
        Ok((stat_kind(&stat), is_whiteout))
    }

    fn is_marked(&self, dir: BorrowedFd<'_>, name: &[u8]) -> nix::Result<bool> {
        let fd = self.open_at(dir, name, OFlag::O_PATH | OFlag::O_NOFOLLOW)?;
        Ok(Marks::read(fd.as_fd(), &fstat(&fd)?)?.is_whiteout)
    }

    /// What stands on a file of a layer without index.
    pub(super) fn lower_marks(&self, dir: BorrowedFd<'_>, name: &[u8]) -> nix::Result<Marks> {
        let fd = self.open_at(dir, name, OFlag::O_PATH | OFlag::O_NOFOLLOW)?;
        Marks::read(fd.as_fd(), &fstat(&fd)?)
    }

    /// Names each entry behind `cookie` but `.` and `..`, until `visit` says no.
    pub(super) fn for_each_name(
        &self,
        node: &Arc<Node>,
        places: &Places,
        cookie: u64,
        visit: &mut dyn FnMut(Named<'_>) -> nix::Result<bool>,
    ) -> nix::Result<()> {
        let is_gathered = Self::is_gathered(places);
        if !is_gathered && cookie & LISTED == 0 && !self.for_each_record(node, places, cookie, visit)? {
            return Ok(());
        }
        if !is_gathered && !places.in_upper {
            return Ok(());
        }
        let mut at = if cookie & LISTED == 0 { 0 } else { cookie & !LISTED };
        loop {
            let next = self.look_into_listing(node, places, false, |listing| {
                listing.after(at).map(|(cookie, slot)| (cookie, slot.clone()))
            })?;
            let Some((cookie, slot)) = next else { return Ok(()) };
            at = cookie;
            let Some(kind) = slot.kind else { continue };
            // Named where the index has it.
            if !is_gathered && self.topmost_record(places, &slot.name).is_some_and(|(_, _, is_there)| is_there) {
                continue;
            }
            let number = slot.number.map(|number| self.number_of_slot(number, slot.place));
            if !visit(Named { name: &slot.name, cookie: LISTED | cookie, kind, number, record: None })? {
                return Ok(());
            }
        }
    }

    /// False if `visit` had enough.
    fn for_each_record(
        &self,
        node: &Arc<Node>,
        places: &Places,
        cookie: u64,
        visit: &mut dyn FnMut(Named<'_>) -> nix::Result<bool>,
    ) -> nix::Result<bool> {
        let is_looked_up = places.in_upper && places.has_lower();
        for (at, part) in places.parts().enumerate() {
            let Some(record) = self.stack.record(part) else { continue };
            for child in record.children() {
                let its_cookie = (u64::from(part.layer) + 1) << 33 | u64::from(child.number());
                if its_cookie <= cookie {
                    continue;
                }
                let Some(kind) = child.kind().and_then(file_kind) else { continue };
                let name = child.name();
                let is_hidden = |above: Part| self.stack.record(above).is_some_and(|above| above.child(name).is_some());
                if places.parts().take(at).any(is_hidden) {
                    continue;
                }
                let mut named = Named {
                    name,
                    cookie: its_cookie,
                    kind,
                    number: Some(self.stack.number(Stack::part(part, child), child)),
                    record: Some((at, Stack::part(part, child))),
                };
                if is_looked_up && let Some(slot) = self.listed(node, places, name, false)? {
                    let Some(kind) = slot.kind else { continue };
                    named.kind = kind;
                    named.record = None;
                    named.number = slot.number.map(|number| self.number_of_slot(number, slot.place));
                }
                if !visit(named)? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn number_of_slot(&self, number: std::num::NonZeroU64, place: u16) -> InodeNo {
        let number = InodeNo(number.get());
        if place == 0 { self.table.aliased(number).unwrap_or(number) } else { number }
    }

    /// The topmost part that has the name, its record, and whether that is more than a whiteout.
    pub(super) fn topmost_record<'a>(&'a self, places: &Places, name: &[u8]) -> Option<(Part, Record<'a>, bool)> {
        places.parts().find_map(|part| {
            let record = self.stack.record(part)?.child(name)?;
            Some((Stack::part(part, record), record, record.kind().and_then(file_kind).is_some()))
        })
    }
}

/// Reads a directory that is open in any way.
fn for_each_entry(
    dir: BorrowedFd<'_>,
    mut visit: impl FnMut(&[u8], u64, Option<FileKind>) -> nix::Result<()>,
) -> nix::Result<()> {
    let mut visit = |name: &[u8], number: u64, kind: u8| {
        if matches!(name, b"." | b"..") {
            return Ok(());
        }
        let kind = match kind {
            libc::DT_DIR => Some(FileKind::Directory),
            libc::DT_LNK => Some(FileKind::Symlink),
            libc::DT_FIFO => Some(FileKind::Fifo),
            libc::DT_SOCK => Some(FileKind::Socket),
            libc::DT_CHR => Some(FileKind::CharDevice),
            libc::DT_BLK => Some(FileKind::BlockDevice),
            libc::DT_REG => Some(FileKind::File),
            _ => None,
        };
        match visit(name, number, kind) {
            // Gone since: nobody but us changes the upper, but nothing is lost by it either.
            Err(Errno::ENOENT) => Ok(()),
            result => result,
        }
    };
    let result = match getdents::for_each(dir, &mut visit) {
        Err(Errno::EBADF) => {
            let readable = openat(dir, ".", LIST, Mode::empty());
            readable.and_then(|dir| getdents::for_each(dir.as_fd(), &mut visit))
        }
        result => result,
    };
    match result {
        // Removed while it is open.
        Err(Errno::ENOENT) => Ok(()),
        result => result,
    }
}

const LIST: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);
