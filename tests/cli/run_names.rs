//! `run`: what containers call each other, the host and the world.

use std::fs;

use crate::support::home::wait_until;
use crate::support::prelude::*;

pub(crate) const TESTS: &[Test] = &[
    test!(containers_of_the_default_network_find_each_other).needs(&[Need::Tun]),
    test!(links_and_aliases_are_names).needs(&[Need::Tun]),
    test!(resolv_conf_of_a_bridge_names_the_bridge).needs(&[Need::Tun]),
    test!(unknown_names_are_answered_in_time).needs(&[Need::Tun]),
    test!(names_end_with_their_container).needs(&[Need::Tun]),
    test!(ten_thousand_names_while_containers_come_and_go).needs(&[Need::Tun]),
];

const SERVE: &str = "sh -c 'echo served > /index.html; httpd -f -p 80 -h /'";

fn containers_of_the_default_network_find_each_other(home: &Home) {
    home.ok(&format!("run -d --name Web --hostname front --network-alias www busybox {SERVE}"));
    let address = home.inspect("Web", "{{.NetworkSettings.IPAddress}}");
    let short = home.inspect("Web", "{{slice .Id 0 12}}");
    // All in one container, which needs no helper to be asked again.
    let names = format!("web WEB front www {short} web.dns.podman {address}");
    let fetch = format!(
        "for name in {names}; do until wget -qO- http://$name/ | grep -q served; do sleep 0.1; done; echo $name; done"
    );
    assert_eq!(home.ok(&format!("run --rm busybox sh -c '{fetch}'")), names.replace(' ', "\n"));
    let found = home.ok("run --rm busybox nslookup web");
    assert!(found.contains(&format!("Address: {address}")) && found.contains("web.dns.podman"), "{found}");
    // There is no IPv6 address, which is an answer, and no error.
    let six = home.run("run --rm busybox nslookup -type=aaaa web.dns.podman");
    assert!(!six.stdout().contains("NXDOMAIN"), "{}", six.transcript());
    let reverse = home.ok(&format!("run --rm busybox nslookup {address}"));
    assert!(reverse.contains("name = web"), "{reverse}");
    home.ok("rm -f -t 0 Web");
}

fn links_and_aliases_are_names(home: &Home) {
    home.ok(&format!("run -d --name server busybox {SERVE}"));
    let fetch = "until wget -qO- http://db/ | grep -q served; do sleep 0.1; done; nslookup db.dns.podman";
    let run = home.run(&format!("run --rm --link server:DB --network-alias other busybox sh -c '{fetch}'"));
    run.exits(0);
    assert_eq!(run.stderr(), "", "{}", run.transcript());
    // It is a name of this container alone.
    let other = home.run("run --rm busybox nslookup db.dns.podman");
    assert!(other.stdout().contains("NXDOMAIN"), "{}", other.transcript());
    home.ok("rm -f -t 0 server");
}

fn resolv_conf_of_a_bridge_names_the_bridge(home: &Home) {
    let gateway = "10.88.0.1";
    let text = home.ok("run --rm busybox cat /etc/resolv.conf");
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("search dns.podman"), "{text}");
    assert_eq!(lines[1], format!("nameserver {gateway}"), "{text}");
    assert!(!lines[2..].iter().any(|line| line.starts_with("nameserver")), "{text}");
    let hosts = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    for option in hosts.lines().filter_map(|line| line.strip_prefix("options ")) {
        assert!(text.contains(option), "{text}");
    }
    // Others are asked by the bridge, so that names of containers are found all the same.
    let text =
        home.ok("run --rm --dns 192.0.2.1 --dns-search a.example --dns-option ndots:3 busybox cat /etc/resolv.conf");
    assert_eq!(text, format!("search a.example\nnameserver {gateway}\noptions ndots:3"));
    let text = home.ok("run --rm --dns-search . busybox cat /etc/resolv.conf");
    assert!(text.starts_with(&format!("nameserver {gateway}")), "{text}");
    let found = home.ok("run --rm --name me --dns 127.0.0.1 busybox nslookup me");
    assert!(found.contains("me.dns.podman"), "{found}");
    let hosts = home
        .ok("run --rm --name me busybox sh -c 'grep host.docker.internal /etc/hosts; nslookup host.docker.internal'");
    let address = hosts.split_whitespace().next().expect("a line of the file");
    assert!(hosts.contains("host.containers.internal") && hosts.contains(&format!("Address: {address}")), "{hosts}");
}

fn unknown_names_are_answered_in_time(home: &Home) {
    // A server that does not exist: the kernel says so at once, or nobody says anything. nslookup itself waits five seconds.
    let run = home.run("run --rm --dns 192.0.2.1 busybox nslookup -type=a example.org.");
    assert!(run.stdout().contains("SERVFAIL"), "{}", run.transcript());
    let run = home.run("run --rm busybox nslookup nosuch.dns.podman");
    assert!(run.stdout().contains("NXDOMAIN"), "{}", run.transcript());
}

fn names_end_with_their_container(home: &Home) {
    home.ok("run -d --name asker busybox sleep 1000");
    home.ok("run -d --name web busybox sleep 1000");
    let found = |name: &str| home.run(&format!("exec asker nslookup {name}.dns.podman")).stdout();
    assert!(found("web").contains("Address: 10.88."), "{}", found("web"));
    home.ok("stop -t 0 web");
    wait_until("the name is gone", || found("web").contains("NXDOMAIN"));
    home.ok("start web");
    let address = home.inspect("web", "{{.NetworkSettings.IPAddress}}");
    assert!(found("web").contains(&format!("Address: {address}")), "{}", found("web"));
    home.ok("restart -t 0 web");
    let address = home.inspect("web", "{{.NetworkSettings.IPAddress}}");
    assert!(found("web").contains(&format!("Address: {address}")), "{}", found("web"));
    home.ok("rm -f -t 0 asker web");
}

fn ten_thousand_names_while_containers_come_and_go(home: &Home) {
    home.ok("run -d --name steady busybox sleep 1000");
    // Each looks the name up. One that is lost is not asked for again.
    let once = "--dns-option attempts:1 --dns-option timeout:30";
    let ask = "n=0; while [ $n -lt 1250 ]; do out=$(wget -O /dev/null http://steady:9/ 2>&1); \
               case $out in *refused*) n=$((n + 1));; *) echo $n: $out; exit 1;; esac; done";
    let askers: Vec<String> = (0..8).map(|number| format!("asker{number}")).collect();
    for asker in &askers {
        home.ok(&format!("run -d --name {asker} {once} busybox sh -c '{ask}'"));
    }
    let is_over = || home.ok("ps -q --filter name=asker").is_empty();
    let mut round = 0;
    while round < 20 || !is_over() {
        home.ok(&format!("run --rm --name passing{round} busybox nslookup steady"));
        round += 1;
    }
    for asker in &askers {
        let status = home.ok(&format!("wait {asker}"));
        assert_eq!(status, "0", "{asker} did not find it each time: {}", home.ok(&format!("logs {asker}")));
    }
    let names = askers.join(" ");
    home.ok(&format!("rm -f -t 0 steady {names}"));
}
