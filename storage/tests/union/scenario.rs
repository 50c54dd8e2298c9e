//! What is run: layers and operations, as data that a seed gives and a file keeps.
//!
//! All names come from a handful, so that operations meet each other's results and those of the layers.

use serde::{Deserialize, Serialize};

/// Layers, bottom first, and what is done to the union of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Scenario {
    pub(crate) layers: Vec<Layer>,
    pub(crate) operations: Vec<Operation>,
    /// No reference to a file is given back before the end, as a kernel with much memory does.
    pub(crate) keeps_references: bool,
    pub(crate) model: Model,
}

/// What is right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) enum Model {
    /// The kernel's overlay. In a user namespace it breaks the links of files in layers and moves no merged directory, so
    /// the layers have no links and `mv` finishes what it refuses.
    #[default]
    Overlay,
    /// A plain directory with a copy of the tree, where everything is as POSIX wants it.
    Directory,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Layer {
    /// Unpacked by coracle, with an index.
    pub(crate) is_indexed: bool,
    /// In order; what cannot be made is left out.
    pub(crate) entries: Vec<(String, Item)>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Item {
    File { size: usize, mode: u32, uid: u32, has_xattr: bool },
    Directory { mode: u32, uid: u32, is_opaque: bool, has_xattr: bool },
    Symlink { target: String },
    Link { from: String },
    Fifo { mode: u32 },
    Whiteout,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Operation {
    Create {
        path: String,
        mode: u32,
        size: usize,
    },
    CreateUnnamed {
        directory: String,
        name: String,
        mode: u32,
        size: usize,
    },
    MakeDirectory {
        path: String,
        mode: u32,
    },
    Symlink {
        path: String,
        target: String,
    },
    MakeFifo {
        path: String,
        mode: u32,
    },
    MakeSocket {
        path: String,
        mode: u32,
    },
    MakeWhiteout {
        path: String,
    },
    Link {
        from: String,
        to: String,
    },
    Unlink {
        path: String,
    },
    RemoveDirectory {
        path: String,
    },
    RemoveTree {
        path: String,
    },
    Rename {
        from: String,
        to: String,
        how: How,
    },
    ChangeMode {
        path: String,
        mode: u32,
    },
    ChangeOwner {
        path: String,
        uid: Option<u32>,
        gid: Option<u32>,
    },
    SetTimes {
        path: String,
        seconds: i64,
    },
    Truncate {
        path: String,
        size: u64,
    },
    Write {
        path: String,
        offset: u64,
        size: usize,
    },
    Append {
        path: String,
        size: usize,
    },
    Read {
        path: String,
        offset: u64,
        size: usize,
    },
    Allocate {
        path: String,
        offset: u64,
        size: u64,
        how: Room,
    },
    SeekData {
        path: String,
        offset: u64,
    },
    SeekHole {
        path: String,
        offset: u64,
    },
    CopyRange {
        from: String,
        to: String,
        size: usize,
    },
    Sync {
        path: String,
    },
    Status {
        path: String,
    },
    ReadLink {
        path: String,
    },
    List {
        path: String,
    },
    SetXattr {
        path: String,
        name: String,
        value: String,
        how: Presence,
    },
    Xattr {
        path: String,
        name: String,
    },
    XattrNames {
        path: String,
    },
    RemoveXattr {
        path: String,
        name: String,
    },
    /// Opens for reading and writing, keeps the descriptor.
    Hold {
        slot: usize,
        path: String,
    },
    HeldWrite {
        slot: usize,
        offset: u64,
        size: usize,
    },
    HeldRead {
        slot: usize,
    },
    HeldStatus {
        slot: usize,
    },
    Release {
        slot: usize,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum How {
    Plain,
    NoReplace,
    Exchange,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Room {
    Plain,
    KeepSize,
    PunchHole,
    ZeroRange,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Presence {
    Any,
    Create,
    Replace,
}

pub(crate) const SLOTS: usize = 3;

/// What decides.
pub(crate) enum Dice<'a> {
    /// Numbers that look random and are the same for a seed everywhere.
    Seed(u64),
    /// A fuzzer's bytes, one or two for each number; zeros when they are used up.
    Bytes(&'a [u8]),
}

impl Dice<'_> {
    pub(crate) fn new(seed: u64) -> Self {
        Self::Seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        let state = match self {
            Self::Seed(state) => state,
            Self::Bytes(bytes) => {
                let mut next = || bytes.split_off_first().map_or(0, |byte| usize::from(*byte));
                return (next() + if bound > 256 { next() << 8 } else { 0 }) % bound;
            }
        };
        // splitmix64
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = *state;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((value ^ (value >> 31)) % bound as u64).expect("less than the bound")
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn of<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())].clone()
    }
}

const DIRECTORIES: [&str; 3] = ["d", "e", "g"];
const NAMES: [&str; 8] = ["d", "e", "g", "a", "b", "c", "s", "t"];
const MODES: [u32; 8] = [0o644, 0o600, 0o755, 0o4755, 0o2755, 0o1777, 0o000, 0o2644];
const IDS: [u32; 4] = [0, 1, 33, 1000];
const SIZES: [usize; 7] = [0, 1, 10, 4095, 4096, 4097, 20_000];
const XATTRS: [&str; 6] = [
    "user.one",
    "user.two",
    "user.overlay.opaque",
    "user.overlay.anything",
    "user.overlay.overlay.nested",
    "user.containers.other",
];

/// A path whose parents are usually directories.
fn path(dice: &mut Dice<'_>) -> String {
    let depth = dice.of(&[0, 0, 0, 1, 1, 1, 1, 2, 2, 3]);
    let mut path = String::new();
    for _ in 0..depth {
        path.push_str(if dice.one_in(20) { dice.of(&NAMES) } else { dice.of(&DIRECTORIES) });
        path.push('/');
    }
    path + dice.of(&NAMES)
}

fn directory(dice: &mut Dice<'_>) -> String {
    let depth = 1 + dice.below(3);
    let names: Vec<_> = (0..depth).map(|_| dice.of(&DIRECTORIES)).collect();
    names.join("/")
}

fn layer(dice: &mut Dice<'_>, number: usize, model: Model) -> Layer {
    let mut entries = Vec::new();
    for name in DIRECTORIES {
        if !dice.one_in(4) {
            entries
                .push((name.to_owned(), Item::Directory { mode: 0o755, uid: 0, is_opaque: false, has_xattr: false }));
        }
    }
    for _ in 0..4 + dice.below(14) {
        let at = path(dice);
        let has_xattr = dice.one_in(4);
        let item = match dice.below(20) {
            0..7 => Item::File { size: dice.of(&SIZES), mode: dice.of(&MODES), uid: dice.of(&IDS), has_xattr },
            7..13 => Item::Directory {
                mode: dice.of(&[0o755, 0o755, 0o2755, 0o1777, 0o700]),
                uid: dice.of(&IDS),
                is_opaque: number > 0 && dice.one_in(4),
                has_xattr,
            },
            13..15 => Item::Symlink { target: path(dice) },
            15 | 16 if model == Model::Directory => Item::Link { from: path(dice) },
            15..18 => Item::Fifo { mode: dice.of(&MODES) },
            _ if number > 0 => Item::Whiteout,
            _ => Item::Symlink { target: "nowhere".to_owned() },
        };
        entries.push((at, item));
    }
    // Only an index knows the other names of a file.
    Layer { is_indexed: model == Model::Directory || !dice.one_in(3), entries }
}

fn operation(dice: &mut Dice<'_>) -> Operation {
    let offset = |dice: &mut Dice<'_>| dice.of(&[0, 1, 100, 4095, 4096, 9000]);
    let slot = |dice: &mut Dice<'_>| dice.below(SLOTS);
    match dice.below(100) {
        0..8 => Operation::Create { path: path(dice), mode: dice.of(&MODES), size: dice.of(&SIZES) },
        8 => Operation::CreateUnnamed {
            directory: directory(dice),
            name: dice.of(&NAMES).to_owned(),
            mode: dice.of(&MODES),
            size: dice.of(&SIZES),
        },
        9..15 => Operation::MakeDirectory {
            path: if dice.one_in(2) { directory(dice) } else { path(dice) },
            mode: dice.of(&[0o755, 0o755, 0o2755, 0o1777, 0o700]),
        },
        15 | 16 => Operation::Symlink { path: path(dice), target: path(dice) },
        17 => Operation::MakeFifo { path: path(dice), mode: dice.of(&MODES) },
        18 => Operation::MakeSocket { path: path(dice), mode: dice.of(&MODES) },
        19 => Operation::MakeWhiteout { path: path(dice) },
        20..24 => Operation::Link { from: path(dice), to: path(dice) },
        24..32 => Operation::Unlink { path: path(dice) },
        32..36 => Operation::RemoveDirectory { path: directory(dice) },
        36 => Operation::RemoveTree { path: directory(dice) },
        37..49 => {
            let how = dice.of(&[How::Plain, How::Plain, How::Plain, How::NoReplace, How::Exchange]);
            if dice.one_in(3) {
                Operation::Rename { from: directory(dice), to: directory(dice), how }
            } else {
                Operation::Rename { from: path(dice), to: path(dice), how }
            }
        }
        49..53 => Operation::ChangeMode { path: path(dice), mode: dice.of(&MODES) },
        53..56 => Operation::ChangeOwner {
            path: path(dice),
            uid: (!dice.one_in(3)).then(|| dice.of(&IDS)),
            gid: (!dice.one_in(3)).then(|| dice.of(&IDS)),
        },
        56 | 57 => Operation::SetTimes { path: path(dice), seconds: 100_000_000 + dice.below(1000) as i64 },
        58..61 => Operation::Truncate { path: path(dice), size: dice.of(&[0, 1, 4096, 5000, 100_000]) },
        61..67 => Operation::Write { path: path(dice), offset: offset(dice), size: dice.of(&SIZES) },
        67..70 => Operation::Append { path: path(dice), size: dice.of(&SIZES) },
        70..73 => Operation::Read { path: path(dice), offset: offset(dice), size: dice.of(&SIZES) },
        73 => Operation::Allocate {
            path: path(dice),
            offset: offset(dice),
            size: dice.of(&[1, 4096, 10_000]),
            // No ZeroRange: tmpfs refuses it, and overlay has taken setgid away by then.
            how: dice.of(&[Room::Plain, Room::KeepSize, Room::PunchHole, Room::PunchHole]),
        },
        74 => Operation::SeekData { path: path(dice), offset: offset(dice) },
        75 => Operation::SeekHole { path: path(dice), offset: offset(dice) },
        76 => Operation::CopyRange { from: path(dice), to: path(dice), size: 1 + dice.of(&SIZES) },
        77 => Operation::Sync { path: path(dice) },
        78..81 => Operation::Status { path: path(dice) },
        81 => Operation::ReadLink { path: path(dice) },
        82..85 => Operation::List { path: if dice.one_in(8) { String::new() } else { directory(dice) } },
        85..88 => Operation::SetXattr {
            path: path(dice),
            name: dice.of(&XATTRS).to_owned(),
            value: dice.of(&["", "y", "some text"]).to_owned(),
            how: dice.of(&[Presence::Any, Presence::Any, Presence::Create, Presence::Replace]),
        },
        88 => Operation::Xattr { path: path(dice), name: dice.of(&XATTRS).to_owned() },
        89 => Operation::XattrNames { path: path(dice) },
        90 => Operation::RemoveXattr { path: path(dice), name: dice.of(&XATTRS).to_owned() },
        91..94 => Operation::Hold { slot: slot(dice), path: path(dice) },
        94 | 95 => Operation::HeldWrite { slot: slot(dice), offset: offset(dice), size: dice.of(&SIZES) },
        96 => Operation::HeldRead { slot: slot(dice) },
        97 => Operation::HeldStatus { slot: slot(dice) },
        _ => Operation::Release { slot: slot(dice) },
    }
}

impl Scenario {
    pub(crate) fn from_seed(seed: u64) -> Self {
        Self::from_dice(Dice::new(seed))
    }

    /// What a fuzzer means.
    #[allow(dead_code, reason = "the fuzz target includes this file")]
    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        Self::from_dice(Dice::Bytes(bytes))
    }

    fn from_dice(mut dice: Dice<'_>) -> Self {
        let model = if dice.one_in(3) { Model::Directory } else { Model::Overlay };
        let count = 1 + dice.below(4);
        let layers = (0..count).map(|number| layer(&mut dice, number, model)).collect();
        let count = 10 + dice.below(70);
        let operations = (0..count).map(|_| operation(&mut dice)).collect();
        Self { layers, operations, keeps_references: dice.one_in(2), model }
    }

    /// The same with fewer parts, as long as `fails` holds: operations first, then layers and their entries.
    pub(crate) fn smaller(mut self, fails: &mut dyn FnMut(&Self) -> bool) -> Self {
        let mut size = self.operations.len().next_power_of_two();
        while size >= 1 {
            let mut at = 0;
            while at < self.operations.len() {
                let mut candidate = self.clone();
                candidate.operations.drain(at..(at + size).min(self.operations.len()));
                if fails(&candidate) {
                    self = candidate;
                } else {
                    at += size;
                }
            }
            size /= 2;
        }
        let mut number = 0;
        while number < self.layers.len() {
            let mut candidate = self.clone();
            candidate.layers.remove(number);
            if self.layers.len() > 1 && fails(&candidate) {
                self = candidate;
                continue;
            }
            let mut at = 0;
            while at < self.layers[number].entries.len() {
                let mut candidate = self.clone();
                candidate.layers[number].entries.remove(at);
                if fails(&candidate) {
                    self = candidate;
                } else {
                    at += 1;
                }
            }
            let mut candidate = self.clone();
            candidate.layers[number].is_indexed = false;
            if self.model == Model::Overlay && self.layers[number].is_indexed && fails(&candidate) {
                self = candidate;
            }
            number += 1;
        }
        self
    }
}
