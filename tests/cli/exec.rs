//! `exec`

use crate::support::prelude::*;

pub(crate) const TESTS: &[Test] = &[
    test!(exec_joins_every_namespace),
    test!(exec_returns_the_code_of_its_command),
    test!(exec_takes_user_directory_and_environment),
    test!(exec_has_the_rights_of_the_container),
    test!(exec_streams),
    test!(exec_detached_goes_on),
    test!(exec_needs_a_running_container),
    test!(exec_ends_with_the_container),
    test!(exec_privileged_lifts_the_limits),
    test!(the_end_of_a_detached_program_is_an_event),
];

fn exec_joins_every_namespace(home: &Home) {
    home.ok("run -d --name c --network none busybox sleep 1000");
    for kind in ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"] {
        let both = home.ok(&format!("exec c sh -c 'readlink /proc/1/ns/{kind}; readlink /proc/self/ns/{kind}'"));
        let (first, own) = both.split_once('\n').expect("two lines");
        assert_eq!(first, own, "{kind}");
    }
    assert!(home.ok("exec c ps -o args").contains("sleep 1000"));
}

fn exec_returns_the_code_of_its_command(home: &Home) {
    home.ok("run -d --name c busybox sleep 1000");
    home.run("exec c sh -c 'exit 9'").exits(9);
    home.run("exec c sh -c 'kill -9 $$'").exits(137);
    home.fails(127, "exec c no-such-command");
    home.fails(126, "exec c /etc/passwd");
}

fn exec_takes_user_directory_and_environment(home: &Home) {
    home.ok("run -d --name c -e FROM=run -w /etc busybox sleep 1000");
    assert_eq!(home.ok("exec c sh -c 'pwd; echo $FROM; id -u'"), "/etc\nrun\n0");
    assert_eq!(
        home.ok("exec -w /tmp -u www-data -e FROM=exec -e MORE=1 c sh -c 'pwd; echo $FROM$MORE; id -u'"),
        "/tmp\nexec1\n33"
    );
    home.refuses("exec -u nosuchuser c true");
    let failed = home.run("exec -w /no/such/dir c true");
    assert!([125, 126, 127].contains(&failed.code()), "{}", failed.transcript());
}

fn exec_has_the_rights_of_the_container(home: &Home) {
    home.ok("run -d --name c --cap-drop all --cap-add CHOWN --security-opt no-new-privileges busybox sleep 1000");
    let status = "sed -n 's/^\\(CapEff\\|CapBnd\\|NoNewPrivs\\|Seccomp\\):[[:space:]]*//p' /proc/self/status";
    let line = home.coracle("exec c sh -c").arg(status).run().ok();
    assert_eq!(line, "0000000000000001\n0000000000000001\n1\n2");
}

fn exec_streams(home: &Home) {
    home.ok("run -d --name c busybox sleep 1000");
    assert_eq!(home.coracle("exec -i c cat").stdin("in and out").run().ok(), "in and out");
    assert_eq!(home.coracle("exec c cat").stdin("not read").run().ok(), "");
    let finished = home.run("exec c sh -c 'echo o; echo e >&2'");
    assert_eq!((finished.stdout(), finished.stderr()), ("o\n".into(), "e\n".into()));
    let finished = home.run("exec c head -c 10000000 /dev/zero");
    assert_eq!(finished.out.len(), 10_000_000);
}

fn exec_detached_goes_on(home: &Home) {
    home.ok("run -d --name c busybox sleep 1000");
    home.ok("exec -d c sh -c 'sleep 0.2; echo done > /flag; sleep 1000'");
    crate::support::home::wait_until("the flag is there", || home.run("exec c test -s /flag").code() == 0);
}

fn exec_needs_a_running_container(home: &Home) {
    home.ok("create --name c busybox sleep 1000");
    let line = home.fails(255, "exec c true");
    assert!(line.contains('c'), "{line}");
    home.fails(125, "exec no-such-container true");
    home.run("exec c").exits(125);
}

fn exec_ends_with_the_container(home: &Home) {
    home.ok("run -d --name c busybox sleep 1000");
    let running = home.coracle("exec c sleep 1000").spawn();
    crate::support::home::wait_until("it runs", || home.ok("exec c ps -o args").matches("sleep 1000").count() == 2);
    home.ok("kill c");
    assert_eq!(running.wait().code(), 137);
}

fn exec_privileged_lifts_the_limits(home: &Home) {
    home.ok("run -d --name c busybox sleep 1000");
    home.run("exec c sh -c 'mkdir -p /m && mount -t tmpfs none /m'").exits(1);
    home.ok("exec --privileged c sh -c 'mkdir -p /m && mount -t tmpfs none /m'");
}

fn the_end_of_a_detached_program_is_an_event(home: &Home) {
    home.ok("run -d --name box --network none busybox sleep 1000");
    let id = home.ok("exec -d box sh -c 'exit 7'");
    assert!(id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    crate::support::home::wait_until("its status is known", || {
        let line = "events --stream=false --since 5m --filter event=exec_died --format {{.ContainerExitCode}}";
        home.ok(line) == "7"
    });
    home.fails(127, "exec -d box no-such-command");
}
