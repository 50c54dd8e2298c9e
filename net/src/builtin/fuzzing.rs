//! What a fuzzer drives: the parser, and the state machine with whatever the parser makes of its bytes.

use std::time::{Duration, Instant};

use super::packet::{Fragments, TCP, Transport, parse_all, parse_transport};
use super::tcp::{CAPACITY, Connection, Flags, Pool, Segment};

/// Reads the bytes as packets, and as segments of one connection.
///
/// The first byte of each piece is its length in units of four, the second what happens before it.
pub(super) fn drive(mut bytes: &[u8]) {
    let mut now = Instant::now();
    let mut fragments = Fragments::default();
    let mut pool = Pool::new(1);
    let syn = Segment { flags: Flags::SYN, window: 1000, mss: Some(1460), may_sack: true, ..Segment::default() };
    let mut connection = Connection::accept(&syn, 0, 1460, CAPACITY as u32, now);
    let mut waiting = 0;
    while let [len, action, rest @ ..] = bytes {
        let (piece, next) = rest.split_at((usize::from(*len) * 4).min(rest.len()));
        bytes = next;
        parse_all(piece, &mut fragments, now);
        match action % 8 {
            0 => connection.finish(),
            1 => {
                now += Duration::from_millis(u64::from(*len) * 50);
                connection.on_time(now);
            }
            2 => {
                waiting /= 2;
                connection.on_room(waiting);
            }
            3 => {
                let room = connection.room();
                let _ = connection
                    .sender
                    .queue
                    .fill(&mut pool, room, |first, second| Ok::<usize, ()>(first.len() + second.len()));
            }
            _ => {}
        }
        if let Some(Transport::Tcp { segment, .. }) = parse_transport(TCP, piece) {
            connection.on_segment(&segment, now, |bytes| waiting += bytes.len());
            assert!(waiting <= CAPACITY, "more than the window was taken");
            connection.on_room(waiting);
        }
        for _ in 0..2000 {
            let Some(out) = connection.next(now) else { break };
            let (first, second) = connection.sender.queue.slices(out.payload.offset, out.payload.len());
            assert_eq!(first.len() + second.len(), out.payload.len(), "a segment has bytes that the queue has not");
        }
        assert!(connection.next(now).is_none(), "it never stops sending");
        let _ = connection.deadline();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_are_taken() {
        let mut state = 7u64;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for _ in 0..3000 {
            let mut bytes = Vec::new();
            for _ in 0..random() % 60 {
                // A header of a segment near the beginning of the stream, so that more than the parser is reached.
                let options = if random() % 3 == 0 { 5 } else { 0 };
                bytes.extend([(5 + options) as u8 + (random() % 9) as u8, random() as u8, 0, 1, 0, 2]);
                bytes.extend((random() as u32 % 4000).to_be_bytes());
                bytes.extend((random() as u32 % 4000).to_be_bytes());
                let flags = if random() % 16 == 0 { random() as u8 } else { 16 | (random() % 2) as u8 };
                bytes.extend([((5 + options) as u8) << 4, flags, random() as u8, random() as u8, 0, 0, 0, 0]);
                if options > 0 {
                    bytes.extend([1, 1, 5, 18]);
                    (0..4).for_each(|_| bytes.extend((random() as u32 % 4000).to_be_bytes()));
                }
                bytes.extend((0..random() % 30).map(|byte| byte as u8));
            }
            drive(&bytes);
        }
    }
}
