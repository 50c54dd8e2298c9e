//! A query that was passed on: servers are asked one after the other until one answers or time is up.
//!
//! ```text
//! 0 s  first server ── answer ─────────────────────────▶ to the asker
//! 1 s  second server      ├─ "server failed" ─▶ the next server, at once
//! 2 s  third server       └─ truncated ─▶ the same server over TCP
//! 2.5 s  the best that was heard, or SERVFAIL
//! ```
//! Each attempt has a socket of its own, connected: a port that nobody can guess, and nobody else is heard on it. A late
//! answer counts as well.

use std::net::SocketAddr;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, SockaddrStorage, connect, recv, send, socket};

use super::message::{self, Query, rcode};
use super::resolvers::Resolvers;
use super::stream::Stream;
use crate::sys;

/// How long a server has before the next one is asked.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long the asker waits in the worst case. Its own resolver asks again after five seconds, musl's after two and a half.
const DEADLINE: Duration = Duration::from_millis(2500);

/// How many attempts there are over UDP, a second apart.
const MOST_ATTEMPTS: usize = 3;

/// The largest datagram, in bytes: what is asked for is passed on as well.
const LARGEST: usize = 65_535;

/// Watches a socket under the number of its attempt.
pub(super) type Watch<'a> = &'a dyn Fn(BorrowedFd<'_>, u8, EpollFlags) -> Result<(), Errno>;

/// One server that was asked.
#[derive(Debug)]
struct Attempt {
    number: u8,
    id: u16,
    server: SocketAddr,
    way: Way,
}

#[derive(Debug)]
enum Way {
    Datagram(OwnedFd),
    Stream(Stream),
}

/// What became of an attempt.
enum Heard {
    NothingYet,
    Answer(Vec<u8>),
    End,
}

/// A query on its way.
#[derive(Debug)]
pub(super) struct Pending {
    query: Vec<u8>,
    servers: Vec<SocketAddr>,
    asked: usize,
    attempts: Vec<Attempt>,
    last_number: u8,
    /// What is better than our own word that nobody answered.
    second_best: Option<Vec<u8>>,
    deadline: Instant,
    next: Instant,
}

impl Pending {
    /// Asks the first server. The query is one that [`message::query`] took.
    pub(super) fn begin(query: &[u8], servers: Vec<SocketAddr>, watch: Watch<'_>) -> Result<Self, Vec<u8>> {
        let now = Instant::now();
        let mut pending = Self {
            query: query.to_vec(),
            servers,
            asked: 0,
            attempts: Vec::new(),
            last_number: 0,
            second_best: None,
            deadline: now + DEADLINE,
            next: now,
        };
        match pending.ask_next(watch) {
            None => Ok(pending),
            Some(answer) => Err(answer),
        }
    }

    /// What was asked.
    pub(super) fn query(&self) -> &[u8] {
        &self.query
    }

    /// When [`Pending::on_time`] has something to do.
    pub(super) fn due(&self) -> Instant {
        self.next.min(self.deadline)
    }

    /// A server was silent for too long.
    pub(super) fn on_time(&mut self, now: Instant, resolvers: &mut Resolvers, watch: Watch<'_>) -> Option<Vec<u8>> {
        if now < self.due() {
            return None;
        }
        for attempt in self.attempts.iter().filter(|attempt| matches!(attempt.way, Way::Datagram(_))) {
            resolvers.distrust(attempt.server);
        }
        if now >= self.deadline {
            return Some(self.best());
        }
        self.ask_next(watch)
    }

    /// The socket of an attempt has something to say.
    pub(super) fn on_event(&mut self, number: u8, resolvers: &mut Resolvers, watch: Watch<'_>) -> Option<Vec<u8>> {
        let at = self.attempts.iter().position(|attempt| attempt.number == number)?;
        let answer = match self.listen(at) {
            Heard::NothingYet => return None,
            Heard::Answer(answer) => Some(answer),
            Heard::End => None,
        };
        let attempt = self.attempts.remove(at);
        let Some(answer) = answer else { return self.on_failure(watch) };
        resolvers.trust(attempt.server);
        let reply = self.read()?.is_answered_by(attempt.id, &answer)?;
        let answer = message::with_id(&answer, self.read()?.id());
        if matches!(reply.code, rcode::SERVER_FAILURE | rcode::NOT_IMPLEMENTED | rcode::REFUSED) {
            self.second_best.get_or_insert(answer);
            return self.on_failure(watch);
        }
        if !reply.is_truncated || matches!(attempt.way, Way::Stream(_)) {
            return Some(answer);
        }
        self.second_best = Some(answer);
        match self.ask_over_tcp(attempt.server, watch) {
            Ok(()) => None,
            Err(_) => self.on_failure(watch),
        }
    }

    fn read(&self) -> Option<Query<'_>> {
        message::query(&self.query).ok()
    }

    /// Reads what an attempt has brought.
    fn listen(&mut self, at: usize) -> Heard {
        let Ok(query) = message::query(&self.query) else { return Heard::End };
        let Some(attempt) = self.attempts.get_mut(at) else { return Heard::NothingYet };
        match &mut attempt.way {
            Way::Stream(stream) => match stream.proceed() {
                Err(_) => Heard::End,
                Ok(()) => match stream.take_message() {
                    Some(answer) if query.is_answered_by(attempt.id, &answer).is_some() => Heard::Answer(answer),
                    Some(_) => Heard::End,
                    None => Heard::NothingYet,
                },
            },
            Way::Datagram(socket) => {
                let mut buffer = [0; LARGEST];
                loop {
                    match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                        Ok(len) => {
                            let answer = buffer.get(..len).unwrap_or_default();
                            if query.is_answered_by(attempt.id, answer).is_some() {
                                return Heard::Answer(answer.to_vec());
                            }
                            // Somebody guesses: the answer may come yet.
                        }
                        Err(Errno::EAGAIN) => return Heard::NothingYet,
                        Err(Errno::EINTR) => {}
                        Err(_) => return Heard::End,
                    }
                }
            }
        }
    }

    /// An attempt is over; others may not be.
    fn on_failure(&mut self, watch: Watch<'_>) -> Option<Vec<u8>> {
        // A truncated answer is better than what another server may say.
        if self.asked < self.servers.len() && !self.is_truncated() {
            return self.ask_next(watch);
        }
        self.attempts.is_empty().then(|| self.best())
    }

    fn is_truncated(&self) -> bool {
        let code = |answer: &Vec<u8>| answer.get(3).map(|flags| flags & 0xf);
        self.second_best.as_ref().and_then(code).is_some_and(|code| code == rcode::NO_ERROR)
    }

    /// Asks the next server, in its turn again if there are fewer than attempts.
    fn ask_next(&mut self, watch: Watch<'_>) -> Option<Vec<u8>> {
        while self.asked < MOST_ATTEMPTS.max(self.servers.len()) {
            let server = self.servers.get(self.asked % self.servers.len().max(1)).copied();
            let Some(server) = server else { break };
            self.asked += 1;
            self.next = Instant::now() + PATIENCE;
            if self.ask(server, watch).is_ok() {
                return None;
            }
        }
        self.next = self.deadline;
        self.attempts.is_empty().then(|| self.best())
    }

    fn ask(&mut self, server: SocketAddr, watch: Watch<'_>) -> Result<(), Errno> {
        let socket = open(server, SockType::Datagram)?;
        connect(socket.as_raw_fd(), &SockaddrStorage::from(server))?;
        let id = sys::random_u16()?;
        let query = message::with_id(&self.query, id);
        send(socket.as_raw_fd(), &query, MsgFlags::MSG_NOSIGNAL)?;
        self.add(server, id, Way::Datagram(socket), watch)
    }

    fn ask_over_tcp(&mut self, server: SocketAddr, watch: Watch<'_>) -> Result<(), Errno> {
        let socket = open(server, SockType::Stream)?;
        match connect(socket.as_raw_fd(), &SockaddrStorage::from(server)) {
            Ok(()) | Err(Errno::EINPROGRESS) => {}
            Err(errno) => return Err(errno),
        }
        let id = sys::random_u16()?;
        let mut stream = Stream::over(socket);
        stream.put(&message::with_id(&self.query, id));
        self.add(server, id, Way::Stream(stream), watch)
    }

    fn add(&mut self, server: SocketAddr, id: u16, way: Way, watch: Watch<'_>) -> Result<(), Errno> {
        self.last_number = self.last_number.wrapping_add(1);
        let attempt = Attempt { number: self.last_number, id, server, way };
        let (fd, flags) = match &attempt.way {
            Way::Datagram(socket) => (socket.as_fd(), EpollFlags::EPOLLIN),
            Way::Stream(stream) => (stream.as_fd(), EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT),
        };
        watch(fd, attempt.number, flags)?;
        self.attempts.push(attempt);
        Ok(())
    }

    fn best(&mut self) -> Vec<u8> {
        let own = |query: Query<'_>| query.answer(rcode::SERVER_FAILURE, &[], query.datagram_limit());
        let other = self.second_best.take();
        other.or_else(|| self.read().map(own)).unwrap_or_default()
    }
}

fn open(server: SocketAddr, kind: SockType) -> Result<OwnedFd, Errno> {
    let family = if server.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    socket(family, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)
}
