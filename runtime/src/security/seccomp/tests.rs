use std::collections::{BTreeSet, HashSet};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::compiler::abi::X32_BIT;
use super::compiler::assembler::{Assembler, JUMP_EQ, JUMP_GE, LOAD};
use super::compiler::policy::{Action, Comparison, Condition, Rule};
use super::compiler::resolve::{Verdict, resolve};
use super::emulator::{Call, Oracle, run, run_counting};
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

fn policy(default: Action, rules: Vec<Rule<'static>>) -> Policy<'static> {
    Policy { default, abis: vec![Abi::X86_64, Abi::I386], rules }
}

fn rule(name: &'static str, action: Action, conditions: &[Condition]) -> Rule<'static> {
    Rule { names: vec![name], action, conditions: conditions.to_vec() }
}

fn condition(argument: u8, comparison: Comparison, value: u64) -> Condition {
    Condition { argument, comparison, value }
}

#[test]
fn several_rules_about_one_call_mean_what_libseccomp_makes_of_them() {
    let eq = |value| condition(0, Comparison::Eq, value);
    let (errno, log) = (Action::Errno(7), Action::Log);
    let policy = policy(
        Action::Errno(1),
        vec![
            rule("read", Action::Allow, &[eq(1)]),
            rule("read", errno, &[]),
            rule("read", Action::Allow, &[]),
            rule("write", Action::Allow, &[eq(1)]),
            rule("write", log, &[condition(0, Comparison::Lt, 3)]),
            rule("open", Action::Errno(1), &[]),
            rule("open", Action::Allow, &[eq(1), condition(1, Comparison::Ge, 5)]),
        ],
    );
    let resolved = resolve(&policy, Abi::X86_64, &table());
    assert_eq!(resolved.calls[&0], Verdict::Always(errno));
    assert_eq!(
        resolved.calls[&1],
        Verdict::First(vec![(vec![eq(1)], Action::Allow), (vec![condition(0, Comparison::Lt, 3)], log)])
    );
    assert_eq!(resolved.calls[&2], Verdict::First(vec![(vec![eq(1), condition(1, Comparison::Ge, 5)], Action::Allow)]));
}

#[test]
fn multiplexers_of_i386_are_closed_by_refusals_and_opened_by_plain_permissions() {
    let vsock = condition(0, Comparison::Eq, 40);
    let number = |name| table().number(Abi::I386, name).unwrap();
    let by_call =
        |call, action, mask| Verdict::First(vec![(vec![condition(0, Comparison::MaskedEq { mask }, call)], action)]);

    let refusal = policy(Action::Allow, vec![rule("socket", Action::Errno(1), &[vsock])]);
    let calls = resolve(&refusal, Abi::I386, &table()).calls;
    assert_eq!(calls[&number("socket")], Verdict::First(vec![(vec![vsock], Action::Errno(1))]));
    assert_eq!(calls[&number("socketcall")], by_call(1, Action::Errno(1), 0xffff_ffff));

    let permission = policy(Action::Errno(1), vec![rule("socket", Action::Allow, &[vsock])]);
    assert!(!resolve(&permission, Abi::I386, &table()).calls.contains_key(&number("socketcall")));

    let plain = policy(Action::Errno(1), vec![rule("shmat", Action::Allow, &[])]);
    let calls = resolve(&plain, Abi::I386, &table()).calls;
    assert_eq!(calls[&number("ipc")], by_call(21, Action::Allow, 0xffff));
    // accept has no number of its own on i386.
    let accept = policy(Action::Errno(1), vec![rule("accept", Action::Allow, &[])]);
    let calls = resolve(&accept, Abi::I386, &table()).calls;
    assert_eq!(calls[&number("socketcall")], by_call(5, Action::Allow, 0xffff_ffff));
    assert!(resolve(&plain, Abi::X86_64, &table()).calls.len() == 1);
}

#[test]
fn an_abi_that_is_not_listed_kills() {
    let json = br#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mount"],"action":"SCMP_ACT_ERRNO"}]}"#;
    let filter = Filter::from_profile_json(json, CapabilitySet::DEFAULT).unwrap();
    if std::env::consts::ARCH != "x86_64" {
        return;
    }
    let verdict = |abi: Abi, number| run(filter.program(), &Call { arch: abi.audit_arch(), number, arguments: [0; 6] });
    assert_eq!(verdict(Abi::X86_64, 0), Action::Allow.code());
    assert_eq!(verdict(Abi::X86_64, 165), Action::Errno(1).code());
    assert_eq!(verdict(Abi::X86_64, 5000), Action::Allow.code());
    assert_eq!(verdict(Abi::X32, X32_BIT), Action::KillProcess.code());
    assert_eq!(verdict(Abi::X32, u32::MAX - 1), Action::KillProcess.code());
    assert_eq!(verdict(Abi::X86_64, u32::MAX), Action::Allow.code());
    assert_eq!(verdict(Abi::I386, 3), Action::KillProcess.code());
}

#[test]
fn repeated_arguments_are_alternatives() {
    let json = br#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["socket"],"action":"SCMP_ACT_ALLOW",
        "args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"},{"index":0,"value":2,"op":"SCMP_CMP_EQ"}]}]}"#;
    let filter = Filter::from_profile_json(json, CapabilitySet::DEFAULT).unwrap();
    let number = table().number(native_abis().unwrap()[0], "socket").unwrap();
    let arch = native_abis().unwrap()[0].audit_arch();
    for (family, expected) in [(1, Action::Allow), (2, Action::Allow), (3, Action::Errno(1))] {
        let call = Call { arch, number, arguments: [family, 0, 0, 0, 0, 0] };
        assert_eq!(run(filter.program(), &call), expected.code());
    }
}

#[test]
fn unknown_names_are_reported_and_what_needs_an_agent_is_refused() {
    let json = |rest: &str| format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW"{rest}}}"#);
    let load = |rest: &str| Filter::from_profile_json(json(rest).as_bytes(), CapabilitySet::DEFAULT);
    let filter = load(r#","syscalls":[{"names":["mount","moutn","recv"],"action":"SCMP_ACT_ERRNO"}]"#).unwrap();
    assert_eq!(filter.unknown_names(), ["moutn"]);
    for (rest, expected) in [
        (r#","listenerPath":"/run/agent""#, "not supported"),
        (r#","syscalls":[{"names":["mount"],"action":"SCMP_ACT_NOTIFY"}]"#, "not supported"),
        (r#","syscalls":[{"names":["mount"],"action":"SCMP_ACT_ERRNO","errnoRet":4096}]"#, "above 4095"),
        (
            r#","syscalls":[{"names":["mount"],"action":"SCMP_ACT_ERRNO","args":[{"index":6,"value":0,"op":"SCMP_CMP_EQ"}]}]"#,
            "index 6",
        ),
    ] {
        let error = load(rest).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

/// Names of calls with low, high, sparse, multiplexed and private numbers.
const NAMES: [&str; 16] = [
    "read",
    "write",
    "open",
    "close",
    "stat",
    "socket",
    "socketcall",
    "shmat",
    "ipc",
    "execve",
    "rt_sigaction",
    "ioctl",
    "clone3",
    "mseal",
    "set_tls",
    "accept",
];

fn any_action() -> impl Strategy<Value = Action> {
    prop_oneof![
        Just(Action::Allow),
        Just(Action::Log),
        Just(Action::Trap),
        Just(Action::KillProcess),
        Just(Action::KillThread),
        (0..4096_u16).prop_map(Action::Errno),
        any::<u16>().prop_map(Action::Trace),
        Just(Action::Errno(1)),
    ]
}

fn any_value() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..4_u64,
        (0..4_u64).prop_map(|high| high << 32),
        any::<u64>(),
        Just(u64::MAX),
        Just(u64::from(u32::MAX))
    ]
}

fn any_condition() -> impl Strategy<Value = Condition> {
    let comparison = prop_oneof![
        Just(Comparison::Ne),
        Just(Comparison::Lt),
        Just(Comparison::Le),
        Just(Comparison::Eq),
        Just(Comparison::Ge),
        Just(Comparison::Gt),
        any_value().prop_map(|mask| Comparison::MaskedEq { mask }),
    ];
    (0..6_u8, comparison, any_value(), any::<bool>()).prop_map(|(argument, comparison, value, fitting)| {
        let value = match comparison {
            Comparison::MaskedEq { mask } if fitting => value & mask,
            _ => value,
        };
        // Most rules of real profiles look at the first argument.
        condition(if fitting { 0 } else { argument }, comparison, value)
    })
}

fn any_policy() -> impl Strategy<Value = Policy<'static>> {
    let rule = (
        proptest::sample::subsequence(&NAMES[..], 1..4),
        any_action(),
        proptest::collection::vec(any_condition(), 0..4),
    );
    let rule = rule.prop_map(|(names, action, conditions)| Rule { names, action, conditions });
    let abis = prop_oneof![
        Just(vec![Abi::X86_64]),
        Just(vec![Abi::X86_64, Abi::I386]),
        Just(vec![Abi::X86_64, Abi::X32]),
        Just(vec![Abi::X86_64, Abi::I386, Abi::X32]),
        Just(vec![Abi::Aarch64, Abi::Arm]),
        Just(vec![Abi::Aarch64]),
    ];
    (any_action(), abis, proptest::collection::vec(rule, 0..40)).prop_map(|(default, abis, rules)| Policy {
        default,
        abis,
        rules,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_profile_equals_its_flat_evaluation(policy in any_policy(), extra in proptest::collection::vec(any::<[u64; 6]>(), 8)) {
        let table = table();
        let program = compile(&policy, &table).unwrap();
        let oracle = Oracle::new(&policy, &table);
        let edges: Vec<u64> = values(&policy).into_iter().step_by(3).collect();
        let named = NAMES.iter().flat_map(|name| {
            Abi::EVERY.map(|abi| (abi.audit_arch(), table.number(abi, name).unwrap_or(9999) + abi.offset()))
        });
        let around = |(arch, number): (u32, u32)| [(arch, number.wrapping_sub(1)), (arch, number), (arch, number + 1)];
        for (arch, number) in named.flat_map(around) {
            let classes = edges.iter().map(|value| [*value; 6]).chain(extra.iter().copied());
            for arguments in classes {
                let call = Call { arch, number, arguments };
                prop_assert_eq!(run(&program, &call), oracle.verdict(&call).code(), "{:#x?}", call);
            }
        }
    }

    #[test]
    fn any_bytes_as_a_profile_are_an_error_and_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in "\\PC{0,200}") {
        prop_assert!(Filter::from_profile_json(&bytes, CapabilitySet::DEFAULT).is_err());
        let _ = Profile::parse(&text);
    }
}

#[test]
fn jumps_further_than_255_instructions_arrive() {
    // A comparison chain, each link with a leaf of its own, has its last leaves far away.
    let mut assembler = Assembler::default();
    let mut node = assembler.ret(0);
    for value in 1..=1000 {
        let hit = assembler.ret(value);
        node = assembler.branch(JUMP_EQ, value, hit, node);
    }
    let low = assembler.ret(5000);
    let far = node;
    let node = assembler.branch(JUMP_GE, 1, far, low);
    let entry = assembler.then(LOAD, 0, node);
    let program = assembler.finish(entry);
    for number in [0, 1, 2, 500, 1000, 1001] {
        let expected = match number {
            0 => 5000,
            1..=1000 => number,
            _ => 0,
        };
        assert_eq!(run(&program, &Call { arch: 0, number, arguments: [0; 6] }), expected);
    }
}

#[test]
fn too_long_a_profile_is_refused() {
    let rules = (0..2000_u64).map(|value| {
        rule(
            "read",
            Action::Allow,
            &[condition(
                0,
                Comparison::MaskedEq { mask: 0xff00_ff00_ff00_ff00 },
                (value & 0xff) << 8 | (value >> 8) << 40,
            )],
        )
    });
    let policy = policy(Action::Errno(1), rules.collect());
    assert!(matches!(compile(&policy, &table()), Err(Error::TooLong(length)) if length > 4096));
}

/// Loads the filter on a thread of its own and runs `check` there.
fn under<T: Send + 'static>(filter: Filter, check: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::spawn(move || {
        nix::sys::prctl::set_no_new_privs().unwrap();
        filter.load().unwrap();
        check()
    });
    thread.join().unwrap()
}

#[test]
fn the_kernel_applies_the_default_profile() {
    use crate::sys::seccomp::try_call;
    let filter = Filter::default_for(CapabilitySet::DEFAULT).unwrap();
    let results = under(filter, || {
        let call = |number, first| try_call(number, [first, 0, 0]);
        vec![
            ("getpid", call(libc::SYS_getpid, 0).map(|pid| pid - libc::c_long::from(std::process::id() as i32)), Ok(0)),
            ("unshare", call(libc::SYS_unshare, libc::CLONE_NEWUSER.into()), Err(Errno::EPERM)),
            ("setns", call(libc::SYS_setns, -1), Err(Errno::EPERM)),
            ("keyctl", call(libc::SYS_keyctl, 0), Err(Errno::EPERM)),
            ("socket(AF_VSOCK)", call(libc::SYS_socket, 40), Err(Errno::EPERM)),
            ("socket(AF_ALG)", call(libc::SYS_socket, 38), Err(Errno::EPERM)),
            // Let through: it is the kernel that has no socket type 0.
            ("socket(AF_INET)", call(libc::SYS_socket, 2), Err(Errno::ESOCKTNOSUPPORT)),
            ("clone3", call(libc::SYS_clone3, 0), Err(Errno::ENOSYS)),
            ("io_uring_setup", call(libc::SYS_io_uring_setup, 0), Err(Errno::EPERM)),
            ("personality(query)", call(libc::SYS_personality, 0xffff_ffff).map(|_| 0), Ok(0)),
            ("personality(ADDR_NO_RANDOMIZE)", call(libc::SYS_personality, 0x004_0000), Err(Errno::EPERM)),
            ("number 4000", call(4000, 0), Err(Errno::ENOSYS)),
        ]
    });
    for (name, result, expected) in results {
        assert_eq!(result, expected, "{name}");
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn the_kernel_applies_the_default_profile_to_x32() {
    use crate::sys::seccomp::try_call;
    let filter = Filter::default_for(CapabilitySet::DEFAULT).unwrap();
    // The filter is asked before the kernel finds out that it was built without x32.
    let result = under(filter, || try_call(libc::SYS_unshare | libc::c_long::from(X32_BIT), [0, 0, 0]));
    assert_eq!(result, Err(Errno::EPERM));
}

/// One comparison for each call, as libseccomp lays a filter out.
fn compile_flat(policy: &Policy<'_>, table: &SyscallTable<'_>) -> Vec<Instruction> {
    let mut assembler = Assembler::default();
    let mut entry = assembler.ret(Action::KillProcess.code());
    for abi in policy.abis.iter().rev().filter(|abi| **abi != Abi::X32) {
        let mut node = assembler.ret(policy.default.code());
        let abis = [Some(*abi), (*abi == Abi::X86_64).then_some(Abi::X32)];
        for abi in abis.into_iter().flatten().filter(|abi| policy.abis.contains(abi)) {
            for (number, verdict) in resolve(policy, abi, table).calls {
                let Verdict::Always(action) = verdict else { continue };
                let hit = assembler.ret(action.code());
                node = assembler.branch(JUMP_EQ, number + abi.offset(), hit, node);
            }
        }
        let node = assembler.then(LOAD, 0, node);
        entry = assembler.branch(JUMP_EQ, abi.audit_arch(), node, entry);
    }
    let entry = assembler.then(LOAD, 4, entry);
    assembler.finish(entry)
}

/// `cargo test --release -p coracle-runtime load_time -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn load_time_of_tree_and_list() {
    let table = table();
    let policy = default_policy(CapabilitySet::DEFAULT).unwrap();
    let tree = Filter::default_for(CapabilitySet::DEFAULT).unwrap();
    let list = Filter { program: Cow::Owned(compile_flat(&policy, &table)), ..tree.clone() };
    let measure = |filter: &Filter| {
        let time = |filter: Filter| {
            under(
                Filter {
                    program: Cow::Owned(vec![Instruction { code: 6, jt: 0, jf: 0, k: Action::Allow.code() }]),
                    ..filter.clone()
                },
                move || {
                    let start = Instant::now();
                    filter.load().unwrap();
                    start.elapsed()
                },
            )
        };
        let mut times: Vec<Duration> = (0..101).map(|_| time(filter.clone())).collect();
        times.sort_unstable();
        times[times.len() / 2]
    };
    let mean_steps = |program: &[Instruction]| {
        let arch = native_abis().unwrap()[0].audit_arch();
        let steps = (0..471).map(|number| run_counting(program, &Call { arch, number, arguments: [0; 6] }).1);
        steps.sum::<usize>() / 471
    };
    for (name, filter) in [("tree", &tree), ("list", &list), ("tree", &tree), ("list", &list)] {
        let program = filter.program();
        println!(
            "{name}: {} instructions, {} on a path, loads in {:?}",
            program.len(),
            mean_steps(program),
            measure(filter)
        );
    }
    let compiled = (0..101).map(|_| {
        let start = Instant::now();
        let filter = Filter::default_for(CapabilitySet::DOCKER).unwrap();
        (start.elapsed(), filter.program().len())
    });
    println!("compiling at run time: {:?}", compiled.min().unwrap());
}
