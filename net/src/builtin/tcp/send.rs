//! What goes to the container: sent, sent again, acknowledged.
//!
//! Losses are rare, and packets overtake each other seldom, so what was sent before something that has arrived and is
//! itself missing counts as lost.

use std::time::{Duration, Instant};

use super::{Payload, Queue, Segment, before};

/// The longest payload of a segment before the kernel cuts it, in bytes: an IPv6 packet with all headers stays below 64 KiB.
const LONGEST: u32 = 65_500 - 20;

/// Before the first measurement.
const FIRST_TIMEOUT: Duration = Duration::from_millis(1000);
const LEAST_TIMEOUT: Duration = Duration::from_millis(200);
const MOST_TIMEOUT: Duration = Duration::from_secs(30);

/// How many times something is sent again before the container counts as gone: a minute and a half.
const MOST_TRIES: u32 = 9;

/// Duplicate acknowledgements that mean a loss where there are no selective ones.
const DUPLICATES: u32 = 3;

/// Ranges kept of what has arrived out of order.
const MOST_RANGES: usize = 64;

/// A part of the stream that is to be sent now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub(super) seq: u32,
    pub(super) at: Payload,
    pub(super) is_fin: bool,
    pub(super) is_end: bool,
}

/// The sending half.
#[derive(Debug)]
pub(in crate::builtin) struct Sender {
    /// What is not acknowledged, and what is not sent yet.
    pub(in crate::builtin) queue: Queue,
    /// The first byte that is not acknowledged.
    pub(super) una: u32,
    /// The end of what was ever sent.
    pub(super) max: u32,
    /// The number of the queue's first byte.
    base: u32,
    mss: u32,
    window: u32,
    widest: u32,
    scale: u8,
    /// Segment and acknowledgement that the window is from.
    window_from: (u32, u32),
    syn_is_due: bool,
    fin: bool,
    /// Bytes that may be under way, as losses tell.
    congestion: u32,
    threshold: u32,
    duplicates: u32,
    /// Sorted ranges beyond `una` that have arrived.
    arrived: Vec<(u32, u32)>,
    /// While something is missing: where everything up to the end that was sent at the time is acknowledged.
    recovers_at: Option<u32>,
    /// What lies from `resend` to `lost` and has not arrived is to be sent again.
    resend: u32,
    lost: u32,
    /// The end of what was sent when `resend` was at the beginning.
    resent_at: u32,
    round_trip: Option<(Duration, Duration)>,
    timeout: Duration,
    timing: Option<(u32, Instant)>,
    tries: u32,
    pub(super) deadline: Option<Instant>,
}

impl Sender {
    /// A half that answers `syn` and whose SYN has the number `initial`.
    pub(super) fn new(initial: u32, syn: &Segment<'_>, now: Instant) -> Self {
        let mss = u32::from(syn.mss.unwrap_or(536)).max(64);
        Self {
            queue: Queue::default(),
            una: initial,
            max: initial,
            base: initial.wrapping_add(1),
            mss,
            window: u32::from(syn.window),
            widest: u32::from(syn.window),
            scale: syn.window_scale.unwrap_or(0),
            window_from: (syn.seq, initial),
            syn_is_due: true,
            fin: false,
            congestion: super::queue::CAPACITY as u32,
            threshold: super::queue::CAPACITY as u32,
            duplicates: 0,
            arrived: Vec::new(),
            recovers_at: None,
            resend: initial,
            lost: initial,
            resent_at: initial,
            round_trip: None,
            timeout: FIRST_TIMEOUT,
            timing: None,
            tries: 0,
            deadline: Some(now + FIRST_TIMEOUT),
        }
    }

    /// What the container takes in a segment.
    pub(in crate::builtin) fn mss(&self) -> u32 {
        self.mss
    }

    pub(super) fn window(&self) -> u32 {
        self.window
    }

    pub(super) fn is_syn_acknowledged(&self) -> bool {
        !before(self.una, self.base)
    }

    /// Nothing follows what is in the queue.
    pub(super) fn finish(&mut self) {
        self.fin = true;
    }

    /// The end of the stream so far, without a FIN.
    fn end(&self) -> u32 {
        self.base.wrapping_add(self.queue.len() as u32)
    }

    /// Whether everything is acknowledged, and nothing follows.
    pub(super) fn is_finished(&self) -> bool {
        self.fin && before(self.end(), self.una)
    }

    pub(super) fn has_unsent(&self) -> bool {
        before(self.max, self.end())
    }

    fn under_way(&self) -> u32 {
        self.max.wrapping_sub(self.una)
    }

    /// Bytes that would be sent at once. Less than a quarter of what may be under way is not worth a segment: the next
    /// acknowledgement brings more.
    pub(super) fn room(&self) -> usize {
        if self.fin {
            return 0;
        }
        let limit = self.window.min(self.congestion);
        let free = limit.saturating_sub(self.end().wrapping_sub(self.una));
        let is_worth_it = self.under_way() == 0 || free >= limit / 4;
        if is_worth_it { (free as usize).min(self.queue.room()) } else { 0 }
    }

    /// Whether nothing is under way and nothing can be.
    pub(super) fn is_stuck(&self) -> bool {
        self.window == 0 && self.under_way() == 0
    }

    /// The SYN, if it is to be sent.
    pub(super) fn next_syn(&mut self, now: Instant) -> Option<u32> {
        if !std::mem::take(&mut self.syn_is_due) {
            return None;
        }
        if self.max != self.base {
            self.timing = Some((self.base, now));
        }
        self.max = self.base;
        (self.resend, self.lost) = (self.base, self.base);
        self.deadline = Some(now + self.timeout);
        Some(self.base.wrapping_sub(1))
    }

    /// The answer to the SYN got lost, it seems.
    pub(super) fn resend_all(&mut self, _now: Instant) {
        self.syn_is_due = true;
        self.timing = None;
    }

    /// The next part of the stream that may be sent.
    pub(super) fn next_data(&mut self, now: Instant) -> Option<Part> {
        if let Some(part) = self.next_lost(now) {
            return Some(part);
        }
        let end = self.end();
        let unsent = if before(self.max, end) { end.wrapping_sub(self.max) } else { 0 };
        let fin_is_due = self.fin && !before(end, self.max);
        if unsent == 0 && !fin_is_due {
            return None;
        }
        let limit = self.window.min(self.congestion);
        let room = limit.saturating_sub(self.in_flight()).min(self.window.saturating_sub(self.under_way()));
        let mut len = unsent.min(room).min(self.longest());
        if unsent > 0 {
            if len < unsent && len >= self.mss {
                len -= len % self.mss;
            }
            // A small piece waits for a larger window, as long as something is under way that will bring news.
            if len == 0 || (len < unsent && len < self.mss.min(self.widest / 2) && self.under_way() > 0) {
                return None;
            }
        }
        Some(self.send(self.max, len, now))
    }

    fn longest(&self) -> u32 {
        if self.mss >= LONGEST { LONGEST } else { LONGEST - LONGEST % self.mss }
    }

    /// Bytes that have neither arrived nor count as lost.
    fn in_flight(&self) -> u32 {
        if self.recovers_at.is_none() {
            return self.under_way();
        }
        let arrived: u32 = self.arrived.iter().map(|(from, to)| to.wrapping_sub(*from)).sum();
        let mut lost = 0;
        let mut at = self.resend;
        while let Some((from, to)) = self.hole(at) {
            lost += to.wrapping_sub(from);
            at = to;
        }
        self.under_way().saturating_sub(arrived).saturating_sub(lost)
    }

    /// The first range from `at` on that counts as lost.
    fn hole(&self, at: u32) -> Option<(u32, u32)> {
        let mut at = if before(at, self.una) { self.una } else { at };
        for (from, to) in &self.arrived {
            if before(at, *from) {
                let end = if before(*from, self.lost) { *from } else { self.lost };
                return before(at, end).then_some((at, end));
            }
            if before(at, *to) {
                at = *to;
            }
        }
        before(at, self.lost).then_some((at, self.lost))
    }

    fn next_lost(&mut self, now: Instant) -> Option<Part> {
        self.recovers_at?;
        let (from, to) = self.hole(self.resend)?;
        // One segment may always be sent again, else nothing would ever move.
        let is_first = from == self.una;
        let room = self.congestion.saturating_sub(self.in_flight());
        if room < self.mss && !is_first {
            return None;
        }
        let end = self.end();
        if !before(from, end) {
            self.resend = to;
            return Some(self.send(from, 0, now));
        }
        let len = to.wrapping_sub(from).min(end.wrapping_sub(from)).min(self.longest()).min(room.max(self.mss));
        self.resend = from.wrapping_add(len);
        Some(self.send(from, len, now))
    }

    fn send(&mut self, seq: u32, len: u32, now: Instant) -> Part {
        let offset = seq.wrapping_sub(self.base) as usize;
        let mut next = seq.wrapping_add(len);
        let is_end = next == self.end();
        let is_fin = is_end && self.fin;
        if is_fin {
            next = next.wrapping_add(1);
            if before(self.resend, next) && before(seq, self.max) {
                self.resend = next;
            }
        }
        if before(self.max, next) {
            if seq == self.max && self.timing.is_none() && self.recovers_at.is_none() {
                self.timing = Some((next, now));
            }
            self.max = next;
        }
        if self.deadline.is_none() {
            self.deadline = Some(now + self.timeout);
        }
        Part { seq, at: Payload::new(offset, len as usize), is_fin, is_end }
    }

    /// Takes the acknowledgement of a segment; false if it is of what was never sent.
    pub(super) fn on_ack(&mut self, segment: &Segment<'_>, may_sack: bool, now: Instant) -> bool {
        let ack = segment.ack;
        if before(self.max, ack) {
            return false;
        }
        let had_window = self.window;
        self.on_window(segment);
        if may_sack {
            for (from, to) in segment.sacks.as_slice() {
                self.on_arrived(*from, *to);
            }
        }
        if before(self.una, ack) {
            self.on_progress(ack, now);
        } else if ack == self.una && self.under_way() > 0 && segment.payload.is_empty() && had_window == self.window {
            self.duplicates += 1;
        }
        self.detect_loss();
        true
    }

    fn on_window(&mut self, segment: &Segment<'_>) {
        let (seq, ack) = self.window_from;
        if before(seq, segment.seq) || (seq == segment.seq && !before(segment.ack, ack)) {
            self.window_from = (segment.seq, segment.ack);
            self.window = u32::from(segment.window) << self.scale;
            self.widest = self.widest.max(self.window);
        }
    }

    fn on_progress(&mut self, ack: u32, now: Instant) {
        let new = ack.wrapping_sub(self.una);
        self.una = ack;
        self.duplicates = 0;
        self.tries = 0;
        let end = self.end();
        let data_end = if before(end, ack) { end } else { ack };
        if before(self.base, data_end) {
            self.queue.consume(data_end.wrapping_sub(self.base) as usize);
            self.base = data_end;
        }
        self.arrived.retain(|(_, to)| before(ack, *to));
        if let Some(first) = self.arrived.first_mut()
            && before(first.0, ack)
        {
            first.0 = ack;
        }
        if let Some((seq, since)) = self.timing
            && !before(ack, seq)
        {
            self.measure(now.saturating_duration_since(since));
            self.timing = None;
        }
        self.set_timeout();
        self.deadline = (self.under_way() > 0).then(|| now + self.timeout);
        match self.recovers_at {
            Some(end) if !before(ack, end) => {
                self.recovers_at = None;
                (self.resend, self.lost) = (ack, ack);
            }
            Some(_) if self.arrived.is_empty() && !before(self.resend, self.lost) => {
                // Without selective acknowledgements one hole is known at a time.
                self.resend = ack;
                self.lost = ack.wrapping_add(self.mss.min(self.under_way()));
            }
            // After a timeout the way is opened again step by step.
            Some(_) if self.congestion < self.threshold => self.congestion = self.congestion.saturating_add(new),
            Some(_) => {}
            None => {
                // Slow start, then a segment for each window.
                let grow = if self.congestion < self.threshold {
                    new
                } else {
                    (u64::from(self.mss) * u64::from(new) / u64::from(self.congestion.max(1))) as u32
                };
                self.congestion = self.congestion.saturating_add(grow).min(super::queue::CAPACITY as u32);
            }
        }
    }

    fn on_arrived(&mut self, from: u32, to: u32) {
        if !before(from, to) || before(from, self.una) || before(self.max, to) {
            return;
        }
        let at = self.arrived.partition_point(|range| before(range.0, from));
        self.arrived.insert(at, (from, to));
        self.arrived.dedup_by(|later, earlier| {
            let touches = !before(earlier.1, later.0);
            if touches && before(earlier.1, later.1) {
                earlier.1 = later.1;
            }
            touches
        });
        self.arrived.truncate(MOST_RANGES);
    }

    fn detect_loss(&mut self) {
        let highest = self.arrived.last().map(|(_, to)| *to);
        match (self.recovers_at, highest) {
            (None, Some(highest)) => {
                self.start_recovery();
                self.lost = highest;
            }
            (None, None) if self.duplicates >= DUPLICATES => {
                self.start_recovery();
                self.lost = self.una.wrapping_add(self.mss.min(self.under_way()));
            }
            (Some(_), Some(highest)) => {
                if before(self.lost, highest) {
                    self.lost = highest;
                }
                // What was sent after the repair has arrived, the repair has not.
                if before(self.resent_at, highest) {
                    self.resend = self.una;
                    self.resent_at = self.max;
                }
            }
            _ => {}
        }
    }

    fn start_recovery(&mut self) {
        self.recovers_at = Some(self.max);
        (self.resend, self.resent_at) = (self.una, self.max);
        self.timing = None;
        self.threshold = (self.under_way() / 2).max(4 * self.mss);
        self.congestion = self.threshold.min(super::queue::CAPACITY as u32);
    }

    /// Nothing was acknowledged for too long; false if that is the end.
    pub(super) fn on_timeout(&mut self, now: Instant) -> bool {
        self.deadline = None;
        if self.under_way() == 0 {
            return true;
        }
        self.tries += 1;
        if self.tries > MOST_TRIES {
            return false;
        }
        self.timeout = (self.timeout * 2).min(MOST_TIMEOUT);
        self.deadline = Some(now + self.timeout);
        if !self.is_syn_acknowledged() {
            self.syn_is_due = true;
            self.timing = None;
            return true;
        }
        let threshold = (self.under_way() / 2).max(2 * self.mss);
        self.start_recovery();
        if self.tries == 1 {
            self.threshold = threshold;
        }
        self.congestion = (2 * self.mss).min(super::queue::CAPACITY as u32);
        self.lost = self.max;
        true
    }

    fn measure(&mut self, sample: Duration) {
        let (smooth, variation) = match self.round_trip {
            None => (sample, sample / 2),
            Some((smooth, variation)) => ((smooth * 7 + sample) / 8, (variation * 3 + smooth.abs_diff(sample)) / 4),
        };
        self.round_trip = Some((smooth, variation));
    }

    fn set_timeout(&mut self) {
        if let Some((smooth, variation)) = self.round_trip {
            self.timeout = (smooth + variation * 4).clamp(LEAST_TIMEOUT, MOST_TIMEOUT);
        }
    }
}
