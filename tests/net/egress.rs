//! What containers may reach: by name, by address, by port, and whatever they try.

use std::collections::HashMap;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::{Arc, Mutex};

use super::lab::{CLIENT, Lab, cases, ip};
use super::ports::run;
use super::repair::{kill_leader, wait_for_successor};
use super::service::Service;
use crate::support::home::{Home, wait_until};
use crate::support::needs;

cases! {
    what_is_allowed_is_reached_and_nothing_else,
    other_containers_and_published_ports_are_not_concerned,
    no_capability_lifts_the_rules,
    a_changed_answer_is_reached,
    rules_last_over_restarts_and_leaders,
    rules_hold_with_every_way_out,
    a_network_has_rules_for_whoever_has_none,
    rules_need_a_bridge,
}

/// Two more addresses outside.
const SECOND: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 8);
const THIRD: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);

/// Somebody outside who knows names, and answers at each of three addresses on two ports.
struct Outside(Arc<Mutex<HashMap<String, Ipv4Addr>>>);

impl Outside {
    fn start(lab: &Lab) -> Self {
        let names: Arc<Mutex<HashMap<String, Ipv4Addr>>> = Arc::default();
        let (listeners, socket) = lab.outside(|| {
            ip(&format!("address add {SECOND}/24 dev eth0"));
            ip(&format!("address add {THIRD}/24 dev eth0"));
            let listen = |port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).expect("a port");
            ([7080, 7081].map(listen), UdpSocket::bind((CLIENT, 53)).expect("the namespace is ours"))
        });
        for listener in listeners {
            std::thread::spawn(move || {
                for mut stream in listener.incoming().flatten() {
                    let _ = stream.write_all(b"from outside\n");
                }
            });
        }
        let known = Arc::clone(&names);
        serve_names(socket, move |name| known.lock().expect("nobody panics").get(name).copied());
        let outside = Self(names);
        for (name, address) in [("good", Ipv4Addr::new(192, 0, 2, 7)), ("evil", SECOND), ("a.wild", SECOND)] {
            outside.call(&format!("{name}.example"), address);
        }
        outside
    }

    fn call(&self, name: &str, address: Ipv4Addr) {
        self.0.lock().expect("nobody panics").insert(name.to_owned(), address);
    }
}

/// Answers whoever asks for addresses of IPv4.
pub(super) fn serve_names(socket: UdpSocket, find: impl Fn(&str) -> Option<Ipv4Addr> + Send + 'static) {
    std::thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((len, from)) = socket.recv_from(&mut query) {
            let _ = socket.send_to(&answer(&query[..len], &find), from);
        }
    });
}

/// The answer to a question for an address of IPv4; for others there is none.
fn answer(query: &[u8], found: impl Fn(&str) -> Option<Ipv4Addr>) -> Vec<u8> {
    let (mut name, mut at) = (Vec::new(), 12);
    while query[at] != 0 {
        let len = usize::from(query[at]);
        name.push(String::from_utf8_lossy(&query[at + 1..at + 1 + len]).to_lowercase());
        at += 1 + len;
    }
    let is_ipv4 = query[at + 1..at + 3] == [0, 1];
    let mut answer = query[..at + 5].to_vec();
    answer[2..4].copy_from_slice(&[0x81, 0x80]);
    answer[6..12].fill(0);
    match found(&name.join(".")) {
        None => answer[3] |= 3,
        Some(address) if is_ipv4 => {
            answer[7] = 1;
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
            answer.extend(address.octets());
        }
        Some(_) => {}
    }
    answer
}

/// Whether somebody answers there, and what is said if not.
fn reach(home: &Home, container: &str, host: &str, port: u16) -> Result<(), String> {
    reach_by(home, container, &format!("nc -w 5 {host} {port} < /dev/null"))
}

/// The same by a client that does not end its side first: early versions of pasta do not pass on what comes after that.
fn reach_patiently(home: &Home, container: &str, host: &str, port: u16) -> Result<(), String> {
    reach_by(home, container, &format!("test -p /tmp/f || mkfifo /tmp/f; nc -w 5 {host} {port} 0<>/tmp/f"))
}

fn reach_by(home: &Home, container: &str, line: &str) -> Result<(), String> {
    let finished = home.run(&format!("exec {container} sh -c '{line}'"));
    if finished.stdout() == "from outside\n" { Ok(()) } else { Err(finished.stderr().trim().to_owned()) }
}

const RULES: &str =
    "--dns 192.0.2.7 --egress allow=good.example:7080,allow=*.wild.example,allow=192.0.2.9:7081 --egress deny=*";

fn what_is_allowed_is_reached_and_nothing_else(lab: &Lab) {
    let home = &lab.home;
    let _outside = Outside::start(lab);
    run(home, "c", RULES);
    run(home, "free", "--dns 192.0.2.7");
    let refused = |host: &str, port| {
        let why = reach(home, "c", host, port).expect_err(host);
        assert!(why.contains("refused"), "{host}:{port}: {why}");
    };
    refused("192.0.2.7", 7080);
    reach(home, "c", "good.example", 7080).unwrap();
    refused("good.example", 7081);
    reach(home, "c", "192.0.2.9", 7081).unwrap();
    refused("192.0.2.9", 7080);
    refused("192.0.2.8", 7080);
    refused("evil.example", 7080);
    reach(home, "c", "a.wild.example", 7081).unwrap();
    // An address is an address, whoever is there. Only if it is names alone that are allowed are others not looked up.
    reach(home, "c", "evil.example", 7080).unwrap();
    run(home, "n", "--dns 192.0.2.7 --egress allow=good.example,allow=*.wild.example");
    reach(home, "n", "a.wild.example", 7081).unwrap();
    for name in ["evil.example", "wild.example"] {
        let why = reach(home, "n", name, 7080).expect_err(name);
        assert!(!why.contains("refused"), "{name} is looked up: {why}");
    }
    // Another name server is an address as any other.
    assert_ne!(home.run("exec c nslookup good.example 192.0.2.9").code(), 0);
    reach(home, "free", "evil.example", 7080).unwrap();
    reach(home, "free", "192.0.2.9", 7080).unwrap();
    assert_eq!(home.inspect("c", "{{len .HostConfig.Egress}}"), "4");
    // Whoever wants to know is told.
    let refusals =
        |name: &str| home.ok(&format!("events --stream=false --filter event=refuse --filter container={name}"));
    wait_until("refused packets are noted", || {
        let told = refusals("c");
        ["tcp 192.0.2.9:7080", "tcp 192.0.2.7:7081", "udp 192.0.2.9:53"].iter().all(|one| told.contains(one))
    });
    wait_until("refused names are noted", || refusals("n").contains("=evil.example"));
    assert!(!refusals("n").contains("good.example"));
    assert_eq!(refusals("free"), "");
}

fn other_containers_and_published_ports_are_not_concerned(lab: &Lab) {
    let home = &lab.home;
    run(home, "c", "-p 18080:80 --egress deny=*");
    run(home, "d", "");
    let _services = ["c", "d"].map(|name| Service::start(home, name, 80));
    for (from, to) in [("c", "d"), ("d", "c")] {
        let line = format!("exec {from} sh -c 'nc -w 5 {to} 80 < /dev/null | head -n 1'");
        assert!(home.ok(&line).trim().parse::<std::net::SocketAddr>().is_ok(), "{from} to {to}");
    }
    let client = lab.outside(|| super::ports::Flow::open((super::lab::HOST, 18080).into()).unwrap());
    assert_eq!(client.seen.ip(), CLIENT);
    // A second network is under the same rules.
    let _outside = Outside::start(lab);
    home.ok("network create more");
    home.ok("network connect more c");
    assert!(home.ok("exec c ip route").contains("eth1"));
    home.ok("network disconnect podman c");
    reach(home, "c", "192.0.2.9", 7080).unwrap_err();
    home.ok("network connect more d");
    reach(home, "d", "192.0.2.9", 7080).unwrap();
}

fn no_capability_lifts_the_rules(lab: &Lab) {
    let home = &lab.home;
    let _outside = Outside::start(lab);
    run(home, "c", &format!("--cap-add NET_ADMIN,NET_RAW {RULES}"));
    run(home, "free", "--dns 192.0.2.7");
    let other = home.inspect("free", "{{.NetworkSettings.IPAddress}}");
    reach(home, "free", "192.0.2.9", 7080).unwrap();
    home.ok("stop -t 0 free");
    home.ok(&format!(
        "exec c sh -c 'ip address add {other}/16 dev eth0; ip route replace default via 10.88.0.1 src {other}'"
    ));
    reach(home, "c", "192.0.2.9", 7080).unwrap_err();
    reach(home, "c", "192.0.2.9", 7081).unwrap_err();
    let own = home.inspect("c", "{{.NetworkSettings.IPAddress}}");
    home.ok(&format!("exec c ip route replace default via 10.88.0.1 src {own}"));
    // Another device of its own, and no rules of its own, make no difference.
    home.ok("exec c sh -c 'ip link set eth0 down; ip link set eth0 address 02:42:0a:58:00:99; ip link set eth0 up'");
    home.ok(&format!("exec c ip route replace default via 10.88.0.1 src {own}"));
    wait_until("what is allowed is reached", || reach(home, "c", "192.0.2.9", 7081).is_ok());
    reach(home, "c", "192.0.2.9", 7080).unwrap_err();
}

fn a_changed_answer_is_reached(lab: &Lab) {
    let home = &lab.home;
    let outside = Outside::start(lab);
    run(home, "c", RULES);
    reach(home, "c", "good.example", 7080).unwrap();
    reach(home, "c", "192.0.2.9", 7080).unwrap_err();
    outside.call("good.example", THIRD);
    reach(home, "c", "good.example", 7080).unwrap();
    // The same answer again changes nothing.
    reach(home, "c", "good.example", 7080).unwrap();
    outside.call("good.example", SECOND);
    reach(home, "c", "good.example", 7080).unwrap();
}

fn rules_last_over_restarts_and_leaders(lab: &Lab) {
    let home = &lab.home;
    let _outside = Outside::start(lab);
    run(home, "c", RULES);
    run(home, "d", "");
    reach(home, "c", "good.example", 7080).unwrap();
    home.ok("restart -t 0 c");
    reach(home, "c", "192.0.2.7", 7080).unwrap_err();
    reach(home, "c", "good.example", 7080).unwrap();
    for _ in 0..2 {
        let killed = kill_leader(home);
        wait_until("the way out is back", || {
            assert!(reach(home, "c", "192.0.2.9", 7080).is_err(), "it is open for a moment");
            reach(home, "d", "192.0.2.9", 7080).is_ok()
        });
        wait_for_successor(home, killed);
        wait_until("names are back", || reach(home, "c", "good.example", 7080).is_ok());
        reach(home, "c", "192.0.2.9", 7080).unwrap_err();
        reach(home, "c", "192.0.2.9", 7081).unwrap();
    }
    // The rules of the successor are the container's own, too.
    home.ok("restart -t 0 c");
    reach(home, "c", "192.0.2.7", 7080).unwrap_err();
    reach(home, "c", "good.example", 7080).unwrap();
    // Who shares its network is under its rules, and without it has none left.
    run(home, "guest", "--network container:c");
    reach(home, "guest", "192.0.2.9", 7080).unwrap_err();
    home.ok("stop -t 0 c");
    reach(home, "guest", "192.0.2.9", 7080).unwrap_err();
}

fn rules_hold_with_every_way_out(lab: &Lab) {
    let home = &lab.home;
    let _outside = Outside::start(lab);
    for way_out in ["builtin", "pasta", "slirp4netns"] {
        if way_out == "pasta" && needs::find_program(way_out).is_none() {
            continue;
        }
        let conf = format!("[network]\ndefault_rootless_network_cmd = \"{way_out}\"\n");
        let conf = home.write("containers.conf", conf);
        for (name, options) in [("c", RULES), ("free", "--dns 192.0.2.7")] {
            let line = format!("run -d --name {name} {options} busybox sleep 1000");
            home.coracle(&line).env("CONTAINERS_CONF", &conf).run().ok();
        }
        reach_patiently(home, "free", "192.0.2.9", 7080).expect(way_out);
        reach_patiently(home, "c", "192.0.2.9", 7081).expect(way_out);
        reach_patiently(home, "c", "good.example", 7080).expect(way_out);
        for (host, port) in [("192.0.2.9", 7080), ("good.example", 7081), ("evil.example", 7080)] {
            let why = reach_patiently(home, "c", host, port).expect_err(way_out);
            assert!(why.contains("refused"), "{way_out}: {host}:{port}: {why}");
        }
        home.ok("rm -f -t 0 c free");
        // The next container is to have another leader, with another way out.
        wait_until("the leader has ended", || super::repair::leader(home).is_none());
    }
}

fn a_network_has_rules_for_whoever_has_none(lab: &Lab) {
    let home = &lab.home;
    let _outside = Outside::start(lab);
    home.ok("network create --dns 192.0.2.7 --egress allow=good.example --egress deny=* jail");
    assert_eq!(home.ok("network inspect jail --format '{{.Egress}}'"), "[allow=good.example deny=*]");
    home.ok("network create other");
    let stands = |name: &str, when: &str| {
        reach(home, name, "good.example", 7080).unwrap_or_else(|why| panic!("{name}, {when}: {why}"));
        reach(home, name, "192.0.2.9", 7080).expect_err(when);
    };
    run(home, "c", "--network jail");
    run(home, "both", "--network other --network jail");
    run(home, "own", "--network jail --egress allow=192.0.2.9");
    run(home, "free", "--network other");
    stands("c", "at first");
    stands("both", "at first");
    reach(home, "own", "192.0.2.9", 7080).unwrap();
    reach(home, "free", "192.0.2.9", 7080).unwrap();
    home.ok("restart -t 0 c");
    stands("c", "started again");
    let killed = kill_leader(home);
    wait_for_successor(home, killed);
    wait_until("names are back", || reach(home, "c", "good.example", 7080).is_ok());
    stands("c", "with another leader");
    // One that runs without rules has none for its flows of before.
    let refused = home.fails(125, "network connect jail free");
    assert!(refused.contains("runs without egress rules"), "{refused}");
    home.ok("stop -t 0 free");
    home.ok("network connect jail free");
    home.ok("start free");
    stands("free", "connected");
    assert!(home.fails(125, "network create --egress deny=example.org x").contains("a host can only be allowed"));
}

fn rules_need_a_bridge(lab: &Lab) {
    let home = &lab.home;
    for mode in ["none", "host", "slirp4netns", "pasta", "builtin"] {
        let refused = home.refuses(&format!("run --rm --network {mode} --egress deny=* busybox true"));
        assert!(refused.contains("only bridge networks have rules"), "{refused}");
    }
    for (rule, why) in [
        ("allow=10.0.0.256", "neither a host, nor an address, nor a CIDR"),
        ("deny=example.org", "a host can only be allowed"),
        ("example.org", "must be allow=HOST"),
    ] {
        let refused = home.refuses(&format!("run --rm --egress {rule} busybox true"));
        assert!(refused.contains(why), "{refused}");
    }
}
