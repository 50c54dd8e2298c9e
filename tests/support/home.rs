//! A home of its own for each test: HOME, runtime directory and temporary files below one short path (unix sockets have
//! room for 108 bytes), an environment built from nothing, and the claim that nothing is left at the end.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use super::command::{Coracle, Finished};
use super::reaper;

/// The place one test lives in.
pub(crate) struct Home {
    dir: PathBuf,
}

impl Home {
    /// The directory that the runner made for this test.
    pub(crate) fn from_env() -> Self {
        let dir = PathBuf::from(std::env::var_os("CORACLE_TEST_DIR").expect("the runner names a directory"));
        let home = Self { dir };
        for dir in [home.path(), home.runtime_dir(), home.tmp()] {
            fs::create_dir_all(&dir).expect("the runner's directory is ours");
        }
        set_mode(&home.runtime_dir(), 0o700);
        home
    }

    /// `$HOME`
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.join("h")
    }

    /// `$XDG_RUNTIME_DIR`
    pub(crate) fn runtime_dir(&self) -> PathBuf {
        self.dir.join("r")
    }

    /// `$TMPDIR`, also for the test's own files.
    pub(crate) fn tmp(&self) -> PathBuf {
        self.dir.join("t")
    }

    /// Where coracle keeps what outlives a reboot.
    pub(crate) fn data(&self) -> PathBuf {
        self.path().join(".local/share/coracle")
    }

    /// Writes a file below [`Home::tmp`] and returns its path.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.tmp().join(name);
        fs::create_dir_all(path.parent().expect("a file in tmp has a parent")).expect("tmp is ours");
        fs::write(&path, content).expect("tmp is ours");
        path
    }

    /// A command of coracle, its words split as a shell would (quotes and backslashes, no expansion).
    pub(crate) fn coracle(&self, line: &str) -> Coracle {
        Coracle::new(self, line)
    }

    /// Runs a command and returns how it ended.
    #[track_caller]
    pub(crate) fn run(&self, line: &str) -> Finished {
        self.coracle(line).run()
    }

    /// Runs a command that must succeed; returns what it wrote to stdout, without the last newline.
    #[track_caller]
    pub(crate) fn ok(&self, line: &str) -> String {
        self.run(line).ok()
    }

    /// Runs a command that must fail with this status and one clear line; returns that line.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32, line: &str) -> String {
        self.run(line).fails(code)
    }

    /// Runs a command that must be refused with one clear line. podman and docker do not agree on the status of what is
    /// noticed late (125 or 126), and neither do we care.
    #[track_caller]
    pub(crate) fn refuses(&self, line: &str) -> String {
        let finished = self.run(line);
        let code = finished.code();
        assert!([125, 126, 127].contains(&code), "{}", finished.transcript());
        finished.fails(code)
    }

    /// `coracle inspect --format`
    #[track_caller]
    pub(crate) fn inspect(&self, container: &str, format: &str) -> String {
        self.coracle("inspect --format").arg(format).arg(container).run().ok()
    }

    /// Waits until `inspect` shows this status.
    #[track_caller]
    pub(crate) fn wait_for_status(&self, container: &str, status: &str) {
        wait_until(&format!("{container} is {status}"), || {
            self.run(&format!("inspect --format {{{{.State.Status}}}} {container}")).stdout().trim() == status
        });
    }

    /// The image `localhost/busybox:latest`.
    pub(crate) fn import_busybox(&self) {
        let archive = super::image::busybox_archive().expect("the runner made it");
        self.coracle("import --change 'CMD [\"/bin/sh\"]'").arg(archive).arg("localhost/busybox").run().ok();
    }

    /// No container, no name, no file to unlink later, no mount: what every test must leave.
    #[track_caller]
    pub(crate) fn assert_nothing_left(&self) {
        if reaper::is_oracle() {
            self.run("rm --all --force --time 0");
            return;
        }
        if self.data().join("containers").is_dir() {
            self.coracle("rm --all --force --time 0").run().ok();
        }
        let left = || {
            let mut left = Vec::new();
            for name in ["containers", "names", "trash"] {
                // A lock file of the directory stays with it.
                left.extend(entries(&self.data().join(name)).into_iter().filter(|path| !path.ends_with(".lock")));
            }
            // Besides what belongs to no container, such as the lease files of networks.
            let runtime = entries(&self.runtime_dir().join("coracle"));
            left.extend(runtime.into_iter().filter(|path| is_container_id(path)));
            left.extend(self.mounts().into_iter().map(PathBuf::from));
            left
        };
        let deadline = Instant::now() + reaper::GRACE;
        while !left().is_empty() {
            assert!(Instant::now() < deadline, "left behind: {:#?}", left());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Mounts below this home that the host sees.
    pub(crate) fn mounts(&self) -> Vec<String> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let dir = self.dir.to_str().expect("the runner's paths are plain");
        mounts.lines().filter(|line| line.contains(dir)).map(str::to_owned).collect()
    }
}

/// The entries of a directory, none if it is not there.
pub(crate) fn entries(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn is_container_id(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// `chmod`
pub(crate) fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("the test's own file");
}

/// Looks again and again until it holds, for forty seconds.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(40);
    while !holds() {
        assert!(Instant::now() < deadline, "after forty seconds it still does not hold that {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until a process of this test has this command line.
#[track_caller]
pub(crate) fn wait_for_process(line: &str) {
    // What has detached itself is a child of the process above this one.
    wait_until(&format!("{line:?} runs"), || {
        reaper::descendants(std::os::unix::process::parent_id())
            .into_iter()
            .any(|pid| reaper::command_line(pid).trim_end() == line)
    });
}

/// Waits until a process that was just started is ready for a signal: blocks it or has a handler.
#[track_caller]
pub(crate) fn wait_for_handler(pid: u32, signal: nix::sys::signal::Signal) {
    wait_until(&format!("process {pid} expects {signal}"), || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let masks = status.lines().filter_map(|line| line.strip_prefix("SigBlk:").or(line.strip_prefix("SigCgt:")));
        let has =
            |mask: &str| u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask >> (signal as i32 - 1) & 1 == 1);
        masks.into_iter().any(has)
    });
}

/// Deletes a tree, also files of subordinate ids: those by way of a user namespace that maps them.
pub(crate) fn remove_tree(dir: &Path) {
    if fs::remove_dir_all(dir).is_ok() || !dir.exists() {
        return;
    }
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--map-auto", "rm", "-rf"]).arg(dir);
    let removed = command.stdin(Stdio::null()).stderr(Stdio::null()).status();
    if !removed.is_ok_and(|status| status.success()) {
        eprintln!("warning: cannot delete {}", dir.display());
    }
}
