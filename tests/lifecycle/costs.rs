//! What a container costs in calls of the kernel: the guard of the speed that needs no quiet machine.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::thread;

use crate::support::home::set_mode;
use crate::support::needs::find_program;
use crate::support::prelude::*;
use crate::support::reaper::{command_line, descendants};
use crate::support::registry::run_program;

pub(crate) const TESTS: &[Test] = &[
    test!(run_executes_three_programs_besides_the_payload).needs(&[Need::Strace]).alone(),
    test!(default_network_adds_one_program).needs(&[Need::Strace, Need::Tun]).alone(),
    test!(nothing_is_synced_by_run_rm_exec_and_ps).needs(&[Need::Strace]).alone(),
    test!(run_writes_to_the_journal_of_events_twice).needs(&[Need::Strace]).alone(),
    test!(exec_starts_its_command_and_nothing_else).needs(&[Need::Strace]).alone(),
    test!(ps_and_version_start_nothing).needs(&[Need::Strace]).alone(),
    test!(idle_container_is_two_small_processes).alone(),
];

/// The calls that a command and everything it started made, one line each, only those that succeeded.
struct Calls(Vec<String>);

impl Calls {
    fn of(home: &Home, line: &str) -> Self {
        let log = home.tmp().join("strace.log");
        let path = format!("{}:/usr/bin:/bin:/usr/sbin:/sbin", id_helpers(home));
        // musl opens by `open`, where the machine has it.
        let traced = "?open,openat,execve,execveat,clone,clone3,fork,vfork,fsync,fdatasync,syncfs,sync";
        let under = format!("strace -f -qq -z -e trace={traced} -e signal=none -o {}", log.display());
        home.coracle(line).under(&under).env("PATH", path).limit_secs(60).run().ok();
        let text = fs::read_to_string(&log).expect("strace wrote it");
        Self(
            text.lines()
                .map(|line| line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ').to_owned())
                .collect(),
        )
    }

    fn count(&self, names: &[&str]) -> usize {
        let called = |line: &&String| names.iter().any(|name| line.starts_with(&format!("{name}(")));
        self.0.iter().filter(called).count()
    }

    #[track_caller]
    fn at_most(&self, limit: usize, names: &[&str]) {
        assert!(self.count(names) <= limit, "more than {limit} of {names:?}: {:#?}", self.0);
    }
}

const EXEC: &[&str] = &["execve", "execveat"];
const CLONE: &[&str] = &["clone", "clone3", "fork", "vfork"];
const SYNC: &[&str] = &["fsync", "fdatasync", "syncfs", "sync"];

/// A program that is traced by an ordinary user loses its setuid bit, so `newuidmap` cannot work under strace. In front
/// of the real ones stand two scripts (one exec each, like them) that have the work done by a thread out here.
fn id_helpers(home: &Home) -> String {
    let dir = home.tmp().join("helpers");
    fs::create_dir_all(&dir).expect("the test's own directory");
    for name in ["newuidmap", "newgidmap"] {
        let (ask, answer) = (dir.join(format!("{name}.ask")), dir.join(format!("{name}.answer")));
        let script =
            format!("#!/bin/sh\necho \"$*\" >{0}\nread -r code <{1}\nexit $code\n", ask.display(), answer.display());
        let file = dir.join(name);
        if file.exists() {
            continue;
        }
        fs::write(&file, script).expect("the test's own directory");
        set_mode(&file, 0o755);
        run_program(Command::new("mkfifo").arg(&ask).arg(&answer));
        let real = find_program(name).expect("containers need it");
        thread::spawn(move || {
            while let Ok(words) = fs::read_to_string(&ask) {
                let status = Command::new(&real).args(words.split_whitespace()).stdin(Stdio::null()).status();
                let code = status.ok().and_then(|status| status.code()).unwrap_or(1);
                let _ = fs::write(&answer, format!("{code}\n"));
            }
        });
    }
    dir.display().to_string()
}

/// A coracle that its user could overwrite is executed once more, through a read-only mount of itself: a container's root is
/// that user.
fn sealed_copy() -> usize {
    let owner = fs::metadata(crate::support::command::binary()).expect("it is being tested").uid();
    usize::from(owner == nix::unistd::geteuid().as_raw())
}

fn run_executes_three_programs_besides_the_payload(home: &Home) {
    let calls = Calls::of(home, "run --rm --network none busybox true");
    calls.at_most(4 + sealed_copy(), EXEC);
    calls.at_most(6, CLONE);
}

fn default_network_adds_one_program(home: &Home) {
    let calls = Calls::of(home, "run --rm busybox true");
    calls.at_most(5 + sealed_copy(), EXEC);
}

fn run_writes_to_the_journal_of_events_twice(home: &Home) {
    let calls = Calls::of(home, "run --rm --network none busybox true");
    let opened: Vec<_> = calls.0.iter().filter(|line| line.contains("/events\"")).collect();
    assert_eq!(opened.len(), 2, "{opened:?}");
}

fn nothing_is_synced_by_run_rm_exec_and_ps(home: &Home) {
    Calls::of(home, "run --rm --network none busybox true").at_most(0, SYNC);
    home.ok("run -d --name c busybox sleep 1000");
    Calls::of(home, "exec c true").at_most(0, SYNC);
    Calls::of(home, "ps -a").at_most(0, SYNC);
}

fn exec_starts_its_command_and_nothing_else(home: &Home) {
    home.ok("run -d --name c busybox sleep 1000");
    let calls = Calls::of(home, "exec c true");
    // Itself, perhaps once more from a sealed copy, and the command.
    calls.at_most(3, EXEC);
    calls.at_most(2, CLONE);
}

fn ps_and_version_start_nothing(home: &Home) {
    home.ok("run -d --name c busybox sleep 1000");
    for line in ["ps", "images", "inspect c", "--version"] {
        let calls = Calls::of(home, line);
        calls.at_most(1, EXEC);
        calls.at_most(0, CLONE);
    }
}

fn idle_container_is_two_small_processes(home: &Home) {
    home.coracle("run -d --name c --network none busybox sleep 1000").env("STORAGE_DRIVER", "").run().ok();
    home.wait_for_status("c", "running");
    // What detached itself is now a child of the process above this one.
    let below = descendants(std::os::unix::process::parent_id());
    let ours: Vec<_> = below.into_iter().filter(|pid| *pid != std::process::id()).collect();
    let lines: Vec<_> = ours.iter().map(|pid| command_line(*pid)).collect();
    assert_eq!(ours.len(), 2, "the supervisor and the payload: {lines:#?}");
    let private = |pid: &u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
        };
        field("RssAnon:") + field("RssShmem:")
    };
    let kib: u64 = ours.iter().map(private).sum();
    // A debug build has megabytes of relocated data alone.
    let is_debug = crate::support::command::binary().components().any(|part| part.as_os_str() == "debug");
    let limit = if is_debug { 4096 } else { 1024 };
    assert!(kib <= limit, "{kib} KiB of memory of its own: {lines:#?}");
}
