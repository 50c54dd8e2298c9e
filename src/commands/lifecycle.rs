//! Signals to containers and waiting for their ends: what `stop`, `kill`, `wait`, `rm` and `restart` share.

use std::fs::File;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use runtime::monitor::attach::{Client, ClientError, Manners, Outcome as Attached, Request};
use runtime::process::signal::Signal;
use runtime::process::{pidfd, pidfd_open, pidfd_send_signal};
use storage::state::container::{self, Record};
use storage::state::layout::Layout;
use storage::state::status::{self, Init, Observed, State};

use super::Context;
use crate::error::CommandError;
use crate::supervisor::union_server;

/// Sends a signal to the first process of a container; `false` if it is gone.
pub(crate) fn signal(init: Init, signal: Signal) -> Result<bool, CommandError> {
    let sent = pidfd::open_checked(init.pid, init.start_time)
        .and_then(|process| pidfd_send_signal(process.as_fd(), signal.number()));
    match sent {
        Ok(()) => Ok(true),
        Err(Errno::ESRCH) => Ok(false),
        Err(errno) => Err(CommandError::host(format_args!("pidfd_send_signal({signal}): {}", errno.desc()))),
    }
}

/// A container that is being stopped.
#[derive(Debug)]
pub(crate) struct Stopping<'a> {
    record: &'a Record,
    init: Option<Init>,
    deadline: Option<Instant>,
    /// The first signal was SIGKILL.
    is_killed: bool,
}

/// Sends a container its stop signal; [`Stopping::finish`] waits. One that does not run is stopped already.
///
/// `timeout` is how long it may take, for ever if absent; zero kills at once.
pub(crate) fn begin_stop<'a>(
    context: &Context,
    record: &'a Record,
    timeout: Option<Duration>,
) -> Result<Stopping<'a>, CommandError> {
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let observed = match status::observe(&context.layout, record)? {
        observed if observed.state.is_alive() => request_end(context, record)?,
        observed => observed,
    };
    let Some(init) = observed.state.init() else {
        return Ok(Stopping { record, init: None, deadline, is_killed: false });
    };
    let first = match timeout {
        Some(Duration::ZERO) => Signal::KILL,
        // There is no program yet that could hear another one.
        _ if matches!(observed.state, State::Starting { .. }) => Signal::KILL,
        _ => stop_signal(record)?,
    };
    let alive = signal(init, first)?;
    wake(context, record, &observed);
    Ok(Stopping { record, init: alive.then_some(init), deadline, is_killed: first == Signal::KILL })
}

/// Tells the supervisor of a container that there shall be no other run, and looks what there is of this one after that.
pub(crate) fn request_end(context: &Context, record: &Record) -> Result<Observed, CommandError> {
    status::request_stop(&context.layout, &record.id)?;
    // A supervisor that has not seen it yet has written its new run into the state by now, if it began one.
    let observed = status::observe(&context.layout, record)?;
    if let State::Restarting { .. } = observed.state
        && let Some(supervisor) = observed.supervisor.and_then(|pid| pidfd_open(pid).ok())
    {
        // It sleeps.
        let _ = pidfd_send_signal(supervisor.as_fd(), Signal::TERM.number());
    }
    Ok(observed)
}

/// Lets a container that was paused hear a signal that it has been sent. One that has ended meanwhile needs none.
pub(crate) fn wake(context: &Context, record: &Record, observed: &Observed) {
    if let State::Paused { .. } = observed.state {
        let _ = super::pause::unpause(context, record);
    }
}

/// The signal that asks a container to end.
pub(crate) fn stop_signal(record: &Record) -> Result<Signal, CommandError> {
    match record.request.stop_signal.as_deref() {
        Some(name) => name.parse().map_err(CommandError::user),
        None => Ok(Signal::TERM),
    }
}

impl Stopping<'_> {
    /// Waits until the container has ended, and kills it when its time is up.
    pub(crate) fn finish(self, context: &Context) -> Result<(), CommandError> {
        let mut init = self.init;
        loop {
            if self.is_killed
                && let Some(init) = init
            {
                wait_for_killed(context, self.record, init)?;
            } else if let Some(init) = init
                && !wait_for_process(init, self.deadline)?
            {
                signal(init, Signal::KILL)?;
                wait_for_killed(context, self.record, init)?;
            }
            if init.is_some() {
                context.note(self.record, "stop");
            }
            // The process is gone; a moment later its supervisor has written how it ended.
            wait(context, self.record, Until::Stopped)?;
            // Unless its policy gave it another run in the moment of the request. One that was started by somebody else
            // meanwhile knows nothing of ours.
            if !status::is_stop_requested(&context.layout, &self.record.id) {
                return Ok(());
            }
            let observed = status::observe(&context.layout, self.record)?;
            if !observed.state.is_alive() {
                return Ok(());
            }
            init = observed.state.init();
            if let (Some(init), true) = (init, self.is_killed) {
                signal(init, Signal::KILL)?;
            }
        }
    }
}

/// Waits for the end of a first process that was sent SIGKILL.
///
/// What waits for the answer of a union server cannot be killed: a server that is stopped, or hangs, is ended first.
pub(crate) fn wait_for_killed(context: &Context, record: &Record, init: Init) -> Result<(), CommandError> {
    if wait_for_process(init, Some(Instant::now() + union_server::UNANSWERED))? {
        return Ok(());
    }
    if let Some(supervisor) = status::observe(&context.layout, record)?.supervisor {
        end_union_server(supervisor);
    }
    wait_for_process(init, None).map(drop)
}

/// Whether a container's files may be answered for by a process.
pub(crate) fn has_union_server(record: &Record) -> bool {
    record.driver.contains("fuse")
}

/// Kills the union server among the children of a supervisor.
fn end_union_server(supervisor: i32) {
    let is_it = |pid: i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // `pid (name) state parent …`; the name may have anything in it.
        let Some((head, rest)) = stat.rsplit_once(") ") else { return false };
        let name = head.split_once(" (").map_or("", |(_, name)| name);
        let parent = rest.split(' ').nth(1).and_then(|parent| parent.parse().ok());
        name.as_bytes() == union_server::NAME.to_bytes() && parent == Some(supervisor)
    };
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()) {
        // Looked at again with the descriptor in hand: by then the number may be somebody else's.
        if is_it(pid)
            && let Ok(process) = pidfd_open(pid)
            && is_it(pid)
        {
            // One that is gone needs no signal.
            let _ = pidfd_send_signal(process.as_fd(), Signal::KILL.number());
        }
    }
}

/// Waits for the end of a process; `false` if it outlives the deadline.
fn wait_for_process(init: Init, deadline: Option<Instant>) -> Result<bool, CommandError> {
    let process = match pidfd::open_checked(init.pid, init.start_time) {
        Ok(process) => process,
        Err(Errno::ESRCH) => return Ok(true),
        Err(errno) => return Err(CommandError::host(format_args!("pidfd_open: {}", errno.desc()))),
    };
    loop {
        let timeout = match deadline {
            // Rounded up: a poll that ends too early would only be repeated.
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now()).as_millis().saturating_add(1);
                PollTimeout::try_from(left.min(i32::MAX as u128) as i32).unwrap_or(PollTimeout::MAX)
            }
            None => PollTimeout::NONE,
        };
        let mut fds = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(0) if deadline.is_some_and(|deadline| deadline <= Instant::now()) => return Ok(false),
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(errno) => return Err(CommandError::host(format_args!("poll: {}", errno.desc()))),
        }
    }
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// No process, also if there never was one.
    Stopped,
    /// An end, also one that another run follows; one that has not begun has not ended.
    Exited,
}

/// Waits until a container has ended and returns its exit code.
pub(crate) fn wait(context: &Context, record: &Record, until: Until) -> Result<i32, CommandError> {
    loop {
        let observed = match container::load(&context.layout, &record.id)? {
            Some(record) => status::observe(&context.layout, &record)?,
            // Removed meanwhile; whoever waited along with its supervisor knows more.
            None => return Ok(status::UNKNOWN_EXIT_CODE),
        };
        match &observed.state {
            State::Stopped { exit } => return Ok(exit.code),
            State::Restarting { exit } if until == Until::Exited => return Ok(exit.code),
            State::Created if until == Until::Stopped || observed.supervisor.is_none() => return Ok(0),
            _ => {}
        }
        if let Some(code) = wait_with(&context.layout, record, &observed)? {
            return Ok(code);
        }
    }
}

/// Waits along with the supervisor; `None` if it has to be looked again.
fn wait_with(layout: &Layout, record: &Record, observed: &Observed) -> Result<Option<i32>, CommandError> {
    let host = |error: ClientError| CommandError::host(error);
    let client = match File::open(layout.runtime_container(&record.id)) {
        Ok(directory) => Client::connect(directory.as_fd()),
        Err(_) => Err(ClientError::NotRunning),
    };
    // No stream: only to hear of the end.
    let request = Request { stdin: None, stdout: None, stderr: None, detach_keys: Default::default() };
    let attached = client.and_then(|client| client.attach(&request).map(|()| client));
    match attached {
        Ok(client) => match client.run(Manners::default(), |_, _| {}).map_err(host)? {
            Attached::Exited(exit) => Ok(Some(i32::from(exit.code()))),
            Attached::Interrupted(signal) => Err(CommandError::printed(128 + signal.number() as u8)),
            Attached::Detached | Attached::Lost => Ok(None),
        },
        // It ended this instant, or it is full: then its process is what there is to wait for.
        Err(
            ClientError::NotRunning
            | ClientError::Closed
            | ClientError::Busy
            | ClientError::Call { source: Errno::ECONNRESET | Errno::EPIPE, .. },
        ) => {
            let process = match (observed.supervisor, observed.state.init()) {
                (Some(pid), _) => pidfd_open(pid).ok(),
                (None, Some(init)) => pidfd::open_checked(init.pid, init.start_time).ok(),
                (None, None) => None,
            };
            if let Some(process) = process {
                let mut fds = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
                match poll(&mut fds, PollTimeout::from(100u8)) {
                    Ok(_) | Err(Errno::EINTR) => {}
                    Err(errno) => return Err(CommandError::host(format_args!("poll: {}", errno.desc()))),
                }
            }
            Ok(None)
        }
        Err(error) => Err(host(error)),
    }
}
