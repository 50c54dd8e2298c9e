//! `--sdnotify`: what the service manager hears of a container that it has started.
//!
//! ```text
//! systemd ◀── $NOTIFY_SOCKET ── S ◀── notify.sock ── the container's program   (container)
//!                               └── READY=1 once it runs (conmon), or is healthy (healthy)
//! ```
//! With `WatchdogSec=` systemd wants a sign of life: the program gives it with its own notifications (`container`), else S does,
//! with `healthy` as long as the container is not found to be ill.
//!
//! S passes on what says something about the program, and nothing that names processes or descriptors: those numbers mean
//! something else outside.
//!
//! **Runs in:** the CLI finds out whether anybody listens; S does the rest, single-threaded, in the host's mount and network
//! namespaces.

use std::ffi::OsString;
use std::fs::{Permissions, set_permissions};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::{Duration, Instant};

use storage::state::request::{self, Request};

use crate::error::{CommandError, reason};

/// The name of the container's socket in its runtime directory.
pub(crate) const SOCKET: &str = "notify.sock";

/// Where the container finds it; podman's place.
pub(crate) const IN_CONTAINER: &str = "/run/notify/notify.sock";

/// What a program may say about itself.
///
/// # Source
/// `sd_notify(3)`.
const PASSED_ON: [&str; 9] = [
    "READY=",
    "STATUS=",
    "RELOADING=",
    "STOPPING=",
    "MONOTONIC_USEC=",
    "ERRNO=",
    "WATCHDOG=",
    "WATCHDOG_USEC=",
    "EXTEND_TIMEOUT_USEC=",
];

/// No message of a sane program is longer.
const MAX_MESSAGE_BYTES: usize = 4096;

/// Somebody who wants to hear of a container.
#[derive(Debug)]
pub(crate) struct Notifications {
    mode: request::Notify,
    host: SocketAddr,
    /// The container's end of it; with [`request::Notify::Container`].
    inside: Option<UnixDatagram>,
    /// How long they wait for a sign of life.
    watchdog: Option<Duration>,
    /// When S gives the next one, if that is its affair.
    sign_at: Option<Instant>,
}

/// What a process is told of its watchdog, as `sd_watchdog_enabled(3)` reads it.
fn watchdog(variable: impl Fn(&str) -> Option<String>, pid: u32) -> Option<Duration> {
    let is_ours = variable("WATCHDOG_PID").is_none_or(|text| text.parse() == Ok(pid));
    let microseconds = variable("WATCHDOG_USEC")?.parse::<u64>().ok()?;
    (is_ours && microseconds > 0).then(|| Duration::from_micros(microseconds))
}

impl Notifications {
    /// Whether there is somebody: `NOTIFY_SOCKET` is set, and the container is not told to ignore it.
    pub(crate) fn wanted(request: &Request, socket: Option<OsString>) -> Result<Option<Self>, CommandError> {
        let mode = request.service.notify;
        let Some(socket) = socket.filter(|socket| !socket.is_empty() && mode != request::Notify::Ignore) else {
            return Ok(None);
        };
        let watchdog = watchdog(|name| std::env::var(name).ok(), std::process::id());
        Ok(Some(Self { mode, host: address(socket)?, inside: None, watchdog, sign_at: None }))
    }

    /// Tells the service manager, if there is one, that this very process is ready.
    pub(crate) fn ready(socket: Option<OsString>) -> Result<(), CommandError> {
        if let Some(socket) = socket.filter(|socket| !socket.is_empty()) {
            let mode = request::Notify::Conmon;
            Self { mode, host: address(socket)?, inside: None, watchdog: None, sign_at: None }.say("READY=1");
        }
        Ok(())
    }

    /// Whether the container has a socket of its own for it.
    pub(crate) fn is_served(&self) -> bool {
        self.mode == request::Notify::Container
    }

    /// What the container's program finds of it in its environment.
    pub(super) fn variables(&self) -> Vec<String> {
        if !self.is_served() {
            return Vec::new();
        }
        let socket = format!("NOTIFY_SOCKET={IN_CONTAINER}");
        let watchdog = self.watchdog.map(|patience| format!("WATCHDOG_USEC={}", patience.as_micros()));
        std::iter::once(socket).chain(watchdog).collect()
    }

    /// When a sign of life is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.sign_at
    }

    /// Gives a sign of life if it is due.
    pub(super) fn live(&mut self, is_ill: bool) {
        let (Some(at), Some(patience)) = (self.sign_at, self.watchdog) else { return };
        let now = Instant::now();
        if at <= now {
            if !(is_ill && self.mode == request::Notify::Healthy) {
                self.say("WATCHDOG=1");
            }
            self.sign_at = Some(now + patience / 2);
        }
    }

    /// Makes the container's socket, of whose address the kernel takes 108 bytes only.
    pub(super) fn listen(&mut self, directory: &Path) -> Result<(), CommandError> {
        if !self.is_served() || self.inside.is_some() {
            return Ok(());
        }
        let fail = |error: std::io::Error| {
            CommandError::host(format!("bind {}: {}", directory.join(SOCKET).display(), reason(&error)))
        };
        let opened = std::fs::File::open(directory).map_err(fail)?;
        let _ = std::fs::remove_file(directory.join(SOCKET));
        let path = Path::new("/proc/self/fd").join(opened.as_raw_fd().to_string()).join(SOCKET);
        let socket = UnixDatagram::bind(path).map_err(fail)?;
        socket.set_nonblocking(true).map_err(fail)?;
        // Every user of the container may say something; the directory is closed to everybody else.
        set_permissions(directory.join(SOCKET), Permissions::from_mode(0o666)).map_err(fail)?;
        self.inside = Some(socket);
        Ok(())
    }

    /// The descriptor that becomes readable when the container says something.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.inside.as_ref().map(AsFd::as_fd)
    }

    /// Passes on what the container has said.
    pub(super) fn pass_on(&self) {
        let Some(inside) = &self.inside else { return };
        let mut bytes = [0; MAX_MESSAGE_BYTES];
        while let Ok(length) = inside.recv(&mut bytes) {
            let said = String::from_utf8_lossy(bytes.get(..length).unwrap_or_default());
            let lines: Vec<&str> = harmless(&said).collect();
            if !lines.is_empty() {
                self.say(&lines.join("\n"));
            }
        }
    }

    /// The container runs, watched by `supervisor`.
    pub(super) fn started(&mut self, supervisor: i32) {
        let ready = if self.mode == request::Notify::Conmon { "\nREADY=1" } else { "" };
        self.say(&format!("MAINPID={supervisor}{ready}"));
        self.sign_at = self.watchdog.filter(|_| !self.is_served()).map(|patience| Instant::now() + patience / 2);
    }

    /// The container is healthy.
    pub(super) fn healthy(&self) {
        if self.mode == request::Notify::Healthy {
            self.say("READY=1");
        }
    }

    /// Nobody can be told if nobody listens any more.
    fn say(&self, message: &str) {
        if let Ok(socket) = UnixDatagram::unbound() {
            let _ = socket.set_nonblocking(true);
            let _ = socket.send_to_addr(message.as_bytes(), &self.host);
        }
    }
}

/// What `NOTIFY_SOCKET` means.
fn address(socket: OsString) -> Result<SocketAddr, CommandError> {
    let bytes = socket.clone().into_vec();
    let host = match bytes.split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(&socket),
    };
    host.map_err(|error| {
        CommandError::user(format!("NOTIFY_SOCKET={}: {}", socket.to_string_lossy().escape_debug(), reason(&error)))
    })
}

/// The lines of a message that mean the same outside.
fn harmless(message: &str) -> impl Iterator<Item = &str> {
    message.split('\n').filter(|line| PASSED_ON.iter().any(|name| line.as_bytes().starts_with(name.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_processes_or_descriptors_stays_inside() {
        let said = "READY=1\nMAINPID=7\nSTATUS=serving\nFDSTORE=1\nFDNAME=x\nNOTIFYACCESS=all\nBARRIER=1\n\nX";
        assert_eq!(harmless(said).collect::<Vec<_>>(), ["READY=1", "STATUS=serving"]);
    }

    #[test]
    fn a_watchdog_is_of_the_process_that_it_names() {
        let found = |variables: &'static [(&str, &str)]| {
            let of =
                |name: &str| variables.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned());
            watchdog(of, 7)
        };
        assert_eq!(found(&[("WATCHDOG_USEC", "2000000")]), Some(Duration::from_secs(2)));
        assert_eq!(found(&[("WATCHDOG_USEC", "2000000"), ("WATCHDOG_PID", "7")]), Some(Duration::from_secs(2)));
        assert_eq!(found(&[("WATCHDOG_USEC", "2000000"), ("WATCHDOG_PID", "8")]), None);
        assert_eq!(found(&[("WATCHDOG_USEC", "0")]), None);
        assert_eq!(found(&[]), None);
    }

    #[test]
    fn only_a_socket_and_a_mode_make_somebody_listen() {
        let request =
            |notify| Request { service: request::Service { notify, ..Default::default() }, ..Request::default() };
        let wanted = |notify, socket: Option<&str>| {
            Notifications::wanted(&request(notify), socket.map(OsString::from)).unwrap().map(|one| one.is_served())
        };
        assert_eq!(wanted(request::Notify::Container, Some("/run/x")), Some(true));
        assert_eq!(wanted(request::Notify::Conmon, Some("@abstract")), Some(false));
        assert_eq!(wanted(request::Notify::Container, None), None);
        assert_eq!(wanted(request::Notify::Container, Some("")), None);
        assert_eq!(wanted(request::Notify::Ignore, Some("/run/x")), None);
    }
}
