//! Packets that were refused, as the kernel tells of them.
//!
//! # Source
//! linux/netfilter/nfnetlink_log.h: `NFLOG`, one group for all containers; the prefix says whose packet it was.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send};

use super::egress::NOTE_GROUP;
use super::expression::Body;
use super::{NFGENMSG_LEN, Netfilter, NetfilterError};
use crate::netlink::{Attributes as _, Message, split};

const NFNL_SUBSYS_ULOG: u16 = 4;
const NFULNL_MSG_PACKET: u16 = 0;
const NFULNL_MSG_CONFIG: u16 = 1;
const NFULA_PAYLOAD: u16 = 9;
const NFULA_PREFIX: u16 = 10;
const NFULA_CFG_CMD: u16 = 1;
const NFULA_CFG_MODE: u16 = 2;
const NFULNL_CFG_CMD_BIND: u8 = 1;
const NFULNL_COPY_PACKET: u8 = 2;

/// Bytes of each packet: headers.
const COPIED: u32 = 128;

/// Where a packet was to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Destination {
    /// The address.
    pub ip: IpAddr,
    /// The protocol's number.
    pub protocol: u8,
    /// The port, of protocols that have some.
    pub port: Option<u16>,
}

impl std::fmt::Display for Destination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match i32::from(self.protocol) {
            libc::IPPROTO_TCP => f.write_str("tcp ")?,
            libc::IPPROTO_UDP => f.write_str("udp ")?,
            libc::IPPROTO_ICMP | libc::IPPROTO_ICMPV6 => f.write_str("icmp ")?,
            other => write!(f, "protocol {other} ")?,
        }
        match (self.ip, self.port) {
            (ip, None) => write!(f, "{ip}"),
            (ip, Some(port)) => write!(f, "{}", std::net::SocketAddr::new(ip, port)),
        }
    }
}

/// A socket on which refused packets are told.
#[derive(Debug)]
pub struct Notes(OwnedFd);

impl Notes {
    /// Opens one in the calling process' namespace. A kernel without such notes gives one that stays silent.
    ///
    /// # Errors
    /// [`NetfilterError`], if there is no socket at all.
    pub fn open() -> Result<Self, NetfilterError> {
        let notes = Self(Netfilter::open()?.into_socket());
        let _ = notes.configure(|body| body.attribute(NFULA_CFG_CMD, &[NFULNL_CFG_CMD_BIND]));
        let mode = [&COPIED.to_be_bytes()[..], &[NFULNL_COPY_PACKET, 0]].concat();
        let _ = notes.configure(|body| body.attribute(NFULA_CFG_MODE, &mode));
        Ok(notes)
    }

    fn configure(&self, fill: impl FnOnce(&mut Body)) -> Result<(), Errno> {
        let mut body = Body::default();
        fill(&mut body);
        let kind = NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_CONFIG;
        let flags = libc::NLM_F_REQUEST;
        let mut message = super::header(kind, flags, 0, libc::AF_UNSPEC as u8, NOTE_GROUP, body.as_bytes().len());
        message.extend_from_slice(body.as_bytes());
        send(self.0.as_raw_fd(), &message, MsgFlags::empty()).map(drop)
    }

    /// Over the socket of one that was opened in another process.
    #[must_use]
    pub fn over(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// What has been told since, by the prefix of the rule that refused it. Does not wait.
    #[must_use]
    pub fn take(&self) -> Vec<(String, Destination)> {
        let mut all = Vec::new();
        let mut buffer = vec![0_u8; 32 * 1024];
        // Somebody who sends without an end does not keep us from everything else.
        for _ in 0..16 {
            match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(len) => all.extend(notes(buffer.get(..len).unwrap_or_default())),
                // Some were lost.
                Err(Errno::EINTR | Errno::ENOBUFS) => {}
                Err(_) => break,
            }
        }
        all
    }
}

impl AsFd for Notes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn notes(bytes: &[u8]) -> Vec<(String, Destination)> {
    const KIND: u16 = NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_PACKET;
    split(bytes).filter(|message| message.kind == KIND).filter_map(|message| note(&message)).collect()
}

fn note(message: &Message<'_>) -> Option<(String, Destination)> {
    let (mut prefix, mut to) = (None, None);
    for (kind, value) in message.attributes(NFGENMSG_LEN) {
        match kind {
            NFULA_PREFIX => prefix = std::str::from_utf8(value).ok().map(|text| text.trim_end_matches('\0').to_owned()),
            NFULA_PAYLOAD => to = destination(value),
            _ => {}
        }
    }
    Some((prefix?, to?))
}

/// Where a packet goes. An extension header of IPv6 is its protocol.
fn destination(packet: &[u8]) -> Option<Destination> {
    let first = *packet.first()?;
    let (ip, protocol, header_len): (IpAddr, u8, usize) = match first >> 4 {
        4 => {
            let ip: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
            (Ipv4Addr::from(ip).into(), *packet.get(9)?, usize::from(first & 0xf) * 4)
        }
        6 => {
            let ip: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
            (Ipv6Addr::from(ip).into(), *packet.get(6)?, 40)
        }
        _ => return None,
    };
    let has_ports = matches!(i32::from(protocol), libc::IPPROTO_TCP | libc::IPPROTO_UDP);
    let port = || Some(u16::from_be_bytes(packet.get(header_len + 2..header_len + 4)?.try_into().ok()?));
    Some(Destination { ip, protocol, port: has_ports.then(port).flatten() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_and_a_cut_one_is_none() {
        let mut packet = vec![0_u8; 24];
        packet[0] = 0x45;
        packet[9] = 6;
        packet[16..20].copy_from_slice(&[192, 0, 2, 7]);
        packet[22..24].copy_from_slice(&443_u16.to_be_bytes());
        let mut body = Body::default();
        body.text(NFULA_PREFIX, "0123456789ab");
        body.attribute(NFULA_PAYLOAD, &packet);
        let kind = NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_PACKET;
        let mut message = super::super::header(kind, 0, 0, 2, NOTE_GROUP, body.as_bytes().len());
        message.extend_from_slice(body.as_bytes());
        let found = notes(&[&message[..], &message[..]].concat());
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].0.as_str(), found[0].1.to_string().as_str()), ("0123456789ab", "tcp 192.0.2.7:443"));
        for len in 0..message.len() {
            assert!(notes(&message[..len]).is_empty());
        }
        let _ = notes(&[0xff; 64]);
        packet[0] = 0x4f;
        assert_eq!(destination(&packet).unwrap().port, None);
    }
}
