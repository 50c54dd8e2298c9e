//! Health checks: found out in the container, told everywhere, acted on.

use crate::support::home::wait_until;
use crate::support::prelude::*;

pub(crate) const TESTS: &[Test] = &[
    test!(healthy_at_once),
    test!(failures_in_a_row_make_it_unhealthy),
    test!(checks_asked_for_count),
    test!(output_code_and_user_are_the_containers),
    test!(check_that_takes_too_long_fails),
    test!(failures_of_the_start_period_do_not_count),
    test!(unhealthy_is_killed_stopped_or_restarted),
    test!(another_run_starts_from_nothing),
    test!(paused_is_not_checked),
    test!(the_start_is_checked_by_itself),
    test!(a_start_that_fails_too_often_is_begun_anew),
    test!(results_are_kept_where_they_are_asked_for),
    test!(wrong_options_are_refused),
    test!(wait_for_conditions),
    test!(update_changes_policy_and_check),
    test!(no_processes_are_left_by_checks),
];

const HEALTH: &str = "{{.State.Health.Status}}";

fn healthy_at_once(home: &Home) {
    home.ok("run -d --name c --health-cmd true --health-interval 1h busybox sleep 1000");
    assert_eq!(home.ok("wait --condition healthy c"), "-1");
    assert_eq!(home.inspect("c", "{{.State.Health.Status}} {{.State.Health.FailingStreak}}"), "healthy 0");
    assert!(home.ok("ps --format {{.Status}}").ends_with(" (healthy)"));
    assert_eq!(home.ok("ps -q --filter health=healthy").len(), 12);
    assert_eq!(home.inspect("c", "{{(index .State.Health.Log 0).ExitCode}}"), "0");
    home.ok("rm -f -t 0 c");
}

fn failures_in_a_row_make_it_unhealthy(home: &Home) {
    home.ok("run -d --name c --health-cmd 'test -e /ok' --health-interval 50ms --health-retries 2 busybox sleep 1000");
    wait_until("it is unhealthy", || home.inspect("c", HEALTH) == "unhealthy");
    assert!(home.ok("ps --format {{.Status}}").ends_with(" (unhealthy)"));
    home.ok("exec c touch /ok");
    assert_eq!(home.ok("wait --condition healthy c"), "-1");
    home.ok("exec c rm /ok");
    assert_eq!(home.ok("wait --condition unhealthy c"), "-1");
    // As many results as asked for, and no more.
    wait_until("there are results", || home.inspect("c", "{{len .State.Health.Log}}") == "5");
    home.ok("rm -f -t 0 c");
}

fn checks_asked_for_count(home: &Home) {
    home.ok(
        "run -d --name c --health-cmd 'echo hi; exit 3' --health-interval disable --health-retries 2 busybox sleep 1000",
    );
    assert_eq!(home.inspect("c", "{{json .State.Health}}"), r#"{"Status":"starting","FailingStreak":0,"Log":null}"#);
    for streak in ["starting 1", "unhealthy 2"] {
        let finished = home.run("healthcheck run c");
        finished.exits(1);
        assert_eq!(finished.stdout(), "unhealthy\n");
        assert_eq!(home.inspect("c", "{{.State.Health.Status}} {{.State.Health.FailingStreak}}"), streak);
    }
    assert_eq!(home.inspect("c", "{{(index .State.Health.Log 1).Output}}"), "hi\n");
    let check = home.inspect("c", "{{json .Config.Healthcheck}}");
    assert_eq!(check, r#"{"Test":["CMD-SHELL","echo hi; exit 3"],"Timeout":30000000000,"Retries":2}"#);
    home.ok("rm -f -t 0 c");
    home.ok("run -d --name n busybox sleep 1000");
    assert!(home.fails(125, "healthcheck run n").contains("has no defined healthcheck"));
    home.ok("rm -f -t 0 n");
    home.ok("create --name s --health-cmd true busybox true");
    assert!(home.fails(125, "healthcheck run s").contains("is not running"));
}

fn output_code_and_user_are_the_containers(home: &Home) {
    home.ok(
        "run -d --name c -u 12:34 -e WHO=me -w /tmp --health-interval disable \
         --health-cmd 'id -u; id -g; echo $WHO; pwd; echo err >&2; grep -c . /etc/passwd > /dev/null' busybox sleep 1000",
    );
    home.ok("healthcheck run c");
    let output = home.inspect("c", "{{(index .State.Health.Log 0).Output}}");
    assert_eq!(output, "12\n34\nme\n/tmp\nerr\n");
    home.ok("rm -f -t 0 c");
    // No shell, and no such program.
    home.ok(r#"run -d --name c --health-interval disable --health-cmd '["/nosuch", "x"]' busybox sleep 1000"#);
    home.run("healthcheck run c").exits(1);
    assert_eq!(home.inspect("c", "{{(index .State.Health.Log 0).ExitCode}}"), "127");
    home.ok("rm -f -t 0 c");
    // With ids of its own.
    home.ok("run -d --name c --userns keep-id --health-cmd 'test $(id -u) -gt 0' --health-interval disable busybox sleep 1000");
    home.ok("healthcheck run c");
    home.ok("rm -f -t 0 c");
}

fn the_start_is_checked_by_itself(home: &Home) {
    home.ok(
        "run -d --name c --health-cmd 'echo regular' --health-interval disable --health-startup-cmd 'echo start; test -e /ok' \
         --health-startup-interval disable --health-startup-success 2 --health-startup-timeout 5s busybox sleep 1000",
    );
    let check = home.inspect("c", "{{json .Config.StartupHealthCheck}}");
    assert_eq!(check, r#"{"Test":["CMD-SHELL","echo start; test -e /ok"],"Timeout":5000000000,"Successes":2}"#);
    let last = "{{.State.Health.Status}} {{.State.Health.FailingStreak}} {{range .State.Health.Log}}{{.Output}}{{end}}";
    home.run("healthcheck run c").exits(1);
    assert_eq!(home.inspect("c", last), "starting 0 start\n");
    home.ok("exec c touch /ok");
    home.ok("healthcheck run c");
    home.ok("healthcheck run c");
    assert_eq!(home.inspect("c", "{{.State.Health.Status}}"), "starting", "the regular check has not been asked yet");
    home.ok("healthcheck run c");
    assert_eq!(
        home.inspect("c", last).split_whitespace().collect::<Vec<_>>(),
        ["healthy", "0", "start", "start", "start", "regular"]
    );
    home.ok("rm -f -t 0 c");
}

fn a_start_that_fails_too_often_is_begun_anew(home: &Home) {
    home.ok(
        "run -d --name c --health-cmd true --health-startup-cmd 'test -e /ok' --health-startup-interval 50ms \
         --health-startup-retries 2 --stop-timeout 0 busybox sh -c 'echo x >>/runs; test $(wc -l </runs) -lt 2 || touch /ok; sleep 1000'",
    );
    assert_eq!(home.ok("wait --condition healthy c"), "-1");
    assert_eq!(home.ok("exec c wc -l /runs"), "2 /runs");
    home.ok("rm -f -t 0 c");
}

fn results_are_kept_where_they_are_asked_for(home: &Home) {
    let directory = home.tmp().join("health");
    std::fs::create_dir(&directory).expect("the test's own directory");
    let line = "run -d --name c --health-cmd 'echo hello' --health-interval disable --health-log-destination";
    home.coracle(line).arg(&directory).arg("busybox").arg("sleep").arg("1000").run().ok();
    home.ok("healthcheck run c");
    let id = home.inspect("c", "{{.Id}}");
    let text = std::fs::read_to_string(directory.join(format!("{id}-healthcheck.log"))).expect("the log is there");
    let log: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
    assert_eq!((&log["Status"], &log["Log"][0]["Output"]), (&"healthy".into(), &"hello\n".into()), "{text}");
    assert_eq!(home.inspect("c", "{{.Config.HealthLogDestination}}"), directory.display().to_string());
    home.ok("rm -f -t 0 c");
    home.ok("run -d --name e --health-cmd 'echo hello' --health-interval disable --health-log-destination events_logger busybox sleep 1000");
    home.ok("healthcheck run e");
    let events = home.ok("events --stream=false --filter event=health_status --format json");
    assert!(events.contains("hello"), "{events}");
    home.ok("rm -f -t 0 e");
    for line in [
        "create --health-cmd true --health-log-destination /nonexistent busybox",
        "create --health-startup-cmd true busybox",
        "create --health-cmd true --health-startup-cmd true --health-startup-timeout 0s busybox",
    ] {
        home.refuses(line);
    }
}

fn check_that_takes_too_long_fails(home: &Home) {
    home.ok(
        "run -d --name c --health-cmd 'sleep 1000' --health-timeout 300ms --health-interval disable busybox sleep 1000",
    );
    let said = home.fails(125, "healthcheck run c");
    assert!(said.contains("healthcheck command exceeded timeout of 300ms"), "{said}");
    assert_eq!(home.inspect("c", "{{(index .State.Health.Log 0).ExitCode}}"), "-1");
    wait_until("the check is gone", || !home.ok("top c -eo args").contains("sleep 1000\nsleep 1000"));
    home.ok("rm -f -t 0 c");
}

fn failures_of_the_start_period_do_not_count(home: &Home) {
    home.ok(
        "run -d --name c --health-cmd 'test -e /ok' --health-interval 1h --health-retries 1 --health-start-period 1h \
         --health-start-interval 50ms busybox sleep 1000",
    );
    wait_until("it was checked", || home.inspect("c", "{{len .State.Health.Log}}") == "5");
    assert_eq!(home.inspect("c", "{{.State.Health.Status}} {{.State.Health.FailingStreak}}"), "starting 0");
    home.ok("exec c touch /ok");
    home.ok("wait --condition healthy c");
    home.ok("rm -f -t 0 c");
}

fn unhealthy_is_killed_stopped_or_restarted(home: &Home) {
    let run = |action: &str| {
        home.ok(&format!(
            "run -d --init --name c --health-cmd false --health-interval 50ms --health-retries 1 \
             --health-on-failure {action} busybox sleep 1000"
        ));
    };
    for (action, code) in [("kill", "137"), ("stop", "143")] {
        run(action);
        home.wait_for_status("c", "exited");
        assert_eq!(home.inspect("c", "{{.State.ExitCode}}"), code, "{action}");
        assert_eq!(home.inspect("c", "{{.Config.HealthcheckOnFailureAction}}"), action);
        home.ok("rm c");
    }
    run("restart");
    wait_until("it was started again", || home.inspect("c", "{{.RestartCount}}") == "2");
    home.ok("rm -f -t 0 c");
}

fn another_run_starts_from_nothing(home: &Home) {
    home.ok("run -d --init --name c --restart always --health-cmd 'test -e /tmp/ok' --health-interval 1h busybox sleep 1000");
    home.ok("exec c touch /tmp/ok");
    home.ok("healthcheck run c");
    assert_eq!(home.inspect("c", HEALTH), "healthy");
    home.ok("exec c rm /tmp/ok");
    home.ok("kill -s USR1 c");
    wait_until("it was started again", || home.inspect("c", "{{.State.Status}} {{.RestartCount}}") == "running 1");
    wait_until("it starts", || home.inspect("c", HEALTH) == "starting");
    home.ok("rm -f -t 0 c");
}

fn paused_is_not_checked(home: &Home) {
    home.ok("run -d --name c --health-cmd true --health-interval 50ms --health-retries 1 busybox sleep 1000");
    home.ok("wait --condition healthy c");
    home.ok("pause c");
    home.fails(125, "healthcheck run c");
    for _ in 0..3 {
        home.ok("run --rm --network none busybox true");
    }
    assert_eq!(home.inspect("c", HEALTH), "healthy");
    home.ok("unpause c");
    home.ok("healthcheck run c");
    home.ok("rm -f -t 0 c");
}

fn wrong_options_are_refused(home: &Home) {
    for options in [
        "--health-interval bogus --health-cmd true",
        "--health-retries 0 --health-cmd true",
        "--health-start-period -1s --health-cmd true",
        "--health-on-failure=restart",
        "--health-on-failure=bogus --health-cmd true",
        "--no-healthcheck --health-cmd true",
    ] {
        home.fails(125, &format!("create {options} busybox true"));
    }
    home.ok("create --name i --health-interval 5s busybox true");
    assert_eq!(home.inspect("i", "{{json .Config.Healthcheck}} {{json .State.Health}}"), "null null");
    home.ok("create --name n --health-cmd none busybox true");
    assert!(home.inspect("n", "{{json .Config.Healthcheck}}").starts_with(r#"{"Test":["NONE"]"#));
}

fn wait_for_conditions(home: &Home) {
    home.ok("create --name c busybox sh -c 'while ! test -e /end; do sleep 0.05; done; exit 5'");
    assert_eq!(home.ok("wait --condition created c"), "-1");
    let running = home.coracle("wait --condition running -i 20ms c").spawn();
    home.ok("start c");
    assert_eq!(running.wait().ok(), "-1");
    let paused = home.coracle("wait --condition paused --condition exited --interval 20 c").spawn();
    home.ok("pause c");
    assert_eq!(paused.wait().ok(), "-1");
    home.ok("unpause c");
    let ended = home.coracle("wait --condition exited,paused -i 20ms c").spawn();
    home.ok("exec c touch /end");
    assert_eq!(ended.wait().ok(), "5");
    home.ok("run -d --rm --name r busybox sleep 3");
    home.ok("wait --condition removed -i 20ms r");
    assert_eq!(home.ok("ps -aq --filter name=r"), "");
    home.ok("create --name n busybox true");
    assert!(home.fails(125, "wait --condition bogus n").contains("unknown container state: bogus: invalid argument"));
    home.fails(125, "wait --condition running -i bogus n");
    assert_eq!(home.ok("wait --ignore nosuch"), "-1", "as podman prints it");
}

fn update_changes_policy_and_check(home: &Home) {
    let id = home.ok("run -d --init --name c busybox sleep 1000");
    assert_eq!(home.ok("update --restart on-failure:3 c"), id);
    assert_eq!(
        home.inspect("c", "{{json .HostConfig.RestartPolicy}}"),
        r#"{"Name":"on-failure","MaximumRetryCount":3}"#
    );
    home.ok("kill -s USR1 c");
    wait_until("it was started again", || home.inspect("c", "{{.State.Status}} {{.RestartCount}}") == "running 1");
    home.ok("update --health-cmd true --health-interval 50ms c");
    home.ok("wait --condition healthy c");
    home.ok("update --health-cmd false --health-retries 1 c");
    home.ok("wait --condition unhealthy c");
    assert_eq!(home.inspect("c", "{{.Config.Healthcheck.Interval}}"), "50000000");
    home.ok("container update --no-healthcheck --restart no c");
    assert_eq!(home.inspect("c", "{{json .State.Health}}"), "null");
    home.ok("kill -s USR1 c");
    home.wait_for_status("c", "exited");
    home.fails(125, "update --restart bogus c");
    home.fails(125, "update nosuch");
    home.ok("update --restart always c");
    home.ok("start c");
    home.ok("rm -f -t 0 c");
}

fn no_processes_are_left_by_checks(home: &Home) {
    home.ok("run -d --name c --health-cmd 'sleep 1000' --health-timeout 1h --health-interval 50ms busybox sleep 1000");
    wait_until("a check is at work", || home.ok("top c -eo args").matches("sleep 1000").count() >= 2);
    home.ok("stop -t 0 c");
    home.ok("rm c");
}
