//! One union and its layers, on a tmpfs of their own.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use storage::layer::IdPolicy;
use storage::layer::diff::{TreeForm, write_tree};
use storage::layer::staging::Staging;

use crate::support::command::binary;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Driver {
    Kernel,
    Ours,
    OursWithIndex,
}

impl Driver {
    /// As in `UNION_DRIVER`, which chooses some of them.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Ours => "ours",
            Self::OursWithIndex => "index",
        }
    }
}

/// Where a case plays.
pub(crate) struct Stage {
    pub(crate) driver: Driver,
    place: PathBuf,
    /// Bottom first: as they were made, and as they are mounted.
    layers: Vec<PathBuf>,
    mounted_layers: Vec<PathBuf>,
    /// Further mount options of ours.
    pub(crate) options: String,
    /// Most descriptors that the server may have.
    pub(crate) descriptors: Option<u64>,
    /// Without one the union is read-only.
    pub(crate) has_upper: bool,
    is_mounted: bool,
}

/// Makes this process's mounts its own.
pub(crate) fn prepare_namespace() {
    run(Command::new("mount").args(["--make-rprivate", "/"]));
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
}

static COUNTER: AtomicU32 = AtomicU32::new(0);

impl Stage {
    pub(crate) fn new(driver: Driver) -> Self {
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let place = PathBuf::from(std::env::var_os("TMPDIR").expect("the runner sets it")).join(format!("u{number}"));
        fs::create_dir_all(&place).expect("the place is ours");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", "mode=755", "tmpfs"]).arg(&place));
        // As short as can be: five hundred of these paths are one mount option.
        let stage = Self {
            driver,
            place,
            layers: Vec::new(),
            mounted_layers: Vec::new(),
            options: String::new(),
            descriptors: None,
            has_upper: true,
            is_mounted: false,
        };
        for name in ["upper", "work", "merged"] {
            fs::create_dir(stage.place.join(name)).expect("the place is ours");
        }
        stage
    }

    pub(crate) fn is_ours(&self) -> bool {
        self.driver != Driver::Kernel
    }

    /// A new topmost layer; fill it before the first mount.
    pub(crate) fn layer(&mut self) -> PathBuf {
        let layer = self.place.join(format!("l{}", self.layers.len()));
        fs::create_dir(&layer).expect("the place is ours");
        self.layers.push(layer.clone());
        layer
    }

    /// One layer of these files.
    pub(crate) fn files(&mut self, files: &[(&str, &str)]) -> PathBuf {
        let layer = self.layer();
        for (path, content) in files {
            write(&layer.join(path), content);
        }
        layer
    }

    pub(crate) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.place.join("merged").join(path)
    }

    pub(crate) fn upper(&self, path: impl AsRef<Path>) -> PathBuf {
        self.place.join("upper").join(path)
    }

    /// Beside the union, on the same tmpfs.
    pub(crate) fn outside(&self, path: impl AsRef<Path>) -> PathBuf {
        self.place.join(path)
    }

    /// A file system for upper and work that is this large.
    pub(crate) fn limit_upper(&mut self, size: &str) {
        let small = self.place.join("small");
        fs::create_dir(&small).expect("the place is ours");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &format!("mode=755,size={size}"), "tmpfs"]).arg(&small));
        for name in ["upper", "work"] {
            fs::remove_dir(self.place.join(name)).expect("it is empty");
            fs::create_dir(small.join(name)).expect("the place is ours");
            std::os::unix::fs::symlink(small.join(name), self.place.join(name)).expect("the place is ours");
        }
    }

    pub(crate) fn mount(&mut self) -> &mut Self {
        if self.mounted_layers.is_empty() {
            self.mounted_layers = match self.driver {
                Driver::OursWithIndex => (0..self.layers.len()).map(|number| self.unpack(number)).collect(),
                _ => self.layers.clone(),
            };
        }
        self.mount_with(self.driver);
        self
    }

    /// Mounts what was unmounted, by another driver.
    pub(crate) fn mount_with(&mut self, driver: Driver) {
        let place = self.place.display().to_string();
        let real = |name: &str| fs::canonicalize(self.place.join(name)).expect("it is there").display().to_string();
        let lowers: Vec<_> = self.mounted_layers.iter().rev().map(|layer| layer.display().to_string()).collect();
        let mut data = format!("lowerdir={}", lowers.join(":"));
        if self.has_upper {
            data += &format!(",upperdir={},workdir={}", real("upper"), real("work"));
        }
        let mut command = match driver {
            Driver::Kernel => {
                let mut command = Command::new("mount");
                command.args(["-t", "overlay", "overlay", "-o", &format!("userxattr,{data}")]);
                command
            }
            Driver::Ours | Driver::OursWithIndex => {
                let mut command = match self.descriptors {
                    // `ulimit -n`, also for the server, which is a child of this.
                    Some(count) => {
                        let mut command = Command::new("prlimit");
                        command.arg(format!("--nofile={count}:{count}")).arg(binary());
                        command
                    }
                    None => Command::new(binary()),
                };
                command.args(["fuse-overlayfs", "-o", &format!("{data}{}", self.options)]);
                command
            }
        };
        run(command.arg(format!("{place}/merged")));
        self.is_mounted = true;
    }

    /// Unmounts; what the server still had to do is done when this returns.
    pub(crate) fn unmount(&mut self) {
        let server = self.server();
        run(Command::new("umount").arg(self.path("")));
        self.is_mounted = false;
        wait_for_end(server);
    }

    pub(crate) fn mount_again(&mut self) {
        self.unmount();
        self.mount_with(self.driver);
    }

    /// After `kill -9`: takes the dead mount away.
    pub(crate) fn take_dead_mount_away(&mut self) {
        wait_for_end(self.server());
        run(Command::new("umount").arg("--lazy").arg(self.path("")));
        self.is_mounted = false;
    }

    /// The process that serves our mount.
    pub(crate) fn server(&self) -> Option<u32> {
        let path = self.place.join("merged");
        fs::read_dir("/proc").into_iter().flatten().flatten().find_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let line = fs::read(entry.path().join("cmdline")).ok()?;
            let is_it = line.split(|byte| *byte == 0).any(|word| word == path.as_os_str().as_encoded_bytes());
            (is_it && is_alive(pid)).then_some(pid)
        })
    }

    /// Unpacks a layer as coracle unpacks a pulled one.
    fn unpack(&self, number: usize) -> PathBuf {
        let root = File::open(&self.layers[number]).expect("it is ours");
        let mut tar = Vec::new();
        write_tree(root.as_fd(), TreeForm::Overlay, &IdPolicy::identity(), &mut tar).expect("the layer can be written");
        let staging = Staging::new(&self.place).expect("the place is ours");
        staging.unpack(tar.as_slice(), &IdPolicy::identity(), false).expect("the archive is our own");
        staging.publish(&format!("i{number}")).expect("the place is ours");
        self.place.join(format!("i{number}/diff"))
    }

    /// No file that an unfinished change has left in the work directory.
    pub(crate) fn assert_work_is_empty(&self) {
        let left = files_below(&self.place.join("work"));
        assert!(left.is_empty(), "left in the work directory: {left:?}");
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if self.is_mounted {
            let _ = Command::new("umount").arg("--lazy").arg(self.path("")).status();
        }
        for name in ["small", ""] {
            let _ = Command::new("umount").arg("--lazy").arg(self.place.join(name)).stderr(Stdio::null()).status();
        }
    }
}

fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

fn wait_for_end(server: Option<u32>) {
    for _ in 0..5_000 {
        if !server.is_some_and(is_alive) {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("the server does not end");
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            files.extend(files_below(&entry.path()));
        } else {
            files.push(entry.path());
        }
    }
    files
}

/// Runs a program that must succeed.
#[track_caller]
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{text}{errors}", output.status);
    text.into_owned()
}

/// A line for `sh`.
#[track_caller]
pub(crate) fn sh(line: &str) -> String {
    run(Command::new("sh").args(["-euc", line]))
}

/// A line for `sh` as an ordinary user of the namespace; true if it succeeds.
pub(crate) fn user_can(id: u32, line: &str) -> bool {
    let mut command = Command::new("sh");
    // `setpriv` has no say in a namespace that it cannot name; the ids alone are enough.
    command.args(["-euc", line]).gid(id).uid(id).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().expect("sh").success()
}

/// Writes a file, and its directories.
#[track_caller]
pub(crate) fn write(path: &Path, content: impl AsRef<[u8]>) {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).expect("a directory can be made");
    }
    fs::write(path, content).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
}

#[track_caller]
pub(crate) fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
    String::from_utf8(bytes).expect("the tests' contents are text")
}

/// Sorted names.
#[track_caller]
pub(crate) fn names(path: impl AsRef<Path>) -> Vec<String> {
    let path = path.as_ref();
    let entries = fs::read_dir(path).unwrap_or_else(|error| panic!("list {}: {error}", path.display()));
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("it can be listed").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[track_caller]
pub(crate) fn stat(path: impl AsRef<Path>) -> fs::Metadata {
    let path = path.as_ref();
    fs::symlink_metadata(path).unwrap_or_else(|error| panic!("stat {}: {error}", path.display()))
}

pub(crate) fn exists(path: impl AsRef<Path>) -> bool {
    fs::symlink_metadata(path).is_ok()
}

#[track_caller]
pub(crate) fn chmod(path: impl AsRef<Path>, mode: u32) {
    let path = path.as_ref();
    let result = fs::set_permissions(path, fs::Permissions::from_mode(mode));
    result.unwrap_or_else(|error| panic!("chmod {}: {error}", path.display()));
}

/// A whiteout as layers have it.
pub(crate) fn make_whiteout(path: &Path) {
    run(Command::new("mknod").arg(path).args(["c", "0", "0"]));
}

pub(crate) fn is_whiteout(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_char_device() && metadata.rdev() == 0)
}

/// The errno of what must fail.
#[track_caller]
pub(crate) fn errno<T>(result: std::io::Result<T>) -> i32 {
    match result {
        Ok(_) => panic!("it succeeded"),
        Err(error) => error.raw_os_error().unwrap_or_else(|| panic!("{error}")),
    }
}
