//! Log drivers: where output goes, how much of it is kept, and what `logs` says of it.

use crate::support::home::wait_until;
use crate::support::prelude::*;

pub(crate) const TESTS: &[Test] = &[
    test!(a_log_grows_no_larger_than_it_may),
    test!(logs_reads_generations_as_one),
    test!(logs_follows_over_rotation),
    test!(log_in_another_place_is_read_there),
    test!(log_goes_on_over_restarts),
    test!(drivers_without_a_log_say_so),
    test!(passthrough_gives_the_commands_descriptors),
    test!(journald_needs_a_journal),
    test!(wrong_log_options_are_refused),
    test!(many_clients_see_the_same),
];

fn numbers(from: u32, to: u32) -> String {
    (from..=to).map(|number| number.to_string()).collect::<Vec<_>>().join("\n")
}

fn a_log_grows_no_larger_than_it_may(home: &Home) {
    for driver in ["k8s-file", "json-file"] {
        home.ok(&format!(
            "run --name c --log-driver {driver} --log-opt max-size=10kb busybox sh -c 'seq 1 5000 > /dev/stderr'"
        ));
        let path = home.inspect("c", "{{.HostConfig.LogConfig.Path}}");
        let size = std::fs::metadata(&path).unwrap().len();
        assert!(size > 1000 && size <= 10 * 1024, "{driver}: {size}");
        assert!(home.run("logs c").stderr().ends_with("\n4999\n5000\n"), "{driver}");
        home.ok("rm c");
    }
}

fn logs_reads_generations_as_one(home: &Home) {
    home.ok("run --name c --log-driver json-file --log-opt max-size=20kb --log-opt max-file=50 busybox seq 1 3000");
    assert_eq!(home.ok("logs c"), numbers(1, 3000));
    assert_eq!(home.ok("logs --tail 1500 c"), numbers(1501, 3000));
    let path = home.inspect("c", "{{.HostConfig.LogConfig.Path}}");
    assert!(std::path::Path::new(&format!("{path}.3")).exists());
}

fn logs_follows_over_rotation(home: &Home) {
    home.ok("run -d --name c --log-opt max-size=10kb --log-opt max-file=100 busybox \
         sh -c 'while ! test -e /go; do sleep 0.05; done; for i in $(seq 1 20); do seq 1 100; sleep 0.01; done'");
    let following = home.coracle("logs -f c").spawn();
    home.ok("exec c touch /go");
    let expected = vec![numbers(1, 100); 20].join("\n");
    assert_eq!(following.wait().ok(), expected);
}

fn log_in_another_place_is_read_there(home: &Home) {
    let path = home.tmp().join("elsewhere.log");
    let path = path.to_str().unwrap();
    home.ok(&format!("run --name c --log-opt path={path} busybox echo x"));
    assert!(std::fs::read_to_string(path).unwrap().ends_with(" stdout F x\n"));
    assert_eq!(home.inspect("c", "{{.HostConfig.LogConfig.Path}}"), path);
    assert_eq!(home.ok("logs c"), "x");
    home.fails(125, "run --rm --log-opt path=/nonexistent/x.log busybox true");
}

fn log_goes_on_over_restarts(home: &Home) {
    home.ok("run -d --name c --restart on-failure:2 --log-driver json-file busybox sh -c 'printf part; exit 1'");
    home.wait_for_status("c", "exited");
    assert_eq!(home.ok("logs c"), "partpartpart");
    home.run("start -a c").exits(1);
}

fn drivers_without_a_log_say_so(home: &Home) {
    for driver in ["none", "passthrough"] {
        assert_eq!(home.ok(&format!("run --name c --log-driver {driver} busybox echo x")), "x");
        let said = home.fails(125, "logs c");
        let expected = format!(
            "this container is using the '{driver}' log driver, cannot read logs: this container is not logging output"
        );
        assert!(said.contains(&expected), "{said}");
        assert_eq!(
            home.inspect("c", "{{.HostConfig.LogConfig.Type}}|{{.HostConfig.LogConfig.Path}}"),
            format!("{driver}|")
        );
        home.ok("rm c");
    }
}

fn passthrough_gives_the_commands_descriptors(home: &Home) {
    let finished = home.run("run --rm -d --name c --log-driver passthrough busybox sh -c 'echo out; echo err >&2'");
    finished.exits(0);
    // The command has ended; its output ends with the container.
    assert!(finished.stdout().lines().any(|line| line == "out"), "{}", finished.stdout());
    assert_eq!(finished.stderr(), "err\n");
    let finished =
        home.coracle("run --rm -i --log-driver passthrough busybox sh -c 'cat; exit 4'").stdin("typed").run();
    finished.exits(4);
    assert_eq!(finished.stdout(), "typed");
    home.fails(125, "run --rm -t --log-driver passthrough busybox true");
}

fn journald_needs_a_journal(home: &Home) {
    if std::path::Path::new("/run/systemd/journal/socket").exists() {
        home.ok("run --name c --log-driver journald busybox echo x");
        // It is for the journal to decide who may read what it keeps: see tests/vm/journald.sh.
        let read = home.run("logs c");
        assert!(read.code() == 125 || read.stdout() == "x\n" || read.stdout().is_empty(), "{}", read.transcript());
        return;
    }
    let said = home.fails(125, "run --name c --log-driver journald busybox echo x");
    assert!(said.contains("systemd journal"), "{said}");
    assert_eq!(home.ok("ps -aq"), "");
}

fn wrong_log_options_are_refused(home: &Home) {
    for options in ["--log-driver bogus", "--log-opt max-size=x", "--log-opt max-file=0", "--log-opt bogus=1"] {
        home.fails(125, &format!("create {options} busybox true"));
    }
}

fn many_clients_see_the_same(home: &Home) {
    home.ok("run -d --name c busybox sh -c 'while ! test -e /go; do sleep 0.05; done; seq 1 5000; exit 3'");
    let clients: Vec<_> = (0..8).map(|_| home.coracle("attach --no-stdin c").spawn()).collect();
    wait_until("they are attached", || clients.iter().all(|client| is_waiting(client.pid())));
    home.ok("exec c touch /go");
    for client in clients {
        let finished = client.wait();
        finished.exits(3);
        assert_eq!(finished.stdout().trim_end(), numbers(1, 5000));
    }
}

/// A client that is attached blocks in `ppoll` with its signals blocked: it has a signalfd.
fn is_waiting(pid: u32) -> bool {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let links = entries.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    links.filter(|link| link.to_string_lossy().contains("signalfd")).count() > 0
        && std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") S "))
}
