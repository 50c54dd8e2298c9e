//! One client of a relay: its endpoints and its control channel.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;

use super::ClientId;
use crate::monitor::attach::{Refusal, ToClient};
use crate::monitor::detach_keys::DetachKeys;
use crate::monitor::endpoint::{Sink, Source};
use crate::monitor::log::Stream;
use crate::monitor::reaper::Exit;
use crate::sys::monitor as sys;

/// The descriptors of a client that did not connect but was there: P, or this process itself.
#[derive(Debug, Default)]
pub struct FirstClient {
    /// The supervisor's end of the `SOCK_SEQPACKET` pair whose other end is a [`super::attach::Client`].
    pub control: Option<OwnedFd>,
    /// Read, if the container is interactive.
    pub stdin: Option<OwnedFd>,
    /// Written.
    pub stdout: Option<OwnedFd>,
    /// Written, if the container has no terminal.
    pub stderr: Option<OwnedFd>,
    /// Looked for on stdin; [`DetachKeys::none`] if that is no terminal.
    pub detach_keys: DetachKeys,
}

/// One client.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) id: ClientId,
    /// Absent in an `exec -t`, where the client is this very process.
    pub(super) control: Option<OwnedFd>,
    /// Has said hello.
    pub(super) greeted: bool,
    /// Has started the container: whoever reads its output reads the container's.
    pub(super) is_first: bool,
    /// Is stopped: its terminal belongs to the shell.
    pub(super) held: bool,
    /// How the run ended that it was attached to: it gets the rest of that, and nothing of a later one.
    pub(super) exit: Option<Exit>,
    pub(super) stdin: Option<Source>,
    pub(super) stdout: Option<Sink>,
    pub(super) stderr: Option<Sink>,
    pub(super) keys: DetachKeys,
}

impl Attached {
    pub(super) fn sink(&mut self, stream: Stream) -> &mut Option<Sink> {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    pub(super) fn is_behind(&self, stream: Stream) -> bool {
        let sink = match stream {
            Stream::Stdout => &self.stdout,
            Stream::Stderr => &self.stderr,
        };
        sink.as_ref().is_some_and(|sink| self.held || sink.is_pending())
    }

    /// Tells the client something; false if it cannot be told.
    pub(super) fn tell(&self, message: ToClient) -> bool {
        self.control.as_ref().is_none_or(|control| sys::send_now(control.as_fd(), &message.encode()).is_ok())
    }

    /// A stream of the client failed. That nobody reads it any more is no failure.
    pub(super) fn lose(&mut self, stream: Stream, errno: Errno) {
        *self.sink(stream) = None;
        if errno != Errno::EPIPE && errno != Errno::ECONNRESET && errno != Errno::EIO {
            self.tell(ToClient::Error(Refusal::Stream { descriptor: stream.descriptor(), errno: errno as i32 }));
        }
    }
}
