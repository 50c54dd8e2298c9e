//! The built-in driver: a TUN device in the container's namespace, and a TCP/IP stack of our own behind it.
//!
//! ```text
//! container 10.0.2.100/24 ── tap0 (TUN) ── stack ── ordinary sockets ── host
//!           gateway .2, DNS .3
//!
//! device ─ packet::parse ─▶ streams   ─ tcp::Connection ─▶ socket of the host        one for each connection
//!                       └─▶ datagrams ──────────────────▶ socket, ping socket        one for each pair of ends
//! ```
//! Segments of up to 64 KiB pass the device uncut and without checksums (`IFF_VNET_HDR`), in both directions: most of what
//! a byte costs is what its two copies and the host's own stack cost.
//!
//! # Invariants
//! - The container reaches what the host reaches, except the host's loopback, which is closed unless asked for.
//! - A connection is accepted when the host has made it, and ended as the host's is: refused, reset, half-closed.
//! - No byte is acknowledged that is not in the host's socket or in the ring behind it; no byte is dropped from the ring that
//!   the container has not acknowledged.
//! - Nothing wakes up while nothing is said, except half a second after the last word, to let go of memory, and for one look
//!   in a quarter of an hour at a connection that is idle.
//! - What the container sends is parsed by a process in the sandbox of [`sandbox`].
//!
//! **Runs in:** [`Builtin`]: the supervisor or the leader. The rest: forked from it, one thread, its user and pid
//! namespaces, the host's network namespace.
//!
//! # Kernel features
//! | feature | since | without it |
//! |---|---|---|
//! | `IFF_VNET_HDR`, `TUNSETOFFLOAD` | 2.6.27 | no network |
//! | ping sockets | 3.0 | no echo |
//! | Landlock | 5.13 | files of the user are readable to the stack |

mod address;
mod datagrams;
#[cfg(any(test, feature = "fuzzing"))]
mod fuzzing;
mod options;
mod packet;
mod process;
mod resolver;
mod sandbox;
mod stack;
mod streams;
mod tcp;
mod timers;
mod wire;

use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;

pub use options::Options;

use crate::driver::{Address, Attachment, Driver, DriverError, Netns, Plan, Started, outward_address};
use address::{Addresses, IPV6_PREFIX};

/// The driver's name.
pub const NAME: &str = "builtin";

/// Name of the device in the container: that of the other drivers.
const INTERFACE: &str = "tap0";

/// The driver.
#[derive(Debug, Clone, Default)]
pub struct Builtin {
    options: Options,
}

impl Builtin {
    /// A driver with these options.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self { options }
    }

    fn ipv6(number: u16) -> Ipv6Addr {
        let [a, b, c, d] = IPV6_PREFIX;
        Ipv6Addr::new(a, b, c, d, 0, 0, 0, number)
    }

    fn attachment(&self, host: Option<IpAddr>) -> Attachment {
        let cidr = self.options.cidr;
        let mut attachment = Attachment {
            interface: Some(INTERFACE.to_owned()),
            mac: None,
            addresses: vec![Address { ip: cidr.host(100).into(), prefix: cidr.prefix }],
            gateways: vec![cidr.host(2).into()],
            dns: vec![cidr.host(3).into()],
            mtu: Some(self.options.mtu.into()),
            host: if self.options.allow_host_loopback { Some(cidr.host(2).into()) } else { host },
        };
        if self.options.enable_ipv6 {
            attachment.addresses.push(Address { ip: Self::ipv6(0x100).into(), prefix: 64 });
            attachment.gateways.push(Self::ipv6(2).into());
        }
        attachment
    }

    fn addresses(&self) -> Addresses {
        let cidr = self.options.cidr;
        Addresses {
            network: (cidr.network, cidr.prefix),
            gateway: cidr.host(2),
            dns: cidr.host(3),
            gateway6: Self::ipv6(2),
            allows_loopback: self.options.allow_host_loopback,
        }
    }
}

impl Driver for Builtin {
    fn name(&self) -> &'static str {
        NAME
    }

    fn prepare(&self) -> Result<Plan, DriverError> {
        let attachment = self.attachment(outward_address());
        Ok(Plan { driver: NAME, program: PathBuf::new(), args: Vec::new(), attachment, sysctls: &[] })
    }

    fn start(&self, plan: Plan, netns: Netns<'_>) -> Result<Started, DriverError> {
        let wrap = |(what, source)| DriverError::System { driver: NAME, what, source };
        let setup =
            process::Setup { attachment: plan.attachment.clone(), addresses: self.addresses(), mtu: self.options.mtu };
        let (helper, ready) = process::spawn(&setup, netns.fd).map_err(wrap)?;
        let own =
            netns.fd.try_clone_to_owned().map_err(|source| wrap(("duplicate the namespace's descriptor", source)))?;
        Ok(Started::forked(NAME, plan.attachment, own, ready, helper))
    }
}

/// Gives the parser any bytes; for the fuzz target.
#[cfg(feature = "fuzzing")]
pub fn fuzz(bytes: &[u8]) {
    fuzzing::drive(bytes);
}
