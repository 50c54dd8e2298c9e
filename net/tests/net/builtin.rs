//! The built-in stack between a container and a namespace that plays the host.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, TcpListener, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use net::builtin::{Builtin, Options};
use net::driver::{Driver as _, Started};

use crate::fixture::{Container, await_ipv6, enter_userns, ip};
use crate::{Case, Outcome, need, roles};

pub(crate) const CASES: &[Case] = &[
    ("builtin_configures_what_the_plan_says", builtin_configures_what_the_plan_says),
    ("builtin_carries_bytes_both_ways", builtin_carries_bytes_both_ways),
    ("builtin_is_exact_where_packets_get_lost", builtin_is_exact_where_packets_get_lost),
    ("builtin_carries_a_thousand_connections", builtin_carries_a_thousand_connections),
    ("builtin_closes_halves_one_by_one", builtin_closes_halves_one_by_one),
    ("builtin_passes_refusals_and_resets_on", builtin_passes_refusals_and_resets_on),
    ("builtin_holds_little_for_slow_readers", builtin_holds_little_for_slow_readers),
    ("builtin_carries_datagrams_of_every_size", builtin_carries_datagrams_of_every_size),
    ("builtin_carries_echo_requests", builtin_carries_echo_requests),
    ("builtin_keeps_the_hosts_loopback_closed", builtin_keeps_the_hosts_loopback_closed),
    ("builtin_asks_the_hosts_name_servers", builtin_asks_the_hosts_name_servers),
    ("builtin_has_no_rights_while_it_serves", builtin_has_no_rights_while_it_serves),
    ("builtin_sleeps_while_nothing_is_said", builtin_sleeps_while_nothing_is_said),
];

/// Addresses of the host.
const HOST4: &str = "192.0.2.1";
const HOST6: &str = "2001:db8::1";

/// A container behind the stack, in a namespace that plays the host.
pub(crate) struct Site {
    pub(crate) container: Container,
    pub(crate) started: Started,
}

pub(crate) fn site(options: &str) -> Result<Site, String> {
    enter_userns(true)?;
    ip(&format!("addr add {HOST4}/32 dev lo"))?;
    ip(&format!("addr add {HOST6}/128 dev lo nodad"))?;
    await_ipv6(HOST6);
    std::fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0").expect("the namespace is ours");
    attach(options)
}

fn attach(options: &str) -> Result<Site, String> {
    if std::fs::File::options().read(true).write(true).open("/dev/net/tun").is_err() {
        return Err("/dev/net/tun".to_owned());
    }
    let mut container = Container::start();
    container.tell("write /proc/sys/net/ipv4/ping_group_range 0\t0");
    let driver = Builtin::new(Options::parse(options).expect("options"));
    let plan = driver.prepare().expect("a plan");
    container.prepare(&plan);
    let before = Instant::now();
    let mut started = driver.start(plan, container.netns()).expect("it starts");
    started.wait_ready().expect("it serves");
    eprintln!("ready after {:?}", before.elapsed());
    if let Some(address) = started.attachment().ipv6() {
        assert_eq!(container.tell(&format!("await-ipv6 {}", address.ip)), "ok");
    }
    Ok(Site { container, started })
}

impl Site {
    fn pid(&self) -> i32 {
        let path = format!("/proc/self/fdinfo/{}", self.started.pidfd().as_raw_fd());
        let text = std::fs::read_to_string(path).expect("a pidfd");
        text.lines().find_map(|line| line.strip_prefix("Pid:")).expect("its line").trim().parse().expect("a number")
    }

    fn status(&self, name: &str) -> String {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.expect("the kernel has it").trim().to_owned()
    }
}

fn builtin_configures_what_the_plan_says() -> Outcome {
    let mut site = need!(site("cidr=10.9.0.0/24,mtu=1500"));
    let attachment = site.started.attachment().clone();
    let shown = site.container.tell("ip -o addr show tap0");
    for address in &attachment.addresses {
        assert!(shown.contains(&format!("{}/{}", address.ip, address.prefix)), "{shown}");
    }
    assert!(shown.contains("fd63") && attachment.addresses.len() == 2, "{shown}");
    assert!(site.container.tell("ip -o link show tap0").contains("mtu 1500 "));
    assert!(site.container.tell("ip route show default").contains("via 10.9.0.2 dev tap0"));
    assert!(site.container.tell("ip -6 route show default").contains("via fd63:6f72:6163:6c65::2 dev tap0"));
    let mut plain = attach("enable_ipv6=false").expect("a second one");
    assert!(!plain.container.tell("ip -6 -o addr show tap0").contains("fd63"));
    Outcome::Passed
}

/// How many MiB go both ways; more by hand.
fn mebibytes(usual: usize) -> usize {
    std::env::var("NET_TESTS_MIB").ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

fn exchanges(site: &mut Site, bytes: usize) {
    for host in [format!("{HOST4}:80"), format!("[{HOST6}]:80")] {
        let start = Instant::now();
        assert_eq!(site.container.tell(&format!("exchange {host} {bytes}")), bytes.to_string(), "{host}");
        eprintln!("{host}: {bytes} bytes there and back in {:?}", start.elapsed());
    }
}

fn serve_echo() {
    for host in [format!("{HOST4}:80"), format!("[{HOST6}]:80")] {
        roles::obey(&format!("tcp-echo {host}"));
    }
}

fn builtin_carries_bytes_both_ways() -> Outcome {
    let mut site = need!(site(""));
    serve_echo();
    exchanges(&mut site, mebibytes(64) << 20);
    exchanges(&mut site, 0);
    exchanges(&mut site, 1);
    // Short packets as well.
    site.container.tell("ip link set tap0 mtu 1400 gso_max_size 1400");
    exchanges(&mut site, 8 << 20);
    Outcome::Passed
}

fn builtin_is_exact_where_packets_get_lost() -> Outcome {
    let mut site = need!(site(""));
    serve_echo();
    roles::obey(&format!("udp-echo {HOST4}:81"));
    // The container becomes the router of another one, over a wire with the weather of a bad day in both directions.
    let mut behind = Container::start();
    let netns = format!("/proc/{}/ns/net", site.container.netns().pid);
    assert_eq!(behind.tell(&format!("bad-wire {netns}")), "ok");
    for command in ["link set wire0 up mtu 1400", "addr add 10.1.0.2/24 dev wire0", "route add default via 10.1.0.1"] {
        assert_eq!(behind.tell(&format!("ip {command}")), "");
    }
    for command in ["link set wire1 up mtu 1400", "addr add 10.1.0.1/24 dev wire1"] {
        assert_eq!(site.container.tell(&format!("ip {command}")), "");
    }
    site.container.tell("write /proc/sys/net/ipv4/ip_forward 1");
    let bytes = mebibytes(8) << 20;
    let start = Instant::now();
    assert_eq!(behind.tell(&format!("exchange {HOST4}:80 {bytes}")), bytes.to_string());
    eprintln!("{bytes} bytes there and back in {:?}; {}", start.elapsed(), behind.tell("bad-wire-report"));
    // What is refused is heard of, sooner or later; so is what arrives in parts.
    let refused = ErrorKind::ConnectionRefused.to_string();
    assert_eq!(behind.tell(&format!("tcp-reach {HOST4}:9")), refused);
    let mut is_answered = false;
    for _ in 0..10 {
        is_answered |= behind.tell(&format!("udp-ask {HOST4}:81 20000")) == "ok";
        if is_answered {
            return Outcome::Passed;
        }
    }
    panic!("no datagram in parts came through");
}

fn builtin_carries_a_thousand_connections() -> Outcome {
    const COUNT: usize = 1000;
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    if hard < 2200 {
        return Outcome::Skipped("a hard limit of 2200 descriptors".to_owned());
    }
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(4096), hard).expect("up to the hard limit");
    let mut site = need!(site(""));
    serve_echo();
    assert_eq!(site.container.tell(&format!("connect-many {HOST4}:80 {COUNT}")), COUNT.to_string());
    // And everything is given back.
    let open = || std::fs::read_dir(format!("/proc/{}/fd", site.pid())).expect("ours").count();
    let start = Instant::now();
    while open() > 30 {
        assert!(start.elapsed() < Duration::from_secs(20), "{} descriptors", open());
        std::thread::yield_now();
    }
    Outcome::Passed
}

fn builtin_closes_halves_one_by_one() -> Outcome {
    let mut site = need!(site(""));
    let listener = TcpListener::bind(format!("{HOST4}:80")).expect("the port is free");
    let host = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("somebody comes");
        stream.write_all(b"bye").expect("it reads");
        stream.shutdown(Shutdown::Write).expect("half-close");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("its half goes on");
        text
    });
    assert_eq!(site.container.tell(&format!("half-close {HOST4}:80")), "bye");
    assert_eq!(host.join().expect("the host's side"), "still here");
    Outcome::Passed
}

fn builtin_passes_refusals_and_resets_on() -> Outcome {
    let mut site = need!(site(""));
    for (address, kind) in [
        (format!("{HOST4}:9"), ErrorKind::ConnectionRefused),
        (format!("[{HOST6}]:9"), ErrorKind::ConnectionRefused),
        // This host has no other routes.
        ("198.51.100.1:80".to_owned(), ErrorKind::NetworkUnreachable),
        ("[2001:db8:1::1]:80".to_owned(), ErrorKind::NetworkUnreachable),
        ("10.0.2.77:80".to_owned(), ErrorKind::HostUnreachable),
        ("10.0.2.3:80".to_owned(), ErrorKind::ConnectionRefused),
    ] {
        assert_eq!(site.container.tell(&format!("tcp-reach {address}")), kind.to_string(), "{address}");
    }
    let refused = ErrorKind::ConnectionRefused.to_string();
    assert_eq!(site.container.tell(&format!("udp-ask {HOST4}:9 10")), refused);
    assert_eq!(site.container.tell(&format!("udp-ask [{HOST6}]:9 10")), refused);

    // A reset on the host's side is one in the container, and the other way round.
    let listener = TcpListener::bind(format!("{HOST4}:80")).expect("the port is free");
    let host = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("somebody comes");
        stream.read_exact(&mut [0]).expect("it says something");
        nix::sys::socket::setsockopt(&stream, nix::sys::socket::sockopt::Linger, &roles::RESET).expect("SO_LINGER");
        drop(stream);
        let (mut stream, _) = listener.accept().expect("somebody comes again");
        stream.read(&mut [0; 10]).map_err(|error| error.kind())
    });
    let ended = site.container.tell(&format!("exchange {HOST4}:80 1000"));
    assert!(ended.starts_with("first line: ") && ended.contains("reset"), "{ended}");
    // It gives up while something unread waits for it.
    assert_eq!(site.container.tell(&format!("reset {HOST4}:80")), "ok");
    assert_eq!(host.join().expect("the host's side"), Err(ErrorKind::ConnectionReset));
    Outcome::Passed
}

fn builtin_holds_little_for_slow_readers() -> Outcome {
    let mut site = need!(site(""));
    let listener = TcpListener::bind(format!("{HOST4}:80")).expect("the port is free");
    assert_eq!(site.container.tell(&format!("hold {HOST4}:80")), "ok");
    let (mut stream, _) = listener.accept().expect("it is connected");
    stream.set_write_timeout(Some(Duration::from_millis(500))).expect("a timeout");
    let buffer = vec![0; 1 << 16];
    let mut taken = 0;
    while let Ok(len) = stream.write(&buffer) {
        taken += len;
        assert!(taken < 64 << 20, "nobody reads");
    }
    let kib: u64 = site.status("RssAnon").trim_end_matches("kB").trim().parse().expect("a number");
    eprintln!("{taken} bytes taken; the stack has {kib} KiB");
    assert!(kib < 4096, "{kib} KiB");
    Outcome::Passed
}

fn builtin_carries_datagrams_of_every_size() -> Outcome {
    let mut site = need!(site(""));
    for host in [format!("{HOST4}:81"), format!("[{HOST6}]:81")] {
        roles::obey(&format!("udp-echo {host}"));
        // The echo puts the client's address before the answer.
        for len in [0, 1, 1400, 9000, 60_000] {
            assert_eq!(site.container.tell(&format!("udp-ask {host} {len}")), "ok", "{host} {len}");
        }
    }
    let mut small = attach("mtu=1400").expect("a second one");
    for host in [format!("{HOST4}:81"), format!("[{HOST6}]:81")] {
        assert_eq!(small.container.tell(&format!("udp-ask {host} 60000")), "ok", "{host} in parts");
    }
    Outcome::Passed
}

fn builtin_carries_echo_requests() -> Outcome {
    let mut site = need!(site(""));
    // A host that does not let its users ping says so; that is how namespaces begin.
    assert_eq!(site.container.tell("echo 192.0.2.9"), ErrorKind::HostUnreachable.to_string());
    std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0").expect("the namespace is ours");
    for address in [HOST4, HOST6, "10.0.2.2", "fd63:6f72:6163:6c65::2"] {
        assert_eq!(site.container.tell(&format!("echo {address}")), "ok", "{address}");
    }
    assert_eq!(site.container.tell("echo 10.0.2.99"), ErrorKind::HostUnreachable.to_string());
    Outcome::Passed
}

fn builtin_keeps_the_hosts_loopback_closed() -> Outcome {
    let mut closed = need!(site(""));
    let mut open = attach("allow_host_loopback=true").expect("a second one");
    roles::obey("tcp-peer 127.0.0.1:80");
    roles::obey("tcp-peer [::1]:80");
    let unreachable = ErrorKind::HostUnreachable.to_string();
    assert_eq!(closed.container.tell("tcp-reach 10.0.2.2:80"), unreachable);
    assert_ne!(closed.container.tell("tcp-reach [fd63:6f72:6163:6c65::2]:80"), "::1");
    assert_eq!(open.container.tell("tcp-reach 10.0.2.2:80"), "127.0.0.1");
    assert_eq!(open.container.tell("tcp-reach [fd63:6f72:6163:6c65::2]:80"), "::1");
    Outcome::Passed
}

fn builtin_asks_the_hosts_name_servers() -> Outcome {
    let mut site = need!(site(""));
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let server = net::resolv_conf::ResolvConf::parse(&text).nameservers.first().copied();
    let server = server.unwrap_or(IpAddr::from([127, 0, 0, 1]));
    if !server.is_loopback() && UdpSocket::bind((server, 0)).is_err() {
        let prefix = if server.is_ipv4() { "32" } else { "128 nodad" };
        need!(ip(&format!("addr add {server}/{prefix} dev lo").replace("128 nodad dev lo", "128 dev lo nodad")));
    }
    let address = std::net::SocketAddr::new(server, 53);
    roles::obey(&format!("udp-echo {address}"));
    roles::obey(&format!("tcp-echo {address}"));
    assert_eq!(site.container.tell("udp-ask 10.0.2.3:53 40"), "ok");
    assert_eq!(site.container.tell("exchange 10.0.2.3:53 4000"), "4000");
    assert_eq!(site.container.tell("udp-ask 10.0.2.3:54 40"), ErrorKind::ConnectionRefused.to_string());
    Outcome::Passed
}

fn builtin_has_no_rights_while_it_serves() -> Outcome {
    let site = need!(site(""));
    for name in ["CapInh", "CapPrm", "CapEff"] {
        assert_eq!(u64::from_str_radix(&site.status(name), 16), Ok(0), "{name}");
    }
    assert_eq!((site.status("NoNewPrivs"), site.status("Threads")), ("1".to_owned(), "1".to_owned()));
    if cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) {
        assert_eq!(site.status("Seccomp"), "2");
    }
    let pid = site.pid();
    site.started.stop();
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    Outcome::Passed
}

fn builtin_sleeps_while_nothing_is_said() -> Outcome {
    let mut site = need!(site(""));
    serve_echo();
    assert_eq!(site.container.tell(&format!("hold {HOST4}:80")), "ok");
    assert_eq!(site.container.tell(&format!("exchange {HOST4}:80 100000")), "100000");
    let count = || site.status("voluntary_ctxt_switches");
    // Timers of the exchange pass, once each.
    let start = Instant::now();
    loop {
        let before = count();
        std::thread::sleep(Duration::from_millis(700));
        if count() == before {
            return Outcome::Passed;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "it wakes up again and again");
    }
}
