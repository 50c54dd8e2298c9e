//! What the container sends: put in order, acknowledged, held back where the host is slow.

use super::{Sacks, before};

/// The window scale we use: windows in units of 128 bytes.
pub(super) const SCALE: u8 = 7;

/// Pieces that may wait for what is missing before them.
const MOST_PIECES: usize = 512;

/// The receiving half.
#[derive(Debug)]
pub(in crate::builtin) struct Receiver {
    /// The next byte of the stream.
    pub(in crate::builtin) next: u32,
    /// What the host has not taken yet, in bytes.
    pub(in crate::builtin) waiting: usize,
    /// The end of the window as the container knows it.
    edge: u32,
    room: u32,
    /// Pieces beyond `next`, in order, none over another.
    held: Vec<(u32, Vec<u8>)>,
    held_bytes: usize,
    /// The piece that came last: the first one in acknowledgements.
    latest: u32,
    fin: Option<u32>,
    is_finished: bool,
}

impl Receiver {
    /// A half whose first byte has this number, and which takes `room` bytes at a time.
    pub(super) fn new(next: u32, room: u32, may_scale: bool) -> Self {
        let room = if may_scale { room } else { room.min(0xffff) };
        Self {
            next,
            waiting: 0,
            edge: next,
            room,
            held: Vec::new(),
            held_bytes: 0,
            latest: next,
            fin: None,
            is_finished: false,
        }
    }

    /// Whether the container's FIN is acknowledged.
    pub(in crate::builtin) fn is_finished(&self) -> bool {
        self.is_finished
    }

    pub(super) fn is_in_window(&self, seq: u32) -> bool {
        !before(seq, self.next) && before(seq, self.edge.max_in(self.next))
    }

    /// Takes the bytes of a segment.
    pub(super) fn on_data(&mut self, seq: u32, payload: &[u8], fin: bool, deliver: &mut impl FnMut(&[u8])) {
        if self.is_finished {
            return;
        }
        let end = seq.wrapping_add(payload.len() as u32);
        // Beyond the window we have no room, and before `next` we have it.
        if before(self.edge.max_in(self.next), end) {
            return;
        }
        if fin && self.fin.is_none() {
            self.fin = Some(end);
        }
        if before(self.next, end) {
            if before(self.next, seq) {
                self.hold(seq, payload);
            } else if let Some(new) = payload.get(self.next.wrapping_sub(seq) as usize..) {
                deliver(new);
                self.next = end;
                self.deliver_held(deliver);
            }
        }
        if self.fin == Some(self.next) {
            self.is_finished = true;
            self.next = self.next.wrapping_add(1);
        }
    }

    fn deliver_held(&mut self, deliver: &mut impl FnMut(&[u8])) {
        let mut taken = 0;
        for (seq, bytes) in &self.held {
            if before(self.next, *seq) {
                break;
            }
            taken += 1;
            self.held_bytes -= bytes.len();
            if let Some(new) = bytes.get(self.next.wrapping_sub(*seq) as usize..)
                && !new.is_empty()
            {
                deliver(new);
                self.next = self.next.wrapping_add(new.len() as u32);
            }
        }
        self.held.drain(..taken);
    }

    fn hold(&mut self, seq: u32, payload: &[u8]) {
        if self.held.len() >= MOST_PIECES || self.held_bytes + payload.len() > self.room as usize * 2 {
            return;
        }
        self.latest = seq;
        let at = self.held.partition_point(|(other, _)| before(*other, seq));
        // What is there already is kept; one that covers others takes their place.
        let covered = |(other, bytes): &(u32, Vec<u8>), seq: u32, len: usize| {
            let start = seq.wrapping_sub(*other);
            start as usize + len <= bytes.len()
        };
        let before_it = at.checked_sub(1).and_then(|at| self.held.get(at));
        if before_it.is_some_and(|other| covered(other, seq, payload.len()))
            || self.held.get(at).is_some_and(|other| other.0 == seq && other.1.len() >= payload.len())
        {
            return;
        }
        self.held_bytes += payload.len();
        self.held.insert(at, (seq, payload.to_vec()));
    }

    /// What has arrived beyond what is missing: the latest first.
    pub(super) fn sacks(&self) -> Sacks {
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for (seq, bytes) in &self.held {
            let end = seq.wrapping_add(bytes.len() as u32);
            match ranges.last_mut() {
                Some(last) if !before(last.1, *seq) => {
                    if before(last.1, end) {
                        last.1 = end;
                    }
                }
                _ => ranges.push((*seq, end)),
            }
        }
        let mut sacks = Sacks::default();
        let has_latest = |range: &(u32, u32)| !before(self.latest, range.0) && before(self.latest, range.1);
        let latest = ranges.iter().position(has_latest);
        for at in latest.into_iter().chain((0..ranges.len()).filter(|at| Some(*at) != latest)) {
            if let Some((from, to)) = ranges.get(at) {
                sacks.push(*from, *to);
            }
        }
        sacks
    }

    /// The window, in bytes, which from now on the container counts on.
    pub(super) fn advertise(&mut self) -> u32 {
        let free = self.free();
        // What it was told once is not taken back.
        let promised = self.edge.wrapping_sub(self.next);
        let promised = if promised > i32::MAX as u32 { 0 } else { promised };
        let window = free.max(promised);
        self.edge = self.next.wrapping_add(window);
        window
    }

    fn free(&self) -> u32 {
        let free = self.room.saturating_sub(self.waiting as u32);
        // In units that survive the scaling.
        free >> SCALE << SCALE
    }

    /// Whether the window has grown by so much that the container should hear of it.
    pub(super) fn should_update_window(&self, mss: u32) -> bool {
        let promised = self.edge.wrapping_sub(self.next);
        let promised = if promised > i32::MAX as u32 { 0 } else { promised };
        let grown = self.free().saturating_sub(promised);
        grown >= (self.room / 2).min(2 * mss.max(1))
    }
}

trait MaxIn {
    /// The later of the two.
    fn max_in(self, other: Self) -> Self;
}

impl MaxIn for u32 {
    fn max_in(self, other: Self) -> Self {
        if before(self, other) { other } else { self }
    }
}
