//! New files.
//!
//! What the disk makes right at once (owner, mode) is made in its place by one call. Everything else, and what stands
//! over a whiteout, is made in the work directory first.

use super::describe::{Description, chown};
use super::marks::Marks;
use super::work::{DIRECTORY, Temp};
use super::{Made, Name, UpperLayer, copy_up, failpoint, is_whiteout_at};
use crate::union::attributes::{Caller, FileKind, NewFile};
use crate::whiteout;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, fstat, fstatat, mkdirat, mknodat};
use nix::unistd::{linkat, symlinkat};
use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

const FILE: OFlag =
    OFlag::O_RDWR.union(OFlag::O_CREAT).union(OFlag::O_EXCL).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

const SET_GID: u32 = 0o2000;

/// `mkdir` sets no more than these.
const DIRECTORY_BITS: u32 = 0o1777;

/// The directory that something is made in, and what it hands on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parent<'a> {
    /// A descriptor of any kind.
    pub(crate) dir: BorrowedFd<'a>,
    /// Its group, if it has the setgid bit: the disk's number, in single-id mode the recorded one.
    pub(crate) set_gid: Option<u32>,
    /// True if it has a default access list; see [`Marks`].
    pub(crate) has_default_acl: bool,
}

/// The file that gets another name.
#[derive(Clone, Copy, Debug)]
pub(crate) enum LinkFrom<'a> {
    /// The one that has this name.
    Named(BorrowedFd<'a>, Name<'a>),
    /// One made without a name, or one whose names are all but gone.
    Unnamed(BorrowedFd<'a>),
}

/// What is to be made, after all rules.
struct Plan<'a> {
    description: Description<'a>,
    kind_on_disk: FileKind,
    /// On disk.
    owner: (u32, u32),
    /// True if the disk makes it so by itself.
    is_direct: bool,
}

impl UpperLayer {
    /// Makes an empty file.
    ///
    /// # Errors
    /// `EEXIST` if the name is taken by anything but a whiteout; else the kernel's errno.
    pub(crate) fn create_file(&self, parent: Parent<'_>, name: Name<'_>, new: NewFile) -> nix::Result<Made> {
        let plan = self.plan(&parent, FileKind::File, new, 0)?;
        if plan.is_direct {
            match openat(parent.dir, name.bytes(), FILE, mode_of(&plan)) {
                Ok(file) => {
                    let mut stat = fstat(&file)?;
                    // A file system may give its directory's group to every file (`grpid`).
                    if (stat.st_uid, stat.st_gid) != plan.owner {
                        chown(file.as_fd(), plan.owner)?;
                        stat = fstat(&file)?;
                    }
                    return Ok(Made { stat, marks: Marks::default(), file: Some(file) });
                }
                Err(Errno::EEXIST) if is_whiteout_at(parent.dir, name.bytes())? => {}
                Err(errno) => return Err(errno),
            }
        }
        self.create_regular(&parent, name, plan)
    }

    /// Makes a pipe, a socket or a device; a device needs single-id mode, which records it.
    ///
    /// # Errors
    /// `EPERM` for devices, and for 0/0 (a whiteout) always; else as of [`create_file`](Self::create_file).
    pub(crate) fn create_node(
        &self,
        parent: Parent<'_>,
        name: Name<'_>,
        new: NewFile,
        kind: FileKind,
        device: u64,
    ) -> nix::Result<Made> {
        match kind {
            FileKind::File => return self.create_file(parent, name, new),
            FileKind::Directory | FileKind::Symlink => return Err(Errno::EINVAL),
            FileKind::CharDevice | FileKind::BlockDevice if !self.owners.is_single() => return Err(Errno::EPERM),
            FileKind::CharDevice if device == 0 => return Err(Errno::EPERM),
            _ => {}
        }
        let plan = self.plan(&parent, kind, new, device)?;
        if plan.kind_on_disk == FileKind::File {
            return self.create_regular(&parent, name, plan);
        }
        let make = |dir: BorrowedFd<'_>, name: &[u8]| mknodat(dir, name, kind.to_flag(), mode_of(&plan), 0);
        self.create_special(&parent, name, &plan, make)
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// As of [`create_file`](Self::create_file).
    pub(crate) fn create_symlink(
        &self,
        parent: Parent<'_>,
        name: Name<'_>,
        target: &OsStr,
        owner: Caller,
    ) -> nix::Result<Made> {
        let parent = Parent { has_default_acl: false, ..parent };
        let plan = self.plan(&parent, FileKind::Symlink, NewFile { owner, mode: 0o777, umask: 0 }, 0)?;
        if plan.kind_on_disk == FileKind::File {
            let (temp, file) = self.work.make(|work, temp| openat(work, temp, FILE, mode_of(&plan)))?;
            failpoint::pass("create.made")?;
            copy_up::write_all(file.as_fd(), target.as_bytes())?;
            let marks = self.describe(file.as_fd(), mode_of(&plan).bits() & !self.umask, &plan.description)?;
            self.place(temp, &parent, name)?;
            return Ok(Made { stat: fstat(&file)?, marks, file: None });
        }
        self.create_special(&parent, name, &plan, |dir, name| symlinkat(target, dir, name))
    }

    /// Makes a directory; opaque if a whiteout has its name.
    ///
    /// # Errors
    /// As of [`create_file`](Self::create_file).
    pub(crate) fn create_directory(&self, parent: Parent<'_>, name: Name<'_>, new: NewFile) -> nix::Result<Made> {
        let plan = self.plan(&parent, FileKind::Directory, new, 0)?;
        let mut is_over_whiteout = false;
        if plan.is_direct {
            match mkdirat(parent.dir, name.bytes(), mode_of(&plan)) {
                Ok(()) => {
                    let stat = fstatat(parent.dir, name.bytes(), AtFlags::AT_SYMLINK_NOFOLLOW)?;
                    let marks = Marks { has_default_acl: parent.has_default_acl, ..Marks::default() };
                    return Ok(Made { stat, marks, file: None });
                }
                Err(Errno::EEXIST) if is_whiteout_at(parent.dir, name.bytes())? => is_over_whiteout = true,
                Err(errno) => return Err(errno),
            }
        }
        let made_mode = self.mode_to_make(FileKind::Directory, plan.description.mode);
        let (mut temp, dir) = self.work.make(|work, temp| {
            mkdirat(work, temp, made_mode)?;
            openat(work, temp, DIRECTORY, Mode::empty())
        })?;
        failpoint::pass("create.made")?;
        let mut marks = self.describe_new(dir.as_fd(), made_mode.bits() & !self.umask, &parent, &plan)?;
        let placed = if is_over_whiteout { Err(Errno::EEXIST) } else { temp.place(parent.dir, name.bytes()) };
        match placed {
            Err(Errno::EEXIST) if is_over_whiteout || is_whiteout_at(parent.dir, name.bytes())? => {
                whiteout::make_opaque(&dir)?;
                (marks.is_opaque, marks.may_have_whiteout_files) = (true, true);
                failpoint::pass("create.opaque")?;
                temp.exchange(parent.dir, name.bytes())?;
                failpoint::pass("create.exchanged")?;
            }
            placed => placed?,
        }
        drop(temp);
        Ok(Made { stat: fstat(&dir)?, marks, file: Some(dir) })
    }

    /// Makes a file without a name.
    ///
    /// # Errors
    /// `EOPNOTSUPP` where the file system has none (`O_TMPFILE`); else the kernel's errno.
    pub(crate) fn create_unnamed(&self, parent: Parent<'_>, new: NewFile) -> nix::Result<Made> {
        let plan = self.plan(&parent, FileKind::File, new, 0)?;
        let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
        let file = match openat(self.work.dir(), c".", flags, Mode::S_IRUSR | Mode::S_IWUSR) {
            Err(Errno::EISDIR | Errno::ENOENT) => return Err(Errno::EOPNOTSUPP),
            file => file?,
        };
        let marks = self.describe_new(file.as_fd(), 0o600 & !self.umask, &parent, &plan)?;
        Ok(Made { stat: fstat(&file)?, marks, file: Some(file) })
    }

    /// Gives a file of the upper another name.
    ///
    /// # Errors
    /// As of [`create_file`](Self::create_file).
    pub(crate) fn link(&self, from: LinkFrom<'_>, dir: BorrowedFd<'_>, name: Name<'_>) -> nix::Result<()> {
        match link_at(from, dir, name.bytes()) {
            Err(Errno::EEXIST) if is_whiteout_at(dir, name.bytes())? => {}
            result => return result,
        }
        let (temp, ()) = self.work.make(|work, temp| link_at(from, work, temp.to_bytes()))?;
        failpoint::pass("link.made")?;
        temp.replace(dir, name.bytes())
    }

    fn plan(&self, parent: &Parent<'_>, kind: FileKind, new: NewFile, device: u64) -> nix::Result<Plan<'static>> {
        let mut mode = new.mode & 0o7777;
        if !parent.has_default_acl {
            mode &= !(new.umask & 0o777);
        }
        if kind == FileKind::Directory && parent.set_gid.is_some() {
            mode |= SET_GID;
        }
        let Caller { uid, gid } = new.owner;
        let gid = parent.set_gid.filter(|_| self.owners.is_single()).unwrap_or(gid);
        let description = Description {
            kind,
            mode,
            uid,
            gid,
            inherited_gid: parent.set_gid,
            device,
            xattrs: &[],
            access: None,
            default: None,
            origin: None,
            times: None,
        };
        let kind_on_disk = self.owners.kind_on_disk(kind, uid, gid);
        let owner = self.owner_on_disk(&description)?;
        // The directory's setgid bit gives its group, and to a directory the bit, by itself.
        let is_ours = owner.0 == self.us.0 && (parent.set_gid.is_some() || owner.1 == self.us.1);
        let settable = match kind {
            FileKind::Directory => DIRECTORY_BITS | parent.set_gid.map_or(0, |_| SET_GID),
            FileKind::File => 0o7777,
            _ => 0o777,
        };
        let is_whole = mode & !settable == 0 && mode & self.umask & 0o777 == 0;
        let is_told = self.owners.override_for(uid, gid, mode, kind, device).is_none();
        let is_link = kind == FileKind::Symlink;
        Ok(Plan {
            description,
            kind_on_disk,
            owner,
            is_direct: is_ours && kind_on_disk == kind && is_told && (is_whole || is_link),
        })
    }

    /// Describes a new file in the work directory, with what its directory hands on.
    fn describe_new(
        &self,
        file: BorrowedFd<'_>,
        made_mode: u32,
        parent: &Parent<'_>,
        plan: &Plan<'_>,
    ) -> nix::Result<Marks> {
        let inherited = if parent.has_default_acl { self.inherited(parent.dir, plan.description.mode)? } else { None };
        let Some((inherited, default)) = &inherited else {
            return self.describe(file, made_mode, &plan.description);
        };
        let description = Description {
            mode: inherited.mode,
            access: inherited.access.as_deref(),
            default: (plan.description.kind == FileKind::Directory).then_some(default.as_slice()),
            ..plan.description
        };
        self.describe(file, made_mode, &description)
    }

    fn create_regular(&self, parent: &Parent<'_>, name: Name<'_>, plan: Plan<'_>) -> nix::Result<Made> {
        let made_mode = self.mode_to_make(FileKind::File, plan.description.mode);
        let (temp, file) = self.work.make(|work, temp| openat(work, temp, FILE, made_mode))?;
        failpoint::pass("create.made")?;
        let marks = self.describe_new(file.as_fd(), made_mode.bits() & !self.umask, parent, &plan)?;
        self.place(temp, parent, name)?;
        let is_file = plan.description.kind == FileKind::File;
        Ok(Made { stat: fstat(&file)?, marks, file: is_file.then_some(file) })
    }

    fn create_special(
        &self,
        parent: &Parent<'_>,
        name: Name<'_>,
        plan: &Plan<'_>,
        make: impl Fn(BorrowedFd<'_>, &[u8]) -> nix::Result<()>,
    ) -> nix::Result<Made> {
        let made = |parent: &Parent<'_>| {
            let stat = fstatat(parent.dir, name.bytes(), AtFlags::AT_SYMLINK_NOFOLLOW)?;
            Ok(Made { stat, marks: Marks::default(), file: None })
        };
        if plan.is_direct {
            match make(parent.dir, name.bytes()) {
                Ok(()) => return made(parent),
                Err(Errno::EEXIST) if is_whiteout_at(parent.dir, name.bytes())? => {}
                Err(errno) => return Err(errno),
            }
        }
        let (temp, ()) = self.work.make(|work, temp| make(work, temp.to_bytes()))?;
        failpoint::pass("create.made")?;
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file: OwnedFd = openat(self.work.dir(), temp.name(), flags, Mode::empty())?;
        let mut description = plan.description;
        let inherited = if parent.has_default_acl { self.inherited(parent.dir, description.mode)? } else { None };
        if let Some((inherited, _)) = &inherited {
            description.mode = inherited.mode;
        }
        self.describe_special(file.as_fd(), mode_of(plan).bits() & !self.umask, &description)?;
        if let Some(list) = inherited.and_then(|(inherited, _)| inherited.access) {
            crate::sys::xattr::set(file.as_fd(), super::acl::ACCESS, &list)?;
        }
        self.place(temp, parent, name)?;
        made(parent)
    }

    /// Gives a complete non-directory its name, over nothing or over a whiteout.
    fn place(&self, mut temp: Temp<'_>, parent: &Parent<'_>, name: Name<'_>) -> nix::Result<()> {
        failpoint::pass("create.place")?;
        match temp.place(parent.dir, name.bytes()) {
            Err(Errno::EEXIST) if is_whiteout_at(parent.dir, name.bytes())? => {
                temp.replace(parent.dir, name.bytes())?;
            }
            placed => placed?,
        }
        failpoint::pass("create.placed")
    }
}

fn mode_of(plan: &Plan<'_>) -> Mode {
    let mode = match plan.kind_on_disk {
        FileKind::File => plan.description.mode & 0o7777,
        FileKind::Directory => plan.description.mode & DIRECTORY_BITS,
        _ => plan.description.mode & 0o777,
    };
    Mode::from_bits_truncate(mode)
}

fn link_at(from: LinkFrom<'_>, dir: BorrowedFd<'_>, name: &[u8]) -> nix::Result<()> {
    match from {
        LinkFrom::Named(old_dir, old_name) => linkat(old_dir, old_name.bytes(), dir, name, AtFlags::empty()),
        LinkFrom::Unnamed(file) => {
            // By the empty path only with privilege over the whole machine, or since Linux 6.10 by who opened it.
            match linkat(file, c"", dir, name, AtFlags::AT_EMPTY_PATH) {
                Err(Errno::ENOENT | Errno::EPERM | Errno::EINVAL) => {}
                result => return result,
            }
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            linkat(nix::fcntl::AT_FDCWD, path.as_str(), dir, name, AtFlags::AT_SYMLINK_FOLLOW)
        }
    }
}
