//! A container's network: decided by the command, set up by the supervisor.

use std::fs;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use net::driver::{self, Attachment, Driver, Netns};
use net::forward::{self, Forwarder, Listeners, PublishError, Target};
use net::hosts::{AddHost, Hosts};
use net::leader::{Answer, Connection, Endpoint, Estate, Joined};
use net::mode::Mode;
use net::ports::{self, PortMapping, PortRange, PortRequest, PublishSpec};
use net::resolv_conf::{self, Choice, Reach};
use nix::errno::Errno;
use storage::state::container::{self, Record};
use storage::state::layout::Layout;
use storage::state::request;
use storage::state::status;

use crate::config::LowPorts;
use crate::error::CommandError;
use crate::networks;

/// What will be set up.
pub(crate) struct Plan {
    /// As asked for.
    pub(crate) mode: Mode,
    way: Way,
    /// Published ports, bound; the supervisor inherits them and holds them until it ends.
    listeners: Listeners,
}

/// How a container comes to its network.
enum Way {
    /// There is nothing to set up.
    Nothing,
    /// A helper of its own.
    Helper(Box<dyn Driver>, driver::Plan),
    /// Bridges of the user's network namespace.
    Bridge {
        /// Its places in networks.
        endpoints: Vec<Endpoint>,
        /// What is known before there are addresses: where the host answers.
        known: Attachment,
        /// The leader, from when the supervisor is forked.
        leader: Option<Connection>,
        /// One that is a child of ours, since we have succeeded another.
        child: Option<OwnedFd>,
    },
}

/// A network that is being set up, and then one that is there.
pub(crate) enum Started {
    /// By a helper.
    Helper(driver::Started),
    /// By the leader.
    Bridge {
        /// What outlives the leader. Let go of before the connection: nobody shall wait at the socket for a successor that
        /// does not come.
        estate: Option<Estate>,
        /// The connection whose end is the leader's.
        leader: Connection,
        /// What was asked for.
        endpoints: Vec<Endpoint>,
        /// What it answered, one for each.
        joined: Vec<Joined>,
        /// The first of them, as a driver would show it.
        attachment: Attachment,
    },
}

impl Started {
    /// What is known of the network.
    pub(crate) fn attachment(&self) -> &Attachment {
        match self {
            Self::Helper(started) => started.attachment(),
            Self::Bridge { attachment, .. } => attachment,
        }
    }

    /// Waits for it, together with whatever else the caller does not wait for; `false` if the leader has been killed
    /// meanwhile.
    pub(crate) fn wait(&mut self) -> Result<bool, CommandError> {
        match self {
            Self::Helper(started) => started.wait_ready().map(|()| true).map_err(CommandError::host),
            Self::Bridge { leader, joined, attachment, estate, .. } => {
                match leader.attached().map_err(leader_failed)? {
                    Some((Answer::Attached { joined: all, dns, host }, inherited)) => {
                        *attachment = all.first().map(Attachment::from).unwrap_or_default();
                        (attachment.dns, attachment.host) = (dns, host);
                        (*joined, *estate) = (all, inherited);
                        Ok(true)
                    }
                    Some((Answer::Failed { message }, _)) => Err(CommandError::host(message)),
                    _ => Ok(false),
                }
            }
        }
    }

    /// What only the namespace can tell.
    pub(crate) fn discover(&mut self) -> Result<&Attachment, CommandError> {
        match self {
            Self::Helper(started) => started.discover().map_err(CommandError::host),
            Self::Bridge { attachment, .. } => Ok(attachment),
        }
    }

    /// The descriptor on which the end of what keeps the network up shows.
    pub(crate) fn watch(&self) -> BorrowedFd<'_> {
        match self {
            Self::Helper(started) => started.pidfd(),
            Self::Bridge { leader, .. } => leader.as_fd(),
        }
    }

    /// Ends what was started for this container alone.
    pub(crate) fn stop(self) {
        if let Self::Helper(started) = self {
            started.stop();
        }
    }
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plan").field("mode", &self.mode).finish_non_exhaustive()
    }
}

fn leader_failed(errno: Errno) -> CommandError {
    match errno {
        Errno::EAGAIN => CommandError::host("network leader: it does not answer"),
        errno => CommandError::host(format!("network leader: {}", errno.desc().to_lowercase())),
    }
}

/// Decides, and binds published ports. Starts nothing: a missing program or a taken port leaves no container behind.
///
/// **Runs in:** the command, on the host: the supervisor could no longer say who holds a port.
pub(crate) fn plan(layout: &Layout, record: &Record) -> Result<Plan, CommandError> {
    let mode = Mode::parse(&record.request.network.mode).map_err(CommandError::user)?;
    let way = match &mode {
        Mode::Default => {
            let known = Attachment { host: driver::outward_address(), ..Attachment::default() };
            Way::Bridge { endpoints: endpoints(layout, record)?, known, leader: None, child: None }
        }
        mode => helper(mode)?,
    };
    let wanted = if mode.can_publish() { port_requests(&record.request.network) } else { Vec::new() };
    let listeners = match Listeners::bind(&wanted) {
        Err(error @ PublishError::Privileged { lowest, .. }) => {
            let is_asked = record.request.network.remap_low_ports;
            if !is_asked && crate::config::low_ports()? != LowPorts::Remap {
                return Err(low_port(&error));
            }
            bind_remapped(layout, wanted, lowest)?
        }
        bound => bound.map_err(|error| not_published(layout, error))?,
    };
    Ok(Plan { mode, way, listeners })
}

fn helper(mode: &Mode) -> Result<Way, CommandError> {
    let way_out = if mode == &Mode::Default { crate::config::way_out()? } else { driver::WayOut::default() };
    Ok(match driver::driver_for(mode, way_out) {
        Some(driver) => {
            let plan = driver.prepare().map_err(missing)?;
            Way::Helper(driver, plan)
        }
        None => Way::Nothing,
    })
}

fn copy(connection: &Connection) -> Result<Connection, CommandError> {
    connection.try_clone().map_err(|error| CommandError::host(format!("dup(): {}", crate::error::reason(&error))))
}

/// A container's places in networks, with the addresses that it had last.
pub(super) fn endpoints(layout: &Layout, record: &Record) -> Result<Vec<Endpoint>, CommandError> {
    let places = record.request.network.places();
    let mut interfaces: Vec<String> = places.iter().filter_map(|place| place.interface.clone()).collect();
    let mut endpoints = Vec::new();
    for (number, place) in places.iter().enumerate() {
        let network = networks::find(layout, &place.network).map_err(CommandError::user)?;
        let interface = place.interface.clone().unwrap_or_else(|| free_interface(&interfaces));
        interfaces.push(interface.clone());
        let had = record.addresses.get(&network.name).cloned().unwrap_or_default();
        endpoints.push(Endpoint {
            network: networks::described(&network),
            interface,
            mac: place.mac.as_deref().and_then(|mac| crate::cli::parse::networks::mac(mac).ok()),
            must: !place.ips.is_empty(),
            wanted: if place.ips.is_empty() { had } else { place.ips.clone() },
            names: super::names::of(record, &place.aliases),
            default_route: networks::default_route(&network, number),
            wishes: super::names::wishes(layout, record),
        });
    }
    Ok(endpoints)
}

pub(super) fn free_interface(taken: &[String]) -> String {
    let mut all = (0..=taken.len()).map(|number| format!("eth{number}"));
    all.find(|name| !taken.contains(name)).unwrap_or_default()
}

/// How much higher a port is published that this user may not open.
const REMAPPED_BY: u16 = 8000;

/// Publishes ports below `lowest` elsewhere, and says so.
fn bind_remapped(layout: &Layout, mut wanted: Vec<PortRequest>, lowest: u16) -> Result<Listeners, CommandError> {
    let mut moved = Vec::new();
    for one in &mut wanted {
        let Some(range) = one.host_ports.filter(|range| range.first < lowest) else { continue };
        let up = |port: u16| port.saturating_add(REMAPPED_BY);
        one.host_ports = Some(PortRange { first: up(range.first), last: up(range.last) });
        if range.first == range.last {
            moved.push(format!("{} on {}", range.first, up(range.first)));
        } else {
            moved.push(format!("{}-{} on {}-{}", range.first, range.last, up(range.first), up(range.last)));
        }
    }
    let listeners = Listeners::bind(&wanted).map_err(|error| not_published(layout, error))?;
    eprintln!("Warning: ports below {lowest} belong to root on this host: published {}", moved.join(", "));
    Ok(listeners)
}

/// Finds out whether ports can be published now, and decides which where that is left open.
///
/// **Runs in:** the command, on the host, as [`plan`].
pub(crate) fn choose(
    layout: &Layout,
    wanted: &[request::PublishedPort],
) -> Result<Vec<request::PublishedPort>, CommandError> {
    let mut chosen = Vec::new();
    let mut bound = Vec::new();
    for one in wanted {
        let published = vec![one.clone()];
        for asked in port_requests(&request::Network { published, ..request::Network::default() }) {
            let listeners = Listeners::bind(&[asked]).map_err(|error| match error {
                error @ PublishError::Privileged { .. } => low_port(&error),
                error => not_published(layout, error),
            })?;
            let host_port = listeners.mappings().first().map(|mapping| mapping.host_port);
            chosen.push(request::PublishedPort {
                host_port,
                host_port_end: None,
                container_port: asked.container_port,
                range: 1,
                ..one.clone()
            });
            // Until all are chosen.
            bound.push(listeners);
        }
    }
    Ok(chosen)
}

/// The error for a port that cannot be had. One that another container has is told by the name of that: its process says
/// nothing to a user.
fn not_published(layout: &Layout, error: PublishError) -> CommandError {
    let PublishError::InUse { address, protocol, .. } = &error else { return CommandError::host(error) };
    let is_in_the_way = |port: &status::Port| {
        let ports = u32::from(port.host_port)..u32::from(port.host_port) + u32::from(port.range.max(1));
        let overlaps = port.host_ip.is_none_or(|ip| address.ip().is_unspecified() || ip == address.ip());
        overlaps && ports.contains(&u32::from(address.port())) && port.protocol.as_str() == protocol.as_str()
    };
    let (records, _) = container::list(layout).unwrap_or_default();
    let holder = records.into_iter().find(|record| {
        let observed = status::observe(layout, record);
        observed.is_ok_and(|observed| observed.state.is_alive() && observed.network.ports.iter().any(is_in_the_way))
    });
    match holder {
        Some(record) => CommandError::host(format!(
            "bind for {address}/{protocol} failed: port is already allocated (held by container {})",
            record.name
        )),
        None => CommandError::host(error),
    }
}

/// The error for a port that this user may not open, with the ways to have it.
fn low_port(error: &PublishError) -> CommandError {
    CommandError::host(error)
        .hinted("sudo sysctl net.ipv4.ip_unprivileged_port_start=80 opens low ports to every user, until the next boot")
        .hinted(format!(
            "low_ports = \"remap\" below [network] in {} publishes port 80 on {}",
            crate::config::own_file().display(),
            80 + REMAPPED_BY
        ))
        .hinted(
            "a socket unit of systemd can open it and start this command: the program gets the socket (see LISTEN_FDS \
             in sd_listen_fds(3)), and needs no -p",
        )
}

fn port_requests(network: &request::Network) -> Vec<PortRequest> {
    let last = |first: u16, range: u16| first.saturating_add(range.saturating_sub(1));
    let protocol = |protocol| match protocol {
        request::Protocol::Tcp => ports::Protocol::Tcp,
        request::Protocol::Udp => ports::Protocol::Udp,
        request::Protocol::Sctp => ports::Protocol::Sctp,
    };
    let published = network.published.iter().map(|one| PublishSpec {
        host_ip: one.host_ip,
        host_ports: one
            .host_port
            .map(|first| PortRange { first, last: one.host_port_end.unwrap_or(last(first, one.range)) }),
        container_ports: PortRange { first: one.container_port, last: last(one.container_port, one.range) },
        protocol: protocol(one.protocol),
    });
    let exposed = network.exposed.iter().filter(|_| network.publish_all).map(|one| PublishSpec {
        host_ip: None,
        host_ports: None,
        container_ports: PortRange { first: one.port, last: last(one.port, one.range) },
        protocol: protocol(one.protocol),
    });
    let mut all: Vec<PortRequest> = published.flat_map(PublishSpec::expand).collect();
    for one in exposed.flat_map(PublishSpec::expand) {
        // What is published by name is not published again at random.
        if !all.iter().any(|other| (other.container_port, other.protocol) == (one.container_port, one.protocol)) {
            all.push(one);
        }
    }
    all
}

/// Whether a port was bound since this was asked for.
fn leads_to(request: &PortRequest, mapping: &PortMapping) -> bool {
    let has_number = |range: PortRange| {
        let numbers = range.first..=range.last;
        let moved_from = mapping.host_port.checked_sub(REMAPPED_BY);
        numbers.contains(&mapping.host_port) || moved_from.is_some_and(|port| numbers.contains(&port))
    };
    (request.container_port, request.protocol) == (mapping.container_port, mapping.protocol)
        && request.host_ports.is_none_or(has_number)
        && match request.host_ip {
            Some(ip) => ip == mapping.host_ip,
            None => mapping.host_ip.is_unspecified(),
        }
}

/// The bound ports as the state file has them: one entry where both families lead to the same place.
fn port_status(mappings: &[PortMapping]) -> Vec<status::Port> {
    let mut all: Vec<status::Port> = Vec::new();
    for mapping in mappings {
        let port = status::Port {
            host_ip: (!mapping.host_ip.is_unspecified()).then_some(mapping.host_ip),
            host_port: mapping.host_port,
            container_port: mapping.container_port,
            range: 1,
            protocol: match mapping.protocol {
                ports::Protocol::Tcp => request::Protocol::Tcp,
                ports::Protocol::Udp => request::Protocol::Udp,
                ports::Protocol::Sctp => request::Protocol::Sctp,
            },
        };
        if !all.contains(&port) {
            all.push(port);
        }
    }
    all
}

pub(super) fn missing(error: driver::DriverError) -> CommandError {
    let package = match &error {
        driver::DriverError::NotInstalled("pasta") => "passt",
        driver::DriverError::NotInstalled(program) => program,
        _ => return CommandError::host(error),
    };
    CommandError::host(error).hinted(format!("sudo apt-get install {package}, or use --network builtin"))
}

impl Plan {
    /// The driver's name as `inspect` shows it.
    fn name(&self, record: &Record) -> String {
        match &self.way {
            Way::Helper(driver, _) => driver.name().to_owned(),
            Way::Bridge { .. } => "bridge".to_owned(),
            Way::Nothing => record.request.network.mode.clone(),
        }
    }

    fn attachment(&self) -> Option<&Attachment> {
        match &self.way {
            Way::Helper(_, plan) => Some(&plan.attachment),
            Way::Bridge { known, .. } => Some(known),
            Way::Nothing => None,
        }
    }

    /// Finds the leader, if the container needs one: its supervisor is to be born in the leader's user namespace. One
    /// that has to be in another's, whose init is `beside`, cannot be on a bridge, and gets a helper of its own.
    pub(super) fn lead(
        &mut self,
        layout: &Layout,
        mapping: &runtime::userns::Mapping,
        record: &Record,
        beside: Option<BorrowedFd<'_>>,
    ) -> Result<Option<OwnedFd>, CommandError> {
        let Way::Bridge { leader, .. } = &mut self.way else { return Ok(None) };
        let found = super::leader::connect(layout, mapping)?;
        if beside.is_some_and(|init| !runtime::userns::is_shared(init, found.pidfd.as_fd())) {
            if record.request.network.endpoints.is_some() {
                return Err(CommandError::user(
                    "the container whose namespaces are shared is on no bridge itself: it has a user namespace of its \
                     own, and a container that joins it cannot be on a bridge either",
                )
                .hinted("give both of them a network, or --network none"));
            }
            if !record.request.network.egress.is_empty() {
                return Err(CommandError::user(
                    "--egress: the container has to be in the user namespace of another one, and cannot be on a bridge",
                ));
            }
            self.way = helper(&self.mode)?;
            return Ok(None);
        }
        *leader = Some(found.connection);
        Ok(Some(found.pidfd))
    }

    /// Another run is to be on the networks that the record names, with the addresses of this one.
    pub(super) fn remember(&mut self, layout: &Layout, record: &Record) {
        if let (Way::Bridge { endpoints: old, .. }, Ok(new)) = (&mut self.way, endpoints(layout, record)) {
            *old = new;
        }
    }

    /// What init sets before the driver is started.
    pub(crate) fn sysctls(&self) -> &'static [(&'static str, &'static str)] {
        match &self.way {
            Way::Helper(_, plan) => plan.sysctls,
            _ => &[],
        }
    }

    /// Starts setting up the namespace of process `pid`; `None` where there is nothing to start.
    pub(crate) fn start(
        &mut self,
        record: &Record,
        netns: BorrowedFd<'_>,
        pid: i32,
        scratch: &Path,
    ) -> Result<Option<Started>, CommandError> {
        match &self.way {
            Way::Nothing => Ok(None),
            Way::Helper(driver, plan) => {
                let started = driver.start(plan.clone(), Netns { fd: netns, pid, scratch });
                started.map(|started| Some(Started::Helper(started))).map_err(CommandError::host)
            }
            Way::Bridge { endpoints, leader, .. } => {
                let leader = leader.as_ref().ok_or_else(|| leader_failed(Errno::ENOTCONN))?;
                let mut endpoints = endpoints.clone();
                endpoints.iter_mut().for_each(|endpoint| super::names::call(&mut endpoint.names, &record.name));
                match leader.attach(record.id.as_str(), endpoints.clone(), netns) {
                    // Whoever waits for the answer learns that there is none.
                    Ok(()) | Err(Errno::EPIPE | Errno::ECONNRESET) => {}
                    Err(errno) => return Err(leader_failed(errno)),
                }
                Ok(Some(Started::Bridge {
                    estate: None,
                    leader: copy(leader)?,
                    endpoints,
                    joined: Vec::new(),
                    attachment: Attachment::default(),
                }))
            }
        }
    }

    /// The leader has been killed: finds its successor, or becomes the one who forks it.
    pub(super) fn find_successor(
        &mut self,
        layout: &Layout,
        mapping: &runtime::userns::Mapping,
        estate: Option<&Estate>,
    ) -> Result<(), CommandError> {
        let Way::Bridge { leader, child, .. } = &mut self.way else { return Ok(()) };
        let (connection, forked) = super::leader::rescue(layout, mapping, estate)?;
        if let Some(forked) = forked
            && let Some(before) = child.replace(forked)
        {
            let _ = runtime::process::wait(before.as_fd(), false);
        }
        *leader = Some(connection);
        Ok(())
    }

    /// Tells the successor of a leader that was killed what the container has; `false` if there is none.
    pub(super) fn rejoin(
        &mut self,
        layout: &Layout,
        mapping: &runtime::userns::Mapping,
        record: &Record,
        started: &mut Started,
    ) -> Result<bool, CommandError> {
        let Started::Bridge { estate, leader: connection, endpoints, joined, .. } = started else { return Ok(true) };
        self.find_successor(layout, mapping, estate.as_ref())?;
        let Way::Bridge { leader: Some(leader), .. } = &self.way else { return Ok(true) };
        let places = endpoints.iter().cloned().zip(joined.iter().cloned()).collect();
        let is_alive = || super::leader::is_alive(layout, mapping);
        let renewed = leader.rejoin(record.id.as_str(), places, is_alive).map_err(leader_failed)?;
        *connection = copy(leader)?;
        let is_done = renewed.is_some();
        *estate = renewed.or(estate.take());
        Ok(is_done)
    }

    /// Starts serving the published ports; `None` if there are none.
    pub(crate) fn forward(
        &self,
        netns: BorrowedFd<'_>,
        attachment: Option<&Attachment>,
    ) -> Result<Option<Forwarder>, CommandError> {
        if self.listeners.is_empty() {
            return Ok(None);
        }
        let target = attachment.map(Target::from).unwrap_or_default();
        forward::start(&self.listeners, netns, target).map(Some).map_err(CommandError::host)
    }

    /// Publishes what `now` says and `before` did not, and the other way round.
    pub(super) fn republish(&mut self, before: &request::Network, now: &request::Network) -> Result<(), PublishError> {
        let (before, now) = (port_requests(before), port_requests(now));
        let only = |these: &[PortRequest], others: &[PortRequest]| {
            these.iter().filter(|one| !others.contains(one)).copied().collect::<Vec<_>>()
        };
        let had = self.listeners.mappings();
        self.listeners.add(&only(&now, &before))?;
        let gone = only(&before, &now);
        self.listeners.retain(|mapping| {
            let is_of = |one: &&PortRequest| leads_to(one, mapping);
            !had.contains(mapping)
                || !gone.iter().any(|one| is_of(&one))
                || now.iter().filter(|one| one.host_ports.is_some()).any(|one| is_of(&one))
        });
        Ok(())
    }

    /// Whether the container has ports that somebody could serve.
    pub(super) fn listeners(&self) -> &Listeners {
        &self.listeners
    }

    /// The published ports, as the state file has them.
    pub(super) fn ports(&self) -> Vec<status::Port> {
        port_status(&self.listeners.mappings())
    }

    /// Lets go of the published ports.
    pub(crate) fn close_ports(&mut self) {
        self.listeners = Listeners::default();
    }

    /// Writes `hosts`, `hostname`, `resolv.conf` and `.containerenv` into the container's runtime directory.
    ///
    /// `found` is what the driver found out after its start, if it has; the container sees a new text at once, since the
    /// file stays the same one.
    pub(crate) fn write_files(
        &self,
        layout: &Layout,
        record: &Record,
        found: Option<&Attachment>,
    ) -> Result<(), CommandError> {
        let attachment = found.or(self.attachment());
        let directory = layout.runtime_container(&record.id);
        let asked = &record.request.network;
        let host_name = super::bundle::hostname(record);
        let write = |name: &str, text: &str| {
            let path = directory.join(name);
            write_in_place(&path, text).map_err(|error| {
                CommandError::host(format!("write {}: {}", path.display(), crate::error::reason(&error)))
            })
        };
        write("hostname", &format!("{host_name}\n"))?;
        write(".containerenv", "")?;
        let shared = match &self.mode {
            Mode::Container(name) => Some(container::find(layout, name).map_err(CommandError::user)?),
            _ => None,
        };
        let shared_text = |name: &str| {
            let directory = shared.as_ref().map(|other| layout.runtime_container(&other.id))?;
            fs::read_to_string(directory.join(name)).ok()
        };
        if let Some(text) =
            shared_text("hosts").filter(|_| !asked.no_hosts && asked.add_hosts.is_empty() && asked.links.is_empty())
        {
            // The names of whose network it is, and ours, which lead to the same place.
            write("hosts", &format!("{text}127.0.0.1\t{host_name} {}\n", record.name))?;
        } else if !asked.no_hosts {
            let mut add: Vec<AddHost> = asked.add_hosts.iter().map(add_host).collect::<Result<_, _>>()?;
            // Behind a helper of its own, what it publishes is all that can be reached of it. On a bridge its link is a name.
            let shares = matches!(self.mode, Mode::Host | Mode::Container(_));
            let linked = if matches!(self.way, Way::Bridge { .. }) { &[][..] } else { &asked.links };
            add.extend(linked.iter().map(|link| AddHost {
                names: vec![link.alias.clone()],
                address: shares.then_some(IpAddr::from([127, 0, 0, 1])),
            }));
            let base = asked.hosts_base.as_deref().unwrap_or(Path::new("/etc/hosts"));
            let base = fs::read_to_string(base).ok();
            let addresses: Vec<IpAddr> =
                attachment.iter().flat_map(|attachment| &attachment.addresses).map(|address| address.ip).collect();
            let names = [host_name.as_str(), record.name.as_str()];
            let names = if host_name == record.name { &names[..1] } else { &names[..] };
            let places = asked.places();
            let aliases = places.iter().flat_map(|place| &place.aliases).map(String::as_str);
            let mut names: Vec<&str> = names.iter().copied().chain(aliases).collect();
            if places.is_empty() {
                names.extend(asked.aliases.iter().map(String::as_str));
            }
            let host_network = self.mode == Mode::Host;
            let hosts = Hosts {
                add: &add,
                base: base.as_deref(),
                host_network,
                host_address: match attachment {
                    Some(attachment) => attachment.host.or_else(|| attachment.gateway(false)),
                    None if host_network => Some(IpAddr::from([127, 0, 0, 1])),
                    None => None,
                },
                addresses: &addresses,
                names: &names,
            };
            write("hosts", &hosts.render().map_err(CommandError::user)?)?;
        }
        let own_dns = !(asked.dns.is_empty() && asked.dns_search.is_empty() && asked.dns_options.is_empty());
        if let Some(text) = shared_text("resolv.conf").filter(|_| !asked.no_resolv_conf && !own_dns) {
            write("resolv.conf", &text)?;
        } else if !asked.no_resolv_conf {
            let host = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
            let upstream = fs::read_to_string(resolv_conf::RESOLVED_UPSTREAM).ok();
            let choice = Choice { servers: &asked.dns, search: &asked.dns_search, options: &asked.dns_options };
            let has_names = |endpoint: &Endpoint| endpoint.network.dns;
            let reach = match (&self.mode, attachment) {
                (_, Some(attachment)) if matches!(&self.way, Way::Bridge { endpoints, .. } if endpoints.iter().any(has_names)) => {
                    Reach::Names(&attachment.dns)
                }
                (_, Some(attachment)) => Reach::Driver(&attachment.dns),
                (Mode::None, _) => Reach::Nothing,
                _ => Reach::Host,
            };
            write("resolv.conf", &resolv_conf::render(&host, upstream.as_deref(), choice, reach))?;
        }
        Ok(())
    }

    /// The network as `inspect` shows it.
    pub(crate) fn status(&self, record: &Record, started: Option<&Started>) -> status::Network {
        let ports = port_status(&self.listeners.mappings());
        let aliases = || record.request.network.aliases.clone();
        let interfaces = match started {
            Some(Started::Bridge { joined, .. }) => {
                let places = record.request.network.places();
                let of = |network: &str| places.iter().find(|place| place.network == network);
                let each = joined.iter().map(|one| {
                    let mut aliases = of(&one.network).map(|place| place.aliases.clone()).unwrap_or_default();
                    aliases.push(record.id.short().to_owned());
                    interface(one.network.clone(), &Attachment::from(one), aliases)
                });
                each.collect()
            }
            _ => {
                let attachment = started.map(Started::attachment).or(self.attachment());
                attachment.map(|attachment| interface(self.name(record), attachment, aliases())).into_iter().collect()
            }
        };
        status::Network { mode: self.name(record), interfaces, ports, error: String::new() }
    }
}

fn interface(network: String, attachment: &Attachment, aliases: Vec<String>) -> status::Interface {
    status::Interface {
        network,
        name: attachment.interface.clone().unwrap_or_default(),
        mac: attachment.mac.map(|mac| mac.to_string()).unwrap_or_default(),
        addresses: attachment
            .addresses
            .iter()
            .map(|address| status::Address {
                ip: address.ip,
                prefix: address.prefix,
                gateway: attachment.gateway(address.ip.is_ipv6()),
            })
            .collect(),
        aliases,
    }
}

/// Writes a file that the container has mounted: it stays the same one, and is never seen empty.
fn write_in_place(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    file.write_all(text.as_bytes())?;
    file.set_len(u64::try_from(text.len()).unwrap_or_default())?;
    // Every user of the container reads them, whatever the umask of whoever started it.
    file.set_permissions(fs::Permissions::from_mode(0o644))
}

fn add_host(entry: &request::AddHost) -> Result<AddHost, CommandError> {
    let address = match entry.address.as_str() {
        "host-gateway" => None,
        text => Some(text.parse().map_err(|_| {
            CommandError::user(format!("--add-host {}:{text}: not an IP address", entry.names.join(";")))
        })?),
    };
    Ok(AddHost { names: entry.names.clone(), address })
}

/// Opens the network namespace of process `pid`.
pub(crate) fn namespace_of(pid: i32) -> Result<OwnedFd, CommandError> {
    let path = format!("/proc/{pid}/ns/net");
    nix::fcntl::open(
        path.as_str(),
        nix::fcntl::OFlag::O_RDONLY | nix::fcntl::OFlag::O_CLOEXEC,
        nix::sys::stat::Mode::empty(),
    )
    .map_err(|errno| CommandError::host(format!("open({path}): {}", errno.desc().to_lowercase())))
}
