//! The life of a container, and what must be refused on the way: runtime.md, "Lifecycle" and "Operations".

use std::fs;
use std::path::Path;

use serde_json::json;

use super::{Bundle, wait_for_text};
use crate::support::prelude::*;
use crate::support::reaper;

pub(crate) const TESTS: &[Test] = &[
    test!(container_goes_from_created_to_running_to_stopped_to_nothing).without_image(),
    test!(created_container_is_one_process_and_nothing_of_ours).without_image(),
    test!(changes_of_the_bundle_after_create_have_no_effect).without_image(),
    test!(id_is_unique_until_it_is_deleted).without_image(),
    test!(create_refuses_what_is_no_bundle_and_leaves_nothing).without_image(),
    test!(program_that_is_missing_fails_create).without_image(),
    test!(program_that_cannot_be_executed_fails_start).without_image(),
    test!(bundle_without_process_can_be_created_but_not_started).without_image(),
    test!(start_is_for_created_containers_alone).without_image(),
    test!(kill_sends_any_signal_to_what_is_there).without_image(),
    test!(kill_all_reaches_every_process).without_image(),
    test!(delete_is_for_stopped_containers_unless_forced).without_image(),
    test!(run_has_the_status_of_the_process_and_leaves_nothing).without_image(),
    test!(run_passes_signals_on).without_image(),
    test!(run_keeps_or_detaches_when_asked).without_image(),
    test!(pause_and_resume).without_image(),
    test!(list_and_ps_show_what_there_is).without_image(),
    test!(killed_create_leaves_its_id_free).without_image(),
    test!(log_is_written_as_podman_reads_it).without_image(),
    test!(program_is_known_by_its_name_and_says_what_it_can).without_image(),
    test!(spec_does_not_overwrite).without_image(),
];

fn container_goes_from_created_to_running_to_stopped_to_nothing(home: &Home) {
    let bundle = Bundle::new(home)
        .script("trap 'exit 0' TERM; echo began; while :; do sleep 0.1; done")
        .with(|config| config["annotations"] = json!({ "org.example.a": "b" }));
    let (finished, output) = bundle.detached("create --pid-file pid one");
    finished.ok();
    let state = bundle.state("one");
    assert_eq!(state["status"], "created");
    assert_eq!(state["id"], "one");
    assert_eq!(state["ociVersion"], bundle.config["ociVersion"]);
    assert_eq!(state["bundle"], bundle.dir.to_str().unwrap());
    assert_eq!(state["annotations"], json!({ "org.example.a": "b" }));
    let pid = state["pid"].as_i64().unwrap();
    assert_eq!(fs::read_to_string(bundle.dir.join("pid")).unwrap(), pid.to_string());
    assert!(Path::new(&format!("/proc/{pid}")).exists());
    assert_eq!(fs::read_to_string(&output).unwrap(), "", "the program must not run before start");
    bundle.ok("start one");
    let state = bundle.state("one");
    assert_eq!((&state["status"], &state["pid"]), (&json!("running"), &json!(pid)));
    wait_for_text(&output, "began");
    bundle.ok("kill one");
    bundle.wait_for_status("one", "stopped");
    bundle.ok("delete one");
    assert_eq!(bundle.fails("state one"), "Error: container one does not exist");
    assert_eq!(bundle.ok("list -q"), "");
}

fn created_container_is_one_process_and_nothing_of_ours(home: &Home) {
    let bundle = Bundle::new(home).script("exec sleep 1000");
    bundle.create("one");
    let pid = bundle.state("one")["pid"].as_u64().unwrap() as u32;
    // What has lost its parent is a child of the process above this one.
    let all = reaper::descendants(std::os::unix::process::parent_id());
    let others = all.into_iter().filter(|other| *other != pid && *other != std::process::id());
    let ours: Vec<_> = others.map(reaper::command_line).filter(|line| line.contains("coracle")).collect();
    assert_eq!(ours, [""; 0]);
    bundle.ok("start one");
    crate::support::home::wait_until("init is the program", || reaper::command_line(pid).contains("sleep"));
}

fn changes_of_the_bundle_after_create_have_no_effect(home: &Home) {
    let bundle = Bundle::new(home).script("echo before");
    let output = bundle.create("one");
    fs::write(bundle.dir.join("config.json"), "{}").unwrap();
    bundle.ok("start one");
    wait_for_text(&output, "before");
}

fn id_is_unique_until_it_is_deleted(home: &Home) {
    let bundle = Bundle::new(home).script("exec sleep 1000");
    bundle.create("one");
    let state = bundle.state("one");
    assert_eq!(bundle.create_fails("one"), "Error: container one exists");
    assert_eq!(bundle.state("one"), state, "the first one is untouched");
    for id in ["..", "a/b", "-", "''", ".lock"] {
        let error = bundle.create_fails(id);
        assert!(error.starts_with("Error: container id ") || id == "-", "{id}: {error}");
    }
    assert!(bundle.create_fails("").contains("requires at least 1 argument"));
    bundle.ok("delete --force one");
    bundle.create("one");
}

fn create_refuses_what_is_no_bundle_and_leaves_nothing(home: &Home) {
    let bundle = Bundle::new(home);
    let config = bundle.config.clone();
    assert!(bundle.fails("create --bundle nowhere one").contains("nowhere: no such file or directory"));
    let dir = bundle.dir.clone();
    let (rootfs, file) = (dir.join("rootfs"), dir.join("config.json"));
    let refused = |text: &str, why: &str| {
        fs::write(&file, text).unwrap();
        let error = bundle.create_fails("one");
        assert!(error.contains(why), "{error}");
    };
    let changed = |pointer: &str, value: serde_json::Value| {
        let mut config = config.clone();
        *config.pointer_mut(pointer).unwrap() = value;
        config.to_string()
    };
    refused("{", "config.json: EOF while parsing");
    refused("{}", "config.json: ");
    refused(&changed("/ociVersion", json!("2.0.0")), "ociVersion: \"2.0.0\": only version 1 is known");
    refused(&changed("/root/path", json!("nothing")), "root.path: ");
    refused(&changed("/root/path", json!("config.json")), "not a directory");
    refused(&changed("/linux/namespaces", json!([])), "a private mount namespace is missing");
    refused(&changed("/linux/uidMappings", json!([])), "linux.uidMappings: missing");
    refused(&changed("/process/cwd", json!("relative")), "process.cwd: relative: must be an absolute path");
    refused(&changed("/process/terminal", json!(true)), "--console-socket is needed");
    fs::remove_file(&file).unwrap();
    assert!(bundle.create_fails("one").contains("config.json: no such file or directory"));
    assert!(bundle.fails("create --no-pivot one").contains("--no-pivot: not supported"));
    assert_eq!(bundle.ok("list -q"), "");
    assert!(rootfs.exists());
}

fn program_that_is_missing_fails_create(home: &Home) {
    let bundle = Bundle::new(home).with(|config| config["process"]["args"] = json!(["nowhere"]));
    let error = bundle.create_fails("one");
    // The words by which podman knows what it was.
    assert_eq!(error, "Error: executable file `nowhere` not found in $PATH: no such file or directory");
    assert_eq!(bundle.oci("run one").run().code(), 127);
    let bundle = bundle.with(|config| config["process"]["args"] = json!(["/bin"]));
    assert_eq!(bundle.create_fails("one"), "Error: exec /bin: is a directory: permission denied");
    assert_eq!(bundle.ok("list -q"), "");
}

fn program_that_cannot_be_executed_fails_start(home: &Home) {
    let bundle = Bundle::new(home).with(|config| config["process"]["args"] = json!(["/odd"]));
    fs::write(bundle.rootfs().join("odd"), "#!/no/such/interpreter\n").unwrap();
    crate::support::home::set_mode(&bundle.rootfs().join("odd"), 0o755);
    bundle.create("one");
    assert_eq!(bundle.fails("start one"), "Error: exec /odd: no such file or directory");
    bundle.wait_for_status("one", "stopped");
}

fn bundle_without_process_can_be_created_but_not_started(home: &Home) {
    let bundle = Bundle::new(home).with(|config| drop(config.as_object_mut().unwrap().remove("process")));
    bundle.create("one");
    assert_eq!(bundle.status("one"), "created");
    assert_eq!(bundle.fails("start one"), "Error: no command specified");
    bundle.wait_for_status("one", "stopped");
}

fn start_is_for_created_containers_alone(home: &Home) {
    let bundle = Bundle::new(home).script("exec sleep 1000");
    assert_eq!(bundle.fails("start one"), "Error: container one does not exist");
    assert!(bundle.fails("start").contains("requires at least 1 argument"));
    bundle.create("one");
    bundle.ok("start one");
    assert_eq!(bundle.fails("start one"), "Error: cannot start container one: it is running");
    assert_eq!(bundle.status("one"), "running", "to start it twice has no effect");
    bundle.ok("kill one KILL");
    bundle.wait_for_status("one", "stopped");
    assert_eq!(bundle.fails("start one"), "Error: cannot start container one: it is stopped");
}

fn kill_sends_any_signal_to_what_is_there(home: &Home) {
    let bundle = Bundle::new(home)
        .script("for s in HUP USR1 USR2; do trap \"echo $s\" $s; done; echo ready; while :; do sleep 0.1; done");
    assert_eq!(bundle.fails("kill one TERM"), "Error: container one does not exist");
    let output = bundle.create("one");
    bundle.ok("start one");
    wait_for_text(&output, "ready");
    for (typed, name) in [("HUP", "HUP"), ("SIGUSR1", "USR1"), ("12", "USR2")] {
        bundle.ok(&format!("kill one {typed}"));
        wait_for_text(&output, name);
    }
    assert_eq!(bundle.fails("kill one NONSENSE"), "Error: invalid signal: NONSENSE");
    bundle.ok("kill one 9");
    bundle.wait_for_status("one", "stopped");
    assert_eq!(bundle.fails("kill one TERM"), "Error: cannot kill container one: it is stopped");
    bundle.ok("delete one");
    // A container that waits for start can be killed as well.
    bundle.create("one");
    bundle.ok("kill one KILL");
    bundle.wait_for_status("one", "stopped");
}

fn kill_all_reaches_every_process(home: &Home) {
    let bundle = Bundle::new(home).script(
        "trap : USR1; sh -c 'trap \"echo child\" USR1; echo ready; while :; do sleep 0.1; done' & while :; do sleep 0.1; done",
    );
    let output = bundle.create("one");
    bundle.ok("start one");
    wait_for_text(&output, "ready");
    // A sleep that dies of it is started anew.
    bundle.ok("kill --all one USR1");
    wait_for_text(&output, "child");
    bundle.ok("kill -a one KILL");
    bundle.wait_for_status("one", "stopped");
    bundle.ok("kill -a one KILL");
}

fn delete_is_for_stopped_containers_unless_forced(home: &Home) {
    let bundle = Bundle::new(home).script("exec sleep 1000");
    assert_eq!(bundle.fails("delete one"), "Error: container one does not exist");
    bundle.ok("delete --force one");
    bundle.create("one");
    assert_eq!(bundle.fails("delete one"), "Error: cannot delete container one: it is created");
    assert_eq!(bundle.status("one"), "created");
    bundle.ok("start one");
    assert_eq!(bundle.fails("delete one"), "Error: cannot delete container one: it is running");
    let pid = bundle.state("one")["pid"].as_u64().unwrap() as u32;
    bundle.ok("delete --force one");
    assert_eq!(bundle.ok("list -q"), "");
    crate::support::home::wait_until("its process has ended", || !reaper::is_alive(pid));
}

fn run_has_the_status_of_the_process_and_leaves_nothing(home: &Home) {
    let bundle = Bundle::new(home).script("read line; echo \"got $line\"; echo no >&2; exit 7");
    let finished = bundle.oci("run one").stdin("words\n").run();
    finished.exits(7);
    assert_eq!((finished.stdout(), finished.stderr()), ("got words\n".to_owned(), "no\n".to_owned()));
    let bundle = bundle.script("kill -9 $$; sleep 1; kill -KILL -1; exit 3");
    bundle.oci("run one").run().exits(3);
    assert_eq!(bundle.ok("list -q"), "");
}

fn run_passes_signals_on(home: &Home) {
    let bundle = Bundle::new(home).script("trap 'echo hup; exit 5' HUP; echo $$ >/ready; while :; do sleep 0.1; done");
    let running = bundle.oci("run one").spawn();
    wait_for_text(&bundle.rootfs().join("ready"), "1");
    running.signal(nix::sys::signal::Signal::SIGHUP);
    let finished = running.wait();
    finished.exits(5);
    assert_eq!(finished.stdout(), "hup\n");
}

fn run_keeps_or_detaches_when_asked(home: &Home) {
    let bundle = Bundle::new(home).script("echo done");
    assert_eq!(bundle.ok("run --keep one"), "done");
    assert_eq!(bundle.status("one"), "stopped");
    bundle.ok("delete one");
    let bundle = bundle.script("exec sleep 1000");
    bundle.detached("run --detach one").0.ok();
    assert_eq!(bundle.status("one"), "running");
}

fn pause_and_resume(home: &Home) {
    let bundle = Bundle::new(home).script("while :; do echo tick; sleep 0.01; done");
    let output = bundle.create("one");
    assert_eq!(bundle.fails("pause one"), "Error: cannot pause container one: it is created");
    bundle.ok("start one");
    wait_for_text(&output, "tick");
    bundle.ok("pause one");
    assert_eq!(bundle.status("one"), "paused");
    let pid = bundle.state("one")["pid"].as_i64().unwrap();
    let stat = || fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let is_still = || stat().contains(") T ") || bundle.ok("ps one").contains("PID");
    assert!(is_still());
    let length = || fs::metadata(&output).unwrap().len();
    // What was written before it stood still may still arrive.
    let before = length();
    assert!(bundle.fails("exec one true").contains("it is paused"));
    assert_eq!(length(), before);
    assert_eq!(bundle.fails("pause one"), "Error: cannot pause container one: it is paused");
    bundle.ok("resume one");
    assert_eq!(bundle.status("one"), "running");
    crate::support::home::wait_until("it goes on", || length() > before);
    assert_eq!(bundle.fails("resume one"), "Error: cannot resume container one: it is running");
    bundle.ok("pause one");
    bundle.ok("delete --force one");
}

fn list_and_ps_show_what_there_is(home: &Home) {
    let bundle = Bundle::new(home).script("sleep 1000 & exec sleep 2000");
    assert_eq!(bundle.ok("list -q"), "");
    assert_eq!(bundle.ok("list -f json"), "[]");
    bundle.create("one");
    bundle.create("two");
    bundle.ok("start two");
    assert_eq!(bundle.ok("list -q"), "one\ntwo");
    let table = bundle.ok("list");
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]);
    assert_eq!((rows[1][0], rows[1][2], rows[2][0], rows[2][2]), ("one", "created", "two", "running"));
    let all: serde_json::Value = serde_json::from_str(&bundle.ok("list --format json")).unwrap();
    assert_eq!(all[1], bundle.state("two"));
    crate::support::home::wait_until("there are two processes", || bundle.ok("ps two").lines().count() == 3);
    let pids: Vec<i64> = serde_json::from_str(&bundle.ok("ps -f json two")).unwrap();
    assert!(pids.contains(&bundle.state("two")["pid"].as_i64().unwrap()), "{pids:?}");
    bundle.ok("kill two KILL");
    bundle.wait_for_status("two", "stopped");
    assert!(bundle.fails("ps two").contains("it is stopped"));
}

fn killed_create_leaves_its_id_free(home: &Home) {
    let bundle = Bundle::new(home).script("true").with(|config| {
        config["hooks"] =
            json!({ "createRuntime": [{ "path": "/bin/sh", "args": ["sh", "-c", "echo >at; exec sleep 1000"] }] });
    });
    let running = bundle.oci("create one").spawn();
    crate::support::home::wait_until("the hook runs", || bundle.dir.join("at").exists());
    assert_eq!(bundle.status("one"), "creating");
    let state = bundle.fails("start one --root");
    assert!(state.contains("--root"), "{state}");
    let hooks = reaper::descendants(running.pid());
    running.signal(nix::sys::signal::Signal::SIGKILL);
    for hook in hooks {
        let _ =
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(hook.cast_signed()), nix::sys::signal::Signal::SIGKILL);
    }
    running.wait();
    bundle.ok("delete one");
    let bundle = bundle.with(|config| drop(config.as_object_mut().unwrap().remove("hooks")));
    bundle.ok("run one");
}

fn log_is_written_as_podman_reads_it(home: &Home) {
    let bundle = Bundle::new(home);
    let failed = bundle.oci("--log-format=json --log oci-log start one").run();
    failed.exits(1);
    assert_eq!(failed.stderr(), "", "the log has it");
    let line: serde_json::Value = serde_json::from_slice(&fs::read(bundle.dir.join("oci-log")).unwrap()).unwrap();
    assert_eq!((&line["msg"], &line["level"]), (&json!("container one does not exist"), &json!("error")));
    bundle.oci("--log plain start one").run().exits(1);
    let line = fs::read_to_string(bundle.dir.join("plain")).unwrap();
    assert!(line.contains("level=error msg=\"container one does not exist\""), "{line}");
    let bundle = bundle.script("true");
    bundle.ok("--debug --log debug run one");
    assert!(fs::read_to_string(bundle.dir.join("debug")).unwrap().contains("level=debug"));
    assert!(bundle.fails("--log-level loud list").contains("--log-level"));
    assert!(bundle.fails("--log journald:x list").contains("the log is a file or standard error"));
}

fn program_is_known_by_its_name_and_says_what_it_can(home: &Home) {
    let bundle = Bundle::new(home);
    for name in ["crun", "runc", "my-coracle-oci"] {
        let link = home.tmp().join(name);
        std::os::unix::fs::symlink(crate::support::command::binary(), &link).unwrap();
        let output = std::process::Command::new(&link).arg("features").output().unwrap();
        let features: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(features["ociVersionMin"], "1.0.0");
        assert!(features["linux"]["namespaces"].as_array().unwrap().contains(&json!("user")));
        assert_eq!(features["linux"]["seccomp"]["enabled"], true);
    }
    assert!(bundle.ok("--version").contains("spec: 1."));
    assert!(bundle.ok("--help").contains("Usage: coracle oci"));
    assert!(bundle.fails("restore one").contains("unrecognized command"));
    assert!(bundle.fails("--rootless=false list").contains("without root"));
}

fn spec_does_not_overwrite(home: &Home) {
    let bundle = Bundle::new(home);
    assert!(bundle.fails("spec").contains("config.json: file exists"));
    bundle.ok("spec --file other.json");
    let spec: serde_json::Value = serde_json::from_slice(&fs::read(bundle.dir.join("other.json")).unwrap()).unwrap();
    assert_eq!(spec["linux"].get("uidMappings"), None);
}
