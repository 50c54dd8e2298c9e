//! Attributes of netlink's messages, those of rtnetlink and those of nfnetlink: `{ len u16, type u16, value, pad }*`.
//!
//! # Source
//! netlink(7), linux/netlink.h.

use std::net::IpAddr;

/// Bytes under construction that end in attributes.
pub(crate) trait Attributes: Default {
    /// All of them so far.
    fn bytes(&mut self) -> &mut Vec<u8>;

    /// Appends an attribute; values are a few bytes long.
    fn attribute(&mut self, kind: u16, value: &[u8]) {
        let bytes = self.bytes();
        let len = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        bytes.extend_from_slice(&len.to_ne_bytes());
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }

    /// A text, with the NUL at its end.
    fn text(&mut self, kind: u16, text: &str) {
        self.attribute(kind, &[text.as_bytes(), b"\0"].concat());
    }

    /// An address of either family.
    fn address(&mut self, kind: u16, address: IpAddr) {
        match address {
            IpAddr::V4(v4) => self.attribute(kind, &v4.octets()),
            IpAddr::V6(v6) => self.attribute(kind, &v6.octets()),
        }
    }

    /// An attribute that holds what `fill` appends.
    fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        fill(&mut inner);
        self.attribute(kind | libc::NLA_F_NESTED as u16, inner.bytes());
    }
}
