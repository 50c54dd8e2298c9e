//! Hooks: config.md, "POSIX-platform Hooks".

use std::fs;

use serde_json::{Value, json};

use super::{Bundle, wait_for_text};
use crate::support::prelude::*;

pub(crate) const TESTS: &[Test] = &[
    test!(hooks_run_in_order_and_read_the_state).without_image(),
    test!(hooks_run_in_the_namespaces_that_are_theirs).without_image(),
    test!(hook_that_fails_before_the_program_undoes_the_container).without_image(),
    test!(hook_that_fails_before_the_start_fails_it).without_image(),
    test!(poststart_that_fails_stops_the_container).without_image(),
    test!(poststop_that_fails_hinders_nobody).without_image(),
];

const KINDS: [&str; 6] = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

fn hook(script: &str) -> Value {
    json!([{ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"], "timeout": 20 }])
}

/// The hook of one kind in the container sees the container's files only.
fn place<'a>(bundle: &'a Bundle<'_>, kind: &str) -> &'a str {
    if kind == "startContainer" { "" } else { bundle.dir.to_str().unwrap() }
}

fn hooks_run_in_order_and_read_the_state(home: &Home) {
    let bundle = Bundle::new(home).script("echo program");
    let mut hooks = json!({});
    for kind in KINDS {
        let dir = place(&bundle, kind);
        hooks[kind] = hook(&format!("cat >{dir}/{kind}.state; echo {kind} >>{dir}/order"));
    }
    let bundle = bundle.with(|config| config["hooks"] = hooks);
    let order = bundle.dir.join("order");
    bundle.create("one");
    assert_eq!(fs::read_to_string(&order).unwrap(), "prestart\ncreateRuntime\ncreateContainer\n");
    assert!(!bundle.rootfs().join("order").exists());
    let pid = bundle.state("one")["pid"].clone();
    bundle.ok("start one");
    assert!(fs::read_to_string(&order).unwrap().ends_with("poststart\n"));
    assert_eq!(fs::read_to_string(bundle.rootfs().join("order")).unwrap(), "startContainer\n");
    bundle.wait_for_status("one", "stopped");
    bundle.ok("delete one");
    assert!(fs::read_to_string(&order).unwrap().ends_with("poststart\npoststop\n"));
    let statuses = ["creating", "creating", "creating", "created", "running", "stopped"];
    for (kind, status) in KINDS.into_iter().zip(statuses) {
        let dir = if kind == "startContainer" { bundle.rootfs() } else { bundle.dir.clone() };
        let state: Value = serde_json::from_slice(&fs::read(dir.join(format!("{kind}.state"))).unwrap()).unwrap();
        assert_eq!((&state["status"], &state["id"]), (&json!(status), &json!("one")), "{kind}");
        assert_eq!(state["bundle"], bundle.dir.to_str().unwrap(), "{kind}");
        let expected = match kind {
            "createContainer" | "startContainer" => json!(1),
            "poststop" => json!(0),
            _ => pid.clone(),
        };
        assert_eq!(state["pid"], expected, "{kind}");
    }
}

fn hooks_run_in_the_namespaces_that_are_theirs(home: &Home) {
    let bundle = Bundle::new(home).script("readlink /proc/self/ns/uts >/program");
    let mut hooks = json!({});
    for kind in KINDS {
        let dir = place(&bundle, kind);
        // After pivot_root no program of the host is there, before it none of the container's.
        hooks[kind] = hook(&format!("readlink /proc/self/ns/uts >{dir}/{kind}.uts; test -d {dir}/proc"));
    }
    fs::create_dir(bundle.dir.join("proc")).unwrap();
    let bundle = bundle.with(|config| config["hooks"] = hooks);
    bundle.ok("run one");
    let read = |name: &str| {
        let inside = bundle.rootfs().join(name);
        fs::read_to_string(if inside.exists() { inside } else { bundle.dir.join(name) }).unwrap().trim().to_owned()
    };
    let ours = fs::read_link("/proc/self/ns/uts").unwrap().to_str().unwrap().to_owned();
    for kind in ["prestart", "createRuntime", "poststart", "poststop"] {
        assert_eq!(read(&format!("{kind}.uts")), ours, "{kind}");
    }
    for kind in ["createContainer", "startContainer"] {
        assert_eq!(read(&format!("{kind}.uts")), read("program"), "{kind}");
    }
}

fn hook_that_fails_before_the_program_undoes_the_container(home: &Home) {
    let mut bundle = Bundle::new(home).script("echo program >/ran");
    for kind in ["prestart", "createRuntime", "createContainer"] {
        let stopped = bundle.dir.join("stopped");
        let poststop = hook(&format!("echo {kind} >>{}", stopped.display()));
        bundle = bundle.with(|config| {
            config["hooks"] = json!({ "poststop": poststop });
            config["hooks"][kind] = hook("echo out of order >&2; exit 3");
        });
        let error = bundle.create_fails("one");
        assert_eq!(error, format!("Error: {kind} hook /bin/sh: exit status 3: out of order"));
        assert_eq!(bundle.ok("list -q"), "");
        assert!(fs::read_to_string(stopped).unwrap().ends_with(&format!("{kind}\n")));
    }
    let bundle = bundle.with(|config| {
        config["hooks"] = json!({ "createRuntime": [{ "path": "/bin/sh",
        "args": ["sh", "-c", "exec sleep 1000"], "timeout": 1 }] })
    });
    assert_eq!(bundle.create_fails("one"), "Error: createRuntime hook /bin/sh: killed after 1 s");
    assert!(!bundle.rootfs().join("ran").exists());
}

fn hook_that_fails_before_the_start_fails_it(home: &Home) {
    let bundle = Bundle::new(home)
        .script("echo program >/ran")
        .with(|config| config["hooks"] = json!({ "startContainer": hook("exit 4") }));
    bundle.create("one");
    assert_eq!(bundle.fails("start one"), "Error: startContainer hook /bin/sh: exit status 4");
    bundle.wait_for_status("one", "stopped");
    assert!(!bundle.rootfs().join("ran").exists());
}

fn poststart_that_fails_stops_the_container(home: &Home) {
    let bundle = Bundle::new(home)
        .script("exec sleep 1000")
        .with(|config| config["hooks"] = json!({ "poststart": hook("exit 5") }));
    bundle.create("one");
    assert_eq!(bundle.fails("start one"), "Error: poststart hook /bin/sh: exit status 5");
    bundle.wait_for_status("one", "stopped");
}

fn poststop_that_fails_hinders_nobody(home: &Home) {
    let bundle = Bundle::new(home).script("true");
    let file = bundle.dir.join("second");
    let bundle = bundle.with(|config| {
        let second = hook(&format!("echo ran >{}", file.display()));
        config["hooks"] = json!({ "poststop": [hook("exit 6")[0], second[0]] });
    });
    bundle.ok("--log log --log-level warning run one");
    wait_for_text(&file, "ran");
    let log = fs::read_to_string(bundle.dir.join("log")).unwrap();
    assert!(log.contains("level=warning msg=\"poststop hook /bin/sh: exit status 6\""), "{log}");
    assert_eq!(bundle.ok("list -q"), "");
}
