//! Work that a signal ends at once, with all that it has started.
//!
//! ```text
//! command ── clone ──▶ child: fetches a context, makes and sends the image
//!    │ signal: kills it, and what becomes its own child by that, until nothing is left
//! ```
//! The network's leader stays: it may serve containers of others, and ends with the last of them.
//!
//! **Runs in:** the command, single-threaded.

use std::io::{Read, Write};
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::sys::signal::SigSet;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use runtime::monitor::event_loop::{Interest, Turn};
use runtime::process::signal::{Signal, SignalSource};
use runtime::process::{Forked, clone3, prctl, wait};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::inside::Answer;
use crate::error::CommandError;
use crate::supervisor::leader;

/// Those that end a build.
const ENDING: [Signal; 4] = [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM];

/// From now on these signals arrive on a descriptor, and what is left of a child that was killed becomes ours.
pub(super) fn listen() -> Result<SignalSource, CommandError> {
    let _ = prctl(libc::PR_SET_CHILD_SUBREAPER, 1);
    SignalSource::block(&ENDING).map_err(|errno| failed("signalfd", errno))
}

/// What a command comes to that a signal has ended.
pub(super) fn error(signal: Signal) -> CommandError {
    CommandError::printed(128 + signal.number() as u8)
}

/// Whether it is [`error`].
pub(crate) fn is_error(error: &CommandError) -> bool {
    error.is_printed() && ENDING.iter().any(|signal| error.code() == 128 + signal.number() as u8)
}

/// Runs `work` in a child, and gives what it returns.
///
/// # Errors
/// Those of `work`; [`error`] after a signal: then nothing that `work` has started runs any more.
pub(crate) fn ended_by_signals<T: Serialize + DeserializeOwned>(
    work: impl FnOnce() -> Result<T, CommandError>,
) -> Result<T, CommandError> {
    // The caller may go on to read from a terminal.
    let mask = SigSet::thread_get_mask().map_err(|errno| failed("sigprocmask", errno))?;
    let signals = listen()?;
    // What is not written yet would be twice.
    let _ = std::io::stdout().flush();
    let (mut reader, mut writer) = std::io::pipe().map_err(CommandError::host)?;
    let parent = nix::unistd::getpid();
    let pidfd = match clone3(0, None).map_err(|errno| failed("clone3", errno))? {
        Forked::Child => {
            let _ = prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64);
            if nix::unistd::getppid() != parent {
                std::process::exit(125);
            }
            drop(reader);
            let bytes = serde_json::to_vec(&Answer::of(work())).unwrap_or_default();
            std::process::exit(i32::from(writer.write_all(&bytes).is_err()))
        }
        Forked::Parent { pidfd, .. } => pidfd,
    };
    drop(writer);
    let mut bytes = Vec::new();
    let mut buffer = [0; 1 << 16];
    loop {
        let mut turn = Turn::new();
        turn.watch(signals.as_fd(), Interest::Read, true);
        turn.watch(reader.as_fd(), Interest::Read, false);
        let ready = match turn.wait(None) {
            Ok(ready) => ready,
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(failed("poll", errno)),
        };
        let (is_signal, is_answer) = ready.iter().fold((false, false), |(signal, answer), one| match one.event {
            true => (true, answer),
            false => (signal, true),
        });
        if is_signal && let Ok(Some(arrived)) = signals.next() {
            end_children();
            return Err(error(arrived.signal));
        }
        if is_answer {
            match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(len) => bytes.extend_from_slice(buffer.get(..len).unwrap_or_default()),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(CommandError::host(error)),
            }
        }
    }
    let _ = mask.thread_set_mask();
    let exit = wait(pidfd.as_fd(), true).map_err(|errno| failed("waitid", errno))?;
    match serde_json::from_slice::<Answer<T>>(&bytes) {
        Ok(answer) => answer.into_result(),
        Err(_) => {
            let status = exit.map_or(0, |exit| exit.code());
            Err(CommandError::host(format!("a process of the build ended with status {status}")))
        }
    }
}

fn failed(call: &str, errno: Errno) -> CommandError {
    CommandError::host(format!("{call}(): {}", errno.desc().to_lowercase()))
}

/// Kills all children and waits for them; theirs become ours, and follow.
pub(super) fn end_children() {
    while let Some(children) = children() {
        let mut is_over = true;
        for pid in children.into_iter().filter(|pid| !leader::is_leader(*pid)) {
            is_over = false;
            let pid = Pid::from_raw(pid);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            let _ = waitpid(pid, None);
        }
        if is_over {
            return;
        }
    }
    // A kernel that does not tell: the children of the dead die of themselves.
    while let Ok(_) | Err(Errno::EINTR) = nix::sys::wait::wait() {}
}

/// # Source
/// `proc_pid_task(5)`: `children` is right as long as nobody but us makes or loses any.
fn children() -> Option<Vec<i32>> {
    let text = std::fs::read_to_string(format!("/proc/self/task/{}/children", nix::unistd::getpid())).ok()?;
    Some(text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect())
}
