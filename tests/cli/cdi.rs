//! Devices by name: `--device vendor.com/class=name`, `--gpus`, and the specifications that say what they are.

use crate::support::prelude::*;

pub(crate) const TESTS: &[Test] = &[
    test!(named_device_brings_nodes_variables_mounts_and_groups),
    test!(unknown_devices_are_refused_by_name),
    test!(gpus_are_named_devices),
    test!(user_has_specifications_of_their_own),
    test!(each_start_asks_the_specification_anew),
    test!(hooks_finish_the_root),
    test!(failed_hook_is_told),
    test!(hooks_that_cannot_be_run_are_refused),
];

/// Writes a specification of `kind` and returns its directory as an option.
fn specify(home: &Home, kind: &str, text: &str) -> String {
    let text = format!("cdiVersion: 0.6.0\nkind: {kind}\n{text}");
    let path = home.write(&format!("specs/{}.yaml", kind.replace('/', "-")), text);
    format!("--cdi-spec-dir {}", path.parent().unwrap().display())
}

fn named_device_brings_nodes_variables_mounts_and_groups(home: &Home) {
    let file = home.write("driver.so", "the driver");
    let text = format!(
        "containerEdits:\n  env: [OF_ALL=1]\n  mounts:\n  - hostPath: {}\n    containerPath: /usr/lib/driver.so\n    options: \
         [ro, nosuid]\ndevices:\n- name: \"0\"\n  containerEdits:\n    env: [NUMBER=0]\n    additionalGids: [44]\n    \
         deviceNodes:\n    - path: /dev/example0\n      hostPath: /dev/null\n- name: \"1\"\n  containerEdits:\n    env: \
         [SECOND=1]\n",
        file.display()
    );
    let dir = specify(home, "example.com/thing", &text);
    let run = format!("{dir} run --rm --device example.com/thing=0");
    assert_eq!(
        home.ok(&format!(
            "{run} busybox sh -c 'echo x >/dev/example0; test -c /dev/example0 && echo $OF_ALL$NUMBER$SECOND'"
        )),
        "10"
    );
    assert_eq!(home.ok(&format!("{run} busybox cat /usr/lib/driver.so")), "the driver");
    home.fails(1, &format!("{run} busybox sh -c 'echo x >/usr/lib/driver.so'"));
    // What a specification says counts more than the command line, and is said once for two devices.
    let both = format!("{run} --device example.com/thing=1 -e NUMBER=9 busybox sh -c");
    assert_eq!(home.coracle(&both).arg("echo $NUMBER$SECOND; env | grep -c OF_ALL").run().ok(), "01\n1");
    assert!(home.ok(&format!("{run} busybox id -G")).split(' ').any(|group| group == "44"));
}

fn unknown_devices_are_refused_by_name(home: &Home) {
    let dir = specify(home, "example.com/thing", "devices:\n- name: a\n");
    let line = home
        .fails(125, &format!("{dir} run --rm --device example.com/thing=a --device example.com/thing=b busybox true"));
    assert!(line.contains("unresolvable CDI devices example.com/thing=b"), "{line}");
    // A file that could not be used is named.
    home.write("specs/broken.json", "{");
    let finished = home.run(&format!("{dir} run --rm --device example.com/other=b busybox true"));
    assert_eq!(finished.code(), 125, "{}", finished.transcript());
    assert!(finished.stderr().contains("broken.json"), "{}", finished.transcript());
    home.ok(&format!("{dir} run --rm --device example.com/thing=a busybox true"));
}

fn gpus_are_named_devices(home: &Home) {
    let devices = "devices:\n- name: all\n  containerEdits: {env: [GPU=all]}\n- name: \"0\"\n  containerEdits: {env: [GPU0=0]}\n\
                   - name: \"1\"\n  containerEdits: {env: [GPU1=1]}\n";
    let dir = specify(home, "nvidia.com/gpu", devices);
    for (value, expected) in [("all", "GPU=all"), ("1", "GPU1=1"), ("device=0,1", "GPU0=0\nGPU1=1"), ("none", "")] {
        let script = "env | grep GPU || :";
        let seen = home.coracle(&format!("{dir} run --rm --gpus {value} busybox sh -c")).arg(script).run().ok();
        assert_eq!(seen, expected, "{value}");
    }
    home.fails(125, &format!("{dir} run --rm --gpus 7 busybox true"));
}

fn user_has_specifications_of_their_own(home: &Home) {
    let spec = r#"{"cdiVersion": "0.5.0", "kind": "own.test/thing", "devices": [{"name": "x", "containerEdits": {"env": ["OWN=1"]}}]}"#;
    let path = home.write("config/cdi/own.json", spec);
    let config = path.ancestors().nth(2).unwrap();
    let line = "run --rm --device own.test/thing=x busybox sh -c 'echo $OWN'";
    assert_eq!(home.coracle(line).env("XDG_CONFIG_HOME", config).run().ok(), "1");
}

fn each_start_asks_the_specification_anew(home: &Home) {
    let version = |number: u32| format!("devices:\n- name: a\n  containerEdits: {{env: [VERSION={number}]}}\n");
    let dir = specify(home, "example.com/thing", &version(1));
    home.ok(&format!("{dir} create --name c --device example.com/thing=a busybox sh -c 'echo $VERSION'"));
    assert_eq!(home.ok("start -a c"), "1");
    specify(home, "example.com/thing", &version(2));
    assert_eq!(home.ok("start -a c"), "2");
}

fn hook(home: &Home, kind: &str, script: &str) -> String {
    let text = format!(
        "devices:\n- name: a\n  containerEdits:\n    hooks:\n    - hookName: {kind}\n      path: /bin/sh\n      args: [sh, -c, \
         {script:?}]\n      env: [WORD=done]\n"
    );
    specify(home, "example.com/thing", &text)
}

fn hooks_finish_the_root(home: &Home) {
    // As NVIDIA's do it: the state on standard input names the bundle, and that the root.
    let script = "bundle=$(sed 's/.*\"bundle\":\"\\([^\"]*\\)\".*/\\1/'); root=$(sed \
                  's/.*\"root\":{\"path\":\"\\([^\"]*\\)\".*/\\1/' $bundle/config.json); echo $WORD > $root/etc/made-by-hook";
    let dir = hook(home, "createContainer", script);
    let run = format!("{dir} run --device example.com/thing=a");
    assert_eq!(home.ok(&format!("{run} --rm busybox cat /etc/made-by-hook")), "done");
    assert_eq!(home.ok(&format!("{run} --name c busybox stat -c %a /etc/made-by-hook")), "644");
    home.ok("start -a c");
    home.fails(1, "run --rm busybox cat /etc/made-by-hook");
}

fn failed_hook_is_told(home: &Home) {
    let dir = hook(home, "createContainer", "echo no driver >&2; exit 3");
    let line = home.fails(125, &format!("{dir} run --rm --device example.com/thing=a busybox true"));
    assert!(line.contains("createContainer hook /bin/sh: exit status 3: no driver"), "{line}");
}

fn hooks_that_cannot_be_run_are_refused(home: &Home) {
    let dir = hook(home, "poststop", "true");
    let line = home.fails(125, &format!("{dir} run --rm --device example.com/thing=a busybox true"));
    assert!(line.contains("example.com/thing=a") && line.contains("poststop"), "{line}");
    let dir = hook(home, "createContainer", "true");
    home.fails(125, &format!("{dir} run --rm --pid host --device example.com/thing=a busybox true"));
}
