//! A container that `init` has made ready: it waits for `start`, or for its end.
//!
//! ```text
//! init ─▶ build-up ─▶ initialized ── Begin ─▶ running
//!                          │
//!                          └ its init was killed (stop, rm), or could not become the program ─▶ tear-down
//! ```
//!
//! **Runs in:** S; single-threaded.

use std::os::fd::AsFd;

use nix::errno::Errno;
use runtime::monitor::attach::{Answer, Question};
use runtime::monitor::event_loop::{Interest, Turn};
use runtime::monitor::relay::{ClientId, Request as RelayRequest};
use runtime::process::signal::Signal;
use runtime::process::{Exit, pidfd_send_signal, wait};

use super::build::Word;
use super::supervise::{Event, Supervisor};

impl Supervisor {
    /// Waits until the container is started; otherwise returns how it has ended.
    pub(super) fn hold(&mut self, word: Word) -> Result<(), Exit> {
        self.note_held();
        let client = self.wait_for_start()?;
        if let Err(error) = self.let_go(word) {
            // The client finds the reason in the exit record, when it is written.
            self.relay.answer(client, Answer::Failed(Errno::ECANCELED as i32));
            let code = error.code();
            self.ended_by = Some(error.to_string());
            let _ = pidfd_send_signal(self.run.init.as_fd(), Signal::KILL.number());
            let _ = wait(self.run.init.as_fd(), true);
            return Err(Exit::Code(code));
        }
        self.note_begun();
        self.relay.answer(client, Answer::Done(0));
        self.after_start();
        Ok(())
    }

    fn wait_for_start(&mut self) -> Result<ClientId, Exit> {
        loop {
            let mut turn = Turn::new();
            self.relay.watch(&mut turn, Event::Relay);
            turn.watch(self.run.init.as_fd(), Interest::Read, Event::Exited);
            turn.watch(self.signals.as_fd(), Interest::Read, Event::Signal);
            for one in turn.wait(None).unwrap_or_default() {
                match one.event {
                    Event::Relay(event) => match self.relay.on(event) {
                        Some(RelayRequest::Ask(client, Question::Begin)) => return Ok(client),
                        request => self.complain(request),
                    },
                    Event::Exited => {
                        if let Ok(Some(exit)) = wait(self.run.init.as_fd(), false) {
                            return Err(exit);
                        }
                    }
                    Event::Signal => {
                        // Nothing runs that a signal could be for; whoever ends a session ends this, too.
                        while let Ok(Some(arrived)) = self.signals.next() {
                            if arrived.signal == Signal::TERM {
                                let _ = pidfd_send_signal(self.run.init.as_fd(), Signal::KILL.number());
                            }
                        }
                    }
                    _ => {}
                }
            }
        }
    }
}
