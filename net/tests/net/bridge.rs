//! Bridges between containers, in a namespace that plays the user's, with what the kernel really does.

use std::os::fd::AsFd as _;

use net::leader::{Answer, Ask, Connection, Endpoint, Joined};
use net::netfilter::{Bridge, Netfilter};
use net::netlink::{Address, Netlink, Veth};
use net::network::{Network, Subnet};

use crate::fixture::{Container, Leading, enter_userns};
use crate::{Case, Outcome, need};

pub(crate) const CASES: &[Case] = &[
    ("containers_of_a_bridge_reach_each_other", containers_of_a_bridge_reach_each_other),
    ("isolated_bridges_do_not_reach_each_other", isolated_bridges_do_not_reach_each_other),
    ("what_leaves_has_the_address_of_the_way_out", what_leaves_has_the_address_of_the_way_out),
    ("the_leader_puts_containers_into_networks", the_leader_puts_containers_into_networks),
    ("networks_come_and_go_while_a_container_runs", networks_come_and_go_while_a_container_runs),
    ("a_refused_container_is_in_no_network", a_refused_container_is_in_no_network),
    ("the_leader_ends_with_the_last_connection", the_leader_ends_with_the_last_connection),
    ("a_leader_that_nobody_comes_to_ends", a_leader_that_nobody_comes_to_ends),
];

/// A bridge with an address.
fn bridge(netlink: &mut Netlink, name: &str, ip: &str) -> u32 {
    let index = netlink.add_bridge(name, [2, 0, 0, 0, 0, 1], 0).expect("a bridge");
    netlink.add_address(index, Address { ip: ip.parse().expect("an address"), prefix: 24 }).expect("an address");
    index
}

/// A container on that bridge.
fn container(netlink: &mut Netlink, bridge: u32, name: &str, address: &str, gateway: &str) -> Container {
    let mut container = Container::start();
    let last = name.len() as u8;
    let peer_mac = [2, 0, 0, 0, bridge as u8, last];
    let netns = container.netns.as_fd();
    netlink.add_veth(&Veth { name, bridge, peer_name: "eth0", peer_mac, netns, mtu: 1400 }).expect("a pair");
    assert_eq!(container.tell(&format!("configure {address} {gateway}")), "ok");
    container
}

fn containers_of_a_bridge_reach_each_other() -> Outcome {
    need!(enter_userns(true));
    let mut netlink = Netlink::open().expect("a socket");
    let index = bridge(&mut netlink, "podman0", "10.88.0.1");
    assert_eq!(netlink.link_named("podman0").expect("an answer"), Some(index));
    let mut server = container(&mut netlink, index, "v1", "10.88.0.2/24", "10.88.0.1");
    let mut client = container(&mut netlink, index, "v11", "10.88.0.3/24", "10.88.0.1");
    assert!(server.tell("ip -o link show eth0").contains("mtu 1400"));
    assert_eq!(server.tell("tcp-peer 10.88.0.2:80"), "ok");
    assert_eq!(client.tell("tcp-reach 10.88.0.2:80"), "10.88.0.3");
    // Twice is no error, and neither is the end of what is not there.
    assert_eq!(netlink.add_bridge("podman0", [2, 0, 0, 0, 0, 1], 0).expect("as it is"), index);
    netlink.delete_link("v11").expect("it goes, with its other end");
    netlink.delete_link("v11").expect("it is gone");
    assert!(!client.tell("ip -o link").contains("eth0"));
    Outcome::Passed
}

/// Two bridges, and a device that plays the way out.
fn two_networks(netlink: &mut Netlink) -> [u32; 2] {
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("the namespace is ours");
    [bridge(netlink, "podman0", "10.88.0.1"), bridge(netlink, "podman1", "10.89.0.1")]
}

fn isolated_bridges_do_not_reach_each_other() -> Outcome {
    need!(enter_userns(true));
    let mut netlink = Netlink::open().expect("a socket");
    let [first, second] = two_networks(&mut netlink);
    let mut server = container(&mut netlink, first, "v1", "10.88.0.2/24", "10.88.0.1");
    let mut neighbour = container(&mut netlink, first, "v22", "10.88.0.3/24", "10.88.0.1");
    let mut stranger = container(&mut netlink, second, "v333", "10.89.0.2/24", "10.89.0.1");
    assert_eq!(server.tell("tcp-peer 10.88.0.2:80"), "ok");
    let mut filter = Netfilter::open().expect("a socket");
    let network =
        |device: &str, is_isolated| Bridge { device: device.into(), is_internal: false, is_isolated, is_apart: false };
    filter.replace(&[network("podman0", false), network("podman1", false)], "tap0").expect("rules");
    assert_eq!(stranger.tell("tcp-reach 10.88.0.2:80"), "10.89.0.2");
    filter.replace(&[network("podman0", true), network("podman1", true)], "tap0").expect("other rules");
    assert_eq!(stranger.tell("tcp-reach 10.88.0.2:80"), "timed out");
    assert_eq!(neighbour.tell("tcp-reach 10.88.0.2:80"), "10.88.0.3");
    Outcome::Passed
}

fn what_leaves_has_the_address_of_the_way_out() -> Outcome {
    need!(enter_userns(true));
    let mut netlink = Netlink::open().expect("a socket");
    let [inner, outer] = two_networks(&mut netlink);
    let mut client = container(&mut netlink, inner, "v1", "10.88.0.2/24", "10.88.0.1");
    let mut server = container(&mut netlink, outer, "v22", "10.89.0.2/24", "10.89.0.1");
    // Without a way back: only what comes from its own network is answered.
    server.tell("ip route del default");
    assert_eq!(server.tell("tcp-peer 10.89.0.2:80"), "ok");
    let network = |is_internal| Bridge { device: "podman0".into(), is_internal, is_isolated: true, is_apart: false };
    let mut filter = Netfilter::open().expect("a socket");
    filter.replace(&[network(false)], "podman1").expect("rules");
    assert_eq!(client.tell("tcp-reach 10.89.0.2:80"), "10.89.0.1");
    filter.replace(&[network(true)], "podman1").expect("rules of an internal network");
    assert_eq!(client.tell("tcp-reach 10.89.0.2:80"), "timed out");
    Outcome::Passed
}

/// A network with IPv4 and IPv6.
pub(crate) fn network(name: &str, number: u8) -> Network {
    let subnet = |first: String, prefix, gateway: String| Subnet {
        first: first.parse().expect("an address"),
        prefix,
        gateway: gateway.parse().ok(),
        range: None,
    };
    Network {
        name: name.to_owned(),
        device: format!("podman{number}"),
        subnets: vec![
            subnet(format!("10.89.{number}.0"), 24, format!("10.89.{number}.1")),
            subnet(format!("fd00:{number}::"), 64, format!("fd00:{number}::1")),
        ],
        ..Network::default_bridge()
    }
}

pub(crate) fn endpoint(network: Network, interface: &str, wanted: &[&str]) -> Endpoint {
    Endpoint {
        network,
        interface: interface.to_owned(),
        mac: None,
        wanted: wanted.iter().map(|ip| ip.parse().expect("an address")).collect(),
        must: !wanted.is_empty(),
        names: Vec::new(),
        default_route: (interface == "eth0").then_some(100),
        wishes: net::dns::Wishes::default(),
    }
}

pub(crate) fn attach(
    leader: &Connection,
    id: &str,
    container: &Container,
    endpoints: Vec<Endpoint>,
) -> Result<Vec<Joined>, String> {
    assert!(leader.greet().expect("the leader listens").is_some());
    leader.attach(id, endpoints, container.netns.as_fd()).expect("the leader listens");
    match leader.answer().expect("the leader answers").expect("the leader lives") {
        (Answer::Attached { joined, .. }, Some(_netns)) => Ok(joined),
        (Answer::Failed { message }, None) => Err(message),
        other => panic!("{other:?}"),
    }
}

fn the_leader_puts_containers_into_networks() -> Outcome {
    need!(enter_userns(true));
    let leading = Leading::start();
    let [mut server, mut client] = [Container::start(), Container::start()];
    let (first, second) = (leading.connect(), leading.connect());
    let both = vec![endpoint(network("one", 1), "eth0", &[]), endpoint(network("two", 2), "eth1", &["10.89.2.77"])];
    let joined = attach(&first, "aaaaaaaaaaaa", &server, both).expect("both networks");
    let shown: Vec<String> = joined.iter().flat_map(|one| &one.addresses).map(|one| one.ip.to_string()).collect();
    assert_eq!(shown, ["10.89.1.2", "fd00:1::2", "10.89.2.77", "fd00:2::2"]);
    assert!(server.tell("ip -o addr show eth0").contains("10.89.1.2/24"));
    assert!(server.tell("ip -o link show eth0").contains("02:42:0a:59:01:02"));
    assert!(server.tell("ip route show default").contains("via 10.89.1.1 dev eth0"));
    let joined = attach(&second, "bbbbbbbbbbbb", &client, vec![endpoint(network("two", 2), "eth0", &[])]);
    assert_eq!(joined.expect("a network")[0].addresses[0].ip.to_string(), "10.89.2.78");
    assert_eq!(server.tell("tcp-peer [::]:80"), "ok");
    assert_eq!(client.tell("tcp-reach 10.89.2.77:80"), "::ffff:10.89.2.78");
    assert_eq!(client.tell("tcp-reach [fd00:2::2]:80"), "fd00:2::3");
    // The server's other network is not the client's.
    assert_ne!(client.tell("tcp-reach 10.89.1.2:80"), "::ffff:10.89.2.78");
    Outcome::Passed
}

pub(crate) fn ask(leader: &Connection, ask: &Ask, container: Option<&Container>) -> Answer {
    leader.ask(ask, container.map(|container| container.netns.as_fd())).expect("the leader listens");
    leader.answer().expect("the leader answers").expect("the leader lives").0
}

fn networks_come_and_go_while_a_container_runs() -> Outcome {
    need!(enter_userns(true));
    let leading = Leading::start();
    let mut container = Container::start();
    let leader = leading.connect();
    let connect = |number: u8, interface: &str, wanted: &[&str]| Ask::Connect {
        endpoint: Box::new(endpoint(network(&format!("net{number}"), number), interface, wanted)),
    };
    let disconnect = |name: &str| Ask::Disconnect { network: name.to_owned() };
    assert!(matches!(ask(&leader, &connect(1, "eth0", &[]), Some(&container)), Answer::Failed { .. }), "not attached");
    attach(&leader, "aaaaaaaaaaaa", &container, Vec::new()).expect("no network at all");
    for (number, interface) in [(1, "eth0"), (2, "eth1")] {
        let answer = ask(&leader, &connect(number, interface, &[]), Some(&container));
        let Answer::Connected { joined } = answer else { panic!("{answer:?}") };
        assert_eq!((joined.network, joined.interface.as_str()), (format!("net{number}"), interface));
    }
    assert!(container.tell("ip -o addr show eth1").contains("10.89.2.2/24"));
    let refused = ask(&leader, &connect(3, "eth2", &["10.1.1.1"]), Some(&container));
    assert!(matches!(refused, Answer::Failed { .. }), "{refused:?}");
    assert_eq!(ask(&leader, &disconnect("net1"), None), Answer::Done);
    assert_eq!(ask(&leader, &disconnect("net1"), None), Answer::Done);
    let links = container.tell("ip -o link");
    assert!(!links.contains("eth0") && links.contains("eth1"), "{links}");
    // Its address is free again, and so is the name of its device.
    let answer = ask(&leader, &connect(1, "eth0", &["10.89.1.2"]), Some(&container));
    assert!(matches!(answer, Answer::Connected { .. }), "{answer:?}");
    assert!(container.tell("ip -o addr show eth0").contains("10.89.1.2/24"));
    assert_eq!(ask(&leader, &Ask::Reload, None), Answer::Done);
    // A network that somebody is on is not forgotten; one that nobody is on gives its addresses back.
    for name in ["net1", "net2", "nosuch"] {
        assert_eq!(ask(&leader, &Ask::Forget { network: name.to_owned() }, None), Answer::Done);
    }
    assert_eq!(ask(&leader, &disconnect("net2"), None), Answer::Done);
    assert_eq!(ask(&leader, &Ask::Forget { network: "net2".to_owned() }, None), Answer::Done);
    let heir = Network { name: "heir".to_owned(), device: "podman9".to_owned(), ..network("net2", 2) };
    let heir = Ask::Connect { endpoint: Box::new(endpoint(heir, "eth1", &["10.89.2.2"])) };
    let answer = ask(&leader, &heir, Some(&container));
    assert!(matches!(answer, Answer::Connected { .. }), "{answer:?}");
    // What concerns no device changes while containers are there.
    let described = Network { servers: vec!["10.9.9.9".parse().expect("an address")], ..network("net1", 1) };
    assert_eq!(ask(&leader, &Ask::Describe { network: Box::new(described) }, None), Answer::Done);
    assert!(container.tell("ip -o addr show eth0").contains("10.89.1.2/24"));
    Outcome::Passed
}

fn a_refused_container_is_in_no_network() -> Outcome {
    need!(enter_userns(true));
    let leading = Leading::start();
    let [holder, mut late] = [Container::start(), Container::start()];
    let (first, second) = (leading.connect(), leading.connect());
    attach(&first, "aaaaaaaaaaaa", &holder, vec![endpoint(network("two", 2), "eth0", &["10.89.2.9"])]).expect("free");
    let asked = || vec![endpoint(network("one", 1), "eth0", &[]), endpoint(network("two", 2), "eth1", &["10.89.2.9"])];
    let message = attach(&second, "bbbbbbbbbbbb", &late, asked()).expect_err("somebody has it");
    assert_eq!(message, "network two: IP address 10.89.2.9 is in use");
    assert!(!late.tell("ip -o link").contains("eth"));
    drop(first);
    // The leader may hear of it a moment later.
    let start = std::time::Instant::now();
    while let Err(message) = attach(&second, "bbbbbbbbbbbb", &late, asked()) {
        assert!(start.elapsed().as_secs() < 10, "{message}");
    }
    assert!(late.tell("ip -o addr show eth1").contains("10.89.2.9/24"));
    Outcome::Passed
}

fn the_leader_ends_with_the_last_connection() -> Outcome {
    need!(enter_userns(true));
    let mut leading = Leading::start();
    let (first, second) = (leading.connect(), leading.connect());
    assert!(first.greet().expect("it listens").is_some() && second.greet().expect("it listens").is_some());
    drop(first);
    assert!(second.greet().expect("it still listens").is_some());
    assert!(leading.child.try_wait().expect("our child").is_none());
    drop(second);
    assert!(leading.child.wait().expect("our child").success());
    Outcome::Passed
}

fn a_leader_that_nobody_comes_to_ends() -> Outcome {
    need!(enter_userns(true));
    assert!(Leading::start_lonely().child.wait().expect("it ends").success());
    Outcome::Passed
}
