//! Packets for the container.

use std::net::{IpAddr, SocketAddr};

use super::checksum::Sum;
use super::{DEVICE_HEADER, ICMP, ICMPV6, TCP, UDP};
use crate::builtin::tcp::{Flags, Outgoing};

/// The longest headers: the device's, IPv6, TCP with all options.
const LONGEST: usize = DEVICE_HEADER + 40 + 60;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`: the receiver need not look at the checksum, and whoever sends it on finishes it.
const NEEDS_CHECKSUM: u8 = 1;

/// Bytes of a packet that an error quotes, so that it stays below 576 bytes.
const QUOTED: usize = 520;

/// Headers, of which the device's is the first.
#[derive(Debug, Clone, Copy)]
pub(in crate::builtin) struct Header {
    bytes: [u8; LONGEST],
    len: usize,
}

impl Header {
    fn new() -> Self {
        Self { bytes: [0; LONGEST], len: DEVICE_HEADER }
    }

    /// What is written before the payload.
    pub(in crate::builtin) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    fn push(&mut self, bytes: &[u8]) {
        if let Some(place) = self.bytes.get_mut(self.len..self.len + bytes.len()) {
            place.copy_from_slice(bytes);
            self.len += bytes.len();
        }
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        if let Some(place) = self.bytes.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }

    /// The network layer's header before `len` bytes. `place` is the word of a fragment's id and offset.
    fn ip(&mut self, source: IpAddr, dest: IpAddr, protocol: u8, len: usize, place: Option<(u32, u16)>) {
        match (source, dest) {
            (IpAddr::V4(source), IpAddr::V4(dest)) => {
                let start = self.len;
                let total = (20 + len) as u16;
                // Segments fit, and say so; others have a number for whoever has to cut them.
                let (id, flags) = place.map_or((0, 0x4000), |(id, place)| (id as u16, place));
                let [t0, t1] = total.to_be_bytes();
                let ([i0, i1], [f0, f1]) = (id.to_be_bytes(), flags.to_be_bytes());
                self.push(&[0x45, 0, t0, t1, i0, i1, f0, f1, 64, protocol, 0, 0]);
                self.push(&source.octets());
                self.push(&dest.octets());
                let sum = Sum::default().add(self.bytes.get(start..start + 20).unwrap_or_default()).finish();
                self.put(start + 10, &sum.to_be_bytes());
            }
            (IpAddr::V6(source), IpAddr::V6(dest)) => {
                let len = len + if place.is_some() { 8 } else { 0 };
                let [l0, l1] = (len as u16).to_be_bytes();
                self.push(&[0x60, 0, 0, 0, l0, l1, if place.is_some() { 44 } else { protocol }, 64]);
                self.push(&source.octets());
                self.push(&dest.octets());
                if let Some((id, place)) = place {
                    // IPv4 has the offset in units of eight bytes and its flag for more at the top, IPv6 below it.
                    let place = (place & 0x1fff) << 3 | (place >> 13 & 1);
                    self.push(&[protocol, 0]);
                    self.push(&place.to_be_bytes());
                    self.push(&id.to_be_bytes());
                }
            }
            _ => {}
        }
    }

    /// Tells the device where a checksum belongs that covers everything from `start`, an offset in these bytes.
    fn needs_checksum(&mut self, start: usize, field: u16) {
        self.put(0, &[NEEDS_CHECKSUM]);
        self.put(6, &((start - DEVICE_HEADER) as u16).to_ne_bytes());
        self.put(8, &field.to_ne_bytes());
    }
}

/// The headers of a segment. Longer ones than `mss` are for the kernel to cut, if anybody wants them cut.
pub(in crate::builtin) fn tcp(source: SocketAddr, dest: SocketAddr, out: &Outgoing, mss: u32) -> Header {
    let mut header = Header::new();
    let options_len = out.options_len();
    let len = 20 + options_len + out.payload.len();
    header.ip(source.ip(), dest.ip(), TCP, len, None);
    let start = header.len;
    let partial = Sum::pseudo_header(source.ip(), dest.ip(), TCP, len).partial();
    header.push(&source.port().to_be_bytes());
    header.push(&dest.port().to_be_bytes());
    header.push(&out.seq.to_be_bytes());
    header.push(&out.ack.to_be_bytes());
    header.push(&[((20 + options_len) as u8) << 2, out.flags.0]);
    header.push(&out.window.to_be_bytes());
    header.push(&partial.to_be_bytes());
    header.push(&[0, 0]);
    if out.flags.has(Flags::SYN) {
        let [a, b] = out.mss.to_be_bytes();
        header.push(&[2, 4, a, b]);
        if let Some(scale) = out.window_scale {
            header.push(&[1, 3, 3, scale]);
        }
        if out.may_sack {
            header.push(&[1, 1, 4, 2]);
        }
    } else if !out.sacks.as_slice().is_empty() {
        header.push(&[1, 1, 5, (2 + 8 * out.sacks.as_slice().len()) as u8]);
        for (from, to) in out.sacks.as_slice() {
            header.push(&from.to_be_bytes());
            header.push(&to.to_be_bytes());
        }
    }
    header.needs_checksum(start, 16);
    if out.payload.len() > mss as usize {
        // VIRTIO_NET_HDR_GSO_TCPV4 and _TCPV6.
        header.put(1, &[if source.is_ipv4() { 1 } else { 4 }]);
        header.put(2, &((header.len - DEVICE_HEADER) as u16).to_ne_bytes());
        header.put(4, &(mss as u16).to_ne_bytes());
    }
    header
}

/// The packets of a datagram: more than one if it is larger than the device takes.
pub(in crate::builtin) fn datagram(
    source: SocketAddr,
    dest: SocketAddr,
    payload: &[u8],
    mtu: usize,
    id: u32,
    mut send: impl FnMut(&Header, &[u8]),
) {
    let len = 8 + payload.len();
    let (from, to) = (source.ip(), dest.ip());
    let [l0, l1] = (len as u16).to_be_bytes();
    let ([s0, s1], [d0, d1]) = (source.port().to_be_bytes(), dest.port().to_be_bytes());
    let sum = Sum::pseudo_header(from, to, UDP, len);
    let mut header = Header::new();
    if fits(from, len, mtu) {
        header.ip(from, to, UDP, len, may_be_cut(from, id));
        let start = header.len;
        let [c0, c1] = sum.partial().to_be_bytes();
        header.push(&[s0, s1, d0, d1, l0, l1, c0, c1]);
        header.needs_checksum(start, 6);
        return send(&header, payload);
    }
    // The kernel finishes no checksum over several packets.
    let whole = sum.add(&[s0, s1, d0, d1, l0, l1]).add(payload).finish();
    let [c0, c1] = if whole == 0 { [0xff; 2] } else { whole.to_be_bytes() };
    let whole = [&[s0, s1, d0, d1, l0, l1, c0, c1], payload].concat();
    fragment(from, to, UDP, &whole, mtu, id, send);
}

/// What every IPv6 wire takes. Routers behind the device do not cut IPv6 packets, and what they say of them is not heard.
const LEAST_IPV6_MTU: usize = 1280;

fn fits(from: IpAddr, len: usize, mtu: usize) -> bool {
    if from.is_ipv4() { 20 + len <= mtu } else { 40 + len <= mtu.min(LEAST_IPV6_MTU) }
}

/// The place of a whole IPv4 packet that a router may cut.
fn may_be_cut(from: IpAddr, id: u32) -> Option<(u32, u16)> {
    from.is_ipv4().then_some((id, 0))
}

fn fragment(
    from: IpAddr,
    to: IpAddr,
    protocol: u8,
    whole: &[u8],
    mtu: usize,
    id: u32,
    mut send: impl FnMut(&Header, &[u8]),
) {
    let room = if from.is_ipv4() { mtu - 20 } else { mtu.min(LEAST_IPV6_MTU) - 48 } / 8 * 8;
    let last = whole.len().div_ceil(room).saturating_sub(1);
    for (at, part) in whole.chunks(room).enumerate() {
        let more = if at < last { 0x2000 } else { 0 };
        let mut header = Header::new();
        header.ip(from, to, protocol, part.len(), Some((id, more | (at * room / 8) as u16)));
        send(&header, part);
    }
}

/// An answer to an echo request, in as many packets as it needs.
pub(in crate::builtin) fn echo_reply(
    (from, to): (IpAddr, IpAddr),
    (id, sequence): (u16, u16),
    payload: &[u8],
    (mtu, packet_id): (usize, u32),
    mut send: impl FnMut(&Header, &[u8]),
) {
    let (protocol, kind) = if from.is_ipv4() { (ICMP, 0) } else { (ICMPV6, 129) };
    let ([i0, i1], [q0, q1]) = (id.to_be_bytes(), sequence.to_be_bytes());
    let icmp = |c: [u8; 2]| [kind, 0, c[0], c[1], i0, i1, q0, q1];
    let len = 8 + payload.len();
    let sum = if from.is_ipv4() { Sum::default() } else { Sum::pseudo_header(from, to, ICMPV6, len) };
    let whole = [&icmp(sum.add(&icmp([0; 2])).add(payload).finish().to_be_bytes()), payload].concat();
    if fits(from, len, mtu) {
        let mut header = Header::new();
        header.ip(from, to, protocol, len, may_be_cut(from, packet_id));
        return send(&header, &whole);
    }
    fragment(from, to, protocol, &whole, mtu, packet_id, send);
}

/// Why something does not arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::builtin) enum Unreachable {
    Network,
    Host,
    Port,
    Prohibited,
}

/// The error about a packet, of which `quoted` is the beginning.
pub(in crate::builtin) fn unreachable(from: IpAddr, to: IpAddr, why: Unreachable, quoted: &[u8]) -> (Header, Vec<u8>) {
    let quoted = quoted.get(..QUOTED).unwrap_or(quoted);
    let len = 8 + quoted.len();
    let mut header = Header::new();
    let (protocol, kind, code, sum) = match (from, why) {
        (IpAddr::V4(_), Unreachable::Network) => (ICMP, 3, 0, Sum::default()),
        (IpAddr::V4(_), Unreachable::Host) => (ICMP, 3, 1, Sum::default()),
        (IpAddr::V4(_), Unreachable::Port) => (ICMP, 3, 3, Sum::default()),
        (IpAddr::V4(_), Unreachable::Prohibited) => (ICMP, 3, 13, Sum::default()),
        (IpAddr::V6(_), why) => {
            let code = match why {
                Unreachable::Network => 0,
                Unreachable::Prohibited => 1,
                Unreachable::Host => 3,
                Unreachable::Port => 4,
            };
            (ICMPV6, 1, code, Sum::pseudo_header(from, to, ICMPV6, len))
        }
    };
    header.ip(from, to, protocol, len, None);
    let [c0, c1] = sum.add(&[kind, code, 0, 0, 0, 0, 0, 0]).add(quoted).finish().to_be_bytes();
    (header, [&[kind, code, c0, c1, 0, 0, 0, 0], quoted].concat())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::builtin::packet::{Fragments, Transport, parse_ip, parse_transport};

    #[test]
    fn datagrams_of_every_size_come_back_from_the_parser() {
        for (from, to) in [("192.0.2.1:53", "10.0.2.100:4000"), ("[2001:db8::1]:53", "[fd00::2]:4000")] {
            let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
            for len in [0, 1, 1472, 1473, 9000, 65_507] {
                let payload: Vec<u8> = (0..len).map(|at| (at * 7) as u8).collect();
                let mut fragments = Fragments::default();
                let (mut whole, mut count) = (None, 0);
                datagram(from, to, &payload, 1500, 9, |header, part| {
                    let bytes = [&header.as_bytes()[DEVICE_HEADER..], part].concat();
                    assert!(bytes.len() <= 1500);
                    count += 1;
                    let ip = parse_ip(&bytes).expect("it is a packet");
                    assert_eq!((ip.source, ip.dest), (from.ip(), to.ip()));
                    whole = match ip.fragment {
                        Some(fragment) => fragments.add(&ip, fragment, Instant::now()),
                        None => Some(ip.payload.to_vec()),
                    };
                });
                let whole = whole.expect("it is complete with the last part");
                let Some(Transport::Udp { source: 53, dest: 4000, payload: got }) = parse_transport(UDP, &whole) else {
                    panic!("{whole:?}")
                };
                assert!(got == payload);
                assert_eq!(count == 1, len <= if from.is_ipv4() { 1472 } else { 1232 }, "{len}");
                if count > 1 {
                    let sum = Sum::pseudo_header(from.ip(), to.ip(), UDP, whole.len());
                    assert_eq!(sum.add(&whole).finish(), 0);
                }
            }
        }
    }

    #[test]
    fn echoes_and_errors_have_right_checksums() {
        for (from, to) in [("192.0.2.1", "10.0.2.100"), ("2001:db8::1", "fd00::2")] {
            let (from, to): (IpAddr, IpAddr) = (from.parse().unwrap(), to.parse().unwrap());
            let base = |len| match from {
                IpAddr::V4(_) => Sum::default(),
                IpAddr::V6(_) => Sum::pseudo_header(from, to, ICMPV6, len),
            };
            echo_reply((from, to), (7, 8), b"odd", (1500, 0), |header, whole| {
                assert_eq!(base(whole.len()).add(whole).finish(), 0);
                assert!(parse_ip(&[&header.as_bytes()[DEVICE_HEADER..], whole].concat()).is_some());
            });
            let (header, whole) = unreachable(from, to, Unreachable::Port, &[1; 900]);
            assert_eq!((base(whole.len()).add(&whole).finish(), whole.len()), (0, 8 + QUOTED));
            assert!(parse_ip(&[&header.as_bytes()[DEVICE_HEADER..], &whole].concat()).is_some());
        }
    }
}
