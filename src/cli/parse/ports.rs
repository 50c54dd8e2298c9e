//! `--publish` and `--expose`.

use std::net::IpAddr;

use storage::state::request::{ExposedPorts, Protocol, PublishedPort};

use super::Parsed;

/// `[[ip:][host-port]:]container-port[/protocol]`; ports may be ranges; an IPv6 address stands in brackets.
pub(crate) fn published(value: &str) -> Parsed<PublishedPort> {
    const FORMAT: &str = "invalid port format - format is [[hostIP:]hostPort:]containerPort";
    let (value, protocol) = protocol(value)?;
    let (address, rest) = match value.strip_prefix('[') {
        Some(rest) => {
            let (address, rest) = rest.split_once("]:").ok_or(FORMAT)?;
            (Some(address), rest)
        }
        None if value.matches(':').count() == 2 => {
            let (address, rest) = value.split_once(':').ok_or(FORMAT)?;
            (Some(address), rest)
        }
        None => (None, value),
    };
    let (host, container) = match rest.split_once(':') {
        Some((host, container)) => (Some(host), container),
        None if address.is_some() => return Err(FORMAT.to_owned()),
        None => (None, rest),
    };
    if container.contains(':') {
        return Err(FORMAT.to_owned());
    }
    let host_ip = match address {
        None | Some("") => None,
        Some(address) => {
            Some(address.parse::<IpAddr>().map_err(|_| format!("cannot parse {address:?} as an IP address"))?)
        }
    };
    let (container_port, range) = ports(container).map_err(|reason| format!("parsing container port: {reason}"))?;
    let mut published =
        PublishedPort { host_ip, host_port: None, host_port_end: None, container_port, range, protocol };
    if let Some(host) = host.filter(|host| !host.is_empty() && *host != "0") {
        let (first, count) = ports(host).map_err(|reason| format!("parsing host port: {reason}"))?;
        published.host_port = Some(first);
        if count != range {
            if range != 1 {
                return Err(format!("host and container port ranges have different lengths: {count} vs {range}"));
            }
            published.host_port_end = Some(first + (count - 1));
        }
    }
    Ok(published)
}

/// `port[-port][/protocol]`.
pub(crate) fn exposed(value: &str) -> Parsed<ExposedPorts> {
    let (value, protocol) = protocol(value)?;
    let (port, range) = ports(value)?;
    Ok(ExposedPorts { port, range, protocol })
}

fn protocol(value: &str) -> Parsed<(&str, Protocol)> {
    match value.split_once('/') {
        None => Ok((value, Protocol::Tcp)),
        Some((value, name)) => match name.to_ascii_lowercase().as_str() {
            "tcp" => Ok((value, Protocol::Tcp)),
            "udp" => Ok((value, Protocol::Udp)),
            "sctp" => Ok((value, Protocol::Sctp)),
            _ => Err(format!("unrecognized protocol {name:?} in port mapping")),
        },
    }
}

/// First port and how many.
fn ports(value: &str) -> Parsed<(u16, u16)> {
    let (first, last) = value.split_once('-').unwrap_or((value, value));
    let (first, last) = (port(first)?, port(last)?);
    if last < first {
        return Err(format!("invalid port range {value:?}: the end comes before the start"));
    }
    Ok((first, last - first + 1))
}

fn port(value: &str) -> Parsed<u16> {
    if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("invalid port number {value:?}"));
    }
    let port = value.parse().ok().filter(|port| *port != 0);
    port.ok_or_else(|| format!("port numbers must be between 1 and 65535 (inclusive), got {value}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_publish_is_read() {
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
            ("::80", port(80)),
            ("[::1]:8080:80", PublishedPort { host_ip: "::1".parse().ok(), host_port: Some(8080), ..port(80) }),
            ("[::1]::80/sctp", PublishedPort { host_ip: "::1".parse().ok(), protocol: Protocol::Sctp, ..port(80) }),
            ("8000-8002:80-82", PublishedPort { host_port: Some(8000), range: 3, ..port(80) }),
            ("80-82", PublishedPort { range: 3, ..port(80) }),
            ("8000-8002:80", PublishedPort { host_port: Some(8000), host_port_end: Some(8002), ..port(80) }),
            ("1-65535", PublishedPort { range: 65535, ..port(1) }),
        ] {
            assert_eq!(published(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn broken_forms_of_publish_are_refused() {
        for text in [
            "",
            ":",
            "x",
            "80:",
            "80:x",
            "0",
            "65536",
            "80-",
            "-80",
            "90-80",
            "80/icmp",
            "80/",
            "1:2:3:4",
            "localhost:80:80",
            "[::1]:80",
            "[::1:80",
            "1-2:3-5",
            "1-2:3-3-4",
            "+80",
            " 80",
            "::1:80:80",
        ] {
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
