//! The server on loopback: containers are addresses of 127.0.0.0/8, and so are the host's servers.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::message::tests::ask;
use super::message::{A, AAAA, Query, query, rcode};
use super::names::{Place, Wishes};
use super::resolvers::Resolvers;
use super::{Names, Server, Sockets};
use crate::netlink::Address;

/// What is documented: a query whose servers are silent is answered within three seconds.
const AT_MOST: Duration = Duration::from_secs(3);

/// Longer than anything takes, so that a test ends.
const FOR_EVER: Duration = Duration::from_secs(60);

type Change = Box<dyn FnOnce(&mut Names) + Send>;

/// A server in a thread.
struct Serving {
    address: SocketAddr,
    changes: Option<mpsc::Sender<Change>>,
    thread: Option<JoinHandle<()>>,
    resolv_conf: PathBuf,
    _place: tempfile::TempDir,
}

impl Serving {
    /// One that passes on to these servers at `port`.
    fn start(port: u16, servers: &[&str]) -> Self {
        let place = tempfile::tempdir().unwrap();
        let resolv_conf = place.path().join("resolv.conf");
        let sockets = free_sockets();
        let address = crate::sys::local_addr(sockets.datagrams[0].as_fd()).unwrap();
        let mut server = Server::with_port(sockets, Resolvers::new(resolv_conf.clone(), port)).unwrap();
        let (changes, changed) = mpsc::channel::<Change>();
        let thread = std::thread::spawn(move || {
            loop {
                loop {
                    match changed.try_recv() {
                        Ok(change) => change(server.names()),
                        Err(mpsc::TryRecvError::Empty) => break,
                        Err(mpsc::TryRecvError::Disconnected) => return,
                    }
                }
                let mut fds = [PollFd::new(server.as_fd(), PollFlags::POLLIN)];
                let _ = poll(&mut fds, PollTimeout::from(5_u8));
                server.serve();
            }
        });
        let serving = Self { address, changes: Some(changes), thread: Some(thread), resolv_conf, _place: place };
        serving.write_servers(servers);
        serving
    }

    fn write_servers(&self, servers: &[&str]) {
        let lines: String = servers.iter().map(|server| format!("nameserver {server}\n")).collect();
        std::fs::write(&self.resolv_conf, lines).unwrap();
    }

    /// Changes names, and returns when they are changed.
    fn change(&self, change: impl FnOnce(&mut Names) + Send + 'static) {
        let (done, is_done) = mpsc::channel();
        let work = move |names: &mut Names| {
            change(names);
            let _ = done.send(());
        };
        self.changes.as_ref().unwrap().send(Box::new(work)).unwrap();
        is_done.recv().unwrap();
    }

    /// A container that asks from an address.
    fn asker(&self, ip: &str) -> Asker {
        let socket = UdpSocket::bind((ip, 0)).unwrap();
        socket.set_read_timeout(Some(FOR_EVER)).unwrap();
        // Only what comes from the asked address is received.
        socket.connect(self.address).unwrap();
        Asker { socket }
    }

    /// Asks over TCP.
    fn stream(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(FOR_EVER)).unwrap();
        stream
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.changes = None;
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking());
    }
}

/// Sockets at a port that is free for both.
fn free_sockets() -> Sockets {
    loop {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        if let Ok(sockets) = Sockets::on(SocketAddr::from(([127, 0, 0, 1], port))) {
            return sockets;
        }
    }
}

struct Asker {
    socket: UdpSocket,
}

impl Asker {
    fn ask(&self, query: &[u8]) -> Vec<u8> {
        self.socket.send(query).unwrap();
        let mut buffer = [0; 65_535];
        let len = self.socket.recv(&mut buffer).unwrap();
        buffer[..len].to_vec()
    }
}

fn put(stream: &mut TcpStream, message: &[u8]) {
    let len = u16::try_from(message.len()).unwrap().to_be_bytes();
    stream.write_all(&[&len, message].concat()).unwrap();
}

fn take(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut len = [0; 2];
    stream.read_exact(&mut len).ok()?;
    let mut message = vec![0; u16::from_be_bytes(len).into()];
    stream.read_exact(&mut message).ok()?;
    Some(message)
}

/// Code, whether it is truncated, and how many records there are.
fn shown(answer: &[u8]) -> (u8, bool, u16) {
    (answer[3] & 0xf, answer[2] & 2 != 0, u16::from_be_bytes([answer[6], answer[7]]))
}

/// What a server of the host does with a query over UDP; `None` is nothing.
type Habit = fn(&Query<'_>) -> Vec<Vec<u8>>;

/// One of the host's servers; over TCP it always gives forty addresses.
struct Upstream {
    port: u16,
    ends: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Upstream {
    /// At this address, at any port or at that of another one.
    fn start(ip: &str, port: Option<u16>, habit: Habit) -> Self {
        let (socket, listener) = loop {
            let socket = UdpSocket::bind((ip, port.unwrap_or(0))).unwrap();
            match TcpListener::bind(socket.local_addr().unwrap()) {
                Ok(listener) => break (socket, listener),
                Err(error) => assert!(port.is_none(), "{error}"),
            }
        };
        let port = socket.local_addr().unwrap().port();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        listener.set_nonblocking(true).unwrap();
        let ends = Arc::new(AtomicBool::new(false));
        let (over_udp, over_tcp) = (Arc::clone(&ends), Arc::clone(&ends));
        let datagrams = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while !over_udp.load(Ordering::Relaxed) {
                let Ok((len, from)) = socket.recv_from(&mut buffer) else { continue };
                let Ok(query) = query(&buffer[..len]) else { continue };
                habit(&query).iter().for_each(|answer| drop(socket.send_to(answer, from)));
            }
        });
        let streams = std::thread::spawn(move || {
            while !over_tcp.load(Ordering::Relaxed) {
                let Ok((mut stream, _)) = listener.accept() else {
                    std::thread::sleep(Duration::from_millis(5));
                    continue;
                };
                stream.set_nonblocking(false).unwrap();
                stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
                let Some(asked) = take(&mut stream) else { continue };
                let query = query(&asked).unwrap();
                put(&mut stream, &query.answer(0, &addresses(40), 65_535));
            }
        });
        Self { port, ends, threads: vec![datagrams, streams] }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

fn addresses(count: u8) -> Vec<super::message::Record> {
    (0..count).map(|last| super::message::Record::Address(IpAddr::from([192, 0, 2, last]))).collect()
}

fn answers(query: &Query<'_>) -> Vec<Vec<u8>> {
    vec![query.answer(0, &addresses(1), 512)]
}

fn is_silent(_: &Query<'_>) -> Vec<Vec<u8>> {
    Vec::new()
}

fn set(names: &mut Names, container: i32, name: &str, ip: &str) {
    let place = Place {
        network: "net".to_owned(),
        names: vec![name.to_owned()],
        addresses: vec![Address { ip: ip.parse().unwrap(), prefix: 8 }],
        has_names: true,
        leads_out: true,
        servers: Vec::new(),
    };
    names.set(container, vec![place], Wishes::default());
}

#[test]
fn names_are_answered_over_both_ways() {
    let upstream = Upstream::start("127.0.0.1", None, answers);
    let serving = Serving::start(upstream.port, &["127.0.0.1"]);
    serving.change(|names| set(names, 1, "web", "127.0.0.1"));
    let asker = serving.asker("127.0.0.1");
    let answer = asker.ask(&ask("WEB", A, None));
    assert_eq!(shown(&answer), (0, false, 1));
    assert!(answer.ends_with(&[127, 0, 0, 1]) && answer.windows(4).any(|at| at == b"\x03WEB"), "{answer:?}");
    assert_eq!(shown(&asker.ask(&ask("web", AAAA, None))), (0, false, 0));
    let mut stream = serving.stream();
    // One after the other over one connection, sent at once.
    for name in ["web", "example.org", "web.dns.podman", "nosuch.dns.podman"] {
        put(&mut stream, &ask(name, A, Some(1232)));
    }
    let all: Vec<_> = (0..4).map(|_| shown(&take(&mut stream).unwrap())).collect();
    assert_eq!(all, [(0, false, 1), (0, false, 1), (0, false, 1), (3, false, 0)]);
    // Bytes that are no query end a connection, and nothing else.
    put(&mut stream, b"no query");
    assert_eq!(take(&mut stream), None);
    assert_eq!(shown(&asker.ask(&ask("web", A, None))), (0, false, 1));
}

#[test]
fn what_is_not_known_is_passed_on_as_it_is() {
    fn echoes(query: &Query<'_>) -> Vec<Vec<u8>> {
        assert_ne!(query.id(), 0x1234, "it has a number of its own");
        // What was said of the largest answer arrives, or else no more than this is sent.
        vec![query.answer(0, &addresses(60), query.datagram_limit())]
    }
    let upstream = Upstream::start("127.0.0.1", None, echoes);
    let serving = Serving::start(upstream.port, &["127.0.0.1"]);
    let answer = serving.asker("127.0.0.1").ask(&ask("Example.org", A, Some(1232)));
    assert_eq!((shown(&answer), &answer[..2]), ((0, false, 60), &[0x12, 0x34][..]));
    assert!(answer.windows(8).any(|at| at == b"\x07Example"));
}

#[test]
fn a_truncated_answer_is_asked_for_over_tcp() {
    fn truncates(query: &Query<'_>) -> Vec<Vec<u8>> {
        vec![query.truncated(0)]
    }
    let upstream = Upstream::start("127.0.0.1", None, truncates);
    let serving = Serving::start(upstream.port, &["127.0.0.1"]);
    let asker = serving.asker("127.0.0.1");
    assert_eq!(shown(&asker.ask(&ask("example.org", A, Some(4096)))), (0, false, 40));
    assert_eq!(shown(&asker.ask(&ask("example.org", A, None))), (0, true, 0), "it does not fit");
    let mut stream = serving.stream();
    put(&mut stream, &ask("example.org", A, None));
    assert_eq!(shown(&take(&mut stream).unwrap()), (0, false, 40));
}

#[test]
fn silence_is_answered_in_time() {
    let upstream = Upstream::start("127.0.0.1", None, is_silent);
    let serving = Serving::start(upstream.port, &["127.0.0.1"]);
    let began = Instant::now();
    let answer = serving.asker("127.0.0.1").ask(&ask("example.org", A, Some(1232)));
    assert_eq!(shown(&answer), (rcode::SERVER_FAILURE, false, 0));
    assert!(began.elapsed() < AT_MOST, "{:?}", began.elapsed());
    drop(upstream);
    // Nobody is there at all, or nobody is named.
    assert_eq!(shown(&serving.asker("127.0.0.1").ask(&ask("example.org", A, None))), (2, false, 0));
    serving.write_servers(&[]);
    assert_eq!(shown(&serving.asker("127.0.0.1").ask(&ask("example.org", A, None))), (2, false, 0));
}

#[test]
fn the_next_server_is_asked() {
    fn fails(query: &Query<'_>) -> Vec<Vec<u8>> {
        vec![query.answer(rcode::SERVER_FAILURE, &[], 512)]
    }
    fn knows_nothing(query: &Query<'_>) -> Vec<Vec<u8>> {
        vec![query.answer(rcode::NO_SUCH_NAME, &[], 512)]
    }
    let failing = Upstream::start("127.0.0.1", None, fails);
    let silent = Upstream::start("127.0.0.2", Some(failing.port), is_silent);
    let good = Upstream::start("127.0.0.3", Some(failing.port), answers);
    let negative = Upstream::start("127.0.0.4", Some(failing.port), knows_nothing);
    let serving = Serving::start(failing.port, &[]);
    let asker = serving.asker("127.0.0.1");
    for (servers, found) in [
        (&["127.0.0.1", "127.0.0.3"][..], (0, false, 1)),
        (&["127.0.0.9", "127.0.0.3"], (0, false, 1)),
        (&["127.0.0.2", "127.0.0.3"], (0, false, 1)),
        (&["127.0.0.1"], (rcode::SERVER_FAILURE, false, 0)),
        // That there is no such name is an answer.
        (&["127.0.0.4", "127.0.0.3"], (rcode::NO_SUCH_NAME, false, 0)),
    ] {
        serving.write_servers(servers);
        assert_eq!(shown(&asker.ask(&ask("example.org", A, None))), found, "{servers:?}");
    }
    drop((silent, good, negative));
}

#[test]
fn other_answers_are_passed_over() {
    fn lies_first(query: &Query<'_>) -> Vec<Vec<u8>> {
        let other_number = super::message::with_id(&query.answer(0, &addresses(3), 512), !query.id());
        let other = super::message::with_id(&ask("example.com", A, None), query.id());
        let other_question = super::message::query(&other).unwrap().answer(0, &addresses(3), 512);
        let cut = query.answer(0, &addresses(3), 512)[..20].to_vec();
        vec![other_number, other_question, cut, query.answer(0, &addresses(1), 512)]
    }
    let upstream = Upstream::start("127.0.0.1", None, lies_first);
    let serving = Serving::start(upstream.port, &["127.0.0.1"]);
    assert_eq!(shown(&serving.asker("127.0.0.1").ask(&ask("example.org", A, None))), (0, false, 1));
}

#[test]
fn the_servers_of_this_moment_are_asked() {
    let first = Upstream::start("127.0.0.1", None, answers);
    let second = Upstream::start("127.0.0.2", Some(first.port), |query| vec![query.answer(0, &addresses(2), 512)]);
    let serving = Serving::start(first.port, &["127.0.0.1"]);
    let asker = serving.asker("127.0.0.1");
    for (server, count) in [("127.0.0.1", 1), ("127.0.0.2", 2), ("127.0.0.1", 1)] {
        serving.write_servers(&[server]);
        assert_eq!(shown(&asker.ask(&ask("example.org", A, None))), (0, false, count));
    }
    // A container's own servers are asked in their stead.
    serving.change(|names| {
        set(names, 1, "web", "127.0.0.7");
        let place = Place {
            network: "net".to_owned(),
            names: Vec::new(),
            addresses: vec![Address { ip: "127.0.0.8".parse().unwrap(), prefix: 8 }],
            has_names: true,
            leads_out: true,
            servers: Vec::new(),
        };
        let wishes = Wishes { servers: vec!["127.0.0.2".parse().unwrap()], ..Wishes::default() };
        names.set(2, vec![place], wishes);
    });
    assert_eq!(shown(&serving.asker("127.0.0.8").ask(&ask("example.org", A, None))), (0, false, 2));
    assert_eq!(shown(&serving.asker("127.0.0.7").ask(&ask("example.org", A, None))), (0, false, 1));
    drop(second);
}

#[test]
fn who_asks_too_much_is_in_nobodys_way() {
    let silent = Upstream::start("127.0.0.1", None, is_silent);
    let serving = Serving::start(silent.port, &["127.0.0.1"]);
    serving.change(|names| set(names, 1, "web", "127.0.0.8"));
    let greedy = serving.asker("127.0.0.7");
    for _ in 0..400 {
        greedy.socket.send(&ask("example.org", A, None)).unwrap();
    }
    // What is too much is refused at once, so an answer means that the others are on their way.
    let mut buffer = [0; 512];
    assert!(greedy.socket.recv(&mut buffer).is_ok());
    let other = serving.asker("127.0.0.8");
    assert_eq!(shown(&other.ask(&ask("web", A, None))), (0, false, 1));
    let good = Upstream::start("127.0.0.3", Some(silent.port), answers);
    serving.write_servers(&["127.0.0.3"]);
    assert_eq!(shown(&other.ask(&ask("example.org", A, None))), (0, false, 1));
    let mut idle: Vec<TcpStream> = (0..80).map(|_| serving.stream()).collect();
    assert_eq!(shown(&other.ask(&ask("web", A, None))), (0, false, 1));
    let (first, last) = (&mut idle[0].try_clone().unwrap(), idle.last_mut().unwrap());
    assert_eq!(take(last), None, "a connection too many is closed");
    put(first, &ask("example.org", A, None));
    assert_eq!(shown(&take(first).unwrap()), (0, false, 1));
    drop(good);
}

#[test]
fn ten_thousand_queries_while_containers_come_and_go() {
    let upstream = Upstream::start("127.0.0.1", None, answers);
    let serving = Serving::start(upstream.port, &["127.0.0.1"]);
    serving.change(|names| set(names, 0, "steady", "127.0.1.1"));
    let ends = Arc::new(AtomicBool::new(false));
    std::thread::scope(|scope| {
        let comes_and_goes = || {
            for round in 0_u32.. {
                if ends.load(Ordering::Relaxed) {
                    break;
                }
                for number in 1..=20 {
                    let ip = format!("127.0.2.{number}");
                    serving.change(move |names| match round % 2 {
                        0 => set(names, number, &format!("c{number}"), &ip),
                        _ => names.remove(number),
                    });
                }
            }
        };
        scope.spawn(comes_and_goes);
        let askers: Vec<_> = (0..4)
            .map(|_| {
                let asker = serving.asker("127.0.1.1");
                scope.spawn(move || {
                    for number in 0..2500 {
                        let (name, found) = match number % 5 {
                            0 => ("example.org".to_owned(), 1),
                            1 => (format!("c{}.dns.podman", number % 20 + 1), 2),
                            _ => ("steady".to_owned(), 1),
                        };
                        let (code, _, count) = shown(&asker.ask(&ask(&name, A, None)));
                        // One that comes and goes is there, or there is no such name.
                        let is_right = if found == 1 {
                            (code, count) == (0, 1)
                        } else {
                            [(0, 1), (3, 0)].contains(&(code, count))
                        };
                        assert!(is_right, "{name}: {code} {count}");
                    }
                })
            })
            .collect();
        let ended: Vec<_> = askers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        ends.store(true, Ordering::Relaxed);
        assert!(ended.iter().all(Result::is_ok));
    });
}
