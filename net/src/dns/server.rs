//! The server: who asks, what is on its way, when it is over.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::message::{self, Unfit, rcode};
use super::names::{Found, Names, Number};
use super::pending::Pending;
use super::resolvers::Resolvers;
use super::sockets::{PORT, Sockets};
use super::stream::Stream;
use crate::sys::{self, PacketSource};

/// Queries that are on their way at once, in sum and of one asker. Each has three sockets at most, six in the worst case.
const MOST_PENDING: usize = 256;
const MOST_PENDING_OF_ONE: usize = 128;

/// Connections of askers, in sum and of one.
const MOST_STREAMS: usize = 64;
const MOST_STREAMS_OF_ONE: usize = 16;

/// How long a connection may be idle.
const IDLE: Duration = Duration::from_secs(10);

/// Datagrams that are read from one socket before others get their turn.
const TURN: usize = 64;

/// The longest query, in bytes: those that programs make are ten times shorter.
const LONGEST_QUERY: usize = 4096;

/// Whom an answer goes to.
#[derive(Debug, Clone, Copy)]
enum Asker {
    /// To the source of a datagram that came over this socket.
    Datagram(usize, PacketSource),
    /// Over the connection of this number.
    Stream(u32, IpAddr),
}

impl Asker {
    fn ip(self) -> IpAddr {
        match self {
            Self::Datagram(_, source) => source.peer.ip(),
            Self::Stream(_, ip) => ip,
        }
    }
}

/// An asker's connection.
#[derive(Debug)]
struct Client {
    stream: Stream,
    ip: IpAddr,
    /// Its query is on its way: the next one is read after that.
    is_waiting: bool,
    /// When it is closed, unless it is waiting.
    until: Instant,
}

/// What an epoll event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Datagrams(usize),
    Listener(usize),
    Client(u32),
    /// An attempt of a query.
    Attempt(u32, u8),
}

/// A DNS server.
#[derive(Debug)]
pub struct Server {
    epoll: Epoll,
    sockets: Sockets,
    names: Names,
    resolvers: Resolvers,
    pending: BTreeMap<u32, (Asker, Pending)>,
    clients: BTreeMap<u32, Client>,
    last: u32,
    /// Answers that wait for their addresses to be open.
    held: VecDeque<Held>,
    refused: Vec<(Number, String)>,
}

/// An answer to a container that may not reach everything, with addresses of a name that it may reach.
#[derive(Debug)]
pub struct Held {
    asker: Asker,
    answer: Vec<u8>,
    /// The container.
    pub container: Number,
    /// Which of its rules are about the name.
    pub rules: Vec<usize>,
    /// Where the name leads.
    pub ips: Vec<IpAddr>,
    /// How long the answer lives.
    pub ttl: Duration,
}

impl Server {
    /// A server that passes on what it does not know to the servers in the file `resolv_conf`.
    ///
    /// # Errors
    /// Those of epoll(7).
    pub fn new(sockets: Sockets, resolv_conf: PathBuf) -> Result<Self, Errno> {
        Self::with_port(sockets, Resolvers::new(resolv_conf, PORT))
    }

    pub(super) fn with_port(sockets: Sockets, resolvers: Resolvers) -> Result<Self, Errno> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        for (at, socket) in sockets.datagrams.iter().enumerate() {
            epoll.add(socket, EpollEvent::new(EpollFlags::EPOLLIN, Token::Datagrams(at).pack()))?;
        }
        for (at, socket) in sockets.listeners.iter().enumerate() {
            epoll.add(socket, EpollEvent::new(EpollFlags::EPOLLIN, Token::Listener(at).pack()))?;
        }
        let (names, pending, clients) = (Names::default(), BTreeMap::new(), BTreeMap::new());
        let (held, refused) = (VecDeque::new(), Vec::new());
        Ok(Self { epoll, sockets, names, resolvers, pending, clients, last: 0, held, refused })
    }

    /// What it knows; a change is seen by the next query.
    pub fn names(&mut self) -> &mut Names {
        &mut self.names
    }

    /// When [`Server::serve`] has something to do, whatever is asked until then.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        let queries = self.pending.values().map(|(_, pending)| pending.due());
        let idle = self.clients.values().filter(|client| !client.is_waiting).map(|client| client.until);
        queries.chain(idle).min()
    }

    /// Does what there is to do, and does not wait. Call it when the descriptor is readable, or [`Server::due`] has come.
    pub fn serve(&mut self) {
        let mut events = [EpollEvent::empty(); 64];
        let count = self.epoll.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
        for event in events.iter().take(count) {
            match Token::unpack(event.data()) {
                Token::Datagrams(at) => self.on_datagrams(at),
                Token::Listener(at) => self.on_connections(at),
                Token::Client(number) => self.on_client(number),
                Token::Attempt(number, attempt) => self.on_attempt(number, attempt),
            }
        }
        self.on_time(Instant::now());
    }

    /// An answer that goes out when its addresses are open: [`Server::release`] it.
    pub fn held(&mut self) -> Option<Held> {
        self.held.pop_front()
    }

    /// The answer goes out, or, if its addresses could not be opened, that there is none now.
    pub fn release(&mut self, held: Held, is_open: bool) {
        if is_open {
            self.send(held.asker, &held.answer);
        } else {
            let mut failure = held.answer;
            message::fail(&mut failure);
            self.send(held.asker, &failure);
        }
        if let Asker::Stream(number, _) = held.asker {
            self.on_client(number);
        }
    }

    /// The names that containers asked for since the last time and may not reach.
    pub fn take_refused(&mut self) -> Vec<(Number, String)> {
        std::mem::take(&mut self.refused)
    }

    fn on_datagrams(&mut self, at: usize) {
        let mut buffer = [0; LONGEST_QUERY];
        for _ in 0..TURN {
            let Some(socket) = self.sockets.datagrams.get(at) else { return };
            match sys::receive_from(socket.as_fd(), &mut buffer) {
                Ok((len, source)) => {
                    let query = buffer.get(..len).unwrap_or_default();
                    self.on_query(query, Asker::Datagram(at, source));
                }
                Err(Errno::EAGAIN) => return,
                // Of an answer whose asker is gone.
                Err(_) => {}
            }
        }
    }

    fn on_connections(&mut self, at: usize) {
        for _ in 0..TURN {
            let Some(socket) = self.sockets.listeners.get(at) else { return };
            let Ok((socket, peer)) = sys::accept(socket.as_fd()) else { return };
            let ip = peer.ip();
            let of_one = self.clients.values().filter(|client| client.ip == ip).count();
            if self.clients.len() >= MOST_STREAMS || of_one >= MOST_STREAMS_OF_ONE {
                // Its close is the answer.
                continue;
            }
            let number = self.next_number();
            let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
            if self.epoll.add(&socket, EpollEvent::new(flags, Token::Client(number).pack())).is_ok() {
                let (stream, until) = (Stream::over(socket), Instant::now() + IDLE);
                self.clients.insert(number, Client { stream, ip, is_waiting: false, until });
            }
        }
    }

    /// Reads the next query of a connection, unless one is on its way.
    fn on_client(&mut self, number: u32) {
        loop {
            let Some(client) = self.clients.get_mut(&number) else { return };
            let proceeded = if client.is_waiting { client.stream.send() } else { client.stream.proceed() };
            if proceeded.is_err() {
                self.clients.remove(&number);
                return;
            }
            // Who does not read its answers gets no more of them.
            if client.is_waiting || !client.stream.has_sent() {
                return;
            }
            let Some(query) = client.stream.take_message() else { return };
            client.is_waiting = true;
            let ip = client.ip;
            self.on_query(&query, Asker::Stream(number, ip));
        }
    }

    fn on_query(&mut self, bytes: &[u8], asker: Asker) {
        let query = match message::query(bytes) {
            Err(Unfit::Silence) => {
                if let Asker::Stream(number, _) = asker {
                    self.clients.remove(&number);
                }
                return;
            }
            Err(Unfit::Answer(answer)) => return self.answer(asker, &answer),
            Ok(query) => query,
        };
        let limit = match asker {
            Asker::Datagram(..) => query.datagram_limit(),
            Asker::Stream(..) => usize::from(u16::MAX),
        };
        match self.names.look_up(asker.ip(), query.name().as_deref(), query.kind) {
            Found::Records(records) => self.answer(asker, &query.answer(rcode::NO_ERROR, &records, limit)),
            Found::Nothing => self.answer(asker, &query.answer(rcode::NO_SUCH_NAME, &[], limit)),
            Found::Refused => {
                let container = self.names.egress(asker.ip()).map(|(container, _)| container);
                let room = self.refused.len() < MOST_PENDING;
                self.refused.extend(container.zip(query.name()).filter(|_| room));
                // Whoever is told so asks nobody else.
                self.answer(asker, &query.answer(rcode::NO_SUCH_NAME, &[], limit));
            }
            Found::Others(servers) => {
                let of_one = self.pending.values().filter(|(other, _)| other.ip() == asker.ip()).count();
                if self.pending.len() >= MOST_PENDING || of_one >= MOST_PENDING_OF_ONE {
                    return self.answer(asker, &query.answer(rcode::SERVER_FAILURE, &[], limit));
                }
                let servers = match &servers[..] {
                    [] => self.resolvers.hosts(),
                    chosen => self.resolvers.chosen(chosen),
                };
                let number = self.next_number();
                let begun = Pending::begin(bytes, servers, &watch(&self.epoll, number));
                match begun {
                    Ok(pending) => drop(self.pending.insert(number, (asker, pending))),
                    Err(answer) => self.pass_on(asker, bytes, &answer),
                }
            }
        }
    }

    fn on_attempt(&mut self, number: u32, attempt: u8) {
        let Some((_, pending)) = self.pending.get_mut(&number) else { return };
        let heard = pending.on_event(attempt, &mut self.resolvers, &watch(&self.epoll, number));
        if let Some(answer) = heard {
            self.end(number, &answer);
        }
    }

    fn on_time(&mut self, now: Instant) {
        let due: Vec<u32> =
            self.pending.iter().filter(|(_, (_, pending))| pending.due() <= now).map(|(number, _)| *number).collect();
        for number in due {
            let Some((_, pending)) = self.pending.get_mut(&number) else { continue };
            let ended = pending.on_time(now, &mut self.resolvers, &watch(&self.epoll, number));
            if let Some(answer) = ended {
                self.end(number, &answer);
            }
        }
        self.clients.retain(|_, client| client.is_waiting || client.until > now);
    }

    fn end(&mut self, number: u32, answer: &[u8]) {
        if let Some((asker, pending)) = self.pending.remove(&number) {
            self.pass_on(asker, pending.query(), answer);
            if let Asker::Stream(number, _) = asker {
                // What has come meanwhile was announced then.
                self.on_client(number);
            }
        }
    }

    /// Gives somebody else's answer, if it fits.
    fn pass_on(&mut self, asker: Asker, query: &[u8], answer: &[u8]) {
        if let (Asker::Datagram(..), Ok(query)) = (asker, message::query(query))
            && answer.len() > query.datagram_limit()
        {
            let code = answer.get(3).map_or(rcode::SERVER_FAILURE, |flags| flags & 0xf);
            return self.answer(asker, &query.truncated(code));
        }
        self.answer(asker, answer);
    }

    fn answer(&mut self, asker: Asker, answer: &[u8]) {
        match self.hold(asker, answer) {
            Some(held) => self.held.push_back(held),
            None => self.send(asker, answer),
        }
    }

    /// What is to be done before an answer goes out.
    fn hold(&self, asker: Asker, answer: &[u8]) -> Option<Held> {
        let (container, egress) = self.names.egress(asker.ip())?;
        let found = message::addresses(answer)?;
        let rules = egress.about(&found.name?);
        (!rules.is_empty() && !found.ips.is_empty()).then(|| Held {
            asker,
            answer: answer.to_vec(),
            container,
            rules,
            ips: found.ips,
            ttl: Duration::from_secs(found.ttl.into()),
        })
    }

    fn send(&mut self, asker: Asker, answer: &[u8]) {
        match asker {
            Asker::Datagram(at, source) => {
                if let Some(socket) = self.sockets.datagrams.get(at) {
                    let _ = sys::send_from(socket.as_fd(), answer, source);
                }
            }
            Asker::Stream(number, _) => {
                let Some(client) = self.clients.get_mut(&number) else { return };
                client.stream.put(answer);
                (client.is_waiting, client.until) = (false, Instant::now() + IDLE);
                if client.stream.send().is_err() {
                    self.clients.remove(&number);
                }
            }
        }
    }

    fn next_number(&mut self) -> u32 {
        loop {
            self.last = self.last.wrapping_add(1);
            if !self.pending.contains_key(&self.last) && !self.clients.contains_key(&self.last) {
                return self.last;
            }
        }
    }
}

impl AsFd for Server {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}

/// How the sockets of a query's attempts are watched.
fn watch(epoll: &Epoll, number: u32) -> impl Fn(BorrowedFd<'_>, u8, EpollFlags) -> Result<(), Errno> {
    move |fd, attempt, flags| {
        epoll.add(fd, EpollEvent::new(flags | EpollFlags::EPOLLET, Token::Attempt(number, attempt).pack()))
    }
}

/// Two bits of kind, eight of attempt, thirty-two of number.
impl Token {
    fn pack(self) -> u64 {
        let at = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        let (kind, attempt, number) = match self {
            Self::Datagrams(place) => (0, 0, at(place)),
            Self::Listener(place) => (1, 0, at(place)),
            Self::Client(number) => (2, 0, number),
            Self::Attempt(number, attempt) => (3, attempt, number),
        };
        kind | u64::from(attempt) << 2 | u64::from(number) << 32
    }

    fn unpack(bits: u64) -> Self {
        let number = (bits >> 32) as u32;
        match bits & 3 {
            0 => Self::Datagrams(number as usize),
            1 => Self::Listener(number as usize),
            2 => Self::Client(number),
            _ => Self::Attempt(number, (bits >> 2) as u8),
        }
    }
}
