//! `--publish` and `--expose`: the grammar is `net`'s, the result is what `container.json` keeps.

use net::ports::{PortRange, parse_exposed, parse_publish};
use storage::state::request::{ExposedPorts, Protocol, PublishedPort};

use super::Parsed;

/// One value of `--publish`.
pub(crate) fn published(value: &str) -> Parsed<PublishedPort> {
    let spec = parse_publish(value).map_err(|error| error.to_string())?;
    let range = count(spec.container_ports)?;
    let choice = spec.host_ports.filter(|host| range == 1 && host.first != host.last);
    Ok(PublishedPort {
        host_ip: spec.host_ip,
        host_port: spec.host_ports.map(|host| host.first),
        host_port_end: choice.map(|host| host.last),
        container_port: spec.container_ports.first,
        range,
        protocol: protocol(spec.protocol),
    })
}

/// `port[-port][/protocol]`.
pub(crate) fn exposed(value: &str) -> Parsed<ExposedPorts> {
    let exposed = parse_exposed(value).map_err(|error| error.to_string())?;
    let range = count(exposed.ports)?;
    Ok(ExposedPorts { port: exposed.ports.first, range, protocol: protocol(exposed.protocol) })
}

fn count(ports: PortRange) -> Parsed<u16> {
    u16::try_from(ports.count()).map_err(|_| "too many ports".to_owned())
}

fn protocol(protocol: net::ports::Protocol) -> Protocol {
    match protocol {
        net::ports::Protocol::Tcp => Protocol::Tcp,
        net::ports::Protocol::Udp => Protocol::Udp,
        net::ports::Protocol::Sctp => Protocol::Sctp,
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn every_form_of_publish_is_kept() {
        let port = |container_port| PublishedPort {
            host_ip: None,
            host_port: None,
            host_port_end: None,
            container_port,
            range: 1,
            protocol: Protocol::Tcp,
        };
        let local = Some(IpAddr::from([127, 0, 0, 1]));
        for (text, expected) in [
            ("80", port(80)),
            ("80/tcp", port(80)),
            ("53/UDP", PublishedPort { protocol: Protocol::Udp, ..port(53) }),
            ("8080:80", PublishedPort { host_port: Some(8080), ..port(80) }),
            (":80", port(80)),
            ("0:80", port(80)),
            ("127.0.0.1:8080:80", PublishedPort { host_ip: local, host_port: Some(8080), ..port(80) }),
            ("127.0.0.1::80", PublishedPort { host_ip: local, ..port(80) }),
            ("[::1]:8080:80", PublishedPort { host_ip: "::1".parse().ok(), host_port: Some(8080), ..port(80) }),
            ("[::1]::80/sctp", PublishedPort { host_ip: "::1".parse().ok(), protocol: Protocol::Sctp, ..port(80) }),
            ("8000-8002:80-82", PublishedPort { host_port: Some(8000), range: 3, ..port(80) }),
            ("80-82", PublishedPort { range: 3, ..port(80) }),
            ("8000-8002:80", PublishedPort { host_port: Some(8000), host_port_end: Some(8002), ..port(80) }),
            ("1-65535", PublishedPort { range: 65535, ..port(1) }),
        ] {
            assert_eq!(published(text), Ok(expected), "{text}");
        }
        for text in ["", ":", "x", "80:", "0", "65536", "80-", "90-80", "80/icmp", "localhost:80:80", "1-2:3-5", "+80"]
        {
            assert!(published(text).is_err(), "{text}");
        }
    }

    #[test]
    fn exposed_ports_may_be_ranges() {
        assert_eq!(exposed("80"), Ok(ExposedPorts { port: 80, range: 1, protocol: Protocol::Tcp }));
        assert_eq!(exposed("80-90/udp"), Ok(ExposedPorts { port: 80, range: 11, protocol: Protocol::Udp }));
        for text in ["", "x", "1:2", "0", "80/x"] {
            assert!(exposed(text).is_err(), "{text}");
        }
    }
}
