//! Names on bridges: who is answered what, and what the host's servers are asked.

use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;

use net::dns::Wishes;
use net::leader::{Ask, Connection, Endpoint};
use net::network::Network;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::bridge::{ask, attach, endpoint, network};
use crate::fixture::{Container, Leading, enter_userns};
use crate::{Case, Outcome, need};

pub(crate) const CASES: &[Case] = &[
    ("names_lead_to_containers_of_the_same_network", names_lead_to_containers_of_the_same_network),
    ("names_change_while_containers_run", names_change_while_containers_run),
    ("the_hosts_servers_are_asked_as_they_are_now", the_hosts_servers_are_asked_as_they_are_now),
];

fn named(network: Network, interface: &str, names: &[&str]) -> Endpoint {
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    Endpoint { names, ..endpoint(network, interface, &[]) }
}

/// A container in these networks, with its connection.
fn start(leading: &Leading, id: &str, endpoints: Vec<Endpoint>) -> (Container, Connection) {
    let container = Container::start();
    let leader = leading.connect();
    attach(&leader, id, &container, endpoints).expect("its networks");
    (container, leader)
}

fn names_lead_to_containers_of_the_same_network() -> Outcome {
    need!(enter_userns(true));
    let leading = Leading::start();
    let both =
        vec![named(network("one", 1), "eth0", &["db", "store"]), named(network("two", 2), "eth1", &["db", "back"])];
    let (db, _db) = start(&leading, "aaaaaaaaaaaa", both);
    let (web, _web) = start(&leading, "bbbbbbbbbbbb", vec![named(network("one", 1), "eth0", &["web"])]);
    let mute = Network { dns: false, ..network("mute", 3) };
    let (other, _other) = start(&leading, "cccccccccccc", vec![named(mute, "eth0", &["other"])]);
    let inner = Network { internal: true, ..network("inner", 4) };
    let (inner, _inner) = start(&leading, "dddddddddddd", vec![named(inner, "eth0", &["inner"])]);
    let mut askers = [db, web, other, inner];
    let [db, web, other, inner] = [0, 1, 2, 3];
    for (asker, how, found) in [
        (web, "udp 10.89.1.1 store", "0 10.89.1.2"),
        (web, "tcp 10.89.1.1 STORE.dns.podman", "0 10.89.1.2"),
        (web, "udp fd00:1::1 web", "0 10.89.1.3"),
        (web, "tcp fd00:1::1 db", "0 10.89.1.2"),
        (web, "udp 10.89.1.1 back", "3"),
        // The other networks' addresses are ours, too: what counts is who asks.
        (web, "udp 10.89.2.1 store", "0 10.89.1.2"),
        (db, "udp 10.89.2.1 web", "0 10.89.1.3"),
        (db, "udp 10.89.2.1 back", "0 10.89.2.2"),
        (other, "udp 10.89.3.1 other.dns.podman", "3"),
        (inner, "udp 10.89.4.1 inner", "0 10.89.4.2"),
        (inner, "udp 10.89.4.1 example.org", "3"),
    ] {
        assert_eq!(askers[asker].tell(&format!("look-up {how}")), found, "{how}");
    }
    Outcome::Passed
}

fn names_change_while_containers_run() -> Outcome {
    need!(enter_userns(true));
    let leading = Leading::start();
    let (mut asker, _asker) = start(&leading, "aaaaaaaaaaaa", vec![named(network("one", 1), "eth0", &["asker"])]);
    let (container, leader) = start(&leading, "bbbbbbbbbbbb", vec![named(network("two", 2), "eth0", &["web"])]);
    let mut look_up = |name: &str| asker.tell(&format!("look-up udp 10.89.1.1 {name}.dns.podman"));
    assert_eq!(look_up("web"), "3");
    let connect = Ask::Connect { endpoint: Box::new(named(network("one", 1), "eth1", &["web", "www"])) };
    ask(&leader, &connect, Some(&container));
    assert_eq!((look_up("web"), look_up("www")), ("0 10.89.1.3".into(), "0 10.89.1.3".into()));
    ask(&leader, &Ask::Names { names: [("one".to_owned(), vec!["old".to_owned()])].into() }, None);
    assert_eq!((look_up("web"), look_up("old")), ("3".into(), "0 10.89.1.3".into()));
    ask(&leader, &Ask::Disconnect { network: "one".into() }, None);
    assert_eq!(look_up("old"), "3");
    // A container that begins again is there before its last connection is gone.
    ask(&leader, &connect, Some(&container));
    let (_again, _leader) = start(&leading, "bbbbbbbbbbbb", vec![named(network("one", 1), "eth0", &["web"])]);
    drop(leader);
    let begin = std::time::Instant::now();
    while look_up("www") != "3" {
        assert!(begin.elapsed().as_secs() < 10, "names outlive their container");
    }
    assert_eq!(look_up("web"), "0 10.89.1.5");
    Outcome::Passed
}

/// A server of the host that knows one address.
fn serve(ip: &str, address: Ipv4Addr) {
    let socket = UdpSocket::bind((ip, 53)).expect("the namespace is ours");
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        loop {
            let (len, from) = socket.recv_from(&mut buffer).expect("queries come");
            let mut answer = buffer[..len].to_vec();
            answer[2] |= 0x80;
            answer[7] = 1;
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
            answer.extend(address.octets());
            socket.send_to(&answer, from).expect("it is sent");
        }
    });
}

fn the_hosts_servers_are_asked_as_they_are_now() -> Outcome {
    need!(enter_userns(true));
    unshare(CloneFlags::CLONE_NEWNS).expect("root of a user namespace makes mount namespaces");
    mount::<Path, Path, Path, Path>(None, Path::new("/"), None, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None)
        .expect("mounts are ours");
    let place = tempfile::tempdir().expect("a directory");
    let file = place.path().join("resolv.conf");
    std::fs::write(&file, "").expect("a file");
    let none: Option<&Path> = None;
    let etc = std::fs::canonicalize(net::dns::HOSTS_FILE).expect("the host has a file");
    mount(Some(&file), &etc, none, MsFlags::MS_BIND, none).expect("a file over a file");

    // A stub of the host's own, as systemd-resolved's, and another server.
    serve("127.0.0.53", Ipv4Addr::new(192, 0, 2, 53));
    serve("127.0.0.7", Ipv4Addr::new(192, 0, 2, 7));
    let leading = Leading::start();
    let (mut first, _first) = start(&leading, "aaaaaaaaaaaa", vec![named(network("one", 1), "eth0", &["first"])]);
    for (text, found) in [
        ("nameserver 127.0.0.53\noptions edns0 trust-ad\n", "0 192.0.2.53"),
        ("nameserver 127.0.0.7\nsearch example\n", "0 192.0.2.7"),
        ("nameserver 127.0.0.9\nnameserver 127.0.0.7\n", "0 192.0.2.7"),
        ("nameserver 127.0.0.9\n", "2"),
        ("nameserver 127.0.0.53\n", "0 192.0.2.53"),
    ] {
        std::fs::write(&file, text).expect("the file is ours");
        assert_eq!(first.tell("look-up udp 10.89.1.1 example.org"), found, "{text}");
    }
    // The network's servers come before the host's, and the container's before those.
    let own = Network { servers: vec![Ipv4Addr::new(127, 0, 0, 7).into()], ..network("two", 2) };
    let (mut second, _second) = start(&leading, "bbbbbbbbbbbb", vec![named(own.clone(), "eth0", &["second"])]);
    assert_eq!(second.tell("look-up udp 10.89.2.1 example.org"), "0 192.0.2.7");
    let wishes = Wishes { servers: vec![Ipv4Addr::new(127, 0, 0, 53).into()], ..Wishes::default() };
    let third = Endpoint { wishes, ..named(own, "eth0", &["third"]) };
    let (mut third, _third) = start(&leading, "cccccccccccc", vec![third]);
    assert_eq!(third.tell("look-up udp 10.89.2.1 example.org"), "0 192.0.2.53");
    assert_eq!(third.tell("look-up tcp 10.89.2.1 second"), "0 10.89.2.2");
    Outcome::Passed
}
