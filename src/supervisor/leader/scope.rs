//! A scope of the leader's own, where it is the user's service manager that ends what a user leaves behind.
//!
//! ```text
//! command ── fork ──▶ intermediate ── fork ──▶ leader, in the cgroup of the command
//!    │◀─ pid of the leader ──┘
//!    └── fork, fork ──▶ mover ── StartTransientUnit(pid) ──▶ manager; then what the leader has started meanwhile
//! ```
//! What stays in the cgroup of a login session keeps the session open when the user has logged out: then the containers
//! would live on although lingering is off. And where a session is killed at logout, containers that may linger would lose
//! their networks.
//!
//! **Runs in:** role `Mover`, forked from the command, on the host; it ends within seconds. Nobody waits for it.

use std::fs;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use runtime::cgroup::Cgroup;
use runtime::cgroup::manager::{self, Scope};
use runtime::cgroup::place::Place;
use runtime::process::pidfd;
use runtime::process::spawn::{self, Servant};

/// So long is looked for what the leader starts besides.
const SETTLING: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(50);

/// Where the command learns who the leader is, and where it is told; none if the leader may stay where it is born.
pub(super) fn channel() -> Option<(PipeReader, PipeWriter)> {
    match Place::find() {
        Place::Manager { service: None, .. } => std::io::pipe().ok(),
        _ => None,
    }
}

/// Tells the command who the leader is.
pub(super) fn tell(mut channel: PipeWriter, leader: BorrowedFd<'_>) {
    if let Some(pid) = pidfd::host_pid(leader) {
        // A command that died has nothing moved.
        let _ = channel.write_all(&pid.to_ne_bytes());
    }
}

/// Has the leader moved into a scope, behind the command's back. A manager that refuses leaves it where it is.
pub(super) fn give(mut channel: PipeReader) {
    let mut pid = [0; 4];
    if channel.read_exact(&mut pid).is_err() {
        return;
    }
    let servant = Servant { name: c"coracle: scope", keep: &[], dies_with_parent: false };
    let between = spawn::servant(&servant, || {
        let mover = spawn::servant(&servant, || i32::from(move_there(i32::from_ne_bytes(pid)).is_none()));
        i32::from(mover.is_err())
    });
    if let Ok(between) = between {
        let _ = runtime::process::wait(between.as_fd(), true);
    }
}

fn move_there(leader: i32) -> Option<()> {
    let name = format!("coracle-network-{leader}.scope");
    let scope = Scope { name: &name, description: "Networks of containers", slice: None, of_slice: &[], pid: leader };
    manager::ask(&scope).ok()?.wait().ok()?;
    let own = Cgroup::of_process(leader)?;
    let until = Instant::now() + SETTLING;
    while Instant::now() < until {
        for child in children(leader)? {
            if Cgroup::of_process(child).is_some_and(|cgroup| cgroup != own) {
                manager::attach(&name, "/", child).ok()?;
            }
        }
        std::thread::sleep(PAUSE);
    }
    Some(())
}

/// The children of a process; none if it has ended.
///
/// # Source
/// `proc_pid_stat(5)`, field 4. `/proc/PID/task/TID/children` is not in every kernel.
fn children(parent: i32) -> Option<Vec<i32>> {
    fs::metadata(format!("/proc/{parent}")).ok()?;
    let parent_of = |directory: PathBuf| -> Option<i32> {
        let stat = fs::read_to_string(directory.join("stat")).ok()?;
        // Its name may have anything in it but ends with the last parenthesis.
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
    };
    let pids = fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Some(pids.filter(|pid| parent_of(format!("/proc/{pid}").into()) == Some(parent)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_are_found_and_nobody_elses() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id().cast_signed();
        assert!(children(std::process::id().cast_signed()).unwrap().contains(&pid));
        assert!(children(pid).unwrap().is_empty());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(children(pid), None);
    }
}
