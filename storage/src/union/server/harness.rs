//! Requests made of numbers and bytes, sent to a server over real files: two layers and an upper directory.
//!
//! What the tests of `fuzz.rs` and the fuzz target `requests` (`storage/fuzz`) share; no part of the product.

// Whatever goes wrong here is what is looked for.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::disallowed_methods)]

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;

use super::{Log, Server, Settings};
use crate::layer::IdMap;
use crate::union::session::abi::{IN_HEADER_BYTES, OUT_HEADER_BYTES, opcode};
use crate::union::session::decode::{Operation, decode};
use crate::union::session::encode::Reply;
use crate::union::session::{Service, respond};
use crate::union::{Lower, Options, Owners, Union, Upper};

pub(super) const OPCODES: [u32; 36] = [
    opcode::LOOKUP,
    opcode::FORGET,
    opcode::GETATTR,
    opcode::SETATTR,
    opcode::READLINK,
    opcode::SYMLINK,
    opcode::MKNOD,
    opcode::MKDIR,
    opcode::UNLINK,
    opcode::RMDIR,
    opcode::RENAME,
    opcode::LINK,
    opcode::READ,
    opcode::WRITE,
    opcode::STATFS,
    opcode::RELEASE,
    opcode::FSYNC,
    opcode::SETXATTR,
    opcode::GETXATTR,
    opcode::LISTXATTR,
    opcode::REMOVEXATTR,
    opcode::INIT,
    opcode::READDIR,
    opcode::RELEASEDIR,
    opcode::FSYNCDIR,
    opcode::DESTROY,
    opcode::IOCTL,
    opcode::BATCH_FORGET,
    opcode::FALLOCATE,
    opcode::READDIRPLUS,
    opcode::RENAME2,
    opcode::LSEEK,
    opcode::COPY_FILE_RANGE,
    opcode::SYNCFS,
    opcode::TMPFILE,
    opcode::COPY_FILE_RANGE_64,
];

/// Requests whose answers begin with a `fuse_entry_out`.
const MAKES_ENTRY: [u32; 6] =
    [opcode::LOOKUP, opcode::MKNOD, opcode::MKDIR, opcode::SYMLINK, opcode::LINK, opcode::TMPFILE];

const NAMES: [&str; 12] =
    ["a", "b", "dir", "dir2", "link", "hard", "new", "new2", ".wh.a", "user.x", "system.posix_acl_access", "trusted.y"];

/// Small numbers that decide, so that one seed makes one request.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn of(&mut self, sides: usize) -> usize {
        self.roll() as usize % sides
    }

    fn name(&mut self) -> Vec<u8> {
        let name = match self.of(40) {
            0 => "n".repeat(255),
            1 => "n".repeat(256),
            2 => "..".to_owned(),
            n => NAMES[n % NAMES.len()].to_owned(),
        };
        format!("{name}\0").into_bytes()
    }
}

/// A server, and what it has answered.
pub struct Harness {
    server: Server,
    reply: Reply,
    /// Nodes that were answered, and how often.
    nodes: HashMap<u64, u64>,
}

impl Harness {
    /// In an empty directory.
    pub fn new(place: &Path) -> Self {
        for name in ["top/dir", "bottom/dir/deep", "bottom/dir2", "upper", "work"] {
            fs::create_dir_all(place.join(name)).unwrap();
        }
        fs::write(place.join("bottom/a"), "lower file").unwrap();
        fs::write(place.join("top/b"), "another").unwrap();
        fs::write(place.join("bottom/dir/b"), "below").unwrap();
        fs::hard_link(place.join("bottom/a"), place.join("bottom/hard")).unwrap();
        symlink("a", place.join("top/link")).unwrap();
        let open = |name: &str| File::open(place.join(name)).unwrap().into();
        let union = Union::open(Options {
            lowers: ["top", "bottom"].map(|name| Lower { dir: open(name), index: None }).into(),
            upper: Some(Upper { upper: open("upper"), work: open("work") }),
            owners: Owners::Mapped(IdMap::default()),
            lower_ids: IdMap::default(),
            volatile: true,
            static_nlink: false,
            max_open_files: 16,
            copy_up_cap_bytes: 1 << 20,
        });
        let log = Log::open(Path::new("/dev/null")).unwrap();
        let server = Server { union: union.unwrap(), settings: Settings { log: Some(log), ..Settings::default() } };
        let reply = Reply::new(server.presentation());
        Self { server, reply, nodes: HashMap::from([(1, 1)]) }
    }

    /// Sends bytes; checks and gives the answer.
    pub fn send(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        if is_too_large(bytes) {
            return None;
        }
        let answer = respond(&self.server, bytes, &mut self.reply)?.to_vec();
        let word = |at: usize| u32::from_ne_bytes(*answer[at..].first_chunk().unwrap());
        assert!(answer.len() >= OUT_HEADER_BYTES);
        assert_eq!(word(0) as usize, answer.len());
        assert_eq!(answer[8..16], bytes[8..16], "answers the request that was sent");
        let error = word(4).cast_signed();
        assert!((-4095..=0).contains(&error), "{error}");
        assert!(error == 0 || answer.len() == OUT_HEADER_BYTES);
        Some(answer)
    }

    /// Sends a well-formed request that the dice choose, unless a byte of it is to be changed.
    pub(super) fn roll(&mut self, seed: u64, change: Option<(u16, u8)>) {
        let mut dice = Dice(seed);
        let opcode = OPCODES[dice.of(OPCODES.len())];
        let node = self.node(&mut dice);
        let body = self.body(opcode, &mut dice);
        let mut bytes = request(opcode, node, &body);
        if let Some((at, byte)) = change {
            let at = usize::from(at) % bytes.len();
            bytes[at] = byte;
        }
        if change.is_none() {
            self.send_whole(opcode, &bytes);
        } else {
            self.send(&bytes);
        }
    }

    /// Sends a request of which nothing was changed, and keeps the node that it answers.
    fn send_whole(&mut self, opcode: u32, bytes: &[u8]) {
        if let Some(entry) = self.send(bytes).filter(|answer| answer.len() >= OUT_HEADER_BYTES + 128)
            && MAKES_ENTRY.contains(&opcode)
        {
            let node = u64::from_ne_bytes(*entry[OUT_HEADER_BYTES..].first_chunk().unwrap());
            *self.nodes.entry(node).or_default() += u64::from(node != 0);
        }
    }

    /// Sends what a fuzzer made: all of it as one request, then the requests that it describes, each with a byte that
    /// chooses the operation.
    ///
    /// ```text
    /// 0x00–0x7f: eight bytes of a seed             a well-formed request
    /// 0x80–0xff: node, length, so many bytes       a header for that operation before just these bytes
    /// ```
    pub fn send_all(&mut self, mut bytes: &[u8]) {
        self.send(bytes);
        while let Some((first, rest)) = bytes.split_first() {
            if *first < 0x80 {
                let Some((seed, rest)) = rest.split_first_chunk() else { break };
                self.roll(u64::from_le_bytes(*seed), None);
                bytes = rest;
                continue;
            }
            let [node, length, rest @ ..] = rest else { break };
            let (body, rest) = rest.split_at(rest.len().min((*length).into()));
            let opcode = OPCODES[usize::from(first & 0x7f) % OPCODES.len()];
            let mut known: Vec<u64> = self.nodes.keys().copied().collect();
            known.sort_unstable();
            self.send_whole(opcode, &request(opcode, known[usize::from(*node) % known.len()], body));
            bytes = rest;
        }
    }

    fn node(&self, dice: &mut Dice) -> u64 {
        let mut known: Vec<u64> = self.nodes.keys().copied().collect();
        known.sort_unstable();
        match dice.of(20) {
            0 => dice.roll() << 20,
            _ => known[dice.of(known.len())],
        }
    }

    pub(super) fn body(&self, opcode: u32, dice: &mut Dice) -> Vec<u8> {
        let mut body = Vec::new();
        let mut put = |number: u64, bytes: usize| body.extend_from_slice(&number.to_ne_bytes()[..bytes]);
        match opcode {
            opcode::LOOKUP | opcode::UNLINK | opcode::RMDIR | opcode::REMOVEXATTR => {}
            opcode::FORGET => put(dice.of(3) as u64, 8),
            opcode::BATCH_FORGET => {
                put(2, 8);
                for _ in 0..2 {
                    put(self.node(dice), 8);
                    put(dice.of(5) as u64, 8);
                }
                return body;
            }
            opcode::MKNOD => {
                let kinds = [0o100_000, 0o100_000, 0o010_000, 0o140_000, 0o020_000, 0o040_000];
                put((kinds[dice.of(kinds.len())] | dice.of(0o7777)) as u64, 4);
                put(dice.of(2) as u64, 4);
                put(0o22, 8);
            }
            opcode::MKDIR => put(dice.of(0o7777) as u64, 8),
            opcode::TMPFILE => {
                put(0, 4);
                put(0o644, 4);
                put(0o22, 8);
            }
            opcode::LINK | opcode::RENAME => put(self.node(dice), 8),
            opcode::RENAME2 => {
                put(self.node(dice), 8);
                put(dice.of(8) as u64, 8);
            }
            opcode::SETATTR => {
                put(dice.roll() & 0xfff, 8);
                (0..2).for_each(|_| put(dice.of(1000) as u64, 8));
                (0..8).for_each(|_| put(dice.roll(), 8));
                return body;
            }
            opcode::WRITE => {
                let len = dice.of(200) as u64;
                put(0, 8);
                put(dice.of(10_000) as u64, 8);
                put(len, 4);
                put(dice.of(8) as u64, 4);
                put(0, 8);
                put(0, 8);
                body.resize(body.len() + len as usize, b'w');
                return body;
            }
            opcode::SETXATTR => {
                put(3, 4);
                put(dice.of(3) as u64, 4);
                put(dice.of(2) as u64, 8);
                body.extend(dice.name());
                body.extend(b"val");
                return body;
            }
            opcode::GETXATTR => put(dice.of(2) as u64 * 64, 8),
            opcode::IOCTL => {
                let commands = [0x8008_6601u64, 0x4008_6602, 0x801c_581f, 0x401c_5820, 0x5401];
                put(0, 8);
                put(0, 4);
                put(commands[dice.of(commands.len())], 4);
                put(0, 8);
                put(28, 4);
                put(28, 4);
                (0..7).for_each(|_| put(dice.of(2) as u64 * 64, 4));
                return body;
            }
            // Handle, offset and size, or two more files: small numbers fit all of them.
            _ => {
                put(0, 8);
                put(dice.of(4096) as u64, 8);
                let third = if opcode == opcode::LSEEK { 3 + dice.of(2) as u64 } else { 4096 };
                let is_copy = matches!(opcode, opcode::COPY_FILE_RANGE | opcode::COPY_FILE_RANGE_64);
                put(if is_copy { self.node(dice) } else { third }, 8);
                (0..5).for_each(|_| put(dice.of(4096) as u64, 8));
                return body;
            }
        }
        body.extend(dice.name());
        if matches!(opcode, opcode::SYMLINK | opcode::RENAME | opcode::RENAME2) {
            body.extend(dice.name());
        }
        body
    }
}

/// What would fill the disk, or take its time.
fn is_too_large(bytes: &[u8]) -> bool {
    const MAX: u64 = 1 << 20;
    match decode(bytes).map(|request| request.operation) {
        Ok(Operation::Allocate { offset, len, .. }) => offset.max(len) > MAX,
        Ok(Operation::SetAttributes(changes)) => changes.size > Some(MAX),
        Ok(Operation::CopyRange { len, from_offset, to_offset, .. }) => len.max(from_offset).max(to_offset) > MAX,
        Ok(Operation::Write { offset, .. }) => offset > MAX,
        _ => false,
    }
}

pub(super) fn request(opcode: u32, node: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(IN_HEADER_BYTES + body.len());
    bytes.extend(((IN_HEADER_BYTES + body.len()) as u32).to_ne_bytes());
    bytes.extend(opcode.to_ne_bytes());
    bytes.extend(99u64.to_ne_bytes());
    bytes.extend(node.to_ne_bytes());
    let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    for number in [uid, gid, 1, 0] {
        bytes.extend(number.to_ne_bytes());
    }
    bytes.extend(body);
    bytes
}
