//! Packets of the device: bytes to what they say and back. Pure; the parser takes anything and never panics.
//!
//! ```text
//! device ── virtio_net_hdr ── IPv4 | IPv6 ── TCP | UDP | ICMP echo     parse
//!                                     └── fragment ── fragments ──┘
//! device ◄─ virtio_net_hdr ── headers, payload in pieces               build
//! ```
//! Checksums of what comes are not looked at: it never left this machine's memory, and most of it has none yet, because
//! the device says that it computes them. What goes carries the sum of the pseudo header alone, for the same reason.

mod build;
mod checksum;
mod fragments;
mod parse;

pub(super) use build::{Header, Unreachable, datagram, echo_reply, tcp, unreachable};
pub(super) use fragments::Fragments;
pub(super) use parse::{Fragment, Ip, Transport, parse_ip, parse_transport};

/// Length of the header before every packet of the device, in bytes.
///
/// # Source
/// linux/virtio_net.h `struct virtio_net_hdr`.
pub(super) const DEVICE_HEADER: usize = 10;

/// Protocol numbers.
pub(super) const TCP: u8 = 6;
/// See [`TCP`].
pub(super) const UDP: u8 = 17;
/// See [`TCP`].
pub(super) const ICMP: u8 = 1;
/// See [`TCP`].
pub(super) const ICMPV6: u8 = 58;

/// What the parser makes of any bytes, for the fuzz target.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn parse_all(bytes: &[u8], fragments: &mut Fragments, now: std::time::Instant) -> usize {
    let Some(ip) = parse_ip(bytes) else { return 0 };
    match ip.fragment {
        None => parse_transport(ip.protocol, ip.payload).map_or(1, |_| 2),
        Some(fragment) => match fragments.add(&ip, fragment, now) {
            None => 3,
            Some(whole) => parse_transport(ip.protocol, &whole).map_or(4, |_| 5),
        },
    }
}
