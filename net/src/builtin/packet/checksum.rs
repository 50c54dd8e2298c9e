//! The Internet checksum.

use std::net::IpAddr;

/// A sum in the making.
///
/// # Source
/// RFC 1071.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sum(u64);

impl Sum {
    /// Adds bytes. All but the last piece must have an even length.
    pub(super) fn add(mut self, bytes: &[u8]) -> Self {
        let (pairs, rest) = bytes.as_chunks::<2>();
        self.0 += pairs.iter().map(|pair| u64::from(u16::from_be_bytes(*pair))).sum::<u64>();
        if let [last] = rest {
            self.0 += u64::from(*last) << 8;
        }
        self
    }

    /// What TCP and UDP add of the header below them.
    pub(super) fn pseudo_header(source: IpAddr, dest: IpAddr, protocol: u8, len: usize) -> Self {
        let sum = match (source, dest) {
            (IpAddr::V4(source), IpAddr::V4(dest)) => Self(0).add(&source.octets()).add(&dest.octets()),
            (IpAddr::V6(source), IpAddr::V6(dest)) => Self(0).add(&source.octets()).add(&dest.octets()),
            _ => Self(0),
        };
        Self(sum.0 + u64::from(protocol) + len as u64)
    }

    /// The sum, folded and not complemented: what the kernel wants in the field of a checksum it is to finish.
    pub(super) fn partial(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    /// The checksum.
    pub(super) fn finish(self) -> u16 {
        !self.partial()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sum_of_the_rfc() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::default().add(&bytes).partial(), 0xddf2);
        assert_eq!(Sum::default().add(&bytes[..4]).add(&bytes[4..]).finish(), !0xddf2);
        assert_eq!(Sum::default().add(&[1]).partial(), 0x100);
    }
}
