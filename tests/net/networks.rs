//! Several networks: who reaches whom, and what is left of that when the leader is killed.

use super::lab::{HOST, Lab, cases};
use super::ports::run;
use super::repair::{kill_leader, reaches_out, wait_for_successor};
use super::service::Service;
use crate::support::home::{Home, wait_until};

cases! {
    networks_are_apart_and_internal_ones_lead_nowhere,
    a_container_in_three_networks_is_reached_over_each,
    fifty_networks_are_there_at_once.limit_secs(180),
}

/// Whether the service of a container answers at a name or an address.
fn answers(home: &Home, from: &str, to: &str) -> bool {
    let line = format!("exec {from} sh -c 'nc -w 2 {to} 80 < /dev/null | head -n 1'");
    home.run(&line).stdout().trim().parse::<std::net::SocketAddr>().is_ok()
}

fn address(home: &Home, name: &str, network: &str) -> String {
    home.inspect(name, &format!("{{{{(index .NetworkSettings.Networks \"{network}\").IPAddress}}}}"))
}

fn networks_are_apart_and_internal_ones_lead_nowhere(lab: &Lab) {
    let home = &lab.home;
    home.ok("network create red");
    home.ok("network create --internal blue");
    for (name, network) in [("r1", "red"), ("r2", "red"), ("b1", "blue"), ("b2", "blue")] {
        run(home, name, &format!("--network {network}"));
    }
    run(home, "d", "");
    let _services = ["r1", "b1", "d"].map(|name| Service::start(home, name, 80));
    let (red, blue) = (address(home, "r1", "red"), address(home, "b1", "blue"));
    let default = address(home, "d", "podman");
    let look = |when: &str| {
        assert!(answers(home, "r2", &red) && answers(home, "r2", "r1"), "{when}: within red");
        assert!(answers(home, "b2", &blue) && answers(home, "b2", "b1"), "{when}: within blue");
        for (from, to) in [("r2", &blue), ("r2", &default), ("b2", &red), ("b2", &default), ("d", &red), ("d", &blue)] {
            assert!(!answers(home, from, to), "{when}: {from} reaches {to}");
        }
        assert!(reaches_out(lab, "r1"), "{when}: red leads out");
        assert!(!reaches_out(lab, "b1"), "{when}: blue leads out");
    };
    look("at first");
    let killed = kill_leader(home);
    // Nothing is open that was not, not even for a moment.
    assert!(!answers(home, "d", &red) && !answers(home, "r2", &blue));
    wait_for_successor(home, killed);
    wait_until("names and the way out are back", || answers(home, "r2", "r1") && reaches_out(lab, "r1"));
    look("with the successor");
}

fn a_container_in_three_networks_is_reached_over_each(lab: &Lab) {
    let home = &lab.home;
    let networks = ["one", "two", "three"];
    for network in networks {
        home.ok(&format!("network create {network}"));
        run(home, &format!("in-{network}"), &format!("--network {network}"));
    }
    run(home, "hub", "--network one --network two -p 18080:80");
    home.ok("network connect three hub");
    let _service = Service::start(home, "hub", 80);
    let each = || networks.iter().all(|network| answers(home, &format!("in-{network}"), "hub"));
    assert!(each());
    let addresses = || networks.map(|network| address(home, "hub", network));
    let before = addresses();
    let killed = kill_leader(home);
    wait_for_successor(home, killed);
    wait_until("it is found by name again", each);
    assert_eq!(addresses(), before);
    lab.outside(|| super::ports::Flow::open(std::net::SocketAddr::new(HOST, 18080)).unwrap());
    // The successor knows it well enough to take it out of one.
    home.ok("network disconnect two hub");
    assert!(!answers(home, "in-two", &before[1]));
    assert!(answers(home, "in-one", "hub") && answers(home, "in-three", "hub"));
    home.ok("network connect two hub");
    assert!(each());
}

fn fifty_networks_are_there_at_once(lab: &Lab) {
    let home = &lab.home;
    for number in 0..50 {
        home.ok(&format!("network create n{number}"));
    }
    let all: Vec<String> = (0..50).map(|number| format!("--network n{number}")).collect();
    run(home, "hub", &all.join(" "));
    run(home, "last", "--network n49");
    let _service = Service::start(home, "hub", 80);
    assert_eq!(home.ok("exec hub ls /sys/class/net").split_whitespace().count(), 51);
    assert!(answers(home, "last", "hub"));
    let killed = kill_leader(home);
    wait_for_successor(home, killed);
    wait_until("it is found by name again", || answers(home, "last", "hub"));
    run(home, "first", "--network n0");
    assert!(answers(home, "first", "hub"));
}
