//! A policy as the `linux.seccomp` section of config.json.
//!
//! The build script writes the default profile's section with this, so that making a bundle for a
//! container costs a copy. Field order and spelling are those of `oci_spec`.

use std::fmt::Write as _;

use super::policy::{Action, Comparison, Policy, Rule};

/// The spelling of config.json for an action, and its errno.
pub const fn scmp_action(action: Action) -> (&'static str, Option<u16>) {
    match action {
        Action::KillProcess => ("SCMP_ACT_KILL_PROCESS", None),
        Action::KillThread => ("SCMP_ACT_KILL_THREAD", None),
        Action::Trap => ("SCMP_ACT_TRAP", None),
        Action::Errno(errno) => ("SCMP_ACT_ERRNO", Some(errno)),
        Action::Trace(data) => ("SCMP_ACT_TRACE", Some(data)),
        Action::Notify => ("SCMP_ACT_NOTIFY", None),
        Action::Log => ("SCMP_ACT_LOG", None),
        Action::Allow => ("SCMP_ACT_ALLOW", None),
    }
}

/// Writes the section, on one line.
pub fn oci_json(policy: &Policy<'_>) -> String {
    let mut json = String::new();
    let (action, errno) = scmp_action(policy.default);
    let _ = write!(json, "{{\"defaultAction\":\"{action}\"");
    if let Some(errno) = errno {
        let _ = write!(json, ",\"defaultErrnoRet\":{errno}");
    }
    list(&mut json, ",\"architectures\":", &policy.abis, |json, abi| {
        let _ = write!(json, "\"{}\"", abi.scmp_name());
    });
    list(&mut json, ",\"syscalls\":", &policy.rules, write_rule);
    json.push('}');
    json
}

fn write_rule(json: &mut String, rule: &Rule<'_>) {
    // Names are words of the profile: nothing in them needs an escape.
    list(json, "{\"names\":", &rule.names, |json, name| {
        let _ = write!(json, "\"{name}\"");
    });
    let (action, errno) = scmp_action(rule.action);
    let _ = write!(json, ",\"action\":\"{action}\"");
    if let Some(errno) = errno {
        let _ = write!(json, ",\"errnoRet\":{errno}");
    }
    if !rule.conditions.is_empty() {
        list(json, ",\"args\":", &rule.conditions, |json, condition| {
            let (operator, value, value_two) = match condition.comparison {
                Comparison::Ne => ("NE", condition.value, None),
                Comparison::Lt => ("LT", condition.value, None),
                Comparison::Le => ("LE", condition.value, None),
                Comparison::Eq => ("EQ", condition.value, None),
                Comparison::Ge => ("GE", condition.value, None),
                Comparison::Gt => ("GT", condition.value, None),
                Comparison::MaskedEq { mask } => ("MASKED_EQ", mask, Some(condition.value)),
            };
            let _ = write!(json, "{{\"index\":{},\"value\":{value}", condition.argument);
            if let Some(value_two) = value_two {
                let _ = write!(json, ",\"valueTwo\":{value_two}");
            }
            let _ = write!(json, ",\"op\":\"SCMP_CMP_{operator}\"}}");
        });
    }
    json.push('}');
}

fn list<T>(json: &mut String, key: &str, items: &[T], mut write: impl FnMut(&mut String, &T)) {
    json.push_str(key);
    json.push('[');
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            json.push(',');
        }
        write(json, item);
    }
    json.push(']');
}
