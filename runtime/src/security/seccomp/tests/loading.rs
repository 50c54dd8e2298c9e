//! The kernel's view: what a loaded filter does and what loading costs.

use std::time::{Duration, Instant};

use super::super::compiler::assembler::{Assembler, JUMP_EQ, LOAD};
use super::super::compiler::resolve::{Verdict, resolve};
use super::super::emulator::run_counting;
use super::*;

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
