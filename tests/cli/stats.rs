//! `stats`: what containers use.

use serde_json::Value;

use crate::support::home::wait_until;
use crate::support::prelude::*;

pub(crate) const TESTS: &[Test] = &[
    test!(columns_and_json_are_podmans),
    test!(work_shows_as_time_and_memory),
    test!(traffic_of_the_containers_own_network_is_counted).needs(&[Need::Tun]),
    test!(containers_that_do_not_run_use_nothing),
    test!(stream_reports_again_until_nobody_reads),
    test!(bad_choices_are_refused),
];

fn report(home: &Home, line: &str) -> Vec<Value> {
    serde_json::from_str(&home.ok(&format!("stats --no-stream --format json {line}"))).unwrap()
}

fn columns_and_json_are_podmans(home: &Home) {
    let id = home.ok("run -d --name c --network none busybox sleep 1000");
    let table = home.ok("stats --no-stream");
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 2, "{table}");
    let headings: Vec<&str> = lines[0].split("  ").map(str::trim).filter(|text| !text.is_empty()).collect();
    assert_eq!(
        headings,
        ["ID", "NAME", "CPU %", "MEM USAGE / LIMIT", "MEM %", "NET IO", "BLOCK IO", "PIDS", "CPU TIME", "AVG CPU %"]
    );
    assert!(lines[1].starts_with(&format!("{}  c           ", &id[..12])), "{table}");
    assert!(home.ok("container stats --no-stream --no-trunc c").contains(&id));
    let [one] = report(home, "c").try_into().unwrap();
    let keys: Vec<&str> = one.as_object().unwrap().keys().map(String::as_str).collect();
    let podmans =
        ["id", "name", "cpu_time", "cpu_percent", "avg_cpu", "mem_usage", "mem_percent", "net_io", "block_io", "pids"];
    assert_eq!(keys, podmans);
    assert_eq!((&one["id"], &one["name"], &one["pids"]), (&id[..12].into(), &"c".into(), &"1".into()));
    assert_eq!(one["net_io"], "0B / 0B");
    assert_eq!(home.ok("stats --no-stream --format 'table {{.Name}} {{.PIDs}}'"), "NAME        PIDS\nc           1");
}

fn work_shows_as_time_and_memory(home: &Home) {
    home.ok("run -d --name busy --network none busybox sh -c 'x=$(head -c 3000000 /dev/zero | tr \"\\0\" a); while :; do :; done'");
    wait_until("it has used the processor", || {
        home.ok("stats --no-stream --format {{.CPUNano}} busy").parse::<u64>().unwrap() > 20_000_000
    });
    let memory = home.ok("stats --no-stream --format '{{.MemUsage}} {{.MemPerc}} {{.CPU}} {{.UpTime}}' busy");
    assert!(memory.contains("MB / ") && memory.contains("GB "), "{memory}");
    // Several processes, and threads, are counted each.
    home.ok("run -d --name many --network none busybox sh -c 'sleep 1000 & sleep 1000 & wait'");
    wait_until("all have started", || report(home, "many")[0]["pids"] == "3");
}

fn traffic_of_the_containers_own_network_is_counted(home: &Home) {
    home.ok("run -d --name c busybox sh -c 'ping -c 1 -w 1 10.0.2.2 > /dev/null; sleep 1000'");
    wait_until("something was sent", || report(home, "c")[0]["net_io"] != "0B / 0B");
    home.ok("run -d --name host --network host busybox sleep 1000");
    assert_eq!(report(home, "host")[0]["net_io"], "0B / 0B");
}

fn containers_that_do_not_run_use_nothing(home: &Home) {
    home.ok("create --name made --network none busybox true");
    assert_eq!(home.ok("stats --no-stream").lines().count(), 1);
    let line = home.ok("stats --no-stream --all");
    let line = line.lines().nth(1).unwrap().split_once("  ").unwrap().1.trim().to_owned();
    assert_eq!(
        line,
        "made        0.00%       0B / 0B            0.00%       0B / 0B     0B / 0B     0           0s          0.00%"
    );
    assert_eq!(report(home, "made")[0]["cpu_time"], "0s");
    home.ok("rm made");
}

fn stream_reports_again_until_nobody_reads(home: &Home) {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;
    home.ok("run -d --name c --network none busybox sleep 1000");
    let mut command = home.coracle("stats -i 1 --no-reset --format {{.Name}}").to_command();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "c");
    assert_eq!(lines.next().unwrap().unwrap(), "c");
    drop(lines);
    assert!(child.wait().unwrap().success());
}

fn bad_choices_are_refused(home: &Home) {
    for (line, why) in [
        ("stats --no-stream nosuch", "unable to get list of containers"),
        ("stats -i 0", "invalid interval, must be a positive number greater zero"),
        ("stats -i -1", "invalid interval, must be a positive number greater zero"),
        ("stats --all c", "--all, --latest and containers cannot be used together"),
    ] {
        assert!(home.refuses(line).contains(why), "{line}");
    }
}
