//! The tree of a mount: its layers, its nodes, and the way from a node to the files behind it.
//!
//! Locks, in the order in which they are taken:
//!
//! | lock | what it protects | held |
//! | --- | --- | --- |
//! | a copy-up in progress | one file is copied up once | for as long as the data take |
//! | [`Tree::names`], exclusive | which names lead where, for operations on more than one directory | over system calls |
//! | [`Tree::names`], shared | the same for all others: nothing is renamed meanwhile | over system calls |
//! | [`Tree::change`] | the names in one directory | over system calls |
//! | a node, a shard of the table, the descriptors, the aliases | memory | shortly |

use std::borrow::Cow;
use std::collections::{HashSet, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{FileStat, Mode, fstat};

use super::attributes::{FileKind, InodeNo, UnionError};
use super::handles::{Handle, Handles, OWN, Which, in_layer};
use super::inode_table::{More, Node, Seed, State, Table};
use super::listing::Listing;
use super::stack::{Part, Stack};
use super::upper::{Owners, UpperLayer};
use super::{Options, Upper};

/// Most memory that listings take before old ones are dropped.
const LISTING_BYTES: usize = 6 << 20;

/// A mounted stack.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) stack: Stack,
    pub(super) table: Table,
    pub(super) handles: Handles,
    pub(super) upper: Option<UpperLayer>,
    /// Roots of the layers' trees, the upper's first.
    pub(super) roots: Vec<Handle>,
    /// Device of the upper, 0 if there is none.
    pub(super) upper_device: u64,
    /// How owners stand in layers without index.
    pub(super) lower_owners: Owners,
    pub(super) single: bool,
    pub(super) static_nlink: bool,
    pub(super) volatile: bool,
    pub(super) copy_up_cap_bytes: u64,
    pub(super) names: RwLock<()>,
    pub(super) changes: [Mutex<()>; CHANGES],
    pub(super) copying: Mutex<HashSet<u64>>,
    pub(super) copied: Condvar,
    pub(super) listing_bytes: AtomicUsize,
    /// Directories with a listing, the oldest first.
    pub(super) listed: Mutex<VecDeque<InodeNo>>,
    pub(super) listed_max: AtomicUsize,
}

/// Directories share this many locks.
pub(super) const CHANGES: usize = 64;

/// A file of the upper: by its name, or open since it has none.
#[derive(Debug)]
pub(super) enum At {
    Name(Handle, Box<[u8]>),
    Open(Handle),
}

impl Tree {
    /// Opens the layers of a mount.
    pub(super) fn open(options: Options) -> Result<Self, UnionError> {
        let failed = |operation| move |errno| UnionError::new(errno, operation);
        let single = options.owners == Owners::Single;
        let lower_owners = if single { Owners::Single } else { Owners::Mapped(options.lower_ids) };
        let upper = match options.upper {
            None => None,
            Some(Upper { upper, work }) => {
                Some(UpperLayer::open(upper, work, options.owners, options.volatile).map_err(|error| UnionError {
                    object: error.to_string().into(),
                    ..UnionError::new(error.errno(), "open upper")
                })?)
            }
        };
        let mut upper_device = 0;
        let mut upper_number = InodeNo(0);
        let mut upper_root = None;
        let stat = match &upper {
            Some(upper) => Some(fstat(upper.root()).map_err(failed("stat upper"))?),
            None => None,
        };
        let stack = Stack::new(options.lowers, stat.map(|stat| stat.st_dev), lower_owners.clone())
            .map_err(failed("open layers"))?;
        if let (Some(upper), Some(stat)) = (&upper, stat) {
            upper_device = stat.st_dev;
            upper_number = stack.real_number(stat.st_dev, stat.st_ino);
            let fd = upper.root().try_clone_to_owned().map_err(|_| UnionError::new(Errno::EMFILE, "open upper"))?;
            upper_root = Some(Handle { fd: Arc::new(fd), writable: true });
        }
        let parts = stack.roots();
        if parts.is_empty() && upper.is_none() {
            return Err(UnionError::new(Errno::EINVAL, "open layers"));
        }
        let mut roots: Vec<Handle> = stack.root_dirs().map(|fd| Handle { fd, writable: false }).collect();
        // A mount without upper has nothing there; nobody asks for it.
        roots.insert(
            0,
            upper_root.or_else(|| roots.first().cloned()).ok_or(UnionError::new(Errno::EINVAL, "open layers"))?,
        );
        let part = parts.first().copied().unwrap_or(Part::NONE);
        let more = Box::new(More { rest: parts.get(1..).unwrap_or_default().into(), ..More::default() });
        let state = State { parent: InodeNo(0), name: Box::default(), upper: upper_number.0, part, more: Some(more) };
        let table = Table::new(Seed { ino: InodeNo::ROOT, kind: FileKind::Directory, state });
        if upper_number.0 != 0 {
            table.alias(upper_number.0, InodeNo::ROOT);
        }
        Ok(Self {
            stack,
            table,
            handles: Handles::new(options.max_open_files),
            upper,
            roots,
            upper_device,
            lower_owners,
            single,
            static_nlink: options.static_nlink,
            volatile: options.volatile,
            copy_up_cap_bytes: options.copy_up_cap_bytes,
            names: RwLock::default(),
            changes: std::array::from_fn(|_| Mutex::default()),
            copying: Mutex::default(),
            copied: Condvar::new(),
            listing_bytes: AtomicUsize::new(0),
            listed: Mutex::default(),
            listed_max: AtomicUsize::new(1024),
        })
    }

    /// See [`Union::make_room`](super::Union::make_room).
    pub(super) fn make_room(&self) {
        if let Some(any) = self.roots.first() {
            self.handles.make_room(any.fd.as_fd());
        }
    }

    /// The node of a number that the kernel uses.
    pub(super) fn node(&self, ino: InodeNo) -> nix::Result<Arc<Node>> {
        self.table.get(ino).ok_or(Errno::ESTALE)
    }

    /// The node of a directory.
    pub(super) fn directory(&self, ino: InodeNo) -> nix::Result<Arc<Node>> {
        self.node(ino).and_then(|node| if node.is_directory() { Ok(node) } else { Err(Errno::ENOTDIR) })
    }

    /// The upper.
    ///
    /// # Errors
    /// `EROFS` if there is none.
    pub(super) fn upper(&self) -> nix::Result<&UpperLayer> {
        self.upper.as_ref().ok_or(Errno::EROFS)
    }

    /// Nothing is renamed while this is held.
    pub(super) fn names(&self) -> RwLockReadGuard<'_, ()> {
        self.names.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing changes its name but for the holder.
    pub(super) fn names_exclusive(&self) -> RwLockWriteGuard<'_, ()> {
        self.names.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// No name of a directory changes while this is held. Never taken twice by one operation.
    pub(super) fn change(&self, directory: InodeNo) -> MutexGuard<'_, ()> {
        let [first, ..] = &self.changes;
        let mixed = directory.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58;
        let lock = self.changes.get(mixed as usize % CHANGES).unwrap_or(first);
        lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first name of a file.
    pub(super) fn first_name<'a>(&'a self, state: &'a State) -> Cow<'a, [u8]> {
        if !state.name.is_empty() || state.part.is_plain() {
            return Cow::Borrowed(&state.name);
        }
        Cow::Borrowed(self.stack.record(state.part).map_or(&[], |record| record.name()))
    }

    /// Where a file was found, for a log; nothing for one that has no name any more.
    pub(super) fn path(&self, ino: InodeNo) -> Option<Vec<u8>> {
        let mut path = Vec::new();
        let mut at = self.table.get(ino)?;
        while at.ino != InodeNo::ROOT {
            let state = at.lock();
            // A path that is this long tells nobody anything.
            if !state.has_name() || path.len() > 2 * libc::PATH_MAX as usize {
                return None;
            }
            path.splice(..0, [b"/", &*self.first_name(&state)].concat());
            let parent = state.parent;
            drop(state);
            at = self.table.get(parent)?;
        }
        Some(path)
    }

    /// A directory in the upper, open in some way.
    pub(super) fn upper_dir(&self, node: &Arc<Node>) -> nix::Result<Handle> {
        self.open_dir(node, OWN)
    }

    /// A directory in a layer without index, open in some way.
    pub(super) fn lower_dir(&self, node: &Arc<Node>, layer: u16) -> nix::Result<Handle> {
        self.open_dir(node, in_layer(layer))
    }

    /// Opens a directory from the nearest one above it that is open, without following a link.
    ///
    /// A lower directory has the names that its node has: what is renamed has no lower parts any more.
    fn open_dir(&self, node: &Arc<Node>, which: Which) -> nix::Result<Handle> {
        let mut above = Vec::new();
        let mut at = Arc::clone(node);
        let mut handle = loop {
            if let Some(open) = self.handles.get(at.ino, which) {
                break open;
            }
            if at.ino == InodeNo::ROOT {
                break self.roots.get(usize::from(which)).cloned().ok_or(Errno::EIO)?;
            }
            let state = at.lock();
            if let Some(pinned) = state.more.as_ref().and_then(|more| more.pinned.clone()).filter(|_| which == OWN) {
                break pinned;
            }
            if !state.has_name() {
                return Err(Errno::ENOENT);
            }
            let (parent, name) = (state.parent, Box::from(&*self.first_name(&state)));
            drop(state);
            let parent = self.node(parent)?;
            above.push((at, name));
            at = parent;
        };
        for (node, name) in above.into_iter().rev() {
            let fd = self.open_directory_at(handle.fd.as_fd(), &name)?;
            handle = self.handles.insert(node.ino, which, fd, false);
        }
        Ok(handle)
    }

    /// Opens a directory in a directory: for reading, or for finding names in it if that is all that is allowed.
    pub(super) fn open_directory_at(&self, dir: BorrowedFd<'_>, name: &[u8]) -> nix::Result<OwnedFd> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
        match self.open_at(dir, name, flags | OFlag::O_RDONLY) {
            Err(Errno::EACCES | Errno::EPERM) => self.open_at(dir, name, flags | OFlag::O_PATH),
            result => result,
        }
    }

    /// Opens a name in a directory; makes room if no descriptor is left.
    pub(super) fn open_at(&self, dir: BorrowedFd<'_>, name: &[u8], flags: OFlag) -> nix::Result<OwnedFd> {
        self.with_room(|| openat(dir, name, flags | OFlag::O_CLOEXEC, Mode::empty()))
    }

    /// Calls again after closing descriptors if there were too many.
    pub(super) fn with_room<T>(&self, mut call: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
        match call() {
            Err(Errno::EMFILE | Errno::ENFILE) => {
                self.handles.shrink();
                call()
            }
            result => result,
        }
    }

    /// Where the upper has a file.
    pub(super) fn at_upper(&self, node: &Arc<Node>) -> nix::Result<At> {
        let state = node.lock();
        if let Some(pinned) = state.more.as_ref().and_then(|more| more.pinned.clone()) {
            return Ok(At::Open(pinned));
        }
        if node.ino == InodeNo::ROOT {
            drop(state);
            return self.roots.first().cloned().map(At::Open).ok_or(Errno::EIO);
        }
        if !state.has_name() {
            return Err(Errno::ESTALE);
        }
        let (parent, name) = (state.parent, Box::from(&*self.first_name(&state)));
        drop(state);
        Ok(At::Name(self.upper_dir(&self.node(parent)?)?, name))
    }

    /// Where a layer without index has a file.
    pub(super) fn at_lower(&self, node: &Arc<Node>) -> nix::Result<At> {
        let state = node.lock();
        if let Some(pinned) = state.more.as_ref().and_then(|more| more.pinned.clone()) {
            return Ok(At::Open(pinned));
        }
        let layer = state.part.layer;
        if node.ino == InodeNo::ROOT {
            drop(state);
            return self.roots.get(usize::from(in_layer(layer))).cloned().map(At::Open).ok_or(Errno::EIO);
        }
        if !state.has_name() {
            return Err(Errno::ESTALE);
        }
        let (parent, name) = (state.parent, Box::from(&*self.first_name(&state)));
        drop(state);
        Ok(At::Name(self.lower_dir(&self.node(parent)?, layer)?, name))
    }

    /// A descriptor (`O_PATH` unless one is open already) of the file that a node stands for.
    pub(super) fn path_fd(&self, node: &Arc<Node>) -> nix::Result<Handle> {
        if let Some(open) = self.handles.get(node.ino, OWN) {
            return Ok(open);
        }
        let (in_upper, part) = {
            let state = node.lock();
            (state.in_upper(), state.part)
        };
        let at = match (in_upper, part.is_plain()) {
            (true, _) => self.at_upper(node)?,
            (false, true) => self.at_lower(node)?,
            (false, false) => {
                let fd = self.with_room(|| self.stack.open(part, OFlag::O_PATH | OFlag::O_NOFOLLOW))?;
                return Ok(Handle { fd: Arc::new(fd), writable: false });
            }
        };
        match at {
            At::Open(handle) => Ok(handle),
            At::Name(dir, name) => {
                let fd = self.open_at(dir.fd.as_fd(), &name, OFlag::O_PATH | OFlag::O_NOFOLLOW)?;
                Ok(Handle { fd: Arc::new(fd), writable: false })
            }
        }
    }

    /// The contents of a regular file, open for reading and, in the upper, for writing.
    pub(super) fn data(&self, node: &Arc<Node>) -> nix::Result<Handle> {
        if let Some(open) = self.handles.get(node.ino, OWN) {
            return Ok(open);
        }
        if node.kind != FileKind::File {
            return Err(if node.is_directory() { Errno::EISDIR } else { Errno::EINVAL });
        }
        let _names = self.names();
        let (in_upper, part) = {
            let state = node.lock();
            (state.in_upper(), state.part)
        };
        const READ: OFlag = OFlag::O_RDONLY.union(OFlag::O_NONBLOCK).union(OFlag::O_NOFOLLOW);
        let without_time = |open: &dyn Fn(OFlag) -> nix::Result<OwnedFd>| match open(READ | OFlag::O_NOATIME) {
            Err(Errno::EPERM) => open(READ),
            result => result,
        };
        let (fd, writable) = match (in_upper, part.is_plain()) {
            (true, _) => self.open_upper_data(self.at_upper(node)?)?,
            (false, true) => match self.at_lower(node)? {
                At::Open(handle) => (reopen(handle.fd.as_fd(), READ)?, false),
                At::Name(dir, name) => (without_time(&|flags| self.open_at(dir.fd.as_fd(), &name, flags))?, false),
            },
            (false, false) => (without_time(&|flags| self.with_room(|| self.stack.open(part, flags)))?, false),
        };
        // The layer says what the file is; a tree that says otherwise was tampered with.
        if !in_upper && super::stack::stat_kind(&fstat(&fd)?) != FileKind::File {
            return Err(Errno::EIO);
        }
        Ok(self.handles.insert(node.ino, OWN, fd, writable))
    }

    fn open_upper_data(&self, at: At) -> nix::Result<(OwnedFd, bool)> {
        let both = OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW;
        let read = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW;
        let open = |flags| match &at {
            At::Name(dir, name) => self.open_at(dir.fd.as_fd(), name, flags),
            At::Open(handle) => self.with_room(|| reopen(handle.fd.as_fd(), flags)),
        };
        match open(both) {
            // Immutable or append-only.
            Err(Errno::EPERM | Errno::EACCES | Errno::EROFS) => Ok((open(read)?, false)),
            result => Ok((result?, true)),
        }
    }

    /// What the disk says of a file that the upper or a layer without index has.
    pub(super) fn stat(&self, node: &Arc<Node>, in_upper: bool) -> nix::Result<FileStat> {
        if let Some(open) = self.handles.get(node.ino, OWN) {
            return fstat(&open.fd);
        }
        match if in_upper { self.at_upper(node)? } else { self.at_lower(node)? } {
            At::Open(handle) => fstat(&handle.fd),
            At::Name(dir, name) => stat_at(dir.fd.as_fd(), &name),
        }
    }

    /// Changes a directory's listing if it has one, and keeps the count of memory.
    pub(super) fn with_listing(&self, node: &Node, change: impl FnOnce(&mut Listing)) {
        let mut state = node.lock();
        let Some(listing) = state.more.as_mut().and_then(|more| more.listing.as_mut()) else { return };
        let before = listing.bytes();
        change(listing);
        let after = listing.bytes();
        drop(state);
        if after >= before {
            self.listing_bytes.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.forget_listing_bytes(before - after);
        }
        self.trim_listings(node.ino);
    }

    /// Gives a directory its listing.
    pub(super) fn keep_listing(&self, node: &Node, listing: Listing) {
        let bytes = listing.bytes();
        let mut state = node.lock();
        let old = state.more().listing.replace(Box::new(listing));
        drop(state);
        self.forget_listing_bytes(old.as_ref().map_or(0, |old| old.bytes()));
        self.listing_bytes.fetch_add(bytes, Ordering::Relaxed);
        if old.is_none() {
            let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
            listed.push_back(node.ino);
            // Those that were forgotten since stay here until they are too many.
            if listed.len() > self.listed_max.load(Ordering::Relaxed) {
                let has_listing =
                    |node: Arc<Node>| node.lock().more.as_ref().is_some_and(|more| more.listing.is_some());
                listed.retain(|ino| self.table.get(*ino).is_some_and(has_listing));
                self.listed_max.store(listed.len() * 2 + 1024, Ordering::Relaxed);
            }
        }
        self.trim_listings(node.ino);
    }

    /// Drops a directory's listing: it is made again when it is needed.
    pub(super) fn drop_listing(&self, node: &Node) {
        let old = node.lock().more.as_mut().and_then(|more| more.listing.take());
        self.forget_listing_bytes(old.map_or(0, |old| old.bytes()));
    }

    fn forget_listing_bytes(&self, bytes: usize) {
        let _ = self
            .listing_bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |all| Some(all.saturating_sub(bytes)));
    }

    fn trim_listings(&self, kept: InodeNo) {
        let mut left = self.listed.lock().unwrap_or_else(PoisonError::into_inner).len();
        while self.listing_bytes.load(Ordering::Relaxed) > LISTING_BYTES && left > 0 {
            left -= 1;
            let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(oldest) = listed.pop_front() else { return };
            if oldest == kept {
                listed.push_back(oldest);
                continue;
            }
            drop(listed);
            if let Some(node) = self.table.get(oldest) {
                self.drop_listing(&node);
            }
        }
    }

    /// The kernel forgets a file.
    pub(super) fn forget(&self, ino: InodeNo, count: u64) {
        self.table.release(ino, count, |node| {
            self.drop_listing(node);
            self.handles.remove(node.ino, OWN);
            if node.is_directory() {
                for part in node.lock().places().parts().filter(|part| part.is_plain()) {
                    self.handles.remove(node.ino, in_layer(part.layer));
                }
            }
        });
    }
}

/// Opens again what a descriptor refers to.
pub(super) fn reopen(fd: BorrowedFd<'_>, flags: OFlag) -> nix::Result<OwnedFd> {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    // The link is of the kernel's making and has to be followed.
    nix::fcntl::open(path.as_str(), flags.difference(OFlag::O_NOFOLLOW) | OFlag::O_CLOEXEC, Mode::empty())
}

/// `lstat` of a name in a directory.
pub(super) fn stat_at(dir: BorrowedFd<'_>, name: &[u8]) -> nix::Result<FileStat> {
    nix::sys::stat::fstatat(dir, name, nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW)
}
