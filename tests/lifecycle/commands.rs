//! `create start attach stop kill restart wait rm`, one after another on the same container.

use std::time::Duration;

use crate::support::home::{wait_for_handler, wait_until};
use crate::support::prelude::*;

pub(crate) const TESTS: &[Test] = &[
    test!(create_start_and_wait),
    test!(start_attached_returns_the_code),
    test!(started_again_it_keeps_its_files),
    test!(stop_asks_then_kills),
    test!(stop_takes_no_longer_than_the_container),
    test!(kill_sends_any_signal),
    test!(restart_is_a_new_process_with_the_same_name),
    test!(wait_returns_the_code_to_everyone),
    test!(rm_refuses_a_running_container_and_force_takes_it),
    test!(several_containers_in_one_command),
    test!(all_and_latest),
    test!(unknown_names_fail_and_the_others_go_on),
    test!(stopping_twice_is_no_error),
    test!(attach_follows_the_output_and_returns_the_code),
    test!(attach_forwards_signals),
    test!(signals_to_run_reach_the_payload),
    test!(failed_start_leaves_a_created_container),
    test!(exit_codes_and_moments_are_recorded),
    test!(rm_works_on_files_of_every_owner),
];

const TRAP: &str = "sh -c 'trap \"echo got-term; exit 7\" TERM; echo ready; while :; do sleep 0.05; done'";

fn running_with_trap(home: &Home, name: &str) {
    home.ok(&format!("run -d --name {name} busybox {TRAP}"));
    wait_until("it is ready", || home.ok(&format!("logs {name}")).contains("ready"));
}

fn create_start_and_wait(home: &Home) {
    let id = home.ok("create --name c busybox sh -c 'sleep 0.2; exit 5'");
    assert_eq!(home.inspect("c", "{{.State.Status}}"), "created");
    assert_eq!(home.ok("start c"), "c");
    assert_eq!(home.ok(&format!("wait {id}")), "5");
    assert_eq!(home.inspect("c", "{{.State.Status}}"), "exited");
    assert_eq!(home.ok("wait c"), "5", "again, and at once");
}

fn start_attached_returns_the_code(home: &Home) {
    home.ok("create --name c -i busybox sh -c 'cat; echo err >&2; exit 3'");
    let finished = home.coracle("start -a -i c").stdin("typed").run();
    finished.exits(3);
    assert_eq!((finished.stdout().as_str(), finished.stderr().as_str()), ("typed", "err\n"));
}

fn started_again_it_keeps_its_files(home: &Home) {
    home.ok("run --name c busybox sh -c 'echo x >> /count; wc -l < /count'");
    assert_eq!(home.ok("start -a c"), "2");
    assert_eq!(home.ok("start -a c"), "3");
}

fn stop_asks_then_kills(home: &Home) {
    running_with_trap(home, "polite");
    home.ok("stop polite");
    assert_eq!(home.inspect("polite", "{{.State.ExitCode}}"), "7");
    home.ok("run -d --name deaf busybox sh -c 'trap \"\" TERM; while :; do sleep 0.05; done'");
    home.wait_for_status("deaf", "running");
    let finished = home.run("stop -t 1 deaf");
    finished.exits(0);
    assert!(
        finished.took > Duration::from_millis(900) && finished.took < Duration::from_secs(5),
        "{:?}",
        finished.took
    );
    assert_eq!(home.inspect("deaf", "{{.State.ExitCode}}"), "137");
}

fn stop_takes_no_longer_than_the_container(home: &Home) {
    running_with_trap(home, "c");
    let finished = home.run("stop -t 60 c");
    finished.exits(0);
    assert!(finished.took < Duration::from_secs(2), "{:?}", finished.took);
    home.ok("run -d --name z busybox sleep 1000");
    let finished = home.run("stop -t 0 z");
    assert!(finished.took < Duration::from_secs(1), "{:?}", finished.took);
}

fn kill_sends_any_signal(home: &Home) {
    home.ok("run -d --name c busybox sh -c 'trap \"echo usr1\" USR1; echo ready; while :; do sleep 0.05; done'");
    wait_until("it is ready", || home.ok("logs c").contains("ready"));
    for signal in ["USR1", "SIGUSR1", "10", "sigusr1"] {
        let before = home.ok("logs c").matches("usr1").count();
        home.ok(&format!("kill -s {signal} c"));
        wait_until("it arrives", || home.ok("logs c").matches("usr1").count() == before + 1);
    }
    home.fails(125, "kill -s NOSUCH c");
    home.fails(125, "kill -s 99 c");
    home.ok("kill c");
    assert_eq!(home.ok("wait c"), "137");
    home.fails(125, "kill c");
}

fn restart_is_a_new_process_with_the_same_name(home: &Home) {
    let id = home.ok("run -d --name c busybox sh -c 'echo run; sleep 1000'");
    let first = home.inspect("c", "{{.State.Pid}}");
    wait_until("it wrote", || home.ok("logs c") == "run");
    home.ok("restart -t 0 c");
    assert_eq!(home.inspect("c", "{{.Id}}"), id);
    assert_ne!(home.inspect("c", "{{.State.Pid}}"), first);
    wait_until("both wrote", || home.ok("logs c") == "run\nrun");
    home.ok("stop -t 0 c");
    home.ok("restart c");
    home.wait_for_status("c", "running");
}

fn wait_returns_the_code_to_everyone(home: &Home) {
    home.ok("run -d --name c busybox sh -c 'sleep 0.5; exit 9'");
    let waiting: Vec<_> = (0..5).map(|_| home.coracle("wait c").spawn()).collect();
    for one in waiting {
        assert_eq!(one.wait().ok(), "9");
    }
    home.ok("run -d --name r --rm busybox sh -c 'sleep 0.5; exit 8'");
    assert_eq!(home.ok("wait r"), "8", "also of one that removes itself");
}

fn rm_refuses_a_running_container_and_force_takes_it(home: &Home) {
    home.ok("run -d --name c busybox sleep 1000");
    let finished = home.run("rm c");
    assert_ne!(finished.code(), 0);
    home.ok("exec c true");
    assert_eq!(home.ok("rm -f -t 0 c"), "c");
    assert_eq!(home.ok("ps -aq"), "");
}

fn several_containers_in_one_command(home: &Home) {
    for name in ["a", "b", "c"] {
        home.ok(&format!("create --name {name} busybox sleep 1000"));
    }
    assert_eq!(home.ok("start a b c"), "a\nb\nc");
    let finished = home.run("stop -t 0 a b c");
    finished.exits(0);
    assert!(finished.took < Duration::from_secs(3), "one after another would take longer: {:?}", finished.took);
    assert_eq!(home.ok("wait a b"), "137\n137");
    home.ok("rm a b c");
}

fn all_and_latest(home: &Home) {
    for name in ["a", "b"] {
        home.ok(&format!("run -d --name {name} busybox sleep 1000"));
    }
    home.ok("stop -t 0 --all");
    assert_eq!(home.ok("ps -q"), "");
    home.ok("start --latest");
    assert_eq!(home.ok("ps --format {{.Names}}"), "b");
    home.ok("rm -f -t 0 --all");
    assert_eq!(home.ok("ps -aq"), "");
    home.ok("rm -fa");
}

fn unknown_names_fail_and_the_others_go_on(home: &Home) {
    home.ok("run -d --name a busybox sleep 1000");
    for command in ["stop -t 0", "start", "restart -t 0", "kill", "rm -t 0 -f"] {
        let finished = home.run(&format!("{command} nosuch a"));
        if command.starts_with("rm") {
            // As in podman, --force is satisfied if the container is not there.
            finished.exits(0);
        } else {
            assert_eq!(finished.code(), 125, "{}", finished.transcript());
            assert!(
                finished.stderr().contains("nosuch") && finished.stdout().contains('a'),
                "{}",
                finished.transcript()
            );
        }
    }
    assert_eq!(home.ok("ps -aq"), "");
}

fn stopping_twice_is_no_error(home: &Home) {
    home.ok("run -d --name c busybox sleep 1000");
    home.ok("stop -t 0 c");
    home.ok("stop -t 0 c");
    home.ok("start c");
    home.ok("start c");
}

fn attach_follows_the_output_and_returns_the_code(home: &Home) {
    home.ok("run -d --name c busybox sh -c 'sleep 0.5; echo now; exit 4'");
    let finished = home.run("attach c");
    finished.exits(4);
    assert_eq!(finished.stdout(), "now\n");
    home.fails(125, "attach c");
}

fn attach_forwards_signals(home: &Home) {
    running_with_trap(home, "c");
    let attached = home.coracle("attach c").spawn();
    wait_for_handler(attached.pid(), nix::sys::signal::Signal::SIGTERM);
    attached.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(attached.wait().code(), 7);
}

fn signals_to_run_reach_the_payload(home: &Home) {
    let running = home.coracle(&format!("run --rm --name c busybox {TRAP}")).spawn();
    wait_until("it is ready", || home.run("logs c").stdout().contains("ready"));
    running.signal(nix::sys::signal::Signal::SIGTERM);
    let finished = running.wait();
    finished.exits(7);
    assert!(finished.stdout().ends_with("got-term\n"), "{}", finished.transcript());
}

fn failed_start_leaves_a_created_container(home: &Home) {
    home.ok("create --name c busybox no-such-command");
    let finished = home.run("start c");
    assert_ne!(finished.code(), 0);
    assert!(finished.stderr().contains("no-such-command"), "{}", finished.transcript());
    assert_eq!(home.ok("ps -q"), "");
    home.ok("rm c");
    // Of a failed run, nothing stands in the way of the next one.
    home.fails(127, "run --rm --name c busybox no-such-command");
    home.ok("run --rm --name c busybox true");
}

fn exit_codes_and_moments_are_recorded(home: &Home) {
    home.run("run --name c busybox sh -c 'sleep 0.3; exit 2'").exits(2);
    let moments = home.inspect("c", "{{.Created}} {{.State.StartedAt}} {{.State.FinishedAt}}");
    let mut sorted: Vec<_> =
        moments.split_whitespace().filter(|word| word.contains('T') || word.contains(':')).collect();
    sorted.sort_unstable();
    assert!(sorted.len() >= 2, "{moments}");
    assert_eq!(home.inspect("c", "{{.State.Running}} {{.State.ExitCode}}"), "false 2");
}

fn rm_works_on_files_of_every_owner(home: &Home) {
    home.ok(
        "run --name c busybox sh -c 'mkdir -p /a/b/c; touch /a/b/c/d; chown -R 1234:4321 /a; chmod 0 /a/b/c /a/b /a'",
    );
    home.ok("rm c");
    home.assert_nothing_left();
}
