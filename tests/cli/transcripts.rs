//! Whole conversations, word for word. `CORACLE_TEST_UPDATE=1` writes the snapshots anew; review them as code.

use crate::support::prelude::*;
use crate::support::transcript::Transcript;

pub(crate) const TESTS: &[Test] = &[test!(life_of_a_container), test!(common_mistakes)];

fn life_of_a_container(home: &Home) {
    let mut talk = Transcript::new(home);
    talk.run("create --name web busybox sh -c 'echo started; exec sleep 1000'");
    talk.run("ps -a --format 'table {{.Names}}\\t{{.State}}'");
    talk.run("start web");
    home.wait_for_status("web", "running");
    crate::support::home::wait_until("it says so", || !home.ok("logs web").is_empty());
    talk.run("logs web");
    talk.run("exec web hostname -f");
    talk.run("exec web false");
    talk.run("stop -t 0 web");
    talk.run("ps -a --format 'table {{.Names}}\\t{{.State}}'");
    talk.run("inspect --format '{{.State.ExitCode}}' web");
    talk.run("rm web");
    talk.run("rm web");
    talk.matches("cli", "life_of_a_container");
}

fn common_mistakes(home: &Home) {
    let mut talk = Transcript::new(home);
    for line in [
        "run --rm --pull=never localhost/no-such-image true",
        "run --rm busybox no-such-command",
        "run --rm busybox /etc/passwd",
        "run --rm -v /no/such/source:/data busybox true",
        "run --rm -u nosuchuser busybox true",
        "run --rm --network no-such-network busybox true",
        "run --rm -p 80: busybox true",
        "exec no-such-container true",
        "logs no-such-container",
        "stop no-such-container",
        "rm no-such-container",
        "rmi no-such-image",
        "inspect no-such-thing",
        "nosuchcommand",
    ] {
        talk.run(line);
    }
    talk.matches("cli", "common_mistakes");
}
