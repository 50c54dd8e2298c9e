//! The network of a [`Request`](super::Request).

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The network and what is published on it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Network {
    /// `--network` as given; empty for the default, `bridge` where it named networks.
    pub mode: String,
    /// Its networks, if it is on bridges: those that were named, changed by `network connect` and `disconnect`. Absent for
    /// the default one alone.
    pub endpoints: Option<Vec<Endpoint>>,
    /// Ports of the host that lead into the container.
    pub published: Vec<PublishedPort>,
    /// Ports that this user may not open are published 8000 higher.
    pub remap_low_ports: bool,
    /// Publish every exposed port on a free port of the host.
    pub publish_all: bool,
    /// Ports the container listens on, by the image and by `--expose`.
    pub exposed: Vec<ExposedPorts>,
    /// Further names on the network.
    pub aliases: Vec<String>,
    /// Containers that are known by name.
    pub links: Vec<Link>,
    /// Further lines of the hosts file.
    pub add_hosts: Vec<AddHost>,
    /// The hosts file is the image's own.
    pub no_hosts: bool,
    /// The file whose lines the hosts file begins with instead of the host's `/etc/hosts`; empty for none.
    pub hosts_base: Option<PathBuf>,
    /// `/etc/hostname` is the image's own.
    pub no_hostname: bool,
    /// Name servers instead of the host's.
    pub dns: Vec<IpAddr>,
    /// `/etc/resolv.conf` is the image's own (`--dns none`).
    pub no_resolv_conf: bool,
    /// Search domains instead of the host's; one `.` means none at all.
    pub dns_search: Vec<String>,
    /// Options of resolv.conf.
    pub dns_options: Vec<String>,
    /// What it may reach beyond its networks, `allow=HOST[:PORT]` and so on; everything, without one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub egress: Vec<String>,
}

/// A container's place in a network, as it is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Endpoint {
    /// The network's name.
    pub network: String,
    /// Further names of the container there.
    pub aliases: Vec<String>,
    /// Fixed addresses, at most one of each family.
    pub ips: Vec<IpAddr>,
    /// A fixed hardware address, `92:d0:c6:0a:29:33`.
    pub mac: Option<String>,
    /// The name of its device; else the first `eth0`, `eth1`, … that is free.
    pub interface: Option<String>,
}

impl Network {
    /// Whether the container is on bridges, or would be if it were on any network.
    pub fn is_bridge(&self) -> bool {
        matches!(self.mode.as_str(), "" | "default" | "bridge" | "podman" | "private")
    }

    /// The name or id of the container whose network it uses.
    pub fn of_container(&self) -> Option<&str> {
        self.mode.strip_prefix("container:")
    }

    /// Its places in networks.
    pub fn places(&self) -> Vec<Endpoint> {
        match &self.endpoints {
            _ if !self.is_bridge() => Vec::new(),
            Some(endpoints) => endpoints.clone(),
            None => {
                let network = crate::state::network::DEFAULT_NAME.to_owned();
                vec![Endpoint { network, aliases: self.aliases.clone(), ..Endpoint::default() }]
            }
        }
    }
}

/// A container that another one knows by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Link {
    /// Its name or id.
    pub container: String,
    /// What it is called there.
    pub alias: String,
}

/// A transport protocol with ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// The name after the slash in `80/tcp`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// A run of consecutive ports of the host that lead to as many ports of the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedPort {
    /// The address listened on; all of them when absent.
    #[serde(default)]
    pub host_ip: Option<IpAddr>,
    /// The first port on the host; a free one is chosen at start when absent.
    #[serde(default)]
    pub host_port: Option<u16>,
    /// With a range on the host and one port in the container: the last port that may be chosen.
    #[serde(default)]
    pub host_port_end: Option<u16>,
    /// The first port in the container.
    pub container_port: u16,
    /// How many consecutive ports; at least 1.
    #[serde(default = "one")]
    pub range: u16,
    /// The protocol.
    #[serde(default)]
    pub protocol: Protocol,
}

fn one() -> u16 {
    1
}

/// Ports a container listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ExposedPorts {
    /// The first port.
    pub port: u16,
    /// How many consecutive ports; at least 1.
    #[serde(default = "one")]
    pub range: u16,
    /// The protocol.
    #[serde(default)]
    pub protocol: Protocol,
}

/// One line of the hosts file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AddHost {
    /// Names that resolve to the address.
    pub names: Vec<String>,
    /// An IP address, or `host-gateway`.
    pub address: String,
}
