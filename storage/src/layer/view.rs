//! Looks into a stack of layers without mounting it.
//!
//! `run` needs `/etc/passwd`, `/etc/group` or the target of a mount before, or without, a mount of the image. Names are
//! resolved as the container would see them: upper before lower, whiteouts and opaque directories hide, links lead
//! beneath the stack's root. Only regular files are opened, never waiting: an image may have a pipe as `/etc/passwd`.
//!
//! Holds no descriptors between steps, so 200 layers work under `ulimit -n 64`.

use super::Shown;
use super::ids::{OVERRIDE_XATTR, Override};
use super::tar::Timestamp;
use crate::sys::xattr;
use crate::whiteout;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2, readlinkat};
use nix::sys::stat::{FileStat, SFlag, fstat};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Most links followed for one name, as in the kernel.
const MAX_LINKS: usize = 40;

/// Why a name could not be looked at.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ViewError {
    /// A kernel call.
    #[error("{call} '{path}' in the image: {}", source.desc().to_lowercase())]
    Call {
        /// Which call.
        call: &'static str,
        /// On what.
        path: String,
        /// Its errno.
        source: Errno,
    },
    /// Not a regular file.
    #[error("'{path}' in the image is not a regular file")]
    NotAFile {
        /// The name.
        path: String,
    },
    /// More than the caller wants to read.
    #[error("'{path}' in the image is larger than {limit_bytes} bytes")]
    TooLarge {
        /// The name.
        path: String,
        /// The caller's limit.
        limit_bytes: u64,
    },
    /// A circle of links.
    #[error("'{path}' in the image has too many levels of symbolic links")]
    TooManyLinks {
        /// The name.
        path: String,
    },
}

/// What a name is, as the container would see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// Kind of file (`S_IFMT`) and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length in bytes.
    pub size: u64,
    /// Time of last modification.
    pub mtime: Timestamp,
}

impl Metadata {
    /// True for a directory.
    pub fn is_directory(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFDIR
    }

    /// True for a symbolic link.
    pub fn is_symlink(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFLNK
    }
}

/// A stack of layers, top first: roots of trees in overlay's form (`layers/<diffID>/diff`, a container's `upper`).
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    roots: &'a [PathBuf],
}

/// Opens a regular file of a stack for reading, links followed beneath its root; `None` if it is not there.
///
/// # Errors
/// [`ViewError`].
pub fn open_file(layers_top_first: &[PathBuf], path: impl AsRef<Path>) -> Result<Option<File>, ViewError> {
    View::new(layers_top_first).open_file(path)
}

/// Longest target that the kernel makes a link to.
const MAX_TARGET_BYTES: i64 = 4095;

/// A name that was found: the path without links, and the layers that have it.
struct Found {
    path: Vec<Vec<u8>>,
    stat: FileStat,
    /// Of a directory all that show through, top first; of anything else the one it is in.
    layers: Vec<usize>,
}

impl<'a> View<'a> {
    /// A view of these trees.
    pub fn new(roots_top_first: &'a [PathBuf]) -> Self {
        Self { roots: roots_top_first }
    }

    /// Opens a regular file for reading, following links; `None` if it is not there.
    ///
    /// # Errors
    /// [`ViewError`].
    pub fn open_file(&self, path: impl AsRef<Path>) -> Result<Option<File>, ViewError> {
        let path = path.as_ref();
        let Some(found) = self.find(path, true)? else { return Ok(None) };
        let not_a_file = || ViewError::NotAFile { path: shown(path) };
        if kind(&found.stat) != SFlag::S_IFREG {
            return Err(not_a_file());
        }
        let layer = *found.layers.first().ok_or_else(not_a_file)?;
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let fd = self.open(layer, &found.path, flags).map_err(|source| failed("open", path, source))?;
        let stat = fstat(&fd).map_err(|source| failed("fstat", path, source))?;
        if kind(&stat) != SFlag::S_IFREG {
            return Err(not_a_file());
        }
        Ok(Some(File::from(fd)))
    }

    /// Reads a regular file of at most `limit_bytes`.
    ///
    /// # Errors
    /// [`ViewError`].
    pub fn read(&self, path: impl AsRef<Path>, limit_bytes: u64) -> Result<Option<Vec<u8>>, ViewError> {
        let path = path.as_ref();
        let Some(file) = self.open_file(path)? else { return Ok(None) };
        let mut contents = Vec::new();
        let read = file.take(limit_bytes.saturating_add(1)).read_to_end(&mut contents);
        read.map_err(|error| failed("read", path, Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))))?;
        if contents.len() as u64 > limit_bytes {
            return Err(ViewError::TooLarge { path: shown(path), limit_bytes });
        }
        Ok(Some(contents))
    }

    /// What a name is; a link itself if `follow` is off. `None` if it is not there.
    ///
    /// # Errors
    /// [`ViewError`].
    pub fn metadata(&self, path: impl AsRef<Path>, follow: bool) -> Result<Option<Metadata>, ViewError> {
        let path = path.as_ref();
        let Some(found) = self.find(path, follow)? else { return Ok(None) };
        let stat = &found.stat;
        let mut metadata = Metadata {
            mode: stat.st_mode,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mtime: Timestamp { secs: stat.st_mtime, nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0) },
        };
        if matches!(kind(stat), SFlag::S_IFREG | SFlag::S_IFDIR | SFlag::S_IFLNK)
            && let Some(layer) = found.layers.first()
        {
            // In single-id mode the true owner stands in an xattr. A file we may not even read has none of ours.
            let value = self.open(*layer, &found.path, OFlag::O_RDONLY | OFlag::O_NONBLOCK);
            let value = value.and_then(|fd| xattr::find(fd.as_fd(), OVERRIDE_XATTR)).unwrap_or_default();
            if let Some(recorded) = value.and_then(|value| Override::parse(&value)) {
                let Override { uid, gid, mode, .. } = recorded;
                let kind = recorded.kind.filter(|_| kind(stat) == SFlag::S_IFREG).unwrap_or(kind(stat));
                metadata = Metadata { mode: kind.bits() | mode, uid, gid, ..metadata };
            }
        }
        Ok(Some(metadata))
    }

    /// The names in a directory of all layers, in order; `None` if it is not there or none. Links on the way are followed.
    ///
    /// # Errors
    /// [`ViewError`].
    pub fn list(&self, path: impl AsRef<Path>) -> Result<Option<Vec<Vec<u8>>>, ViewError> {
        let path = path.as_ref();
        let found = self.find(path, false)?.filter(|found| kind(&found.stat) == SFlag::S_IFDIR);
        let Some(found) = found else { return Ok(None) };
        let call = |source| failed("list", path, source);
        let mut names = BTreeSet::new();
        for layer in &found.layers {
            let fd = self.open(*layer, &found.path, OFlag::O_RDONLY | OFlag::O_DIRECTORY).map_err(call)?;
            for entry in Dir::from_fd(fd).map_err(call)?.iter() {
                let entry = entry.map_err(call)?;
                names.insert(entry.file_name().to_bytes().to_vec());
            }
        }
        names.retain(|name| name != b"." && name != b"..");
        let mut visible = Vec::new();
        for name in names {
            if self.step(&found, name.clone()).map_err(call)?.is_some() {
                visible.push(name);
            }
        }
        Ok(Some(visible))
    }

    /// The target of a link; `None` if there is nothing, or no link.
    ///
    /// # Errors
    /// [`ViewError`].
    pub fn read_link(&self, path: impl AsRef<Path>) -> Result<Option<PathBuf>, ViewError> {
        let path = path.as_ref();
        let found = self.find(path, false)?.filter(|found| kind(&found.stat) == SFlag::S_IFLNK);
        let Some(found) = found else { return Ok(None) };
        self.link_target(&found)
            .map(|target| Some(PathBuf::from(std::ffi::OsString::from_vec(target))))
            .map_err(|source| failed("readlink", path, source))
    }

    /// Where a name leads once all links are followed, as a path from the stack's root.
    ///
    /// # Errors
    /// [`ViewError`].
    pub fn canonicalize(&self, path: impl AsRef<Path>) -> Result<Option<PathBuf>, ViewError> {
        let found = self.find(path.as_ref(), true)?;
        Ok(found.map(|found| {
            let mut canonical = PathBuf::from("/");
            canonical.extend(found.path.iter().map(|name| std::ffi::OsStr::from_bytes(name)));
            canonical
        }))
    }

    fn find(&self, path: &Path, follow_last: bool) -> Result<Option<Found>, ViewError> {
        let bytes = path.as_os_str().as_bytes();
        let call = |source| failed("look up", path, source);
        let mut pending: Vec<Vec<u8>> = bytes.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec).collect();
        let Some(mut at) = self.root().map_err(call)? else { return Ok(None) };
        let mut links = 0;
        while let Some(name) = pending.pop() {
            match name.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    at = self.parent_of(at).map_err(call)?;
                    continue;
                }
                _ => {}
            }
            if kind(&at.stat) != SFlag::S_IFDIR {
                return Ok(None);
            }
            let Some(next) = self.step(&at, name).map_err(call)? else { return Ok(None) };
            let is_last = pending.iter().all(|name| name.is_empty());
            if kind(&next.stat) != SFlag::S_IFLNK || (is_last && !follow_last) {
                at = next;
                continue;
            }
            links += 1;
            if links > MAX_LINKS {
                return Err(ViewError::TooManyLinks { path: shown(path) });
            }
            let target = self.link_target(&next).map_err(call)?;
            pending.extend(target.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec));
            if target.starts_with(b"/") {
                let Some(root) = self.root().map_err(call)? else { return Ok(None) };
                at = root;
            }
        }
        Ok(Some(at))
    }

    fn root(&self) -> nix::Result<Option<Found>> {
        let Some(top) = self.roots.first() else { return Ok(None) };
        let stat = nix::sys::stat::stat(top)?;
        Ok(Some(Found { path: Vec::new(), stat, layers: (0..self.roots.len()).collect() }))
    }

    /// Walks again from the root: `..` is rare, and the path has no links any more.
    fn parent_of(&self, found: Found) -> nix::Result<Found> {
        let mut path = found.path;
        path.pop();
        let mut at = self.root()?.ok_or(Errno::ENOENT)?;
        for name in path {
            at = self.step(&at, name)?.ok_or(Errno::ENOENT)?;
        }
        Ok(at)
    }

    /// One component below a directory.
    fn step(&self, dir: &Found, name: Vec<u8>) -> nix::Result<Option<Found>> {
        let mut path = dir.path.clone();
        path.push(name);
        let mut found: Option<Found> = None;
        for layer in &dir.layers {
            let fd = match self.open(*layer, &path, OFlag::O_PATH | OFlag::O_NOFOLLOW) {
                Ok(fd) => fd,
                // Nothing here: neither the name nor, in this layer, a directory to hold it.
                Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => continue,
                Err(errno) => return Err(errno),
            };
            let mut stat = fstat(&fd)?;
            if self.is_stand_in_for_link(*layer, &path, &stat)? {
                stat.st_mode = SFlag::S_IFLNK.bits() | 0o777;
            }
            if whiteout::is_whiteout_device(&stat) || self.is_whiteout_file(*layer, &path, &stat)? {
                break;
            }
            let is_directory = kind(&stat) == SFlag::S_IFDIR;
            match &mut found {
                None => found = Some(Found { path: path.clone(), stat, layers: vec![*layer] }),
                Some(found) if is_directory => found.layers.push(*layer),
                // A file below a directory is hidden, and hides what is below it.
                Some(_) => break,
            }
            if !is_directory || self.is_opaque(*layer, &path)? {
                break;
            }
        }
        Ok(found)
    }

    fn is_opaque(&self, layer: usize, path: &[Vec<u8>]) -> nix::Result<bool> {
        match self.open(layer, path, OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
            Ok(fd) => whiteout::is_opaque(fd),
            // Without the right to read it we cannot be its user namespace's root: then nothing was unpacked opaque.
            Err(Errno::EACCES) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    fn is_whiteout_file(&self, layer: usize, path: &[Vec<u8>], stat: &FileStat) -> nix::Result<bool> {
        if kind(stat) != SFlag::S_IFREG || stat.st_size != 0 {
            return Ok(false);
        }
        match self.open(layer, path, OFlag::O_RDONLY | OFlag::O_NONBLOCK) {
            Ok(fd) => whiteout::is_whiteout_file(fd),
            Err(Errno::EACCES) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    /// True for the regular file that in single-id mode is a link of somebody else's. It has all permissions.
    fn is_stand_in_for_link(&self, layer: usize, path: &[Vec<u8>], stat: &FileStat) -> nix::Result<bool> {
        let is_likely = stat.st_mode & 0o7777 == 0o777 && (1..=MAX_TARGET_BYTES).contains(&stat.st_size);
        if !is_likely || kind(stat) != SFlag::S_IFREG {
            return Ok(false);
        }
        let value = match self.open(layer, path, OFlag::O_RDONLY | OFlag::O_NONBLOCK) {
            Ok(fd) => xattr::find(fd.as_fd(), OVERRIDE_XATTR)?,
            Err(Errno::EACCES) => None,
            Err(errno) => return Err(errno),
        };
        let kind = value.and_then(|value| Override::parse(&value)).and_then(|recorded| recorded.kind);
        Ok(kind == Some(SFlag::S_IFLNK))
    }

    fn link_target(&self, found: &Found) -> nix::Result<Vec<u8>> {
        let layer = *found.layers.first().ok_or(Errno::ENOENT)?;
        let fd = self.open(layer, &found.path, OFlag::O_PATH | OFlag::O_NOFOLLOW)?;
        match readlinkat(fd, "") {
            Ok(target) => Ok(target.into_vec()),
            // A stand-in has its target as contents.
            Err(Errno::ENOENT | Errno::EINVAL) => {
                let file = self.open(layer, &found.path, OFlag::O_RDONLY | OFlag::O_NONBLOCK)?;
                let mut target = Vec::new();
                let limit = MAX_TARGET_BYTES.unsigned_abs();
                let read = File::from(file).take(limit).read_to_end(&mut target);
                read.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
                Ok(target)
            }
            Err(errno) => Err(errno),
        }
    }

    /// Opens a path of one layer in which no component is a link.
    fn open(&self, layer: usize, path: &[Vec<u8>], flags: OFlag) -> nix::Result<OwnedFd> {
        let root = self.roots.get(layer).ok_or(Errno::ENOENT)?;
        let root_flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = nix::fcntl::open(root, root_flags, nix::sys::stat::Mode::empty())?;
        if path.is_empty() {
            return nix::fcntl::openat(&root, ".", flags | OFlag::O_CLOEXEC, nix::sys::stat::Mode::empty());
        }
        let resolve =
            ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve);
        openat2(&root, path.join(&b'/').as_slice(), how)
    }
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

fn shown(path: &Path) -> String {
    Shown(path.as_os_str().as_bytes()).to_string()
}

fn failed(call: &'static str, path: &Path, source: Errno) -> ViewError {
    ViewError::Call { call, path: shown(path), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    /// Two layers and a canary beside them.
    fn stack() -> (tempfile::TempDir, Vec<PathBuf>) {
        let scratch = tempfile::tempdir().unwrap();
        let roots = vec![scratch.path().join("upper"), scratch.path().join("lower")];
        for root in &roots {
            fs::create_dir_all(root.join("etc")).unwrap();
        }
        fs::write(scratch.path().join("canary"), b"host").unwrap();
        (scratch, roots)
    }

    fn read(roots: &[PathBuf], path: &str) -> Option<String> {
        let contents = View::new(roots).read(path, 100).unwrap();
        contents.map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn upper_comes_first_and_whiteouts_and_opaque_directories_hide() {
        let (_scratch, roots) = stack();
        fs::write(roots[1].join("etc/passwd"), b"lower").unwrap();
        assert_eq!(read(&roots, "etc/passwd").as_deref(), Some("lower"));
        assert_eq!(read(&roots, "/etc/../etc/./passwd").as_deref(), Some("lower"));
        fs::write(roots[0].join("etc/passwd"), b"upper").unwrap();
        assert_eq!(read(&roots, "/etc/passwd").as_deref(), Some("upper"));
        fs::remove_file(roots[0].join("etc/passwd")).unwrap();
        let etc = File::open(roots[0].join("etc")).unwrap();
        whiteout::make(&etc, b"passwd").unwrap();
        assert_eq!(read(&roots, "etc/passwd"), None);
        fs::remove_file(roots[0].join("etc/passwd")).unwrap();
        whiteout::make_opaque(&etc).unwrap();
        assert_eq!(read(&roots, "etc/passwd"), None);
    }

    #[test]
    fn link_of_another_owner_in_single_id_mode_is_followed() {
        use std::os::unix::fs::PermissionsExt;
        let (_scratch, roots) = stack();
        fs::write(roots[1].join("etc/passwd"), b"lower").unwrap();
        let link = roots[0].join("etc/link");
        fs::write(&link, b"/etc/passwd").unwrap();
        fs::set_permissions(&link, fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(read(&roots, "etc/link").as_deref(), Some("/etc/passwd"));
        xattr::set(File::open(&link).unwrap().as_fd(), OVERRIDE_XATTR, b"7:7:0777:symlink").unwrap();
        assert_eq!(read(&roots, "etc/link").as_deref(), Some("lower"));
        let view = View::new(&roots);
        assert_eq!(view.read_link("etc/link").unwrap().as_deref(), Some(Path::new("/etc/passwd")));
        let metadata = view.metadata("etc/link", false).unwrap().unwrap();
        assert_eq!((metadata.mode, metadata.uid), (SFlag::S_IFLNK.bits() | 0o777, 7));
    }

    #[test]
    fn file_in_the_upper_layer_hides_a_directory_below_and_the_other_way_round() {
        let (_scratch, roots) = stack();
        fs::write(roots[0].join("a"), b"file").unwrap();
        fs::create_dir(roots[1].join("a")).unwrap();
        fs::write(roots[1].join("a/b"), b"hidden").unwrap();
        assert_eq!(read(&roots, "a/b"), None);
        fs::create_dir(roots[0].join("c")).unwrap();
        fs::write(roots[1].join("c"), b"hidden").unwrap();
        assert!(matches!(View::new(&roots).open_file("c"), Err(ViewError::NotAFile { .. })));
    }

    #[test]
    fn cve_2024_9676_links_out_of_the_image_lead_nowhere() {
        let (scratch, roots) = stack();
        symlink(scratch.path().join("canary"), roots[0].join("etc/passwd")).unwrap();
        symlink("../../../../canary", roots[0].join("etc/group")).unwrap();
        symlink(scratch.path(), roots[0].join("etc/dir")).unwrap();
        for path in ["etc/passwd", "etc/group", "etc/dir/canary", "../canary", "/../../canary"] {
            assert_eq!(read(&roots, path), None, "{path}");
        }
        assert_eq!(View::new(&roots).read_link("etc/group").unwrap(), Some(PathBuf::from("../../../../canary")));
    }

    #[test]
    fn links_mean_what_the_container_sees_across_layers() {
        let (_scratch, roots) = stack();
        symlink("/usr/lib/os-release", roots[0].join("etc/os-release")).unwrap();
        fs::create_dir_all(roots[1].join("usr/lib")).unwrap();
        symlink("../lib/./real", roots[1].join("usr/lib/os-release")).unwrap();
        fs::write(roots[1].join("usr/lib/real"), b"debian").unwrap();
        assert_eq!(read(&roots, "/etc/os-release").as_deref(), Some("debian"));
        let canonical = View::new(&roots).canonicalize("etc/os-release").unwrap();
        assert_eq!(canonical, Some(PathBuf::from("/usr/lib/real")));
        // The upper layer has a link where the lower one has the directory.
        symlink("/etc", roots[0].join("usr")).unwrap();
        assert_eq!(read(&roots, "usr/lib/real"), None);
    }

    #[test]
    fn pipes_devices_circles_and_huge_files_are_errors_and_never_wait() {
        let (_scratch, roots) = stack();
        nix::unistd::mkfifo(&roots[0].join("etc/passwd"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let view = View::new(&roots);
        assert!(matches!(view.open_file("etc/passwd"), Err(ViewError::NotAFile { .. })));
        assert!(matches!(view.open_file("etc"), Err(ViewError::NotAFile { .. })));
        symlink("b", roots[0].join("a")).unwrap();
        symlink("a", roots[0].join("b")).unwrap();
        assert!(matches!(view.open_file("a"), Err(ViewError::TooManyLinks { .. })));
        File::create(roots[1].join("etc/group")).unwrap().set_len(1 << 40).unwrap();
        assert!(matches!(view.read("etc/group", 8 << 20), Err(ViewError::TooLarge { .. })));
    }
}
