//! The rows: what is run on each file system, what its ratio must be, and what it should become.
//!
//! The figures are those of the project's budget: time of fuse-overlayfs 1.14 divided by ours, and ours by the kernel's.
//!
//! In some rows the servers have little or no say. Requests that they get in the measured run, counted as answers written
//! (`strace -f -e trace=write,writev` on the server):
//!
//! | row | ours | fuse-overlayfs 1.14 | what the time is |
//! | --- | --- | --- | --- |
//! | warm lstat, warm missing names | none | none | the same kernel caches for both: the ratio is 1.0 within noise |
//! | open+read storm | none | OPEN and RELEASE for each file | ours is the kernel's way to a cached page; what the ratio comes to depends on how long fuse-overlayfs takes for its two requests |
//! | exec | GETXATTR for each program | that and seven others | fork, page faults and exit; the one is `security.capability`, which `execve` asks every file system for and none can have remembered |
//! | python import, cold | 742: 265 LOOKUP, 246 READ, 162 IOCTL, 41 READDIR, 25 GETATTR | those and 386 more: OPEN, RELEASE, OPENDIR, RELEASEDIR | mostly python itself (see the plain directory), then waking: see below |
//!
//! The cold import of python is bound by the number of requests and by what it costs to wake somebody on another processor,
//! twice for each of them. The same 742 requests (`fuse-overlayfs -d` lists them) make it 22 ms longer than in a plain
//! directory if python and the server share one processor (`taskset 1`: 122 ms instead of 100), 14 of them the server's,
//! which copies 11.6 MB meanwhile; and 55 ms longer (155 ms, 25 of them the server's) if each has its own, where an idle
//! processor halts. Requests are what no answer of a server prevents:
//!
//! - 486 are LOOKUP of the compiled file, IOCTL and READ of all of it for each of 162 modules. Python never lists
//!   `__pycache__`, so that no READDIRPLUS brings its entries; `open()` asks each file whether it is a terminal. To push the
//!   contents into the kernel's cache before READ asks (`FUSE_NOTIFY_STORE`) is not safe: nothing orders that against a
//!   program that writes to the file, and what comes from the layer would replace what it wrote. Passthrough is for who
//!   administrates the machine.
//! - 59 are READs of the program itself, mostly 128 KiB: page faults read ahead no further, and only the administrator can
//!   raise that.
//! - 90 are what the import of a package asks before it lists it: five names, three of which are not there. The kernel takes
//!   no missing names in advance.
//! - 41 are READDIRs, two for each directory: the second one's answer is that there is no more.
//! - 25 are GETATTRs of what was just read for the first time: the kernel forgets the time of access, which `stat` asks for.
//!
//! What bounds the create storms, with the requests of one file (GETATTR of the directory, LOOKUP, MKNOD, GETXATTR, WRITE;
//! fuse-overlayfs has CREATE for MKNOD, and FLUSH and RELEASE besides): with clients and server on one processor
//! (`taskset 1`) 6,000 files take 172 ms, whether two clients make them or eight: 29 µs each, 17 of them the server's (five
//! reads, five writes, `openat`, two `fstat`, `pwrite`), 12 the client's. Two processors can take half of that, 86 ms, if
//! nothing goes from one to the other. Two clients come near it (126 to 154 ms) since each thread of the server stays on one
//! processor and serves the client there. Eight do not (190 to 240 ms): all requests lie in one queue, in which nothing tells
//! where the client is, so most answers wake somebody on the other processor. The same requests then take 210 ms of the
//! clients' time instead of 75, and 200 of the server's instead of 100, half of it in `finish_task_switch` and behind the wake-up in
//! `fuse_dev_do_write` (`perf record -e cpu-clock -g`). Queues for each processor are what FUSE over io_uring has (Linux
//! 6.14), which the administrator has to switch on (`enable_uring` of the module).
//!
//! All rows with requests depend on what it costs to wake a sleeping process: the same machine is several times slower for
//! either server when its second processor halts between two requests than when something else keeps it awake. Trust no
//! ratio whose two sides were not measured in turns.
//!
//! Where the kernel asks although it could know, for every server alike, which is why a new file takes five requests:
//!
//! - GETATTR of the directory: after each change in it the kernel forgets its mode too, and needs it to permit the next;
//! - LOOKUP: it asks for a name that it does not know before it makes it, CREATE or not;
//! - MKNOD: an answer to CREATE instead hands out an open file, which is one request more in the end (RELEASE);
//! - GETXATTR: `security.capability` before the first write to a file, which only direct I/O goes without (as an answer to
//!   CREATE, with nothing of what was written in the cache);
//! - WRITE: kept back by the kernel (`WRITEBACK_CACHE`) it is sent when the file is closed, with a SETATTR of the times.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::mounts::{Driver, Mounted};
use crate::tree::{Dice, World};

/// One row of times.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// Least fuse-overlayfs/ours, and what it should become.
    pub(crate) must: Option<f64>,
    pub(crate) goal: Option<f64>,
    /// Most ours/native, where there is one.
    pub(crate) native_goal: Option<f64>,
    /// A fresh mount between preparation and run.
    pub(crate) is_cold: bool,
    pub(crate) is_possible: fn(&World) -> bool,
    pub(crate) prepare: fn(&World, &Mounted),
    pub(crate) run: fn(&World, &Mounted),
    /// Undoes what the run did to the plain directory, which is the same in every round.
    pub(crate) restore: fn(&World, &Mounted),
}

/// One row of something else than time.
pub(crate) struct Limit {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) most: f64,
    pub(crate) measure: fn(&World, Driver) -> f64,
}

const CASE: Case = Case {
    name: "",
    must: None,
    goal: None,
    native_goal: None,
    is_cold: false,
    is_possible: |_| true,
    prepare: |_, _| {},
    run: |_, _| {},
    restore: |_, _| {},
};

const fn case(name: &'static str, must: f64, goal: f64, run: fn(&World, &Mounted)) -> Case {
    Case { name, must: Some(must), goal: Some(goal), run, ..CASE }
}

const fn cold(name: &'static str, must: f64, goal: f64, run: fn(&World, &Mounted)) -> Case {
    Case { is_cold: true, ..case(name, must, goal, run) }
}

/// Measured on the second run, with the goal against the kernel's overlay.
const fn warm(name: &'static str, must: f64, run: fn(&World, &Mounted)) -> Case {
    Case { name, must: Some(must), native_goal: Some(1.0), prepare: run, run, ..CASE }
}

pub(crate) const CASES: &[Case] = &[
    cold("cold find", 2.0, 4.0, find),
    cold("cold missing names", 2.0, 4.0, missing_names),
    Case {
        prepare: refresh_git_index,
        is_possible: |world| world.has_git,
        ..cold("cold git status", 1.4, 2.5, git_status)
    },
    warm("warm find", 1.5, find),
    warm("warm lstat", 1.2, lstat),
    warm("warm missing names", 1.3, missing_names),
    warm("warm tar", 2.9, tar),
    Case {
        must: None,
        goal: None,
        prepare: lstat,
        ..case("first open+read, 1 thread", 1.0, 1.0, |w, m| open_storm(w, m, 1))
    },
    Case {
        must: None,
        goal: None,
        prepare: lstat,
        ..case("first open+read, 8 threads", 1.0, 1.0, |w, m| open_storm(w, m, 8))
    },
    Case {
        prepare: |w, m| open_storm(w, m, 1),
        ..case("open+read storm, 1 thread", 1.9, 2.5, |w, m| open_storm(w, m, 1))
    },
    Case {
        prepare: |w, m| open_storm(w, m, 1),
        ..case("open+read storm, 8 threads", 4.4, 4.5, |w, m| open_storm(w, m, 8))
    },
    case("create storm, 1 thread", 1.8, 3.0, |world, mounted| create_storm(world, mounted, 1)),
    case("create storm, 2 threads", 5.2, 6.0, |world, mounted| create_storm(world, mounted, 2)),
    case("create storm, 8 threads", 2.8, 4.0, |world, mounted| create_storm(world, mounted, 8)),
    Case {
        restore: remove_new,
        ..case("untar", 1.2, 2.0, |world, mounted| untar(world, &mounted.root.join("untarred")))
    },
    Case {
        prepare: |world, mounted| untar(world, &mounted.root.join("untarred")),
        ..case("rm -rf", 2.0, 3.0, remove_new)
    },
    case("package replace", 2.2, 3.5, replace_package),
    case("append (copy-up)", 2.0, 3.0, append),
    Case { restore: make_removed_again, ..case("whiteouts", 3.2, 4.0, whiteouts) },
    Case { prepare: write_big, ..case("random write", 1.1, 1.9, random_write) },
    Case { prepare: |_, _| {}, ..case("sequential write", 1.0, 1.0, write_big) },
    cold("sequential read, cold", 1.0, 1.0, read_big),
    Case { prepare: |_, mounted| exec(mounted, 3), ..case("exec", 1.5, 1.9, |_, mounted| exec(mounted, 150)) },
    Case { is_possible: |world| world.python.is_some(), ..cold("python import, cold", 1.3, 1.5, python_import) },
];

pub(crate) const LIMITS: &[Limit] = &[
    Limit { name: "server RSS after find over 100 k", unit: "MiB", most: 40.0, measure: memory },
    Limit { name: "wake-ups in 2 s when idle", unit: "", most: 0.0, measure: wake_ups },
    Limit { name: "mount ready", unit: "ms", most: 3.0, measure: mount_ready },
];

fn run_program(command: &mut Command) {
    let status = command.stdin(Stdio::null()).status();
    assert!(status.as_ref().is_ok_and(std::process::ExitStatus::success), "{command:?}: {status:?}");
}

fn find(_: &World, mounted: &Mounted) {
    run_program(Command::new("find").arg(&mounted.root).stdout(Stdio::null()));
}

/// Five names in each directory, as searches along a path do.
fn missing_names(world: &World, mounted: &Mounted) {
    for dir in &world.directories {
        let dir = mounted.root.join(dir);
        for name in ["libc.so.5", "__init__.cpython-311-x86_64-linux-gnu.so", "__init__.so", "nsswitch.conf", "C.UTF-8"]
        {
            assert!(dir.join(name).symlink_metadata().is_err());
        }
    }
}

fn git(mounted: &Mounted) -> Command {
    let mut command = Command::new("git");
    command.arg("-C").arg(mounted.root.join("src/project")).args([
        "-c",
        "safe.directory=*",
        "-c",
        "core.untrackedCache=false",
        "status",
        "--porcelain",
    ]);
    command.env("HOME", "/nonexistent").stdout(Stdio::null());
    command
}

/// What the first `git status` after a checkout does: it writes down every file's stat, the inode numbers too.
fn refresh_git_index(_: &World, mounted: &Mounted) {
    run_program(&mut git(mounted));
}

fn git_status(_: &World, mounted: &Mounted) {
    run_program(git(mounted).env("GIT_OPTIONAL_LOCKS", "0"));
}

fn lstat(world: &World, mounted: &Mounted) {
    for (path, size) in &world.files {
        let metadata = mounted.root.join(path).symlink_metadata().expect("it is there");
        assert!(metadata.size() >= *size);
    }
}

fn tar(_: &World, mounted: &Mounted) {
    let mut child = Command::new("tar")
        .arg("-C")
        .arg(&mounted.root)
        .args(["-cf", "-", "usr", "src"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("tar");
    let mut output = child.stdout.take().expect("it is a pipe");
    let mut buffer = vec![0; 1 << 16];
    while output.read(&mut buffer).expect("tar") > 0 {}
    assert!(child.wait().is_ok_and(|status| status.success()));
}

fn each_thread(threads: usize, work: impl Fn(usize) + Sync) {
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let work = &work;
            scope.spawn(move || work(thread));
        }
    });
}

/// Opens, reads the start of, and closes 16,000 files in all.
fn open_storm(world: &World, mounted: &Mounted, threads: usize) {
    let (root, files) = (&mounted.root, &world.files);
    each_thread(threads, |thread| {
        let mut buffer = [0; 4096];
        for (path, _) in files.iter().skip(thread).step_by(threads).take(16_000 / threads) {
            let mut file = File::open(root.join(path)).expect("it is there");
            let read = file.read(&mut buffer).expect("it is readable");
            std::hint::black_box(read);
        }
    });
}

/// Creates 6,000 files of 2 KiB in all, each thread in a directory of its own.
fn create_storm(world: &World, mounted: &Mounted, threads: usize) {
    let top = mounted.new_directory(world);
    each_thread(threads, |thread| {
        let dir = top.join(format!("thread{thread}"));
        fs::create_dir(&dir).expect("the union is writable");
        for number in 0..6_000 / threads {
            fs::write(dir.join(format!("file{number}")), [b'x'; 2048]).expect("the union is writable");
        }
    });
}

fn untar(world: &World, to: &Path) {
    fs::create_dir(to).expect("the union is writable");
    run_program(Command::new("tar").arg("-C").arg(to).arg("-xf").arg(&world.archive));
}

fn remove_new(_: &World, mounted: &Mounted) {
    run_program(Command::new("rm").arg("-rf").arg(mounted.root.join("untarred")));
}

/// What dpkg does with each file: the new one beside the old, synced; a second name for the old one; renamed over it.
fn replace_package(world: &World, mounted: &Mounted) {
    for path in world.some_files(1_000) {
        let path = mounted.root.join(path);
        let with = |suffix: &str| PathBuf::from(format!("{}{suffix}", path.display()));
        let (new, old) = (with(".dpkg-new"), with(".dpkg-tmp"));
        let mut file = File::create_new(&new).expect("the union is writable");
        file.write_all(&[b'n'; 5_000]).expect("the union is writable");
        std::os::unix::fs::fchown(&file, Some(0), Some(0)).expect("we are root");
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644)).expect("it is ours");
        file.sync_all().expect("it can be synced");
        drop(file);
        fs::hard_link(&path, &old).expect("links can be made");
        fs::rename(&new, &path).expect("it is ours");
        fs::remove_file(&old).expect("it is ours");
    }
}

fn append(world: &World, mounted: &Mounted) {
    for path in world.some_files(1_500) {
        let mut file = OpenOptions::new().append(true).open(mounted.root.join(path)).expect("it is there");
        file.write_all(b"one more line\n").expect("the union is writable");
    }
}

fn whiteouts(world: &World, mounted: &Mounted) {
    for path in world.some_files(3_000) {
        fs::remove_file(mounted.root.join(path)).expect("it is there");
    }
}

fn make_removed_again(world: &World, mounted: &Mounted) {
    for (path, size) in &world.files {
        let path = mounted.root.join(path);
        if !path.exists() {
            fs::write(path, vec![b'x'; usize::try_from(*size).expect("it fits")]).expect("the plain tree is ours");
        }
    }
}

const BIG_MIB: usize = 64;

fn write_big(_: &World, mounted: &Mounted) {
    let mut file = File::create(mounted.root.join("big")).expect("the union is writable");
    let block = vec![b'b'; 1 << 20];
    for _ in 0..BIG_MIB {
        file.write_all(&block).expect("there is room");
    }
}

fn random_write(_: &World, mounted: &Mounted) {
    let file = OpenOptions::new().write(true).open(mounted.root.join("big")).expect("it is there");
    let mut dice = Dice::new(3);
    for _ in 0..12_000 {
        let at = dice.below(BIG_MIB << 8) * 4096;
        file.write_all_at(&[b'r'; 4096], at as u64).expect("it is ours");
    }
}

fn read_big(_: &World, mounted: &Mounted) {
    let mut buffer = vec![0; 1 << 20];
    for number in 0..4 {
        let mut file = File::open(mounted.root.join(format!("var/big{number}"))).expect("it is there");
        while file.read(&mut buffer).expect("it is readable") > 0 {}
    }
}

/// A shell in the tree that starts a program of the tree again and again, both with their libraries from there.
fn exec(mounted: &Mounted, times: usize) {
    let script = format!("i=0; while [ $i -lt {times} ]; do /usr/bin/true; i=$((i + 1)); done");
    run_program(Command::new("/usr/sbin/chroot").arg(&mounted.root).args(["/usr/bin/sh", "-c", &script]));
}

fn python_import(world: &World, mounted: &Mounted) {
    let Some(python) = &world.python else { return };
    let modules = "asyncio, argparse, concurrent.futures, decimal, email.mime.text, http.server, json, logging.config, \
                   multiprocessing, unittest, urllib.request, xml.etree.ElementTree, zipfile";
    let mut command = Command::new(mounted.root.join("usr/bin").join(python));
    command.args(["-s", "-S", "-c"]).arg(format!("import {modules}"));
    run_program(command.env("PYTHONHOME", mounted.root.join("usr")).env("PYTHONDONTWRITEBYTECODE", "1"));
}

fn status_field(pid: u32, thread: &str, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/task/{thread}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn memory(world: &World, driver: Driver) -> f64 {
    let mounted = Mounted::new(world, &world.many, driver);
    find(world, &mounted);
    let server = mounted.server().expect("it is served");
    status_field(server, &server.to_string(), "VmRSS") as f64 / 1024.0
}

fn wake_ups(world: &World, driver: Driver) -> f64 {
    let mounted = Mounted::new(world, &world.layers, driver);
    find(world, &mounted);
    let server = mounted.server().expect("it is served");
    let switches = || -> u64 {
        let threads = fs::read_dir(format!("/proc/{server}/task")).into_iter().flatten().flatten();
        let of = |thread: &str| status_field(server, thread, "voluntary_ctxt_switches");
        threads.map(|entry| of(&entry.file_name().to_string_lossy())).sum()
    };
    std::thread::sleep(Duration::from_secs(1));
    let before = switches();
    std::thread::sleep(Duration::from_secs(2));
    (switches() - before) as f64
}

fn mount_ready(world: &World, driver: Driver) -> f64 {
    let mut times: Vec<_> =
        (0..9).map(|_| Mounted::new(world, &world.layers, driver).ready.get().as_secs_f64() * 1000.0).collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
