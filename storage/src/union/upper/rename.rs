//! Renames within the upper.
//!
//! | source in a lower | target in the upper | calls |
//! | --- | --- | --- |
//! | no | anything but a directory, or nothing | rename |
//! | no | whiteout, source is a directory | exchange, unlink the whiteout, which hides nothing any more |
//! | yes | anything but a directory, or nothing | rename that leaves a whiteout |
//! | yes | whiteout, source is a directory | exchange: the whiteout is where it is needed |
//! | any | directory with nothing but whiteouts | an empty opaque one takes its place, then as above |
//!
//! A directory that comes to where a lower has something is marked opaque while it is still in its old place, where that
//! means nothing.

use super::remove::is_refusal;
use super::work::DIRECTORY;
use super::{Name, UpperLayer, failpoint, is_whiteout_at};
use crate::sys::rename::rename_at;
use crate::union::attributes::RenameMode;
use crate::whiteout;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, fstatat};
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};
use std::os::fd::{AsFd, BorrowedFd};

/// One of the two names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RenameSide<'a> {
    /// Its directory in the upper.
    pub(crate) dir: BorrowedFd<'a>,
    /// Its last component.
    pub(crate) name: Name<'a>,
    /// True if what has the name now is a directory.
    pub(crate) is_directory: bool,
    /// True if it would be seen, in a lower, if the upper had nothing of that name.
    pub(crate) lower: bool,
}

impl UpperLayer {
    /// Renames a file or directory of the upper. What a directory shows must all be in the upper: either no lower has
    /// anything at its place, or it is opaque.
    ///
    /// The caller has compared what both names are and has refused what `rename(2)` refuses; with `no_replace` the target
    /// has nothing, or a whiteout.
    ///
    /// # Errors
    /// `EINVAL` for modes that exclude each other, and for `whiteout`: what lies on top of us would not see one that we
    /// leave. `ENOTEMPTY`; else the kernel's errno.
    pub(crate) fn rename(&self, from: RenameSide<'_>, to: RenameSide<'_>, mode: RenameMode) -> nix::Result<()> {
        if mode.whiteout || mode.no_replace && mode.exchange {
            return Err(Errno::EINVAL);
        }
        if from.is_directory && to.lower {
            make_opaque(&from)?;
        }
        if mode.exchange {
            if to.is_directory && from.lower {
                make_opaque(&to)?;
            }
            failpoint::pass("rename.exchange")?;
            return call(&from, &to, libc::RENAME_EXCHANGE);
        }
        failpoint::pass("rename.begin")?;
        match self.rename_over(&from, &to) {
            Err(Errno::ENOTEMPTY | Errno::EEXIST) if from.is_directory => {
                self.clear_directory(to.dir, to.name.bytes())?;
                self.rename_over(&from, &to)
            }
            result => result,
        }
    }

    fn rename_over(&self, from: &RenameSide<'_>, to: &RenameSide<'_>) -> nix::Result<()> {
        let is_over_whiteout = || is_whiteout_at(to.dir, to.name.bytes());
        if !from.lower {
            return match call(from, to, 0) {
                Err(Errno::ENOTDIR) if from.is_directory && is_over_whiteout()? => {
                    call(from, to, libc::RENAME_EXCHANGE)?;
                    failpoint::pass("rename.exchanged")?;
                    // It hides nothing; a failure does no harm.
                    let _ = unlinkat(from.dir, from.name.bytes(), UnlinkatFlags::NoRemoveDir);
                    Ok(())
                }
                result => result,
            };
        }
        match call(from, to, libc::RENAME_WHITEOUT) {
            Err(Errno::ENOTDIR) if from.is_directory && is_over_whiteout()? => self.swap_with_whiteout(from, to),
            Err(errno) if errno == Errno::EINVAL || is_refusal(errno) => self.rename_in_steps(from, to),
            result => result,
        }
    }

    /// The whiteout at the target goes to where it is needed.
    fn swap_with_whiteout(&self, from: &RenameSide<'_>, to: &RenameSide<'_>) -> nix::Result<()> {
        // A whiteout in its xattr form counts only in a directory that says so.
        let stat = fstatat(to.dir, to.name.bytes(), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        if !whiteout::is_whiteout_device(&stat) {
            self.stage_whiteout(from.dir)?;
        }
        call(from, to, libc::RENAME_EXCHANGE)
    }

    /// Where the file system does not leave whiteouts by itself. A killed process may leave a file under both its names,
    /// or the place that a directory was to take empty, but never nothing under either.
    pub(super) fn rename_in_steps(&self, from: &RenameSide<'_>, to: &RenameSide<'_>) -> nix::Result<()> {
        let hiding = self.stage_whiteout(from.dir)?;
        failpoint::pass("rename.whiteout-made")?;
        if !from.is_directory {
            let (temp, ()) =
                self.work.make(|work, temp| linkat(from.dir, from.name.bytes(), work, temp, AtFlags::empty()))?;
            failpoint::pass("rename.linked")?;
            temp.replace(to.dir, to.name.bytes())?;
            failpoint::pass("rename.target-placed")?;
            return hiding.replace(from.dir, from.name.bytes());
        }
        let mut hiding = hiding;
        if !is_whiteout_at(to.dir, to.name.bytes())? {
            match hiding.exchange(to.dir, to.name.bytes()) {
                Err(Errno::ENOENT) => hiding.place(to.dir, to.name.bytes())?,
                result => result?,
            }
        }
        failpoint::pass("rename.target-hidden")?;
        self.swap_with_whiteout(from, to)
    }
}

fn call(from: &RenameSide<'_>, to: &RenameSide<'_>, flags: u32) -> nix::Result<()> {
    rename_at(from.dir, from.name.bytes(), to.dir, to.name.bytes(), flags)
}

fn make_opaque(side: &RenameSide<'_>) -> nix::Result<()> {
    let dir = match openat(side.dir, side.name.bytes(), DIRECTORY, Mode::empty()) {
        Err(Errno::EACCES) => {
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            openat(side.dir, side.name.bytes(), flags, Mode::empty())?
        }
        dir => dir?,
    };
    whiteout::make_opaque(dir.as_fd())
}
