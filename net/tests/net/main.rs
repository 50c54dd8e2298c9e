//! The networks in real namespaces.
//!
//! Every case runs in a process of its own, because namespaces belong to processes and `unshare` wants one thread:
//! the runner starts itself again with the name of the case. A case that lacks something says
//! `skipped: needs ...`; with `NET_TESTS_DEMAND=1` a skip fails.

// The fences of clippy.toml are for what we ship; tests make their own surroundings.
#![allow(clippy::disallowed_methods)]

mod bridge;
mod builtin;
mod cost;
mod drivers;
mod fixture;
mod forward;
mod names;
mod roles;
mod wire;

use std::process::{Command, ExitCode};

/// What became of a case that did not panic.
pub(crate) enum Outcome {
    Passed,
    Skipped(String),
}

/// The value, or the end of the case as skipped for what its absence is called.
macro_rules! need {
    ($what:expr) => {
        match $what {
            Ok(value) => value,
            Err(needs) => return $crate::Outcome::Skipped(needs),
        }
    };
}
pub(crate) use need;

type Case = (&'static str, fn() -> Outcome);

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let cases: Vec<Case> =
        [drivers::CASES, builtin::CASES, bridge::CASES, names::CASES, forward::CASES, cost::CASES].concat();
    if let [flag, name] = &args[..]
        && flag == "--case"
    {
        let (_, run) = cases.iter().find(|(n, _)| n == name).expect("the runner knows its cases");
        return match run() {
            Outcome::Passed => ExitCode::SUCCESS,
            Outcome::Skipped(needs) => {
                eprintln!("skipped: needs {needs}");
                ExitCode::from(77)
            }
        };
    }
    if let [flag, role, rest @ ..] = &args[..]
        && flag == "--role"
    {
        return fixture::run_role(role, rest);
    }

    let filters: Vec<&String> = args.iter().filter(|a| !a.starts_with('-')).collect();
    let demand = std::env::var_os("NET_TESTS_DEMAND").is_some();
    let mut failed = Vec::new();
    for (name, _) in &cases {
        if !filters.is_empty() && !filters.iter().any(|f| name.contains(f.as_str())) {
            continue;
        }
        let output = Command::new("/proc/self/exe").args(["--case", name]).output().expect("the test can run itself");
        let text = String::from_utf8_lossy(&output.stderr);
        let result = match output.status.code() {
            Some(0) => "ok".to_owned(),
            Some(77) if !demand => text.lines().last().unwrap_or("skipped").to_owned(),
            _ => {
                failed.push(*name);
                "FAILED".to_owned()
            }
        };
        println!("test {name} ... {result}");
        if result == "FAILED" || args.iter().any(|a| a == "--nocapture") {
            println!("{}{text}", String::from_utf8_lossy(&output.stdout));
        }
    }
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("failures: {}", failed.join(" "));
    ExitCode::FAILURE
}
