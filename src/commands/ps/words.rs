//! What `ps` and its kin say of a container: status, ports, networks.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use jiff::Timestamp;
use storage::state::container::{self, Record, Summary};
use storage::state::layout::Layout;
use storage::state::request::{ExposedPorts, Mount, PublishedPort};
use storage::state::status::{self, Observed, Port, State};

use crate::cli::units;
use crate::networks;
use crate::role::Persona;

/// Bytes of all regular files below a directory, as far as the user may look into it.
pub(crate) fn tree_bytes(path: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(path) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => tree_bytes(&entry.path()),
            Ok(metadata) if metadata.is_file() => metadata.size(),
            _ => 0,
        })
        .sum()
}

/// The full name of a container's image, or what was typed when it has none.
pub(crate) fn image_name(record: &Record) -> &str {
    record.image_name()
}

/// `Up 3 minutes (healthy)`, `Exited (0) 2 seconds ago`, `Created`.
pub(crate) fn status_text(observed: &Observed, now: Timestamp) -> String {
    let health = observed.health.as_ref().map(|health| format!(" ({})", health.status.as_str())).unwrap_or_default();
    match &observed.state {
        State::Created => "Created".to_owned(),
        State::Starting { .. } => "Initialized".to_owned(),
        State::Running { since, .. } => format!("Up {}{health}", units::human_duration(units::since(*since, now))),
        State::Paused { .. } => "Paused".to_owned(),
        // docker's words; podman shows nothing of it, since it starts at once.
        State::Restarting { exit } => {
            let ago = exit.finished_at.map(|finished| units::ago(finished, now)).unwrap_or_default();
            format!("Restarting ({}) {ago}", exit.code)
        }
        State::Stopped { exit } => match exit.finished_at {
            Some(finished) => format!("Exited ({}) {}", exit.code, units::ago(finished, now)),
            None => format!("Exited ({})", exit.code),
        },
    }
}

/// The ports of a container itself: those listened on while it runs, else those asked for.
pub(crate) fn ports(record: &Record, observed: &Observed) -> Vec<Port> {
    ports_of(&record.request.network.published, observed)
}

/// As [`ports`]; of a container that uses the network of another one, as those of a pod do, that one's.
pub(crate) fn shared_ports(layout: &Layout, record: &Record, observed: &Observed) -> Vec<Port> {
    match record.request.network.of_container() {
        Some(lender) => Lenders::default().ports(layout, lender),
        None => ports(record, observed),
    }
}

pub(super) fn ports_of(published: &[PublishedPort], observed: &Observed) -> Vec<Port> {
    let mut ports = observed.network.ports.clone();
    if ports.is_empty() {
        ports.extend(published.iter().filter_map(|port| {
            let host_port = port.host_port?;
            let (host_ip, container_port, range, protocol) =
                (port.host_ip, port.container_port, port.range, port.protocol);
            Some(Port { host_ip, host_port, container_port, range, protocol })
        }));
    }
    ports.sort_by_key(|port| (port.protocol, port.container_port, port.host_port));
    ports
}

/// The ports of containers whose networks others use, each looked up once.
#[derive(Default)]
pub(super) struct Lenders {
    known: HashMap<String, Vec<Port>>,
}

impl Lenders {
    /// The ports of the container of this name or id; none if there is no such container any more.
    pub(super) fn ports(&mut self, layout: &Layout, lender: &str) -> Vec<Port> {
        let mut name = lender.to_owned();
        // It may itself use another one's; containers that name each other in a ring cannot run.
        for _ in 0..8 {
            if let Some(known) = self.known.get(&name) {
                return known.clone();
            }
            let Ok(record) = container::find(layout, &name) else { break };
            if let Some(next) = record.request.network.of_container() {
                name = next.to_owned();
                continue;
            }
            let found = status::observe(layout, &record).map(|observed| ports(&record, &observed)).unwrap_or_default();
            self.known.insert(lender.to_owned(), found.clone());
            return found;
        }
        Vec::new()
    }
}

/// `0.0.0.0:8080->80/tcp, 443/tcp`.
pub(super) fn ports_text(ports: &[Port], exposed: &[ExposedPorts]) -> String {
    let span = |first: u16, range: u16| match range {
        0 | 1 => first.to_string(),
        range => format!("{first}-{}", first.saturating_add(range - 1)),
    };
    let mut words = Vec::new();
    for port in ports {
        let address = port.host_ip.map_or_else(
            || "0.0.0.0".to_owned(),
            |ip| {
                if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() }
            },
        );
        words.push(format!(
            "{address}:{}->{}/{}",
            span(port.host_port, port.range),
            span(port.container_port, port.range),
            port.protocol.as_str()
        ));
    }
    let mut exposed: Vec<_> = exposed.iter().filter(|exposed| !is_published(exposed, ports)).collect();
    exposed.sort();
    words.extend(exposed.iter().map(|one| format!("{}/{}", span(one.port, one.range), one.protocol.as_str())));
    words.join(", ")
}

fn is_published(exposed: &ExposedPorts, ports: &[Port]) -> bool {
    ports.iter().any(|port| {
        port.protocol == exposed.protocol
            && (port.container_port..port.container_port.saturating_add(port.range.max(1))).contains(&exposed.port)
    })
}

pub(super) fn mount_targets(record: &Record) -> Vec<String> {
    let mounts = record.request.mounts.iter().filter(|mount| !matches!(mount, Mount::Tmpfs(_) | Mount::Devpts(_)));
    mounts.map(|mount| mount.target().display().to_string()).collect()
}

/// Names of the networks that a container is on, or will be when it starts: bridges, not the drivers without one.
pub(crate) fn network_names(record: &Record, persona: Persona) -> Vec<String> {
    let places = record.request.network.places();
    let mut names: Vec<String> =
        places.iter().map(|place| networks::shown(&place.network, persona).to_owned()).collect();
    names.sort();
    names
}

/// The id of a container's pod, empty if it is in none.
pub(super) fn pod_id(summary: &Summary, whole: bool) -> &str {
    let id = summary.pod.as_deref().unwrap_or_default();
    if whole { id } else { id.get(..12).unwrap_or(id) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use storage::state::request::Protocol;
    use storage::state::status::{Exit, Health, HealthStatus, Init};

    fn observed(state: State, health: Option<HealthStatus>) -> Observed {
        Observed {
            state,
            supervisor: None,
            started_at: None,
            network: status::Network::default(),
            health: health.map(|status| Health { status, ..Health::default() }),
            cgroup: None,
            restarts: 0,
            stopped_by_user: false,
        }
    }

    #[test]
    fn status_words_are_podmans() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let init = Init { pid: 1, start_time: 1 };
        let stopped = |code, finished_at| State::Stopped { exit: Exit { code, finished_at, ..Exit::default() } };
        let running = State::Running { init, since: at(0) };
        for (state, health, text) in [
            (State::Created, None, "Created"),
            (State::Starting { init }, None, "Initialized"),
            (running.clone(), None, "Up 2 minutes"),
            (running, Some(HealthStatus::Starting), "Up 2 minutes (starting)"),
            (State::Paused { init, since: at(0) }, None, "Paused"),
            (stopped(3, Some(at(60))), None, "Exited (3) About a minute ago"),
            (stopped(255, None), None, "Exited (255)"),
        ] {
            assert_eq!(status_text(&observed(state, health), at(120)), text);
        }
    }

    #[test]
    fn ports_print_as_podman_prints_them() {
        let port = |host_ip: Option<&str>, host_port, container_port, range, protocol| Port {
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
            host_port,
            container_port,
            range,
            protocol,
        };
        let exposed = |port| ExposedPorts { port, range: 1, protocol: Protocol::Tcp };
        let ports = [
            port(None, 9000, 9000, 3, Protocol::Tcp),
            port(Some("127.0.0.1"), 44463, 90, 1, Protocol::Udp),
            port(Some("::1"), 80, 80, 1, Protocol::Tcp),
        ];
        assert_eq!(
            ports_text(&ports, &[exposed(443), exposed(9001)]),
            "0.0.0.0:9000-9002->9000-9002/tcp, 127.0.0.1:44463->90/udp, [::1]:80->80/tcp, 443/tcp"
        );
        assert_eq!(ports_text(&[], &[]), "");
    }
}
