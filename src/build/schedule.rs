//! Stages side by side: a process for each, as soon as what it needs is there.
//!
//! ```text
//! command ── clone ──▶ stage ── clone ──▶ container of a RUN, child in the user namespace, …
//!    ▲ events, stdout, stderr │
//! ```
//! A stage dies with the command, and what it has started with the stage. The command reaps what is left of a stage that
//! was killed: when it returns, nothing runs.
//!
//! **Runs in:** the command, single-threaded.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use runtime::monitor::event_loop::{Interest, Turn};
use runtime::process::signal::{Signal, SignalSource};
use runtime::process::{Forked, clone3, pidfd_send_signal, prctl, wait};

use super::debug::Broken;
use super::endings::Endings;
use super::interrupt;
use super::report::{Event, Reporter};
use super::screen::Screen;
use super::stage::{self, Build, State};
use crate::error::{CommandError, Kind};

/// A stage of one of the builds that run side by side, one for each platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct At {
    /// Which build.
    pub(crate) build: usize,
    /// The stage's number in the file.
    pub(crate) stage: usize,
}

/// A stage that is being built.
#[derive(Debug)]
struct Worker {
    at: At,
    pid: i32,
    pidfd: OwnedFd,
    events: std::fs::File,
    /// An event that has come in part.
    rest: Vec<u8>,
    /// stdout and stderr; gone at their end.
    output: [Option<std::fs::File>; 2],
    is_over: bool,
}

#[derive(Debug, Clone, Copy)]
enum Wake {
    Signal,
    Events(usize),
    Output(usize, usize),
}

/// What the stages of a build came to.
#[derive(Debug, Default)]
pub(crate) struct Built {
    /// By their numbers.
    pub(crate) states: BTreeMap<usize, State>,
    /// Build arguments that a stage has asked for.
    pub(crate) used: BTreeSet<String>,
    /// The keys of all steps, by stage.
    pub(crate) keys: BTreeMap<usize, BTreeSet<String>>,
    /// A step that is about to fail.
    broken: Option<Box<Broken>>,
}

/// A stage that failed.
#[derive(Debug)]
pub(crate) struct Failed {
    /// Which.
    pub(crate) at: At,
    /// The step and its line.
    pub(crate) step: Option<(String, u32)>,
    /// Why.
    pub(crate) message: String,
    /// The exit status.
    pub(crate) code: u8,
    /// What to do about it.
    pub(crate) hint: Option<String>,
    /// What it has left, if that was asked for.
    pub(crate) broken: Option<Box<Broken>>,
}

/// Why there is no image.
#[derive(Debug)]
pub(crate) enum Stopped {
    /// A stage failed.
    Failed(Box<Failed>),
    /// We cannot go on.
    Error(CommandError),
}

impl From<CommandError> for Stopped {
    fn from(error: CommandError) -> Self {
        Stopped::Error(error)
    }
}

/// Processes of stages that are done and wait for what their last steps have left. At its end it waits for them.
#[derive(Debug)]
pub(crate) struct Leaving(Vec<Worker>);

impl Drop for Leaving {
    fn drop(&mut self) {
        for worker in self.0.drain(..) {
            let _ = wait(worker.pidfd.as_fd(), true);
        }
    }
}

/// Builds the stages of the graphs; `jobs` of them at once.
pub(crate) fn run(builds: &[Build<'_>], jobs: usize, screen: &mut Screen) -> Result<(Vec<Built>, Leaving), Stopped> {
    let signals = interrupt::listen()?;
    let mut built: Vec<Built> = builds.iter().map(|_| Built::default()).collect();
    let mut workers: Vec<Worker> = Vec::new();
    let mut begun: BTreeSet<At> = BTreeSet::new();
    let outcome = loop {
        let all = builds.iter().zip(&built).enumerate().flat_map(|(number, (build, built))| {
            let ready = build.graph.nodes.iter();
            let ready = ready.filter(|node| node.needs.iter().all(|stage| built.states.contains_key(stage)));
            ready.map(move |node| (build, At { build: number, stage: node.index }))
        });
        let busy = workers.iter().filter(|worker| !worker.is_done(&built)).count();
        let ready: Vec<(&Build<'_>, At)> =
            all.filter(|(_, at)| !begun.contains(at)).take(jobs.saturating_sub(busy)).collect();
        for (build, at) in ready {
            begun.insert(at);
            let Some(done) = built.get(at.build) else { continue };
            match start(build, at, &done.states) {
                Ok(worker) => workers.push(worker),
                Err(error) => {
                    end_all(&mut workers);
                    return Err(error.into());
                }
            }
        }
        if workers.iter().all(|worker| worker.is_done(&built)) {
            break Ok(());
        }
        match turn(&mut workers, &signals, screen, (builds, &mut built)) {
            Ok(None) => {}
            Ok(Some(signal)) => break Err(Stopped::Error(interrupt::error(signal))),
            Err(stopped) => break Err(stopped),
        }
        workers.retain(|worker| !worker.is_over);
    };
    match outcome {
        Ok(()) => Ok((built, Leaving(workers))),
        Err(stopped) => {
            end_all(&mut workers);
            Err(stopped)
        }
    }
}

fn start(build: &Build<'_>, at: At, done: &BTreeMap<usize, State>) -> Result<Worker, CommandError> {
    let pipe = || {
        let (reader, writer) = std::io::pipe().map_err(CommandError::host)?;
        Ok::<_, CommandError>((OwnedFd::from(reader), OwnedFd::from(writer)))
    };
    let (events, (out, err)) = (pipe()?, (pipe()?, pipe()?));
    let parent = nix::unistd::getpid();
    let forked =
        clone3(0, None).map_err(|errno| CommandError::host(format!("clone3(): {}", errno.desc().to_lowercase())))?;
    match forked {
        Forked::Child => {
            let _ = prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64);
            let null = std::fs::File::open("/dev/null");
            let ready = nix::unistd::getppid() == parent
                && null.is_ok_and(|null| nix::unistd::dup2_stdin(null).is_ok())
                && nix::unistd::dup2_stdout(&out.1).is_ok()
                && nix::unistd::dup2_stderr(&err.1).is_ok();
            drop((events.0, out, err));
            if !ready {
                std::process::exit(125);
            }
            std::process::exit(work(build, at.stage, done, events.1))
        }
        Forked::Parent { pid, pidfd } => Ok(Worker {
            at,
            pid,
            pidfd,
            events: events.0.into(),
            rest: Vec::new(),
            output: [Some(out.0.into()), Some(err.0.into())],
            is_over: false,
        }),
    }
}

/// The process of a stage.
fn work(build: &Build<'_>, index: usize, done: &BTreeMap<usize, State>, events: OwnedFd) -> i32 {
    let mut report = Reporter::new(events);
    // It outlives the last word: what is left of the last step goes on beside the image.
    let endings = Endings::default();
    match stage::run(build, index, done, &mut report, &endings) {
        Ok(state) => {
            report.tell(&Event::Finished(Box::new(state)));
            0
        }
        Err(stage::Failure { step, error }) => {
            let (step, line) = step.map_or((None, 0), |(step, line)| (Some(step), line));
            let hint = error.hints().first().cloned();
            report.tell(&Event::Failed { step, line, message: error.to_string(), code: error.code(), hint });
            1
        }
    }
}

/// Waits for something and deals with it; a signal ends the build.
fn turn(
    workers: &mut [Worker],
    signals: &SignalSource,
    screen: &mut Screen,
    (builds, built): (&[Build<'_>], &mut [Built]),
) -> Result<Option<Signal>, Stopped> {
    let mut turn = Turn::new();
    turn.watch(signals.as_fd(), Interest::Read, Wake::Signal);
    for (at, worker) in workers.iter().enumerate() {
        turn.watch(worker.events.as_fd(), Interest::Read, Wake::Events(at));
        for (number, stream) in worker.output.iter().enumerate() {
            if let Some(stream) = stream {
                turn.watch(stream.as_fd(), Interest::Read, Wake::Output(at, number));
            }
        }
    }
    screen.refresh();
    let ready = match turn.wait(screen.deadline()) {
        Ok(ready) => ready,
        Err(Errno::EINTR) => return Ok(None),
        Err(errno) => return Err(CommandError::host(format!("poll(): {}", errno.desc().to_lowercase())).into()),
    };
    let wakes: Vec<Wake> = ready.into_iter().map(|one| one.event).collect();
    for wake in wakes {
        match wake {
            Wake::Signal => {
                if let Ok(Some(arrived)) = signals.next() {
                    return Ok(Some(arrived.signal));
                }
            }
            Wake::Output(at, number) => {
                if let Some(worker) = workers.get_mut(at) {
                    worker.read_output(number, screen);
                }
            }
            Wake::Events(at) => {
                if let Some(worker) = workers.get_mut(at)
                    && let (Some(build), Some(built)) = (builds.get(worker.at.build), built.get_mut(worker.at.build))
                {
                    worker.read_events(screen, build, built)?;
                }
            }
        }
    }
    Ok(None)
}

impl Worker {
    fn read_output(&mut self, number: usize, screen: &mut Screen) {
        let Some(stream) = self.output.get_mut(number) else { return };
        let mut buffer = [0; 1 << 14];
        match stream.as_mut().map(|stream| stream.read(&mut buffer)) {
            Some(Ok(len)) if len > 0 => screen.output(self.at, number == 1, buffer.get(..len).unwrap_or_default()),
            Some(Err(error)) if error.kind() == std::io::ErrorKind::Interrupted => {}
            _ => *stream = None,
        }
    }

    /// What was written before an event is shown before it.
    fn drain(&mut self, screen: &mut Screen) {
        for number in 0..2 {
            while self.output.get(number).and_then(Option::as_ref).is_some_and(is_readable) {
                self.read_output(number, screen);
            }
        }
    }

    /// Its stage is.
    fn is_done(&self, built: &[Built]) -> bool {
        built.get(self.at.build).is_some_and(|built| built.states.contains_key(&self.at.stage))
    }

    fn read_events(&mut self, screen: &mut Screen, build: &Build<'_>, built: &mut Built) -> Result<(), Stopped> {
        let mut buffer = [0; 1 << 16];
        let len = match self.events.read(&mut buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => return Ok(()),
            read => read.unwrap_or(0),
        };
        self.drain(screen);
        if len == 0 {
            let exit = wait(self.pidfd.as_fd(), true).ok().flatten();
            self.is_over = true;
            if built.states.contains_key(&self.at.stage) {
                return Ok(());
            }
            let status = exit.map_or(0, |exit| exit.code());
            let message = format!("the process of stage {} ended with status {status}", self.at.stage);
            return Err(CommandError::new(Kind::Internal, message).into());
        }
        self.rest.extend_from_slice(buffer.get(..len).unwrap_or_default());
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let Ok(event) = serde_json::from_slice::<Event>(&line) else { continue };
            screen.on(self.at, &event);
            match event {
                Event::Finished(state) => drop(built.states.insert(self.at.stage, *state)),
                Event::Done { key: Some(key) } => {
                    built.keys.entry(self.at.stage).or_default().insert(key);
                }
                Event::Namespace(number) => build.space.adopt(self.pid, number),
                Event::Broken(broken) => built.broken = Some(broken),
                Event::Used(name) => drop(built.used.insert(name)),
                Event::Failed { step, line, message, code, hint } => {
                    let step = step.map(|step| (step, line));
                    let broken = built.broken.take();
                    return Err(Stopped::Failed(Box::new(Failed { at: self.at, step, message, code, hint, broken })));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn is_readable(file: &std::fs::File) -> bool {
    let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

/// Ends what is still being built, and waits until nothing of it is left.
fn end_all(workers: &mut Vec<Worker>) {
    if workers.is_empty() {
        return;
    }
    for worker in workers.iter() {
        let _ = pidfd_send_signal(worker.pidfd.as_fd(), libc::SIGKILL);
    }
    for worker in workers.drain(..) {
        let _ = wait(worker.pidfd.as_fd(), true);
    }
    // Their own children die with them and are ours now.
    interrupt::end_children();
}
