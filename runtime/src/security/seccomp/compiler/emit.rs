//! From verdicts to instructions: ranges of numbers, searched like a binary tree.
//!
//! ```text
//! load arch ─ x86-64? ─ load number ─ tree over ranges of equal verdict ─ RET
//!           │                                                          └ checks of arguments ─ RET
//!           ├ i386? ─ …
//!           └ RET kill
//! ```
//! A list of comparisons, one for each call, is what libseccomp writes: the kernel then translates
//! some thousand instructions, and emulates the whole list for every number to learn which calls are
//! always allowed. With ranges a path is eight instructions long and the program a tenth the size.
//!
//! The same tree serves arguments: rules that all compare one argument become ranges of its value,
//! first of the upper 32 bits, then of the lower.

use super::abi::{Abi, SyscallTable, X32_BIT};
use super::assembler::{AND, Assembler, Instruction, JUMP_EQ, JUMP_GE, JUMP_GT, JUMP_SET, LOAD, MAX_LENGTH, Node};
use super::policy::{Action, Comparison, Condition, Policy};
use super::resolve::{Resolved, Verdict, resolve};

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

/// A program that the kernel would not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong {
    /// Instructions.
    pub length: usize,
}

/// Compiles a policy.
///
/// # Errors
/// [`TooLong`] for more than 4096 instructions.
pub fn compile(policy: &Policy<'_>, table: &SyscallTable<'_>) -> Result<Vec<Instruction>, TooLong> {
    let mut assembler = Assembler::default();
    // An ABI that the policy does not list is a way around it.
    let mut entry = assembler.ret(Action::KillProcess.code());
    // Assembled from the end: the native ABI, first in the list, gets the shortest way.
    for abi in policy.abis.iter().rev().filter(|abi| **abi != Abi::X32) {
        let resolved = resolve(policy, *abi, table);
        let x32 = (*abi == Abi::X86_64 && policy.abis.contains(&Abi::X32)).then(|| resolve(policy, Abi::X32, table));
        let ranges = ranges(&resolved, x32.as_ref());
        let narrow = abi.has_narrow_arguments();
        let tree = tree(&mut assembler, &ranges, &mut |assembler, verdict| {
            verdict_node(assembler, verdict, policy.default, narrow)
        });
        let tree = assembler.then(LOAD, NUMBER, tree);
        entry = assembler.branch(JUMP_EQ, abi.audit_arch(), tree, entry);
    }
    let entry = assembler.then(LOAD, ARCH, entry);
    let program = assembler.finish(entry);
    if program.len() > MAX_LENGTH { Err(TooLong { length: program.len() }) } else { Ok(program) }
}

/// Where something begins to hold; it ends where the next begins.
type Ranges<T> = Vec<(u32, T)>;

/// The verdicts of all numbers of an `AUDIT_ARCH`.
fn ranges(native: &Resolved, x32: Option<&Resolved>) -> Ranges<Verdict> {
    let mut ranges = Vec::new();
    abi_ranges(&mut ranges, native);
    match x32 {
        Some(x32) => abi_ranges(&mut ranges, x32),
        None if native.abi == Abi::X86_64 => {
            extend(&mut ranges, X32_BIT, Verdict::Always(Action::KillProcess));
            // A tracer that cancels a call sets its number to -1, which is no x32 number.
            extend(&mut ranges, u32::MAX, Verdict::Always(native.beyond));
        }
        None => {}
    }
    ranges
}

fn abi_ranges(ranges: &mut Ranges<Verdict>, resolved: &Resolved) {
    let offset = resolved.abi.offset();
    let gap = |number: u32| Verdict::Always(if number <= resolved.newest { resolved.default } else { resolved.beyond });
    let mut next = 0;
    for (number, verdict) in &resolved.calls {
        if next < *number {
            extend(ranges, offset + next, gap(next));
            if next <= resolved.newest && resolved.newest < *number {
                extend(ranges, offset + resolved.newest + 1, gap(resolved.newest + 1));
            }
        }
        extend(ranges, offset + number, verdict.clone());
        next = number + 1;
    }
    extend(ranges, offset + next, gap(next));
    if next <= resolved.newest {
        extend(ranges, offset + resolved.newest + 1, gap(resolved.newest + 1));
    }
}

fn extend<T: PartialEq>(ranges: &mut Ranges<T>, start: u32, value: T) {
    match ranges.last_mut() {
        Some((last, held)) if *last == start => *held = value,
        Some((_, held)) if *held == value => {}
        _ => ranges.push((start, value)),
    }
}

/// A search for the range that holds the accumulator.
fn tree<T: PartialEq>(
    assembler: &mut Assembler,
    ranges: &[(u32, T)],
    leaf: &mut dyn FnMut(&mut Assembler, &T) -> Node,
) -> Node {
    match ranges {
        [] => unreachable!("a range begins at 0"),
        [(_, value)] => leaf(assembler, value),
        // One value that differs from its neighbours.
        [(_, before), (start, value), (end, after)] if end - start == 1 && before == after => {
            let no = leaf(assembler, after);
            let yes = leaf(assembler, value);
            assembler.branch(JUMP_EQ, *start, yes, no)
        }
        _ => {
            let (left, right) = ranges.split_at(ranges.len() / 2);
            let pivot = right[0].0;
            let yes = tree(assembler, right, leaf);
            let no = tree(assembler, left, leaf);
            assembler.branch(JUMP_GE, pivot, yes, no)
        }
    }
}

fn verdict_node(assembler: &mut Assembler, verdict: &Verdict, default: Action, narrow: bool) -> Node {
    match verdict {
        Verdict::Always(action) => assembler.ret(action.code()),
        Verdict::First(rules) => {
            if let Some((argument, pieces)) = as_pieces(rules, default) {
                return pieces_node(assembler, argument, &pieces, narrow);
            }
            let mut next = assembler.ret(default.code());
            for (conditions, action) in rules.iter().rev() {
                let mut yes = assembler.ret(action.code());
                for condition in conditions.iter().rev() {
                    yes = condition_node(assembler, *condition, narrow, yes, next);
                }
                next = yes;
            }
            next
        }
    }
}

/// Rules that each compare the same argument, without masks, as ranges of its value.
fn as_pieces(rules: &[(Vec<Condition>, Action)], default: Action) -> Option<(u8, Vec<(u64, Action)>)> {
    let argument = rules.first()?.0.first()?.argument;
    let mut starts = vec![0];
    for (conditions, _) in rules {
        let [condition] = conditions[..] else { return None };
        if condition.argument != argument {
            return None;
        }
        let after = condition.value.checked_add(1);
        match condition.comparison {
            Comparison::MaskedEq { .. } => return None,
            Comparison::Lt | Comparison::Ge => starts.push(condition.value),
            Comparison::Le | Comparison::Gt => starts.extend(after),
            Comparison::Eq | Comparison::Ne => {
                starts.push(condition.value);
                starts.extend(after);
            }
        }
    }
    starts.sort_unstable();
    starts.dedup();
    let mut pieces: Vec<(u64, Action)> = Vec::new();
    for start in starts {
        let held = rules.iter().find(|(conditions, _)| conditions.iter().all(|condition| condition.holds(start)));
        let action = held.map_or(default, |(_, action)| *action);
        if pieces.last().is_none_or(|(_, last)| *last != action) {
            pieces.push((start, action));
        }
    }
    Some((argument, pieces))
}

const fn low(value: u64) -> u32 {
    value as u32
}

const fn high(value: u64) -> u32 {
    (value >> 32) as u32
}

fn pieces_node(assembler: &mut Assembler, argument: u8, pieces: &[(u64, Action)], narrow: bool) -> Node {
    // Upper halves at which the lower half matters, and their successors.
    let mut uppers = vec![0];
    if !narrow {
        for (start, _) in pieces {
            uppers.push(high(*start));
            uppers.extend(high(*start).checked_add(1));
        }
    }
    uppers.sort_unstable();
    uppers.dedup();
    let mut ranges: Ranges<Ranges<Action>> = Vec::new();
    for upper in uppers {
        let mut lowers = Vec::new();
        for (start, action) in pieces {
            if high(*start) > upper {
                break;
            }
            let from = if high(*start) == upper { low(*start) } else { 0 };
            extend(&mut lowers, from, *action);
        }
        extend(&mut ranges, upper, lowers);
    }
    let mut leaf = |assembler: &mut Assembler, lowers: &Ranges<Action>| {
        let node = tree(assembler, lowers, &mut |assembler, action: &Action| assembler.ret(action.code()));
        if lowers.len() == 1 { node } else { load_low(assembler, argument, node) }
    };
    let node = tree(assembler, &ranges, &mut leaf);
    if ranges.len() == 1 { node } else { load_high(assembler, argument, node) }
}

/// Goes to `yes` if the condition holds, else to `no`.
fn condition_node(assembler: &mut Assembler, condition: Condition, narrow: bool, yes: Node, no: Node) -> Node {
    let Condition { argument, comparison, value } = condition;
    match comparison {
        Comparison::Ne => equal(assembler, argument, u64::MAX, value, narrow, no, yes),
        Comparison::Eq => equal(assembler, argument, u64::MAX, value, narrow, yes, no),
        Comparison::MaskedEq { mask } => equal(assembler, argument, mask, value, narrow, yes, no),
        Comparison::Ge => order(assembler, argument, JUMP_GE, value, narrow, yes, no),
        Comparison::Lt => order(assembler, argument, JUMP_GE, value, narrow, no, yes),
        Comparison::Gt => order(assembler, argument, JUMP_GT, value, narrow, yes, no),
        Comparison::Le => order(assembler, argument, JUMP_GT, value, narrow, no, yes),
    }
}

fn equal(a: &mut Assembler, argument: u8, mask: u64, value: u64, narrow: bool, yes: Node, no: Node) -> Node {
    let mask = if narrow && high(value) == 0 { mask & 0xffff_ffff } else { mask };
    if value & !mask != 0 || (narrow && high(value) != 0) {
        return no;
    }
    let half = |a: &mut Assembler, mask: u32, value: u32, yes| match (mask, value) {
        (u32::MAX, _) => a.branch(JUMP_EQ, value, yes, no),
        (_, 0) => a.branch(JUMP_SET, mask, no, yes),
        _ => {
            let compare = a.branch(JUMP_EQ, value, yes, no);
            a.then(AND, mask, compare)
        }
    };
    let mut node = yes;
    if low(mask) != 0 {
        node = half(a, low(mask), low(value), node);
        node = load_low(a, argument, node);
    }
    if high(mask) != 0 {
        node = half(a, high(mask), high(value), node);
        node = load_high(a, argument, node);
    }
    node
}

fn order(a: &mut Assembler, argument: u8, code: u16, value: u64, narrow: bool, yes: Node, no: Node) -> Node {
    if narrow && high(value) != 0 {
        return no;
    }
    let node = a.branch(code, low(value), yes, no);
    let node = load_low(a, argument, node);
    if narrow {
        return node;
    }
    let node = a.branch(JUMP_EQ, high(value), node, no);
    let node = a.branch(JUMP_GT, high(value), yes, node);
    load_high(a, argument, node)
}

// Both architectures are little-endian.
fn load_low(assembler: &mut Assembler, argument: u8, next: Node) -> Node {
    assembler.then(LOAD, ARGUMENTS + 8 * u32::from(argument), next)
}

fn load_high(assembler: &mut Assembler, argument: u8, next: Node) -> Node {
    assembler.then(LOAD, ARGUMENTS + 8 * u32::from(argument) + 4, next)
}
