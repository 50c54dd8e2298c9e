//! Compiles the default seccomp profile for the default capabilities and the target's architecture.
//!
//! Writes `default_seccomp.rs` (the program as a static, with the filters of single-id containers beside it) and `default_seccomp.json` (the same as the
//! `linux.seccomp` section of config.json). An architecture without a system call table gets an empty
//! program, which [`Filter`] refuses to load.
//!
//! [`Filter`]: src/security/seccomp/mod.rs

use std::fmt::Write as _;
use std::path::PathBuf;
use std::{env, fs};

#[allow(dead_code, unreachable_pub)]
#[path = "src/security/capabilities/set.rs"]
mod capabilities;

#[allow(dead_code, unreachable_pub)]
#[path = "src/security/seccomp/compiler/mod.rs"]
mod compiler;

use capabilities::CapabilitySet;
use compiler::abi::{Abi, SyscallTable};
use compiler::profile::Profile;

fn main() {
    println!("cargo::rerun-if-changed=src/security/capabilities/set.rs");
    println!("cargo::rerun-if-changed=src/security/seccomp/compiler");

    let machine = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo names the target's architecture");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo names the output directory"));

    let profile = Profile::parse(compiler::DEFAULT_PROFILE).expect("the default profile is in its format");
    let has = |name: &str| name.parse().is_ok_and(|capability| CapabilitySet::DEFAULT.contains(capability));
    let policy = profile.select(Abi::of_machine(&machine), &has);
    let program = if policy.abis.is_empty() {
        Vec::new()
    } else {
        let table = SyscallTable::parse(compiler::SYSCALLS);
        compiler::emit::compile(&policy, &table).expect("the default profile fits in a program")
    };

    let mut source = String::new();
    write_program(&mut source, "DEFAULT_PROGRAM", &program);
    let abis = Abi::of_machine(&machine);
    for (name, policy) in
        [("NOTIFY_PROGRAM", compiler::identity::notify(abis)), ("SUCCEED_PROGRAM", compiler::identity::succeed(abis))]
    {
        let program = if abis.is_empty() {
            Vec::new()
        } else {
            let table = SyscallTable::parse(compiler::SYSCALLS);
            compiler::emit::compile(&policy, &table).expect("the filters of single-id containers fit in a program")
        };
        write_program(&mut source, name, &program);
    }
    fs::write(out.join("default_seccomp.rs"), source).expect("the output directory is writable");
    fs::write(out.join("default_seccomp.json"), compiler::oci_json::oci_json(&policy))
        .expect("the output directory is writable");
}

fn write_program(source: &mut String, name: &str, program: &[compiler::assembler::Instruction]) {
    writeln!(source, "static {name}: [Instruction; {}] = [", program.len()).expect("writing to a string does not fail");
    for instruction in program {
        writeln!(source, "    {instruction:?},").expect("writing to a string does not fail");
    }
    source.push_str("];\n");
}
