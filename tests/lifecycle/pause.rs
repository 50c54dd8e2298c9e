//! `pause` and `unpause`: nothing of a container moves, whatever it was about to do, and everything goes on.

use crate::support::home::wait_until;
use crate::support::prelude::*;

pub(crate) const TESTS: &[Test] = &[
    test!(paused_container_stands_still_and_goes_on),
    test!(processes_that_fork_without_end_stand_still),
    test!(programs_of_exec_stand_still_too),
    test!(paused_container_refuses_exec_and_start),
    test!(wrong_states_are_named),
    test!(paused_container_can_be_ended),
    test!(paused_container_restarts),
    test!(all_filter_and_latest_choose),
];

/// Sends the container's output to a file that only grows while it runs.
const BUSY: &str = "sh -c 'while :; do echo x; done > /v/out'";

fn busy(home: &Home, program: &str) {
    home.ok(&format!("run -d --name c -v vol:/v busybox {program}"));
    wait_until("it works", || size(home) > 0);
}

fn size(home: &Home) -> u64 {
    let path = home.inspect("c", "{{(index .Mounts 0).Source}}");
    std::fs::metadata(std::path::Path::new(&path).join("out")).map_or(0, |file| file.len())
}

/// Nothing grows while other containers come and go.
fn stands_still(home: &Home) {
    let before = size(home);
    for _ in 0..3 {
        home.ok("run --rm --network none busybox true");
    }
    assert_eq!(size(home), before);
}

fn goes_on(home: &Home) {
    let before = size(home);
    wait_until("it goes on", || size(home) > before);
}

fn paused_container_stands_still_and_goes_on(home: &Home) {
    busy(home, BUSY);
    assert_eq!(home.ok("pause c"), "c");
    let state = "{{.State.Status}} {{.State.Paused}} {{.State.Running}}";
    assert_eq!(home.inspect("c", state), "paused true false");
    assert_eq!(home.ok("ps -a --format '{{.Names}}|{{.Status}}|{{.State}}'"), "c|Paused|paused");
    assert_eq!(home.ok("ps -aq --filter status=paused").len(), 12);
    stands_still(home);
    assert_eq!(home.ok("unpause c"), "c");
    assert_eq!(home.inspect("c", state), "running false true");
    goes_on(home);
    home.ok("rm -f -t 0 c");
}

fn processes_that_fork_without_end_stand_still(home: &Home) {
    busy(home, "sh -c 'for i in 1 2 3; do (while :; do sh -c \"echo x >> /v/out\"; done) & done; wait'");
    for _ in 0..5 {
        home.ok("pause c");
        stands_still(home);
        home.ok("unpause c");
        goes_on(home);
    }
    home.ok("rm -f -t 0 c");
}

fn programs_of_exec_stand_still_too(home: &Home) {
    home.ok("run -d --name c -v vol:/v busybox sleep 1000");
    home.ok(&format!("exec -d c {BUSY}"));
    wait_until("it works", || size(home) > 0);
    home.ok("pause c");
    stands_still(home);
    home.ok("unpause c");
    goes_on(home);
    home.ok("rm -f -t 0 c");
}

fn paused_container_refuses_exec_and_start(home: &Home) {
    home.ok("run -d --name c busybox sleep 1000");
    home.ok("pause c");
    let said = home.fails(255, "exec c true");
    assert!(said.contains("container state improper"), "{said}");
    home.fails(125, "start c");
    let said = home.fails(2, "rm c");
    assert!(said.contains("as it is paused"), "{said}");
    home.ok("rm -f -t 0 c");
}

fn wrong_states_are_named(home: &Home) {
    let id = home.ok("create --name c busybox sleep 1000");
    assert!(home.fails(125, "pause c").contains("\"created\" is not running, can't pause: container state improper"));
    assert!(home.fails(125, "unpause c").contains(&format!("{id:?} is not paused, can't unpause")));
    home.ok("start c");
    home.ok("pause c");
    assert!(home.fails(125, "pause c").contains(&format!("{id:?} is already paused: container state improper")));
    home.fails(125, "pause nosuch");
    home.fails(125, "pause");
    home.ok("rm -f -t 0 c");
}

fn paused_container_can_be_ended(home: &Home) {
    let trap = "sh -c 'trap \"exit 7\" TERM; echo ready; while :; do sleep 0.05; done'";
    for (end, code) in [("stop -t 60", "7"), ("kill", "137"), ("kill -s TERM", "7")] {
        home.ok(&format!("run -d --name c busybox {trap}"));
        wait_until("it is ready", || home.ok("logs c").contains("ready"));
        home.ok("pause c");
        home.ok(&format!("{end} c"));
        home.wait_for_status("c", "exited");
        assert_eq!(home.inspect("c", "{{.State.ExitCode}}"), code, "{end}");
        home.ok("rm c");
    }
    home.ok("run -d --name c busybox sleep 1000");
    home.ok("pause c");
    home.ok("rm -f -t 0 c");
    assert_eq!(home.ok("ps -aq"), "");
}

fn paused_container_restarts(home: &Home) {
    home.ok("run -d --name c busybox sleep 1000");
    home.ok("pause c");
    home.ok("restart -t 0 c");
    assert_eq!(home.inspect("c", "{{.State.Status}}"), "running");
    home.ok("exec c true");
    home.ok("rm -f -t 0 c");
}

fn all_filter_and_latest_choose(home: &Home) {
    let a = home.ok("run -d --name a --label x=1 busybox sleep 1000");
    let b = home.ok("run -d --name b busybox sleep 1000");
    home.ok("create --name n busybox sleep 1000");
    assert_eq!(home.ok("pause --all"), format!("{a}\n{b}"));
    assert_eq!(home.ok("pause --all"), "");
    assert_eq!(home.ok("unpause --filter label=x=1"), a);
    assert_eq!(home.ok("unpause -a"), b);
    home.ok("rm n");
    assert_eq!(home.ok("container pause -l"), b);
    assert_eq!(home.ok("container unpause --latest"), b);
    home.ok("rm -f -t 0 a b");
}
