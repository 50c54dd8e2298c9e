//! Brings a container's answers to foreign addresses back to the forwarder's sockets.
//!
//! ```text
//! TCP   our SYN carries MARK; tcp_fwmark_accept gives it to the service's socket, fwmark_reflect to a refusal:
//!         rule  from all fwmark MARK            lookup MARK_TABLE      MARK_TABLE: local default dev lo
//! UDP   refusals as with TCP; sockets inherit nothing, so what leaves the published port towards a client we serve:
//!         rule  from all ipproto udp sport PORT lookup UDP_TABLE      UDP_TABLE: local CLIENT dev lo, while it is served
//! ```
//! TCP's way is exact. UDP's is exact but for one case: the service sends from its published port to a client's
//! address that we serve, to another port than the client's. Everything else it sends from that port (a resolver's
//! own queries, a WireGuard peer's handshakes) finds no route in UDP_TABLE and goes on to the main one. A default
//! route in UDP_TABLE would have swallowed these; a rule for each client would be walked by each packet.
//!
//! **Runs in:** the forwarder, in the container's network namespace.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsFd as _;

use crate::netlink::{LOOPBACK_INDEX, Netlink, NetlinkError, Selector};
use crate::ports::{PortMapping, Protocol};
use crate::sysctl;

/// The mark of what we send into the container.
pub(super) const MARK: u32 = 0x6372_636c;

const MARK_TABLE: u32 = 26_400;
const UDP_TABLE: u32 = 26_401;

/// Before the main table (32766) and before what a VPN in the container puts before it, after the local one (0).
const MARK_PRIORITY: u32 = 64;
const UDP_PRIORITY: u32 = 65;

/// The routes of one forwarder.
#[derive(Debug)]
pub(super) struct Routes {
    pub(super) netlink: Netlink,
    clients: HashMap<IpAddr, Client>,
}

impl Routes {
    /// Sets up the namespace for these ports.
    pub(super) fn set_up(mappings: &[PortMapping]) -> Result<Self, String> {
        let text = |e: NetlinkError| e.to_string();
        let mut netlink = Netlink::open().map_err(text)?;
        // The init does so too, but it may not have come to it yet, and routes need it.
        netlink.link_up(LOOPBACK_INDEX).map_err(text)?;
        netlink.add_local_default(MARK_TABLE).map_err(text)?;
        netlink.add_rule(Selector::Mark(MARK), MARK_TABLE, MARK_PRIORITY).map_err(text)?;
        let proc_sys = File::open("/proc/sys").map_err(|e| format!("open /proc/sys: {}", crate::sys::reason(&e)))?;
        for name in ["net/ipv4/tcp_fwmark_accept", "net/ipv4/fwmark_reflect"] {
            sysctl::write(proc_sys.as_fd(), name, "1").map_err(|e| e.to_string())?;
        }
        // A kernel without IPv6 does not have it and has no use for it.
        let _ = sysctl::write(proc_sys.as_fd(), "net/ipv6/fwmark_reflect", "1");
        let mut ports: Vec<u16> =
            mappings.iter().filter(|m| m.protocol == Protocol::Udp).map(|m| m.container_port).collect();
        ports.sort_unstable();
        ports.dedup();
        let mut routes = Self { netlink, clients: HashMap::new() };
        for port in ports {
            routes.add_udp_port(port).map_err(text)?;
        }
        Ok(routes)
    }

    /// Brings answers of this UDP port back, too.
    pub(super) fn add_udp_port(&mut self, port: u16) -> Result<(), NetlinkError> {
        self.netlink.add_rule(Selector::UdpSource(port), UDP_TABLE, UDP_PRIORITY)
    }

    /// Brings what the service at `container` answers to a UDP client back from now on.
    pub(super) fn add_client(&mut self, client: IpAddr, container: IpAddr) -> Result<(), NetlinkError> {
        match self.clients.entry(client) {
            Entry::Occupied(mut known) => known.get_mut().sessions += 1,
            Entry::Vacant(new) => {
                self.netlink.set_local(client, container, UDP_TABLE, true)?;
                new.insert(Client { container, sessions: 1 });
            }
        }
        Ok(())
    }

    /// Ends one session of a UDP client.
    pub(super) fn remove_client(&mut self, client: IpAddr) {
        let Entry::Occupied(mut known) = self.clients.entry(client) else { return };
        known.get_mut().sessions -= 1;
        if known.get().sessions == 0 {
            let Client { container, .. } = known.remove();
            // Gone with the device, or taken by somebody in the container: either way it is not there.
            let _ = self.netlink.set_local(client, container, UDP_TABLE, false);
        }
    }
}

/// A UDP client with a route.
#[derive(Debug)]
struct Client {
    container: IpAddr,
    /// How many sessions need the route.
    sessions: usize,
}
