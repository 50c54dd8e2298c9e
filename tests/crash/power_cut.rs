//! Power cuts, by a model: what a command asked the kernel to write is recorded, and every prefix of it is made a directory
//! as a disk would have it that lost its power there. `system check` must find nothing wrong in any of them.
//!
//! ```text
//! strace → operations → names in their order, contents only of files that were synced → directory → system check
//! ```
//! The model: names (files made, renamed, removed) reach the disk in the order in which they were made, as on a journaling
//! file system, up to any of them. The contents of a file reach it when the file or its file system is synced after they were
//! written; before that the file is empty. What the model does not know is a failure, not a guess.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use crate::support::http::Server;
use crate::support::image::{Image, Layer, Packing};
use crate::support::layout::{Blobs, Schema};
use crate::support::prelude::*;

pub(crate) const TESTS: &[Test] =
    &[test!(every_prefix_of_the_writes_opens_clean).without_image().needs(&[Need::Strace]).limit_secs(300)];

/// Calls that change a file system, and those that would if the model knew them.
const CALLS: &str = "openat,openat2,creat,open,write,pwrite64,writev,pwritev,pwritev2,copy_file_range,sendfile,splice,\
    ftruncate,truncate,fallocate,fsync,fdatasync,syncfs,sync_file_range,rename,renameat,renameat2,link,linkat,symlink,\
    symlinkat,unlink,unlinkat,mkdir,mkdirat,rmdir,mknod,mknodat,chmod,fchmod,fchmodat,?fchmodat2,utimensat,setxattr,fsetxattr";

/// A file or a directory.
#[derive(Clone)]
struct Inode {
    is_directory: bool,
    mode: u32,
    modified_secs: Option<u64>,
    contents: Vec<u8>,
    /// What is on the disk.
    synced: Vec<u8>,
}

/// The disk below one directory.
#[derive(Clone, Default)]
struct Disk {
    names: BTreeMap<PathBuf, usize>,
    inodes: Vec<Inode>,
}

/// One finished call.
struct Call {
    name: String,
    arguments: Vec<String>,
}

/// What an argument says, unescaped: a string, or the file of a descriptor.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(hex) = rest.strip_prefix("\\x") {
        bytes.push(u8::from_str_radix(&hex[..2], 16).expect("two digits"));
        rest = &hex[2..];
    }
    assert!(rest.is_empty(), "strace wrote {text:?}");
    bytes
}

fn path_of(text: &str) -> PathBuf {
    PathBuf::from(std::ffi::OsString::from_vec(unescape(text)))
}

impl Call {
    /// The lines of strace, calls that other threads interrupted put together, those that failed left out.
    fn parse_all(log: &str) -> Vec<Self> {
        let mut begun: HashMap<&str, String> = HashMap::new();
        let mut calls = Vec::new();
        for line in log.lines() {
            let (pid, text) = line.split_once(' ').expect("strace begins a line with the thread");
            let text = text.trim_start();
            if let Some(first) = text.strip_suffix(" <unfinished ...>") {
                begun.insert(pid, first.to_owned());
                continue;
            }
            let whole = match text.strip_prefix("<... ") {
                None => text.to_owned(),
                Some(rest) => {
                    let rest = rest.split_once(" resumed>").expect("resumed").1;
                    begun.remove(pid).expect("it was begun") + rest
                }
            };
            let Some((call, result)) = whole.rsplit_once(" = ") else { continue };
            let Some((name, arguments)) = call.trim_end().strip_suffix(')').and_then(|call| call.split_once('('))
            else {
                continue;
            };
            if !result.starts_with('-') && !result.starts_with('?') {
                // Every string is written in hexadecimal, so that nothing in it looks like a comma.
                let arguments = arguments.split(", ").map(str::to_owned).collect();
                calls.push(Self { name: name.to_owned(), arguments });
            }
        }
        calls
    }

    /// The file of the descriptor that argument `at` is.
    fn descriptor(&self, at: usize) -> PathBuf {
        let argument = &self.arguments[at];
        let (_, path) = argument.split_once('<').unwrap_or(("", ""));
        let path = path.trim_end_matches("(deleted)").trim_end_matches('>');
        if path.starts_with("\\x") { path_of(path) } else { PathBuf::new() }
    }

    fn text(&self, at: usize) -> Vec<u8> {
        unescape(self.arguments[at].trim_matches('"'))
    }

    /// The path that argument `at` is, below the directory that the one before it is, if there is one.
    fn path(&self, at: usize, directory: Option<usize>) -> PathBuf {
        let path = path_of(self.arguments[at].trim_matches('"'));
        directory.map_or(PathBuf::new(), |at| self.descriptor(at)).join(path)
    }

    fn octal(&self, at: usize) -> u32 {
        u32::from_str_radix(self.arguments[at].trim_start_matches('0'), 8).unwrap_or(0)
    }
}

/// What an operation means for a cut right after it.
#[derive(PartialEq, Eq)]
enum Effect {
    /// The disk is another one.
    Disk,
    /// Nothing that a cut would show.
    None,
}

impl Disk {
    fn inode(&mut self, path: &Path) -> Option<&mut Inode> {
        let at = *self.names.get(path)?;
        self.inodes.get_mut(at)
    }

    fn make(&mut self, path: PathBuf, is_directory: bool, mode: u32) -> Effect {
        if self.names.contains_key(&path) {
            return Effect::None;
        }
        self.names.insert(path, self.inodes.len());
        let (contents, synced) = (Vec::new(), Vec::new());
        self.inodes.push(Inode { is_directory, mode, modified_secs: None, contents, synced });
        Effect::Disk
    }

    fn rename(&mut self, from: &Path, to: &Path) -> Effect {
        let moved: Vec<PathBuf> = self.names.keys().filter(|path| path.starts_with(from)).cloned().collect();
        assert!(!moved.is_empty(), "{} is not known", from.display());
        for path in moved {
            let inode = self.names.remove(&path).expect("it is one of them");
            let rest = path.strip_prefix(from).expect("it begins so");
            self.names.insert(if rest.as_os_str().is_empty() { to.to_owned() } else { to.join(rest) }, inode);
        }
        Effect::Disk
    }

    /// Takes a call over, if it is about something below `root`.
    fn apply(&mut self, root: &Path, call: &Call) -> Effect {
        let is_ours = |path: &Path| path.starts_with(root);
        match call.name.as_str() {
            // musl calls the first one.
            "open" | "openat" => {
                let directory = (call.name == "openat").then_some(0);
                let at = usize::from(directory.is_some());
                let (path, flags) = (call.path(at, directory), &call.arguments[at + 1]);
                match is_ours(&path) && flags.contains("O_CREAT") {
                    true => self.make(path, false, call.octal(at + 2)),
                    false => {
                        assert!(!is_ours(&path) || !flags.contains("O_TRUNC"), "{}", path.display());
                        Effect::None
                    }
                }
            }
            "openat2" => {
                assert!(!is_ours(&call.path(1, Some(0))) || !call.arguments[2].contains("O_CREAT"), "openat2");
                Effect::None
            }
            "mkdir" | "mkdirat" => {
                let directory = (call.name == "mkdirat").then_some(0);
                let at = usize::from(directory.is_some());
                let path = call.path(at, directory);
                if is_ours(&path) { self.make(path, true, call.octal(at + 1)) } else { Effect::None }
            }
            "write" | "pwrite64" => {
                let path = call.descriptor(0);
                let bytes = call.text(1);
                if let Some(inode) = self.inode(&path) {
                    let at = match call.name.as_str() {
                        "write" => inode.contents.len(),
                        _ => call.arguments[3].parse().expect("an offset"),
                    };
                    inode.contents.resize(inode.contents.len().max(at + bytes.len()), 0);
                    inode.contents[at..at + bytes.len()].copy_from_slice(&bytes);
                } else {
                    assert!(!is_ours(&path), "{} is not known", path.display());
                }
                Effect::None
            }
            "ftruncate" => {
                if let Some(inode) = self.inode(&call.descriptor(0)) {
                    inode.contents.resize(call.arguments[1].parse().expect("a length"), 0);
                }
                Effect::None
            }
            "fsync" | "fdatasync" => match self.inode(&call.descriptor(0)) {
                Some(inode) => {
                    inode.synced = inode.contents.clone();
                    Effect::Disk
                }
                None => Effect::None,
            },
            "syncfs" => {
                self.inodes.iter_mut().for_each(|inode| inode.synced = inode.contents.clone());
                Effect::Disk
            }
            "rename" | "renameat" | "renameat2" => {
                let is_at = call.name != "rename";
                let from = call.path(usize::from(is_at), is_at.then_some(0));
                let to = if is_at { call.path(3, Some(2)) } else { call.path(1, None) };
                if is_ours(&from) { self.rename(&from, &to) } else { Effect::None }
            }
            "unlink" | "unlinkat" | "rmdir" => {
                let is_at = call.name == "unlinkat";
                match self.names.remove(&call.path(usize::from(is_at), is_at.then_some(0))) {
                    Some(_) => Effect::Disk,
                    None => Effect::None,
                }
            }
            "linkat" => {
                let (from, to) = (call.path(1, Some(0)), call.path(3, Some(2)));
                match self.names.get(&from).copied().filter(|_| is_ours(&to)) {
                    Some(inode) => {
                        self.names.insert(to, inode);
                        Effect::Disk
                    }
                    None => Effect::None,
                }
            }
            "chmod" | "fchmod" | "fchmodat" => {
                let path = match call.name.as_str() {
                    "fchmod" => call.descriptor(0),
                    "chmod" => call.path(0, None),
                    _ => call.path(1, Some(0)),
                };
                let mode = call.octal(if call.name == "fchmodat" { 2 } else { 1 });
                self.inode(&path).into_iter().for_each(|inode| inode.mode = mode);
                Effect::None
            }
            "utimensat" => {
                let path = if call.arguments[1] == "NULL" { call.descriptor(0) } else { call.path(1, Some(0)) };
                let times = call.arguments.join(", ");
                let secs = times.rsplit_once("tv_sec=").and_then(|(_, rest)| rest.split(',').next()?.parse().ok());
                self.inode(&path).into_iter().for_each(|inode| inode.modified_secs = secs);
                Effect::None
            }
            other => {
                let touched = (0..call.arguments.len()).map(|at| call.descriptor(at)).any(|path| is_ours(&path));
                assert!(!touched, "the model does not know {other}");
                Effect::None
            }
        }
    }

    /// Makes the disk as it would be found.
    fn restore(&self, from: &Path, to: &Path) {
        let mut first: HashMap<usize, PathBuf> = HashMap::new();
        for (path, number) in &self.names {
            let (inode, path) = (&self.inodes[*number], to.join(path.strip_prefix(from).expect("it is below")));
            match (inode.is_directory, first.get(number)) {
                (true, _) => fs::create_dir_all(&path).unwrap(),
                (false, Some(other)) => fs::hard_link(other, &path).unwrap(),
                (false, None) => fs::write(&path, &inode.synced).unwrap(),
            }
            first.entry(*number).or_insert(path);
        }
        for (path, inode) in self.names.iter().rev() {
            let (inode, path) = (&self.inodes[*inode], to.join(path.strip_prefix(from).expect("it is below")));
            fs::set_permissions(&path, fs::Permissions::from_mode(inode.mode)).unwrap();
            if let Some(secs) = inode.modified_secs {
                fs::File::open(&path).unwrap().set_modified(UNIX_EPOCH + Duration::from_secs(secs)).unwrap();
            }
        }
    }
}

/// Runs a command and returns what it did to files. strace takes the rights from the helpers that map subordinate ids, so that
/// coracle is root of a user namespace with these ids already.
fn recorded(home: &Home, line: &str) -> Vec<Call> {
    let log = home.tmp().join("log");
    let ids = home.write("ids", "root:1:65535\n");
    let script = format!(
        "mount --bind {0} /etc/subuid && mount --bind {0} /etc/subgid && \
         exec strace -f -y -xx -s 100000000 -e trace={CALLS} -o {1} \"$@\"",
        ids.display(),
        log.display()
    );
    let under = format!("unshare --user --map-root-user --map-auto --mount sh -c '{script}' sh");
    home.coracle(line).under(&under).limit_secs(120).run().ok();
    Call::parse_all(&fs::read_to_string(log).unwrap())
}

fn every_prefix_of_the_writes_opens_clean(home: &Home) {
    let plain = |text: &str| {
        Image::scratch()
            .layer(Layer::new().dir("d").file("d/a", text.repeat(900)).file("empty", ""))
            .layer(Layer::new().file("c", text).hardlink("e", "c"))
    };
    let archive = home.write("image.tar", plain("loaded").docker_archive("localhost/loaded:1"));
    let mut blobs = Blobs::default();
    blobs.add("1", &plain("pulled"), Packing::Gzip, Schema::Oci);
    let server = Server::honest(blobs);
    let pulled = server.reference("1");
    let root = home.data();
    let mut disk = Disk::default();
    let mut cuts = 0;
    let commands = [
        format!("load -q -i {}", archive.display()),
        format!("pull -q --tls-verify=false {pulled}"),
        "tag loaded:1 other:1".to_owned(),
        "rmi other:1".to_owned(),
        "rmi loaded:1".to_owned(),
        "undo".to_owned(),
        "rmi loaded:1".to_owned(),
        "trash empty -f".to_owned(),
        "image prune -a -f --now".to_owned(),
    ];
    // What an earlier command has done for good is still there in every cut of the next ones.
    let mut kept: BTreeSet<&str> = BTreeSet::new();
    for (number, line) in commands.iter().enumerate() {
        if [4, 6].contains(&number) {
            kept.remove("loaded:1");
        }
        if number == 8 {
            kept.clear();
        }
        for call in recorded(home, line) {
            if disk.apply(&root, &call) == Effect::None {
                continue;
            }
            cuts += 1;
            let place = home.tmp().join("cut");
            fs::create_dir(&place).unwrap();
            disk.restore(&root, &place.join("coracle"));
            let checked = home.coracle("system check").env("XDG_DATA_HOME", &place).run();
            let about = || format!("power cut after {} of {line}: {:?}", call.name, call.arguments);
            assert!(checked.code() == 0, "{}\n{}", about(), checked.transcript());
            for image in &kept {
                let exists = home.coracle("image exists").arg(image).env("XDG_DATA_HOME", &place).run();
                assert_eq!(exists.code(), 0, "{image} is lost: {}", about());
            }
            if cuts % 16 == 0 {
                // It goes on from there.
                home.coracle(&commands[0]).env("XDG_DATA_HOME", &place).run().ok();
                let checked = home.coracle("system check").env("XDG_DATA_HOME", &place).run();
                assert!(checked.code() == 0, "{}\n{}", about(), checked.transcript());
            }
            home.coracle("unshare rm -rf").arg(&place).run().ok();
        }
        match number {
            0 | 5 => drop(kept.insert("loaded:1")),
            1 => drop(kept.insert(&pulled)),
            _ => {}
        }
    }
    eprintln!("{cuts} power cuts");
    assert!(cuts > 100, "{cuts} power cuts");
}
