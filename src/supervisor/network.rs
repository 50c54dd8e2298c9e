//! A container's network: decided by the command, set up by the supervisor.

mod files;

mod ports;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use net::driver::{self, Attachment, Driver, Netns};
use net::forward::{self, Forwarder, Held, Listeners, PublishError, Target};
use net::leader::{Answer, Connection, Endpoint, Estate, Joined};
use net::mode::Mode;
use nix::errno::Errno;
use runtime::userns::making::Making;
use storage::state::container::Record;
use storage::state::layout::Layout;
use storage::state::request::Request;
use storage::state::status;

pub(crate) use ports::choose;
use ports::{bind_remapped, low_port, not_published, port_requests, port_status};

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
/// Ports that are open in one of the sockets that were `held` for us are published by it.
///
/// **Runs in:** the command, on the host: the supervisor could no longer say who holds a port.
pub(crate) fn plan(layout: &Layout, record: &Record, held: &mut Held) -> Result<Plan, CommandError> {
    let mode = Mode::parse(&record.request.network.mode).map_err(CommandError::user)?;
    let way = match &mode {
        Mode::Default => {
            let known = Attachment { host: driver::outward_address(), ..Attachment::default() };
            Way::Bridge { endpoints: endpoints(layout, record)?, known, leader: None, child: None }
        }
        mode => helper(mode)?,
    };
    let wanted = if mode.can_publish() { port_requests(&record.request.network) } else { Vec::new() };
    let listeners = match Listeners::bind_beside(&wanted, held) {
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

/// Whether a container is on a bridge, which takes a leader.
pub(crate) fn needs_leader(request: &Request) -> bool {
    Mode::parse(&request.network.mode) == Ok(Mode::Default)
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
    let found = places.iter().map(|place| networks::find(layout, &place.network).map_err(CommandError::user));
    let found = found.collect::<Result<Vec<_>, _>>()?;
    let wishes = super::names::wishes(layout, record, &found);
    let mut endpoints = Vec::new();
    for (number, (place, network)) in places.iter().zip(&found).enumerate() {
        let interface = place.interface.clone().unwrap_or_else(|| free_interface(&interfaces));
        interfaces.push(interface.clone());
        let had = record.addresses.get(&network.name).cloned().unwrap_or_default();
        endpoints.push(Endpoint {
            network: networks::described(network),
            interface,
            mac: place.mac.as_deref().and_then(|mac| crate::cli::parse::networks::mac(mac).ok()),
            must: !place.ips.is_empty(),
            wanted: if place.ips.is_empty() { had } else { place.ips.clone() },
            names: super::names::of(record, &place.aliases),
            default_route: networks::default_route(network, number),
            wishes: wishes.clone(),
        });
    }
    Ok(endpoints)
}

pub(super) fn free_interface(taken: &[String]) -> String {
    let mut all = (0..=taken.len()).map(|number| format!("eth{number}"));
    all.find(|name| !taken.contains(name)).unwrap_or_default()
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

    /// Finds the leader, if the container needs one: its supervisor is to be born in the leader's user namespace, which is
    /// that of `making` if no leader is returned. One that has to be in another's, whose init is `beside`, cannot be on a
    /// bridge, and gets a helper of its own.
    pub(super) fn lead(
        &mut self,
        layout: &Layout,
        mapping: &runtime::userns::Mapping,
        record: &Record,
        beside: Option<BorrowedFd<'_>>,
        making: Option<&mut Making>,
    ) -> Result<Option<OwnedFd>, CommandError> {
        let Way::Bridge { leader, .. } = &mut self.way else { return Ok(None) };
        let found = super::leader::connect(layout, mapping, making)?;
        let is_another = |init, leader: &OwnedFd| !runtime::userns::is_shared(init, leader.as_fd());
        if beside.is_some_and(|init| found.pidfd.as_ref().is_none_or(|leader| is_another(init, leader))) {
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
        Ok(found.pidfd)
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
