//! Forwarded UDP: a session for each client, with a socket in the container that has the client's address.
//!
//! Sessions end after a silence, as conntrack's do: 30 s after datagrams that had no answer, 120 s otherwise.

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, SockType, recv, send};

use super::address::{self, Addresses, Way};
use super::route::Routes;
use super::slab::{Key, Slab};
use crate::sys::{self, PacketSource};

const UNANSWERED: Duration = Duration::from_secs(30);
const ANSWERED: Duration = Duration::from_secs(120);

/// How often silent sessions are looked for.
pub(super) const SWEEP: Duration = Duration::from_secs(10);

/// Datagrams of one socket that are moved before others get their turn.
const TURN: usize = 64;

/// The largest datagram, in bytes.
const LARGEST: usize = 65_536;

/// A client's session.
#[derive(Debug)]
struct Session {
    listener: usize,
    client: PacketSource,
    container_port: u16,
    socket: OwnedFd,
    /// The address that has a route, ours in the container.
    source: Option<IpAddr>,
    is_fallback: bool,
    last: Instant,
    answered: bool,
}

/// All sessions.
#[derive(Debug)]
pub(super) struct Sessions {
    slab: Slab<Session>,
    by_client: HashMap<(usize, PacketSource), Key>,
    most: usize,
    buffer: Box<[u8]>,
}

/// What sessions need from the server.
pub(super) struct Context<'a> {
    pub(super) routes: &'a mut Routes,
    pub(super) addresses: &'a mut Addresses,
    /// Watches a session's socket for datagrams.
    pub(super) watch: &'a dyn Fn(BorrowedFd<'_>, Key) -> Result<(), Errno>,
}

impl Sessions {
    /// Room for `most` sessions; the longest silent one gives way to a new one.
    pub(super) fn new(most: usize) -> Self {
        Self { slab: Slab::new(), by_client: HashMap::new(), most, buffer: Box::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slab.len() == 0
    }

    /// Moves datagrams from clients into the container.
    pub(super) fn on_client_datagrams(
        &mut self,
        listener: usize,
        socket: BorrowedFd<'_>,
        container_port: u16,
        context: &mut Context<'_>,
    ) {
        if self.buffer.is_empty() {
            self.buffer = vec![0; LARGEST].into();
        }
        for _ in 0..TURN {
            let (len, client) = match sys::receive_from(socket, &mut self.buffer) {
                Ok(received) => received,
                Err(Errno::EAGAIN) => return,
                // An earlier answer did not arrive; its sender has no use for that.
                Err(_) => continue,
            };
            let key = match self.by_client.get(&(listener, client)) {
                Some(key) => *key,
                None => match self.open(listener, client, container_port, context) {
                    Some(key) => key,
                    None => continue,
                },
            };
            let Some(session) = self.slab.get_mut(key) else { continue };
            session.last = Instant::now();
            let bytes = self.buffer.get(..len).unwrap_or_default();
            let to = session.socket.as_raw_fd();
            // The first try may report that an earlier datagram was refused; the second sends.
            if send(to, bytes, MsgFlags::MSG_NOSIGNAL) == Err(Errno::ECONNREFUSED) {
                let _ = send(to, bytes, MsgFlags::MSG_NOSIGNAL);
            }
        }
    }

    /// Moves a session's answers to its client. `listener` gives the socket it came in by.
    pub(super) fn on_container_datagrams<'l>(
        &mut self,
        key: Key,
        listener: impl Fn(usize) -> Option<BorrowedFd<'l>>,
        context: &mut Context<'_>,
    ) {
        for _ in 0..TURN {
            let Some(session) = self.slab.get_mut(key) else { return };
            match recv(session.socket.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(len) => {
                    session.answered = true;
                    session.last = Instant::now();
                    if let (Some(outer), Some(bytes)) = (listener(session.listener), self.buffer.get(..len)) {
                        // A full queue or a vanished route drops the datagram, as on any network.
                        let _ = sys::send_from(outer, bytes, session.client);
                    }
                }
                Err(Errno::ECONNREFUSED) => self.fall_back(key, context),
                Err(_) => return,
            }
        }
    }

    /// Ends sessions that were silent for too long.
    pub(super) fn sweep(&mut self, routes: &mut Routes) {
        let silent = |session: &Session| session.last.elapsed() > if session.answered { ANSWERED } else { UNANSWERED };
        let over: Vec<Key> = self.slab.iter().filter(|(_, session)| silent(session)).map(|(key, _)| key).collect();
        for key in over {
            self.close(key, routes);
        }
    }

    fn open(
        &mut self,
        listener: usize,
        client: PacketSource,
        container_port: u16,
        context: &mut Context<'_>,
    ) -> Option<Key> {
        let way = context.addresses.way(&mut context.routes.netlink, client.peer, client.local, container_port)?;
        if self.slab.len() >= self.most
            && let Some((oldest, _)) = self.slab.iter().min_by_key(|(_, session)| session.last)
        {
            self.close(oldest, context.routes);
        }
        let (socket, source, is_fallback) = match connect(way, context.routes) {
            Some((socket, source)) => (socket, source, false),
            // An announced address is taken into use in steps; the client asks again.
            None if client.peer.is_ipv6() && !context.addresses.is_announced() => {
                let (socket, source) = connect(context.addresses.way_as_gateway(container_port)?, context.routes)?;
                (socket, source, true)
            }
            None => return None,
        };
        let last = Instant::now();
        let session = Session { listener, client, container_port, socket, source, is_fallback, last, answered: false };
        let key = self.slab.insert(session);
        self.by_client.insert((listener, client), key);
        let watched = self.slab.get_mut(key).map(|session| (context.watch)(session.socket.as_fd(), key));
        if !matches!(watched, Some(Ok(()))) {
            self.close(key, context.routes);
            return None;
        }
        Some(key)
    }

    /// Turns an IPv6 session that never had an answer to the service's IPv4 address, once; the client's next
    /// datagram goes there.
    fn fall_back(&mut self, key: Key, context: &mut Context<'_>) {
        let Some(session) = self.slab.get_mut(key) else { return };
        if session.is_fallback || session.answered || !session.client.peer.is_ipv6() {
            return;
        }
        session.is_fallback = true;
        let Some(way) = context.addresses.way_as_gateway(session.container_port) else { return };
        let Some((socket, source)) = connect(way, context.routes) else { return };
        if let Some(old) = std::mem::replace(&mut session.source, source) {
            context.routes.remove_client(old);
        }
        session.socket = socket;
        let _ = (context.watch)(session.socket.as_fd(), key);
    }

    fn close(&mut self, key: Key, routes: &mut Routes) {
        if let Some(session) = self.slab.remove(key) {
            self.by_client.remove(&(session.listener, session.client));
            if let Some(source) = session.source {
                routes.remove_client(source);
            }
        }
    }
}

/// A socket for the way, with a route for the answers.
fn connect(way: Way, routes: &mut Routes) -> Option<(OwnedFd, Option<IpAddr>)> {
    let socket = address::open(SockType::Datagram, way).ok()?;
    let source = way.source.map(|source| source.ip());
    if let Some(source) = source {
        routes.add_client(source, way.dest.ip()).ok()?;
    }
    Some((socket, source))
}
