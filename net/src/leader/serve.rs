//! The leader's loop.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{SockFlag, accept4};

use super::member::{DEVICE_PREFIX, Member, Place};
use super::message::{self, Answer, Ask, Joined};
use super::networks::Living;
use super::refusals::Refusals;
use super::{Estate, Inside, Refused, WayOut};
use crate::dns;
use crate::driver::DriverError;
use crate::netfilter::{Netfilter, NetfilterError, Notes};
use crate::netlink::{Link, Netlink, NetlinkError};
use crate::network::LeaseError;
use crate::sys;

/// How long somebody who is about to connect may take.
const PATIENCE_MS: u64 = 1000;

/// Why a container could not be put into its networks.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// It gets no address.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// netlink refused.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// nf_tables refused.
    #[error(transparent)]
    Netfilter(#[from] NetfilterError),
    /// The way out could not be started.
    #[error(transparent)]
    WayOut(#[from] DriverError),
    /// A network is to be another one while containers are on it.
    #[error("network {0}: containers are on it that have addresses of another subnet; stop them first")]
    InUse(String),
    /// A message that needs a namespace came without one.
    #[error("network leader: no namespace was sent")]
    NoNamespace,
    /// A container is to change that is in no network.
    #[error("network leader: the container is not attached")]
    NotAttached,
    /// The container's side could not be set up.
    #[error("network {network}: {message}")]
    Inside {
        /// The network.
        network: String,
        /// What its namespace said.
        message: String,
    },
    /// A system call failed.
    #[error("network leader: {what}: {}", errno.desc().to_lowercase())]
    System {
        /// The call.
        what: &'static str,
        /// Why.
        errno: Errno,
    },
}

/// Somebody who has a container.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) socket: OwnedFd,
    pub(super) member: Option<Member>,
}

/// The leader.
#[derive(Debug)]
pub struct Leader {
    listener: OwnedFd,
    netns: OwnedFd,
    pub(super) route: Netlink,
    pub(super) filter: Netfilter,
    pub(super) way_out: WayOut,
    pub(super) networks: BTreeMap<String, Living>,
    pub(super) clients: Vec<Client>,
    /// The addresses of devices that are there and whose containers have not yet told that they are: of a leader that was
    /// killed.
    pub(super) orphans: BTreeMap<String, Vec<IpAddr>>,
    pub(super) dns: dns::Server,
    pub(super) notes: Notes,
    pub(super) refusals: Refusals,
}

impl Leader {
    /// A leader of a namespace, whose way out is started, or started again. Who is served does not wait for it, but for what
    /// is to lead out.
    ///
    /// # Errors
    /// [`ServeError`].
    pub fn new(
        listener: OwnedFd,
        inside: Inside,
        mut way_out: WayOut,
        predecessor: Option<&Estate>,
    ) -> Result<Self, ServeError> {
        crate::forward::raise_descriptor_limit();
        let dns = dns::Server::new(inside.dns, dns::HOSTS_FILE.into());
        let dns = dns.map_err(|errno| ServeError::System { what: "epoll_create1", errno })?;
        let mut route = Netlink::over(inside.route);
        let mut orphans = BTreeMap::new();
        if predecessor.is_some() {
            let is_pair = |link: &Link| link.name.starts_with(DEVICE_PREFIX) && !link.label.is_empty();
            for link in route.links()?.into_iter().filter(is_pair) {
                let addresses = link.label.split(' ').filter_map(|word| word.parse().ok()).collect();
                orphans.insert(link.name, addresses);
            }
        }
        let earlier = predecessor.and_then(|estate| estate.way_out.as_ref());
        match way_out.start(inside.netns.as_fd(), earlier.map(|fd| fd.as_fd())) {
            // That of before may not have gone yet. Containers run that need the rest of us; it is tried again.
            Err(_) if predecessor.is_some() => {}
            other => other?,
        }
        Ok(Self {
            listener,
            netns: inside.netns,
            route,
            filter: Netfilter::over(inside.filter),
            way_out,
            networks: BTreeMap::new(),
            clients: Vec::new(),
            orphans,
            dns,
            notes: inside.notes,
            refusals: Refusals::default(),
        })
    }

    /// The leader tells somebody what containers were refused.
    #[must_use]
    pub fn telling(mut self, tell: impl FnMut(&Refused) + 'static) -> Self {
        self.refusals = Refusals::telling(Box::new(tell));
        self
    }

    /// Serves until nobody is connected, and returns what `may_end` gave: it keeps others from counting on us, or says
    /// that somebody is about to connect. It is told whether anybody has connected yet: who has started us is on the way,
    /// or was killed before.
    ///
    /// # Errors
    /// poll(2)'s.
    pub fn run<G>(&mut self, mut may_end: impl FnMut(bool) -> Option<G>) -> Result<G, ServeError> {
        let mut has_served = false;
        loop {
            if self.clients.is_empty()
                && let Some(guard) = may_end(has_served)
                && !self.is_sought()
            {
                return Ok(guard);
            }
            if self.way_out.due().is_some_and(|due| due <= Instant::now()) {
                // There is nobody to tell why it does not start; it is tried again.
                let _ = self.way_out.start(self.netns.as_fd(), None);
            }
            let mut fds = vec![
                PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.dns.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.notes.as_fd(), PollFlags::POLLIN),
            ];
            fds.extend(self.way_out.pidfd().map(|way_out| PollFd::new(way_out, PollFlags::POLLIN)));
            let before_clients = fds.len();
            fds.extend(self.clients.iter().map(|client| PollFd::new(client.socket.as_fd(), PollFlags::POLLIN)));
            // Who kept us from ending may have given up before it connected.
            let patience = self.clients.is_empty().then_some(Duration::from_millis(PATIENCE_MS));
            let now = Instant::now();
            let until = |due: Option<Instant>| due.map(|due| due.saturating_duration_since(now));
            let waits = [patience, until(self.dns.due()), until(self.way_out.due())];
            let timeout = waits.into_iter().flatten().min();
            match poll(&mut fds, timeout.map_or(PollTimeout::NONE, rounded_up)) {
                Err(Errno::EINTR) => continue,
                other => other.map_err(|errno| ServeError::System { what: "poll", errno })?,
            };
            let is_ready = |fd: &PollFd<'_>| fd.any().unwrap_or(true);
            let has_new = fds.first().is_some_and(is_ready);
            let has_notes = fds.get(2).is_some_and(is_ready);
            let way_out_ended = before_clients == 4 && fds.get(3).is_some_and(is_ready);
            // First who is gone: who comes may want its addresses.
            let has_hung_up = |fd: &PollFd<'_>| fd.revents().is_some_and(|found| found.contains(PollFlags::POLLHUP));
            let clients = self.clients.iter().zip(fds.iter().skip(before_clients));
            let talking = clients.filter(|(_, fd)| is_ready(fd));
            let mut talking: Vec<(bool, i32)> =
                talking.map(|(client, fd)| (!has_hung_up(fd), client.socket.as_raw_fd())).collect();
            talking.sort_unstable();
            drop(fds);
            if way_out_ended {
                self.way_out.ended();
            }
            for (_, socket) in talking {
                if let Some(at) = self.clients.iter().position(|client| client.socket.as_raw_fd() == socket) {
                    self.listen_to(at);
                }
            }
            if has_new {
                has_served = true;
                self.accept();
            }
            // Behind what changes names.
            self.dns.serve();
            self.open_names();
            self.note_refused(has_notes);
        }
    }

    /// Somebody has connected meanwhile.
    fn is_sought(&self) -> bool {
        let mut fds = [PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
        !matches!(poll(&mut fds, PollTimeout::ZERO), Ok(0))
    }

    fn accept(&mut self) {
        if let Ok(fd) = accept4(self.listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
            self.clients.push(Client { socket: sys::received_fd(fd), member: None });
        }
    }

    /// Reads one message of a client, or learns that it is gone.
    fn listen_to(&mut self, at: usize) {
        let Some(client) = self.clients.get(at) else { return };
        let answer = match message::receive::<Ask>(client.socket.as_fd()) {
            Ok(Some((ask, fds))) => self.answer(at, ask, fds.into_iter().next()),
            Ok(None) | Err(_) => return self.forget(at),
        };
        self.tell_names(at);
        let (answer, fd) = answer.unwrap_or_else(|error| (Answer::Failed { message: error.to_string() }, None));
        let Some(client) = self.clients.get(at) else { return };
        let fds = match &answer {
            Answer::Attached { .. } | Answer::Rejoined => {
                [self.listener.as_fd(), self.netns.as_fd()].into_iter().chain(self.way_out.pidfd()).collect()
            }
            _ => fd.as_ref().map(|fd| fd.as_fd()).into_iter().collect::<Vec<_>>(),
        };
        if message::send(client.socket.as_fd(), &answer, &fds).is_err() {
            self.forget(at);
        }
    }

    fn answer(&mut self, at: usize, ask: Ask, netns: Option<OwnedFd>) -> Result<(Answer, Option<OwnedFd>), ServeError> {
        let netns = || netns.as_ref().map(|fd| fd.as_fd()).ok_or(ServeError::NoNamespace);
        let done = |()| (Answer::Done, None);
        match ask {
            Ask::Hello => Ok((Answer::Welcome, sys::pidfd_open(nix::unistd::getpid()).ok())),
            Ask::Attach { container, endpoints } => {
                self.leave(at);
                let places = self.attach(&container, endpoints, netns()?)?;
                if places.iter().any(|place| !place.endpoint.network.internal)
                    && let Err(error) = self.way_out.settle()
                {
                    self.detach(&container, &places);
                    return Err(error.into());
                }
                let joined = places.iter().map(|place| place.joined.clone()).collect();
                if let Some(client) = self.clients.get_mut(at) {
                    client.member = Some(Member { container, places });
                }
                Ok((self.attached(joined), None))
            }
            Ask::Rejoin { container, places } => self.rejoin(at, container, places).map(|()| (Answer::Rejoined, None)),
            Ask::Connect { endpoint } => {
                let joined = self.connect(at, *endpoint, netns()?)?;
                Ok((Answer::Connected { joined }, None))
            }
            Ask::Disconnect { network } => self.disconnect(at, &network).map(done),
            Ask::Names { names } => {
                let member = self.clients.get_mut(at).and_then(|client| client.member.as_mut());
                for place in member.into_iter().flat_map(|member| &mut member.places) {
                    if let Some(names) = names.get(&place.joined.network) {
                        place.endpoint.names.clone_from(names);
                    }
                }
                Ok(done(()))
            }
            Ask::Describe { network } => {
                if let Some(living) = self.networks.get_mut(&network.name)
                    && living.network.has_devices_of(&network)
                {
                    living.network = *network;
                }
                (0..self.clients.len()).for_each(|at| self.tell_names(at));
                Ok(done(()))
            }
            Ask::Forget { network } => self.forget_network(&network).map(done),
            Ask::Reload => self.filter_anew().map(done),
        }
    }

    fn attached(&self, joined: Vec<Joined>) -> Answer {
        let way_out = self.way_out.attachment();
        let has_names = |joined: &&Joined| self.networks.get(&joined.network).is_some_and(|one| one.network.dns);
        let ours: Vec<IpAddr> = joined.iter().filter(has_names).flat_map(|joined| &joined.gateways).copied().collect();
        let dns = if ours.is_empty() { way_out.dns.clone() } else { ours };
        Answer::Attached { joined, dns, host: way_out.host }
    }

    /// Tells the DNS server which names a client's container has now.
    fn tell_names(&mut self, at: usize) {
        let Some(Client { socket, member: Some(Member { places, .. }) }) = self.clients.get(at) else { return };
        let wishes = places.first().map(|place| place.endpoint.wishes.clone()).unwrap_or_default();
        let named = places.iter().filter_map(|Place { endpoint, joined }| {
            let network = &self.networks.get(&joined.network)?.network;
            Some(dns::Place {
                network: network.name.clone(),
                names: endpoint.names.clone(),
                addresses: joined.addresses.clone(),
                has_names: network.dns,
                leads_out: !network.internal,
                servers: network.servers.clone(),
            })
        });
        let host = self.way_out.attachment().host;
        self.dns.names().set_host(host);
        self.dns.names().set(socket.as_raw_fd(), named.collect(), wishes);
    }

    /// Gives back what a client's container had. Its devices went with its namespace.
    fn forget(&mut self, at: usize) {
        self.leave(at);
        self.clients.remove(at);
    }
}

/// A timeout that does not end before its time, over and over.
fn rounded_up(timeout: Duration) -> PollTimeout {
    PollTimeout::try_from(timeout + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
}
