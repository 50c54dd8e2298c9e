//! Bytes of the container to what they say.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{ICMP, ICMPV6, TCP, UDP};
use crate::builtin::tcp::{Flags, Segment};

/// IPv6 extension headers that one packet may have.
const MOST_EXTENSIONS: usize = 8;

/// A packet of the network layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::builtin) struct Ip<'a> {
    pub(in crate::builtin) source: IpAddr,
    pub(in crate::builtin) dest: IpAddr,
    pub(in crate::builtin) protocol: u8,
    /// A part, which means nothing without the others.
    pub(in crate::builtin) fragment: Option<Fragment>,
    pub(in crate::builtin) payload: &'a [u8],
    /// From the first byte of the header on: errors quote it.
    pub(in crate::builtin) whole: &'a [u8],
}

/// Which part of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::builtin) struct Fragment {
    pub(in crate::builtin) id: u32,
    /// Where it belongs, in bytes.
    pub(in crate::builtin) offset: usize,
    pub(in crate::builtin) has_more: bool,
}

/// What a packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::builtin) enum Transport<'a> {
    /// A segment with its ports.
    Tcp { source: u16, dest: u16, segment: Segment<'a> },
    /// A datagram.
    Udp { source: u16, dest: u16, payload: &'a [u8] },
    /// An echo request.
    Echo { id: u16, sequence: u16, payload: &'a [u8] },
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Reads the network layer; `None` for what is broken or neither IPv4 nor IPv6.
///
/// # Source
/// RFC 791, RFC 8200.
pub(in crate::builtin) fn parse_ip(bytes: &[u8]) -> Option<Ip<'_>> {
    match bytes.first()? >> 4 {
        4 => parse_ipv4(bytes),
        6 => parse_ipv6(bytes),
        _ => None,
    }
}

fn parse_ipv4(bytes: &[u8]) -> Option<Ip<'_>> {
    let header_len = usize::from(bytes.first()? & 15) * 4;
    let total_len = usize::from(be16(bytes, 2)?);
    if header_len < 20 || total_len < header_len {
        return None;
    }
    let whole = bytes.get(..total_len)?;
    let flags = be16(whole, 6)?;
    let (offset, has_more) = (usize::from(flags & 0x1fff) * 8, flags & 0x2000 != 0);
    let id = u32::from(be16(whole, 4)?);
    Some(Ip {
        source: Ipv4Addr::from(be32(whole, 12)?).into(),
        dest: Ipv4Addr::from(be32(whole, 16)?).into(),
        protocol: *whole.get(9)?,
        fragment: (offset != 0 || has_more).then_some(Fragment { id, offset, has_more }),
        payload: whole.get(header_len..)?,
        whole,
    })
}

fn parse_ipv6(bytes: &[u8]) -> Option<Ip<'_>> {
    let whole = bytes.get(..40 + usize::from(be16(bytes, 4)?))?;
    let address = |at: usize| Some(Ipv6Addr::from(*whole.get(at..)?.first_chunk::<16>()?));
    let (mut protocol, mut payload, mut fragment) = (*whole.get(6)?, whole.get(40..)?, None);
    for _ in 0..MOST_EXTENSIONS {
        let len = match protocol {
            // Hop by hop, routing, destination options.
            0 | 43 | 60 => (usize::from(*payload.get(1)?) + 1) * 8,
            44 => {
                let place = be16(payload, 2)?;
                let (offset, has_more) = (usize::from(place & 0xfff8), place & 1 != 0);
                // A whole packet in one fragment is no fragment (RFC 6946).
                if offset != 0 || has_more {
                    fragment = Some(Fragment { id: be32(payload, 4)?, offset, has_more });
                }
                8
            }
            _ => {
                return Some(Ip {
                    source: address(8)?.into(),
                    dest: address(24)?.into(),
                    protocol,
                    fragment,
                    payload,
                    whole,
                });
            }
        };
        protocol = *payload.first()?;
        payload = payload.get(len..)?;
        // What follows in a later fragment is not a header.
        if fragment.is_some() {
            return Some(Ip {
                source: address(8)?.into(),
                dest: address(24)?.into(),
                protocol,
                fragment,
                payload,
                whole,
            });
        }
    }
    None
}

/// Reads what a whole packet carries; `None` for what is broken or unknown to us.
///
/// # Source
/// RFC 9293, RFC 768, RFC 792, RFC 4443.
pub(in crate::builtin) fn parse_transport(protocol: u8, bytes: &[u8]) -> Option<Transport<'_>> {
    match protocol {
        TCP => parse_tcp(bytes),
        UDP => {
            let len = usize::from(be16(bytes, 4)?);
            let payload = bytes.get(8..len)?;
            Some(Transport::Udp { source: be16(bytes, 0)?, dest: be16(bytes, 2)?, payload })
        }
        ICMP | ICMPV6 => {
            let request = if protocol == ICMP { 8 } else { 128 };
            let is_request = *bytes.first()? == request && *bytes.get(1)? == 0;
            let (id, sequence) = (be16(bytes, 4)?, be16(bytes, 6)?);
            is_request.then_some(Transport::Echo { id, sequence, payload: bytes.get(8..)? })
        }
        _ => None,
    }
}

fn parse_tcp(bytes: &[u8]) -> Option<Transport<'_>> {
    let header_len = usize::from(*bytes.get(12)? >> 4) * 4;
    let mut options = bytes.get(20..header_len)?;
    let mut segment = Segment {
        seq: be32(bytes, 4)?,
        ack: be32(bytes, 8)?,
        flags: Flags(*bytes.get(13)?),
        window: be16(bytes, 14)?,
        payload: bytes.get(header_len..)?,
        ..Segment::default()
    };
    while let [kind, rest @ ..] = options {
        match kind {
            0 => break,
            1 => options = rest,
            _ => {
                let len = usize::from(*rest.first()?);
                let Some(value) = options.get(2..len) else { break };
                match (kind, value) {
                    (2, [a, b]) => segment.mss = Some(u16::from_be_bytes([*a, *b])),
                    (3, [shift]) => segment.window_scale = Some((*shift).min(14)),
                    (4, []) => segment.may_sack = true,
                    (5, _) => {
                        for pair in value.as_chunks::<8>().0 {
                            let [a, b, c, d, e, f, g, h] = *pair;
                            segment.sacks.push(u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
                        }
                    }
                    _ => {}
                }
                options = options.get(len..)?;
            }
        }
    }
    Some(Transport::Tcp { source: be16(bytes, 0)?, dest: be16(bytes, 2)?, segment })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn udp4(extra: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x45, 0, 0, 31, 0, 9, 0, 0, 64, 17, 0, 0, 10, 0, 2, 100, 192, 0, 2, 1];
        bytes.extend([0x12, 0x34, 0, 53, 0, 11, 0, 0, b'a', b'b', b'c']);
        bytes.extend(extra);
        bytes
    }

    #[test]
    fn a_datagram_is_read_without_what_follows_it() {
        let bytes = udp4(b"padding");
        let ip = parse_ip(&bytes).unwrap();
        assert_eq!((ip.source.to_string(), ip.dest.to_string()), ("10.0.2.100".into(), "192.0.2.1".into()));
        assert_eq!(ip.fragment, None);
        let udp = parse_transport(ip.protocol, ip.payload).unwrap();
        assert_eq!(udp, Transport::Udp { source: 0x1234, dest: 53, payload: b"abc" });
    }

    #[test]
    fn whatever_is_cut_off_is_refused() {
        let bytes = udp4(b"");
        for len in 0..bytes.len() {
            assert_eq!(parse_ip(&bytes[..len]), None, "{len}");
        }
        let mut tcp = vec![0; 24];
        tcp[12] = 6 << 4;
        tcp[20] = 2;
        for (len_byte, fits) in [(0, false), (1, false), (4, true), (5, false)] {
            tcp[21] = len_byte;
            let mss = match parse_transport(TCP, &tcp) {
                Some(Transport::Tcp { segment, .. }) => segment.mss,
                _ => None,
            };
            assert_eq!(mss.is_some(), fits, "an option of {len_byte} bytes");
        }
    }

    #[test]
    fn options_of_a_syn_are_read() {
        let mut tcp = vec![0, 80, 0, 81, 0, 0, 0, 7, 0, 0, 0, 0, 10 << 4, 2, 1, 0, 0, 0, 0, 0];
        tcp.extend([2, 4, 0x05, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7]);
        let Some(Transport::Tcp { segment, source: 80, dest: 81 }) = parse_transport(TCP, &tcp) else { panic!() };
        assert_eq!((segment.mss, segment.window_scale, segment.may_sack), (Some(1460), Some(7), true));
        assert!(segment.flags.has(Flags::SYN) && segment.seq == 7 && segment.window == 256);
    }

    #[test]
    fn ipv6_extensions_are_skipped_and_fragments_kept() {
        let mut bytes = vec![0x60, 0, 0, 0, 0, 27, 0, 64];
        bytes.extend([0; 32]);
        bytes.extend([44, 0, 1, 4, 0, 0, 0, 0]);
        bytes.extend([17, 0, 0, 9, 0, 0, 0, 77]);
        bytes.extend([0, 1, 0, 2, 0, 11, 0, 0, 1, 2, 3]);
        let ip = parse_ip(&bytes).unwrap();
        assert_eq!(ip.fragment, Some(Fragment { id: 77, offset: 8, has_more: true }));
        assert_eq!((ip.protocol, ip.payload.len()), (17, 11));
        // For ever more headers are no packet.
        bytes[6] = 60;
        let endless: Vec<u8> =
            [&bytes[..4], &[0, 200, 60, 64], &[0; 32], &[60, 0, 1, 4, 0, 0, 0, 0].repeat(25)].concat();
        assert_eq!(parse_ip(&endless), None);
    }

    #[test]
    fn any_bytes_are_taken() {
        use crate::builtin::packet::{Fragments, parse_all};
        let mut fragments = Fragments::default();
        let now = std::time::Instant::now();
        let mut state = 1u64;
        let mut seen = [0; 6];
        for round in 0..40_000 {
            let mut bytes = udp4(b"");
            for _ in 0..round % 7 {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let at = (state >> 33) as usize % bytes.len();
                bytes[at] = (state >> 24) as u8;
            }
            bytes.truncate(31 - (state >> 60) as usize % 4);
            seen[parse_all(&bytes, &mut fragments, now)] += 1;
        }
        assert!(seen[..4].iter().all(|count| *count > 0), "{seen:?}");
    }
}
