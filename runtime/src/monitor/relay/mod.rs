//! Copies between a container, its log and its clients.
//!
//! ```text
//! container stdout ─┐ one read      ┌─▶ log
//! container stderr ─┤ of ≤ 32 KiB ──┼─▶ client 1: written, rest kept ─▶ until it is taken, that stream of the
//! or pty master  ───┘               └─▶ client 2: …                     container is not read: back-pressure
//! client stdin ── detach keys ──▶ kept ≤ 4 KiB ──▶ container stdin or pty master
//! ```
//! Memory is bounded: one read per stream and client, one read of input. Output is lost to nobody who is still there;
//! a client that is gone (its control channel closes, its pipe breaks) is dropped silently.
//!
//! After the container has exited every writer is gone, so what is left is in the kernel already:
//! [`Relay::container_exited`] reads it to the end at once, into the log and to the clients. Then each client gets the
//! rest at its own pace, and after its last byte the exit.
//!
//! **Runs in:** the supervisor; in the CLI for an `exec -t`.

mod attached;
#[cfg(test)]
mod tests;

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::write;

pub use attached::FirstClient;

use crate::monitor::attach::{Answer, Hello, Listener, MAX_MESSAGE, Question, Refusal, ToClient, ToSupervisor};
use crate::monitor::detach_keys::DetachKeys;
use crate::monitor::endpoint::{Got, Sink, Source};
use crate::monitor::event_loop::{Interest, Turn};
use crate::monitor::log::{Log, LogError, Stream};
use crate::monitor::reaper::Exit;
use crate::process::pty::Winsize;
use crate::process::signal::Signal;
use crate::process::stdio::Streams;
use crate::sys::monitor as sys;
use attached::Attached;

/// Half of what a pipe holds: more saves few calls and costs memory.
const OUTPUT_BYTES: usize = 32 * 1024;
/// What a terminal's line can hold.
const INPUT_BYTES: usize = 4096;
/// More clients than that are a mistake; each costs up to four descriptors.
const MAX_CLIENTS: usize = 16;
/// For how long a pty's last bytes may be on their way through the kernel's queue after its last writer died.
const PTY_GRACE: Duration = Duration::from_millis(100);

/// Names a client for as long as it is attached; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientId(u32);

/// What can happen; see [`Relay::watch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The container wrote, or closed a stream.
    Output(Stream),
    /// The container takes input again.
    InputRoom,
    /// A client connects.
    Connection,
    /// A client says something, or is gone.
    Control(ClientId),
    /// A client's stdin has bytes, or ends.
    Stdin(ClientId),
    /// A client takes output again.
    Room(ClientId, Stream),
}

/// What the supervisor shall do about it.
#[derive(Debug)]
#[non_exhaustive]
pub enum Request {
    /// Send this signal to the container's init: a client proxies it.
    Signal(Signal),
    /// The log could not be written; said once, the relay goes on.
    LogFailed(LogError),
    /// Do this, and give this client an [`Relay::answer`].
    Ask(ClientId, Question),
}

/// When the container's stdin ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StdinPolicy {
    /// With the last client that feeds it: `run -i` (docker's `StdinOnce`).
    Once,
    /// Never: `run -d -i`.
    StaysOpen,
    /// It never began: without `-i` no client's stdin is read, terminal or not.
    NotInteractive,
}

/// The container's side.
#[derive(Debug, Default)]
struct Container {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    /// For window sizes; the same description as stdin and stdout.
    master: Option<OwnedFd>,
    /// See [`Streams::Terminal`].
    slave: Option<OwnedFd>,
}

impl Container {
    fn output(&mut self, stream: Stream) -> &mut Option<OwnedFd> {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }
}

/// Copies between a container, its log and its clients; see the module.
#[derive(Debug)]
pub struct Relay {
    container: Container,
    policy: StdinPolicy,
    log: Log,
    is_log_failure_told: bool,
    listener: Option<Listener>,
    clients: Vec<Attached>,
    next_client: u32,
    input: Vec<u8>,
    /// The container's stdin is closed once `input` is written.
    input_ends: bool,
    buffer: Vec<u8>,
}

impl Relay {
    /// A relay for a container that is about to run.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn new(streams: Streams, policy: StdinPolicy, log: Log) -> nix::Result<Self> {
        Ok(Self {
            container: container(streams, policy)?,
            policy,
            log,
            is_log_failure_told: false,
            listener: None,
            clients: Vec::new(),
            next_client: 0,
            input: Vec::new(),
            input_ends: false,
            buffer: Vec::new(),
        })
    }

    /// Lets clients connect.
    pub fn listen(&mut self, listener: Listener) {
        self.listener = Some(listener);
    }

    /// Lets no more clients connect, as the container is about to be removed.
    pub fn close_listener(&mut self) {
        self.listener = None;
    }

    /// Attaches the client that is there already.
    pub fn attach_first(&mut self, first: FirstClient) -> ClientId {
        let id = self.new_client(first.control);
        if let Some(client) = self.clients.iter_mut().find(|client| client.id == id) {
            client.greeted = true;
            client.is_first = true;
            client.stdin = first.stdin.map(Source::new);
            client.stdout = first.stdout.map(Sink::new);
            client.stderr = first.stderr.map(Sink::new);
            client.keys = first.detach_keys;
        }
        id
    }

    /// Connects the container that was started anew to the log and the clients that came meanwhile. Those of the last run
    /// get the rest of that one and no more.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn restart(&mut self, streams: Streams) -> nix::Result<()> {
        self.container = container(streams, self.policy)?;
        self.input.clear();
        self.input_ends = false;
        Ok(())
    }

    /// Tells a client what came of its question. One that is gone does not want to know.
    pub fn answer(&self, id: ClientId, answer: Answer) {
        if let Some(client) = self.clients.iter().find(|client| client.id == id) {
            client.tell(ToClient::Answer(answer));
        }
    }

    /// Whether this client is still attached.
    #[must_use]
    pub fn is_attached(&self, id: ClientId) -> bool {
        self.clients.iter().any(|client| client.id == id)
    }

    /// Whether no client is attached: after [`Relay::container_exited`], that all of them have got everything.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.clients.is_empty()
    }

    /// Gives the container's terminal a size, if it has one.
    pub fn resize(&self, size: Winsize) {
        if let Some(master) = &self.container.master {
            // A pty takes any size; without one there is nobody to tell.
            let _ = size.apply(master);
        }
    }

    /// Adds what the relay waits for to a turn.
    pub fn watch<'fd, E: Copy>(&'fd self, turn: &mut Turn<'fd, E>, name: impl Fn(Event) -> E) {
        let mut add = |fd, interest, event| turn.watch(fd, interest, name(event));
        for (stream, fd) in [(Stream::Stdout, &self.container.stdout), (Stream::Stderr, &self.container.stderr)] {
            if let Some(fd) = fd
                && !self.is_behind(stream)
            {
                add(fd.as_fd(), Interest::Read, Event::Output(stream));
            }
        }
        if let Some(stdin) = &self.container.stdin
            && !self.input.is_empty()
        {
            add(stdin.as_fd(), Interest::Write, Event::InputRoom);
        }
        if let Some(listener) = &self.listener {
            add(listener.as_fd(), Interest::Read, Event::Connection);
        }
        for client in &self.clients {
            if let Some(control) = &client.control {
                add(control.as_fd(), Interest::Read, Event::Control(client.id));
            }
            if let Some(stdin) = &client.stdin
                && !client.held
                && self.takes_input()
            {
                add(stdin.as_fd(), Interest::Read, Event::Stdin(client.id));
            }
            for (stream, sink) in [(Stream::Stdout, &client.stdout), (Stream::Stderr, &client.stderr)] {
                if let Some(sink) = sink
                    && !client.held
                    && sink.is_pending()
                {
                    add(sink.as_fd(), Interest::Write, Event::Room(client.id, stream));
                }
            }
        }
    }

    /// Reacts to an event.
    ///
    /// An event may be about something that an earlier event of the same turn has ended; then nothing happens.
    pub fn on(&mut self, event: Event) -> Option<Request> {
        match event {
            Event::Output(stream) => self.on_output(stream),
            Event::InputRoom => {
                self.write_input();
                None
            }
            Event::Connection => {
                self.on_connection();
                None
            }
            Event::Control(id) => self.on_control(id),
            Event::Stdin(id) => {
                self.on_stdin(id);
                None
            }
            Event::Room(id, stream) => {
                self.on_room(id, stream);
                None
            }
        }
    }

    /// Reads what the container left behind, into the log and to the clients, and sees to it that each client hears
    /// of the exit after its last byte. Go on with [`Relay::watch`] until [`Relay::is_alone`], or as long as you
    /// like to wait for slow clients.
    pub fn container_exited(&mut self, exit: Exit) -> Option<Request> {
        self.container.slave = None;
        let deadline = Instant::now() + PTY_GRACE;
        let mut request = None;
        for stream in [Stream::Stdout, Stream::Stderr] {
            while self.container.output(stream).is_some() {
                match self.read_output(stream) {
                    Got::Bytes => request = self.distribute(stream).or(request),
                    Got::End => *self.container.output(stream) = None,
                    Got::Nothing if self.is_pty_flushing(deadline) => {}
                    // Somebody outside of the container holds the other end: what it writes is not the container's.
                    Got::Nothing => *self.container.output(stream) = None,
                }
            }
        }
        let finished = self.log.finish();
        request = request.or(self.tell_of_log(finished));
        self.container = Container::default();
        for client in &mut self.clients {
            client.exit.get_or_insert(exit);
        }
        for id in self.clients.iter().map(|client| client.id).collect::<Vec<_>>() {
            self.settle(id);
        }
        request
    }

    /// Waits for a pty's last bytes or its end; false if there is no pty or they do not come in time.
    fn is_pty_flushing(&self, deadline: Instant) -> bool {
        let Some(master) = &self.container.master else { return false };
        let mut turn = Turn::new();
        turn.watch(master.as_fd(), Interest::Read, ());
        turn.wait(Some(deadline)).is_ok_and(|ready| !ready.is_empty())
    }

    fn is_behind(&self, stream: Stream) -> bool {
        self.clients.iter().any(|client| client.exit.is_none() && client.is_behind(stream))
    }

    fn takes_input(&self) -> bool {
        self.container.stdin.is_some() && self.input.is_empty() && !self.input_ends
    }

    fn on_output(&mut self, stream: Stream) -> Option<Request> {
        if self.is_behind(stream) {
            return None;
        }
        match self.read_output(stream) {
            Got::Bytes => self.distribute(stream),
            Got::Nothing => None,
            Got::End => {
                *self.container.output(stream) = None;
                None
            }
        }
    }

    /// Reads once into the buffer.
    fn read_output(&mut self, stream: Stream) -> Got {
        self.buffer.clear();
        self.buffer.reserve_exact(OUTPUT_BYTES);
        let Some(fd) = self.container.output(stream) else { return Got::Nothing };
        let fd = fd.as_fd();
        match sys::read_to_spare(fd, &mut self.buffer) {
            Ok(0) => Got::End,
            Ok(_) => Got::Bytes,
            Err(Errno::EAGAIN | Errno::EINTR) => Got::Nothing,
            // EIO: a pty without a slave.
            Err(_) => Got::End,
        }
    }

    /// Gives what the buffer holds to the log and to every client.
    fn distribute(&mut self, stream: Stream) -> Option<Request> {
        let mut is_unread = false;
        for client in self.clients.iter_mut().filter(|client| client.exit.is_none()) {
            let is_held = client.held;
            let Some(sink) = client.sink(stream) else { continue };
            if is_held {
                sink.keep(&self.buffer);
            } else if let Err(errno) = sink.push(&self.buffer) {
                is_unread |= client.is_first && errno == Errno::EPIPE;
                client.lose(stream, errno);
            }
        }
        if is_unread {
            self.abandon(stream);
        }
        let logged = self.log.write(stream, &self.buffer);
        self.tell_of_log(logged)
    }

    /// Nobody reads a foreground container's stream any more (`run … | head`): the container learns it as a program in
    /// that place would, by SIGPIPE at its next write, instead of writing for ever.
    fn abandon(&mut self, stream: Stream) {
        if self.container.master.is_none() {
            *self.container.output(stream) = None;
        }
    }

    /// The first failure of the log is told.
    fn tell_of_log(&mut self, logged: Result<(), LogError>) -> Option<Request> {
        let error = logged.err().filter(|_| !self.is_log_failure_told)?;
        self.is_log_failure_told = true;
        Some(Request::LogFailed(error))
    }

    /// Writes kept input as far as the container takes it.
    fn write_input(&mut self) {
        while let Some(stdin) = &self.container.stdin
            && !self.input.is_empty()
        {
            match write(stdin, &self.input) {
                Ok(taken) => drop(self.input.drain(..taken)),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return,
                // The container has closed its stdin.
                Err(_) => {
                    self.container.stdin = None;
                    self.input.clear();
                }
            }
        }
        if self.input_ends && self.input.is_empty() {
            self.container.stdin = None;
        }
    }

    /// A client stopped feeding stdin. A pty has no end to close.
    fn on_stdin_lost(&mut self) {
        let is_fed = self.clients.iter().any(|client| client.stdin.is_some());
        if !is_fed && self.policy == StdinPolicy::Once && self.container.master.is_none() {
            self.input_ends = true;
            self.write_input();
        }
    }

    fn on_stdin(&mut self, id: ClientId) {
        if !self.takes_input() {
            return;
        }
        let Some(client) = self.clients.iter_mut().find(|client| client.id == id && !client.held) else { return };
        let Some(stdin) = &client.stdin else { return };
        let mut typed = Vec::with_capacity(INPUT_BYTES);
        match stdin.read(&mut typed) {
            Got::Nothing => {}
            Got::End => {
                client.stdin = None;
                self.on_stdin_lost();
            }
            Got::Bytes => {
                let is_detaching = client.keys.feed(&typed, &mut self.input);
                self.write_input();
                if is_detaching {
                    self.detach(id);
                }
            }
        }
    }

    fn on_room(&mut self, id: ClientId, stream: Stream) {
        let Some(client) = self.clients.iter_mut().find(|client| client.id == id && !client.held) else { return };
        if let Some(sink) = client.sink(stream)
            && sink.is_pending()
            && let Err(errno) = sink.flush()
        {
            let is_unread = client.is_first && errno == Errno::EPIPE;
            client.lose(stream, errno);
            if is_unread {
                self.abandon(stream);
            }
        }
        self.settle(id);
    }

    /// Tells a client that has everything of the exit, and lets it go.
    fn settle(&mut self, id: ClientId) {
        let Some(client) = self.clients.iter().find(|client| client.id == id && client.greeted) else { return };
        let Some(exit) = client.exit else { return };
        if !client.is_behind(Stream::Stdout) && !client.is_behind(Stream::Stderr) {
            client.tell(ToClient::Exited(exit));
            self.clients.retain(|client| client.id != id);
        }
    }

    fn new_client(&mut self, control: Option<OwnedFd>) -> ClientId {
        let id = ClientId(self.next_client);
        self.next_client = self.next_client.wrapping_add(1);
        self.clients.push(Attached {
            id,
            control,
            greeted: false,
            is_first: false,
            held: false,
            exit: None,
            stdin: None,
            stdout: None,
            stderr: None,
            keys: DetachKeys::none(),
        });
        id
    }

    fn on_connection(&mut self) {
        let Some(control) = self.listener.as_ref().and_then(Listener::accept) else { return };
        if self.clients.len() < MAX_CLIENTS {
            self.new_client(Some(control));
        } else {
            // It may be gone already.
            let _ = sys::send_now(control.as_fd(), &ToClient::Error(Refusal::Busy).encode());
        }
    }

    /// Drops a client that is gone.
    fn drop_client(&mut self, id: ClientId) {
        let had_stdin = self.clients.iter().any(|client| client.id == id && client.stdin.is_some());
        self.clients.retain(|client| client.id != id);
        if had_stdin {
            self.on_stdin_lost();
        }
    }

    /// Lets a client go that asked for it. The container's stdin stays open for the next one.
    fn detach(&mut self, id: ClientId) {
        if let Some(at) = self.clients.iter().position(|client| client.id == id) {
            let client = self.clients.remove(at);
            client.tell(ToClient::Detached);
        }
    }

    fn on_control(&mut self, id: ClientId) -> Option<Request> {
        let client = self.clients.iter_mut().find(|client| client.id == id)?;
        let control = client.control.as_ref()?;
        let mut buffer = [0; MAX_MESSAGE];
        let received = match sys::recv_with_fds(control.as_fd(), &mut buffer, libc::MSG_DONTWAIT) {
            Err(Errno::EAGAIN | Errno::EINTR) => return None,
            Ok(received) if received.len_bytes > 0 => received,
            _ => {
                self.drop_client(id);
                return None;
            }
        };
        let message = buffer.get(..received.len_bytes).and_then(ToSupervisor::decode);
        match message {
            Some(ToSupervisor::Hello(hello)) if !client.greeted && !received.truncated => {
                self.greet(id, &hello, received.fds);
            }
            // The first message is a hello that we understand, and there is no second.
            Some(ToSupervisor::Hello(_)) => self.refuse(id),
            Some(ToSupervisor::Ask(question)) => return Some(Request::Ask(id, question)),
            _ if !client.greeted => self.refuse(id),
            Some(ToSupervisor::Resize(size)) => self.resize(size),
            Some(ToSupervisor::Detach) => self.detach(id),
            Some(ToSupervisor::Signal(signal)) => return Some(Request::Signal(signal)),
            Some(ToSupervisor::Hold) => client.held = true,
            Some(ToSupervisor::Resume) => {
                client.held = false;
                self.settle(id);
            }
            None => {}
        }
        None
    }

    fn refuse(&mut self, id: ClientId) {
        if let Some(client) = self.clients.iter().find(|client| client.id == id) {
            client.tell(ToClient::Error(Refusal::Version));
        }
        self.drop_client(id);
    }

    fn greet(&mut self, id: ClientId, hello: &Hello, fds: [Option<OwnedFd>; sys::MAX_PASSED_FDS]) {
        let mut fds: Vec<OwnedFd> = fds.into_iter().flatten().collect();
        let keys = DetachKeys::from_bytes(&hello.detach_keys);
        let (Ok(keys), true) = (keys, fds.len() == hello.passed.count()) else { return self.refuse(id) };
        let mut next = |is_passed: bool| (is_passed && !fds.is_empty()).then(|| fds.remove(0));
        let stdin = next(hello.passed.stdin);
        let stdout = next(hello.passed.stdout);
        let stderr = next(hello.passed.stderr);
        let Some(client) = self.clients.iter_mut().find(|client| client.id == id) else { return };
        client.greeted = true;
        client.keys = keys;
        client.stdin = stdin.map(Source::new);
        client.stdout = stdout.map(Sink::new);
        client.stderr = stderr.map(Sink::new);
        if client.tell(ToClient::Attached) {
            if let Some(size) = hello.size {
                self.resize(size);
            }
            self.settle(id);
        } else {
            self.drop_client(id);
        }
    }
}

/// The container's side of its streams.
fn container(streams: Streams, policy: StdinPolicy) -> nix::Result<Container> {
    Ok(match streams {
        Streams::Pipes { stdin, stdout, stderr } => {
            Container { stdin, stdout: Some(stdout), stderr: Some(stderr), master: None, slave: None }
        }
        Streams::Terminal { master, slave } => {
            let duplicate = || sys::duplicate(master.as_fd());
            let stdin = if policy == StdinPolicy::NotInteractive { None } else { Some(duplicate()?) };
            Container { stdin, stdout: Some(duplicate()?), stderr: None, slave, master: Some(master) }
        }
    })
}
