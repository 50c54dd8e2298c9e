//! The state machine against a small model of the container's side, over a wire that loses, doubles and swaps packets.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::*;

/// A segment on the wire.
#[derive(Debug, Clone, Default)]
struct Packet {
    seq: u32,
    ack: u32,
    flags: u8,
    window: u16,
    sacks: Sacks,
    payload: Vec<u8>,
}

/// The container's side: sends again everything that is not acknowledged when nothing happens for a while.
struct Model {
    seq: u32,
    una: u32,
    next: u32,
    data: Vec<u8>,
    has_syn: bool,
    expected: u32,
    received: Vec<u8>,
    held: BTreeMap<u32, Vec<u8>>,
    has_fin: bool,
    may_sack: bool,
    /// Of the other side.
    window: u32,
    retry_at: Instant,
    /// What it takes at a time, in bytes; what was read by nobody counts against it.
    room: usize,
    unread: usize,
    closes: bool,
}

const MODEL_ISS: u32 = u32::MAX - 5000;
const OUR_ISS: u32 = u32::MAX - 70_000;
const SCALE: u8 = 3;
const MODEL_MSS: usize = 1400;

impl Model {
    fn window(&self) -> u16 {
        ((self.room - self.unread) >> SCALE).min(0xffff) as u16
    }

    /// Sequence number of the byte after the data.
    fn end(&self) -> u32 {
        self.seq.wrapping_add(1).wrapping_add(self.data.len() as u32)
    }

    fn packet(&self, seq: u32, flags: u8, payload: Vec<u8>) -> Packet {
        let mut sacks = Sacks::default();
        if self.may_sack {
            let mut ranges: Vec<(u32, u32)> = Vec::new();
            for (from, bytes) in &self.held {
                let (from, to) = (self.expected.wrapping_add(*from), bytes.len() as u32);
                match ranges.last_mut() {
                    Some(last) if last.1 == from => last.1 = from.wrapping_add(to),
                    _ => ranges.push((from, from.wrapping_add(to))),
                }
            }
            ranges.iter().rev().take(3).for_each(|(from, to)| sacks.push(*from, *to));
        }
        Packet { seq, ack: self.expected, flags: flags | 16, window: self.window(), sacks, payload }
    }

    /// Sends what the window takes from `self.next` on.
    fn pump(&mut self, out: &mut Vec<Packet>) {
        if !self.has_syn {
            return;
        }
        loop {
            let end = self.end();
            let limit = self.una.wrapping_add(self.window);
            if before(self.next, end) {
                let offset = self.next.wrapping_sub(self.seq.wrapping_add(1)) as usize;
                let room = if before(self.next, limit) { limit.wrapping_sub(self.next) as usize } else { 0 };
                let len = (self.data.len() - offset).min(MODEL_MSS).min(room);
                if len == 0 {
                    return;
                }
                out.push(self.packet(self.next, 0, self.data[offset..offset + len].to_vec()));
                self.next = self.next.wrapping_add(len as u32);
            } else if self.next == end && self.closes {
                out.push(self.packet(end, 1, Vec::new()));
                self.next = end.wrapping_add(1);
            } else {
                return;
            }
        }
    }

    fn on_packet(&mut self, packet: &Packet, now: Instant, out: &mut Vec<Packet>) {
        assert_eq!(packet.flags & 4, 0, "nobody resets");
        if packet.flags & 2 != 0 {
            if !self.has_syn {
                self.has_syn = true;
                self.expected = packet.seq.wrapping_add(1);
                self.window = u32::from(packet.window);
            }
            out.push(self.packet(self.next.max(self.seq.wrapping_add(1)), 0, Vec::new()));
            self.una = self.seq.wrapping_add(1);
            self.next = self.una;
            return self.pump(out);
        }
        if !self.has_syn {
            return;
        }
        if !before(packet.ack, self.una) {
            assert!(!before(self.end().wrapping_add(1), packet.ack), "acknowledges what was not sent");
            if before(self.una, packet.ack) {
                self.retry_at = now + RETRY;
            }
            self.una = packet.ack;
            if before(self.next, self.una) {
                self.next = self.una;
            }
            self.window = u32::from(packet.window) << receive::SCALE;
        }
        let is_news = !packet.payload.is_empty() || packet.flags & 1 != 0;
        let distance = packet.seq.wrapping_sub(self.expected);
        if !packet.payload.is_empty() {
            assert!(packet.payload.len() <= self.room, "more than the window");
            if (distance as i32) < 0 {
                let skip = distance.wrapping_neg() as usize;
                if let Some(rest) = packet.payload.get(skip..) {
                    self.take(rest.to_vec());
                }
            } else if distance == 0 {
                self.take(packet.payload.clone());
            } else {
                self.held.insert(distance, packet.payload.clone());
            }
        }
        if packet.flags & 1 != 0
            && packet.seq.wrapping_add(packet.payload.len() as u32) == self.expected
            && !self.has_fin
        {
            self.has_fin = true;
            self.expected = self.expected.wrapping_add(1);
        }
        if is_news || distance != 0 {
            out.push(self.packet(self.next, 0, Vec::new()));
        }
        self.pump(out);
    }

    /// Bytes that are next, and those that were waiting for them.
    fn take(&mut self, bytes: Vec<u8>) {
        let len = bytes.len() as u32;
        self.unread = (self.unread + bytes.len()).min(self.room);
        self.received.extend(bytes);
        self.expected = self.expected.wrapping_add(len);
        let held = std::mem::take(&mut self.held);
        for (distance, bytes) in held {
            match distance.checked_sub(len) {
                Some(distance) => {
                    self.held.insert(distance, bytes);
                }
                None => {
                    if let Some(rest) = bytes.get((len - distance) as usize..)
                        && !rest.is_empty()
                    {
                        self.held.insert(0, rest.to_vec());
                    }
                }
            }
        }
        if let Some(bytes) = self.held.remove(&0) {
            self.take(bytes);
        }
    }
}

const RETRY: Duration = Duration::from_millis(300);
const TRIP: Duration = Duration::from_micros(200);

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }
}

/// What happens to one packet of a hundred.
#[derive(Clone, Copy, Default)]
struct Weather {
    lost: u64,
    doubled: u64,
    delayed: u64,
}

struct World {
    now: Instant,
    connection: Connection,
    model: Model,
    pool: Pool,
    random: Random,
    weather: Weather,
    /// By arrival: to the model or to us.
    wire: Vec<(Instant, bool, Packet)>,
    /// What the host sends, what it got.
    to_send: Vec<u8>,
    delivered: Vec<u8>,
    host_waiting: usize,
    sent_packets: usize,
    readers_sleep: bool,
}

fn bytes(len: usize, salt: usize) -> Vec<u8> {
    (0..len).map(|at| (at.wrapping_mul(2_654_435_761).wrapping_add(salt * 97) >> 11) as u8).collect()
}

impl World {
    fn new(seed: u64, up: usize, down: usize, may_sack: bool, weather: Weather) -> Self {
        let now = Instant::now();
        let syn = Segment {
            seq: MODEL_ISS,
            flags: Flags::SYN,
            window: 5000,
            mss: Some(MODEL_MSS as u16),
            window_scale: Some(SCALE),
            may_sack,
            ..Segment::default()
        };
        let model = Model {
            seq: MODEL_ISS,
            una: MODEL_ISS,
            next: MODEL_ISS.wrapping_add(1),
            data: bytes(up, 1),
            has_syn: false,
            expected: 0,
            received: Vec::new(),
            held: BTreeMap::new(),
            has_fin: false,
            may_sack,
            window: 0,
            retry_at: now + RETRY,
            room: 200_000,
            unread: 0,
            closes: true,
        };
        Self {
            now,
            connection: Connection::accept(&syn, OUR_ISS, 1460, CAPACITY as u32, now),
            model,
            pool: Pool::new(1),
            random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            weather,
            wire: Vec::new(),
            to_send: bytes(down, 2),
            delivered: Vec::new(),
            host_waiting: 0,
            sent_packets: 0,
            readers_sleep: false,
        }
    }

    fn put(&mut self, to_model: bool, packet: Packet) {
        let mut copies = 1;
        if self.random.below(100) < self.weather.lost {
            copies = 0;
        } else if self.random.below(100) < self.weather.doubled {
            copies = 2;
        }
        for _ in 0..copies {
            let late = if self.random.below(100) < self.weather.delayed { TRIP * 3 } else { Duration::ZERO };
            self.wire.push((self.now + TRIP + late, to_model, packet.clone()));
        }
    }

    /// Host to queue, queue to wire.
    fn flush(&mut self) {
        loop {
            let room = self.connection.room().min(self.to_send.len());
            if room > 0 {
                let source = &self.to_send;
                let filled = self.connection.sender.queue.fill(&mut self.pool, room, |first, second| {
                    let (front, back) = source.split_at(first.len());
                    first.copy_from_slice(front);
                    second.copy_from_slice(&back[..second.len()]);
                    Ok::<usize, ()>(first.len() + second.len())
                });
                let count = filled.expect("a ring").expect("filled");
                self.to_send.drain(..count);
            }
            if self.to_send.is_empty() {
                self.connection.finish();
            }
            self.connection.has_more = !self.to_send.is_empty();
            let mut has_sent = false;
            while let Some(out) = self.connection.next(self.now) {
                let (first, second) = self.connection.sender.queue.slices(out.payload.offset, out.payload.len());
                let whole = [first, second].concat();
                assert_eq!(whole.len(), out.payload.len());
                has_sent = true;
                self.sent_packets += 1;
                // A GSO packet is cut, and each piece may get lost.
                let mut pieces: Vec<&[u8]> = whole.chunks(MODEL_MSS).collect();
                if pieces.is_empty() {
                    pieces.push(&[]);
                }
                let last = pieces.len() - 1;
                for (at, piece) in pieces.into_iter().enumerate() {
                    let flags = if at == last { out.flags.0 } else { out.flags.0 & !1 };
                    let seq = out.seq.wrapping_add((at * MODEL_MSS) as u32);
                    self.put(
                        true,
                        Packet {
                            seq,
                            ack: out.ack,
                            flags,
                            window: out.window,
                            sacks: out.sacks,
                            payload: piece.to_vec(),
                        },
                    );
                }
            }
            self.connection.sender.queue.release(&mut self.pool);
            if room == 0 || !has_sent {
                return;
            }
        }
    }

    fn step(&mut self) -> bool {
        self.flush();
        self.wire.sort_by_key(|(at, ..)| *at);
        let ours = self.connection.deadline();
        let models = (!self.is_model_done()).then_some(self.model.retry_at);
        let next = [self.wire.first().map(|(at, ..)| *at), ours, models].into_iter().flatten().min();
        let Some(next) = next else { return false };
        self.now = self.now.max(next);
        let mut out = Vec::new();
        if self.wire.first().is_some_and(|(at, ..)| *at <= self.now) {
            let (_, to_model, packet) = self.wire.remove(0);
            if to_model {
                self.model.on_packet(&packet, self.now, &mut out);
            } else {
                let segment = Segment {
                    seq: packet.seq,
                    ack: packet.ack,
                    flags: Flags(packet.flags),
                    window: packet.window,
                    sacks: packet.sacks,
                    payload: &packet.payload,
                    ..Segment::default()
                };
                let (delivered, waiting) = (&mut self.delivered, &mut self.host_waiting);
                self.connection.on_segment(&segment, self.now, |bytes| {
                    delivered.extend_from_slice(bytes);
                    *waiting += bytes.len();
                });
                assert!(self.host_waiting <= CAPACITY, "more than the window was taken");
                self.connection.on_room(self.host_waiting);
            }
        } else if models.is_some_and(|at| at <= self.now) {
            self.model.retry_at = self.now + RETRY;
            self.model.next = self.model.una.max_seq(self.model.seq.wrapping_add(1));
            if self.model.has_syn {
                self.model.pump(&mut out);
                if out.is_empty() {
                    // A probe of our window.
                    out.push(self.model.packet(self.model.una.wrapping_sub(1), 0, Vec::new()));
                }
            }
        } else {
            self.connection.on_time(self.now);
        }
        // Both readers are awake now and then.
        if !self.readers_sleep && self.random.below(3) == 0 {
            let was_closed = self.model.window() == 0;
            self.model.unread = 0;
            self.host_waiting = 0;
            self.connection.on_room(0);
            if was_closed && self.model.has_syn {
                out.push(self.model.packet(self.model.next, 0, Vec::new()));
            }
        }
        for packet in out {
            self.put(false, packet);
        }
        true
    }

    fn is_model_done(&self) -> bool {
        self.model.has_fin && self.model.una == self.model.end().wrapping_add(1)
    }

    fn run(&mut self) {
        for _ in 0..400_000 {
            if !self.step() || self.connection.is_closed() {
                return;
            }
        }
        panic!("it does not end");
    }
}

trait MaxSeq {
    fn max_seq(self, other: Self) -> Self;
}

impl MaxSeq for u32 {
    fn max_seq(self, other: Self) -> Self {
        if before(self, other) { other } else { self }
    }
}

fn transfer(seed: u64, up: usize, down: usize, may_sack: bool, weather: Weather) -> World {
    let mut world = World::new(seed, up, down, may_sack, weather);
    world.run();
    assert!(world.delivered == bytes(up, 1), "seed {seed}: what the container sent");
    assert!(world.model.received == bytes(down, 2), "seed {seed}: what the host sent");
    assert!(world.connection.is_over() && world.model.has_fin, "seed {seed}: both halves end");
    world
}

#[test]
fn bytes_arrive_both_ways_over_a_good_wire() {
    for (up, down) in [(0, 0), (1, 0), (0, 1), (900_000, 900_000), (70_001, 1_000_003)] {
        let world = transfer(1, up, down, true, Weather::default());
        let most = 40 + down / (10 * MODEL_MSS) + 2 * up / MODEL_MSS;
        assert!(world.sent_packets <= most, "{} packets for {down} bytes", world.sent_packets);
        assert!(world.now.duration_since(world.model.retry_at - RETRY) <= LINGER + RETRY);
    }
}

#[test]
fn bytes_arrive_over_a_wire_that_loses_doubles_and_swaps() {
    for seed in 1..20 {
        for (lost, doubled, delayed) in [(2, 0, 0), (0, 5, 0), (0, 0, 10), (3, 2, 5), (20, 5, 10)] {
            let size = 40_000 + (seed as usize * 7919) % 150_000;
            let (up, down) = if lost == 20 { (size / 10, size / 10) } else { (size, 200_000 - size) };
            transfer(seed, up, down, seed % 3 != 0, Weather { lost, doubled, delayed });
        }
    }
}

#[test]
fn a_closed_window_opens_again_though_the_news_of_it_got_lost() {
    let mut world = World::new(5, 0, 500_000, true, Weather::default());
    // Nobody reads.
    world.model.room = 4096;
    world.readers_sleep = true;
    for _ in 0..200 {
        world.flush();
        if world.model.unread > 0 && world.model.window() == 0 && world.wire.is_empty() {
            break;
        }
        world.step();
        world.model.unread = world.model.received.len().min(4096);
    }
    let before = world.model.received.len();
    assert!((4000..=4096).contains(&before), "{before}");
    // Somebody does, but the container's word of it is lost: the probe finds out.
    world.model.unread = 0;
    world.model.room = 200_000;
    world.readers_sleep = false;
    world.run();
    assert!(world.model.received == bytes(500_000, 2));
}

#[test]
fn a_container_that_is_gone_is_given_up() {
    let mut world = World::new(3, 0, 100_000, true, Weather::default());
    while world.model.received.len() < 20_000 {
        world.step();
    }
    world.weather.lost = 100;
    world.wire.clear();
    let start = world.now;
    let mut resets = 0;
    while !world.connection.is_closed() {
        while world.connection.next(world.now).is_some() {}
        world.now = world.connection.deadline().expect("it waits for something");
        world.connection.on_time(world.now);
    }
    while let Some(out) = world.connection.next(world.now) {
        resets += usize::from(out.flags.has(Flags::RST));
    }
    assert_eq!(resets, 1);
    let waited = world.now.duration_since(start);
    assert!((Duration::from_secs(30)..Duration::from_secs(300)).contains(&waited), "{waited:?}");
}

/// A connection that is open, with nothing said yet.
fn open(now: Instant) -> Connection {
    let syn = Segment { seq: 100, flags: Flags::SYN, window: 5000, mss: Some(1460), ..Segment::default() };
    let mut connection = Connection::accept(&syn, 1000, 1460, 65_535, now);
    let out = connection.next(now).expect("a SYN");
    assert_eq!((out.seq, out.ack, out.flags.0), (1000, 101, 18));
    connection.on_segment(&segment(101, 1001, 16, b""), now, |_| ());
    assert!(connection.room() > 0);
    connection
}

fn segment(seq: u32, ack: u32, flags: u8, payload: &[u8]) -> Segment<'_> {
    Segment { seq, ack, flags: Flags(flags), window: 5000, payload, ..Segment::default() }
}

#[test]
fn idle_connections_are_asked_seldom_and_then_given_up() {
    let now = Instant::now();
    let mut connection = open(now);
    assert_eq!(connection.deadline(), Some(now + KEEPALIVE_IDLE));
    let mut at = now + KEEPALIVE_IDLE;
    for _ in 0..KEEPALIVE_TRIES {
        connection.on_time(at);
        let probe = connection.next(at).expect("a probe");
        assert_eq!((probe.seq, probe.flags.0, connection.next(at)), (1000, 16, None));
        at += KEEPALIVE_INTERVAL;
    }
    connection.on_time(at);
    assert!(connection.next(at).is_some_and(|out| out.flags.has(Flags::RST)) && connection.is_closed());

    let mut connection = open(now);
    connection.on_time(now + KEEPALIVE_IDLE);
    connection.on_segment(&segment(101, 1001, 16, b""), now + KEEPALIVE_IDLE, |_| ());
    assert_eq!(connection.deadline(), Some(now + KEEPALIVE_IDLE * 2));
}

#[test]
fn a_reset_must_be_exact() {
    let now = Instant::now();
    for (seq, closes, answers) in [(101, true, false), (102, false, true), (90, false, false)] {
        let mut connection = open(now);
        connection.on_segment(&segment(seq, 1001, 4, b""), now, |_| ());
        assert_eq!((connection.is_closed(), connection.next(now).is_some()), (closes, answers), "{seq}");
    }
}

#[test]
fn halves_close_one_by_one() {
    let now = Instant::now();
    let mut connection = open(now);
    let mut got = Vec::new();
    connection.on_segment(&segment(101, 1001, 17, b"last"), now, |bytes| got.extend_from_slice(bytes));
    assert!(got == b"last" && connection.receiver.is_finished() && !connection.is_over());
    assert_eq!(connection.next(now).map(|out| (out.ack, out.flags.0)), Some((106, 16)));
    // The other half goes on.
    let mut pool = Pool::new(1);
    let filled = connection.sender.queue.fill(&mut pool, 3, |first, _| Ok::<usize, ()>(first.len()));
    assert_eq!(filled, Some(Ok(3)));
    connection.finish();
    let out = connection.next(now).expect("data and FIN");
    assert_eq!((out.seq, out.payload.len(), out.flags.has(Flags::FIN)), (1001, 3, true));
    connection.on_segment(&segment(106, 1005, 16, b""), now, |_| ());
    assert!(connection.is_over() && !connection.is_closed());
    // Its FIN again: the acknowledgement got lost.
    connection.on_segment(&segment(101, 1005, 17, b"last"), now, |_| panic!("it had that"));
    assert_eq!(connection.next(now).map(|out| (out.ack, out.flags.0)), Some((106, 16)));
    connection.on_time(now + LINGER);
    assert!(connection.is_closed());
}

#[test]
fn a_full_host_closes_the_window_and_opens_it_again() {
    let now = Instant::now();
    let syn = Segment { seq: 0, flags: Flags::SYN, window_scale: Some(0), ..Segment::default() };
    let mut connection = Connection::accept(&syn, 0, 1460, 8192, now);
    connection.next(now);
    connection.on_segment(&segment(1, 1, 16, b""), now, |_| ());
    let payload = [7; 4096];
    let mut waiting = 0;
    for at in 0..3 {
        connection.on_segment(&segment(1 + at * 4096, 1, 16, &payload), now, |bytes| waiting += bytes.len());
        connection.on_room(waiting);
    }
    assert_eq!(waiting, 8192, "what is beyond the window is not taken");
    let out = connection.next(now).expect("an acknowledgement");
    assert_eq!((out.ack, out.window), (8193, 0));
    connection.on_room(8000);
    assert_eq!(connection.next(now), None, "a little room is no news");
    connection.on_room(0);
    assert_eq!(connection.next(now).map(|out| u32::from(out.window) << receive::SCALE), Some(8192));
}
