//! Tear-down: what happens between the end of the container and the end of its supervisor.
//!
//! **Runs in:** S; single-threaded.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use runtime::monitor::attach::{Client, Request};
use runtime::monitor::event_loop::Turn;
use runtime::process::Exit;
use runtime::process::signal::Signal;
use storage::state::container;
use storage::state::layout::ContainerId;
use storage::state::pod::{self, ExitPolicy};
use storage::state::status::{self, Event as StateEvent, ExitRecord, State};
use storage::state::trash;

use super::supervise::{Event, Supervisor};

/// How long slow clients may take for the last output of a container that has ended, before its clean-up goes on.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// How long a union server takes to be gone when its mount has been cut off.
const DYING: Duration = Duration::from_millis(100);

impl Supervisor {
    /// Clears up after the container, tells its end, and lets go of it.
    pub(super) fn tear_down(mut self, exit: Exit) {
        let finished_at = match &self.state.state {
            // It has rested since, and nothing ended now.
            State::Restarting { exit } => exit.finished_at,
            _ => Some(Timestamp::now()),
        };
        self.notice_dead_server(exit);
        if let Some(forwarder) = self.run.forwarder.take() {
            forwarder.stop();
        }
        // Before the result: who reads it may want the ports, the name, or to remove the image.
        self.launch.network.close_ports();
        if self.record.request.remove {
            let _ = container::remove(&self.layout, &self.record.id);
        }
        let exit_status = status::Exit {
            code: i32::from(exit.code()),
            finished_at,
            oom: self.run.oom_kills > 0,
            error: self.ended_by.take().unwrap_or_default(),
        };
        let remove = self.record.request.remove;
        if remove {
            // Another container may have taken them over.
            let _ = storage::prune::remove_anonymous_volumes(&self.layout, &self.record);
        } else {
            // The record on disk first: the state file may go at any time.
            let (started_at, restarts) = (self.state.started_at, self.state.restarts);
            let _ = ExitRecord::write(&self.layout, &self.record.id, started_at, Some(&exit_status), restarts);
            let _ = self.state.on(StateEvent::Exited(exit_status));
            let _ = self.state.write(&self.layout, &self.record.id);
        }
        if self.record.request.pod.is_some() {
            self.end_pod();
        }
        self.note_ended(exit);
        if self.launch.dies_with_starter {
            // The next step builds on the tree, beside what is left to be done here.
            self.close_root();
        }
        // Only now do the clients hear of it: what they run next finds the container ended, or gone.
        let failed = self.relay.container_exited(exit);
        self.complain(failed);
        self.say_last_words();
        self.stop_helpers();
        if !remove {
            let _ = std::fs::remove_file(self.layout.runtime_container(&self.record.id).join("attach.sock"));
        }
        drop(self.lock.take());
        self.close_root();
        if remove {
            let _ = trash::empty(&self.layout);
        }
    }

    /// Ends what has served the run.
    pub(super) fn stop_helpers(&mut self) {
        if let Some(helper) = self.run.helper.take() {
            helper.stop();
        }
        self.run.netns = None;
        if let Some(cgroup) = self.run.cgroup.take() {
            let _ = cgroup.kill();
            super::cgroup::remove(&cgroup);
        }
        if let Some(notifier) = self.run.notifier.take() {
            notifier.stop();
            let socket = runtime::identity::socket::NAME;
            let _ = std::fs::remove_file(self.layout.runtime_container(&self.record.id).join(socket));
        }
    }

    /// Lets go of the container's root, which its server notices.
    pub(super) fn close_root(&mut self) {
        drop(self.run.root.take());
        if let Some(union) = self.run.union.take() {
            union.stop();
        }
    }

    /// A pod that is to stop with its last container does.
    fn end_pod(&self) {
        let id = self.record.request.pod.as_deref().and_then(|id| ContainerId::parse(id).ok());
        let pod = id.and_then(|id| pod::load(&self.layout, &id).ok().flatten());
        // The end of one that comes before the others is their beginning.
        let counts = !self.record.request.infra && self.record.request.init_container.is_none();
        let Some(pod) = pod.filter(|pod| pod.exit_policy == ExitPolicy::Stop && counts) else {
            return;
        };
        let mut infra_runs = false;
        for record in pod::members(&self.layout, &pod).unwrap_or_default() {
            let Ok(observed) = status::observe(&self.layout, &record) else { continue };
            match (record.request.infra, observed.state.is_alive()) {
                (true, runs) => infra_runs = runs,
                (false, true) if record.id != self.record.id => return,
                _ => {}
            }
        }
        let Some(infra) = pod.infra.filter(|_| infra_runs) else { return };
        // Its pid means nothing in our pid namespace: its own supervisor sends the signal.
        let nothing = Request { stdin: None, stdout: None, stderr: None, detach_keys: Default::default() };
        if let Ok(directory) = std::fs::File::open(self.layout.runtime_container(&infra))
            && let Ok(client) = Client::connect(directory.as_fd())
            && client.attach(&nothing).is_ok()
        {
            client.signal(Signal::TERM);
        }
    }

    /// A program may end of the loss of its files before we hear of the server's end.
    pub(super) fn notice_dead_server(&mut self, exit: Exit) {
        let Some(union) = &mut self.run.union else { return };
        if union.is_ending() || i32::from(exit.code()) == 128 + libc::SIGBUS {
            union.wait(DYING);
        }
        // With its mount still there, one that has ended has failed.
        if let Some(failure) = union.failure() {
            self.ended_by = Some(failure);
            self.run.union = None;
        }
    }

    /// Gives each client the rest of the output, at its pace.
    fn say_last_words(&mut self) {
        self.relay.close_listener();
        let deadline = Instant::now() + LAST_WORDS;
        while !self.relay.is_alone() && Instant::now() < deadline {
            let mut turn = Turn::new();
            self.relay.watch(&mut turn, Event::Relay);
            let Ok(ready) = turn.wait(Some(deadline)) else { return };
            for one in ready {
                if let Event::Relay(event) = one.event {
                    let _ = self.relay.on(event);
                }
            }
        }
    }
}
