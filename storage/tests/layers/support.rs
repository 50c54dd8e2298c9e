//! Archives made by hand, and what became of them on disk.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use storage::layer::apply::{Applied, ApplyError, apply};
use storage::layer::ids::IdPolicy;
use storage::layer::index::{self, Index};
use storage::layer::tar::{Entry, EntryKind, Timestamp, Writer};

/// An archive in the making.
pub(crate) struct Archive {
    writer: Writer<Vec<u8>>,
}

pub(crate) fn entry(path: &str, kind: EntryKind) -> Entry {
    Entry {
        path: path.as_bytes().to_vec(),
        link: Vec::new(),
        kind,
        mode: if kind == EntryKind::Directory { 0o755 } else { 0o644 },
        uid: 0,
        gid: 0,
        size: 0,
        mtime: Timestamp { secs: 1_700_000_000, nanos: 0 },
        device: (0, 0),
        xattrs: Vec::new(),
        data_offset: 0,
        stored_bytes: 0,
        sparse: false,
    }
}

impl Archive {
    pub(crate) fn new() -> Self {
        Self { writer: Writer::new(Vec::new()) }
    }

    pub(crate) fn add(mut self, entry: &Entry, contents: &[u8]) -> Self {
        let entry = Entry { size: contents.len() as u64, ..entry.clone() };
        self.writer.append(&entry, contents).expect("write to memory");
        self
    }

    pub(crate) fn file(self, path: &str, contents: &[u8]) -> Self {
        self.add(&entry(path, EntryKind::File), contents)
    }

    pub(crate) fn dir(self, path: &str) -> Self {
        self.add(&entry(path, EntryKind::Directory), b"")
    }

    pub(crate) fn symlink(self, path: &str, target: &str) -> Self {
        self.add(&Entry { link: target.into(), ..entry(path, EntryKind::Symlink) }, b"")
    }

    pub(crate) fn hardlink(self, path: &str, target: &str) -> Self {
        self.add(&Entry { link: target.into(), ..entry(path, EntryKind::Hardlink) }, b"")
    }

    pub(crate) fn device(self, path: &str, device: (u32, u32)) -> Self {
        self.add(&Entry { device, ..entry(path, EntryKind::CharDevice) }, b"")
    }

    pub(crate) fn bytes(self) -> Vec<u8> {
        self.writer.finish().expect("write to memory")
    }
}

/// A scratch directory with a layer's `diff` and a canary that nothing may touch.
pub(crate) struct Scratch {
    dir: tempfile::TempDir,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        fs::create_dir(dir.path().join("diff")).expect("mkdir");
        fs::create_dir(dir.path().join("outside")).expect("mkdir");
        fs::write(dir.path().join("outside/canary"), b"alive").expect("write");
        fs::write(dir.path().join("canary"), b"alive").expect("write");
        Self { dir }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn diff(&self) -> PathBuf {
        self.dir.path().join("diff")
    }

    pub(crate) fn outside(&self) -> String {
        self.dir.path().join("outside").to_str().expect("UTF-8").to_owned()
    }

    pub(crate) fn apply_with(&self, tar: &[u8], ids: &IdPolicy) -> Result<(Applied, Index), ApplyError> {
        let dest = fs::File::open(self.diff()).expect("open");
        let mut writer = index::Writer::new();
        let result = apply(tar, dest.as_fd(), ids, &mut writer);
        self.assert_canaries();
        let applied = result?;
        let mut file = fs::File::create_new(self.path().join("index")).expect("create");
        writer.finish(&mut file).expect("write index");
        let index = Index::open(&self.path().join("index")).expect("open index");
        Ok((applied, index))
    }

    pub(crate) fn apply(&self, tar: &[u8]) -> Result<(Applied, Index), ApplyError> {
        self.apply_with(tar, &IdPolicy::Single)
    }

    /// Checks that nothing beside the layer's directory changed.
    pub(crate) fn assert_canaries(&self) {
        let names = |path: &Path| {
            let mut names: Vec<_> =
                fs::read_dir(path).expect("list").map(|entry| entry.expect("list").file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(names(&self.dir.path().join("outside")), ["canary"]);
        assert!(names(self.dir.path()).iter().all(|name| name == "canary" || name == "diff" || name == "outside"));
        for canary in ["canary", "outside/canary"] {
            let path = self.dir.path().join(canary);
            assert_eq!(fs::read(&path).expect("canary"), b"alive");
            let metadata = fs::symlink_metadata(&path).expect("canary");
            assert!(metadata.is_file() && metadata.nlink() == 1, "{metadata:?}");
        }
    }

    /// What is on disk, one line per name: `d`, `f contents`, `l target`, `p`, `w` (whiteout), `d opaque`.
    pub(crate) fn tree(&self) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        walk(&self.diff(), "", &mut found);
        found
    }
}

fn walk(dir: &Path, prefix: &str, found: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(dir).expect("list") {
        let entry = entry.expect("list");
        let path = entry.path();
        let name = format!("{prefix}{}", entry.file_name().as_bytes().escape_ascii());
        let metadata = fs::symlink_metadata(&path).expect("stat");
        let kind = metadata.file_type();
        let text = if kind.is_dir() {
            walk(&path, &format!("{name}/"), found);
            let opaque = storage::whiteout::is_opaque(fs::File::open(&path).expect("open")).expect("xattr");
            if opaque { "d opaque".to_owned() } else { "d".to_owned() }
        } else if kind.is_symlink() {
            format!("l {}", fs::read_link(&path).expect("readlink").as_os_str().as_bytes().escape_ascii())
        } else if kind.is_file() {
            let contents = fs::read(&path).expect("read");
            format!("f {}", contents[..contents.len().min(40)].escape_ascii())
        } else if kind.is_char_device() && metadata.rdev() == 0 {
            "w".to_owned()
        } else if kind.is_fifo() {
            "p".to_owned()
        } else {
            format!("? {kind:?}")
        };
        found.insert(name, text);
    }
}

/// The same as [`Scratch::tree`], as the index tells it (without the contents of files).
pub(crate) fn indexed(index: &Index) -> BTreeMap<String, String> {
    fn visit(record: index::Record<'_>, prefix: &str, found: &mut BTreeMap<String, String>) {
        for child in record.children() {
            let name = format!("{prefix}{}", child.name().escape_ascii());
            let text = match child.kind().expect("kind") {
                index::Kind::Directory if child.is_opaque() => "d opaque".to_owned(),
                index::Kind::Directory => "d".to_owned(),
                index::Kind::File => "f".to_owned(),
                index::Kind::Symlink => format!("l {}", child.target().escape_ascii()),
                index::Kind::Fifo => "p".to_owned(),
                index::Kind::Whiteout => "w".to_owned(),
            };
            visit(child, &format!("{name}/"), found);
            found.insert(name, text);
        }
    }
    let mut found = BTreeMap::new();
    visit(index.root(), "", &mut found);
    found
}

/// Asserts that the index and the disk tell the same.
pub(crate) fn assert_index_equals_disk(scratch: &Scratch, index: &Index) {
    let mut disk = scratch.tree();
    for text in disk.values_mut() {
        if text.starts_with('f') {
            text.truncate(1);
        }
    }
    assert_eq!(disk, indexed(index));
}
