//! The loop: the device on one side, sockets of the host on the other.

use std::net::SocketAddr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::address::Addresses;
use super::datagrams::Datagrams;
use super::packet::{self, DEVICE_HEADER, Fragments, Ip, Transport};
use super::resolver::Resolver;
use super::streams::{Context, Streams};
use super::timers::Timers;
use super::wire::Wire;
use crate::forward::slab::{GENERATION_MASK, Key};

/// The longest packet of the device.
const LONGEST: usize = DEVICE_HEADER + 65_536;

/// Packets taken from the device before what they led to is sent.
const BATCH: usize = 16;

/// How long nothing is to happen before memory is let go of.
const REST: Duration = Duration::from_millis(500);

/// Descriptors that are not for flows: the device, epoll, the resolver's file.
const OTHER_DESCRIPTORS: usize = 16;

/// What an epoll event or a timer is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    Device,
    Stream(Key),
    Datagrams(Key),
}

impl Token {
    /// Two bits of kind, thirty of generation, thirty-two of index.
    pub(super) fn pack(self) -> u64 {
        let (kind, key) = match self {
            Self::Device => (0, Key { index: 0, generation: 0 }),
            Self::Stream(key) => (1, key),
            Self::Datagrams(key) => (2, key),
        };
        kind | u64::from(key.generation & GENERATION_MASK) << 2 | u64::from(key.index) << 32
    }

    fn unpack(bits: u64) -> Self {
        let key = Key { index: (bits >> 32) as u32, generation: (bits >> 2) as u32 & GENERATION_MASK };
        match bits & 3 {
            0 => Self::Device,
            1 => Self::Stream(key),
            _ => Self::Datagrams(key),
        }
    }
}

/// What has happened to a socket.
#[derive(Debug, Clone, Copy)]
pub(super) struct Readiness {
    pub(super) can_read: bool,
    pub(super) can_write: bool,
    pub(super) has_failed: bool,
}

/// What is watched.
#[derive(Debug)]
pub(super) struct Watch(Epoll);

impl Watch {
    /// Watches a connection's socket: news only.
    pub(super) fn stream(&self, fd: BorrowedFd<'_>, key: Key) -> Result<(), Errno> {
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        self.0.add(fd, EpollEvent::new(flags, Token::Stream(key).pack()))
    }

    /// Watches a socket for datagrams, as long as there are any.
    pub(super) fn datagrams(&self, fd: BorrowedFd<'_>, key: Key) -> Result<(), Errno> {
        self.0.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, Token::Datagrams(key).pack()))
    }
}

/// The stack.
pub(super) struct Stack {
    wire: Wire,
    watch: Watch,
    addresses: Addresses,
    resolver: Resolver,
    streams: Streams,
    datagrams: Datagrams,
    fragments: Fragments,
    timers: Timers,
    buffer: Box<[u8]>,
}

impl Stack {
    /// A stack with this device and room for so many descriptors.
    ///
    /// # Errors
    /// Those of epoll.
    pub(super) fn new(wire: Wire, addresses: Addresses, descriptors: usize) -> Result<Self, Errno> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(wire.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, Token::Device.pack()))?;
        let room = descriptors.saturating_sub(OTHER_DESCRIPTORS).max(2);
        Ok(Self {
            wire,
            watch: Watch(epoll),
            addresses,
            resolver: Resolver::default(),
            streams: Streams::new(room - room / 4),
            datagrams: Datagrams::new(room / 4),
            fragments: Fragments::default(),
            timers: Timers::default(),
            buffer: vec![0; LONGEST].into_boxed_slice(),
        })
    }

    /// Serves until the device is gone with its namespace, which happens only if the process outlives it.
    ///
    /// # Errors
    /// Those of epoll_wait(2) and of the device.
    pub(super) fn run(&mut self) -> Result<(), Errno> {
        let mut events = [EpollEvent::empty(); 64];
        loop {
            let rest = self.streams.has_spare().then(|| Instant::now() + REST);
            let timeout = match self.timers.next().into_iter().chain(rest).min() {
                None => EpollTimeout::NONE,
                // Rounded up: else it would wake just before.
                Some(at) => {
                    let wait = at.saturating_duration_since(Instant::now()).as_millis().saturating_add(1);
                    EpollTimeout::try_from(i32::try_from(wait).unwrap_or(i32::MAX)).unwrap_or(EpollTimeout::NONE)
                }
            };
            let count = match self.watch.0.wait(&mut events, timeout) {
                Err(Errno::EINTR) => continue,
                other => other?,
            };
            if count == 0 {
                self.streams.shrink();
            }
            let now = Instant::now();
            let mut is_device_ready = false;
            for event in events.iter().take(count) {
                let flags = event.events();
                match Token::unpack(event.data()) {
                    Token::Device => is_device_ready = true,
                    Token::Stream(key) => {
                        let readiness = Readiness {
                            can_read: flags.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP),
                            can_write: flags.contains(EpollFlags::EPOLLOUT),
                            has_failed: flags.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP),
                        };
                        let (streams, _, mut context, _) = self.parts(now);
                        streams.on_socket(key, readiness, &mut context);
                    }
                    Token::Datagrams(key) => {
                        let (_, datagrams, mut context, buffer) = self.parts(now);
                        datagrams.on_socket(key, buffer, &mut context);
                    }
                }
            }
            if is_device_ready {
                self.read_device(now)?;
            }
            while let Some((woken, token)) = self.timers.due(now) {
                let (streams, datagrams, mut context, _) = self.parts(now);
                match Token::unpack(token) {
                    Token::Stream(key) => streams.on_time(key, woken, now),
                    Token::Datagrams(key) => datagrams.on_time(key, woken, &mut context),
                    Token::Device => {}
                }
            }
            let (streams, _, mut context, _) = self.parts(now);
            streams.flush(&mut context);
        }
    }

    fn parts(&mut self, now: Instant) -> (&mut Streams, &mut Datagrams, Context<'_>, &mut [u8]) {
        let context = Context {
            wire: &mut self.wire,
            watch: &self.watch,
            timers: &mut self.timers,
            addresses: &self.addresses,
            resolver: &mut self.resolver,
            now,
        };
        (&mut self.streams, &mut self.datagrams, context, &mut self.buffer)
    }

    fn read_device(&mut self, now: Instant) -> Result<(), Errno> {
        for _ in 0..BATCH {
            let len = match nix::unistd::read(&self.wire, &mut self.buffer) {
                Ok(len) => len,
                Err(Errno::EAGAIN) => return Ok(()),
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(errno),
            };
            // Taken out for the moment: the packet lies in it.
            let buffer = std::mem::take(&mut self.buffer);
            if let Some(ip) = buffer.get(DEVICE_HEADER..len).and_then(packet::parse_ip) {
                self.on_packet(&ip, now);
            }
            self.buffer = buffer;
        }
        Ok(())
    }

    fn on_packet(&mut self, ip: &Ip<'_>, now: Instant) {
        let Some(fragment) = ip.fragment else { return self.on_transport(ip, ip.payload, now) };
        if let Some(whole) = self.fragments.add(ip, fragment, now) {
            self.on_transport(ip, &whole, now);
        }
    }

    fn on_transport(&mut self, ip: &Ip<'_>, payload: &[u8], now: Instant) {
        let Some(transport) = packet::parse_transport(ip.protocol, payload) else { return };
        let (streams, datagrams, mut context, _) = self.parts(now);
        match transport {
            Transport::Tcp { source, dest, segment } => {
                let ends = (SocketAddr::new(ip.source, source), SocketAddr::new(ip.dest, dest));
                streams.on_segment(ends, &segment, &mut context);
            }
            Transport::Udp { source, dest, payload } => {
                datagrams.on_datagram(ip, (source, dest), payload, &mut context);
            }
            Transport::Echo { id, sequence, payload } => {
                datagrams.on_echo(ip, (id, sequence), payload, &mut context);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_kernel() {
        let key = Key { index: u32::MAX, generation: GENERATION_MASK };
        for token in [Token::Device, Token::Stream(key), Token::Datagrams(Key { index: 0, generation: 1 })] {
            assert_eq!(Token::unpack(token.pack()), token);
        }
    }
}
