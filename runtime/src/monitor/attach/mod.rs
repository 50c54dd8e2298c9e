//! The exchange between the supervisor and the clients whose terminals it talks to.
//!
//! A client is up to three descriptors and a control channel. It passes its descriptors to S, which then reads and
//! writes the client's terminal, pipe or file itself: no byte of a stream crosses the channel. The first client is P,
//! whose descriptors S has by fork; later ones connect to `attach.sock`.
//!
//! ```text
//! client                                            S
//!    │ ── connect (SOCK_SEQPACKET) ───────────────▶ │  SO_PEERCRED: the same user, or closed
//!    │ ── Hello {streams, keys, size} + fds ──────▶ │
//!    │ ◀─────────────────────────────── Attached ── │  (or Error, and closed)
//!    │ ── Resize, Signal, Hold, Resume ───────────▶ │  any number
//!    │ ── Detach ─────────────────────────────────▶ │  or the keys are seen on stdin
//!    │ ◀─────────────────────────────── Detached ── │  descriptors are dropped, the container goes on
//!    │ ◀──────────────────────── Exited {code} ──── │  after the last byte of output was taken
//!    │ ── Ask {question} ─────────────────────────▶ │  instead of Hello, or after it
//!    │ ◀──────────────────────────── Answer {n} ─── │
//!    ╳ closed by either side at any moment: S drops the descriptors; the client reports that S is gone
//! ```
//! P as the first client sends no `Hello` and gets no `Attached`; the rest is the same.
//!
//! One message is one packet: a tag byte, then fields in little endian. The binary may be replaced while a container
//! runs, therefore `Hello` has a version, new fields go to the end, and unknown tags are skipped.

mod client;
mod listener;

pub use client::{Client, ClientError, Manners, Outcome, Request};
pub use listener::{Listener, ListenerError, socket_name};

use crate::monitor::reaper::Exit;
use crate::process::pty::Winsize;
use crate::process::signal::Signal;

/// What this code speaks. S refuses clients that speak more.
const VERSION: u8 = 1;

/// No message is longer.
pub(crate) const MAX_MESSAGE: usize = 64;

/// Which of its descriptors a client passes, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Passed {
    /// Stdin: its bytes go to the container.
    pub stdin: bool,
    /// Stdout.
    pub stdout: bool,
    /// Stderr; not used by containers with a terminal.
    pub stderr: bool,
}

impl Passed {
    /// How many descriptors that is.
    #[must_use]
    pub fn count(self) -> usize {
        usize::from(self.stdin) + usize::from(self.stdout) + usize::from(self.stderr)
    }
}

/// What a client says first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hello {
    /// The descriptors with this message.
    pub passed: Passed,
    /// Size of the client's terminal, if it has one.
    pub size: Option<Winsize>,
    /// Bytes of the keys that detach; empty if none do, or if stdin is no terminal.
    pub detach_keys: Vec<u8>,
}

/// Client to supervisor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToSupervisor {
    /// Attach me.
    Hello(Hello),
    /// My terminal has this size now.
    Resize(Winsize),
    /// Let me go.
    Detach,
    /// I got this signal and proxy it to the container.
    Signal(Signal),
    /// I am being stopped (SIGTSTP): leave my stdin to the shell.
    Hold,
    /// I have been continued: read my stdin again.
    Resume,
    /// Do this, and tell me when it is done.
    Ask(Question),
}

/// What a client may want done to the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// Let its processes stand still.
    Freeze,
    /// Let them go on.
    Thaw,
    /// Find out how healthy it is, now.
    CheckHealth,
    /// Its record has changed: read it again.
    Reload,
    /// It was made ready and waits: let its program begin.
    Begin,
}

impl Question {
    const ALL: [Question; 5] =
        [Question::Freeze, Question::Thaw, Question::CheckHealth, Question::Reload, Question::Begin];
}

/// What came of it: a number that the question gives its meaning, or why nothing did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It is done.
    Done(u8),
    /// It cannot be done in this state.
    Refused,
    /// This errno.
    Failed(i32),
}

/// Why a client is not attached, or loses a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The client speaks a newer version, or not this protocol.
    Version,
    /// Too many clients.
    Busy,
    /// A stream of the client failed with this errno, and what it missed is lost to it (not to the log).
    Stream {
        /// 1 for stdout, 2 for stderr.
        descriptor: u8,
        /// E.g. `ENOSPC`.
        errno: i32,
    },
}

/// Supervisor to client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToClient {
    /// You are attached: output from now on is yours.
    Attached,
    /// You are detached: your terminal is yours again.
    Detached,
    /// The container has ended and all its output has been written.
    Exited(Exit),
    /// Something failed; unless it is [`Refusal::Stream`], the channel closes.
    Error(Refusal),
    /// What came of a question.
    Answer(Answer),
}

impl ToSupervisor {
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Hello(hello) => {
                let Passed { stdin, stdout, stderr } = hello.passed;
                let flags = u8::from(stdin) | u8::from(stdout) << 1 | u8::from(stderr) << 2;
                let flags = flags | u8::from(hello.size.is_some()) << 3;
                let mut bytes = vec![1, VERSION, flags];
                let size = hello.size.unwrap_or_default();
                bytes.extend_from_slice(&size.rows.to_le_bytes());
                bytes.extend_from_slice(&size.cols.to_le_bytes());
                // `DetachKeys` has at most 16.
                bytes.push(u8::try_from(hello.detach_keys.len()).unwrap_or(0));
                bytes.extend_from_slice(&hello.detach_keys);
                bytes
            }
            Self::Resize(size) => {
                let ([r0, r1], [c0, c1]) = (size.rows.to_le_bytes(), size.cols.to_le_bytes());
                vec![2, r0, r1, c0, c1]
            }
            Self::Detach => vec![3],
            Self::Signal(signal) => vec![4, u8::try_from(signal.number()).unwrap_or(0)],
            Self::Hold => vec![5],
            Self::Resume => vec![6],
            Self::Ask(question) => vec![7, *question as u8],
        }
    }

    /// `None` for what this version does not understand.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        Some(match *bytes {
            [1, VERSION, flags, r0, r1, c0, c1, len, ref rest @ ..] => {
                let size = Winsize { rows: u16::from_le_bytes([r0, r1]), cols: u16::from_le_bytes([c0, c1]) };
                Self::Hello(Hello {
                    passed: Passed { stdin: flags & 1 != 0, stdout: flags & 2 != 0, stderr: flags & 4 != 0 },
                    size: (flags & 8 != 0).then_some(size),
                    detach_keys: rest.get(..usize::from(len))?.to_vec(),
                })
            }
            [2, r0, r1, c0, c1, ..] => {
                Self::Resize(Winsize { rows: u16::from_le_bytes([r0, r1]), cols: u16::from_le_bytes([c0, c1]) })
            }
            [3, ..] => Self::Detach,
            [4, number, ..] => Self::Signal(Signal::from_number(i32::from(number))?),
            [5, ..] => Self::Hold,
            [6, ..] => Self::Resume,
            [7, question, ..] => Self::Ask(*Question::ALL.get(usize::from(question))?),
            _ => return None,
        })
    }
}

impl ToClient {
    pub(crate) fn encode(self) -> Vec<u8> {
        match self {
            Self::Attached => vec![0x81],
            Self::Detached => vec![0x82],
            Self::Exited(Exit::Code(code)) => vec![0x83, 0, code],
            Self::Exited(Exit::Killed { signal, dumped_core }) => {
                vec![0x83, 1 + u8::from(dumped_core), u8::try_from(signal.number()).unwrap_or(0)]
            }
            Self::Error(Refusal::Version) => vec![0x84, 0],
            Self::Error(Refusal::Busy) => vec![0x84, 1],
            Self::Error(Refusal::Stream { descriptor, errno }) => {
                let mut bytes = vec![0x84, 2, descriptor];
                bytes.extend_from_slice(&errno.to_le_bytes());
                bytes
            }
            Self::Answer(Answer::Done(value)) => vec![0x85, 0, value],
            Self::Answer(Answer::Refused) => vec![0x85, 1],
            Self::Answer(Answer::Failed(errno)) => [&[0x85, 2][..], &errno.to_le_bytes()].concat(),
        }
    }

    /// `None` for what this version does not understand.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        Some(match *bytes {
            [0x81, ..] => Self::Attached,
            [0x82, ..] => Self::Detached,
            [0x83, 0, code, ..] => Self::Exited(Exit::Code(code)),
            [0x83, how @ (1 | 2), number, ..] => {
                Self::Exited(Exit::Killed { signal: Signal::from_number(i32::from(number))?, dumped_core: how == 2 })
            }
            [0x84, 0, ..] => Self::Error(Refusal::Version),
            [0x84, 1, ..] => Self::Error(Refusal::Busy),
            [0x84, 2, descriptor, a, b, c, d, ..] => {
                Self::Error(Refusal::Stream { descriptor, errno: i32::from_le_bytes([a, b, c, d]) })
            }
            [0x85, 0, value, ..] => Self::Answer(Answer::Done(value)),
            [0x85, 1, ..] => Self::Answer(Answer::Refused),
            [0x85, 2, a, b, c, d, ..] => Self::Answer(Answer::Failed(i32::from_le_bytes([a, b, c, d]))),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_wire() {
        let size = Winsize { rows: 300, cols: 7 };
        let passed = Passed { stdin: true, stdout: false, stderr: true };
        for message in [
            ToSupervisor::Hello(Hello { passed, size: Some(size), detach_keys: vec![0x10; 16] }),
            ToSupervisor::Hello(Hello::default()),
            ToSupervisor::Resize(size),
            ToSupervisor::Detach,
            ToSupervisor::Signal(Signal::INT),
            ToSupervisor::Hold,
            ToSupervisor::Resume,
            ToSupervisor::Ask(Question::Freeze),
            ToSupervisor::Ask(Question::Reload),
        ] {
            assert!(message.encode().len() <= MAX_MESSAGE);
            assert_eq!(ToSupervisor::decode(&message.encode()), Some(message));
        }
        for message in [
            ToClient::Attached,
            ToClient::Detached,
            ToClient::Exited(Exit::Code(255)),
            ToClient::Exited(Exit::Killed { signal: Signal::KILL, dumped_core: false }),
            ToClient::Exited(Exit::Killed { signal: Signal::QUIT, dumped_core: true }),
            ToClient::Error(Refusal::Version),
            ToClient::Error(Refusal::Busy),
            ToClient::Error(Refusal::Stream { descriptor: 2, errno: 28 }),
            ToClient::Answer(Answer::Done(1)),
            ToClient::Answer(Answer::Refused),
            ToClient::Answer(Answer::Failed(95)),
        ] {
            assert!(message.encode().len() <= MAX_MESSAGE);
            assert_eq!(ToClient::decode(&message.encode()), Some(message));
        }
    }

    #[test]
    fn what_is_cut_or_foreign_is_no_message() {
        let hello = ToSupervisor::Hello(Hello { detach_keys: vec![1; 4], ..Hello::default() }).encode();
        for len in 0..hello.len() {
            assert_eq!(ToSupervisor::decode(&hello[..len]), None);
        }
        for bytes in [&[][..], &[0], &[4, 0], &[4, 65], &[7, 5], &[0x81], &[1, VERSION + 1, 0, 0, 0, 0, 0, 0]] {
            assert_eq!(ToSupervisor::decode(bytes), None, "{bytes:?}");
            assert_eq!(ToClient::decode(bytes).is_some(), bytes == [0x81]);
        }
    }
}
