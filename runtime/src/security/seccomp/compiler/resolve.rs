//! From names to numbers: what one ABI's calls get, with the meaning of several rules settled.
//!
//! - A rule whose action is the default says nothing and is left out, as runc and crun do.
//! - A rule without conditions beats every conditional rule about the same call; of several, the
//!   first counts. Conditional rules are tried in order; none holding means the default.
//! - With an errno as the default, numbers above the newest call that the policy names answer
//!   `ENOSYS`, as under runc: a program must be able to tell a call that this filter is too old to
//!   judge from one that is forbidden, and fall back.
//! - i386 reaches sockets and System V IPC through `socketcall` and `ipc` too. A rule about such a
//!   call speaks about both ways, as with libseccomp, with one difference: arguments are behind a
//!   pointer there, so a *conditional permission* does not open the multiplexer (libseccomp opens
//!   it), while a conditional refusal does close it.

use std::collections::BTreeMap;

use super::abi::{Abi, Multiplexer, PRIVATE, SyscallTable};
use super::policy::{Action, Comparison, Condition, Policy};

/// What happens to one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The same for all arguments.
    Always(Action),
    /// The first whose conditions all hold; at least one, none without conditions.
    First(Vec<(Vec<Condition>, Action)>),
}

/// A policy for one ABI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Which.
    pub abi: Abi,
    /// By number, without the ABI's offset.
    pub calls: BTreeMap<u32, Verdict>,
    /// For numbers that `calls` does not have, up to `newest`.
    pub default: Action,
    /// The highest number that the policy names.
    pub newest: u32,
    /// For numbers above `newest` that `calls` does not have.
    pub beyond: Action,
}

const ENOSYS: u16 = 38;

/// Resolves a policy for one ABI.
pub fn resolve(policy: &Policy<'_>, abi: Abi, table: &SyscallTable<'_>) -> Resolved {
    let mut calls = BTreeMap::new();
    let mut newest = 0;
    for rule in &policy.rules {
        for name in &rule.names {
            let number = table.number(abi, name);
            if let Some(number) = number.filter(|number| *number < PRIVATE) {
                newest = newest.max(number);
            }
            if rule.action == policy.default {
                continue;
            }
            if let Some(number) = number {
                add(&mut calls, number, rule.conditions.clone(), rule.action);
            }
            if abi == Abi::I386
                && let Some(multiplexer) = Multiplexer::of(name)
                && let Some(number) = table.number(abi, multiplexer.name)
                && (rule.conditions.is_empty() || !rule.action.is_permissive())
            {
                newest = newest.max(number);
                let comparison = Comparison::MaskedEq { mask: multiplexer.mask };
                let condition = Condition { argument: 0, comparison, value: multiplexer.call };
                add(&mut calls, number, vec![condition], rule.action);
            }
        }
    }
    let beyond = if let Action::Errno(_) = policy.default { Action::Errno(ENOSYS) } else { policy.default };
    Resolved { abi, calls, default: policy.default, newest, beyond }
}

fn add(calls: &mut BTreeMap<u32, Verdict>, number: u32, conditions: Vec<Condition>, action: Action) {
    let verdict = calls.entry(number).or_insert_with(|| Verdict::First(Vec::new()));
    match verdict {
        Verdict::Always(_) => {}
        Verdict::First(_) if conditions.is_empty() => *verdict = Verdict::Always(action),
        Verdict::First(rules) => rules.push((conditions, action)),
    }
}
