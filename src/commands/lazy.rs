//! Images that are used while they arrive: the process that pulls them, and what it tells.
//!
//! ```text
//! command                            puller (child in the user's namespace, session of its own)
//!   │ fork ──────────────────────────▶ │ manifest, configuration: verified, allowed
//!   │ ◀── 'I', length, the image ───── │
//!   │ container, supervisor            │ layers, topmost first: see storage::union::lazy
//!   ▼                                  │
//! supervisor ◀── 'K', or 'E' and why ─ ▼ image recorded
//! ```
//! A pull that was begun goes on to its end, also when its container has ended: the next one finds the image. With `--rm` it
//! ends when nobody holds the other end of its pipe any more; what is whole by then is kept, and the next pull goes on there.

use std::cell::Cell;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsFd;
use std::sync::Mutex;

use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, setsid};
use runtime::process::prctl;
use runtime::userns::{self, Mapping};
use storage::image::{Image, ImageStore};
use storage::transport::{Known, PullOptions};
use storage::union::lazy::Telling;

use super::Context;
use super::pull::{self, Candidate};
use crate::cli::printable::Printable;
use crate::error::{CommandError, reason};
use crate::supervisor::arrival::{FAILED, VERIFIED, Verdict};

/// The image follows.
const KNOWN: u8 = b'I';

/// Nobody's configuration is so long; a longer one is not ours to read.
const KNOWN_LIMIT_BYTES: u32 = 128 << 20;

/// An image that arrives.
#[derive(Debug)]
pub(crate) struct Arriving {
    /// What it will be.
    pub(crate) image: Image,
    /// What becomes of it.
    pub(crate) verdict: Verdict,
}

/// Whether the puller outlives who is interested in the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interest {
    /// It goes on to its end.
    Lasting,
    /// It ends with the last of them.
    Passing,
}

/// Begins to pull what `name` means, and returns when it is known what that is.
pub(crate) fn begin(
    context: &Context,
    name: &str,
    options: &PullOptions,
    quiet: bool,
    interest: Interest,
) -> Result<Arriving, CommandError> {
    super::space::sweep(context);
    let store = ImageStore::open(&context.layout);
    let candidates = pull::candidates(context, name, options)?;
    let (reader, writer) = std::io::pipe().map_err(|error| pipe_failed(&error))?;
    let mut ends = (Some(writer), Some(reader));
    let child = userns::start_in(&Mapping::of_user(), || {
        // Held here, it would be somebody who still listens.
        drop(ends.1.take());
        ends.0.take().map_or(125, |writer| puller(&store, name, &candidates, writer, quiet, interest))
    })?;
    let (_, Some(mut reader)) = (ends.0.take(), ends.1.take()) else { return Err(super::create::internal("no pipe")) };
    let known = read_known(&mut reader);
    let Some(known) = known else {
        let exit = userns::wait_for(&child)?;
        return Err(match exit.code() {
            // It has said why.
            code if code == 125 || code == 1 => CommandError::printed(code),
            code => CommandError::host(format!("{name}: the process that pulls it ended with status {code}")),
        });
    };
    let image = known.into_image().map_err(CommandError::host)?;
    context.note_image("pull", &image.id, name);
    let shown = image.names.first().map_or_else(|| name.to_owned(), ToString::to_string);
    Ok(Arriving { image, verdict: Verdict::new(shown, reader) })
}

fn pipe_failed(error: &std::io::Error) -> CommandError {
    CommandError::host(format!("pipe2(O_CLOEXEC): {}", reason(error)))
}

/// The image that the puller tells of; nothing if it has failed before.
fn read_known(reader: &mut PipeReader) -> Option<Known> {
    let mut head = [0; 5];
    reader.read_exact(&mut head).ok()?;
    let [tag, len @ ..] = head;
    let len = u32::from_le_bytes(len);
    if tag != KNOWN || len > KNOWN_LIMIT_BYTES {
        return None;
    }
    let mut bytes = vec![0; len as usize];
    reader.read_exact(&mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// The puller's life.
fn puller(
    store: &ImageStore,
    name: &str,
    candidates: &[Candidate],
    writer: PipeWriter,
    quiet: bool,
    interest: Interest,
) -> i32 {
    let _ = prctl(libc::PR_SET_PDEATHSIG, 0);
    let _ = setsid();
    let null = open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty());
    if let Ok(null) = &null {
        // Whoever waits for the end of the command's output must not wait for us.
        let _ = dup2_stdin(null).and_then(|()| dup2_stdout(null));
    }
    if interest == Interest::Passing
        && let Ok(end) = writer.try_clone()
    {
        std::thread::spawn(move || {
            let mut fds = [PollFd::new(end.as_fd(), PollFlags::empty())];
            // An error on this end: nobody has the other one any more.
            while !matches!(poll(&mut fds, PollTimeout::NONE), Ok(ready) if ready > 0) {}
            std::process::exit(1)
        });
    }
    let writer = Mutex::new(writer);
    let is_known = std::sync::atomic::AtomicBool::new(false);
    let telling = Telling::new(store.layout());
    let on_known = |known: Known| {
        telling.begin(&known);
        is_known.store(true, std::sync::atomic::Ordering::Relaxed);
        if let Ok(null) = &null {
            let _ = dup2_stderr(null);
        }
        let bytes = serde_json::to_vec(&known).unwrap_or_default();
        let mut message = vec![KNOWN];
        message.extend((bytes.len() as u32).to_le_bytes());
        message.extend(bytes);
        send(&writer, &message);
    };
    let failures = Cell::new(Vec::new());
    for candidate in candidates {
        if !quiet {
            eprintln!("Trying to pull {}...", Printable::line(&candidate.shown));
        }
        let Candidate { source, options, .. } = candidate;
        match storage::transport::pull_lazily(store, source, options, &telling, &on_known) {
            Ok(_) => {
                send(&writer, &[VERIFIED]);
                return 0;
            }
            Err(error) if is_known.load(std::sync::atomic::Ordering::Relaxed) => {
                send(&writer, &[&[FAILED], error.to_string().as_bytes()].concat());
                return 1;
            }
            Err(error) => {
                let mut all = failures.take();
                all.push((candidate, error));
                failures.set(all);
            }
        }
    }
    let error = pull::none_gave(name, failures.take());
    error.print();
    i32::from(error.code())
}

/// Tells whoever still listens.
fn send(writer: &Mutex<PipeWriter>, bytes: &[u8]) {
    let _ = writer.lock().unwrap_or_else(std::sync::PoisonError::into_inner).write_all(bytes);
}
