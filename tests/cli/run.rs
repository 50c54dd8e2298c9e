//! `run`: what it returns, what it prints, how it names and removes.

use std::fs;

use crate::support::home::entries;
use crate::support::prelude::*;

pub(crate) const TESTS: &[Test] = &[
    test!(exit_code_is_that_of_the_container),
    test!(missing_command_is_127),
    test!(command_that_cannot_be_executed_is_126),
    test!(unknown_image_is_125_and_one_line),
    test!(unknown_flag_is_125_and_one_line),
    test!(malformed_reference_is_125_and_one_line),
    test!(command_of_the_image_is_the_default),
    test!(stdout_and_stderr_stay_apart),
    test!(stdin_reaches_the_container_with_interactive_alone),
    test!(large_output_arrives_whole),
    test!(closed_stdout_ends_a_container_that_writes),
    test!(detached_run_prints_the_full_id),
    test!(name_in_use_is_125_and_keeps_the_first),
    test!(name_is_free_again_after_rm),
    test!(bad_name_is_refused),
    test!(run_without_rm_keeps_the_container),
    test!(run_rm_leaves_nothing),
    test!(detached_run_with_rm_removes_itself),
    test!(cidfile_holds_the_id_and_is_never_overwritten),
    test!(entrypoint_replaces_that_of_the_image),
    test!(empty_entrypoint_clears_that_of_the_image),
    test!(labels_and_annotations_are_kept),
    test!(replace_takes_the_name_over),
    test!(home_with_every_special_character),
    test!(unset_runtime_dir_is_no_obstacle),
    test!(current_directory_need_not_exist_in_the_container),
];

fn exit_code_is_that_of_the_container(home: &Home) {
    for code in [0, 1, 3, 125, 255] {
        home.run(&format!("run --rm busybox sh -c 'exit {code}'")).exits(code);
    }
    home.run("run --rm busybox sh -c 'sh -c \"kill -9 \\$\\$\"; exit $?'").exits(137);
    home.run("run --rm --init busybox sh -c 'kill -TERM $$'").exits(143);
}

fn missing_command_is_127(home: &Home) {
    let line = home.fails(127, "run --rm busybox no-such-command");
    assert!(line.contains("no-such-command"), "{line}");
    home.fails(127, "run --rm busybox /no/such/path");
}

fn command_that_cannot_be_executed_is_126(home: &Home) {
    let line = home.fails(126, "run --rm busybox /etc/passwd");
    assert!(line.contains("/etc/passwd"), "{line}");
    home.fails(126, "run --rm busybox /etc");
}

fn unknown_image_is_125_and_one_line(home: &Home) {
    let line = home.fails(125, "run --rm --pull=never no-such-image true");
    assert!(line.contains("no-such-image"), "{line}");
    home.fails(125, "run --rm --pull=never localhost/busybox:other true");
    home.fails(125, "run --rm 127.0.0.1:1/no/registry true");
}

fn unknown_flag_is_125_and_one_line(home: &Home) {
    let finished = home.run("run --rm --no-such-flag busybox true");
    finished.exits(125);
    assert!(finished.stderr().contains("--no-such-flag"), "{}", finished.transcript());
    home.run("run --rm").exits(125);
    home.run("run --rm --memory lots busybox true").exits(125);
}

fn malformed_reference_is_125_and_one_line(home: &Home) {
    for reference in ["'a/UPPER'", "'a b'", "'x:'", "'../../etc'", "'x@sha256:123'", "''"] {
        home.fails(125, &format!("run --rm {reference} true"));
    }
}

fn command_of_the_image_is_the_default(home: &Home) {
    let finished = home.coracle("run --rm -i busybox").stdin("echo from $0; exit 7\n").run();
    finished.exits(7);
    assert!(finished.stdout().contains("from /bin/sh"), "{}", finished.transcript());
}

fn stdout_and_stderr_stay_apart(home: &Home) {
    let finished = home.run("run --rm busybox sh -c 'echo out; echo err >&2'");
    assert_eq!((finished.stdout(), finished.stderr()), ("out\n".into(), "err\n".into()));
}

fn stdin_reaches_the_container_with_interactive_alone(home: &Home) {
    assert_eq!(home.coracle("run --rm -i busybox cat").stdin("hello\nthere").run().ok(), "hello\nthere");
    assert_eq!(home.coracle("run --rm busybox cat").stdin("hello").run().ok(), "");
}

fn large_output_arrives_whole(home: &Home) {
    let finished = home.run("run --rm busybox sh -c 'head -c 20000000 /dev/zero | tr \"\\000\" x; exit 4'");
    assert_eq!((finished.code(), finished.out.len()), (4, 20_000_000));
    let input = vec![b'y'; 5_000_000];
    let finished = home.coracle("run --rm -i busybox cat").stdin(&input).run();
    assert!(finished.out == input, "{} bytes came back", finished.out.len());
}

fn closed_stdout_ends_a_container_that_writes(home: &Home) {
    let mut command = home.coracle("run --rm busybox yes").under("timeout -s KILL 20").to_command();
    let mut child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null()).spawn().unwrap();
    let mut start = [0; 100];
    std::io::Read::read_exact(&mut child.stdout.take().unwrap(), &mut start).unwrap();
    assert_eq!(&start[..4], b"y\ny\n");
    let status = child.wait().unwrap();
    assert!(status.code().is_some(), "it goes on writing for ever");
}

fn detached_run_prints_the_full_id(home: &Home) {
    let id = home.ok("run -d busybox sleep 1000");
    assert!(id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    assert_eq!(home.inspect(&id[..12], "{{.Id}}"), id);
    home.wait_for_status(&id, "running");
}

fn name_in_use_is_125_and_keeps_the_first(home: &Home) {
    let id = home.ok("run -d --name web busybox sleep 1000");
    let line = home.fails(125, "run -d --name web busybox sleep 1000");
    assert!(line.contains("web"), "{line}");
    home.fails(125, "create --name web busybox");
    assert_eq!(home.inspect("web", "{{.Id}}"), id);
    assert_eq!(home.ok("ps -aq --no-trunc"), id);
}

fn name_is_free_again_after_rm(home: &Home) {
    for _ in 0..3 {
        home.ok("run --name again busybox true");
        home.ok("rm again");
        home.ok("run --rm --name again busybox true");
    }
}

fn bad_name_is_refused(home: &Home) {
    for name in ["../up", "a/b", "'a b'", "-x", ".", "'a\nb'"] {
        home.run(&format!("run --rm --name={name} busybox true")).exits(125);
    }
    let long = "n".repeat(5000);
    home.run(&format!("run --rm --name {long} busybox true")).exits(125);
}

fn run_without_rm_keeps_the_container(home: &Home) {
    home.run("run --name kept busybox sh -c 'echo written; exit 3'").exits(3);
    assert_eq!(home.inspect("kept", "{{.State.Status}} {{.State.ExitCode}}"), "exited 3");
    assert_eq!(home.ok("logs kept"), "written");
    assert_eq!(home.ok("ps -q"), "");
    assert_eq!(home.ok("ps -aq").lines().count(), 1);
}

fn run_rm_leaves_nothing(home: &Home) {
    home.ok("run --rm busybox sh -c 'mkdir -p /a/b; echo x > /a/b/c; chmod 000 /a/b; chown 5:5 /a'");
    home.run("run --rm busybox no-such-command").exits(127);
    home.run("run --rm busybox false").exits(1);
    assert_eq!(home.ok("ps -aq"), "");
    home.assert_nothing_left();
}

fn detached_run_with_rm_removes_itself(home: &Home) {
    let id = home.ok("run -d --rm --name gone busybox sleep 0.2");
    crate::support::home::wait_until("it is removed", || !home.run("inspect gone").status.success());
    assert_eq!(home.ok("ps -aq"), "");
    home.run(&format!("inspect {id}")).exits(125);
}

fn cidfile_holds_the_id_and_is_never_overwritten(home: &Home) {
    let file = home.tmp().join("cid");
    let id = home.coracle("run -d --cidfile").arg(&file).arg("busybox").arg("true").run().ok();
    assert_eq!(fs::read_to_string(&file).unwrap().trim(), id);
    home.coracle("run --rm --cidfile").arg(&file).arg("busybox").arg("true").run().fails(125);
    assert_eq!(fs::read_to_string(&file).unwrap().trim(), id);
    home.fails(125, "run --rm --cidfile /no/such/directory/cid busybox true");
}

fn entrypoint_replaces_that_of_the_image(home: &Home) {
    assert_eq!(home.ok("run --rm --entrypoint echo busybox a b"), "a b");
    assert_eq!(home.ok("run --rm --entrypoint '[\"echo\", \"one\"]' busybox two"), "one two");
    assert_eq!(home.ok("run --rm --entrypoint echo busybox"), "", "the command of the image does not go with it");
}

fn empty_entrypoint_clears_that_of_the_image(home: &Home) {
    use crate::support::image::Image;
    let image = Image::busybox().set("Entrypoint", serde_json::json!(["echo", "entry"]));
    image.set("Cmd", serde_json::json!(["cmd"])).load(home, "localhost/entry:latest");
    assert_eq!(home.ok("run --rm entry"), "entry cmd");
    assert_eq!(home.ok("run --rm entry other"), "entry other");
    assert_eq!(home.ok("run --rm --entrypoint '' entry echo plain"), "plain");
}

fn labels_and_annotations_are_kept(home: &Home) {
    let file = home.write("labels", "from=file\n# comment\n");
    home.coracle("create --name l --label one=1 -l two= --label-file").arg(&file).arg("busybox").run().ok();
    let labels = home.inspect("l", "{{json .Config.Labels}}");
    let labels: serde_json::Value = serde_json::from_str(&labels).unwrap();
    assert_eq!(labels, serde_json::json!({"one": "1", "two": "", "from": "file"}));
}

fn replace_takes_the_name_over(home: &Home) {
    let first = home.ok("run -d --name r busybox sleep 1000");
    let second = home.ok("run -d --replace --name r busybox sleep 1000");
    assert_ne!(first, second);
    assert_eq!(home.ok("ps -aq --no-trunc"), second);
}

fn home_with_every_special_character(home: &Home) {
    let odd = home.tmp().join("a:b,c=d\\e%f g\"h'i");
    fs::create_dir(&odd).unwrap();
    let archive = crate::support::image::busybox_archive().unwrap();
    home.coracle("import").arg(archive).arg("localhost/odd").env("HOME", &odd).run().ok();
    let answer = home.coracle("run --rm -v data:/data odd sh -c 'echo x > /data/f; cat /data/f /etc/hostname'");
    assert_eq!(answer.env("HOME", &odd).run().ok().lines().next(), Some("x"));
    home.coracle("volume rm data").env("HOME", &odd).run();
    assert!(entries(&odd.join(".local/share/coracle/containers")).is_empty());
}

fn unset_runtime_dir_is_no_obstacle(home: &Home) {
    let run = |line: &str| home.coracle(line).env_remove("XDG_RUNTIME_DIR").run().ok();
    // The fallback lies in a directory all tests of this user share.
    let id = run("run -d busybox sleep 1000");
    assert_eq!(run(&format!("exec {id} echo inside")), "inside");
    run(&format!("rm -f -t 0 {id}"));
    home.coracle("run --rm busybox true").env("XDG_RUNTIME_DIR", "/no/such/directory").run();
}

fn current_directory_need_not_exist_in_the_container(home: &Home) {
    let dir = home.tmp().join("only/on/the/host");
    fs::create_dir_all(&dir).unwrap();
    assert_eq!(home.coracle("run --rm busybox pwd").dir(&dir).run().ok(), "/");
}
