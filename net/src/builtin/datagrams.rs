//! UDP and echo requests: a connected socket of the host's for each pair of ends, for as long as they talk.
//!
//! Echo requests leave by ping sockets, which need no capability but a `net.ipv4.ping_group_range` with the user's group in
//! it. Without that the container is told that they are prohibited.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, connect, recv, send, socket,
};

use super::address::Way;
use super::packet::{Ip, Unreachable};
use super::stack::Token;
use super::streams::Context;
use crate::forward::slab::{Key, Slab};

/// How long a pair that has heard no answer is kept, as conntrack does.
const UNANSWERED: Duration = Duration::from_secs(30);

/// How long a pair is kept that talks.
const ANSWERED: Duration = Duration::from_secs(180);

/// How long an exchange with a name server or by echo requests is kept.
const SHORT: Duration = Duration::from_secs(15);

/// Datagrams taken from one socket before others get their turn.
const TURN: usize = 64;

/// What two ends exchange. Ends of echo requests have their id as the container's port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Udp,
    Echo,
}

type Ends = (Kind, SocketAddr, SocketAddr);

#[derive(Debug)]
struct Flow {
    ends: Ends,
    socket: OwnedFd,
    /// The name server that is asked, where it is one.
    server: Option<SocketAddr>,
    /// Requests without an answer.
    unanswered: u32,
    has_answer: bool,
    expires: Instant,
    wakes_at: Option<Instant>,
}

/// All pairs.
pub(super) struct Datagrams {
    flows: Slab<Flow>,
    by_ends: HashMap<Ends, Key>,
    most: usize,
}

impl Datagrams {
    /// At most `most` pairs.
    pub(super) fn new(most: usize) -> Self {
        Self { flows: Slab::new(), by_ends: HashMap::new(), most }
    }

    /// Takes a datagram of the container's.
    pub(super) fn on_datagram(&mut self, ip: &Ip<'_>, ports: (u16, u16), payload: &[u8], context: &mut Context<'_>) {
        let (guest, dest) = (SocketAddr::new(ip.source, ports.0), SocketAddr::new(ip.dest, ports.1));
        let way = context.addresses.way(dest);
        self.pass_on((Kind::Udp, guest, dest), way, ip, payload, context);
    }

    /// Takes an echo request of the container's.
    pub(super) fn on_echo(
        &mut self,
        ip: &Ip<'_>,
        (id, sequence): (u16, u16),
        payload: &[u8],
        context: &mut Context<'_>,
    ) {
        let way = context.addresses.echo_way(ip.dest);
        if way == Way::Ourselves {
            return context.wire.echo_reply(ip.dest, ip.source, id, sequence, payload);
        }
        let kind = if ip.source.is_ipv4() { 8 } else { 128 };
        let [high, low] = sequence.to_be_bytes();
        // The kernel writes checksum and id.
        let message = [&[kind, 0, 0, 0, 0, 0, high, low], payload].concat();
        let ends = (Kind::Echo, SocketAddr::new(ip.source, id), SocketAddr::new(ip.dest, 0));
        self.pass_on(ends, way, ip, &message, context);
    }

    fn pass_on(&mut self, ends: Ends, way: Way, ip: &Ip<'_>, message: &[u8], context: &mut Context<'_>) {
        let key = match self.by_ends.get(&ends) {
            Some(key) => *key,
            None => match self.open(ends, way, context) {
                Ok(key) => key,
                Err(None) => return,
                Err(Some(why)) => return tell(ip, why, context),
            },
        };
        let Some(flow) = self.flows.get_mut(key) else { return };
        flow.unanswered = flow.unanswered.saturating_add(1);
        if let Some(server) = flow.server
            && flow.unanswered > 1
        {
            // Asked again: the next server gets it, over a new socket.
            context.resolver.is_silent(server);
            let next = context.resolver.server(context.now);
            if next != server
                && let Ok(socket) = open_socket(Kind::Udp, next)
                && context.watch.datagrams(socket.as_fd(), key).is_ok()
            {
                (flow.socket, flow.server) = (socket, Some(next));
            }
        }
        flow.prolong(context.now);
        // A second try: the first may report what became of the datagram before.
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let sent = send(flow.socket.as_raw_fd(), message, flags).or_else(|errno| match errno {
            Errno::EAGAIN | Errno::EMSGSIZE => Err(errno),
            _ => send(flow.socket.as_raw_fd(), message, flags),
        });
        if let Err(errno) = sent
            && let Some(why) = reason(errno)
        {
            tell(ip, why, context);
        }
        let expires = flow.expires;
        context.timers.set(Token::Datagrams(key).pack(), Some(expires), &mut flow.wakes_at);
    }

    fn open(&mut self, ends: Ends, way: Way, context: &mut Context<'_>) -> Result<Key, Option<Unreachable>> {
        let to = match way {
            Way::Host(to) => to,
            Way::Resolver => context.resolver.server(context.now),
            Way::Refused | Way::Ourselves => return Err(Some(Unreachable::Port)),
            Way::Unreachable(why) => return Err(Some(why)),
            Way::Ignored => return Err(None),
        };
        if self.flows.len() >= self.most {
            self.evict();
        }
        let socket = open_socket(ends.0, to).map_err(reason)?;
        let flow = Flow {
            ends,
            socket,
            server: (way == Way::Resolver).then_some(to),
            unanswered: 0,
            has_answer: false,
            expires: context.now,
            wakes_at: None,
        };
        let key = self.flows.insert(flow);
        let watched = self.flows.get_mut(key).map(|flow| context.watch.datagrams(flow.socket.as_fd(), key));
        if !matches!(watched, Some(Ok(()))) {
            self.flows.remove(key);
            return Err(None);
        }
        self.by_ends.insert(ends, key);
        Ok(key)
    }

    /// Makes room: who would have to go first goes now.
    fn evict(&mut self) {
        let first = self.flows.iter().min_by_key(|(_, flow)| (flow.has_answer, flow.expires)).map(|(key, _)| key);
        if let Some(key) = first {
            self.remove(key);
        }
    }

    /// Something has come for the container.
    pub(super) fn on_socket(&mut self, key: Key, buffer: &mut [u8], context: &mut Context<'_>) {
        let Some(flow) = self.flows.get_mut(key) else { return };
        let (kind, guest, dest) = flow.ends;
        for _ in 0..TURN {
            match recv(flow.socket.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(len) => {
                    let payload = buffer.get(..len).unwrap_or_default();
                    (flow.unanswered, flow.has_answer) = (0, true);
                    flow.prolong(context.now);
                    match (kind, payload) {
                        (Kind::Udp, payload) => context.wire.datagram(dest, guest, payload),
                        (Kind::Echo, [0 | 129, _, _, _, _, _, high, low, rest @ ..]) => {
                            let sequence = u16::from_be_bytes([*high, *low]);
                            context.wire.echo_reply(dest.ip(), guest.ip(), guest.port(), sequence, rest);
                        }
                        (Kind::Echo, _) => {}
                    }
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => break,
                Err(errno) => {
                    if kind == Kind::Udp
                        && let Some(why) = reason(errno)
                    {
                        let router =
                            if why == Unreachable::Port { dest.ip() } else { context.addresses.router(dest.is_ipv4()) };
                        context.wire.datagram_unreachable(router, guest, dest, why);
                    }
                }
            }
        }
    }

    /// A pair may be over.
    pub(super) fn on_time(&mut self, key: Key, woken: Instant, context: &mut Context<'_>) {
        let Some(flow) = self.flows.get_mut(key) else { return };
        if flow.wakes_at != Some(woken) {
            return;
        }
        flow.wakes_at = None;
        if flow.expires <= context.now {
            return self.remove(key);
        }
        let expires = flow.expires;
        context.timers.set(Token::Datagrams(key).pack(), Some(expires), &mut flow.wakes_at);
    }

    fn remove(&mut self, key: Key) {
        if let Some(flow) = self.flows.remove(key) {
            self.by_ends.remove(&flow.ends);
        }
    }
}

impl Flow {
    fn prolong(&mut self, now: Instant) {
        let (kind, _, dest) = self.ends;
        self.expires = now
            + match (kind, self.has_answer) {
                (Kind::Echo, _) => SHORT,
                (Kind::Udp, _) if dest.port() == 53 => SHORT,
                (Kind::Udp, true) => ANSWERED,
                (Kind::Udp, false) => UNANSWERED,
            };
    }
}

fn open_socket(kind: Kind, to: SocketAddr) -> Result<OwnedFd, Errno> {
    let (family, icmp) = match to {
        SocketAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp),
        SocketAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6),
    };
    let protocol = if kind == Kind::Echo { Some(icmp) } else { None };
    let socket = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, protocol)?;
    connect(socket.as_raw_fd(), &SockaddrStorage::from(to))?;
    Ok(socket)
}

/// What an error of the host's means for the container; `None` where it gets none.
fn reason(errno: Errno) -> Option<Unreachable> {
    match errno {
        Errno::ECONNREFUSED => Some(Unreachable::Port),
        Errno::ENETUNREACH | Errno::EADDRNOTAVAIL | Errno::EAFNOSUPPORT => Some(Unreachable::Network),
        Errno::EHOSTUNREACH | Errno::EHOSTDOWN => Some(Unreachable::Host),
        Errno::EACCES | Errno::EPERM | Errno::EPROTONOSUPPORT => Some(Unreachable::Prohibited),
        _ => None,
    }
}

fn tell(ip: &Ip<'_>, why: Unreachable, context: &Context<'_>) {
    let router = if why == Unreachable::Port { ip.dest } else { context.addresses.router(ip.source.is_ipv4()) };
    context.wire.unreachable(router, ip.source, why, ip.whole);
}
