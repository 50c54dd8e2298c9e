//! An unpacked layer against what it should be: its index, and its blob.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2, readlinkat};
use nix::sys::stat::{FileStat, SFlag, fstatat};

use crate::digest::DiffId;
use crate::layer::compression::Decompressor;
use crate::layer::index::{Index, Kind, Record};
use crate::layer::staging::Hashed;
use crate::layer::tar::{Entry, EntryKind, Reader};
use crate::layer::{IdPolicy, Shown};
use crate::whiteout::{self, TarName};

/// How many problems of one layer are told.
const TOLD: usize = 8;

/// What is wrong with a layer; the first few in words.
#[derive(Debug, Default)]
pub(super) struct Problems {
    told: Vec<String>,
    untold: usize,
}

impl Problems {
    pub(super) fn add(&mut self, path: &[u8], what: &str) {
        self.say(format!("/{}: {what}", Shown(path)));
    }

    pub(super) fn say(&mut self, text: String) {
        if self.told.len() < TOLD {
            self.told.push(text);
        } else {
            self.untold += 1;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.told.is_empty()
    }

    pub(super) fn told(mut self) -> Vec<String> {
        if self.untold > 0 {
            self.told.push(format!("and {} more", self.untold));
        }
        self.told
    }
}

/// Compares names, kinds, lengths, modes, owners, times and links. Contents are not looked at.
pub(super) fn against_index(root: BorrowedFd<'_>, index: &Index, ids: &IdPolicy, problems: &mut Problems) {
    let mut rest: Vec<(Vec<u8>, Record<'_>)> = vec![(Vec::new(), index.root())];
    while let Some((path, directory)) = rest.pop() {
        let fd = match open(root, &path, OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
            Ok(fd) => fd,
            // Deeper than one call can name: only the containers can get there.
            Err(Errno::ENAMETOOLONG) => continue,
            Err(errno) => {
                problems.add(&path, errno.desc());
                continue;
            }
        };
        if directory.is_opaque() && !whiteout::is_opaque(&fd).unwrap_or(false) {
            problems.add(&path, "the mark that it is opaque is gone");
        }
        let mut found = match names(&fd) {
            Ok(found) => found,
            Err(errno) => {
                problems.add(&path, errno.desc());
                continue;
            }
        };
        for record in directory.children() {
            let below = [path.as_slice(), if path.is_empty() { b"" } else { b"/" }, record.name()].concat();
            found.remove(record.name());
            match fstatat(&fd, record.name(), AtFlags::AT_SYMLINK_NOFOLLOW) {
                Ok(stat) => {
                    if let Some(what) = difference(&fd, &record, &stat, ids) {
                        problems.add(&below, what);
                    }
                    if record.kind() == Some(Kind::Directory) && kind_of(&stat) == SFlag::S_IFDIR {
                        rest.push((below, record));
                    }
                }
                Err(Errno::ENOENT) => problems.add(&below, "it is gone"),
                Err(errno) => problems.add(&below, errno.desc()),
            }
        }
        for name in found {
            problems.add(
                &[path.as_slice(), if path.is_empty() { b"" } else { b"/" }, &name].concat(),
                "it is not of this layer",
            );
        }
    }
}

/// What is other than the index says.
fn difference(dir: &OwnedFd, record: &Record<'_>, stat: &FileStat, ids: &IdPolicy) -> Option<&'static str> {
    let kind = record.kind()?;
    let is_kind = match kind {
        Kind::Directory => kind_of(stat) == SFlag::S_IFDIR,
        Kind::File => kind_of(stat) == SFlag::S_IFREG,
        Kind::Symlink => kind_of(stat) == SFlag::S_IFLNK,
        Kind::Fifo => kind_of(stat) == SFlag::S_IFIFO,
        // The other form is an empty file, which says so itself.
        Kind::Whiteout => whiteout::is_whiteout_device(stat) || kind_of(stat) == SFlag::S_IFREG && stat.st_size == 0,
    };
    if !is_kind {
        return Some("it is of another kind");
    }
    if kind == Kind::Whiteout || record.is_implicit() {
        return None;
    }
    if kind == Kind::File && u64::try_from(stat.st_size) != Ok(record.size()) {
        return Some("it has another length");
    }
    if kind == Kind::Symlink {
        let target = readlinkat(dir, record.name()).ok();
        return (target.as_ref().map(|target| target.as_bytes()) != Some(record.target()))
            .then_some("it leads elsewhere");
    }
    if stat.st_mode & 0o7777 != ids.mode_on_disk(record.mode(), kind == Kind::Directory) & 0o7777 {
        return Some("it has another mode");
    }
    let owner = ids.owner(record.uid(), record.gid());
    if owner.is_some_and(|owner| (owner.uid, owner.gid) != (stat.st_uid, stat.st_gid)) {
        return Some("it has another owner");
    }
    // Beyond these years file systems have limits of their own.
    let secs = record.mtime().secs;
    ((0..i64::from(i32::MAX)).contains(&secs) && stat.st_mtime != secs).then_some("it has another time")
}

/// Reads the blob and compares the contents of every file; what the blob says twice counts as it was said last. `None` if
/// the blob is the layer; else why it is not.
///
/// Without an index (`is_only_witness`) a file that is gone is told as well.
pub(super) fn against_blob(
    root: BorrowedFd<'_>,
    blob: File,
    diff_id: &DiffId,
    is_only_witness: bool,
    problems: &mut Problems,
) -> Option<String> {
    let tar = match Decompressor::new(blob) {
        Ok(tar) => tar,
        Err(error) => return Some(crate::sys::reason(&error).to_string()),
    };
    let mut hashed = Hashed::new(tar, diff_id.as_digest().algorithm());
    let mut wrong: BTreeMap<Vec<u8>, &'static str> = BTreeMap::new();
    let mut reader = Reader::new(&mut hashed);
    loop {
        let entry = match reader.next_entry() {
            Ok(Some(entry)) => entry,
            Ok(None) => break,
            Err(error) => return Some(error.to_string()),
        };
        let Some(path) = path_of(&entry) else { continue };
        if entry.kind != EntryKind::File {
            wrong.remove(&path);
            continue;
        }
        match compare(root, &path, &entry, &mut reader) {
            Ok(None) => drop(wrong.remove(&path)),
            Ok(Some("it is gone")) if !is_only_witness => {}
            Ok(Some(what)) => drop(wrong.insert(path, what)),
            Err(error) => return Some(error.to_string()),
        }
    }
    if let Err(error) = reader.drain() {
        return Some(error.to_string());
    }
    let got = hashed.finish();
    if got != *diff_id {
        return Some(format!("uncompressed it is {got}"));
    }
    for (path, what) in wrong {
        problems.add(&path, what);
    }
    None
}

/// The name in the tree; nothing for whiteouts and for names that no layer may have.
fn path_of(entry: &Entry) -> Option<Vec<u8>> {
    let parts: Vec<&[u8]> =
        entry.path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
    let last = parts.last()?;
    let is_plain = matches!(TarName::parse(last), TarName::Plain(_)) && !parts.contains(&b"..".as_slice());
    is_plain.then(|| parts.join(&b'/'))
}

fn compare<R: Read>(
    root: BorrowedFd<'_>,
    path: &[u8],
    entry: &Entry,
    contents: &mut Reader<R>,
) -> Result<Option<&'static str>, crate::layer::tar::TarError> {
    let file = match open(root, path, OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW) {
        Ok(fd) => File::from(fd),
        // A link on the way, or something else in its place: the index knows what came last.
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::ENXIO) => return Ok(Some("it is gone")),
        Err(Errno::ENAMETOOLONG) => return Ok(None),
        Err(_) => return Ok(Some("it cannot be read")),
    };
    if !file.metadata().is_ok_and(|found| found.is_file() && found.len() == entry.size) {
        return Ok(Some("it has another length"));
    }
    let mut buffer = vec![0; 128 << 10];
    let mut answer = None;
    let mut end = 0;
    while let Some(chunk) = contents.next_chunk()? {
        if answer.is_some() {
            continue;
        }
        let same = is_zero(&file, end, chunk.offset, &mut buffer).and_then(|zero| {
            Ok(zero && {
                let buffer = &mut buffer[..chunk.bytes.len().min(128 << 10)];
                let mut at = 0;
                let mut same = true;
                while at < chunk.bytes.len() && same {
                    let len = buffer.len().min(chunk.bytes.len() - at);
                    file.read_exact_at(&mut buffer[..len], chunk.offset + at as u64)?;
                    same = buffer[..len] == chunk.bytes[at..at + len];
                    at += len;
                }
                same
            })
        });
        end = chunk.offset + chunk.bytes.len() as u64;
        match same {
            Ok(true) => {}
            Ok(false) => answer = Some("its contents are others"),
            Err(_) => answer = Some("it cannot be read"),
        }
    }
    Ok(answer)
}

/// Whether there are only zeros between two places: a hole of a sparse file.
fn is_zero(file: &File, from: u64, to: u64, buffer: &mut [u8]) -> io::Result<bool> {
    let mut at = from;
    while at < to {
        let len = usize::try_from(to - at).unwrap_or(usize::MAX).min(buffer.len());
        file.read_exact_at(&mut buffer[..len], at)?;
        if buffer[..len].iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        at += len as u64;
    }
    Ok(true)
}

/// The root of a layer's tree.
pub(super) fn open_root(path: &Path) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    nix::fcntl::open(path, flags, nix::sys::stat::Mode::empty())
}

fn open(root: BorrowedFd<'_>, path: &[u8], flags: OFlag) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    openat2(root, if path.is_empty() { b".".as_slice() } else { path }, how)
}

fn names(fd: &OwnedFd) -> nix::Result<BTreeSet<Vec<u8>>> {
    let mut names = BTreeSet::new();
    let again = open(fd.as_fd(), b"", OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
    for entry in Dir::from_fd(again)?.iter() {
        let name: CString = entry?.file_name().to_owned();
        if name.as_bytes() != b"." && name.as_bytes() != b".." {
            names.insert(name.into_bytes());
        }
    }
    Ok(names)
}

fn kind_of(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}
