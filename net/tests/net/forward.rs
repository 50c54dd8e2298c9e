//! Published ports, from clients with addresses of their own to services in a container.
//!
//! The case's own namespace plays the host: its `lo` has documentation addresses, so that a client bound to
//! 192.0.2.7 comes from outside for all that the forwarder can see.

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::time::Duration;

use net::driver::{Driver, DriverError};
use net::forward::{Forwarder, Listeners, PublishError, Target, start};
use net::pasta::Pasta;
use net::ports::{PortRequest, parse_publish};
use net::slirp4netns::Slirp4netns;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
};

use crate::fixture::{Container, await_ipv6, enter_userns, ip};
use crate::roles::RESET;
use crate::{Case, Outcome, need};

pub(crate) const CASES: &[Case] = &[
    ("tcp_client_keeps_its_address_and_port", tcp_client_keeps_its_address_and_port),
    ("no_ipv6_client_is_too_early_for_its_address", no_ipv6_client_is_too_early_for_its_address),
    ("clients_of_the_host_appear_as_the_gateway", clients_of_the_host_appear_as_the_gateway),
    ("ipv6_client_reaches_an_ipv4_service_as_the_gateway", ipv6_client_reaches_an_ipv4_service_as_the_gateway),
    ("unknown_addresses_are_looked_up", unknown_addresses_are_looked_up),
    ("half_close_and_bytes_survive", half_close_and_bytes_survive),
    ("refusal_and_resets_are_passed_on", refusal_and_resets_are_passed_on),
    ("service_may_start_after_the_forwarder", service_may_start_after_the_forwarder),
    ("slow_reader_holds_little_back", slow_reader_holds_little_back),
    ("a_thousand_connections_at_once", a_thousand_connections_at_once),
    ("few_descriptors_queue_connections", few_descriptors_queue_connections),
    ("one_client_port_to_two_published_ports", one_client_port_to_two_published_ports),
    ("udp_client_keeps_its_address_and_port", udp_client_keeps_its_address_and_port),
    ("udp_from_a_published_port_still_leaves_by_the_way_out", udp_from_a_published_port_still_leaves_by_the_way_out),
    ("udp_falls_back_to_ipv4", udp_falls_back_to_ipv4),
    ("listeners_outlive_container_and_forwarder", listeners_outlive_container_and_forwarder),
    ("slirp4netns_and_forwarder_together", slirp4netns_and_forwarder_together),
    ("pasta_and_forwarder_together", pasta_and_forwarder_together),
    ("conflicts_name_the_port_and_its_holder", conflicts_name_the_port_and_its_holder),
    ("low_ports_name_the_sysctl", low_ports_name_the_sysctl),
];

/// A host, a container with addresses, and published ports between them.
pub(crate) struct Site {
    pub(crate) container: Container,
    pub(crate) listeners: Listeners,
    pub(crate) forwarder: Forwarder,
}

pub(crate) fn target() -> Target {
    Target {
        ipv4: Some("10.0.2.100".parse().unwrap()),
        ipv6: Some("fd00::100".parse().unwrap()),
        gateway4: Some("10.0.2.2".parse().unwrap()),
        gateway6: Some("fd00::2".parse().unwrap()),
    }
}

fn requests(publish: &[&str]) -> Vec<PortRequest> {
    publish.iter().flat_map(|text| parse_publish(text).unwrap().expand().collect::<Vec<_>>()).collect()
}

/// A container with a device, addresses and default routes, as a driver would leave it.
fn container() -> Container {
    let mut container = Container::start();
    for command in [
        "link add tap0 type veth peer name peer0",
        "link set peer0 up",
        "link set tap0 up",
        "addr add 10.0.2.100/24 dev tap0",
        "addr add fd00::100/64 dev tap0 nodad",
        "route add default via 10.0.2.2",
        "route add default via fd00::2",
    ] {
        assert_eq!(container.tell(&format!("ip {command}")), "");
    }
    container.tell("await-ipv6 fd00::100");
    container
}

pub(crate) fn site(publish: &[&str], target: Target) -> Result<Site, String> {
    enter_userns(true)?;
    for address in ["192.0.2.1/32", "192.0.2.7/32", "2001:db8::1/128", "2001:db8::7/128"] {
        let nodad = if address.contains("::") { " nodad" } else { "" };
        ip(&format!("addr add {address} dev lo{nodad}"))?;
    }
    await_ipv6("2001:db8::1");
    await_ipv6("2001:db8::7");
    let container = container();
    let listeners = Listeners::bind(&requests(publish)).expect("the ports are free");
    let forwarder = forward(&listeners, &container, target);
    Ok(Site { container, listeners, forwarder })
}

fn forward(listeners: &Listeners, container: &Container, target: Target) -> Forwarder {
    let mut forwarder = start(listeners, container.netns.as_fd(), target).expect("the forwarder starts");
    forwarder.on_status().expect("the forwarder serves");
    forwarder
}

/// Connects from an address of choice, port 0 being any.
fn connect_from(source: &str, dest: &str) -> std::io::Result<TcpStream> {
    let (source, dest): (SocketAddr, SocketAddr) = (source.parse().unwrap(), dest.parse().unwrap());
    let family = if dest.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(source))?;
    connect(fd.as_raw_fd(), &SockaddrStorage::from(dest))?;
    let stream = TcpStream::from(fd);
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(stream)
}

/// The first line an echo service says: who it thinks the client is.
fn seen_by_service(stream: &TcpStream) -> SocketAddr {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).expect("the service answers");
    line.trim().parse().unwrap_or_else(|_| panic!("{line:?} is no address"))
}

fn tcp_client_keeps_its_address_and_port() -> Outcome {
    let mut site = need!(site(&["8080:80"], target()));
    site.container.tell("tcp-echo 0.0.0.0:80");
    site.container.tell("tcp-echo [fd00::100]:80");
    for (source, dest) in [("192.0.2.7:5555", "192.0.2.1:8080"), ("[2001:db8::7]:5555", "[2001:db8::1]:8080")] {
        for _ in 0..3 {
            let client = connect_from(source, dest).expect("the port is published");
            let seen = seen_by_service(&client);
            // A reset leaves no socket of the client's to wait out its time.
            setsockopt(&client, sockopt::Linger, &RESET).unwrap();
            assert_eq!(seen.ip(), source.parse::<SocketAddr>().unwrap().ip());
            assert_eq!(seen.port(), 5555);
        }
    }
    Outcome::Passed
}

fn clients_of_the_host_appear_as_the_gateway() -> Outcome {
    let mut site = need!(site(&["8080:80", "127.0.0.1:8081:80"], target()));
    site.container.tell("tcp-echo 10.0.2.100:80");
    site.container.tell("tcp-echo [fd00::100]:80");
    for (source, dest, seen) in [
        ("127.0.0.1:0", "127.0.0.1:8080", "10.0.2.2"),
        ("127.0.0.1:0", "127.0.0.1:8081", "10.0.2.2"),
        ("192.0.2.1:0", "192.0.2.1:8080", "10.0.2.2"),
        ("[::1]:0", "[::1]:8080", "fd00::2"),
        ("[2001:db8::1]:0", "[2001:db8::1]:8080", "fd00::2"),
    ] {
        let client = connect_from(source, dest).expect("the port is published");
        assert_eq!(seen_by_service(&client).ip(), seen.parse::<IpAddr>().unwrap(), "{source} {dest}");
    }
    assert!(connect_from("192.0.2.7:0", "192.0.2.1:8081").is_err(), "published on loopback alone");
    Outcome::Passed
}

/// As slirp4netns leaves it: ready, and the router's announcement under way.
fn no_ipv6_client_is_too_early_for_its_address() -> Outcome {
    let mut site = need!(site(&["8080:80", "5300:53/udp"], target()));
    for command in ["addr del fd00::100/64 dev tap0", "link set tap0 address 02:42:0a:00:02:64"] {
        assert_eq!(site.container.tell(&format!("ip {command}")), "");
    }
    site.container.tell("tcp-echo [::]:80");
    site.container.tell("udp-echo [::]:53");
    let own = "fd00::42:aff:fe00:264".parse().ok();
    site.forwarder = forward(&site.listeners, &site.container, Target { ipv6: own, ..target() });
    let (peer, _) = ask_udp("[2001:db8::7]:5555", "[2001:db8::1]:5300", b"q").expect("an answer");
    assert_eq!(peer.to_string(), "[2001:db8::7]:5555");
    let client = connect_from("[2001:db8::7]:5555", "[2001:db8::1]:8080").expect("the port is published");
    assert_eq!(seen_by_service(&client).to_string(), "[2001:db8::7]:5555");
    Outcome::Passed
}

fn ipv6_client_reaches_an_ipv4_service_as_the_gateway() -> Outcome {
    let mut site = need!(site(&["8080:80"], target()));
    site.container.tell("tcp-echo 0.0.0.0:80");
    let client = connect_from("[2001:db8::7]:0", "[2001:db8::1]:8080").expect("the port is published");
    assert_eq!(seen_by_service(&client).ip().to_string(), "10.0.2.2");
    site.forwarder.stop();
    // And where the container has no IPv6 address at all.
    site.container.tell("ip addr del fd00::100/64 dev tap0");
    let _forwarder = forward(&site.listeners, &site.container, Target { ipv6: None, gateway6: None, ..target() });
    let client = connect_from("[2001:db8::7]:0", "[2001:db8::1]:8080").expect("the port is published");
    assert_eq!(seen_by_service(&client).ip().to_string(), "10.0.2.2");
    Outcome::Passed
}

fn unknown_addresses_are_looked_up() -> Outcome {
    let mut site = need!(site(&["8080:80"], Target::default()));
    site.container.tell("tcp-echo 10.0.2.100:80");
    site.container.tell("tcp-echo [fd00::100]:80");
    for (source, dest, seen) in [
        ("192.0.2.7:0", "192.0.2.1:8080", "192.0.2.7"),
        ("127.0.0.1:0", "127.0.0.1:8080", "10.0.2.2"),
        ("[2001:db8::7]:0", "[2001:db8::1]:8080", "2001:db8::7"),
        ("[::1]:0", "[::1]:8080", "fd00::2"),
    ] {
        let client = connect_from(source, dest).expect("the port is published");
        assert_eq!(seen_by_service(&client).ip(), seen.parse::<IpAddr>().unwrap(), "{source} {dest}");
    }
    Outcome::Passed
}

fn half_close_and_bytes_survive() -> Outcome {
    const LEN: usize = 48 << 20;
    let mut site = need!(site(&["8080:80"], target()));
    site.container.tell("tcp-echo 0.0.0.0:80");
    let client = connect_from("192.0.2.7:0", "192.0.2.1:8080").expect("the port is published");
    seen_by_service(&client);
    let mut writer = client.try_clone().unwrap();
    let byte = |at: usize| (at.wrapping_mul(2_654_435_761) >> 13) as u8;
    let sender = std::thread::spawn(move || {
        let bytes: Vec<u8> = (0..LEN).map(byte).collect();
        writer.write_all(&bytes).expect("the service reads");
        writer.shutdown(Shutdown::Write).expect("half-close");
    });
    let mut received = Vec::new();
    (&client).read_to_end(&mut received).expect("the service sends everything back, then closes");
    sender.join().unwrap();
    assert_eq!(received.len(), LEN);
    assert!(received.iter().enumerate().all(|(at, b)| *b == byte(at)), "bytes differ");
    Outcome::Passed
}

fn refusal_and_resets_are_passed_on() -> Outcome {
    let mut site = need!(site(&["8080-8082:80-82"], target()));
    site.container.tell("tcp-reset 0.0.0.0:81");
    site.container.tell("tcp-report-end 0.0.0.0:82");
    for (source, dest) in [("192.0.2.7:0", "192.0.2.1:8080"), ("[2001:db8::7]:0", "[2001:db8::1]:8080")] {
        let end = connect_from(source, dest).and_then(|mut client| client.read(&mut [0]));
        assert_eq!(end.map_err(|e| e.kind()), Err(ErrorKind::ConnectionReset), "nobody listens");
    }
    let mut client = connect_from("192.0.2.7:0", "192.0.2.1:8081").unwrap();
    client.write_all(b"x").unwrap();
    assert_eq!(client.read(&mut [0]).map_err(|e| e.kind()), Err(ErrorKind::ConnectionReset));

    let mut client = connect_from("192.0.2.7:0", "192.0.2.1:8082").unwrap();
    client.write_all(b"x").unwrap();
    std::thread::sleep(Duration::from_millis(50));
    setsockopt(&client, sockopt::Linger, &RESET).unwrap();
    drop(client);
    assert_eq!(site.container.answer(), ErrorKind::ConnectionReset.to_string());
    let client = connect_from("192.0.2.7:0", "192.0.2.1:8082").unwrap();
    drop(client);
    assert_eq!(site.container.answer(), "closed");
    Outcome::Passed
}

fn service_may_start_after_the_forwarder() -> Outcome {
    let mut site = need!(site(&["8080:80"], target()));
    let refused = connect_from("192.0.2.7:0", "192.0.2.1:8080").and_then(|mut client| client.read(&mut [0]));
    assert!(refused.is_err());
    site.container.tell("tcp-echo 0.0.0.0:80");
    let client = connect_from("192.0.2.7:0", "192.0.2.1:8080").expect("the port is published");
    assert_eq!(seen_by_service(&client).ip().to_string(), "192.0.2.7");
    Outcome::Passed
}

fn slow_reader_holds_little_back() -> Outcome {
    let mut site = need!(site(&["8080:80"], target()));
    site.container.tell("tcp-silent 0.0.0.0:80");
    let mut client = connect_from("192.0.2.7:0", "192.0.2.1:8080").expect("the port is published");
    client.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let buffer = vec![0; 1 << 16];
    let mut taken = 0;
    while let Ok(len) = client.write(&buffer) {
        taken += len;
    }
    // What the client and the service hold themselves they would hold without us.
    let outer = queued(&std::fs::read_to_string("/proc/net/tcp").unwrap(), 8080);
    let inner = queued(&site.container.tell("lines /proc/net/tcp"), 80);
    eprintln!("{taken} bytes taken with nobody reading; host {outer:?}, container {inner:?}");
    let ours = outer.receiving + inner.sending_to;
    assert!(ours < 4 << 20, "{ours}");
    let other = connect_from("192.0.2.7:0", "192.0.2.1:8080");
    assert!(other.is_ok(), "others are served meanwhile");
    Outcome::Passed
}

/// Bytes in the queues of sockets of one port.
#[derive(Debug)]
struct Queued {
    /// Received at the port, not read.
    receiving: u64,
    /// Sent to the port, not received.
    sending_to: u64,
}

fn queued(table: &str, port: u16) -> Queued {
    let mut sum = Queued { receiving: 0, sending_to: 0 };
    let ends = format!(":{port:04X}");
    for line in table.split([';', '\n']).filter(|line| line.contains(" 01 ")) {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let (tx, rx) = words[4].split_once(':').unwrap();
        if words[1].ends_with(&ends) {
            sum.receiving += u64::from_str_radix(rx, 16).unwrap();
        }
        if words[2].ends_with(&ends) {
            sum.sending_to += u64::from_str_radix(tx, 16).unwrap();
        }
    }
    sum
}

fn raise_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}

fn a_thousand_connections_at_once() -> Outcome {
    const COUNT: usize = 1000;
    use nix::sys::resource::{Resource, getrlimit};
    if getrlimit(Resource::RLIMIT_NOFILE).unwrap().1 < 6 * COUNT as u64 + 64 {
        return Outcome::Skipped("a hard limit of 6,064 descriptors".to_owned());
    }
    raise_limit();
    let mut site = need!(site(&["8080:80"], target()));
    site.container.tell("tcp-echo 0.0.0.0:80");
    let mut clients: Vec<TcpStream> =
        (0..COUNT).map(|_| connect_from("192.0.2.7:0", "192.0.2.1:8080").expect("room for all")).collect();
    for client in &mut clients {
        client.write_all(b"hello").unwrap();
    }
    for client in &mut clients {
        seen_by_service(client);
    }
    for client in &mut clients {
        client.shutdown(Shutdown::Write).unwrap();
    }
    Outcome::Passed
}

fn few_descriptors_queue_connections() -> Outcome {
    use nix::sys::resource::{Resource, setrlimit};
    setrlimit(Resource::RLIMIT_NOFILE, 64, 64).unwrap();
    let mut site = need!(site(&["8080:80"], target()));
    site.container.tell("tcp-echo 0.0.0.0:80");
    let clients: Vec<TcpStream> =
        (0..24).map(|_| connect_from("192.0.2.7:0", "192.0.2.1:8080").expect("the backlog takes them")).collect();
    for client in clients {
        // Each end makes room for one that waits.
        seen_by_service(&client);
    }
    Outcome::Passed
}

fn one_client_port_to_two_published_ports() -> Outcome {
    let mut site = need!(site(&["8080:80", "8081:80"], target()));
    site.container.tell("tcp-echo 0.0.0.0:80");
    let first = connect_from("192.0.2.7:5000", "192.0.2.1:8080").unwrap();
    let second = connect_from("192.0.2.7:5000", "192.0.2.1:8081").unwrap();
    assert_eq!(seen_by_service(&first).to_string(), "192.0.2.7:5000");
    let seen = seen_by_service(&second);
    assert_eq!(seen.ip().to_string(), "192.0.2.7");
    assert_ne!(seen.port(), 5000);
    Outcome::Passed
}

fn ask_udp(source: &str, dest: &str, bytes: &[u8]) -> Option<(SocketAddr, Vec<u8>)> {
    let socket = UdpSocket::bind(source).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    // Connected, so that an answer from another address than the one asked is not taken.
    socket.connect(dest).unwrap();
    socket.send(bytes).unwrap();
    let mut buffer = vec![0; 65536];
    let len = socket.recv(&mut buffer).ok()?;
    let space = buffer.iter().position(|b| *b == b' ')?;
    let seen = String::from_utf8_lossy(&buffer[..space]).parse().unwrap();
    Some((seen, buffer[space + 1..len].to_vec()))
}

fn udp_client_keeps_its_address_and_port() -> Outcome {
    let mut site = need!(site(&["5300:53/udp", "5301:53/udp"], target()));
    site.container.tell("udp-echo [::]:53");
    for (source, dest, seen) in [
        ("192.0.2.7:5555", "192.0.2.1:5300", "[::ffff:192.0.2.7]:5555"),
        ("[2001:db8::7]:5555", "[2001:db8::1]:5300", "[2001:db8::7]:5555"),
    ] {
        for _ in 0..3 {
            let (peer, bytes) = ask_udp(source, dest, b"question").expect("an answer");
            assert_eq!((peer, &bytes[..]), (seen.parse().unwrap(), &b"question"[..]));
        }
    }
    let large = vec![7; 60_000];
    assert_eq!(ask_udp("192.0.2.7:5555", "192.0.2.1:5300", &large).expect("an answer").1, large);
    for (source, dest, seen) in
        [("127.0.0.1:0", "127.0.0.1:5300", "::ffff:10.0.2.2"), ("[::1]:0", "[::1]:5300", "fd00::2")]
    {
        let (peer, _) = ask_udp(source, dest, b"q").expect("an answer");
        assert_eq!(peer.ip(), seen.parse::<IpAddr>().unwrap());
    }
    // The same client by another published port: its port is in use by the first session.
    let (peer, _) = ask_udp("192.0.2.7:5555", "192.0.2.1:5301", b"q").expect("an answer");
    assert_eq!(peer.ip().to_string(), "::ffff:192.0.2.7");
    assert_ne!(peer.port(), 5555);
    // The service has the client's port itself.
    let (peer, _) = ask_udp("192.0.2.7:53", "192.0.2.1:5300", b"q").expect("an answer");
    assert_eq!(peer.ip().to_string(), "::ffff:192.0.2.7");
    Outcome::Passed
}

fn udp_from_a_published_port_still_leaves_by_the_way_out() -> Outcome {
    let mut site = need!(site(&["5300:53/udp"], target()));
    site.container.tell("udp-echo 0.0.0.0:53");
    ask_udp("192.0.2.7:5555", "192.0.2.1:5300", b"q").expect("an answer");
    let mut route = |to: &str| site.container.tell(&format!("ip route get {to} ipproto udp sport 53 dport 5555"));
    assert!(route("192.0.2.7").contains("dev lo"), "{}", route("192.0.2.7"));
    assert!(route("192.0.2.8").contains("dev tap0"), "{}", route("192.0.2.8"));
    let other = site.container.tell("ip route get 192.0.2.7 ipproto udp sport 54 dport 5555");
    assert!(other.contains("dev tap0"), "{other}");
    Outcome::Passed
}

fn udp_falls_back_to_ipv4() -> Outcome {
    let mut site = need!(site(&["5300:53/udp"], target()));
    site.container.tell("udp-echo 0.0.0.0:53");
    let socket = UdpSocket::bind("[2001:db8::7]:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut buffer = [0; 256];
    let answered = (0..3).any(|_| {
        socket.send_to(b"q", "[2001:db8::1]:5300").unwrap();
        socket.recv(&mut buffer).is_ok()
    });
    assert!(answered);
    assert!(buffer.starts_with(b"10.0.2.2:"), "{}", String::from_utf8_lossy(&buffer));
    Outcome::Passed
}

fn listeners_outlive_container_and_forwarder() -> Outcome {
    let Site { container: mut first, listeners, forwarder } = need!(site(&["8080:80"], target()));
    first.tell("tcp-echo 0.0.0.0:80");
    seen_by_service(&connect_from("192.0.2.7:0", "192.0.2.1:8080").unwrap());
    forwarder.stop();
    drop(first);
    // A client that comes between two lives of the container waits for the second.
    let waiting = connect_from("192.0.2.7:0", "192.0.2.1:8080").expect("the port is still bound");
    let mut second = container();
    second.tell("tcp-echo 0.0.0.0:80");
    let _forwarder = forward(&listeners, &second, target());
    assert_eq!(seen_by_service(&waiting).ip().to_string(), "192.0.2.7");
    drop(listeners);
    Outcome::Passed
}

/// Publishes a port of a container behind a helper, in the machine's own namespace.
fn together(driver: &dyn Driver) -> Outcome {
    need!(enter_userns(false));
    let mut container = Container::start();
    let plan = match driver.prepare() {
        Err(DriverError::NotInstalled(name)) => return Outcome::Skipped(name.to_owned()),
        plan => plan.unwrap(),
    };
    let mut network = driver.start(plan, container.netns()).unwrap();
    let listeners = Listeners::bind(&requests(&["80", "53/udp"])).unwrap();
    // The order of a real start: nobody waits for anybody.
    let mut forwarder = start(&listeners, container.netns.as_fd(), network.attachment().into()).unwrap();
    network.wait_ready().unwrap();
    forwarder.on_status().unwrap();
    let attachment = network.discover().unwrap().clone();
    let gateway = attachment.gateway(false).unwrap();
    container.tell("tcp-echo 0.0.0.0:80");
    container.tell("udp-echo 0.0.0.0:53");
    let (tcp, udp) = (listeners.mappings()[0].host_port, listeners.mappings()[2].host_port);
    let client = connect_from("127.0.0.1:0", &format!("127.0.0.1:{tcp}")).unwrap();
    assert_eq!(seen_by_service(&client).ip(), gateway);
    let (peer, _) = ask_udp("127.0.0.1:0", &format!("127.0.0.1:{udp}"), b"q").expect("an answer");
    assert_eq!(peer.ip(), gateway);
    if let Some(host) = net::driver::outward_address() {
        // The host's own address, to another of its addresses: from outside, unless the container has it too.
        let client = connect_from(&format!("{host}:0"), &format!("127.0.0.1:{tcp}")).unwrap();
        let expected = if attachment.ipv4().unwrap().ip == host { gateway } else { host };
        assert_eq!(seen_by_service(&client).ip(), expected);
    }
    let client = connect_from("[::1]:0", &format!("[::1]:{tcp}")).unwrap();
    assert_eq!(seen_by_service(&client).ip(), gateway, "the service has IPv4 alone");
    let route = container.tell("ip route get 203.0.113.9");
    assert!(route.contains(&format!("dev {}", attachment.interface.unwrap())), "{route}");
    Outcome::Passed
}

fn slirp4netns_and_forwarder_together() -> Outcome {
    together(&Slirp4netns::default())
}

fn pasta_and_forwarder_together() -> Outcome {
    together(&Pasta::default())
}

fn conflicts_name_the_port_and_its_holder() -> Outcome {
    need!(enter_userns(true));
    let held = TcpListener::bind("0.0.0.0:8080").unwrap();
    let failed = Listeners::bind(&requests(&["9090:90", "8080:80"])).expect_err("it is held");
    let message = failed.to_string();
    assert!(message.starts_with("bind for 0.0.0.0:8080/tcp failed: port is already allocated (held by "), "{message}");
    assert!(message.ends_with(&format!(", pid {})", procfs_pid())), "{message}");
    assert!(Listeners::bind(&requests(&["9090:90"])).is_ok(), "nothing stays bound");

    let bound = Listeners::bind(&requests(&["8080-8082:80", "81", "127.0.0.1::82/udp", "8090:90", "8090:90"])).unwrap();
    let shown: Vec<String> = bound.mappings().iter().map(ToString::to_string).collect();
    assert_eq!(shown[0], "0.0.0.0:8081->80/tcp");
    assert_eq!(shown[1], "[::]:8081->80/tcp");
    let ports = bound.mappings();
    assert_eq!(ports[2].host_port, ports[3].host_port);
    assert_ne!(ports[2].host_port, 0);
    assert_eq!(shown[5..], ["0.0.0.0:8090->90/tcp", "[::]:8090->90/tcp"]);
    let message = Listeners::bind(&requests(&["8080-8081:80"])).expect_err("both are held").to_string();
    assert_eq!(message, "bind for 0.0.0.0/tcp failed: all ports of 8080-8081 are already allocated");
    let message = Listeners::bind(&requests(&["198.51.100.9:80:80"])).expect_err("not ours").to_string();
    assert_eq!(message, "bind for 198.51.100.9:80/tcp failed: the host has no such address");
    let message = Listeners::bind(&requests(&["80:80/sctp"])).expect_err("sctp").to_string();
    assert_eq!(message, "publishing sctp ports is not supported");
    drop(held);
    Outcome::Passed
}

fn procfs_pid() -> String {
    std::fs::read_link("/proc/self").unwrap().to_string_lossy().into_owned()
}

fn low_ports_name_the_sysctl() -> Outcome {
    match Listeners::bind(&requests(&["127.0.0.1:81:80"])) {
        Err(failed @ PublishError::Privileged { .. }) => {
            let message = failed.to_string();
            assert!(
                message.contains("127.0.0.1:81/tcp") && message.contains("ip_unprivileged_port_start"),
                "{message}"
            );
            Outcome::Passed
        }
        Ok(_) => Outcome::Skipped("a host that keeps port 81 for root".to_owned()),
        Err(other) => panic!("{other}"),
    }
}
