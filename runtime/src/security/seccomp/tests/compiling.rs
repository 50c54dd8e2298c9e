//! Any policy: what several rules mean together, and that the program does it.

use proptest::prelude::*;

use super::super::compiler::assembler::{Assembler, JUMP_EQ, JUMP_GE, LOAD};
use super::super::compiler::policy::{Condition, Rule};
use super::super::compiler::resolve::{Verdict, resolve};
use super::*;

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
