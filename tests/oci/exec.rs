//! `exec`: programs in a running container.

use std::fs;

use serde_json::json;

use super::Bundle;
use crate::support::prelude::*;
use crate::support::reaper;

pub(crate) const TESTS: &[Test] = &[
    test!(program_runs_in_the_container_with_its_environment).without_image(),
    test!(command_line_changes_the_process).without_image(),
    test!(process_comes_from_a_file).without_image(),
    test!(detached_program_is_nobodys_child).without_image(),
    test!(terminal_is_the_callers).without_image(),
    test!(only_running_containers_execute).without_image(),
];

fn running<'h>(home: &'h Home) -> Bundle<'h> {
    let bundle = Bundle::new(home)
        .script("exec sleep 1000")
        .with(|config| config["process"]["env"] = json!(["PATH=/bin", "A=container"]));
    bundle.create("one");
    bundle.ok("start one");
    bundle
}

fn program_runs_in_the_container_with_its_environment(home: &Home) {
    let bundle = running(home);
    let pid = bundle.state("one")["pid"].as_i64().unwrap();
    let finished = bundle.oci("exec one sh -c 'read l; echo $A $l; echo no >&2; exit 9'").stdin("in\n").run();
    finished.exits(9);
    assert_eq!((finished.stdout(), finished.stderr()), ("container in\n".to_owned(), "no\n".to_owned()));
    bundle.oci("exec one sh -c 'kill -9 $$'").run().exits(137);
    for kind in ["pid", "mnt", "uts", "ipc", "user", "cgroup"] {
        let theirs = bundle.ok(&format!("exec one readlink /proc/self/ns/{kind}"));
        assert_eq!(theirs, fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap().to_str().unwrap());
    }
    let status = bundle.ok("exec one grep -E '^(NoNewPrivs|CapBnd):' /proc/self/status");
    assert_eq!(status, bundle.ok("exec one grep -E '^(NoNewPrivs|CapBnd):' /proc/1/status"));
    let missing = bundle.oci("exec one nowhere").run();
    assert_eq!(missing.fails(127), "Error: executable file `nowhere` not found in $PATH: no such file or directory");
    assert_eq!(bundle.oci("exec one /bin").run().fails(126), "Error: exec /bin: is a directory: permission denied");
}

fn command_line_changes_the_process(home: &Home) {
    let bundle = running(home);
    assert_eq!(bundle.ok("exec -e A=other -e B=b --cwd /bin one sh -c 'echo $A $B; pwd'"), "other b\n/bin");
    let bounding = |options: &str| bundle.ok(&format!("exec {options} one grep CapEff /proc/self/status"));
    assert_eq!(bounding(""), "CapEff:\t0000000020000420");
    assert_eq!(bounding("--cap CAP_CHOWN -c sys_admin"), "CapEff:\t0000000020200421");
    assert_eq!(bundle.ok("exec --no-new-privs one grep NoNewPrivs /proc/self/status"), "NoNewPrivs:\t1");
    assert!(bundle.fails("exec --user somebody one true").contains("must be UID or UID:GID"));
    assert!(bundle.fails("exec --user 5 one true").contains("user 5:0 has no id"));
    assert!(bundle.fails("exec one").contains("a program is needed"));
    assert!(bundle.fails("exec --apparmor x one true").contains("--apparmor x: not supported"));
    assert!(bundle.fails("exec --cwd relative one true").contains("must be an absolute path"));
}

fn process_comes_from_a_file(home: &Home) {
    let bundle = running(home);
    let process = json!({ "user": { "uid": 0, "gid": 0, "umask": 0o77 }, "cwd": "/bin", "env": ["PATH=/bin", "X=y"],
        "args": ["sh", "-c", "pwd; umask; echo $X$A; grep CapEff /proc/self/status"] });
    let file = home.write("process.json", process.to_string());
    let printed = bundle.oci("exec one --process").arg(&file).run().ok();
    assert_eq!(printed, "/bin\n0077\ny\nCapEff:\t0000000000000000");
    fs::write(&file, "{").unwrap();
    assert!(bundle.oci("exec one --process").arg(&file).run().fails(1).contains("process.json: "));
}

fn detached_program_is_nobodys_child(home: &Home) {
    let bundle = running(home);
    bundle.detached("exec --detach --pid-file pid one sleep 2000").0.ok();
    let pid: u32 = fs::read_to_string(bundle.dir.join("pid")).unwrap().parse().unwrap();
    crate::support::home::wait_until("the program runs", || reaper::command_line(pid).contains("sleep 2000"));
    bundle.ok("delete --force one");
    crate::support::home::wait_until("it ended with the container", || !reaper::is_alive(pid));
}

fn terminal_is_the_callers(home: &Home) {
    let bundle = running(home);
    let command = bundle.oci("exec --tty one sh -c 'tty; read line; echo got $line; exit 4'");
    let mut terminal = crate::support::pty::Terminal::start(command);
    terminal.expect("/dev/pts/0");
    terminal.send("words\n");
    terminal.expect("got words");
    assert_eq!(terminal.wait(), 4);
}

fn only_running_containers_execute(home: &Home) {
    let bundle = Bundle::new(home).script("exec sleep 1000");
    assert_eq!(bundle.fails("exec one true"), "Error: container one does not exist");
    bundle.create("one");
    assert_eq!(bundle.fails("exec one true"), "Error: cannot execute in container one: it is created");
    bundle.ok("start one");
    bundle.ok("exec one true");
    bundle.ok("kill one KILL");
    bundle.wait_for_status("one", "stopped");
    assert_eq!(bundle.fails("exec one true"), "Error: cannot execute in container one: it is stopped");
}
