//! Published ports: what `--publish` may say, what came of it, and how `ps`, `port` and `inspect` show it.
//!
//! ```text
//! "-p" text ── parse ──▶ PublishSpec ── expand ──▶ PortRequest ── forward::Listeners::bind ──▶ PortMapping
//! ```
//! Everything here is pure data.

mod parse;
mod show;

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

pub use parse::{ExposedPort, PortError, PublishSpec, parse_exposed, parse_publish};
pub use show::{HostBinding, displayable, inspect_ports};

/// The transport protocol of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP; can be written down but not forwarded.
    Sctp,
}

impl Protocol {
    /// The name docker prints and takes.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Ports `first..=last`; never empty, never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRange {
    /// The lowest port.
    pub first: u16,
    /// The highest port.
    pub last: u16,
}

impl PortRange {
    /// The range that holds one port.
    #[must_use]
    pub fn single(port: u16) -> Self {
        Self { first: port, last: port }
    }

    /// The number of ports in it.
    #[must_use]
    pub fn count(self) -> u32 {
        u32::from(self.last.saturating_sub(self.first)) + 1
    }

    /// Its ports, lowest first.
    pub fn iter(self) -> impl Iterator<Item = u16> {
        self.first..=self.last
    }
}

/// One container port to be published, before a host port is bound for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRequest {
    /// The host address asked for; `None` is every address, IPv4 and IPv6.
    pub host_ip: Option<IpAddr>,
    /// The host ports that will do, tried from the lowest; `None` is whichever the kernel gives.
    pub host_ports: Option<PortRange>,
    /// The port inside the container.
    pub container_port: u16,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
}

/// One published port as it stands: a bound host address and where it leads. Kept in the container's state.
///
/// A request without an address becomes two of these, `0.0.0.0` and `::`, with the same port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PortMapping {
    /// The host address that is bound.
    pub host_ip: IpAddr,
    /// The host port that is bound.
    pub host_port: u16,
    /// The port inside the container.
    pub container_port: u16,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
}

impl PortMapping {
    /// The bound host address and port.
    #[must_use]
    pub fn host_addr(&self) -> SocketAddr {
        SocketAddr::new(self.host_ip, self.host_port)
    }
}

/// Shows `0.0.0.0:8080->80/tcp`.
impl fmt::Display for PortMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}->{}/{}", self.host_addr(), self.container_port, self.protocol)
    }
}
