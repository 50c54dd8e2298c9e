//! The relay with real children, pipes, ptys and clients.

use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::Uid;

use super::*;
use crate::monitor::attach::{Client, ClientError, Manners, Outcome, Request as AttachRequest};
use crate::monitor::log::{Driver, Limits, Printer, Reader, Selection};
use crate::process::pty::tests::pty;
use crate::process::stdio::{Input, pipes};

/// A relay with a child in place of a container.
struct Fixture {
    directory: tempfile::TempDir,
    handle: File,
    relay: Relay,
    /// Readable when the child has ended.
    ended: PipeReader,
    waiter: Option<thread::JoinHandle<Exit>>,
}

#[derive(Debug, Clone, Copy)]
enum TestEvent {
    Ended,
    Relay(Event),
}

/// Waits for a child in a thread, in place of a pidfd.
fn wait_for(mut child: Child) -> (PipeReader, thread::JoinHandle<Exit>) {
    use std::os::unix::process::ExitStatusExt;
    let (ended, alive) = pipe().unwrap();
    let waiter = thread::spawn(move || {
        let status = child.wait().unwrap();
        drop(alive);
        Exit::from_wait_status(status.into_raw()).unwrap()
    });
    (ended, waiter)
}

impl Fixture {
    fn new(child: Child, streams: Streams, policy: StdinPolicy) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let handle = File::open(directory.path()).unwrap();
        let log = Log::open(Driver::K8sFile, handle.as_fd(), "log", Limits::default()).unwrap();
        let (ended, waiter) = wait_for(child);
        let relay = Relay::new(streams, policy, log).unwrap();
        Self { directory, handle, relay, ended, waiter: Some(waiter) }
    }

    fn with_pipes(script: &str, policy: StdinPolicy) -> Self {
        let input = if policy == StdinPolicy::NotInteractive { Input::Null } else { Input::Pipe };
        let (container, streams) = pipes(input).unwrap();
        let [stdin, stdout, stderr] = container.into_parts();
        let child = Command::new("sh").args(["-c", script]).stdin(stdin).stdout(stdout).stderr(stderr).spawn().unwrap();
        Self::new(child, streams, policy)
    }

    fn with_terminal(script: &str) -> Self {
        let pty = pty();
        let stdio = || Stdio::from(pty.slave.try_clone().unwrap());
        let mut command = Command::new("setsid");
        command.args(["--ctty", "sh", "-c", script]).stdin(stdio()).stdout(stdio()).stderr(stdio());
        let child = command.spawn().unwrap();
        Self::new(child, Streams::terminal(pty.master).unwrap(), StdinPolicy::Once)
    }

    fn listen(&mut self) {
        self.relay.listen(Listener::bind(self.handle.as_fd(), Uid::effective()).unwrap());
    }

    /// One turn; true if the child ended in it.
    fn turn(&mut self, requests: &mut Vec<Request>) -> bool {
        let mut turn = Turn::new();
        if self.waiter.is_some() {
            turn.watch(self.ended.as_fd(), Interest::Read, TestEvent::Ended);
        }
        self.relay.watch(&mut turn, TestEvent::Relay);
        let mut has_ended = false;
        let ready = turn.wait(Some(Instant::now() + Duration::from_secs(20))).unwrap();
        assert!(!ready.is_empty(), "nothing happens any more");
        for ready in ready {
            match ready.event {
                TestEvent::Relay(event) => requests.extend(self.relay.on(event)),
                TestEvent::Ended => has_ended = true,
            }
        }
        if has_ended && let Some(waiter) = self.waiter.take() {
            requests.extend(self.relay.container_exited(waiter.join().unwrap()));
        }
        has_ended
    }

    /// Turns until the child has ended and every client has been told.
    fn run(&mut self) -> Vec<Request> {
        let mut requests = Vec::new();
        while self.waiter.is_some() || !self.relay.is_alone() {
            self.turn(&mut requests);
        }
        requests
    }

    fn run_until(&mut self, is_reached: impl Fn(&Relay) -> bool) {
        while !is_reached(&self.relay) {
            self.turn(&mut Vec::new());
        }
    }

    fn log(&self) -> (String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let reader = Reader::new(self.handle.as_fd(), "log").unwrap();
        reader.read(&Selection::default(), None, &mut Printer::new(&mut out, &mut err, false)).unwrap();
        (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }
}

fn control() -> (Client, OwnedFd) {
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
    (Client::inherited(ours), theirs)
}

fn run_client(client: Client) -> thread::JoinHandle<Outcome> {
    thread::spawn(move || client.run(Manners::default(), |_, _| {}).unwrap())
}

fn read_all(mut reader: PipeReader) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    })
}

/// A first client with pipes; its ends of them.
fn first_client(control: OwnedFd) -> (FirstClient, PipeWriter, PipeReader, PipeReader) {
    let (stdin, typing) = pipe().unwrap();
    let (out, stdout) = pipe().unwrap();
    let (err, stderr) = pipe().unwrap();
    let first = FirstClient {
        control: Some(control),
        stdin: Some(stdin.into()),
        stdout: Some(stdout.into()),
        stderr: Some(stderr.into()),
        detach_keys: DetachKeys::none(),
    };
    (first, typing, out, err)
}

#[test]
fn a_foreground_run_gets_streams_and_exit_code() {
    let mut fixture = Fixture::with_pipes("echo out; echo err >&2; exit 3", StdinPolicy::NotInteractive);
    let (client, control) = control();
    let (first, _typing, out, err) = first_client(control);
    fixture.relay.attach_first(first);
    let client = run_client(client);
    assert!(fixture.run().is_empty());
    assert_eq!(client.join().unwrap(), Outcome::Exited(Exit::Code(3)));
    assert_eq!(read_all(out).join().unwrap(), "out\n");
    assert_eq!(read_all(err).join().unwrap(), "err\n");
    assert_eq!(fixture.log(), ("out\n".to_owned(), "err\n".to_owned()));
}

#[test]
fn the_end_of_a_client_s_stdin_is_the_end_of_the_container_s() {
    let mut fixture = Fixture::with_pipes("cat; echo end", StdinPolicy::Once);
    let (client, control) = control();
    let (first, mut typing, out, _err) = first_client(control);
    fixture.relay.attach_first(first);
    let client = run_client(client);
    let text: String = (0..100_000).map(|number| format!("{number}\n")).collect();
    let expected = text.clone() + "end\n";
    let typist = thread::spawn(move || typing.write_all(text.as_bytes()).unwrap());
    let out = read_all(out);
    fixture.run();
    typist.join().unwrap();
    assert_eq!(client.join().unwrap(), Outcome::Exited(Exit::Code(0)));
    drop(fixture.relay);
    assert!(out.join().unwrap() == expected);
}

#[test]
fn stdin_that_stays_open_survives_its_clients() {
    let mut fixture = Fixture::with_pipes("read a; read b; echo $a $b", StdinPolicy::StaysOpen);
    for word in ["one\n", "two\n"] {
        let (_client, control) = control();
        let (first, mut typing, _out, _err) = first_client(control);
        let id = fixture.relay.attach_first(first);
        typing.write_all(word.as_bytes()).unwrap();
        drop(typing);
        // Or until the container has ended, which lets the client go.
        fixture.run_until(|relay| !relay.clients.iter().any(|client| client.id == id && client.stdin.is_some()));
        fixture.relay.drop_client(id);
    }
    fixture.run();
    assert_eq!(fixture.log().0, "one two\n");
}

#[test]
fn a_container_that_closes_its_stdin_does_not_stop_the_relay() {
    let mut fixture = Fixture::with_pipes("exec <&-; echo closed; exec sleep 0.05", StdinPolicy::Once);
    let (client, control) = control();
    let (first, mut typing, out, _err) = first_client(control);
    fixture.relay.attach_first(first);
    let client = run_client(client);
    let typist = thread::spawn(move || {
        // Nobody reads it: broken sooner or later, or given up with the client.
        while typing.write_all(&[b'x'; 4096]).is_ok() {}
    });
    fixture.run();
    assert_eq!(client.join().unwrap(), Outcome::Exited(Exit::Code(0)));
    typist.join().unwrap();
    drop(fixture.relay);
    assert_eq!(read_all(out).join().unwrap(), "closed\n");
}

#[test]
fn a_slow_reader_holds_the_container_and_misses_nothing() {
    let mut fixture = Fixture::with_pipes("seq 1 200000", StdinPolicy::NotInteractive);
    let (client, control) = control();
    let (first, _typing, mut out, _err) = first_client(control);
    fixture.relay.attach_first(first);
    // Turns until nothing happens any more: the reader has not read yet.
    fixture.run_until(|relay| relay.is_behind(Stream::Stdout));
    let kept: usize = fixture.relay.clients.iter().filter_map(|client| client.stdout.as_ref()).map(Sink::kept).sum();
    assert!(kept > 0 && kept <= OUTPUT_BYTES);
    assert!(fixture.waiter.as_ref().is_some_and(|waiter| !waiter.is_finished()));
    let client = run_client(client);
    let reader = thread::spawn(move || {
        let mut text = Vec::new();
        let mut buffer = [0; 700];
        loop {
            match out.read(&mut buffer).unwrap() {
                0 => return text,
                len => text.extend_from_slice(&buffer[..len]),
            }
        }
    });
    fixture.run();
    assert_eq!(client.join().unwrap(), Outcome::Exited(Exit::Code(0)));
    drop(fixture.relay.clients.drain(..));
    let expected: String = (1..=200_000).map(|number| format!("{number}\n")).collect();
    assert!(reader.join().unwrap() == expected.as_bytes());
    assert!(fixture.log().0 == expected);
}

#[test]
fn a_first_reader_that_is_gone_ends_the_stream_and_no_other() {
    let mut fixture = Fixture::with_pipes("seq 1 100000; echo done >&2", StdinPolicy::NotInteractive);
    let (client, control) = control();
    let (first, _typing, out, err) = first_client(control);
    // As `run … | head` has it: what writes gets SIGPIPE, what does not goes on.
    drop(out);
    fixture.relay.attach_first(first);
    let client = run_client(client);
    fixture.run();
    assert_eq!(client.join().unwrap(), Outcome::Exited(Exit::Code(0)));
    assert_eq!(read_all(err).join().unwrap(), "done\n");
    assert!(fixture.log().0.lines().count() < 100_000);
}

#[test]
fn a_client_that_dies_is_forgotten_with_its_descriptors() {
    let mut fixture = Fixture::with_pipes("cat; exit 4", StdinPolicy::Once);
    let (client, control) = control();
    let (first, typing, out, _err) = first_client(control);
    let id = fixture.relay.attach_first(first);
    drop(client);
    fixture.run_until(|relay| !relay.is_attached(id));
    // Its stdin was never closed by the writer; losing the client ends the container's input all the same.
    fixture.run();
    drop(typing);
    assert_eq!(read_all(out).join().unwrap(), "");
}

#[test]
fn a_stream_that_fails_is_reported_and_the_exit_still_arrives() {
    let mut fixture = Fixture::with_pipes("echo lost; exit 5", StdinPolicy::NotInteractive);
    let (client, control) = control();
    let full = File::create("/dev/full").unwrap();
    let first = FirstClient { control: Some(control), stdout: Some(full.into()), ..FirstClient::default() };
    fixture.relay.attach_first(first);
    let client = thread::spawn(move || {
        let mut failures = Vec::new();
        let outcome = client.run(Manners::default(), |descriptor, errno| failures.push((descriptor, errno))).unwrap();
        (outcome, failures)
    });
    fixture.run();
    assert_eq!(client.join().unwrap(), (Outcome::Exited(Exit::Code(5)), vec![(1, libc::ENOSPC)]));
}

#[test]
fn what_a_stranger_keeps_open_does_not_delay_the_end() {
    let (container, streams) = pipes(Input::Null).unwrap();
    let [stdin, stdout, stderr] = container.into_parts();
    let _held_by_a_stranger = stdout.try_clone().unwrap();
    let mut command = Command::new("sh");
    let child = command.args(["-c", "echo last words"]).stdin(stdin).stdout(stdout).stderr(stderr).spawn().unwrap();
    drop(command);
    let mut fixture = Fixture::new(child, streams, StdinPolicy::NotInteractive);
    fixture.run();
    assert_eq!(fixture.log().0, "last words\n");
}

#[test]
fn a_client_connects_types_and_sees_output_from_then_on() {
    let mut fixture = Fixture::with_pipes("read word; echo $word; echo bad >&2; exit 6", StdinPolicy::Once);
    fixture.listen();
    let (stdin, mut typing) = pipe().unwrap();
    let (out, stdout) = pipe().unwrap();
    let (err, stderr) = pipe().unwrap();
    let handle = fixture.handle.try_clone().unwrap();
    let client = thread::spawn(move || {
        let client = Client::connect(handle.as_fd()).unwrap();
        let request = AttachRequest {
            stdin: Some(stdin.as_fd()),
            stdout: Some(stdout.as_fd()),
            stderr: Some(stderr.as_fd()),
            detach_keys: DetachKeys::default(),
        };
        client.attach(&request).unwrap();
        typing.write_all(b"hello\n").unwrap();
        client.run(Manners::default(), |_, _| {}).unwrap()
    });
    fixture.run();
    assert_eq!(client.join().unwrap(), Outcome::Exited(Exit::Code(6)));
    assert_eq!(read_all(out).join().unwrap(), "hello\n");
    assert_eq!(read_all(err).join().unwrap(), "bad\n");
}

#[test]
fn other_users_strangers_and_too_many_clients_are_refused() {
    let mut fixture = Fixture::with_pipes("read word", StdinPolicy::Once);
    let nothing = AttachRequest { stdin: None, stdout: None, stderr: None, detach_keys: DetachKeys::none() };
    assert!(matches!(Client::connect(fixture.handle.as_fd()), Err(ClientError::NotRunning)));
    let stranger = Uid::from_raw(Uid::effective().as_raw() + 1);
    fixture.relay.listen(Listener::bind(fixture.handle.as_fd(), stranger).unwrap());
    let mode = std::os::unix::fs::MetadataExt::mode(&fixture.directory.path().join("attach.sock").metadata().unwrap());
    assert_eq!(mode & 0o777, 0o600);
    let client = Client::connect(fixture.handle.as_fd()).unwrap();
    fixture.turn(&mut Vec::new());
    assert!(matches!(client.attach(&nothing), Err(ClientError::Closed)));

    fixture.listen();
    let idle: Vec<Client> = (0..MAX_CLIENTS).map(|_| Client::connect(fixture.handle.as_fd()).unwrap()).collect();
    fixture.run_until(|relay| relay.clients.len() == MAX_CLIENTS);
    let client = Client::connect(fixture.handle.as_fd()).unwrap();
    fixture.turn(&mut Vec::new());
    assert!(matches!(client.attach(&nothing), Err(ClientError::Busy)));
    // A client that begins with anything but a hello.
    idle[0].detach();
    fixture.run_until(|relay| relay.clients.len() < MAX_CLIENTS);
    assert!(matches!(idle[0].attach(&nothing), Err(ClientError::Version)));
    drop(idle);
    fixture.run_until(Relay::is_alone);
    fixture.relay.container.stdin = None;
    fixture.run();
}

#[test]
fn proxied_signals_become_requests() {
    let mut fixture = Fixture::with_pipes("read word", StdinPolicy::Once);
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
    fixture.relay.attach_first(FirstClient { control: Some(theirs), ..FirstClient::default() });
    nix::unistd::write(&ours, &ToSupervisor::Signal(Signal::INT).encode()).unwrap();
    let mut requests = Vec::new();
    fixture.turn(&mut requests);
    assert!(matches!(requests[..], [Request::Signal(Signal::INT)]));
    fixture.relay.container.stdin = None;
    fixture.run();
}

#[test]
fn a_stopped_client_s_terminal_is_left_alone() {
    let mut fixture = Fixture::with_pipes("echo one; read word; echo $word", StdinPolicy::Once);
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
    let (first, mut typing, out, _err) = first_client(theirs);
    let id = fixture.relay.attach_first(first);
    nix::unistd::write(&ours, &ToSupervisor::Hold.encode()).unwrap();
    fixture.run_until(|relay| relay.clients.iter().any(|client| client.id == id && client.held));
    typing.write_all(b"two\n").unwrap();
    // Nothing is watched but the channel: no output, no input.
    let mut turn = Turn::new();
    fixture.relay.watch(&mut turn, |event| event);
    assert_eq!(turn.wait(Some(Instant::now() + Duration::from_millis(50))).unwrap(), []);
    nix::unistd::write(&ours, &ToSupervisor::Resume.encode()).unwrap();
    fixture.run();
    assert_eq!(read_all(out).join().unwrap(), "one\ntwo\n");
}

#[test]
fn a_terminal_has_its_client_s_size_echoes_and_is_read_to_its_end() {
    let mut fixture = Fixture::with_terminal("read word; stty size; echo got $word; seq 1 5000; exit 7");
    fixture.listen();
    let client_pty = pty();
    Winsize { rows: 31, cols: 97 }.apply(&client_pty.master).unwrap();
    let handle = fixture.handle.try_clone().unwrap();
    let slave = client_pty.slave.try_clone().unwrap();
    let client = thread::spawn(move || {
        let client = Client::connect(handle.as_fd()).unwrap();
        let terminal = slave.as_fd();
        let request = AttachRequest {
            stdin: Some(terminal),
            stdout: Some(terminal),
            stderr: None,
            detach_keys: DetachKeys::default(),
        };
        client.attach(&request).unwrap();
        // Raw mode is tested elsewhere: it is one per process, and tests are threads of one.
        let outcome = client.run(Manners { terminal: None, sig_proxy: false }, |_, _| {}).unwrap();
        let flags = OFlag::from_bits_retain(fcntl(&slave, FcntlArg::F_GETFL).unwrap());
        assert!(!flags.contains(OFlag::O_NONBLOCK));
        outcome
    });
    drop(client_pty.slave);
    let master = client_pty.master;
    let mut user = File::from(master.try_clone().unwrap());
    user.write_all(b"word\n").unwrap();
    let screen = thread::spawn(move || {
        let mut text = Vec::new();
        let mut buffer = [0; 4096];
        // EIO is the end: no slave is open any more.
        while let Ok(len) = user.read(&mut buffer) {
            text.extend_from_slice(&buffer[..len]);
        }
        String::from_utf8(text).unwrap()
    });
    fixture.run();
    assert_eq!(client.join().unwrap(), Outcome::Exited(Exit::Code(7)));
    drop(fixture.relay.clients.drain(..));
    let log = fixture.log().0;
    assert!(log.contains("31 97\r\ngot word\r\n1\r\n2\r\n"), "{log}");
    assert!(log.ends_with("4999\r\n5000\r\n"));
    let screen = screen.join().unwrap();
    assert!(screen.contains("got word"), "{screen}");
    assert!(screen.replace('\r', "").ends_with("4999\n5000\n"));
}

#[test]
fn detach_keys_let_the_client_go_and_the_container_stays() {
    let mut fixture = Fixture::with_terminal("stty -echo raw; echo ready; head -c 3 | od -An -c; exit 8");
    fixture.listen();
    let client_pty = pty();
    let handle = fixture.handle.try_clone().unwrap();
    let slave = client_pty.slave;
    make_raw(&slave);
    let client = thread::spawn(move || {
        let client = Client::connect(handle.as_fd()).unwrap();
        let request = AttachRequest {
            stdin: Some(slave.as_fd()),
            stdout: Some(slave.as_fd()),
            stderr: None,
            detach_keys: DetachKeys::default(),
        };
        client.attach(&request).unwrap();
        client.run(Manners::default(), |_, _| {}).unwrap()
    });
    fixture.run_until(|relay| relay.clients.iter().any(|client| client.greeted));
    let mut user = File::from(client_pty.master);
    // ^P x is passed, ^P ^Q is not.
    user.write_all(b"\x10x\x10\x11").unwrap();
    fixture.run_until(Relay::is_alone);
    assert_eq!(client.join().unwrap(), Outcome::Detached);
    // The container lives and waits for its third byte.
    fixture.relay.input.extend_from_slice(b"z");
    fixture.run();
    let log = fixture.log().0;
    assert!(log.contains("020   x   z"), "{log}");
}

/// Ends line editing of a client's terminal, as `RawMode` does, without the guard that is one per process.
fn make_raw(terminal: &OwnedFd) {
    use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
    let mut mode = tcgetattr(terminal).unwrap();
    cfmakeraw(&mut mode);
    tcsetattr(terminal, SetArg::TCSANOW, &mode).unwrap();
}

#[test]
fn a_container_that_closes_its_terminal_for_a_moment_is_still_heard() {
    let script = "tty=$(tty); exec <&- >&- 2>&-; sleep 0.05; exec >$tty; echo back";
    let mut fixture = Fixture::with_terminal(script);
    fixture.run();
    assert_eq!(fixture.log().0, "back\r\n");
}

#[test]
fn a_container_that_starts_anew_goes_on_in_the_same_log() {
    let mut fixture = Fixture::with_pipes("echo first", StdinPolicy::NotInteractive);
    fixture.run();
    let (container, streams) = pipes(Input::Null).unwrap();
    let [stdin, stdout, stderr] = container.into_parts();
    let child = Command::new("echo").arg("second").stdin(stdin).stdout(stdout).stderr(stderr).spawn().unwrap();
    fixture.relay.restart(streams).unwrap();
    let (ended, waiter) = wait_for(child);
    (fixture.ended, fixture.waiter) = (ended, Some(waiter));
    fixture.run();
    assert_eq!(fixture.log().0, "first\nsecond\n");
}

/// Memory of this process that is its own, in bytes.
fn private_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

/// `cargo test --release -p coracle-runtime flood -- --ignored --nocapture`, alone.
#[test]
#[ignore = "writes 1.5 GB"]
fn a_flood_of_a_gigabyte_keeps_memory_flat() {
    use nix::sys::resource::{UsageWho, getrusage};
    for width in [99, 1] {
        let line = "x".repeat(width);
        let bytes = if width == 1 { 50_000_000 } else { 1_000_000_000 };
        let script = format!("yes {line} | head -c {bytes}");
        let mut fixture = Fixture::with_pipes(&script, StdinPolicy::NotInteractive);
        let before = private_bytes();
        let start = Instant::now();
        fixture.run();
        let cpu = getrusage(UsageWho::RUSAGE_SELF).unwrap();
        let grown = private_bytes().saturating_sub(before);
        let seconds = start.elapsed().as_secs_f64();
        eprintln!(
            "lines of {width} bytes, {bytes} bytes: {seconds:.2} s, memory grew by {grown} bytes, CPU {}+{}",
            cpu.user_time(),
            cpu.system_time()
        );
        assert!(grown < 256 * 1024, "{grown}");
    }
}
