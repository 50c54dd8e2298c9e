//! Netlink messages as bytes: header, family header, attributes, all in host order and padded to four bytes.
//!
//! ```text
//! nlmsghdr { len u32, type u16, flags u16, seq u32, pid u32 }  family header  { len u16, type u16, value, pad }*
//! ```
//!
//! # Source
//! netlink(7), rtnetlink(7), linux/fib_rules.h.

use std::net::IpAddr;

use super::{Attributes, LOOPBACK_INDEX, Selector};

const HEADER_LEN: usize = 16;

// linux/fib_rules.h
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const FRA_IP_PROTO: u16 = 22;
const FRA_SPORT_RANGE: u16 = 23;
const FR_ACT_TO_TBL: u8 = 1;

// linux/rtnetlink.h
const RTA_METRICS: u16 = 8;
const RTAX_CC_ALGO: u16 = 16;

/// For connections that never leave the machine: hosts that default to BBR would pace them.
const CONGESTION_CONTROL: &[u8] = b"reno\0";

/// A request under construction.
#[derive(Debug, Default)]
pub(super) struct Request(pub(super) Vec<u8>);

impl Attributes for Request {
    fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

impl Request {
    pub(super) fn new(kind: u16, flags: libc::c_int) -> Self {
        let mut bytes = vec![0; HEADER_LEN];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&((flags | libc::NLM_F_REQUEST) as u16).to_ne_bytes());
        Self(bytes)
    }

    /// `RTM_NEWLINK` with `IFF_UP` set.
    pub(super) fn link_up(index: u32) -> Self {
        let up = libc::IFF_UP as u32;
        let mut request = Self::new(libc::RTM_NEWLINK, libc::NLM_F_ACK);
        // ifinfomsg { family u8, pad u8, type u16, index i32, flags u32, change u32 }
        request.0.extend_from_slice(&[0; 4]);
        request.0.extend_from_slice(&index.to_ne_bytes());
        request.0.extend_from_slice(&up.to_ne_bytes());
        request.0.extend_from_slice(&up.to_ne_bytes());
        request
    }

    /// `RTM_NEWRULE`: what `selector` picks looks into `table`.
    pub(super) fn rule(family: u8, selector: Selector, table: u32, priority: u32) -> Self {
        let mut request = Self::new(libc::RTM_NEWRULE, libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL);
        // fib_rule_hdr { family, dst_len, src_len, tos, table, res1, res2, action: u8; flags u32 }
        request.0.extend_from_slice(&[family, 0, 0, 0, libc::RT_TABLE_UNSPEC, 0, 0, FR_ACT_TO_TBL, 0, 0, 0, 0]);
        request.attribute(FRA_TABLE, &table.to_ne_bytes());
        request.attribute(FRA_PRIORITY, &priority.to_ne_bytes());
        match selector {
            Selector::Mark(mark) => {
                request.attribute(FRA_FWMARK, &mark.to_ne_bytes());
                request.attribute(FRA_FWMASK, &u32::MAX.to_ne_bytes());
            }
            Selector::UdpSource(port) => {
                let [low, high] = port.to_ne_bytes();
                request.attribute(FRA_IP_PROTO, &[libc::IPPROTO_UDP as u8]);
                request.attribute(FRA_SPORT_RANGE, &[low, high, low, high]);
            }
        }
        request
    }

    /// `RTM_NEWROUTE` or `RTM_DELROUTE`: an address, or everything, is ours in `table`; with the address goes the
    /// source of what is sent to it.
    pub(super) fn local_route(family: u8, address: Option<(IpAddr, IpAddr)>, table: u32, add: bool) -> Self {
        let mut request = if add {
            Self::new(libc::RTM_NEWROUTE, libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL)
        } else {
            Self::new(libc::RTM_DELROUTE, libc::NLM_F_ACK)
        };
        let prefix = match address {
            None => 0,
            Some((IpAddr::V4(_), _)) => 32,
            Some((IpAddr::V6(_), _)) => 128,
        };
        // rtmsg { family, dst_len, src_len, tos, table, protocol, scope, type: u8; flags u32 }
        let scope = libc::RT_SCOPE_HOST;
        let header = [family, prefix, 0, 0, libc::RT_TABLE_UNSPEC, libc::RTPROT_STATIC, scope, libc::RTN_LOCAL];
        request.0.extend_from_slice(&header);
        request.0.extend_from_slice(&[0; 4]);
        if let Some((address, source)) = address {
            request.address(libc::RTA_DST, address);
            request.address(libc::RTA_PREFSRC, source);
        }
        request.attribute(libc::RTA_OIF, &LOOPBACK_INDEX.to_ne_bytes());
        request.attribute(libc::RTA_TABLE, &table.to_ne_bytes());
        if address.is_none() && add {
            request.nested(RTA_METRICS, |metrics| metrics.attribute(RTAX_CC_ALGO, CONGESTION_CONTROL));
        }
        request
    }

    /// A dump of everything of `kind`, in every family.
    pub(super) fn dump(kind: u16) -> Self {
        let mut request = Self::new(kind, libc::NLM_F_DUMP);
        // The longest of the three family headers, all zero: ifinfomsg.
        request.0.extend_from_slice(&[0; 16]);
        request
    }

    /// The bytes to send.
    pub(super) fn finish(mut self, sequence: u32) -> Vec<u8> {
        let len = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0[0..4].copy_from_slice(&len.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.0
    }
}

/// One received message.
#[derive(Debug)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) sequence: u32,
    /// Family header and attributes.
    pub(crate) payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// The error number of an `NLMSG_ERROR`; 0 is the acknowledgement.
    pub(crate) fn error(&self) -> i32 {
        read_u32(self.payload, 0).map_or(libc::EPROTO, |code| (code as i32).wrapping_neg())
    }

    /// The attributes behind a family header of `header_len` bytes.
    pub(crate) fn attributes(&self, header_len: usize) -> impl Iterator<Item = (u16, &'a [u8])> {
        let mut rest = self.payload.get(header_len..).unwrap_or_default();
        std::iter::from_fn(move || {
            let len = usize::from(read_u16(rest, 0)?);
            let kind = read_u16(rest, 2)? & !(libc::NLA_F_NESTED as u16);
            let value = rest.get(4..len)?;
            rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
            Some((kind, value))
        })
    }
}

/// Cuts what one `recv` brought into messages; stops at the first that does not fit.
pub(crate) fn split(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let len = read_u32(bytes, 0)? as usize;
        let message = bytes.get(..len).filter(|_| len >= HEADER_LEN)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(Message {
            kind: read_u16(message, 4)?,
            sequence: read_u32(message, 8)?,
            payload: message.get(HEADER_LEN..)?,
        })
    })
}

pub(super) fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(super) fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_padded_and_carry_their_length() {
        let bytes = Request::rule(libc::AF_INET as u8, Selector::UdpSource(53), 7, 9).finish(3);
        assert_eq!(bytes.len() % 4, 0);
        let message = split(&bytes).next().unwrap();
        assert_eq!((message.kind, message.sequence), (libc::RTM_NEWRULE, 3));
        let attributes: Vec<_> = message.attributes(12).collect();
        assert_eq!(attributes.len(), 4);
        assert_eq!(attributes[2], (FRA_IP_PROTO, &[17][..]));
    }

    #[test]
    fn cut_messages_end_the_walk() {
        let bytes = Request::link_up(1).finish(1);
        for len in 0..bytes.len() {
            assert_eq!(split(&bytes[..len]).count(), 0);
        }
        let mut two = bytes.clone();
        two.extend_from_slice(&bytes);
        assert_eq!(split(&two).count(), 2);
        let mut zero = bytes;
        zero[0..4].fill(0);
        assert_eq!(split(&zero).count(), 0);
        assert!(split(&[0xff; 20]).next().is_none());
    }
}
