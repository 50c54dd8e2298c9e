//! Signals by name, and their actions in a new process.
//!
//! A [`Signal`] is what users write after `--signal` and `--stop-signal` and what images name in `StopSignal`. Its
//! numbers are the kernel's, real-time signals included, which `nix`'s enum lacks.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::str::FromStr;

use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::sys::monitor as sys;

/// First real-time signal for users: docker, podman and glibc count from 34 (musl from 35; the name means 34 here).
const RTMIN: i32 = 34;
/// Last real-time signal.
const RTMAX: i32 = 64;

/// Names and numbers of x86-64, aarch64 and every other architecture we build for; first name of a number is canonical.
const NAMES: &[(&str, i32)] = &[
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("ILL", libc::SIGILL),
    ("TRAP", libc::SIGTRAP),
    ("ABRT", libc::SIGABRT),
    ("IOT", libc::SIGABRT),
    ("BUS", libc::SIGBUS),
    ("FPE", libc::SIGFPE),
    ("KILL", libc::SIGKILL),
    ("USR1", libc::SIGUSR1),
    ("SEGV", libc::SIGSEGV),
    ("USR2", libc::SIGUSR2),
    ("PIPE", libc::SIGPIPE),
    ("ALRM", libc::SIGALRM),
    ("TERM", libc::SIGTERM),
    ("STKFLT", libc::SIGSTKFLT),
    ("CHLD", libc::SIGCHLD),
    ("CLD", libc::SIGCHLD),
    ("CONT", libc::SIGCONT),
    ("STOP", libc::SIGSTOP),
    ("TSTP", libc::SIGTSTP),
    ("TTIN", libc::SIGTTIN),
    ("TTOU", libc::SIGTTOU),
    ("URG", libc::SIGURG),
    ("XCPU", libc::SIGXCPU),
    ("XFSZ", libc::SIGXFSZ),
    ("VTALRM", libc::SIGVTALRM),
    ("PROF", libc::SIGPROF),
    ("WINCH", libc::SIGWINCH),
    ("IO", libc::SIGIO),
    ("POLL", libc::SIGIO),
    ("PWR", libc::SIGPWR),
    ("SYS", libc::SIGSYS),
    ("RTMIN", RTMIN),
    ("RTMAX", RTMAX),
];

/// A signal that can be sent: 1 to 64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signal(i32);

impl Signal {
    /// SIGHUP.
    pub const HUP: Self = Self(libc::SIGHUP);
    /// SIGINT.
    pub const INT: Self = Self(libc::SIGINT);
    /// SIGQUIT.
    pub const QUIT: Self = Self(libc::SIGQUIT);
    /// SIGKILL.
    pub const KILL: Self = Self(libc::SIGKILL);
    /// SIGTERM, the default stop signal.
    pub const TERM: Self = Self(libc::SIGTERM);
    /// SIGCHLD.
    pub const CHLD: Self = Self(libc::SIGCHLD);
    /// SIGWINCH.
    pub const WINCH: Self = Self(libc::SIGWINCH);
    /// SIGTSTP.
    pub const TSTP: Self = Self(libc::SIGTSTP);
    /// SIGCONT.
    pub const CONT: Self = Self(libc::SIGCONT);

    /// The signal with this number, if the kernel has one.
    #[must_use]
    pub const fn from_number(number: i32) -> Option<Self> {
        if number >= 1 && number <= RTMAX { Some(Self(number)) } else { None }
    }

    /// The kernel's number.
    #[must_use]
    pub const fn number(self) -> i32 {
        self.0
    }
}

/// `SIGTERM`, `SIGRTMIN+3`; the two numbers that libraries keep for themselves print as numbers.
impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((name, _)) = NAMES.iter().find(|(_, number)| *number == self.0) {
            return write!(f, "SIG{name}");
        }
        if self.0 > RTMIN { write!(f, "SIGRTMIN+{}", self.0 - RTMIN) } else { write!(f, "{}", self.0) }
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A name or number that is no signal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid signal: {0}")]
pub struct UnknownSignal(pub String);

/// Reads `SIGTERM`, `TERM`, `term`, `15`, `RTMIN+3`, `SIGRTMAX-1`.
impl FromStr for Signal {
    type Err = UnknownSignal;

    fn from_str(text: &str) -> Result<Self, UnknownSignal> {
        parse(text).ok_or_else(|| UnknownSignal(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<Signal> {
    let text = text.trim();
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Signal::from_number(text.parse().ok()?);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
        return Some(Signal(*number));
    }
    let (base, distance) = if let Some(above) = name.strip_prefix("RTMIN+") {
        (RTMIN, unsigned(above)?)
    } else if let Some(below) = name.strip_prefix("RTMAX-") {
        (RTMAX, -unsigned(below)?)
    } else {
        return None;
    };
    let number = base + distance;
    (RTMIN..=RTMAX).contains(&number).then_some(Signal(number))
}

/// Digits only, and few: `i32::from_str` would take a sign.
fn unsigned(text: &str) -> Option<i32> {
    (text.len() <= 2 && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

/// Gives every signal its default action and empties the mask: what an image's process expects to start with.
///
/// No allocation, no lock: made for the time between `clone` and `execve`. Not resetting would hand our ignored
/// SIGPIPE and blocked signals to the container, since both survive `execve`.
pub fn reset_for_exec() {
    sys::reset_signals();
}

/// Signals as events of a loop: they are blocked and arrive on a descriptor.
///
/// Blocking is for the process's only thread and survives `fork`; children that execute something call
/// [`reset_for_exec`].
#[derive(Debug)]
pub struct SignalSource {
    fd: SignalFd,
}

/// One signal that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrived {
    /// Which.
    pub signal: Signal,
    /// Pid of the sender as this process sees it; 0 from the kernel or from outside the pid namespace.
    pub sender_pid: u32,
}

impl SignalSource {
    /// Blocks `signals` and opens their descriptor. Real-time signals are left out: nothing of ours listens to them.
    ///
    /// # Errors
    /// What `signalfd(2)` or `sigprocmask(2)` say.
    pub fn block(signals: &[Signal]) -> nix::Result<Self> {
        let mut set = SigSet::empty();
        for signal in signals {
            if let Ok(standard) = nix::sys::signal::Signal::try_from(signal.number()) {
                set.add(standard);
            }
        }
        set.thread_block()?;
        Ok(Self { fd: SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)? })
    }

    /// The next signal that has arrived; `None` when there is no more.
    ///
    /// # Errors
    /// What `read(2)` says, except that nothing is there.
    pub fn next(&self) -> nix::Result<Option<Arrived>> {
        let Some(info) = self.fd.read_signal()? else { return Ok(None) };
        let signal = Signal::from_number(info.ssi_signo as i32);
        Ok(signal.map(|signal| Arrived { signal, sender_pid: info.ssi_pid }))
    }
}

impl AsFd for SignalSource {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Every standard signal that a process can catch and that `--sig-proxy` hands on: not CHLD, which is about our own
/// children, not KILL and STOP, and not PIPE, URG and WINCH, which tell us of our own descriptors.
#[must_use]
pub fn proxied() -> Vec<Signal> {
    let ours = [libc::SIGKILL, libc::SIGSTOP, libc::SIGCHLD, libc::SIGPIPE, libc::SIGURG, libc::SIGWINCH];
    let faults = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGABRT, libc::SIGTRAP, libc::SIGSYS];
    let jobs = [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU, libc::SIGCONT];
    (1..=31)
        .filter(|number| !ours.contains(number) && !faults.contains(number) && !jobs.contains(number))
        .map(Signal)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_read_in_every_spelling() {
        for (text, number) in [
            ("SIGTERM", 15),
            ("TERM", 15),
            ("term", 15),
            ("sigTerm", 15),
            ("15", 15),
            (" 9 ", 9),
            ("SIGRTMIN", 34),
            ("RTMIN+3", 37),
            ("sigrtmin+30", 64),
            ("SIGRTMAX", 64),
            ("RTMAX-14", 50),
            ("64", 64),
            ("IOT", 6),
            ("POLL", libc::SIGIO),
        ] {
            assert_eq!(text.parse::<Signal>().map(Signal::number), Ok(number), "{text}");
        }
    }

    #[test]
    fn what_is_no_signal_is_refused() {
        for text in [
            "",
            "0",
            "65",
            "-1",
            "SIG",
            "TERMX",
            "RTMIN+31",
            "RTMIN+-1",
            "RTMIN++1",
            "RTMAX-31",
            "SIGSIGTERM",
            "99999999999",
        ] {
            assert_eq!(text.parse::<Signal>(), Err(UnknownSignal(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn every_number_prints_as_a_name_that_reads_back() {
        for number in 1..=64 {
            let signal = Signal::from_number(number).unwrap();
            assert_eq!(signal.to_string().parse(), Ok(signal));
        }
        assert_eq!(Signal(37).to_string(), "SIGRTMIN+3");
        assert_eq!(Signal::KILL.to_string(), "SIGKILL");
    }

    #[test]
    fn blocked_signals_arrive_on_the_descriptor_with_their_sender() {
        let source = SignalSource::block(&[Signal::WINCH]).unwrap();
        assert_eq!(source.next(), Ok(None));
        // To this thread: the test runner has others, which do not block it.
        nix::sys::signal::raise(nix::sys::signal::Signal::SIGWINCH).unwrap();
        let arrived = source.next().unwrap().unwrap();
        assert_eq!(arrived, Arrived { signal: Signal::WINCH, sender_pid: std::process::id() });
    }
}
