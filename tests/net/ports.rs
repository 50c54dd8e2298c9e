//! Published ports, from outside, from the host and from containers.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use super::lab::{CLIENT, CLIENT6, HOST, HOST6, Lab, cases};
use super::service::Service;
use crate::support::home::{Home, wait_until};

cases! {
    clients_from_outside_keep_their_addresses,
    clients_of_ipv6_keep_theirs_where_containers_have_it,
    clients_of_ipv6_keep_theirs_on_networks_of_it,
    clients_of_the_host_come_from_the_gateway,
    containers_reach_published_ports,
    a_conflict_names_port_and_holder_and_leaves_nothing,
    ports_come_and_go_while_the_container_runs,
    listeners_last_over_restarts,
    a_refused_connection_is_reset,
    either_side_may_close_first,
    a_thousand_connections_are_served_at_once.limit_secs(120),
    what_is_not_read_waits_at_the_client,
    what_the_client_does_not_read_waits_in_the_service,
}

/// A connection to the service, and as whom the service sees it.
pub(super) struct Flow {
    pub(super) stream: BufReader<TcpStream>,
    pub(super) seen: SocketAddr,
}

impl Flow {
    pub(super) fn open(to: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect(to)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let seen = line.trim_end().parse().map_err(|_| std::io::Error::from(ErrorKind::UnexpectedEof))?;
        Ok(Self { stream, seen })
    }

    /// Says something, and hears it.
    pub(super) fn echo(&mut self) -> std::io::Result<()> {
        self.stream.get_mut().write_all(b"and still\n")?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        if line == "and still\n" { Ok(()) } else { Err(ErrorKind::UnexpectedEof.into()) }
    }

    fn own(&self) -> SocketAddr {
        self.stream.get_ref().local_addr().expect("it is connected")
    }
}

/// As whom the service sees a datagram's sender, who is `from`.
fn ask_udp(from: IpAddr, to: SocketAddr) -> (SocketAddr, SocketAddr) {
    let socket = UdpSocket::bind((from, 0)).expect("a port");
    socket.connect(to).expect("a route");
    socket.set_read_timeout(Some(Duration::from_millis(300))).expect("a socket of ours");
    let mut answer = [0; 64];
    let mut length = 0;
    wait_until("a datagram is answered", || {
        let _ = socket.send(b"?");
        socket.recv(&mut answer).is_ok_and(|received| {
            length = received;
            true
        })
    });
    let seen = std::str::from_utf8(&answer[..length]).expect("it is text").parse().expect("an address");
    (seen, socket.local_addr().expect("it is bound"))
}

pub(super) fn run(home: &Home, name: &str, options: &str) {
    home.ok(&format!("run -d --name {name} {options} busybox sleep 1000"));
}

/// 18080 leads to 80, TCP and UDP.
const PORTS: &str = "-p 18080:80 -p 18080:80/udp";

fn at(ip: IpAddr) -> SocketAddr {
    SocketAddr::new(ip, 18080)
}

fn clients_from_outside_keep_their_addresses(lab: &Lab) {
    run(&lab.home, "c", PORTS);
    let _service = Service::start(&lab.home, "c", 80);
    lab.outside(|| {
        let flow = Flow::open(at(HOST)).unwrap();
        assert_eq!(flow.own().ip(), CLIENT);
        assert_eq!(flow.seen, flow.own(), "TCP");
        let (seen, own) = ask_udp(CLIENT, at(HOST));
        assert_eq!(seen, own, "UDP");
        // The container has no address of IPv6.
        let flow = Flow::open(at(HOST6)).unwrap();
        assert_eq!(flow.seen.ip().to_string(), "10.88.0.1");
        assert_eq!(ask_udp(CLIENT6, at(HOST6)).0.ip().to_string(), "10.88.0.1");
    });
}

fn clients_of_ipv6_keep_theirs_where_containers_have_it(lab: &Lab) {
    run(&lab.home, "c", &format!("--network slirp4netns:enable_ipv6=true {PORTS}"));
    let _service = Service::start(&lab.home, "c", 80);
    clients_of_both_keep_theirs(lab);
}

fn clients_of_both_keep_theirs(lab: &Lab) {
    lab.outside(|| {
        for (from, to) in [(CLIENT, HOST), (CLIENT6, HOST6)] {
            let flow = Flow::open(at(to)).unwrap();
            assert_eq!((flow.seen, flow.seen.ip()), (flow.own(), from));
            let (seen, own) = ask_udp(from, at(to));
            assert_eq!(seen, own);
        }
    });
}

fn clients_of_ipv6_keep_theirs_on_networks_of_it(lab: &Lab) {
    lab.home.ok("network create --ipv6 six");
    run(&lab.home, "c", &format!("--network six {PORTS}"));
    let service = Service::start(&lab.home, "c", 80);
    clients_of_both_keep_theirs(lab);
    // Those of the host are the gateway's.
    let gateway = lab.home.inspect("c", "{{.NetworkSettings.Networks.six.IPv6Gateway}}");
    assert_eq!(Flow::open(at(HOST6)).unwrap().seen.ip().to_string(), gateway);
    drop(service);
    lab.home.ok("restart -t 0 c");
    let _service = Service::start(&lab.home, "c", 80);
    clients_of_both_keep_theirs(lab);
}

fn clients_of_the_host_come_from_the_gateway(lab: &Lab) {
    run(&lab.home, "c", PORTS);
    let _service = Service::start(&lab.home, "c", 80);
    for ip in ["127.0.0.1", "192.0.2.2", "::1", "2001:db8::2"] {
        let to = at(ip.parse().unwrap());
        assert_eq!(Flow::open(to).unwrap().seen.ip().to_string(), "10.88.0.1", "{to}");
        assert_eq!(ask_udp(to.ip(), to).0.ip().to_string(), "10.88.0.1", "{to}");
    }
}

fn containers_reach_published_ports(lab: &Lab) {
    run(&lab.home, "c", PORTS);
    run(&lab.home, "other", "");
    let _service = Service::start(&lab.home, "c", 80);
    // By the host's address, out of another container and out of the very one.
    for name in ["other", "c"] {
        let line = lab.home.ok(&format!("exec {name} sh -c 'nc -w 5 {HOST} 18080 < /dev/null | head -n 1'"));
        assert!(line.parse::<SocketAddr>().is_ok(), "{name}: {line:?}");
    }
    // And by that of the container, where no port is published.
    let line = lab.home.ok("exec other sh -c 'nc -w 5 10.88.0.2 80 < /dev/null | head -n 1'");
    assert!(line.starts_with("10.88.0.3:"), "{line:?}");
}

fn a_conflict_names_port_and_holder_and_leaves_nothing(lab: &Lab) {
    let home = &lab.home;
    run(home, "web", "-p 18080:80");
    for publish in ["18080:81", "127.0.0.1:18080:81", "[::1]:18080:81", "18070-18090:70-90"] {
        let line = home.fails(125, &format!("run -d --name other -p {publish} busybox true"));
        assert!(line.contains(":18080/tcp") && line.contains("container web"), "{publish}: {line}");
    }
    let listener = TcpListener::bind("127.0.0.1:18081").unwrap();
    let line = home.fails(125, "run -d --name other -p 18081:80 busybox true");
    assert!(line.contains(&format!("pid {}", std::process::id())), "{line}");
    drop(listener);
    let _socket = UdpSocket::bind("0.0.0.0:18082").unwrap();
    let line = home.fails(125, "run -d --name other -p 18082:80/udp busybox true");
    assert!(line.contains(&format!("pid {}", std::process::id())), "{line}");
    assert_eq!(home.ok("ps -a --format {{.Names}}"), "web");
    // One that exists stays, and has the port once it is free.
    home.ok("create --name other -p 18080:81 busybox sleep 1000");
    assert!(home.fails(125, "start other").contains("container web"));
    home.ok("stop -t 0 web");
    home.ok("start other");
    // Other addresses of one port, and another protocol, are no conflict.
    run(home, "udp", "-p 18080:80/udp");
    run(home, "one", "-p 127.0.0.1:18085:80");
    run(home, "two", "-p 192.0.2.2:18085:80");
}

fn ports_come_and_go_while_the_container_runs(lab: &Lab) {
    let home = &lab.home;
    let is_open = |port: u16| lab.outside(|| TcpStream::connect((HOST, port)).is_ok());
    let flow = |port: u16| lab.outside(|| Flow::open(SocketAddr::new(HOST, port)).unwrap());
    run(home, "none", "");
    run(home, "c", "-p 18080:80");
    let _services = ["none", "c"].map(|name| Service::start(home, name, 80));
    let mut first = flow(18080);
    // Of one that publishes already, and of one that does not.
    assert_eq!(home.ok("port add c 18081:80 18081:80/udp"), "80/tcp -> 0.0.0.0:18081\n80/udp -> 0.0.0.0:18081");
    home.ok("port add none 127.0.0.1::80");
    assert!(home.ok("port none").starts_with("80/tcp -> 127.0.0.1:"));
    let mut second = flow(18081);
    assert_eq!(second.seen, second.own());
    let (seen, own) = lab.outside(|| ask_udp(CLIENT, SocketAddr::new(HOST, 18081)));
    assert_eq!(seen, own);
    assert!(home.fails(125, "port add none 18081:80").contains("container c"));
    assert_eq!(home.ok("port none").lines().count(), 1);
    // One that goes takes no connection with it.
    home.ok("port rm c 18080:80");
    assert!(!is_open(18080));
    first.echo().unwrap();
    second.echo().unwrap();
    assert_eq!(home.ok("port c"), "80/tcp -> 0.0.0.0:18081\n80/udp -> 0.0.0.0:18081");
    assert!(home.fails(125, "port rm c 18080:80").contains("does not publish"));
    // It is kept.
    home.ok("stop -t 0 c");
    home.ok("port add c 18082:80");
    home.ok("start c");
    assert!(is_open(18081) && is_open(18082) && !is_open(18080));
    run(home, "other", "-p 18080:80");
    home.fails(125, "port add other");
    home.run("rm -f -t 0 other").exits(0);
    home.ok("run -d --name n --network none busybox sleep 1000");
    assert!(home.fails(125, "port add n 18090:80").contains("no network of its own"));
}

fn listeners_last_over_restarts(lab: &Lab) {
    // Each run serves one connection and ends.
    lab.home.ok("run -d --name c --restart always -p 18080:80 busybox nc -l -p 80 -e sh -c 'echo served'");
    for _ in 0..3 {
        // Nobody is ever told that there is no port; a run that has ended, or has not begun to listen, resets.
        wait_until("a run serves", || {
            lab.outside(|| {
                let mut stream = TcpStream::connect(at(HOST)).expect("the port is bound all the time");
                stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                let mut text = String::new();
                let _ = stream.read_to_string(&mut text);
                text == "served\n"
            })
        });
    }
    wait_until("it was started again", || lab.home.inspect("c", "{{.RestartCount}}").parse::<u32>().unwrap() >= 2);
}

fn a_refused_connection_is_reset(lab: &Lab) {
    run(&lab.home, "c", PORTS);
    for ip in [HOST, HOST6] {
        let error = lab.outside(|| {
            let mut stream = TcpStream::connect(at(ip)).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            stream.read(&mut [0]).unwrap_err()
        });
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
}

fn either_side_may_close_first(lab: &Lab) {
    run(&lab.home, "c", PORTS);
    let _service = Service::start(&lab.home, "c", 80);
    let text = lab.outside(|| {
        let mut flow = Flow::open(at(HOST)).unwrap();
        flow.stream.get_mut().write_all(b"12345").unwrap();
        flow.stream.get_ref().shutdown(Shutdown::Write).unwrap();
        let mut text = String::new();
        flow.stream.read_to_string(&mut text).unwrap();
        text
    });
    assert_eq!(text, "12345end 5\n", "the service heard the end and answered after it");
    // The other way round: the service closes its side, and reads on.
    lab.outside(|| {
        let mut flow = Flow::open(at(HOST)).unwrap();
        flow.stream.get_mut().write_all(b"bye\n").unwrap();
        assert_eq!(flow.stream.read(&mut [0]).unwrap(), 0);
        flow.stream.get_mut().write_all(b"after the end").unwrap();
    });
    wait_until("it has read the rest", || count(lab) == "after the end".len());
}

/// The count of the service in `c`.
fn count(lab: &Lab) -> usize {
    let to = at(HOST);
    lab.outside(|| {
        let socket = UdpSocket::bind((CLIENT, 0)).unwrap();
        socket.connect(to).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut answer = [0; 64];
        socket.send(b"count").unwrap();
        let length = socket.recv(&mut answer).unwrap();
        std::str::from_utf8(&answer[..length]).unwrap().parse().unwrap()
    })
}

fn a_thousand_connections_are_served_at_once(lab: &Lab) {
    run(&lab.home, "c", PORTS);
    let _service = Service::start(&lab.home, "c", 80);
    let (_, most) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, most, most).unwrap();
    let count = if most > 3000 { 1000 } else { 200 };
    lab.outside(|| {
        let mut flows: Vec<Flow> = (0..count).map(|_| Flow::open(at(HOST)).unwrap()).collect();
        flows.iter_mut().for_each(|flow| flow.echo().unwrap());
        assert!(flows.iter().all(|flow| flow.seen == flow.own()));
    });
}

fn what_is_not_read_waits_at_the_client(lab: &Lab) {
    // It accepts, and reads nothing.
    lab.home.ok("run -d --name c -p 18080:80 busybox nc -ll -p 80 -e sleep 1000");
    let held = lab.outside(|| {
        let mut stream = None;
        wait_until("it accepts", || {
            let connected = TcpStream::connect(at(HOST)).unwrap();
            connected.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            let refused = (&connected).read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::ConnectionReset);
            stream = (!refused).then_some(connected);
            !refused
        });
        let mut stream = stream.unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
        let mut sent = 0;
        let chunk = vec![0; 64 * 1024];
        while let Ok(len) = stream.write(&chunk) {
            sent += len;
            assert!(sent < 64 * 1024 * 1024, "there is no end to what it takes");
        }
        // What the client's own kernel holds is not ours.
        let unsent: usize = queues("tcp").lines().filter_map(queue(0)).sum();
        sent.saturating_sub(unsent)
    });
    assert!(held < 4 * 1024 * 1024, "{held} bytes");
}

/// The other way round.
fn what_the_client_does_not_read_waits_in_the_service(lab: &Lab) {
    run(&lab.home, "c", PORTS);
    let _service = Service::start(&lab.home, "c", 80);
    let stream = lab.outside(|| {
        let mut flow = Flow::open(at(HOST)).unwrap();
        flow.stream.get_mut().write_all(b"pour\n").unwrap();
        flow.stream.into_inner()
    });
    let mut before = 0;
    wait_until("the service can write no more", || {
        std::thread::sleep(Duration::from_millis(500));
        let now = count(lab);
        now > 0 && now == std::mem::replace(&mut before, now)
    });
    let in_service: usize = lab.home.ok("exec c cat /proc/net/tcp6").lines().filter_map(queue(0)).sum();
    let in_client: usize = lab.outside(|| queues("tcp").lines().filter_map(queue(1)).sum());
    let held = before.saturating_sub(in_service).saturating_sub(in_client);
    drop(stream);
    assert!(held < 4 * 1024 * 1024, "{held} bytes");
}

fn queues(protocol: &str) -> String {
    std::fs::read_to_string(format!("/proc/thread-self/net/{protocol}")).unwrap()
}

/// The bytes that wait to be acknowledged (0) or read (1), of a line of /proc/net/tcp about a connection.
fn queue(which: usize) -> impl Fn(&str) -> Option<usize> {
    const ESTABLISHED: &str = "01";
    move |line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let queues = words.get(4).filter(|_| words.get(3) == Some(&ESTABLISHED))?;
        usize::from_str_radix(queues.split(':').nth(which)?, 16).ok()
    }
}
