//! What a union can be asked, and how an operation becomes questions.

use nix::errno::Errno;

use crate::scenario::{How, Operation, Presence, Room};
use crate::tree::summary;

pub(crate) type Answer<T> = Result<T, Errno>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Symlink,
    Fifo,
    Socket,
    Device,
}

/// What two drivers must agree on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) size: u64,
    /// Of files; a directory's may be 1 where nobody counts.
    pub(crate) nlink: u32,
    /// Seconds, if it lies so far back that somebody set it.
    pub(crate) mtime: Option<i64>,
}

/// Times before this were set by somebody, others are those of changes.
pub(crate) const LONG_AGO: i64 = 1_000_000_000;

/// A union, by paths. Intermediate symlinks are never followed (`ELOOP`), nor are last ones.
pub(crate) trait Driver {
    fn status(&mut self, path: &str) -> Answer<Status>;
    fn number(&mut self, path: &str) -> Answer<u64>;
    fn read_link(&mut self, path: &str) -> Answer<Vec<u8>>;
    /// Names with kind and number as the listing has them, without `.` and `..`.
    fn list(&mut self, path: &str) -> Answer<Vec<(String, Kind, u64)>>;
    fn create(&mut self, path: &str, mode: u32) -> Answer<()>;
    /// `O_TMPFILE`, written, then linked.
    fn create_unnamed(&mut self, directory: &str, name: &str, mode: u32, content: &[u8]) -> Answer<()>;
    fn make_directory(&mut self, path: &str, mode: u32) -> Answer<()>;
    fn symlink(&mut self, path: &str, target: &str) -> Answer<()>;
    fn make_node(&mut self, path: &str, kind: Kind, mode: u32) -> Answer<()>;
    fn link(&mut self, from: &str, to: &str) -> Answer<()>;
    fn unlink(&mut self, path: &str) -> Answer<()>;
    fn remove_directory(&mut self, path: &str) -> Answer<()>;
    fn rename(&mut self, from: &str, to: &str, how: How) -> Answer<()>;
    fn change_mode(&mut self, path: &str, mode: u32) -> Answer<()>;
    fn change_owner(&mut self, path: &str, uid: Option<u32>, gid: Option<u32>) -> Answer<()>;
    fn set_times(&mut self, path: &str, seconds: i64) -> Answer<()>;
    fn truncate(&mut self, path: &str, size: u64) -> Answer<()>;
    fn write(&mut self, path: &str, offset: u64, data: &[u8]) -> Answer<()>;
    fn read(&mut self, path: &str, offset: u64, size: usize) -> Answer<Vec<u8>>;
    fn allocate(&mut self, path: &str, offset: u64, size: u64, how: Room) -> Answer<()>;
    fn seek(&mut self, path: &str, offset: u64, is_data: bool) -> Answer<u64>;
    fn copy_range(&mut self, from: &str, to: &str, size: usize) -> Answer<usize>;
    fn sync(&mut self, path: &str) -> Answer<()>;
    fn xattr(&mut self, path: &str, name: &str) -> Answer<Vec<u8>>;
    fn xattr_names(&mut self, path: &str) -> Answer<Vec<String>>;
    fn set_xattr(&mut self, path: &str, name: &str, value: &[u8], how: Presence) -> Answer<()>;
    fn remove_xattr(&mut self, path: &str, name: &str) -> Answer<()>;
    fn hold(&mut self, slot: usize, path: &str) -> Answer<()>;
    fn held_write(&mut self, slot: usize, offset: u64, data: &[u8]) -> Answer<()>;
    fn held_read(&mut self, slot: usize) -> Answer<Vec<u8>>;
    fn held_status(&mut self, slot: usize) -> Answer<Status>;
    fn release(&mut self, slot: usize);
}

/// `size` bytes that tell where they come from.
pub(crate) fn content(seed: usize, size: usize) -> Vec<u8> {
    (0..size).map(|at| b'a' + ((at / 7 + seed) % 26) as u8).collect()
}

/// Does one operation; the answer as text, so that any two can be compared. `number` makes its content its own.
pub(crate) fn perform(driver: &mut dyn Driver, operation: &Operation, number: usize) -> Answer<String> {
    // What the calls behind these would do to a pipe or a device is no affair of a union's.
    let only = |driver: &mut dyn Driver, path: &str, kinds: &[Kind]| {
        let status = driver.status(path)?;
        if kinds.contains(&status.kind) { Ok(status) } else { Err(Errno::EDOM) }
    };
    let file = |driver: &mut dyn Driver, path: &str| only(driver, path, &[Kind::File]);
    let bytes = |bytes: Vec<u8>| summary(&bytes);
    let done = |()| String::new();
    // How many names there are is compared when all of them can be seen; that there is none is said here.
    let told = |status: Status| format!("{:?}", Status { nlink: status.nlink.min(1), ..status });
    match operation {
        Operation::Create { path, mode, size } => {
            driver.create(path, *mode)?;
            driver.write(path, 0, &content(number, *size)).map(done)
        }
        Operation::CreateUnnamed { directory, name, mode, size } => {
            driver.create_unnamed(directory, name, *mode, &content(number, *size)).map(done)
        }
        Operation::MakeDirectory { path, mode } => driver.make_directory(path, *mode).map(done),
        Operation::Symlink { path, target } => driver.symlink(path, target).map(done),
        Operation::MakeFifo { path, mode } => driver.make_node(path, Kind::Fifo, *mode).map(done),
        Operation::MakeSocket { path, mode } => driver.make_node(path, Kind::Socket, *mode).map(done),
        Operation::MakeWhiteout { path } => driver.make_node(path, Kind::Device, 0).map(done),
        Operation::Link { from, to } => driver.link(from, to).map(done),
        Operation::Unlink { path } => driver.unlink(path).map(done),
        Operation::RemoveDirectory { path } => driver.remove_directory(path).map(done),
        Operation::RemoveTree { path } => remove_tree(driver, path).map(done),
        Operation::Rename { from, to, how } => driver.rename(from, to, *how).map(done),
        Operation::ChangeMode { path, mode } => {
            only(driver, path, &[Kind::File, Kind::Directory, Kind::Fifo, Kind::Socket])?;
            driver.change_mode(path, *mode).map(done)
        }
        // FUSE does not tell a server that nothing changes, which takes setuid away all the same.
        Operation::ChangeOwner { path, uid: None, gid: None } => driver.status(path).map(told),
        Operation::ChangeOwner { path, uid, gid } => driver.change_owner(path, *uid, *gid).map(done),
        Operation::SetTimes { path, seconds } => driver.set_times(path, *seconds).map(done),
        Operation::Truncate { path, size } => {
            file(driver, path)?;
            driver.truncate(path, *size).map(done)
        }
        Operation::Write { path, offset, size } => {
            file(driver, path)?;
            driver.write(path, *offset, &content(number, *size)).map(done)
        }
        Operation::Append { path, size } => {
            let end = file(driver, path)?.size;
            driver.write(path, end, &content(number, *size)).map(done)
        }
        Operation::Read { path, offset, size } => {
            file(driver, path)?;
            driver.read(path, *offset, *size).map(bytes)
        }
        Operation::Allocate { path, offset, size, how } => {
            file(driver, path)?;
            driver.allocate(path, *offset, *size, *how).map(done)
        }
        Operation::SeekData { path, offset } | Operation::SeekHole { path, offset } => {
            let status = file(driver, path)?;
            let is_data = matches!(operation, Operation::SeekData { .. });
            let found = driver.seek(path, *offset, is_data)?;
            // Which blocks are holes is the file system's choice; that the answer lies in the file is not.
            Ok(format!("{}", (*offset..=status.size).contains(&found)))
        }
        Operation::CopyRange { from, to, size } => {
            file(driver, from)?;
            file(driver, to)?;
            if from == to {
                return Err(Errno::EDOM);
            }
            driver.copy_range(from, to, *size).map(|count| count.to_string())
        }
        Operation::Sync { path } => {
            only(driver, path, &[Kind::File, Kind::Directory])?;
            driver.sync(path).map(done)
        }
        Operation::Status { path } => driver.status(path).map(told),
        Operation::ReadLink { path } => driver.read_link(path).map(bytes),
        Operation::List { path } => {
            let mut names = driver.list(path)?;
            names.sort();
            Ok(names.into_iter().map(|(name, kind, _)| format!("{name} {kind:?} ")).collect())
        }
        Operation::SetXattr { path, name, value, how } => {
            only(driver, path, &[Kind::File, Kind::Directory])?;
            driver.set_xattr(path, name, value.as_bytes(), *how).map(done)
        }
        Operation::Xattr { path, name } => {
            only(driver, path, &[Kind::File, Kind::Directory])?;
            driver.xattr(path, name).map(bytes)
        }
        Operation::XattrNames { path } => {
            only(driver, path, &[Kind::File, Kind::Directory])?;
            let mut names = driver.xattr_names(path)?;
            names.sort();
            Ok(names.join(" "))
        }
        Operation::RemoveXattr { path, name } => {
            only(driver, path, &[Kind::File, Kind::Directory])?;
            driver.remove_xattr(path, name).map(done)
        }
        Operation::Hold { slot, path } => {
            driver.release(*slot);
            file(driver, path)?;
            driver.hold(*slot, path).map(done)
        }
        Operation::HeldWrite { slot, offset, size } => {
            driver.held_write(*slot, *offset, &content(number, *size)).map(done)
        }
        Operation::HeldRead { slot } => driver.held_read(*slot).map(bytes),
        Operation::HeldStatus { slot } => driver.held_status(*slot).map(told),
        Operation::Release { slot } => {
            driver.release(*slot);
            Ok(String::new())
        }
    }
}

impl PartialOrd for Kind {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Kind {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (*self as u8).cmp(&(*other as u8))
    }
}

/// `rm -r`
pub(crate) fn remove_tree(driver: &mut dyn Driver, path: &str) -> Answer<()> {
    if driver.status(path)?.kind != Kind::Directory {
        return driver.unlink(path);
    }
    for (name, _, _) in driver.list(path)? {
        remove_tree(driver, &format!("{path}/{name}"))?;
    }
    driver.remove_directory(path)
}
