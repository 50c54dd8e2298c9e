//! A container's published ports: what is asked for, what is bound, and what is said when it cannot be.

use net::forward::{Listeners, PublishError};
use net::ports::{self, PortMapping, PortRange, PortRequest, PublishSpec};
use storage::state::container;
use storage::state::layout::Layout;
use storage::state::request;
use storage::state::status;

use super::Plan;
use crate::error::CommandError;

/// How much higher a port is published that this user may not open.
const REMAPPED_BY: u16 = 8000;

/// Publishes ports below `lowest` elsewhere, and says so.
pub(super) fn bind_remapped(
    layout: &Layout,
    mut wanted: Vec<PortRequest>,
    lowest: u16,
) -> Result<Listeners, CommandError> {
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
/// **Runs in:** the command, on the host, as [`super::plan`].
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
pub(super) fn not_published(layout: &Layout, error: PublishError) -> CommandError {
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
pub(super) fn low_port(error: &PublishError) -> CommandError {
    CommandError::host(error)
        .hinted("sudo sysctl net.ipv4.ip_unprivileged_port_start=80 opens low ports to every user, until the next boot")
        .hinted(format!(
            "low_ports = \"remap\" below [network] in {} publishes port 80 on {}",
            crate::config::own_file().display(),
            80 + REMAPPED_BY
        ))
        .hinted(
            "a socket unit of systemd that has the port (ListenStream=) can start this command: what is published is then \
             taken from it",
        )
}

pub(super) fn port_requests(network: &request::Network) -> Vec<PortRequest> {
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
pub(super) fn port_status(mappings: &[PortMapping]) -> Vec<status::Port> {
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

impl Plan {
    /// Publishes what `now` says and `before` did not, and the other way round.
    pub(in crate::supervisor) fn republish(
        &mut self,
        before: &request::Network,
        now: &request::Network,
    ) -> Result<(), PublishError> {
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
}
