//! One thread's end of the FUSE device: waits for requests, sends answers.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sched::sched_setaffinity;
use nix::sys::stat::Mode;
use nix::unistd::Pid;

use super::abi;
use super::turns::{LOOK, Turns, Way};
use crate::sys;

/// Two ends of one session, for one thread: an answer goes to the end that its request came from.
#[derive(Debug)]
pub(crate) struct Device<'a> {
    turns: &'a Turns,
    /// The thread's number, above 0.
    number: usize,
    /// Reading it sleeps.
    sleeping: OwnedFd,
    /// Reading it does not; missing if the device cannot be cloned.
    looking: Option<OwnedFd>,
    /// Above 0 while the next request mostly comes so soon that looking for it pays.
    chance: Cell<i32>,
    /// Not to look before this, because other programs need the processor; and how long that has been put off.
    not_before: Cell<Instant>,
    put_off: Cell<Duration>,
    /// This thread is kept on one processor.
    is_placed: Cell<bool>,
}

/// How sure it can be.
const CHANCE_MAX: i32 = 8;

/// What looking in vain takes from that, where a request that comes soon adds one: looking goes on while two of three come.
/// So many do while python imports modules, which runs each between three requests and the next three.
const MISSED: i32 = 2;

/// Whoever takes this long, when the processor is offered, is nobody who waits for an answer.
const HOG: Duration = Duration::from_micros(300);

const PUT_OFF_MIN: Duration = Duration::from_millis(100);
const PUT_OFF_MAX: Duration = Duration::from_secs(3);

/// Where a request came from, and how long it is.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) len: usize,
    is_looking: bool,
}

impl<'a> Device<'a> {
    /// Takes one end and clones what it needs.
    pub(crate) fn new(turns: &'a Turns, number: usize, end: OwnedFd) -> Self {
        let looking = clone(end.as_fd(), OFlag::O_NONBLOCK).ok();
        Self {
            turns,
            number,
            sleeping: end,
            looking,
            chance: Cell::new(CHANCE_MAX),
            not_before: Cell::new(Instant::now()),
            put_off: Cell::new(PUT_OFF_MIN),
            is_placed: Cell::new(false),
        }
    }

    /// One more end, for another thread.
    ///
    /// # Errors
    /// The kernel's errno.
    pub(crate) fn another(&self) -> io::Result<OwnedFd> {
        clone(self.sleeping.as_fd(), OFlag::empty()).or_else(|_| self.sleeping.try_clone())
    }

    /// Waits for a request; `None` when the file system is unmounted.
    ///
    /// # Errors
    /// The kernel's errno.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<Received>> {
        match self.wait(buffer) {
            Ok(received) => Ok(Some(received)),
            Err(errno) => {
                // Whoever is parked shall see it too.
                self.turns.end(self.number);
                if errno == Errno::ENODEV { Ok(None) } else { Err(errno.into()) }
            }
        }
    }

    fn wait(&self, buffer: &mut [u8]) -> nix::Result<Received> {
        loop {
            let way = self.turns.take(self.number);
            self.place(way);
            match (way, &self.looking) {
                (Way::Each, Some(looking)) => match self.look(looking, buffer)? {
                    Some(received) => return Ok(received),
                    None => {
                        self.chance.set(CHANCE_MAX);
                        self.turns.end_each();
                    }
                },
                (Way::Each, None) => self.turns.end_each(),
                (Way::Alone, Some(looking)) if !self.turns.has_sleepers() => match self.look(looking, buffer)? {
                    Some(received) => return Ok(received),
                    None => return self.sleep(true, buffer),
                },
                _ => return self.sleep(way == Way::Alone, buffer),
            }
        }
    }

    /// Sleeps until a request comes.
    fn sleep(&self, is_alone: bool, buffer: &mut [u8]) -> nix::Result<Received> {
        let begin = Instant::now();
        loop {
            let mut read = || nix::unistd::read(&self.sleeping, &mut *buffer);
            match if is_alone { read() } else { self.turns.sleep(read) } {
                Ok(len) => {
                    if is_alone && begin.elapsed() < LOOK {
                        self.chance.set((self.chance.get() + 1).min(CHANCE_MAX));
                    }
                    self.turns.received(self.number, client(buffer, len), false);
                    return Ok(Received { len, is_looking: false });
                }
                // A request that was interrupted before it could be read is ENOENT.
                Err(Errno::EINTR | Errno::ENOENT | Errno::EAGAIN) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Where each thread looks, it stays on a processor of its own; else on whichever the scheduler likes.
    fn place(&self, way: Way) {
        let shall_stay = way == Way::Each;
        if self.is_placed.replace(shall_stay) == shall_stay {
            return;
        }
        let processors = if shall_stay { self.turns.processor_of(self.number) } else { Some(self.turns.processors()) };
        if let Some(processors) = processors {
            // If somebody has taken that processor from us, the tuner will see that this is no faster.
            let _ = sched_setaffinity(Pid::from_raw(0), &processors);
        }
    }

    /// Looks whether a request is there, and for [`LOOK`] again if it is likely to come.
    fn look(&self, looking: &OwnedFd, buffer: &mut [u8]) -> nix::Result<Option<Received>> {
        let mut begin = None;
        loop {
            match nix::unistd::read(looking, &mut *buffer) {
                Ok(len) => {
                    if begin.is_some() {
                        self.chance.set((self.chance.get() + 1).min(CHANCE_MAX));
                    }
                    self.turns.received(self.number, client(buffer, len), begin.is_none());
                    return Ok(Some(Received { len, is_looking: true }));
                }
                Err(Errno::EAGAIN) => {}
                Err(Errno::EINTR | Errno::ENOENT) => continue,
                Err(errno) => return Err(errno),
            }
            let now = Instant::now();
            if self.chance.get() <= 0 || now < self.not_before.get() {
                return Ok(None);
            }
            if now.duration_since(*begin.get_or_insert(now)) > LOOK {
                self.chance.set(self.chance.get() - MISSED);
                return Ok(None);
            }
            // Whoever the processor could serve meanwhile goes first: it may be who sends the next request.
            std::thread::yield_now();
            if now.elapsed() > HOG {
                self.put_off(now);
            }
        }
    }

    /// Something else wants the processor: who sleeps is woken before it, who only yields comes after it.
    fn put_off(&self, now: Instant) {
        let is_again = now.saturating_duration_since(self.not_before.get()) < self.put_off.get();
        let next = if is_again { (self.put_off.get() * 2).min(PUT_OFF_MAX) } else { PUT_OFF_MIN };
        self.put_off.set(next);
        self.not_before.set(now + next);
    }

    /// Sends an answer.
    ///
    /// # Errors
    /// The kernel's errno: `ENOENT` if nobody waits for it any more, `EINVAL` if it is not one.
    pub(crate) fn send(&self, received: &Received, answer: &[u8]) -> nix::Result<()> {
        let end = match &self.looking {
            Some(looking) if received.is_looking => looking,
            _ => &self.sleeping,
        };
        let sent = nix::unistd::write(end, answer).map(drop);
        self.turns.sent();
        sent
    }
}

/// Who asks: the thread's number in the process namespace of the mount, 0 if it has none there.
fn client(buffer: &[u8], len: usize) -> u32 {
    let number = buffer.get(..len).and_then(|request| request.get(abi::IN_HEADER_PID)?.try_into().ok());
    number.map_or(0, u32::from_ne_bytes)
}

fn clone(session: BorrowedFd<'_>, flags: OFlag) -> io::Result<OwnedFd> {
    let fresh = open("/dev/fuse", OFlag::O_RDWR | OFlag::O_CLOEXEC | flags, Mode::empty())?;
    sys::fuse::clone_device(fresh.as_fd(), session)?;
    Ok(fresh)
}
