//! Identical files of unpacked layers share their bytes, where the file system can share: btrfs, and XFS with `reflink=1`.
//!
//! ```text
//! indexes ─ files of the same length ─ of the same SHA-256 ─ FIDEDUPERANGE: the kernel compares and shares
//! ```
//! Every file stays a file of its own: number, owner, mode, times, attributes and link count are as they were, and a write
//! to one does not reach the others. That is why there are no hard links where bytes cannot be shared: two names of one file
//! are seen by a container (`st_ino`, `st_nlink`), by a tar of it, and have one owner and mode.
//!
//! **Runs in:** a process in the user namespace of the layers, for a file is shared by who may write it.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{Mode, SFlag, fstatat};
use serde::{Deserialize, Serialize};

use super::index::{Index, Kind, Record};
use crate::digest::{Algorithm, Digest, Hasher};
use crate::state::layout::{Layout, Ownership, is_lower_hex};
use crate::sys::clone::{MAX_DEDUPE_BYTES, dedupe_range};

/// Shorter files may lie in their inode, and share nothing.
const MIN_BYTES: u64 = 4096;

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deduplicated {
    /// How many files share their bytes with another one.
    pub files: u64,
    /// How many bytes these have.
    pub bytes: u64,
}

/// Why files do not share their bytes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DedupError {
    /// It is not made for that.
    #[error("the file system of {} ({kind}) cannot share bytes between files: btrfs can, and XFS with reflink=1", dir.display())]
    Unsupported {
        /// The layers.
        dir: PathBuf,
        /// Its kind.
        kind: String,
    },
    /// A layer cannot be read.
    #[error("{call} {}: {}", path.display(), crate::sys::reason(source))]
    Io {
        /// Which call.
        call: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A file of a layer.
struct Place {
    tree: usize,
    path: Vec<u8>,
}

/// Lets identical files share their bytes. The caller holds the store's pin. Done twice, it does the same again: what is
/// shared already is counted, too.
///
/// # Errors
/// [`DedupError`]; what has been shared until then stays shared.
pub fn dedup(layout: &Layout) -> Result<Deduplicated, DedupError> {
    let dir = layout.layers();
    let (mut trees, mut by_size): (Vec<OwnedFd>, HashMap<u64, Vec<Place>>) = (Vec::new(), HashMap::new());
    for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let is_layer = name.to_str().map(Ownership::hex_of).is_some_and(|hex| hex.len() >= 64 && is_lower_hex(hex));
        // Those of an additional store are not ours to write.
        if !is_layer || entry.path().is_symlink() {
            continue;
        }
        let path = entry.path().join("diff");
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let tree = openat(AT_FDCWD, &path, flags, Mode::empty()).map_err(failed("open", &path))?;
        match Index::open(&entry.path().join("index")) {
            Ok(index) => collect(&index, trees.len(), &mut by_size),
            // A layer that was built here has none.
            Err(_) => walk(&tree, trees.len(), &mut by_size).map_err(failed("read", &path))?,
        }
        trees.push(tree);
    }
    let mut done = Deduplicated::default();
    for (size, places) in by_size.into_iter().filter(|(_, places)| places.len() > 1) {
        let mut first: HashMap<Digest, File> = HashMap::new();
        for Place { tree, path } in places {
            let Some(file) = trees.get(tree).and_then(|tree| open_file(tree, &path)) else { continue };
            let shown = || dir.join(std::ffi::OsStr::from_bytes(&path));
            if file.metadata().map_or(0, |metadata| metadata.len()) != size {
                continue;
            }
            let (digest, _) = Hasher::of_reader(Algorithm::Sha256, &file).map_err(|source| DedupError::Io {
                call: "read",
                path: shown(),
                source,
            })?;
            let Some(source) = first.get(&digest) else {
                first.insert(digest, file);
                continue;
            };
            match share(source, &file, size) {
                Ok(true) => {
                    done.files += 1;
                    done.bytes += size;
                }
                // Somebody has changed it meanwhile, or may.
                Ok(false) | Err(Errno::EPERM | Errno::EACCES | Errno::ETXTBSY) => {}
                Err(Errno::EOPNOTSUPP | Errno::ENOTTY | Errno::EXDEV | Errno::EINVAL) => {
                    return Err(DedupError::Unsupported { kind: kind_of(&dir), dir });
                }
                Err(errno) => return Err(failed("dedupe", &shown())(errno)),
            }
        }
    }
    Ok(done)
}

fn failed(call: &'static str, path: &Path) -> impl FnOnce(Errno) -> DedupError {
    let path = path.to_owned();
    move |errno| DedupError::Io { call, path, source: errno.into() }
}

/// Notes the files of a layer, one of several names once.
fn collect(index: &Index, tree: usize, by_size: &mut HashMap<u64, Vec<Place>>) {
    let mut rest: Vec<(Vec<u8>, Record<'_>)> = vec![(Vec::new(), index.root())];
    let mut groups = std::collections::HashSet::new();
    while let Some((path, directory)) = rest.pop() {
        for record in directory.children() {
            let below = [path.as_slice(), if path.is_empty() { b"" } else { b"/" }, record.name()].concat();
            match record.kind() {
                Some(Kind::Directory) => rest.push((below, record)),
                Some(Kind::File)
                    if record.size() >= MIN_BYTES
                        && (record.link_group() == 0 || groups.insert(record.link_group())) =>
                {
                    by_size.entry(record.size()).or_default().push(Place { tree, path: below });
                }
                _ => {}
            }
        }
    }
}

/// As [`collect`], from the tree itself.
fn walk(tree: &OwnedFd, number: usize, by_size: &mut HashMap<u64, Vec<Place>>) -> nix::Result<()> {
    let mut rest: Vec<Vec<u8>> = vec![b".".to_vec()];
    let mut seen = std::collections::HashSet::new();
    while let Some(path) = rest.pop() {
        let how = OpenHow::new()
            .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
        let mut directory = Dir::from_fd(openat2(tree.as_fd(), std::ffi::OsStr::from_bytes(&path), how)?)?;
        let names: nix::Result<Vec<_>> = directory.iter().map(|entry| Ok(entry?.file_name().to_owned())).collect();
        for name in names?.into_iter().filter(|name| !matches!(name.to_bytes(), b"." | b"..")) {
            let stat = fstatat(&directory, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW)?;
            let below = [path.as_slice(), b"/", name.to_bytes()].concat();
            let size = u64::try_from(stat.st_size).unwrap_or(0);
            match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
                SFlag::S_IFDIR => rest.push(below),
                SFlag::S_IFREG if size >= MIN_BYTES && (stat.st_nlink == 1 || seen.insert(stat.st_ino)) => {
                    by_size.entry(size).or_default().push(Place { tree: number, path: below });
                }
                _ => {}
            }
        }
    }
    Ok(())
}

fn open_file(tree: &OwnedFd, path: &[u8]) -> Option<File> {
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    Some(File::from(openat2(tree.as_fd(), std::ffi::OsStr::from_bytes(path), how).ok()?))
}

/// Shares all of it; says whether the two are equal.
fn share(from: &File, to: &File, size: u64) -> nix::Result<bool> {
    let mut offset = 0;
    while offset < size {
        match dedupe_range(from.as_fd(), to.as_fd(), offset, (size - offset).min(MAX_DEDUPE_BYTES))? {
            0 => return Ok(false),
            shared => offset += shared,
        }
    }
    Ok(true)
}

/// The kind of a directory's file system, as `/proc/self/mountinfo` has it.
fn kind_of(dir: &Path) -> String {
    use std::os::unix::fs::MetadataExt as _;
    let device = fs::metadata(dir).map_or(0, |metadata| metadata.dev());
    let device = format!("{}:{}", nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let kind = mounts.lines().find(|line| line.split(' ').nth(2) == Some(&device));
    let kind = kind.and_then(|line| line.split_once(" - ")?.1.split(' ').next());
    kind.unwrap_or("unknown").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::DiffId;
    use crate::layer::IdPolicy;
    use crate::layer::staging::unpack_blob;
    use crate::layer::tar::{Entry, EntryKind, Timestamp, Writer};

    /// Layers with these files, in a directory of CORACLE_TEST_REFLINK_DIR, which a machine with btrfs or XFS can name.
    fn layers(dir: &Path, layers: &[&[(&str, &[u8])]]) -> (Layout, Vec<PathBuf>) {
        let layout = Layout::new(dir, dir.join("run"));
        fs::create_dir_all(layout.layers()).unwrap();
        let make = |files: &&[(&str, &[u8])]| {
            let mut tar = Writer::new(Vec::new());
            for (path, data) in *files {
                let entry = Entry {
                    path: (*path).into(),
                    link: Vec::new(),
                    kind: EntryKind::File,
                    mode: 0o644,
                    uid: 0,
                    gid: 0,
                    size: data.len() as u64,
                    mtime: Timestamp { secs: 1_700_000_000, nanos: 0 },
                    device: (0, 0),
                    xattrs: Vec::new(),
                    data_offset: 0,
                    stored_bytes: data.len() as u64,
                    sparse: false,
                };
                tar.append(&entry, *data).unwrap();
            }
            let tar = tar.finish().unwrap();
            let diff_id = DiffId::new(Digest::of(&tar));
            let (staging, _) = unpack_blob(&layout.layers(), tar.as_slice(), &diff_id, &IdPolicy::Single).unwrap();
            staging.publish(diff_id.hex()).unwrap();
            layout.layers().join(diff_id.hex()).join("diff")
        };
        let made = layers.iter().map(make).collect();
        (layout, made)
    }

    #[test]
    fn equal_files_share_their_bytes_where_the_file_system_can_and_stay_what_they_are() {
        use std::os::unix::fs::MetadataExt as _;
        let place = std::env::var_os("CORACLE_TEST_REFLINK_DIR").map(PathBuf::from);
        let dir = tempfile::tempdir_in(place.clone().unwrap_or_else(std::env::temp_dir)).unwrap();
        let large = vec![7; 20 << 20];
        let (layout, trees) = layers(
            dir.path(),
            &[&[("a", &large), ("small", b"x")], &[("b", &large), ("small2", b"x")], &[("c", &vec![8; 20 << 20])]],
        );
        let before: Vec<_> =
            trees.iter().map(|tree| fs::metadata(tree.join("b")).map(|found| found.mtime()).ok()).collect();
        match dedup(&layout) {
            Ok(done) => assert_eq!(done, Deduplicated { files: 1, bytes: large.len() as u64 }),
            Err(error @ DedupError::Unsupported { .. }) => {
                assert!(place.is_none(), "{error}");
                assert!(error.to_string().contains("cannot share"), "{error}");
            }
            Err(error) => panic!("{error}"),
        }
        let after: Vec<_> =
            trees.iter().map(|tree| fs::metadata(tree.join("b")).map(|found| found.mtime()).ok()).collect();
        assert_eq!(before, after);
        assert_eq!(fs::metadata(trees[1].join("b")).unwrap().nlink(), 1);
        // A write to one is not the other's.
        fs::write(trees[0].join("a"), "changed").unwrap();
        assert!(fs::read(trees[1].join("b")).unwrap() == large);
    }
}
