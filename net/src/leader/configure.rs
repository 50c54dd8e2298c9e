//! The container's end of a pair.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::wait::waitpid;
use nix::unistd::pipe2;

use super::message::{Endpoint, Joined};
use super::serve::ServeError;
use crate::netlink::{self, Address, Netlink, NetlinkError, Route};
use crate::sys;

/// Sets up the other end, by a process that enters the container's namespace: nobody comes back from there into the
/// host's.
pub(super) fn configure(netns: BorrowedFd<'_>, endpoint: &Endpoint, joined: &Joined) -> Result<(), ServeError> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(|errno| ServeError::System { what: "pipe2", errno })?;
    let errno = |error: std::io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
    match sys::fork().map_err(|error| ServeError::System { what: "fork", errno: errno(error) })? {
        sys::Fork::Child => {
            let message = inside(netns, endpoint, joined).err().map(|error| error.to_string()).unwrap_or_default();
            let told = std::fs::File::from(write).write_all(message.as_bytes());
            sys::exit_now(i32::from(told.is_err() || !message.is_empty()))
        }
        sys::Fork::Parent(pid) => {
            drop(write);
            let mut message = String::new();
            let _ = std::fs::File::from(read).read_to_string(&mut message);
            let status = waitpid(pid, None).map_err(|errno| ServeError::System { what: "waitpid", errno })?;
            if status == nix::sys::wait::WaitStatus::Exited(pid, 0) {
                return Ok(());
            }
            if message.is_empty() {
                message = "the process that was to configure it was killed".to_owned();
            }
            Err(ServeError::Inside { network: endpoint.network.name.clone(), message })
        }
    }
}

fn inside(netns: BorrowedFd<'_>, endpoint: &Endpoint, joined: &Joined) -> Result<(), NetlinkError> {
    netlink::join(netns)?;
    let mut netlink = Netlink::open()?;
    let Some(index) = netlink.link_named(&joined.interface)? else { return Ok(()) };
    // Before it is in use: the kernel would look for others that have its link-local address.
    let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{}/accept_dad", joined.interface), "0");
    netlink.link_up(index)?;
    for address in &joined.addresses {
        netlink.add_address(index, *address)?;
    }
    let network = &endpoint.network;
    for route in network.routes.iter().filter(|route| joined.addresses.iter().any(|one| is_same_family(one, route))) {
        netlink.add_route(index, *route)?;
    }
    let Some(metric) = endpoint.default_route.filter(|_| !network.internal) else { return Ok(()) };
    for gateway in joined.gateways.iter().copied() {
        let all: IpAddr = if gateway.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        netlink.add_route(index, Route { to: Address { ip: all, prefix: 0 }, gateway, metric })?;
    }
    Ok(())
}

fn is_same_family(address: &Address, route: &Route) -> bool {
    address.ip.is_ipv4() == route.gateway.is_ipv4()
}
