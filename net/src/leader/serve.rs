//! The leader's loop.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{SockFlag, accept4};

use super::configure::configure;
use super::message::{self, Answer, Ask, Endpoint, Joined};
use super::refusals::Refusals;
use super::{Estate, Inside, Refused, WayOut};
use crate::dns;
use crate::driver::{DriverError, MacAddress};
use crate::netfilter::{Bridge, Netfilter, NetfilterError, Notes};
use crate::netlink::{Address, Link, Netlink, NetlinkError, Veth};
use crate::network::{LeaseError, Leases, Network};
use crate::sys;

/// How long somebody who is about to connect may take.
const PATIENCE_MS: u64 = 1000;

/// What the names of our ends of pairs begin with; those of bridges do not.
const DEVICE_PREFIX: &str = "v";

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

/// A network that exists in the user's namespace.
#[derive(Debug)]
struct Living {
    network: Network,
    index: u32,
    leases: Leases,
}

/// A container that is here.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) container: String,
    pub(super) places: Vec<Place>,
}

/// What a container asked for of a network, and what it got.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) endpoint: Endpoint,
    pub(super) joined: Joined,
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
    route: Netlink,
    pub(super) filter: Netfilter,
    pub(super) way_out: WayOut,
    networks: BTreeMap<String, Living>,
    pub(super) clients: Vec<Client>,
    /// The addresses of devices that are there and whose containers have not yet told that they are: of a leader that was
    /// killed.
    orphans: BTreeMap<String, Vec<IpAddr>>,
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

    /// A container of a leader that was killed is in its networks still.
    fn rejoin(&mut self, at: usize, container: String, places: Vec<(Endpoint, Joined)>) -> Result<(), ServeError> {
        self.leave(at);
        for (endpoint, joined) in &places {
            self.ensure(&endpoint.network)?;
            if let Some(living) = self.networks.get_mut(&joined.network) {
                joined.addresses.iter().for_each(|address| living.leases.hold(address.ip));
            }
            self.orphans.remove(&joined.device);
            self.bar(&container, &endpoint.wishes, &joined.addresses)?;
        }
        if let Some(client) = self.clients.get_mut(at) {
            let places = places.into_iter().map(|(endpoint, joined)| Place { endpoint, joined }).collect();
            client.member = Some(Member { container, places });
        }
        self.filter_anew()
    }

    /// Forgets those that nobody will come for: their devices are gone, or about to go since `container` is put into its
    /// networks anew.
    fn bury_orphans(&mut self, container: &str) -> Result<(), ServeError> {
        if self.orphans.is_empty() {
            return Ok(());
        }
        let links = self.route.links()?;
        let anew = device_prefix(container);
        let anew = anew.as_str();
        let (kept, buried) = std::mem::take(&mut self.orphans)
            .into_iter()
            .partition(|(device, _)| !device.starts_with(anew) && links.iter().any(|link| link.name == *device));
        self.orphans = kept;
        for device in BTreeMap::keys(&buried).filter(|device| !device.starts_with(anew)) {
            // One that had no rules has none to lose.
            let _ = self.filter.unbar(device.trim_end_matches(|digit: char| digit.is_ascii_digit()));
        }
        for ip in BTreeMap::into_values(buried).flatten() {
            self.networks.values_mut().for_each(|living| living.leases.give_back(ip));
        }
        Ok(())
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

    /// The container is in no network any more, or about to be in others.
    fn leave(&mut self, at: usize) {
        let Some(client) = self.clients.get_mut(at) else { return };
        let Some(member) = client.member.take() else { return };
        self.dns.names().remove(client.socket.as_raw_fd());
        // Who has asked a leader that ended before it answered has another connection to this one.
        if !self.clients.iter().flat_map(|client| &client.member).any(|other| other.container == member.container) {
            self.unbar(&member);
            member.places.iter().for_each(|place| self.give_back(&place.joined));
        }
    }

    /// The rules of a container that has ended go, after its devices: somebody who shares its namespace may still run.
    fn unbar(&mut self, member: &Member) {
        if member.places.iter().any(|place| place.endpoint.wishes.egress.is_some()) {
            member.places.iter().for_each(|place| drop(self.route.delete_link(&place.joined.device)));
            let _ = self.filter.unbar(&device_prefix(&member.container));
        }
    }

    fn give_back(&mut self, joined: &Joined) {
        if let Some(living) = self.networks.get_mut(&joined.network) {
            joined.addresses.iter().for_each(|address| living.leases.give_back(address.ip));
        }
    }

    /// Puts a container into its networks, or into none of them.
    fn attach(
        &mut self,
        container: &str,
        endpoints: Vec<Endpoint>,
        netns: BorrowedFd<'_>,
    ) -> Result<Vec<Place>, ServeError> {
        self.bury_orphans(container)?;
        // Of a run whose end nobody has seen.
        if endpoints.iter().any(|endpoint| endpoint.wishes.egress.is_some()) {
            self.filter.unbar(&device_prefix(container))?;
        }
        let mut places: Vec<Place> = Vec::new();
        for (at, endpoint) in endpoints.into_iter().enumerate() {
            match self.attach_one(container, device_name(container, at), &endpoint, netns) {
                Ok(joined) => places.push(Place { endpoint, joined }),
                Err(error) => {
                    self.detach(container, &places);
                    return Err(error);
                }
            }
        }
        Ok(places)
    }

    /// Takes a container out of networks again.
    fn detach(&mut self, container: &str, places: &[Place]) {
        for place in places {
            let _ = self.route.delete_link(&place.joined.device);
            self.give_back(&place.joined);
        }
        let _ = self.filter.unbar(&device_prefix(container));
    }

    /// One more network for a container that is here.
    fn connect(&mut self, at: usize, endpoint: Endpoint, netns: BorrowedFd<'_>) -> Result<Joined, ServeError> {
        let member = self.clients.get(at).and_then(|client| client.member.as_ref()).ok_or(ServeError::NotAttached)?;
        let is_taken = |name: &String| member.places.iter().any(|place| place.joined.device == *name);
        let mut names = (0..=member.places.len()).map(|number| device_name(&member.container, number));
        let device = names.find(|name| !is_taken(name)).unwrap_or_default();
        let container = member.container.clone();
        let joined = self.attach_one(&container, device, &endpoint, netns)?;
        if let Some(member) = self.clients.get_mut(at).and_then(|client| client.member.as_mut()) {
            member.places.push(Place { endpoint, joined: joined.clone() });
        }
        Ok(joined)
    }

    /// The container is in this network no more. One that it is not in needs no leaving.
    fn disconnect(&mut self, at: usize, network: &str) -> Result<(), ServeError> {
        let member = self.clients.get_mut(at).and_then(|client| client.member.as_mut());
        let member = member.ok_or(ServeError::NotAttached)?;
        let Some(number) = member.places.iter().position(|place| place.joined.network == network) else {
            return Ok(());
        };
        let place = member.places.remove(number);
        self.give_back(&place.joined);
        Ok(self.route.delete_link(&place.joined.device)?)
    }

    fn attach_one(
        &mut self,
        container: &str,
        device: String,
        endpoint: &Endpoint,
        netns: BorrowedFd<'_>,
    ) -> Result<Joined, ServeError> {
        self.ensure(&endpoint.network)?;
        let Some(living) = self.networks.get_mut(&endpoint.network.name) else {
            return Err(ServeError::System { what: "find the network", errno: Errno::ENOENT });
        };
        let addresses = living.leases.take(&living.network, &endpoint.wanted, endpoint.must)?;
        let mac = endpoint.mac.unwrap_or_else(|| mac_of(&addresses));
        let joined = Joined {
            network: endpoint.network.name.clone(),
            device,
            interface: endpoint.interface.clone(),
            mac,
            addresses,
            gateways: living.network.subnets.iter().filter_map(|subnet| subnet.gateway).collect(),
        };
        let (bridge, mtu, is_apart) = (living.index, living.network.mtu, living.network.apart);
        let veth = Veth { name: &joined.device, bridge, peer_name: &joined.interface, peer_mac: mac.0, netns, mtu };
        let label: Vec<String> = joined.addresses.iter().map(|address| address.ip.to_string()).collect();
        let mut set_up = || -> Result<(), ServeError> {
            // Before anything can come from it.
            self.bar(container, &endpoint.wishes, &joined.addresses)?;
            // The one of an earlier run may not have gone yet: a namespace ends in the background.
            self.route.delete_link(&joined.device)?;
            self.route.add_veth(&veth)?;
            self.route.label_link(&joined.device, &label.join(" "))?;
            if is_apart {
                self.route.isolate_port(&joined.device)?;
            }
            configure(netns, endpoint, &joined)
        };
        match (set_up)() {
            Ok(()) => Ok(joined),
            Err(error) => {
                let _ = self.route.delete_link(&joined.device);
                self.give_back(&joined);
                Err(error)
            }
        }
    }

    /// Makes a network, if it is not there as it is described now.
    fn ensure(&mut self, network: &Network) -> Result<(), ServeError> {
        if let Some(living) = self.networks.get_mut(&network.name) {
            if living.network.has_devices_of(network) {
                living.network = network.clone();
                return Ok(());
            }
            // Another one had the name, and nobody is in it any more: one in use is not removed.
            let _ = self.route.delete_link(&living.network.device);
        }
        let first = network.subnets.first().map(|subnet| subnet.address(subnet.gateway.unwrap_or(subnet.first)));
        let mac = mac_of(first.as_slice());
        let index = self.route.add_bridge(&network.device, mac.0, network.mtu)?;
        for address in gateways(network) {
            self.route.add_address(index, address)?;
        }
        let mut leases = Leases::default();
        for ip in self.orphans.values().flatten().filter(|ip| network.subnets.iter().any(|net| net.contains(**ip))) {
            leases.hold(*ip);
        }
        let living = Living { network: network.clone(), index, leases };
        self.networks.insert(network.name.clone(), living);
        self.filter_anew()
    }

    /// Takes a network's devices away: its addresses may be another's next.
    fn forget_network(&mut self, name: &str) -> Result<(), ServeError> {
        let places = self.clients.iter().flat_map(|client| &client.member).flat_map(|member| &member.places);
        if places.into_iter().any(|place| place.joined.network == name) {
            return Ok(());
        }
        let Some(living) = self.networks.remove(name) else { return Ok(()) };
        self.route.delete_link(&living.network.device)?;
        self.filter_anew()
    }

    fn filter_anew(&mut self) -> Result<(), ServeError> {
        if !self.orphans.is_empty() {
            // The rules of before are better than those without the networks that we do not know yet.
            return Ok(());
        }
        let bridges: Vec<Bridge> = self
            .networks
            .values()
            .map(|Living { network, .. }| Bridge {
                device: network.device.clone(),
                is_internal: network.internal,
                is_isolated: network.isolated,
                is_apart: network.apart,
            })
            .collect();
        let way_out = self.way_out.attachment().interface.clone();
        Ok(self.filter.replace(&bridges, way_out.as_deref().unwrap_or("tap0"))?)
    }
}

fn gateways(network: &Network) -> Vec<Address> {
    network.subnets.iter().filter_map(|subnet| Some(subnet.address(subnet.gateway?))).collect()
}

/// A timeout that does not end before its time, over and over.
fn rounded_up(timeout: Duration) -> PollTimeout {
    PollTimeout::try_from(timeout + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
}

/// A hardware address that follows from the first address: two devices of a bridge never have the same.
fn mac_of(addresses: &[Address]) -> MacAddress {
    let [a, b, c, d] = match addresses.first().map(|address| address.ip) {
        Some(IpAddr::V4(v4)) => v4.octets(),
        Some(IpAddr::V6(v6)) => {
            let [.., a, b, c, d] = v6.octets();
            [a, b, c, d]
        }
        None => [0; 4],
    };
    MacAddress([0x02, 0x42, a, b, c, d])
}

/// The name of this end of a pair: 15 bytes at most.
fn device_name(container: &str, at: usize) -> String {
    format!("{}{at}", device_prefix(container))
}

/// What the names of all devices of a container begin with, and of no other's.
pub(super) fn device_prefix(container: &str) -> String {
    format!("{DEVICE_PREFIX}{}n", container.get(..10).unwrap_or(container))
}
