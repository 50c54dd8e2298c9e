//! The grammar of `--publish` and `--expose`.

use std::net::IpAddr;

use super::{PortRange, PortRequest, Protocol};

/// Why a `--publish` or `--expose` value was refused. The texts are docker's.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum PortError {
    /// Nothing stands where the container port belongs.
    #[error("no port specified: {0}<empty>")]
    NoPort(String),
    /// The container port is no port or range.
    #[error("invalid containerPort: {0}")]
    ContainerPort(String),
    /// The host port is no port or range.
    #[error("invalid hostPort: {0}")]
    HostPort(String),
    /// The host address is no IP address.
    #[error("invalid IP address: {0}")]
    Address(String),
    /// Neither tcp, udp nor sctp.
    #[error("invalid proto: {0}")]
    Protocol(String),
    /// Two ranges of different length.
    #[error("invalid ranges specified for container and host Ports: {container} and {host}")]
    Ranges {
        /// The container's range as given.
        container: String,
        /// The host's range as given.
        host: String,
    },
    /// An unknown key of the long form.
    #[error("invalid publish opts format (should be name=value but got '{0}')")]
    LongForm(String),
    /// An exposed port is no port or range.
    #[error("invalid range format for --expose: {0}")]
    Expose(String),
}

/// One value of `--publish`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishSpec {
    /// The host address; `None` is every address, IPv4 and IPv6.
    pub host_ip: Option<IpAddr>,
    /// The host ports; `None` is whichever the kernel gives.
    pub host_ports: Option<PortRange>,
    /// The container's ports.
    pub container_ports: PortRange,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
}

impl PublishSpec {
    /// One request per container port.
    ///
    /// Ranges of equal length are paired; a host range for a single container port is a choice.
    pub fn expand(self) -> impl Iterator<Item = PortRequest> {
        self.container_ports.iter().enumerate().map(move |(at, container_port)| PortRequest {
            host_ip: self.host_ip,
            host_ports: self.host_ports.map(|host| {
                if self.container_ports.count() == 1 {
                    host
                } else {
                    PortRange::single(host.first.saturating_add(u16::try_from(at).unwrap_or(u16::MAX)))
                }
            }),
            container_port,
            protocol: self.protocol,
        })
    }
}

/// Parses one value of `--publish`.
///
/// ```text
/// CONTAINER[-END][/PROTO]              any host port
/// HOST[-END]:CONTAINER[-END][/PROTO]   HOST may be 0 or empty: any host port
/// IP:HOST[-END]:CONTAINER[-END][/PROTO]
/// IP::CONTAINER[-END][/PROTO]          IPv6 addresses in brackets
/// published=HOST,target=CONTAINER[,protocol=PROTO][,hostip=IP]
/// ```
///
/// # Errors
/// [`PortError`] with docker's wording.
///
/// # Source
/// docker run reference `--publish`; `ParsePortSpec` of docker/go-connections.
pub fn parse_publish(text: &str) -> Result<PublishSpec, PortError> {
    if text.contains('=') {
        return parse_long(text);
    }
    // The address may hold colons: it is what stands before the last two fields.
    let mut fields = text.rsplitn(3, ':');
    let container = fields.next().unwrap_or_default();
    let host = fields.next().unwrap_or_default();
    let ip = fields.next().unwrap_or_default();
    build(text, ip, host, container)
}

fn parse_long(text: &str) -> Result<PublishSpec, PortError> {
    let (mut ip, mut host, mut target, mut protocol) = ("", "", "", "tcp");
    for option in text.split(',') {
        match option.split_once('=') {
            Some(("published", value)) => host = value,
            Some(("target", value)) => target = value,
            Some(("protocol", value)) => protocol = value,
            Some(("hostip" | "host_ip", value)) => ip = value,
            Some(("mode", "host" | "ingress")) => {}
            _ => return Err(PortError::LongForm(option.to_owned())),
        }
    }
    if target.is_empty() {
        return Err(PortError::NoPort(text.to_owned()));
    }
    build(text, ip, host, &format!("{target}/{protocol}"))
}

fn build(text: &str, ip: &str, host: &str, container: &str) -> Result<PublishSpec, PortError> {
    let (container, protocol) = split_protocol(container)?;
    let host_ip = match ip {
        "" => None,
        ip => Some(
            ip.strip_prefix('[')
                .and_then(|rest| rest.strip_suffix(']'))
                .unwrap_or(ip)
                .parse()
                .map_err(|_| PortError::Address(ip.to_owned()))?,
        ),
    };
    if container.is_empty() {
        return Err(PortError::NoPort(text.to_owned()));
    }
    let container_ports = parse_range(container).ok_or_else(|| PortError::ContainerPort(container.to_owned()))?;
    let host_ports = match host {
        "" | "0" => None,
        host => Some(parse_range(host).ok_or_else(|| PortError::HostPort(host.to_owned()))?),
    };
    if let Some(host_ports) = host_ports
        && container_ports.count() != 1
        && container_ports.count() != host_ports.count()
    {
        return Err(PortError::Ranges { container: container.to_owned(), host: host.to_owned() });
    }
    Ok(PublishSpec { host_ip, host_ports, container_ports, protocol })
}

/// A port of the image's `EXPOSE` or of `--expose`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExposedPort {
    /// The container's ports.
    pub ports: PortRange,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
}

impl ExposedPort {
    /// What `--publish-all` makes of it: any host port for each.
    #[must_use]
    pub fn publish(self) -> PublishSpec {
        PublishSpec { host_ip: None, host_ports: None, container_ports: self.ports, protocol: self.protocol }
    }
}

/// Parses `80`, `80/udp` or `8000-8010/tcp`.
///
/// # Errors
/// [`PortError::Expose`] and [`PortError::Protocol`].
pub fn parse_exposed(text: &str) -> Result<ExposedPort, PortError> {
    let (range, protocol) = split_protocol(text)?;
    let ports = parse_range(range).ok_or_else(|| PortError::Expose(text.to_owned()))?;
    Ok(ExposedPort { ports, protocol })
}

fn split_protocol(text: &str) -> Result<(&str, Protocol), PortError> {
    let Some((port, protocol)) = text.split_once('/') else { return Ok((text, Protocol::Tcp)) };
    let known = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
    match known.into_iter().find(|p| protocol.eq_ignore_ascii_case(p.as_str())) {
        Some(protocol) => Ok((port, protocol)),
        None if protocol.is_empty() => Ok((port, Protocol::Tcp)),
        None => Err(PortError::Protocol(protocol.to_owned())),
    }
}

fn parse_range(text: &str) -> Option<PortRange> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range = PortRange { first: parse_port(first)?, last: parse_port(last)? };
    (range.first <= range.last).then_some(range)
}

/// Digits only: `u16::from_str` would take a plus sign.
fn parse_port(text: &str) -> Option<u16> {
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|port| *port != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(text: &str) -> Vec<String> {
        parse_publish(text)
            .unwrap()
            .expand()
            .map(|r| {
                let ip = r.host_ip.map_or("*".to_owned(), |ip| ip.to_string());
                let host = match r.host_ports {
                    None => "any".to_owned(),
                    Some(p) if p.first == p.last => p.first.to_string(),
                    Some(p) => format!("{}-{}", p.first, p.last),
                };
                format!("{ip} {host} {}/{}", r.container_port, r.protocol)
            })
            .collect()
    }

    #[test]
    fn the_four_forms_ranges_and_protocols() {
        for (text, expected) in [
            ("80", &["* any 80/tcp"][..]),
            ("8080:80", &["* 8080 80/tcp"]),
            ("127.0.0.1:8080:80", &["127.0.0.1 8080 80/tcp"]),
            ("127.0.0.1::80", &["127.0.0.1 any 80/tcp"]),
            (":80", &["* any 80/tcp"]),
            ("0:80", &["* any 80/tcp"]),
            ("53:53/udp", &["* 53 53/udp"]),
            ("53:53/UDP", &["* 53 53/udp"]),
            ("9:9/sctp", &["* 9 9/sctp"]),
            ("80-81", &["* any 80/tcp", "* any 81/tcp"]),
            ("8080-8081:80-81", &["* 8080 80/tcp", "* 8081 81/tcp"]),
            ("8080-8090:80", &["* 8080-8090 80/tcp"]),
            ("[::1]:8080:80", &["::1 8080 80/tcp"]),
            ("[::1]::80/udp", &["::1 any 80/udp"]),
            ("2001:db8::7:8080:80", &["2001:db8::7 8080 80/tcp"]),
            ("published=8080,target=80", &["* 8080 80/tcp"]),
            ("target=53,protocol=udp", &["* any 53/udp"]),
        ] {
            assert_eq!(expand(text), expected, "{text}");
        }
    }

    #[test]
    fn refusals_have_dockers_wording() {
        for (text, message) in [
            ("", "no port specified: <empty>"),
            ("8080:", "no port specified: 8080:<empty>"),
            ("8080:http", "invalid containerPort: http"),
            ("http:80", "invalid hostPort: http"),
            ("8080:70000", "invalid containerPort: 70000"),
            ("8080:0", "invalid containerPort: 0"),
            ("8080:+80", "invalid containerPort: +80"),
            ("8081-8080:80", "invalid hostPort: 8081-8080"),
            ("localhost:8080:80", "invalid IP address: localhost"),
            ("8080:80/icmp", "invalid proto: icmp"),
            ("80-81:90-92", "invalid ranges specified for container and host Ports: 90-92 and 80-81"),
            ("foo=1,target=80", "invalid publish opts format (should be name=value but got 'foo=1')"),
        ] {
            assert_eq!(parse_publish(text).map_err(|e| e.to_string()), Err(message.to_owned()), "{text}");
        }
    }

    #[test]
    fn exposed_ports_publish_to_any_port() {
        let exposed = parse_exposed("8000-8001/udp").unwrap();
        assert_eq!(exposed.publish().expand().count(), 2);
        assert!(parse_exposed("0").is_err());
        assert!(parse_exposed("80/x").is_err());
    }
}
