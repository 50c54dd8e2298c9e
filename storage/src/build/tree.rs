//! What a build copies from: a directory of the host, or a stack of layers as a container would see it.
//!
//! Walked by descriptors, without a mount: each directory is opened by its name in the one above, in every layer that has
//! it, and no link is followed. A directory costs one descriptor for each layer that shows through in it.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use nix::dir::Dir as Stream;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};

use super::BuildError;
use crate::layer::Shown;
use crate::layer::diff::TreeForm;
use crate::layer::ids::{OVERRIDE_XATTR, Override};
use crate::layer::tar::{Timestamp, Xattr};
use crate::layer::view::View;
use crate::state::layout::Ownership;
use crate::sys::xattr;
use crate::whiteout;

/// Longest target of a link.
const MAX_TARGET_BYTES: u64 = 4095;

/// Where files are copied from.
#[derive(Clone, Debug)]
pub struct Tree {
    /// Roots, topmost first.
    pub roots: Vec<PathBuf>,
    /// Whether there are marks of what is not there.
    pub form: TreeForm,
    /// How owners are kept.
    pub ownership: Ownership,
}

/// A file, as the container would see it.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its name in its directory; of the walk's root empty.
    pub name: CString,
    /// Its kind.
    pub kind: SFlag,
    /// Permission bits with set-id and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// What the disk says.
    pub stat: FileStat,
    /// Which of its directory's layers it is in.
    layer: usize,
    /// A regular file stands for the link.
    is_stand_in: bool,
}

impl Node {
    /// True for a directory.
    pub fn is_directory(&self) -> bool {
        self.kind == SFlag::S_IFDIR
    }

    /// Time of last modification.
    pub fn mtime(&self) -> Timestamp {
        Timestamp { secs: self.stat.st_mtime, nanos: u32::try_from(self.stat.st_mtime_nsec).unwrap_or(0) }
    }
}

/// What a walk does with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is visited, and what is in it.
    Take,
    /// Neither it nor what is in it.
    Skip,
    /// What is in it may be, it is not.
    Descend,
}

/// Decides by the path from the root of the tree, without a slash at its beginning, and whether that is a directory.
pub type Filter<'a> = dyn Fn(&[u8], bool) -> Verdict + 'a;

/// Everything of a tree.
pub fn everything(_: &[u8], _: bool) -> Verdict {
    Verdict::Take
}

/// Called for each file with its path below the walk's root (empty for that itself), each directory before its entries.
pub type Visit<'a> = dyn FnMut(&[u8], &Directory, &Node) -> Result<(), BuildError> + 'a;

/// An open directory: of all layers that show through, topmost first.
#[derive(Debug)]
pub struct Directory {
    fds: Vec<OwnedFd>,
    form: TreeForm,
    ownership: Ownership,
}

impl Tree {
    /// A directory of the host.
    pub fn of_directory(root: impl Into<PathBuf>) -> Self {
        Self { roots: vec![root.into()], form: TreeForm::Plain, ownership: Ownership::Mapped }
    }

    /// Layers, topmost first.
    pub fn of_layers(roots: Vec<PathBuf>, ownership: Ownership) -> Self {
        Self { roots, form: TreeForm::Overlay, ownership }
    }

    /// The tree as it is looked into by names.
    pub fn view(&self) -> View<'_> {
        View::new(&self.roots)
    }

    /// Walks what `path`, which leads through no link, names: in the order of names.
    ///
    /// # Errors
    /// [`BuildError`]; nothing there is none of them, and visits nothing.
    pub fn walk(&self, path: &Path, filter: &Filter<'_>, visit: &mut Visit<'_>) -> Result<(), BuildError> {
        let Some((dir, node)) = self.open(path)? else { return Ok(()) };
        let mut whole: Vec<u8> = Vec::new();
        for part in path.components() {
            if let Component::Normal(part) = part {
                if !whole.is_empty() {
                    whole.push(b'/');
                }
                whole.extend_from_slice(part.as_bytes());
            }
        }
        let skipped = whole.len() + usize::from(!whole.is_empty());
        let mut walk = Walk { filter, visit, path: whole, skipped };
        walk.node(&dir, &node)
    }

    /// Opens the directory that `path` lies in, and describes the file.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn open(&self, path: &Path) -> Result<Option<(Directory, Node)>, BuildError> {
        let failed = |source| BuildError::call("open", path.as_os_str().as_bytes(), source);
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fds = self.roots.iter().map(|root| nix::fcntl::open(root, flags, Mode::empty()));
        let fds = fds.collect::<nix::Result<Vec<_>>>().map_err(failed)?;
        let mut dir = Directory { fds, form: self.form, ownership: self.ownership };
        let mut names = path.components().filter_map(|part| match part {
            Component::Normal(name) => CString::new(name.as_bytes()).ok(),
            _ => None,
        });
        let Some(mut name) = names.next() else {
            let node = dir.itself().map_err(failed)?;
            return Ok(Some((dir, node)));
        };
        for next in names {
            let Some(below) = dir.enter(&name, 0).map_err(failed)? else { return Ok(None) };
            (dir, name) = (below, next);
        }
        let node = dir.find(&name).map_err(failed)?;
        Ok(node.map(|node| (dir, node)))
    }
}

struct Walk<'a, 'b> {
    filter: &'a Filter<'a>,
    visit: &'a mut Visit<'b>,
    path: Vec<u8>,
    /// How much of the path is that of the walk's root.
    skipped: usize,
}

impl Walk<'_, '_> {
    fn node(&mut self, dir: &Directory, node: &Node) -> Result<(), BuildError> {
        let verdict = if self.path.is_empty() { Verdict::Take } else { (self.filter)(&self.path, node.is_directory()) };
        match verdict {
            Verdict::Skip => return Ok(()),
            Verdict::Take => (self.visit)(self.path.get(self.skipped..).unwrap_or_default(), dir, node)?,
            Verdict::Descend => {}
        }
        if !node.is_directory() {
            return Ok(());
        }
        let failed = |path: &[u8]| {
            let path = path.to_vec();
            move |source| BuildError::call("list", &path, source)
        };
        let entered;
        let inside = match node.name.is_empty() {
            true => dir,
            false => {
                let Some(opened) = dir.enter(&node.name, node.layer).map_err(failed(&self.path))? else {
                    return Ok(());
                };
                entered = opened;
                &entered
            }
        };
        for name in inside.list().map_err(failed(&self.path))? {
            let len = self.path.len();
            if len > 0 {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(name.0.to_bytes());
            // What has gone since it was listed is not there.
            if let Some(node) = inside.describe(name).map_err(failed(&self.path))? {
                self.node(inside, &node)?;
            }
            self.path.truncate(len);
        }
        Ok(())
    }
}

impl Directory {
    /// The names of all layers that are not hidden, in order, and the layer of each.
    fn list(&self) -> nix::Result<Vec<(CString, usize)>> {
        let (mut names, mut seen) = (Vec::new(), HashSet::new());
        for (layer, fd) in self.fds.iter().enumerate() {
            let mut stream = Stream::from_fd(openat(
                fd,
                ".",
                OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
                Mode::empty(),
            )?)?;
            for entry in stream.iter() {
                let entry = entry?;
                let name = entry.file_name();
                if name == c"." || name == c".." || (self.fds.len() > 1 && !seen.insert(name.to_owned())) {
                    continue;
                }
                names.push((name.to_owned(), layer));
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// One name, in whichever layer has it.
    fn find(&self, name: &CStr) -> nix::Result<Option<Node>> {
        for (layer, fd) in self.fds.iter().enumerate() {
            match fstatat(fd, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
                Ok(_) => return self.describe((name.to_owned(), layer)),
                Err(Errno::ENOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(None)
    }

    fn describe(&self, (name, layer): (CString, usize)) -> nix::Result<Option<Node>> {
        let Some(fd) = self.fds.get(layer) else { return Ok(None) };
        let stat = match fstatat(fd, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::ENOENT) => return Ok(None),
            stat => stat?,
        };
        self.node(name, layer, stat, fd.as_fd())
    }

    /// The directory as a file.
    fn itself(&self) -> nix::Result<Node> {
        let fd = self.fds.first().ok_or(Errno::ENOENT)?;
        let stat = fstat(fd)?;
        self.node(CString::default(), 0, stat, fd.as_fd())?.ok_or(Errno::ENOENT)
    }

    fn node(&self, name: CString, layer: usize, stat: FileStat, dir: BorrowedFd<'_>) -> nix::Result<Option<Node>> {
        let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
        let mut node = Node {
            name,
            kind,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            stat,
            layer,
            is_stand_in: false,
        };
        if self.form == TreeForm::Plain {
            return Ok(Some(node));
        }
        if whiteout::is_whiteout_device(&stat) {
            return Ok(None);
        }
        let may_have_marks = match kind {
            SFlag::S_IFREG => stat.st_size == 0 || self.ownership == Ownership::Single,
            SFlag::S_IFDIR => self.ownership == Ownership::Single,
            _ => false,
        };
        if may_have_marks {
            let name = if node.name.is_empty() { c"." } else { node.name.as_c_str() };
            let fd = openat(
                dir,
                name,
                OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC,
                Mode::empty(),
            )?;
            if kind == SFlag::S_IFREG && stat.st_size == 0 && whiteout::is_whiteout_file(&fd)? {
                return Ok(None);
            }
            if let Some(recorded) = xattr::find(fd.as_fd(), OVERRIDE_XATTR)?.and_then(|value| Override::parse(&value)) {
                (node.uid, node.gid, node.mode) = (recorded.uid, recorded.gid, recorded.mode);
                if let Some(kind) = recorded.kind.filter(|_| kind == SFlag::S_IFREG) {
                    node.kind = kind;
                    node.is_stand_in = kind == SFlag::S_IFLNK;
                }
            }
        }
        Ok(Some(node))
    }

    /// The directory `name`: of the layers from `first` on, down to the one that hides those below it.
    fn enter(&self, name: &CStr, first: usize) -> nix::Result<Option<Directory>> {
        let mut fds = Vec::new();
        for fd in self.fds.iter().skip(first) {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            match openat(fd, name, flags, Mode::empty()) {
                Ok(fd) => {
                    let hides = self.form == TreeForm::Overlay && whiteout::is_opaque(&fd)?;
                    fds.push(fd);
                    if hides {
                        break;
                    }
                }
                Err(Errno::ENOENT) => {}
                Err(Errno::ENOTDIR | Errno::ELOOP) => break,
                Err(errno) => return Err(errno),
            }
        }
        Ok((!fds.is_empty()).then(|| Directory { fds, form: self.form, ownership: self.ownership }))
    }

    /// Opens a regular file or a directory of this one for reading.
    ///
    /// # Errors
    /// Those of `openat`.
    pub fn open_file(&self, node: &Node) -> nix::Result<File> {
        let fd = self.fds.get(node.layer).ok_or(Errno::ENOENT)?;
        let name = if node.name.is_empty() { c"." } else { node.name.as_c_str() };
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        openat(fd, name, flags, Mode::empty()).map(File::from)
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// Those of `readlinkat`.
    pub fn read_link(&self, node: &Node) -> nix::Result<Vec<u8>> {
        if node.is_stand_in {
            let mut target = Vec::new();
            let read = self.open_file(node)?.take(MAX_TARGET_BYTES).read_to_end(&mut target);
            return read.map(|_| target).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)));
        }
        let fd = self.fds.get(node.layer).ok_or(Errno::ENOENT)?;
        Ok(readlinkat(fd, node.name.as_c_str())?.into_vec())
    }
}

/// The extended attributes of an open file that a layer may have, by name.
///
/// # Errors
/// Those of `flistxattr` and `fgetxattr`.
pub(super) fn attributes(file: BorrowedFd<'_>) -> nix::Result<Vec<Xattr>> {
    let mut found = Vec::new();
    for name in xattr::list(file)? {
        if is_kept(name.to_bytes())
            && let Some(value) = xattr::find(file, &name)?
        {
            found.push((name.into_bytes(), value));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Attributes of overlay file systems and of stores belong to those.
fn is_kept(name: &[u8]) -> bool {
    const RESERVED: [&[u8]; 4] = [b"user.overlay.", b"user.containers.", b"user.fuseoverlayfs.", b"user.coracle."];
    name == b"security.capability"
        || name.starts_with(b"user.") && !RESERVED.iter().any(|reserved| name.starts_with(reserved))
}

impl BuildError {
    pub(super) fn call(call: &'static str, path: &[u8], source: Errno) -> Self {
        Self::Call { call, path: Shown(path).to_string(), source }
    }
}
