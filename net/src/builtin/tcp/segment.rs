//! Segments as data.

/// The flags of a segment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::builtin) struct Flags(pub(in crate::builtin) u8);

impl Flags {
    pub(in crate::builtin) const FIN: Self = Self(1);
    pub(in crate::builtin) const SYN: Self = Self(2);
    pub(in crate::builtin) const RST: Self = Self(4);
    pub(in crate::builtin) const PSH: Self = Self(8);
    pub(in crate::builtin) const ACK: Self = Self(16);

    /// Whether `flag` is set.
    pub(in crate::builtin) fn has(self, flag: Self) -> bool {
        self.0 & flag.0 != 0
    }
}

/// Ranges that have arrived beyond what is acknowledged, each up to its second number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::builtin) struct Sacks {
    ranges: [(u32, u32); 4],
    len: usize,
}

impl Sacks {
    /// Adds a range, if there is room for it.
    pub(in crate::builtin) fn push(&mut self, from: u32, to: u32) {
        if let Some(place) = self.ranges.get_mut(self.len) {
            *place = (from, to);
            self.len += 1;
        }
    }

    /// The ranges.
    pub(in crate::builtin) fn as_slice(&self) -> &[(u32, u32)] {
        self.ranges.get(..self.len).unwrap_or_default()
    }
}

/// A segment that came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::builtin) struct Segment<'a> {
    pub(in crate::builtin) seq: u32,
    pub(in crate::builtin) ack: u32,
    pub(in crate::builtin) flags: Flags,
    /// As it stands in the header.
    pub(in crate::builtin) window: u16,
    pub(in crate::builtin) mss: Option<u16>,
    pub(in crate::builtin) window_scale: Option<u8>,
    pub(in crate::builtin) may_sack: bool,
    pub(in crate::builtin) sacks: Sacks,
    pub(in crate::builtin) payload: &'a [u8],
}

/// A part of a connection's [`super::Queue`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::builtin) struct Payload {
    pub(in crate::builtin) offset: usize,
    len: usize,
}

impl Payload {
    pub(super) fn new(offset: usize, len: usize) -> Self {
        Self { offset, len }
    }

    /// Its length in bytes.
    pub(in crate::builtin) fn len(self) -> usize {
        self.len
    }
}

/// A segment to be sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::builtin) struct Outgoing {
    pub(in crate::builtin) seq: u32,
    pub(in crate::builtin) ack: u32,
    pub(in crate::builtin) flags: Flags,
    /// As it stands in the header.
    pub(in crate::builtin) window: u16,
    /// With `SYN` only.
    pub(in crate::builtin) mss: u16,
    /// With `SYN` only.
    pub(in crate::builtin) window_scale: Option<u8>,
    /// With `SYN` only.
    pub(in crate::builtin) may_sack: bool,
    pub(in crate::builtin) sacks: Sacks,
    pub(in crate::builtin) payload: Payload,
}

impl Outgoing {
    /// The answer to a segment of no connection; `None` to a RST, which is not answered.
    ///
    /// # Source
    /// RFC 9293 section 3.10.7.1.
    pub(in crate::builtin) fn reset_of(segment: &Segment<'_>) -> Option<Self> {
        if segment.flags.has(Flags::RST) {
            return None;
        }
        if segment.flags.has(Flags::ACK) {
            return Some(Self { seq: segment.ack, flags: Flags::RST, ..Self::default() });
        }
        let mut ack = segment.seq.wrapping_add(segment.payload.len() as u32);
        for flag in [Flags::SYN, Flags::FIN] {
            ack = ack.wrapping_add(u32::from(segment.flags.has(flag)));
        }
        Some(Self { ack, flags: Flags(Flags::RST.0 | Flags::ACK.0), ..Self::default() })
    }

    /// Length of its options, in bytes.
    pub(in crate::builtin) fn options_len(&self) -> usize {
        if self.flags.has(Flags::SYN) {
            return 4 + if self.window_scale.is_some() { 4 } else { 0 } + if self.may_sack { 4 } else { 0 };
        }
        match self.sacks.as_slice().len() {
            0 => 0,
            count => 4 + 8 * count,
        }
    }
}
