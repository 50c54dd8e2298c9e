//! Any bytes as requests, and valid requests in any order with bytes changed: whatever comes, the answer is well formed and
//! nothing panics.
//!
//! The files are real ones: two layers and an upper directory in a temporary place.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::symlink;

use proptest::prelude::*;

use super::{Server, Settings};
use crate::layer::IdMap;
use crate::union::session::abi::{IN_HEADER_BYTES, OUT_HEADER_BYTES, opcode};
use crate::union::session::decode::{Operation, decode};
use crate::union::session::encode::Reply;
use crate::union::session::{Service, respond};
use crate::union::{Lower, Options, Owners, Union, Upper};

const OPCODES: [u32; 36] = [
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
struct Dice(u64);

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

struct Harness {
    server: Server,
    reply: Reply,
    /// Nodes that were answered, and how often.
    nodes: HashMap<u64, u64>,
    _dir: tempfile::TempDir,
}

impl Harness {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["top/dir", "bottom/dir/deep", "bottom/dir2", "upper", "work"] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join("bottom/a"), "lower file").unwrap();
        fs::write(dir.path().join("top/b"), "another").unwrap();
        fs::write(dir.path().join("bottom/dir/b"), "below").unwrap();
        fs::hard_link(dir.path().join("bottom/a"), dir.path().join("bottom/hard")).unwrap();
        symlink("a", dir.path().join("top/link")).unwrap();
        let open = |name: &str| File::open(dir.path().join(name)).unwrap().into();
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
        let log = File::options().write(true).open("/dev/null").unwrap().into();
        let server = Server { union: union.unwrap(), settings: Settings { log: Some(log), ..Settings::default() } };
        let reply = Reply::new(server.presentation());
        Self { server, reply, nodes: HashMap::from([(1, 1)]), _dir: dir }
    }

    /// Sends bytes; checks and gives the answer.
    fn send(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
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
    fn roll(&mut self, seed: u64, change: Option<(u16, u8)>) {
        let mut dice = Dice(seed);
        let opcode = OPCODES[dice.of(OPCODES.len())];
        let node = self.node(&mut dice);
        let body = self.body(opcode, &mut dice);
        let mut bytes = request(opcode, node, &body);
        if let Some((at, byte)) = change {
            let at = usize::from(at) % bytes.len();
            bytes[at] = byte;
        }
        let answer = self.send(&bytes);
        let is_whole = change.is_none();
        if let Some(entry) = answer.filter(|answer| is_whole && answer.len() >= OUT_HEADER_BYTES + 128)
            && MAKES_ENTRY.contains(&opcode)
        {
            let node = u64::from_ne_bytes(*entry[OUT_HEADER_BYTES..].first_chunk().unwrap());
            *self.nodes.entry(node).or_default() += u64::from(node != 0);
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

    fn body(&self, opcode: u32, dice: &mut Dice) -> Vec<u8> {
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

fn request(opcode: u32, node: u64, body: &[u8]) -> Vec<u8> {
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

fn errno(answer: Option<Vec<u8>>) -> i32 {
    let answer = answer.expect("there is an answer");
    -i32::from_ne_bytes(*answer[4..].first_chunk().unwrap())
}

fn entry(answer: Option<Vec<u8>>) -> u64 {
    let answer = answer.expect("there is an answer");
    u64::from_ne_bytes(*answer[OUT_HEADER_BYTES..].first_chunk().expect("an entry"))
}

/// Few cases, unless `PROPTEST_CASES` wants more.
fn config() -> ProptestConfig {
    let default = ProptestConfig { max_shrink_iters: 400, ..ProptestConfig::default() };
    if std::env::var_os("PROPTEST_CASES").is_some() { default } else { ProptestConfig { cases: 48, ..default } }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_bytes_get_an_answer_or_none(bytes in prop::collection::vec(any::<u8>(), 0..300), opcode in 0usize..36) {
        let mut harness = Harness::new();
        harness.send(&bytes);
        harness.send(&request(OPCODES[opcode], 1, &bytes));
    }

    #[test]
    fn requests_in_any_order_with_changed_bytes_do_no_harm(
        rolls in prop::collection::vec((any::<u64>(), prop::option::weighted(0.2, any::<(u16, u8)>())), 1..200),
    ) {
        let mut harness = Harness::new();
        for (seed, change) in rolls {
            harness.roll(seed, change);
        }
        // The root is there whatever was forgotten, and still lists.
        prop_assert_eq!(errno(harness.send(&request(opcode::GETATTR, 1, &[0; 16]))), 0);
        let mut list = [0; 40];
        list[16..20].copy_from_slice(&65_536u32.to_ne_bytes());
        // An ordinary user may have taken its own right to read it.
        let errno = errno(harness.send(&request(opcode::READDIR, 1, &list)));
        prop_assert!(matches!(errno, 0 | libc::EACCES), "{}", errno);
    }
}

#[test]
fn numbers_that_were_never_answered_are_unknown() {
    let mut harness = Harness::new();
    let bodies = (0..OPCODES.len() as u64 * 40).map(|seed| (seed, Dice(seed)));
    for (seed, mut dice) in bodies {
        let opcode = OPCODES[seed as usize % OPCODES.len()];
        let is_about_no_node =
            matches!(opcode, opcode::STATFS | opcode::SYNCFS | opcode::INIT | opcode::DESTROY | opcode::RELEASE);
        if is_about_no_node || opcode == opcode::RELEASEDIR {
            continue;
        }
        let body = harness.body(opcode, &mut dice);
        if let Some(answer) = harness.send(&request(opcode, 0x7fff_0000_1234_5678, &body)) {
            let errno = errno(Some(answer));
            assert_ne!(errno, 0, "opcode {opcode}, seed {seed}");
            let is_refused_earlier = !matches!(errno, libc::ENOENT | libc::ESTALE);
            let may_be = [libc::EINVAL, libc::EPERM, libc::ENOTTY, libc::EOPNOTSUPP, libc::ENAMETOOLONG, libc::EXDEV];
            assert!(!is_refused_earlier || may_be.contains(&errno), "opcode {opcode}, seed {seed}: {errno}");
        }
    }
}

#[test]
fn forgetting_more_than_was_answered_forgets_once() {
    let mut harness = Harness::new();
    let file = entry(harness.send(&request(opcode::LOOKUP, 1, b"a\0")));
    for count in [1u64, u64::MAX, 1] {
        harness.send(&request(opcode::FORGET, file, &count.to_ne_bytes()));
    }
    harness.send(&request(opcode::FORGET, 1, &u64::MAX.to_ne_bytes()));
    assert!(matches!(errno(harness.send(&request(opcode::GETATTR, file, &[0; 16]))), libc::ENOENT | libc::ESTALE));
    assert_eq!(
        entry(harness.send(&request(opcode::LOOKUP, 1, b"a\0"))),
        file,
        "the same number when it is found again"
    );
    assert_eq!(errno(harness.send(&request(opcode::GETATTR, file, &[0; 16]))), 0);
}

#[test]
fn a_missing_name_is_remembered_and_a_file_made_unmade() {
    let mut harness = Harness::new();
    assert_eq!(entry(harness.send(&request(opcode::LOOKUP, 1, b"new\0"))), 0);
    let mut body = Vec::new();
    for number in [0o100_644u32, 0, 0o22, 0] {
        body.extend(number.to_ne_bytes());
    }
    body.extend(b"new\0");
    let file = entry(harness.send(&request(opcode::MKNOD, 1, &body)));
    assert_ne!(file, 0);
    assert_eq!(entry(harness.send(&request(opcode::LOOKUP, 1, b"new\0"))), file);
    assert_eq!(errno(harness.send(&request(opcode::UNLINK, 1, b"new\0"))), 0);
    assert_eq!(entry(harness.send(&request(opcode::LOOKUP, 1, b"new\0"))), 0);
    assert_eq!(errno(harness.send(&request(opcode::GETATTR, file, &[0; 16]))), 0, "lives until it is forgotten");
}
