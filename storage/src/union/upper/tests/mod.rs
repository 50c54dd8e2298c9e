//! Every change on real directories: what it leaves, what is left when it is killed or fails at any of its steps, and
//! what the kernel's overlay makes of the result.

mod crash;
mod ownership;
mod scenarios;
mod space;
mod transactions;

use super::*;
use crate::layer::ids::IdMap;
use crate::union::attributes::{Attributes, Caller, FileKind, InodeNo, NewFile};
use nix::sys::stat::fstat;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A lower, an upper and a work directory.
pub(super) struct Fixture {
    root: PathBuf,
    /// Kept for its end.
    _scratch: Option<tempfile::TempDir>,
}

/// What a merged view shows: path → description.
pub(super) type View = BTreeMap<String, String>;

impl Fixture {
    pub(super) fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let fixture = Self { root: scratch.path().to_owned(), _scratch: Some(scratch) };
        for name in ["lower", "upper", "work"] {
            fs::create_dir(fixture.root.join(name)).unwrap();
        }
        fixture
    }

    /// One that somebody else has made and will remove.
    pub(super) fn at(root: &Path) -> Self {
        Self { root: root.to_owned(), _scratch: None }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub(super) fn lower(&self, name: &str) -> PathBuf {
        self.root.join("lower").join(name)
    }

    pub(super) fn upper(&self, name: &str) -> PathBuf {
        self.root.join("upper").join(name)
    }

    pub(super) fn open(&self) -> UpperLayer {
        self.open_as(Owners::Mapped(IdMap::default())).unwrap()
    }

    pub(super) fn open_as(&self, owners: Owners) -> Result<UpperLayer, OpenError> {
        UpperLayer::open(dir(&self.path("upper")), dir(&self.path("work")), owners, false)
    }

    /// A directory of the upper.
    pub(super) fn upper_dir(&self, name: &str) -> OwnedFd {
        dir(&self.upper(name))
    }

    /// What the two directories show together, as the kernel's overlay would.
    pub(super) fn view(&self) -> View {
        let mut view = View::new();
        merge(Some(&self.path("upper")), Some(&self.path("lower")), "", &mut view);
        view
    }

    /// Names in the part of the work directory that is ours.
    pub(super) fn leftovers(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path("work/coracle")) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

pub(super) fn dir(path: &Path) -> OwnedFd {
    File::open(path).unwrap().into()
}

pub(super) fn name(name: &str) -> Name<'_> {
    Name::new(OsStr::new(name)).unwrap()
}

pub(super) fn new_file(mode: u32) -> NewFile {
    let owner = Caller { uid: geteuid().as_raw(), gid: getegid().as_raw() };
    NewFile { owner, mode, umask: 0o022 }
}

pub(super) fn parent(dir: &OwnedFd) -> Parent<'_> {
    let stat = fstat(dir).unwrap();
    let set_gid = (stat.st_mode & 0o2000 != 0).then_some(stat.st_gid);
    let marks = Marks::read(dir.as_fd(), &stat).unwrap();
    Parent { dir: dir.as_fd(), set_gid, has_default_acl: marks.has_default_acl }
}

/// What a plain lower says of a file, and its contents.
pub(super) struct Found {
    attributes: Attributes,
    data: Option<File>,
    target: Vec<u8>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Found {
    pub(super) fn new(path: &Path) -> Self {
        let owners = Owners::Mapped(IdMap::default());
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = openat(nix::fcntl::AT_FDCWD, path, flags, Mode::empty()).unwrap();
        let stat = fstat(&fd).unwrap();
        let attributes = owners.attributes(InodeNo(stat.st_ino), &stat, &Marks::default());
        Self {
            attributes,
            data: (attributes.kind == FileKind::File).then(|| File::open(path).unwrap()),
            target: fs::read_link(path).map(|target| target.as_os_str().as_bytes().to_vec()).unwrap_or_default(),
            xattrs: visible_xattrs(fd.as_fd(), &owners).unwrap(),
        }
    }

    pub(super) fn source(&self) -> Source<'_> {
        Source {
            attributes: &self.attributes,
            data: self.data.as_ref().map(|data| data.as_fd()),
            target: &self.target,
            xattrs: &self.xattrs,
            origin: Some(self.attributes.ino),
        }
    }
}

fn merge(upper: Option<&Path>, lower: Option<&Path>, prefix: &str, view: &mut View) {
    let list = |dir: Option<&Path>| -> Vec<String> {
        let Some(Ok(entries)) = dir.map(fs::read_dir) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    let is_opaque = upper.is_some_and(|upper| whiteout::is_opaque(dir(upper)).unwrap());
    let lower = lower.filter(|_| !is_opaque);
    let mut names = list(upper);
    names.extend(list(lower));
    names.sort();
    names.dedup();
    for name in names {
        let shown = format!("{prefix}{name}");
        let of = |dir: Option<&Path>| dir.map(|dir| dir.join(&name)).filter(|path| path.symlink_metadata().is_ok());
        let (above, below) = (of(upper), of(lower));
        if let Some(upper) = upper
            && is_whiteout_at(dir(upper).as_fd(), name.as_bytes()).unwrap()
        {
            continue;
        }
        let Some(path) = above.as_deref().or(below.as_deref()) else { continue };
        view.insert(shown.clone(), describe(path));
        if path.symlink_metadata().unwrap().is_dir() {
            let is_dir = |path: &PathBuf| path.symlink_metadata().unwrap().is_dir();
            merge(above.as_deref(), below.filter(is_dir).as_deref(), &format!("{shown}/"), view);
        }
    }
}

/// Kind, mode and contents.
fn describe(path: &Path) -> String {
    let metadata = path.symlink_metadata().unwrap();
    let kind = metadata.file_type();
    let (letter, contents) = if kind.is_dir() {
        ("d", String::new())
    } else if kind.is_symlink() {
        ("l", fs::read_link(path).unwrap().to_string_lossy().into_owned())
    } else if kind.is_file() {
        let sum = fs::read(path).map(|bytes| crate::digest::Digest::of(&bytes).hex()[..8].to_owned());
        ("f", format!("{} {}", metadata.len(), sum.unwrap_or_else(|_| "unreadable".to_owned())))
    } else if kind.is_fifo() {
        ("p", String::new())
    } else if kind.is_socket() {
        ("s", String::new())
    } else {
        ("c", metadata.rdev().to_string())
    };
    let time = if kind.is_dir() { 0 } else { metadata.mtime() };
    format!(
        "{letter} {:o} {contents} {}",
        metadata.permissions().mode() & 0o7777,
        if time < 1_600_000_000 { time } else { 0 }
    )
}
