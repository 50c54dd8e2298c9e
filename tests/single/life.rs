//! The notifier and its container: what lives with what, and what dies with it.

use std::fs;

use crate::support::home::wait_until;
use crate::support::prelude::*;

pub(crate) const TESTS: &[Test] = &[
    test!(a_notifier_ends_with_its_container),
    test!(a_container_ends_with_its_notifier),
    test!(many_execs_leave_no_threads),
    test!(many_execs_at_once_are_all_served),
    test!(pid_one_of_ours_and_a_terminal),
    test!(host_pids),
    test!(other_filters_apply_as_well),
];

/// Pids of notifiers of this user, by their command line.
fn notifiers() -> Vec<i32> {
    let numbers = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_ours = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "coracle-ids\n");
    numbers.filter(is_ours).collect()
}

/// The notifier of a container: a child of its supervisor, as its init is.
fn notifier_of(home: &Home, name: &str) -> i32 {
    let parent = |pid: i32| -> Option<i32> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
    };
    let init = home.inspect(name, "{{.State.Pid}}").parse().unwrap();
    let supervisor = parent(init);
    notifiers().into_iter().find(|pid| parent(*pid) == supervisor).expect("a notifier beside init")
}

fn is_alive(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn a_notifier_ends_with_its_container(home: &Home) {
    home.ok("run -d --name c --userns=single busybox sleep 1000");
    let pid = notifier_of(home, "c");
    home.ok("rm -f -t 0 c");
    wait_until("the notifier is gone", || !is_alive(pid));
}

fn a_container_ends_with_its_notifier(home: &Home) {
    home.ok("run -d --name c --userns=single busybox sleep 1000");
    let pid = notifier_of(home, "c");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    home.wait_for_status("c", "exited");
    home.ok("start c");
    assert_eq!(home.ok("exec -u 5 c id -u"), "5");
}

fn many_execs_leave_no_threads(home: &Home) {
    home.ok("run -d --name c --userns=single busybox sleep 1000");
    let pid = notifier_of(home, "c");
    let count = |what: &str| fs::read_dir(format!("/proc/{pid}/{what}")).map_or(0, Iterator::count);
    for _ in 0..40 {
        assert_eq!(home.ok("exec -u 3 c id -u"), "3");
    }
    // Each had a listener and a thread or two of its own.
    wait_until("they are forgotten", || count("task") < 20 && count("fd") < 20);
}

fn many_execs_at_once_are_all_served(home: &Home) {
    home.ok("run -d --name c --userns=single busybox sleep 1000");
    let script = "for i in 1 2 3 4 5; do id -u; done | uniq";
    let running: Vec<_> =
        (1..=20).map(|user| (user, home.coracle(&format!("exec -u {user} c sh -c")).arg(script).spawn())).collect();
    for (user, one) in running {
        assert_eq!(one.wait().ok(), user.to_string());
    }
}

fn pid_one_of_ours_and_a_terminal(home: &Home) {
    assert_eq!(home.ok("run --rm --userns=single --init -u 33 busybox id -u"), "33");
    assert_eq!(home.run("run --rm --userns=single --init busybox sh -c 'exit 7'").code(), 7);
    assert_eq!(
        home.ok("run --rm -t --userns=single -u 33 busybox sh -c 'id -u; test -t 0 && echo tty'").replace('\r', ""),
        "33\ntty"
    );
}

fn host_pids(home: &Home) {
    assert_eq!(
        home.ok("run --rm --pid host --userns=single -u 33 busybox sh -c 'id -u; touch /tmp/x; stat -c %u /tmp/x'"),
        "33\n33"
    );
}

fn other_filters_apply_as_well(home: &Home) {
    let profile = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["fchownat","chown"],"action":"SCMP_ACT_ERRNO","errnoRet":38}]}"#;
    let file = home.write("profile.json", profile);
    let line = format!("run --rm --userns=single --security-opt seccomp={} busybox chown 33 /tmp", file.display());
    assert!(home.run(&line).stderr().contains("not implemented"));
    assert_eq!(
        home.ok(
            "run --rm --userns=single --security-opt seccomp=unconfined busybox sh -c 'chown 33 /tmp; stat -c %u /tmp'"
        ),
        "33"
    );
}
