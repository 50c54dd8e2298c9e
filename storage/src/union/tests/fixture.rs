//! Stacks of layers made from a few words.
//!
//! ```text
//! "d etc"            directory          "f etc/a text"    file            "l etc/b target"  symbolic link
//! "h etc/c etc/a"    hard link          "w etc/d"         whiteout        "o etc"           opaque directory
//! "p etc/pipe"       named pipe         "x etc/e"         whiteout as a file with an xattr
//! ".w etc/f"         whiteout as a tar names it
//! ```

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::layer::index::{Index, Writer};
use crate::layer::{IdMap, IdPolicy, IdRange, apply};
use crate::sys::xattr;
use crate::union::{Caller, Entry, FileKind, InodeNo, Lower, NewFile, Options, Owners, Union, UnionError, Upper};
use crate::whiteout;

pub(super) const ROOT: Caller = Caller { uid: 0, gid: 0 };

pub(super) fn new_file(mode: u32) -> NewFile {
    NewFile { owner: ROOT, mode, umask: 0o022 }
}

/// How the lower layers are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Indexed,
    Plain,
}

pub(super) const FORMS: [Form; 2] = [Form::Indexed, Form::Plain];

/// A scratch directory with layers in it.
pub(super) struct Scratch {
    pub(super) dir: tempfile::TempDir,
    lowers: Vec<(PathBuf, Form)>,
    has_upper: bool,
    pub(super) single: bool,
}

impl Scratch {
    /// Layers from the top.
    pub(super) fn new(form: Form, layers: &[&[&str]]) -> Self {
        let forms = vec![form; layers.len()];
        Self::mixed(&forms.into_iter().zip(layers.iter().copied()).collect::<Vec<_>>())
    }

    pub(super) fn mixed(layers: &[(Form, &[&str])]) -> Self {
        let dir = tempfile::tempdir_in(std::env::var_os("CORACLE_TEST_DIR").unwrap_or("/tmp".into())).unwrap();
        let mut lowers = Vec::new();
        for (at, (form, words)) in layers.iter().enumerate() {
            let path = dir.path().join(format!("layer{at}"));
            fs::create_dir_all(path.join("diff")).unwrap();
            match form {
                Form::Plain => words.iter().for_each(|word| put(&path.join("diff"), word)),
                Form::Indexed => pack(&path, words),
            }
            lowers.push((path, *form));
        }
        Self { dir, lowers, has_upper: false, single: false }
    }

    pub(super) fn with_upper(mut self, words: &[&str]) -> Self {
        fs::create_dir(self.upper()).unwrap();
        fs::create_dir(self.dir.path().join("work")).unwrap();
        words.iter().for_each(|word| put(&self.upper(), word));
        self.has_upper = true;
        self
    }

    pub(super) fn upper(&self) -> PathBuf {
        self.dir.path().join("upper")
    }

    pub(super) fn mount(&self) -> Mounted {
        Mounted { union: Union::open(self.options()).unwrap() }
    }

    /// The same layers under another upper.
    pub(super) fn mount_upper(&self, upper: &Path) -> Mounted {
        let work = upper.with_extension("work");
        fs::create_dir(&work).unwrap();
        let mut options = self.options();
        options.upper = Some(Upper { upper: open(upper), work: open(&work) });
        Mounted { union: Union::open(options).unwrap() }
    }

    pub(super) fn options(&self) -> Options {
        let lowers = self.lowers.iter().map(|(path, form)| Lower {
            dir: open(&path.join("diff")),
            index: (*form == Form::Indexed).then(|| Index::open(&path.join("index")).unwrap()),
        });
        let meta = fs::metadata(self.dir.path()).unwrap();
        let us = |id| vec![IdRange { from: 0, to: id, length: 1 }];
        let ids = if meta.uid() == 0 { IdMap::default() } else { IdMap::new(us(meta.uid()), us(meta.gid())) };
        Options {
            lowers: lowers.collect(),
            upper: self
                .has_upper
                .then(|| Upper { upper: open(&self.upper()), work: open(&self.dir.path().join("work")) }),
            owners: if self.single { Owners::Single } else { Owners::Mapped(ids.clone()) },
            // Numbers in an index are the container's own; files in a tree are ours.
            lower_ids: if self.lowers.iter().all(|(_, form)| *form == Form::Indexed) { IdMap::default() } else { ids },
            volatile: true,
            static_nlink: false,
            max_open_files: 64,
            copy_up_cap_bytes: 1 << 20,
        }
    }
}

/// A mount with names by paths.
pub(super) struct Mounted {
    pub(super) union: Union,
}

impl Mounted {
    pub(super) fn entry(&self, path: &str) -> Result<Entry, Errno> {
        let mut entry = Err(Errno::ENOENT);
        let mut at = InodeNo::ROOT;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let found = self.union.lookup(at, OsStr::new(name)).map_err(|error| error.errno)?;
            at = found.attributes.ino;
            entry = Ok(found);
        }
        match path {
            "" => self.union.attributes(at).map(|attributes| Entry { attributes, generation: 0 }).map_err(errno),
            _ => entry,
        }
    }

    pub(super) fn ino(&self, path: &str) -> InodeNo {
        self.entry(path).unwrap_or_else(|errno| panic!("{path}: {errno}")).attributes.ino
    }

    /// The directory and the name of a path.
    pub(super) fn split<'a>(&self, path: &'a str) -> (InodeNo, &'a OsStr) {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        (self.ino(dir), OsStr::new(name))
    }

    pub(super) fn text(&self, path: &str) -> Result<String, Errno> {
        let entry = self.entry(path)?;
        if entry.attributes.kind == FileKind::Symlink {
            let target = self.union.read_link(entry.attributes.ino).map_err(errno)?;
            return Ok(String::from_utf8(target).unwrap());
        }
        self.contents(entry.attributes.ino)
    }

    pub(super) fn contents(&self, ino: InodeNo) -> Result<String, Errno> {
        let mut buf = vec![0; 1 << 16];
        let len = self.union.read(ino, 0, &mut buf).map_err(errno)?;
        Ok(String::from_utf8(buf[..len].to_vec()).unwrap())
    }

    pub(super) fn list(&self, path: &str) -> Vec<String> {
        let names = self.list_numbers(self.ino(path));
        names.into_keys().collect()
    }

    /// Names with their numbers, read in small pieces.
    pub(super) fn list_numbers(&self, ino: InodeNo) -> BTreeMap<String, InodeNo> {
        let mut names = BTreeMap::new();
        let mut cookie = 0;
        loop {
            let mut room = 3;
            let before = names.len();
            self.union
                .read_directory(ino, cookie, &mut |entry| {
                    if room == 0 {
                        return false;
                    }
                    room -= 1;
                    cookie = entry.cookie;
                    let name = String::from_utf8_lossy(entry.name).into_owned();
                    assert!(names.insert(name.clone(), entry.ino).is_none(), "{name} is listed twice");
                    true
                })
                .unwrap();
            if names.len() == before {
                break;
            }
        }
        assert_eq!(names.remove("."), Some(ino));
        assert!(names.remove("..").is_some());
        names
    }

    /// Everything below a directory: path → kind, mode and contents; `stat`, listing and lookup must agree.
    pub(super) fn dump(&self) -> BTreeMap<String, String> {
        let mut all = BTreeMap::new();
        self.dump_below(InodeNo::ROOT, "", &mut all);
        all
    }

    /// The same with the count of names of what is no directory.
    pub(super) fn dump_with_links(&self) -> BTreeMap<String, String> {
        let with_links = |(path, text): (String, String)| {
            let attributes = self.entry(&path).unwrap().attributes;
            let (kind, rest) = text.split_once(' ').unwrap();
            let (mode, text) = rest.split_once(' ').unwrap();
            let nlink = if attributes.kind == FileKind::Directory { 0 } else { attributes.nlink };
            let mode = if attributes.kind == FileKind::Symlink { "777" } else { mode };
            (path, format!("{kind} {mode} {nlink} {text}"))
        };
        self.dump().into_iter().map(with_links).collect()
    }

    fn dump_below(&self, dir: InodeNo, path: &str, all: &mut BTreeMap<String, String>) {
        let mut subdirectories = 0;
        for (name, number) in self.list_numbers(dir) {
            let entry =
                self.union.lookup(dir, OsStr::new(&name)).unwrap_or_else(|error| panic!("{path}/{name}: {error}"));
            let attributes = entry.attributes;
            assert_eq!(attributes.ino, number, "number of {path}/{name}");
            let path = format!("{path}/{name}");
            let text = match attributes.kind {
                FileKind::File => self.contents(attributes.ino).unwrap_or_else(|errno| format!("{errno}")),
                FileKind::Symlink => String::from_utf8(self.union.read_link(attributes.ino).unwrap()).unwrap(),
                _ => String::new(),
            };
            all.insert(path.clone(), format!("{:?} {:o} {text}", attributes.kind, attributes.mode));
            if attributes.kind == FileKind::Directory {
                subdirectories += 1;
                self.dump_below(attributes.ino, &path, all);
            }
            self.union.forget(attributes.ino, 1);
        }
        assert_eq!(self.union.attributes(dir).unwrap().nlink, 2 + subdirectories, "count of names of {path}");
    }
}

pub(super) fn errno(error: UnionError) -> Errno {
    error.errno
}

fn open(path: &Path) -> OwnedFd {
    File::open(path).unwrap().into()
}

fn put(root: &Path, word: &str) {
    let mut words = word.splitn(3, ' ');
    let (what, path, rest) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap_or(""));
    let full = root.join(path);
    fs::create_dir_all(full.parent().unwrap()).unwrap();
    let parent = File::open(full.parent().unwrap()).unwrap();
    let name = full.file_name().unwrap();
    match what {
        "d" => fs::create_dir_all(&full).unwrap(),
        "f" => fs::write(&full, rest).unwrap(),
        "l" => symlink(rest, &full).unwrap(),
        "h" => fs::hard_link(root.join(rest), &full).unwrap(),
        "p" => nix::unistd::mkfifo(&full, nix::sys::stat::Mode::S_IRWXU).unwrap(),
        "w" => whiteout::make(&parent, name.as_bytes()).unwrap(),
        "x" => {
            fs::write(&full, "").unwrap();
            xattr::set(File::open(&full).unwrap().as_fd(), whiteout::WHITEOUT_XATTR, b"y").unwrap();
            if !whiteout::is_opaque(&parent).unwrap() {
                xattr::set(parent.as_fd(), whiteout::OPAQUE_XATTR, b"x").unwrap();
            }
        }
        ".w" => fs::write(full.with_file_name(format!(".wh.{}", name.to_str().unwrap())), "").unwrap(),
        "o" => {
            fs::create_dir_all(&full).unwrap();
            whiteout::make_opaque(File::open(&full).unwrap()).unwrap();
        }
        _ => panic!("{word}"),
    }
}

fn pack(path: &Path, words: &[&str]) {
    let mut tar = tar::Builder::new(Vec::new());
    for word in words {
        let mut parts = word.splitn(3, ' ');
        let (what, name, rest) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap_or(""));
        let mut header = tar::Header::new_gnu();
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000);
        header.set_mode(if what == "d" || what == "o" { 0o755 } else { 0o644 });
        header.set_size(0);
        let (dir, base) = name.rsplit_once('/').map_or(("", name), |(dir, base)| (dir, base));
        let special = |base: &str| if dir.is_empty() { base.to_owned() } else { format!("{dir}/{base}") };
        match what {
            "d" | "o" => {
                header.set_entry_type(tar::EntryType::Directory);
                tar.append_data(&mut header, name, &[][..]).unwrap();
                if what == "o" {
                    let mut header = tar::Header::new_gnu();
                    header.set_size(0);
                    tar.append_data(&mut header, format!("{name}/.wh..wh..opq"), &[][..]).unwrap();
                }
            }
            "f" => {
                header.set_size(rest.len() as u64);
                tar.append_data(&mut header, name, rest.as_bytes()).unwrap();
            }
            "l" => {
                header.set_entry_type(tar::EntryType::Symlink);
                tar.append_link(&mut header, name, rest).unwrap();
            }
            "h" => {
                header.set_entry_type(tar::EntryType::Link);
                tar.append_link(&mut header, name, rest).unwrap();
            }
            "p" => {
                header.set_entry_type(tar::EntryType::Fifo);
                tar.append_data(&mut header, name, &[][..]).unwrap();
            }
            "w" | "x" | ".w" => tar.append_data(&mut header, special(&format!(".wh.{base}")), &[][..]).unwrap(),
            _ => panic!("{word}"),
        }
    }
    let bytes = tar.into_inner().unwrap();
    let mut index = Writer::new();
    let diff = File::open(path.join("diff")).unwrap();
    apply::apply(bytes.as_slice(), diff.as_fd(), &IdPolicy::identity(), &mut index).unwrap();
    index.finish(&mut File::create(path.join("index")).unwrap()).unwrap();
}
