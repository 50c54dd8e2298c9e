//! The client's side: what `attach`, `start -a` and a foreground `run` do while the container runs.
//!
//! The client only watches its control channel and its signals; S does the copying. Its terminal is in raw mode for
//! as long as [`Client::run`] runs, on every way out of it.
//!
//! **Runs in:** the CLI, single-threaded.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, connect, socket};

use super::listener::address;
use super::{Answer, Hello, MAX_MESSAGE, Passed, Question, Refusal, ToClient, ToSupervisor};
use crate::monitor::detach_keys::DetachKeys;
use crate::monitor::event_loop::{Interest, Turn};
use crate::monitor::reaper::Exit;
use crate::process::pty::{RawMode, Winsize, is_terminal};
use crate::process::signal::{Signal, SignalSource, proxied};
use crate::sys::monitor as sys;

/// Why attaching failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody listens: the container does not run.
    #[error("connect to attach.sock: the container is not running")]
    NotRunning,
    /// A call failed.
    #[error("{call}: {}", source.desc().to_lowercase())]
    Call {
        /// Which.
        call: &'static str,
        /// Why.
        source: Errno,
    },
    /// The supervisor closed the channel instead of answering: it ended, or we are another user.
    #[error("attach: the supervisor closed the connection")]
    Closed,
    /// The supervisor is from another version of coracle.
    #[error("attach: the container was started by an incompatible version of coracle")]
    Version,
    /// Too many clients.
    #[error("attach: too many clients are attached to the container")]
    Busy,
}

/// How attaching ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The container ended and all its output has been written.
    Exited(Exit),
    /// By the detach keys; the container goes on.
    Detached,
    /// This signal wants the client to end (without `--sig-proxy`); its terminal is restored.
    Interrupted(Signal),
    /// The supervisor is gone; how the container ended is not known.
    Lost,
}

/// What a client attaches with.
#[derive(Debug, Clone)]
pub struct Request<'fd> {
    /// Read by S.
    pub stdin: Option<BorrowedFd<'fd>>,
    /// Written by S.
    pub stdout: Option<BorrowedFd<'fd>>,
    /// Written by S.
    pub stderr: Option<BorrowedFd<'fd>>,
    /// Looked for on stdin if it is a terminal: bytes of a pipe mean nothing.
    pub detach_keys: DetachKeys,
}

/// How [`Client::run`] treats the client's surroundings.
#[derive(Debug, Clone, Copy, Default)]
pub struct Manners<'fd> {
    /// The client's terminal: raw while attached, and its size is the container's. Given when the container has a
    /// terminal and the client's stdin is one.
    pub terminal: Option<BorrowedFd<'fd>>,
    /// Hands signals to the container instead of ending by them.
    pub sig_proxy: bool,
}

/// A control channel to a supervisor.
#[derive(Debug)]
pub struct Client {
    control: OwnedFd,
    raw: Option<RawMode>,
}

/// Events of the client's loop.
#[derive(Debug, Clone, Copy)]
enum Event {
    Control,
    Signal,
}

impl Client {
    /// Connects to the supervisor that listens in a container's runtime directory.
    ///
    /// # Errors
    /// [`ClientError::NotRunning`], [`ClientError::Call`].
    pub fn connect(directory: BorrowedFd<'_>) -> Result<Self, ClientError> {
        let failed = |call| move |source| ClientError::Call { call, source };
        let control =
            socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).map_err(failed("socket"))?;
        match connect(control.as_raw_fd(), &address(directory).map_err(failed("name attach.sock"))?) {
            Ok(()) => Ok(Self { control, raw: None }),
            Err(Errno::ENOENT | Errno::ECONNREFUSED) => Err(ClientError::NotRunning),
            Err(source) => Err(ClientError::Call { call: "connect to attach.sock", source }),
        }
    }

    /// The first client: P, whose descriptors S has already. The socket is one of a `SOCK_SEQPACKET` pair.
    #[must_use]
    pub fn inherited(control: OwnedFd) -> Self {
        Self { control, raw: None }
    }

    /// The terminal is in raw mode already: a container's first words may come before [`Client::run`].
    #[must_use]
    pub fn with_raw_mode(mut self, raw: Option<RawMode>) -> Self {
        self.raw = raw;
        self
    }

    /// Hands over the descriptors. When this returns, all further output is the client's.
    ///
    /// # Errors
    /// Every [`ClientError`].
    pub fn attach(&self, request: &Request<'_>) -> Result<(), ClientError> {
        let keys = request.stdin.filter(|stdin| is_terminal(*stdin)).map(|_| request.detach_keys.as_bytes().to_vec());
        let size = [request.stdin, request.stdout].into_iter().flatten().find_map(|fd| Winsize::of(fd).ok());
        let hello = Hello {
            passed: Passed {
                stdin: request.stdin.is_some(),
                stdout: request.stdout.is_some(),
                stderr: request.stderr.is_some(),
            },
            size,
            detach_keys: keys.unwrap_or_default(),
        };
        let fds: Vec<BorrowedFd<'_>> = [request.stdin, request.stdout, request.stderr].into_iter().flatten().collect();
        let message = ToSupervisor::Hello(hello).encode();
        match sys::send_with_fds(self.control.as_fd(), &message, &fds) {
            // EPIPE: refused before we spoke; the reason, if any, is still to be read.
            Ok(_) | Err(Errno::EPIPE) => {}
            Err(source) => return Err(ClientError::Call { call: "send to the supervisor", source }),
        }
        loop {
            match self.receive(0)? {
                Received::Message(ToClient::Attached) => return Ok(()),
                Received::Message(ToClient::Error(Refusal::Version)) => return Err(ClientError::Version),
                Received::Message(ToClient::Error(Refusal::Busy)) => return Err(ClientError::Busy),
                Received::Closed => return Err(ClientError::Closed),
                Received::Message(_) | Received::Unknown | Received::Nothing => {}
            }
        }
    }

    /// Has something done to the container and waits for it.
    ///
    /// # Errors
    /// Every [`ClientError`].
    pub fn ask(&self, question: Question) -> Result<Answer, ClientError> {
        self.send(&ToSupervisor::Ask(question));
        loop {
            match self.receive(0)? {
                Received::Message(ToClient::Answer(answer)) => return Ok(answer),
                Received::Message(ToClient::Error(Refusal::Version)) => return Err(ClientError::Version),
                Received::Message(ToClient::Error(Refusal::Busy)) => return Err(ClientError::Busy),
                Received::Closed => return Err(ClientError::Closed),
                Received::Message(_) | Received::Unknown | Received::Nothing => {}
            }
        }
    }

    /// Stays until the container ends, the client detaches or a signal says so. `on_error` hears of streams of the
    /// client that failed (descriptor, errno).
    ///
    /// Blocks the signals that it handles and leaves them blocked: the caller is about to exit.
    ///
    /// # Errors
    /// [`ClientError::Call`].
    pub fn run(mut self, manners: Manners<'_>, mut on_error: impl FnMut(u8, i32)) -> Result<Outcome, ClientError> {
        let failed = |call| move |source| ClientError::Call { call, source };
        let mut watched = proxied();
        watched.extend([Signal::WINCH, Signal::TSTP, Signal::CONT]);
        let signals = SignalSource::block(&watched).map_err(failed("signalfd"))?;
        let enter = || manners.terminal.map(RawMode::enter).transpose().map_err(failed("set terminal to raw mode"));
        let mut raw = match self.raw.take() {
            Some(raw) => Some(raw),
            None => enter()?,
        };
        loop {
            let mut turn = Turn::new();
            turn.watch(self.control.as_fd(), Interest::Read, Event::Control);
            turn.watch(signals.as_fd(), Interest::Read, Event::Signal);
            for ready in turn.wait(None).map_err(failed("poll"))? {
                match ready.event {
                    Event::Control => match self.receive(libc::MSG_DONTWAIT)? {
                        Received::Message(ToClient::Exited(exit)) => return Ok(Outcome::Exited(exit)),
                        Received::Message(ToClient::Detached) => return Ok(Outcome::Detached),
                        Received::Message(ToClient::Error(Refusal::Stream { descriptor, errno })) => {
                            on_error(descriptor, errno);
                        }
                        Received::Closed => return Ok(Outcome::Lost),
                        Received::Message(_) | Received::Unknown | Received::Nothing => {}
                    },
                    Event::Signal => {
                        while let Some(arrived) = signals.next().map_err(failed("read signalfd"))? {
                            match arrived.signal {
                                Signal::WINCH => self.send_size(manners.terminal),
                                // The terminal must be the shell's while we are stopped.
                                Signal::TSTP => {
                                    self.send(&ToSupervisor::Hold);
                                    drop(raw.take());
                                    nix::sys::signal::raise(nix::sys::signal::Signal::SIGSTOP)
                                        .map_err(failed("stop"))?;
                                    raw = enter()?;
                                    self.send(&ToSupervisor::Resume);
                                    self.send_size(manners.terminal);
                                }
                                Signal::CONT => {}
                                signal if manners.sig_proxy => self.send(&ToSupervisor::Signal(signal)),
                                signal => return Ok(Outcome::Interrupted(signal)),
                            }
                        }
                    }
                }
            }
        }
    }

    /// Asks to be let go; [`Client::run`] then ends with [`Outcome::Detached`].
    pub fn detach(&self) {
        self.send(&ToSupervisor::Detach);
    }

    /// Has a signal sent to the container's init, by who can reach it. The client is attached.
    pub fn signal(&self, signal: Signal) {
        self.send(&ToSupervisor::Signal(signal));
    }

    fn send_size(&self, terminal: Option<BorrowedFd<'_>>) {
        if let Some(Ok(size)) = terminal.map(Winsize::of) {
            self.send(&ToSupervisor::Resize(size));
        }
    }

    /// Sends one message. That the supervisor is gone shows when its channel is read.
    fn send(&self, message: &ToSupervisor) {
        let _ = sys::send_with_fds(self.control.as_fd(), &message.encode(), &[]);
    }

    fn receive(&self, flags: libc::c_int) -> Result<Received, ClientError> {
        let mut buffer = [0; MAX_MESSAGE];
        match sys::recv_with_fds(self.control.as_fd(), &mut buffer, flags) {
            Ok(received) if received.len_bytes == 0 => Ok(Received::Closed),
            Ok(received) => {
                let message = buffer.get(..received.len_bytes).and_then(ToClient::decode);
                Ok(message.map_or(Received::Unknown, Received::Message))
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(Received::Nothing),
            Err(Errno::ECONNRESET) => Ok(Received::Closed),
            Err(source) => Err(ClientError::Call { call: "receive from the supervisor", source }),
        }
    }
}

/// What came over the channel.
enum Received {
    Message(ToClient),
    Unknown,
    Nothing,
    Closed,
}

#[cfg(test)]
mod tests {
    use super::super::Listener;
    use super::*;
    use crate::process::pty::tests::pty;
    use nix::sys::signal::{Signal as NixSignal, kill};
    use nix::sys::termios::{LocalFlags, tcgetattr};
    use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
    use nix::unistd::{Pid, Uid};
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Child, Command};

    /// Name of [`child`] for the test runner.
    const CHILD: &str = "monitor::attach::client::tests::child";

    fn is_raw(terminal: impl AsFd) -> bool {
        !tcgetattr(terminal).unwrap().local_flags.contains(LocalFlags::ICANON | LocalFlags::ECHO)
    }

    /// This test binary anew, with a terminal as its stdin, to end in some way.
    fn spawn(way: &str, argument: &str, terminal: OwnedFd) -> Child {
        let mut command = Command::new(std::env::current_exe().unwrap());
        // One thread: signals to the process must find the thread that blocks them.
        command
            .args(["--exact", CHILD, "--nocapture", "--test-threads=1"])
            .env("CORACLE_TEST_WAY", way)
            .env("CORACLE_TEST_ARG", argument);
        command.stdin(terminal).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        command.spawn().unwrap()
    }

    /// Runs in the process of [`spawn`]; does nothing in the test runner.
    #[test]
    fn child() {
        let Ok(way) = std::env::var("CORACLE_TEST_WAY") else { return };
        let argument = std::env::var("CORACLE_TEST_ARG").unwrap();
        let stdin = std::io::stdin();
        if way == "client" {
            let directory = std::fs::File::open(argument).unwrap();
            let client = Client::connect(directory.as_fd()).unwrap();
            let manners = Manners { terminal: Some(stdin.as_fd()), sig_proxy: true };
            let outcome = client.run(manners, |_, _| {}).unwrap();
            // Without unwinding and without the runner's own ways.
            std::process::exit(if outcome == Outcome::Exited(Exit::Code(9)) { 9 } else { 1 });
        }
        let _raw = RawMode::enter(stdin.as_fd()).unwrap();
        assert!(is_raw(&stdin));
        match way.as_str() {
            "exit" => std::process::exit(42),
            "abort" => std::process::abort(),
            "panic" => panic!("on purpose"),
            "signal" => {
                nix::sys::signal::raise(NixSignal::try_from(argument.parse::<i32>().unwrap()).unwrap()).unwrap()
            }
            _ => {}
        }
    }

    #[test]
    fn the_terminal_is_restored_on_every_way_out() {
        for (way, argument, code, signal) in [
            ("return", "", Some(0), None),
            ("panic", "", Some(101), None),
            ("exit", "", Some(42), None),
            ("abort", "", None, Some(libc::SIGABRT)),
            ("signal", "1", None, Some(libc::SIGHUP)),
            ("signal", "2", None, Some(libc::SIGINT)),
            ("signal", "15", None, Some(libc::SIGTERM)),
        ] {
            let pty = pty();
            let status = spawn(way, argument, pty.slave.try_clone().unwrap()).wait().unwrap();
            assert_eq!((status.code(), status.signal()), (code, signal), "{way} {argument}");
            assert!(!is_raw(&pty.slave), "{way} {argument}");
        }
    }

    #[test]
    fn a_client_stops_with_its_terminal_restored_and_comes_back() {
        let directory = tempfile::tempdir().unwrap();
        let handle = std::fs::File::open(directory.path()).unwrap();
        let listener = Listener::bind(handle.as_fd(), Uid::effective()).unwrap();
        let pty = pty();
        let mut child = spawn("client", directory.path().to_str().unwrap(), pty.slave.try_clone().unwrap());
        let pid = Pid::from_raw(child.id().cast_signed());
        let mut turn = Turn::new();
        turn.watch(listener.as_fd(), Interest::Read, ());
        turn.wait(None).unwrap();
        let control = listener.accept().unwrap();
        let receive = || {
            let mut buffer = [0; MAX_MESSAGE];
            let len = sys::recv_with_fds(control.as_fd(), &mut buffer, 0).unwrap().len_bytes;
            ToSupervisor::decode(&buffer[..len]).unwrap()
        };
        // A signal is proxied once the client's loop runs; before that it would end the child. The terminal is
        // switched after the signals are blocked, so raw mode says that it may be sent.
        let mut is_running = false;
        while !is_running {
            is_running = is_raw(&pty.slave);
            std::thread::yield_now();
        }
        // The client is one thread; in a test it is one of two, and a signal to the process would find the other.
        let mut threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let is_main = |name: &str| name == pid.to_string();
        let thread = threads.find_map(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            (!is_main(&name)).then(|| name.parse().unwrap())
        });
        let signal = |signal: NixSignal| sys::signal_thread(pid.as_raw(), thread.unwrap(), signal as i32).unwrap();
        signal(NixSignal::SIGINT);
        assert_eq!(receive(), ToSupervisor::Signal(Signal::INT));
        signal(NixSignal::SIGTSTP);
        assert_eq!(receive(), ToSupervisor::Hold);
        assert!(matches!(waitpid(pid, Some(WaitPidFlag::WUNTRACED)).unwrap(), WaitStatus::Stopped(..)));
        assert!(!is_raw(&pty.slave));
        Winsize { rows: 5, cols: 6 }.apply(&pty.master).unwrap();
        kill(pid, NixSignal::SIGCONT).unwrap();
        assert_eq!(receive(), ToSupervisor::Resume);
        assert_eq!(receive(), ToSupervisor::Resize(Winsize { rows: 5, cols: 6 }));
        assert!(is_raw(&pty.slave));
        sys::send_now(control.as_fd(), &ToClient::Exited(Exit::Code(9)).encode()).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(9));
        assert!(!is_raw(&pty.slave));
    }

    #[test]
    fn a_supervisor_that_dies_is_noticed() {
        let (control, theirs) =
            nix::sys::socket::socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
                .unwrap();
        drop(theirs);
        assert_eq!(Client::inherited(control).run(Manners::default(), |_, _| {}).unwrap(), Outcome::Lost);
    }
}
