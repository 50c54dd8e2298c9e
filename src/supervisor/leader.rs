//! The leader of the user's network namespace: found, started by whoever needs it first, and succeeded when it is killed.
//!
//! ```text
//! command ── connect, hello ──▶ leader                        the usual case
//!        └── lock, connect again, else: bind, fork ──▶ leader (own session; ends with the last connection)
//! supervisor ── its connection has ended: lock, nobody has the leader's lock ── fork, with the estate ──▶ successor
//! ```
//! A container on a bridge belongs to the leader's user namespace: a pair of devices can be made only by whoever rules
//! both network namespaces. So the supervisor is born in there, and needs no ids of its own.
//!
//! The socket of a leader that was killed still listens, since supervisors have it open. So a command that connects to it
//! waits for the successor, and does not start a leader of another namespace.
//!
//! A successor lives in the pid namespace of the supervisor that forked it, and ends with it; then there is another.
//!
//! **Runs in:** [`connect`]: the command, single-threaded, on the host. [`rescue`]: the supervisor. The rest: role
//! `NetworkLeader`, forked from either, one thread, the user's base user namespace, the host's network namespace.

mod scope;

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use net::driver;
use net::leader::{Answer, Ask, Connection, Estate, Inside, Leader, Refused, WayOut};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect as connect_to, listen, socket,
};
use runtime::process::spawn::{self, Servant, Side};
use runtime::process::{Forked, clone3};
use runtime::userns::Mapping;
use runtime::userns::making::Making;
use storage::state::container;
use storage::state::events::{self, Event};
use storage::state::layout::{self, Layout};
use storage::state::lock::FileLock;

use crate::error::CommandError;

/// How often it is tried to reach a leader that ends meanwhile.
const TRIES: usize = 3;

/// What a leader is called in lists of processes.
const NAME: &CStr = c"coracle: network";

/// Whether a process is a leader, who may serve others than the one that started it.
pub(crate) fn is_leader(pid: i32) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.starts_with(NAME.to_bytes())
}

/// A connection to the leader, which lives as long as it is open.
#[derive(Debug)]
pub(crate) struct Found {
    /// The connection.
    pub(crate) connection: Connection,
    /// The leader; none if it has just been started in a namespace that the caller has.
    pub(crate) pidfd: Option<OwnedFd>,
}

/// Where the leader of these ids listens. Users whose ids have changed get another one.
fn socket_path(layout: &Layout, mapping: &Mapping) -> PathBuf {
    let tag = storage::digest::Digest::of(mapping.signature().as_bytes());
    layout.network_runtime().join(format!("leader-{}.sock", tag.hex().get(..8).unwrap_or_default()))
}

/// What the leader of a socket has locked for life.
fn alive_path(socket: &Path) -> PathBuf {
    socket.with_extension("alive")
}

/// Whether there is a leader, which may not serve yet.
pub(super) fn is_alive(layout: &Layout, mapping: &Mapping) -> bool {
    FileLock::is_held(&alive_path(&socket_path(layout, mapping))).unwrap_or(true)
}

/// Connects to the leader; starts one if there is none, in the user namespace that is being made if one is.
///
/// # Errors
/// What could not be made ready.
pub(crate) fn connect(
    layout: &Layout,
    mapping: &Mapping,
    mut making: Option<&mut Making>,
) -> Result<Found, CommandError> {
    let path = socket_path(layout, mapping);
    if let Some(found) = try_connect(&path)?.map(greet).transpose()?.flatten() {
        return Ok(found);
    }
    layout::create_dir(&layout.network_runtime()).map_err(CommandError::host)?;
    for _ in 0..TRIES {
        let lock = FileLock::exclusive(&layout.network_lock()).map_err(CommandError::host)?;
        let connection = match try_connect(&path)? {
            // Somebody was faster.
            Some(connection) => connection,
            None => {
                start(layout, &path, mapping, making.as_deref_mut())?;
                let connection = try_connect(&path)?.ok_or_else(ended)?;
                if making.is_some() {
                    // It serves soon; what the container needs besides is done meanwhile.
                    return Ok(Found { connection, pidfd: None });
                }
                connection
            }
        };
        // Who succeeds a leader needs it.
        drop(lock);
        if let Some(found) = greet(connection)? {
            return Ok(found);
        }
    }
    Err(ended())
}

fn ended() -> CommandError {
    CommandError::host("network leader: it ended as soon as it was started")
}

fn greet(connection: Connection) -> Result<Option<Found>, CommandError> {
    match connection.greet() {
        Err(Errno::EAGAIN) => Err(CommandError::host("network leader: it does not answer")),
        other => Ok(other.map_err(failed("greet"))?.map(|pidfd| Found { connection, pidfd: Some(pidfd) })),
    }
}

/// Connects to the successor of a leader that has ended, which is forked unless somebody was faster. Without an estate
/// nothing is left, and the namespace is a new one.
///
/// Gives the connection, and the successor's pidfd if it is a child of ours.
///
/// # Errors
/// What could not be made ready.
pub(super) fn rescue(
    layout: &Layout,
    mapping: &Mapping,
    estate: Option<&Estate>,
) -> Result<(Connection, Option<OwnedFd>), CommandError> {
    let path = socket_path(layout, mapping);
    let _lock = FileLock::exclusive(&layout.network_lock()).map_err(CommandError::host)?;
    let fresh;
    let mut child = None;
    let estate = match estate {
        // It listens as long as anybody has its socket: who has that will do this.
        None if try_connect(&path)?.is_some() => None,
        None => {
            fresh = new_listener(&path)?;
            Some((fresh.as_fd(), None))
        }
        Some(estate) => Some((estate.listener.as_fd(), Some(estate))),
    };
    let alive = FileLock::try_exclusive(&alive_path(&path)).map_err(CommandError::host)?;
    if let (Some((listener, estate)), Some(alive)) = (estate, alive) {
        child = Some(serve(layout, &path, listener, estate, &alive, way_out(layout)?)?);
    }
    let connection = try_connect(&path)?.ok_or_else(ended)?;
    Ok((connection, child))
}

fn way_out(layout: &Layout) -> Result<WayOut, CommandError> {
    let driver = driver::default_driver(crate::config::way_out()?);
    let plan = driver.prepare().map_err(super::network::missing)?;
    Ok(WayOut::new(driver, plan, layout.network_runtime()))
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

fn try_connect(path: &Path) -> Result<Option<Connection>, CommandError> {
    let Ok((address, _directory)) = address(path) else { return Ok(None) };
    let fd = new_socket()?;
    match connect_to(fd.as_raw_fd(), &address) {
        Err(Errno::ENOENT | Errno::ECONNREFUSED) => Ok(None),
        other => other.map(|()| Some(Connection::over(fd))).map_err(failed("connect")),
    }
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
        let Some(found) = try_connect(&entry.path())?.map(greet).transpose()?.flatten() else { continue };
        found.connection.ask(ask, None).map_err(failed("ask"))?;
        if let Some((Answer::Failed { message }, _)) = found.connection.answer().map_err(failed("answer"))? {
            return Err(CommandError::host(message));
        }
    }
    Ok(())
}

fn new_listener(path: &Path) -> Result<OwnedFd, CommandError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(CommandError::host(format!("remove {}: {}", path.display(), crate::error::reason(&error))));
        }
        _ => {}
    }
    let listener = new_socket()?;
    let (address, _directory) = address(path)?;
    bind(listener.as_raw_fd(), &address).map_err(failed("bind"))?;
    listen(&listener, Backlog::MAXCONN).map_err(failed("listen"))?;
    Ok(listener)
}

/// Forks the leader, from the command. It listens already: whoever connects waits until it serves.
fn start(layout: &Layout, path: &Path, mapping: &Mapping, mut making: Option<&mut Making>) -> Result<(), CommandError> {
    let way_out = way_out(layout)?;
    let alive = FileLock::exclusive(&alive_path(path)).map_err(CommandError::host)?;
    let listener = new_listener(path)?;
    let (learn, tell) = scope::channel().unzip();
    let forked = match &mut making {
        Some(making) => spawn::supervisor_beside(making.holder(), false),
        None => spawn::supervisor(false),
    };
    match forked? {
        Side::Supervisor(maps) => {
            drop(learn);
            let served = match maps.wait() {
                Ok(true) => serve(layout, path, listener.as_fd(), None, &alive, way_out).ok(),
                _ => None,
            };
            if let (Some(tell), Some(leader)) = (tell, &served) {
                scope::tell(tell, leader.as_fd());
            }
            std::process::exit(if served.is_some() { 0 } else { 125 })
        }
        Side::Parent(parent) => {
            if let Some(making) = making {
                making.finish()?;
            }
            let pidfd = parent.write_maps(mapping)?;
            let _ = runtime::process::wait(pidfd.as_fd(), true);
            drop(tell);
            if let Some(learn) = learn {
                scope::give(learn);
            }
            Ok(())
        }
    }
}

/// Forks the leader's process.
fn serve(
    layout: &Layout,
    path: &Path,
    listener: BorrowedFd<'_>,
    estate: Option<&Estate>,
    alive: &FileLock,
    way_out: WayOut,
) -> Result<OwnedFd, CommandError> {
    let mut keep = vec![listener, alive.as_fd()];
    keep.extend(estate.map(|estate| estate.netns.as_fd()));
    keep.extend(estate.and_then(|estate| estate.way_out.as_ref()).map(|way_out| way_out.as_fd()));
    let servant = Servant { name: NAME, keep: &keep, dies_with_parent: false };
    Ok(spawn::servant(&servant, || lead(layout, path, listener, estate, way_out))?)
}

/// The leader's life.
fn lead(layout: &Layout, path: &Path, listener: BorrowedFd<'_>, estate: Option<&Estate>, way_out: WayOut) -> i32 {
    let Some(inside) = namespace(estate.map(|estate| estate.netns.as_fd()), &way_out) else { return 125 };
    let Ok(listener) = listener.try_clone_to_owned() else { return 125 };
    let Ok(leader) = Leader::new(listener, inside, way_out, estate) else { return 125 };
    let journal = layout.clone();
    let mut leader = leader.telling(move |refused| note(&journal, refused));
    // Nobody starts another one, or counts on this one, while we hold the lock. Who has started us holds it until connected.
    let ended = leader.run(|_| FileLock::try_exclusive(&layout.network_lock()).ok().flatten());
    let _ = std::fs::remove_file(path);
    i32::from(ended.is_err())
}

/// Notes in the journal what a container was refused.
fn note(layout: &Layout, refused: &Refused) {
    let Ok(record) = container::find(layout, &refused.container) else { return };
    let mut event = Event::container(&record, "refuse");
    event.attributes.insert("destination".to_owned(), refused.destination.clone());
    events::note(layout, &[event]);
}

/// Opens what the leader needs of the user's network namespace, which is made unless it is there.
fn namespace(netns: Option<BorrowedFd<'_>>, way_out: &WayOut) -> Option<Inside> {
    let pair = nix::sys::socket::socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC);
    let (ours, theirs) = pair.ok()?;
    let flags = if netns.is_some() { 0 } else { libc::CLONE_NEWNET as u64 };
    match clone3(flags, None).ok()? {
        Forked::Child => {
            let joined = netns.is_none_or(|netns| net::netlink::join(netns).is_ok());
            let inside = if joined { Inside::open(way_out.sysctls()).ok() } else { None };
            let sent = inside.is_some_and(|inside| inside.send(theirs.as_fd()).is_ok());
            std::process::exit(i32::from(!sent))
        }
        Forked::Parent { pidfd, .. } => {
            drop(theirs);
            let inside = Inside::receive(ours.as_fd()).ok().flatten();
            let _ = runtime::process::wait(pidfd.as_fd(), true);
            inside
        }
    }
}
