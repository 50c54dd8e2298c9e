//! Random changes, made to a union and to a plain directory: both must answer and look the same, and the union must look
//! the same when it is mounted again.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::fixture::{FORMS, Form, Mounted, ROOT, Scratch, errno, new_file};
use crate::sys::rename::rename_at;
use crate::union::{Changes, FileKind, InodeNo, RenameMode};

/// A generator good enough for tests.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }

    fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len() as u64) as usize]
    }

    fn path(&mut self) -> String {
        let names = ["a", "b", "c", "d"];
        let depth = 1 + self.below(3);
        (0..depth).map(|_| self.pick(&names)).collect::<Vec<_>>().join("/")
    }
}

#[derive(Debug)]
enum Op {
    Write(String, String),
    Truncate(String, u64),
    MakeDirectory(String),
    MakeSymlink(String),
    Link(String, String),
    Unlink(String),
    RemoveDirectory(String),
    Rename(String, String, u32),
    Mode(String, u32),
    Forget,
}

fn op(random: &mut Random) -> Op {
    match random.below(14) {
        0 | 1 => Op::Write(random.path(), format!("text {}", random.below(1000))),
        2 => Op::Truncate(random.path(), random.below(20)),
        3 | 4 => Op::MakeDirectory(random.path()),
        5 => Op::MakeSymlink(random.path()),
        6 => Op::Link(random.path(), random.path()),
        7 | 8 => Op::Unlink(random.path()),
        9 => Op::RemoveDirectory(random.path()),
        10 | 11 => {
            let flags = [0, 0, libc::RENAME_NOREPLACE, libc::RENAME_EXCHANGE];
            Op::Rename(random.path(), random.path(), flags[random.below(4) as usize])
        }
        12 => Op::Mode(random.path(), 0o700 + random.below(0o100) as u32),
        _ => Op::Forget,
    }
}

/// The plain directory.
struct Model(PathBuf);

impl Model {
    /// The path below the root, if all but its last component are directories.
    fn at(&self, path: &str) -> Result<PathBuf, Errno> {
        let mut at = self.0.clone();
        let mut names = path.split('/').peekable();
        while let Some(name) = names.next() {
            at.push(name);
            if names.peek().is_some() {
                let meta = fs::symlink_metadata(&at).map_err(io)?;
                if !meta.is_dir() {
                    return Err(Errno::ENOTDIR);
                }
            }
        }
        Ok(at)
    }

    fn apply(&self, op: &Op) -> Result<(), Errno> {
        let no_follow = |path: &Path, write: bool| {
            fs::OpenOptions::new().read(true).write(write).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)
        };
        match op {
            Op::Write(path, text) => {
                let at = self.at(path)?;
                match fs::symlink_metadata(&at) {
                    Ok(meta) if meta.is_dir() => return Err(Errno::EISDIR),
                    Ok(meta) if !meta.is_file() => return Err(Errno::EINVAL),
                    Ok(_) => {}
                    Err(_) => drop(File::create_new(&at).map_err(io)?),
                }
                fs::set_permissions(&at, fs::Permissions::from_mode(0o644)).map_err(io)?;
                fs::write(&at, text).map_err(io)
            }
            Op::Truncate(path, size) => {
                let at = self.at(path)?;
                let meta = fs::symlink_metadata(&at).map_err(io)?;
                match meta.is_file() {
                    _ if meta.is_dir() => Err(Errno::EISDIR),
                    false => Err(Errno::EINVAL),
                    true => no_follow(&at, true).map_err(io)?.set_len(*size).map_err(io),
                }
            }
            Op::MakeDirectory(path) => {
                fs::create_dir(self.at(path)?).map_err(io)?;
                fs::set_permissions(self.at(path)?, fs::Permissions::from_mode(0o755)).map_err(io)
            }
            Op::MakeSymlink(path) => symlink("target", self.at(path)?).map_err(io),
            Op::Link(from, to) => {
                let at = self.at(from)?;
                let is_directory = fs::symlink_metadata(&at).map_err(io)?.is_dir();
                let to = self.at(to)?;
                if is_directory { Err(Errno::EPERM) } else { fs::hard_link(at, to).map_err(io) }
            }
            Op::Unlink(path) => {
                let at = self.at(path)?;
                if fs::symlink_metadata(&at).map_err(io)?.is_dir() {
                    return Err(Errno::EISDIR);
                }
                fs::remove_file(at).map_err(io)
            }
            Op::RemoveDirectory(path) => fs::remove_dir(self.at(path)?).map_err(io),
            Op::Rename(from, to, flags) => {
                let (from, to) = (self.at(from)?, self.at(to)?);
                let root = File::open("/").unwrap();
                let bytes = |path: &Path| path.to_str().unwrap().as_bytes().to_vec();
                rename_at(
                    std::os::fd::AsFd::as_fd(&root),
                    bytes(&from).as_slice(),
                    std::os::fd::AsFd::as_fd(&root),
                    bytes(&to).as_slice(),
                    *flags,
                )
            }
            Op::Mode(path, mode) => {
                let at = self.at(path)?;
                let meta = fs::symlink_metadata(&at).map_err(io)?;
                if meta.file_type().is_symlink() {
                    return Err(Errno::EOPNOTSUPP);
                }
                fs::set_permissions(&at, fs::Permissions::from_mode(*mode)).map_err(io)
            }
            Op::Forget => Ok(()),
        }
    }

    fn dump(&self) -> BTreeMap<String, String> {
        let mut all = BTreeMap::new();
        dump_below(&self.0, "", &mut all);
        all
    }
}

fn dump_below(dir: &Path, path: &str, all: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let meta = entry.metadata().unwrap();
        let path = format!("{path}/{}", entry.file_name().to_str().unwrap());
        let (kind, text) = if meta.is_dir() {
            dump_below(&entry.path(), &path, all);
            (FileKind::Directory, String::new())
        } else if meta.is_symlink() {
            (FileKind::Symlink, fs::read_link(entry.path()).unwrap().to_str().unwrap().to_owned())
        } else {
            (FileKind::File, String::from_utf8(fs::read(entry.path()).unwrap()).unwrap())
        };
        let mode = if meta.is_symlink() { 0o777 } else { meta.mode() & 0o7777 };
        let nlink = if meta.is_dir() { 0 } else { meta.nlink() };
        all.insert(path, format!("{kind:?} {mode:o} {nlink} {text}"));
    }
}

fn io(error: std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap())
}

fn apply(mounted: &Mounted, op: &Op) -> Result<(), Errno> {
    let union = &mounted.union;
    let parent = |path: &str| -> Result<(InodeNo, String), Errno> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let entry = mounted.entry(dir)?;
        if entry.attributes.kind != FileKind::Directory {
            return Err(Errno::ENOTDIR);
        }
        Ok((entry.attributes.ino, name.to_owned()))
    };
    match op {
        Op::Write(path, text) => {
            let (dir, name) = parent(path)?;
            let ino = match union.lookup(dir, OsStr::new(&name)) {
                Ok(entry) => entry.attributes.ino,
                Err(error) if error.errno == Errno::ENOENT => {
                    let made = union.make_node(dir, OsStr::new(&name), new_file(0o666), FileKind::File, 0);
                    made.map_err(errno)?.attributes.ino
                }
                Err(error) => return Err(error.errno),
            };
            let changes = Changes { mode: Some(0o644), size: Some(0), ..Changes::default() };
            union.set_attributes(ino, &changes).map_err(errno)?;
            assert_eq!(union.write(ino, 0, text.as_bytes(), false).map_err(errno)?, text.len());
            Ok(())
        }
        Op::Truncate(path, size) => {
            let (dir, name) = parent(path)?;
            let entry = union.lookup(dir, OsStr::new(&name)).map_err(errno)?;
            let changes = Changes { size: Some(*size), ..Changes::default() };
            let after = union.set_attributes(entry.attributes.ino, &changes).map_err(errno)?;
            assert_eq!(after.size, *size);
            Ok(())
        }
        Op::MakeDirectory(path) => {
            let (dir, name) = parent(path)?;
            union.make_directory(dir, OsStr::new(&name), new_file(0o777)).map(drop).map_err(errno)
        }
        Op::MakeSymlink(path) => {
            let (dir, name) = parent(path)?;
            union.make_symlink(dir, OsStr::new(&name), OsStr::new("target"), ROOT).map(drop).map_err(errno)
        }
        Op::Link(from, to) => {
            let (dir, name) = parent(from)?;
            let entry = union.lookup(dir, OsStr::new(&name)).map_err(errno)?;
            let (dir, name) = parent(to)?;
            let linked = union.link(entry.attributes.ino, dir, OsStr::new(&name)).map_err(errno)?;
            assert_eq!(linked.attributes.ino, entry.attributes.ino);
            assert!(linked.attributes.nlink > 1);
            Ok(())
        }
        Op::Unlink(path) => {
            let (dir, name) = parent(path)?;
            union.unlink(dir, OsStr::new(&name)).map_err(errno)
        }
        Op::RemoveDirectory(path) => {
            let (dir, name) = parent(path)?;
            union.remove_directory(dir, OsStr::new(&name)).map_err(errno)
        }
        Op::Rename(from, to, flags) => {
            let ((dir, name), (to_dir, to_name)) = (parent(from)?, parent(to)?);
            let mode = RenameMode {
                no_replace: *flags == libc::RENAME_NOREPLACE,
                exchange: *flags == libc::RENAME_EXCHANGE,
                whiteout: false,
            };
            union.rename(dir, OsStr::new(&name), to_dir, OsStr::new(&to_name), mode).map_err(errno)
        }
        Op::Mode(path, mode) => {
            let (dir, name) = parent(path)?;
            let entry = union.lookup(dir, OsStr::new(&name)).map_err(errno)?;
            let changes = Changes { mode: Some(*mode), ..Changes::default() };
            union.set_attributes(entry.attributes.ino, &changes).map(drop).map_err(errno)
        }
        Op::Forget => Ok(()),
    }
}

/// Errors that depend on which of two reasons is looked at first.
fn is_same(ours: Result<(), Errno>, theirs: Result<(), Errno>) -> bool {
    match (ours, theirs) {
        (Err(ours), Err(theirs)) => {
            let vague = [
                Errno::EINVAL,
                Errno::ENOTEMPTY,
                Errno::EEXIST,
                Errno::EISDIR,
                Errno::ENOTDIR,
                Errno::ENOENT,
                Errno::EPERM,
            ];
            ours == theirs || vague.contains(&ours) && vague.contains(&theirs)
        }
        (ours, theirs) => ours == theirs,
    }
}

const LAYERS: [&[&str]; 3] = [
    &["f a/a top", "w a/b", "d b", "o b/c", "f b/c/d deep", "f c/a ca", "l d/a target", "f d/b x"],
    &["f a/a middle", "f a/b hidden", "f a/c mc", "d c/b", "f c/b/a cba", "f b/c/a hidden", "f b/a ba"],
    &["f a/d bottom", "d a/b", "f b/b bb", "d b/d", "f b/d/a bda", "f b/d/b bdb", "f c/b/b cbb", "f c/c cc", "d d"],
];

const LINKS: &[&str] = &["f a/d one", "h b/d a/d", "h c/d/a a/d", "f d/c two", "h d/d d/c"];

fn run(form: Form, layers: &[&[&str]], seed: u64, steps: u32) {
    let scratch = Scratch::new(form, layers).with_upper(&[]);
    let mut mounted = scratch.mount();
    let model = Model(scratch.dir.path().join("model"));
    fs::create_dir(&model.0).unwrap();
    copy_out(&mounted, &model.0);
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut done = Vec::new();
    for step in 0..steps {
        let op = op(&mut random);
        let (ours, theirs) = (apply(&mounted, &op), model.apply(&op));
        done.push(format!("{op:?} {ours:?}"));
        let about = || format!("{form:?} seed {seed} step {step}\n{}", done.join("\n"));
        assert!(is_same(ours, theirs), "{ours:?}, a directory says {theirs:?}: {}", about());
        if step % 16 == 15 {
            assert_eq!(mounted.dump_with_links(), model.dump(), "{}", about());
        }
        if matches!(op, Op::Forget) && step % 3 == 0 {
            drop(mounted);
            mounted = scratch.mount();
            assert_eq!(mounted.dump_with_links(), model.dump(), "mounted again: {}", about());
        }
    }
}

/// Makes a plain directory of what the union shows.
fn copy_out(mounted: &Mounted, to: &Path) {
    let mut links: BTreeMap<InodeNo, PathBuf> = BTreeMap::new();
    for path in mounted.dump().into_keys() {
        let at = to.join(&path[1..]);
        let attributes = mounted.entry(&path).unwrap().attributes;
        match attributes.kind {
            FileKind::Directory => fs::create_dir(&at).unwrap(),
            FileKind::Symlink => symlink(mounted.text(&path).unwrap(), &at).unwrap(),
            _ => match links.get(&attributes.ino) {
                Some(first) => fs::hard_link(first, &at).unwrap(),
                None => {
                    fs::write(&at, mounted.text(&path).unwrap()).unwrap();
                    links.insert(attributes.ino, at.clone());
                }
            },
        }
        if attributes.kind != FileKind::Symlink {
            fs::set_permissions(&at, fs::Permissions::from_mode(attributes.mode)).unwrap();
        }
    }
    let _ = File::open(to).unwrap().as_raw_fd();
}

#[test]
fn union_behaves_like_a_directory() {
    let seeds = std::env::var("CORACLE_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(40);
    for form in FORMS {
        for seed in 0..seeds {
            run(form, &LAYERS, seed, 120);
        }
    }
}

#[test]
fn union_behaves_like_a_directory_with_hard_links_in_an_indexed_layer() {
    let seeds = std::env::var("CORACLE_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(40);
    for seed in 0..seeds {
        run(Form::Indexed, &[LINKS, LAYERS[2]], seed, 120);
        run(Form::Indexed, &[LINKS], seed, 60);
    }
}
