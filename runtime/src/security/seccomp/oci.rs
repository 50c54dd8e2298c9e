//! Between a [`Policy`] and the `linux.seccomp` section of config.json.

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompFilterFlag,
    LinuxSeccompOperator, LinuxSyscall,
};

use super::compiler::abi::Abi;
use super::compiler::policy::{Action, Comparison, Condition, Policy, Rule};
use super::{Error, native_abis};

/// The kernel's `MAX_ERRNO`: more would be cut silently.
const MAX_ERRNO: u32 = 4095;

const EPERM: u32 = 1;

/// Reads a section.
///
/// Conditions of one rule that compare the same argument are alternatives, as for runc and crun;
/// otherwise all must hold. Architectures that this machine cannot have are left out: a process of
/// one never comes here.
pub(super) fn to_policy(seccomp: &LinuxSeccomp) -> Result<Policy<'_>, Error> {
    if seccomp.listener_path().is_some() || seccomp.listener_metadata().is_some() {
        return Err(Error::Profile("listenerPath: notifying an agent is not supported".to_owned()));
    }
    let native = native_abis()?;
    let listed = seccomp.architectures().as_deref().unwrap_or_default();
    // The native ABI is always there, also for libseccomp: without it not even execve would work.
    let is_listed = |abi: &&Abi| **abi == native[0] || listed.iter().any(|arch| abi_of(*arch) == Some(**abi));
    let abis = native.iter().filter(is_listed).copied().collect();

    let default = to_action(seccomp.default_action(), seccomp.default_errno_ret())?;
    let mut rules = Vec::new();
    for syscall in seccomp.syscalls().iter().flatten() {
        let names: Vec<&str> = syscall.names().iter().map(String::as_str).collect();
        let action = to_action(syscall.action(), syscall.errno_ret())?;
        let conditions = syscall.args().iter().flatten().map(to_condition).collect::<Result<Vec<_>, _>>()?;
        let repeats = |(index, condition): (usize, &Condition)| {
            conditions[..index].iter().any(|earlier| earlier.argument == condition.argument)
        };
        if conditions.iter().enumerate().any(repeats) {
            rules.extend(conditions.iter().map(|condition| Rule {
                names: names.clone(),
                action,
                conditions: vec![*condition],
            }));
        } else {
            rules.push(Rule { names, action, conditions });
        }
    }
    Ok(Policy { default, abis, rules })
}

/// `SECCOMP_FILTER_FLAG_*` of a section.
pub(super) fn flags(seccomp: &LinuxSeccomp) -> Result<u32, Error> {
    let mut flags = 0;
    for flag in seccomp.flags().iter().flatten() {
        flags |= match flag {
            // Init has one thread; asking the kernel to synchronise none costs nothing.
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 1,
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => 1 << 1,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => 1 << 2,
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => {
                return Err(Error::Profile(format!("flag {flag}: notifying an agent is not supported")));
            }
        };
    }
    Ok(flags)
}

/// Writes a section.
pub(super) fn from_policy(policy: &Policy<'_>) -> Result<LinuxSeccomp, Error> {
    let syscalls = policy.rules.iter().map(from_rule).collect::<Result<_, _>>()?;
    let mut seccomp = LinuxSeccomp::default();
    let (action, errno) = from_action(policy.default);
    seccomp
        .set_default_action(action)
        .set_default_errno_ret(errno)
        .set_architectures(Some(policy.abis.iter().map(|abi| arch_of(*abi)).collect()))
        .set_syscalls(Some(syscalls));
    Ok(seccomp)
}

fn from_rule(rule: &Rule<'_>) -> Result<LinuxSyscall, Error> {
    let (action, errno) = from_action(rule.action);
    let args = rule.conditions.iter().map(from_condition).collect::<Result<Vec<_>, _>>()?;
    let mut syscall = LinuxSyscall::default();
    syscall
        .set_names(rule.names.iter().map(ToString::to_string).collect())
        .set_action(action)
        .set_errno_ret(errno)
        .set_args((!args.is_empty()).then_some(args));
    Ok(syscall)
}

fn to_action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<Action, Error> {
    let data = |limit: u32| {
        let data = errno.unwrap_or(EPERM);
        let fits = u16::try_from(data).ok().filter(|_| data <= limit);
        fits.ok_or_else(|| Error::Profile(format!("errnoRet {data} of {action} is above {limit}")))
    };
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => Action::KillThread,
        LinuxSeccompAction::ScmpActKillProcess => Action::KillProcess,
        LinuxSeccompAction::ScmpActTrap => Action::Trap,
        LinuxSeccompAction::ScmpActErrno => Action::Errno(data(MAX_ERRNO)?),
        LinuxSeccompAction::ScmpActTrace => Action::Trace(data(u16::MAX.into())?),
        LinuxSeccompAction::ScmpActLog => Action::Log,
        LinuxSeccompAction::ScmpActAllow => Action::Allow,
        LinuxSeccompAction::ScmpActNotify => {
            return Err(Error::Profile(format!("action {action}: notifying an agent is not supported")));
        }
    })
}

fn from_action(action: Action) -> (LinuxSeccompAction, Option<u32>) {
    match action {
        Action::KillProcess => (LinuxSeccompAction::ScmpActKillProcess, None),
        Action::KillThread => (LinuxSeccompAction::ScmpActKillThread, None),
        Action::Trap => (LinuxSeccompAction::ScmpActTrap, None),
        Action::Errno(errno) => (LinuxSeccompAction::ScmpActErrno, Some(errno.into())),
        Action::Trace(data) => (LinuxSeccompAction::ScmpActTrace, Some(data.into())),
        Action::Notify => (LinuxSeccompAction::ScmpActNotify, None),
        Action::Log => (LinuxSeccompAction::ScmpActLog, None),
        Action::Allow => (LinuxSeccompAction::ScmpActAllow, None),
    }
}

fn to_condition(arg: &LinuxSeccompArg) -> Result<Condition, Error> {
    let argument = u8::try_from(arg.index()).ok().filter(|argument| *argument < 6);
    let argument = argument.ok_or_else(|| Error::Profile(format!("argument index {} is above 5", arg.index())))?;
    let (comparison, value) = match arg.op() {
        LinuxSeccompOperator::ScmpCmpNe => (Comparison::Ne, arg.value()),
        LinuxSeccompOperator::ScmpCmpLt => (Comparison::Lt, arg.value()),
        LinuxSeccompOperator::ScmpCmpLe => (Comparison::Le, arg.value()),
        LinuxSeccompOperator::ScmpCmpEq => (Comparison::Eq, arg.value()),
        LinuxSeccompOperator::ScmpCmpGe => (Comparison::Ge, arg.value()),
        LinuxSeccompOperator::ScmpCmpGt => (Comparison::Gt, arg.value()),
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            (Comparison::MaskedEq { mask: arg.value() }, arg.value_two().unwrap_or(0))
        }
    };
    Ok(Condition { argument, comparison, value })
}

fn from_condition(condition: &Condition) -> Result<LinuxSeccompArg, Error> {
    let (operator, value, value_two) = match condition.comparison {
        Comparison::Ne => (LinuxSeccompOperator::ScmpCmpNe, condition.value, None),
        Comparison::Lt => (LinuxSeccompOperator::ScmpCmpLt, condition.value, None),
        Comparison::Le => (LinuxSeccompOperator::ScmpCmpLe, condition.value, None),
        Comparison::Eq => (LinuxSeccompOperator::ScmpCmpEq, condition.value, None),
        Comparison::Ge => (LinuxSeccompOperator::ScmpCmpGe, condition.value, None),
        Comparison::Gt => (LinuxSeccompOperator::ScmpCmpGt, condition.value, None),
        Comparison::MaskedEq { mask } => (LinuxSeccompOperator::ScmpCmpMaskedEq, mask, Some(condition.value)),
    };
    arg(condition.argument.into(), value, value_two, operator)
}

/// An argument's condition; `LinuxSeccompArg` has no setters.
pub(super) fn arg(
    index: usize,
    value: u64,
    value_two: Option<u64>,
    operator: LinuxSeccompOperator,
) -> Result<LinuxSeccompArg, Error> {
    let builder = LinuxSeccompArgBuilder::default().index(index).value(value).op(operator);
    let builder = if let Some(value_two) = value_two { builder.value_two(value_two) } else { builder };
    builder.build().map_err(|error| Error::Profile(error.to_string()))
}

const fn abi_of(arch: Arch) -> Option<Abi> {
    Some(match arch {
        Arch::ScmpArchX86_64 => Abi::X86_64,
        Arch::ScmpArchX32 => Abi::X32,
        Arch::ScmpArchX86 => Abi::I386,
        Arch::ScmpArchAarch64 => Abi::Aarch64,
        Arch::ScmpArchArm => Abi::Arm,
        _ => return None,
    })
}

const fn arch_of(abi: Abi) -> Arch {
    match abi {
        Abi::X86_64 => Arch::ScmpArchX86_64,
        Abi::X32 => Arch::ScmpArchX32,
        Abi::I386 => Arch::ScmpArchX86,
        Abi::Aarch64 => Arch::ScmpArchAarch64,
        Abi::Arm => Arch::ScmpArchArm,
    }
}
