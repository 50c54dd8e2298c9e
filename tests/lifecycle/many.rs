//! Many containers, one after another and at once: every one ends, none leaves anything.

use crate::support::home::entries;
use crate::support::prelude::*;

pub(crate) const TESTS: &[Test] = &[
    test!(two_hundred_runs_one_after_another_leave_nothing).limit_secs(180).alone(),
    test!(fifty_runs_at_once_leave_nothing).limit_secs(180).alone(),
    test!(twenty_detached_containers_live_side_by_side).limit_secs(120).alone(),
    test!(same_name_at_once_is_given_once).limit_secs(60).alone(),
    test!(create_and_rm_at_once_keep_ps_right).limit_secs(120).alone(),
];

/// Files below the data and runtime directories, images and layers aside.
fn files(home: &Home) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for name in ["containers", "names", "volumes", "trash"] {
        files.extend(entries(&home.data().join(name)));
    }
    // The lock of the user's network namespace stays, as a lock must.
    let runtime = entries(&home.runtime_dir().join("coracle"));
    files.extend(runtime.into_iter().filter(|path| !path.ends_with("net")));
    files
}

fn two_hundred_runs_one_after_another_leave_nothing(home: &Home) {
    home.ok("run --rm busybox true");
    // Its result comes before its clean-up.
    crate::support::home::wait_until("the first has gone", || files(home).is_empty());
    let before = files(home);
    for number in 0..200 {
        assert_eq!(home.ok(&format!("run --rm busybox echo {number}")), number.to_string());
    }
    home.assert_nothing_left();
    let after = files(home);
    let new: Vec<_> = after.iter().filter(|path| !before.contains(path)).collect();
    assert!(new.is_empty(), "left behind: {new:#?}");
}

fn fifty_runs_at_once_leave_nothing(home: &Home) {
    let running: Vec<_> = (0..50)
        .map(|number| {
            home.coracle(&format!("run --rm busybox sh -c 'echo {number}; exit {number}'")).limit_secs(120).spawn()
        })
        .collect();
    for (number, command) in running.into_iter().enumerate() {
        let finished = command.wait();
        finished.exits(i32::try_from(number).unwrap());
        assert_eq!(finished.stdout(), format!("{number}\n"));
    }
    assert_eq!(home.ok("ps -aq"), "");
    home.assert_nothing_left();
}

fn twenty_detached_containers_live_side_by_side(home: &Home) {
    for number in 0..20 {
        home.ok(&format!("run -d --name c{number} busybox sleep 1000"));
    }
    assert_eq!(home.ok("ps -q").lines().count(), 20);
    for number in 0..20 {
        assert_eq!(home.ok(&format!("exec c{number} hostname")), home.inspect(&format!("c{number}"), "{{.Id}}")[..12]);
    }
    home.coracle("stop -t 0 --all").limit_secs(60).run().ok();
    assert_eq!(home.ok("ps -q"), "");
    home.coracle("rm --all").limit_secs(60).run().ok();
}

fn same_name_at_once_is_given_once(home: &Home) {
    let running: Vec<_> = (0..16).map(|_| home.coracle("run -d --name one busybox sleep 1000").spawn()).collect();
    let codes: Vec<_> = running.into_iter().map(|command| command.wait().code()).collect();
    assert_eq!(codes.iter().filter(|code| **code == 0).count(), 1, "{codes:?}");
    assert!(codes.iter().all(|code| [0, 125].contains(code)), "{codes:?}");
    assert_eq!(home.ok("ps -aq").lines().count(), 1);
}

fn create_and_rm_at_once_keep_ps_right(home: &Home) {
    let lines = (0..40).map(|number| match number % 4 {
        0 => "create busybox true".to_owned(),
        1 => format!("run --rm busybox echo {number}"),
        2 => "rm -a -f -t 0".to_owned(),
        _ => "ps -a".to_owned(),
    });
    let running: Vec<_> = lines.map(|line| home.coracle(&line).limit_secs(60).spawn()).collect();
    for command in running {
        let finished = command.wait();
        // A run whose container was removed by the rm beside it may fail; nothing may crash or hang.
        assert!([0, 125, 137].contains(&finished.code()), "{}", finished.transcript());
        assert!(!finished.stderr().contains("panicked"), "{}", finished.transcript());
    }
    home.ok("rm -a -f -t 0");
    assert_eq!(home.ok("ps -aq"), "");
}
