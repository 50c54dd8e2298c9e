//! coracle: rootless, daemonless containers.
//!
//! Picks the role of this process before any thread exists, prints the error, exits.

mod build;
mod cdi;
mod cli;
mod commands;
mod config;
mod error;
mod networks;
mod quadlet;
mod role;
mod supervisor;

use std::process::ExitCode;

use role::Role;
use runtime::process::heap;

#[global_allocator]
static HEAP: heap::Heap = heap::Heap;

fn main() -> ExitCode {
    heap::begins();
    match Role::of_this_process() {
        Role::ContainerInit(args) => ExitCode::from(runtime::init::pid1::run(&args) as u8),
        Role::SealedExec(args) => ExitCode::from(runtime::init::sealed_exe::second_stage(args) as u8),
        Role::FuseOverlayfs { args, is_mount_helper } => end(commands::fuse_overlayfs::run(&args, is_mount_helper)),
        Role::Oci { args } => end(commands::oci::run(args)),
        Role::Cli(program) => end(commands::run(program)),
    }
}

fn end(outcome: commands::Outcome) -> ExitCode {
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            error.print();
            ExitCode::from(error.code())
        }
    }
}
