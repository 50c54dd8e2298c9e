//! The conversation with the kernel over `/dev/fuse`.
//!
//! ```text
//! device (turns) → decode → Service::answer → encode → device
//! ```
//!
//! A loop of our own instead of that of `fuser` 0.18, which both served the same engine for comparison. What `fuser` lacks:
//! `O_TMPFILE`, whether a truncation or a new access list takes privileges away, the wide `copy_file_range`, a node number
//! apart from `st_ino`, buffers of less than 16 MiB. Time of this loop as a part of `fuser`'s, both with two threads and
//! cloned descriptors, best of interleaved runs that own two processors (the second column without [`turns`], that is:
//! always asleep):
//!
//! | load | this loop | always asleep |
//! | --- | --- | --- |
//! | one client, one request after the other (42 µs each by `fuser`) | 0.64 | 0.99 |
//! | the same, 10 µs between requests | 0.71 | 0.97 |
//! | two clients; eight clients | 1.01, 0.97 | 0.98, 0.97 |
//! | find, cold and warm | 0.92, 0.80 | 0.93, 1.02 |
//! | lstat of 8,000 files, cold | 0.72 | 1.04 |
//! | lstat of 8,000 missing names, cold | 0.78 | 0.97 |
//! | open and read of 2,500 files, one process | 0.75 | 0.97 |
//! | the same by eight processes | 1.15 | |
//! | git status, again | 1.08 | |

pub(crate) mod abi;

pub(crate) mod decode;

pub(crate) mod encode;

pub(crate) mod ioctl;

mod turns;

mod device;

pub(crate) mod parking;

use std::io;
use std::os::fd::OwnedFd;

use nix::errno::Errno;

use abi::InitFlags;
use decode::{Operation, Request, decode};
use device::Device;
use encode::{Presentation, Reply};
use turns::Turns;

/// Who answers requests.
pub(crate) trait Service: Sync {
    /// Flags of the protocol to use where the kernel has them.
    fn flags(&self) -> InitFlags;

    /// How answers look.
    fn presentation(&self) -> Presentation;

    /// Does what is asked and writes what is to be answered.
    fn answer(&self, request: &Request<'_>, reply: &mut Reply) -> Answer;

    /// Something went wrong that no program can be told.
    fn report(&self, what: &str);
}

/// What follows a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The reply, or an error.
    Send(Result<(), Errno>),
    /// Nothing: the kernel expects none.
    Nothing,
}

/// Serves until the file system is unmounted, with this thread and `threads - 1` others.
///
/// # Errors
/// What reading the device gave; `EPROTO` if the kernel speaks another protocol.
pub(crate) fn serve(service: &impl Service, end: OwnedFd, threads: usize) -> io::Result<()> {
    let turns = Turns::new(threads);
    let first = Device::new(&turns, 1, end);
    if !shake_hands(service.flags(), service.presentation(), &first)? {
        return Ok(());
    }
    let others = (1..threads.max(1)).map(|_| first.another()).collect::<io::Result<Vec<_>>>()?;
    let turns = &turns;
    std::thread::scope(|scope| {
        let others: Vec<_> = others
            .into_iter()
            .zip(2..)
            .map(|(end, number)| {
                std::thread::Builder::new()
                    .name("union".to_owned())
                    .spawn_scoped(scope, move || run(service, &Device::new(turns, number, end)))
            })
            .collect::<io::Result<_>>()?;
        let mut result = run(service, &first);
        for other in others {
            result = result.and(other.join().unwrap_or_else(|_| Err(io::Error::from(Errno::EIO))));
        }
        result
    })
}

/// Answers INIT; false if the file system is gone already.
fn shake_hands(wanted: InitFlags, presentation: Presentation, device: &Device<'_>) -> io::Result<bool> {
    let mut buffer = request_buffer();
    let mut reply = Reply::new(presentation);
    loop {
        let Some(received) = device.receive(&mut buffer)? else { return Ok(false) };
        let request = decode(buffer.get(..received.len).unwrap_or_default());
        let Ok(Request { unique, operation: Operation::Init(init), .. }) = request else {
            return Err(Errno::EPROTO.into());
        };
        reply.clear();
        if init.major > abi::MAJOR {
            // The kernel begins again with the version it is told.
            reply.init(abi::MINOR, 0, InitFlags::empty());
            device.send(&received, reply.finish(unique, Ok(())))?;
            continue;
        }
        if (init.major, init.minor) < (abi::MAJOR, abi::MINOR_MIN) {
            device.send(&received, reply.finish(unique, Err(Errno::EPROTO)))?;
            return Err(Errno::EPROTO.into());
        }
        let flags = (wanted | InitFlags::FUSE_INIT_EXT) & init.flags;
        reply.init(init.minor.min(abi::MINOR), init.max_readahead, flags);
        device.send(&received, reply.finish(unique, Ok(())))?;
        return Ok(true);
    }
}

/// One thread's life.
fn run(service: &impl Service, device: &Device<'_>) -> io::Result<()> {
    let mut buffer = request_buffer();
    let mut reply = Reply::new(service.presentation());
    while let Some(received) = device.receive(&mut buffer)? {
        let bytes = buffer.get(..received.len).unwrap_or_default();
        if let Some(answer) = respond(service, bytes, &mut reply) {
            match device.send(&received, answer) {
                // Nobody waits any more, or the file system is gone, which the next read tells.
                Ok(()) | Err(Errno::ENOENT | Errno::ENODEV) => {}
                Err(errno) => service.report(&format!("answer the kernel: {}", errno.desc().to_lowercase())),
            }
        }
    }
    Ok(())
}

/// The answer to one request, whatever its bytes.
pub(crate) fn respond<'a>(service: &impl Service, bytes: &[u8], reply: &'a mut Reply) -> Option<&'a [u8]> {
    reply.clear();
    match decode(bytes) {
        Ok(request) => match service.answer(&request, reply) {
            Answer::Send(result) => Some(reply.finish(request.unique, result)),
            Answer::Nothing => None,
        },
        Err(malformed) => {
            service.report(&format!("request of {} bytes is malformed", bytes.len()));
            (malformed.unique != 0).then(|| reply.finish(malformed.unique, Err(malformed.errno)))
        }
    }
}

/// Room for the longest request; its pages are touched only as far as requests reach.
fn request_buffer() -> Box<[u8]> {
    vec![0; abi::MAX_DATA_BYTES + 4096].into_boxed_slice()
}
