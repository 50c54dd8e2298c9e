//! How `ps`, `port` and `inspect` show published ports: docker's shapes to the letter.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ExposedPort, PortMapping};

/// One entry under a key of docker's `NetworkSettings.Ports`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct HostBinding {
    /// The host address, `0.0.0.0` for every IPv4 address.
    pub host_ip: String,
    /// The host port in decimal digits.
    pub host_port: String,
}

/// docker's `NetworkSettings.Ports`: `"80/tcp"` → its bindings, `None` (JSON `null`) when only exposed.
#[must_use]
pub fn inspect_ports(mappings: &[PortMapping], exposed: &[ExposedPort]) -> BTreeMap<String, Option<Vec<HostBinding>>> {
    let mut ports: BTreeMap<String, Option<Vec<HostBinding>>> = BTreeMap::new();
    for exposed in exposed {
        for port in exposed.ports.iter() {
            ports.entry(format!("{port}/{}", exposed.protocol)).or_default();
        }
    }
    for mapping in mappings {
        let key = format!("{}/{}", mapping.container_port, mapping.protocol);
        ports
            .entry(key)
            .or_default()
            .get_or_insert_default()
            .push(HostBinding { host_ip: mapping.host_ip.to_string(), host_port: mapping.host_port.to_string() });
    }
    ports
}

/// The text of the `PORTS` column of `ps`.
///
/// docker joins consecutive ports only where host and container port are equal; the others stand singly, last.
///
/// # Source
/// `DisplayablePorts` of docker/cli `cli/command/formatter/container.go`.
#[must_use]
pub fn displayable(mappings: &[PortMapping], exposed: &[ExposedPort]) -> String {
    let mut rows: Vec<(u16, String, u16, &'static str)> = mappings
        .iter()
        .map(|m| {
            let ip = if m.host_ip.is_ipv6() { format!("[{}]", m.host_ip) } else { m.host_ip.to_string() };
            (m.container_port, ip, m.host_port, m.protocol.as_str())
        })
        .collect();
    for exposed in exposed {
        for port in exposed.ports.iter() {
            if !mappings.iter().any(|m| m.container_port == port && m.protocol == exposed.protocol) {
                rows.push((port, String::new(), 0, exposed.protocol.as_str()));
            }
        }
    }
    rows.sort();

    struct Group {
        ip: String,
        protocol: &'static str,
        first: u16,
        last: u16,
    }
    let mut closed: Vec<String> = Vec::new();
    let mut open: Vec<Group> = Vec::new();
    let mut single: Vec<String> = Vec::new();
    for (port, ip, host_port, protocol) in rows {
        if !ip.is_empty() && host_port != port {
            single.push(format!("{ip}:{host_port}->{port}/{protocol}"));
            continue;
        }
        match open.iter_mut().find(|g| g.ip == ip && g.protocol == protocol) {
            None => open.push(Group { ip, protocol, first: port, last: port }),
            Some(group) if port == group.last.saturating_add(1) => group.last = port,
            Some(group) => {
                closed.push(show_range(&group.ip, group.first, group.last, group.protocol));
                (group.first, group.last) = (port, port);
            }
        }
    }
    closed.extend(open.iter().map(|g| show_range(&g.ip, g.first, g.last, g.protocol)));
    closed.extend(single);
    closed.join(", ")
}

fn show_range(ip: &str, first: u16, last: u16, protocol: &str) -> String {
    let range = if first == last { first.to_string() } else { format!("{first}-{last}") };
    if ip.is_empty() { format!("{range}/{protocol}") } else { format!("{ip}:{range}->{range}/{protocol}") }
}

#[cfg(test)]
mod tests {
    use super::super::{Protocol, parse_exposed};
    use super::*;

    fn mapping(ip: &str, host_port: u16, container_port: u16) -> PortMapping {
        PortMapping { host_ip: ip.parse().unwrap(), host_port, container_port, protocol: Protocol::Tcp }
    }

    #[test]
    fn ps_joins_equal_ranges_and_lists_the_rest_singly() {
        let exposed = [parse_exposed("443").unwrap(), parse_exposed("80").unwrap()];
        for (mappings, exposed, text) in [
            (&[mapping("0.0.0.0", 8080, 80)][..], &[][..], "0.0.0.0:8080->80/tcp"),
            (
                &[mapping("0.0.0.0", 8080, 80), mapping("::", 8080, 80)],
                &exposed,
                "443/tcp, 0.0.0.0:8080->80/tcp, [::]:8080->80/tcp",
            ),
            (
                &[mapping("0.0.0.0", 80, 80), mapping("0.0.0.0", 81, 81), mapping("0.0.0.0", 90, 90)],
                &[],
                "0.0.0.0:80-81->80-81/tcp, 0.0.0.0:90->90/tcp",
            ),
            (&[], &[], ""),
        ] {
            assert_eq!(displayable(mappings, exposed), text);
        }
    }

    #[test]
    fn inspect_has_null_for_ports_that_are_only_exposed() {
        let exposed = [parse_exposed("443").unwrap(), parse_exposed("80").unwrap()];
        let ports = inspect_ports(&[mapping("0.0.0.0", 8080, 80), mapping("::", 8080, 80)], &exposed);
        assert_eq!(
            serde_json::to_string(&ports).unwrap(),
            r#"{"443/tcp":null,"80/tcp":[{"HostIp":"0.0.0.0","HostPort":"8080"},{"HostIp":"::","HostPort":"8080"}]}"#
        );
    }
}
