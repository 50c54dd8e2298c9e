//! The device as the stack writes to it.

use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::uio::writev;

use super::packet::{self, Header, Unreachable};
use super::tcp::{Flags, Outgoing};

/// The device. What it refuses is lost, as on any wire.
#[derive(Debug)]
pub(super) struct Wire {
    device: OwnedFd,
    mtu: usize,
    next_id: u32,
}

impl Wire {
    /// A device that takes packets of `mtu` bytes.
    pub(super) fn new(device: OwnedFd, mtu: u16) -> Self {
        Self { device, mtu: usize::from(mtu), next_id: 1 }
    }

    /// What a segment may carry.
    pub(super) fn mss(&self, is_ipv4: bool) -> u16 {
        u16::try_from(self.mtu - if is_ipv4 { 40 } else { 60 }).unwrap_or(u16::MAX)
    }

    fn write(&self, header: &Header, first: &[u8], second: &[u8]) {
        let parts = [IoSlice::new(header.as_bytes()), IoSlice::new(first), IoSlice::new(second)];
        let _ = writev(&self.device, &parts);
    }

    /// Sends a segment, whose payload comes in two pieces.
    pub(super) fn segment(
        &self,
        source: SocketAddr,
        dest: SocketAddr,
        out: &Outgoing,
        mss: u32,
        (first, second): (&[u8], &[u8]),
    ) {
        self.write(&packet::tcp(source, dest, out, mss), first, second);
    }

    /// Sends a datagram, in parts if it is large.
    pub(super) fn datagram(&mut self, source: SocketAddr, dest: SocketAddr, payload: &[u8]) {
        let id = self.take_id();
        packet::datagram(source, dest, payload, self.mtu, id, |header, part| self.write(header, part, &[]));
    }

    /// Sends the answer to an echo request.
    pub(super) fn echo_reply(&mut self, source: IpAddr, dest: IpAddr, id: u16, sequence: u16, payload: &[u8]) {
        let whole = (self.mtu, self.take_id());
        packet::echo_reply((source, dest), (id, sequence), payload, whole, |header, part| {
            self.write(header, part, &[]);
        });
    }

    /// Sends an error about a packet.
    pub(super) fn unreachable(&self, router: IpAddr, dest: IpAddr, why: Unreachable, quoted: &[u8]) {
        let (header, whole) = packet::unreachable(router, dest, why, quoted);
        self.write(&header, &whole, &[]);
    }

    /// Sends an error about a SYN that came a while ago.
    pub(super) fn syn_unreachable(&self, router: IpAddr, from: SocketAddr, to: SocketAddr, seq: u32, why: Unreachable) {
        let syn = Outgoing { seq, flags: Flags::SYN, ..Outgoing::default() };
        let header = packet::tcp(from, to, &syn, u32::MAX);
        let quoted = header.as_bytes().get(packet::DEVICE_HEADER..).unwrap_or_default();
        self.unreachable(router, from.ip(), why, quoted);
    }

    /// Sends an error about a datagram that came a while ago.
    pub(super) fn datagram_unreachable(&self, router: IpAddr, from: SocketAddr, to: SocketAddr, why: Unreachable) {
        packet::datagram(from, to, &[], self.mtu, 0, |header, _| {
            let quoted = header.as_bytes().get(packet::DEVICE_HEADER..).unwrap_or_default();
            self.unreachable(router, from.ip(), why, quoted);
        });
    }

    fn take_id(&mut self) -> u32 {
        self.next_id = self.next_id.wrapping_add(1);
        self.next_id
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}
