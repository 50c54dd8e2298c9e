//! The forwarder's loop.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::SockType;

use super::address::{self, Addresses};
use super::listen::{Listener, Listeners};
use super::pipe::Pool;
use super::route::Routes;
use super::slab::{GENERATION_MASK, Key, Slab};
use super::tcp::{Connection, Side, Verdict};
use super::udp::{self, Sessions};
use super::{Change, Target};
use crate::leader::message;
use crate::ports::Protocol;
use crate::sys;

/// Descriptors of one connection in the worst case: two sockets, two pipes.
const PER_CONNECTION: u64 = 6;

/// More descriptors than this are not asked for: 10,000 connections are more than one thread should carry.
const MOST_DESCRIPTORS: u64 = 65_536;

/// Connections taken from one listener before others get their turn.
const ACCEPT_TURN: usize = 64;

/// How long to wait, in milliseconds, when the host has no descriptors left and we hold none.
const STARVED_MS: u8 = 100;

/// What an epoll event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Listener(usize),
    /// Ports come or go.
    Control,
    Tcp(Side, Key),
    Udp(Key),
}

/// The forwarder.
pub(super) struct Server<'a> {
    epoll: Epoll,
    control: BorrowedFd<'a>,
    /// `None` in the place of one that is served no more.
    listeners: Vec<Option<&'a Listener>>,
    routes: Routes,
    addresses: Addresses,
    connections: Slab<Connection>,
    most_connections: usize,
    is_accepting: bool,
    sessions: Sessions,
    pool: Pool,
    /// Connections that gave way to others.
    waiting: VecDeque<Key>,
    started: Instant,
    /// Connections that were refused and are to be tried again.
    refused: Vec<Key>,
}

impl<'a> Server<'a> {
    /// Sets up the namespace the process is in and watches the listeners.
    pub(super) fn new(listeners: &'a Listeners, control: BorrowedFd<'a>, target: Target) -> Result<Self, String> {
        let routes = Routes::set_up(&listeners.mappings())?;
        let listeners: Vec<Option<&Listener>> = listeners.iter().map(Some).collect();
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)
            .map_err(|e| format!("epoll_create1: {}", e.desc().to_lowercase()))?;
        let descriptors = raise_descriptor_limit();
        let fixed = u64::try_from(listeners.len()).unwrap_or(0) + 16;
        let free = descriptors.saturating_sub(fixed);
        // UDP sessions, of one descriptor each, get a quarter where there is UDP.
        let has_udp = listeners.iter().flatten().any(|l| l.mapping.protocol == Protocol::Udp);
        let for_udp = if has_udp { free / 4 } else { 0 };
        let room = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).max(1);
        let server = Self {
            epoll,
            control,
            listeners,
            routes,
            addresses: Addresses::new(target),
            connections: Slab::new(),
            most_connections: room((free - for_udp) / PER_CONNECTION),
            is_accepting: true,
            sessions: Sessions::new(room(for_udp)),
            pool: Pool::default(),
            waiting: VecDeque::new(),
            started: Instant::now(),
            refused: Vec::new(),
        };
        let failed = |e: Errno| format!("epoll_ctl: {}", e.desc().to_lowercase());
        server.epoll.add(control, EpollEvent::new(EpollFlags::EPOLLIN, Token::Control.pack())).map_err(failed)?;
        for (at, listener) in server.listeners.iter().enumerate() {
            let Some(listener) = listener else { continue };
            let event = EpollEvent::new(EpollFlags::EPOLLIN, Token::Listener(at).pack());
            server.epoll.add(&listener.socket, event).map_err(failed)?;
        }
        Ok(server)
    }

    /// Serves until the process is killed.
    ///
    /// # Errors
    /// epoll_wait's, which does not happen.
    pub(super) fn run(&mut self) -> Result<(), Errno> {
        let mut events = [EpollEvent::empty(); 256];
        let (mut swept, mut tried) = (Instant::now(), Instant::now());
        loop {
            // Without a connection there is none whose end would bring descriptors back: the host has run out.
            let is_starved = !self.is_accepting && self.connections.len() == 0;
            let timeout = if !self.waiting.is_empty() {
                EpollTimeout::ZERO
            } else if is_starved {
                EpollTimeout::from(STARVED_MS)
            } else if !self.refused.is_empty() {
                EpollTimeout::from(RETRY_MS)
            } else if self.sessions.is_empty() {
                EpollTimeout::NONE
            } else {
                EpollTimeout::try_from(udp::SWEEP).unwrap_or(EpollTimeout::NONE)
            };
            let count = match self.epoll.wait(&mut events, timeout) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                Err(errno) => return Err(errno),
            };
            if is_starved {
                self.set_accepting(true);
            }
            for event in events.iter().take(count) {
                self.on_event(Token::unpack(event.data()), event.events());
            }
            // Those that gave way, once each: they queue up again behind the events of the next round.
            for _ in 0..self.waiting.len() {
                let Some(key) = self.waiting.pop_front() else { break };
                if let Some(connection) = self.connections.get_mut(key) {
                    connection.is_queued = false;
                }
                self.pump(key);
            }
            if !self.refused.is_empty() && tried.elapsed().as_millis() >= RETRY_MS.into() {
                tried = Instant::now();
                std::mem::take(&mut self.refused).into_iter().for_each(|key| self.try_again(key));
            }
            if !self.sessions.is_empty() && swept.elapsed() >= udp::SWEEP {
                swept = Instant::now();
                self.sessions.sweep(&mut self.routes);
            }
        }
    }

    fn on_event(&mut self, token: Token, events: EpollFlags) {
        match token {
            Token::Control => self.on_control(),
            Token::Listener(at) => match self.listeners.get(at).copied().flatten() {
                Some(listener) if listener.mapping.protocol == Protocol::Tcp => self.accept(listener),
                Some(listener) => {
                    let (epoll, watch) = (&self.epoll, watch_session);
                    let mut context = udp::Context {
                        routes: &mut self.routes,
                        addresses: &mut self.addresses,
                        watch: &|fd, key| watch(epoll, fd, key),
                    };
                    let port = listener.mapping.container_port;
                    self.sessions.on_client_datagrams(at, listener.socket.as_fd(), port, &mut context);
                }
                None => {}
            },
            Token::Tcp(side, key) => {
                let Some(connection) = self.connections.get_mut(key) else { return };
                match connection.on_event(side, events) {
                    Verdict::Refused => self.on_refusal(key),
                    Verdict::Reset => self.close(key, true),
                    _ => self.pump(key),
                }
            }
            Token::Udp(key) => {
                let (epoll, watch) = (&self.epoll, watch_session);
                let mut context = udp::Context {
                    routes: &mut self.routes,
                    addresses: &mut self.addresses,
                    watch: &|fd, key| watch(epoll, fd, key),
                };
                let listeners = &self.listeners;
                self.sessions.on_container_datagrams(
                    key,
                    |at| listeners.get(at).copied().flatten().map(|l| l.socket.as_fd()),
                    &mut context,
                );
            }
        }
    }

    /// The supervisor says what is served from now on.
    fn on_control(&mut self) {
        match message::receive(self.control) {
            Ok(Some((Change::Add(mapping), sockets))) => {
                let Some(socket) = sockets.into_iter().next() else { return };
                if mapping.protocol == Protocol::Udp && self.routes.add_udp_port(mapping.container_port).is_err() {
                    return;
                }
                // Few come and go, and the process ends with the container.
                let listener: &Listener = Box::leak(Box::new(Listener { mapping, socket, is_held: false }));
                let event = EpollEvent::new(EpollFlags::EPOLLIN, Token::Listener(self.listeners.len()).pack());
                if self.epoll.add(&listener.socket, event).is_ok() {
                    self.listeners.push(Some(listener));
                }
            }
            Ok(Some((Change::Remove(mapping), _))) => {
                let place = self.listeners.iter_mut().find(|one| one.is_some_and(|one| one.mapping == mapping));
                if let Some(listener) = place.and_then(Option::take) {
                    let _ = self.epoll.delete(&listener.socket);
                    // The value belongs to nobody in this process, and is used no more.
                    let fd = listener.socket.as_raw_fd();
                    sys::close_range(fd, fd);
                }
                let _ = message::send(self.control, &(), &[]);
            }
            // The supervisor has ended, and so does this process.
            Ok(None) | Err(_) => {
                let _ = self.epoll.delete(self.control);
            }
        }
    }

    fn accept(&mut self, listener: &Listener) {
        for _ in 0..ACCEPT_TURN {
            if self.connections.len() >= self.most_connections {
                self.set_accepting(false);
                return;
            }
            match sys::accept(listener.socket.as_fd()) {
                // A socket of both families has IPv4's clients by names of IPv6.
                Ok((outer, peer)) => self.open(listener, outer, SocketAddr::new(peer.ip().to_canonical(), peer.port())),
                Err(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM) => {
                    self.set_accepting(false);
                    return;
                }
                Err(Errno::EAGAIN) => return,
                // The client gave up while it waited.
                Err(_) => {}
            }
        }
    }

    fn open(&mut self, listener: &Listener, outer: OwnedFd, peer: SocketAddr) {
        let mapping = &listener.mapping;
        let local = if mapping.host_ip.is_unspecified() { local_ip(&outer) } else { Some(mapping.host_ip) };
        let local = local.unwrap_or(mapping.host_ip);
        let way = self.addresses.way(&mut self.routes.netlink, peer, local, mapping.container_port);
        let (inner, is_fallback) = match way.map(|way| address::open(SockType::Stream, way)) {
            Some(Ok(inner)) => (Some(inner), false),
            Some(Err(_)) if peer.is_ipv6() => (self.open_ipv4(mapping.container_port), true),
            _ => (None, false),
        };
        let Some(inner) = inner else {
            sys::set_linger_zero(outer.as_fd());
            return;
        };
        let mut connection = Connection::new(outer, inner, peer, mapping.container_port);
        connection.is_fallback = is_fallback;
        connection.patient_until = listener.is_held.then(|| self.started + FIRST_START);
        let key = self.connections.insert(connection);
        let Some(connection) = self.connections.get_mut(key) else { return };
        let outer = watch_connection(&self.epoll, connection.outer.as_fd(), Side::Outer, key);
        let inner = watch_connection(&self.epoll, connection.inner.as_fd(), Side::Inner, key);
        if outer.and(inner).is_err() {
            self.close(key, true);
        }
    }

    /// What was sent to a port before the container began is not lost because its service does not listen yet.
    fn on_refusal(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let has_both = connection.peer.is_ipv6() && !connection.is_fallback;
        if !has_both && connection.patient_until.is_some_and(|until| Instant::now() < until) {
            return self.refused.push(key);
        }
        self.try_ipv4(key);
    }

    fn try_again(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let (peer, port) = (connection.peer, connection.container_port);
        let Some(local) = local_ip(&connection.outer) else { return self.close(key, true) };
        let way = self.addresses.way(&mut self.routes.netlink, peer, local, port);
        let inner = way.and_then(|way| address::open(SockType::Stream, way).ok());
        let Some(connection) = self.connections.get_mut(key) else { return };
        match inner {
            Some(inner) => {
                connection.replace_inner(inner);
                connection.is_fallback = false;
            }
            None => return self.on_refusal(key),
        }
        if watch_connection(&self.epoll, connection.inner.as_fd(), Side::Inner, key).is_err() {
            self.close(key, true);
        }
    }

    /// A service that refused IPv6 may listen on IPv4 alone; one that refuses both gets its refusal passed on.
    fn try_ipv4(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        if connection.peer.is_ipv4() || connection.is_fallback {
            return self.close(key, true);
        }
        let port = connection.container_port;
        let Some(inner) = self.open_ipv4(port) else { return self.close(key, true) };
        let Some(connection) = self.connections.get_mut(key) else { return };
        connection.replace_inner(inner);
        if watch_connection(&self.epoll, connection.inner.as_fd(), Side::Inner, key).is_err() {
            self.close(key, true);
        }
    }

    fn open_ipv4(&self, port: u16) -> Option<OwnedFd> {
        address::open(SockType::Stream, self.addresses.way_as_gateway(port)?).ok()
    }

    fn pump(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        match connection.pump(&mut self.pool) {
            Verdict::Wait => {}
            Verdict::Again => {
                if !connection.is_queued {
                    connection.is_queued = true;
                    self.waiting.push_back(key);
                }
            }
            Verdict::Close => self.close(key, false),
            Verdict::Reset | Verdict::Refused => self.close(key, true),
        }
    }

    fn close(&mut self, key: Key, reset: bool) {
        if let Some(connection) = self.connections.remove(key) {
            connection.dismantle(&mut self.pool, reset);
            self.set_accepting(true);
        }
    }

    /// Listeners are level-triggered: when there is no room they must not be watched.
    fn set_accepting(&mut self, accept: bool) {
        if std::mem::replace(&mut self.is_accepting, accept) == accept {
            return;
        }
        let flags = if accept { EpollFlags::EPOLLIN } else { EpollFlags::empty() };
        for (at, listener) in self.listeners.iter().enumerate() {
            if let Some(listener) = listener.filter(|one| one.mapping.protocol == Protocol::Tcp) {
                let _ = self.epoll.modify(&listener.socket, &mut EpollEvent::new(flags, Token::Listener(at).pack()));
            }
        }
    }
}

fn watch_connection(epoll: &Epoll, fd: BorrowedFd<'_>, side: Side, key: Key) -> Result<(), Errno> {
    let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
    epoll.add(fd, EpollEvent::new(flags, Token::Tcp(side, key).pack()))
}

fn watch_session(epoll: &Epoll, fd: BorrowedFd<'_>, key: Key) -> Result<(), Errno> {
    epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, Token::Udp(key).pack()))
}

fn local_ip(socket: &OwnedFd) -> Option<IpAddr> {
    sys::local_addr(socket.as_fd()).ok().map(|addr| addr.ip().to_canonical())
}

/// Takes as many descriptors as the hard limit gives, within reason; returns the limit that holds.
pub(crate) fn raise_descriptor_limit() -> u64 {
    crate::process::raise_descriptor_limit(MOST_DESCRIPTORS)
}

/// How long a service may take after the start until it listens on a port that was open before.
const FIRST_START: Duration = Duration::from_secs(60);

/// How often it is asked meanwhile.
const RETRY_MS: u8 = 100;

/// No listener has this index.
const CONTROL: u32 = u32::MAX;

/// Two bits of kind, thirty of generation, thirty-two of index.
impl Token {
    fn pack(self) -> u64 {
        let (kind, key) = match self {
            Self::Listener(at) => (0, Key { index: u32::try_from(at).unwrap_or(CONTROL - 1), generation: 0 }),
            Self::Control => (0, Key { index: CONTROL, generation: 0 }),
            Self::Tcp(Side::Outer, key) => (1, key),
            Self::Tcp(Side::Inner, key) => (2, key),
            Self::Udp(key) => (3, key),
        };
        kind | u64::from(key.generation & GENERATION_MASK) << 2 | u64::from(key.index) << 32
    }

    fn unpack(bits: u64) -> Self {
        let key = Key { index: (bits >> 32) as u32, generation: (bits >> 2) as u32 & GENERATION_MASK };
        match bits & 3 {
            0 if key.index == CONTROL => Self::Control,
            0 => Self::Listener(key.index as usize),
            1 => Self::Tcp(Side::Outer, key),
            2 => Self::Tcp(Side::Inner, key),
            _ => Self::Udp(key),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_kernel() {
        let key = Key { index: u32::MAX, generation: GENERATION_MASK };
        for token in [
            Token::Listener(7),
            Token::Control,
            Token::Tcp(Side::Outer, key),
            Token::Tcp(Side::Inner, Key { index: 0, generation: 1 }),
            Token::Udp(key),
        ] {
            assert_eq!(Token::unpack(token.pack()), token);
        }
    }
}
