//! The container's side of a connection, ended by us: a pure state machine, without sockets and without a clock.
//!
//! ```text
//!              host's connect succeeded
//!                        │
//!                     Opening ── ACK of our SYN ─▶ Open ── both FINs seen and acknowledged ─▶ Lingering ── 2 s ─▶ Closed
//!                        │                          │                                            ▲
//!                        └──── RST, no answer ──────┴────────────────────────────────────────────┘ (RST: Closed at once)
//! ```
//! `Open` has two halves, each open, ending or ended: the RFC's ESTABLISHED, FIN-WAIT, CLOSE-WAIT, CLOSING and LAST-ACK
//! are their pairs. [`Sender`] keeps what was sent until it is acknowledged, [`Receiver`] puts in order what comes.
//!
//! Segments go in by [`Connection::on_segment`], time by [`Connection::on_time`]; what is to be sent is asked for with
//! [`Connection::next`] until there is nothing.
//!
//! # Source
//! RFC 9293, RFC 7323 (window scale; timestamps are not offered), RFC 2018 and 6675 (selective acknowledgement), RFC 5681,
//! RFC 6298, RFC 5961 (a RST must be exact).

mod queue;
mod receive;
mod segment;
mod send;

#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

pub(super) use queue::{CAPACITY, Pool, Queue};
pub(super) use receive::Receiver;
pub(super) use segment::{Flags, Outgoing, Payload, Sacks, Segment};
pub(super) use send::Sender;

/// How long a closed connection still acknowledges the container's last FIN.
const LINGER: Duration = Duration::from_secs(2);

/// How long nothing may be heard of the container before it is asked whether it is there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15 * 60);

/// How often it is asked then.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(75);

/// How many times it is asked.
const KEEPALIVE_TRIES: u32 = 9;

/// When a window that is closed is looked at first; then half as often each time.
const PERSIST: Duration = Duration::from_millis(500);

/// How seldom a window that is closed is looked at.
const PERSIST_MAX: Duration = Duration::from_secs(60);

/// `a` comes before `b` in a stream.
pub(super) fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

/// Where a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Our SYN is not acknowledged.
    Opening,
    /// At least one half is open, or not acknowledged.
    Open,
    /// Everything is said and acknowledged.
    Lingering,
    /// Nothing is to be done any more.
    Closed,
}

/// The container's side of a connection.
#[derive(Debug)]
pub(super) struct Connection {
    state: State,
    pub(super) sender: Sender,
    pub(super) receiver: Receiver,
    may_scale: bool,
    may_sack: bool,
    /// What the container is told that we take in a segment.
    own_mss: u16,
    must_ack: bool,
    must_probe: bool,
    must_reset: bool,
    /// The host has bytes that the container's window had no room for.
    pub(super) has_more: bool,
    persist: Option<(Instant, Duration)>,
    heard: Instant,
    asked: u32,
    lingers_until: Option<Instant>,
}

impl Connection {
    /// A connection that the container asked for with `syn`, and that the host has made.
    pub(super) fn accept(syn: &Segment<'_>, initial: u32, own_mss: u16, room: u32, now: Instant) -> Self {
        let may_scale = syn.window_scale.is_some();
        Self {
            state: State::Opening,
            sender: Sender::new(initial, syn, now),
            receiver: Receiver::new(syn.seq.wrapping_add(1), room, may_scale),
            may_scale,
            may_sack: syn.may_sack,
            own_mss,
            must_ack: false,
            must_probe: false,
            must_reset: false,
            has_more: false,
            persist: None,
            heard: now,
            asked: 0,
            lingers_until: None,
        }
    }

    /// Whether nothing is to be done any more, once [`Connection::next`] has nothing.
    pub(super) fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// Whether everything is said: the host's socket is not needed any more.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, State::Lingering | State::Closed)
    }

    /// Whether a new connection may take this one's place.
    pub(super) fn may_be_replaced(&self) -> bool {
        self.is_over()
    }

    /// How many bytes of the host the container would take now.
    pub(super) fn room(&self) -> usize {
        if self.state == State::Open { self.sender.room() } else { 0 }
    }

    /// The host says no more.
    pub(super) fn finish(&mut self) {
        self.sender.finish();
        self.has_more = false;
    }

    /// The host has ended the connection, or what the container did is against the rules.
    pub(super) fn abort(&mut self) {
        if !matches!(self.state, State::Lingering | State::Closed) {
            self.must_reset = true;
        }
        self.state = State::Closed;
    }

    /// Takes a segment; `deliver` gets the bytes that are next in the stream, in order.
    pub(super) fn on_segment(&mut self, segment: &Segment<'_>, now: Instant, mut deliver: impl FnMut(&[u8])) {
        if self.state == State::Closed {
            return;
        }
        (self.heard, self.asked) = (now, 0);
        let flags = segment.flags;
        if flags.has(Flags::RST) {
            if segment.seq == self.receiver.next {
                self.state = State::Closed;
            } else if self.receiver.is_in_window(segment.seq) {
                self.must_ack = true;
            }
            return;
        }
        if flags.has(Flags::SYN) {
            // The same SYN again wants the same answer; another one is told where we are.
            match self.state {
                State::Opening if segment.seq.wrapping_add(1) == self.receiver.next => self.sender.resend_all(now),
                _ => self.must_ack = true,
            }
            return;
        }
        if !flags.has(Flags::ACK) {
            return;
        }
        if !self.sender.on_ack(segment, self.may_sack, now) {
            // It acknowledges what was never sent.
            match self.state {
                State::Opening => self.abort(),
                _ => self.must_ack = true,
            }
            return;
        }
        if self.state == State::Opening {
            if !self.sender.is_syn_acknowledged() {
                return;
            }
            self.state = State::Open;
        }
        if self.sender.window() > 0 {
            self.persist = None;
        }
        if !segment.payload.is_empty() || flags.has(Flags::FIN) {
            self.must_ack = true;
            self.receiver.on_data(segment.seq, segment.payload, flags.has(Flags::FIN), &mut deliver);
        } else if segment.seq != self.receiver.next {
            // A keepalive, or a probe of our window: empty, and just outside.
            self.must_ack = true;
        }
        self.close_if_over(now);
    }

    fn close_if_over(&mut self, now: Instant) {
        if self.state == State::Open && self.receiver.is_finished() && self.sender.is_finished() {
            self.state = State::Lingering;
            self.lingers_until = Some(now + LINGER);
        }
    }

    /// The host has taken bytes, so that the container may be told to send more.
    pub(super) fn on_room(&mut self, waiting: usize) {
        self.receiver.waiting = waiting;
        if self.receiver.should_update_window(u32::from(self.own_mss)) {
            self.must_ack = true;
        }
    }

    /// When [`Connection::on_time`] is next to be called.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Closed => None,
            State::Lingering => self.lingers_until,
            State::Opening => self.sender.deadline,
            State::Open => {
                let ask = self.heard + KEEPALIVE_IDLE + KEEPALIVE_INTERVAL * self.asked;
                let persist = self.persist.map(|(at, _)| at);
                [self.sender.deadline, persist, Some(ask)].into_iter().flatten().min()
            }
        }
    }

    /// Does what is due.
    pub(super) fn on_time(&mut self, now: Instant) {
        match self.state {
            State::Closed => {}
            State::Lingering => {
                if self.lingers_until.is_some_and(|at| at <= now) {
                    self.state = State::Closed;
                }
            }
            State::Opening | State::Open => {
                if self.sender.deadline.is_some_and(|at| at <= now) && !self.sender.on_timeout(now) {
                    return self.abort();
                }
                if let Some((at, pause)) = self.persist
                    && at <= now
                {
                    let pause = (pause * 2).min(PERSIST_MAX);
                    self.persist = Some((now + pause, pause));
                    self.must_probe = true;
                }
                if self.heard + KEEPALIVE_IDLE + KEEPALIVE_INTERVAL * self.asked <= now {
                    if self.asked >= KEEPALIVE_TRIES {
                        return self.abort();
                    }
                    self.asked += 1;
                    self.must_probe = true;
                }
            }
        }
    }

    /// The next segment to be sent; `None` if there is nothing for now.
    pub(super) fn next(&mut self, now: Instant) -> Option<Outgoing> {
        if std::mem::take(&mut self.must_reset) {
            let (seq, flags) = (self.sender.max, Flags(Flags::RST.0 | Flags::ACK.0));
            return Some(Outgoing { seq, ack: self.receiver.next, flags, ..Outgoing::default() });
        }
        match self.state {
            State::Closed => return None,
            State::Opening => {
                let seq = self.sender.next_syn(now)?;
                return Some(Outgoing {
                    seq,
                    ack: self.receiver.next,
                    flags: Flags(Flags::SYN.0 | Flags::ACK.0),
                    // The window of a SYN is never scaled.
                    window: u16::try_from(self.receiver.advertise()).unwrap_or(u16::MAX),
                    mss: self.own_mss,
                    window_scale: self.may_scale.then_some(receive::SCALE),
                    may_sack: self.may_sack,
                    ..Outgoing::default()
                });
            }
            State::Open | State::Lingering => {}
        }
        if let Some(payload) = self.sender.next_data(now) {
            self.must_ack = false;
            let mut flags = Flags::ACK.0;
            if payload.is_end {
                flags |= Flags::PSH.0;
            }
            if payload.is_fin {
                flags |= Flags::FIN.0;
            }
            return Some(self.outgoing(payload.seq, flags, payload.at));
        }
        self.arm_persist(now);
        if std::mem::take(&mut self.must_probe) {
            self.must_ack = false;
            return Some(self.outgoing(self.sender.una.wrapping_sub(1), Flags::ACK.0, Payload::default()));
        }
        if std::mem::take(&mut self.must_ack) {
            return Some(self.outgoing(self.sender.max, Flags::ACK.0, Payload::default()));
        }
        None
    }

    /// With nothing under way and the window closed, the only news of its opening may get lost.
    fn arm_persist(&mut self, now: Instant) {
        let is_stuck = (self.has_more || self.sender.has_unsent()) && self.sender.is_stuck();
        match (is_stuck, self.persist) {
            (true, None) => self.persist = Some((now + PERSIST, PERSIST)),
            (false, Some(_)) => self.persist = None,
            _ => {}
        }
    }

    fn outgoing(&mut self, seq: u32, flags: u8, payload: Payload) -> Outgoing {
        let window = self.receiver.advertise() >> if self.may_scale { receive::SCALE } else { 0 };
        Outgoing {
            seq,
            ack: self.receiver.next,
            flags: Flags(flags),
            window: u16::try_from(window).unwrap_or(u16::MAX),
            sacks: if self.may_sack { self.receiver.sacks() } else { Sacks::default() },
            payload,
            ..Outgoing::default()
        }
    }
}
