//! The default profile: what it refuses, and that the program is the profile.

mod compiling;
mod loading;

use std::collections::{BTreeSet, HashSet};

use super::compiler::abi::X32_BIT;
use super::compiler::policy::{Action, Comparison};
use super::emulator::{Call, Oracle, run};
use super::*;
use crate::security::capabilities::Capability;

const MACHINES: [&str; 2] = ["x86_64", "aarch64"];

fn table() -> SyscallTable<'static> {
    SyscallTable::parse(compiler::SYSCALLS)
}

fn policy_on(machine: &str, capabilities: CapabilitySet) -> Policy<'static> {
    let has = |name: &str| name.parse().is_ok_and(|capability| capabilities.contains(capability));
    Profile::parse(compiler::DEFAULT_PROFILE).unwrap().select(Abi::of_machine(machine), &has)
}

/// Numbers at which something could change: all that exist, and the edges of everything.
fn numbers() -> Vec<u32> {
    let mut numbers: BTreeSet<u32> = (0..=700).chain(X32_BIT..=X32_BIT + 700).chain(0xf_0000..=0xf_0010).collect();
    for shift in 0..32 {
        let power = 1_u32 << shift;
        numbers.extend([power - 1, power, power + 1, u32::MAX - power, X32_BIT.wrapping_sub(power)]);
    }
    numbers.extend([X32_BIT - 1, u32::MAX - 1, u32::MAX]);
    numbers.into_iter().collect()
}

/// Values at which a condition of the policy could change, each also with garbage in the upper half.
fn values(policy: &Policy<'_>) -> Vec<u64> {
    let mut values = BTreeSet::from([0, 1, u64::MAX, u64::from(u32::MAX), 1 << 32]);
    for condition in policy.rules.iter().flat_map(|rule| &rule.conditions) {
        let value = condition.value;
        values.extend([value, value.wrapping_sub(1), value.wrapping_add(1), value << 32, value.rotate_left(32)]);
        if let Comparison::MaskedEq { mask } = condition.comparison {
            values.extend([mask, !mask, mask << 32, value | !mask]);
            values.extend((0..64).map(|bit| value ^ 1 << bit));
        }
    }
    let garbage: Vec<u64> =
        values.iter().flat_map(|value| [value | 1 << 32, value | 1 << 63, value ^ 0xdead_beef << 32]).collect();
    values.extend(garbage);
    values.into_iter().collect()
}

/// Compares a program with the flat evaluation of its policy for every architecture, number and class
/// of arguments; returns how many calls were compared.
fn assert_equal_to_oracle(program: &[Instruction], policy: &Policy<'_>, table: &SyscallTable<'_>) -> usize {
    let oracle = Oracle::new(policy, table);
    let values = values(policy);
    let arguments: BTreeSet<u8> =
        policy.rules.iter().flat_map(|rule| &rule.conditions).map(|condition| condition.argument).chain([0]).collect();
    let mut compared = 0;
    for arch in Abi::EVERY.map(Abi::audit_arch).into_iter().chain([0, u32::MAX, 0x4000_003e]) {
        for number in numbers() {
            let mut compare = |arguments: [u64; 6]| {
                let call = Call { arch, number, arguments };
                assert_eq!(run(program, &call), oracle.verdict(&call).code(), "{call:#x?}");
                compared += 1;
            };
            for value in &values {
                compare([*value; 6]);
                for argument in &arguments {
                    for rest in [0, u64::MAX] {
                        let mut arguments = [rest; 6];
                        arguments[usize::from(*argument)] = *value;
                        compare(arguments);
                    }
                }
            }
        }
    }
    compared
}

#[test]
fn default_profile_equals_its_flat_evaluation_on_every_machine() {
    let table = table();
    for machine in MACHINES {
        let policy = policy_on(machine, CapabilitySet::DEFAULT);
        let program = compile(&policy, &table).unwrap();
        let compared = assert_equal_to_oracle(&program, &policy, &table);
        println!("{machine}: {} instructions, {compared} calls compared", program.len());
        assert!(program.len() < 400);
    }
}

#[test]
fn default_profile_equals_its_flat_evaluation_for_every_capability() {
    let table = table();
    let sets = Capability::EVERY.iter().map(|capability| CapabilitySet::of(&[*capability]));
    for capabilities in sets.chain([CapabilitySet::EMPTY, CapabilitySet::ALL, CapabilitySet::DOCKER]) {
        let policy = policy_on("x86_64", capabilities);
        let program = compile(&policy, &table).unwrap();
        let oracle = Oracle::new(&policy, &table);
        for arch in [Abi::X86_64, Abi::I386].map(Abi::audit_arch) {
            for number in numbers() {
                for value in [0, 16, 40, 0x1000_0000, u64::MAX] {
                    let call = Call { arch, number, arguments: [value; 6] };
                    assert_eq!(run(&program, &call), oracle.verdict(&call).code(), "{capabilities:?} {call:#x?}");
                }
            }
        }
    }
}

#[test]
fn build_script_and_runtime_compile_the_same() {
    let policy = default_policy(CapabilitySet::DEFAULT).unwrap();
    assert_eq!(Filter::default_for(CapabilitySet::DEFAULT).unwrap().program(), compile(&policy, &table()).unwrap());
}

/// A call of the default profile on x86-64, by ABI and name.
fn default_verdict(abi: Abi, name: &str, first: u64, capabilities: CapabilitySet) -> u32 {
    let machine = if matches!(abi, Abi::Aarch64 | Abi::Arm) { "aarch64" } else { "x86_64" };
    let program = compile(&policy_on(machine, capabilities), &table()).unwrap();
    let number = table().number(abi, name).unwrap_or_else(|| panic!("{abi:?} has no {name}")) + abi.offset();
    run(&program, &Call { arch: abi.audit_arch(), number, arguments: [first, 0, 0, 0, 0, 0] })
}

#[test]
fn default_profile_refuses_what_it_promises_to_in_every_abi() {
    const EPERM: u32 = Action::Errno(1).code();
    const ENOSYS: u32 = Action::Errno(38).code();
    const ALLOW: u32 = Action::Allow.code();
    let cases: &[(&str, u64, u32)] = &[
        ("mount", 0, EPERM),
        ("umount2", 0, EPERM),
        ("unshare", 0x1000_0000, EPERM),
        ("setns", 0, EPERM),
        ("keyctl", 0, EPERM),
        ("add_key", 0, EPERM),
        ("request_key", 0, EPERM),
        ("bpf", 0, EPERM),
        ("perf_event_open", 0, EPERM),
        ("userfaultfd", 0, EPERM),
        ("io_uring_setup", 0, EPERM),
        ("io_uring_enter", 0, EPERM),
        ("io_uring_register", 0, EPERM),
        ("open_by_handle_at", 0, EPERM),
        ("fsopen", 0, EPERM),
        ("open_tree", 0, EPERM),
        ("mount_setattr", 0, EPERM),
        ("pivot_root", 0, EPERM),
        ("kexec_load", 0, EPERM),
        ("init_module", 0, EPERM),
        ("reboot", 0, EPERM),
        ("swapon", 0, EPERM),
        ("quotactl", 0, EPERM),
        ("syslog", 0, EPERM),
        ("sethostname", 0, EPERM),
        ("clone3", 0, ENOSYS),
        ("open_tree_attr", 0, ENOSYS),
        ("clone", 0x0120_0011, ALLOW),
        ("clone", 0x1000_0000, EPERM),
        ("clone", 0x0002_0000, EPERM),
        ("clone", 0x4000_0000, EPERM),
        ("socket", 1, ALLOW),
        ("socket", 2, ALLOW),
        ("socket", 10, ALLOW),
        ("socket", 16, ALLOW),
        ("socket", 17, ALLOW),
        ("socket", 12, EPERM),
        ("socket", 38, EPERM),
        ("socket", 40, EPERM),
        ("socket", 46, EPERM),
        ("personality", 0, ALLOW),
        ("personality", 0xffff_ffff, ALLOW),
        ("personality", 0x0004_0000, EPERM),
        ("getpid", 0, ALLOW),
        ("openat", 0, ALLOW),
        ("chroot", 0, ALLOW),
        ("ptrace", 0, ALLOW),
        ("statx", 0, ALLOW),
    ];
    for abi in Abi::EVERY {
        for (name, first, expected) in cases {
            let verdict = default_verdict(abi, name, *first, CapabilitySet::DEFAULT);
            assert_eq!(verdict, *expected, "{abi:?} {name}({first:#x})");
        }
    }
    // The kernel cuts the family to 32 bits: the filter must not be led past by what is above.
    for family in [0x1_0000_0028, 0xffff_ffff_0000_0028, 0x1_0000_0001] {
        assert_eq!(default_verdict(Abi::X86_64, "socket", family, CapabilitySet::DEFAULT), EPERM, "{family:#x}");
    }
    let admin = CapabilitySet::DEFAULT.with(Capability::SysAdmin);
    for (name, first) in [("mount", 0), ("unshare", 0x1000_0000), ("setns", 0), ("clone", 0x1000_0000), ("clone3", 0)] {
        assert_eq!(default_verdict(Abi::X86_64, name, first, admin), ALLOW, "{name} with CAP_SYS_ADMIN");
    }
}

#[test]
fn numbers_newer_than_the_profile_answer_enosys() {
    let program = compile(&policy_on("x86_64", CapabilitySet::DEFAULT), &table()).unwrap();
    let verdict = |arch: Abi, number| run(&program, &Call { arch: arch.audit_arch(), number, arguments: [0; 6] });
    for (abi, number, expected) in [
        (Abi::X86_64, 471, 38),
        (Abi::X86_64, 472, 38),
        (Abi::X86_64, 512, 38),
        (Abi::X86_64, 400, 1),
        (Abi::I386, 472, 38),
        (Abi::X32, X32_BIT + 548, 38),
        (Abi::X32, X32_BIT + 500, 1),
        (Abi::X86_64, u32::MAX, 38),
    ] {
        assert_eq!(verdict(abi, number), Action::Errno(expected).code(), "{abi:?} {number:#x}");
    }
    assert_eq!(
        run(&program, &Call { arch: Abi::Aarch64.audit_arch(), number: 172, arguments: [0; 6] }),
        Action::KillProcess.code()
    );
}

#[test]
fn config_json_section_is_the_profile() {
    for capabilities in [CapabilitySet::DEFAULT, CapabilitySet::ALL] {
        let filter = Filter::default_for(capabilities).unwrap();
        let oci = filter.to_oci().unwrap();
        let text = serde_json::to_string(&oci).unwrap();
        assert_eq!(compiler::oci_json::oci_json(&default_policy(capabilities).unwrap()), text);
        assert_eq!(Filter::from_oci(&oci).unwrap().program(), filter.program());
        assert_eq!(Filter::from_oci_json(&text).unwrap().program(), filter.program());
        assert!(filter.unknown_names().is_empty());
    }
    let text = serde_json::to_string(&Filter::default_for(CapabilitySet::DEFAULT).unwrap().to_oci().unwrap()).unwrap();
    assert_eq!(default_oci_json(), text);
}

#[test]
fn every_name_of_the_default_profile_exists_somewhere() {
    for rule in &policy_on("x86_64", CapabilitySet::ALL).rules {
        assert!(!rule.names.is_empty());
        rule.names.iter().for_each(|name| assert!(table().knows(name), "{name}"));
    }
    let mut seen = HashSet::new();
    for rule in &policy_on("x86_64", CapabilitySet::DEFAULT).rules {
        for name in &rule.names {
            assert!(seen.insert((*name, rule.conditions.clone())), "{name} is listed twice");
        }
    }
}

#[test]
fn profile_text_that_is_not_in_the_format_is_refused_with_its_line() {
    for (text, line, problem) in [
        ("allow\n    read\n", 1, "no default action"),
        ("default maybe\n", 1, "unknown action"),
        ("default errno EWHAT\n", 1, "unknown action"),
        ("# x\n    read\n", 2, "names of system calls before the first rule"),
        ("default allow\nallow when arg6 == 1\n", 2, "expected arg0 to arg5 after \"when\""),
        ("default allow\nallow when arg0 ~ 1\n", 2, "unknown operator"),
        ("default allow\nallow when arg0 == x\n", 2, "expected a number after the operator"),
        ("default allow\nallow when arg0 & 1 != 2\n", 2, "expected == after the mask"),
        ("default allow\nallow if capability X\n", 2, "expected \"cap\""),
        ("default allow\nallow read\n", 2, "expected \"when\", \"if\" or \"unless\""),
    ] {
        let error = Profile::parse(text).unwrap_err();
        assert_eq!((error.line, error.problem), (line, problem), "{text}");
    }
}
