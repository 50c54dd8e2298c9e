//! Limits of memory, processors, processes and devices, as far as a host without controllers can show them: what is told,
//! what stands in for them, what is remembered. `tests/vm/limits.sh` shows them kept.

use serde_json::Value;

use crate::support::prelude::*;

pub(crate) const TESTS: &[Test] = &[
    test!(a_limit_that_is_not_kept_is_one_warning_and_with_strict_an_error),
    test!(processes_are_limited_without_a_cgroup),
    test!(inspect_has_what_was_asked_for_as_podman_does),
    test!(update_changes_what_is_named_and_one_way_of_saying_it),
    test!(values_that_mean_nothing_are_refused),
];

/// Whether containers of this user can have limits of memory here.
fn has_memory(home: &Home) -> bool {
    home.ok("info -f '{{.Host.CgroupControllers}}'").contains("memory")
}

fn a_limit_that_is_not_kept_is_one_warning_and_with_strict_an_error(home: &Home) {
    let run = home.run("run --rm --network none -m 64m busybox echo ran");
    run.exits(0);
    assert_eq!(run.stdout().trim(), "ran");
    if has_memory(home) {
        assert_eq!(run.stderr(), "");
        return;
    }
    let lines: Vec<String> = run.stderr().lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), 1, "{}", run.transcript());
    assert!(lines[0].starts_with("Warning: limits of memory are not kept: "), "{}", lines[0]);
    let refused = home.fails(125, "run --name c --network none --strict -m 64m busybox true");
    assert!(refused.contains("--strict: limits of memory cannot be kept: "), "{refused}");
    home.fails(1, "container exists c");
    // What is kept all the same needs no word.
    for idle in ["--pids-limit=-1", "--cgroups=disabled", "--cgroups=no-conmon", "--memory 0", "--strict"] {
        let run = home.run(&format!("run --rm --network none {idle} busybox true"));
        assert_eq!((run.code(), run.stderr().as_str()), (0, ""), "{}", run.transcript());
    }
}

fn processes_are_limited_without_a_cgroup(home: &Home) {
    let many = "sh -c 'i=0; while [ $i -lt 80 ]; do sleep 30 & i=$((i + 1)); done; echo all'";
    let run = home.run(&format!("run --rm --network none --pids-limit 20 busybox {many}"));
    assert!(!run.stdout().contains("all"), "{}", run.transcript());
    assert!(run.stderr().to_lowercase().contains("can't fork"), "{}", run.transcript());
}

fn inspect_has_what_was_asked_for_as_podman_does(home: &Home) {
    home.ok(
        "create --name c -m 64m --memory-reservation 32m --cpus 0.5 --cpu-shares 512 --pids-limit 50 --cpuset-cpus 0 \
             --blkio-weight 500 --cgroup-parent /foo --cgroups no-conmon --cgroup-conf memory.high=10000 busybox",
    );
    let config: Value = serde_json::from_str(&home.ok("inspect -f '{{json .HostConfig}}' c")).unwrap();
    for (key, value) in [
        ("Memory", 67_108_864.into()),
        ("MemorySwap", 134_217_728.into()),
        ("MemoryReservation", 33_554_432.into()),
        ("MemorySwappiness", (-1).into()),
        ("NanoCpus", 500_000_000.into()),
        ("CpuPeriod", 100_000.into()),
        ("CpuQuota", 50_000.into()),
        ("CpuShares", 512.into()),
        ("CpusetCpus", "0".into()),
        ("PidsLimit", 50.into()),
        ("BlkioWeight", 500.into()),
        ("BlkioDeviceReadBps", Value::Array(Vec::new())),
        ("CgroupParent", "/foo".into()),
        ("Cgroups", "no-conmon".into()),
        ("CgroupConf", serde_json::json!({"memory.high": "10000"})),
    ] {
        assert_eq!(config[key], value, "{key}");
    }
    home.ok("create --name plain busybox");
    let plain: Value = serde_json::from_str(&home.ok("inspect -f '{{json .HostConfig}}' plain")).unwrap();
    assert_eq!((&plain["PidsLimit"], &plain["BlkioDeviceReadBps"]), (&0.into(), &Value::Null));
    assert_eq!((&plain["Cgroups"], &plain["MemorySwappiness"]), (&"default".into(), &0.into()));
}

fn update_changes_what_is_named_and_one_way_of_saying_it(home: &Home) {
    home.ok("create --name c -m 64m --cpu-quota 50000 --cpu-period 200000 busybox");
    home.ok("update -m 128m --cpus 2 c");
    let seen = home.ok("inspect -f '{{.HostConfig.Memory}} {{.HostConfig.MemorySwap}} {{.HostConfig.CpuQuota}} \
                        {{.HostConfig.CpuPeriod}} {{.HostConfig.NanoCpus}}' c");
    assert_eq!(seen, "134217728 268435456 200000 100000 2000000000");
    home.ok("update --cpu-quota 30000 c");
    assert_eq!(home.ok("inspect -f '{{.HostConfig.CpuQuota}} {{.HostConfig.NanoCpus}}' c"), "30000 0");
    home.fails(125, "update --cpus 1 --cpu-period 5000 c");
    home.ok("create --name swap -m 64m --memory-swap 80m busybox");
    home.fails(125, "update -m 128m swap");
}

fn values_that_mean_nothing_are_refused(home: &Home) {
    for (option, why) in [
        ("--cpus 1 --cpu-quota 5000", "--cpu-quota and --cpus cannot be set together"),
        ("--cpus 1 --cpu-period 5000", "--cpu-period and --cpus cannot be set together"),
        ("-m 64m --memory-reservation 128m", "must not be more than --memory"),
        ("--device-read-bps foo:1mb", "bad format for device path: foo:1mb"),
        ("--device-read-bps /dev/null:1mb", "not a block device"),
        ("--device-write-iops /dev/null:5k", "Number must be a positive integer"),
        ("--blkio-weight-device /dev/null:5", "invalid weight for device: /dev/null:5"),
        ("--cgroup-conf foo", "must be formatted KEY=VALUE"),
        ("--cgroup-conf cgroup.procs=1", "is not a limit"),
        ("--cgroups foo", "must be enabled, disabled, no-conmon or split"),
        ("--cgroups disabled -m 64m", "resource limits need a cgroup"),
        ("--cgroup-parent /a/../b", "a path without"),
    ] {
        let line = home.fails(125, &format!("run --rm --network none {option} busybox true"));
        assert!(line.contains(why), "{option}: {line}");
    }
}
