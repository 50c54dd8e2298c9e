//! Classic BPF, assembled from the end.
//!
//! Jumps of classic BPF only lead forward, by at most 255 instructions when conditional. A program
//! that grows from its end always knows where its targets are, and an instruction that exists
//! already (same operation, same successors) is found again instead of repeated, so equal tails of
//! the decision trees are shared. A target that has drifted out of reach is brought near by an
//! unconditional jump, or by a copy when it is a `RET`.

use std::collections::HashMap;

/// One instruction: `struct sock_filter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions to skip if the condition holds.
    pub jt: u8,
    /// Instructions to skip if it does not.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// Load 32 bits at offset `k` of `struct seccomp_data`.
pub const LOAD: u16 = 0x20;
/// Return `k`.
pub const RETURN: u16 = 0x06;
/// Skip `k` instructions.
pub const JUMP: u16 = 0x05;
/// Accumulator equal to `k`.
pub const JUMP_EQ: u16 = 0x15;
/// Accumulator above `k`.
pub const JUMP_GT: u16 = 0x25;
/// Accumulator not below `k`.
pub const JUMP_GE: u16 = 0x35;
/// Accumulator has a bit of `k`.
pub const JUMP_SET: u16 = 0x45;
/// Accumulator &= `k`.
pub const AND: u16 = 0x54;

/// What the kernel accepts at most: `BPF_MAXINSNS`.
pub const MAX_LENGTH: usize = 4096;

/// An instruction already assembled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Node(usize);

/// A program under construction.
#[derive(Default)]
pub struct Assembler {
    /// The last instruction first.
    reversed: Vec<Instruction>,
    known: HashMap<(u16, u32, Option<Node>, Option<Node>), Node>,
}

impl Assembler {
    /// `RET k`.
    pub fn ret(&mut self, k: u32) -> Node {
        let key = (RETURN, k, None, None);
        match self.known.get(&key) {
            // One out of a conditional jump's reach is of no use to anyone.
            Some(node) if self.distance(*node) < 255 => *node,
            _ => {
                let node = self.push(RETURN, 0, 0, k);
                self.known.insert(key, node);
                node
            }
        }
    }

    /// An instruction that goes on with `next`: a load, an `AND`.
    pub fn then(&mut self, code: u16, k: u32, next: Node) -> Node {
        let key = (code, k, Some(next), None);
        if let Some(node) = self.known.get(&key) {
            return *node;
        }
        if self.distance(next) > 0 {
            self.bring_near(next);
        }
        let node = self.push(code, 0, 0, k);
        self.known.insert(key, node);
        node
    }

    /// A conditional jump; nothing at all if both ways lead to the same.
    pub fn branch(&mut self, code: u16, k: u32, yes: Node, no: Node) -> Node {
        if yes == no {
            return yes;
        }
        let key = (code, k, Some(yes), Some(no));
        if let Some(node) = self.known.get(&key) {
            return *node;
        }
        let (mut near_yes, mut near_no) = (yes, no);
        let (jt, jf) = loop {
            match (u8::try_from(self.distance(near_yes)), u8::try_from(self.distance(near_no))) {
                (Err(_), _) => near_yes = self.bring_near(near_yes),
                (_, Err(_)) => near_no = self.bring_near(near_no),
                (Ok(jt), Ok(jf)) => break (jt, jf),
            }
        };
        let node = self.push(code, jt, jf, k);
        self.known.insert(key, node);
        node
    }

    /// The program that starts with `entry`.
    pub fn finish(mut self, entry: Node) -> Vec<Instruction> {
        if self.distance(entry) > 0 {
            self.bring_near(entry);
        }
        self.reversed.reverse();
        self.reversed
    }

    /// How many instructions the next one would skip to get to `node`.
    fn distance(&self, node: Node) -> usize {
        self.reversed.len() - 1 - node.0
    }

    fn bring_near(&mut self, node: Node) -> Node {
        let target = self.reversed[node.0];
        if target.code == RETURN {
            self.push(RETURN, 0, 0, target.k)
        } else {
            // A program of more than 2^32 instructions cannot be in memory.
            let distance = self.distance(node) as u32;
            self.push(JUMP, 0, 0, distance)
        }
    }

    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> Node {
        self.reversed.push(Instruction { code, jt, jf, k });
        Node(self.reversed.len() - 1)
    }
}
