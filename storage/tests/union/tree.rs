//! Layers on disk, and whole trees to compare.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, SFlag, UtimensatFlags, mknod, utimensat};
use nix::sys::time::TimeSpec;
use storage::layer::IdPolicy;
use storage::layer::diff::{TreeForm, write_tree};
use storage::layer::staging::Staging;

use crate::driver::{Driver, Kind, Status, content};
use crate::scenario::{Item, Layer};
use crate::sys;

/// A layer on disk.
pub(crate) struct OnDisk {
    pub(crate) diff: PathBuf,
    pub(crate) index: Option<PathBuf>,
}

/// Makes the layer in `place`, under this number.
pub(crate) fn make_layer(layer: &Layer, place: &Path, number: usize) -> OnDisk {
    let root = place.join(format!("layer{number}"));
    fs::create_dir_all(&root).expect("the place is ours");
    for (at, (path, item)) in layer.entries.iter().enumerate() {
        // An entry that meets another one stays away; so scenarios can be cut anywhere.
        let _ = make_item(&root, path, item, number * 100 + at);
    }
    set_times(&root);
    if !layer.is_indexed {
        return OnDisk { diff: root, index: None };
    }
    let mut tar = Vec::new();
    let opened = File::open(&root).expect("it is ours");
    write_tree(opened.as_fd(), TreeForm::Overlay, &IdPolicy::identity(), &mut tar).expect("the layer can be written");
    let staging = Staging::new(place).expect("the place is ours");
    staging.unpack(tar.as_slice(), &IdPolicy::identity(), false).expect("the archive is our own");
    let name = format!("unpacked{number}");
    staging.publish(&name).expect("the place is ours");
    let unpacked = place.join(name);
    OnDisk { diff: unpacked.join("diff"), index: Some(unpacked.join("index")) }
}

fn make_item(root: &Path, path: &str, item: &Item, seed: usize) -> std::io::Result<()> {
    let path = root.join(path);
    match item {
        Item::File { size, mode, uid, has_xattr } => {
            File::create_new(&path).and_then(|_| fs::write(&path, content(seed, *size)))?;
            chown(&path, Some(*uid), Some(uid / 2))?;
            fs::set_permissions(&path, PermissionsExt::from_mode(*mode))?;
            if *has_xattr {
                sys::set_xattr(path.as_os_str(), "user.one", b"of the layer", 0)?;
            }
        }
        Item::Directory { mode, uid, is_opaque, has_xattr } => {
            fs::create_dir(&path)?;
            chown(&path, Some(*uid), Some(uid / 2))?;
            fs::set_permissions(&path, PermissionsExt::from_mode(*mode))?;
            if *is_opaque {
                sys::set_xattr(path.as_os_str(), "user.overlay.opaque", b"y", 0)?;
            }
            if *has_xattr {
                sys::set_xattr(path.as_os_str(), "user.two", b"of the layer", 0)?;
            }
        }
        Item::Symlink { target } => symlink(target, &path)?,
        Item::Link { from } => {
            if root.join(from).symlink_metadata()?.is_dir() {
                return Ok(());
            }
            fs::hard_link(root.join(from), &path)?;
        }
        Item::Fifo { mode } => {
            mknod(&path, SFlag::S_IFIFO, Mode::from_bits_truncate(*mode), 0)?;
            fs::set_permissions(&path, PermissionsExt::from_mode(*mode))?;
        }
        Item::Whiteout => mknod(&path, SFlag::S_IFCHR, Mode::empty(), 0)?,
    }
    Ok(())
}

/// Times of a layer lie long ago and differ from file to file.
fn set_times(path: &Path) {
    let mut number = 0;
    fn walk(path: &Path, number: &mut i64) {
        if path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir()) {
            let mut paths: Vec<_> =
                fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
            paths.sort();
            paths.iter().for_each(|path| walk(path, number));
        }
        *number += 1;
        let time = TimeSpec::new(500_000_000 + *number, 0);
        utimensat(nix::fcntl::AT_FDCWD, path, &time, &time, UtimensatFlags::NoFollowSymlink).expect("it is ours");
    }
    walk(path, &mut number);
}

/// Everything about one file that two drivers must agree on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    status: Status,
    /// Content, target, or nothing.
    data: String,
    xattrs: Vec<(String, String)>,
    /// The first path of the same file.
    same_as: String,
}

impl Node {
    /// Forgets which other names the file has.
    pub(crate) fn forget_links(&mut self) {
        self.same_as.clear();
        self.status.nlink = 0;
    }
}

impl Node {
    /// Of a kind that may have `user.` attributes.
    pub(crate) fn has_xattrs(&self) -> bool {
        matches!(self.status.kind, Kind::File | Kind::Directory)
    }

    /// Has the same other names as that one.
    pub(crate) fn take_names(&mut self, other: &Self, seen: u32) {
        self.same_as.clone_from(&other.same_as);
        if other.status.nlink == seen && self.status.nlink > 0 {
            self.status.nlink = seen;
        }
    }

    pub(crate) fn first_name(&self) -> &str {
        &self.same_as
    }
}

/// A tree by path; and each path's number.
pub(crate) struct Tree {
    pub(crate) nodes: BTreeMap<String, Node>,
    pub(crate) numbers: BTreeMap<String, u64>,
    /// What a listing said that `stat` did not.
    pub(crate) lies: Vec<String>,
}

pub(crate) fn read_tree(driver: &mut dyn Driver) -> Tree {
    let mut tree = Tree { nodes: BTreeMap::new(), numbers: BTreeMap::new(), lies: Vec::new() };
    let mut first = BTreeMap::new();
    walk(driver, "", &mut tree, &mut first);
    tree
}

fn walk(driver: &mut dyn Driver, dir: &str, tree: &mut Tree, first: &mut BTreeMap<u64, String>) {
    let mut entries = match driver.list(dir) {
        Ok(entries) => entries,
        Err(errno) => {
            tree.lies.push(format!("{dir}: cannot be listed: {errno}"));
            return;
        }
    };
    entries.sort();
    for (name, kind, number) in entries {
        let path = if dir.is_empty() { name } else { format!("{dir}/{name}") };
        if tree.nodes.contains_key(&path) {
            tree.lies.push(format!("{path}: listed twice"));
            continue;
        }
        let (status, own_number) = match (driver.status(&path), driver.number(&path)) {
            (Ok(status), Ok(number)) => (status, number),
            answers => {
                tree.lies.push(format!("{path}: listed, and not there: {answers:?}"));
                continue;
            }
        };
        if (kind, number) != (status.kind, own_number) {
            tree.lies.push(format!("{path}: listed as {kind:?} {number}, is {:?} {own_number}", status.kind));
        }
        let data = match status.kind {
            Kind::File => driver.read(&path, 0, usize::try_from(status.size).unwrap_or(0) + 1),
            Kind::Symlink => driver.read_link(&path),
            _ => Ok(Vec::new()),
        };
        let mut names = match status.kind {
            Kind::File | Kind::Directory => driver.xattr_names(&path).unwrap_or_else(|errno| vec![format!("{errno}")]),
            _ => Vec::new(),
        };
        names.sort();
        let value = |driver: &mut dyn Driver, name: &str| {
            driver.xattr(&path, name).map_or_else(|errno| format!("{errno}"), |value| value.escape_ascii().to_string())
        };
        let xattrs = names.into_iter().map(|name| (name.clone(), value(driver, &name))).collect();
        let data = data.map_or_else(|errno| format!("{errno}"), |data| summary(&data));
        let same_as = first.entry(own_number).or_insert_with(|| path.clone()).clone();
        tree.numbers.insert(path.clone(), own_number);
        let is_directory = status.kind == Kind::Directory;
        tree.nodes.insert(path.clone(), Node { status, data, xattrs, same_as });
        if is_directory {
            walk(driver, &path, tree, first);
        }
    }
}

/// Enough of some bytes to see that others differ.
pub(crate) fn summary(data: &[u8]) -> String {
    // FNV-1a
    let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = data.iter().fold(0xcbf2_9ce4_8422_2325, fold);
    format!("{}… {} bytes {hash:016x}", data[..data.len().min(24)].escape_ascii(), data.len())
}

/// How two trees differ, a line each.
pub(crate) fn differences(left: &Tree, right: &Tree) -> Vec<String> {
    let mut lines = Vec::new();
    for (path, node) in &left.nodes {
        match right.nodes.get(path) {
            Some(other) if node == other => {}
            Some(other) => lines.push(format!("{path}:\n    kernel {node:?}\n    ours   {other:?}")),
            None => lines.push(format!("{path}: only the kernel has it")),
        }
    }
    lines.extend(
        right
            .nodes
            .keys()
            .filter(|path| !left.nodes.contains_key(*path))
            .map(|path| format!("{path}: only we have it")),
    );
    lines
}
