//! Two processes per test: the *reaper* and below it the *body*.
//!
//! ```text
//! runner ── reaper (child subreaper) ── body ── coracle …
//!              └── every process that the body's commands left behind
//! ```
//!
//! Whatever detaches itself from the body becomes a child of the reaper, is waited for like on a system with a real
//! init, and can be named and killed when the test is over: "nothing left behind" is read off the process tree.

use std::collections::BTreeMap;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};
use std::{fs, thread};

use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::framework::Test;
use super::home::Home;

/// How long processes may take to go after their test is over.
pub(crate) const GRACE: Duration = Duration::from_secs(5);

/// The reaper: starts the body, waits for everything, complains about what stays.
pub(crate) fn reap(name: &str) -> ExitCode {
    let prepared = prctl::set_child_subreaper(true).and_then(|()| prctl::set_pdeathsig(Signal::SIGKILL));
    if let Err(error) = prepared {
        eprintln!("reaper: prctl: {error}");
        return ExitCode::FAILURE;
    }
    let executable = std::env::current_exe().expect("this program has a path");
    let body = match Command::new(executable).args(["--body", name]).spawn() {
        Ok(child) => Pid::from_raw(child.id().cast_signed()),
        Err(error) => {
            eprintln!("reaper: cannot start the test: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut code = loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, code)) if pid == body => break u8::try_from(code).unwrap_or(1),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == body => {
                eprintln!("the test was killed by {signal}");
                break 1;
            }
            Ok(_) => {}
            Err(error) => {
                eprintln!("reaper: waitpid: {error}");
                break 1;
            }
        }
    };

    let deadline = Instant::now() + GRACE;
    loop {
        while matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(status) if status != WaitStatus::StillAlive) {}
        let left = descendants(std::process::id());
        if left.is_empty() {
            break;
        }
        if is_oracle() {
            kill_descendants(std::process::id());
            break;
        }
        if Instant::now() > deadline {
            eprintln!("left behind: {} processes", left.len());
            left.iter().for_each(|pid| eprintln!("  {pid} {}", command_line(*pid)));
            kill_descendants(std::process::id());
            code = 1;
            break;
        }
        thread::sleep(Duration::from_millis(10));
    }
    ExitCode::from(code)
}

/// Is the binary under test another tool (`CORACLE_TEST_ORACLE=1`, `CORACLE_BIN=podman`)? Then the tests are checked by
/// it, not it by the tests: what it leaves behind and how many lines an error has is its own affair.
pub(crate) fn is_oracle() -> bool {
    std::env::var_os("CORACLE_TEST_ORACLE").is_some()
}

/// The body: the test itself, then a look at the home it leaves.
pub(crate) fn body(test: &Test) -> ExitCode {
    if let Err(error) = prctl::set_pdeathsig(Signal::SIGKILL) {
        eprintln!("prctl: {error}");
    }
    let home = Home::from_env();
    if test.image {
        home.import_busybox();
    }
    (test.body)(&home);
    home.assert_nothing_left();
    ExitCode::SUCCESS
}

/// Kills everything below a process, until nothing new appears.
pub(crate) fn kill_descendants(root: u32) {
    for _ in 0..20 {
        let left = descendants(root);
        if left.is_empty() {
            return;
        }
        for pid in left {
            // A process of a subordinate id may not be killed by us; it goes with its supervisor.
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// The living processes below `root`, from the parents that /proc names. Zombies are not alive.
pub(crate) fn descendants(root: u32) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<(u32, bool)>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if let Some((state, parent)) = state_and_parent(pid) {
            children.entry(parent).or_default().push((pid, state != 'Z' && state != 'X'));
        }
    }
    let (mut found, mut next) = (Vec::new(), vec![root]);
    while let Some(pid) = next.pop() {
        for (child, alive) in children.remove(&pid).unwrap_or_default() {
            next.push(child);
            if alive {
                found.push(child);
            }
        }
    }
    found
}

/// Is there a process with this id that is not a zombie?
pub(crate) fn is_alive(pid: u32) -> bool {
    state_and_parent(pid).is_some_and(|(state, _)| state != 'Z' && state != 'X')
}

fn state_and_parent(pid: u32) -> Option<(char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut after_name = stat.rsplit_once(')')?.1.split_whitespace();
    let state = after_name.next()?.chars().next()?;
    Some((state, after_name.next()?.parse().ok()?))
}

/// The arguments of a process, for people.
pub(crate) fn command_line(pid: u32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let line = String::from_utf8_lossy(&bytes).replace('\0', " ");
    if line.is_empty() { fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default() } else { line }
}
