//! Classic BPF and policies, each run the plainest way: the oracle of the tests.

use super::compiler::abi::{Abi, SyscallTable, X32_BIT};
use super::compiler::assembler::{
    AND, Instruction, JUMP, JUMP_EQ, JUMP_GE, JUMP_GT, JUMP_SET, LOAD, MAX_LENGTH, RETURN,
};
use super::compiler::policy::{Action, Policy};
use super::compiler::resolve::{Verdict, resolve};

/// `struct seccomp_data`, without the instruction pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) arch: u32,
    pub(super) number: u32,
    pub(super) arguments: [u64; 6],
}

impl Call {
    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.arch,
            16..64 if offset.is_multiple_of(4) => {
                let argument = self.arguments[(offset as usize - 16) / 8];
                if offset.is_multiple_of(8) { argument as u32 } else { (argument >> 32) as u32 }
            }
            _ => panic!("load at offset {offset}"),
        }
    }
}

/// Runs a program as the kernel would; panics where the kernel would refuse it.
pub(super) fn run(program: &[Instruction], call: &Call) -> u32 {
    run_counting(program, call).0
}

/// The same, and how many instructions were executed.
pub(super) fn run_counting(program: &[Instruction], call: &Call) -> (u32, usize) {
    assert!(!program.is_empty() && program.len() <= MAX_LENGTH);
    let (mut pc, mut accumulator, mut steps) = (0, 0, 0);
    loop {
        let Instruction { code, jt, jf, k } = program[pc];
        pc += 1;
        steps += 1;
        let mut jump = |condition: bool| pc += usize::from(if condition { jt } else { jf });
        match code {
            LOAD => accumulator = call.word(k),
            AND => accumulator &= k,
            JUMP => pc += k as usize,
            JUMP_EQ => jump(accumulator == k),
            JUMP_GT => jump(accumulator > k),
            JUMP_GE => jump(accumulator >= k),
            JUMP_SET => jump(accumulator & k != 0),
            RETURN => return (k, steps),
            _ => panic!("instruction {code:#x}"),
        }
    }
}

/// What the policy says, by going through its rules one after the other.
pub(super) struct Oracle {
    policies: Vec<super::compiler::resolve::Resolved>,
}

impl Oracle {
    pub(super) fn new(policy: &Policy<'_>, table: &SyscallTable<'_>) -> Self {
        Self { policies: policy.abis.iter().map(|abi| resolve(policy, *abi, table)).collect() }
    }

    pub(super) fn verdict(&self, call: &Call) -> Action {
        let is_x32 = call.arch == Abi::X32.audit_arch() && call.number >= X32_BIT;
        let abi_is = |abi: Abi| abi.audit_arch() == call.arch && (abi == Abi::X32) == is_x32;
        let Some(policy) = self.policies.iter().find(|policy| abi_is(policy.abi)) else {
            return match self.policies.iter().find(|policy| policy.abi.audit_arch() == call.arch) {
                // A call cancelled by a tracer.
                Some(native) if call.number == u32::MAX => native.beyond,
                _ => Action::KillProcess,
            };
        };
        let number = call.number - policy.abi.offset();
        let arguments = call
            .arguments
            .map(|argument| if policy.abi.has_narrow_arguments() { argument & 0xffff_ffff } else { argument });
        match policy.calls.get(&number) {
            Some(Verdict::Always(action)) => *action,
            Some(Verdict::First(rules)) => rules
                .iter()
                .find(|(conditions, _)| {
                    conditions.iter().all(|condition| condition.holds(arguments[usize::from(condition.argument)]))
                })
                .map_or(policy.default, |(_, action)| *action),
            None if number <= policy.newest => policy.default,
            None => policy.beyond,
        }
    }
}
