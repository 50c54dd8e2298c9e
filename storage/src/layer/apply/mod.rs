//! Unpacks a layer's tar into an empty directory that nothing in the tar can leave.
//!
//! **Runs in:** the pulling process, in the user namespace that the files will belong to; one thread per layer.
//!
//! The tree is kept in memory (it becomes the layer's index) and names are resolved there; the kernel only ever sees
//! single components beneath a directory descriptor, opened with `O_NOFOLLOW`, created with `O_EXCL`. Layers do not see
//! each other: a link in a lower layer has no meaning here.
//!
//! Choices where the specification is silent, mostly those of containers/storage:
//!
//! | tar says | result |
//! | --- | --- |
//! | a parent that no entry names | directory 0755 root, marked implicit in the index |
//! | a parent that is a symlink of this layer | followed inside the layer, as containerd and docker do |
//! | a parent that is a file | error |
//! | a name twice | the later one; a directory over a directory keeps the contents |
//! | whiteout and entry of one name, in any order | the entry, made opaque if it is a directory |
//! | hardlink to nothing, to a directory or to a whiteout | error |
//! | device | left out: a user namespace cannot make one, and 0/0 would be a whiteout |
//! | xattrs of overlay, of ours, `trusted.*`, `security.*` but capability | dropped |
//! | xattr that the file system or kernel refuses | kept in the index only, as docker does |
//!
//! # Source
//! OCI image specification, "Image Layer Filesystem Changeset".

mod dirs;
mod metadata;
pub(crate) mod path;

use crate::layer::Shown;
use crate::layer::ids::IdPolicy;
use crate::layer::index::{self, IndexError, Kind, Node, NodeId, ROOT};
use crate::layer::remove::remove_tree;
use crate::layer::tar::{Entry, EntryKind, Reader, TarError};
use crate::whiteout::{self, TarName};
use dirs::Dirs;
use metadata::Metadata;
pub(crate) use metadata::{is_allowed_xattr, umask};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, linkat, mkfifoat, symlinkat, unlinkat};
use path::BadPath;
use std::borrow::Cow;
use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Most symlinks followed for one name, as in the kernel.
const MAX_LINKS: usize = 40;

/// Deepest directory. Paths of the kernel end at 2048 components; what is deeper serves no program.
pub(crate) const MAX_DEPTH: usize = 4096;

/// Most devices remembered for hardlinks to them.
const MAX_DEVICES: usize = 65_536;

/// What was unpacked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Entries in the tar.
    pub entries: u64,
    /// Bytes written to files, holes not counted.
    pub bytes: u64,
    /// Devices left out.
    pub skipped_devices: u64,
    /// Extended attributes that no image may set, left out.
    pub dropped_xattrs: u64,
    /// Bytes of the stream: the archive and what follows it.
    pub stream_bytes: u64,
}

/// Why a layer was refused or could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// The archive itself.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// A name that climbs out of the layer.
    #[error("layer entry '{path}' leads out of the layer")]
    Escapes {
        /// The entry.
        path: String,
    },
    /// A component no file system can store.
    #[error("layer entry '{path}' has a name longer than 255 bytes")]
    NameTooLong {
        /// The entry.
        path: String,
    },
    /// Deeper than any program could reach by a path.
    #[error("layer entry '{path}' lies deeper than {MAX_DEPTH} directories")]
    TooDeep {
        /// The entry.
        path: String,
    },
    /// A whiteout of nothing, of `.` or `..`, or a directory named like a whiteout.
    #[error("layer entry '{path}' is not a valid whiteout")]
    BadWhiteout {
        /// The entry.
        path: String,
    },
    /// A parent that is a file, a link to one, or a circle of links.
    #[error("layer entry '{path}' lies beneath '{parent}', which is not a directory")]
    ParentNotDirectory {
        /// The entry.
        path: String,
        /// The component in the way.
        parent: String,
    },
    /// A root that is no directory.
    #[error("layer's root is not a directory")]
    RootNotDirectory,
    /// A hardlink to something that is not a file of this layer.
    #[error("layer entry '{path}' is a hard link to '{target}', which is not a file in this layer")]
    BadHardlink {
        /// The entry.
        path: String,
        /// What it points to.
        target: String,
    },
    /// An owner that the user namespace does not have.
    #[error(
        "layer entry '{path}' belongs to {uid}:{gid}, an id outside the range of this user: add subordinate ids to /etc/subuid and /etc/subgid"
    )]
    IdOutsideMap {
        /// The entry.
        path: String,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
    },
    /// A kernel call.
    #[error("unpack layer: {call} '{path}': {}", source.desc().to_lowercase())]
    Call {
        /// The call that failed.
        call: &'static str,
        /// The entry.
        path: String,
        /// Its errno.
        source: Errno,
    },
    /// More names than an index can hold.
    #[error(transparent)]
    Index(#[from] IndexError),
}

/// Unpacks an uncompressed archive into `dest`, which must be an empty directory, and reads the stream to its end.
///
/// `index` receives the resulting tree; the caller writes it. `dest` may hold anything after an error and is to be
/// removed then.
///
/// # Errors
/// [`ApplyError`].
pub fn apply(
    tar: impl Read,
    dest: BorrowedFd<'_>,
    ids: &IdPolicy,
    index: &mut index::Writer,
) -> Result<Applied, ApplyError> {
    let mut reader = Reader::new(tar);
    let mut unpacker = Unpacker::new(dest, ids, index)?;
    while let Some(entry) = reader.next_entry()? {
        unpacker.applied.entries += 1;
        unpacker.entry(&entry, &mut reader)?;
        unpacker.tree.tell()?;
    }
    unpacker.tree.tell_end()?;
    unpacker.finish()?;
    let mut applied = unpacker.applied;
    reader.drain()?;
    applied.stream_bytes = reader.offset();
    Ok(applied)
}

struct Unpacker<'a> {
    tree: &'a mut index::Writer,
    metadata: Metadata<'a>,
    dirs: Dirs,
    /// Hardlink targets lie in other directories than the names being made.
    target_dirs: Dirs,
    /// Hashes of the names of devices left out, so that hardlinks to them are left out too.
    devices: HashSet<u64>,
    applied: Applied,
}

impl<'a> Unpacker<'a> {
    fn new(dest: BorrowedFd<'_>, ids: &'a IdPolicy, tree: &'a mut index::Writer) -> Result<Self, ApplyError> {
        let open = || open_readable(dest, b".").map_err(|source| call("open", b".", source));
        Ok(Self {
            tree,
            metadata: Metadata::new(ids),
            dirs: Dirs::new(open()?),
            target_dirs: Dirs::new(open()?),
            devices: HashSet::new(),
            applied: Applied::default(),
        })
    }

    fn entry<R: Read>(&mut self, entry: &Entry, contents: &mut Reader<R>) -> Result<(), ApplyError> {
        let components = self.components(entry, &entry.path)?;
        let Some((name, parents)) = components.split_last() else {
            return self.root(entry);
        };
        let is_aufs = |name: &&[u8]| TarName::parse(name) == TarName::AufsMetadata;
        if is_aufs(name) || parents.iter().any(is_aufs) {
            return Ok(());
        }
        if parents.iter().any(|name| whiteout::is_reserved(name)) {
            return Err(ApplyError::BadWhiteout { path: shown(entry) });
        }
        match TarName::parse(name) {
            TarName::AufsMetadata => Ok(()),
            TarName::Invalid => Err(ApplyError::BadWhiteout { path: shown(entry) }),
            TarName::Opaque => {
                let dir = self.parent(entry, parents)?;
                self.make_opaque(entry, dir)
            }
            TarName::Whiteout(hidden) => {
                let parent = self.parent(entry, parents)?;
                self.whiteout(entry, parent, hidden)
            }
            TarName::Plain(name) => {
                let parent = self.parent(entry, parents)?;
                match entry.kind {
                    EntryKind::Directory => self.directory(entry, parent, name),
                    EntryKind::File => self.file(entry, parent, name, contents),
                    EntryKind::Symlink => self.symlink(entry, parent, name),
                    EntryKind::Hardlink => self.hardlink(entry, parent, name),
                    EntryKind::Fifo => self.fifo(entry, parent, name),
                    EntryKind::CharDevice | EntryKind::BlockDevice => {
                        self.clear(entry, parent, name)?;
                        if self.devices.len() < MAX_DEVICES {
                            self.devices.insert(fingerprint(&components));
                        }
                        self.applied.skipped_devices += 1;
                        Ok(())
                    }
                }
            }
        }
    }

    fn root(&mut self, entry: &Entry) -> Result<(), ApplyError> {
        if entry.kind != EntryKind::Directory {
            return Err(ApplyError::RootNotDirectory);
        }
        let fd = self.dirs.fd(self.tree, ROOT).map_err(|source| call("open", &entry.path, source))?;
        let xattrs = self.metadata.describe_directory(fd, entry, self.tree.node(ROOT), &mut self.applied)?;
        self.describe(ROOT, entry, xattrs);
        Ok(())
    }

    fn directory(&mut self, entry: &Entry, parent: NodeId, name: &[u8]) -> Result<(), ApplyError> {
        let existing = self.tree.child(parent, name).filter(|id| self.tree.node(*id).kind == Kind::Directory);
        let id = match existing {
            Some(id) => id,
            None => self.make_directory(entry, parent, name)?,
        };
        let needs_fd = existing.is_some() || self.metadata.directory_needs_fd(entry);
        let mut xattrs = Vec::new();
        if needs_fd {
            let parent_fd = self.dirs.fd(self.tree, parent).map_err(|source| call("open", &entry.path, source))?;
            let fd = open_readable(parent_fd, name).map_err(|source| call("open", &entry.path, source))?;
            xattrs = self.metadata.describe_directory(fd.as_fd(), entry, self.tree.node(id), &mut self.applied)?;
        }
        self.describe(id, entry, xattrs);
        Ok(())
    }

    /// Makes a directory where nothing or something else is; over a whiteout it becomes opaque, because the directory
    /// below stays hidden.
    fn make_directory(&mut self, entry: &Entry, parent: NodeId, name: &[u8]) -> Result<NodeId, ApplyError> {
        let over = self.tree.child(parent, name).map(|id| self.tree.node(id).kind);
        self.clear(entry, parent, name)?;
        let fd = self.dirs.fd(self.tree, parent).map_err(|source| call("open", &entry.path, source))?;
        // Narrower or wider modes are set when the tree is complete.
        mkdirat(fd, name, Mode::from_bits_truncate(0o755)).map_err(|source| call("mkdir", &entry.path, source))?;
        let id = self.tree.insert(parent, name, Node::implicit_directory())?;
        if over == Some(Kind::Whiteout) {
            self.make_opaque(entry, id)?;
        }
        Ok(id)
    }

    fn file<R: Read>(
        &mut self,
        entry: &Entry,
        parent: NodeId,
        name: &[u8],
        contents: &mut Reader<R>,
    ) -> Result<(), ApplyError> {
        self.clear(entry, parent, name)?;
        let dir = self.dirs.fd(self.tree, parent).map_err(|source| call("open", &entry.path, source))?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(dir, name, flags, self.metadata.creation_mode(entry))
            .map_err(|source| call("create", &entry.path, source))?;
        let mut end = 0;
        while let Some(chunk) = contents.next_chunk()? {
            write_all(&file, chunk.bytes, chunk.offset).map_err(|source| call("write", &entry.path, source))?;
            end = chunk.offset + chunk.bytes.len() as u64;
            self.applied.bytes += chunk.bytes.len() as u64;
        }
        if end < entry.size {
            let size = i64::try_from(entry.size).map_err(|_| call("truncate", &entry.path, Errno::EFBIG))?;
            nix::unistd::ftruncate(&file, size).map_err(|source| call("truncate", &entry.path, source))?;
        }
        self.metadata.chown_fd(file.as_fd(), entry)?;
        self.metadata.finish_mode(file.as_fd(), entry)?;
        let xattrs = self.metadata.set_xattrs(file.as_fd(), entry, &mut self.applied)?;
        self.metadata.set_override(file.as_fd(), entry)?;
        self.metadata.set_time_fd(file.as_fd(), entry)?;
        let id = self.tree.insert(parent, name, Node::new(Kind::File))?;
        self.describe(id, entry, xattrs);
        self.tree.node_mut(id).size = entry.size;
        Ok(())
    }

    fn symlink(&mut self, entry: &Entry, parent: NodeId, name: &[u8]) -> Result<(), ApplyError> {
        self.clear(entry, parent, name)?;
        let dir = self.dirs.fd(self.tree, parent).map_err(|source| call("open", &entry.path, source))?;
        symlinkat(entry.link.as_slice(), dir, name).map_err(|source| call("symlink", &entry.path, source))?;
        self.metadata.chown_at(dir, name, entry)?;
        self.metadata.set_time_at(dir, name, entry.mtime, &entry.path)?;
        let id = self.tree.insert(parent, name, Node::new(Kind::Symlink))?;
        self.describe(id, entry, Vec::new());
        self.tree.node_mut(id).extra.get_or_insert_default().target.clone_from(&entry.link);
        Ok(())
    }

    fn fifo(&mut self, entry: &Entry, parent: NodeId, name: &[u8]) -> Result<(), ApplyError> {
        self.clear(entry, parent, name)?;
        let dir = self.dirs.fd(self.tree, parent).map_err(|source| call("open", &entry.path, source))?;
        mkfifoat(dir, name, self.metadata.creation_mode(entry))
            .map_err(|source| call("mkfifo", &entry.path, source))?;
        self.metadata.chown_at(dir, name, entry)?;
        if self.metadata.mode_is_unfinished(entry) {
            // Opening a pipe for both ends never waits on Linux.
            let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let fd = openat(dir, name, flags, Mode::empty()).map_err(|source| call("open", &entry.path, source))?;
            self.metadata.finish_mode(fd.as_fd(), entry)?;
        }
        self.metadata.set_time_at(dir, name, entry.mtime, &entry.path)?;
        let id = self.tree.insert(parent, name, Node::new(Kind::Fifo))?;
        self.describe(id, entry, Vec::new());
        Ok(())
    }

    fn hardlink(&mut self, entry: &Entry, parent: NodeId, name: &[u8]) -> Result<(), ApplyError> {
        let components = self.components(entry, &entry.link)?;
        let bad = || ApplyError::BadHardlink { path: shown(entry), target: Shown(&entry.link).to_string() };
        let Some((target_name, target_parents)) = components.split_last() else { return Err(bad()) };
        if self.devices.contains(&fingerprint(&components)) {
            self.applied.skipped_devices += 1;
            return Ok(());
        }
        let find = |this: &mut Self| -> Result<NodeId, ApplyError> {
            let dir = this.walk(entry, target_parents, false)?.ok_or_else(bad)?;
            let target = this.tree.child(dir, target_name).ok_or_else(bad)?;
            match this.tree.node(target).kind {
                Kind::Directory | Kind::Whiteout => Err(bad()),
                Kind::File | Kind::Symlink | Kind::Fifo => Ok(target),
            }
        };
        let target = find(self)?;
        if self.tree.child(parent, name) == Some(target) {
            return Ok(());
        }
        self.clear(entry, parent, name)?;
        // What was cleared may have been a directory with the target in it.
        let target = find(self)?;
        let target_dir = self.tree.parent(target);
        let from = self.target_dirs.fd(self.tree, target_dir).map_err(|source| call("open", &entry.link, source))?;
        let to = self.dirs.fd(self.tree, parent).map_err(|source| call("open", &entry.path, source))?;
        linkat(from, *target_name, to, name, AtFlags::empty()).map_err(|source| call("link", &entry.path, source))?;
        self.tree.link_group(target);
        let node = self.tree.node(target).clone();
        self.tree.insert(parent, name, node)?;
        Ok(())
    }

    fn whiteout(&mut self, entry: &Entry, parent: NodeId, name: &[u8]) -> Result<(), ApplyError> {
        if let Some(id) = self.tree.child(parent, name) {
            // It hides lower layers only; what this layer has of that name stays.
            return if self.tree.node(id).kind == Kind::Directory { self.make_opaque(entry, id) } else { Ok(()) };
        }
        let dir = self.dirs.fd(self.tree, parent).map_err(|source| call("open", &entry.path, source))?;
        whiteout::make(dir, name).map_err(|source| call("mknod", &entry.path, source))?;
        self.tree.insert(parent, name, Node::new(Kind::Whiteout))?;
        Ok(())
    }

    fn make_opaque(&mut self, entry: &Entry, dir: NodeId) -> Result<(), ApplyError> {
        if self.tree.node(dir).is_opaque {
            return Ok(());
        }
        let fd = self.dirs.fd(self.tree, dir).map_err(|source| call("open", &entry.path, source))?;
        let readable = open_readable(fd, b".").map_err(|source| call("open", &entry.path, source))?;
        whiteout::make_opaque(&readable).map_err(|source| call("setxattr", &entry.path, source))?;
        self.tree.node_mut(dir).is_opaque = true;
        Ok(())
    }

    /// Removes what this layer has of that name.
    fn clear(&mut self, entry: &Entry, parent: NodeId, name: &[u8]) -> Result<(), ApplyError> {
        let Some(id) = self.tree.child(parent, name) else { return Ok(()) };
        self.dirs.forget(id);
        self.target_dirs.forget(id);
        let dir = self.dirs.fd(self.tree, parent).map_err(|source| call("open", &entry.path, source))?;
        if self.tree.node(id).kind == Kind::Directory {
            remove_tree(dir, name).map_err(|source| call("remove", &entry.path, source))?;
        } else {
            unlinkat(dir, name, UnlinkatFlags::NoRemoveDir).map_err(|source| call("unlink", &entry.path, source))?;
        }
        self.tree.remove(id);
        Ok(())
    }

    fn parent(&mut self, entry: &Entry, parents: &[&[u8]]) -> Result<NodeId, ApplyError> {
        // With `create` there is always a directory at the end.
        self.walk(entry, parents, true).map(|found| found.unwrap_or(ROOT))
    }

    /// Finds a directory by components, following the layer's own symlinks as if its root were `/`.
    fn walk(&mut self, entry: &Entry, path: &[&[u8]], create: bool) -> Result<Option<NodeId>, ApplyError> {
        let mut at = ROOT;
        // Components of links being followed, last one first.
        let mut pending: Vec<Vec<u8>> = Vec::new();
        let mut rest = path.iter();
        let (mut links, mut depth) = (0, 0_usize);
        loop {
            let name: Cow<'_, [u8]> = match pending.pop() {
                Some(name) => Cow::Owned(name),
                None => match rest.next() {
                    Some(name) => Cow::Borrowed(*name),
                    None => return Ok(Some(at)),
                },
            };
            match &*name {
                b"" | b"." => continue,
                b".." => {
                    at = self.tree.parent(at);
                    depth = depth.saturating_sub(1);
                    continue;
                }
                _ => {}
            }
            if depth >= MAX_DEPTH {
                return Err(ApplyError::TooDeep { path: shown(entry) });
            }
            let child = self.tree.child(at, &name);
            let kind = child.map(|id| self.tree.node(id).kind);
            at = match (child, kind) {
                (Some(id), Some(Kind::Directory)) => {
                    depth += 1;
                    id
                }
                (Some(id), Some(Kind::Symlink)) if links < MAX_LINKS => {
                    links += 1;
                    let target = self.tree.node(id).target();
                    pending.extend(target.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec));
                    if target.starts_with(b"/") {
                        depth = 0;
                        ROOT
                    } else {
                        at
                    }
                }
                _ if !create => return Ok(None),
                (None, _) | (_, Some(Kind::Whiteout)) => {
                    if whiteout::is_reserved(&name) {
                        return Err(ApplyError::BadWhiteout { path: shown(entry) });
                    }
                    depth += 1;
                    self.make_directory(entry, at, &name)?
                }
                _ => {
                    let parent = Shown(&name).to_string();
                    return Err(ApplyError::ParentNotDirectory { path: shown(entry), parent });
                }
            };
        }
    }

    fn components<'n>(&self, entry: &Entry, path: &'n [u8]) -> Result<Vec<&'n [u8]>, ApplyError> {
        path::components(path).map_err(|bad| match bad {
            BadPath::Escapes => ApplyError::Escapes { path: Shown(path).to_string() },
            BadPath::TooLong => ApplyError::NameTooLong { path: shown(entry) },
        })
    }

    /// Notes an entry's metadata, as the layer has them, for the index.
    fn describe(&mut self, id: NodeId, entry: &Entry, xattrs: Vec<crate::layer::tar::Xattr>) {
        let node = self.tree.node_mut(id);
        node.is_implicit = false;
        node.mode = (entry.mode & 0o7777) as u16;
        node.uid = entry.uid;
        node.gid = entry.gid;
        node.set_mtime(entry.mtime);
        match &mut node.extra {
            Some(extra) => extra.xattrs = xattrs,
            None if xattrs.is_empty() => {}
            extra @ None => extra.get_or_insert_default().xattrs = xattrs,
        }
    }

    /// Gives directories their modes and times, which unpacking into them would have changed.
    fn finish(&mut self) -> Result<(), ApplyError> {
        let mut closing = Vec::new();
        let mut pending = vec![ROOT];
        while let Some(id) = pending.pop() {
            let before = pending.len();
            pending.extend(self.tree.children(id).filter(|child| self.tree.node(*child).kind == Kind::Directory));
            pending[before..].reverse();
            if id == ROOT || self.metadata.directory_mode_differs(self.tree.node(id)) {
                closing.push(id);
            }
            if pending.len() == before {
                continue;
            }
            let path = self.tree.name(id).to_vec();
            let dir = self.dirs.fd(self.tree, id).map_err(|source| call("open", &path, source))?;
            for child in &pending[before..] {
                let name = self.tree.name(*child);
                if self.tree.node(*child).is_implicit {
                    self.metadata.own_implicit_at(dir, name)?;
                }
                self.metadata.set_time_at(dir, name, self.tree.node(*child).mtime(), name)?;
            }
        }
        // Innermost first: a directory that is closed to us hides what lies in it.
        for id in closing.into_iter().rev() {
            let path = self.tree.name(id).to_vec();
            let fd = self.dirs.fd(self.tree, id).map_err(|source| call("open", &path, source))?;
            let fd = open_readable(fd, b".").map_err(|source| call("open", &path, source))?;
            self.metadata.close_directory(fd.as_fd(), self.tree.node(id), id == ROOT)?;
        }
        Ok(())
    }
}

fn fingerprint(components: &[&[u8]]) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    components.hash(&mut hasher);
    hasher.finish()
}

fn open_readable(dir: BorrowedFd<'_>, name: &[u8]) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(dir, name, flags, Mode::empty())
}

fn write_all(file: &OwnedFd, mut bytes: &[u8], offset: u64) -> nix::Result<()> {
    let mut offset = i64::try_from(offset).map_err(|_| Errno::EFBIG)?;
    while !bytes.is_empty() {
        match nix::sys::uio::pwrite(file, bytes, offset) {
            Ok(0) => return Err(Errno::EIO),
            Ok(len) => {
                bytes = &bytes[len..];
                offset += len as i64;
            }
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn shown(entry: &Entry) -> String {
    Shown(&entry.path).to_string()
}

fn call(call: &'static str, path: &[u8], source: Errno) -> ApplyError {
    ApplyError::Call { call, path: Shown(path).to_string(), source }
}
