//! Restart policies: who is started again, how often, and who is not.

use crate::support::home::wait_until;
use crate::support::prelude::*;

pub(crate) const TESTS: &[Test] = &[
    test!(on_failure_tries_as_often_as_allowed),
    test!(on_failure_leaves_success_alone),
    test!(always_starts_again_whatever_the_code),
    test!(every_run_has_files_network_and_log),
    test!(stop_ends_a_container_between_two_runs),
    test!(stop_and_kill_are_not_answered_by_a_restart),
    test!(other_signals_leave_the_policy_alone),
    test!(rm_takes_a_container_between_two_runs),
    test!(a_killed_init_is_started_again),
    test!(a_run_in_the_foreground_ends_with_the_first_run),
    test!(rm_and_restart_go_together_only_after_failures),
    test!(user_start_counts_from_zero),
    test!(stop_is_remembered_for_the_next_boot),
    test!(restarted_root_served_by_fuse_is_mounted_again).needs(&[Need::Fuse]),
];

fn restarts(home: &Home, name: &str) -> u32 {
    home.inspect(name, "{{.RestartCount}}").parse().unwrap()
}

fn on_failure_tries_as_often_as_allowed(home: &Home) {
    home.ok("run -d --name c --restart on-failure:2 busybox sh -c 'echo run; exit 3'");
    home.wait_for_status("c", "exited");
    assert_eq!(home.inspect("c", "{{.RestartCount}} {{.State.ExitCode}} {{.State.Restarting}}"), "2 3 false");
    assert_eq!(home.ok("logs c"), "run\nrun\nrun");
    assert_eq!(
        home.inspect("c", "{{json .HostConfig.RestartPolicy}}"),
        r#"{"Name":"on-failure","MaximumRetryCount":2}"#
    );
    assert_eq!(home.ok("ps -a --format {{.Restarts}}"), "2");
}

fn on_failure_leaves_success_alone(home: &Home) {
    home.ok("run -d --name c --restart on-failure busybox true");
    home.wait_for_status("c", "exited");
    assert_eq!(restarts(home, "c"), 0);
}

fn always_starts_again_whatever_the_code(home: &Home) {
    home.ok("run -d --name c --restart always busybox true");
    wait_until("it was started twice more", || restarts(home, "c") >= 2);
    // It rests longer and longer.
    wait_until("it rests", || home.inspect("c", "{{.State.Status}}") == "restarting");
    assert_eq!(home.inspect("c", "{{.State.Restarting}} {{.State.Pid}}"), "true 0");
    let shown = home.ok("ps --format '{{.Names}} {{.Status}}'");
    assert!(shown.starts_with("c Restarting (0) ") || shown.starts_with("c Up "), "{shown}");
    home.ok("stop -t 0 c");
    assert_eq!(home.inspect("c", "{{.State.Status}} {{.State.Restarting}}"), "exited false");
}

fn every_run_has_files_network_and_log(home: &Home) {
    let script = "echo x >> /count; hostname; cat /etc/hosts | grep -c localhost; ls /sys/class/net; wc -l < /count; \
                  ls /v; touch /v/$(wc -l < /count); test $(wc -l < /count) -ge 3";
    home.ok(&format!("run -d --name c -h here -v vol:/v --restart on-failure busybox sh -c '{script}'"));
    home.wait_for_status("c", "exited");
    let log = home.ok("logs c");
    let runs: Vec<&str> = log.split("here\n").skip(1).collect();
    assert_eq!(runs.len(), 3, "{log}");
    assert_eq!(runs[0].lines().rev().take(1).collect::<Vec<_>>(), ["1"]);
    assert!(runs[2].ends_with("3\n1\n2") || runs[2].ends_with("3\n1\n2\n"), "{log}");
    // The interfaces are those of the first run.
    let interfaces = |run: &str| run.lines().skip(1).take_while(|line| line.parse::<u32>().is_err()).count();
    assert_eq!(interfaces(runs[0]), interfaces(runs[2]), "{log}");
}

fn stop_ends_a_container_between_two_runs(home: &Home) {
    home.ok("run -d --name c --restart always busybox sh -c 'exit 4'");
    wait_until("it rests for long", || restarts(home, "c") >= 3);
    wait_until("it rests", || home.inspect("c", "{{.State.Status}}") == "restarting");
    home.ok("stop c");
    assert_eq!(home.inspect("c", "{{.State.Status}} {{.State.ExitCode}}"), "exited 4");
    home.ok("rm c");
}

fn stop_and_kill_are_not_answered_by_a_restart(home: &Home) {
    for end in ["stop -t 0", "kill", "kill -s TERM"] {
        home.ok("run -d --init --name c --restart always busybox sleep 1000");
        home.ok(&format!("{end} c"));
        home.wait_for_status("c", "exited");
        assert_eq!(restarts(home, "c"), 0, "{end}");
        home.ok("start c");
        home.wait_for_status("c", "running");
        home.ok("restart -t 0 c");
        assert_eq!(home.inspect("c", "{{.State.Status}} {{.RestartCount}}"), "running 0", "{end}");
        home.ok("rm -f -t 0 c");
    }
}

fn other_signals_leave_the_policy_alone(home: &Home) {
    home.ok("run -d --init --name c --restart always busybox sleep 1000");
    home.ok("kill -s USR1 c");
    wait_until("it was started again", || restarts(home, "c") == 1);
    home.ok("rm -f -t 0 c");
}

fn rm_takes_a_container_between_two_runs(home: &Home) {
    home.ok("run -d --name c --restart always busybox true");
    wait_until("it was started again", || restarts(home, "c") >= 2);
    home.ok("rm -f -t 0 c");
    assert_eq!(home.ok("ps -aq"), "");
}

fn a_killed_init_is_started_again(home: &Home) {
    home.ok("run -d --name c --restart on-failure busybox sleep 1000");
    let pid = home.inspect("c", "{{.State.Pid}}");
    std::process::Command::new("kill").args(["-9", &pid]).status().unwrap();
    wait_until("it was started again", || restarts(home, "c") == 1);
    home.wait_for_status("c", "running");
    assert_ne!(home.inspect("c", "{{.State.Pid}}"), pid);
    home.ok("exec c true");
    home.ok("rm -f -t 0 c");
}

fn a_run_in_the_foreground_ends_with_the_first_run(home: &Home) {
    let finished = home.run("run --name c --restart on-failure:1 busybox sh -c 'echo run; exit 3'");
    finished.exits(3);
    assert_eq!(finished.stdout(), "run\n");
    home.wait_for_status("c", "exited");
    wait_until("the second run is over", || restarts(home, "c") == 1 && home.ok("logs c") == "run\nrun");
    home.ok("run -d --name w --restart on-failure:1 busybox sh -c 'sleep 0.3; exit 6'");
    assert_eq!(home.ok("wait w"), "6");
}

fn rm_and_restart_go_together_only_after_failures(home: &Home) {
    home.fails(125, "run --rm --restart always busybox true");
    home.fails(125, "run --rm --restart unless-stopped busybox true");
    home.ok("run --rm --name c --restart on-failure:1 busybox true");
    wait_until("it is gone", || home.ok("ps -aq").is_empty());
    home.run("run --rm --name c --restart on-failure:1 busybox false").exits(1);
    wait_until("it is gone", || home.ok("ps -aq").is_empty());
}

fn user_start_counts_from_zero(home: &Home) {
    home.ok("run -d --name c --restart on-failure:1 busybox false");
    home.wait_for_status("c", "exited");
    wait_until("it was started again", || restarts(home, "c") == 1);
    home.wait_for_status("c", "exited");
    home.run("start -a c").exits(1);
    wait_until("it was started again", || home.inspect("c", "{{.State.Status}} {{.RestartCount}}") == "exited 1");
}

fn stop_is_remembered_for_the_next_boot(home: &Home) {
    for (name, policy) in [("a", "always"), ("u", "unless-stopped"), ("s", "unless-stopped"), ("n", "no")] {
        home.ok(&format!("run -d --name {name} --restart {policy} busybox sleep 1000"));
    }
    home.ok("stop -t 0 a s");
    let boot = || home.ok("ps -a --filter should-start-on-boot=true --format {{.Names}} --sort names");
    assert_eq!(boot(), "a\nu");
    home.ok("start s");
    assert_eq!(boot(), "a\ns\nu");
    home.ok("rm -f -t 0 a u s n");
}

fn restarted_root_served_by_fuse_is_mounted_again(home: &Home) {
    for driver in ["fuse", "overlay-fuse"] {
        home.ok(&format!(
            "--storage-driver {driver} run -d --name c --restart on-failure busybox \
             sh -c 'echo x >> /count; cat /count; test $(wc -l < /count) -ge 3'"
        ));
        home.wait_for_status("c", "exited");
        assert_eq!(home.inspect("c", "{{.RestartCount}} {{.State.ExitCode}}"), "2 0", "{driver}");
        home.ok("rm c");
    }
}
