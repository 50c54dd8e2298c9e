//! `logs`

use std::time::Duration;

use crate::support::home::wait_until;
use crate::support::prelude::*;

pub(crate) const TESTS: &[Test] = &[
    test!(logs_keep_both_streams_apart),
    test!(logs_tail),
    test!(logs_since_and_timestamps),
    test!(logs_follow_until_the_end),
    test!(logs_follow_ends_on_interrupt_at_once),
    test!(logs_keep_any_bytes),
    test!(logs_of_a_terminal),
    test!(logs_of_several_runs_are_in_order),
    test!(logs_of_an_unknown_container),
    test!(log_flood_is_whole).limit_secs(120),
];

fn logs_keep_both_streams_apart(home: &Home) {
    home.ok("run --name l busybox sh -c 'echo out; echo err >&2; echo -n unfinished'");
    let finished = home.run("logs l");
    assert_eq!((finished.stdout().as_str(), finished.stderr().as_str()), ("out\nunfinished", "err\n"));
}

fn logs_tail(home: &Home) {
    home.ok("run --name l busybox seq 1 100");
    assert_eq!(home.ok("logs --tail 3 l"), "98\n99\n100");
    assert_eq!(home.ok("logs --tail 0 l"), "");
    assert_eq!(home.ok("logs --tail 1000 l").lines().count(), 100);
    home.fails(125, "logs --tail x l");
}

fn logs_since_and_timestamps(home: &Home) {
    home.ok("run -d --name l busybox sh -c 'echo early; sleep 2.5; echo late'");
    wait_until("it has begun", || home.ok("logs l") == "early");
    let between = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() + 1;
    home.ok("wait l");
    let stamped = home.ok("logs -t l");
    for line in stamped.lines() {
        let moment = line.split(' ').next().unwrap();
        assert!(moment.len() >= 20 && moment.contains('T'), "{line}");
    }
    assert_eq!(home.ok(&format!("logs --since {between} l")), "late");
    assert_eq!(home.ok(&format!("logs --until {between} l")), "early");
    assert_eq!(home.ok("logs --since 1h l"), "early\nlate");
    home.fails(125, "logs --since nonsense l");
}

fn logs_follow_until_the_end(home: &Home) {
    home.ok("run -d --name l busybox sh -c 'for i in 1 2 3 4 5; do echo $i; sleep 0.1; done'");
    assert_eq!(home.ok("logs -f l"), "1\n2\n3\n4\n5");
    assert_eq!(home.ok("logs -f l"), "1\n2\n3\n4\n5", "of a container that has ended");
}

fn logs_follow_ends_on_interrupt_at_once(home: &Home) {
    home.ok("run -d --name l busybox sh -c 'echo started; sleep 1000'");
    wait_until("it has started", || home.ok("logs l") == "started");
    let follow = home.coracle("logs -f l").spawn();
    std::thread::sleep(Duration::from_millis(300));
    follow.signal(nix::sys::signal::Signal::SIGINT);
    // What follows on is killed when its time is up, and that fails the test.
    follow.wait();
}

fn logs_keep_any_bytes(home: &Home) {
    let script = "printf 'a\\000b\\377\\033[31m\\r\\n'; head -c 100000 /dev/zero | tr '\\000' z; echo";
    home.coracle("run --name l busybox sh -c").arg(script).run().ok();
    let finished = home.run("logs l");
    finished.exits(0);
    let mut expected = b"a\0b\xff\x1b[31m\r\n".to_vec();
    expected.extend(vec![b'z'; 100_000]);
    expected.push(b'\n');
    assert!(finished.out == expected, "{} bytes", finished.out.len());
}

fn logs_of_a_terminal(home: &Home) {
    home.run("run --name l -t busybox sh -c 'echo one; echo two >&2'").exits(0);
    assert_eq!(home.run("logs l").out, b"one\r\ntwo\r\n");
}

fn logs_of_several_runs_are_in_order(home: &Home) {
    home.ok("run --name l busybox sh -c 'echo run'");
    home.ok("start l");
    home.ok("wait l");
    assert_eq!(home.ok("logs l"), "run\nrun");
}

fn logs_of_an_unknown_container(home: &Home) {
    let line = home.fails(125, "logs no-such-container");
    assert!(line.contains("no-such-container"), "{line}");
}

fn log_flood_is_whole(home: &Home) {
    home.coracle("run -d --name l busybox sh -c 'yes 0123456789abcdef | head -c 100000000'").limit_secs(60).run().ok();
    home.coracle("wait l").limit_secs(90).run().ok();
    assert_eq!(home.coracle("logs l").limit_secs(60).run().out.len(), 100_000_000);
}
