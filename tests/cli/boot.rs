//! `boot`: what starts with the machine.

use std::fs;

use crate::support::prelude::*;

pub(crate) const TESTS: &[Test] = &[
    test!(what_the_end_of_the_machine_ended_starts_again),
    test!(a_supervisor_that_is_asked_to_end_starts_no_other_run),
    test!(unit_is_written_and_removed).without_image(),
];

/// As a reboot does it: the runtime directory is on a file system in memory.
fn forget_boot(home: &Home) {
    fs::remove_dir_all(home.runtime_dir().join("coracle")).unwrap();
}

fn states(home: &Home) -> String {
    let text = home.ok("ps -a --format '{{.Names}} {{.State}}'");
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    lines.join(", ")
}

fn what_the_end_of_the_machine_ended_starts_again(home: &Home) {
    for (name, policy) in
        [("a", "always"), ("b", "unless-stopped"), ("c", "unless-stopped"), ("d", "always"), ("e", "no")]
    {
        home.ok(&format!("run -d --init --name {name} --restart={policy} busybox sleep 1000"));
    }
    home.ok("create --name f --restart=always busybox sleep 1000");
    home.ok("stop c d");
    let mut ended: Vec<_> = home.ok("boot stop").lines().map(str::to_owned).collect();
    ended.sort_unstable();
    assert_eq!(ended, ["a", "b", "e"]);
    assert_eq!(states(home), "a exited, b exited, c exited, d exited, e exited, f created");
    forget_boot(home);
    // A user had c stopped; d, too, but it is to run always. Nobody has asked f to run yet.
    let status = home.run("boot status");
    let shown: Vec<_> =
        status.stdout().lines().skip(2).map(|line| line.split(" (").next().unwrap().to_owned()).collect();
    let expected = [
        "a: starts",
        "b: starts",
        "c: does not start: it was stopped",
        "d: starts",
        "f: does not start: it has never run",
    ];
    assert_eq!(shown, expected);
    assert_eq!(home.ok("boot start"), "a\nb\nd");
    assert_eq!(states(home), "a running, b running, c exited, d running, e exited, f created");
    assert_eq!(home.ok("boot start"), "", "what runs is left alone");
    // The machine loses power: nobody writes anything down.
    home.ok("kill -s KILL b");
    home.wait_for_status("b", "exited");
    home.ok("start b");
    for name in ["a", "b", "d"] {
        let supervisor: i32 = home.inspect(name, "{{.State.ConmonPid}}").parse().unwrap();
        // Zero would be ourselves.
        assert!(supervisor > 1, "{name}: {}", states(home));
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(supervisor), nix::sys::signal::Signal::SIGKILL).unwrap();
        home.wait_for_status(name, "exited");
    }
    forget_boot(home);
    assert_eq!(home.ok("boot start"), "a\nb\nd");
    home.ok("rm -f -t 0 a b c d e f");
}

fn a_supervisor_that_is_asked_to_end_starts_no_other_run(home: &Home) {
    home.ok(
        "run -d --name c --restart=always busybox sh -c 'trap \"exit 7\" TERM; echo up; while :; do sleep 1; done'",
    );
    crate::support::home::wait_until("its trap is set", || home.ok("logs c").contains("up"));
    home.ok("boot stop");
    assert_eq!(home.inspect("c", "{{.State.Status}} {{.State.ExitCode}} {{.RestartCount}}"), "exited 7 0");
    home.ok("rm c");
}

fn unit_is_written_and_removed(home: &Home) {
    let unit = home.path().join(".config/systemd/user/coracle-boot.service");
    home.run("boot status").exits(1);
    home.ok("boot enable");
    home.ok("boot enable");
    let text = fs::read_to_string(&unit).unwrap();
    let binary = crate::support::command::binary();
    assert!(text.contains(&format!("ExecStart=-\"{}\" boot start\n", binary.display())), "{text}");
    assert!(home.ok("boot status").starts_with("enabled\n"));
    home.coracle("boot enable").env("XDG_DATA_HOME", home.tmp().join("50% off")).run().ok();
    let text = fs::read_to_string(&unit).unwrap();
    assert!(text.contains("Environment=\"XDG_DATA_HOME=") && text.contains("/50%% off\"\n"), "{text}");
    home.ok("boot disable");
    assert!(
        !unit.exists()
            && fs::symlink_metadata(home.path().join(".config/systemd/user/default.target.wants/coracle-boot.service"))
                .is_err()
    );
    home.ok("boot disable");
}
