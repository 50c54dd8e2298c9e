//! What a supervisor has set up and found out: networks, ports, health. Parts of `state.json`.

use std::net::IpAddr;
use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::state::atomic::{Durability, WriteError, write_atomic};
use crate::state::request::Protocol;

/// One interface of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// The network it belongs to: `podman`, `slirp4netns`, a user network's name.
    pub network: String,
    /// Its name in the container: `eth0`.
    pub name: String,
    /// Its hardware address; empty if it has none.
    #[serde(default)]
    pub mac: String,
    /// Its addresses, the first one of a family is the one `inspect` shows.
    #[serde(default)]
    pub addresses: Vec<Address>,
    /// Its further names on the network.
    #[serde(default)]
    pub aliases: Vec<String>,
}

/// One address of an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// The length of its network prefix in bits.
    pub prefix: u8,
    /// The default route of its family.
    #[serde(default)]
    pub gateway: Option<IpAddr>,
}

/// Ports that are being listened on, resolved: no ranges to choose from any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// The address listened on; all of them when absent.
    #[serde(default)]
    pub host_ip: Option<IpAddr>,
    /// The first port on the host.
    pub host_port: u16,
    /// The first port in the container.
    pub container_port: u16,
    /// How many consecutive ports.
    pub range: u16,
    /// The protocol.
    pub protocol: Protocol,
}

/// The network of a container as it was set up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Network {
    /// What runs it: `none`, `host`, `container:<id>`, `slirp4netns`, `pasta`, `bridge`.
    pub mode: String,
    /// Its interfaces besides the loopback.
    pub interfaces: Vec<Interface>,
    /// The ports published.
    pub ports: Vec<Port>,
    /// Why the last change of its networks was not made; empty if it was.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub error: String,
}

/// The outcome of health checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum HealthStatus {
    #[default]
    Starting,
    Healthy,
    Unhealthy,
}

impl HealthStatus {
    /// The word `ps` and `inspect` print.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// One health check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// When it began.
    pub start: Timestamp,
    /// When it ended.
    pub end: Timestamp,
    /// Its exit code.
    pub exit_code: i32,
    /// What it printed, cut short.
    pub output: String,
}

/// The health of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    /// The verdict.
    pub status: HealthStatus,
    /// Failures in a row.
    pub failing_streak: u32,
    /// The last checks, oldest first.
    pub log: Vec<HealthCheck>,
}

impl Health {
    /// Writes it to a file for other programs, in the words of `inspect`.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn write_log(&self, path: &Path) -> Result<(), WriteError> {
        let check = |check: &HealthCheck| {
            serde_json::json!({
                "Start": check.start, "End": check.end, "ExitCode": check.exit_code, "Output": check.output,
            })
        };
        let log = (!self.log.is_empty()).then(|| self.log.iter().map(check).collect::<Vec<_>>());
        let (status, streak) = (self.status.as_str(), self.failing_streak);
        let document = serde_json::json!({ "Status": status, "FailingStreak": streak, "Log": log });
        write_atomic(path, document.to_string().as_bytes(), Durability::None)
    }
}
