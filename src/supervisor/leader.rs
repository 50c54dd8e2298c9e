//! The leader of the user's network namespace: found, or started by whoever needs it first.
//!
//! ```text
//! command ── connect, hello ──▶ leader                        the usual case
//!        └── lock, connect again, else: bind, fork ──▶ leader (own session; ends with the last connection)
//! ```
//! A container on a bridge belongs to the leader's user namespace: a pair of devices can be made only by whoever rules
//! both network namespaces. So the supervisor is born in there, and needs no ids of its own.
//!
//! **Runs in:** [`connect`]: the command, single-threaded, on the host. The rest: role `NetworkLeader`, forked from it,
//! one thread, the user's base user namespace, the host's network and pid namespaces.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use net::driver::{self, Started};
use net::leader::{Answer, Ask, Connection, Inside, Leader};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect as connect_to, listen, socket,
};
use runtime::process::spawn::{self, Servant, Side};
use runtime::process::{Forked, clone3};
use runtime::userns::Mapping;
use storage::state::layout::{self, Layout};
use storage::state::lock::FileLock;

use crate::error::CommandError;

/// A connection to the leader, which lives as long as it is open.
#[derive(Debug)]
pub(crate) struct Found {
    /// The connection.
    pub(crate) connection: Connection,
    /// The leader.
    pub(crate) pidfd: OwnedFd,
}

/// Where the leader of these ids listens. Users whose ids have changed get another one.
fn socket_path(layout: &Layout, mapping: &Mapping) -> PathBuf {
    let tag = storage::digest::Digest::of(mapping.signature().as_bytes());
    layout.network_runtime().join(format!("leader-{}.sock", tag.hex().get(..8).unwrap_or_default()))
}

/// Connects to the leader; starts one if there is none.
///
/// # Errors
/// What could not be made ready.
pub(crate) fn connect(layout: &Layout, mapping: &Mapping) -> Result<Found, CommandError> {
    let path = socket_path(layout, mapping);
    if let Some(found) = try_connect(&path)? {
        return Ok(found);
    }
    layout::create_dir(&layout.network_runtime()).map_err(CommandError::host)?;
    let lock = layout.network_lock();
    let _lock = FileLock::exclusive(&lock).map_err(CommandError::host)?;
    // Somebody was faster.
    if let Some(found) = try_connect(&path)? {
        return Ok(found);
    }
    start(&path, &lock, mapping)?;
    try_connect(&path)?.ok_or_else(|| CommandError::host("network leader: it ended as soon as it was started"))
}

fn failed(call: &'static str) -> impl Fn(Errno) -> CommandError {
    move |errno| CommandError::host(format!("network leader: {call}: {}", errno.desc().to_lowercase()))
}

/// An address that fits into `sun_path`, however long the directory's name is.
fn address(path: &Path) -> Result<(UnixAddr, std::fs::File), CommandError> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let open = std::fs::File::open(directory);
    let open = open.map_err(|error| {
        CommandError::host(format!("open {}: {}", directory.display(), crate::error::reason(&error)))
    })?;
    let short =
        Path::new("/proc/self/fd").join(open.as_raw_fd().to_string()).join(path.file_name().unwrap_or_default());
    Ok((UnixAddr::new(&short).map_err(failed("sockaddr_un"))?, open))
}

fn new_socket() -> Result<OwnedFd, CommandError> {
    socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).map_err(failed("socket"))
}

fn try_connect(path: &Path) -> Result<Option<Found>, CommandError> {
    let Ok((address, _directory)) = address(path) else { return Ok(None) };
    let fd = new_socket()?;
    match connect_to(fd.as_raw_fd(), &address) {
        Err(Errno::ENOENT | Errno::ECONNREFUSED) => return Ok(None),
        other => other.map_err(failed("connect"))?,
    }
    let connection = Connection::over(fd);
    let found = connection.greet().map_err(failed("greet"))?;
    Ok(found.map(|pidfd| Found { connection, pidfd }))
}

/// Asks something of every leader there is. None is started for that: where none is there is nothing to tell.
///
/// # Errors
/// What a leader answers it could not do.
pub(crate) fn tell_all(layout: &Layout, ask: &Ask) -> Result<(), CommandError> {
    let Ok(entries) = std::fs::read_dir(layout.network_runtime()) else { return Ok(()) };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if !name.to_str().is_some_and(|name| name.starts_with("leader-") && name.ends_with(".sock")) {
            continue;
        }
        let Some(found) = try_connect(&entry.path())? else { continue };
        found.connection.ask(ask, None).map_err(failed("ask"))?;
        if let Some((Answer::Failed { message }, _)) = found.connection.answer().map_err(failed("answer"))? {
            return Err(CommandError::host(message));
        }
    }
    Ok(())
}

/// Forks the leader. It listens already: whoever connects waits until it serves.
fn start(path: &Path, lock: &Path, mapping: &Mapping) -> Result<(), CommandError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(CommandError::host(format!("remove {}: {}", path.display(), crate::error::reason(&error))));
        }
        _ => {}
    }
    let driver = driver::default_driver(crate::config::way_out()?);
    let plan = driver.prepare().map_err(super::network::missing)?;
    let way_out = (driver, plan);
    let listener = new_socket()?;
    let (address, _directory) = address(path)?;
    bind(listener.as_raw_fd(), &address).map_err(failed("bind"))?;
    listen(&listener, Backlog::MAXCONN).map_err(failed("listen"))?;
    match spawn::supervisor(false)? {
        Side::Supervisor(maps) => {
            let status = match maps.wait() {
                Ok(true) => {
                    let servant =
                        Servant { name: c"coracle: network", keep: &[listener.as_fd()], dies_with_parent: false };
                    let work = || lead(listener.as_fd(), way_out, path, lock);
                    i32::from(spawn::servant(&servant, work).is_err())
                }
                _ => 125,
            };
            std::process::exit(status)
        }
        Side::Parent(parent) => {
            let pidfd = parent.write_maps(mapping)?;
            let _ = runtime::process::wait(pidfd.as_fd(), true);
            Ok(())
        }
    }
}

type WayOut = (Box<dyn driver::Driver>, driver::Plan);

/// The leader's life.
fn lead(listener: std::os::fd::BorrowedFd<'_>, way_out: WayOut, path: &Path, lock: &Path) -> i32 {
    let scratch = path.parent().unwrap_or(Path::new("/"));
    let Some((inside, started)) = namespace(way_out, scratch) else { return 125 };
    let Ok(listener) = listener.try_clone_to_owned() else { return 125 };
    let Ok(mut leader) = Leader::new(listener, inside, started) else { return 125 };
    // Nobody starts another one, or counts on this one, while we hold the lock.
    let ended = leader.run(|| FileLock::try_exclusive(lock).ok().flatten());
    let _ = std::fs::remove_file(path);
    i32::from(ended.is_err())
}

/// Makes the user's network namespace, by a process that stays until the way out is there.
fn namespace((driver, plan): WayOut, scratch: &Path) -> Option<(Inside, Started)> {
    let pair = nix::sys::socket::socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC);
    let (ours, theirs) = pair.ok()?;
    match clone3(libc::CLONE_NEWNET as u64, None).ok()? {
        Forked::Child => {
            drop(ours);
            let sent = Inside::open(plan.sysctls).is_ok_and(|inside| inside.send(theirs.as_fd()).is_ok());
            // End of file: nobody looks for us any more.
            let _ = nix::unistd::read(&theirs, &mut [0]);
            std::process::exit(i32::from(!sent))
        }
        Forked::Parent { pid, .. } => {
            drop(theirs);
            let inside = Inside::receive(ours.as_fd()).ok()??;
            let netns = driver::Netns { fd: inside.netns(), pid, scratch };
            let mut started = driver.start(plan, netns).ok()?;
            started.wait_ready().ok()?;
            Some((inside, started))
        }
    }
}
