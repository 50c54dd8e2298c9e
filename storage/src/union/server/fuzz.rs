//! Any bytes as requests, and valid requests in any order with bytes changed: whatever comes, the answer is well formed and
//! nothing panics.

use proptest::prelude::*;

use super::harness::{Dice, Harness, OPCODES, request};
use crate::union::session::abi::{OUT_HEADER_BYTES, opcode};

/// A harness, and the directory that goes with it.
fn harness() -> (Harness, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (Harness::new(dir.path()), dir)
}

fn errno(answer: Option<Vec<u8>>) -> i32 {
    let answer = answer.expect("there is an answer");
    -i32::from_ne_bytes(*answer[4..].first_chunk().unwrap())
}

fn entry(answer: Option<Vec<u8>>) -> u64 {
    let answer = answer.expect("there is an answer");
    u64::from_ne_bytes(*answer[OUT_HEADER_BYTES..].first_chunk().expect("an entry"))
}

/// Few cases, unless `PROPTEST_CASES` wants more.
fn config() -> ProptestConfig {
    let default = ProptestConfig { max_shrink_iters: 400, ..ProptestConfig::default() };
    if std::env::var_os("PROPTEST_CASES").is_some() { default } else { ProptestConfig { cases: 48, ..default } }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_bytes_get_an_answer_or_none(bytes in prop::collection::vec(any::<u8>(), 0..300), opcode in 0usize..36) {
        let (mut harness, _dir) = harness();
        harness.send(&bytes);
        harness.send(&request(OPCODES[opcode], 1, &bytes));
    }

    #[test]
    fn what_a_fuzzer_describes_does_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let (mut harness, _dir) = harness();
        harness.send_all(&bytes);
    }

    #[test]
    fn requests_in_any_order_with_changed_bytes_do_no_harm(
        rolls in prop::collection::vec((any::<u64>(), prop::option::weighted(0.2, any::<(u16, u8)>())), 1..200),
    ) {
        let (mut harness, _dir) = harness();
        for (seed, change) in rolls {
            harness.roll(seed, change);
        }
        // The root is there whatever was forgotten, and still lists.
        prop_assert_eq!(errno(harness.send(&request(opcode::GETATTR, 1, &[0; 16]))), 0);
        let mut list = [0; 40];
        list[16..20].copy_from_slice(&65_536u32.to_ne_bytes());
        // An ordinary user may have taken its own right to read it.
        let errno = errno(harness.send(&request(opcode::READDIR, 1, &list)));
        prop_assert!(matches!(errno, 0 | libc::EACCES), "{}", errno);
    }
}

#[test]
fn numbers_that_were_never_answered_are_unknown() {
    let (mut harness, _dir) = harness();
    let bodies = (0..OPCODES.len() as u64 * 40).map(|seed| (seed, Dice(seed)));
    for (seed, mut dice) in bodies {
        let opcode = OPCODES[seed as usize % OPCODES.len()];
        let is_about_no_node =
            matches!(opcode, opcode::STATFS | opcode::SYNCFS | opcode::INIT | opcode::DESTROY | opcode::RELEASE);
        if is_about_no_node || opcode == opcode::RELEASEDIR {
            continue;
        }
        let body = harness.body(opcode, &mut dice);
        if let Some(answer) = harness.send(&request(opcode, 0x7fff_0000_1234_5678, &body)) {
            let errno = errno(Some(answer));
            assert_ne!(errno, 0, "opcode {opcode}, seed {seed}");
            let is_refused_earlier = !matches!(errno, libc::ENOENT | libc::ESTALE);
            let may_be = [libc::EINVAL, libc::EPERM, libc::ENOTTY, libc::EOPNOTSUPP, libc::ENAMETOOLONG, libc::EXDEV];
            assert!(!is_refused_earlier || may_be.contains(&errno), "opcode {opcode}, seed {seed}: {errno}");
        }
    }
}

#[test]
fn forgetting_more_than_was_answered_forgets_once() {
    let (mut harness, _dir) = harness();
    let file = entry(harness.send(&request(opcode::LOOKUP, 1, b"a\0")));
    for count in [1u64, u64::MAX, 1] {
        harness.send(&request(opcode::FORGET, file, &count.to_ne_bytes()));
    }
    harness.send(&request(opcode::FORGET, 1, &u64::MAX.to_ne_bytes()));
    assert!(matches!(errno(harness.send(&request(opcode::GETATTR, file, &[0; 16]))), libc::ENOENT | libc::ESTALE));
    assert_eq!(
        entry(harness.send(&request(opcode::LOOKUP, 1, b"a\0"))),
        file,
        "the same number when it is found again"
    );
    assert_eq!(errno(harness.send(&request(opcode::GETATTR, file, &[0; 16]))), 0);
}

#[test]
fn a_missing_name_is_remembered_and_a_file_made_unmade() {
    let (mut harness, _dir) = harness();
    assert_eq!(entry(harness.send(&request(opcode::LOOKUP, 1, b"new\0"))), 0);
    let mut body = Vec::new();
    for number in [0o100_644u32, 0, 0o22, 0] {
        body.extend(number.to_ne_bytes());
    }
    body.extend(b"new\0");
    let file = entry(harness.send(&request(opcode::MKNOD, 1, &body)));
    assert_ne!(file, 0);
    assert_eq!(entry(harness.send(&request(opcode::LOOKUP, 1, b"new\0"))), file);
    assert_eq!(errno(harness.send(&request(opcode::UNLINK, 1, b"new\0"))), 0);
    assert_eq!(entry(harness.send(&request(opcode::LOOKUP, 1, b"new\0"))), 0);
    assert_eq!(errno(harness.send(&request(opcode::GETATTR, file, &[0; 16]))), 0, "lives until it is forgotten");
}
