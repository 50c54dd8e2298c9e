//! Files of a local source: a directory, or the members of a tar.
//!
//! Members are read from the archive's own table only. A name in a document of the archive is looked up there and
//! nowhere else, so `../../etc/passwd` is just a name that nobody has; a link leads to another member or nowhere; only
//! regular members are ever opened. Of a directory only what lies beneath it, without links.

use super::{BlobReader, TransportError};
use crate::layer::compression::Compression;
use crate::layer::tar::{Entry, EntryKind, Reader, TarError};
use crate::layer::unpacker::Unpacker;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Most members of an archive; an image has a few for each layer.
const MAX_MEMBERS: usize = 65_536;

/// Longest chain of links between members.
const MAX_LINKS: usize = 8;

/// Where a local source's bytes are.
#[derive(Debug)]
pub(super) enum Files {
    /// Below a directory.
    Directory(File),
    /// In an uncompressed tar.
    Archive { file: File, members: HashMap<Vec<u8>, Member> },
}

#[derive(Debug)]
pub(super) enum Member {
    File { offset: u64, len_bytes: u64 },
    Link { target: Vec<u8> },
}

/// One opened file: a piece of something that can be read at any offset, from many threads.
#[derive(Debug)]
pub(super) struct Piece<'a> {
    file: Opened<'a>,
    offset: u64,
    pub(super) len_bytes: u64,
}

#[derive(Debug)]
enum Opened<'a> {
    Own(File),
    Archive(&'a File),
}

/// Why an archive's table could not be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error("{}", crate::sys::reason(.0))]
    Io(#[from] io::Error),
    #[error(transparent)]
    Tar(#[from] TarError),
    #[error("more than {MAX_MEMBERS} members in one archive")]
    TooManyMembers,
}

impl Files {
    /// Opens a directory, or an archive of any compression.
    pub(super) fn open(path: &Path, spool: &Path) -> Result<Self, OpenError> {
        if fs::metadata(path)?.is_dir() {
            return Ok(Self::Directory(File::open(path)?));
        }
        // A pipe or a device (`/dev/stdin`) is as good as a file here, but cannot be read twice.
        let file = File::open(path)?;
        if !file.metadata()?.is_file() {
            return Self::from_stream(file, spool);
        }
        let mut begin = [0; 8];
        let len = file.read_at(&mut begin, 0)?;
        match Compression::detect(&begin[..len]) {
            Ok(Compression::None) => Self::from_archive(file),
            _ => Self::from_stream(file, spool),
        }
    }

    /// Copies an archive that cannot be read twice to an unlinked file in the directory `spool`, uncompressed.
    pub(super) fn from_stream(stream: impl Read, spool: &Path) -> Result<Self, OpenError> {
        let mut archive = Unpacker::new(stream)?;
        let mut file = unlinked_file(spool)?;
        io::copy(&mut archive, &mut file)?;
        Self::from_archive(file)
    }

    fn from_archive(file: File) -> Result<Self, OpenError> {
        let total_bytes = file.metadata()?.len();
        let mut members = HashMap::new();
        io::Seek::rewind(&mut &file)?;
        let mut reader = Reader::new(&file);
        while let Some(entry) = reader.next_entry()? {
            if let Some((name, member)) = member(&entry) {
                // The first of a name counts, as for other tools; whatever it is, its digest is checked.
                members.entry(name).or_insert(member);
            }
            if members.len() > MAX_MEMBERS {
                return Err(OpenError::TooManyMembers);
            }
            reader.seek_contents(total_bytes)?;
        }
        Ok(Self::Archive { file, members })
    }

    /// Opens a file by its name; `None` if there is no regular file of that name.
    pub(super) fn piece(&self, name: &str) -> io::Result<Option<Piece<'_>>> {
        match self {
            Self::Directory(dir) => {
                let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
                let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
                let file = match openat2(dir, name, OpenHow::new().flags(flags).resolve(resolve)) {
                    Ok(file) => File::from(file),
                    Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::EXDEV | Errno::ENXIO) => {
                        return Ok(None);
                    }
                    Err(errno) => return Err(errno.into()),
                };
                let metadata = file.metadata()?;
                let piece = Piece { file: Opened::Own(file), offset: 0, len_bytes: metadata.len() };
                Ok(metadata.is_file().then_some(piece))
            }
            Self::Archive { file, members } => {
                let Some(mut name) = clean(name.as_bytes(), &[]) else { return Ok(None) };
                for _ in 0..=MAX_LINKS {
                    match members.get(&name) {
                        None => return Ok(None),
                        Some(Member::File { offset, len_bytes }) => {
                            let file = Opened::Archive(file);
                            return Ok(Some(Piece { file, offset: *offset, len_bytes: *len_bytes }));
                        }
                        Some(Member::Link { target }) => name.clone_from(target),
                    }
                }
                Ok(None)
            }
        }
    }

    /// Reads a small file whole; `None` if it is not there.
    pub(super) fn read(&self, name: &str, limit_bytes: u64) -> Result<Option<Vec<u8>>, TransportError> {
        let failed = |source| TransportError::Io { what: format!("read {}", name.escape_debug()), source };
        let Some(piece) = self.piece(name).map_err(failed)? else { return Ok(None) };
        if piece.len_bytes > limit_bytes {
            let (what, len_bytes) = (name.escape_debug().to_string(), piece.len_bytes);
            return Err(crate::image::ImageError::TooLarge { what, len_bytes, limit_bytes }.into());
        }
        let mut bytes = Vec::new();
        piece.reader(0).read_to_end(&mut bytes).map_err(failed)?;
        Ok(Some(bytes))
    }

    /// Opens a blob from `offset` on.
    pub(super) fn blob(&self, name: &str, offset: u64) -> Result<BlobReader<'_>, TransportError> {
        let what = || format!("read {}", name.escape_debug());
        let piece = self.piece(name).map_err(|source| TransportError::Io { what: what(), source })?;
        let piece = piece
            .ok_or_else(|| TransportError::NotFound { what: name.escape_debug().to_string(), hint: String::new() })?;
        Ok(BlobReader { offset, reader: piece.reader(offset) })
    }
}

impl<'a> Piece<'a> {
    /// Its bytes from `offset` on.
    pub(super) fn reader(self, offset: u64) -> Box<dyn Read + Send + 'a> {
        let offset = offset.min(self.len_bytes);
        Box::new(PieceReader { file: self.file, at: self.offset + offset, rest: self.len_bytes - offset })
    }

    /// Its compression, by magic.
    pub(super) fn begin(&self) -> io::Result<Vec<u8>> {
        let mut begin = vec![0; 8.min(self.len_bytes as usize)];
        self.file().read_exact_at(&mut begin, self.offset)?;
        Ok(begin)
    }

    fn file(&self) -> &File {
        match &self.file {
            Opened::Own(file) => file,
            Opened::Archive(file) => file,
        }
    }
}

struct PieceReader<'a> {
    file: Opened<'a>,
    at: u64,
    rest: u64,
}

impl Read for PieceReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = usize::try_from(self.rest).unwrap_or(usize::MAX).min(buffer.len());
        let file = match &self.file {
            Opened::Own(file) => file,
            Opened::Archive(file) => file,
        };
        let len = file.read_at(&mut buffer[..len], self.at)?;
        self.at += len as u64;
        self.rest -= len as u64;
        Ok(len)
    }
}

/// A file in `dir` that vanishes when it is closed.
pub(super) fn unlinked_file(dir: &Path) -> io::Result<File> {
    crate::state::layout::create_dir(dir).map_err(io::Error::other)?;
    let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
    match nix::fcntl::open(dir, flags, Mode::S_IRUSR | Mode::S_IWUSR) {
        Ok(file) => Ok(file.into()),
        // Some file systems have no nameless files: take the name away at once.
        Err(Errno::EOPNOTSUPP | Errno::EISDIR | Errno::EINVAL) => {
            let path: PathBuf = dir.join(format!(".spool-{}", crate::state::layout::random_hex(8)));
            let file = fs::OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
            fs::remove_file(&path)?;
            Ok(file)
        }
        Err(errno) => Err(errno.into()),
    }
}

fn member(entry: &Entry) -> Option<(Vec<u8>, Member)> {
    let name = clean(&entry.path, &[])?;
    let parent: Vec<&[u8]> = match name.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => name[..slash].split(|byte| *byte == b'/').collect(),
        None => Vec::new(),
    };
    let member = match entry.kind {
        EntryKind::File if !entry.sparse => Member::File { offset: entry.data_offset, len_bytes: entry.stored_bytes },
        // Old `docker save` writes a layer that several images share once, and links to it.
        EntryKind::Symlink if !entry.link.starts_with(b"/") => Member::Link { target: clean(&entry.link, &parent)? },
        EntryKind::Hardlink => Member::Link { target: clean(&entry.link, &[])? },
        _ => return None,
    };
    Some((name, member))
}

/// A member's name without `.`, `..` and empty parts; `None` if it leads out of the archive, or to nothing.
fn clean(name: &[u8], base: &[&[u8]]) -> Option<Vec<u8>> {
    let mut parts = base.to_vec();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join(&b'/'))
}
