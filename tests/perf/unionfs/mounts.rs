//! The file systems that are compared, each mounted over the same layers with a fresh upper directory.

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::tree::World;

/// One of the columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Driver {
    /// No union at all: the merged tree in a directory.
    Plain,
    /// The kernel's overlay with `userxattr`.
    Native,
    /// The fuse-overlayfs to compare with.
    Peer,
    /// `coracle fuse-overlayfs` over layers with an index.
    Ours,
    /// The same over bare directories.
    OursWithoutIndex,
}

impl Driver {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Native => "native",
            Self::Peer => "fuse-ovl",
            Self::Ours | Self::OursWithoutIndex => "ours",
        }
    }

    pub(crate) fn is_fuse(self) -> bool {
        matches!(self, Self::Peer | Self::Ours | Self::OursWithoutIndex)
    }

    pub(crate) fn is_ours(self) -> bool {
        matches!(self, Self::Ours | Self::OursWithoutIndex)
    }

    /// The command that mounts, up to its options.
    fn command(self) -> Option<Vec<String>> {
        let words = |text: String| Some(text.split_whitespace().map(str::to_owned).collect());
        match self {
            Self::Plain | Self::Native => None,
            Self::Peer => words(std::env::var("FUSE_OVERLAYFS").unwrap_or("fuse-overlayfs".to_owned())),
            Self::Ours | Self::OursWithoutIndex => {
                let tool = std::env::var("CORACLE").unwrap_or(env!("CARGO_BIN_EXE_coracle").to_owned());
                Some(vec![tool, "fuse-overlayfs".to_owned()])
            }
        }
    }
}

/// The file systems this machine has.
pub(crate) fn available(with_index: bool) -> Vec<Driver> {
    let ours = if with_index { Driver::Ours } else { Driver::OursWithoutIndex };
    let is_there = |driver: &Driver| {
        let Some(command) = driver.command() else { return true };
        let found = Command::new(&command[0]).args(&command[1..]).arg("--version").output();
        let is_there = found.is_ok_and(|output| output.status.success());
        if !is_there {
            eprintln!("{}: cannot be run: {}", driver.name(), command.join(" "));
        }
        is_there
    };
    [Driver::Plain, Driver::Native, Driver::Peer, ours].into_iter().filter(is_there).collect()
}

/// Where everything is made: a directory on the file system that is asked for, or a tmpfs.
pub(crate) fn place(dir: Option<&Path>) -> PathBuf {
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .expect("mounts are ours");
    if let Some(dir) = dir {
        let place = dir.join(format!("unionfs.{}", Instant::now().elapsed().as_nanos()));
        fs::create_dir_all(&place).expect("the directory is writable");
        return place;
    }
    mount_tmpfs(Path::new("/tmp"));
    let place = PathBuf::from("/tmp/unionfs");
    fs::create_dir(&place).expect("the tmpfs is ours");
    place
}

fn mount_tmpfs(at: &Path) {
    mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some("mode=755,nr_inodes=2000000,size=90%"))
        .expect("a tmpfs can be mounted");
}

/// A mount for one measurement.
pub(crate) struct Mounted {
    driver: Driver,
    /// `lowerdir=…,upperdir=…,workdir=…`
    data: String,
    scratch: PathBuf,
    /// The root of the tree to work on.
    pub(crate) root: PathBuf,
    /// How long the last mount took until the first file could be seen.
    pub(crate) ready: Cell<Duration>,
}

impl Mounted {
    /// Mounts these layers, topmost first.
    pub(crate) fn new(world: &World, layers: &[PathBuf], driver: Driver) -> Self {
        let scratch = world.scratch();
        // With --dir the upper directories stay on that file system, new ones each time.
        if !world.is_on_disk {
            mount_tmpfs(&scratch);
        }
        if driver == Driver::Plain {
            return Self { driver, data: String::new(), scratch, root: world.plain.clone(), ready: Cell::default() };
        }
        let root = scratch.join("merged");
        for dir in [&scratch.join("upper"), &scratch.join("work"), &root] {
            fs::create_dir(dir).expect("the scratch directory is ours");
        }
        let lowers: Vec<_> = match driver {
            Driver::OursWithoutIndex => layers.iter().map(|layer| bare(layer)).collect(),
            _ => layers.iter().map(|layer| layer.join("diff").display().to_string()).collect(),
        };
        let data = format!("lowerdir={},upperdir={s}/upper,workdir={s}/work", lowers.join(":"), s = scratch.display());
        let mounted = Self { driver, data, scratch, root, ready: Cell::default() };
        mounted.mount();
        mounted
    }

    fn mount(&self) {
        let device = |path: &Path| fs::metadata(path).expect("the mount point is there").dev();
        let before = device(&self.root);
        let started = Instant::now();
        match self.driver.command() {
            None => {
                let data = format!("{},userxattr", self.data);
                mount(Some("overlay"), &self.root, Some("overlay"), MsFlags::empty(), Some(data.as_str()))
                    .expect("the kernel's overlay can be mounted");
            }
            Some(command) => {
                // Only a failure may speak: each mount of some says that it ignores an option.
                let messages = self.scratch.join("messages");
                let file = fs::File::create(&messages).expect("the scratch directory is ours");
                let mut mounting = Command::new(&command[0]);
                mounting.args(&command[1..]).arg("-o").arg(&self.data).arg(&self.root);
                let status = mounting.stdin(Stdio::null()).stderr(file).status();
                let text = fs::read_to_string(&messages).unwrap_or_default();
                assert!(status.is_ok_and(|status| status.success()), "{mounting:?}: {text}");
                while device(&self.root) == before {
                    std::thread::sleep(Duration::from_micros(50));
                }
            }
        }
        self.ready.set(started.elapsed());
    }

    /// Unmounts and mounts again: the next access finds no cache of the union, only of the layers below.
    pub(crate) fn mount_again(&mut self) {
        if self.driver != Driver::Plain {
            self.unmount();
            self.mount();
        }
    }

    fn unmount(&self) {
        let server = self.server();
        umount2(&self.root, MntFlags::empty()).expect("nothing uses the mount any more");
        // A server writes back or frees what it has before it goes; the next measurement shall not share the processor.
        while server.is_some_and(is_alive) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The process that serves this mount.
    pub(crate) fn server(&self) -> Option<u32> {
        let name = self.root.as_os_str().as_encoded_bytes();
        fs::read_dir("/proc").into_iter().flatten().flatten().find_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let line = fs::read(entry.path().join("cmdline")).ok()?;
            let is_it = line.split(|byte| *byte == 0).any(|word| word == name);
            (is_it && is_alive(pid)).then_some(pid)
        })
    }

    /// An empty directory in the union, new for every measurement.
    pub(crate) fn new_directory(&self, world: &World) -> PathBuf {
        let dir = self.root.join(format!("new{}", world.next_number()));
        fs::create_dir(&dir).expect("the union is writable");
        dir
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.driver != Driver::Plain {
            self.unmount();
        }
        // Fails where the scratch directory is no mount.
        let _ = umount2(&self.scratch, MntFlags::MNT_DETACH);
    }
}

fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// The layer's tree under a name that has no index beside it.
fn bare(layer: &Path) -> String {
    let bare = layer.with_extension("bare").join("tree");
    if !bare.exists() {
        fs::create_dir_all(&bare).expect("the layers are ours");
        mount(Some(&layer.join("diff")), &bare, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .expect("bind mounts are allowed");
    }
    bare.display().to_string()
}
