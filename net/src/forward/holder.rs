//! Who holds a port: `/proc/net` knows the socket, `/proc/PID/fd` the process, if it is one we may look at.

use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::ports::Protocol;

/// A process that has a port bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its number in the `/proc` mounted here.
    pub pid: i32,
    /// The first bytes of its program's name, printable.
    pub command: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, pid {}", self.command, self.pid)
    }
}

/// Finds the process whose socket is in the way of `address`.
pub(super) fn find(address: SocketAddr, protocol: Protocol) -> Option<Holder> {
    let inode = ["", "6"].iter().find_map(|suffix| {
        let table = fs::read_to_string(format!("/proc/net/{protocol}{suffix}")).ok()?;
        table.lines().skip(1).find_map(|line| conflicting_inode(line, address, protocol))
    })?;
    let wanted = format!("socket:[{inode}]");
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else { continue };
        let holds = |fd: fs::DirEntry| fs::read_link(fd.path()).is_ok_and(|link| link.as_os_str() == wanted.as_str());
        if descriptors.flatten().any(holds) {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            let command = name.chars().filter(|c| !c.is_control()).collect();
            return Some(Holder { pid, command });
        }
    }
    None
}

/// The inode of a `/proc/net/{tcp,udp}[6]` line that excludes `address`.
///
/// # Source
/// proc_net_tcp.rst: `sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode`.
fn conflicting_inode(line: &str, address: SocketAddr, protocol: Protocol) -> Option<u64> {
    const LISTEN: &str = "0A";
    let mut words = line.split_ascii_whitespace();
    let (ip, port) = words.nth(1)?.split_once(':')?;
    let (ip, port) = (parse_hex_ip(ip)?, u16::from_str_radix(port, 16).ok()?);
    let state = words.nth(1)?;
    if port != address.port() || (protocol == Protocol::Tcp && state != LISTEN) {
        return None;
    }
    // An IPv6 wildcard may hold IPv4 as well.
    let overlaps = ip == address.ip()
        || (ip.is_unspecified() && ip.is_ipv6())
        || (address.ip().is_unspecified() && same(ip, address))
        || (ip.is_unspecified() && same(ip, address));
    let inode = words.nth(5)?.parse().ok()?;
    overlaps.then_some(inode)
}

fn same(ip: IpAddr, address: SocketAddr) -> bool {
    ip.is_ipv4() == address.is_ipv4()
}

/// Each group of eight digits is a 32-bit word in host order.
fn parse_hex_ip(text: &str) -> Option<IpAddr> {
    let word = |at: usize| u32::from_str_radix(text.get(at * 8..at * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut bytes = [0; 16];
            for (at, part) in bytes.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(at)?);
            }
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTENING: &str = "   1: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0 100 0 0 10 0";
    const CONNECTED: &str = "   1: 0100007F:1F90 0100007F:9C40 01 00000000:00000000 00:00000000 00000000  1000        0 4712 1 0 100 0 0 10 0";
    const WILD6: &str = "   0: 00000000000000000000000000000000:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1 0 100 0 0 10 0";

    #[test]
    fn only_lines_in_the_way_are_taken() {
        for (line, address, inode) in [
            (LISTENING, "0.0.0.0:8080", Some(4711)),
            (LISTENING, "127.0.0.1:8080", Some(4711)),
            (LISTENING, "0.0.0.0:8081", None),
            (LISTENING, "[::1]:8080", None),
            (CONNECTED, "127.0.0.1:8080", None),
            (WILD6, "0.0.0.0:8080", Some(4713)),
            (WILD6, "[::]:8080", Some(4713)),
        ] {
            assert_eq!(conflicting_inode(line, address.parse().unwrap(), Protocol::Tcp), inode, "{line} {address}");
        }
    }

    #[test]
    fn own_listener_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let holder = find(listener.local_addr().unwrap(), Protocol::Tcp).unwrap();
        assert_eq!(holder.pid, i32::try_from(std::process::id()).unwrap());
    }
}
