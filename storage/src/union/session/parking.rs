//! The conversation with the kernel where some answers take as long as a network does: one thread, which keeps requests that
//! cannot be answered yet and goes on with others.
//!
//! ```text
//! read ─▶ answer? ──yes──▶ write
//!            └─no─▶ parked ── something has come: answer? ──▶ write
//!                      └───── INTERRUPT: its process gives up ─▶ EINTR
//! ```
//! An interrupted request is given back whatever its process was told: that it can be killed while it waits is worth that one
//! which only catches a signal sees `EINTR` where a disk would have made it wait.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::abi::{self, InitFlags, opcode};
use super::decode::{Request, decode};
use super::device::Device;
use super::encode::{Presentation, Reply};
use super::turns::Turns;
use super::{request_buffer, shake_hands};

/// Who answers, at once or later.
pub(crate) trait Patient {
    /// Flags of the protocol to use where the kernel has them.
    fn flags(&self) -> InitFlags;

    /// How answers look.
    fn presentation(&self) -> Presentation;

    /// Does what is asked and writes what is to be answered; `None` if that is not known yet.
    fn answer(&mut self, request: &Request<'_>, reply: &mut Reply) -> Option<super::Answer>;

    /// Readable when something has come that parked requests may wait for.
    fn bell(&self) -> BorrowedFd<'_>;

    /// Takes in what has come. `is_rung` says that the bell was the reason to look.
    ///
    /// # Errors
    /// What ends the session.
    fn look(&mut self, is_rung: bool) -> io::Result<()>;

    /// Readable when somebody wants to know whether all that was answered holds.
    fn question(&self) -> Option<BorrowedFd<'_>>;

    /// Takes in what has come, and says so.
    ///
    /// # Errors
    /// As [`Patient::look`].
    fn confirm(&mut self) -> io::Result<()>;

    /// Something went wrong that no program can be told.
    fn report(&self, what: &str);
}

/// Serves until the file system is unmounted.
///
/// # Errors
/// What reading the device gave, or what [`Patient::look`] said.
pub(crate) fn serve(service: &mut impl Patient, end: OwnedFd) -> io::Result<()> {
    let device = end.try_clone()?;
    let turns = Turns::new(1);
    if !shake_hands(service.flags(), service.presentation(), &Device::new(&turns, 1, end))? {
        return Ok(());
    }
    let flags = OFlag::from_bits_truncate(fcntl(&device, FcntlArg::F_GETFL)?);
    fcntl(&device, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    let mut parked: Vec<Vec<u8>> = Vec::new();
    let mut buffer = request_buffer();
    let mut reply = Reply::new(service.presentation());
    loop {
        let mut fds = vec![PollFd::new(device.as_fd(), PollFlags::POLLIN)];
        // A bell that nobody waits for is not listened to; it goes on ringing.
        let rung = if parked.is_empty() { PollFlags::empty() } else { PollFlags::POLLIN };
        fds.push(PollFd::new(service.bell(), rung));
        fds.extend(service.question().map(|question| PollFd::new(question, PollFlags::POLLIN)));
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let is_ready = |at: usize| fds.get(at).is_some_and(|fd| fd.any() == Some(true));
        let (is_rung, is_asked) = (is_ready(1), is_ready(2));
        drop(fds);
        if is_asked {
            service.confirm()?;
        }
        if is_rung {
            service.look(true)?;
            parked.retain(|request| !respond(service, request, &mut reply, &device));
        }
        loop {
            let len = match nix::unistd::read(&device, &mut buffer) {
                Ok(len) => len,
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR | Errno::ENOENT) => continue,
                Err(Errno::ENODEV) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            };
            let request = buffer.get(..len).unwrap_or_default();
            if let Some(unique) = interrupted(request) {
                // One that is not parked has its answer already.
                if let Some(at) = parked.iter().position(|parked| unique_of(parked) == Some(unique)) {
                    parked.swap_remove(at);
                    reply.clear();
                    send(service, reply.finish(unique, Err(Errno::EINTR)), &device);
                }
                continue;
            }
            if respond(service, request, &mut reply, &device) {
                continue;
            }
            // What came since we looked last was no reason to look, as long as nobody waited.
            service.look(false)?;
            if !respond(service, request, &mut reply, &device) {
                parked.push(request.to_vec());
            }
        }
    }
}

/// The request that is not to be waited for any more, if that is what this one says.
fn interrupted(request: &[u8]) -> Option<u64> {
    let code = u32::from_ne_bytes(request.get(4..8)?.try_into().ok()?);
    let unique = request.get(abi::IN_HEADER_BYTES..abi::IN_HEADER_BYTES + 8)?.try_into().ok()?;
    (code == opcode::INTERRUPT).then(|| u64::from_ne_bytes(unique))
}

fn unique_of(request: &[u8]) -> Option<u64> {
    request.get(8..16)?.try_into().ok().map(u64::from_ne_bytes)
}

/// False if it is to be asked again.
fn respond(service: &mut impl Patient, bytes: &[u8], reply: &mut Reply, device: &OwnedFd) -> bool {
    reply.clear();
    let answer = match decode(bytes) {
        Ok(request) => match service.answer(&request, reply) {
            Some(super::Answer::Send(result)) => reply.finish(request.unique, result),
            Some(super::Answer::Nothing) => return true,
            None => return false,
        },
        Err(malformed) => {
            service.report(&format!("request of {} bytes is malformed", bytes.len()));
            if malformed.unique == 0 {
                return true;
            }
            reply.finish(malformed.unique, Err(malformed.errno))
        }
    };
    send(service, answer, device);
    true
}

fn send(service: &impl Patient, answer: &[u8], device: &OwnedFd) {
    match nix::unistd::write(device, answer) {
        // Nobody waits any more, or the file system is gone, which the next read tells.
        Ok(_) | Err(Errno::ENOENT | Errno::ENODEV) => {}
        Err(errno) => service.report(&format!("answer the kernel: {}", errno.desc().to_lowercase())),
    }
}
