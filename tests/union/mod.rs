//! The union through the kernel: each case is run on the kernel's overlay, on `coracle fuse-overlayfs` over bare
//! directories, and on the same over layers with an index.
//!
//! ```text
//! runner ── reaper ── body ── unshare(1) ── this program again, --inside NAME: mounts, runs the case, three times
//! ```

mod stage;

#[allow(unsafe_code)]
mod sys;

mod names;

mod rename;

mod metadata;

mod contents;

mod limits;

mod crash;

mod pjdfstest;

use std::panic::catch_unwind;
use std::process::{Command, ExitCode};

use crate::support::command::binary;
use crate::support::framework::Test;
use crate::support::home::Home;
use stage::{Driver, Stage};

/// What a case is run on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum On {
    /// The kernel's overlay and ours behave the same.
    Both,
    /// The kernel's overlay differs, or has nothing of the kind: the case says how.
    Ours,
}

/// One case.
pub(crate) struct Case {
    name: &'static str,
    body: fn(&mut Stage),
    on: On,
}

/// Makes the list of a file's tests for the runner, and that of its cases for the process inside the namespace.
macro_rules! cases {
    ($($on:ident $name:ident $(.$method:ident($($argument:expr),*))*),* $(,)?) => {
        pub(crate) const TESTS: &[$crate::support::framework::Test] = &[$({
            fn outside(home: &$crate::support::home::Home) {
                $crate::union::enter(home, concat!(module_path!(), "::", stringify!($name)));
            }
            $crate::support::framework::Test::new(concat!(module_path!(), "::", stringify!($name)), outside)
                .needs(&[$crate::support::needs::Need::Fuse])
                .without_image()
                $(.$method($($argument),*))*
        }),*];
        pub(crate) const CASES: &[$crate::union::Case] = &[$($crate::union::Case {
            name: concat!(module_path!(), "::", stringify!($name)),
            body: $name,
            on: $crate::union::On::$on,
        }),*];
    };
}
pub(crate) use cases;

pub(crate) fn tests() -> Vec<Test> {
    let files =
        [names::TESTS, rename::TESTS, metadata::TESTS, contents::TESTS, limits::TESTS, crash::TESTS, pjdfstest::TESTS];
    files.concat()
}

/// Runs a case in a user namespace with all ids that the user has, where everything it mounts ends with it.
fn enter(home: &Home, name: &str) {
    let namespaces =
        ["--user", "--map-root-user", "--map-auto", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];
    let mut command = Command::new("unshare");
    command.args(namespaces).arg(std::env::current_exe().expect("this program has a path")).args(["--inside", name]);
    let status = command.env("CORACLE_BIN", binary()).env("TMPDIR", home.tmp()).status();
    assert!(status.as_ref().is_ok_and(std::process::ExitStatus::success), "{name}: {status:?}");
}

/// The inner role of this program.
pub(crate) fn inside(name: &str) -> ExitCode {
    let files = [names::CASES, rename::CASES, metadata::CASES, contents::CASES, limits::CASES, crash::CASES];
    let Some(case) = files.iter().flat_map(|cases| cases.iter()).find(|case| case.name == name) else {
        eprintln!("there is no case {name}");
        return ExitCode::FAILURE;
    };
    let chosen = std::env::var("UNION_DRIVER").ok();
    stage::prepare_namespace();
    let mut has_failed = false;
    for driver in [Driver::Kernel, Driver::Ours, Driver::OursWithIndex] {
        let is_chosen = chosen.as_ref().is_none_or(|name| name.split(',').any(|name| name == driver.name()));
        if !is_chosen || driver == Driver::Kernel && case.on == On::Ours {
            continue;
        }
        eprintln!("on {}:", driver.name());
        let run = catch_unwind(|| {
            let mut stage = Stage::new(driver);
            (case.body)(&mut stage);
        });
        has_failed |= run.is_err();
    }
    if has_failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
