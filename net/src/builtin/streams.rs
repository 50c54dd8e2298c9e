//! TCP: a connection of the container's, and the socket of the host's that it leads to.
//!
//! ```text
//! container ─ segments ─▶ Connection ─ deliver ─▶ send ─▶ socket      what the socket does not take waits in `overflow`
//! container ◀─ segments ─ Connection ◀─ queue ◀── readv ─ socket      read only as much as the container takes at once
//! ```
//! A SYN is answered when the host's connect has succeeded, so that the container sees refusals as refusals.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::io::IoSliceMut;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, SockaddrStorage, connect, getsockopt, send, setsockopt,
    shutdown, socket, sockopt,
};
use nix::sys::uio::readv;

use super::address::{Addresses, Way};
use super::packet::Unreachable;
use super::resolver::Resolver;
use super::stack::{Token, Watch};
use super::tcp::{CAPACITY, Connection, Flags, Outgoing, Pool, Queue, Segment};
use super::timers::Timers;
use super::wire::Wire;
use crate::forward::slab::{Key, Slab};
use crate::sys;

/// Connections whose other side has not answered yet.
const MOST_OPENING: usize = 1024;

/// Rings of all connections together: what a container can make us hold is 128 MiB, if it tries.
const MOST_RINGS: usize = 512;

/// A connection's two ends, as the container sees them.
type Ends = (SocketAddr, SocketAddr);

#[derive(Debug)]
enum Phase {
    /// The host's connect is under way.
    Connecting(Segment<'static>),
    /// There is a connection on either side.
    Connected(Box<Connection>),
}

#[derive(Debug)]
struct Stream {
    ends: Ends,
    socket: Option<OwnedFd>,
    phase: Phase,
    /// What the host's socket has not taken.
    overflow: Queue,
    /// The host's socket has, or may have, something to read.
    is_readable: bool,
    has_ended: bool,
    is_shut: bool,
    is_dirty: bool,
    wakes_at: Option<Instant>,
}

/// All connections.
pub(super) struct Streams {
    streams: Slab<Stream>,
    by_ends: HashMap<Ends, Key>,
    opening: usize,
    most: usize,
    pool: Pool,
    /// Those that have something to send.
    dirty: Vec<Key>,
    /// Those that found no ring.
    starved: Vec<Key>,
    hasher: RandomState,
}

/// What connections work with.
pub(super) struct Context<'a> {
    pub(super) wire: &'a mut Wire,
    pub(super) watch: &'a Watch,
    pub(super) timers: &'a mut Timers,
    pub(super) addresses: &'a Addresses,
    pub(super) resolver: &'a mut Resolver,
    pub(super) now: Instant,
}

impl Streams {
    /// At most `most` connections.
    pub(super) fn new(most: usize) -> Self {
        Self {
            streams: Slab::new(),
            by_ends: HashMap::new(),
            opening: 0,
            most,
            pool: Pool::new(MOST_RINGS),
            dirty: Vec::new(),
            starved: Vec::new(),
            hasher: RandomState::new(),
        }
    }

    /// Takes a segment of the container's.
    pub(super) fn on_segment(&mut self, ends: Ends, segment: &Segment<'_>, context: &mut Context<'_>) {
        let is_syn = segment.flags.has(Flags::SYN) && !segment.flags.has(Flags::ACK);
        if let Some(key) = self.by_ends.get(&ends).copied() {
            let may_be_replaced = self.streams.get_mut(key).is_some_and(|stream| match &stream.phase {
                Phase::Connected(connection) => connection.may_be_replaced(),
                Phase::Connecting(_) => false,
            });
            if !(is_syn && may_be_replaced) {
                return self.on_known(key, segment, context);
            }
            self.remove(key);
        }
        if is_syn && !segment.flags.has(Flags::RST) {
            self.open(ends, segment, context);
        } else if let Some(reset) = Outgoing::reset_of(segment) {
            context.wire.segment(ends.1, ends.0, &reset, u32::MAX, (&[], &[]));
        }
    }

    fn on_known(&mut self, key: Key, segment: &Segment<'_>, context: &Context<'_>) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        let Phase::Connected(connection) = &mut stream.phase else {
            if segment.flags.has(Flags::RST) {
                self.remove(key);
            }
            return;
        };
        // Without a ring for what the host may not take, it has to come again.
        if !segment.payload.is_empty() && !stream.overflow.has_ring() && !self.pool.has_ring() {
            return;
        }
        let (socket, overflow, pool) = (&stream.socket, &mut stream.overflow, &mut self.pool);
        let mut is_broken = false;
        connection.on_segment(segment, context.now, |bytes| {
            is_broken |= !deliver(socket.as_ref(), overflow, pool, bytes);
        });
        if is_broken {
            connection.abort();
        }
        connection.on_room(stream.overflow.len());
        if !std::mem::replace(&mut stream.is_dirty, true) {
            self.dirty.push(key);
        }
    }

    fn open(&mut self, ends: Ends, syn: &Segment<'_>, context: &mut Context<'_>) {
        let (guest, dest) = ends;
        let router = context.addresses.router(dest.is_ipv4());
        let refuse = |context: &mut Context<'_>| {
            if let Some(reset) = Outgoing::reset_of(syn) {
                context.wire.segment(dest, guest, &reset, u32::MAX, (&[], &[]));
            }
        };
        let to = match context.addresses.way(dest) {
            Way::Host(to) => to,
            Way::Resolver => context.resolver.server(context.now),
            Way::Refused | Way::Ourselves => return refuse(context),
            Way::Unreachable(why) => return context.wire.syn_unreachable(router, guest, dest, syn.seq, why),
            Way::Ignored => return,
        };
        // What finds no room comes again in a second.
        if self.opening >= MOST_OPENING || self.streams.len() >= self.most {
            return;
        }
        let (socket, has_connected) = match open_socket(to) {
            Ok(opened) => opened,
            Err(errno) => return self.tell_failure(ends, syn, errno, context),
        };
        let syn = Segment { payload: &[], sacks: Default::default(), ..*syn };
        let stream = Stream {
            ends,
            socket: Some(socket),
            phase: Phase::Connecting(syn),
            overflow: Queue::default(),
            is_readable: false,
            has_ended: false,
            is_shut: false,
            is_dirty: false,
            wakes_at: None,
        };
        let key = self.streams.insert(stream);
        self.by_ends.insert(ends, key);
        self.opening += 1;
        if has_connected {
            self.on_connected(key, context);
        }
        let Some(stream) = self.streams.get_mut(key) else { return };
        if let Some(socket) = &stream.socket
            && context.watch.stream(socket.as_fd(), key).is_err()
        {
            self.remove(key);
        }
    }

    /// The host's connect has succeeded: the container's is accepted.
    fn on_connected(&mut self, key: Key, context: &mut Context<'_>) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        let Phase::Connecting(syn) = &stream.phase else { return };
        let initial = self.hasher.hash_one((stream.ends, context.now)) as u32;
        let mss = context.wire.mss(stream.ends.1.is_ipv4());
        let connection = Connection::accept(syn, initial, mss, CAPACITY as u32, context.now);
        stream.phase = Phase::Connected(Box::new(connection));
        self.opening -= 1;
        if !std::mem::replace(&mut stream.is_dirty, true) {
            self.dirty.push(key);
        }
    }

    /// Tells the container why there is no connection, in its own terms.
    fn tell_failure(&self, (guest, dest): Ends, syn: &Segment<'_>, errno: Errno, context: &mut Context<'_>) {
        let why = match errno {
            Errno::ENETUNREACH | Errno::EADDRNOTAVAIL | Errno::EAFNOSUPPORT => Unreachable::Network,
            Errno::EHOSTUNREACH | Errno::EHOSTDOWN => Unreachable::Host,
            Errno::EACCES | Errno::EPERM | Errno::EINVAL => Unreachable::Prohibited,
            // It gives up by itself, or tries again when there are descriptors.
            Errno::ETIMEDOUT | Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM => return,
            _ => {
                if let Some(reset) = Outgoing::reset_of(syn) {
                    context.wire.segment(dest, guest, &reset, u32::MAX, (&[], &[]));
                }
                return;
            }
        };
        context.wire.syn_unreachable(context.addresses.router(dest.is_ipv4()), guest, dest, syn.seq, why);
    }

    /// Something has happened to a socket of the host's.
    pub(super) fn on_socket(&mut self, key: Key, event: super::stack::Readiness, context: &mut Context<'_>) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        let Some(socket) = &stream.socket else { return };
        if let Phase::Connecting(syn) = &stream.phase {
            if !event.can_write && !event.has_failed {
                return;
            }
            match getsockopt(socket, sockopt::SocketError) {
                Ok(0) => self.on_connected(key, context),
                error => {
                    let errno = error.map_or_else(|errno| errno, Errno::from_raw);
                    let (ends, syn) = (stream.ends, *syn);
                    self.tell_failure(ends, &syn, errno, context);
                    return self.remove(key);
                }
            }
        }
        let Some(stream) = self.streams.get_mut(key) else { return };
        stream.is_readable |= event.can_read || event.has_failed;
        let Phase::Connected(connection) = &mut stream.phase else { return };
        if event.has_failed && stream.has_ended {
            // Nothing is read any more that would tell.
            if let Some(socket) = &stream.socket
                && getsockopt(socket, sockopt::SocketError) != Ok(0)
            {
                connection.abort();
            }
        }
        if event.can_write && stream.overflow.len() > 0 {
            if !empty(stream.socket.as_ref(), &mut stream.overflow) {
                connection.abort();
            }
            stream.overflow.release(&mut self.pool);
            connection.on_room(stream.overflow.len());
        }
        if !std::mem::replace(&mut stream.is_dirty, true) {
            self.dirty.push(key);
        }
    }

    /// Whether there is memory that nobody uses.
    pub(super) fn has_spare(&self) -> bool {
        self.pool.has_spare()
    }

    /// Lets go of it.
    pub(super) fn shrink(&mut self) {
        self.pool.shrink();
    }

    /// A connection wanted to be woken.
    pub(super) fn on_time(&mut self, key: Key, woken: Instant, now: Instant) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        if stream.wakes_at != Some(woken) {
            return;
        }
        stream.wakes_at = None;
        if let Phase::Connected(connection) = &mut stream.phase {
            connection.on_time(now);
        }
        if !std::mem::replace(&mut stream.is_dirty, true) {
            self.dirty.push(key);
        }
    }

    /// Sends what there is to be sent.
    pub(super) fn flush(&mut self, context: &mut Context<'_>) {
        let mut dirty = std::mem::take(&mut self.dirty);
        if !self.starved.is_empty() && self.pool.has_ring() {
            dirty.append(&mut self.starved);
        }
        for key in dirty.drain(..) {
            let Some(stream) = self.streams.get_mut(key) else { continue };
            stream.is_dirty = false;
            let Phase::Connected(connection) = &mut stream.phase else { continue };
            loop {
                let could_read = stream.is_readable && !stream.has_ended && connection.room() > 0;
                // All that is there, before any of it is sent: what was written in pieces becomes one segment, and the end
                // goes with the last of it.
                while stream.is_readable && !stream.has_ended && connection.room() > 0 {
                    let Some(socket) = &stream.socket else { break };
                    match fill(connection, socket, &mut self.pool) {
                        Some(Ok(0)) => {
                            stream.has_ended = true;
                            connection.finish();
                        }
                        Some(Ok(_)) | Some(Err(Errno::EINTR)) => {}
                        Some(Err(Errno::EAGAIN)) => stream.is_readable = false,
                        Some(Err(_)) => connection.abort(),
                        None => {
                            self.starved.push(key);
                            break;
                        }
                    }
                }
                connection.has_more = stream.is_readable && !stream.has_ended;
                let mut has_sent = false;
                while let Some(out) = connection.next(context.now) {
                    let payload = connection.sender.queue.slices(out.payload.offset, out.payload.len());
                    let (guest, dest) = stream.ends;
                    context.wire.segment(dest, guest, &out, connection.sender.mss(), payload);
                    has_sent = true;
                }
                let is_starved = self.starved.last() == Some(&key);
                if !could_read || is_starved || (!has_sent && connection.room() == 0) {
                    break;
                }
            }
            connection.sender.queue.release(&mut self.pool);
            if connection.receiver.is_finished() && stream.overflow.len() == 0 && !stream.is_shut {
                stream.is_shut = true;
                if let Some(socket) = &stream.socket {
                    let _ = shutdown(socket.as_raw_fd(), Shutdown::Write);
                }
            }
            if connection.is_closed() {
                self.remove(key);
                continue;
            }
            if connection.is_over() && stream.overflow.len() == 0 {
                stream.socket = None;
            }
            context.timers.set(Token::Stream(key).pack(), connection.deadline(), &mut stream.wakes_at);
        }
        if self.dirty.is_empty() {
            self.dirty = dirty;
        }
    }

    /// Forgets a connection. What its peer on the host's side has not got is lost: a reset says so.
    fn remove(&mut self, key: Key) {
        let Some(mut stream) = self.streams.remove(key) else { return };
        self.by_ends.remove(&stream.ends);
        match &mut stream.phase {
            Phase::Connecting(_) => self.opening -= 1,
            Phase::Connected(connection) => {
                connection.sender.queue.dismantle(&mut self.pool);
                if let Some(socket) = &stream.socket
                    && !(stream.has_ended && stream.is_shut)
                {
                    sys::set_linger_zero(socket.as_fd());
                }
            }
        }
        stream.overflow.dismantle(&mut self.pool);
        if self.streams.len() == 0 {
            self.pool.shrink();
        }
    }
}

/// A socket on its way to `to`, and whether it is there.
fn open_socket(to: SocketAddr) -> Result<(OwnedFd, bool), Errno> {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    // The container's side has thought about small segments already.
    let _ = setsockopt(&socket, sockopt::TcpNoDelay, &true);
    let _ = setsockopt(&socket, sockopt::KeepAlive, &true);
    match connect(socket.as_raw_fd(), &SockaddrStorage::from(to)) {
        Ok(()) => return Ok((socket, true)),
        Err(Errno::EINPROGRESS) => {}
        Err(errno) => return Err(errno),
    }
    // Who is on this machine has answered by now.
    match connect(socket.as_raw_fd(), &SockaddrStorage::from(to)) {
        Ok(()) | Err(Errno::EISCONN) => Ok((socket, true)),
        Err(Errno::EALREADY | Errno::EINPROGRESS | Errno::EINTR) => Ok((socket, false)),
        Err(errno) => Err(errno),
    }
}

/// Reads what the container has room for.
fn fill(connection: &mut Connection, socket: &OwnedFd, pool: &mut Pool) -> Option<Result<usize, Errno>> {
    let room = connection.room();
    connection.sender.queue.fill(pool, room, |first, second| {
        if second.is_empty() {
            return nix::unistd::read(socket, first);
        }
        readv(socket, &mut [IoSliceMut::new(first), IoSliceMut::new(second)])
    })
}

/// Gives bytes to the host's socket; what it does not take waits. False if the socket is broken.
fn deliver(socket: Option<&OwnedFd>, overflow: &mut Queue, pool: &mut Pool, bytes: &[u8]) -> bool {
    let Some(socket) = socket else { return false };
    let mut taken = 0;
    if overflow.len() == 0 {
        match send(socket.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
            Ok(count) => taken = count,
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) => return false,
        }
    }
    let rest = bytes.get(taken..).unwrap_or_default();
    if rest.is_empty() {
        return true;
    }
    let kept = overflow.fill(pool, rest.len(), |first, second| {
        let (front, back) = rest.split_at(first.len().min(rest.len()));
        first.copy_from_slice(front);
        if let Some(back) = back.get(..second.len()) {
            second.copy_from_slice(back);
        }
        Ok::<usize, Errno>(first.len() + second.len())
    });
    // The window was never wider than the ring.
    kept == Some(Ok(rest.len()))
}

/// Gives the host's socket what waits for it; false if it is broken.
fn empty(socket: Option<&OwnedFd>, overflow: &mut Queue) -> bool {
    let Some(socket) = socket else { return false };
    while overflow.len() > 0 {
        let (first, _) = overflow.slices(0, overflow.len());
        match send(socket.as_raw_fd(), first, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
            Ok(count) => overflow.consume(count),
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return true,
            Err(_) => return false,
        }
    }
    true
}
