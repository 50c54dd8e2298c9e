//! A merged directory made whole in the upper, so that it can be renamed.
//!
//! The new tree is built in the work directory from what its caller finds in the merged view: entries of lowers are
//! copied, files of the upper get a second name (they stay the same files, whoever has them open). It is opaque before
//! it takes the place of the old one.

use super::copy_data::Durability;
use super::copy_up::{Filled, Source, keeping_times};
use super::describe::spec;
use super::work::Temp;
use super::{Made, Name, UpperLayer, failpoint};
use crate::sys::times::set_times;
use crate::union::attributes::FileKind;
use crate::whiteout;
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::fstat;
use nix::unistd::{linkat, syncfs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::SystemTime;

/// One descriptor per level is held.
const MAX_DEPTH: usize = 128;

/// An entry without data counts as this many bytes against the cap.
const ENTRY_BYTES: u64 = 4096;

/// A tree being built. Dropped, it leaves nothing.
#[derive(Debug)]
pub(crate) struct StagedTree<'a> {
    upper: &'a UpperLayer,
    temp: Temp<'a>,
    root: Level,
    below: Vec<Level>,
    marks: super::Marks,
    bytes_left: u64,
    has_data: bool,
}

#[derive(Debug)]
struct Level {
    dir: OwnedFd,
    times: (SystemTime, SystemTime),
}

impl Level {
    fn close(&self) -> nix::Result<()> {
        set_times(self.dir.as_fd(), &spec(self.times.0), &spec(self.times.1))
    }
}

impl UpperLayer {
    /// Begins a tree with its top directory, which is current then. No more than `cap_bytes` may be copied.
    ///
    /// # Errors
    /// The kernel's errno.
    pub(crate) fn stage_tree(&self, source: &Source<'_>, cap_bytes: u64) -> nix::Result<StagedTree<'_>> {
        if source.attributes.kind != FileKind::Directory {
            return Err(Errno::ENOTDIR);
        }
        let (temp, filled) = self.work.make(|work, name| self.fill(work, name.to_bytes(), source, None))?;
        let Filled { fd, mut marks, .. } = filled;
        whiteout::make_opaque(&fd)?;
        marks.is_opaque = true;
        marks.may_have_whiteout_files = true;
        let root = Level { dir: fd, times: (source.attributes.atime, source.attributes.mtime) };
        Ok(StagedTree { upper: self, temp, root, below: Vec::new(), marks, bytes_left: cap_bytes, has_data: false })
    }
}

impl StagedTree<'_> {
    fn current(&self) -> BorrowedFd<'_> {
        self.below.last().unwrap_or(&self.root).dir.as_fd()
    }

    fn spend(&mut self, bytes: u64) -> nix::Result<()> {
        self.bytes_left = self.bytes_left.checked_sub(bytes.max(ENTRY_BYTES)).ok_or(Errno::EXDEV)?;
        Ok(())
    }

    /// Makes a directory in the current one and goes into it.
    ///
    /// # Errors
    /// `EXDEV` if the tree is too large or too deep to be copied; else the kernel's errno.
    pub(crate) fn enter(&mut self, name: Name<'_>, source: &Source<'_>) -> nix::Result<()> {
        if source.attributes.kind != FileKind::Directory {
            return Err(Errno::ENOTDIR);
        }
        if self.below.len() >= MAX_DEPTH {
            return Err(Errno::EXDEV);
        }
        self.spend(0)?;
        let filled = self.upper.fill(self.current(), name.bytes(), source, None)?;
        failpoint::pass("tree.entered")?;
        self.below.push(Level { dir: filled.fd, times: (source.attributes.atime, source.attributes.mtime) });
        Ok(())
    }

    /// Goes back to the directory above.
    ///
    /// # Errors
    /// The kernel's errno; `EINVAL` at the top.
    pub(crate) fn leave(&mut self) -> nix::Result<()> {
        self.below.pop().ok_or(Errno::EINVAL)?.close()
    }

    /// Copies a file of any kind but a directory into the current directory.
    ///
    /// # Errors
    /// As of [`enter`](Self::enter).
    pub(crate) fn copy(&mut self, name: Name<'_>, source: &Source<'_>) -> nix::Result<()> {
        let bytes = if source.attributes.kind == FileKind::File { source.attributes.size } else { 0 };
        self.spend(bytes)?;
        let filled = self.upper.fill(self.current(), name.bytes(), source, None)?;
        failpoint::pass("tree.copied")?;
        self.has_data |= filled.bytes > 0;
        match self.upper.durability {
            // Once for all of them.
            Durability::Done => Ok(()),
            durability => durability.secure(filled.fd.as_fd(), filled.bytes),
        }
    }

    /// Gives a file of the upper a name in the current directory as well.
    ///
    /// # Errors
    /// The kernel's errno.
    pub(crate) fn adopt(&mut self, name: Name<'_>, dir: BorrowedFd<'_>, old_name: Name<'_>) -> nix::Result<()> {
        self.spend(0)?;
        linkat(dir, old_name.bytes(), self.current(), name.bytes(), AtFlags::empty())?;
        failpoint::pass("tree.adopted")
    }

    /// Puts the tree in the place of the upper's directory of that name, if it has one. That one goes, with the
    /// directories below it: descriptors of them are of no use afterwards.
    ///
    /// # Errors
    /// The kernel's errno.
    pub(crate) fn publish(mut self, dir: BorrowedFd<'_>, name: Name<'_>) -> nix::Result<Made> {
        while !self.below.is_empty() {
            self.leave()?;
        }
        self.root.close()?;
        if self.has_data && self.upper.durability == Durability::Done {
            syncfs(&self.root.dir)?;
        }
        failpoint::pass("tree.publish")?;
        let temp = &mut self.temp;
        keeping_times(dir, || match temp.place(dir, name.bytes()) {
            Err(Errno::EEXIST) if super::work::is_directory(dir, name.bytes())? => temp.exchange(dir, name.bytes()),
            placed => placed,
        })?;
        failpoint::pass("tree.published")?;
        let stat = fstat(&self.root.dir)?;
        drop(self.temp);
        Ok(Made { stat, marks: self.marks, file: Some(self.root.dir) })
    }
}
