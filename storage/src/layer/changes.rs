//! What a layer changes in those below it, and what differs between two stacks: for `diff`.
//!
//! Both are read from the trees, never through a mount, so that it is the same for a container that runs.

use super::Shown;
use super::ids::{OVERRIDE_XATTR, Override};
use super::tar::Timestamp;
use super::view::{Metadata, View, ViewError};
use crate::sys::xattr;
use crate::whiteout;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use std::collections::HashSet;
use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// It is another one, or has other metadata or entries.
    Modified,
    /// It was not there.
    Added,
    /// It was there.
    Deleted,
}

/// One changed file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What became of it.
    pub kind: ChangeKind,
    /// Its path from the root, beginning with a slash.
    pub path: Vec<u8>,
}

/// What the tree `top`, in overlay's form, changes in the stack `below` (topmost first).
///
/// In the order of the walk, each directory before its entries and all by name; a directory that only an entry's coming
/// or going has changed stands before that entry. A directory that was deleted and made again is told as deleted, and its
/// entries as added.
///
/// # Errors
/// [`ViewError`].
///
/// # Source
/// `docker diff`, `podman diff`: containers/storage `pkg/archive/changes.go`.
pub fn of_layer(top: &Path, below: &[PathBuf]) -> Result<Vec<Change>, ViewError> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = match nix::fcntl::open(top, flags, Mode::empty()) {
        Ok(root) => root,
        // Never mounted.
        Err(Errno::ENOENT) => return Ok(Vec::new()),
        Err(errno) => return Err(failed("open", b"/", errno)),
    };
    let mut walk = Walk { root, below: View::new(below), changes: Vec::new(), told: HashSet::new() };
    // What is left to be looked at, in reverse; whether its directory shows what is below it.
    let mut rest = walk.entries(b"", true)?;
    while let Some((path, is_merged)) = rest.pop() {
        if let Some(is_merged) = walk.entry(&path, is_merged)? {
            rest.append(&mut walk.entries(&path, is_merged)?);
        }
    }
    Ok(walk.changes)
}

struct Walk<'a> {
    root: OwnedFd,
    below: View<'a>,
    changes: Vec<Change>,
    /// Directories that are among the changes.
    told: HashSet<Vec<u8>>,
}

impl Walk<'_> {
    /// The entries of a directory, last first.
    fn entries(&self, path: &[u8], is_merged: bool) -> Result<Vec<(Vec<u8>, bool)>, ViewError> {
        let call = |source| failed("list", path, source);
        let mut entries = Vec::new();
        let mut stream = match self.open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY).and_then(Dir::from_fd) {
            Ok(stream) => stream,
            Err(errno) if is_gone(errno) => return Ok(entries),
            Err(errno) => return Err(call(errno)),
        };
        for entry in stream.iter() {
            let entry = entry.map_err(call)?;
            let name = entry.file_name();
            if name != c"." && name != c".." {
                entries.push(([path, b"/", name.to_bytes()].concat(), is_merged));
            }
        }
        entries.sort_unstable_by(|a, b| b.cmp(a));
        Ok(entries)
    }

    /// Looks at one file; for a directory says whether what is below shows through.
    fn entry(&mut self, path: &[u8], is_merged: bool) -> Result<Option<bool>, ViewError> {
        let call = |source| failed("stat", path, source);
        let (dir, name) = split(path);
        // A container that runs may have taken away what was just listed.
        let stat = match self.open(dir, OFlag::O_PATH | OFlag::O_DIRECTORY).and_then(|dir| stat_in(dir.as_fd(), name)) {
            Ok(stat) => stat,
            Err(errno) if is_gone(errno) => return Ok(None),
            Err(errno) => return Err(call(errno)),
        };
        let file = match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFDIR => self.open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY),
            SFlag::S_IFREG if stat.st_size == 0 => self.open(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK),
            _ => Err(Errno::ENOENT),
        };
        let file = match file {
            Ok(file) => Some(file),
            Err(errno) if is_gone(errno) || errno == Errno::EACCES => None,
            Err(errno) => return Err(call(errno)),
        };
        let is_directory = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR;
        let is_whiteout = whiteout::is_whiteout_device(&stat)
            || match &file {
                Some(file) if !is_directory => whiteout::is_whiteout_file(file).map_err(call)?,
                _ => false,
            };
        if is_whiteout {
            self.tell(path, ChangeKind::Deleted, false);
            return Ok(None);
        }
        let before = match is_merged {
            true => self.below.metadata(as_path(path), false)?,
            false => None,
        };
        let Some(before) = before else {
            self.tell(path, ChangeKind::Added, is_directory);
            return Ok(is_directory.then_some(false));
        };
        if !is_directory {
            self.tell(path, ChangeKind::Modified, false);
            return Ok(None);
        }
        let is_opaque = file.as_ref().map_or(Ok(false), whiteout::is_opaque).map_err(call)?;
        if is_opaque && before.is_directory() {
            self.tell(path, ChangeKind::Deleted, true);
        } else if !before.is_directory() || !is_same_directory(&stat, file.as_ref(), &before).map_err(call)? {
            self.tell(path, ChangeKind::Modified, true);
        }
        Ok(Some(before.is_directory() && !is_opaque))
    }

    fn tell(&mut self, path: &[u8], kind: ChangeKind, is_directory: bool) {
        if is_directory {
            self.told.insert(path.to_vec());
        }
        if kind != ChangeKind::Modified {
            let mut parents = Vec::new();
            let mut parent = split(path).0;
            while !parent.is_empty() {
                if self.told.insert(parent.to_vec()) {
                    parents.push(Change { kind: ChangeKind::Modified, path: parent.to_vec() });
                }
                parent = split(parent).0;
            }
            self.changes.extend(parents.into_iter().rev());
        }
        self.changes.push(Change { kind, path: path.to_vec() });
    }

    /// Opens a path of the tree in which no component is a link.
    fn open(&self, path: &[u8], flags: OFlag) -> nix::Result<OwnedFd> {
        let resolve =
            ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve);
        let path = path.strip_prefix(b"/").filter(|path| !path.is_empty()).unwrap_or(b".");
        openat2(&self.root, path, how)
    }
}

/// What is other in the stack `new` than in the stack `old`, both topmost first. Of a deleted directory it alone is told.
///
/// # Errors
/// [`ViewError`].
pub fn between(new: &[PathBuf], old: &[PathBuf]) -> Result<Vec<Change>, ViewError> {
    let (new, old) = (View::new(new), View::new(old));
    let mut changes = Vec::new();
    let mut told = HashSet::new();
    let mut rest = names_of_both(&new, &old, b"")?;
    while let Some(path) = rest.pop() {
        let (now, before) = (new.metadata(as_path(&path), false)?, old.metadata(as_path(&path), false)?);
        let kind = match (&now, &before) {
            (Some(now), Some(before)) => (!is_same(now, before)).then_some(ChangeKind::Modified),
            (Some(_), None) => Some(ChangeKind::Added),
            (None, Some(_)) => Some(ChangeKind::Deleted),
            (None, None) => None,
        };
        if let Some(kind) = kind {
            let mut parents = Vec::new();
            let mut parent = split(&path).0;
            while !parent.is_empty() && told.insert(parent.to_vec()) {
                parents.push(Change { kind: ChangeKind::Modified, path: parent.to_vec() });
                parent = split(parent).0;
            }
            changes.extend(parents.into_iter().rev());
            told.insert(path.clone());
            changes.push(Change { kind, path: path.clone() });
        }
        if now.is_some_and(|now| now.is_directory()) {
            rest.append(&mut names_of_both(&new, &old, &path)?);
        }
    }
    Ok(changes)
}

/// Paths of the entries of a directory of either, last first.
fn names_of_both(new: &View<'_>, old: &View<'_>, path: &[u8]) -> Result<Vec<Vec<u8>>, ViewError> {
    let mut names = new.list(as_path(path))?.unwrap_or_default();
    if old.metadata(as_path(path), false)?.is_some_and(|metadata| metadata.is_directory()) {
        names.extend(old.list(as_path(path))?.unwrap_or_default());
    }
    names.sort_unstable_by(|a, b| b.cmp(a));
    names.dedup();
    Ok(names.into_iter().map(|name| [path, b"/", &name].concat()).collect())
}

fn is_same(now: &Metadata, before: &Metadata) -> bool {
    let owner = |metadata: &Metadata| (metadata.mode, metadata.uid, metadata.gid);
    let contents = |metadata: &Metadata| (metadata.size, metadata.mtime);
    owner(now) == owner(before) && (now.is_directory() || contents(now) == contents(before))
}

/// Whether a directory that was copied up is what it was. Its length says more about the file system than about it.
fn is_same_directory(stat: &FileStat, file: Option<&OwnedFd>, before: &Metadata) -> nix::Result<bool> {
    let mut mode = stat.st_mode & 0o7777;
    if let Some(file) = file
        && let Some(recorded) = xattr::find(file.as_fd(), OVERRIDE_XATTR)?.and_then(|value| Override::parse(&value))
    {
        mode = recorded.mode;
    }
    let mtime = Timestamp { secs: stat.st_mtime, nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0) };
    // Some file systems and archives keep whole seconds only.
    let is_same_time =
        mtime.secs == before.mtime.secs && (mtime.nanos == before.mtime.nanos || mtime.nanos * before.mtime.nanos == 0);
    Ok(mode == before.mode & 0o7777 && is_same_time)
}

fn is_gone(errno: Errno) -> bool {
    matches!(errno, Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP)
}

fn stat_in(dir: BorrowedFd<'_>, name: &[u8]) -> nix::Result<FileStat> {
    match CString::new(name) {
        Ok(name) if !name.is_empty() => fstatat(dir, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW),
        _ => fstat(dir),
    }
}

/// The directory, without a slash at its end, and the name in it.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

fn as_path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

fn failed(call: &'static str, path: &[u8], source: Errno) -> ViewError {
    ViewError::Call { call, path: Shown(path).to_string(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::os::unix::fs::PermissionsExt;

    fn told(changes: &[Change]) -> Vec<String> {
        let letter = |kind| match kind {
            ChangeKind::Modified => 'C',
            ChangeKind::Added => 'A',
            ChangeKind::Deleted => 'D',
        };
        changes.iter().map(|change| format!("{} {}", letter(change.kind), Shown(&change.path))).collect()
    }

    /// An upper tree and a lower one, whose directories have the same old time.
    fn stack(dirs: &[&str]) -> (tempfile::TempDir, PathBuf, Vec<PathBuf>) {
        let scratch = tempfile::tempdir().unwrap();
        let (upper, lower) = (scratch.path().join("upper"), scratch.path().join("lower"));
        for root in [&upper, &lower] {
            for dir in dirs {
                fs::create_dir_all(root.join(dir)).unwrap();
            }
        }
        (scratch, upper, vec![lower])
    }

    fn set_time(path: PathBuf) {
        let long_ago = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000);
        File::open(path).unwrap().set_modified(long_ago).unwrap();
    }

    #[test]
    fn added_modified_and_deleted_files_are_told_with_their_directories() {
        let (_scratch, upper, below) = stack(&["etc", "var/lib", "same"]);
        fs::write(below[0].join("etc/passwd"), b"a").unwrap();
        fs::write(below[0].join("etc/group"), b"a").unwrap();
        fs::write(below[0].join("var/lib/old"), b"a").unwrap();
        fs::write(upper.join("etc/group"), b"b").unwrap();
        fs::write(upper.join("etc/new"), b"b").unwrap();
        whiteout::make(File::open(upper.join("etc")).unwrap(), b"passwd").unwrap();
        whiteout::make_opaque(File::open(upper.join("var/lib")).unwrap()).unwrap();
        fs::write(upper.join("var/lib/old"), b"again").unwrap();
        for root in [&upper, &below[0]] {
            ["etc", "var/lib", "var", "same"].into_iter().for_each(|dir| set_time(root.join(dir)));
        }
        fs::create_dir_all(upper.join("a/b")).unwrap();
        let expected = [
            "A /a",
            "A /a/b",
            "C /etc/group",
            "C /etc",
            "A /etc/new",
            "D /etc/passwd",
            "C /var",
            "D /var/lib",
            "A /var/lib/old",
        ];
        assert_eq!(told(&of_layer(&upper, &below).unwrap()), expected);
        fs::set_permissions(upper.join("same"), fs::Permissions::from_mode(0o700)).unwrap();
        assert!(told(&of_layer(&upper, &below).unwrap()).contains(&"C /same".to_owned()));
        assert_eq!(of_layer(Path::new("/nowhere/upper"), &below).unwrap(), []);
    }

    #[test]
    fn stacks_are_compared_as_they_look() {
        let (_scratch, upper, below) = stack(&["etc"]);
        fs::write(below[0].join("etc/a"), b"a").unwrap();
        fs::create_dir_all(below[0].join("gone/deep")).unwrap();
        fs::write(upper.join("etc/b"), b"b").unwrap();
        let whole = [upper.clone(), below[0].clone()];
        assert_eq!(told(&between(&whole, &below).unwrap()), ["C /etc", "A /etc/b"]);
        assert_eq!(told(&between(&below, &whole).unwrap()), ["C /etc", "D /etc/b"]);
        let alone = [upper];
        assert_eq!(told(&between(&alone, &below).unwrap()), ["C /etc", "D /etc/a", "A /etc/b", "D /gone"]);
        assert_eq!(between(&whole, &whole).unwrap(), []);
    }
}
