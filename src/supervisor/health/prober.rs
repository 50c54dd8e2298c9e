//! The prober: runs one check's command in the container and collects what it prints.
//!
//! **Runs in:** a fork of S, single-threaded, in the base user namespace.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use oci_spec::runtime::{LinuxNamespaceType, Spec};
use runtime::exec;
use runtime::identity::{self, Emulation};
use runtime::init::credentials::LoadFilter;
use runtime::init::namespaces::has_private;
use runtime::init::steps::{BecomeOptions, InitError, keeps_groups};
use runtime::monitor::event_loop::{Interest, Turn};
use runtime::process::inherited::Inherited;
use runtime::process::stdio::{Input, Streams};
use runtime::process::{Exit, pidfd_send_signal, wait};
use storage::state::request::Healthcheck;

use super::TIMED_OUT;
use crate::supervisor::launch::Launch;

/// The argument vector of a check.
fn command(check: &Healthcheck) -> Vec<String> {
    let (kind, rest) = check.test.split_first().map_or(("", &[][..]), |(kind, rest)| (kind.as_str(), rest));
    match kind {
        "CMD" => rest.to_vec(),
        "CMD-SHELL" => vec!["/bin/sh".to_owned(), "-c".to_owned(), rest.join(" ")],
        _ => check.test.clone(),
    }
}

/// The prober's life: the program's code and the beginning of what it printed.
pub(super) fn run(
    launch: &Launch,
    check: &Healthcheck,
    init: BorrowedFd<'_>,
    cgroup: Option<BorrowedFd<'_>>,
    directory: BorrowedFd<'_>,
    (orders, limit): (BorrowedFd<'_>, usize),
) -> (i32, Vec<u8>) {
    let spec: &Spec = &launch.spec;
    let Some(mut process) = spec.process().clone() else { return (125, b"a bundle without a process".to_vec()) };
    process.set_args(Some(command(check))).set_terminal(Some(false));
    let keyring = std::ffi::CString::new(format!("_coracle.{}", launch.record.id)).unwrap_or_default();
    let load = launch.seccomp.as_ref().map(|seccomp| || seccomp.filter.load().map_err(InitError::from));
    let has_notifier = launch.layout.runtime_container(&launch.record.id).join(identity::socket::NAME).exists();
    let emulation = match crate::supervisor::bundle::is_single(&launch.record.request.userns, &launch.mapping) {
        false => None,
        true if has_notifier => Some(Emulation::Notify),
        true => Some(Emulation::Succeed),
    };
    // We are in the base user namespace, which may be the container's own.
    let mut namespaces = crate::commands::exec::namespaces_of(spec);
    if !has_private(spec, LinuxNamespaceType::User) {
        namespaces &= !libc::CLONE_NEWUSER;
    }
    let started = exec::start(exec::Request {
        init,
        namespaces,
        cgroup,
        process: &process,
        streams: exec::Streams::Pipes(Input::Null),
        seal: launch.seal.as_ref(),
        notifier: (emulation == Some(Emulation::Notify)).then_some(directory),
        options: BecomeOptions {
            keyring: Some(&keyring),
            filter_hides_keyrings: launch.seccomp.as_ref().is_some_and(|seccomp| seccomp.hides_keyrings),
            keep_groups: keeps_groups(spec),
            emulation,
            dies_with_parent: true,
            filter: load.as_ref().map(|load| load as LoadFilter<'_>),
            sealed: None,
            inherited: &Inherited::default(),
            pause: false,
            gate: None,
            preserved_fds: 0,
        },
    });
    let started = match started {
        Ok(started) => started,
        Err(exec::ExecError::Failed { code, message }) => return (code, message.into_bytes()),
        Err(error) => return (125, error.to_string().into_bytes()),
    };
    let Some(Streams::Pipes { stdout, stderr, .. }) = started.streams else { return (125, Vec::new()) };
    let mut output = Vec::new();
    let deadline = Instant::now() + timeout_of(check);
    let exit = collect((&started.pidfd, orders), [Some(stdout), Some(stderr)], deadline, limit, &mut output);
    if exit.is_none() {
        // Not left to others: a pid namespace cannot end before the last of its processes has been waited for.
        let _ = pidfd_send_signal(started.pidfd.as_fd(), libc::SIGKILL);
        let _ = wait(started.pidfd.as_fd(), true);
    }
    (exit.map_or(TIMED_OUT, |exit| i32::from(exit.code())), output)
}

/// How long a check may take.
pub(super) fn timeout_of(check: &Healthcheck) -> Duration {
    check.timeout.unwrap_or(Duration::from_secs(30))
}

/// The event of an order to end.
const ORDER: usize = usize::MAX;

/// Reads what a program prints until it ends: what it leaves behind may hold its streams for ever. `None` if its time is up
/// before.
fn collect(
    (program, orders): (&OwnedFd, BorrowedFd<'_>),
    mut streams: [Option<OwnedFd>; 2],
    deadline: Instant,
    limit: usize,
    output: &mut Vec<u8>,
) -> Option<Exit> {
    let mut ended = None;
    loop {
        let mut turn = Turn::new();
        for (number, stream) in streams.iter().enumerate() {
            if let Some(stream) = stream {
                turn.watch(stream.as_fd(), Interest::Read, number);
            }
        }
        if ended.is_none() {
            turn.watch(program.as_fd(), Interest::Read, streams.len());
            // Nothing is ever written there.
            turn.watch(orders, Interest::Hangup, ORDER);
        }
        // Once it has ended, only what is there already is read.
        let ready = turn.wait(Some(ended.map_or(deadline, |_| Instant::now()))).unwrap_or_default();
        if ended.is_some() && ready.is_empty() || ended.is_none() && deadline <= Instant::now() {
            return ended;
        }
        if ready.iter().any(|one| one.event == ORDER) {
            return None;
        }
        for one in ready {
            let mut bytes = [0; 4096];
            match streams.get_mut(one.event) {
                Some(stream) => match stream.as_ref().map(|stream| nix::unistd::read(stream, &mut bytes)) {
                    Some(Ok(count)) if count > 0 => {
                        let room = limit.saturating_sub(output.len()).min(count);
                        output.extend_from_slice(bytes.get(..room).unwrap_or_default());
                    }
                    Some(Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR)) => {}
                    _ => *stream = None,
                },
                None => ended = wait(program.as_fd(), false).ok().flatten(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_argument_vectors_or_shell_text() {
        let of = |test: &[&str]| {
            let test = test.iter().map(|word| (*word).to_owned()).collect();
            command(&Healthcheck { test, ..Healthcheck::default() })
        };
        assert_eq!(of(&["CMD", "a", "b c"]), ["a", "b c"]);
        assert_eq!(of(&["CMD-SHELL", "a b"]), ["/bin/sh", "-c", "a b"]);
    }
}
