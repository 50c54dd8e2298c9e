//! `run`: create, start, wait, delete.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use runtime::monitor::detach_keys::DetachKeys;
use runtime::monitor::event_loop::{Interest, Turn};
use runtime::monitor::log::Log;
use runtime::monitor::relay::{self, Relay, StdinPolicy};
use runtime::process::pty::{RawMode, is_terminal};
use runtime::process::signal::{Signal, SignalSource};
use runtime::process::stdio::Streams;
use runtime::process::{Exit, pidfd_send_signal, wait};

use super::create::{self, Created};
use super::{Outcome, Runtime, delete, start};
use crate::commands::exec::watch;
use crate::error::CommandError;

/// Create and start a container, wait for its end and delete it
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    options: create::Options,
    /// Return when the process runs; the container stays until it is deleted
    #[arg(short, long)]
    detach: bool,
    /// Do not delete the container at its end
    #[arg(long)]
    keep: bool,
}

/// Runs `run`.
pub(super) fn run(args: Args, runtime: &Runtime) -> Outcome {
    let takes_console = args.options.console_socket.is_some() || !args.detach;
    let Created { container, init, console } = create::create(&args.options, takes_console, runtime)?;
    // From here on signals are the program's; before, they end the attempt.
    let signals = if args.detach { None } else { Some(signals()?) };
    if let Err(error) = start::start(container, runtime) {
        let _ = pidfd_send_signal(init.as_fd(), libc::SIGKILL);
        let _ = wait(init.as_fd(), true);
        forget(&args.options.id, runtime)?;
        return Err(error);
    }
    let Some(signals) = signals else { return Ok(0) };
    let exit = match console {
        Some(master) => on_terminal(master, init.as_fd(), &signals)?,
        None => until_exit(init.as_fd(), &signals),
    };
    if !args.keep {
        forget(&args.options.id, runtime)?;
    }
    Ok(exit.map_or(0, Exit::code))
}

fn forget(id: &str, runtime: &Runtime) -> Result<(), CommandError> {
    delete::delete(runtime.root.open(id)?, runtime)
}

/// What a client passes on.
pub(super) fn signals() -> Result<SignalSource, CommandError> {
    SignalSource::block(&[runtime::process::signal::proxied(), vec![Signal::WINCH]].concat())
        .map_err(|errno| CommandError::host(format_args!("signalfd(): {}", errno.desc().to_lowercase())))
}

/// Passes signals on until a child ends.
pub(super) fn until_exit(child: BorrowedFd<'_>, signals: &SignalSource) -> Option<Exit> {
    loop {
        let mut turn = Turn::new();
        turn.watch(child, Interest::Read, ());
        turn.watch(signals.as_fd(), Interest::Read, ());
        let _ = turn.wait(None);
        while let Ok(Some(arrived)) = signals.next() {
            if arrived.signal != Signal::WINCH {
                let _ = pidfd_send_signal(child, arrived.signal.number());
            }
        }
        match wait(child, false) {
            Ok(None) => {}
            Ok(exit) => return exit,
            Err(_) => return None,
        }
    }
}

/// Is the other end of a child's terminal until it ends.
pub(super) fn on_terminal(
    master: OwnedFd,
    child: BorrowedFd<'_>,
    signals: &SignalSource,
) -> Result<Option<Exit>, CommandError> {
    let failed =
        |errno: nix::errno::Errno| CommandError::host(format_args!("terminal: {}", errno.desc().to_lowercase()));
    let (stdin, stdout) = (std::io::stdin(), std::io::stdout());
    let keep = |fd: BorrowedFd<'_>| {
        fd.try_clone_to_owned()
            .map_err(|error| CommandError::host(format_args!("dup(): {}", crate::error::reason(&error))))
    };
    let streams = Streams::terminal(master).map_err(failed)?;
    let mut relay = Relay::new(streams, StdinPolicy::Once, Log::none()).map_err(failed)?;
    let raw = is_terminal(stdin.as_fd()).then(|| RawMode::enter(stdin.as_fd())).transpose().map_err(failed)?;
    relay.attach_first(relay::FirstClient {
        control: None,
        stdin: Some(keep(stdin.as_fd())?),
        stdout: Some(keep(stdout.as_fd())?),
        stderr: None,
        detach_keys: DetachKeys::none(),
    });
    let exit = watch(&mut relay, child, signals);
    drop(raw);
    Ok(exit)
}
